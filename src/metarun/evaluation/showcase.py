"""What a learner does on a few test tasks: its predictions one by one, its mistakes, its functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from metarun.evaluation.prediction.task_model import class_logits
from metarun.evaluation.trained import Trained
from metarun.figures import Figure, Line, Lines, Pictures, Surface
from metarun.learners import IterativeLearner
from metarun.system.randomness import fix
from metarun.tasks import Predictions, Tasks, targets_of
from metarun.tasks.description import class_names
from metarun.tasks.episodes import first_episodes

_TASKS = 64  # whose predictions are looked at
_MOST_BYTES = 2**28
_PICTURED = 30  # images of a figure
_CONFUSED = 16  # classes
_FUNCTIONS = 3
_GRID = 200
_SHOWN_STEPS = (0, 1, 2, 5, 10)


def showcase(trained: Trained) -> list[Figure]:
    """Return what a run's best learner has learned, and what it does on the first test tasks."""
    learner, source = trained.experiment.learner, trained.experiment.source
    fix(trained.config.seed, "test")
    one = first_episodes(source, "test", trained.experiment.dtype, 1)
    count = max(1, min(_TASKS, trained.config.train.test_tasks, _MOST_BYTES // max(1, one.bytes)))
    tasks = first_episodes(source, "test", trained.experiment.dtype, count)
    few = tasks.part(slice(min(8, len(tasks))))
    learned = learner.learned(few)
    if targets_of(source) == "values":
        return [*learned, *functions(trained, tasks.part(slice(_FUNCTIONS)))]
    names = class_names(source, "test").get("classes", [])
    found = predicted(trained, tasks, names)
    return [*learned, *_episode(found, one), *_mistakes(found), *_confusion(found)]


@dataclass(frozen=True)
class Predicted:
    """Queries of test tasks and what was predicted of them.

    Attributes:
        x: inputs, [n, …].
        labels: the class of each inside its task, int64 [n].
        chosen: the predicted class inside its task, int64 [n].
        probability: of the predicted class, [n].
        names: of the true classes.
        guesses: names of the predicted classes.
        are_named: whether the names tell classes apart beyond their task.
    """

    x: Tensor
    labels: Tensor
    chosen: Tensor
    probability: Tensor
    names: list[str]
    guesses: list[str]
    are_named: bool

    @property
    def right(self) -> Tensor:
        """Which predictions are right, bool [n]."""
        return self.labels == self.chosen


def predicted(trained: Trained, tasks: Tasks, class_names: Sequence[str] = ()) -> Predicted:
    """Return the predictions of all query examples of some tasks with classes, task after task.

    Args:
        trained: the run.
        tasks: with answers, which the learner does not see.
        class_names: of the classes that `tasks.info["class"]` numbers.
    """
    learner = trained.experiment.learner
    ways = (
        2
        if tasks.support.y.numel() == 0
        else max(2, int(torch.cat([tasks.support.y, tasks.query.y], 1).max()) + 1)
    )
    logits = []
    for place in range(len(tasks)):  # one by one: tasks may differ in size
        task = tasks.part(slice(place, place + 1)).packed()
        with learner.evaluating():
            adapted: Any = learner.adapt(task.without_answers())
            with torch.no_grad():
                found = class_logits(learner.predict(adapted, task.query.x), ways)[0]
        logits.append(found.double().cpu())
    counts = [int(mask.sum()) for mask in tasks.query.counting]
    packed = [tasks.part(slice(i, i + 1)).packed() for i in range(len(tasks))]
    x = torch.cat([task.query.x[0, :n] for task, n in zip(packed, counts, strict=True)]).cpu()
    labels = torch.cat([task.query.y[0, :n] for task, n in zip(packed, counts, strict=True)]).cpu()
    probability, chosen = torch.cat(
        [
            torch.nn.functional.pad(each[:n].softmax(1), (0, ways - each.shape[1]))
            for each, n in zip(logits, counts, strict=True)
        ]
    ).max(1)
    numbers = tasks.info.get("class")
    of_task = torch.repeat_interleave(torch.arange(len(tasks)), torch.tensor(counts))

    def named(label: int, task: int) -> str:
        if numbers is None:
            return f"class {label}"
        number = int(numbers[task, label])
        return class_names[number] if number < len(class_names) else str(number)

    return Predicted(
        x,
        labels,
        chosen,
        probability,
        [named(*pair) for pair in zip(labels.tolist(), of_task.tolist(), strict=True)],
        [named(*pair) for pair in zip(chosen.tolist(), of_task.tolist(), strict=True)],
        numbers is not None,
    )


def _are_images(x: Tensor) -> bool:
    return x.dim() == 4 and x.shape[1] in (1, 3)


def _caption(found: Predicted, place: int) -> str:
    probability = f"{float(found.probability[place]):.0%}"
    if found.right[place]:
        return f"{found.names[place]}\n{probability}"
    return f"{found.guesses[place]}? {probability}\n{found.names[place]}"


def _episode(found: Predicted, first: Tasks) -> list[Figure]:
    """Return the queries of the first task, those of one class together, with right and wrong predictions."""
    if not _are_images(found.x):
        return []
    count = min(len(first.query), _PICTURED)
    order = found.labels[:count].argsort(stable=True).tolist()
    right = int(found.right[: len(first.query)].sum())
    return [
        Pictures(
            name="episode",
            title="A test task",
            caption=f"Its queries, {right} of {len(first.query)} right: the class and its probability; where "
            "it is wrong, the prediction with its probability, and the class below.",
            images=[found.x[place] for place in order],
            captions=[_caption(found, place) for place in order],
            good=[bool(found.right[place]) for place in order],
        )
    ]


def _mistakes(found: Predicted) -> list[Figure]:
    """Return the most confident mistakes."""
    if not _are_images(found.x):
        return []
    wrong = (~found.right).nonzero().squeeze(1)
    order = wrong[found.probability[wrong].argsort(descending=True)].tolist()[:_PICTURED]
    if not order:
        return []
    return [
        Pictures(
            name="mistakes",
            title="The most confident mistakes",
            caption=f"Of {len(wrong):,} in {len(found.labels):,} queries: what was predicted, with its "
            "probability, and below it what is right.",
            images=[found.x[place] for place in order],
            captions=[_caption(found, place) for place in order],
            good=[False] * len(order),
        )
    ]


def _confusion(found: Predicted) -> list[Figure]:
    """Return how often each class was taken for each, for the classes with most mistakes."""
    if not found.are_named and len(set(found.names)) > _CONFUSED:
        return []
    mistakes: dict[str, int] = {}
    for name, guess in zip(found.names, found.guesses, strict=True):
        for each in (name, guess):
            mistakes[each] = mistakes.get(each, 0) + (name != guess)
    kept = sorted(mistakes, key=lambda name: (-mistakes[name], name))[:_CONFUSED]
    if len(kept) < 2:
        return []
    kept.sort()
    place = {name: number for number, name in enumerate(kept)}
    table = torch.zeros(len(kept), len(kept), dtype=torch.float64)
    for name, guess in zip(found.names, found.guesses, strict=True):
        if name in place and guess in place:
            table[place[name], place[guess]] += 1
    of_all = "" if len(mistakes) <= _CONFUSED else f" The {_CONFUSED} with most mistakes of {len(mistakes)}."
    return [
        Surface(
            name="confusion",
            title="Which classes are confused",
            caption=f"Queries of a class (rows) by what was predicted (columns).{of_all}",
            values=table,
            rows=kept,
            columns=kept,
            x_label="predicted",
            y_label="class",
            unit="queries",
        )
    ]


def functions(trained: Trained, tasks: Tasks) -> list[Figure]:
    """Return the predicted function of some tasks with one input and one output, before and after steps."""
    learner = trained.experiment.learner
    if tasks.support.x.shape[2:] != (1,) or tasks.query.y.shape[2:] != (1,):
        return []
    figures: list[Figure] = []
    for place in range(len(tasks)):
        task = tasks.part(slice(place, place + 1)).packed()
        grid = _grid(task)
        steps: list[Predictions] = []
        with learner.evaluating():
            asked = task.without_answers()
            trajectory = (
                learner.trajectory(asked)
                if isinstance(learner, IterativeLearner)
                else iter([learner.adapt(asked)])
            )
            for adapted in islice(trajectory, _SHOWN_STEPS[-1] + 1):
                with torch.no_grad():
                    steps.append(learner.predict(adapted, grid))
        lines = {
            "·support": _dots(task.support.x, task.support.y, task.support.counting),
            "·query": _dots(task.query.x, task.query.y, task.query.counting),
        }
        last = len(steps) - 1
        for step, found in enumerate(steps):
            if step in _SHOWN_STEPS or step == last:
                name = f"after step {step}" if step else "before adaptation"
                lines[name if last else "predicted"] = _function(grid, found)
        figures.append(
            Lines(
                name=f"function-{place + 1}",
                title=f"Test task {place + 1}",
                caption="The predicted function, with its 95 % interval where there is one.",
                lines=lines,
                x_label="x",
                y_label="y",
            )
        )
    return figures


def _grid(task: Tasks) -> Tensor:
    x = torch.cat([task.support.x, task.query.x], 1)
    low, high = float(x.min()), float(x.max())
    return torch.linspace(low, high, _GRID, dtype=x.dtype, device=x.device).view(1, _GRID, 1)


def _dots(x: Tensor, y: Tensor, counting: Tensor) -> Line:
    kept = counting[0]
    return Line(x[0, kept, 0].tolist(), y[0, kept, 0].tolist(), dots=True)


def _function(grid: Tensor, found: Predictions) -> Line:
    x = grid[0, :, 0].tolist()
    if not isinstance(found, Distribution):
        return Line(x, found[0, :, 0].tolist())
    mean, reach = found.mean[0, :, 0], 1.96 * found.stddev[0, :, 0]
    return Line(x, mean.tolist(), (mean - reach).tolist(), (mean + reach).tolist())
