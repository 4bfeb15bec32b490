"""The state of a training between two meta-steps, and the operations on it."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from metarun.engine.settings import Engine
from metarun.errors import ConfigError, DivergedError, PrunedError
from metarun.evaluation.curve import Curve
from metarun.evaluation.prediction.usable import inputs_of
from metarun.experiment.build import build, build_metagradient, build_outer
from metarun.experiment.config import Config
from metarun.metagradients import Progress
from metarun.reports.progress import describe
from metarun.runs.directory import TEST_TASKS, Run
from metarun.runs.loggers import RunFacts
from metarun.runs.loggers.following import Loggers
from metarun.runs.resuming import resume_command
from metarun.runs.signals import stop
from metarun.system.memory import peak_memory
from metarun.system.ranks import Ranks
from metarun.tasks import SPLITS, Tasks
from metarun.tasks.description import class_names, described, elsewhere
from metarun.tasks.episodes import first_episodes
from metarun.tasks.metrics import selected_by
from metarun.tasks.prefetch import Prefetcher
from metarun.training.computation import Computation
from metarun.training.meter import Meter
from metarun.training.selection import Selection
from metarun.training.updates import Means, SkippedSteps, assign, is_finite, of_all_ranks, what_is_wrong

log = logging.getLogger("metarun")

# Scoring is measured on at most this many tasks, of at most this many bytes.
_MOST_TASKS, _MOST_BYTES = 256, 2**28

# Groups and keys whose values, if too large, make the loss diverge.
STEP_SIZE_KEYS = (("inner", "lr"), ("inner", "scale"), ("inner", "step_scale"), ("metagradient", "sigma"))


class Training:
    """The state of a training between two meta-steps, and the operations on it.

    Attributes:
        step: meta-steps taken so far, skipped ones included.
        selection: the best validation so far.
        skipped: meta-steps whose meta-gradient was not finite.
        validating: whether the run was stopped during a validation, which must be repeated.
        computation: computes meta-gradients and scores.
        loggers: what follows the metrics.
    """

    def __init__(self, config: Config, run: Run, ranks: Ranks | None = None) -> None:
        self.config, self.settings = config, config.train
        self.run, self.ranks = run, ranks or Ranks()
        self._check_ranks()
        # Its first checkpoint holds the weights that it starts from.
        self.experiment = build(config, start=not run.checkpoints.exist(), home=run.home)
        self.learner, self.source = self.experiment.learner, self.experiment.source
        self.computation = Computation(
            self.experiment,
            build_metagradient(config, self.learner),
            seed=config.seed,
            ranks=self.ranks,
            open_workers=config.engine.workers == "auto",
            announce=self._announce,
            save=self.save,
        )
        self.outer = build_outer(config, self.learner)
        self.source.prepare(self.experiment.device)
        if self.ranks.first:
            self.run.describe(described(self.source))
        first = {split: first_episodes(self.source, split, self.experiment.dtype) for split in SPLITS}
        if self.ranks.first:
            measures = [asdict(measure) for measure in first["validation"].measures]
            self.run.write_json("inputs.json", {**inputs_of(self.source), "measures": measures})
        for tasks in first.values():  # any of them may be padded
            self.learner.check(tasks)
        self._selecting = selected_by(first["validation"].measures)
        self.step = 0
        self.selection, self.skipped = Selection(), SkippedSteps()
        self.validating = False
        self.loggers = Loggers({}, RunFacts(run.directory, {}, 0))  # `followed` opens those of the config
        self._prefetcher = Prefetcher(self.source, self.settings.meta_batch)
        self._meter = Meter(self.settings.meta_batch)

    def _check_ranks(self) -> None:
        """Raise ConfigError if a process would have no task."""
        for name in ("meta_batch", "validation_tasks", "test_tasks"):
            tasks = getattr(self.settings, name)
            if tasks < self.ranks.count:
                raise ConfigError(
                    f"train.{name}={tasks}: {self.ranks.count} processes need a task each; "
                    f"type train.{name}={self.ranks.count}, or start fewer"
                )

    def choose_engines(self) -> None:
        """Choose the engines of meta-gradients and scores."""
        tasks = max(self.settings.validation_tasks, self.settings.test_tasks)
        task_bytes = first_episodes(self.source, "validation", self.experiment.dtype, 1).bytes
        count = min(tasks, _MOST_TASKS, max(1, _MOST_BYTES // task_bytes))
        validation = first_episodes(self.source, "validation", self.experiment.dtype, count)
        self.computation.choose(self.config.engine, self._meta_batch(), validation, self.settings.steps)

    def _meta_batch(self) -> Tasks:
        """Return this process's share of the next meta-batch."""
        return self._prefetcher.batch(self.step).part(self.ranks.share(self.settings.meta_batch))

    def _announce(self, engine: Engine, evaluation: Engine) -> None:
        """Write the run's engine.json, for people to read."""
        if self.ranks.first:
            content = {"strategy": engine.strategy, **asdict(engine), "evaluation": evaluation.in_words()}
            self.run.write_json("engine.json", content)

    def save(self) -> None:
        """Write the checkpoint that `restore` continues from.

        Raises:
            MetarunError: a meta-parameter is not finite; the previous checkpoint stays as it is.
            OSError: it cannot be written; the previous checkpoint stays as it is.
        """
        for name, p in self.learner.named_parameters():
            if not p.isfinite().all():
                raise self._diverged(f"{name} is not finite", self.step)
        if self.ranks.first:
            self.run.checkpoints.save(self.state_dict(), self.settings.keep)
            self.loggers.flush()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: tensors and plain values."""
        return {
            "step": self.step,
            "learner": self.learner.state_dict(),
            "outer": self.outer.state_dict(),
            "meter": self._meter.state_dict(),
            "selection": self.selection.state_dict(),
            "skipped": self.skipped.state_dict(),
            "validating": self.validating,
            "engine": asdict(self.computation.engine),
            "evaluation_engine": asdict(self.computation.evaluation_engine),
            "device": self.experiment.device.type,
            "metrics_bytes": self.run.metrics.position(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint; `restore` handles its engine, device and metrics."""
        self.learner.load_state_dict(state["learner"])
        self.outer.load_state_dict(state["outer"])
        self._meter.load_state_dict(state["meter"])
        self.selection.load_state_dict(state["selection"])
        self.skipped.load_state_dict(state["skipped"])
        self.step, self.validating = state["step"], state.get("validating", False)

    @property
    def best_validation(self) -> dict[str, float]:
        """The score that selects the learner, of the best validation; {} before the first."""
        best = self.selection.best
        if best is None:
            return {}
        sign = 1 if self._selecting.higher_is_better else -1
        return {self._selecting.name: sign * best["selection_score"]}

    @property
    def finished(self) -> bool:
        """Whether all steps are taken, or training has stopped early."""
        return self.step >= self.settings.steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether train.patience validations in a row have not improved the best."""
        patience = self.settings.patience
        return patience is not None and self.selection.validations_since_best >= patience

    def is_due(self, interval: int) -> bool:
        """Return whether something done every `interval` steps (0: never) and after the last step is due."""
        return interval > 0 and (self.step % interval == 0 or self.step == self.settings.steps)

    def take_step(self, asked: Callable[[], int] = lambda: 0) -> int:
        """Take one meta-step on the next episodes, or skip it where its meta-gradient is not finite.

        Args:
            asked: returns this process's reason to stop (`StopSignals.reason`; 0: none).

        Returns:
            The reason to stop the run after this step; the same in all processes.

        Raises:
            MetarunError: the meta-gradient is not finite, and train.on_nonfinite does not skip it.
        """
        progress = Progress(self.step, self.settings.steps, self.config.seed)
        meta_batch_size = self.settings.meta_batch
        reason, means, backup = 0, Means(), None
        for meta_step in self.computation.meta_steps(self._meta_batch(), progress, meta_batch_size):
            update, means, reason = of_all_ranks(meta_step, self.learner, self.ranks, meta_batch_size, asked)
            update.fill(self.learner)
            if not is_finite(self.outer.parameters, means):
                if backup is not None:
                    self.learner.load_state_dict(backup[0])
                    self.outer.load_state_dict(backup[1])
                self._skip(means)
                break
            if self.computation.steps_per_window and backup is None:
                backup = copy.deepcopy((self.learner.state_dict(), self.outer.state_dict()))
            self.outer.step(self.step)
            assign(self.learner, update.assignments)
        else:
            self._meter.add(means)
            self.skipped.in_a_row = 0
        self.step += 1
        return reason

    def _skip(self, means: Means) -> None:
        """Skip the update; with on_nonfinite=stop, or after too many skips, save and raise DivergedError."""
        self.outer.forget()
        if self.settings.on_nonfinite == "stop" or self.skipped.too_many:
            self.save()
            too_many = self.settings.on_nonfinite == "skip"
            raise self._diverged(what_is_wrong(means, too_many=too_many), self.step + 1)
        self.skipped.add(self.step + 1, means)

    def log_scores(self) -> dict[str, float]:
        """Write the mean scores of the steps since the last call to the metrics, and return them."""
        means, timing = self._meter.read()
        skipped = {"skipped": self.skipped.all} if self.skipped.all else {}
        self._record({"step": self.step, "split": "train", **means, **timing, **skipped})
        return means

    def _record(self, line: Mapping[str, Any]) -> None:
        """Write a line of the metrics, and hand it to the loggers."""
        if self.ranks.first:
            self.loggers.record(*self.run.metrics.append(line))

    def log_rest(self) -> None:
        """Write the scores of the steps since the last log, if any."""
        if not self._meter.is_empty:
            self.log_scores()
            self.save()

    def validate(self, asked: Callable[[], int] = lambda: 0, message: str = "") -> None:
        """Score the validation tasks, and keep the learner if it is the best so far.

        Args:
            asked: returns the reason to stop (0: none); the run is then saved, and repeats the validation
                when it is resumed. Not called with several processes, which would have to agree.
            message: message of the error that is raised then.

        Raises:
            Interrupted: a signal was received.
            OutOfTimeError: the time is over.
        """

        def between_chunks() -> None:
            if self.ranks.count == 1 and (reason := asked()):
                self.validating = True
                self.save()
                stop(reason, message)

        start = time.monotonic()
        curve = self.computation.evaluate("validation", self.settings.validation_tasks, between_chunks)
        self.validating = False
        seconds = time.monotonic() - start
        self._meter.skip(seconds)
        means = {name: estimate.mean for name, estimate in curve.final.items()}
        timing = {"tasks_per_second": curve.tasks / seconds, "seconds": seconds}
        self._record({"step": self.step, "split": "validation", **means, **timing})
        log.info("step %d, %d validation tasks: %s", self.step, curve.tasks, describe(means))
        if self.selection.add(self.step, curve) and self.ranks.first and self.selection.best:
            engine, learner = asdict(self.computation.engine), self.learner.state_dict()
            self.run.checkpoints.save_best({**self.selection.best, "engine": engine, "learner": learner})

    def prune_if(self, should_prune: Callable[[int, float], bool]) -> None:
        """End the run if `should_prune` returns true for the latest validation.

        Raises:
            PrunedError: the run is pruned; raised in all processes.
        """
        score = self.selection.selection_score
        if self.ranks.broadcast_from_rank0(lambda: should_prune(self.step, score)):
            raise PrunedError(f"pruned at step {self.step}: other jobs were better by then")

    def _diverged(self, cause: str, step: int) -> DivergedError:
        step_sizes = [f"{group}.{key}" for group, key in STEP_SIZE_KEYS if key in getattr(self.config, group)]
        return DivergedError(
            f"{cause} at step {step}: lower {', '.join(step_sizes)} or outer.lr, or type outer.clip_norm=1; "
            f"the last good checkpoint is in {self.run.checkpoints.folder}, and "
            f"{resume_command(self.run.directory)} takes another outer.lr, outer.clip_norm or "
            f"train.on_nonfinite=skip"
        )

    def test(self, between_chunks: Callable[[], None] = lambda: None) -> Curve:
        """Score the best learner (the last, where none was validated) on the test tasks.

        Args:
            between_chunks: may raise, to stop; not called with several processes, which would have to agree.
        """
        if self.ranks.count > 1:
            between_chunks = _nothing
        best = self.ranks.broadcast_from_rank0(self._best)
        self.learner.load_state_dict(best["learner"])
        settings = self.settings
        curve = self.computation.evaluate(
            "test", settings.test_tasks, between_chunks, over_examples=settings.test_curve
        )
        ended = {"stopped_early_at": self.step} if self.step < self.settings.steps else {}
        if self.skipped.all:
            ended["skipped"] = self.skipped.all
        validation = self.selection.best
        names = {**class_names(self.source, "test"), **elsewhere(self.source)}
        step = best["step"]
        results = {"checkpoint_step": step, "validation": validation, **ended, **curve.as_dict(), **names}
        if self.ranks.first:
            if curve.each_task is not None:
                curve.each_task.write(self.run.directory / TEST_TASKS)
            self.run.write_json("usage.json", {"peak_memory_bytes": peak_memory(self.experiment.device)})
            self.run.write_json("results.json", results)
            if other := elsewhere(self.source).get("test_data"):
                fitted = f", {other['fitted']}" if other["fitted"] else ""
                log.info("the test tasks are of %s%s", other["name"], fitted)
        return curve

    def _best(self) -> dict[str, Any]:
        """Return the checkpoint to test."""
        validated = self.selection.best
        best = self.run.checkpoints.best(validated["step"]) if validated else None
        best = best or self.run.checkpoints.newest()
        assert best is not None  # the last step was saved
        return best


def _nothing() -> None:
    """Do nothing between two chunks."""
