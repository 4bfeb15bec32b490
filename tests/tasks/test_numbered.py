"""Flowers, aircraft, drawings and medical images: their loaders against small files in official formats."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from picture_files import class_folders, encoded, medical_images, pixels, write
from scipy.io import savemat

from metarun.errors import ConfigError, MetarunError
from metarun.tasks import SPLITS, Aircraft, QuickDraw, VGGFlower
from metarun.tasks.images.published import medmnist as medmnist_module
from metarun.tasks.images.published.archives import named_splits
from metarun.tasks.images.published.medmnist import MedMNIST
from metarun.tasks.images.published.numbered import _matlab

SIZES: dict[str, Any] = {"way": 2, "shot": 1, "query": 2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("name", "ways"),
    [("vgg_flower", (71, 15, 16)), ("aircraft", (70, 15, 15)), ("quickdraw", (241, 52, 52))],
)
def test_the_classes_are_divided_as_in_meta_dataset(name: str, ways: tuple[int, ...]) -> None:
    splits = list(named_splits(name).values())
    assert tuple(splits.count(split) for split in SPLITS) == ways


def flowers(root: Path, labels: list[int]) -> None:
    """102flowers.tgz and imagelabels.mat, with a few images."""
    root.mkdir(parents=True)
    with tarfile.open(root / "102flowers.tgz", "w:gz") as archive:
        for i in range(len(labels)):
            content = encoded(pixels(i, 10), "PNG")
            member = tarfile.TarInfo(f"jpg/image_{i + 1:05}.jpg")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    savemat(root / "imagelabels.mat", {"labels": np.array([labels])})


def test_flowers_have_the_numbers_of_their_labels(tmp_path: Path) -> None:
    labels = [1, 2, 3, 4, 10, 15, 17, 45] * 3  # two or more classes of each split
    flowers(tmp_path / "data", labels)
    source = VGGFlower(root=str(tmp_path / "data"), size=10, **SIZES)
    assert source.verify()[0].startswith("train has ")
    source.prepare(torch.device("cpu"))
    for split in SPLITS:
        assert all(named_splits("vgg_flower")[name] == split for name in source.names(split))
    names = [name for split in SPLITS for name in source.names(split)]
    assert sorted(int(name[:3]) for name in names) == sorted(set(labels))
    tasks = source.batch("train", 0, 2)
    number = int(source.names("train")[int(tasks.info["class"][0, tasks.query.y[0, 0]])][:3])
    own = {pixels(i, 10).transpose(2, 0, 1).tobytes() for i, label in enumerate(labels) if label == number}
    assert (tasks.query.x[0, 0] * 255).round().to(torch.uint8).numpy().tobytes() in own
    assert source.described()["layout"] == "numbered images with imagelabels.mat"


def test_flowers_in_folders_by_name_or_number(tmp_path: Path) -> None:
    by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name, split in named_splits("vgg_flower").items():
        by_split[split].append(name)
    chosen = [name for names in by_split.values() for name in names[:2]]
    spelled = {
        "as published": chosen,
        "plain": [name[4:] for name in chosen],
        "with underscores": [name[4:].replace(" ", "_") for name in chosen],
        "numbers": [str(int(name[:3])) for name in chosen],
    }
    for way, names in spelled.items():
        class_folders(tmp_path / way, dict.fromkeys(names, 3))
        source = VGGFlower(root=str(tmp_path / way), size=10, **SIZES)
        source.prepare(torch.device("cpu"))
        assert [source.classes(split) for split in SPLITS] == [2, 2, 2], way


def test_labels_that_are_damaged_or_cannot_be_read_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MetarunError, match=r"imagelabels\.mat is damaged .*: delete it"):
        _matlab(b"no labels", "imagelabels.mat")
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    with pytest.raises(MetarunError, match=r"needs scipy: pip install 'metarun\[flowers\]'"):
        _matlab(b"", "imagelabels.mat")


def aircraft(root: Path, variants: list[str]) -> dict[str, np.ndarray]:
    """data/ with a picture of each number; the box is the part that is returned."""
    boxes, lists, parts = [], dict[str, list[str]](), {}
    for i in range(3 * len(variants)):
        number, variant = f"{i:07}", variants[i % len(variants)]
        picture = pixels(i, 20)
        write(root / f"data/images/{number}.jpg", encoded(picture, "PNG"))
        boxes.append(f"{number} 3 5 12 14")  # 1-based, both ends included
        parts[picture[4:14, 2:12].transpose(2, 0, 1).tobytes()] = variant
        lists.setdefault(("train", "val", "test")[i // len(variants)], []).append(f"{number} {variant}")
    write(root / "data/images_box.txt", "\n".join(boxes).encode())
    for name, lines in lists.items():
        write(root / f"data/images_variant_{name}.txt", "\n".join(lines).encode())
    write(root / "data/images_variant_trainval.txt", "\n".join(lists["train"] + lists["val"]).encode())
    return parts


def test_aircraft_are_cut_out_of_all_lists(tmp_path: Path) -> None:
    by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name, split in named_splits("aircraft").items():
        by_split[split].append(name)
    parts = aircraft(tmp_path / "data", [name for names in by_split.values() for name in names[:2]])
    source = Aircraft(root=str(tmp_path / "data"), size=10, **SIZES)
    source.prepare(torch.device("cpu"))
    for split in SPLITS:
        assert source.names(split) == sorted(by_split[split][:2])
        assert source.images(split) == 6
        tasks = source.batch(split, 0, 3)
        for t in range(3):
            for x, y in zip(tasks.query.x[t], tasks.query.y[t].tolist(), strict=True):
                found = parts[(x * 255).round().to(torch.uint8).numpy().tobytes()]
                assert found == source.names(split)[int(tasks.info["class"][t, y])]


_OF_SPLIT = {split: [n for n, of in named_splits("quickdraw").items() if of == split] for split in SPLITS}
THINGS = [name for names in _OF_SPLIT.values() for name in names[:2]] + ["The Eiffel Tower"]


def drawings(name: str, count: int = 9) -> np.ndarray:
    return np.random.default_rng(len(name)).integers(0, 256, (count, 784), dtype=np.uint8)


class Bitmaps(BaseHTTPRequestHandler):
    """Serves NAME.npy of every thing; `ranges`: whether it knows them."""

    ranges: ClassVar[bool] = True
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        name = unquote(self.path)[1:].removesuffix(".npy")
        self.asked.append(name)
        buffer = io.BytesIO()
        np.save(buffer, drawings(name))
        content = buffer.getvalue()
        if name == "broken":
            content = b"<html>no array</html>"
        asked = self.headers.get("Range")
        if asked and self.ranges:
            last = int(asked.rpartition("-")[2])
            content = content[: last + 1]
        self.send_response(206 if asked and self.ranges else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), Bitmaps)
    monkeypatch.setattr(QuickDraw, "address", f"http://127.0.0.1:{served.server_port}/")
    monkeypatch.setattr(Bitmaps, "asked", [])
    known = {name: named_splits("quickdraw")[name] for name in THINGS}
    monkeypatch.setattr(QuickDraw, "known", QuickDraw.known.of(known))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield
    served.shutdown()


@pytest.mark.parametrize("ranges", [True, False])
def test_of_each_file_of_drawings_the_beginning_is_fetched(
    tmp_path: Path,
    server: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    ranges: bool,
) -> None:
    monkeypatch.setattr(Bitmaps, "ranges", ranges)
    source = QuickDraw(root=str(tmp_path), each=4, **SIZES)
    source.prepare(torch.device("cpu"))
    assert sorted(Bitmaps.asked) == sorted(THINGS)
    for name in THINGS:
        assert np.array_equal(np.load(tmp_path / "quickdraw" / f"{name}.npy"), drawings(name)[:4])
    assert not list((tmp_path / "quickdraw").glob("*.part"))
    assert sum(source.images(split) for split in SPLITS) == 4 * len(THINGS)
    tasks = source.batch("train", 0, 1)
    name = source.names("train")[int(tasks.info["class"][0, 0])]
    own = {row.tobytes() for row in drawings(name)[:4]}
    assert (tasks.query.x[0, 0] * 255).round().to(torch.uint8).numpy().tobytes() in own
    fewer = QuickDraw(root=str(tmp_path), each=3, **SIZES)
    fewer.prepare(torch.device("cpu"))
    assert sum(fewer.images(split) for split in SPLITS) == 3 * len(THINGS)
    more = QuickDraw(root=str(tmp_path), each=6, **SIZES)
    more.prepare(torch.device("cpu"))
    assert f"{len(THINGS)} files have fewer than the 6 drawings" in caplog.text
    (tmp_path / "quickdraw" / f"{THINGS[0]}.npy").unlink()
    source.fetch()  # what is there is not fetched again
    assert Bitmaps.asked[len(THINGS) :] == [THINGS[0]]


def test_drawings_that_cannot_be_fetched_are_one_line(
    tmp_path: Path, server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QuickDraw, "known", QuickDraw.known.of({"broken": "train"}))
    source = QuickDraw(root=str(tmp_path), **SIZES)
    with pytest.raises(MetarunError, match=r"broken\.npy is no array"):
        source.fetch()
    monkeypatch.setattr(QuickDraw, "address", "http://127.0.0.1:9/")
    with pytest.raises(
        MetarunError, match=r"broken\.npy cannot be fetched .*: put the \.npy files of .* into"
    ):
        source.fetch()
    write(tmp_path / "quickdraw/broken.npy", b"no array")
    with pytest.raises(MetarunError, match=r"broken\.npy is damaged .*: delete it"):
        source.find()


@pytest.mark.parametrize(("name", "channels", "labels"), [("pathmnist", 3, 9), ("organamnist", 1, 11)])
def test_medical_images_are_divided_by_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, channels: int, labels: int
) -> None:
    before = MedMNIST(name=name, root=str(tmp_path), **SIZES)
    assert before.images("train") == 0
    assert before.verify()[0].endswith("is not there: metarun data prepare fetches it")
    made: dict[str, np.ndarray] = {}

    def fake(url: str, path: Path, md5: str) -> None:
        assert url.endswith(f"/10519652/files/{name}.npz")
        assert len(md5) == 32
        made.update(medical_images(path, channels, labels))

    monkeypatch.setattr(medmnist_module, "download", fake)
    tasks = before.batch("test", 0, 4)
    monkeypatch.setattr(medmnist_module, "download", Mock(side_effect=AssertionError))
    after = MedMNIST(name=name, root=str(tmp_path), **SIZES)
    assert after.names("test") == before.names("test")
    assert torch.equal(after.batch("test", 0, 4).query.x, tasks.query.x)
    assert sum(after.classes(split) for split in SPLITS) == labels
    assert after.input_shape == before.input_shape == (channels, 28, 28)
    known = medmnist_module._known()[name]["labels"]
    for x, y in zip(tasks.query.x[0], tasks.query.y[0].tolist(), strict=True):
        label = known.index(after.names("test")[int(tasks.info["class"][0, y])])
        own = set()
        for part in ("train", "val", "test"):
            images = made[f"{part}_images"][made[f"{part}_labels"][:, 0] == label]
            own |= {image.reshape(28, 28, channels).transpose(2, 0, 1).tobytes() for image in images}
        assert (x * 255).round().to(torch.uint8).numpy().tobytes() in own


def test_few_medical_classes_have_their_own_splits(tmp_path: Path) -> None:
    made = medical_images(tmp_path / "pneumoniamnist.npz", 1, 2)
    source = MedMNIST(name="pneumoniamnist", root=str(tmp_path), **SIZES)
    assert source.names("train") == source.names("test") == ["normal", "pneumonia"]
    own = {image.tobytes() for image in made["test_images"]}
    tasks = source.batch("test", 0, 3)
    assert all(
        (x * 255).round().to(torch.uint8).numpy().tobytes() in own for x in tasks.query.x.flatten(0, 1)
    )
    (tmp_path / "pneumoniamnist.npz").write_bytes(b"no archive")
    with pytest.raises(MetarunError, match=r"is damaged, or not pneumoniamnist .*: delete it"):
        MedMNIST(name="pneumoniamnist", root=str(tmp_path), **SIZES)
    with pytest.raises(ConfigError, match=r"have the sum"):
        MedMNIST(root=str(tmp_path), shares=(0.5, 0.5, 0.5), **SIZES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c | {"train_images": c["train_images"].repeat(8, 1)},
            r"uint8 \[54, 224, 28, 3\], expected",
        ),
        (lambda c: c | {"val_images": c["val_images"][..., 0]}, r"expected uint8 \[n, 28, 28, 3\]"),
        (lambda c: c | {"test_images": c["test_images"] / 255}, r"test has images float64"),
        (lambda c: c | {"train_labels": c["train_labels"].astype(int) - 1}, r"labels from -1 to 7 of 9"),
        (lambda c: c | {"train_labels": c["train_labels"] + 0.9}, r"labels float64 \[54, 1\], expected one"),
        (lambda c: c | {"train_labels": c["train_labels"][1:]}, r"labels uint8 \[53, 1\], expected one"),
    ],
)
def test_other_arrays_are_no_medical_images(tmp_path: Path, change: Any, said: str) -> None:
    content = medical_images(tmp_path / "pathmnist.npz", 3, 9)
    assert "has the MD5" in MedMNIST(root=str(tmp_path), **SIZES).verify()[0]
    np.savez(tmp_path / "pathmnist.npz", **change(content))
    with pytest.raises(MetarunError, match=said):
        MedMNIST(root=str(tmp_path), **SIZES)
