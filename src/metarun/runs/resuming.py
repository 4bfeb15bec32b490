"""The command that resumes a run or a sweep."""

from __future__ import annotations

import shlex
from pathlib import Path


def resume_command(directory: Path) -> str:
    """Return the command that resumes a run or a sweep, with the directory quoted for the shell."""
    name = str(directory)
    return f"metarun resume {shlex.quote(f'./{name}' if name.startswith('-') else name)}"
