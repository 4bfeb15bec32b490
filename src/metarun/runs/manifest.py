"""manifest.json: what one needs to know to repeat a run."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from metarun import __version__

_PACKAGES = ("torch", "hydra-core", "omegaconf", "pillow", "pydantic")


def manifest(arguments: Sequence[str], seed: int, device: torch.device) -> dict[str, Any]:
    """Return the command, versions, git revision (of the working directory, if any), device and seed."""
    return {
        "command": shlex.join(["metarun", *arguments]),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "directory": str(Path.cwd()),
        "seed": seed,
        "device": _device(device),
        "threads": torch.get_num_threads(),
        "versions": {
            "metarun": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        "platform": platform.platform(),
        "executable": sys.executable,
        "git": _git(),
    }


def _device(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device} ({platform.processor() or platform.machine()})"
    return f"{device} ({torch.cuda.get_device_name(device)})"


def _git() -> dict[str, Any] | None:
    """Return the revision and whether there are uncommitted changes, or None outside a repository."""

    def ask(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        return {"revision": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
