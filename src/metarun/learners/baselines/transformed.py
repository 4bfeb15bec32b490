"""Embeddings of a pretrained network, centred and normalised for the classifier."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.learners.baselines.pretrained import Pretrained
from metarun.learners.one_pass import Embedded, size_of
from metarun.tasks import Tasks

log = logging.getLogger("metarun")

Transform = Literal["none", "l2", "centred_l2"]

# The mean of the training embeddings averages about the last hundred mini-batches.
_MOMENTUM = 0.01


class Transformed(Pretrained):
    """A pretrained network whose embeddings are transformed in validation and test.

    Args:
        transform: `none`; `l2`: each embedding is divided by its length; `centred_l2`: first, the mean
            embedding of the training images is subtracted (SimpleShot's CL2N, arXiv:1911.04623, section 3).
            The mean is a moving average over the mini-batches of training; it starts at zero.
        **shared: see Pretrained.

    Attributes:
        centre: moving sum of the mean embeddings of mini-batches, [features].
        centre_weight: moving sum of their weights, which starts from 0.
    """

    needs = frozenset({"model", "training_output_size", "seed", "seeding"})

    centre: Tensor
    centre_weight: Tensor

    def __init__(self, *, transform: Transform = "none", **shared: Any) -> None:
        super().__init__(**shared)
        self.transform, self._unsaid = transform, True
        self.register_buffer("centre", torch.zeros(size_of(self.model)))
        self.register_buffer("centre_weight", torch.zeros(()))

    def embed(self, x: Tensor) -> Tensor:
        """Map examples [T, n, …] to embeddings [T, n, features], which are transformed outside training."""
        features = super().embed(x)
        if self.training or self.transform == "none":
            return features
        if self.transform == "centred_l2":
            tiny = torch.finfo(features.dtype).tiny
            features = features - self.centre / self.centre_weight.clamp_min(tiny)
        return F.normalize(features, dim=2)

    def adapt(self, tasks: Tasks) -> Embedded:
        """Adapt as Pretrained does; in training, `changes` also has the changes of the centre."""
        if not self.training and self.transform == "centred_l2" and self.centre_weight == 0 and self._unsaid:
            log.warning("no mean of training embeddings is known yet: they are normalised, and not centred")
            self._unsaid = False
        adapted = super().adapt(tasks)
        if not self.training:
            return adapted
        return replace(adapted, changes={**adapted.changes, **self._of_centre(adapted)})

    def _of_centre(self, adapted: Embedded) -> Mapping[str, Tensor]:
        means = adapted.predictor  # of each mini-batch, [T, features]
        return {
            "centre": _MOMENTUM * (means - self.centre),
            "centre_weight": (_MOMENTUM * (1 - self.centre_weight)).expand(len(means)),
        }
