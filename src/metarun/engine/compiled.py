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
    """A meta-gradient traced with all its derivatives and compiled, for at most two chunk sizes.

    Two suffice: all chunks of a meta-batch have the same size, except perhaps the last. The first meta-step
    fixes the computation; afterwards only tensors of the learner and the tasks may change. If compiling fails
    it logs a warning and computes the plain meta-gradient.

    Args:
        plain: the meta-gradient to compile.

    Attributes:
        gave_up: whether compiling has failed.
    """

    def __init__(self, plain: MetaGradient[Any]) -> None:
        self.plain, self.learner = plain, plain.learner
        self.second_order = plain.second_order
        self._graphs: dict[int, Graph] = {}
        self._weight = 0.0  # of each task; a constant in the graphs
        self.gave_up = False

    def check(self, learner: Learner[Any]) -> None:
        """Raise ConfigError where the plain meta-gradient cannot train this learner."""
        self.plain.check(learner)

    def prepare(self, learner: Learner[Any], tasks: Tasks, progress: Progress, weight: float) -> None:
        """Compile a graph for this number of tasks unless there is one; results are equal up to rounding."""
        self._weight = self._weight or weight
        if len(tasks) not in self._graphs and len(self._graphs) < 2 and not self.gave_up:
            self._compile(learner, tasks, progress)

    def gradients(self, learner: Learner[Any], tasks: Tasks, progress: Progress, weight: float) -> MetaStep:
        """Return the plain meta-gradient, computed by the graph for this number of tasks if there is one."""
        graph = self._graphs.get(len(tasks))
        if graph is None or weight != self._weight:
            return self.plain.gradients(learner, tasks, progress, weight)
        with torch.no_grad():
            results = graph(*_inputs(learner, tasks))
        return MetaStep(**results)

    def _compile(self, learner: Learner[Any], tasks: Tasks, progress: Progress) -> None:
        # A reboot clears torch's default folder for compiled code.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_directory() / "inductor"))
        from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler, TritonMissing
        from torch.fx.experimental.proxy_tensor import make_fx

        log.info("compiling the step of %d tasks: a minute the first time, later from the cache", len(tasks))
        start = time.monotonic()
        inputs = _inputs(learner, tasks)
        # On a CPU, also compile the calls between the kernels.
        options: dict[str, Any] = {"cpp_wrapper": True} if inputs[0].device.type == "cpu" else {}
        try:
            with torch.enable_grad():
                traced = make_fx(_Traceable(self.plain, learner, tasks, progress, self._weight))(*inputs)
            graph: Graph = torch.compile(traced, dynamic=False, options=options)
            with torch.no_grad():
                graph(*inputs)
        # The tracer raises many kinds of RuntimeError, for a branch on a value for instance.
        except (InvalidCxxCompiler, CppCompileError, TritonMissing, InductorError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            self.gave_up = True
            reason = str(error).strip().partition("\n")[0]
            log.warning("engine.compile: continuing uncompiled, as compiling fails here: %s", reason)
            return
        self._graphs[len(tasks)] = graph
        log.info("compiled in %.0f s", time.monotonic() - start)


def _inputs(learner: Learner[Any], tasks: Tasks) -> list[Tensor]:
    state = [tensor.detach() for tensor in (*learner.parameters(), *learner.buffers())]
    return [*state, *tasks.tensors()]


class _Traceable:
    """The meta-gradient as a function of tensors alone, for the tracer."""

    def __init__(
        self,
        metagradient: MetaGradient[Any],
        learner: Learner[Any],
        tasks: Tasks,
        progress: Progress,
        weight: float,
    ) -> None:
        state = (*learner.named_parameters(), *learner.named_buffers())
        self._trained = {name: tensor.requires_grad for name, tensor in state}
        self._step = _Step(metagradient, copied(learner), tasks, progress, weight)
        self._places = Places(self._step)

    def __call__(self, *tensors: Tensor) -> Results:
        count = len(self._trained)
        state = {
            f"learner.{name}": tensor.detach().requires_grad_(trained)
            for (name, trained), tensor in zip(self._trained.items(), tensors[:count], strict=True)
        }
        step: MetaStep = self._places.call(self._step, state, tensors[count:])
        return {
            field: {name: tensor.detach() for name, tensor in tensors.items()}
            for field, tensors in vars(step).items()
        }


class _Step(nn.Module):
    """A module, so that other tensors can replace the learner's parameters."""

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
        replacements = iter(tensors)
        tasks = map_tensors(self.tasks, lambda _: next(replacements))
        return self.metagradient.gradients(self.learner, tasks, self.progress, self.weight)
