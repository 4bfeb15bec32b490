"""Random images in place of real ones: the pixel values do not affect the time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarun.tasks import SPLITS, Split
from metarun.tasks.images.class_episodes import ClassEpisodes


class Noise(ClassEpisodes):
    """Classes whose images are uniform noise, the same in every process.

    Args:
        image: (colour channels, height, width).
        **shared: way, shot, query, train_shot and seed (ClassEpisodes).
    """

    images_per_class = 20

    def __init__(self, *, image: tuple[int, int, int], **shared: Any) -> None:
        self.input_shape = image
        super().__init__(**shared)

    def classes(self, split: Split) -> int:  # noqa: ARG002  (every split has the same ones)
        """Return the number of classes, enough for 20-way."""
        return 20

    def load(self) -> dict[Split, Tensor]:
        """Return the images by split."""
        generator = torch.Generator().manual_seed(0)
        shape = (20, self.images_per_class, *self.input_shape)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        return dict.fromkeys(SPLITS, images)
