"""JAX (Bradbury et al. 2018): the whole meta-batch's gradient as one compiled function.

Written for the networks of the cases: an MLP without norm, and Conv4 with batch norm and max-pooling. The
arrays are converted once, before timing starts; gradients are converted to torch only for the check.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from metarun.bench.work import Side, Work
from metarun.metagradients import FirstOrder
from metarun.models import Conv4
from metarun.rules import SGD

Arrays = dict[str, jax.Array]
Task = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""Support x and y, query x and y; images [n, height, width, channels]."""


def jax_library(work: Work) -> Side:
    """Return JAX's side: MLPs on all tasks at once, convolutional networks in a compiled loop over tasks."""
    one_task = jax.grad(_query_loss(work))
    convolutional = isinstance(work.learner.model, Conv4)

    def gradients(meta: Arrays, tasks: Task) -> Arrays:
        if convolutional:  # takes half the time of vmap, and less memory
            per_task = lax.map(partial(one_task, meta), tasks)
        else:
            per_task = jax.vmap(one_task, (None, 0))(meta, tasks)
        return {name: g.mean(0) for name, g in per_task.items()}

    is_float64 = work.batch.support.x.dtype == torch.float64
    compiled = jax.jit(gradients)
    batch = work.batch
    with jax.enable_x64(is_float64):  # True only in the check; a race uses JAX's default
        meta = {name: jnp.asarray(p.detach().numpy()) for name, p in work.learner.named_parameters()}
        parts = (batch.support.x, batch.support.y, batch.query.x, batch.query.y)
        tasks: Any = tuple(jnp.asarray(_channels_last(part).numpy()) for part in parts)
    meta_gradient: Arrays = {}

    def compute() -> None:
        with jax.enable_x64(is_float64):
            meta_gradient.update(jax.block_until_ready(compiled(meta, tasks)))

    def deliver() -> None:
        for name, p in work.learner.named_parameters():
            p.grad = torch.from_numpy(np.array(meta_gradient[name]))

    return Side(compute, deliver)


def _channels_last(part: torch.Tensor) -> torch.Tensor:
    return part.movedim(2, -1) if part.ndim == 5 else part


def _query_loss(work: Work) -> Callable[[Arrays, Task], jax.Array]:
    """Return the query loss of one task after its inner loop, as a function of all meta-parameters."""
    learner = work.learner
    rule, steps = learner.rule, learner.loop.steps
    first_order = isinstance(work.metagradient, FirstOrder)

    def query_loss(meta: Arrays, task: Task) -> jax.Array:
        def loss(params: Arrays, x: jax.Array, y: jax.Array) -> jax.Array:
            return _loss(_forward(params, x), y)

        def rate(name: str) -> jax.Array | float:
            return rule.lr if isinstance(rule, SGD) else meta[f"rule.rates.{name.replace('.', '/')}"]

        support_x, support_y, query_x, query_y = task
        params = {name.removeprefix("model."): p for name, p in meta.items() if name.startswith("model.")}
        for _ in range(steps):
            grads = jax.grad(loss)(params, support_x, support_y)
            if first_order:
                grads = lax.stop_gradient(grads)
            params = {name: p - rate(name) * grads[name] for name, p in params.items()}
        return loss(params, query_x, query_y)

    return query_loss


def _loss(outputs: jax.Array, y: jax.Array) -> jax.Array:
    if jnp.issubdtype(y.dtype, jnp.integer):
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], 1).mean()
    return jnp.square(outputs - y).mean()


def _forward(params: Arrays, x: jax.Array) -> jax.Array:
    """Return the outputs of the network, built from torch's parameter names."""
    for block in sorted({name.rsplit(".", 2)[0] for name in params if name.startswith("body.")}):
        if f"{block}.conv.weight" not in params:
            x = jax.nn.relu(x @ params[f"{block}.linear.weight"].T + params[f"{block}.linear.bias"])
            continue
        x = _convolution(x, params[f"{block}.conv.weight"]) + params[f"{block}.conv.bias"]
        x = (x - x.mean((0, 1, 2))) * lax.rsqrt(x.var((0, 1, 2)) + 1e-5)
        x = jax.nn.relu(_halve(x * params[f"{block}.norm.weight"] + params[f"{block}.norm.bias"]))
    features = x.transpose(0, 3, 1, 2).reshape(len(x), -1) if x.ndim == 4 else x
    return features @ params["head.weight"].T + params["head.bias"]


def _convolution(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Return a 3 × 3 convolution, computed as a matrix product over shifted images.

    The usual `lax.conv_general_dilated` under vmap is some thirty times slower on a CPU (jax 0.10).
    """
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    # [out, in, 3, 3] → [3 · 3 · in, out], in the order of the shifts.
    return jnp.concatenate(shifted, -1) @ weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))


def _halve(x: jax.Array) -> jax.Array:
    """Return the 2 × 2 max-pooling; an odd last row or column is left out, as in torch.

    The derivative of a `max` over axes compares the entries with the maximum. XLA recomputes them with other
    roundings, so possibly no entry is equal and 0 / 0 follows (jax 0.10). `lax.reduce_window` is slower.
    """
    height, width = (size // 2 * 2 for size in x.shape[1:3])
    (a, b), (c, d) = ((x[:, row:height:2, 0:width:2], x[:, row:height:2, 1:width:2]) for row in (0, 1))
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))
