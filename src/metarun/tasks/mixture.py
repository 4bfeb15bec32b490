"""Episodes of several sources, each drawn with a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from metarun.errors import ConfigError
from metarun.fields import Seed
from metarun.tasks.description import described, problems_of
from metarun.tasks.draws import Draws
from metarun.tasks.images.adapted import Adapted
from metarun.tasks.images.decoding import Look
from metarun.tasks.reading import ImageReading, Reading, reading_of
from metarun.tasks.types import SPLITS, Examples, Split, Tasks, TaskSource, output_size, targets_of, trains_on

_STREAM = 200  # of draws; streams of the sources have lower numbers

Weight = Annotated[float, Field(gt=0, le=1e9)]


class Mixture:
    """Episodes of several sources; each episode is from one source, as in Meta-Dataset (arXiv:1903.03096).

    The source of an episode is a pure function of the seed and the episode's index. The episode has the same
    index in its source, so the source alone gives the same episode.

    Args:
        sources: sources with the same sizes of episodes, by label.
        shape: shape of the inputs; images of another shape are converted.
        weights: how often each source is drawn, in proportion; None: equally often.
        seed: determines the source of each episode.

    Raises:
        ConfigError: there are fewer than two sources, or their tasks are not of the same kind.
    """

    def __init__(
        self,
        sources: Mapping[str, TaskSource],
        shape: tuple[int, ...],
        weights: Sequence[Weight] | None = None,
        seed: Seed = 0,
    ) -> None:
        if len(sources) < 2:
            raise ConfigError("@source.sources: expected two or more", "@source.sources=[omniglot,mnist_5k]")
        if weights is not None and len(weights) != len(sources):
            raise ConfigError(
                f"@source.weights={list(weights)}: there are {len(sources)} sources", "a weight for each"
            )
        self.labels = list(sources)
        first = next(iter(sources.values()))
        for label, source in sources.items():
            for what, of in _ALIKE.items():
                if of(source) != of(first):
                    others = f"{self.labels[0]} {of(first)}"
                    raise ConfigError(f"@source.sources: {label} has the {what} {of(source)}, and {others}")
        self.sources = [s if tuple(s.input_shape) == shape else Adapted(s, shape) for s in sources.values()]
        self.seed = seed
        share = torch.tensor(weights or [1.0] * len(sources), dtype=torch.float64)
        self._until = (share / share.sum()).cumsum(0)
        self.input_shape, self.output_size = shape, first.output_size
        self.training_output_size = output_size(first, "train")
        self.loss, self.metrics, self.targets = first.loss, first.metrics, targets_of(first)
        self.unlabelled = getattr(first, "unlabelled", 0)

    def prepare(self, device: torch.device) -> None:
        """Read or download the data of all sources, and keep it on the device."""
        for source in self.sources:
            source.prepare(device)

    def of(self, split: Split, first_episode: int, count: int) -> Tensor:
        """Return the index of each episode's source, int64 [count]."""
        draws = Draws(self.seed, _STREAM + SPLITS.index(split), first_episode, count)
        return torch.searchsorted(self._until, draws.uniform(), right=True).clamp(max=len(self.sources) - 1)

    def batch(self, split: Split, first_episode: int, count: int) -> Tasks:
        """Return episodes first_episode … first_episode + count − 1; `info["source"]` is the source."""
        chosen = self.of(split, first_episode, count)
        parts = []
        for place, run in groupby(range(count), key=lambda i: int(chosen[i])):
            episodes = list(run)
            parts.append(self.sources[place].batch(split, first_episode + episodes[0], len(episodes)))
        tasks = joined(parts)
        return replace(tasks, info={**tasks.info, "source": chosen.to(tasks.support.x.device)})

    def _total(self, name: str, split: Split) -> int:
        return sum(getattr(source, name)(split) for source in self.sources)

    def classes(self, split: Split) -> int:
        """Return the number of classes of a split, summed over the sources."""
        return self._total("classes", split)

    def images(self, split: Split) -> int:
        """Return the number of images of a split, summed over the sources."""
        return self._total("images", split)

    def reading(self) -> Reading:
        """Return how a user's own images are read: as the sources' images are, if all sources agree."""
        channels, size = (int(each) for each in self.input_shape[:2])
        plain = ImageReading(Look(size, 3 if channels == 3 else 1, "stretch"))
        found = [reading_of(source) for source in self.sources]
        same = [
            replace(each, look=replace(each.look, size=size, channels=plain.look.channels))
            for each in found
            if isinstance(each, ImageReading)
        ]
        return same[0] if len(same) == len(found) and all(each == same[0] for each in same) else plain

    def verify(self) -> list[str]:
        """Return the problems of all sources' files."""
        parts = zip(self.labels, self.sources, strict=True)
        return [problem for label, source in parts for problem in problems_of(f"{label}: ", source)]

    def described(self) -> dict[str, Any]:
        """Return a description of the loaded data, as plain values for a run's manifest."""
        return {"sources": {n: described(s) for n, s in zip(self.labels, self.sources, strict=True)}}

    def facts(self) -> dict[str, Any]:
        """Return the sources and their shares, for `metarun data`."""
        ends = self._until.tolist()
        shares = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
        lines = []
        for label, share, source in zip(self.labels, shares, self.sources, strict=True):
            fitted = f", {source.in_words()}" if isinstance(source, Adapted) else ""
            lines.append(f"{label} ({share:.0%}{fitted})")
        return {"sources": lines}


_ALIKE: dict[str, Callable[[TaskSource], object]] = {
    "targets": targets_of,
    "training": trains_on,
    "number of outputs": lambda source: source.output_size,
    "number of outputs in training": lambda source: output_size(source, "train"),
    "number of unlabelled images": lambda source: getattr(source, "unlabelled", 0),
}


def joined(parts: Sequence[Tasks]) -> Tasks:
    """Return all tasks as one batch, padded to the largest sizes; scoring is that of the first part."""
    first = parts[0]
    if len(parts) == 1:
        return first
    ways = None
    if any(part.ways is not None for part in parts):
        ways = torch.cat([_ways(part) for part in parts])
    without = [part.unlabelled for part in parts if part.unlabelled is not None]
    names = [name for name in first.info if all(_alike(first, part, name) for part in parts)]
    return Tasks(
        _examples([part.support for part in parts]),
        _examples([part.query for part in parts]),
        {name: torch.cat([part.info[name] for part in parts]) for name in names},
        ways=ways,
        scoring=first.scoring,
        unlabelled=_examples(without) if without else None,
    )


def _ways(tasks: Tasks) -> Tensor:
    if tasks.ways is not None:
        return tasks.ways
    return (torch.maximum(tasks.support.y.amax(1), tasks.query.y.amax(1)) + 1).long()


def _alike(first: Tasks, part: Tasks, name: str) -> bool:
    return name in part.info and part.info[name].shape[1:] == first.info[name].shape[1:]


def _examples(parts: Sequence[Examples]) -> Examples:
    most = max(len(part) for part in parts)
    if all(len(part) == most and part.mask is None for part in parts):
        return Examples(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))
    return Examples(
        torch.cat([_longer(part.x, most) for part in parts]),
        torch.cat([_longer(part.y, most) for part in parts]),
        torch.cat([_longer(part.counting, most) for part in parts]),
    )


def _longer(values: Tensor, most: int) -> Tensor:
    """Return values [T, n, …] padded with zeros to [T, most, …]."""
    return F.pad(values, [0, 0] * (values.dim() - 2) + [0, most - values.shape[1]])
