"""What a meta-gradient keeps, and which errors say that memory ran out."""

from __future__ import annotations

import pytest
import torch

from metarun.engine.memory import bytes_kept
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact, FirstOrder, MetaGradient, Progress, Reptile
from metarun.models import MLP
from metarun.rules import SGD
from metarun.system.allocator import is_out_of_memory
from metarun.tasks import Sinusoid


def measured(
    metagradient: MetaGradient, steps: int = 1, hidden: int = 40, rematerialise: bool = False
) -> int:
    source = Sinusoid(shot=10, query=10)
    learner = GradientAdaptation(
        model=MLP(input_shape=(1,), output_size=1, hidden=(hidden, hidden)),
        rule=SGD(lr=0.1),
        loop=InnerLoop(steps=steps),
    )
    learner.rematerialise = rematerialise
    return bytes_kept(
        lambda tasks: metagradient.gradients(learner, tasks, Progress(), 1.0), source.batch("train", 0, 1)
    )


def test_bytes_grow_with_what_is_kept() -> None:
    small = measured(Exact())
    assert small > 3 * 40 * 41 * 4  # at least the parameters and activations of the step
    assert measured(Exact(), hidden=400) > 10 * small
    assert measured(Exact(), steps=5) > 2 * small


def test_bytes_are_of_what_is_kept_at_once() -> None:
    # Reptile forgets a step before the next; the exact meta-gradient keeps them all.
    assert measured(Reptile(), 20) == measured(Reptile(), 2)
    assert measured(Exact(), 20) > 5 * measured(Exact(), 2)
    assert measured(FirstOrder(), 20) < measured(Exact(), 2)
    assert len({measured(FirstOrder(), 5) for _ in range(5)}) == 1


def test_a_rematerialised_loop_keeps_one_step() -> None:
    assert measured(Exact(), 20, rematerialise=True) == measured(Exact(), 5, rematerialise=True)
    assert measured(Exact(), 20, rematerialise=True) < measured(Exact(), 5) / 2


def test_out_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(caught.value)
    assert not is_out_of_memory(ValueError("can't allocate memory"))
