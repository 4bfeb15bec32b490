"""The Optuna study of a search: its trials, stored in the sweep's directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from metarun.config.private import trial_of
from metarun.errors import ConfigError
from metarun.sweeps.directory import Job, Status
from metarun.training.loop import ShouldPrune

_NAME = "metarun"
_OVERRIDES, _PRUNED = "overrides", "pruned"

# How long sqlite waits for another process of the sweep before it raises.
_SECONDS_LOCKED = 120

_ENDED: dict[TrialState, Status] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class Study:
    """Proposes trials and records their results; trial N is job N of the sweep.

    Args:
        study: Optuna's.
        sampler: `_target_` and arguments of the sampler that proposes trials.
    """

    def __init__(self, study: optuna.Study, sampler: Mapping[str, Any]) -> None:
        self._study, self._sampler = study, sampler

    @classmethod
    def open(cls, directory: str | Path, settings: DictConfig) -> Study:
        """Open the study of a sweep, or begin it.

        Args:
            directory: of the sweep.
            settings: hydra.sweeper.study.

        Raises:
            ConfigError: the settings are wrong, or the storage cannot be opened.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        url = settings.storage or f"sqlite:///{Path(directory).absolute() / 'study.db'}"
        name = _NAME if settings.storage is None else f"{_NAME} {Path(directory).absolute()}"
        sampler = OmegaConf.to_container(settings.sampler, resolve=True)
        try:
            arguments = {"connect_args": {"timeout": _SECONDS_LOCKED}} if url.startswith("sqlite") else {}
            study = optuna.create_study(
                storage=optuna.storages.RDBStorage(url, engine_kwargs=arguments),
                study_name=name,
                direction=StudyDirection.MAXIMIZE,  # of the selection score on validation tasks
                pruner=instantiate(settings.pruner),
                load_if_exists=True,
            )
            instantiate(sampler)
        # Optuna, SQLAlchemy and Hydra raise many types of errors for wrong settings or a missing database.
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(f"hydra.sweeper.study: {type(error).__name__}: {reason}") from error
        assert isinstance(sampler, dict)
        return cls(study, {str(key): value for key, value in sampler.items()})

    def check(self, space: Mapping[str, BaseDistribution]) -> None:
        """Raise ConfigError if the study cannot continue in this space."""
        for trial in self.trials:
            for name, before in trial.distributions.items():
                try:
                    if name in space:
                        optuna.distributions.check_distribution_compatibility(before, space[name])
                except ValueError as error:
                    raise ConfigError(
                        f"{name}: the space of a search cannot change on resume: {error}"
                    ) from error

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return self._study.get_trials(deepcopy=False)

    @property
    def unfinished(self) -> list[FrozenTrial]:
        """The trials that have begun and whose result has not been recorded."""
        return [trial for trial in self.trials if trial.state is TrialState.RUNNING]

    def propose(self, space: Mapping[str, BaseDistribution], fixed: Sequence[str]) -> FrozenTrial:
        """Propose a trial and return it.

        The sampler is made anew for each trial, with the trial's number added to its seed. So a resumed study
        proposes the same trials as one that was never stopped, and none twice.

        A quasi-random sampler keeps its seed, since all trials belong to one sequence.
        """
        sampler = dict(self._sampler)
        if sampler.get("seed") is not None and not str(sampler["_target_"]).endswith("QMCSampler"):
            sampler["seed"] += len(self.trials)
        self._study.sampler = instantiate(sampler)
        trial = self._study.ask(dict(space))
        trial.set_user_attr(_OVERRIDES, [*fixed, *(f"{key}={value}" for key, value in trial.params.items())])
        return self.trials[trial.number]

    def tell(self, trial: FrozenTrial, status: Status, score: float | None) -> None:
        """Record the end of a trial if it was pruned or finished; any other stays running, to be resumed."""
        if is_pruned(trial):
            self._study.tell(trial.number, state=TrialState.PRUNED)
        elif status == "finished" and score is not None:
            self._study.tell(trial.number, score)

    def drop(self, trial: FrozenTrial) -> None:
        """Mark a trial as failed that was killed before its overrides were stored."""
        self._study.tell(trial.number, state=TrialState.FAIL)

    def should_prune(self, number: int) -> ShouldPrune:
        """Return the function that reports a validation of a trial and returns whether to prune the trial."""

        def should_prune(step: int, score: float) -> bool:
            frozen = self.trials[number]
            trial = trial_of(self._study, frozen)
            if step not in frozen.intermediate_values:  # a resumed job reports some validations again
                trial.report(score, step)
            prune = trial.should_prune()
            if prune:
                trial.set_user_attr(_PRUNED, value=True)
            return prune

        return should_prune


def overrides(trial: FrozenTrial) -> tuple[str, ...]:
    """Return the overrides of a trial."""
    return tuple(trial.user_attrs.get(_OVERRIDES, ()))


def is_pruned(trial: FrozenTrial) -> bool:
    """Return whether a trial was pruned, even if the study has not recorded its end."""
    return bool(trial.user_attrs.get(_PRUNED))


def status(trial: FrozenTrial, job: Job) -> Status:
    """Return the status of a trial as a job's; if the trial has not ended, read its job's directory."""
    return _ENDED.get(trial.state) or job.status


def distribution(override: Override) -> BaseDistribution:
    """Return Optuna's distribution for a sweep override; `tag(log, …)` searches on a log scale."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high, log = value.start, value.end, "log" in value.tags
        assert low is not None
        assert high is not None
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(float(low), float(high), log=log)
    choices = list(override.sweep_string_iterator())
    if isinstance(value, RangeSweep) and isinstance(value.start, int) and isinstance(value.step, int):
        numbers = sorted(int(choice) for choice in choices)
        return IntDistribution(numbers[0], numbers[-1], step=abs(int(value.step)))
    return CategoricalDistribution(choices)
