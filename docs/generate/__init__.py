"""Pages made of what the program itself says: conf/, the schema, the verbs, and docs/results/."""

from __future__ import annotations

from generate.algorithms import algorithm_page, algorithm_path, facts, families
from generate.commands import commands_page, python_page
from generate.keys import config_page
from generate.readme import own_page
from generate.results import results_page

__all__ = ["algorithm_path", "families", "generated"]


def generated() -> dict[str, str]:
    """Return all generated pages, by path."""
    return {
        **{algorithm_path(name): algorithm_page(name) for name in facts()},
        "reference/config.md": config_page(),
        "reference/commands.md": commands_page(),
        "reference/python.md": python_page(),
        "results.md": results_page(),
        "how-to/own.md": own_page(),
    }
