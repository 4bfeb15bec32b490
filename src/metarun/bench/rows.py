"""The measurements, one dictionary per row, for the tables and the JSON file."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch

from metarun.bench.check import Check, is_the_same
from metarun.bench.race import Racer, race
from metarun.bench.sides import PEERS
from metarun.bench.work import Work, make_work
from metarun.system.files import data_directory

Row = dict[str, Any]

_THREADS = torch.get_num_threads()


def conditions(device: str) -> Row:
    """Return the conditions of a measurement; `threads` is torch's number at the start of the process."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": _THREADS,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def compare(
    case: str, overrides: Sequence[str], peers: Sequence[str], device: str, seconds: float
) -> list[Row]:
    """Return a row for each peer that can do the work, after a race of `seconds` per peer.

    A peer whose meta-gradient differs from metarun's is not raced; the row of a failed peer has the error.
    """
    check = Check(overrides)
    work = check.work()
    rows: dict[str, Row] = {}
    for name in peers:
        if PEERS[name].can(work, torch.device(device)):
            rows[name] = {"case": case, "peer": name, **_size(work), **conditions(device)}
            try:
                rows[name]["error"] = check.relative_error(PEERS[name].start)
            except Exception as failure:  # an error of one library must not stop the race of the others
                rows[name]["failed"] = f"{type(failure).__name__}: {failure}"
    correct = [name for name, row in rows.items() if "error" in row and is_the_same(row["error"])]
    if correct:
        racers = race(["metarun", *correct], overrides, device, seconds * len(correct))
        for name in correct:
            rows[name] |= _result(racers["metarun"], racers[name])
    return list(rows.values())


def _size(work: Work) -> Row:
    return {"tasks": work.meta_batch, "steps": work.learner.loop.steps if work.has_inner_loop else 0}


def _result(ours: Racer, theirs: Racer) -> Row:
    if theirs.failed:
        return {"failed": theirs.failed}
    if ours.failed:
        return {"failed": f"metarun itself: {ours.failed}"}
    return {
        "ratio": theirs.ms / ours.ms,
        "metarun_ms": ours.ms,
        "peer_ms": theirs.ms,
        "metarun_first_ms": ours.first_ms,
        "peer_first_ms": theirs.first_ms,
        "metarun_peak_bytes": ours.peak_bytes,
        "peer_peak_bytes": theirs.peak_bytes,
    }


def data_path(source: str, overrides: Sequence[str], device: str, seconds: float) -> list[Row]:
    """Return a row with the speed of a source of episodes, and their share of a meta-step.

    A meta-step here is a meta-batch of episodes and its meta-gradient. The outer optimizer's step is left
    out, so the share is slightly overestimated. Return no row if the source would have to download data.
    """
    if not _is_here(source):
        return []
    work = make_work(overrides, torch.device("cpu"), tasks=1)
    racers = race(["metarun", "episodes"], overrides, device, 2 * seconds)
    row = {"case": "data", "source": source, **_size(work), **conditions(device)}
    for name, racer in racers.items():
        if racer.failed:
            return [row | {"failed": f"{name}: {racer.failed}"}]
    ours, episodes = racers["metarun"].ms, racers["episodes"].ms
    return [
        row
        | {
            "episodes_per_second": 1e3 * work.meta_batch / episodes,
            "episodes_ms": episodes,
            "metarun_ms": ours,
            "share": episodes / (episodes + ours),
        }
    ]


def _is_here(source: str) -> bool:
    """Return whether the data of a source needs no download."""
    if not source.startswith("omniglot"):
        return True
    root = data_directory()
    archives = ("images_background.zip", "images_evaluation.zip")
    return any(all((folder / name).exists() for name in archives) for folder in (root, root / "omniglot"))
