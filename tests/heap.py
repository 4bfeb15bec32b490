"""How much memory a meta-gradient needs, in a process of its own: `python heap.py` prints it as JSON.

In a process that has run many tests glibc takes a minute to look its heap over, again and again.
"""

from __future__ import annotations

import ctypes
import json

from torch.utils._python_dispatch import TorchDispatchMode

from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact, Progress
from metarun.models import MLP
from metarun.rules import SGD
from metarun.tasks import Sinusoid


class Heap(TorchDispatchMode):
    """The most bytes that the C library has handed out, looked up after every operation."""

    def __init__(self) -> None:
        super().__init__()
        names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
        kind = type(
            "mallinfo2", (ctypes.Structure,), {"_fields_": [(n, ctypes.c_size_t) for n in names.split()]}
        )
        self._ask = ctypes.CDLL(None).mallinfo2
        self._ask.restype = kind
        self.start = self.most = self.now()

    def now(self) -> int:
        found = self._ask()
        return found.uordblks + found.hblkhd

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.most = max(self.most, self.now())
        return result


def peak(steps: int, rematerialise: bool) -> int:
    source = Sinusoid(shot=10, query=10)
    made = GradientAdaptation(
        model=MLP(input_shape=(1,), output_size=1),
        rule=SGD(lr=0.01),
        loop=InnerLoop(steps=steps),
    )
    made.rematerialise = rematerialise
    batch = source.batch("train", 0, 64)
    for _ in range(2):  # in the first, modules are loaded and kept
        with Heap() as heap:
            Exact().gradients(made, batch, Progress(), 1.0)
    return heap.most - heap.start


if __name__ == "__main__":
    kinds = {"rematerialised": True, "kept": False}
    print(json.dumps({kind: {n: peak(n, how) for n in (5, 50)} for kind, how in kinds.items()}))
