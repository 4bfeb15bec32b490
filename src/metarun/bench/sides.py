"""Who takes part in a race: metarun, and its peers as far as they are installed and can do the work."""

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
    """Another way to the same meta-gradient.

    Attributes:
        start: makes it ready for a work.
        can: whether it can do a work on a device.
        package: what must be installed for it.
    """

    start: Start
    can: Callable[[Work, torch.device], bool]
    package: str

    @property
    def installed(self) -> bool:
        """Whether the package is there."""
        return find_spec(self.package) is not None


def metarun(work: Work) -> Side:
    """The engine, as a training uses it."""
    executor = Executor(work.engine, work.learner)
    metagradient = Compiled(work.metagradient) if work.engine.compile else work.metagradient
    return Side(lambda: work.compute(executor, metagradient))


def episodes(work: Work) -> Side:
    """What a meta-gradient waits for: the next meta-batch from its source."""
    work.source.prepare(work.batch.support.x.device)
    prefetcher, steps = Prefetcher(work.source, len(work.batch)), count()
    return Side(lambda: prefetcher.batch(next(steps)))


def _torch(function: Callable[[Work], None]) -> Start:
    return lambda work: Side(partial(function, work))


def _jax(work: Work) -> Side:
    from metarun.bench.jax_peer import jax_library  # and JAX with it, which may be absent

    return jax_library(work)


def _anything(work: Work, device: torch.device) -> bool:  # noqa: ARG001
    return True


def _second_order(work: Work, device: torch.device) -> bool:  # noqa: ARG001
    # higher, asked for no graph, leaves the initialisation without a gradient too; TorchOpt always makes one.
    return not isinstance(work.metagradient, FirstOrder)


def _one_rate(work: Work, device: torch.device) -> bool:
    # TorchOpt's optimizers take a number or a schedule of numbers for a rate, no tensors to be learned.
    return _second_order(work, device) and isinstance(work.learner.rule, SGD)


def _compiled_too(work: Work, device: torch.device) -> bool:
    # The JAX that the extra installs is the one for CPUs; accelerators have builds of their own. It always
    # compiles, so it races metarun compiled; on images metarun has no compiler to gain from.
    images = len(work.source.input_shape) == 3
    return device.type == "cpu" and (work.settings.compile or images)


PEERS: dict[str, Peer] = {
    "loop": Peer(_torch(torch_peers.per_task_loop), _anything, "torch"),
    "nested": Peer(_torch(torch_peers.nested_functorch), _anything, "torch"),
    "higher": Peer(_torch(torch_peers.higher_library), _second_order, "higher"),
    "torchopt": Peer(_torch(torch_peers.torchopt_library), _one_rate, "torchopt"),
    "jax": Peer(_jax, _compiled_too, "jax"),
}


def start(name: str, work: Work) -> Side:
    """Return a side by its name, ready for a work."""
    own: dict[str, Start] = {"metarun": metarun, "episodes": episodes}
    return own[name](work) if name in own else PEERS[name].start(work)
