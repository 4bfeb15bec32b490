"""The training loop: meta-steps with validation and checkpoints, then the final test."""

from __future__ import annotations

from collections.abc import Callable

from metarun.config import Config
from metarun.evaluate import Curve
from metarun.ranks import Ranks
from metarun.runs.directory import Run
from metarun.runs.progress import TrainingProgress
from metarun.runs.signals import StopSignals, stop
from metarun.training import Training
from metarun.values import seconds

AfterValidation = Callable[[int, float], None]
"""Told the step and the quality of each validation; may raise, to end the training."""


def train(
    config: Config,
    run: Run,
    ranks: Ranks | None = None,
    *,
    after_validation: AfterValidation = lambda step, quality: None,  # noqa: ARG005
    signals: StopSignals | None = None,
) -> Curve:
    """Train from the run's last checkpoint, or from the start, then test the best learner.

    Args:
        config: of the run.
        run: where its files are.
        ranks: this process among those that train the run together.
        after_validation: told of each validation once it is saved.
        signals: what may stop it; SIGINT and SIGTERM by default.

    Returns:
        The curve over adaptation steps on the test tasks, also in the run's results.json.

    Raises:
        ConfigError: the groups of the config do not fit together.
        MetarunError: data is missing, all checkpoints are damaged, or the loss is no longer a number.
        Interrupted: SIGINT or SIGTERM came; the run can be resumed.
        OutOfTimeError: train.max_time is over; the run can be resumed.
    """
    to_go_on = f"to go on: metarun resume {run.directory}"
    with signals or StopSignals() as asked:
        limit = config.train.max_time
        asked.allow(None if limit is None else seconds(limit))
        training = Training(config, run, ranks)
        training.restore()
        steps = config.train.steps
        with TrainingProgress(training.step, steps) as progress:
            while not training.finished:
                reason = training.take_step(lambda: asked.reason)
                progress.step()
                if training.is_due(config.train.log_every):
                    progress.scores(training.step, training.log_scores())
                validated = training.is_due(config.train.validate_every)
                if validated:
                    training.validate()
                if reason or training.finished or training.is_due(config.train.checkpoint_every):
                    training.save()
                if validated:
                    after_validation(training.step, training.quality)
                stop(reason, f"stopped after step {training.step} of {steps}; {to_go_on}")
        training.log_rest()
        return training.test(lambda: stop(asked.reason, f"stopped while testing; {to_go_on}"))
