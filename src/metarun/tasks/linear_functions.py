"""Linear, sparse linear and two-layer functions of vectors: the tasks of learning in context."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from metarun.errors import ConfigError
from metarun.fields import Count, Steps
from metarun.tasks.draws import Draws
from metarun.tasks.metrics import mean_squared_error
from metarun.tasks.products import product
from metarun.tasks.regression import REGRESSION
from metarun.tasks.synthetic import Pair, SyntheticSource
from metarun.tasks.types import SPLITS


class LinearFunctions(SyntheticSource):
    """y = f(x) + noise with x ~ N(0, I), f drawn for each task.

    Garg, Tsipras, Liang & Valiant 2022, "What Can Transformers Learn In-Context?", arXiv:2208.01066,
    sections 3 and 5: `linear` w·x with w ~ N(0, I); `sparse` with all but a few entries of w set to zero;
    `network` √(2/h) Σ_j a_j max(0, w_j·x) with h units and a, w normal.

    Args:
        function: `linear`, `sparse` or `network`.
        dimension: d, the number of entries of x.
        nonzero: number of nonzero entries of w with `sparse`; null otherwise.
        units: h, the number of units with `network`; null otherwise.
        noise: standard deviation of the normal noise on y.
        curriculum: [first, every]: the first training tasks have `first` nonzero entries of x; every `every`
            tasks their number grows by one (the paper, appendix A.2); null: all entries from the start.
        **shared: shot, query, train_shot and seed (SyntheticSource).

    Raises:
        ConfigError: `nonzero` or `units` is missing, has no effect, or exceeds the dimension.
    """

    loss = staticmethod(mean_squared_error)
    metrics = REGRESSION
    output_size = 1

    def __init__(
        self,
        *,
        function: Literal["linear", "sparse", "network"] = "linear",
        dimension: Annotated[int, Field(ge=1, le=10_000)] = 5,
        nonzero: Count | None = None,
        units: Count | None = None,
        noise: NonNegativeFloat = 0.0,
        curriculum: tuple[Count, Steps] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        for name, value, of in (("nonzero", nonzero, "sparse"), ("units", units, "network")):
            if (function == of) != (value is not None):
                said = "null" if value is None else value
                raise ConfigError(
                    f"@source.{name}={said} and @source.function={function} do not agree",
                    f"@source.{name}={'3, or another number' if function == of else 'null'}",
                )
        if nonzero is not None and nonzero > dimension:
            raise ConfigError(
                f"@source.nonzero={nonzero} exceeds @source.dimension={dimension}",
                f"@source.nonzero={dimension}",
            )
        if curriculum is not None and (curriculum[0] > dimension or curriculum[1] == 0):
            raise ConfigError(
                f"@source.curriculum={list(curriculum)}: expected at most {dimension} entries, and one more "
                f"after every 1 or more tasks",
                f"@source.curriculum=[{(dimension + 1) // 2},64000]",
            )
        self.input_shape, self.curriculum = (dimension,), curriculum
        self.function, self.nonzero, self.units, self.noise = function, nonzero, units, noise

    def task(self, draws: Draws) -> dict[str, Tensor]:
        """Return w [T, d] (networks: w [T, d, h] and a [T, h]) and the noise, [T]."""
        (d,) = self.input_shape
        if self.units is not None:
            parts = {"w": draws.normal(d, self.units), "a": draws.normal(self.units)}
        else:
            parts = {"w": draws.normal(d)}
        if self.nonzero is not None:
            chosen = draws.choose(d, self.nonzero)
            parts["w"] = parts["w"] * torch.zeros_like(parts["w"]).scatter_(1, chosen, 1.0)
        if self.curriculum is not None:
            first, every = self.curriculum
            in_training = draws.stream == SPLITS.index("train")
            parts["active"] = first + draws.episodes // every if in_training else draws.episodes * 0 + d
        return {**parts, "noise": parts["w"].new_full((draws.count,), self.noise)}

    def examples(self, draws: Draws, task: Mapping[str, Tensor], n: int) -> Pair:
        """Return x [T, n, d] and y [T, n, 1]."""
        x = draws.normal(n, *self.input_shape)
        if "active" in task:
            entries = torch.arange(x.shape[2], device=x.device)
            x = x * (entries < task["active"][:, None])[:, None]
        if "a" in task:
            assert self.units is not None
            y = math.sqrt(2 / self.units) * product(product(x, task["w"]).relu(), task["a"][..., None])
        else:
            y = product(x, task["w"][..., None])
        return x, y + self.noise * draws.normal(n, 1)
