"""`metarun predict RUN --support FILES --query FILES`: learn from a few labelled examples, label others."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from metarun.cli.arguments import check_out, learner_parser, parse
from metarun.errors import ConfigError
from metarun.evaluation.prediction.answers import (
    Answer,
    Number,
    answers,
    as_csv,
    counted,
    least_certain,
    right,
)
from metarun.evaluation.prediction.calibration import (
    TASKS,
    Calibration,
    calibrated,
    level_of,
    scored,
    source_for,
)
from metarun.evaluation.prediction.opened import opened
from metarun.evaluation.prediction.own_examples import Notes, Unlabelled, read_query
from metarun.evaluation.prediction.task_model import TaskModel
from metarun.evaluation.prediction.usable import OPEN
from metarun.reports.progress import items_bar
from metarun.system.files import naming, replace, write_text
from metarun.tasks.division import some
from metarun.tasks.given import as_numbers
from metarun.tasks.reading import ImageReading

_MOST_DRAWN = 20


def main(arguments: list[str]) -> None:
    """Predict, print a summary, and write a csv.

    Raises:
        ConfigError: an argument is wrong, or the examples do not fit the run.
        MetarunError: the directory holds no run, or the run has no checkpoint.
    """
    parser = learner_parser(
        "predict",
        "Adapt a run's best learner to labelled examples, and label others.",
        OPEN,
        "inner.test_steps=10",
    )
    parser.add_argument("--support", type=Path, help="class folders, a csv, or a file of rows")
    parser.add_argument(
        "--query", type=Path, required=True, help="a folder, an image, a csv, or a file of rows"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write an answer for each example")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="draw the 20 images that it is least sure of"
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="fit a temperature to validation tasks, and keep it in the run",
    )
    parser.add_argument(
        "--reject",
        type=float,
        metavar="P",
        help="leave examples without a class where the learner is not sure: on validation tasks with unknown "
        "classes a share P of its answers is right, as in 0.95",
    )
    options = parse(parser, arguments[1:])
    if options.reject is not None and not 0 < options.reject < 1:
        raise ConfigError(f"--reject {options.reject}: should be between 0 and 1, as in 0.95")
    if options.run.is_file() and (options.calibrate or options.reject is not None):
        raise ConfigError(f"{options.run} has seen its examples: --calibrate and --reject are for a run")
    for flag, path in (("--out", options.out), ("--picture", options.picture)):
        if path is not None:
            check_out(flag, path)
    model = opened(options.run, options.support, options.overrides)
    learner = model.usable
    if options.picture is not None and not (isinstance(learner.reading, ImageReading) and model.classes):
        raise ConfigError(f"--picture {options.picture}: it is for images of classes")
    query = read_query(options.query, learner.reading, learner.dtype)
    threshold, told = _sure(model, options.reject, calibrate=options.calibrate)
    with items_bar("queries", len(query)) as bar:
        found = sorted(answers(model, query, threshold, show=bar.update), key=lambda each: each.place)
    if options.out is not None:
        _write(options.out, as_csv(query, found))
    if options.picture is not None:
        _draw(options.picture, model, query, found)
    for line in (*_summary(model, query, found), *told):
        print(line)
    if written := [str(path) for path in (options.out, options.picture) if path is not None]:
        print(f"\nwritten: {', '.join(written)}")


def _sure(model: TaskModel, wanted: float | None, *, calibrate: bool) -> tuple[float, list[str]]:
    """Calibrate the model, and return the probability below which it rejects, and what is told of both."""
    usable, way = model.usable, len(model.classes)
    if usable.run is None:
        return 0.0, []
    if not way and (calibrate or wanted is not None):
        raise ConfigError("--calibrate and --reject are for classes, and this run predicts numbers")
    shot = round(median(Counter(model.support.y).values())) if way else 0
    lines = []
    source = source_for(usable, way, shot) if calibrate or wanted is not None else None
    if calibrate and source is not None:
        with items_bar("validation tasks", TASKS) as bar:
            found = calibrated(usable, source, TASKS, bar.update)
        usable.run.write_json("calibration.json", found.plain(usable))
    kept = usable.calibration
    if kept is not None and way:
        known = Calibration.of(kept)
        model.temperature = known.temperature
        ece = " to ".join(f"{value:.1%}" for value in known.ece)
        lines.append(
            f"calibrated on {known.tasks} validation tasks of {known.way} classes and {known.shot} examples: "
            f"temperature {known.temperature:.3f}, calibration error {ece}"
        )
    if wanted is None or source is None:
        return 0.0, lines
    with items_bar("validation tasks", TASKS) as bar:
        parts = list(scored(usable, source, TASKS, bar.update, unknown=True))
    level = level_of(parts, model.temperature, wanted)
    lines.append(
        f"rejected below {level.threshold:.3f}: on validation tasks of {parts[0].logits.shape[1]} classes "
        f"and as many queries of unknown ones {level.right:.1%} of the answers are right, "
        f"{level.covered:.1%} of the known and {level.unknown:.1%} of the unknown are answered"
    )
    return level.threshold, lines


def _write(path: Path, text: str) -> None:
    write_text(path, f"\ufeff{text}")  # by which spreadsheets know UTF-8


def _draw(path: Path, model: TaskModel, query: Unlabelled, found: Sequence[Answer | Number]) -> None:
    """Draw the images with the least margins."""
    from metarun.reports.pictures import sheet

    doubtful = least_certain(found)[:_MOST_DRAWN]
    kept, x = query.again([answer.place for answer in doubtful])
    images = as_numbers(x, model.usable.dtype)
    captions = [
        [
            query.names[answer.place],
            f"{answer.label or 'rejected'} {answer.probability:.0%}",
            f"or {answer.runner_up} {answer.probability - answer.margin:.0%}",
        ]
        for answer in doubtful
        if answer.place in kept
    ]
    try:
        drawn = io.BytesIO()
        sheet(list(images), captions).save(drawn, path.suffix.lstrip(".").upper() or "PNG")
    except (KeyError, ValueError) as error:  # Pillow's, for an unknown ending
        raise ConfigError(f"--picture {path}: type --picture FILE.png") from error
    with naming(path):
        replace(path, lambda file: file.write(drawn.getvalue()))


def _summary(model: TaskModel, query: Unlabelled, found: Sequence[Answer | Number]) -> list[str]:
    """Return what a person wants to know at once."""
    support = model.support
    sizes = f"{len(support.names)} labelled examples"
    if model.classes:
        sizes += f" of {len(model.classes)} classes"
    lines = [f"learned from {sizes}; {len(found)} of {len(query)} examples predicted"]
    if model.classes:
        each = [f"{name or 'rejected'} {count}" for name, count in counted(found).items()]
        shown = ", ".join(each[:10]) + (f" and {len(each) - 10} more classes" if len(each) > 10 else "")
        lines.append(shown)
        hits, known = right(model, query, found)
        if known:
            lines.append(f"right: {hits} of {known} whose folder or column says a class ({hits / known:.1%})")
        doubtful = least_certain(found)
        named = [f"{query.names[a.place]} ({a.probability:.0%})" for a in doubtful[:3]]
        lines.append(f"least certain: {', '.join(named)}")
    for what, notes in (("support", support.notes), ("query", query.notes)):
        lines += _told(what, notes)
    if model.is_transductive:
        lines.append("each prediction depends on the others: those that were predicted together")
    return lines


def _told(what: str, notes: Notes) -> list[str]:
    lines = [f"{what}: {count} images: {told}" for told, count in notes.told.items()]
    if notes.left_out:
        each = [f"{name} is {why}" for name, why in notes.left_out.items()]
        lines.append(f"{what}: {len(each)} left out: {some(each)}")
    return lines
