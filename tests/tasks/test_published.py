"""Each dataset: its real loader against small archives in the formats that circulate, and hostile ones."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from picture_files import encoded, pixels, write

from metarun.errors import ConfigError, MetarunError
from metarun.tasks import CUB, FC100, SPLITS, CifarFS, MiniImageNet, TieredImageNet
from metarun.tasks.images.published import published as module
from metarun.tasks.images.published.archives import named_splits
from metarun.tasks.images.published.published import Published
from metarun.tasks.images.published.trees import TarTree, ZipTree
from metarun.tasks.images.published.unpickling import read_pickle

EACH, SIDE = 6, 10
CLASSES = {"train": ["a", "b", "c"], "val": ["d", "e"], "test": ["f", "g"]}
NUMBERS = {name: number for number, name in enumerate("abcdefg")}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))


def image(name: str, i: int) -> np.ndarray:
    return pixels(100 * NUMBERS[name] + i, SIDE)


def arrays(split: str) -> tuple[np.ndarray, list[int]]:
    """All images of a split, in an order of their own, and the place of each one's class."""
    order = np.random.default_rng(1).permutation(len(CLASSES[split]) * EACH)
    images = [(image(CLASSES[split][k // EACH], k % EACH), k // EACH) for k in order]
    return np.stack([each for each, _ in images]), [label for _, label in images]


def dumped(path: Path, content: Any, protocol: int = 2) -> None:
    write(path, pickle.dumps(content, protocol))


def caches(root: Path) -> None:
    for split, names in CLASSES.items():
        images, labels = arrays(split)
        places = {name: [i for i, y in enumerate(labels) if y == c] for c, name in enumerate(names)}
        dumped(root / f"mini-imagenet-cache-{split}.pkl", {"image_data": images, "class_dict": places})


def meta_opt_net(root: Path, pattern: str) -> None:
    for split in CLASSES:
        images, labels = arrays(split)
        dumped(root / pattern.format(split), {"data": images, "labels": labels}, protocol=4)


def lists(root: Path) -> None:
    for split, names in CLASSES.items():
        lines = ["filename,label"]
        for name in names:
            for i in range(EACH):
                write(root / "images" / f"{name}{i:05}.png", encoded(image(name, i)))
                lines.append(f"{name}{i:05}.png,{name}")
        (root / f"{split}.csv").write_text("\n".join(lines))


def folders(root: Path) -> None:
    for split, names in CLASSES.items():
        for name in names:
            for i in range(EACH):
                write(root / split / name / f"{i}.png", encoded(image(name, i)))


def tiered(root: Path) -> None:
    for split, names in CLASSES.items():
        images, labels = arrays(split)
        coded = [np.frombuffer(encoded(each), np.uint8) for each in images]
        dumped(root / f"{split}_images_png.pkl", coded, protocol=4)
        about = {"label_specific": np.array(labels), "label_specific_str": names}
        dumped(root / f"{split}_labels.pkl", about)


def zipped(make: Callable[[Path], None], inside: str = "") -> Callable[[Path], None]:
    def packed(root: Path) -> None:
        make(root.parent / "unpacked")
        with zipfile.ZipFile(root / "data.zip", "w") as archive:
            for path in sorted((root.parent / "unpacked").rglob("*")):
                archive.write(path, inside + str(path.relative_to(root.parent / "unpacked")))

    return packed


def tarred(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def packed(root: Path) -> None:
        make(root.parent / "unpacked")
        with tarfile.open(root / "data.tar.gz", "w:gz") as archive:
            archive.add(root.parent / "unpacked", "somewhere")

    return packed


LAYOUTS: dict[str, tuple[type[Published], Callable[[Path], None], str]] = {
    "caches": (MiniImageNet, caches, "pickles of images"),
    "caches in a tar": (MiniImageNet, tarred(caches), "pickles of images"),
    "train_phase": (
        MiniImageNet,
        lambda root: meta_opt_net(root, "miniImageNet_category_split_train_phase_{}.pickle"),
        "pickles of images",
    ),
    "lists": (MiniImageNet, lists, "images with train.csv, val.csv and test.csv"),
    "lists in a zip": (MiniImageNet, zipped(lists, "mini/"), "images with train.csv, val.csv and test.csv"),
    "folders": (MiniImageNet, folders, "folders train, val and test"),
    "folders in a tar": (TieredImageNet, tarred(folders), "folders train, val and test"),
    "tiered": (TieredImageNet, tiered, "tieredImageNet's pickles of encoded images"),
    "cifar_fs": (CifarFS, lambda root: meta_opt_net(root, "CIFAR_FS_{}.pickle"), "pickles of images"),
    "fc100 in a zip": (
        FC100,
        zipped(lambda root: meta_opt_net(root, "FC100_{}.pickle")),
        "pickles of images",
    ),
}


def source(kind: type[Published], root: Path, **given: Any) -> Published:
    sizes = {"size": SIDE, "way": 2, "shot": 2, "query": 3}
    return kind(root=str(root), **sizes | given)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_gives_the_images_of_each_class(name: str, tmp_path: Path) -> None:
    kind, make, layout = LAYOUTS[name]
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    made = source(kind, root)
    for split, short in zip(SPLITS, CLASSES, strict=True):
        tasks = made.batch(split, 0, 20)
        own = {
            image(each, i).transpose(2, 0, 1).tobytes(): each for each in CLASSES[short] for i in range(EACH)
        }
        for t in range(20):
            x = torch.cat([tasks.support.x[t], tasks.query.x[t]])
            y = torch.cat([tasks.support.y[t], tasks.query.y[t]]).tolist()
            kinds: dict[int, set[str]] = {0: set(), 1: set()}
            for each, label in zip((x * 255).round().to(torch.uint8), y, strict=True):
                kinds[label].add(own[each.numpy().tobytes()])
            assert [len(found) for found in kinds.values()] == [1, 1]
            assert kinds[0] != kinds[1]
    assert made.described()["layout"] == layout
    assert [made.classes(split) for split in SPLITS] == [3, 2, 2]
    if "pickles of images" not in layout or "cache" in name:
        assert [made.names(split) for split in SPLITS] == list(CLASSES.values())


def test_the_second_time_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    caches(root)
    expected = source(MiniImageNet, root).batch("train", 0, 2)
    monkeypatch.setattr(Published, "find", None)
    assert torch.equal(source(MiniImageNet, root).batch("train", 0, 2).query.x, expected.query.x)
    monkeypatch.undo()
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    images, labels = arrays("train")
    dumped(
        root / "mini-imagenet-cache-train.pkl",
        {
            "image_data": 255 - images,
            "class_dict": {name: [i for i, y in enumerate(labels) if y == c] for c, name in enumerate("abc")},
        },
    )
    changed = source(MiniImageNet, root).batch("train", 0, 2)
    torch.testing.assert_close(changed.query.x, 1 - expected.query.x)


def python_pickles(root: Path, names: list[str], each: int = EACH) -> None:
    """The files of cifar-100-python, with a few images of each class, as Python 2 wrote them."""
    folder = root / "cifar-100-python"
    for part, first in (("train", 0), ("test", each // 2)):
        chosen = range(first, each if part == "test" else each // 2)
        images = [
            pixels(1000 * c + i, 32).transpose(2, 0, 1).reshape(-1) for c in range(len(names)) for i in chosen
        ]
        content = {
            "data": np.stack(images),
            "fine_labels": [c for c in range(len(names)) for _ in chosen],
            "coarse_labels": [0] * len(images),
            "filenames": [f"{c}.png" for c in range(len(images))],
        }
        dumped(folder / part, content)
    dumped(folder / "meta", {"fine_label_names": names, "coarse_label_names": ["any"]})


@pytest.mark.parametrize(("kind", "ways"), [(CifarFS, (64, 16, 20)), (FC100, (60, 20, 20))])
def test_cifar_100_is_divided_as_published(
    kind: type[Published], ways: tuple[int, ...], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    tarred(lambda root: python_pickles(root, sorted(named_splits(kind.name))))(tmp_path / "data")
    made = source(kind, tmp_path / "data", size=32)
    tasks = made.batch("test", 0, 3)
    assert tuple(made.classes(split) for split in SPLITS) == ways == kind.ways
    assert all(named_splits(kind.name)[name] == split for split in SPLITS for name in made.names(split))
    names = sorted(named_splits(kind.name))
    name = made.names("test")[int(tasks.info["class"][0, int(tasks.query.y[0, 0])])]
    own = {pixels(1000 * names.index(name) + i, 32).transpose(2, 0, 1).tobytes() for i in range(EACH)}
    assert (tasks.query.x[0, 0] * 255).round().to(torch.uint8).numpy().tobytes() in own


def test_the_superclasses_of_fc100_are_whole() -> None:
    fine = named_splits("fc100")
    assert {fine[name] for name in ("baby", "boy", "girl", "man", "woman")} == {"test"}
    assert {fine[name] for name in ("bear", "leopard", "lion", "tiger", "wolf")} == {"validation"}
    assert {fine[name] for name in ("maple_tree", "oak_tree", "palm_tree")} == {"train"}
    assert named_splits("cifar_fs").keys() == fine.keys()


def test_birds_are_divided_by_their_numbers(tmp_path: Path) -> None:
    def birds(root: Path) -> None:
        for number in range(1, 13):
            for i in range(45):
                write(
                    root / f"CUB_200_2011/images/{number:03}.Bird/{i}.png", encoded(pixels(100 * number + i))
                )
        write(root / "CUB_200_2011/classes.txt", b"")

    (tmp_path / "data").mkdir()
    tarred(birds)(tmp_path / "data")
    made = source(CUB, tmp_path / "data")
    made.prepare(torch.device("cpu"))
    assert [made.names(split) for split in SPLITS] == [
        [f"{number:03}.Bird" for number in numbers]
        for numbers in ((1, 3, 5, 7, 9, 11), (2, 6, 10), (4, 8, 12))
    ]


def test_verify_says_what_is_missing(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with pytest.raises(ConfigError, match="there is no such folder"):
        source(CifarFS, root)
    root.mkdir()
    (problem,) = source(MiniImageNet, root).verify()
    assert "has a layout that is known: put mini-imagenet-cache-train.pkl" in problem
    caches(root)
    problems = source(MiniImageNet, root).verify()
    assert problems[0] == "train has 3 classes, expected 64"
    assert "a has 6 images, expected 600 or more" in problems
    with pytest.raises(MetarunError, match="may not be fetched without a person: put train_images_png"):
        source(TieredImageNet, tmp_path).batch("test", 0, 1)


def test_what_is_missing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    fetched = []

    def fake(urls: Any, path: Path, md5: str, size: Any) -> None:
        fetched.append((path.name, md5))
        path.parent.mkdir()
        tarred(lambda root: python_pickles(root, sorted(named_splits("cifar_fs"))))(path.parent)

    monkeypatch.setattr(module, "download", fake)
    source(CifarFS, tmp_path / "data", size=32).prepare(torch.device("cpu"))
    assert fetched == [("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85")]
    monkeypatch.setattr(module, "download", Mock())  # which fetches nothing
    with pytest.raises(MetarunError, match=r"nothing in .* has a layout that is known: put CUB_200_2011"):
        source(CUB, tmp_path / "data").prepare(torch.device("cpu"))


class Runs:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return Path.write_text, (self.proof, "code has run")


@pytest.mark.parametrize(
    "content",
    [
        lambda proof: pickle.dumps(Runs(proof)),
        lambda proof: pickle.dumps({"image_data": [1], "class_dict": Runs(proof)}, 4),
        lambda _: b"cos\nsystem\n(S'echo > proof'\ntR.",
        lambda _: b"cbuiltins\neval\n(S'1'\ntR.",
        lambda _: b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        lambda _: pickle.dumps(np.zeros(3))[:-7],
        lambda _: b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
        lambda _: b"",
    ],
)
def test_a_pickle_runs_no_code(tmp_path: Path, content: Callable[[Path], bytes]) -> None:
    proof = tmp_path / "proof"
    with pytest.raises(MetarunError, match=r"a\.pkl is no plain pickle") as error:
        read_pickle(io.BytesIO(content(proof)), "a.pkl")
    assert "\n" not in str(error.value)
    assert not proof.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_lists_and_texts_are_read_in_every_protocol(protocol: int) -> None:
    content = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": ["x", 1, 2.5, None], "c": np.int64(3)}
    found = read_pickle(io.BytesIO(pickle.dumps(content, protocol)), "a.pkl")
    assert np.array_equal(found.pop("a"), content.pop("a"))  # type: ignore[arg-type]
    assert found == content


def test_archives_climb_nowhere_link_nowhere_and_do_not_explode(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("../out.png", "/etc/out.png", "a/../../out.png", "in/fine.png"):
            archive.writestr(name, b"content")
        archive.writestr("in/bomb.png", bytes(2**25))
    tree = ZipTree(tmp_path / "a.zip")
    assert list(tree.names()) == ["in/fine.png", "in/bomb.png"]
    with pytest.raises(MetarunError, match=r"in/bomb\.png would grow from 32,\d+ to 33,554,432 bytes"):
        tree.read("in/bomb.png")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for name in ("../out.png", "/etc/out.png", "in/fine.png"):
            member = tarfile.TarInfo(name)
            member.size = 7
            tar.addfile(member, io.BytesIO(b"content"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("in/link.png")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    in_tar = TarTree(tmp_path / "a.tar.gz")
    assert list(in_tar.names()) == ["in/fine.png"]
    assert in_tar.read("in/fine.png") == b"content"
    assert not (tmp_path.parent / "out.png").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", b"<html>Quota exceeded</html>", "is a web page: the server gave no file: delete it"),
        ("a.tgz", b"nothing", "is damaged, or no archive"),
        ("a.zip", b"PK\x05\x06", "is damaged, or no archive"),
    ],
)
def test_what_is_no_archive_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write(tmp_path / "data" / name, content)
    with pytest.raises(MetarunError, match=message):
        source(CifarFS, tmp_path / "data").prepare(torch.device("cpu"))
