"""N-way K-shot episodes from one tensor of images by class, sampled with two index gathers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from metarun.errors import ConfigError, MetarunError, in_one_line
from metarun.fields import Count, Seed
from metarun.tasks.draws import Draws
from metarun.tasks.given import as_images
from metarun.tasks.metrics import ACCURACY, Loss, Metric, Scoring, cross_entropy
from metarun.tasks.types import SPLITS, Examples, Split, Targets, Tasks

Way = Annotated[int, Field(ge=2, le=1_000_000)]


class ClassEpisodes(ABC):
    """Episodes of `way` classes in random order; images of a class never repeat inside an episode.

    Args:
        way: classes per episode.
        shot: support images per class.
        query: query images per class.
        train_shot: support images per class while training; None: `shot`.
        train_way: classes per episode while training; None: `way`.
        train_query: query images per class while training; None: `query`.
        seed: determines the episodes.

    Subclasses set `images_per_class` and implement `classes` and `load`.

    Attributes:
        training_output_size: number of classes of a training episode.

    Raises:
        ConfigError: shot + query exceeds the images per class, or way the classes of a split.
    """

    targets: Targets = "classes"
    images_per_class: int
    input_shape: tuple[int, ...]

    def __init__(
        self,
        *,
        way: Way,
        shot: Count,
        query: Count,
        train_shot: Count | None = None,
        train_way: Way | None = None,
        train_query: Count | None = None,
        seed: Seed = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.way, self.shot, self.query, self.train_shot = way, shot, query, train_shot or shot
        self.training_output_size, self.train_query = train_way or way, train_query or query
        self.seed = seed
        self.dtype = dtype
        self.loss: Loss = cross_entropy
        self.metrics: tuple[Metric, ...] = (ACCURACY,)
        self.output_size = way
        self._images: dict[Split, Tensor] = {}
        query_key = "train_query" if train_query else "query"
        in_training = ("train_shot", self.train_shot, query_key, self.train_query)
        for key, support, query_key, queries in (("shot", shot, "query", query), in_training):
            if (images := support + queries) > self.images_per_class:
                raise ConfigError(
                    f"@source.{key}={support} and @source.{query_key}={queries} need {images} images a "
                    f"class; there are {self.images_per_class}",
                    f"@source.{key} and @source.{query_key} with a smaller sum",
                )
        for split in SPLITS:
            key = "train_way" if split == "train" and train_way else "way"
            classes = self._sizes(split)[0]
            if classes > self.classes(split):
                raise ConfigError(
                    f"@source.{key}={classes}: the {split} split has {self.classes(split)} classes",
                    f"@source.{key}={self.classes(split)} or less",
                )

    def _sizes(self, split: Split) -> tuple[int, int, int]:
        """Return way, shot and query of a split's episodes."""
        if split == "train":
            return self.training_output_size, self.train_shot, self.train_query
        return self.way, self.shot, self.query

    @abstractmethod
    def classes(self, split: Split) -> int:
        """Return the number of classes of a split, without reading any file."""

    @abstractmethod
    def load(self) -> dict[Split, Tensor]:
        """Return each split's [classes, images, *input_shape]: uint8 (255 means 1) or floats from 0 to 1."""

    def prepare(self, device: torch.device) -> None:
        """Load the images and keep them on the device.

        Raises:
            MetarunError: `load` fails, or its images do not match `classes` and `images_per_class`.
        """
        name = f"{type(self).__name__}.load"
        try:
            loaded = self.load()
        except (MetarunError, OSError):  # their messages say what is wrong
            raise
        except Exception as error:  # a user's class may raise anything
            raise MetarunError(f"{name} fails: {in_one_line(error)}") from error
        if not isinstance(loaded, Mapping) or any(split not in loaded for split in SPLITS):
            content = list(loaded) if isinstance(loaded, Mapping) else type(loaded).__name__
            raise MetarunError(f"{name} returns {content}, expected a dict of {', '.join(SPLITS)}")
        images = {}
        for split in SPLITS:
            expected = (self.classes(split), self.images_per_class, *self.input_shape)
            images[split] = as_images(f"{name}: {split}", loaded[split], expected).to(device)
        self._images = images

    def batch(self, split: Split, first_episode: int, count: int) -> Tasks:
        """Return episodes first_episode … first_episode + count − 1 of a split; x in [0, 1].

        `info["class"]` [T, way] and `info["image"]` [T, way, query + shot] are indices of classes and images.
        """
        if not self._images:
            self.prepare(torch.device("cpu"))
        images = self._images[split]
        way, shot, query = self._sizes(split)
        draws = Draws(self.seed, SPLITS.index(split), first_episode, count, images.device)
        classes = draws.choose(self.classes(split), way)  # [T, way]
        # Query images come first, so that an episode has the same query set at any number of shots.
        image = draws.choose(self.images_per_class, query + shot, way)  # [T, way, query + shot]
        # An inner loop on mini-batches walks the support set in this order, so the order is random.
        order = draws.choose(way * shot, way * shot)  # [T, way · shot]

        def gather(part: Tensor, order: Tensor) -> Examples:
            label = order // part.shape[2]  # place in [way, part] → label
            x = images[classes.gather(1, label), part.flatten(1).gather(1, order)]
            return Examples(x.to(self.dtype) / 255 if x.dtype == torch.uint8 else x.to(self.dtype), label)

        by_class = torch.arange(way * query, device=images.device).expand(count, -1)
        return Tasks(
            support=gather(image[:, :, query:], order),
            query=gather(image[:, :, :query], by_class),
            info={"class": classes, "image": image},
            scoring=Scoring(self.loss, self.metrics),
        )
