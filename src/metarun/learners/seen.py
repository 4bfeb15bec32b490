"""Figures of what learners have learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metarun.figures import Points, Surface
from metarun.tasks import Tasks

if TYPE_CHECKING:
    from metarun.learners.one_pass import OnePassLearner


def principal_components(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x [n, d] in its first two principal components, [n, 2], and their shares of the variance.

    The sign of each component makes its largest entry positive.
    """
    centred = (x - x.mean(0)).double().cpu()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    places = torch.zeros(len(x), 2, dtype=torch.float64)
    count = min(2, len(s))
    largest = u[:, :count].gather(0, u[:, :count].abs().argmax(0, keepdim=True)).sign()
    places[:, :count] = u[:, :count] * s[:count] * largest
    shares = s.square() / s.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
    return places, shares[:2]


def embedding_figure(learner: OnePassLearner, task: Tasks) -> Points:
    """Return a figure of the embedded support and query set of one task, with the mean of each class."""
    with learner.evaluating(), torch.no_grad():
        features = learner.embeddings(torch.cat([task.support.x, task.query.x], 1))[0]
    y = torch.cat([task.support.y, task.query.y], 1)[0]
    shots = len(task.support)
    kinds = ["support"] * shots + ["query"] * (len(y) - shots)
    labels = [f"class {label}" for label in y.tolist()]
    counting = torch.cat([task.support.counting, task.query.counting], 1)[0]
    for label in sorted(set(y[:shots][counting[:shots]].tolist())):
        own = (y[:shots] == label) & counting[:shots]
        features = torch.cat([features, features[:shots][own].mean(0, keepdim=True)])
        labels.append(f"class {label}")
        kinds.append("mean of the support")
    counting = torch.cat([counting, counting.new_ones(len(labels) - len(counting))])
    places, shares = principal_components(features[counting])
    kept = counting.tolist()
    return Points(
        name="embedding",
        title="The embedding of a test task",
        caption=f"Two principal components, with {float(shares.sum()):.0%} of the variance.",
        places=places,
        labels=_those(labels, kept),
        kinds=_those(kinds, kept),
    )


def attention_figure(weights: Tensor, task: Tasks) -> Surface:
    """Return a figure of the attention of one task's queries to its support set, from weights [n, m]."""
    of_known, of_asked = task.support.y[0].argsort(stable=True), task.query.y[0].argsort(stable=True)
    known, asked = task.support.y[0, of_known].tolist(), task.query.y[0, of_asked].tolist()
    weights = weights[of_asked][:, of_known]
    prefix = "" if task.support.y.is_floating_point() else "class "
    return Surface(
        name="attention",
        title="Attention of queries to the support set",
        caption="Of one test task; each row sums to 1.",
        values=weights.detach().double().cpu(),
        rows=[f"{prefix}{y}" for y in asked],
        columns=[f"{prefix}{y}" for y in known],
        x_label="support example",
        y_label="query",
        unit="weight",
    )


def _those(texts: Sequence[str], kept: Sequence[bool]) -> list[str]:
    return [text for text, is_kept in zip(texts, kept, strict=True) if is_kept]
