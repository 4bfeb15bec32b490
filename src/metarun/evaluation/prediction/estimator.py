"""A run's learner with the manners of scikit-learn: fit, predict, predict_proba, score.

The manners do not need scikit-learn, which is imported only when scikit-learn itself asks for tags.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps
from torch import Tensor

from metarun.errors import ConfigError
from metarun.evaluation.prediction.own_examples import Labelled, Notes
from metarun.evaluation.prediction.task_model import TaskModel, Values
from metarun.evaluation.prediction.usable import Usable, usable
from metarun.tasks.arrays.scaling import scaled_targets
from metarun.tasks.images.decoding import LeftOutError
from metarun.tasks.reading import ImageReading, RowReading, as_bytes

_TOGETHER = 1000  # of a learner whose predictions depend on one another


class NotFittedError(ValueError, AttributeError):
    """`predict` was called before `fit`; of the same kinds as scikit-learn's own error."""


class Estimator:
    """The best learner of a run, to be fitted to a few examples.

    Examples are, for a run on images, paths of files, PIL images, or arrays [n, channels, size, size], uint8
    or from 0 to 1; else rows of numbers [n, *shape], which are scaled as in the training.

    Args:
        run: the run's directory.
        overrides: key=value, as in inner.test_steps=10; see `metarun predict --help`.
        part: examples that are predicted at once.

    Attributes:
        classes_: the labels, sorted; set by `fit` where the run learns classes.
        n_features_in_: number of columns; set by `fit` where examples are rows.
    """

    def __init__(self, run: str | Path, overrides: Sequence[str] = (), part: int = 256) -> None:
        self.run, self.overrides, self.part = run, overrides, part

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002  (scikit-learn's signature)
        """Return the arguments of the constructor."""
        return {"run": self.run, "overrides": self.overrides, "part": self.part}

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor.

        Raises:
            ValueError: there is no such argument.
        """
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"{name}: expected one of {', '.join(self.get_params())}")
            setattr(self, name, value)
            if name != "part":  # what was learned belongs to the old value
                for made in ("_usable", "_model"):
                    self.__dict__.pop(made, None)
        return self

    def _learner(self) -> Usable:
        if "_usable" not in self.__dict__:
            self._usable = usable(Path(self.run), tuple(self.overrides))
        return self._usable

    @property
    def _predicts_classes(self) -> bool:
        return self._learner().facts.targets != "values"

    def fit(self, X: Any, y: ArrayLike) -> Self:  # noqa: N803  (scikit-learn's name)
        """Adapt the learner to labelled examples.

        Raises:
            ValueError: examples or labels do not fit the run.
        """
        if y is None:
            raise ValueError("fit requires y to be passed, but the target y is None")
        learner = self._learner()
        x, targets = self._inputs(X), np.asarray(y)
        if targets.ndim == 0 or len(targets) != len(x):
            raise ValueError(f"there are {len(x)} examples and {targets.size} labels")
        names = [str(number) for number in range(len(x))]
        if self._predicts_classes:
            targets = _labels(targets)
            self.classes_, places = np.unique(targets, return_inverse=True)
            if len(self.classes_) < 2:
                raise ValueError(f"all labels are {self.classes_[0]!r}, one class: expected two or more")
            support = Labelled(x, [f"{place:09}" for place in places.tolist()], names, Notes())
        else:
            scaling = getattr(learner.reading, "of_targets", None)
            support = Labelled(x, scaled_targets(targets, scaling, learner.dtype), names, Notes())
        if x.dim() == 2:
            self.n_features_in_ = x.shape[1]
        self._model = TaskModel(learner, support)
        return self

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the label, or the number, of each example."""
        if self._predicts_classes:
            places = self.predict_proba(X).argmax(1)
            best: NDArray[Any] = self.classes_[places]
            return best
        mean = np.concatenate([values.mean.numpy() for values in self._values(X)])
        return mean[:, 0] if mean.shape[1] == 1 else mean

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Return the probability of each label, [n, classes].

        Raises:
            AttributeError: the run predicts numbers.
            NotFittedError: before `fit`.
        """
        if not self._predicts_classes:
            raise AttributeError("this run predicts numbers, which have no probabilities")
        model = self._fitted()
        parts = [model.probabilities(x).cpu().numpy() for x in self._parts(X)]
        found: NDArray[np.float64] = np.concatenate(parts)
        return found

    def predict_interval(self, X: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # noqa: N803
        """Return where 95 % intervals begin and end, each [n, outputs].

        Raises:
            AttributeError: the learner predicts no distribution of numbers.
        """
        ends = [(values.low, values.high) for values in self._values(X)]
        found = [(low.numpy(), high.numpy()) for low, high in ends if low is not None and high is not None]
        if len(found) < len(ends):
            raise AttributeError("this learner predicts no distribution")
        return np.concatenate([low for low, _ in found]), np.concatenate([high for _, high in found])

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:  # noqa: N803
        """Return the share of right labels; of numbers R², the mean over outputs."""
        targets, found = np.asarray(y), self.predict(X)
        weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        if self._predicts_classes:
            return float(np.average(found == _labels(targets), weights=weights))
        values = targets.reshape(len(found), -1).astype(np.float64)
        centre = np.average(values, axis=0, weights=weights)
        rest = np.average((values - found.reshape(values.shape)) ** 2, axis=0, weights=weights)
        spread = np.average((values - centre) ** 2, axis=0, weights=weights)
        # As scikit-learn's r2_score: of a constant 1 if it is met, else 0.
        each = np.where(spread > 0, 1 - rest / np.where(spread > 0, spread, 1), rest == 0)
        return float(each.mean())

    def _values(self, x: Any) -> Iterator[Values]:
        model = self._fitted()
        return (model.values(part) for part in self._parts(x))

    def _fitted(self) -> TaskModel:
        if "_model" not in self.__dict__:
            known = sys.modules.get("sklearn.exceptions")  # scikit-learn expects its own class
            kind = NotFittedError if known is None else known.NotFittedError
            raise kind("this estimator is not fitted yet: call fit(X, y) first")
        return self._model

    def _parts(self, x: Any) -> Iterator[Tensor]:
        size = _TOGETHER if self._fitted().is_transductive else self.part
        given = list(x) if _are_files(x) else _numbers(x)
        for first in range(0, len(given), size):
            yield self._inputs(given[first : first + size])

    def _inputs(self, x: Any) -> Tensor:
        """Return examples as inputs, as they are kept: uint8 or numbers, [n, *shape]."""
        learner = self._learner()
        reading = learner.reading
        if isinstance(reading, ImageReading) and _are_files(x):
            return torch.stack([_read(reading, each) for each in x])
        array = _numbers(x)
        if isinstance(reading, ImageReading):
            return reading.arrays(array)
        if array.shape[1:] != tuple(learner.facts.input_shape):
            raise ValueError(
                f"examples are {list(array.shape)}, and the run was trained on "
                f"[n, {', '.join(map(str, learner.facts.input_shape))}]"
            )
        if reading.scaling is not None:
            return reading.scaling.apply(array.astype(np.float64), learner.dtype)
        if array.dtype.kind in "iu" and reading.of_bytes:
            array = as_bytes("X", array)
        if array.dtype == np.uint8:
            return torch.from_numpy(np.ascontiguousarray(array))
        return torch.as_tensor(array.astype(np.float64), dtype=learner.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the learner, which the run holds; the examples stay."""
        state = {name: value for name, value in self.__dict__.items() if name not in ("_usable", "_model")}
        model = self.__dict__.get("_model")
        return {**state, "_support": model.support} if model is not None else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the learner from its run again, and adapt it to the same examples."""
        support = state.pop("_support", None)
        self.__dict__.update(state)
        if support is not None:
            self._model = TaskModel(self._learner(), support)

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return f"metarun.load({str(self.run)!r})"

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether `fit` was called."""
        return "_model" in self.__dict__

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn wants to know of an estimator."""
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        classes = self._predicts_classes
        return Tags(
            estimator_type="classifier" if classes else "regressor",
            target_tags=TargetTags(required=True, multi_output=not classes),
            transformer_tags=None,
            classifier_tags=ClassifierTags() if classes else None,
            regressor_tags=None if classes else RegressorTags(),
            # A missing number is what the training made of it: the mean.
            input_tags=InputTags(
                two_d_array=len(self._learner().facts.input_shape) == 1,
                three_d_array=True,
                allow_nan=isinstance(self._learner().reading, RowReading),
            ),
        )


def _numbers(x: Any) -> NDArray[Any]:
    """Return examples as an array of numbers.

    Raises:
        TypeError: they are sparse.
        ValueError: they are no numbers, or there are none.
    """
    if hasattr(x, "toarray"):
        raise TypeError("sparse data was passed, and dense data is required: X.toarray()")
    array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    if array.dtype.kind == "c":
        raise ValueError("Complex data not supported")
    if array.dtype.kind not in "biuf":
        array = array.astype(np.float64)  # raises ValueError for texts, TypeError for other objects
    if array.ndim < 2 or not len(array):
        count = len(array) if array.ndim else 0
        raise ValueError(f"X has {count} sample(s) and the shape {list(array.shape)}: expected [n, …]")
    if array.shape[1] == 0:
        raise ValueError(f"X has 0 feature(s) (shape={array.shape}) while a minimum of 1 is required.")
    return array


def _labels(y: NDArray[Any]) -> NDArray[Any]:
    """Return labels of any type, [n].

    Raises:
        ValueError: they are numbers with fractions, or there are several for each example.
    """
    labels = y.reshape(len(y), -1)
    if labels.shape[1] != 1:
        raise ValueError(f"y is {list(y.shape)}: expected one label for each example")
    if y.dtype.kind == "f" and not (np.isfinite(y).all() and (y == np.floor(y)).all()):
        raise ValueError("Unknown label type: numbers with fractions, and this run learns classes")
    return labels[:, 0]


def _are_files(x: Any) -> bool:
    if isinstance(x, str | Path):
        raise ValueError(f"X is one path, {x}: expected a list of paths")
    if isinstance(x, Tensor) or not hasattr(x, "__iter__"):
        return False
    if isinstance(x, np.ndarray) and (x.dtype.kind not in "UO" or not x.ndim):
        return False
    return isinstance(next(iter(x), None), str | Path | Image.Image)


def _read(reading: ImageReading, given: Any) -> Tensor:
    try:
        return reading.read(_png(given) if isinstance(given, Image.Image) else Path(given).read_bytes())
    except LeftOutError as reason:
        raise ValueError(f"{given} is {reason}") from reason


def _png(image: Image.Image) -> bytes:
    """Return an image as a file, turned as its camera was held, so that it is read as one."""
    turned = ImageOps.exif_transpose(image)
    if turned.mode == "CMYK":
        raise LeftOutError("in CMYK: convert it to RGB")
    if turned.mode in ("LAB", "HSV", "YCbCr", "RGBX"):
        turned = turned.convert("RGB")
    buffer = io.BytesIO()
    turned.save(buffer, "TIFF" if turned.mode == "F" else "PNG")
    return buffer.getvalue()


def load(run: str | Path, overrides: Sequence[str] = (), part: int = 256) -> Estimator:
    """Return the best learner of a run, to be fitted to a few examples.

    Args:
        run: the run's directory.
        overrides: key=value, as in inner.test_steps=10.
        part: examples that are predicted at once.

    Raises:
        ConfigError: an override does not fit.
        MetarunError: the directory is not a run's, or has no checkpoint.
    """
    if not Path(run).is_dir():
        raise ConfigError(f"{run}: there is no such run")
    estimator = Estimator(run, overrides, part)
    estimator._learner()  # says at once what is wrong with it
    return estimator
