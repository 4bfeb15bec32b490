"""How the work is computed (`engine=`): tasks in memory at once, threads, workers, compiled or not."""

from __future__ import annotations

import logging
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, model_validator

from metarun.errors import ConfigError
from metarun.fields import Size, Threads
from metarun.learners import Learner, kernels_available, use_kernels
from metarun.system.allocator import keep_large_blocks
from metarun.system.workers import Workers

log = logging.getLogger("metarun")

Strategy = Literal["batched", "per_task"]


class EngineSettings(BaseModel, extra="forbid", frozen=True):
    """Attributes are the keys of conf/engine, which describes them."""

    strategy: Literal["auto"] | Strategy = "auto"
    chunk: Literal["auto"] | Size = "auto"
    threads: Literal["auto"] | Threads = "auto"
    workers: Literal["auto"] | Threads = "auto"
    compile: bool = False
    rematerialise: bool = False
    kernels: Literal["auto"] | bool = "auto"
    plain: bool = False
    tf32: bool = False
    bf16: bool = False

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
        if self.plain:
            fast = {"strategy": "batched", "compile": True, "rematerialise": True, "kernels": True}
            typed = [f"engine.{key}" for key, value in fast.items() if getattr(self, key) == value]
            typed += ["engine.chunk"] if self.chunk not in ("auto", 1) else []
            if typed:
                raise ValueError(f"engine.plain=true computes without {typed[0]}: leave one of them out")
        return self


@dataclass(frozen=True)
class Engine:
    """How a run is computed, chosen once for the whole run so that its bits do not change.

    Attributes:
        chunk: tasks in memory at once, per worker.
        threads: CPU threads of each torch operation.
        workers: chunks computed at once.
        keep_memory: whether the C library keeps large blocks for the next step.
        compile: whether the meta-gradient is compiled.
        rematerialise: whether the backward pass recomputes inner steps instead of keeping them.
        kernels: whether metarun's own kernels compute convolutions and batch norms on a CPU.
        plain: whether everything is computed in the obvious way, one task after another.
        tf32: whether a GPU may round to TF32 in matrix products and convolutions.
        bf16: whether a GPU computes in bfloat16 where torch considers it safe (autocast).
        plain_attention: whether attention uses only kernels that have second derivatives.
        seconds_per_task: as measured for the choice; None if nothing was measured.
    """

    chunk: int
    threads: int = 1
    workers: int = 1
    keep_memory: bool = False
    compile: bool = False
    rematerialise: bool = False
    kernels: bool = False
    plain: bool = False
    tf32: bool = False
    bf16: bool = False
    plain_attention: bool = False
    seconds_per_task: float | None = field(default=None, compare=False)

    @property
    def strategy(self) -> Strategy:
        """Whether tasks are computed together or one after another."""
        return "per_task" if self.chunk == 1 else "batched"

    def in_words(self) -> dict[str, int]:
        """Return the settings that are chosen by measuring."""
        return {"chunk": self.chunk, "workers": self.workers, "threads": self.threads}

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which a thread computes: of bfloat16 where `bf16` says so."""
        return torch.autocast("cuda", torch.bfloat16) if self.bf16 else nullcontext()

    def use(self, learner: Learner[Any]) -> Workers:
        """Apply these settings to torch and the learner, and return the workers."""
        torch.set_num_threads(self.threads)
        if self.keep_memory:
            keep_large_blocks()
        # torch allows TF32 for convolutions by default.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32
        use_attention(plain=self.plain_attention)
        learner.rematerialise = self.rematerialise
        learner.compute_plainly(plainly=self.plain)
        if not use_kernels(enabled=self.kernels):
            log.warning("engine.kernels: they cannot be compiled here; results are equal up to rounding")
        return Workers(self.workers)


def with_kernels(settings: EngineSettings, learner: Learner[Any], device: torch.device) -> bool:
    """Return whether metarun's own kernels are used.

    Raises:
        ConfigError: they are demanded, and cannot be used.
    """
    if settings.kernels is False or settings.plain or settings.compile:
        return False
    missing = ""
    if device.type != "cpu":
        missing = "they are for a CPU"
    elif not learner.has_kernels:
        missing = "this model has no layers for them"
    elif not kernels_available():
        missing = "they cannot be compiled here, without a C++ compiler and ninja"
    if missing and settings.kernels is True:
        raise ConfigError(f"engine.kernels=true: {missing}: type engine.kernels=auto")
    return not missing


def use_attention(*, plain: bool) -> None:
    """Let torch compute attention with its plain kernels only, or with any."""
    # torch warns at every start where vmap falls back to a loop; whether batching still pays is measured.
    warnings.filterwarnings("ignore", message="There is a performance drop")
    for allow in (
        torch.backends.cuda.enable_flash_sdp,  # on CPUs too
        torch.backends.cuda.enable_mem_efficient_sdp,
        torch.backends.cuda.enable_cudnn_sdp,
        torch.backends.mha.set_fastpath_enabled,
    ):
        allow(not plain)
