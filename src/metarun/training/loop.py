"""The training loop: meta-steps with validation and checkpoints, then the final test."""

from __future__ import annotations

from collections.abc import Callable

from metarun.errors import with_keys
from metarun.evaluation.curve import Curve
from metarun.experiment.config import Config
from metarun.experiment.fit import without_needless_training
from metarun.fields import seconds
from metarun.reports.progress import TrainingProgress
from metarun.runs.directory import Run
from metarun.runs.resuming import resume_command
from metarun.runs.signals import StopSignals, stop
from metarun.system.ranks import Ranks
from metarun.training.followed import followed, show_learned
from metarun.training.restore import restore
from metarun.training.state import Training

ShouldPrune = Callable[[int, float], bool]
"""Returns whether to prune the run, from a validation's step and selection score; rank 0 only."""


@with_keys()
def train(
    config: Config,
    run: Run,
    ranks: Ranks | None = None,
    *,
    should_prune: ShouldPrune = lambda step, score: False,  # noqa: ARG005
    signals: StopSignals | None = None,
) -> Curve:
    """Train from the run's last checkpoint, or from the start, then test the best learner.

    Args:
        config: config of the run.
        run: the run's directory.
        ranks: this process among those that train the run together.
        should_prune: called after each validation; again for the latest if the run resumes right after it.
        signals: the signals that stop the run; SIGINT and SIGTERM by default.

    Returns:
        The curve over adaptation steps on the test tasks, also in the run's results.json.

    Raises:
        ConfigError: the groups of the config do not fit together.
        MetarunError: data is missing, all checkpoints are damaged, or the loss is NaN or infinite.
        Interrupted: SIGINT or SIGTERM was received; the run can be resumed.
        OutOfTimeError: train.max_time is over; the run can be resumed.
        PrunedError: should_prune returned true.
    """
    config = without_needless_training(config)
    to_go_on = f"to go on: {resume_command(run.directory)}"
    with signals or StopSignals() as stop_signals:
        limit = config.train.max_time
        stop_signals.allow(None if limit is None else seconds(limit))
        steps = config.train.steps
        with stop_signals.at_once(f"stopped before the next step; {to_go_on}"):
            training = Training(config, run, ranks)
            restore(training)
        if training.finished:  # else a test longer than max_time would never finish
            stop_signals.allow(None)
        while_validating = f"stopped after step {{}} of {steps}, while validating; {to_go_on}"
        with followed(training) as tested:
            if training.validating:
                training.validate(lambda: stop_signals.reason, while_validating.format(training.step))
            if training.step and training.is_due(config.train.validate_every):
                training.prune_if(should_prune)  # if it was killed between save and prune_if
            with TrainingProgress(training.step, steps, config.train.meta_batch) as progress:
                while not training.finished:
                    reason = training.take_step(lambda: stop_signals.reason)
                    progress.step()
                    if training.is_due(config.train.log_every):
                        progress.scores(training.step, training.log_scores(), training.best_validation)
                    validated = training.is_due(config.train.validate_every)
                    if validated:
                        training.validate(lambda: stop_signals.reason, while_validating.format(training.step))
                        show_learned(training)
                    if reason or training.finished or training.is_due(config.train.checkpoint_every):
                        training.save()
                    if validated:
                        training.prune_if(should_prune)
                    stop(reason, f"stopped after step {training.step} of {steps}; {to_go_on}")
            training.log_rest()
            tested.append(
                training.test(lambda: stop(stop_signals.reason, f"stopped while testing; {to_go_on}"))
            )
        return tested[0]
