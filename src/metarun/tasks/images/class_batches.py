"""Mini-batches of images of all training classes, for ordinary supervised training."""

from __future__ import annotations

import torch
from torch import Tensor

from metarun.tasks.draws import Draws
from metarun.tasks.images.pool import Pool
from metarun.tasks.types import SPLITS, Examples

# Lower streams draw episodes and their keys.
_STREAM = 2 * len(SPLITS)


class ClassBatches:
    """Mini-batches of all images, in a new random order in each epoch.

    Batch i is a pure function of the seed and i. Images that do not fill the last batch of an epoch are left
    out, as with torch's `drop_last`.

    Args:
        pool: the images and their classes.
        size: images of a batch.
        seed: determines the orders.
    """

    def __init__(self, pool: Pool, size: int, seed: int) -> None:
        self._pool, self._size, self._seed = pool, size, seed
        self._count = len(pool.places)
        self._order: tuple[int, Tensor] | None = None

    def batch(self, first: int, count: int) -> Examples:
        """Return batches first … first + count − 1: images [count, size, …] and classes [count, size]."""
        epoch_size = self._count // self._size
        places = []
        for index in range(first, first + count):
            epoch, step = divmod(index, epoch_size)
            places.append(self._of_epoch(epoch)[step * self._size : (step + 1) * self._size])
        chosen = torch.stack(places)
        return Examples(self._pool.at(chosen), self._pool.labels[chosen])

    def _of_epoch(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            draws = Draws(self._seed, _STREAM, epoch, 1, self._pool.counts.device)
            self._order = epoch, draws.choose(self._count, self._count).squeeze(0)
        return self._order[1]
