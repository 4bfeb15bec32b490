"""A search: trials that Optuna proposes are run until there are `n_trials`."""

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
    """Continue unfinished trials, propose new ones until there are `trials`, and print the table.

    Args:
        launching: launches the jobs.
        arguments: the words typed: key=value and key=space.
        params: words of the same form from a file; a word typed for the same key replaces them.
        settings: of the study.
        trials: the total number of trials.
        at_once: the number of trials proposed and run together.

    Raises:
        ConfigError: no override has a space to search in.
        InUseError: another process works on this sweep.
        UnfinishedError: trials have failed.
        Interrupted: a signal was received.
    """
    words = {word.partition("=")[0]: word for word in (*params, *arguments)}
    parsed = OverridesParser.create(config_loader=launching.loader).parse_overrides(list(words.values()))
    space = {
        override.get_key_element(): distribution(override)
        for override in parsed
        if override.is_sweep_override()
    }
    fixed = [str(override.input_line) for override in parsed if not override.is_sweep_override()]
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
        unfinished = study.unfinished
        log.info(
            "search: %d of %d trials exist, %d of them unfinished", len(study.trials), trials, len(unfinished)
        )
        pruned = sum(is_pruned(trial) for trial in study.trials)
        with launching.progress(trials, lambda: launching.directory.glob("[0-9]*"), lambda: pruned):
            while True:
                batch, unfinished = unfinished[:at_once], unfinished[at_once:]
                if not batch:
                    count = min(at_once, trials - len(study.trials))
                    batch = [study.propose(space, fixed) for _ in range(count)]
                if not batch:
                    break
                _run(launching, study, batch)
                pruned = sum(is_pruned(trial) for trial in study.trials)
        _finish(launching, study)


def _open(launching: Launching, kept: Sweep, settings: DictConfig) -> Study:
    """Begin or reopen the study of a locked sweep.

    Raises:
        MetarunError: the sweep has jobs, but its study is missing.
    """
    is_new = not kept.exists()
    kept.begin("search")
    study = Study.open(launching.directory, settings)
    if not is_new and not study.trials and next(launching.directory.glob("*/config.yaml"), None):
        raise MetarunError(
            f"{launching.directory} holds the jobs of a search but not their study: restore study.db "
            f"from a copy, or type another hydra.sweep.dir=FOLDER"
        )
    for trial in study.unfinished:
        if not overrides(trial):
            study.drop(trial)
    if not launching.numbered:
        log.warning("hydra.sweep.subdir is not used in a search: trial N is in folder N")
    launching.numbered = True  # a job finds its trial by the number of its folder
    return study


def _job(launching: Launching, trial: FrozenTrial) -> Job:
    return launching.job(trial.number, overrides(trial))


def _run(launching: Launching, study: Study, batch: Sequence[FrozenTrial]) -> None:
    """Run trials, except those that ended before their result was recorded, and record all results."""
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
    scored = [outcome for outcome in outcomes if outcome.selection_score is not None]
    best = max(scored, key=lambda outcome: outcome.selection_score or 0.0, default=None)
    title = ""
    if best is not None:
        params = trials[best.job.number].params
        choices = " ".join(f"{key}={value}" for key, value in params.items())
        title = f"\nbest on validation tasks: job {best.job.number} ({best.selection_score:.4g}): {choices}"
    ordered = sorted(
        outcomes, key=lambda outcome: (outcome.selection_score is None, -(outcome.selection_score or 0.0))
    )
    launching.finish([[outcome] for outcome in ordered], {"best": best.job.number if best else None}, title)


def representative(override: Override) -> str:
    """Return an override with one value of the space, to check the config before anything is written."""
    space = distribution(override)
    value = space.choices[0] if hasattr(space, "choices") else space.low  # type: ignore[attr-defined]
    return f"{override.get_key_element()}={value}"
