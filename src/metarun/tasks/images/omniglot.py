"""Omniglot: 1,623 characters of 50 alphabets, 20 drawings each (Lake, Salakhutdinov & Tenenbaum 2015)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from metarun.errors import ConfigError
from metarun.fields import Seed
from metarun.system.randomness import Seeding, Streams
from metarun.tasks.images.class_episodes import ClassEpisodes
from metarun.tasks.images.decoding import Look
from metarun.tasks.images.omniglot_images import BACKGROUND, CHARACTERS, DRAWINGS, SIZE, Resize, load_images
from metarun.tasks.reading import ImageReading
from metarun.tasks.types import Split

# The lake split takes 100 validation characters, like the random split, from the background set.
_COUNTS: dict[str, dict[Split, int]] = {
    "random": {"train": 1100, "validation": 100, "test": CHARACTERS - 1200},
    "lake": {"train": BACKGROUND - 100, "validation": 100, "test": CHARACTERS - BACKGROUND},
}


class Omniglot(ClassEpisodes):
    """28 × 28 drawings of characters, ink = 1.

    Args:
        split: `random` (1,100 / 100 / 423 characters, drawn with `seed`; as MAML, arXiv:1703.03400) or
            `lake` (the authors' background and evaluation sets, with new alphabets at test; 100 background
            characters, drawn with `seed`, are for validation).
        rotations: `all`: each rotation by 90° is a class of its own in every split (MAML's and ProtoNet's
            code); `train`: only in training (Reptile's code); `none`: in no split.
        root: folder of the archives, which are downloaded to it if they are missing; null: the environment
            variable METARUN_DATA, else the user's cache directory.
        resize: filter that reduces 105 × 105 pixels: `lanczos` smooths (81 grey values), `nearest` takes the
            nearest pixel (black and white). MAML's code asks for a smoothing filter, but Pillow takes the
            nearest pixel in one-bit images.
        seed: determines the episodes, and the characters of each split.
        seeding: how the split is derived from the seed; see `Streams`.
        **shared: way, shot, query, train_way, train_shot, train_query and dtype (ClassEpisodes).

    Raises:
        ConfigError: `root` is not a folder, or an episode needs more classes or images than there are.
    """

    images_per_class = DRAWINGS
    input_shape = (1, SIZE, SIZE)

    def __init__(
        self,
        *,
        split: Literal["random", "lake"] = "random",
        rotations: Literal["all", "train", "none"] = "all",
        root: str | None = None,
        resize: Resize = "lanczos",
        seed: Seed = 0,
        seeding: Seeding = "streams",
        **shared: Any,
    ) -> None:
        if shared.get("train_rotations"):
            raise ConfigError(
                "@source.train_rotations=true is done by @source.rotations", "@source.rotations=train"
            )
        self.split, self.rotations, self.resize = split, rotations, resize
        self.seeding = seeding
        self.root = None if root is None else Path(root).expanduser()
        if self.root is not None and not self.root.is_dir():
            raise ConfigError(
                f"@source.root={root}: there is no such folder; create it to download the archives there, or "
                f"name the folder that holds them"
            )
        super().__init__(seed=seed, **shared)

    def _turns(self, split: Split) -> int:
        return 4 if self.rotations == "all" or (self.rotations == "train" and split == "train") else 1

    def classes(self, split: Split) -> int:
        """Return the number of characters, times four where rotations are classes."""
        return _COUNTS[self.split][split] * self._turns(split)

    def characters(self) -> dict[Split, Tensor]:
        """Return each split's characters (0 … 1622, background first), int64 [n]."""
        generator = Streams(self.seed, self.seeding).generator("split")
        counts = _COUNTS[self.split]
        pool = CHARACTERS if self.split == "random" else BACKGROUND
        order = torch.randperm(pool, generator=generator)
        validation_end = counts["train"] + counts["validation"]
        test = order[validation_end:] if self.split == "random" else torch.arange(BACKGROUND, CHARACTERS)
        return {
            "train": order[: counts["train"]],
            "validation": order[counts["train"] : validation_end],
            "test": test,
        }

    def reading(self) -> ImageReading:
        """Return how a user's own drawings are read: dark ink on light paper."""
        return ImageReading(Look(SIZE, 1, "stretch"), ink=True, nearest=self.resize == "nearest")

    def load(self) -> dict[Split, Tensor]:
        """Return uint8 [classes, 20, 1, 28, 28] by split; class r·n + c is character c turned by r·90°."""
        images = load_images(self.root, self.resize)[:, :, None]
        return {
            split: torch.cat([images[characters].rot90(turn, (3, 4)) for turn in range(self._turns(split))])
            for split, characters in self.characters().items()
        }
