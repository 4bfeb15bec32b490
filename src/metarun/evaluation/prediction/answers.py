"""What a person reads: an answer for each example, a csv of them, and a summary."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metarun.evaluation.prediction.own_examples import Unlabelled
from metarun.evaluation.prediction.task_model import TaskModel

_PART = 256  # examples in memory at once
_TOGETHER = 1000  # of a learner whose predictions depend on one another
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

Show = Callable[[int], object]


@dataclass(frozen=True)
class Answer:
    """What is predicted of an example with classes.

    Attributes:
        place: of the example.
        label: the most probable class; "": rejected.
        probability: of the most probable class.
        runner_up: the next one.
        margin: the difference of both probabilities.
    """

    place: int
    label: str
    probability: float
    runner_up: str
    margin: float


@dataclass(frozen=True)
class Number:
    """What is predicted of an example with numbers: the mean, and a 95 % interval where there is one."""

    place: int
    mean: list[float]
    low: list[float] | None
    high: list[float] | None


def answers(
    model: TaskModel, query: Unlabelled, threshold: float = 0.0, show: Show | None = None
) -> Iterator[Answer | Number]:
    """Yield an answer for each example that can be read.

    Args:
        model: has seen the labelled examples.
        query: the others.
        threshold: probability below which an example is rejected.
        show: is told after each part how many examples it had.
    """
    size = _TOGETHER if model.is_transductive else _PART
    for places, x in query.parts(size, mixed=model.is_transductive):
        yield from _of_classes(model, places, x, threshold) if model.classes else _of_values(model, places, x)
        if show is not None:
            show(len(places))


def _of_classes(model: TaskModel, places: Sequence[int], x: Any, threshold: float) -> Iterator[Answer]:
    best = model.probabilities(x).topk(2, dim=1)
    for place, values, classes in zip(places, best.values.tolist(), best.indices.tolist(), strict=True):
        label = model.classes[classes[0]] if values[0] >= threshold else ""
        yield Answer(place, label, values[0], model.classes[classes[1]], values[0] - values[1])


def _of_values(model: TaskModel, places: Sequence[int], x: Any) -> Iterator[Number]:
    values = model.values(x)
    for i, place in enumerate(places):
        low, high = (None if end is None else end[i].tolist() for end in (values.low, values.high))
        yield Number(place, values.mean[i].tolist(), low, high)


def as_csv(query: Unlabelled, found: Sequence[Answer | Number]) -> str:
    """Return the answers as csv; no cell starts a formula in a spreadsheet, whatever it splits at."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    if found and isinstance(found[0], Number):
        outputs = len(found[0].mean)
        ends = [("value", "mean"), *([("low", "low"), ("high", "high")] if found[0].low else [])]
        heads = [f"{head}{i + 1 if outputs > 1 else ''}" for head, _ in ends for i in range(outputs)]
        writer.writerow(["name", *heads])
        for number in found:
            cells = [f"{value:.6g}" for _, name in ends for value in getattr(number, name)]
            writer.writerow([plain_cell(query.names[number.place]), *cells])
        return file.getvalue()
    writer.writerow(["name", "class", "probability", "runner_up", "margin"])
    for answer in found:
        assert isinstance(answer, Answer)
        writer.writerow(
            [
                plain_cell(query.names[answer.place]),
                plain_cell(answer.label),
                f"{answer.probability:.4f}",
                plain_cell(answer.runner_up),
                f"{answer.margin:.4f}",
            ]
        )
    return file.getvalue()


def plain_cell(text: str) -> str:
    """Return a text that a spreadsheet takes for a text: with ' before what would start a formula."""
    return f"'{text}" if text.startswith(_FORMULAS) else text


def right(model: TaskModel, query: Unlabelled, found: Sequence[Answer | Number]) -> tuple[int, int]:
    """Return how many answers are right, and how many examples have a known label and an answer."""
    pairs = [
        (query.said[answer.place], answer.label)
        for answer in found
        if isinstance(answer, Answer) and answer.label and query.said[answer.place] in model.classes
    ]
    return sum(said == label for said, label in pairs), len(pairs)


def least_certain(found: Sequence[Answer | Number]) -> list[Answer]:
    """Return the answers, those with the least margins first."""
    return sorted((a for a in found if isinstance(a, Answer)), key=lambda answer: answer.margin)


def counted(found: Sequence[Answer | Number]) -> Mapping[str, int]:
    """Return how many examples got each class, the most frequent first; rejected ones as ""."""
    labels = Counter(answer.label for answer in found if isinstance(answer, Answer))
    return dict(sorted(labels.items(), key=lambda pair: (not pair[0], -pair[1], pair[0])))
