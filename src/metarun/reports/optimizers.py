"""The comparison of optimizers as a table and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from tabulate import tabulate

from metarun.evaluation.tuned import RATES, Entry, response
from metarun.reports.table import cell, heading, means_of, shown_steps, worth_showing
from metarun.system.files import replace
from metarun.tasks.metrics import LOSS

_HISTORY = 20  # steps before the step that a response shows


def optimizers_table(entries: Sequence[Entry]) -> str:
    """Return a table: one optimizer per line, its scores after the last step and its loss at earlier ones."""
    curve = entries[0].curve
    last = len(curve.steps) - 1
    on_the_way = [step for step in shown_steps(last, (0, 10, 50)) if step != last]
    measures = worth_showing(curve.measures, means_of([entry.curve.final for entry in entries]))
    heads = ["optimizer", "rate", *(f"loss at {step}" for step in on_the_way)]
    heads += [f"{heading(measure)} at {last}" for measure in measures]
    rows = []
    for entry in entries:
        steps, final = entry.curve.steps, entry.curve.final
        row = [entry.name, _rate(entry.lr)]
        row += [cell(LOSS, steps[step]["loss"].mean, steps[step]["loss"].ci95) for step in on_the_way]
        rows.append([*row, *(cell(m, final[m.name].mean, final[m.name].ci95) for m in measures)])
    title = (
        f"{curve.split}: {curve.tasks:,} tasks, mean ± 95 % confidence interval (rates: tuned on validation)"
    )
    table = tabulate(rows, heads, tablefmt="simple", disable_numparse=True, stralign="right")
    return f"{title}\n{table}"


def _rate(lr: float | None) -> str:
    if lr is None:
        return ""
    return f"{lr:g} (end of the grid)" if lr in (RATES[0], RATES[-1]) else f"{lr:g}"


def plots_missing() -> str:
    """Return what to type if matplotlib is missing, else an empty text."""
    if find_spec("matplotlib") is None:
        return "no plots: matplotlib is not installed; type pip install 'metarun[plot]'"
    return ""


def draw_curves(entries: Sequence[Entry], path: Path) -> None:
    """Draw the mean loss of each optimizer over inner steps, with its confidence interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4), layout="constrained")
    panel = figure.subplots()
    for entry in entries:
        losses = [scores["loss"] for scores in entry.curve.steps]
        label = entry.name if entry.lr is None else f"{entry.name}, {entry.lr:g}"
        (line,) = panel.plot([loss.mean for loss in losses], label=label)
        low, high = [loss.mean - loss.ci95 for loss in losses], [loss.mean + loss.ci95 for loss in losses]
        panel.fill_between(range(len(losses)), low, high, alpha=0.2, color=line.get_color(), linewidth=0)
    panel.set(xlabel="inner step", ylabel="query loss", yscale="log")
    panel.legend()
    replace(path, lambda file: figure.savefig(file, format="png", dpi=150))


def draw_response(entries: Sequence[Entry], path: Path) -> None:
    """Draw each rule's step on a coordinate, as a function of its gradient now and before.

    Steps are divided by the rule's largest.
    """
    from matplotlib.figure import Figure

    values = torch.linspace(-2, 2, 81)
    figure = Figure(figsize=(3 * len(entries), 3.2), layout="constrained")
    panels = figure.subplots(1, len(entries), squeeze=False)[0]
    for panel, entry in zip(panels, entries, strict=True):
        like = next(iter(entry.rule.parameters()), values)
        step = response(entry.rule, values.to(like), values.to(like), _HISTORY).float().cpu()
        largest = float(step.abs().max()) or 1.0
        panel.imshow(
            step / largest,
            origin="lower",
            extent=(-2, 2, -2, 2),
            cmap="RdBu",
            vmin=-1,
            vmax=1,
            aspect="equal",
        )
        panel.set(title=f"{entry.name} (× {largest:.2g})", xlabel="gradient now")
    figure.suptitle("the step that a coordinate takes; blue: up, red: down")
    panels[0].set_ylabel(f"gradient of the {_HISTORY} steps before")
    replace(path, lambda file: figure.savefig(file, format="png", dpi=150))
