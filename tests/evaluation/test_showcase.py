"""Every algorithm's learner can be shown: what it has learned, and what it does on test tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_runs import trained

from metarun.config.options import CONF
from metarun.errors import ConfigError
from metarun.evaluation.showcase import showcase
from metarun.evaluation.trained import reopen
from metarun.reports.pages.numbers import numbers
from metarun.reports.plots import as_svg, drawn

ALGORITHMS = sorted(path.stem for path in (CONF / "algo").glob("*.yaml"))
SMALL = ["model=mlp", "model.hidden=[6]"]
DATA = (
    SMALL,
    ["data=binary_classification", *SMALL],
    ["data=gp"],
    ["data=gaussian_classes"],
    ["data=tables"],
)

SHOWN = {
    "metasgd": {"learned-rates"},
    "maml++": {"learned-rates", "learned-rates-by-step"},
    "meta_curvature": {"learned-curvature-spectra"},
    "alfa": {"hypernetwork-rates"},
    "l2l": {"update-surface"},
    "matchingnet": {"embedding", "attention", "confusion"},
    "tim": {"embedding", "episode", "confusion"},
    "cnp": {"function-1", "function-2", "function-3"},
    "maml": {"function-1", "function-2", "function-3"},
}


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_what_it_shows_is_drawn(algo: str, tmp_path: Path, pictures: Path) -> None:
    images = [
        f"data.root={pictures}",
        "data.size=8",
        "data.way=3",
        "data.query=2",
        "data.shares=[0.4,0.3,0.3]",
    ]
    of_images = ["data=folder", *SMALL, *images]
    steps = ["train.steps=0"] if algo == "scratch" else []
    choices = (
        *DATA,
        of_images,
        [*of_images, "data.train_batch=8"],
        ["data=folder", *images, "data.size=28", "model=conv4", "model.filters=4"],
    )
    for number, words in enumerate(choices):
        try:
            run = trained(tmp_path / str(number), f"algo={algo}", *words, *steps)
        except ConfigError:  # it is for other data
            continue
        figures = showcase(reopen(run, []))
        break
    else:
        pytest.fail("it is for none of these data")
    assert SHOWN.get(algo, set()) <= {figure.name for figure in figures}
    for figure in figures:
        heads, rows = numbers(figure)
        assert all(len(row) == len(heads) for row in rows)
        assert as_svg(drawn(figure), figure.name).startswith("<svg")
