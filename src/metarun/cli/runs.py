"""`metarun runs [DIR] [key=value]`: list runs and sweeps, their state, scores, and how to go on."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from metarun.cli.arguments import parse
from metarun.errors import ConfigError, did_you_mean
from metarun.reports.progress import items_bar
from metarun.reports.runs import SORTS, plain, runs_table, sweeps_table, to_go_on
from metarun.runs.index import Listing, listing
from metarun.runs.labels import flat
from metarun.runs.summary import Summary, config_of
from metarun.system.console import printable
from metarun.system.files import as_json

_STATES = ("finished", "running", "interrupted", "failed", "damaged")
_CLEAR = "\x1b[H\x1b[2J"
_LONGEST = 1e6  # seconds


def main(arguments: list[str]) -> None:
    """Print the tables, once or again and again.

    Raises:
        ConfigError: there is no such folder, state or order.
    """
    parser = argparse.ArgumentParser(
        "metarun runs",
        description="List runs and sweeps.",
        epilog="filters: state, seed, a group (algo=maml,metasgd data=omni*) or a key of the config "
        "(inner.lr=0.1); with one, the jobs of sweeps are listed as runs",
        allow_abbrev=False,
    )
    parser.add_argument("words", metavar="DIR|key=value", nargs="*", help="folders (outputs), and filters")
    parser.add_argument("--sort", choices=tuple(SORTS), default="age", help="the newest or best is last")
    parser.add_argument("--jobs", action="store_true", help="list the jobs of sweeps as runs")
    parser.add_argument("--most", type=int, default=50, metavar="N", help="the last N (50); 0: all")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--watch", type=float, nargs="?", const=2.0, metavar="SECONDS", help="again and again, until Ctrl-C"
    )
    options = parse(parser, arguments[1:])
    folders = [Path(word) for word in options.words if "=" not in word] or [Path("outputs")]
    filters = _filters([word for word in options.words if "=" in word])
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder; type metarun runs FOLDER")
    if options.watch is not None and not 0 < options.watch < _LONGEST:  # NaN is not
        raise ConfigError(f"--watch {options.watch:g}: expected seconds above 0, as in --watch 2")
    while True:
        found = [_listed(folder) for folder in folders]
        _check_keys(filters, [run for each in found for run in each])
        if options.json:
            _print_json(found, filters)
        else:
            text = _text(found, filters, options)
            print(f"{_CLEAR}{text}" if options.watch and sys.stdout.isatty() else text, flush=True)
        if options.watch is None:
            return
        time.sleep(options.watch)


def _listed(folder: Path) -> Listing:
    with items_bar("runs read", None) as bar:
        return listing(folder, bar.update)


def _filters(words: Sequence[str]) -> dict[str, list[str]]:
    """Return the values that each key may have: the whole text, as in hidden=[40,40], or its parts."""
    filters = {k: [value, *value.split(",")] for k, _, value in (word.partition("=") for word in words)}
    for state in filters.get("state", ())[1:]:
        if state not in _STATES:
            hint = did_you_mean(state, _STATES)
            raise ConfigError(
                f"state={state}: there is no such state{hint}; choose from {', '.join(_STATES)}"
            )
    return filters


def _check_keys(filters: Mapping[str, Sequence[str]], runs: Sequence[Summary]) -> None:
    """Raise ConfigError for a filter of a group that no run has."""
    known = {"state", "seed", *(group for run in runs for group in run.choices)}
    for key in filters:
        if runs and "." not in key and key not in known:
            hint = did_you_mean(key, known)
            raise ConfigError(
                f"{key}=…: no run has such a group{hint}; choose from {', '.join(sorted(known))}, or type a "
                f"key of the config, as in inner.lr=0.1"
            )


def _passes(run: Summary, filters: Mapping[str, Sequence[str]]) -> bool:
    """Return whether a run has one of the values of each key."""
    config: dict[str, Any] | None = None
    for key, values in filters.items():
        if key in ("state", "seed"):
            value = str(getattr(run, key))
        elif "." not in key:
            value = run.choices.get(key, "")
        else:
            if config is None:
                config = {} if run.state == "damaged" else flat(config_of(Path(run.path)))
            value = str(config.get(key, "")).replace(" ", "")
        if not any(value == each or fnmatchcase(value, each) for each in values):
            return False
    return True


def _print_json(found: Sequence[Listing], filters: Mapping[str, Sequence[str]]) -> None:
    runs = [plain(run) for each in found for run in each.runs if _passes(run, filters)]
    sweeps = []
    for sweep in (sweep for each in found for sweep in each.sweeps):
        jobs = [plain(job) for job in sweep.jobs if _passes(job, filters)]
        if jobs or not filters:
            sweeps.append({**plain(sweep), "jobs": jobs})
    print(as_json({"runs": runs, "sweeps": sweeps}, indent=2))


def _text(found: Sequence[Listing], filters: Mapping[str, Sequence[str]], options: argparse.Namespace) -> str:
    as_runs = bool(filters) or options.jobs
    runs = [run for each in found for run in (each if as_runs else each.runs) if _passes(run, filters)]
    runs.sort(key=SORTS[options.sort])
    sweeps = [] if as_runs else [sweep for each in found for sweep in each.sweeps]
    shown = runs[-options.most :]
    parts = []
    if len(shown) < len(runs):
        parts.append(f"{len(runs) - len(shown):,} more before these: --most 0 lists all")
    if shown:
        parts.append(runs_table(shown))
    if sweeps:
        parts.append(sweeps_table(sweeps[-options.most :]))
    if not parts:
        return "no runs" + (" with these filters" if filters else "")
    failed = [printable(f"{run.path}: {run.error}") for run in shown if run.state in ("failed", "damaged")]
    parts += ["\n".join(lines) for lines in (failed, to_go_on([*shown, *sweeps])) if lines]
    return "\n\n".join(parts)
