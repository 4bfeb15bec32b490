"""Tests compared with one another, task by task or seed by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor

from metarun.errors import ConfigError
from metarun.evaluation.curve import Estimate
from metarun.evaluation.statistics import LEVEL, Difference, difference, holm, interval
from metarun.evaluation.tested import FinishedTest
from metarun.runs.labels import SEED_KEYS, in_words, labels
from metarun.tasks import Measure
from metarun.tasks.metrics import selected_by
from metarun.tasks.sketch import are_same

Unit = Literal["tasks", "seeds"]

_FEWEST_SEEDS = 3  # with fewer, seeds tell little


@dataclass(frozen=True)
class Side:
    """Tests of one set-up, of different seeds.

    Attributes:
        tests: by seed.
        label: the keys in which it differs from the others; empty: only their directories differ.
    """

    tests: dict[int, FinishedTest]
    label: dict[str, str]

    @property
    def name(self) -> str:
        """The label in words, or where the first test is."""
        return in_words(self.label) or str(next(iter(self.tests.values())).path)


@dataclass(frozen=True)
class Pair:
    """Two sides and how they differ.

    Attributes:
        first: place of a side.
        second: place of another.
        difference: of their scores.
        p: corrected for the number of pairs.
    """

    first: int
    second: int
    difference: Difference
    p: float

    @property
    def is_significant(self) -> bool:
        """Whether the corrected p is small."""
        return self.p < LEVEL


@dataclass(frozen=True)
class Comparison:
    """A score of several sides, and the differences of all pairs.

    Attributes:
        measure: how to read the score.
        step: after which it was measured; None: the last.
        unit: what a compared value is the score of: a task, or all tasks of a seed.
        sides: what is compared.
        estimates: the mean of each side over tasks, or over seeds where it has several.
        pairs: the first side with all others, then the second, and so on.
    """

    measure: Measure
    step: int | None
    unit: Unit
    sides: list[Side]
    estimates: list[Estimate]
    pairs: list[Pair]

    def plain(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        sides = [
            {
                "name": side.name,
                "label": side.label,
                "runs": {str(seed): str(test.path) for seed, test in side.tests.items()},
                "mean": estimate.mean,
                "ci95": estimate.ci95,
            }
            for side, estimate in zip(self.sides, self.estimates, strict=True)
        ]
        pairs = [
            {
                "first": self.sides[pair.first].name,
                "second": self.sides[pair.second].name,
                "difference": pair.difference.mean,
                "ci95": [pair.difference.low, pair.difference.high],
                "p": pair.difference.p,
                "p_holm": pair.p,
                "effect": pair.difference.effect,
                "paired": pair.difference.paired,
                "count": pair.difference.count,
            }
            for pair in self.pairs
        ]
        named = {"metric": self.measure.name, "step": self.step, "unit": self.unit}
        return {**named, "sides": sides, "pairs": pairs}


def sides_of(tests: Sequence[FinishedTest]) -> list[Side]:
    """Return tests grouped by everything but the seed; a second one of the same seed is a side of its own."""
    groups: list[dict[int, FinishedTest]] = []
    keys: list[tuple[object, ...]] = []
    for test in tests:
        key = tuple(sorted((k, str(v)) for k, v in test.config.items() if k not in SEED_KEYS))
        place = next((i for i, k in enumerate(keys) if k == key and test.seed not in groups[i]), None)
        if place is None:
            keys.append(key)
            groups.append({test.seed: test})
        else:
            groups[place][test.seed] = test
    first = [next(iter(group.values())) for group in groups]
    told = labels([test.config for test in first], [test.choices for test in first])
    is_unique = len({tuple(label.items()) for label in told}) == len(told)
    return [
        Side(dict(sorted(group.items())), label if is_unique else {})
        for group, label in zip(groups, told, strict=True)
    ]


def compare(
    tests: Sequence[FinishedTest],
    metric: str | None = None,
    step: int | None = None,
    unit: Unit | None = None,
    against: Literal["all", "best"] = "all",
) -> Comparison:
    """Compare tests.

    Pairs are of the same tasks, or of the same seeds; where the tasks or seeds differ, they are not paired.

    Args:
        tests: two or more.
        metric: name of a score; None: the one that selects the best learner.
        step: after which it is measured; None: the last.
        unit: whether scores of tasks or means of seeds are compared; None: seeds where every set-up has
            three or more, since they tell how another training would turn out, else tasks.
        against: `all` pairs; or each set-up with the `best` alone, which comes second in every pair.

    Raises:
        ConfigError: there are fewer than two set-ups, or a test has no such score or step.
        MetarunError: SciPy is not installed.
    """
    sides = sides_of(tests)
    if len(sides) < 2:
        raise ConfigError(
            f"{len(sides)} set-up to compare: type two runs or more that differ in more than the seed"
        )
    measure = _measure(tests, metric)
    unit = unit or ("seeds" if all(len(side.tests) >= _FEWEST_SEEDS for side in sides) else "tasks")
    values = [{s: t.each_task.of(measure.name, step) for s, t in side.tests.items()} for side in sides]
    estimates = [_estimate(each) for each in values]
    places = list(combinations(range(len(sides)), 2))
    if against == "best":
        best = _best(estimates, higher_is_better=measure.higher_is_better)
        places = [(place, best) for place in range(len(sides)) if place != best]
    found = [_difference(sides[i], sides[j], values[i], values[j], unit) for i, j in places]
    corrected = holm([each.p for each in found])
    pairs = [Pair(i, j, each, p) for (i, j), each, p in zip(places, found, corrected, strict=True)]
    return Comparison(measure, step, unit, sides, estimates, pairs)


def _best(estimates: Sequence[Estimate], *, higher_is_better: bool) -> int:
    """Return the place of the best estimate; NaN is the worst."""

    def goodness(place: int) -> float:
        mean = estimates[place].mean
        return -math.inf if math.isnan(mean) else mean if higher_is_better else -mean

    return max(range(len(estimates)), key=goodness)


def _measure(tests: Sequence[FinishedTest], name: str | None) -> Measure:
    shared = [m for m in tests[0].measures.values() if all(m.name in t.each_task.names for t in tests)]
    if name is None:
        return selected_by(tuple(shared))
    for measure in shared:
        if measure.name == name:
            return measure
    raise ConfigError(
        f"--metric {name}: not every test has this score; choose from {', '.join(m.name for m in shared)}"
    )


def _estimate(values: dict[int, Tensor]) -> Estimate:
    """Return mean and interval: over seeds where there are several, else over tasks."""
    means = torch.stack([value.mean() for value in values.values()])
    return Estimate(float(means.mean()), interval(means)) if len(means) > 1 else Estimate.of(*values.values())


def _difference(
    one: Side, other: Side, first: dict[int, Tensor], second: dict[int, Tensor], unit: Unit
) -> Difference:
    shared = [seed for seed in one.tests if seed in other.tests]
    if unit == "seeds":
        is_paired = len(shared) == len(one.tests) == len(other.tests)
        means = [torch.stack([each[seed].mean() for seed in each]) for each in (first, second)]
        return difference(*means, paired=is_paired)
    sketches = [(one.tests[s].each_task.sketch, other.tests[s].each_task.sketch) for s in shared]
    if shared and all(are_same(*pair) for pair in sketches):
        values = [torch.cat([each[seed] for seed in shared]) for each in (first, second)]
        return difference(*values, paired=True)
    return difference(torch.cat(list(first.values())), torch.cat(list(second.values())), paired=False)
