"""A search: trials that Optuna proposes, run until there are as many as asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from optuna.trial import FrozenTrial

from metarun.errors import ConfigError, MetarunError
from metarun.sweeps.directory import Job, Sweep
from metarun.sweeps.launching import Launching
from metarun.sweeps.study import Study, distribution, is_pruned, overrides, status
from metarun.sweeps.table import Outcome

log = logging.getLogger("metarun")


def search(
    launching: Launching,
    arguments: Sequence[str],
    params: Sequence[str],
    settings: DictConfig,
    *,
    trials: int,
    at_once: int,
) -> None:
    """Go on with what was begun, then propose until there are enough, and end with the table.

    Args:
        launching: launches the jobs.
        arguments: what was typed: key=value and key=space.
        params: more of the same, from a file; what is typed counts for more.
        settings: of the study.
        trials: how many there are to be in all.
        at_once: how many are proposed before one of them ends.

    Raises:
        ConfigError: there is nothing to search in.
        InUseError: another process works on this sweep.
        UnfinishedError: trials have failed.
        Interrupted: a signal came.
    """
    words = {word.partition("=")[0]: word for word in (*params, *arguments)}
    parsed = OverridesParser.create(config_loader=launching.loader).parse_overrides(list(words.values()))
    space = {each.get_key_element(): distribution(each) for each in parsed if each.is_sweep_override()}
    fixed = [str(each.input_line) for each in parsed if not each.is_sweep_override()]
    if not space:
        raise ConfigError(
            "hydra/sweeper=optuna: there is nothing to search in; type search=rates, or "
            "'inner.lr=interval(0.01,1)', or values with commas"
        )
    with launching.held() as kept:
        study = _open(launching, kept, settings)
        study.check(space)
        kept.write(
            words=[*launching.words, *arguments], config_dirs=kept.all_config_dirs(launching.config_dirs)
        )
        begun = study.unfinished
        log.info("search: %d of %d trials are there, %d of them begun", len(study.trials), trials, len(begun))
        while True:
            batch, begun = begun[:at_once], begun[at_once:]
            if not batch:
                more = min(at_once, trials - len(study.trials))
                batch = [study.propose(space, fixed) for _ in range(more)]
            if not batch:
                break
            _run(launching, study, batch)
        _finish(launching, study)


def _open(launching: Launching, kept: Sweep, settings: DictConfig) -> Study:
    """Return the study of a sweep that is held, begun or gone on with.

    Raises:
        MetarunError: there are jobs of a study that is gone.
    """
    is_new = not kept.exists()
    kept.begin("search")
    study = Study.open(launching.directory, settings)
    if not is_new and not study.trials and next(launching.directory.glob("*/config.yaml"), None):
        raise MetarunError(
            f"{launching.directory} holds the jobs of a search and no study of them: restore study.db "
            f"from a copy, or type another hydra.sweep.dir=FOLDER"
        )
    for trial in study.unfinished:
        if not overrides(trial):
            study.drop(trial)
    if not launching.numbered:
        log.warning("hydra.sweep.subdir is not used in a search: trial N is in folder N")
    launching.numbered = True  # a job finds its trial by the number
    return study


def _job(launching: Launching, trial: FrozenTrial) -> Job:
    return launching.job(trial.number, overrides(trial))


def _run(launching: Launching, study: Study, batch: Sequence[FrozenTrial]) -> None:
    """Run trials, but for those that have come to their end before anybody was told."""
    jobs = [_job(launching, trial) for trial in batch]
    launching.launch(
        [
            job
            for job, trial in zip(jobs, batch, strict=True)
            if job.status != "finished" and not is_pruned(trial)
        ]
    )
    trials = study.trials
    for job in jobs:
        outcome = Outcome.read(job)
        study.tell(trials[job.number], outcome.status, outcome.selection_score)


def _finish(launching: Launching, study: Study) -> None:
    trials = study.trials
    jobs = [_job(launching, trial) for trial in trials]
    outcomes = [Outcome.read(job, status(trial, job)) for job, trial in zip(jobs, trials, strict=True)]
    known = [each for each in outcomes if each.selection_score is not None]
    best = max(known, key=lambda each: each.selection_score or 0.0, default=None)
    title = ""
    if best is not None:
        searched = trials[best.job.number].params
        found = " ".join(f"{key}={value}" for key, value in searched.items())
        title = f"\nbest on validation tasks: job {best.job.number} ({best.selection_score:.4g}): {found}"
    ordered = sorted(
        outcomes, key=lambda each: (each.selection_score is None, -(each.selection_score or 0.0))
    )
    launching.finish([[each] for each in ordered], {"best": best.job.number if best else None}, title)


def representative(override: Override) -> str:
    """Return one value of what is searched in, to check the config before anything is written."""
    drawn = distribution(override)
    value = drawn.choices[0] if hasattr(drawn, "choices") else drawn.low  # type: ignore[attr-defined]
    return f"{override.get_key_element()}={value}"
