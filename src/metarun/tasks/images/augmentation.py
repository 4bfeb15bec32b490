"""Random changes of training images: flips, crops and colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.tasks.draws import Draws

Change = Literal["flip", "crop", "colour"]

# Brightness, contrast and saturation change by up to 40 % (Chen et al. 2019, arXiv:1904.04232, appendix A1).
_STRENGTH = 0.4
# Lee et al. 2019 (arXiv:1904.03758, section 4.1) crop 84 pixels from an image padded by 8 on each side.
_PADDING = 8 / 84
_GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue (ITU-R BT.601)


def augment(x: Tensor, changes: Sequence[str], draws: Draws) -> Tensor:
    """Return augmented images; every image has random numbers of its own.

    Args:
        x: [T, n, channels, height, width], from 0 to 1.
        changes: flip (left to right, half of the images), crop (from the image padded by zeros) and colour
            (brightness, contrast and, with three channels, saturation), applied in this order. Other names
            have no effect here.
        draws: random numbers of T tasks.
    """
    for name in ("flip", "crop", "colour"):
        uniform = draws.uniform(x.shape[1], 3).to(x.dtype)  # drawn even for changes that are not requested
        if name in changes:
            x = _CHANGES[name](x.flatten(0, 1), uniform.flatten(0, 1)).view(x.shape)
    return x


def _flip(x: Tensor, uniform: Tensor) -> Tensor:
    return torch.where(uniform[:, 0, None, None, None] < 0.5, x.flip(3), x)


def _crop(x: Tensor, uniform: Tensor) -> Tensor:
    height, width = x.shape[2:]
    top, left = (max(1, round(_PADDING * size)) for size in (height, width))
    padded = F.pad(x, (left, left, top, top))
    place = torch.arange(len(x), device=x.device)[:, None, None]
    rows = (uniform[:, 0] * (2 * top + 1)).long()[:, None] + torch.arange(height, device=x.device)
    columns = (uniform[:, 1] * (2 * left + 1)).long()[:, None] + torch.arange(width, device=x.device)
    # Indexing puts the indexed dimensions first: [n, height, width, channels].
    return padded[place, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def _colour(x: Tensor, uniform: Tensor) -> Tensor:
    brightness, contrast, saturation = (1 + _STRENGTH * (2 * uniform - 1))[..., None, None, None].unbind(1)
    x = (x * brightness).clamp(0, 1)
    x = _mix(_grey(x).mean((1, 2, 3), keepdim=True), x, contrast)
    return _mix(_grey(x), x, saturation) if x.shape[1] == 3 else x


def _mix(start: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    return (start + factor * (x - start)).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor(_GREY)[:, None, None]).sum(1, keepdim=True)


_CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"flip": _flip, "crop": _crop, "colour": _colour}
