"""The forward pass of one network with the parameters of T tasks."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import vmap

from metarun.learners.functional import Places
from metarun.learners.gradient.batched import batched_forward, kernels
from metarun.learners.soundness import copied
from metarun.rules import Parameters


class TaskForward:
    """Computes all tasks layer by layer if the model is a sequence of known layers, else by vmap.

    Or `plainly`: one task after another, by the model's own forward pass.

    Args:
        model: the network; its own parameters are not read.

    Attributes:
        known: whether the model is a sequence of known layers, without state and random numbers.
        has_kernels: whether metarun's own kernels compute some of the layers.
        plainly: whether to compute everything in the obvious way, to compare with.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._places = model, Places(model)
        self._batched = batched_forward(model)
        self.known = self._batched is not None
        self.has_kernels = self._batched is not None and self._batched.has_kernels
        self.plainly = False
        self._copies: dict[int, nn.Module] = {}

    def __call__(self, params: Parameters, shared: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Map x [T, n, …] to [T, n, out], with `params` [T, …] and with `shared`, which all tasks share."""
        tasks = x.shape[0]
        if self._batched is not None and not self.plainly:
            copies = {name: p.expand(tasks, *p.shape) for name, p in shared.items()}
            return self._batched({**params, **copies}, x)
        model = self._model_of_this_thread()

        def one_task(params: Parameters, x: Tensor) -> Tensor:
            output: Tensor = self._places.call(model, {**params, **shared}, (x,))
            return output

        if tasks == 1:  # a plain convolution is faster than a grouped convolution
            return one_task({name: p.squeeze(0) for name, p in params.items()}, x.squeeze(0))[None]
        if self.plainly:
            each = ({name: p[task] for name, p in params.items()} for task in range(tasks))
            return torch.stack([one_task(own, x[task]) for task, own in enumerate(each)])
        output: Tensor = vmap(one_task)(params, x)
        return output

    def expand(self, p: Tensor, tasks: int) -> Tensor:
        """Return a parameter for T tasks, [T, …]; in memory as the kernels read it if they compute with it.

        All adapted parameters and gradients then have this order, and none is copied to another.
        """
        if self.has_kernels and not self.plainly and kernels.takes(p):
            return kernels.expand(p, tasks)
        return p.expand(tasks, *p.shape)

    def forget_copies(self) -> None:
        """Drop the threads' copies, before the model's device or dtype changes."""
        self._copies.clear()

    def _model_of_this_thread(self) -> nn.Module:
        """Return the model, or another thread's copy, because a call writes parameters into the module."""
        if threading.current_thread() is threading.main_thread():
            return self._model
        thread = threading.get_ident()
        if thread not in self._copies:
            self._copies[thread] = copied(self._model)
        return self._copies[thread]
