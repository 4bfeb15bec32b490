"""Synthetic tables: random causal models, random perceptrons and clouds, for prior-fitted networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field, NonNegativeFloat
from torch import Tensor

from metarun.errors import ConfigError
from metarun.fields import Count, Counts, Seed, ordered
from metarun.tasks.draws import Draws
from metarun.tasks.metrics import (
    ACCURACY,
    CALIBRATION_ERROR,
    Loss,
    Scoring,
    cross_entropy,
    mean_squared_error,
)
from metarun.tasks.regression import REGRESSION
from metarun.tasks.shots import Shots, whole
from metarun.tasks.synthetic import stretch
from metarun.tasks.tables.mechanisms import ACTIVATIONS, Activation, Network, categorical, classes_of, clouds
from metarun.tasks.tables.rows import standardised, widened
from metarun.tasks.types import SPLITS, Examples, Split, Targets, Tasks

Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[tuple[Share, Share], AfterValidator(ordered)]
Noise = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(ordered)]
Mechanism = Literal["scm", "mlp", "clusters"]
_MECHANISMS: tuple[Mechanism, ...] = ("scm", "mlp", "clusters")


class TabularPrior:
    """Each task is a random table: its size, its mechanism and its classes are drawn.

    Müller et al. 2022, arXiv:2112.10510, and Hollmann, Müller, Eggensperger & Hutter 2023, "TabPFN",
    arXiv:2207.01848, section 4. A table comes from one of: `scm`, a random causal model of layers of units
    with noise, where columns and target are random units; `mlp`, a random perceptron of the columns;
    `clusters`, a cloud for each class. Classes are a target cut by thresholds, or the largest of several
    units.

    Args:
        target: `classes` or `values`.
        width: entries of x; tables with fewer columns have zeros there.
        most_classes: number of classes that a learner can predict; 1 with values.
        features: [fewest, most] columns of a table.
        classes: [fewest, most] classes of a table.
        shot: support rows; [fewest, most]: drawn for each table.
        query: query rows.
        train_shot: support rows while training; None: `shot`.
        mechanisms: the mechanisms that generate tables, drawn equally often.
        layers: [fewest, most] layers of causal models and perceptrons.
        causes: [fewest, most] units or columns that all other units depend on.
        activations: activations of causal models and perceptrons; one is drawn for each table.
        sparsity: interval of the share of weights that are zero.
        noise: interval of the standard deviation of a unit's noise; the unit itself has standard deviation 1.
        correlation: interval of the share of a column's variance that it has in common with others.
        categorical: interval of the share of columns with only two to five values.
        missing: interval of the share of entries that are missing.
        seed: determines the tables.
        dtype: of the rows.

    Raises:
        ConfigError: an interval exceeds the width or the classes, or does not go with the target.
    """

    output_size: int
    may_lack_classes: ClassVar[bool] = True  # a support set may not show each class

    def __init__(
        self,
        *,
        target: Literal["classes", "values"] = "classes",
        width: Annotated[int, Field(ge=1, le=10_000)] = 64,
        most_classes: Count = 10,
        features: Counts = (2, 64),
        classes: Counts = (2, 10),
        shot: Count | Counts = (16, 128),
        query: Count = 32,
        train_shot: Count | Counts | None = None,
        mechanisms: Annotated[Sequence[Mechanism], Field(min_length=1)] = _MECHANISMS,
        layers: Counts = (1, 2),
        causes: Counts = (1, 10),
        activations: Annotated[Sequence[Activation], Field(min_length=1)] = ACTIVATIONS,
        sparsity: Shares = (0.0, 0.8),
        noise: Noise = (0.0, 0.3),
        correlation: Shares = (0.0, 0.8),
        categorical: Shares = (0.0, 0.5),
        missing: Shares = (0.0, 0.1),
        seed: Seed = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.width, self.features, self.classes = width, features, classes
        self.shots, self.query = Shots(shot, train_shot), query
        self.layers, self.causes, self.activations = layers, causes, tuple(activations)
        self.sparsity, self.noise = sparsity, noise
        self.correlation, self.categorical, self.missing = correlation, categorical, missing
        self.seed, self.dtype = seed, dtype
        self.input_shape = (width,)
        self.targets: Targets = target
        self.loss: Loss = cross_entropy if target == "classes" else mean_squared_error
        self.metrics = (ACCURACY, CALIBRATION_ERROR) if target == "classes" else REGRESSION
        self.output_size = most_classes if target == "classes" else 1
        self.mechanisms = tuple(m for m in mechanisms if target == "classes" or m != "clusters")
        self._check(most_classes)
        self._device = torch.device("cpu")

    def _check(self, most_classes: int) -> None:
        """Raise ConfigError for an interval that exceeds a size, or does not go with the target."""
        for key, interval, limit, value in (
            ("features", self.features, "width", self.width),
            ("classes", self.classes, "most_classes", most_classes),
        ):
            if interval[1] > value:
                raise ConfigError(
                    f"@source.{key}={list(interval)} exceeds @source.{limit}={value}",
                    f"@source.{limit}={interval[1]}",
                )
        if self.classes[0] < 2:
            raise ConfigError(
                f"@source.classes={list(self.classes)}: a table has two or more", "@source.classes=[2,10]"
            )
        if not self.mechanisms:
            raise ConfigError(
                "@source.mechanisms=[clusters] has classes alone", "@source.target=classes, or [scm,mlp]"
            )

    def prepare(self, device: torch.device) -> None:
        """Generate tables on this device from now on; there are no files to read."""
        self._device = device

    def batch(self, split: Split, first_episode: int, count: int) -> Tasks:
        """Return episodes first_episode … first_episode + count − 1 of a split."""
        draws = Draws(self.seed, SPLITS.index(split), first_episode, count, self._device)
        fewest, most = self.shots.interval(split)
        shots = whole(draws, (fewest, most))
        columns, ways = whole(draws, self.features), whole(draws, self.classes)
        kind = draws.choose(len(self.mechanisms), 1).squeeze(1)
        x, target = self._rows(draws, kind, columns, ways, most + self.query)
        x = categorical(draws, x, stretch(draws.uniform(), self.categorical))
        missing = stretch(draws.uniform(), self.missing)[:, None, None]
        x = x.masked_fill(draws.uniform(*x.shape[1:]) < missing, torch.nan)
        x = widened(standardised(x, shots, most), columns, self.width).to(self.dtype)
        y = target
        if self.targets == "values":
            y = standardised(target, shots, most).to(self.dtype)
        everything = Examples(x, y)
        support = everything.take(slice(most))
        if fewest < most:
            places = torch.arange(most, device=x.device)  # not `places_in_class`: shots are not per class
            support = replace(support, mask=places < shots[:, None]).padded()
        info = {"columns": columns, "ways": ways, "mechanism": kind}
        return Tasks(
            support,
            everything.take(slice(most, None)),
            info,
            ways=ways if self.targets == "classes" else None,
            scoring=Scoring(self.loss, self.metrics),
        )

    def _rows(
        self, draws: Draws, kind: Tensor, columns: Tensor, ways: Tensor, rows: int
    ) -> tuple[Tensor, Tensor]:
        """Return columns [T, rows, most features] and targets: classes [T, rows], or values [T, rows, 1]."""
        most = self.features[1]
        network = Network(
            columns=most,
            outputs=self.output_size,
            most_layers=self.layers[1],
            layers=whole(draws, self.layers),
            causes=whole(draws, self.causes),
            activation=draws.choose(len(self.activations), 1).squeeze(1),
            activations=self.activations,
            sparsity=stretch(draws.uniform(), self.sparsity),
            noise=stretch(draws.uniform(), self.noise),
            correlation=stretch(draws.uniform(), self.correlation),
        )
        is_scm = torch.tensor([m == "scm" for m in self.mechanisms], device=kind.device)[kind]
        x, units = network.rows(draws, columns, rows, is_scm)
        if self.targets == "values":
            return x, units[:, :, :1]
        labels = classes_of(draws, units, ways)
        if "clusters" in self.mechanisms:
            is_cloud = kind == self.mechanisms.index("clusters")
            shape, correlation = (rows, most, self.classes[1]), stretch(draws.uniform(), self.correlation)
            cloud_x, cloud_labels = clouds(draws, shape, ways, correlation)
            x = torch.where(is_cloud[:, None, None], cloud_x, x)
            labels = torch.where(is_cloud[:, None], cloud_labels, labels)
        return x, labels
