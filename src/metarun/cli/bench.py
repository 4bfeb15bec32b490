"""`metarun bench`: time the meta-gradient against other ways to compute it."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from metarun.bench.cases import CASES, EMBEDDING, GROWTH, SOURCES
from metarun.bench.floor import floor
from metarun.bench.plot import check_plot, draw
from metarun.bench.regressions import BAND, changes, read_rows
from metarun.bench.rows import Row, compare, data_path
from metarun.bench.sides import PEERS
from metarun.bench.startup import startup
from metarun.bench.tables import changes_table, tables
from metarun.cli.arguments import parse
from metarun.errors import ConfigError, MetarunError, did_you_mean
from metarun.experiment.config import check_device
from metarun.system.files import as_json, write_text

_ONLY_BY_NAME = [*GROWTH, "data", "startup", "floor"]
_INSTALL = "pip install 'metarun[bench]'"

log = logging.getLogger("metarun")

Job = tuple[str, Callable[[], Iterable[Row]], str]
"""A measurement: its title, the function that yields its rows, and a note in case it yields none."""


def main(arguments: list[str]) -> None:
    """Measure cases against every installed peer; print the tables, and write the rows as JSON.

    Raises:
        ConfigError: a case, a peer or the device does not exist, or the plot cannot be drawn.
        MetarunError: metarun has become slower than in the rows of --against.
    """
    options = _options(arguments)
    cases: list[str] = options.only or list(CASES)
    rows: list[Row] = []
    notes: list[str] = []
    jobs = [job for case in cases for job in _jobs(case, options)]
    began = time.monotonic()
    with logging_redirect_tqdm([log]), tqdm(total=len(jobs), desc="bench", disable=None, leave=False) as bar:
        for number, (title, measure, note_if_empty) in enumerate(jobs, start=1):
            log.info("bench %d/%d, %s: %s", number, len(jobs), _clock(time.monotonic() - began), title)
            before = len(rows)
            for row in measure():
                rows.append(row)
                if options.json:  # after every row, so that an interrupted bench keeps its measurements
                    write_text(options.json, as_json(rows, indent=2) + "\n")
            if len(rows) == before:
                notes.append(f"left out: {note_if_empty}")
            bar.update()
    absent = dict.fromkeys(peer.package for peer in PEERS.values() if not peer.installed)
    if absent:
        notes.append(f"not installed: {', '.join(absent)} - {_INSTALL}")
    print("\n\n".join(part for part in (tables(rows), "\n".join(dict.fromkeys(notes))) if part))
    if options.plot:
        draw(rows, options.plot)
    if options.against:
        _check_against(options.against, options.band, rows)


def _check_against(path: Path, band: float, rows: list[Row]) -> None:
    """Print the ratios beside those that were kept.

    Raises:
        MetarunError: one is smaller by more than the band, or there are none to compare with.
    """
    found = changes(rows, read_rows(path))
    if not found:
        raise MetarunError(
            f"{path} has no such race on a machine of this kind: type metarun bench --json FILE on it first"
        )
    print(f"\n{changes_table(found)}")
    slower = [f"{change.case} against {change.peer}" for change in found if change.is_slower(band)]
    if slower:
        raise MetarunError(f"slower than in {path} by more than {band:.0%}: {', '.join(slower)}")


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "metarun bench",
        description="Time the meta-gradient against other ways to compute it, each in its own process.",
        epilog=f"cases: {', '.join(CASES)}; only by name: {', '.join(_ONLY_BY_NAME)}. "
        f"peers: {', '.join(PEERS)}",
    )
    parser.add_argument("--only", metavar="CASE", action="append", help="a case; may be repeated")
    parser.add_argument("--peer", metavar="PEER", action="append", help="a peer; may be repeated")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write one object per row to this file")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the growth cases (.png, .svg, .pdf)")
    parser.add_argument("--against", metavar="FILE", type=Path, help="compare with rows that were kept")
    parser.add_argument("--band", type=float, default=BAND, help=f"how much smaller ratios may be ({BAND})")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row (default: 10)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    options = parse(parser, arguments[1:])
    check_device(options.device)
    for name in options.only or []:
        _check_known(name, "--only", "case", [*CASES, *_ONLY_BY_NAME])
    for name in options.peer or []:
        _check_known(name, "--peer", "peer", list(PEERS))
        if not PEERS[name].installed:
            raise ConfigError(f"--peer {name}: {PEERS[name].package} is not installed: {_INSTALL}")
    if not 0 < options.band < 1:
        raise ConfigError(f"--band {options.band:g}: expected a fraction, as in --band {BAND}")
    if options.against:
        read_rows(options.against)
    if options.plot:
        check_plot(options.plot, options.only or [])
    return options


def _check_known(name: str, flag: str, kind: str, known: list[str]) -> None:
    if name not in known:
        raise ConfigError(
            f"{flag} {name}: there is no such {kind}{did_you_mean(name, known)}; "
            f"choose from {', '.join(known)}"
        )


def _jobs(case: str, options: argparse.Namespace) -> Iterator[Job]:
    """Yield the measurements of a case."""
    conditions = options.device, options.seconds
    installed = [name for name, peer in PEERS.items() if peer.installed]
    if case == "startup":
        yield "startup", partial(startup, *conditions), ""
    elif case == "floor":
        yield f"floor, {len(CASES) - len(EMBEDDING)} cases", partial(floor, *conditions), ""
    elif case == "data":
        for source, overrides in SOURCES.items():
            absent = f"data of {source}: it is not in the folder METARUN_DATA"
            yield f"episodes of {source}", partial(data_path, source, overrides, *conditions), absent
    else:
        # A growth curve shows metarun and the plain loop; other peers only if they are typed.
        peers = options.peer or (["loop"] if case in GROWTH else installed)
        for overrides in GROWTH[case].points() if case in GROWTH else [CASES[case]]:
            title = f"{case}{' ' if overrides else ''}{' '.join(overrides)} against {', '.join(peers)}"
            unable = f"{case}: it cannot be computed by {', '.join(peers)}"
            yield title, partial(compare, case, overrides, peers, *conditions), unable
