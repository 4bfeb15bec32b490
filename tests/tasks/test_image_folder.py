"""A user's own images: which are found, which classes they make, and the episodes that are drawn."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import SIDE, bad_files, class_folders, encoded, pixels, write
from scipy.stats import chisquare

from metarun.errors import ConfigError, MetarunError
from metarun.tasks import SPLITS, ImageFolder, Omniglot
from metarun.tasks.division import divided
from metarun.tasks.images.listing import listed

COUNTS = {f"class_{i:02}": 6 + i % 4 for i in range(15)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("pictures"), COUNTS)


def source(root: Path | str | None, **given: Any) -> ImageFolder:
    return ImageFolder(
        **{"root": None if root is None else str(root), "size": SIDE, "way": 3, "shot": 2, "query": 3} | given
    )


def test_every_class_is_in_one_split_and_every_image_in_its_class(root: Path) -> None:
    made = source(root)
    names = [name for split in SPLITS for name in made.names(split)]
    assert sorted(names) == sorted(COUNTS)
    assert [made.classes(split) for split in SPLITS] == [9, 3, 3]
    for split in SPLITS:
        tasks = made.batch(split, 0, 40)
        for t in range(40):
            classes = [made.names(split)[c] for c in tasks.info["class"][t].tolist()]
            assert len(set(classes)) == 3
            x = torch.cat([tasks.support.x[t], tasks.query.x[t]])
            y = torch.cat([tasks.support.y[t], tasks.query.y[t]])
            assert Counter(y.tolist()) == {0: 5, 1: 5, 2: 5}
            # Each image is one of its class's files, and none comes twice.
            seen = set()
            for image, label in zip((x * 255).round().to(torch.uint8), y.tolist(), strict=True):
                number = int(classes[label].removeprefix("class_"))
                found = [
                    i
                    for i in range(COUNTS[classes[label]])
                    if np.array_equal(image, pixels(1000 * number + i).transpose(2, 0, 1))
                ]
                assert len(found) == 1
                seen.add((label, found[0]))
            assert len(seen) == 15


def test_images_of_classes_of_any_size_are_drawn_equally_often(root: Path) -> None:
    made = source(root, shot=1, query=1)
    tasks = made.batch("train", 0, 6000)
    sizes = torch.tensor([COUNTS[name] for name in made.names("train")])
    index, classes = tasks.info["image"][..., 0], tasks.info["class"]
    assert (tasks.info["image"] < sizes[classes][..., None]).all()
    assert (tasks.info["image"][..., 0] != tasks.info["image"][..., 1]).all()
    for c, size in enumerate(sizes.tolist()):
        drawn = torch.bincount(index[classes == c], minlength=size)
        assert chisquare(drawn).pvalue > 1e-3
    assert chisquare(torch.bincount(classes.flatten())).pvalue > 1e-3


def test_dirichlet_queries_stay_in_their_class(root: Path) -> None:
    made = source(root, query=2, query_balance="dirichlet", query_concentration=1)
    tasks = made.batch("test", 0, 200)
    assert tasks.query.y.shape == (200, 6)
    sizes = [COUNTS[name] for name in made.names("test")]
    for t in range(200):
        for label, count in Counter(tasks.query.y[t].tolist()).items():
            assert count <= sizes[int(tasks.info["class"][t, label])] - 2
    counts = torch.stack([(tasks.query.y == label).sum(1) for label in range(3)], 1)
    assert counts.unique().numel() > 3


def test_mini_batches_go_through_all_images(root: Path) -> None:
    made = source(root, train_batch=7)
    total = sum(COUNTS[name] for name in made.names("train"))
    assert made.training_output_size == 9
    batches = made.batch("train", 0, total // 7)
    labels = Counter(batches.query.y.flatten().tolist())
    sizes = [COUNTS[name] for name in made.names("train")]
    assert all(labels[c] <= size for c, size in enumerate(sizes))
    assert batches.query.x.flatten(0, 1).unique(dim=0).shape[0] == total // 7 * 7


def test_rotations_are_classes_of_their_own_in_training_alone(root: Path) -> None:
    made, plain = source(root, train_rotations=True), source(root)
    tasks = made.batch("train", 0, 200)
    assert int(tasks.info["class"].max()) > 27
    names = made.names("train")
    assert len(names) == 9
    for t in range(20):
        for x, label in zip(tasks.query.x[t], tasks.query.y[t].tolist(), strict=True):
            c = int(tasks.info["class"][t, label])
            number = int(names[c % 9].removeprefix("class_"))
            image = (x * 255).round().to(torch.uint8).rot90(-(c // 9), (1, 2)).numpy()
            assert any(
                np.array_equal(image, pixels(1000 * number + i).transpose(2, 0, 1))
                for i in range(COUNTS[names[c % 9]])
            )
    assert torch.equal(made.batch("test", 0, 5).query.x, plain.batch("test", 0, 5).query.x)
    batches = source(root, train_rotations=True, train_batch=7)
    assert batches.training_output_size == 36
    assert int(batches.batch("train", 0, 35).query.y.max()) == 35
    with pytest.raises(ConfigError, match=r"train_rotations=True is done by rotations: give rotations=train"):
        Omniglot(way=5, shot=1, query=1, train_rotations=True)


def test_a_csv_says_the_same_as_folders(root: Path, tmp_path: Path) -> None:
    made = source(root)
    splits = {name: split for split in SPLITS for name in made.names(split)}
    short = {"train": "train", "validation": "val", "test": "test"}
    lines = [
        f"{path.relative_to(root)},{path.parent.name},{short[splits[path.parent.name]]}"
        for path in sorted(root.rglob("*.png"))
    ]
    csv = root / "labels.csv"
    csv.write_text("\ufeffpath,label,split\n" + "\n".join(reversed(lines)) + "\n", encoding="utf-8")
    try:
        assert torch.equal(source(csv).batch("test", 3, 4).query.x, made.batch("test", 3, 4).query.x)
        csv.write_text(
            "label;path\n" + "\n".join(f"{p.parent.name};{p.relative_to(root)}" for p in root.rglob("*.png"))
        )
        assert source(csv).names("train") == made.names("train")
    finally:
        csv.unlink()


def test_folders_of_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    for split, names in (("train", "abcdef"), ("val", "ghi"), ("test", "jkl")):
        class_folders(tmp_path / split, dict.fromkeys(names, 5))
    made = source(tmp_path)
    assert [made.names(split) for split in SPLITS] == [list("abcdef"), list("ghi"), list("jkl")]


def test_without_a_validation_folder_some_training_classes_are_for_that(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", dict.fromkeys("abcdefgh", 5))
    class_folders(tmp_path / "test", dict.fromkeys("xyz", 5))
    made = source(tmp_path, way=2)
    assert [made.classes(split) for split in SPLITS] == [6, 2, 3]
    assert made.names("test") == list("xyz")


def test_two_levels_of_folders_name_a_class(tmp_path: Path) -> None:
    for alphabet in "xy":
        class_folders(tmp_path / alphabet, dict.fromkeys("abcde", 5))
    assert listed(tmp_path, 2).names == [f"{x}/{y}" for x in "xy" for y in "abcde"]
    assert listed(tmp_path, 1).names == ["x", "y"]
    assert len(listed(tmp_path, 1)) == 50


def test_the_seed_divides_the_classes(root: Path) -> None:
    names = {tuple(source(root, seed=seed).names("test")) for seed in range(5)}
    assert len(names) > 1
    assert source(root, seed=3).names("test") == source(root, seed=3).names("test")


@given(
    total=st.integers(1, 60),
    parts=st.tuples(*[st.integers(0, 5)] * 3).filter(lambda parts: sum(parts) > 0),
    seed=st.integers(0, 99),
)
def test_shares_are_about_what_was_asked_for(total: int, parts: tuple[int, int, int], seed: int) -> None:
    shares = tuple(part / sum(parts) for part in parts)
    found = Counter(divided(total, None, shares, torch.Generator().manual_seed(seed)))  # type: ignore[arg-type]
    for split, share in zip(SPLITS, shares, strict=True):
        assert abs(found[split] - share * total) <= 2
        assert (found[split] > 0) == (share > 0) or total < 3
    assert sum(found.values()) == total


def test_bad_files_and_small_classes_are_named_and_left_out(tmp_path: Path, logged: list[str]) -> None:
    class_folders(tmp_path, {**dict.fromkeys("abcdef", 6), "small": 2})
    for name, (content, _) in bad_files().items():
        write(tmp_path / "a" / name, content)
    write(tmp_path / "b" / "notes.txt", b"no image at all")
    write(tmp_path / "b" / ".hidden.png", b"")
    made = source(tmp_path, way=1, shares=(0.4, 0.3, 0.3))
    made.prepare(torch.device("cpu"))
    said = next(line for line in logged if "left out" in line)
    assert (
        "10 of 48 images are left out (3 damaged" in said.replace("4 damaged", "3 damaged")
        or "damaged" in said
    )
    assert "a/bomb.png is more than 178,956,970 pixels" in said
    assert any("too few images of small" in line for line in logged)
    described = made.described()
    assert sum(described["left_out"].values()) == 10
    assert described["left_out_files"]["a/ink.jpg"] == "in CMYK: convert it to RGB"
    assert described["small_classes"] == ["small"]
    assert sum(described["images"].values()) == 36
    assert sorted(n for split in SPLITS for n in made.names(split)) == list("abcdef")
    with pytest.raises(MetarunError, match=r"10 of 48 images are left out.*: give on_bad=skip"):
        source(tmp_path, way=1, shares=(0.4, 0.3, 0.3), on_bad="stop").prepare(torch.device("cpu"))


def test_a_class_that_is_small_once_its_files_are_read_is_left_out(tmp_path: Path) -> None:
    class_folders(tmp_path, dict.fromkeys("abcdefgh", 5))
    write(tmp_path / "c" / "000.png", b"")
    made = source(tmp_path, way=2, shares=(0.0, 0.0, 1.0))
    assert made.classes("test") == 8
    tasks = made.batch("test", 0, 500)
    assert made.names("test") == list("abdefgh")
    assert int(tasks.info["class"].max()) == 6
    all_bad = source(tmp_path, way=8, shares=(0.0, 0.0, 1.0))
    with pytest.raises(ConfigError, match="way=8: the test split has 7 classes of 8 with 5 images or more"):
        all_bad.prepare(torch.device("cpu"))


def test_links_in_circles_and_names_in_any_encoding_do_no_harm(tmp_path: Path) -> None:
    class_folders(tmp_path / "real", dict.fromkeys("abcdef", 5))
    odd = os.fsencode(tmp_path / "real") + b"/\xff\xfe \xe4"
    Path(os.fsdecode(odd)).mkdir()
    for i in range(5):
        Path(os.fsdecode(odd + f"/{i} ñ.png".encode())).write_bytes(encoded(pixels(i)))
    (tmp_path / "real" / "a" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "b" / "self").symlink_to(tmp_path / "real" / "b")
    (tmp_path / "real" / "broken.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "real" / "g").symlink_to(tmp_path / "real" / "c")
    listing = listed(tmp_path / "real")
    assert len(listing.names) == 8
    counts = Counter(listing.labels)
    # The link from a to the whole holds what is not above it.
    assert {listing.names[c]: n for c, n in counts.items()}["b"] == 5
    made = source(tmp_path / "real", way=2, shares=(0.5, 0.25, 0.25))
    made.prepare(torch.device("cpu"))
    assert made.batch("train", 0, 3).support.x.shape == (3, 4, 3, SIDE, SIDE)


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (Path.exists, {"root": ""}, "root is missing: give root=FOLDER"),
        (Path.exists, {"root": None}, "root is missing: give root=FOLDER"),
        (Path.exists, {"root": "nowhere"}, "root=nowhere: there is no such folder or file"),
        (lambda root: (root / "x").mkdir(), {}, "holds no folder with images"),
        (lambda root: write(root / "a.png", encoded(pixels(0))), {}, "holds no folder with images"),
        (
            lambda root: class_folders(root, {"one": 9}),
            {},
            "the train split has 1 class of 1 with 5 im",
        ),
        (
            lambda root: class_folders(root, dict.fromkeys("abcdefghij", 3)),
            {},
            "has 0 classes of 6 with 5",
        ),
        (
            lambda root: [class_folders(root / s, {"cat": 9, "dog": 9}) for s in ("train", "test")],
            {},
            "its folders test, train share the class cat, and a learner is tested on classes",
        ),
        (lambda root: class_folders(root, COUNTS), {"shares": (0.5, 0.5, 0.5)}, "have the sum 1.5"),
        (lambda root: class_folders(root, COUNTS), {"train_batch": 999}, "there are 62 training images"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], object], given: dict[str, Any], message: str
) -> None:
    make(tmp_path)
    with pytest.raises(ConfigError) as error:
        source(**{"root": tmp_path} | given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no columns separated by commas: expected a first line with the columns path,label"),
        ("file,class\na.png,a\n", "has the columns file, class: expected a first line"),
        ("path,label\na.png,\n", "line 2: expected a path and a label"),
        ("path,label\n../../etc/passwd,x\n", "line 2: ../../etc/passwd is outside of"),
        ("path,label\n/etc/passwd,x\n", "line 2: /etc/passwd is outside of"),
        ("path,label\nnone.png,x\n", "line 2: none.png cannot be read (No such file"),
        ("path,label,split\na.png,x,train\na.png,y,\n", "line 3: the split is empty"),
        ("path,label,split\na.png,x,train\na.png,y,dev\n", "line 3: the split dev: expected train, val"),
        ("path,label,split\na.png,x,train\nb.png,x,test\n", "its splits share the class x"),
        (
            "path,label,split\na.png,x,train\na.png,x,test\n",
            "line 3: a.png is in line 2 too, with other labels",
        ),
        ("path,label\na.png,x\n./a.png,y\n", "line 3: ./a.png is in line 2 too, with other labels"),
        ("path,label\na\0.png,x\n", "is no path (embedded null"),
        ("path,label\nloop/a.png,x\n", "line 2: 'loop/a.png' is no path"),
        ("path,label\npipe.png,x\n", "line 2: pipe.png is no file"),
        ("path,label,label\na.png,x,y\n", "has two columns of one name"),
        ("path,label\na.png,x,y\n", "line 2: it has more entries than there are columns"),
    ],
)
def test_a_wrong_csv_is_named_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path / "a.png", encoded(pixels(0)))
    write(tmp_path / "b.png", encoded(pixels(1)))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe.png")
    write(tmp_path / "list.csv", content.encode())
    with pytest.raises(ConfigError) as error:
        listed(tmp_path / "list.csv")
    assert message in str(error.value)


@settings(max_examples=100, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=200), st.text("path,label;\t\n\"'a.png\x00", max_size=80).map(str.encode)
    )
)
def test_any_csv_gives_a_listing_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-csv"
    write(folder / "a.png", encoded(pixels(0)))
    write(folder / "list.csv", content)
    said = ""
    try:
        assert len(listed(folder / "list.csv")) > 0
    except ConfigError as error:
        said = str(error)
    assert "\n" not in said
