"""The meta-gradient as one compiled graph (`engine.compile=true`)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metarun.learners import Learner
from metarun.learners.functional import Places
from metarun.learners.soundness import copied
from metarun.metagradients import MetaGradient, MetaStep, Progress
from metarun.system.allocator import is_out_of_memory
from metarun.system.files import cache_directory
from metarun.tasks import Tasks
from metarun.tasks.types import map_tensors

log = logging.getLogger("metarun")

Results = dict[str, dict[str, Tensor]]
Graph = Callable[..., Results]


class Compiled(MetaGradient[Learner[Any]]):
    """Another meta-gradient, traced with all its derivatives, and compiled, for two sizes of chunks.

    Two, since a meta-batch is cut into chunks of equal size as far as that goes. What a step does is fixed at
    the first: only tensors of the learner and the tasks may change between meta-steps. Where there is no
    compiler a warning says so, and nothing is compiled.

    Args:
        plain: what is compiled.

    Attributes:
        gave_up: whether nothing can be compiled here.
    """

    def __init__(self, plain: MetaGradient[Any]) -> None:
        self.plain, self.learner = plain, plain.learner
        self.second_order = plain.second_order
        self._graphs: dict[int, Graph] = {}
        self._weight = 0.0  # of a task, which the graphs have in them
        self.gave_up = False

    def check(self, learner: Learner[Any]) -> None:
        """Raise ConfigError where the plain meta-gradient cannot train this learner."""
        self.plain.check(learner)

    def prepare(self, learner: Learner[Any], tasks: Tasks, progress: Progress, weight: float) -> None:
        """Compile what is new about these tasks; up to rounding it computes the same."""
        self._weight = self._weight or weight
        if len(tasks) not in self._graphs and len(self._graphs) < 2 and not self.gave_up:
            self._compile(learner, tasks, progress)

    def gradients(self, learner: Learner[Any], tasks: Tasks, progress: Progress, weight: float) -> MetaStep:
        """Return what the plain meta-gradient returns, by the graph for so many tasks if there is one."""
        graph = self._graphs.get(len(tasks))
        if graph is None or weight != self._weight:
            return self.plain.gradients(learner, tasks, progress, weight)
        with torch.no_grad():
            results = graph(*_inputs(learner, tasks))
        return MetaStep(**results)

    def _compile(self, learner: Learner[Any], tasks: Tasks, progress: Progress) -> None:
        # Where torch keeps compiled code by default, a reboot clears it.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_directory() / "inductor"))
        from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler, TritonMissing
        from torch.fx.experimental.proxy_tensor import make_fx

        log.info("compiling the step of %d tasks: a minute the first time, later from the cache", len(tasks))
        began = time.monotonic()
        inputs = _inputs(learner, tasks)
        # On a CPU the calls between the kernels are compiled too.
        options: dict[str, Any] = {"cpp_wrapper": True} if inputs[0].device.type == "cpu" else {}
        try:
            with torch.enable_grad():
                traced = make_fx(_Traceable(self.plain, learner, tasks, progress, self._weight))(*inputs)
            graph: Graph = torch.compile(traced, dynamic=False, options=options)
            with torch.no_grad():
                graph(*inputs)
        # What a tracer cannot follow, such as a branch on a value, is a RuntimeError of many kinds.
        except (InvalidCxxCompiler, CppCompileError, TritonMissing, InductorError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            self.gave_up = True
            reason = str(error).strip().partition("\n")[0]
            log.warning("engine.compile: going on without, since this cannot be compiled here: %s", reason)
            return
        self._graphs[len(tasks)] = graph
        log.info("compiled in %.0f s", time.monotonic() - began)


def _inputs(learner: Learner[Any], tasks: Tasks) -> list[Tensor]:
    state = [each.detach() for each in (*learner.parameters(), *learner.buffers())]
    return [*state, *tasks.tensors()]


class _Traceable:
    """The meta-gradient as a function of tensors alone, for a tracer to look at."""

    def __init__(
        self,
        metagradient: MetaGradient[Any],
        learner: Learner[Any],
        tasks: Tasks,
        progress: Progress,
        weight: float,
    ) -> None:
        state = (*learner.named_parameters(), *learner.named_buffers())
        self._trained = {name: each.requires_grad for name, each in state}
        self._step = _Step(metagradient, copied(learner), tasks, progress, weight)
        self._places = Places(self._step)

    def __call__(self, *tensors: Tensor) -> Results:
        count = len(self._trained)
        state = {
            f"learner.{name}": each.detach().requires_grad_(trained)
            for (name, trained), each in zip(self._trained.items(), tensors[:count], strict=True)
        }
        step: MetaStep = self._places.call(self._step, state, tensors[count:])
        return {kind: {name: each.detach() for name, each in own.items()} for kind, own in vars(step).items()}


class _Step(nn.Module):
    """A module, so that other tensors can be put in the place of the learner's parameters."""

    def __init__(
        self,
        metagradient: MetaGradient[Any],
        learner: Learner[Any],
        tasks: Tasks,
        progress: Progress,
        weight: float,
    ) -> None:
        super().__init__()
        self.metagradient, self.learner, self.tasks = metagradient, learner, tasks
        self.progress, self.weight = progress, weight

    def forward(self, *tensors: Tensor) -> MetaStep:
        given = iter(tensors)
        tasks = map_tensors(self.tasks, lambda _: next(given))
        return self.metagradient.gradients(self.learner, tasks, self.progress, self.weight)
