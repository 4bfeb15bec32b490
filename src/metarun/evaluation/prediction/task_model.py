"""A learner adapted to one task: the labelled examples of a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution

from metarun.errors import ConfigError
from metarun.evaluation.prediction.own_examples import Labelled
from metarun.evaluation.prediction.usable import LOSSES, Usable
from metarun.tasks import Examples, Predictions, Scoring, Tasks
from metarun.tasks.draws import Draws
from metarun.tasks.given import as_numbers

_TAIL = 0.025  # of a 95 % interval, on either side


@dataclass(frozen=True)
class Values:
    """Predicted numbers, each [n, d], in the units of the targets.

    Attributes:
        mean: the prediction.
        low: where a 95 % interval begins; None: the learner predicts no distribution.
        high: where it ends.
    """

    mean: Tensor
    low: Tensor | None
    high: Tensor | None


class TaskModel:
    """A learner that has seen labelled examples, and predicts others.

    Args:
        usable: the learner.
        support: the labelled examples.
        temperature: what logits are divided by; None: what the run keeps.

    Attributes:
        classes: their names, sorted; empty for numbers.
        adapted: what the learner has made of the examples, after a prediction.

    Raises:
        ConfigError: there are fewer than two classes, or more than the learner can tell apart.
    """

    def __init__(self, usable: Usable, support: Labelled, temperature: float | None = None) -> None:
        self.usable, self.support = usable, support
        self.temperature = usable.temperature if temperature is None else temperature
        self.x = as_numbers(support.x, usable.dtype).to(usable.device)
        if isinstance(support.y, Tensor):
            wanted = (len(support.x), usable.facts.output_size)
            if not len(support.x) or tuple(support.y.shape) != wanted:
                raise ConfigError(
                    f"the labelled examples have {len(support.x)} rows and targets {list(support.y.shape)}: "
                    f"expected one row or more, and {wanted[1]} numbers for each"
                )
            self.classes: list[str] = []
            y = support.y.to(usable.device)
        else:
            self.classes = sorted(set(support.y))
            check_classes(usable, self.classes)
            place = {name: number for number, name in enumerate(self.classes)}
            y = torch.tensor([place[label] for label in support.y], device=usable.device)
        self.tasks = one_task(usable, Examples(self.x[None], y[None]), len(self.classes))
        self.adapted: Any = None

    @property
    def is_transductive(self) -> bool:
        """Whether a prediction depends on the other examples that it is made with."""
        return bool(self.usable.learner.is_transductive)

    def predict(self, x: Tensor) -> Predictions:
        """Map inputs [n, *shape], as they are kept, to predictions [n, out], before any temperature."""
        scaled = as_numbers(x, self.usable.dtype).to(self.usable.device)[None]
        learner = self.usable.learner
        with torch.no_grad(), learner.evaluating():
            if self.adapted is None or self.is_transductive:
                self.adapted = learner.adapt(asked(self.tasks, scaled))
            return learner.predict(self.adapted, scaled)

    def check(self) -> None:
        """Predict what it has seen.

        Raises:
            MetarunError: the learner cannot.
        """
        self.predict(self.support.x[:2])

    def logits(self, x: Tensor) -> Tensor:
        """Map inputs to logits [n, classes], before any temperature."""
        return class_logits(self.predict(x), len(self.classes))[0]

    def probabilities(self, x: Tensor) -> Tensor:
        """Map inputs [n, *shape], as they are kept, to probabilities [n, classes]."""
        return (self.logits(x).double() / self.temperature).softmax(-1)

    def values(self, x: Tensor) -> Values:
        """Map inputs to numbers."""
        predicted = self.predict(x)
        if not isinstance(predicted, Distribution):
            return Values(self._in_units(predicted[0]), None, None)
        mean = self._in_units(predicted.mean[0])
        try:
            ends = [predicted.icdf(torch.tensor(p, device=mean.device))[0] for p in (_TAIL, 1 - _TAIL)]
        except NotImplementedError:
            return Values(mean, None, None)
        return Values(mean, *(self._in_units(end) for end in ends))

    def _in_units(self, values: Tensor) -> Tensor:
        of_targets = getattr(self.usable.reading, "of_targets", None)
        if of_targets is None:
            return values.double().cpu()
        return torch.from_numpy(of_targets.undone(values.double().cpu().numpy()))


def one_task(usable: Usable, support: Examples, classes: int) -> Tasks:
    """Return one task without queries."""
    ways = None
    if usable.facts.targets == "classes" and usable.limit is not None and classes < usable.limit:
        ways = torch.tensor([classes], device=support.x.device)  # the other outputs are never predicted
    key = Draws(0, 0, 0, 1, support.x.device).bits(1).squeeze(1)
    scoring = Scoring(LOSSES[usable.facts.targets])
    return Tasks(support, support.take(slice(0)), key=key, ways=ways, scoring=scoring)


def asked(tasks: Tasks, x: Tensor) -> Tasks:
    """Return tasks with the queries x [T, n, …], whose labels are hidden: all zeros."""
    y = tasks.support.y
    return replace(tasks, query=Examples(x, y.new_zeros(*x.shape[:2], *y.shape[2:])))


def class_logits(predictions: Predictions, classes: int) -> Tensor:
    """Return logits [T, n, classes] of predictions; of one logit for two classes, those of both."""
    if isinstance(predictions, Categorical | Bernoulli):
        predictions = predictions.logits
    assert isinstance(predictions, Tensor)
    if predictions.shape[-1] == 1 and classes == 2:
        return torch.cat([torch.zeros_like(predictions), predictions], -1)
    return predictions[..., :classes]


def check_classes(usable: Usable, classes: Sequence[str]) -> None:
    """Raise ConfigError for classes that the learner cannot tell apart."""
    if len(classes) < 2:
        raise ConfigError(
            f"all labelled examples are of one class, {classes[0]}: expected two or more"
            if classes
            else "there are no labelled examples"
        )
    if usable.facts.targets == "values":
        raise ConfigError("the examples have labels, and this run predicts numbers")
    limit = 2 if usable.facts.targets == "binary" else usable.limit
    if limit is not None and len(classes) > limit:
        raise ConfigError(
            f"the examples have {len(classes)} classes, and this run's head tells {limit} apart: give "
            f"{limit} or fewer, or train an algorithm that takes any number of them, as algo=protonet, feat, "
            f"r2d2 or proto_maml"
        )
