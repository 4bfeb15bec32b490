"""`metarun bench`: this machine's ratios against other ways to the same meta-gradient."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from metarun.bench import measure, peers
from metarun.bench.cases import CASES, make_work
from metarun.build import chosen_device
from metarun.commands.arguments import parse
from metarun.config import check_device
from metarun.errors import ConfigError
from metarun.storage import as_json, write_text
from metarun.suggest import did_you_mean


def main(arguments: list[str]) -> None:
    """Measure cases against every peer that is installed; print the table, and write it as JSON.

    Raises:
        ConfigError: there is no such case or device.
    """
    parser = argparse.ArgumentParser(
        "metarun bench",
        description="Time the meta-gradient against other ways to compute it, taking turns in one process.",
        epilog=f"cases: {', '.join(CASES)}",
    )
    parser.add_argument("--only", metavar="CASE", action="append", help="one case; may be given again")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write one object a row to this file")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row (default: 10)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    given = parse(parser, arguments[1:])
    check_device(given.device)
    for case in given.only or []:
        if case not in CASES:
            raise ConfigError(
                f"--only {case}: there is no such case{did_you_mean(case, CASES)}; "
                f"choose from {', '.join(CASES)}"
            )
    rows: list[dict[str, Any]] = []
    for case in tqdm(given.only or list(CASES), desc="bench", unit=" cases", disable=None, leave=False):
        rows += _rows(case, given.device, given.seconds)
        if given.json:  # after each case, so that an interrupted bench keeps what it has measured
            write_text(given.json, as_json(rows, indent=2) + "\n")
    print(_table(rows))


def _rows(case: str, device_name: str, seconds: float) -> list[dict[str, Any]]:
    device = chosen_device(device_name)
    work = make_work(case, device)
    our_peak = measure.peak_bytes(case, "metarun", device_name)
    rows = []
    for name, peer in peers.peers(work).items():
        row: dict[str, Any] = {
            "case": case,
            "peer": name,
            "error": measure.relative_error(case, peer),
            "device": device_name if device.type == "cpu" else torch.cuda.get_device_name(device),
            "threads": measure.THREADS,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        if measure.is_the_same(row["error"]):  # a wrong peer is not raced
            ours, theirs = measure.alternate(work, peer, seconds)
            row |= {
                "ratio": theirs / ours,
                "metarun_ms": ours,
                "peer_ms": theirs,
                "metarun_peak_bytes": our_peak,
                "peer_peak_bytes": measure.peak_bytes(case, name, device_name),
            }
        rows.append(row)
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            row["case"],
            row["peer"],
            f"{row['ratio']:.2f}" if "ratio" in row else f"wrong: {row['error']:.0e}",
            *(f"{row[key]:.1f}" if key in row else "–" for key in ("metarun_ms", "peer_ms")),
            *(_mebibytes(row.get(key)) for key in ("metarun_peak_bytes", "peer_peak_bytes")),
        ]
        for row in rows
    ]
    heads = ["case", "peer", "times faster", "metarun ms", "peer ms", "metarun MiB", "peer MiB"]
    align = ["left", "left", *["right"] * 5]
    return tabulate(cells, heads, tablefmt="simple", disable_numparse=True, colalign=align)


def _mebibytes(count: int | None) -> str:
    return "–" if count is None else f"{count / 2**20:.0f}"
