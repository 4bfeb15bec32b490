"""A run's learner with the manners of scikit-learn."""

from __future__ import annotations

import csv
import io
import pickle
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_runs import few, trained
from PIL import Image
from sklearn import exceptions
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

import metarun
from metarun.errors import ConfigError, MetarunError
from metarun.evaluation.prediction.estimator import NotFittedError

Typed = Callable[..., tuple[int, str, str]]


def files(folder: Path) -> tuple[list[Path], list[str]]:
    paths = sorted(folder.rglob("*.png"))
    return paths, [path.parent.name for path in paths]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A run on rows of numbers, and rows of three classes that it has not seen."""
    folder = tmp_path_factory.mktemp("table")
    generator = np.random.default_rng(0)
    means = generator.uniform(-20, 20, (24, 2))
    x = means.repeat(12, 0) + generator.normal(size=(288, 2))
    np.savez(folder / "a.npz", x=x[:252], y=np.arange(24).repeat(12)[:252])
    words = ["algo=protonet", "data=arrays", f"data.file={folder}/a.npz", "data.way=3", "data.shot=3"]
    run = trained(folder / "run", *words, "model=mlp", "model.hidden=[16]")
    return run, x[252:], np.array(["x", "y", "z"]).repeat(12)


def test_it_labels_as_the_command_does(
    typed: Typed,
    runs: Any,
    pictures: Path,
    tmp_path: Path,
) -> None:
    support, query = few(pictures, tmp_path)
    for algo in ("protonet", "maml"):
        run = runs(algo)
        words = ["predict", str(run), "--support", str(support), "--query", str(query), "--out", "a.csv"]
        assert typed(*words)[0] == 0
        with Path("a.csv").open(newline="", encoding="utf-8-sig") as file:
            expected = list(csv.DictReader(file))
        paths, labels = files(support)
        estimator = metarun.load(run).fit(paths, labels)
        assert list(estimator.classes_) == ["kind 00", "kind 01", "kind 02"]
        others, _ = files(query)
        assert estimator.predict(others).tolist() == [row["class"] for row in expected]
        found = estimator.predict_proba(others)
        assert np.abs(found.sum(1) - 1).max() < 1e-9
        assert np.abs(found.max(1) - [float(row["probability"]) for row in expected]).max() < 1e-4


def test_examples_of_every_kind_are_the_same(runs: Any, pictures: Path, tmp_path: Path) -> None:
    support, query = few(pictures, tmp_path)
    (paths, labels), (others, _) = files(support), files(query)
    estimator = metarun.load(runs("protonet")).fit(paths, labels)
    expected = estimator.predict_proba(others)
    reading = estimator._learner().reading
    pixels = torch.stack([reading.read(path.read_bytes()) for path in others])
    kinds: dict[str, Any] = {
        "texts": [str(path) for path in others],
        "array of texts": np.array([str(path) for path in others]),
        "pictures": [Image.open(path) for path in others],
        "uint8": pixels.numpy(),
        "channels last": pixels.permute(0, 2, 3, 1).numpy(),
        "tensor": pixels,
        "numbers": pixels.double().numpy() / 255,
    }
    for kind, x in kinds.items():
        np.testing.assert_allclose(estimator.predict_proba(x), expected, rtol=1e-5, err_msg=kind)
    numbered = metarun.load(runs("protonet")).fit(paths, [7 + int(label[-1]) for label in labels])
    assert numbered.classes_.tolist() == [7, 8, 9]
    assert (numbered.predict(others) == estimator.predict_proba(others).argmax(1) + 7).all()
    for wrong, said in (
        (pixels[:, :, :4], r"images are \[18, 3, 4, 8\], and the run was trained on \[n, 3, 8, 8\]"),
        ([["a"]], "could not convert string to float"),
        ([tmp_path / "none.png"], "No such file"),
    ):
        with pytest.raises((ValueError, OSError), match=said):
            estimator.predict(wrong)
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"bad\.png is an empty file"):
        estimator.predict([tmp_path / "bad.png"])
    with pytest.raises(ValueError, match=r"X is one path, a\.png: expected a list"):
        estimator.predict("a.png")
    with pytest.raises(ValueError, match="expected uint8, or numbers from 0 to 1"):
        estimator.predict(pixels.double().numpy())
    assert (estimator.predict(pixels.long().numpy()) == estimator.predict(others)).all()
    with pytest.raises(ValueError, match="is in CMYK"):
        estimator.predict([Image.open(others[0]).convert("CMYK")])
    turned = Image.open(others[0])
    turned.getexif()[0x0112] = 6  # a camera that was held on its side
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=turned.getexif())
    (tmp_path / "turned.png").write_bytes(buffer.getvalue())
    both = [tmp_path / "turned.png", others[0]]
    as_files = estimator.predict_proba(both)
    np.testing.assert_array_equal(as_files, estimator.predict_proba([Image.open(path) for path in both]))


def test_its_manners(table: tuple[Path, np.ndarray, np.ndarray]) -> None:
    run, x, y = table
    estimator = metarun.load(run)
    assert is_classifier(estimator)
    with pytest.raises(exceptions.NotFittedError, match="not fitted yet"):  # where it is imported
        estimator.predict(x)
    with pytest.raises(ValueError, match="one class: expected two or more"):
        estimator.fit(x, np.full(36, "x"))
    with pytest.raises(ValueError, match="there are 36 examples and 35 labels"):
        estimator.fit(x, y[1:])
    fitted = estimator.fit(x[::4], y[::4])
    assert fitted is estimator
    check_is_fitted(fitted)
    assert fitted.n_features_in_ == 2
    assert fitted.score(x, y) > 0.8
    assert fitted.score(x, y) == (fitted.predict(x) == y).mean() == fitted.score(x, y[:, None])
    weights = np.arange(36)
    expected = ((fitted.predict(x) == y) * weights).sum() / weights.sum()
    assert fitted.score(x, y, sample_weight=weights) == pytest.approx(expected)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(x), fitted.predict_proba(x))
    parts = metarun.load(run, part=5).fit(x[::4], y[::4])
    np.testing.assert_allclose(parts.predict_proba(x), fitted.predict_proba(x), rtol=1e-5)
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(exceptions.NotFittedError):
        copy.predict(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "sklearn.exceptions")
        with pytest.raises(NotFittedError, match="not fitted yet"):
            copy.predict(x)
    with pytest.raises(ValueError, match="odd: expected one of run, overrides, part"):
        copy.set_params(odd=3)
    assert repr(copy) == f"metarun.load({str(run)!r})"


def test_inside_scikit_learns_own_tools(table: tuple[Path, np.ndarray, np.ndarray]) -> None:
    run, x, y = table
    scores = cross_val_score(metarun.load(run), x, y, cv=3)
    assert scores.mean() > 0.8
    pipeline = make_pipeline(FunctionTransformer(lambda rows: rows - 0.0), metarun.load(run))
    assert pipeline.fit(x, y).score(x, y) > 0.8
    search = GridSearchCV(metarun.load(run), {"part": [8, 64], "overrides": [(), ("device=cpu",)]}, cv=2)
    assert search.fit(x, y).best_score_ > 0.8


# A few-shot learner has a fixed input: checks that make examples of other shapes cannot pass.
OF_OTHER_SHAPES = (
    *("check_fit_score_takes_y", "check_dont_overwrite_parameters", "check_n_features_in_after_fitting"),
    *("check_positive_only_tag_during_fit", "check_estimators_dtypes", "check_dtype_object"),
    *("check_pipeline_consistency", "check_estimators_pickle", "check_f_contiguous_array_estimator"),
    *("check_classifiers_one_label", "check_classifiers_regression_target", "check_supervised_y_2d"),
    *("check_methods_sample_order_invariance", "check_methods_subset_invariance", "check_fit2d_1sample"),
    *("check_fit2d_1feature", "check_dict_unchanged", "check_fit2d_predict1d"),
)


@pytest.mark.filterwarnings("ignore:Estimator Estimator does not inherit")
def test_scikit_learns_own_checks(table: tuple[Path, np.ndarray, np.ndarray]) -> None:
    expected = dict.fromkeys(OF_OTHER_SHAPES, "its examples have the shape of the run's")
    found = check_estimator(
        metarun.load(table[0]), expected_failed_checks=expected, on_skip=None, on_fail="raise"
    )
    assert sum(each["status"] == "passed" for each in found) >= 30
    for each in found:
        if each["status"] == "xfail":
            assert "the run was trained on [n, 2]" in "".join(traceback.format_exception(each["exception"]))


def test_numbers(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "algo=cnp", "data=sinusoid")
    estimator = metarun.load(run)
    assert is_regressor(estimator)
    x = np.linspace(-3, 3, 12)[:, None]
    estimator.fit(x, np.sin(x[:, 0]))
    found = estimator.predict(x)
    assert found.shape == (12,)
    low, high = estimator.predict_interval(x)
    assert (low[:, 0] < found).all()
    assert (high[:, 0] > found).all()
    y = np.sin(x[:, 0])
    assert estimator.score(x, y) == pytest.approx(r2_score(y, found))
    assert estimator.score(x, y[:, None]) == pytest.approx(r2_score(y, found))
    assert estimator.score(x, np.ones(12)) == r2_score(np.ones(12), found) == 0
    other = estimator.set_params(overrides=("device=cpu",))
    with pytest.raises(exceptions.NotFittedError):  # it was another's
        other.predict(x)
    with pytest.raises(AttributeError, match="predicts numbers"):
        estimator.fit(x, y).predict_proba(x)


def test_what_cannot_be_loaded_is_one_line(runs: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such run"):
        metarun.load(tmp_path / "nowhere")
    with pytest.raises(MetarunError):
        metarun.load(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.way cannot be changed for a prediction"):
        metarun.load(runs("protonet"), ["data.way=3"])
    shutil.rmtree(shutil.copytree(runs("protonet"), tmp_path / "empty") / "checkpoints")
    with pytest.raises(MetarunError, match="has no checkpoint yet"):
        metarun.load(tmp_path / "empty")


def test_the_public_names() -> None:
    names = ["Run", "__version__", "compose", "load", "runs", "tasks", "train"]
    assert sorted(metarun.__all__) == names
    described = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    assert all(f"`metarun.{name}" in described for name in names)
    assert all(hasattr(metarun, name) for name in names)
    with pytest.raises(AttributeError, match="has no attribute 'odd'"):
        _ = metarun.odd
