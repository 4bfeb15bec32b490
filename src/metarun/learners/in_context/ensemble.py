"""Ensembles over several views of a table: predictions of the views are averaged."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarun.tasks import Tasks


@dataclass(frozen=True)
class View:
    """T tables with their columns and their classes in another order.

    A network with weights for each column and each class predicts differently if columns or classes change
    their order (Hollmann et al. 2023, arXiv:2207.01848, section 5.1).

    Attributes:
        columns: the old index of each new column, [T, width].
        classes: the new index of each class, [T, classes]; None: targets are values.
        inside: True at classes that a table has, [T, classes].
    """

    columns: Tensor
    classes: Tensor | None
    inside: Tensor | None

    def inputs(self, x: Tensor) -> Tensor:
        """Return rows x [T, n, width] with columns in the new order."""
        return x.gather(2, self.columns[:, None].expand(-1, x.shape[1], -1))

    def tasks(self, tasks: Tasks) -> Tasks:
        """Return tasks whose support labels are the new classes; inputs are unchanged."""
        if self.classes is None:
            return tasks
        support = replace(tasks.support, y=self.classes.gather(1, tasks.support.y))
        return replace(tasks, support=support)

    def outputs(self, outputs: Tensor) -> Tensor:
        """Return outputs [T, m, out] with logits in the old order of classes, −∞ for classes of no table."""
        if self.classes is None or self.inside is None:
            return outputs
        renamed = outputs.gather(2, self.classes[:, None].expand(-1, outputs.shape[1], -1))
        return renamed.masked_fill(~self.inside[:, None], -torch.inf)


def views(count: int, features: Tensor, tasks: Tasks, classes: int | None) -> list[View]:
    """Return `count` views of T tables: used columns are rotated by equal parts, classes by one per view.

    Args:
        count: number of views; the first is the table as it is.
        features: rows of the support sets, [T, n, width]; columns of zeros are unused.
        tasks: the tables.
        classes: number of classes that the network can predict; None: targets are values.
    """
    mask = tasks.support.mask
    used = ((features != 0) if mask is None else (features != 0) & mask[..., None]).any(1)
    columns = used.sum(1, keepdim=True).clamp_min(1)
    places = (~used).long().argsort(dim=1, stable=True)  # used columns first
    rank = torch.arange(used.shape[1], device=used.device).expand_as(used)
    names = inside = None
    if classes is not None:
        names = torch.arange(classes, device=used.device).expand(len(used), -1)
        ways = torch.full_like(columns, classes) if tasks.ways is None else tasks.ways[:, None]
        inside = names < ways
    found = []
    for i in range(count):
        shift = i * columns // count
        turned = torch.where(rank < columns, (rank + shift) % columns, rank)
        order = rank.scatter(1, places, places.gather(1, turned))
        renamed = None
        if names is not None and inside is not None:
            renamed = torch.where(inside, (names + i) % ways, names)
        found.append(View(order, renamed, inside))
    return found
