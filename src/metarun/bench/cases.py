"""The cases of `metarun bench`: published set-ups, and growth curves and data sources run only by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_CONV4 = ["data=noise", "inner.lr=0.1", "train.meta_batch=32"]
_CONV4_5Q = [*_CONV4, "data.query=1"]
_CONV4_75Q = [*_CONV4, "data.query=15"]
_FIRST_ORDER = "metagradient=first_order"
_METASGD = "algo=metasgd"
_5_STEPS = "inner.steps=5"
_COMPILED = "engine.compile=true"

_20_WAY = ["data=noise", "data.way=20", "data.shot=5", "data.query=5"]
# Sixteen tasks, of which a small embedding leaves most of the time to the solver.
_HEAD = [
    "data=noise",
    "data.image=[1,8,8]",
    "data.shot=5",
    "model=mlp",
    "model.hidden=[64]",
    "train.meta_batch=16",
]

EMBEDDING: dict[str, list[str]] = {
    "protonet-conv4-20way": ["algo=protonet", *_20_WAY, "train.meta_batch=4"],
    "protonet-resnet12-84": [
        *("algo=protonet", "data=noise", "data.image=[3,84,84]", "data.shot=1", "data.query=1"),
        *("model=resnet12", "train.meta_batch=4"),
    ],
    "r2d2-head": ["algo=r2d2", *_HEAD],
    "metaoptnet-head": ["algo=metaoptnet", *_HEAD],
    "logistic-head": ["algo=logistic", *_HEAD],
    "cnp-gp": ["algo=cnp", "data=gp", "data.shot=[3,46]", "train.meta_batch=16"],
    "tnp-d-gp": ["algo=tnp_d", "data=gp", "data.shot=[3,46]", "train.meta_batch=16"],
    "icl-linear": ["algo=icl", "data=linear_icl", "data.shot=40", "train.meta_batch=64"],
}
"""Cases of learners without inner steps; `floor` leaves them out."""

CASES: dict[str, list[str]] = {
    "sinusoid-1": ["inner.steps=1"],
    "sinusoid-5": [_5_STEPS],
    "sinusoid-5-first-order": [_5_STEPS, _FIRST_ORDER],
    "sinusoid-5-metasgd": [_5_STEPS, _METASGD, "inner.lr=0.05"],
    "sinusoid-1-compiled": ["inner.steps=1", _COMPILED],
    "sinusoid-5-compiled": [_5_STEPS, _COMPILED],
    "conv4-5q": _CONV4_5Q,
    "conv4-5q-first-order": [*_CONV4_5Q, _FIRST_ORDER],
    "conv4-5q-metasgd": [*_CONV4_5Q, _METASGD],
    "conv4-5q-5steps": [*_CONV4_5Q, _5_STEPS],
    "conv4-5q-5steps-first-order": [*_CONV4_5Q, _5_STEPS, _FIRST_ORDER],
    "conv4-5q-5steps-metasgd": [*_CONV4_5Q, _5_STEPS, _METASGD],
    "conv4-75q": _CONV4_75Q,
    "conv4-75q-first-order": [*_CONV4_75Q, _FIRST_ORDER],
    "conv4-75q-metasgd": [*_CONV4_75Q, _METASGD],
    "conv4-75q-5steps": [*_CONV4_75Q, _5_STEPS],
    # MAML's own meta-batch for 20-way (arXiv:1703.03400, appendix A.1): a task is four times the size.
    "conv4-20way-5shot": [*_CONV4, "train.meta_batch=16", "data.way=20", "data.shot=5", "data.query=5"],
    # miniImageNet in the settings of MAML's code; three colours at 84 × 84.
    "conv4-84": [
        *_CONV4_75Q,
        _5_STEPS,
        "data.image=[3,84,84]",
        "model.filters=32",
        "inner.lr=0.01",
        "train.meta_batch=4",
    ],
    **EMBEDDING,
}
"""Overrides of the default config, by name. The number before q is the query images per task."""


@dataclass(frozen=True)
class Growth:
    """A curve of times over the tasks of a meta-batch or the inner steps.

    Attributes:
        base: overrides of every point.
        over: the quantity that grows: tasks of a meta-batch or inner steps.
        values: of this quantity, one per point.
    """

    base: list[str]
    over: Literal["tasks", "steps"]
    values: tuple[int, ...]

    def points(self) -> list[list[str]]:
        """Return the overrides of each point."""
        key = "train.meta_batch" if self.over == "tasks" else "inner.steps"
        return [[*self.base, f"{key}={value}"] for value in self.values]


GROWTH: dict[str, Growth] = {
    "growth-tasks": Growth([], "tasks", (1, 4, 16, 64, 256)),
    "growth-steps": Growth([], "steps", (1, 5, 10, 20, 50)),
    "growth-tasks-conv4": Growth(_CONV4_5Q, "tasks", (1, 4, 16, 64)),
}
"""Growth curves by name; an empty base means the default config's network."""

_OMNIGLOT = ["data=omniglot", "data.query=1", "train.meta_batch=32"]

SOURCES: dict[str, list[str]] = {
    "sinusoid": [],
    "linear_regression": ["data=linear_regression"],
    "binary_classification": ["data=binary_classification"],
    "omniglot": _OMNIGLOT,
    "omniglot-masked": [*_OMNIGLOT, "data.imbalance=0.5", "data.shot=2"],
    "omniglot-variable": [*_OMNIGLOT, "data.sampler=variable", "data.fewest_way=2", "data.shot=5"],
}
"""Overrides for each source of episodes; Omniglot has the size of conv4-5q, also with masks."""
