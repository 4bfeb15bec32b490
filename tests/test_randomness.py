"""Torch's global generators: what draws from them can be repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metarun.compose import compose_config
from metarun.config import read_config
from metarun.randomness import fix
from metarun.runs.directory import Run
from metarun.train import train
from metarun.training import Training

# A user's algorithm whose embedding drops entries at random.
MINE = """
import torch
from metarun.learners import Learner

class Dropping(Learner):
    def __init__(self, *, model, rule, loop, loss, metrics, seed):
        super().__init__(loss, metrics)
        self.model, self.drop = model, torch.nn.Dropout(0.5)

    def trajectory(self, support, graph):
        yield support

    def predict(self, adapted, x):
        return self.drop(self.model(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
"""


def test_the_state_follows_from_seed_work_and_number_alone() -> None:
    def draw(*of: object) -> float:
        torch.rand(3)
        fix(*of)  # type: ignore[arg-type]
        return torch.rand(()).item()

    drawn = [draw(0, "step", 0), draw(0, "step", 1), draw(1, "step", 0), draw(0, "test", 0)]
    assert len(set(drawn)) == 4
    assert draw(0, "step", 1) == drawn[1]


def test_dropout_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_that_drops.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    short = ["device=cpu", "train.steps=8", "train.test_tasks=4", "train.validation_tasks=4"]
    node = compose_config([*short, "train.checkpoint_every=3", "train.validate_every=4"])
    node["algo"] = {"_target_": "mine_that_drops.Dropping"}
    config = read_config(node)

    def weights(run: Run) -> torch.Tensor:
        state = run.checkpoints.newest()
        assert state is not None
        return torch.cat([each.flatten() for each in state["learner"].values()])

    whole, stopped = Run.create(tmp_path / "whole", node, {}), Run.create(tmp_path / "stopped", node, {})
    torch.rand(1)
    expected = train(config, whole)
    torch.rand(2)
    training = Training(config, stopped)
    training.restore()
    for step in range(5):
        training.take_step()
        if step == 2:
            training.save()
    assert train(config, stopped) == expected
    assert torch.equal(weights(stopped), weights(whole))
