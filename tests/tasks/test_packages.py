"""Real data inside packages, and the time series that some of it are."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets

from metarun.errors import ConfigError, MetarunError
from metarun.system.randomness import Streams
from metarun.tasks import SPLITS
from metarun.tasks import packages as module
from metarun.tasks.arrays.files import read_columns
from metarun.tasks.arrays.packages import AeonSeries, Mnist5k, SklearnClasses, mnist_digits
from metarun.tasks.arrays.sources import TableClasses, arrays
from metarun.tasks.division import divided_rows

SIZES: dict[str, Any] = {"way": 2, "shot": 3, "query": 4}


def seen(source: TableClasses, split: Any, episodes: int = 60) -> set[bytes]:
    """All inputs in some episodes of a split."""
    tasks = source.batch(split, 0, episodes)
    x = torch.cat([tasks.support.x, tasks.query.x], 1).flatten(0, 1)
    return {each.numpy().tobytes() for each in x}


def test_the_digits_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    source = SklearnClasses(**SIZES, dtype=torch.float64)
    assert [source.classes(split) for split in SPLITS] == [6, 2, 2]
    loaded: Any = datasets.load_digits()
    own = {(x / 16).tobytes(): str(y) for x, y in zip(loaded.data, loaded.target, strict=True)}
    tasks = source.batch("test", 0, 5)
    assert tasks.query.x.shape == (5, 8, 1, 8, 8)
    for t in range(5):
        for x, y in zip(tasks.query.x[t], tasks.query.y[t].tolist(), strict=True):
            name = source.names("test")[int(tasks.info["class"][t, y])]
            assert own[x.numpy().tobytes()] == name
    monkeypatch.setattr(module, "find_spec", Mock(return_value=None))
    with pytest.raises(MetarunError, match=r"data=sklearn needs .* pip install 'metarun\[sklearn\]'$"):
        SklearnClasses(**SIZES)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SklearnClasses(name="wine", **SIZES, dtype=torch.float64),
        lambda: SklearnClasses(name="digits", new="rows", **SIZES),
        lambda: Mnist5k(new="rows", **SIZES),
        lambda: AeonSeries(name="OSULeaf", **SIZES),
    ],
)
def test_new_rows_are_of_the_same_classes_and_in_one_split_alone(make: Any) -> None:
    source = make()
    names = [source.names(split) for split in SPLITS]
    assert names[0] == names[1] == names[2]
    found = [seen(source, split) for split in SPLITS]
    assert sum(map(len, found)) == len(set().union(*found))


def test_few_classes_are_divided_by_rows_and_many_by_class() -> None:
    assert SklearnClasses(name="iris", **SIZES).names("test") == ["setosa", "versicolor", "virginica"]
    with pytest.raises(ConfigError, match=r"way=2: the train split has 1 class of 1"):
        SklearnClasses(name="iris", new="classes", **SIZES)
    assert AeonSeries(name="ACSF1", **SIZES).classes("train") == 6


def test_columns_are_standardised_by_the_training_rows() -> None:
    source = SklearnClasses(name="breast_cancer", **SIZES, dtype=torch.float64)
    source.prepare(torch.device("cpu"))
    train = torch.tensor([split == "train" for split in source.split_of])[source.table.labels]
    x = source.table.x[train]
    torch.testing.assert_close(x.mean(0), torch.zeros(30, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(30, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 100))
def test_every_class_has_its_rows_in_the_shares(labels: list[int], seed: int) -> None:
    groups = [str(label) for label in labels]
    splits = divided_rows(groups, (0.6, 0.2, 0.2), Streams(seed, "streams").generator("split"))
    for group in set(groups):
        own = [split for each, split in zip(groups, splits, strict=True) if each == group]
        for split, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
            assert abs(own.count(split) - share * len(own)) < 1 or len(own) < 5


def test_mnist_is_the_packages() -> None:
    source = Mnist5k(**SIZES)
    _, images, digits = mnist_digits("mnist_5k")
    assert images.shape == (5000, 28, 28)
    assert np.bincount(digits).tolist() == [500] * 10
    own = {image.tobytes(): str(digit) for image, digit in zip(images, digits, strict=True)}
    tasks = source.batch("test", 0, 2)
    for x, y in zip(tasks.query.x[0], tasks.query.y[0].tolist(), strict=True):
        pixels = (x * 255).round().to(torch.uint8).numpy().tobytes()
        assert own[pixels] == source.names("test")[int(tasks.info["class"][0, y])]


def test_series_of_several_channels_and_lengths_are_the_packages() -> None:
    source = AeonSeries(**SIZES, dtype=torch.float64)
    assert source.input_shape == (12, 29)
    assert [source.classes(split) for split in SPLITS] == [5, 2, 2]
    assert source.described()["rows"] == 640
    # The first line of the training file, standardised channel by channel.
    folder = module.package_folder("aeon", "aeon", "aeon") / "datasets/data/JapaneseVowels"
    first = (
        (folder / "JapaneseVowels_TRAIN.ts").read_text().lower().partition("@data")[2].strip().splitlines()[0]
    )
    values = [float(text) for text in first.split(":")[0].split(",")]
    rows = read_columns(folder / "JapaneseVowels_TRAIN.ts")["x"]
    assert rows[0, 0, : len(values)].tolist() == values
    assert np.isnan(rows[0, 0, len(values) :]).all()


def ts(path: Path, head: str, *lines: str) -> Path:
    path.write_text("\n".join([*head.split("|"), "@data", *lines]))
    return path


def test_a_file_of_series_is_one_of_arrays(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    lines = []
    for i in range(60):
        channels = [",".join(f"{v:.3f}" for v in generator.normal(size=4 + c)) for c in range(2)]
        lines.append(f"{channels[0]},?:{channels[1]}:kind {i % 12}")
    path = ts(tmp_path / "a.ts", "# words|@problemName a|@classLabel true x", *lines)
    source = arrays(file=str(path), way=2, shot=2, query=2)
    assert source.input_shape == (2, 5)
    assert source.batch("train", 0, 3).support.x.isfinite().all()
    numbers = ts(tmp_path / "b.ts", "@targetlabel true", "1,2:0.5", "2,3:1.5")
    assert read_columns(numbers)["y"].tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    ("head", "lines", "said"),
    [
        ("@timestamps true", ["1:a"], "time stamps"),
        ("@classLabel false", ["1,2"], "have no labels"),
        ("", ["1,2:3,4:a", "1,2:b"], "line 4: 1 channels, expected 2"),
        ("", [], "has no series"),
        ("", ["1,x:a"], "line 3: could not convert string to float: 'x'"),
        ("", [":a"], "line 3: a channel without values"),
        ("", ["a"], "0 channels, expected one or more"),
    ],
)
def test_other_files_of_series_are_one_line(tmp_path: Path, head: str, lines: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        read_columns(ts(tmp_path / "a.ts", head, *lines))
    assert "\n" not in str(error.value)
    (tmp_path / "b.ts").write_text("1,2:a")
    with pytest.raises(ConfigError, match="there is no line @data"):
        read_columns(tmp_path / "b.ts")


def test_a_users_rows_may_be_new_instead_of_their_classes(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 3
    np.savez(tmp_path / "a.npz", x=x, y=y, part=np.array((["train", "val", "test"] * 20)[:60]))
    given: dict[str, Any] = {"file": str(tmp_path / "a.npz"), "way": 2, "shot": 1, "query": 1}
    with pytest.raises(ConfigError, match=r"the train split has 1 class"):
        arrays(**given, features=["x"])
    source = arrays(**given, features=["x"], new="rows")
    assert [source.classes(split) for split in SPLITS] == [3, 3, 3]  # type: ignore[attr-defined]
    np.savez(
        tmp_path / "a.npz", x=x, y=y, part=np.array([["train", "val", "test"][i // 3 % 3] for i in range(60)])
    )
    with pytest.raises(ConfigError, match=r"is in several splits.*new=rows, to test on other rows"):
        arrays(**given, features=["x"], split="part")
    own = arrays(**given, features=["x"], split="part", new="rows")
    assert own.images("train") == 21  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"new=rows has no effect with task=part"):
        arrays(**{**given, "way": None}, task="part", target="y", features=["x"], new="rows")


def test_one_long_series_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = ts(tmp_path / "a.ts", "", *["1,2:a"] * 3000, f"{'1,' * 1_000_000}1:b")
    with pytest.raises(ConfigError, match=r"a\.ts would take 134 GiB of memory"):
        read_columns(path)
