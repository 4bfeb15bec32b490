"""Image files to pixels: every kind that Pillow reads, or the reason why it is left out."""

from __future__ import annotations

import io

import numpy as np
import pytest
from picture_files import SIDE, bad_files, encoded, pixels
from PIL import Image

from metarun.tasks.images.decoding import Fit, LeftOutError, Look, decode

LOOK = Look(SIDE)


@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True}), ("TGA", {})],
)
def test_a_picture_of_the_right_size_keeps_its_pixels(form: str, options: dict[str, object]) -> None:
    array = pixels(1)
    assert np.array_equal(decode(encoded(array, form, **options), LOOK), array.transpose(2, 0, 1))


def test_a_photograph_comes_out_much_the_same() -> None:
    smooth = np.linspace(0, 255, 64, dtype=np.uint8)[:, None, None] + np.zeros((1, 64, 3), np.uint8)
    found = decode(encoded(smooth, "JPEG", quality=95), Look(16))
    expected = smooth.reshape(16, 4, 16, 4, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(found - expected).max() < 4


def test_grey_is_the_luma_and_colour_of_grey_is_grey() -> None:
    array = pixels(2)
    luma = array @ np.array([299, 587, 114]) / 1000
    assert np.abs(decode(encoded(array), Look(SIDE, 1))[0] - luma).max() <= 1
    grey = pixels(2, channels=1)
    assert np.array_equal(decode(encoded(grey), LOOK), np.stack([grey] * 3))


def test_palettes_and_single_bits_are_colours() -> None:
    one_bit = pixels(3, channels=1) > 127
    for mode in ("1", "P"):
        buffer = io.BytesIO()
        Image.fromarray(one_bit).convert(mode).save(buffer, "PNG")
        assert np.array_equal(decode(buffer.getvalue(), Look(SIDE, 1))[0], np.where(one_bit, 255, 0))


def test_what_is_transparent_is_white() -> None:
    array = pixels(4, channels=4)
    array[..., 3] = 0
    array[0, 0] = (10, 20, 30, 255)
    found = decode(encoded(array), LOOK)
    assert found[:, 0, 0].tolist() == [10, 20, 30]
    assert (found[:, 1:] == 255).all()


def test_a_photograph_is_turned_as_its_camera_was_held() -> None:
    array = pixels(5)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90° to the right
    found = decode(encoded(array, "PNG", exif=exif), LOOK)
    assert np.array_equal(found, np.rot90(array, -1).transpose(2, 0, 1))


@pytest.mark.parametrize(("fit", "left"), [("crop", 60), ("stretch", 0), ("pad", 0)])
def test_a_wide_picture_becomes_square(fit: Fit, left: int) -> None:
    wide = np.zeros((40, 160), np.uint8)
    wide[:, left : left + 20] = 255  # in the middle: in what is cropped, its left half
    found = decode(encoded(wide), Look(40, 1, fit))[0]
    if fit == "crop":
        assert (found[:, :20] == 255).all()
        assert (found[:, 20:] == 0).all()
    elif fit == "stretch":
        assert (found[:, :4] > 200).all()
        assert (found[:, 7:] < 30).all()
    else:
        assert (found[:14] == 0).all()
        assert (found[17:23, :4] > 200).all()


@pytest.mark.parametrize("name", bad_files())
def test_what_cannot_be_used_says_why(name: str) -> None:
    content, why = bad_files()[name]
    with pytest.raises(LeftOutError, match=why):
        decode(content, LOOK)
