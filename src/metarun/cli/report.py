"""`metarun report RUN…`: one HTML page about runs and sweeps: curves, tables, what was learned, mistakes."""

from __future__ import annotations

import argparse
import logging
import shlex
from dataclasses import replace
from pathlib import Path

from metarun.cli.arguments import add_config_dirs, check_out, parse
from metarun.errors import ConfigError, in_one_line
from metarun.evaluation.showcase import showcase
from metarun.evaluation.trained import reopen
from metarun.reports.pages.gathered import Gathered, Record, gather
from metarun.reports.pages.page import Section, write_page
from metarun.reports.pages.sections import sections_of
from metarun.reports.progress import items_bar

log = logging.getLogger("metarun")


def main(arguments: list[str]) -> None:
    """Read the runs, and write the page and its figures.

    Raises:
        ConfigError: there is no run to report.
        MetarunError: a package is missing.
    """
    parser = argparse.ArgumentParser(
        "metarun report",
        description="Write a page about runs, sweeps, and folders of them.",
        allow_abbrev=False,
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="outputs/DATE/TIME, a sweep's, …")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="the page; else report.html in PATH")
    parser.add_argument(
        "--details",
        type=int,
        default=3,
        metavar="N",
        help="load the learners of the N best runs and show what they do (3); 0: none",
    )
    add_config_dirs(parser)
    options = parse(parser, arguments[1:])
    out = options.out or (options.paths[0] if len(options.paths) == 1 else Path()) / "report.html"
    if out.suffix != ".html":
        raise ConfigError(f"--out {out}: expected a name that ends in .html")
    found = gather(options.paths)
    check_out("--out", out)
    problems = list(found.problems)
    sections = sections_of(found, problems)
    chosen = _best(found, options.details)
    with items_bar("runs shown", len(chosen)) as bar:
        for number, record in enumerate(chosen, 1):
            sections.insert(-1, _details(record, number, options.config_dirs, problems))
            bar.update()
    title = _title(found)
    command = f"metarun report {' '.join(shlex.quote(str(path)) for path in options.paths)}"
    with items_bar("figures", sum(len(section.figures) for section in sections)) as bar:
        folder = write_page(out, title, sections, problems, command, show=bar.update)
    for problem in problems:
        log.warning("%s", problem)
    figures = f"; the figures, as SVG and PNG: {folder}" if folder else ""
    count = f"{len(found.records)} run{'s' * (len(found.records) != 1)}"
    print(f"{out}: {count}{figures}")


def _title(found: Gathered) -> str:
    if len(found.records) == 1:
        return f"Run {found.records[0].path}"
    return f"{len(found.records)} runs, {len(found.set_ups)} set-ups"


def _best(found: Gathered, count: int) -> list[Record]:
    """Return the best finished run of each of the best set-ups."""

    def goodness(record: Record) -> float:
        assert record.summary.test is not None
        return record.summary.test[0] * (1 if record.measure.higher_is_better else -1)

    firsts = [
        max((record for record in set_up.records if record.curve is not None), key=goodness)
        for set_up in found.set_ups
        if any(record.curve is not None for record in set_up.records)
    ]
    return sorted(firsts, key=goodness, reverse=True)[: max(0, count)]


def _details(record: Record, number: int, config_dirs: list[str], problems: list[str]) -> Section:
    """Return figures of what a run's learner has learned and does; a failure is added to the problems."""
    algo = record.summary.choices.get("algo", "")
    name = "/".join(record.path.parts[-2:])
    section = Section(f"run-{number}", f"What {algo} has learned: {name}", [str(record.path)])
    try:
        trained = reopen(record.path, [], config_dirs)
        figures = showcase(trained)
    except Exception as error:  # a stranger's run may fail in any way, and the page shows the others
        problems.append(f"{record.path}: what it has learned cannot be shown: {in_one_line(error)}")
        return Section(section.name, section.title)
    source = str(record.path)
    section.figures = [replace(figure, source=source) for figure in figures]
    return section
