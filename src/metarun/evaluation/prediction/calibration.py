"""Probabilities that mean what they say, and a level of doubt: both from validation tasks of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.errors import ConfigError, MetarunError
from metarun.evaluation.prediction.task_model import asked, class_logits, one_task
from metarun.evaluation.prediction.usable import Usable
from metarun.experiment.sources import build_source
from metarun.tasks import SPLITS, Tasks, TaskSource
from metarun.tasks.metrics import calibration_gaps

TASKS = 100
"""Validation tasks, where nothing else is asked for."""

_STEPS = 100  # of L-BFGS, at most
_OTHERS = 5  # tasks that unknown classes are taken from, at most


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it does on validation tasks (Guo et al. 2017, arXiv:1706.04599, section 4.2).

    Attributes:
        checkpoint_step: of the learner.
        way: classes of a task.
        shot: support examples of a class.
        tasks: number of tasks.
        temperature: what logits are divided by, so that the negative log-likelihood is the least.
        nll: negative log-likelihood of a label before and after, in nats.
        ece: expected calibration error before and after.
    """

    checkpoint_step: int
    way: int
    shot: int
    tasks: int
    temperature: float
    nll: tuple[float, float]
    ece: tuple[float, float]

    def plain(self, usable: Usable) -> dict[str, Any]:
        """Return it as plain values for a file, with the settings that it is for."""
        return {**asdict(self), "settings": usable.settings}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Calibration:
        """Return the object of which `plain` gave these values."""
        pairs = {name: tuple(plain[name]) for name in ("nll", "ece")}
        return cls(**{key: value for key, value in {**plain, **pairs}.items() if key != "settings"})


@dataclass(frozen=True)
class Level:
    """A level of doubt.

    Attributes:
        threshold: probability below which an example is rejected.
        right: share of right answers among those that are given, in validation tasks of which half of the
            query classes are unknown.
        covered: share of their queries of known classes that are answered.
        unknown: share of their queries of unknown classes that are answered, wrongly.
    """

    threshold: float
    right: float
    covered: float
    unknown: float


def source_for(usable: Usable, way: int, shot: int) -> TaskSource:
    """Return the run's data in tasks of this way and shot, or the nearest that it allows, prepared.

    Raises:
        ConfigError: its tasks have no classes.
    """
    assert usable.run is not None
    data = dict(usable.config.data)
    if usable.facts.targets != "classes" or "way" not in data:
        raise ConfigError("--calibrate and --reject are for runs on data with classes")
    fixed = {"sampler": "fixed", "imbalance": 0.0, "label_noise": 0.0, "unlabelled": 0, "distractors": 0}
    data |= {key: value for key, value in fixed.items() if key in data}
    data |= {"test": None}

    def built(**sizes: int) -> TaskSource:
        config = usable.config.model_copy(update={"data": {**data, **sizes}})
        return build_source(config, usable.run.home if usable.run else "")

    def prepared(**sizes: int) -> TaskSource:
        source = built(**sizes)
        source.prepare(usable.device)
        return source

    count = getattr(built(), "classes", None)
    allowed = way if count is None else max(2, min(way, *(count(split) for split in SPLITS)))
    try:
        return prepared(way=allowed, shot=shot)
    except ConfigError:  # its classes have too few examples
        return prepared(way=allowed)


@dataclass(frozen=True)
class Scored:
    """Queries of validation tasks.

    Attributes:
        logits: [n, way].
        labels: int64 [n]; `way`: of a class that is not in the support set.
    """

    logits: Tensor
    labels: Tensor


def scored(
    usable: Usable, source: TaskSource, tasks: int, show: Callable[[int], object], *, unknown: bool = False
) -> Iterator[Scored]:
    """Yield the queries of validation tasks.

    Args:
        usable: the learner.
        source: of the tasks.
        tasks: how many.
        show: is told after each task.
        unknown: whether to add queries of classes that have no support examples, as many at most: those of
            another task.

    Raises:
        MetarunError: there are no other classes.
    """
    for index in range(tasks):
        episode = source.batch("validation", index, 1).to(usable.device, usable.dtype)
        way = int(episode.support.y.max()) + 1
        task = one_task(usable, episode.support, way)
        x, labels = episode.query.x, episode.query.y[0].cpu()
        if unknown:
            others = _unknown(source, episode, tasks + 10 * index)
            x = torch.cat([x, others.to(x)], 1)
            labels = torch.cat([labels, torch.full((others.shape[1],), way)])
        learner = usable.learner
        with torch.no_grad(), learner.evaluating():
            logits = class_logits(learner.predict(learner.adapt(asked(task, x)), x), way)[0]
        yield Scored(logits.double().cpu(), labels)
        show(1)


def _unknown(source: TaskSource, episode: Tasks, first: int) -> Tensor:
    """Return queries of classes that an episode does not have, x [1, n, …], as many as it has queries."""
    if "class" not in episode.info:
        raise MetarunError("--reject: this data does not say which classes an episode has")
    known = set(episode.info["class"][0].tolist())
    found: list[Tensor] = []
    for index in range(first, first + _OTHERS):
        other = source.batch("validation", index, 1)
        classes = other.info["class"][0].tolist()
        is_new = torch.tensor([classes[label] not in known for label in other.query.y[0].tolist()])
        found.append(other.query.x[:, is_new])
        if sum(part.shape[1] for part in found) >= len(episode.query):
            break
    x = torch.cat(found, 1)[:, : len(episode.query)]
    if not x.shape[1]:
        raise MetarunError(
            f"--reject: validation tasks have all {len(known)} classes that there are, and none is unknown"
        )
    return x


def calibrated(usable: Usable, source: TaskSource, tasks: int, show: Callable[[int], object]) -> Calibration:
    """Return the temperature with the least negative log-likelihood on validation tasks of a source."""
    parts = list(scored(usable, source, tasks, show))
    logits, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("logits", "labels"))
    temperature = best_temperature(logits, labels)
    nll, ece = [], []
    for each in (1.0, temperature):
        nll.append(float(F.cross_entropy(logits / each, labels)))
        gaps = torch.stack([calibration_gaps(p.logits[None] / each, p.labels[None])[0] for p in parts])
        ece.append(float(gaps.mean(0).abs().sum()))
    support = source.batch("validation", 0, 1).support
    way = int(support.y.max()) + 1
    shot = round(int(support.counting.sum()) / way)
    return Calibration(usable.step, way, shot, tasks, temperature, (nll[0], nll[1]), (ece[0], ece[1]))


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return T > 0 with the least mean of −log softmax(logits / T)[label]; logits [n, k], labels [n]."""
    logarithm = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logarithm], max_iter=_STEPS, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits.double() / logarithm.exp(), labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    # Where all answers are right, the best temperature is 0: probabilities stay below 1.
    return float(logarithm.detach().exp().clamp(1e-3, 1e3))


def level_of(parts: list[Scored], temperature: float, wanted: float) -> Level:
    """Return the lowest threshold above which a share of the answers is right.

    Args:
        parts: queries, some of unknown classes, of which every answer is wrong.
        temperature: what logits are divided by.
        wanted: share of right answers, at least.

    Raises:
        MetarunError: no threshold reaches it.
    """
    logits, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("logits", "labels"))
    confidence, predicted = (logits / temperature).softmax(1).max(1)
    confidence, order = confidence.sort(descending=True)
    is_right = (predicted == labels)[order].double()
    share = is_right.cumsum(0) / torch.arange(1, len(is_right) + 1)
    # Of equal confidences all are above a threshold, or none.
    is_end = torch.cat([confidence[:-1] != confidence[1:], torch.tensor([True])])
    reached = (is_end & (share >= wanted)).nonzero()
    if not len(reached):
        raise MetarunError(
            f"--reject {wanted}: no level of confidence has this share of right answers on validation tasks; "
            f"the best has {float(share[is_end].max()):.3f}"
        )
    last = int(reached.max())
    is_known = (labels < logits.shape[1])[order]
    answered = torch.arange(len(order)) <= last
    return Level(
        float(confidence[last]),
        float(share[last]),
        float((answered & is_known).sum() / is_known.sum()),
        float((answered & ~is_known).sum() / (~is_known).sum().clamp_min(1)),
    )
