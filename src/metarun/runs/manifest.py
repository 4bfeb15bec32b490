"""manifest.json: the information needed to repeat a run."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from email import message_from_string
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from metarun import __version__

# Environment variables that affect the arithmetic or the choice of files.
_PREFIXES = (
    "METARUN_",
    "OMP_",
    "MKL_",
    "KMP_",
    "CUDA_",
    "CUBLAS_",
    "NVIDIA_TF32",
    "PYTORCH_",
    "TORCH_",
    "SLURM_JOB",
)
_RANKS = ("WORLD_SIZE",)


def manifest(
    arguments: Sequence[str], choices: Mapping[str, str], seed: int, device: torch.device
) -> dict[str, Any]:
    """Return the command, all versions, git revisions, machine, environment and seed.

    It records whether a repository has uncommitted changes, not the changes themselves.

    Args:
        arguments: as typed.
        choices: the option of each group, where they are known.
        seed: of the run.
        device: of the run.
    """
    return {
        "command": shlex.join(["metarun", *arguments]),
        **({"choices": dict(choices)} if choices else {}),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "directory": str(Path.cwd()),
        "seed": seed,
        "device": _device(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "host": platform.node(),
        "platform": platform.platform(),
        "executable": sys.executable,
        "environment": {
            key: value
            for key, value in sorted(os.environ.items())
            if key.startswith(_PREFIXES) or key in _RANKS
        },
        "git": _git(Path.cwd()),
        "metarun_git": _git(Path(__file__).parent),
        "versions": {"metarun": __version__, "python": platform.python_version(), **_packages()},
    }


@cache
def _packages() -> dict[str, str]:
    """Return the version of every installed package: a user's class may need any of them."""
    versions = {}
    for package in distributions():
        # Without the description below the header, which takes most of the time and holds no version.
        header, _, _ = (package.read_text("METADATA") or package.read_text("PKG-INFO") or "").partition(
            "\n\n"
        )
        fields = message_from_string(header)
        if fields["Name"]:
            versions[fields["Name"]] = fields["Version"]
    return dict(sorted(versions.items(), key=lambda item: item[0].lower()))


def _device(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device} ({platform.processor() or platform.machine()})"
    return f"{device} ({torch.cuda.get_device_name(device)})"


def _git(folder: Path) -> dict[str, Any] | None:
    """Return the revision and whether there are uncommitted changes, or None outside a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return process.stdout.strip()

    try:
        return {"revision": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
