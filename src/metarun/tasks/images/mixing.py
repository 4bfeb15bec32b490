"""Mixing of pairs of training images and of their labels: MixUp and CutMix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.tasks.draws import Draws
from metarun.tasks.types import Examples

Mixing = Literal["mixup", "cutmix"]
MIXING: tuple[Mixing, ...] = ("mixup", "cutmix")


def mixed(
    examples: Examples, classes: int, kinds: Sequence[Mixing], concentration: int, draws: Draws
) -> Examples:
    """Return images mixed with a random other image of the mini-batch; y is then the share of each class.

    With λ ~ Beta(α, α) for each image, mixup gives λ x + (1 − λ) x′ (Zhang, Cisse, Dauphin & Lopez-Paz 2018,
    arXiv:1710.09412, equation 1). cutmix replaces a box of x by that of x′: its sides are √(1 − λ) of the
    image's, its centre is uniform, and it is cut off at the edges; λ is then the share of x that is left (Yun
    et al. 2019, arXiv:1905.04899, equations 1 and 2). Labels are mixed with λ. With both kinds, each image
    gets one of them at random.

    Args:
        examples: images [T, n, channels, height, width] and their classes, int64 [T, n].
        classes: number of classes.
        kinds: mixup, cutmix or both.
        concentration: α, a whole number: a Gamma(α) variable is then a sum of α exponential ones.
        draws: random numbers of T mini-batches.

    Returns:
        The images, and the shares [T, n, classes].
    """
    x, y = examples.x, examples.y
    n = x.shape[1]
    partner = draws.choose(n, n)  # [T, n]
    gammas = -torch.log1p(-draws.uniform(n, 2, concentration)).sum(-1)
    share = gammas[..., 0] / gammas.sum(-1)  # λ, [T, n]
    place, coin = draws.uniform(n, 2), draws.uniform(n)
    other = x.gather(1, partner[..., None, None, None].expand_as(x))
    inside = _boxes(share, place, x.shape[3], x.shape[4])
    cut = torch.where(inside[:, :, None], other, x)
    left = 1 - inside.to(share.dtype).mean((2, 3))
    soft = share[..., None, None, None].to(x.dtype)
    blended = soft * x + (1 - soft) * other
    is_cut = coin < 0.5 if len(kinds) == 2 else torch.full_like(coin, "cutmix" in kinds, dtype=torch.bool)
    x = torch.where(is_cut[..., None, None, None], cut, blended)
    share = torch.where(is_cut, left, share)[..., None].to(x.dtype)
    own = F.one_hot(y, classes).to(x.dtype)
    shares = share * own + (1 - share) * own.gather(1, partner[..., None].expand_as(own))
    return Examples(x, shares)


def _boxes(share: Tensor, place: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels are in each image's box, bool [T, n, height, width]."""
    side = (1 - share).sqrt()

    def along(size: int, middle: Tensor) -> Tensor:
        centre, half = (middle * size).floor(), (side * size).floor() / 2
        pixel = torch.arange(size, device=side.device)
        first, last = (centre - half).floor(), (centre + half).floor()
        return (pixel >= first[..., None]) & (pixel < last[..., None])

    return along(height, place[..., 0])[..., None] & along(width, place[..., 1])[:, :, None]
