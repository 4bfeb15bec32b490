"""Image files that a user may have, good ones and others."""

from __future__ import annotations

import csv
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 12
SPECIES, COLOURS = 12, ("red", "green", "blue")


def pixels(seed: int, side: int = SIDE, channels: int = 3) -> np.ndarray:
    """uint8 [side, side, channels], or [side, side] with one channel."""
    shape = (side, side, channels) if channels > 1 else (side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def class_folders(root: Path, counts: dict[str, int], side: int = SIDE) -> Path:
    """A folder for each class with so many pictures of noise."""
    for number, (name, count) in enumerate(counts.items()):
        for i in range(count):
            write(root / name / f"{i:03}.png", encoded(pixels(1000 * number + i, side)))
    return root


def huge_png() -> bytes:
    """A few bytes that say that they hold 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def animated_gif() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(pixels(i)) for i in range(3)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def in_mode(mode: str, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(0)).convert("RGB" if mode == "CMYK" else "L").convert(mode).save(buffer, form)
    return buffer.getvalue()


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Name → content, and what is said of it."""
    good = encoded(pixels(0, 64))
    deep = io.BytesIO()
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(deep, "PNG")
    return {
        "empty.png": (b"", "an empty file"),
        "cut.png": (good[: len(good) // 2], "damaged"),
        "cut.jpg": (encoded(pixels(0, 64), "JPEG")[:700], "damaged"),
        "text.png": (b"no picture at all", "no image that Pillow can read"),
        "ink.jpg": (in_mode("CMYK", "JPEG"), "in CMYK"),
        "deep.png": (deep.getvalue(), "of 16 or more bits"),
        "floats.tiff": (in_mode("F", "TIFF"), "of 16 or more bits"),
        "moving.gif": (animated_gif(), "animated"),
        "bomb.png": (huge_png(), "more than 178,956,970 pixels"),
        "noise.png": (good[:60] + bytes(200) + good[260:], "damaged"),
    }


def labelled_twice(
    folder: Path, names: tuple[str, ...] = ("path", "species", "colour")
) -> dict[bytes, tuple[str, str]]:
    """A csv of 72 pictures with two labels, some without the second; pixels → the labels."""
    rows, of_pixels = [], {}
    for i in range(6 * SPECIES):
        species, colour = f"kind {i % SPECIES:02}", "" if i % 10 == 0 else COLOURS[i // SPECIES % 3]
        write(folder / "images" / f"{i:03}.png", encoded(pixels(i, 8)))
        rows.append([f"images/{i:03}.png", species, colour])
        of_pixels[pixels(i, 8).transpose(2, 0, 1).tobytes()] = (species, colour)
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return of_pixels


def album(folder: Path) -> None:
    """A set of Meta-Album: the same pictures."""
    labelled_twice(folder, ("FILE_NAME", "CATEGORY", "SUPER_CATEGORY"))
    text = (folder / "list.csv").read_text().replace("images/", "").replace(",\n", ",NAN\n")
    (folder / "labels.csv").write_text(text)
    (folder / "list.csv").unlink()
    (folder / "info.json").write_text("{}")


def medical_images(path: Path, channels: int, labels: int, each: int = 6) -> dict[str, np.ndarray]:
    """NAME.npz as the authors write it."""
    content = {}
    shape = (28, 28, 3) if channels == 3 else (28, 28)
    for number, (part, count) in enumerate((("train", each), ("val", each // 2), ("test", each // 2))):
        generator = np.random.default_rng(number)
        content[f"{part}_images"] = generator.integers(0, 256, (labels * count, *shape), dtype=np.uint8)
        content[f"{part}_labels"] = (np.arange(labels * count) % labels)[:, None].astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **content)
    return content
