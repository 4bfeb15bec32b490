"""The forward pass of T networks with the same layers and different weights.

Images of T tasks are folded into channels, [n, T·C, H, W] in channels_last, so that grouped convolutions
and the per-channel kernels of norms and pools compute all tasks like one network. Where metarun's own
kernels compute them they are pixels, [T, n, H, W, C]. Other activations are rows, [T, n, …], and a linear
layer is one batched matrix product. Dispatch costs the same for any T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.learners.gradient.batched import kernels
from metarun.learners.gradient.batched.convolution import Grouped, convolve
from metarun.learners.gradient.batched.first_block import first_block
from metarun.learners.gradient.batched.normalisation import PerChannel, check_can_normalise, normalise

Parameters = dict[str, Tensor]

Step = Callable[[Parameters, Tensor, int], Tensor]
"""Maps parameters, activations and the number of tasks to activations."""

Layout = Literal["rows", "folded", "pixels"]


class Plan(NamedTuple):
    """One step: the number of layers it covers, its input and output layouts, and its function."""

    layers: int
    wants: Layout
    leaves: Layout
    step: Step


# Elementwise, so the layout does not matter.
_ELEMENTWISE = (
    *(nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus),
)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


class BatchedForward:
    """The forward pass of T networks that are a sequence of known layers.

    Args:
        layers: the layers with the prefixes of their parameters' names.

    Attributes:
        has_kernels: whether metarun's own kernels can compute the convolutions and norms.

    Raises:
        LookupError: a layer is not known.
    """

    def __init__(self, layers: Sequence[tuple[str, nn.Module]]) -> None:
        self._steps = _steps(layers, with_kernels=False)
        self.has_kernels = _suit_kernels([layer for _, layer in layers])
        self._kernel_steps = _steps(layers, with_kernels=True) if self.has_kernels else []

    def __call__(self, params: Parameters, x: Tensor) -> Tensor:
        """Map parameters by name, [T, …], and inputs [T, n, …] to outputs [T, n, out]."""
        tasks = x.shape[0]
        for step in self._kernel_steps if self.has_kernels and kernels.takes(x) else self._steps:
            x = step(params, x, tasks)
        return x


@contextmanager
def recording(record: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Have `record` called for each norm that the kernels compute in this thread.

    Args:
        record: gets the prefix of a norm's name, its means and its unbiased variances, [T, channels].
    """
    token = _record.set(record)
    try:
        yield
    finally:
        _record.reset(token)


_record: ContextVar[Callable[[str, Tensor, Tensor], None] | None] = ContextVar("record", default=None)


def batched_forward(model: nn.Module) -> BatchedForward | None:
    """Return the forward pass of T such networks, or None if the model is not a sequence of known layers.

    The model must be an nn.Sequential, possibly nested or subclassed without another forward. Its layers must
    be of the types in Conv4 and MLP, or have a method `over_tasks` (see `Context`). Other models use vmap.
    Norms have no running statistics.
    """
    for module in model.modules():
        hooks = [module._forward_hooks, module._forward_pre_hooks]
        hooks += [module._backward_hooks, module._backward_pre_hooks]
        custom_call = "forward" in vars(module) or type(module).__call__ is not nn.Module.__call__
        if custom_call or any(hooks):
            return None
    layers = list(_layers(model, ""))
    names = {name for name, _ in model.named_parameters()}
    if any(f"{prefix}{n}" not in names for prefix, layer in layers for n, _ in layer.named_parameters()):
        return None  # a layer that is registered twice has its parameters under one name only
    if not all(_is_torchs(layer) or "over_tasks" in vars(type(layer)) for _, layer in layers):
        return None  # a user's subclass may compute something else
    first = next((layer for _, layer in layers if not isinstance(layer, nn.Flatten | nn.Identity)), None)
    if getattr(first, "inplace", False):
        return None  # an in-place layer would write into the examples
    try:
        return BatchedForward(layers)
    except LookupError:
        return None


def _steps(layers: Sequence[tuple[str, nn.Module]], *, with_kernels: bool) -> list[Step]:
    """Return the steps of a forward pass.

    Raises:
        LookupError: a layer is not known.
    """
    left = list(layers)
    steps: list[Step] = []
    layout: Layout = "rows"
    while left:
        plan = _plan(left, layout, with_kernels=with_kernels)
        if plan is None:
            raise LookupError(f"{left[0][1]}: it is not known how to compute it for several tasks")
        steps += _between(layout, plan.wants)
        steps.append(plan.step)
        layout = plan.leaves
        del left[: plan.layers]
    return [*steps, *_between(layout, "rows")]


def _between(before: Layout, after: Layout) -> list[Step]:
    """Return the steps from one layout to another."""
    if before == after:
        return []
    to_rows: dict[Layout, list[Step]] = {"rows": [], "folded": [_unfold], "pixels": [_to_rows]}
    from_rows: dict[Layout, list[Step]] = {"rows": [], "folded": [_fold], "pixels": [_to_pixels]}
    return [*to_rows[before], *from_rows[after]]


def _layers(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    if type(module).forward is nn.Sequential.forward:
        for name, child in module._modules.items():  # named_children skips repeated modules
            if child is not None:
                yield from _layers(child, f"{prefix}{name}.")
    else:
        yield prefix, module


def _plan(  # noqa: PLR0911  (one per kind)
    layers: list[tuple[str, nn.Module]], layout: Layout, *, with_kernels: bool
) -> Plan | None:
    """Return the plan of the next step, or None if the next layer is not known."""
    name, layer = layers[0]
    kind, following = type(layer), [type(module) for _, module in layers[1:]]
    if not _is_torchs(layer):
        over_tasks: Callable[[Parameters, Tensor], Tensor] = layer.over_tasks(name)  # type: ignore[operator]
        return Plan(1, "rows", "rows", lambda params, x, tasks: over_tasks(params, x))  # noqa: ARG005
    if kind in _ELEMENTWISE:
        return Plan(1, layout, layout, lambda params, x, tasks: layer(x))  # noqa: ARG005
    if kind in _POOLS:
        return Plan(1, "folded", "folded", lambda params, x, tasks: layer(x))  # noqa: ARG005
    if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1):
        return Plan(1, "rows", "rows", lambda params, x, tasks: x.flatten(2))  # noqa: ARG005
    if kind is nn.Linear:
        return Plan(1, "rows", "rows", _linear(name))
    if isinstance(layer, nn.LayerNorm):
        return Plan(1, "rows", "rows", _layer_norm(name, layer))
    if isinstance(layer, nn.GroupNorm):
        return Plan(1, layout, layout, _per_channel(layout, _group_norm(name, layer)))
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        relu = following[:1] == [nn.ReLU]
        return Plan(1 + relu, layout, layout, _per_channel(layout, _batch_norm(name, layer, relu=relu)))
    if kind is nn.Conv2d:
        return _plan_convolution(layers, with_kernels=with_kernels)
    return None


def _is_torchs(layer: nn.Module) -> bool:
    return type(layer).__module__.startswith("torch.nn.modules.")


def _fold(params: Parameters, x: Tensor, tasks: int) -> Tensor:  # noqa: ARG001
    _, n, channels, height, width = x.shape
    if tasks * channels == 1:  # with one channel, torch would take the strides for the contiguous layout
        images = x.reshape(n, 1, height, width).contiguous()
        return images.as_strided((n, 1, height, width), (height * width, 1, width, 1))
    images = x.permute(1, 3, 4, 0, 2).reshape(n, height, width, tasks * channels)
    return images.contiguous().permute(0, 3, 1, 2)


def _unfold(params: Parameters, x: Tensor, tasks: int) -> Tensor:  # noqa: ARG001
    n, channels, height, width = x.shape
    images = x.permute(0, 2, 3, 1).reshape(n, height, width, tasks, channels // tasks)
    return images.permute(3, 0, 4, 1, 2)


def _to_pixels(params: Parameters, x: Tensor, tasks: int) -> Tensor:  # noqa: ARG001
    return x.permute(0, 1, 3, 4, 2).contiguous()


def _to_rows(params: Parameters, x: Tensor, tasks: int) -> Tensor:  # noqa: ARG001
    return x.permute(0, 1, 4, 2, 3)


def _per_channel(layout: Layout, step: Step) -> Step:
    """Return a step on [n, T·C, …], converted to rows [T, n, C, …] if `layout` is rows."""
    if layout == "folded":
        return step

    def on_rows(params: Parameters, x: Tensor, tasks: int) -> Tensor:
        output = step(params, x.transpose(0, 1).flatten(1, 2), tasks)
        rows: Tensor = output.unflatten(1, (tasks, -1))
        return rows.transpose(0, 1)

    return on_rows


def _linear(name: str) -> Step:
    def step(params: Parameters, x: Tensor, tasks: int) -> Tensor:  # noqa: ARG001
        weight, bias = params[f"{name}weight"].transpose(1, 2), params.get(f"{name}bias")
        rows = x if x.dim() == 3 else x.flatten(1, -2)
        out = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, weight)
        return out if x.dim() == 3 else out.unflatten(1, x.shape[1:-1])

    return step


def _layer_norm(name: str, layer: nn.LayerNorm) -> Step:
    def step(params: Parameters, x: Tensor, tasks: int) -> Tensor:
        x = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
        ones = [1] * (x.dim() - 1 - len(layer.normalized_shape))
        weight, bias = params.get(f"{name}weight"), params.get(f"{name}bias")
        if weight is not None:
            x = x * weight.reshape(tasks, *ones, *layer.normalized_shape)
        if bias is not None:
            x = x + bias.reshape(tasks, *ones, *layer.normalized_shape)
        return x

    return step


def _group_norm(name: str, layer: nn.GroupNorm) -> Step:
    def step(params: Parameters, x: Tensor, tasks: int) -> Tensor:
        weight, bias = params.get(f"{name}weight"), params.get(f"{name}bias")
        return F.group_norm(
            x,
            tasks * layer.num_groups,
            None if weight is None else weight.flatten(),
            None if bias is None else bias.flatten(),
            layer.eps,
        )

    return step


def _batch_norm(name: str, layer: nn.BatchNorm1d | nn.BatchNorm2d, *, relu: bool) -> Step:
    def step(params: Parameters, x: Tensor, tasks: int) -> Tensor:  # noqa: ARG001
        gamma, beta = _scale_and_shift(name, params, x, x.shape[1])
        return normalise(x, gamma, beta, PerChannel(layer.eps, pool=False, relu=relu))

    return step


def _scale_and_shift(name: str, params: Parameters, x: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Return a batch norm's γ and β [T·C]; 1 and 0 if it has no parameters."""
    gamma, beta = params.get(f"{name}weight"), params.get(f"{name}bias")
    return (
        x.new_ones(channels) if gamma is None else gamma.flatten(),
        x.new_zeros(channels) if beta is None else beta.flatten(),
    )


def _plan_convolution(layers: list[tuple[str, nn.Module]], *, with_kernels: bool) -> Plan | None:
    """Plan a convolution, with the batch norm, the 2 × 2 max-pool and the ReLU that follow it."""
    (name, layer), following = layers[0], [module for _, module in layers[1:4]]
    assert isinstance(layer, nn.Conv2d)
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    if not following or not isinstance(following[0], nn.BatchNorm2d):
        return Plan(1, "folded", "folded", _convolution(name, layer))
    pool = len(following) > 1 and _halves(following[1])
    relu = [type(module) for module in following[1 + pool : 2 + pool]] == [nn.ReLU]
    if with_kernels:
        normalisation = kernels.PerTask(following[0].eps, pool, relu)
        return Plan(2 + pool + relu, "pixels", "pixels", _kernel_block(name, layers[1][0], normalisation))
    block = _block(name, layer, layers[1][0], PerChannel(following[0].eps, pool, relu))
    return Plan(2 + pool + relu, "folded", "folded", block)


def _suit_kernels(layers: Sequence[nn.Module]) -> bool:
    """Return whether there are convolutions, and all are such that metarun's own kernels compute them."""
    convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    return bool(convolutions) and all(
        isinstance(layer := layers[i], nn.Conv2d)
        and type(layer) is nn.Conv2d
        and (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        == ((3, 3), (1, 1), (1, 1), (1, 1))
        and layer.out_channels % kernels.LANES == 0
        and isinstance(layers[i + 1] if i + 1 < len(layers) else None, nn.BatchNorm2d)
        for i in convolutions
    )


def _halves(layer: nn.Module) -> bool:
    if type(layer) is not nn.MaxPool2d:
        return False
    plain = (layer.padding, layer.dilation, layer.ceil_mode, layer.return_indices) == (0, 1, False, False)
    return plain and all(size in (2, (2, 2), [2, 2]) for size in (layer.kernel_size, layer.stride))


def _convolution(name: str, layer: nn.Conv2d) -> Step:
    def step(params: Parameters, x: Tensor, tasks: int) -> Tensor:
        y = convolve(x, params[f"{name}weight"].flatten(0, 1), _grouped(layer, tasks))
        bias = params.get(f"{name}bias")
        return y if bias is None else y + bias.flatten()[:, None, None]

    return step


def _block(name: str, layer: nn.Conv2d, norm: str, normalisation: PerChannel) -> Step:
    # The convolution's bias is left out: the norm cancels it, and its gradient is zero.
    def step(params: Parameters, x: Tensor, tasks: int) -> Tensor:
        weight = params[f"{name}weight"].flatten(0, 1)
        gamma, beta = _scale_and_shift(norm, params, x, len(weight))
        if normalisation.pool:  # max γ ŷ = |γ| max sign(γ) ŷ, and the sign can be part of the convolution
            sign = torch.where(gamma < 0, -1.0, 1.0).to(gamma.dtype)
            gamma, weight = gamma * sign, weight * sign[:, None, None, None]
        return normalise(convolve(x, weight, _grouped(layer, tasks)), gamma, beta, normalisation)

    return step


def _kernel_block(name: str, norm: str, normalisation: kernels.PerTask) -> Step:
    def step(params: Parameters, x: Tensor, tasks: int) -> Tensor:
        weight = params[f"{name}weight"].permute(0, 3, 4, 2, 1)
        scales = _scale_and_shift(norm, params, x, tasks * weight.shape[-1])
        gamma, beta = (each.view(tasks, -1) for each in scales)
        record = _record.get()
        if record is None:
            return block(x, weight, gamma, beta, normalisation)
        found: list[tuple[Tensor, Tensor]] = []
        out = block(x, weight, gamma, beta, normalisation._replace(found=found))
        mean, variance = found[0]
        bias = params.get(f"{name}bias")
        record(norm, mean if bias is None else mean + bias.detach(), variance)
        return out

    def block(
        x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, normalisation: kernels.PerTask
    ) -> Tensor:
        if not x.requires_grad and x.shape[-1] < kernels.LANES:
            check_can_normalise(x[..., 0].numel() * weight.shape[-1], gamma)
            return first_block(x, weight, gamma, beta, normalisation)
        y = convolve(*kernels.padded(x, weight), kernels.Convolution3x3())
        return normalise(y, gamma, beta, normalisation)

    return step


def _grouped(layer: nn.Conv2d, tasks: int) -> Grouped:
    assert not isinstance(layer.padding, str)
    return Grouped(layer.stride, layer.padding, layer.dilation, tasks)
