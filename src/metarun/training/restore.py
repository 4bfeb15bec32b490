"""Restores a run's last checkpoint."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from metarun.engine.settings import Engine
from metarun.errors import ConfigError, MetarunError

if TYPE_CHECKING:
    from metarun.runs.directory import Run
    from metarun.training.state import Training

log = logging.getLogger("metarun")


def restore(training: Training) -> None:
    """Restore the run's last checkpoint, or write the first one (which shows early whether that works).

    Raises:
        ConfigError: the run has already taken more steps than train.steps.
        MetarunError: the checkpoints are missing, all damaged, or of another network.
    """
    run, settings = training.run, training.settings
    # Rank 0 decides for all what to continue from: the processes have to stay in step.
    state, typed = training.ranks.broadcast_from_rank0(lambda: _newest(run))
    if state is None:
        training.choose_engines()
        _restart(training, 0, 0)
        training.save()
        return
    if state["step"] > settings.steps:
        raise ConfigError(
            f"train.steps={settings.steps}: the run has taken {state['step']} steps already; "
            f"type train.steps={state['step']} or more"
        )
    try:
        training.load_state_dict(state)
    except (RuntimeError, ValueError, LookupError, TypeError) as error:  # for a state that does not fit
        raise MetarunError(
            f"the checkpoint of step {state['step']} in {run.checkpoints.folder} is of another "
            f"network or optimizer ({' '.join(str(error).split())[:200]}): restore those of this run"
        ) from error
    # Timings of a CPU say nothing about a GPU, and newly typed engine keys take effect.
    other_device = state["device"] != training.experiment.device.type
    if other_device or typed:
        training.choose_engines()
    else:
        engine = Engine(**state["engine"])
        evaluation = Engine(**state.get("evaluation_engine", state["engine"]))
        training.computation.use(engine, replace(evaluation, compile=False))
    _restart(training, state["metrics_bytes"], state["step"])
    log.info("resuming at step %d of %d", state["step"], settings.steps)


def _newest(run: Run) -> tuple[dict[str, Any] | None, bool]:
    """Return the checkpoint to continue from, and whether engine keys have changed.

    If the best checkpoint is lost, it is written again from this one if both are of the same step; otherwise
    the best validation is forgotten.

    Raises:
        MetarunError: the checkpoints are missing, or all damaged.
    """
    state = run.checkpoints.newest(take_over=True)
    if state is None:
        if run.metrics.position():
            raise MetarunError(
                f"{run.directory} has metrics and no checkpoint: restore its folder checkpoints "
                f"from a copy, or delete metrics.jsonl to start again from step 0"
            )
        return None, False
    best = state["selection"]["best"]
    if best and run.checkpoints.best(best["step"]) is None:
        if best["step"] == state["step"]:
            run.checkpoints.save_best({**best, "engine": state["engine"], "learner": state["learner"]})
        else:
            selection = {**state["selection"], "best": None, "validations_since_best": 0}
            state = {**state, "selection": selection}
    return state, any(key.startswith("engine.") for key in run.changing)


def _restart(training: Training, metrics_bytes: int, step: int) -> None:
    """Cut the run's files back to the checkpoint's step."""
    run = training.run

    def write() -> None:
        run.forget_results()  # first: if killed before the rest, the run must not look finished
        run.metrics.truncate(metrics_bytes)
        run.resumed(step)

    training.ranks.broadcast_from_rank0(write)
