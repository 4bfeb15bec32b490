"""A small dataset whose classes differ in two of ten numbers; the other eight are noise."""

from __future__ import annotations

import torch
from torch import Tensor

from metarun.tasks import Split
from metarun.tasks.images.class_episodes import ClassEpisodes

CLASSES: dict[Split, int] = {"train": 12, "validation": 6, "test": 12}


class Blobs(ClassEpisodes):
    images_per_class = 20
    input_shape = (10,)

    def classes(self, split: Split) -> int:
        return CLASSES[split]

    def load(self) -> dict[Split, Tensor]:
        generator = torch.Generator().manual_seed(0)
        blobs = {}
        for split, n in CLASSES.items():
            means = torch.cat([torch.rand(n, 1, 2, generator=generator), torch.full((n, 1, 8), 0.5)], 2)
            spread = torch.tensor([0.05] * 2 + [0.3] * 8)
            noise = torch.randn(n, self.images_per_class, 10, generator=generator) * spread
            blobs[split] = (means + noise).clamp(0, 1)
        return blobs
