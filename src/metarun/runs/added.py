"""Keys that configs of older runs lack, with the values that stand for what was done then."""

from __future__ import annotations

from typing import Any

NO = object()
NEW_IN_GROUPS: dict[str, Any] = {
    "data.resize": "lanczos",
    "data.train_way": None,
    "data.train_query": None,
    "data.train_batch": None,
    "data.train_augment": [],
    "data.train_smoothing": 0.0,
    "data.query_balance": "equal",
    "data.query_concentration": 2,
    "data.curriculum": None,
    "data.train_rotations": False,
    "data.sampler": "fixed",
    "data.fewest_way": 5,
    "data.most_support": 500,
    "data.imbalance": 0.0,
    "data.label_noise": 0.0,
    "data.unlabelled": 0,
    "data.distractors": 0,
    "data.labels": ["label"],
    "data.new": "classes",
    "data.test": None,
    "data.train_mixing": 1,
    "algo.refine": "query",
    "algo.distractors": "none",
    "model.init_from": None,
    "model.halvings": 4,
    "model.strict": True,
    "algo.freeze": None,
    "algo.ensemble": 1,
    "train.test_curve": True,
    "outer.drop_to": 0.5,
    "engine.kernels": "auto",  # chosen anew only where it is typed: a checkpoint says what was used
    "engine.plain": False,
}
HAD_DTYPE = {"dtype": "float32"}
ADDED_LATER = {**HAD_DTYPE, "seeding": "shared"}
