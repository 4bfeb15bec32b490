"""Tests that are finished, as they lie in the directories of runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarun.errors import ConfigError, MetarunError
from metarun.evaluation.curve import measures_of
from metarun.evaluation.task_scores import TaskScores
from metarun.runs.contents import are_results
from metarun.runs.directory import TEST_TASKS, Run
from metarun.runs.finding import run_directories
from metarun.runs.labels import flat
from metarun.tasks import Measure


@dataclass(frozen=True)
class FinishedTest:
    """A test of a run.

    Attributes:
        path: of the run's directory, or of a file of `metarun eval`.
        config: of the run, flat, with the overrides of the test.
        choices: the option of each group, where they are known.
        each_task: the scores of each task.
        measures: how to read them, by name; the loss comes first.
    """

    path: Path
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    each_task: TaskScores
    measures: Mapping[str, Measure]

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.config["seed"])


def read_tests(path: Path) -> Iterator[FinishedTest]:
    """Yield the test of a run, of a file of `metarun eval`, or of all finished runs below a folder.

    Raises:
        ConfigError: there is nothing of this kind.
        MetarunError: a file is damaged, or an older metarun has not kept the scores of each task.
    """
    if path.suffix == ".json" and path.is_file():
        yield _of_evaluation(path)
        return
    if (path / "config.yaml").is_file():
        found = _of_run(Run.open(path))
        if found is None:
            raise ConfigError(f"{path} is not tested yet: expected a finished run")
        yield found
        return
    tests = [test for each in run_directories(path) if (test := _of_run(Run.open(each))) is not None]
    if not tests:
        raise ConfigError(
            f"{path} holds no finished run: expected a run's directory, a folder of runs, or a file of "
            f"evaluations/"
        )
    yield from tests


def _of_run(run: Run) -> FinishedTest | None:
    """Return the test of a run, or None if it is not finished."""
    results = run.results()
    if not results:
        return None
    each_task = TaskScores.read(run.directory / TEST_TASKS)
    if each_task is None:
        raise MetarunError(
            f"{run.directory} has no {TEST_TASKS}, since an older metarun has tested it: type metarun eval "
            f"{run.directory}, and compare the file that it keeps"
        )
    return FinishedTest(run.directory, flat(run.config()), _choices(run), each_task, measures_of(results))


def _of_evaluation(path: Path) -> FinishedTest:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MetarunError(f"{path} is damaged: expected a file of metarun eval") from error
    each_task = TaskScores.read(path.with_suffix(".npz"))
    if not isinstance(content, dict) or not are_results(content) or each_task is None:
        raise MetarunError(
            f"{path}: expected a file of metarun eval, with its .npz of the scores of each task"
        )
    run = Run.open(path.parent.parent)
    words = [str(word) for word in content.get("overrides", [])]
    typed = dict(word.partition("=")[::2] for word in words)
    label = content.get("label", {})
    typed |= {str(key): str(value) for key, value in label.items()} if isinstance(label, dict) else {}
    choices = {**_choices(run), **{key: value for key, value in typed.items() if "." not in key}}
    return FinishedTest(path, {**flat(run.config()), **typed}, choices, each_task, measures_of(content))


def _choices(run: Run) -> dict[str, str]:
    found = run.manifest().get("choices")
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
