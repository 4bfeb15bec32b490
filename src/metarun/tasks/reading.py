"""Convert a user's own examples to inputs like those of a run's training."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from metarun.errors import ConfigError
from metarun.tasks.arrays.columns import Column
from metarun.tasks.arrays.rows import Inputs
from metarun.tasks.arrays.scaling import Scaling, scaled
from metarun.tasks.images.decoding import Look, decode, opaque
from metarun.tasks.types import TaskSource

_GREY = ("1", "L", "LA", "I", "F")


@dataclass(frozen=True)
class ImageReading:
    """Decodes images as in training.

    Attributes:
        look: size, channels, and how a picture is made square.
        ink: whether grey values are inverted, from dark ink on light paper to light on dark, as for Omniglot.
        nearest: whether images are resized to the nearest pixel, as Omniglot's drawings may be.
    """

    look: Look
    ink: bool = False
    nearest: bool = False

    kind: ClassVar[str] = "images"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an input."""
        return self.look.shape

    def read(self, content: bytes) -> Tensor:
        """Decode an image from a file's content, as uint8 [channels, size, size].

        Raises:
            LeftOutError: the image cannot be used.
        """
        pixels = self._nearest(content) if self.nearest else decode(content, self.look)
        return torch.from_numpy(np.subtract(255, pixels, dtype=np.uint8) if self.ink else pixels.copy())

    def _nearest(self, content: bytes) -> NDArray[np.uint8]:
        decode(content, self.look)  # raises LeftOutError with the reason if the image cannot be used
        with Image.open(io.BytesIO(content)) as image:
            grey = opaque(ImageOps.exif_transpose(image)).convert("L")
            small = grey.resize((self.look.size, self.look.size), Image.Resampling.NEAREST)
        return np.array(small, dtype=np.uint8)[None]

    def arrays(self, values: NDArray[Any]) -> Tensor:
        """Convert arrays of images to inputs [n, channels, size, size], uint8 or floats from 0 to 1.

        Unlike `read`, this does not invert grey values: arrays must look like the network's inputs.

        Args:
            values: [n, channels, size, size], [n, size, size, channels], or [n, size, size] with one channel.

        Raises:
            ConfigError: the arrays have another shape, or values outside 0 … 255 or 0 … 1.
        """
        channels, size, _ = self.shape
        shape = values.shape[1:]
        if shape == (size, size, channels):
            values = values.transpose(0, 3, 1, 2)
        elif shape == (size, size) and channels == 1:
            values = values[:, None]
        elif shape != self.shape:
            raise ConfigError(
                f"images are {list(values.shape)}, and the run was trained on [n, {channels}, {size}, {size}]"
            )
        if values.dtype.kind in "iu":
            return torch.from_numpy(np.ascontiguousarray(as_bytes("images", values)))
        are_shares = values.dtype.kind == "f" and bool(((values >= 0) & (values <= 1)).all())  # not NaN
        if not are_shares:
            raise ConfigError(f"images are {values.dtype}: expected uint8, or numbers from 0 to 1")
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))

    def told(self, content: bytes) -> str:
        """Return how the colours of a readable image are converted, for users; empty: not at all."""
        with Image.open(io.BytesIO(content)) as image:
            is_grey = image.mode in _GREY or image.mode.startswith("I;")
        if self.look.channels == 1 and not is_grey:
            return "colour made grey"
        return "grey made of three equal channels" if self.look.channels == 3 and is_grey else ""

    def plain(self) -> dict[str, Any]:
        """Return the reading as plain values for a file."""
        return {"kind": self.kind, **asdict(self.look), "ink": self.ink, "nearest": self.nearest}


@dataclass(frozen=True)
class RowReading:
    """Encodes and scales rows of numbers as in training.

    Attributes:
        shape: shape of an input.
        inputs: the columns that are inputs.
        target: the column of labels or targets.
        scaling: scaling of the inputs; None: no scaling, or uint8 read as 0 to 1.
        of_targets: scaling of the targets, if they are numbers.
        of_bytes: whether inputs in training are uint8, read as 0 to 1.
    """

    shape: tuple[int, ...]
    inputs: Inputs
    target: str = "y"
    scaling: Scaling | None = None
    of_targets: Scaling | None = None
    of_bytes: bool = False

    kind: ClassVar[str] = "rows"

    def read(self, path: Path, columns: Mapping[str, Column], dtype: torch.dtype) -> Tensor:
        """Return the inputs of a file, [n, *shape].

        Raises:
            ConfigError: a column is missing, or has another shape.
        """
        found = self.inputs.of(path, columns)
        if found.shape[1:] != self.shape:
            raise ConfigError(
                f"{path}: inputs are {list(found.shape[1:])}, and the run was trained on {list(self.shape)}"
            )
        if self.of_bytes and found.dtype != np.uint8:
            found = as_bytes(f"{path}: inputs", found)
        is_kept = found.dtype == np.uint8 or self.scaling is not None
        return scaled(found, self.scaling, dtype) if is_kept else _plain(found, dtype)

    def plain(self) -> dict[str, Any]:
        """Return the reading as plain values for a file."""
        return {
            "kind": self.kind,
            "shape": list(self.shape),
            "columns": self.inputs.columns,
            "kinds": dict(self.inputs.kinds),
            "target": self.target,
            "scaling": None if self.scaling is None else self.scaling.plain(),
            "of_targets": None if self.of_targets is None else self.of_targets.plain(),
            "of_bytes": self.of_bytes,
        }


Reading = ImageReading | RowReading


def reading_of(source: TaskSource) -> Reading:
    """Return how examples become a source's inputs: its `reading`, else one by the shape of its inputs."""
    said = getattr(source, "reading", None)
    if said is not None:
        found: Reading = said()
        return found
    shape = tuple(source.input_shape)
    if len(shape) == 3 and shape[0] in (1, 3) and shape[1] == shape[2]:
        return ImageReading(Look(shape[1], shape[0], "stretch"))  # type: ignore[arg-type]
    return RowReading(shape, Inputs(["x"]))


def reading_from(plain: Mapping[str, Any]) -> Reading:
    """Return the reading that `plain()` has written."""
    if plain["kind"] == ImageReading.kind:
        look = Look(plain["size"], plain["channels"], plain["fit"])
        return ImageReading(look, plain["ink"], plain["nearest"])
    scaling, of_targets = (
        None if plain[name] is None else Scaling.of(plain[name]) for name in ("scaling", "of_targets")
    )
    inputs = Inputs(list(plain["columns"]), dict(plain["kinds"]))
    shape, of_bytes = tuple(plain["shape"]), bool(plain["of_bytes"])
    return RowReading(shape, inputs, plain["target"], scaling, of_targets, of_bytes)


def as_bytes(what: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert whole numbers from 0 to 255 to uint8.

    Args:
        what: the name of the values in messages.
        values: the numbers.

    Raises:
        ConfigError: there are other numbers.
    """
    result: NDArray[np.uint8] = np.asarray(values).clip(0, 255).astype(np.uint8)
    if not (result == values).all():
        raise ConfigError(f"{what} have other numbers than 0, 1, … 255, which the training's have")
    return result


def _plain(values: NDArray[Any], dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values)).to(dtype)
