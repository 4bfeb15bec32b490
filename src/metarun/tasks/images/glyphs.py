"""Characters of fonts: many small classes of many scripts, drawn here, so that nothing is downloaded."""

from __future__ import annotations

import hashlib
import logging
import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from threading import local
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field

from metarun.errors import ConfigError, MetarunError, in_one_line
from metarun.fields import Seed
from metarun.system.files import found
from metarun.system.randomness import Seeding, Streams
from metarun.tasks.division import Shares, check_shares, divided
from metarun.tasks.draws import Draws
from metarun.tasks.images.decoding import Look
from metarun.tasks.images.named import NamedClasses
from metarun.tasks.images.pool import Pool
from metarun.tasks.types import SPLITS, Split

_FONTS = (".ttf", ".otf", ".ttc")
_LETTERS = ("Ll", "Lu", "Lo")  # Unicode's categories
_FEWEST = 5  # characters of a script
_SIDE = 96  # height and width of a drawing in pixels, before it is resized
_STREAM = 100  # of draws; streams of episodes have lower numbers
_VERSION = 1  # increased whenever the same fonts would give other pixels


@dataclass(frozen=True)
class Glyph:
    """A character, and the fonts that have it."""

    character: str
    fonts: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Unicode's name, as in GREEK SMALL LETTER ALPHA."""
        return unicodedata.name(self.character)

    @property
    def script(self) -> str:
        """The first word of the name, as in GREEK."""
        return self.name.split()[0]


def glyphs_of(fonts: list[Path]) -> list[Glyph]:
    """Return the letters of these fonts; cached, because one command needs them several times."""
    return _read(tuple((path, path.stat().st_mtime_ns) for path in fonts))


@lru_cache(maxsize=4)
def _read(dated: tuple[tuple[Path, int], ...]) -> list[Glyph]:
    """Return the letters of these fonts, sorted by script; letters that look the same are merged.

    Accented letters and ligatures, which Unicode decomposes, are left out, as are scripts with fewer than
    five letters.

    Args:
        dated: the path and the modification time of each font file.

    Raises:
        MetarunError: fontTools is not installed, or a file is not a font.
    """
    having: dict[str, list[Path]] = {}
    for path, _ in dated:
        for code in _codes(path):
            character = chr(code)
            if unicodedata.category(character) in _LETTERS and not unicodedata.decomposition(character):
                having.setdefault(character, []).append(path)
    glyphs: list[Glyph] = []
    seen: set[bytes] = set()
    for character in sorted(having):
        drawn = _outline(having[character][0], character)
        look = drawn.tobytes() + bytes(str(drawn.size), "ascii")
        if unicodedata.name(character, "") and drawn.getbbox() and look not in seen:
            seen.add(look)
            glyphs.append(Glyph(character, tuple(having[character])))
    scripts = [glyph.script for glyph in glyphs]
    kept = [glyph for glyph in glyphs if scripts.count(glyph.script) >= _FEWEST]
    return sorted(kept, key=lambda glyph: (glyph.script, glyph.character))


def _codes(path: Path) -> list[int]:
    try:
        from fontTools.ttLib import TTFont
    except ImportError as error:
        raise MetarunError("data=glyphs needs fontTools: pip install 'metarun[glyphs]'") from error
    logging.getLogger("fontTools").setLevel(logging.CRITICAL)  # an error is reported in one line instead
    try:
        with TTFont(path, lazy=True, fontNumber=0) as font:
            return sorted(font.getBestCmap() or {})
    except Exception as error:  # fontTools raises many types of errors on damaged files
        raise MetarunError(f"{path} is no font that can be read ({in_one_line(error)[:100]})") from error


def _outline(path: Path, character: str) -> Image.Image:
    try:
        return _drawn(ImageFont.truetype(str(path), 32), character)
    except OSError as error:  # raised by FreeType
        raise MetarunError(f"{path} is no font that can be read ({error})") from error


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """Return the image of a character, white on black, without a margin."""
    left, top, right, bottom = (math.floor(edge) for edge in font.getbbox(character))
    image = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(image).text((-left, -top), character, 255, font)
    return image


@dataclass(frozen=True)
class Drawings:
    """`each` drawings of every glyph, as `store.Files`, with random font, turn, slant, width and offset."""

    glyphs: list[Glyph]
    each: int
    seed: int

    in_order = False

    @cached_property
    def _draws(self) -> NDArray[np.float64]:
        """Uniform random numbers for font, angle, slant, width and offset of each drawing, [n, 6]."""
        draws: NDArray[np.float64] = Draws(self.seed, _STREAM, 0, len(self)).uniform(6).numpy()
        return draws

    def __len__(self) -> int:
        """Return the number of drawings."""
        return len(self.glyphs) * self.each

    def fingerprint(self) -> str:
        """Return a digest of the fonts, the characters and the seed."""
        digest = hashlib.sha256(f"{_VERSION} {self.each} {self.seed}".encode())
        for path in sorted({path for glyph in self.glyphs for path in glyph.fonts}):
            digest.update(
                path.name.encode("utf-8", "surrogateescape") + hashlib.sha256(path.read_bytes()).digest()
            )
        for glyph in self.glyphs:
            digest.update(f"{glyph.character}{len(glyph.fonts)}".encode())
        return digest.hexdigest()

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return a drawing, uint8 [side, side, 3]."""
        glyph = self.glyphs[index // self.each]
        which, turn, slant, wide, across, down = self._draws[index].tolist()
        path = glyph.fonts[int(which * len(glyph.fonts))]
        drawn = _drawn(self._font(path), glyph.character)
        # The affine map from a pixel of the result to a pixel of the drawing: rotation up to 10°, slant up
        # to 0.2, relative width 0.8 to 1.25, offset from the middle up to 4 %.
        angle, shear = math.radians(20 * turn - 10), 0.4 * slant - 0.2
        scale = max(drawn.size) / (0.8 * _SIDE)
        stretch = 0.8 * (1.25 / 0.8) ** wide
        cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
        a, b, d, e = (cos + shear * sin) / stretch, (-sin + shear * cos) / stretch, sin, cos
        x, y = _SIDE * (0.5 + 0.08 * (across - 0.5)), _SIDE * (0.5 + 0.08 * (down - 0.5))
        centre = drawn.width / 2, drawn.height / 2
        matrix = (a, b, centre[0] - a * x - b * y, d, e, centre[1] - d * x - e * y)
        image = drawn.transform((_SIDE, _SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
        return np.repeat(np.asarray(image)[:, :, None], 3, 2)

    @cached_property
    def _local(self) -> local:
        return local()  # FreeType's fonts are not thread-safe

    def _font(self, path: Path) -> ImageFont.FreeTypeFont:
        fonts: dict[Path, ImageFont.FreeTypeFont] = self._local.__dict__.setdefault("fonts", {})
        if path not in fonts:
            fonts[path] = ImageFont.truetype(str(path), _SIDE)
        return fonts[path]


class Glyphs(NamedClasses):
    """Letters of fonts, white on black; a class is a letter, drawn many times.

    Args:
        fonts: a folder of .ttf, .otf or .ttc files, or one such file; None: the DejaVu fonts of matplotlib.
        split: `script`: the splits have different scripts, as with Omniglot's alphabets; `letter`: letters
            are divided at random.
        each: drawings of a letter.
        size: height and width of the images, in pixels.
        shares: of the scripts or letters, for train, validation and test.
        seed: determines the drawings, the split and the episodes.
        seeding: how the split is derived from the seed; see `Streams`.
        home: the folder that a relative path is looked up in first; then the current folder.
        **shared: way, shot, query and the other arguments of ClassEpisodes.

    Raises:
        ConfigError: there are no fonts, or too few letters or drawings for an episode.
        MetarunError: a package is missing, or a file is not a font.
    """

    unit = "drawings"
    has_shares = True

    def __init__(
        self,
        *,
        fonts: str | None = None,
        split: Literal["script", "letter"] = "script",
        each: Annotated[int, Field(ge=2, le=10_000)] = 20,
        size: Annotated[int, Field(ge=1, le=4096)] = 28,
        shares: Shares = (0.6, 0.2, 0.2),
        seed: Seed = 0,
        seeding: Seeding = "streams",
        home: str = "",
        **shared: Any,
    ) -> None:
        check_shares(shares)
        self.fonts = list(_font_files(fonts, home))
        self.drawings = Drawings(glyphs_of(self.fonts), each, seed)
        self.look = Look(size, 1, "stretch")
        self.input_shape = self.look.shape
        glyphs = self.drawings.glyphs
        scripts = sorted({glyph.script for glyph in glyphs})
        generator = Streams(seed, seeding).generator("split")
        of_unit = divided(len(scripts) if split == "script" else len(glyphs), None, shares, generator)
        places = (
            [scripts.index(glyph.script) for glyph in glyphs] if split == "script" else range(len(glyphs))
        )
        split_of = [of_unit[place] for place in places]
        self.has([glyph.name for glyph in glyphs], split_of, torch.full((len(glyphs),), each))
        super().__init__(seed=seed, **shared)

    def pools(self) -> Mapping[Split, Pool]:
        """Return each split's drawings; drawings that are not in the cache yet are made."""
        return self.drawn_pools("glyphs", self.drawings, self.look, self.drawings.each)

    def facts(self) -> dict[str, Any]:
        """Return the fonts and scripts, for `metarun data`."""
        by_split = {split: sorted({name.split()[0] for name in self.names(split)}) for split in SPLITS}
        scripts = {f"scripts, {split}": ", ".join(names) for split, names in by_split.items()}
        return {"fonts": ", ".join(path.name for path in self.fonts), **scripts}


def _font_files(fonts: str | None, home: str) -> Iterator[Path]:
    """Yield the font files.

    Raises:
        ConfigError: there are no font files.
    """
    if fonts is None:
        from metarun.tasks.packages import package_folder

        folder = package_folder("matplotlib", "glyphs", "glyphs") / "mpl-data" / "fonts" / "ttf"
        yield from sorted(path for path in folder.glob("DejaVu*.ttf") if "Display" not in path.name)
        return
    path = found(fonts, home)
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    files = [file for file in files if file.suffix.lower() in _FONTS and file.is_file()]
    if not files:
        raise ConfigError(
            f"@source.fonts={fonts}: no {', '.join(_FONTS)} is there",
            "@source.fonts=FOLDER, or a font's file",
        )
    yield from files
