"""Classical models of scikit-learn, fitted to the support set of each task, as baselines."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from metarun.errors import MetarunError
from metarun.learners.learner import Learner
from metarun.tasks import Targets, Tasks

Method = Literal["linear", "forest", "neighbours"]
METHODS: tuple[Method, ...] = ("linear", "forest", "neighbours")


class Classical(Learner[list[Any]]):
    """Fits a model of scikit-learn, with its defaults, to each support set; nothing is learned between tasks.

    `linear` is logistic regression, or ridge regression for values; `forest` is a random forest of 100 trees;
    `neighbours` are the five nearest neighbours. Inputs are flattened.

    Args:
        method: `linear`, `forest` or `neighbours`, as above.
        output_size: number of classes, or entries of a target.
        targets: the kind of targets.
        seed: seeds the forests, together with each task's key.

    Raises:
        MetarunError: scikit-learn is not installed.
    """

    learns: ClassVar[bool] = False

    def __init__(
        self, *, method: Method = "linear", output_size: int, targets: Targets, seed: int = 0
    ) -> None:
        super().__init__()
        self.method, self.output_size, self.kind, self.seed = method, output_size, targets, seed
        try:
            import sklearn  # noqa: F401
        except ImportError as error:
            raise MetarunError("algo=sklearn needs scikit-learn: pip install 'metarun[sklearn]'") from error

    def _model(self, seed: int, rows: int) -> Any:
        from sklearn import ensemble, linear_model, neighbors

        of_values = self.kind == "values"
        if self.method == "linear":
            return linear_model.Ridge() if of_values else linear_model.LogisticRegression(max_iter=1000)
        if self.method == "neighbours":
            kind = neighbors.KNeighborsRegressor if of_values else neighbors.KNeighborsClassifier
            return kind(n_neighbors=min(5, rows))
        kind = ensemble.RandomForestRegressor if of_values else ensemble.RandomForestClassifier
        return kind(random_state=seed)

    def adapt(self, tasks: Tasks) -> list[Any]:
        """Return a fitted model for each task; or, if a support set has only one class, the class."""
        support, models = tasks.support, []
        for task in range(len(tasks)):
            counts = slice(None) if support.mask is None else support.mask[task]
            x = support.x[task][counts].flatten(1).double().cpu().numpy()
            y = support.y[task][counts].cpu().numpy()
            if self.kind != "values" and len(np.unique(y)) == 1:
                models.append(int(y[0]))
                continue
            key = 0 if tasks.key is None else int(tasks.key[task])
            y = y.squeeze(-1) if y.ndim > 1 and y.shape[-1] == 1 else y
            models.append(self._model((self.seed ^ key) % 2**32, len(x)).fit(x, y))
        return models

    def predict(self, adapted: list[Any], x: Tensor) -> Tensor:
        """Map x [T, m, …] to logits [T, m, classes], or values [T, m, out]."""
        inputs = x.flatten(2).double().cpu().numpy()
        results = [self._predicted(model, rows) for model, rows in zip(adapted, inputs, strict=True)]
        return torch.as_tensor(np.stack(results), dtype=x.dtype, device=x.device)

    def _predicted(self, model: Any, rows: Any) -> Any:
        if self.kind == "values":
            return model.predict(rows).reshape(len(rows), self.output_size)
        classes = self.output_size if self.kind == "classes" else 2
        # Add a small share, so that a class that no tree or neighbour predicts has a finite logit.
        shares = np.full((len(rows), classes), 1e-3)
        if isinstance(model, int):
            shares[:, model] += 1
        else:
            shares[:, model.classes_] += model.predict_proba(rows)
        logits = np.log(shares / shares.sum(1, keepdims=True))
        return logits if self.kind == "classes" else logits[:, 1:] - logits[:, :1]
