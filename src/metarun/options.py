"""What can be chosen: the groups and options of conf/, with the line that describes each.

Reads the yaml files as text, so that help and list need neither Hydra nor torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

_INSIDE = Path(__file__).parent / "conf"
CONF = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[2] / "conf"
"""The yaml files: inside the package in a wheel, at the top of the repository in an editable install."""


@dataclass(frozen=True)
class Option:
    """One yaml of a group: its first comment line is a command that uses it, its second says what it is."""

    name: str
    description: str

    @classmethod
    def read(cls, path: Path) -> Option:
        """Read the comment at the top of a yaml."""
        with path.open(encoding="utf-8") as file:
            comment = [line[1:].strip() for line in takewhile(lambda line: line.startswith("#"), file)]
        lines = [line for line in comment if not line.startswith("@package")]
        return cls(path.stem, lines[1] if len(lines) > 1 else "")


def groups(folders: Sequence[Path]) -> dict[str, list[Option]]:
    """Return the options of each group in some conf folders, the first folder's first."""
    found: dict[str, list[Option]] = {}
    for folder in folders:
        for group in sorted(path for path in folder.rglob("*") if path.is_dir()):
            options = [Option.read(path) for path in sorted(group.glob("*.yaml"))]
            if options:
                found.setdefault(group.relative_to(folder).as_posix(), []).extend(options)
    return found
