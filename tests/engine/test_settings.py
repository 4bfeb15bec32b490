"""What an engine's settings mean, and what using it changes."""

from __future__ import annotations

import platform
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from metarun.engine.executor import split_into_chunks
from metarun.engine.settings import Engine, EngineSettings
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.models import Linear
from metarun.rules import SGD
from metarun.system.allocator import keep_large_blocks

PLAIN = Engine(chunk=8, threads=1, workers=1, keep_memory=False)


def learner() -> GradientAdaptation:
    model = Linear(input_shape=(1,), output_size=1)
    return GradientAdaptation(model=model, rule=SGD(lr=0.1), loop=InnerLoop(steps=1))


@pytest.mark.parametrize(
    "settings",
    [{"strategy": "per_task", "chunk": 2}, {"strategy": "batched", "chunk": 1}, {"chunk": 0}, {"tf32": 3}],
)
def test_settings_that_contradict_each_other_are_an_error(settings: dict) -> None:
    with pytest.raises(ValidationError):
        EngineSettings(**settings)


@pytest.mark.parametrize(("strategy", "chunk"), [("per_task", 4), ("batched", 1)])
def test_a_contradiction_is_one_line(metarun, strategy: str, chunk: int) -> None:
    done = metarun(f"engine.strategy={strategy}", f"engine.chunk={chunk}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"metarun: engine.strategy={strategy} computes ")
    assert done.stderr.count("\n") == 1


def test_the_strategy_is_whether_tasks_share_a_chunk() -> None:
    assert PLAIN.strategy == "batched"
    assert replace(PLAIN, chunk=1).strategy == "per_task"
    assert [split_into_chunks(tasks, PLAIN.chunk, 2)[0].stop for tasks in (100, 9, 1)] == [8, 5, 1]


def test_threads_workers_and_rematerialisation_are_used() -> None:
    before, made = torch.get_num_threads(), learner()
    assert replace(PLAIN, threads=2, workers=3, rematerialise=True).use(made).count == 3
    assert torch.get_num_threads() == 2
    assert made.rematerialise
    torch.set_num_threads(before)
    PLAIN.use(made)
    assert not made.rematerialise


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_what_was_asked_for(tf32: bool) -> None:
    replace(PLAIN, tf32=tf32).use(learner())
    assert torch.backends.cuda.matmul.allow_tf32 == tf32
    assert torch.backends.cudnn.allow_tf32 == tf32


def test_memory_is_kept_where_the_c_library_is_glibc() -> None:
    on_glibc = platform.libc_ver()[0] == "glibc"
    assert keep_large_blocks() == on_glibc
