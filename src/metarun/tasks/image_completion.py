"""Images as functions from a pixel's position to its grey value; some pixels are given as support set."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from metarun.errors import ConfigError, MetarunError
from metarun.fields import Count, Counts, Seed
from metarun.system.randomness import Seeding, Streams
from metarun.tasks.draws import Draws
from metarun.tasks.given import as_numbers
from metarun.tasks.images.omniglot import Omniglot
from metarun.tasks.metrics import Scoring, mean_squared_error
from metarun.tasks.regression import REGRESSION
from metarun.tasks.shots import Shots
from metarun.tasks.types import SPLITS, Examples, Split, Targets, Tasks

Images = Literal["omniglot", "digits"]
_SIDES = {"omniglot": 28, "digits": 8}
_KEYS: tuple[tuple[str, Split], ...] = (("shot", "test"), ("train_shot", "train"))
_DIGITS = {"train": 1200, "validation": 200, "test": 397}


class ImageCompletion:
    """A task is an image: x is the position of a pixel, in [−1, 1]², y its grey value, in [0, 1].

    Garnelo et al. 2018, arXiv:1807.01613, section 4.2. Support and query pixels of a task do not overlap.

    Args:
        images: `omniglot` (28 × 28; characters of test images are not in training), or `digits`
            (8 × 8, scikit-learn's).
        shot: support pixels; [fewest, most]: a number drawn for each image.
        query: query pixels.
        train_shot: support pixels while training; None: `shot`.
        root: folder of Omniglot's archives; see `Omniglot`.
        seed: determines the tasks, and which images are in which split.
        seeding: how the split is derived from the seed; see `Streams`.

    Raises:
        ConfigError: shot + query exceeds the pixels of an image.
    """

    loss = staticmethod(mean_squared_error)
    metrics = REGRESSION
    input_shape = (2,)
    output_size = 1
    targets: Targets = "values"

    def __init__(
        self,
        *,
        images: Images = "omniglot",
        shot: Count | Counts = (10, 200),
        query: Count = 200,
        train_shot: Count | Counts | None = None,
        root: str | None = None,
        seed: Seed = 0,
        seeding: Seeding = "streams",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.images, self.query, self.seed, self.seeding, self.dtype = images, query, seed, seeding, dtype
        self.shots = Shots(shot, train_shot)
        self.side = _SIDES[images]
        pixels = self.side**2
        for key, split in _KEYS:
            _, most = self.shots.interval(split)
            if most + query > pixels:
                raise ConfigError(
                    f"@source.{key}={most} and @source.query={query} need {most + query} pixels; there are "
                    f"{pixels}",
                    f"@source.{key} and @source.query with a smaller sum",
                )
        self._omniglot = Omniglot(
            way=1, shot=1, query=1, rotations="none", root=root, seed=seed, seeding=seeding
        )
        self._loaded: dict[Split, Tensor] = {}

    def prepare(self, device: torch.device) -> None:
        """Load the images and keep them on the device, as [images, side², 1] from 0 to 1.

        Raises:
            MetarunError: scikit-learn is not installed.
        """
        loaded = self._omniglot.load() if self.images == "omniglot" else self._digits()
        self._loaded = {
            split: images.flatten(0, 1).flatten(1)[..., None].to(device) for split, images in loaded.items()
        }

    def _digits(self) -> dict[Split, Tensor]:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise MetarunError(
                "@source.images=digits needs scikit-learn: pip install 'metarun[sklearn]'",
                "@source.images=omniglot",
            ) from error
        pixels = torch.as_tensor(load_digits().images) / 16 * 255
        order = torch.randperm(len(pixels), generator=Streams(self.seed, self.seeding).generator("split"))
        parts = torch.split(pixels.round().to(torch.uint8)[order], [_DIGITS[split] for split in SPLITS])
        return {split: part[None] for split, part in zip(SPLITS, parts, strict=True)}

    def batch(self, split: Split, first_episode: int, count: int) -> Tasks:
        """Return episodes first_episode … first_episode + count − 1; `info["image"]` is the image's index."""
        if not self._loaded:
            self.prepare(torch.device("cpu"))
        images = self._loaded[split]
        draws = Draws(self.seed, SPLITS.index(split), first_episode, count, images.device)
        _, most = self.shots.interval(split)
        chosen = (draws.uniform() * len(images)).long()
        # Query pixels come first, so that an image has the same ones at any number of shots.
        place = draws.choose(self.side**2, self.side**2)[:, : self.query + most]
        y = as_numbers(images[chosen].gather(1, place[..., None]), self.dtype)
        row, column = place // self.side, place % self.side
        x = (2 * torch.stack([row, column], 2).to(self.dtype) / (self.side - 1)) - 1
        everything = Examples(x, y)
        support = self.shots.keep(everything.take(slice(self.query, None)), draws, split)
        query = everything.take(slice(self.query))
        return Tasks(support, query, {"image": chosen}, scoring=Scoring(self.loss, self.metrics))
