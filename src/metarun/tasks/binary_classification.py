"""Two classes separated by a line; each task draws its direction: small enough to check by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from metarun.fields import Size
from metarun.tasks import metrics
from metarun.tasks.draws import Draws
from metarun.tasks.synthetic import Pair, SyntheticSource


class BinaryClassification(SyntheticSource):
    """x is standard normal; its class says on which side of a plane through 0 it lies.

    The plane's normal, the task's true direction, is uniform on the unit sphere. Every task has `shot`
    support and `query` query examples of each class, in random order.

    Args:
        dimension: entries of x.
        loss: cross_entropy (a model with two outputs) or binary_cross_entropy (one output).
        **shared: shot, query, train_shot and seed (SyntheticSource).
    """

    classes = 2

    def __init__(
        self,
        *,
        dimension: Size = 2,
        loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.input_shape = (dimension,)
        if loss == "cross_entropy":
            self.loss, self.output_size = metrics.cross_entropy, 2
            self.metrics = (metrics.ACCURACY, metrics.CALIBRATION_ERROR)
            self.targets = "classes"
        else:
            self.targets = "binary"
            self.loss, self.metrics = metrics.binary_cross_entropy, (metrics.BINARY_ACCURACY,)
            self.output_size = 1

    def task(self, draws: Draws) -> dict[str, Tensor]:
        """Return the true direction, of length 1, [T, d]."""
        direction = draws.normal(*self.input_shape)
        return {"direction": direction / direction.norm(dim=1, keepdim=True)}

    def examples(self, draws: Draws, task: Mapping[str, Tensor], n: int) -> Pair:
        """Return x [T, n, d] and labels y [T, n], 0 and 1 equally often."""
        x = draws.normal(n, *self.input_shape)
        y = draws.choose(n, n) % 2
        side = (x @ task["direction"][:, :, None]).squeeze(-1) > 0
        # x and −x are equally likely, so mirroring a point to the wanted side keeps the distribution.
        return torch.where((side == y.bool())[:, :, None], x, -x), y
