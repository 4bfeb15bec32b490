"""Samplers: the rules that choose the classes and images of an episode, for any dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from metarun.tasks.draws import Draws
from metarun.tasks.images.pool import Pool
from metarun.tasks.images.query_balance import dirichlet_places

Sampler = Literal["fixed", "variable"]


@dataclass(frozen=True)
class Picked:
    """Examples of T episodes.

    Attributes:
        label: index of an example's class among the classes of its episode, int64 [T, n].
        index: index of the image in its class, int64 [T, n].
        mask: [T, n], False at padding; None: no padding.
    """

    label: Tensor
    index: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class Drawn:
    """T episodes.

    Attributes:
        classes: the classes of each episode, int64 [T, way].
        support: the support images.
        query: the query images.
        info: classes, images and sizes that were drawn, [T, …] by name.
        ways: number of classes of each episode, if these numbers differ, int64 [T].
        unlabelled: the unlabelled images; labels are indices into `classes`, the last of which may be
            distractors.
    """

    classes: Tensor
    support: Picked
    query: Picked
    info: Mapping[str, Tensor] = field(default_factory=dict)
    ways: Tensor | None = None
    unlabelled: Picked | None = None


@dataclass(frozen=True)
class Sizes:
    """The sizes of an episode; with the variable sampler, way, shot and query are maxima.

    Attributes:
        way: number of classes.
        shot: support images of a class.
        query: query images of a class.
        fewest_way: variable sampler: fewest classes.
        most_support: variable sampler: most support images of all classes together.
        concentration: fixed sampler: α of a Dirichlet distribution of query classes; None: equal numbers.
        imbalance: fixed sampler: largest deviation of a class's support images from `shot`, as a share of it.
        unlabelled: fixed sampler: unlabelled images of a class.
        distractors: fixed sampler: classes that have only unlabelled images.
    """

    way: int
    shot: int
    query: int
    fewest_way: int = 5
    most_support: int = 500
    concentration: int | None = None
    imbalance: float = 0.0
    unlabelled: int = 0
    distractors: int = 0

    @property
    def most_shot(self) -> int:
        """The largest number of support images of a class."""
        return self.shot + math.floor(self.imbalance * self.shot)


def fixed(pool: Pool, draws: Draws, sizes: Sizes) -> Drawn:
    """Return episodes of `way` classes with `shot` and `query` images of each.

    With an imbalance i, a class's number of support images is uniform between shot · (1 − i) and
    shot · (1 + i), and at least one ("random imbalance", Ochal et al. 2021, arXiv:2101.02523, section 3).
    """
    way, shot, query = sizes.way, sizes.most_shot, sizes.query
    drawn, _ = chosen(pool, draws, way + sizes.distractors)
    classes = drawn[:, :way]
    # Query images come first, so that an episode has the same query set at any number of shots.
    taken = query + shot if sizes.concentration is None else pool.most
    rooms = pool.counts[classes]
    image = draws.choose(pool.most, taken, way, rooms=None if pool.is_equal else rooms)
    # Random, because an inner loop on mini-batches reads the support set in this order.
    order = draws.choose(way * shot, way * shot)  # [T, way · shot]
    support = _at(image[:, :, query : query + shot], order)
    queries = torch.cat([image[:, :, :query], image[:, :, query + shot :]], 2)
    by_class = torch.arange(way * query, device=image.device).expand(len(order), -1)
    if sizes.concentration is not None:  # queries are drawn from all images outside the support set
        by_class = dirichlet_places(draws, sizes.concentration, rooms - shot, way * query, queries.shape[2])
    info = {"class": classes, "image": image[:, :, : query + shot]}
    if sizes.imbalance:
        least = max(1, math.ceil(sizes.shot * (1 - sizes.imbalance)))
        shots = least + (draws.uniform(way) * (shot - least + 1)).long()
        counts = order % shot < shots.gather(1, support.label)
        support, info = replace(support, mask=counts), {**info, "shot": shots}
    unlabelled = None
    if sizes.unlabelled:
        counts = pool.counts[drawn]
        more = draws.choose(pool.most, query + shot + sizes.unlabelled, way + sizes.distractors, rooms=counts)
        # A separate draw, so that unlabelled images change neither the support nor the query set.
        used = torch.cat([image[:, :, : query + shot], more[:, way:, : query + shot]], 1)
        free = _without(more, used, sizes.unlabelled)
        places = draws.choose(free.shape[1] * free.shape[2], free.shape[1] * free.shape[2])
        unlabelled = _at(free, places)
        info = {**info, "unlabelled_class": drawn}
    return Drawn(drawn, support, _at(queries, by_class), info, unlabelled=unlabelled)


def chosen(pool: Pool, draws: Draws, count: int) -> tuple[Tensor, Tensor | int]:
    """Return distinct classes of each episode, int64 [T, count], and the number of candidates, [T] or an int.

    If classes come in groups, the candidates of an episode are one group, drawn uniformly. If the group has
    fewer classes than `count`, the last entries of the result have no meaning.
    """
    if pool.groups is None:
        return draws.choose(len(pool.counts), count), len(pool.counts)
    group = (draws.uniform() * len(pool.groups)).long()
    sizes, firsts = pool.groups[group], (pool.groups.cumsum(0) - pool.groups)[group]
    place = draws.choose(int(pool.groups.max()), count, rooms=sizes)
    return firsts[:, None] + torch.minimum(place, sizes[:, None] - 1), sizes


def _without(images: Tensor, used: Tensor, count: int) -> Tensor:
    """Return the first `count` of images [T, way, n] that are not in used [T, way, m], as [T, way, count]."""
    is_used = (images[..., None] == used[:, :, None]).any(3)
    order = is_used.long().argsort(dim=2, stable=True)[..., :count]
    return images.gather(2, order)


def _at(part: Tensor, order: Tensor) -> Picked:
    """Return the images of a part [T, way, images] at indices [T, n] of its flattened last dimensions."""
    return Picked(order // part.shape[2], part.flatten(1).gather(1, order))


def variable(pool: Pool, draws: Draws, sizes: Sizes) -> Drawn:
    """Return episodes with random numbers of classes and images, by Meta-Dataset's rule.

    Triantafillou et al. 2020, arXiv:1903.03096, section 3.2 and appendix. The way is uniform. A class has
    q = min(query, min_c ⌊|c| / 2⌋) query images. With β ~ U(0, 1), the support set has the size
    S = min(most_support, Σ_c ⌊β min(shot, |c| − q) + 1⌋). With α_c ~ U(log ½, log 2) and S′ = S − way, class
    c has min(⌊S′ |c| exp α_c / Σ |c| exp α_c⌋ + 1, |c| − q) support images. The paper's sizes are way 5 to
    50, shot 100, query 10 and most_support 500.
    """
    most_way = min(sizes.way, len(pool.counts) if pool.groups is None else int(pool.groups.max()))
    fewest = min(sizes.fewest_way, most_way)
    if pool.groups is None:
        ways = fewest + (draws.uniform() * (most_way - fewest + 1)).long()  # [T]
        classes, _ = chosen(pool, draws, most_way)
    else:
        classes, among = chosen(pool, draws, most_way)
        most = torch.as_tensor(among).clamp(max=most_way)
        ways = fewest + (draws.uniform() * (most - fewest + 1)).long()
    inside = torch.arange(most_way, device=classes.device) < ways[:, None]  # [T, way]
    rooms = pool.counts[classes]
    halves = torch.where(inside, rooms // 2, sizes.query)
    queries = halves.amin(1).clamp(max=sizes.query)  # [T]
    left = rooms - queries[:, None]
    beta = draws.uniform()[:, None]
    each = (beta * left.clamp(max=sizes.shot) + 1).floor().long() * inside
    size = each.sum(1).clamp(max=sizes.most_support)
    weights = rooms * torch.exp(math.log(0.5) + draws.uniform(most_way) * math.log(4)) * inside
    share = weights / weights.sum(1, keepdim=True)
    shots = torch.minimum((share * (size - ways)[:, None]).floor().long() + 1, left) * inside  # [T, way]
    most_shot = min(sizes.most_support, pool.most)
    taken = min(pool.most, sizes.query + most_shot)
    image = draws.choose(pool.most, taken, most_way, rooms=rooms)  # [T, way, taken]
    place = torch.arange(taken, device=classes.device)
    is_query = place < (queries[:, None] * inside)[..., None]
    first = queries[:, None, None]
    is_support = (place >= first) & (place < first + shots[..., None])
    mixed = draws.uniform(most_way * taken).view_as(is_support)
    in_order = 1 - torch.arange(most_way * taken, device=classes.device).view(most_way, taken) / (
        most_way * taken
    )
    support = _picked(image, is_support, mixed, min(sizes.most_support, most_way * most_shot))
    query = _picked(image, is_query, in_order.expand_as(mixed), most_way * sizes.query)
    info = {"class": classes, "image": image, "shot": shots, "query": queries}
    return Drawn(classes, support, query, info, ways)


def _picked(image: Tensor, chosen: Tensor, priority: Tensor, most: int) -> Picked:
    """Return the chosen images of [T, way, n] by descending priority, then padding, `most` in all.

    Args:
        image: index of each image in its class, [T, way, n].
        chosen: True at chosen images, [T, way, n].
        priority: positive numbers, [T, way, n].
        most: number of examples with padding.
    """
    priority = (priority * chosen).flatten(1)
    order = priority.topk(min(most, priority.shape[1]), 1).indices
    mask = chosen.flatten(1).gather(1, order)
    label = order // image.shape[2]
    index = image.flatten(1).gather(1, order)
    return Picked(label * mask, index * mask, mask)


def noisy(label: Tensor, ways: Tensor | int, share: float, draws: Draws) -> Tensor:
    """Return labels [T, n] in which a random share is replaced by other classes of the episode."""
    is_wrong = draws.uniform(label.shape[1]) < share
    others = (ways if isinstance(ways, int) else ways[:, None]) - 1
    shift = 1 + (draws.uniform(label.shape[1]) * others).long()
    return torch.where(is_wrong, (label + shift) % (others + 1), label)
