"""A picture of a few episodes: support images above query images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from metarun.tasks import Tasks

_GAP, _SIDE = 4, 64
_PAPER, _INK, _QUERY = (255, 255, 255), (40, 40, 40), (225, 232, 245)
_LONGEST = 12  # characters of a class's name


def picture(tasks: Tasks, names: Sequence[str] = (), most_queries: int = 5) -> Image.Image:
    """Return the episodes one below another, a column for each class: its name, support and query images.

    Args:
        tasks: with images [channels, height, width] from 0 to 1, of one or three channels.
        names: of all classes, which `tasks.info["class"]` numbers.
        most_queries: query images of a class that are shown.
    """
    episodes = [_episode(tasks.part(slice(i, i + 1)), names, most_queries) for i in range(len(tasks))]
    width = max(image.width for image in episodes)
    sheet = Image.new("RGB", (width, sum(image.height + 3 * _GAP for image in episodes)), _PAPER)
    top = 0
    for image in episodes:
        sheet.paste(image, (0, top))
        top += image.height + 3 * _GAP
    return sheet


def sheet(images: Sequence[Tensor], captions: Sequence[Sequence[str]], columns: int = 5) -> Image.Image:
    """Return images in rows, each with its caption of a few short lines below it.

    Args:
        images: [channels, height, width] from 0 to 1, of one or three channels.
        captions: of each image, the same number of lines.
        columns: images of a row.
    """
    line, side = 12, 2 * _SIDE
    step, height = side + 2 * _GAP, side + line * max(map(len, captions), default=0) + 3 * _GAP
    rows = -(-len(images) // columns)
    whole = Image.new("RGB", (step * min(columns, len(images)) + _GAP, height * rows + _GAP), _PAPER)
    draw = ImageDraw.Draw(whole)
    for place, (image, texts) in enumerate(zip(images, captions, strict=True)):
        left, top = _GAP + step * (place % columns), _GAP + height * (place // columns)
        whole.paste(_thumbnail(image).resize((side, side), Image.Resampling.NEAREST), (left, top))
        for number, text in enumerate(texts):
            short = text if len(text) <= 2 * _LONGEST else f"…{text[1 - 2 * _LONGEST :]}"
            place_of = (left, top + side + 2 + line * number)
            draw.text(place_of, short, fill=_INK, font=ImageFont.load_default(10))
    return whole


def _episode(tasks: Tasks, names: Sequence[str], most_queries: int) -> Image.Image:
    support, query = (_by_class(examples.x[0], examples.y[0]) for examples in (tasks.support, tasks.query))
    classes = sorted(support.keys() | query.keys())
    rows = [max((len(part.get(c, ())) for c in classes), default=0) for part in (support, query)]
    rows[1] = min(rows[1], most_queries)
    step, heading = _SIDE + _GAP, 16 if names else 0
    sheet = Image.new("RGB", (_GAP + step * len(classes), heading + step * sum(rows) + 2 * _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    below = heading + rows[0] * step + _GAP
    draw.rectangle((0, below, sheet.width, sheet.height), fill=_QUERY)
    for column, c in enumerate(classes):
        left = _GAP + column * step
        if names:
            name = names[int(tasks.info["class"][0, c]) % len(names)]
            short = name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
            draw.text((left, 2), short, fill=_INK, font=ImageFont.load_default(10))
        for part, top, most in ((support, heading + _GAP, rows[0]), (query, below + _GAP, rows[1])):
            for row, x in enumerate(part.get(c, [])[:most]):
                sheet.paste(_thumbnail(x), (left, top + row * step))
    return sheet


def _by_class(x: Tensor, y: Tensor) -> dict[int, list[Tensor]]:
    found: dict[int, list[Tensor]] = {}
    for image, label in zip(x, y.tolist(), strict=True):
        found.setdefault(label, []).append(image)
    return found


def _thumbnail(x: Tensor) -> Image.Image:
    pixels = (x.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(array).convert("RGB")
    # Small images stay sharp: pixels are repeated.
    small = max(image.size) <= _SIDE // 2
    return image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
