"""`metarun compare RUN RUN…`: compare tests task by task, with intervals, p values and effect sizes."""

from __future__ import annotations

import argparse
from pathlib import Path

from metarun.cli.arguments import check_out, parse
from metarun.evaluation.comparison import compare
from metarun.evaluation.tested import read_tests
from metarun.reports.comparison import comparison_table
from metarun.system.files import as_json, write_text


def main(arguments: list[str]) -> None:
    """Print the scores and the differences of all pairs.

    Raises:
        ConfigError: a path is no finished run, or there is no such score.
        MetarunError: a file is damaged, or SciPy is not installed.
    """
    parser = argparse.ArgumentParser(
        "metarun compare",
        description="Compare the tests of runs, of folders of runs, and of files in evaluations/.",
        allow_abbrev=False,
    )
    parser.add_argument("paths", metavar="RUN", nargs="+", type=Path, help="outputs/DATE/TIME, or a sweep's")
    parser.add_argument("--metric", help="a score, as in accuracy; else the one that selects the learner")
    parser.add_argument("--step", type=int, help="compare after this step; else after the last")
    parser.add_argument(
        "--by",
        choices=("tasks", "seeds"),
        help="compare scores of tasks, or means of seeds; else seeds where every set-up has three",
    )
    parser.add_argument(
        "--against", choices=("all", "best"), default="all", help="all pairs, or each with the best"
    )
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="write the whole comparison")
    options = parse(parser, arguments[1:])
    if options.json is not None:
        check_out("--json", options.json)
    tests = [test for path in options.paths for test in read_tests(path)]
    found = compare(tests, options.metric, options.step, options.by, options.against)
    print(comparison_table(found))
    if options.json is not None:
        write_text(options.json, as_json(found.plain(), indent=2) + "\n")
        print(f"\nwritten: {options.json}")
