"""Images that are drawn here: letters of fonts, and pairs of digits or characters."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metarun.errors import ConfigError, MetarunError
from metarun.tasks import SPLITS
from metarun.tasks.arrays.packages import mnist_digits
from metarun.tasks.images.glyphs import Drawings, Glyphs, glyphs_of
from metarun.tasks.images.pairs import Compositions, DoubleDigits
from metarun.tasks.packages import package_folder

SIZES: dict[str, Any] = {"way": 3, "shot": 1, "query": 2}
FONTS = package_folder("matplotlib", "glyphs", "glyphs") / "mpl-data" / "fonts" / "ttf"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))


def test_letters_are_of_other_scripts_at_test_and_look_like_no_other() -> None:
    source = Glyphs(**SIZES, fonts=str(FONTS / "DejaVuSansMono.ttf"), each=4)
    scripts = [{name.split()[0] for name in source.names(split)} for split in SPLITS]
    assert all(scripts)
    assert sum(map(len, scripts)) == len(set().union(*scripts))
    names = [name for split in SPLITS for name in source.names(split)]
    assert len(set(names)) == len(names) > 500
    # A, Alpha and the Cyrillic A have one outline.
    alike = ["LATIN CAPITAL LETTER A", "GREEK CAPITAL LETTER ALPHA", "CYRILLIC CAPITAL LETTER A"]
    assert sum(name in names for name in alike) == 1
    assert not any(unicodedata.decomposition(unicodedata.lookup(name)) for name in names)
    assert source.images("test") == 4 * source.classes("test")


def test_drawings_differ_are_upright_and_white_on_black() -> None:
    glyphs = glyphs_of([FONTS / "DejaVuSans.ttf", FONTS / "DejaVuSerif.ttf"])
    drawings = Drawings(glyphs, 3, seed=0)
    place = next(i for i, glyph in enumerate(glyphs) if glyph.name == "LATIN CAPITAL LETTER L")
    same = [drawings.read(3 * place + k)[..., 0] for k in range(3)]
    assert len({each.tobytes() for each in same}) == 3
    for each in same:
        ink = each > 128
        assert 0.02 < ink.mean() < 0.5
        assert each[0].max() == each[-1].max() == 0  # nothing is cut off
        rows, columns = np.nonzero(ink)
        assert (
            ink[rows.min() : rows.min() + 10].sum() < ink[rows.max() - 10 : rows.max()].sum()
        )  # an L's foot
        assert 20 < columns.max() - columns.min() < 90
    assert np.array_equal(drawings.read(3 * place), Drawings(glyphs, 3, seed=0).read(3 * place))
    assert not np.array_equal(drawings.read(3 * place), Drawings(glyphs, 3, seed=1).read(3 * place))


def test_letters_at_random_and_other_fonts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fonts=.*: no \.ttf, \.otf, \.ttc is there"):
        Glyphs(**SIZES, fonts=str(tmp_path))
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    with pytest.raises(MetarunError, match=r"broken\.ttf is no font that can be read"):
        Glyphs(**SIZES, fonts=str(tmp_path))
    (tmp_path / "broken.ttf").unlink()
    content = bytearray((FONTS / "cmmi10.ttf").read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    (tmp_path / "cut.ttf").write_bytes(content)
    with pytest.raises(MetarunError, match=r"cut\.ttf is no font that can be read"):
        Glyphs(**SIZES, fonts=str(tmp_path))
    source = Glyphs(**SIZES, fonts=str(FONTS / "cmmi10.ttf"), each=4, split="letter")
    counts = [source.classes(split) for split in SPLITS]
    assert counts[0] == pytest.approx(0.6 * sum(counts), abs=1)
    tasks = source.batch("test", 0, 2)
    assert torch.equal(
        tasks.query.x,
        Glyphs(**SIZES, fonts=str(FONTS / "cmmi10.ttf"), each=4, split="letter").batch("test", 0, 2).query.x,
    )


def test_the_numbers_are_divided_as_published_and_show_their_digits() -> None:
    source = DoubleDigits(**SIZES, each=3)
    assert [source.classes(split) for split in SPLITS] == [64, 16, 20]
    assert source.names("validation")[:3] == ["03", "07", "10"]
    assert source.names("test")[-2:] == ["92", "96"]
    _, images, digits = mnist_digits("double_digits")
    parts = [images[digits == digit] for digit in range(10)]
    files = Compositions(parts, [(3, 7), (0, 0)], 5, seed=0)
    picture = files.read(2)[..., 0]
    assert picture.shape == (64, 64)
    for side, digit in enumerate((3, 7)):
        half = picture[:, 32 * side : 32 * side + 32]
        windows = [half[y : y + 28, x : x + 28] for y in range(37) for x in range(5)]
        known = {each.tobytes() for each in parts[digit]}
        assert any(window.tobytes() in known for window in windows)
    assert len({files.read(k).tobytes() for k in range(10)}) == 10
    x = source.batch("test", 0, 2).support.x
    assert x.shape == (2, 3, 1, 64, 64)
    assert x.max() == 1


def test_pairs_of_characters_are_of_one_split(omniglot_root: Path) -> None:
    source = DoubleDigits(**SIZES, of="omniglot", root=str(omniglot_root), each=3, size=32)
    assert [source.classes(split) for split in SPLITS] == [640, 160, 200]
    members = {
        split: {int(part) for name in source.names(split) for part in name.split(" and ")} for split in SPLITS
    }
    assert sum(map(len, members.values())) == len(set().union(*members.values()))
    assert all(left != right for left, right in source._pairs)
    assert len(set(source._pairs)) == 1000
    assert source.batch("train", 0, 1).query.x.shape == (1, 6, 1, 32, 32)


def test_fewer_drawings_than_an_episode_needs_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"0 classes of 64 with 3 images or more: .*smaller shot and query"):
        DoubleDigits(**SIZES, each=2)
