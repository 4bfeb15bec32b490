"""Query sets with random proportions of the classes."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from metarun.tasks.draws import Draws

Concentration = Annotated[int, Field(ge=1, le=1000)]


def dirichlet_places(draws: Draws, concentration: int, rooms: Tensor, total: int, room: int) -> Tensor:
    """Return the places of an episode's query images, sorted, int64 [T, total].

    Proportions are from Dirichlet(α, …, α), α = 2 in Veilleux et al. 2021 (arXiv:2204.11181, section 3). A
    class of proportion p has about p · total queries, at most the number of its images, rounded so that the
    sum is `total`.

    Args:
        draws: random numbers of T episodes.
        concentration: α, a whole number: a Gamma(α) variable is then a sum of α exponential ones.
        rooms: number of images of each class, int64 [T, way].
        total: number of queries of an episode.
        room: the largest of `rooms`; the places of class c are c · room … (c + 1) · room − 1.
    """
    gammas = -torch.log1p(-draws.uniform(rooms.shape[1], concentration)).sum(-1)
    proportions = gammas / gammas.sum(1, keepdim=True)
    # The n-th image of a class is due as soon as p · total exceeds n; the most overdue images are taken.
    image = torch.arange(room, device=gammas.device)
    due = (proportions[..., None] * total - image).masked_fill(image >= rooms[..., None], -torch.inf)
    return due.flatten(1).topk(total).indices.sort(1).values
