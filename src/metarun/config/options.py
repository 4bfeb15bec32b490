"""The groups and options of conf/, each option with the line that describes it.

Reads the yaml files as text, so that help and list need neither Hydra nor torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from metarun.errors import ConfigError

_INSIDE = Path(__file__).parents[1] / "conf"
CONF = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[3] / "conf"
"""The yaml files: inside the package in a wheel, at the top of the repository in an editable install."""


@dataclass(frozen=True)
class Option:
    """One yaml of a group: its first comment line is a command that uses it, its second says what it is."""

    name: str
    description: str

    @classmethod
    def read(cls, path: Path) -> Option:
        """Read the comment at the top of a yaml."""
        # Tolerates what a user's editor has written: one unreadable option should not hide the others.
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            comment = [line[1:].strip() for line in takewhile(lambda line: line.startswith("#"), file)]
        lines = [line for line in comment if not line.startswith("@package")]
        return cls(path.stem, lines[1] if len(lines) > 1 else "")


def groups(folders: Sequence[Path]) -> dict[str, list[Option]]:
    """Return the options of each group in some conf folders, the first folder's first."""
    options: dict[str, list[Option]] = {}
    for folder in folders:
        for group in sorted(path for path in folder.rglob("*") if path.is_dir()):
            if group.name.startswith("_"):  # keys that several options include
                continue
            # An editor's lock may be a broken link.
            in_folder = [Option.read(path) for path in sorted(group.glob("*.yaml")) if path.is_file()]
            if in_folder:
                options.setdefault(group.relative_to(folder).as_posix(), []).extend(in_folder)
    return options


def check_config_dirs(config_dirs: Sequence[str], hint: str = "") -> None:
    """Raise ConfigError if one of a user's folders of groups is not a folder."""
    for folder in config_dirs:
        if "://" not in folder and not Path(folder).is_dir():
            raise ConfigError(f"--config-dir {folder}: it is not a folder{hint}")
