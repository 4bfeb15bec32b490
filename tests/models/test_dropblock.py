"""DropBlock: blocks, expectation, and masks that follow from the task."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metarun.engine.executor import Executor
from metarun.engine.meta_steps import meta_steps
from metarun.engine.settings import Engine
from metarun.errors import ConfigError
from metarun.learners import GradientAdaptation, InnerLoop, ProtoNet
from metarun.metagradients import Exact, Progress
from metarun.models import ResNet12
from metarun.models.dropblock import DropBlock, dropping
from metarun.rules import SGD
from metarun.tasks import Examples, Scoring, Tasks
from metarun.tasks.metrics import cross_entropy
from metarun.training.updates import assign

KEYS = torch.tensor([3, -5, 2**62])


def test_it_is_the_identity_without_keys_and_in_evaluation_mode() -> None:
    x, layer = torch.rand(6, 2, 8, 8), DropBlock(0.3, 3, 1)
    assert torch.equal(layer(x), x)
    with dropping(None):
        assert torch.equal(layer(x), x)
    with dropping(KEYS):
        assert torch.equal(layer.eval()(x), x)
        assert not torch.equal(layer.train()(x), x)


@pytest.mark.parametrize(("size", "side"), [(1, 8), (3, 8), (5, 20), (9, 6)])
def test_squares_are_dropped_and_the_mean_is_kept(size: int, side: int) -> None:
    x = torch.ones(3 * 40, 5, side, side, dtype=torch.float64)
    with dropping(KEYS):
        y = DropBlock(0.1, size, 1)(x)
    torch.testing.assert_close(y.view(3, -1).mean(1), torch.ones(3, dtype=torch.float64))
    # Overlapping blocks drop a little less than the rate.
    assert 0.05 < (y == 0).double().mean() < 0.12
    fits = min(size, side)
    dropped = (y == 0).flatten(0, 1).double()[:, None]
    inside = nn.functional.max_pool2d(
        nn.functional.pad((nn.functional.avg_pool2d(dropped, fits, 1) > 0.999).double(), (fits - 1,) * 4),
        fits,
        1,
    )
    assert torch.equal(inside > 0, dropped > 0)  # what is dropped is a union of squares


def test_a_mask_follows_from_the_key_and_the_layer_alone() -> None:
    x = torch.ones(6, 4, 8, 8)
    layer, other = DropBlock(0.3, 3, 1), DropBlock(0.3, 3, 2)
    with dropping(KEYS):
        whole, another = layer(x), other(x)
    assert not torch.equal(whole, another)
    with dropping(KEYS[1:2]):
        assert torch.equal(layer(x[2:4]), whole[2:4])
    assert not torch.equal(whole[:2], whole[2:4])


def test_learners_that_embed_drop_in_training_alone_and_those_with_inner_steps_not_at_all() -> None:
    torch.manual_seed(0)
    model = ResNet12(
        input_shape=(1, 16, 16), output_size=None, widths=(2, 2, 3, 3), drop_rate=0.4, drop_size=1
    )
    learner = ProtoNet(model=model)
    x, y = torch.rand(2, 4, 1, 16, 16), torch.tensor([[0, 1, 0, 1]] * 2)

    def logits(key: int) -> torch.Tensor:
        tasks = Tasks(Examples(x, y), Examples(x, y), key=torch.tensor([key, key + 1]))
        return learner.predict(learner.adapt(tasks), tasks.query.x)

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    with learner.evaluating():
        assert torch.equal(logits(1), logits(2))
    with pytest.raises(ConfigError, match="drops blocks, which algorithms with inner steps do not do"):
        GradientAdaptation(model=model, rule=SGD(lr=0.1), loop=InnerLoop(steps=1))


def test_the_rate_rises_over_the_meta_steps() -> None:
    torch.manual_seed(0)
    keys = {"widths": (2, 2, 3, 3), "drop_rate": 0.4, "drop_size": 1, "drop_rise": 4}
    learner = ProtoNet(model=ResNet12(input_shape=(1, 16, 16), output_size=None, **keys))
    examples = Examples(torch.rand(2, 4, 1, 16, 16), torch.tensor([[0, 1, 0, 1]] * 2))
    tasks = Tasks(examples, examples, key=torch.tensor([1, 2]), scoring=Scoring(cross_entropy))
    layer, dropped = learner.model.body.block3.drop, []
    for _ in range(6):
        with dropping(KEYS):
            dropped.append((layer(torch.ones(30, 5, 8, 8)) == 0).double().mean().item())
        (step,) = meta_steps(Exact(), learner, tasks, Progress(), Executor(Engine(chunk=1), learner))
        assign(learner, step.assignments)
    assert dropped == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4], abs=0.02)
    assert layer.passes == 6
