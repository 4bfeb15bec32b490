"""How close a meta-gradient comes to the machine's peak: operations and bytes against measured rates."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from metarun.bench.cases import CASES, EMBEDDING
from metarun.bench.race import Racer
from metarun.bench.rows import Row, conditions
from metarun.bench.work import make_work
from metarun.engine.executor import Executor
from metarun.engine.settings import Engine

log = logging.getLogger("metarun")

_TURNS = 5


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that operations read and write, as if there were no cache; views count nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        result = operation(*arguments, **(keywords or {}))
        if not operation.is_view:
            leaves = tree_leaves((arguments, keywords, result))
            tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def operations_and_bytes(overrides: list[str]) -> tuple[float, float]:
    """Return the floating-point operations of a work's meta-gradient, and the bytes that it reads and writes.

    They are counted for two tasks and for four, and extrapolated, so that work that does not depend on the
    number of tasks counts once. A multiplication and an addition are two operations; only matrix products and
    convolutions count.
    """
    counts = []
    for tasks in (2, 4):
        work = make_work(overrides, torch.device("cpu"), tasks=tasks)
        # Task by task, because torch miscounts grouped convolutions.
        with FlopCounterMode(display=False) as operations, Traffic() as traffic:
            work.compute(Executor(Engine(chunk=1), work.learner))
        counts.append((operations.get_total_flops(), traffic.bytes))
    (two_flop, two_bytes), (four_flop, four_bytes) = counts
    pairs = (work.meta_batch - 2) / 2
    return two_flop + pairs * (four_flop - two_flop), two_bytes + pairs * (four_bytes - two_bytes)


def peaks(device: torch.device, seconds: float) -> dict[str, float]:
    """Return this device's measured peaks, per second: operations by kind, and bytes of a copy."""
    on_cpu = device.type == "cpu"
    side, images = (1024, 64 * torch.get_num_threads()) if on_cpu else (8192, 4096)
    a = torch.randn(side, side, device=device)
    x = torch.randn(images, 64, 14, 14, device=device).contiguous(memory_format=torch.channels_last)
    w = torch.randn(64, 64, 3, 3, device=device)
    rates = {}
    for tf32 in (False,) if on_cpu else (False, True):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        kind = "TF32" if tf32 else "float32"
        rates[f"matrix product, {kind}"] = 2 * side**3 / _fastest(lambda: a @ a, device, seconds)
        convolve = lambda: torch.nn.functional.conv2d(x, w, padding=1)
        rates[f"convolution, {kind}"] = 2 * x.numel() * 64 * 9 / _fastest(convolve, device, seconds)
    source = torch.empty(2**26, device=device)
    target = torch.empty_like(source)
    rates["copied bytes"] = 2 * 2**28 / _fastest(lambda: target.copy_(source), device, seconds)
    return rates


def _fastest(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return the least time in seconds of repeated calls."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < _TURNS or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def floor(device_name: str, seconds: float) -> Iterator[Row]:
    """Yield the measured peaks, then a row for each case: its least time by operations and by bytes.

    The floor is the time of the operations at the fastest measured float32 rate. The time by bytes is that of
    every single operation at the speed of a copy. Fused or cached work needs fewer bytes, so this is not a
    bound, but shows whether memory matters.
    """
    device = torch.device(device_name)
    log.info("floor: the machine's peaks")
    rates = peaks(device, seconds / 4)
    for name, rate in rates.items():
        yield {"case": "peak", "what": name, "giga_per_second": rate / 1e9, **conditions(device_name)}
    fastest = max(rate for name, rate in rates.items() if name.endswith("float32"))
    for name, overrides in CASES.items():
        if name in EMBEDDING:
            continue
        log.info("floor: %s", name)
        operations, traffic_bytes = operations_and_bytes(overrides)
        row = {
            "case": "floor",
            "work": name,
            "gflop": operations / 1e9,
            "gigabytes": traffic_bytes / 1e9,
            "floor_ms": 1e3 * operations / fastest,
            "bytes_ms": 1e3 * traffic_bytes / rates["copied bytes"],
            **conditions(device_name),
        }
        with Racer("metarun", overrides, device_name) as racer:
            racer.wait_until_ready()
            racer.take_first_turn()
            for _ in range(_TURNS):
                racer.take_turn()
            if racer.failed:
                yield row | {"failed": racer.failed}
            else:
                yield row | {"metarun_ms": racer.ms, "share": row["floor_ms"] / racer.ms}
