"""Selection of the learner to test: the best on the validation tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from metarun.evaluation.curve import Curve


class Selection:
    """The best validation so far, and how long ago it was.

    Attributes:
        best: step and selection score of the best validation; None before the first.
        selection_score: selection score of the latest validation.
        validations_since_best: number of validations since the best.
    """

    def __init__(self) -> None:
        self.best: dict[str, Any] | None = None
        self.selection_score = -math.inf
        self.validations_since_best = 0

    def add(self, step: int, curve: Curve) -> bool:
        """Record a validation, and return whether it is the best so far; of equal ones the first is best."""
        self.selection_score = curve.selection_score
        if self.best is not None and curve.selection_score <= self.best["selection_score"]:
            self.validations_since_best += 1
            return False
        self.best = {"step": step, "selection_score": curve.selection_score}
        self.validations_since_best = 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.best = state["best"]
        self.selection_score = state["selection_score"]
        self.validations_since_best = state["validations_since_best"]
