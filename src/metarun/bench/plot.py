"""The plot of the growth curves."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from metarun.bench.cases import GROWTH
from metarun.bench.rows import Row
from metarun.errors import ConfigError, MetarunError
from metarun.system.files import replace


def check_plot(path: Path, cases: Sequence[str]) -> None:
    """Raise ConfigError if no growth case was chosen, the file type is unknown, or matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise ConfigError(f"--plot {path}: matplotlib is not installed: pip install 'metarun[bench]'")
    from matplotlib.figure import Figure

    known = [f".{kind}" for kind in Figure().canvas.get_supported_filetypes()]
    if path.suffix not in known:
        raise ConfigError(f"--plot {path}: unknown file type; choose from {', '.join(known)}")
    if not any(case in GROWTH for case in cases):
        raise ConfigError(f"--plot {path} draws growth curves: add --only {' or --only '.join(GROWTH)}")


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the milliseconds of a meta-gradient over tasks or steps, both axes logarithmic, a panel per case.

    Raises:
        MetarunError: there are no rows of growth cases.
    """
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(row["case"] for row in rows if row["case"] in GROWTH))
    if not cases:
        raise MetarunError(f"--plot {path}: there is nothing to draw")
    figure = Figure(figsize=(4.5 * len(cases), 4), layout="constrained")
    for panel, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        for name, line in lines(rows, case).items():
            panel.plot(list(line), list(line.values()), marker="o", label=name)
            panel.legend()
        panel.set(title=case, xlabel=GROWTH[case].over, xscale="log", yscale="log")
        panel.set_ylabel("ms a meta-gradient")
    replace(path, lambda file: figure.savefig(file, format=path.suffix[1:]))


def lines(rows: Sequence[Row], case: str) -> dict[str, dict[int, float]]:
    """Return the milliseconds of each side by the number of tasks or steps: side → number → ms."""
    lines: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["case"] == case and "ratio" in row:
            for side, key in (("metarun", "metarun_ms"), (row["peer"], "peer_ms")):
                lines.setdefault(side, {})[row[GROWTH[case].over]] = row[key]
    return lines
