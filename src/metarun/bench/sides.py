"""The sides of a race: metarun, and the peers that are installed and can do the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import count

import torch

from metarun.bench import torch_peers
from metarun.bench.work import Side, Work
from metarun.engine.compiled import Compiled
from metarun.engine.executor import Executor
from metarun.metagradients import FirstOrder
from metarun.rules import SGD
from metarun.tasks.prefetch import Prefetcher

Start = Callable[[Work], Side]


@dataclass(frozen=True)
class Peer:
    """Another way to compute the same meta-gradient.

    Attributes:
        start: prepares it for a work.
        can: returns whether it can do a work on a device.
        package: the package that it needs.
    """

    start: Start
    can: Callable[[Work, torch.device], bool]
    package: str

    @property
    def installed(self) -> bool:
        """Whether the package is installed."""
        return find_spec(self.package) is not None


def metarun(work: Work) -> Side:
    """Return metarun's side: the engine, as a training uses it."""
    executor = Executor(work.engine, work.learner)
    metagradient = Compiled(work.metagradient) if work.engine.compile else work.metagradient
    return Side(lambda: work.compute(executor, metagradient))


def episodes(work: Work) -> Side:
    """Return the side that only fetches the next meta-batch from its source."""
    work.source.prepare(work.batch.support.x.device)
    prefetcher, steps = Prefetcher(work.source, len(work.batch)), count()
    return Side(lambda: prefetcher.batch(next(steps)))


def _torch(function: Callable[[Work], None]) -> Start:
    return lambda work: Side(partial(function, work))


def _jax(work: Work) -> Side:
    from metarun.bench.jax_peer import jax_library  # imports JAX, which may not be installed

    return jax_library(work)


def _anything(work: Work, device: torch.device) -> bool:  # noqa: ARG001
    return True


def _inner_loops(work: Work, device: torch.device) -> bool:  # noqa: ARG001
    return work.has_inner_loop


def _second_order(work: Work, device: torch.device) -> bool:
    # higher, without a graph, leaves the initialisation without a gradient; TorchOpt always builds the graph.
    return _inner_loops(work, device) and not isinstance(work.metagradient, FirstOrder)


def _one_rate(work: Work, device: torch.device) -> bool:
    # The rate of TorchOpt's optimizers is a number or a schedule of numbers, not a learnable tensor.
    return _second_order(work, device) and isinstance(work.learner.rule, SGD)


def _compiled_too(work: Work, device: torch.device) -> bool:
    # The extra installs JAX for CPUs; accelerators need other builds. JAX always compiles, so it races
    # compiled metarun; on images compiling does not make metarun faster.
    images = len(work.source.input_shape) == 3
    return work.has_inner_loop and device.type == "cpu" and (work.settings.compile or images)


PEERS: dict[str, Peer] = {
    "loop": Peer(_torch(torch_peers.per_task_loop), _anything, "torch"),
    "nested": Peer(_torch(torch_peers.nested_functorch), _inner_loops, "torch"),
    "higher": Peer(_torch(torch_peers.higher_library), _second_order, "higher"),
    "torchopt": Peer(_torch(torch_peers.torchopt_library), _one_rate, "torchopt"),
    "jax": Peer(_jax, _compiled_too, "jax"),
}


def start(name: str, work: Work) -> Side:
    """Return a side by its name, prepared for a work."""
    own_sides: dict[str, Start] = {"metarun": metarun, "episodes": episodes}
    return own_sides[name](work) if name in own_sides else PEERS[name].start(work)
