"""Image files to uint8 arrays of one size, or the reason why one is left out."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

Fit = Literal["crop", "stretch", "pad"]
Channels = Literal[1, 3]

# Twice the limit of Pillow's own warning: a small file may be decoded to an image that fills the memory.
_MOST_PIXELS = 178_956_970
# Pillow's modes for grey values of more than 8 bits, which it would clip at 255.
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


class LeftOutError(Exception):
    """An image that is not used; the message says why."""


@dataclass(frozen=True)
class Look:
    """How images are stored.

    Attributes:
        size: height and width in pixels.
        channels: 1 (grey) or 3 (red, green and blue).
        fit: how a picture is made square: `crop` its middle, `stretch` it, or `pad` it with black.
    """

    size: int
    channels: Channels = 3
    fit: Fit = "crop"

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a stored image, [channels, height, width]."""
        return self.channels, self.size, self.size


def decode(content: bytes | NDArray[np.uint8], look: Look) -> NDArray[np.uint8]:
    """Return an image as uint8 [channels, size, size], from a file's content or pixels [height, width, 3].

    Transparent parts become white, and a photograph is rotated by its EXIF orientation.

    Raises:
        LeftOutError: the file is empty, damaged, animated, too large, or in colours that cannot be converted.
    """
    if not isinstance(content, bytes):
        return _stored(Image.fromarray(content), look)
    if not content:
        raise LeftOutError("an empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata, and about sizes, which are checked here
            with Image.open(io.BytesIO(content)) as image:
                _check(image)
                image.draft("RGB" if look.channels == 3 else "L", (2 * look.size, 2 * look.size))
                image.load()
                return _stored(image, look)
    except Image.DecompressionBombError as error:
        raise LeftOutError(f"more than {_MOST_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise LeftOutError("no image that Pillow can read") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise errors of any type on damaged files
        if isinstance(error, LeftOutError):
            raise
        why = " ".join(str(error).split())[:80] or type(error).__name__
        raise LeftOutError(f"damaged ({why})") from error


def _check(image: ImageFile.ImageFile) -> None:
    if image.width * image.height > _MOST_PIXELS:
        raise LeftOutError(f"more than {_MOST_PIXELS:,} pixels")
    if getattr(image, "n_frames", 1) > 1:
        raise LeftOutError("animated, or of several pages")
    if image.mode == "CMYK":
        raise LeftOutError("in CMYK: convert it to RGB")
    if image.mode in _DEEP:
        raise LeftOutError("of 16 or more bits: convert it to 8")


def opaque(image: Image.Image) -> Image.Image:
    """Return an image whose transparent parts are white."""
    if not image.has_transparency_data:
        return image
    with_alpha = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", with_alpha.size, "white"), with_alpha)


def _stored(image: Image.Image, look: Look) -> NDArray[np.uint8]:
    turned = opaque(ImageOps.exif_transpose(image))
    plain = turned.convert("RGB" if look.channels == 3 else "L")
    size, filter_ = (look.size, look.size), Image.Resampling.LANCZOS
    if look.fit == "crop":
        plain = ImageOps.fit(plain, size, filter_)
    elif look.fit == "pad":
        plain = ImageOps.pad(plain, size, filter_)
    else:
        plain = plain.resize(size, filter_)
    pixels = np.asarray(plain, dtype=np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if look.channels == 3 else pixels[None])
