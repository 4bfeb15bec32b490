"""Small trained runs, and a person's own examples for them."""

from __future__ import annotations

import shutil
from pathlib import Path

from metarun.config.composition import compose_config
from metarun.experiment.config import read_config
from metarun.runs.directory import Run
from metarun.training.loop import train

FEW = ["train.steps=2", "train.meta_batch=2", "train.validation_tasks=4", "train.test_tasks=4", "device=cpu"]


def trained(folder: Path, *words: str) -> Path:
    node = compose_config([*FEW, *words])
    train(read_config(node), Run.create(folder, node, {}))
    return folder


def few(pictures: Path, to: Path, classes: int = 3, shots: int = 2) -> tuple[Path, Path]:
    """Folders of labelled pictures, and of the others of these classes."""
    for c in range(classes):
        for i in range(8):
            part = "support" if i < shots else "query"
            target = to / part / f"kind {c:02}" / f"{i}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pictures / f"kind {c:02}" / f"{i}.png", target)
    return to / "support", to / "query"
