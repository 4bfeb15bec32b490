"""A page for each algorithm."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import yaml

from generate.keys import keys_of
from generate.results import tables
from metarun.config.options import CONF, groups

_FACTS = Path(__file__).parents[1] / "facts" / "algorithms.yaml"
_FAMILIES = (
    *("gradient", "learned optimizer", "metric", "closed form", "transductive", "baseline"),
    *("in context", "fast weights", "oracle"),
)


@cache
def facts() -> dict[str, dict[str, str]]:
    """Return what docs/facts/algorithms.yaml says of each algorithm."""
    content: dict[str, dict[str, str]] = yaml.safe_load(_FACTS.read_text("utf-8"))
    return content


def families() -> dict[str, list[str]]:
    """Return the algorithms of each family."""
    return {
        family: [name for name, fact in facts().items() if fact["family"] == family] for family in _FAMILIES
    }


def algorithm_path(name: str) -> str:
    """Return the path of an algorithm's page."""
    return f"algorithms/{name.replace('+', 'plus')}.md"


def algorithm_page(name: str) -> str:
    """Return the page of an algorithm: what it is, its keys, and its results."""
    fact = facts()[name]
    lines = [f"# {fact['title']}", "", f"    metarun algo={name} {_data_for(name)}".rstrip(), ""]
    lines += [fact["idea"], "", "## The update", "", "```text", fact["formula"], "```", ""]
    if "paper" in fact:
        lines += [f"Source: {_linked(fact['paper'])}.", ""]
    lines += ["## When to choose it", "", f"- {fact['choose']}", f"- {fact['avoid']}", ""]
    lines += ["## Settings", "", *_settings_of(name), "", *keys_of("algo", name)]
    found = {title: own for title, table in tables().items() if (own := table.of(name)).rows}
    if found:
        lines += ["## Published and obtained", ""]
        for title, own in found.items():
            lines += [f"{title.replace('_', ', ')}:", "", own.markdown(), ""]
        lines += ["[Results](../results.md) says how they were measured.", ""]
    setups = [option.name for option in groups([CONF])["experiment"] if _is_of(option.name, name)]
    if setups:
        words = ", ".join(f"`experiment={setup}`" for setup in setups)
        lines += [f"Published set-ups: {words}; each yaml in `conf/experiment` names its sources.", ""]
    return "\n".join([*lines, "All keys: [config keys](../reference/config.md).", ""])


def _linked(paper: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)


def _is_of(setup: str, name: str) -> bool:
    return bool(re.search(rf"(^|_){re.escape(name)}(_|$)", setup))


def _data_for(name: str) -> str:
    """Return the data of the command in an algorithm's yaml."""
    lines = (CONF / "algo" / f"{name}.yaml").read_text("utf-8").splitlines()
    command = next((line for line in lines if line.startswith("# metarun")), "")
    return " ".join(word for word in command.split() if word.startswith("data="))


def _settings_of(name: str) -> list[str]:
    """Return the yaml of an algorithm, with the comments of its keys."""
    lines = (CONF / "algo" / f"{name}.yaml").read_text("utf-8").splitlines()
    return [
        "```yaml",
        f"# conf/algo/{name}.yaml",
        *(line for line in lines if not line.startswith("#")),
        "```",
    ]
