"""Query sets with random proportions of the classes."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from metarun.tasks.draws import Draws

Concentration = Annotated[int, Field(ge=1, le=1000)]


def dirichlet_places(draws: Draws, concentration: int, way: int, total: int, room: int) -> Tensor:
    """Return which images of an episode's classes are queries, sorted, int64 [T, total].

    Proportions are from Dirichlet(α, …, α), α = 2 in Veilleux et al. 2021 (arXiv:2204.11181, section 3). A
    class of proportion p has about p · total queries, at most `room`, rounded so that there are `total`.

    Args:
        draws: random numbers of T episodes.
        concentration: α, a whole number: a Gamma(α) variable is then a sum of α exponential ones.
        way: number of classes.
        total: number of queries of an episode.
        room: number of images of a class; places of class c are c · room … (c + 1) · room − 1.
    """
    gammas = -torch.log1p(-draws.uniform(way, concentration)).sum(-1)
    proportions = gammas / gammas.sum(1, keepdim=True)
    # The n-th image of a class is due as soon as p · total exceeds n; the most overdue ones are taken.
    due = proportions[..., None] * total - torch.arange(room, device=gammas.device)
    return due.flatten(1).topk(total).indices.sort(1).values
