"""Omniglot: splits and rotations on the real archives, and what is said of wrong ones."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from metarun.errors import MetarunError
from metarun.tasks import Omniglot
from metarun.tasks.images import omniglot_images
from metarun.tasks.images.omniglot_images import load_images


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_images_are_the_drawings(omniglot_root: Path, shared_cache: Path) -> None:
    images = load_images(omniglot_root)
    assert images.shape == (1623, 20, 28, 28)
    assert images.dtype == torch.uint8
    # Checked drawing by drawing against the archive, at places spread over both sets.
    for name, first, step in (("images_background", 0, 317), ("images_evaluation", 964, 211)):
        with zipfile.ZipFile(omniglot_root / "omniglot" / f"{name}.zip") as archive:
            names = sorted(n for n in archive.namelist() if n.endswith(".png"))
            for index in range(0, len(names), step * 20 + 7):
                drawing = Image.open(io.BytesIO(archive.read(names[index]))).convert("L")
                small = drawing.resize((28, 28), Image.Resampling.LANCZOS)
                expected = 255 - torch.tensor(list(small.tobytes()), dtype=torch.uint8).view(28, 28)
                assert torch.equal(images[first + index // 20, index % 20], expected)
    # Ink is 1: most of a drawing is paper, and every drawing has ink.
    assert images.float().mean() < 255 * 0.2
    assert images.amax((2, 3)).min() > 100


def test_the_nearest_pixel_is_what_pillow_makes_of_one_bit_images(
    omniglot_root: Path, shared_cache: Path
) -> None:
    images = load_images(omniglot_root, "nearest")
    assert images.unique().tolist() == [0, 255]
    with zipfile.ZipFile(omniglot_root / "omniglot" / "images_background.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".png"))
        for index in range(0, len(names), 1777):
            drawing = Image.open(io.BytesIO(archive.read(names[index])))
            assert drawing.mode == "1"
            # As MAML's resize_images.py has it: the filter is given, and not used.
            small = drawing.resize((28, 28), resample=Image.Resampling.LANCZOS).convert("L")
            expected = 255 - torch.tensor(list(small.tobytes()), dtype=torch.uint8).view(28, 28)
            assert torch.equal(images[index // 20, index % 20], expected)


@pytest.fixture
def small_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of archives like Omniglot's, of three and two characters; each drawing is another."""
    counts = {"images_background": 3, "images_evaluation": 2}
    monkeypatch.setattr(omniglot_images, "_ARCHIVES", {name: (count, "") for name, count in counts.items()})
    (tmp_path / "root").mkdir()
    for name, count in counts.items():
        with zipfile.ZipFile(tmp_path / "root" / f"{name}.zip", "w") as archive:
            for index in range(20 * count):
                drawing, png = Image.new("1", (105, 105), 1), io.BytesIO()
                drawing.paste(0, (index, 10 * count, index + 9, 10 * count + 9))
                drawing.save(png, "PNG")
                archive.writestr(f"{name}/A/character{index // 20:04}/{index:04}.png", png.getvalue())
    return tmp_path / "root"


def test_a_prepared_cache_is_read_where_nothing_can_be_written(small_root: Path, own_cache: Path) -> None:
    prepared = load_images(small_root)  # into this test's own cache
    (own_cache / "omniglot-28.lock").unlink()
    (own_cache / "omniglot-28.lock").mkdir()  # no lock can be had there
    assert torch.equal(load_images(small_root), prepared)


@pytest.mark.parametrize("split", ["random", "lake"])
def test_splits_divide_the_characters(split: str) -> None:
    source = Omniglot(way=5, shot=1, query=1, split=split, seed=3)
    parts = source.characters()
    together = torch.cat(list(parts.values()))
    assert together.sort().values.tolist() == list(range(1623))
    expected = {"random": [1100, 100, 423], "lake": [864, 100, 659]}[split]
    assert [len(part) for part in parts.values()] == expected
    if split == "lake":
        assert parts["test"].min() == 964
    other = Omniglot(way=5, shot=1, query=1, split=split, seed=4).characters()
    assert not torch.equal(parts["train"], other["train"])


@pytest.mark.parametrize(
    ("rotations", "turns"), [("all", [4, 4, 4]), ("train", [4, 1, 1]), ("none", [1, 1, 1])]
)
def test_rotations_are_classes(
    rotations: str, turns: list[int], omniglot_root: Path, shared_cache: Path
) -> None:
    source = Omniglot(way=5, shot=1, query=1, split="lake", rotations=rotations, root=str(omniglot_root))
    loaded, parts = source.load(), source.characters()
    images = load_images(omniglot_root)
    for (split, chosen), n in zip(parts.items(), turns, strict=True):
        assert len(loaded[split]) == source.classes(split) == n * len(chosen)
        for turn in range(n):
            upright = loaded[split][turn * len(chosen) + 7, 3, 0].rot90(-turn, (0, 1))
            assert torch.equal(upright, images[chosen[7], 3])


def test_no_drawing_is_in_two_splits(omniglot_root: Path, shared_cache: Path) -> None:
    source = Omniglot(way=20, shot=5, query=5, split="random", root=str(omniglot_root))
    source.prepare(torch.device("cpu"))
    drawings = {
        split: {x.numpy().tobytes() for x in source.batch(split, 0, 20).support.x.flatten(0, 1)}
        for split in ("train", "validation", "test")
    }
    assert not drawings["train"] & drawings["test"]
    assert not drawings["train"] & drawings["validation"]
    assert not drawings["validation"] & drawings["test"]


def test_a_cache_alone_will_do_and_an_older_one_is_made_again(
    small_root: Path, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = load_images(small_root)  # reads the archives into an empty cache
    assert images.shape == (5, 20, 28, 28)
    assert len({drawing.numpy().tobytes() for drawing in images.flatten(0, 1)}) == 100
    kept = own_cache / "omniglot-28.pt"
    with monkeypatch.context() as patch:
        patch.setenv("METARUN_DATA", str(tmp_path / "nothing here"))
        assert torch.equal(load_images(None), images)
    content = torch.load(kept, weights_only=True)
    torch.save({**content, "version": 0, "images": content["images"] * 0}, kept)
    assert torch.equal(load_images(small_root), images)
    assert torch.load(kept, weights_only=True)["version"] > 0
    kept.write_bytes(kept.read_bytes()[:1000])  # damaged: made again too
    assert torch.equal(load_images(small_root), images)


def write_archives(folder: Path, characters: int = 964, size: tuple[int, int] = (105, 105)) -> None:
    folder.mkdir(parents=True)
    png = io.BytesIO()
    Image.new("1", size, 1).save(png, "PNG")
    for name, count in (("images_background", characters), ("images_evaluation", 659)):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for c in range(count):
                for d in range(20):
                    archive.writestr(f"{name}/Alphabet/character{c:04}/{c:04}_{d:02}.png", png.getvalue())


@pytest.mark.parametrize("wrong", [{"characters": 963}, {"size": (28, 28)}])
def test_an_archive_that_is_not_omniglot_is_refused(
    own_cache: Path, tmp_path: Path, wrong: dict[str, int]
) -> None:
    write_archives(tmp_path / "omniglot", **wrong)
    with pytest.raises(MetarunError, match=r"images_background\.zip is not the Omniglot archive"):
        load_images(tmp_path)
    assert not (own_cache / "omniglot-28.pt").exists()


def test_a_damaged_archive_is_refused(own_cache: Path, tmp_path: Path) -> None:
    write_archives(tmp_path / "omniglot")
    archive = tmp_path / "omniglot" / "images_background.zip"
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(MetarunError, match="damaged"):
        load_images(tmp_path)


def test_archives_may_lie_in_the_root_itself_or_in_its_folder(small_root: Path, own_cache: Path) -> None:
    images = load_images(small_root)
    (own_cache / "omniglot-28.pt").unlink()
    small_root.rename(small_root.with_name("omniglot"))
    assert torch.equal(load_images(small_root.parent), images)
