"""`metarun bench`: this machine's ratios against other ways to the same meta-gradient."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from metarun.bench.cases import CASES
from metarun.bench.rows import Row, compare
from metarun.bench.sides import PEERS
from metarun.bench.tables import tables
from metarun.commands.arguments import parse
from metarun.config import check_device
from metarun.errors import ConfigError
from metarun.storage import as_json, write_text
from metarun.suggest import did_you_mean

_INSTALL = "pip install 'metarun[bench]'"


def main(arguments: list[str]) -> None:
    """Measure cases against every peer that is installed; print the tables, and write the rows as JSON.

    Raises:
        ConfigError: there is no such case, peer or device.
    """
    given = _given(arguments)
    cases: list[str] = given.only or list(CASES)
    rows: list[Row] = []
    notes: list[str] = []
    installed = [name for name, peer in PEERS.items() if peer.installed]
    peers: list[str] = given.peer or installed
    for case in tqdm(cases, desc="bench", unit=" cases", disable=None, leave=False):
        found = compare(case, CASES[case], peers, given.device, given.seconds)
        if not found:
            notes.append(f"left out: {case}: it is no work for {', '.join(peers)}")
        rows += found
        if given.json:  # after each, so that an interrupted bench keeps what it has measured
            write_text(given.json, as_json(rows, indent=2) + "\n")
    absent = dict.fromkeys(peer.package for peer in PEERS.values() if not peer.installed)
    if absent:
        notes.append(f"not installed: {', '.join(absent)} - {_INSTALL}")
    print("\n\n".join(part for part in (tables(rows), "\n".join(dict.fromkeys(notes))) if part))


def _given(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "metarun bench",
        description="Time the meta-gradient against other ways to compute it, each in a process of its own.",
        epilog=f"cases: {', '.join(CASES)}. peers: {', '.join(PEERS)}",
    )
    parser.add_argument("--only", metavar="CASE", action="append", help="one case; may be given again")
    parser.add_argument("--peer", metavar="PEER", action="append", help="one peer; may be given again")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write one object a row to this file")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row (default: 10)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    given = parse(parser, arguments[1:])
    check_device(given.device)
    for name in given.only or []:
        _check_known(name, "--only", "case", list(CASES))
    for name in given.peer or []:
        _check_known(name, "--peer", "peer", list(PEERS))
        if not PEERS[name].installed:
            raise ConfigError(f"--peer {name}: {PEERS[name].package} is not installed: {_INSTALL}")
    return given


def _check_known(name: str, flag: str, kind: str, known: list[str]) -> None:
    if name not in known:
        raise ConfigError(
            f"{flag} {name}: there is no such {kind}{did_you_mean(name, known)}; "
            f"choose from {', '.join(known)}"
        )
