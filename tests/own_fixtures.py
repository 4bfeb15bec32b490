"""Pictures of a person, and runs on them, trained once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from own_runs import trained
from picture_files import encoded, write


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen classes of pictures: noise around a colour of the class."""
    root = tmp_path_factory.mktemp("own") / "pictures"
    generator = np.random.default_rng(0)
    for c in range(16):
        colour = generator.integers(40, 216, 3)
        for i in range(8):
            noise = generator.integers(-40, 41, (10, 10, 3))
            write(root / f"kind {c:02}" / f"{i}.png", encoded((colour + noise).clip(0, 255).astype(np.uint8)))
    return root


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Callable[[str], Path]:
    """A run of each algorithm on the pictures, trained once."""
    folder = tmp_path_factory.mktemp("runs")
    data = [
        *(
            "data=folder",
            f"data.root={pictures}",
            "data.size=8",
            "data.query=3",
            "model=mlp",
            "model.hidden=[12]",
        ),
        *("data.way=3", "data.shot=2", "data.shares=[0.4,0.4,0.2]"),
    ]

    def run(algo: str) -> Path:
        place = folder / algo
        batches = ["data.train_batch=16"] if algo == "baseline" else []
        return place if place.exists() else trained(place, f"algo={algo}", *data, *batches)

    return run
