"""Figures of what update rules have learned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from metarun.figures import Histograms, Line, Lines, Surface
from metarun.rules.rule import Parameters, UpdateRule

_STEPS = 20  # steps that the figure of a learned optimizer shows
_EXPONENTS = torch.linspace(-4, 1, 11, dtype=torch.float64)  # powers of ten of the gradients


def layer_of(name: str) -> str:
    """Return the layer of a parameter, given its name or its key in a rule."""
    name = name.replace("/", ".")
    return name.rpartition(".")[0] or name


def by_layer(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the values of each layer, [n], from the values of each parameter."""
    layers: dict[str, list[Tensor]] = {}
    for name, each in values.items():
        layers.setdefault(layer_of(name), []).append(each.detach().flatten().cpu())
    return {layer: torch.cat(parts) for layer, parts in layers.items()}


def rates_figure(what: str, values: Mapping[str, Tensor]) -> Histograms:
    """Return the distribution of learned rates, or momenta, in each layer."""
    layers = by_layer(values)
    negative = {layer: float((each < 0).double().mean()) for layer, each in layers.items()}
    shares = ", ".join(f"{layer} {share:.1%}" for layer, share in negative.items())
    caption = f"Of each layer's weights and biases. Negative: {shares}." if any(negative.values()) else ""
    return Histograms(
        name=f"learned-{what}",
        title=f"Learned {what} by layer",
        caption=caption or "Of each layer's weights and biases; none is negative.",
        values=layers,
        unit=what.rstrip("s"),
    )


def steps_figure(what: str, values: Mapping[str, Tensor]) -> Lines:
    """Return the mean rate of each layer at every inner step, from values [steps, …] by parameter."""
    layers: dict[str, list[Tensor]] = {}
    for name, each in values.items():
        layers.setdefault(layer_of(name), []).append(each.detach().reshape(len(each), -1).cpu().double())
    means = {layer: torch.cat(parts, 1).mean(1) for layer, parts in layers.items()}
    return Lines(
        name=f"learned-{what}-by-step",
        title=f"Learned {what} by inner step",
        caption="The mean over each layer's weights and biases.",
        lines={
            layer: Line(range(1, len(each) + 1), each.tolist(), dots=True) for layer, each in means.items()
        },
        x_label="inner step",
        y_label=what.rstrip("s"),
    )


def spectra_figure(matrices: Mapping[str, Iterable[Tensor]]) -> Lines:
    """Return the singular values of learned matrices, by the parameter whose gradient they transform."""
    lines = {}
    for name, several in matrices.items():
        for dimension, matrix in enumerate(several):
            spectrum = torch.linalg.svdvals(matrix.detach().double().cpu())
            shares = torch.linspace(0, 1, len(spectrum)).tolist()
            lines[f"{name.replace('/', '.')}, dimension {dimension + 1}"] = Line(shares, spectrum.tolist())
    return Lines(
        name="learned-curvature-spectra",
        title="Spectra of the learned curvature",
        caption="Singular values of each matrix that transforms gradients, from the largest to the smallest; "
        "they began as 1.",
        lines=lines,
        x_label="share of the singular values",
        y_label="singular value",
        log_y=True,
    )


def surface_figure(rule: UpdateRule) -> Surface:
    """Return a learned optimizer's updates of a parameter with a constant gradient, over steps."""
    like = next(iter(rule.parameters()))
    sizes = (10**_EXPONENTS).to(like)
    gradients = torch.cat([-sizes.flip(0), sizes])[None]
    params: Parameters = {"x": torch.zeros_like(gradients)}
    moves = []
    with torch.no_grad():
        state = rule.init(params)
        for step in range(_STEPS):
            moved, state = rule.update(params, {"x": gradients}, state, step)
            moves.append((moved["x"] - params["x"])[0])
            params = moved
    return Surface(
        name="update-surface",
        title="What the learned optimizer does",
        caption="The move of a parameter that starts at 0 and whose gradient is the same in every step.",
        values=torch.stack(moves, 1).double().cpu(),
        rows=[f"{value:.2g}" for value in gradients[0].tolist()],
        columns=[str(step + 1) for step in range(_STEPS)],
        x_label="step",
        y_label="gradient",
        unit="move",
        diverging=True,
    )


def settings_figure(
    network: torch.nn.Module,
    adapt: Callable[[], None],
    settings: Callable[[Tensor], Tensor],
    names: Sequence[str],
) -> Histograms | None:
    """Return the rates that a network gives to each layer, over tasks and steps.

    Args:
        network: the network that `settings` reads the outputs of.
        adapt: adapts the learner to some tasks.
        settings: maps the network's output at one step to rates [T, layers].
        names: names of the layers.
    """
    outputs: list[Tensor] = []

    def keep(module: torch.nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
        outputs.append(output.detach())

    handle = network.register_forward_hook(keep)
    try:
        adapt()
    finally:
        handle.remove()
    if not outputs:
        return None
    rates = torch.cat([settings(output) for output in outputs]).detach().cpu()
    return Histograms(
        name="hypernetwork-rates",
        title="Rates that the hypernetwork gives to tasks",
        caption="Of each weight and bias, over test tasks and inner steps.",
        values={name: rates[:, place] for place, name in enumerate(names)},
        unit="rate",
    )
