"""Pages of the commands, as they describe themselves, and of the public Python names."""

from __future__ import annotations

import os
import subprocess
import sys

from metarun.cli.main import verbs

_PUBLIC = {
    "Training": ["metarun.api.training.train", "metarun.api.training.compose"],
    "Runs": ["metarun.api.runs.Run", "metarun.api.runs.runs"],
    "Episodes": ["metarun.api.episodes.tasks", "metarun.api.episodes.Episodes"],
    "Using what was learned": [
        "metarun.evaluation.prediction.estimator.load",
        "metarun.evaluation.prediction.estimator.Estimator",
    ],
    "Contracts": [
        "metarun.learners.Learner",
        "metarun.learners.IterativeLearner",
        "metarun.rules.UpdateRule",
        "metarun.metagradients.MetaGradient",
        "metarun.tasks.TaskSource",
        "metarun.tasks.Tasks",
        "metarun.tasks.Examples",
        "metarun.runs.loggers.Logger",
    ],
}


def commands_page() -> str:
    """Return each command with the help that it prints."""
    lines = ["# Commands", ""]
    for name, does in verbs().items():
        lines += [f"## `metarun {name}`", "", f"{does}.", ""]
        if name not in ("help", "run", "version"):
            lines += ["```text", _help_of(name), "```", ""]
    return "\n".join(lines)


def _help_of(name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "metarun", name, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    return done.stdout.strip()


def python_page() -> str:
    """Return the public names, described by their docstrings."""
    lines = ["# Python, from the docstrings", "", "[In Python](../python.md) shows how they are used.", ""]
    for title, names in _PUBLIC.items():
        lines += [f"## {title}", "", *(f"::: {name}\n" for name in names)]
    return "\n".join(lines)
