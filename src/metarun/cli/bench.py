"""`metarun bench`: this machine's ratios against other ways to the same meta-gradient."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from metarun.bench.cases import CASES, GROWTH, SOURCES
from metarun.bench.floor import floor
from metarun.bench.plot import check_plot, draw
from metarun.bench.rows import Row, compare, data_path
from metarun.bench.sides import PEERS
from metarun.bench.startup import startup
from metarun.bench.tables import tables
from metarun.cli.arguments import parse
from metarun.errors import ConfigError, did_you_mean
from metarun.experiment.config import check_device
from metarun.system.files import as_json, write_text

_ONLY_BY_NAME = [*GROWTH, "data", "startup", "floor"]
_INSTALL = "pip install 'metarun[bench]'"

log = logging.getLogger("metarun")

Job = tuple[str, Callable[[], Iterable[Row]], str]
"""What is measured, how, and what to say where it comes to nothing."""


def main(arguments: list[str]) -> None:
    """Measure cases against every peer that is installed; print the tables, and write the rows as JSON.

    Raises:
        ConfigError: there is no such case, peer or device, or no way to draw the picture.
    """
    given = _given(arguments)
    cases: list[str] = given.only or list(CASES)
    rows: list[Row] = []
    notes: list[str] = []
    jobs = [job for case in cases for job in _jobs(case, given)]
    began = time.monotonic()
    with logging_redirect_tqdm([log]), tqdm(total=len(jobs), desc="bench", disable=None, leave=False) as bar:
        for number, (title, measure, otherwise) in enumerate(jobs, start=1):
            log.info("bench %d/%d, %s: %s", number, len(jobs), _clock(time.monotonic() - began), title)
            before = len(rows)
            for row in measure():
                rows.append(row)
                if given.json:  # after each, so that an interrupted bench keeps what it has measured
                    write_text(given.json, as_json(rows, indent=2) + "\n")
            if len(rows) == before:
                notes.append(f"left out: {otherwise}")
            bar.update()
    absent = dict.fromkeys(peer.package for peer in PEERS.values() if not peer.installed)
    if absent:
        notes.append(f"not installed: {', '.join(absent)} - {_INSTALL}")
    print("\n\n".join(part for part in (tables(rows), "\n".join(dict.fromkeys(notes))) if part))
    if given.plot:
        draw(rows, given.plot)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def _given(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "metarun bench",
        description="Time the meta-gradient against other ways to compute it, each in a process of its own.",
        epilog=f"cases: {', '.join(CASES)}; only by name: {', '.join(_ONLY_BY_NAME)}. "
        f"peers: {', '.join(PEERS)}",
    )
    parser.add_argument("--only", metavar="CASE", action="append", help="one case; may be given again")
    parser.add_argument("--peer", metavar="PEER", action="append", help="one peer; may be given again")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write one object a row to this file")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the growth cases (.png, .svg, .pdf)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row (default: 10)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    given = parse(parser, arguments[1:])
    check_device(given.device)
    for name in given.only or []:
        _check_known(name, "--only", "case", [*CASES, *_ONLY_BY_NAME])
    for name in given.peer or []:
        _check_known(name, "--peer", "peer", list(PEERS))
        if not PEERS[name].installed:
            raise ConfigError(f"--peer {name}: {PEERS[name].package} is not installed: {_INSTALL}")
    if given.plot:
        check_plot(given.plot, given.only or [])
    return given


def _check_known(name: str, flag: str, kind: str, known: list[str]) -> None:
    if name not in known:
        raise ConfigError(
            f"{flag} {name}: there is no such {kind}{did_you_mean(name, known)}; "
            f"choose from {', '.join(known)}"
        )


def _jobs(case: str, given: argparse.Namespace) -> Iterator[Job]:
    """Yield what there is to measure for a case."""
    conditions = given.device, given.seconds
    installed = [name for name, peer in PEERS.items() if peer.installed]
    if case == "startup":
        yield "startup", partial(startup, *conditions), ""
    elif case == "floor":
        yield f"floor, {len(CASES)} cases", partial(floor, *conditions), ""
    elif case == "data":
        for source, overrides in SOURCES.items():
            absent = f"data of {source}: METARUN_DATA names no folder of it"
            yield f"episodes of {source}", partial(data_path, source, overrides, *conditions), absent
    else:
        # A curve is of metarun and of what it was written to replace; the other peers by name.
        peers = given.peer or (["loop"] if case in GROWTH else installed)
        for overrides in GROWTH[case].points() if case in GROWTH else [CASES[case]]:
            title = f"{case}{' ' if overrides else ''}{' '.join(overrides)} against {', '.join(peers)}"
            nothing = f"{case}: it is no work for {', '.join(peers)}"
            yield title, partial(compare, case, overrides, peers, *conditions), nothing
