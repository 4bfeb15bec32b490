"""Images with several labels: an episode is of one label set, and every set is as likely."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from picture_files import COLOURS, album, labelled_twice
from scipy.stats import chisquare

from metarun.errors import ConfigError
from metarun.tasks import SPLITS, ImageFolder
from metarun.tasks.draws import Draws
from metarun.tasks.images.meta_album import MetaAlbum
from metarun.tasks.images.pool import Pool
from metarun.tasks.images.sampling import Sizes, chosen, fixed, variable

SIZES: dict[str, Any] = {"size": 8, "way": 2, "shot": 1, "query": 2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))


def test_an_episode_is_of_one_label_set_and_each_is_as_likely(tmp_path: Path) -> None:
    of_pixels = labelled_twice(tmp_path)
    source = ImageFolder(
        root=str(tmp_path / "list.csv"), labels=("Species", "colour"), fit="stretch", **SIZES
    )
    source.prepare(torch.device("cpu"))
    sets = Counter[str]()
    for split in SPLITS:
        tasks = source.batch(split, 0, 200)
        names = source.names(split)
        for t in range(200):
            classes = [names[c] for c in tasks.info["class"][t].tolist()]
            columns = {name.partition(": ")[0] for name in classes}
            assert len(columns) == 1
            sets.update(columns)
            place = 0 if columns == {"Species"} else 1
            for x, y in zip(tasks.query.x[t], tasks.query.y[t].tolist(), strict=True):
                labels = of_pixels[(x * 255).round().to(torch.uint8).numpy().tobytes()]
                assert classes[y].partition(": ")[2] == labels[place]
    assert chisquare(list(sets.values())).pvalue > 1e-3
    assert len(sets) == 2


def test_images_of_a_split_are_in_no_other(tmp_path: Path) -> None:
    labelled_twice(tmp_path)
    source = ImageFolder(root=str(tmp_path / "list.csv"), labels=("species", "colour"), **SIZES)
    source.prepare(torch.device("cpu"))
    images = [set(source._pools[split].places.tolist()) for split in SPLITS]
    assert sum(map(len, images)) == len(set().union(*images))
    assert {f"colour: {colour}" for colour in COLOURS} <= set(source.names("test"))  # with images of its own


def test_a_set_of_too_few_classes_is_left_out(tmp_path: Path) -> None:
    labelled_twice(tmp_path)
    sizes = {**SIZES, "way": 4}
    source = ImageFolder(
        root=str(tmp_path / "list.csv"), labels=("species", "colour"), shares=(0.34, 0.33, 0.33), **sizes
    )
    assert all(name.startswith("species") for split in SPLITS for name in source.names(split))
    tasks = source.batch("train", 0, 20)
    assert tasks.info["class"].max() < 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"labels": ("species", "weight")}, r"expected a first line with the columns path,species,weight"),
        ({"labels": ("species", "species")}, "expected different columns, without path and split"),
        ({"labels": ("species", "split")}, "expected different columns, without path and split"),
        ({"labels": ("species", "colour"), "train_batch": 8}, "train_batch=8 is for one label set"),
        ({"labels": ("species", "colour"), "train_rotations": True}, "train_rotations=True is for one label"),
    ],
)
def test_what_does_not_go_with_label_sets_is_refused(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    labelled_twice(tmp_path)
    with pytest.raises(ConfigError, match=said):
        ImageFolder(root=str(tmp_path / "list.csv"), **SIZES, **given)
    with pytest.raises(ConfigError, match="are columns of a csv file"):
        ImageFolder(root=str(tmp_path), labels=("species",), **SIZES)


def grouped(groups: list[int], each: int = 20) -> Pool:
    counts = torch.full((sum(groups),), each)
    return Pool(
        torch.arange(sum(groups) * each),
        torch.arange(sum(groups) * each),
        counts,
        groups=torch.tensor(groups),
    )


def test_classes_are_drawn_uniformly_within_a_group() -> None:
    classes, among = chosen(grouped([3, 7, 4]), Draws(0, 0, 0, 6000), 2)
    firsts, sizes = torch.tensor([0, 3, 10]), torch.tensor([3, 7, 4])
    group = torch.bucketize(classes, torch.tensor([3, 10]), right=True)
    assert torch.equal(group[:, 0], group[:, 1])
    assert (classes[:, 0] != classes[:, 1]).all()
    assert torch.equal(torch.as_tensor(among), sizes[group[:, 0]])
    assert chisquare(torch.bincount(group[:, 0])).pvalue > 1e-3
    for g in range(3):
        own = (classes[group[:, 0] == g] - firsts[g]).flatten()
        assert chisquare(torch.bincount(own, minlength=int(sizes[g]))).pvalue > 1e-3


def test_a_variable_episode_has_no_more_classes_than_its_group() -> None:
    drawn = variable(grouped([3, 9]), Draws(0, 0, 0, 400), Sizes(way=8, shot=4, query=2, fewest_way=2))
    assert drawn.ways is not None
    small = drawn.classes[:, 0] < 3
    assert drawn.ways[small].max() == 3
    assert drawn.ways[~small].max() == 8
    for t in range(400):
        own = drawn.classes[t, : int(drawn.ways[t])]
        assert len(set(own.tolist())) == len(own)
        assert ((own < 3) == small[t]).all()


def test_without_groups_nothing_changes() -> None:
    plain = Pool(torch.arange(200), torch.arange(200), torch.full((10,), 20))
    sizes = Sizes(way=3, shot=2, query=2)
    one = Pool(torch.arange(200), torch.arange(200), torch.full((10,), 20), groups=torch.tensor([10]))
    assert torch.equal(fixed(plain, Draws(1, 0, 0, 5), sizes).classes, Draws(1, 0, 0, 5).choose(10, 3))
    assert fixed(one, Draws(1, 0, 0, 5), sizes).classes.shape == (5, 3)


def test_a_set_of_meta_album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"name=BRD_Mini: .*labels\.csv is not there: fetch Meta_Album_BRD_Mini"
    ):
        MetaAlbum(root=str(tmp_path), **SIZES)
    album(tmp_path / "data/meta_album/BRD_Mini")
    monkeypatch.setenv("METARUN_DATA", str(tmp_path / "data"))
    source = MetaAlbum(**SIZES)
    source.prepare(torch.device("cpu"))
    assert sum(source.images(split) for split in SPLITS) == 72
    assert source.names("train")[0].startswith("kind ")
    both = MetaAlbum(root=str(tmp_path / "data/meta_album/BRD_Mini"), by="both", **SIZES)
    both.prepare(torch.device("cpu"))
    assert "super_category: red" in both.names("test")
    assert not any("NAN" in name for name in both.names("test"))
    supers = MetaAlbum(root=str(tmp_path / "data/meta_album"), by="super_category", shares=(0, 0, 1), **SIZES)
    assert set(supers.names("test")) >= set(COLOURS)


def test_a_column_without_labels_is_refused(tmp_path: Path) -> None:
    labelled_twice(tmp_path)
    text = (tmp_path / "list.csv").read_text()
    for colour in COLOURS:
        text = text.replace(f",{colour}\n", ",nan\n")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"list\.csv: the column colour is empty"):
        ImageFolder(root=str(tmp_path / "list.csv"), labels=("species", "colour"), **SIZES)
