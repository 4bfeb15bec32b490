"""N-way K-shot episodes from the images of each class, sampled with a few index gathers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from metarun.errors import MetarunError, in_one_line
from metarun.fields import Count, Seed, Steps
from metarun.tasks.division import Share
from metarun.tasks.draws import Draws
from metarun.tasks.given import as_images, as_numbers
from metarun.tasks.images.augmentation import Change, augment
from metarun.tasks.images.checks import (
    CONCENTRATION,
    FEWEST_WAY,
    MIXING_CONCENTRATION,
    MOST_SUPPORT,
    check_effects,
    check_sizes,
)
from metarun.tasks.images.class_batches import ClassBatches
from metarun.tasks.images.mixing import MIXING, Mixing, mixed
from metarun.tasks.images.pool import Pool, kept_on
from metarun.tasks.images.query_balance import Concentration
from metarun.tasks.images.sampling import Drawn, Picked, Sampler, Sizes, fixed, noisy, variable
from metarun.tasks.metrics import ACCURACY, CALIBRATION_ERROR, Loss, Metric, Scoring, cross_entropy
from metarun.tasks.types import SPLITS, Examples, Split, Targets, Tasks, TrainsOn

Smoothing = Annotated[float, Field(ge=0, lt=1)]

# Streams below draw episodes, their keys, and the orders of mini-batches.
_AUGMENTING = 2 * len(SPLITS) + 1
_MIXING = _AUGMENTING + 1
Way = Annotated[int, Field(ge=2, le=1_000_000)]


class ClassEpisodes(ABC):
    """Episodes of `way` classes in random order; images of a class never repeat inside an episode.

    With `train_batch`, a training task is a mini-batch of images of all training classes: the mini-batch is
    the query set, and the support set is empty.

    Args:
        way: classes per episode.
        shot: support images per class.
        query: query images per class.
        query_balance: `equal`: the same number of query images per class; `dirichlet`: in validation and test
            the classes of the query · way images have random proportions (Veilleux, Boudiaf, Piantanida &
            Ben Ayed 2021, arXiv:2204.11181).
        query_concentration: α of the symmetric Dirichlet distribution that these proportions are drawn from.
        sampler: `fixed`: every episode has these sizes; `variable`: these sizes are maxima, and the sizes of
            each episode are drawn by Meta-Dataset's rule; see `sampling.variable`.
        fewest_way: fewest classes of an episode (`sampler: variable`).
        most_support: most support images of an episode (`sampler: variable`).
        imbalance: how unequal the classes' numbers of support images are (`sampler: fixed`); see
            `sampling.fixed`.
        label_noise: share of the support images whose label is that of another class of the episode.
        unlabelled: images per class without a label, for learners that use them (`sampler: fixed`).
        distractors: classes per episode that have only unlabelled images (`sampler: fixed`).
        train_shot: support images per class while training; None: `shot`.
        train_way: classes per episode while training; None: `way`.
        train_query: query images per class while training; None: `query`.
        train_batch: images of a training mini-batch of all classes; None: training has episodes.
        train_augment: random changes of training images: flip, crop, colour; see `augment`. In mini-batches
            also mixup and cutmix; see `mixed`.
        train_mixing: α of mixup and cutmix.
        train_rotations: whether each rotation of a training class by 90° is a class of its own.
        train_smoothing: label smoothing of the outer loop's loss while training; see `cross_entropy`.
        seed: determines the episodes.

    Subclasses set `images_per_class` and implement `classes` and `load`; where classes have different numbers
    of images, they implement `fewest` and `pools` instead of `images_per_class` and `load`.

    Attributes:
        training_output_size: number of classes of a training task.
        trains_on: the kind of a training task.

    Raises:
        ConfigError: shot + query exceeds the images per class, way exceeds the classes of a split, a
            mini-batch exceeds the images, or a key has no effect.
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
        train_batch: Count | None = None,
        train_augment: Sequence[Change | Mixing] = (),
        train_mixing: Concentration = MIXING_CONCENTRATION,
        train_rotations: bool = False,
        train_smoothing: Smoothing = 0.0,
        query_balance: Literal["equal", "dirichlet"] = "equal",
        query_concentration: Concentration = CONCENTRATION,
        sampler: Sampler = "fixed",
        fewest_way: Way = FEWEST_WAY,
        most_support: Count = MOST_SUPPORT,
        imbalance: Share = 0.0,
        label_noise: Share = 0.0,
        unlabelled: Steps = 0,
        distractors: Steps = 0,
        seed: Seed = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.way, self.shot, self.query, self.train_shot = way, shot, query, train_shot or shot
        self.training_output_size, self.train_query = train_way or way, train_query or query
        self.train_batch = train_batch
        self.trains_on: TrainsOn = "episodes" if train_batch is None else "images"
        self.query_balance, self.query_concentration = query_balance, query_concentration
        self.sampler: Sampler = sampler
        self.fewest_way, self.most_support = fewest_way, most_support
        self.imbalance, self.label_noise = imbalance, label_noise
        self.unlabelled, self.distractors = unlabelled, distractors
        self.train_rotations = train_rotations
        self.train_augment, self.train_smoothing = tuple(train_augment), train_smoothing
        self.train_mixing = train_mixing
        self.seed = seed
        self.dtype = dtype
        self.loss: Loss = cross_entropy
        self.metrics: tuple[Metric, ...] = (ACCURACY, CALIBRATION_ERROR)
        self.output_size: int | None = way
        self._pools: Mapping[Split, Pool] = {}
        self._device = torch.device("cpu")
        sizes = {"train_way": train_way, "train_shot": train_shot, "train_query": train_query}
        self.typed_sizes = sizes
        check_sizes(self)
        check_effects(self)
        if train_batch is not None:
            self.training_output_size = self.count("train")

    def few(self, split: Split) -> tuple[str, str]:  # noqa: ARG002
        """Return texts to append to the message "too few classes in a split" and to its remedy."""
        return "", ""

    def _sizes(self, split: Split) -> tuple[int, int, int]:
        """Return way, shot and query of a split's episodes."""
        if split == "train":
            return self.training_output_size, self.train_shot, self.train_query
        return self.way, self.shot, self.query

    def sizes(self, split: Split) -> Sizes:
        """Return all sizes of a split's episodes."""
        way, shot, query = self._sizes(split)
        is_unequal = self.query_balance == "dirichlet" and split != "train"
        concentration = self.query_concentration if is_unequal else None
        return Sizes(
            *(way, shot, query, self.fewest_way, self.most_support, concentration, self.imbalance),
            unlabelled=self.unlabelled,
            distractors=self.distractors,
        )

    def needed(self, split: Split) -> int:
        """Return the number of images that a class of a split must have."""
        sizes = self.sizes(split)
        return 2 if self.sampler == "variable" else sizes.most_shot + sizes.query + sizes.unlabelled

    @abstractmethod
    def classes(self, split: Split) -> int:
        """Return the number of classes of a split, without reading any file."""

    def count(self, split: Split) -> int:
        """Return the number of classes that episodes of a split are drawn from, including rotations."""
        return self.classes(split) * (4 if split == "train" and self.train_rotations else 1)

    def fewest(self, split: Split) -> int:  # noqa: ARG002  (here all splits have the same number)
        """Return the number of images in a split's smallest class, without reading any file."""
        return self.images_per_class

    def images(self, split: Split) -> int:
        """Return the number of images of a split, without reading any file."""
        return self.classes(split) * self.images_per_class

    def load(self) -> dict[Split, Tensor]:
        """Return each split's [classes, images, *input_shape]: uint8 (255 means 1) or floats from 0 to 1."""
        raise NotImplementedError

    def pools(self) -> Mapping[Split, Pool]:
        """Return each split's images, with `classes(split)` classes.

        Raises:
            MetarunError: `load` fails, or its images do not match `classes` and `images_per_class`.
        """
        name = f"{type(self).__name__}.load"
        try:
            loaded = self.load()
        except (MetarunError, OSError):  # their messages say what is wrong
            raise
        except Exception as error:  # a user's class may raise an error of any type
            raise MetarunError(f"{name} fails: {in_one_line(error)}") from error
        if not isinstance(loaded, Mapping) or any(split not in loaded for split in SPLITS):
            content = list(loaded) if isinstance(loaded, Mapping) else type(loaded).__name__
            raise MetarunError(f"{name} returns {content}, expected a dict of {', '.join(SPLITS)}")
        pools: dict[Split, Pool] = {}
        for split in SPLITS:
            expected = (self.classes(split), self.images_per_class, *self.input_shape)
            pools[split] = Pool.of_equal(as_images(f"{name}: {split}", loaded[split], expected))
        return pools

    def prepare(self, device: torch.device) -> None:
        """Load the images, and keep them on the device if they fit.

        Raises:
            MetarunError: the images cannot be loaded.
        """
        self._device = device
        pools = dict(self.pools())
        if self.train_rotations:
            pools["train"] = pools["train"].turned()
        self._pools = kept_on(device, pools)
        if self.train_batch is not None:
            self._batches = ClassBatches(self._pools["train"], self.train_batch, self.seed)

    def batch(self, split: Split, first_episode: int, count: int) -> Tasks:
        """Return episodes first_episode … first_episode + count − 1 of a split; x in [0, 1].

        `info["class"]` [T, way] and `info["image"]` [T, way, query + shot] are indices of classes and images.
        """
        if not self._pools:
            self.prepare(torch.device("cpu"))
        if split == "train":
            return self._training_tasks(first_episode, count)
        return self._episodes(split, first_episode, count)

    def _episodes(self, split: Split, first_episode: int, count: int) -> Tasks:
        pool = self._pools[split]
        draws = Draws(self.seed, SPLITS.index(split), first_episode, count, pool.counts.device)
        sample = variable if self.sampler == "variable" else fixed
        drawn = sample(pool, draws, self.sizes(split))

        def examples(picked: Picked) -> Examples:
            x = as_numbers(pool.take(drawn.classes.gather(1, picked.label), picked.index), self.dtype)
            return Examples(x, picked.label, picked.mask).padded()

        support = examples(drawn.support)
        if self.label_noise:
            ways = self.sizes(split).way if drawn.ways is None else drawn.ways
            wrong = noisy(support.y, ways, self.label_noise, draws)
            support = replace(support, y=wrong).padded()
        tasks = Tasks(
            support,
            examples(drawn.query),
            drawn.info,
            ways=drawn.ways,
            scoring=Scoring(self.loss, self.metrics),
            unlabelled=self._without_labels(drawn, examples),
        )
        return tasks if tasks.query.x.device == self._device else tasks.to(self._device)

    @staticmethod
    def _without_labels(drawn: Drawn, examples: Callable[[Picked], Examples]) -> Examples | None:
        if drawn.unlabelled is None:
            return None
        found = examples(drawn.unlabelled)
        return replace(found, y=torch.zeros_like(found.y))

    def _training_tasks(self, first: int, count: int) -> Tasks:
        if self.train_batch is None:
            tasks = self._episodes("train", first, count)
        else:
            examples = self._batches.batch(first, count)
            query = Examples(as_numbers(examples.x, self.dtype), examples.y)
            tasks = Tasks(query.take(slice(0)), query)
        if self.train_augment:
            draws = Draws(self.seed, _AUGMENTING, first, count, tasks.query.x.device)
            parts = [part for part in (tasks.support, tasks.query, tasks.unlabelled) if part is not None]
            x = augment(torch.cat([part.x for part in parts], 1), self.train_augment, draws)
            xs = torch.split(x, [len(part) for part in parts], 1)
            support, query, *more = (replace(part, x=own) for part, own in zip(parts, xs, strict=True))
            tasks = replace(tasks, support=support, query=query, unlabelled=more[0] if more else None)
        if kinds := [name for name in self.train_augment if name in MIXING]:
            draws = Draws(self.seed, _MIXING, first, count, tasks.query.x.device)
            query = mixed(tasks.query, self.count("train"), kinds, self.train_mixing, draws)
            tasks = replace(tasks, query=query)
        smoothed = partial(cross_entropy, smoothing=self.train_smoothing) if self.train_smoothing else None
        return replace(tasks, scoring=Scoring(self.loss, self.metrics, smoothed))
