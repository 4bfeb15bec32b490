"""How the work is computed (`engine=`): tasks in memory at once, threads, workers, compiled or not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, PositiveInt, model_validator

from metarun.allocator import keep_large_blocks
from metarun.learners import Learner
from metarun.workers import Workers

Strategy = Literal["batched", "per_task"]


class EngineSettings(BaseModel, extra="forbid", frozen=True):
    """Attributes are the keys of conf/engine, in words there."""

    strategy: Literal["auto"] | Strategy = "auto"
    chunk: Literal["auto"] | PositiveInt = "auto"
    threads: Literal["auto"] | PositiveInt = "auto"
    workers: Literal["auto"] | PositiveInt = "auto"
    compile: bool = False
    rematerialise: bool = False
    tf32: bool = False

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.strategy == "per_task" and self.chunk not in ("auto", 1):
            raise ValueError(
                "engine.strategy=per_task computes one task at a time: leave engine.chunk at auto"
            )
        if self.strategy == "batched" and self.chunk == 1:
            raise ValueError(
                "engine.strategy=batched computes several tasks at once: leave engine.chunk at auto"
            )
        return self


@dataclass(frozen=True)
class Engine:
    """What was chosen for a run, once and for all of it, so that its bits do not change.

    Attributes:
        chunk: tasks in memory at once, for each worker, while training and while evaluating.
        threads: of each operation of torch on a CPU.
        workers: chunks computed at once.
        keep_memory: whether the C library keeps large blocks for the next step.
        compile: whether the meta-gradient is compiled.
        rematerialise: whether inner steps are computed again in the backward pass instead of kept.
        tf32: whether a GPU may round to TF32 in matrix products and convolutions.
    """

    chunk: int
    threads: int
    workers: int
    keep_memory: bool
    compile: bool = False
    rematerialise: bool = False
    tf32: bool = False

    @property
    def strategy(self) -> Strategy:
        """Whether tasks are computed together, or one after another."""
        return "per_task" if self.chunk == 1 else "batched"

    def use(self, learner: Learner[Any]) -> Workers:
        """Make torch and the learner work like this from now on, and return the workers."""
        torch.set_num_threads(self.threads)
        if self.keep_memory:
            keep_large_blocks()
        # torch allows TF32 for convolutions by default.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32
        learner.rematerialise = self.rematerialise
        return Workers(self.workers)

    def size(self, tasks: int) -> int:
        """Return how many of so many tasks really form a chunk."""
        return min(self.chunk, math.ceil(tasks / self.workers))
