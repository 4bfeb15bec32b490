"""The state of a training between two meta-steps, and what is done to it."""

from __future__ import annotations

import copy
import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from metarun.engine.settings import Engine
from metarun.errors import ConfigError, DivergedError, MetarunError, PrunedError
from metarun.evaluation.curve import Curve
from metarun.experiment.build import build, build_metagradient, build_outer
from metarun.experiment.config import Config
from metarun.learners import Scores
from metarun.reports.progress import describe
from metarun.runs.directory import Run, resume_command
from metarun.runs.signals import stop
from metarun.system.ranks import Ranks
from metarun.tasks import SPLITS, TaskBatch
from metarun.tasks.ahead import Ahead
from metarun.tasks.episodes import first_episodes
from metarun.training.computation import Computation
from metarun.training.meter import Meter

log = logging.getLogger("metarun")

# So many skipped meta-steps in a row mean that there is nothing left to go on with.
_MOST_SKIPPED = 100

# Groups and keys of which too large a value makes a loss infinite.
_STRIDES = (("inner", "lr"), ("inner", "scale"), ("inner", "step_scale"), ("metagradient", "sigma"))


class Training:
    """The state of a training between two meta-steps, and what is done to it.

    Attributes:
        step: meta-steps taken so far, skipped ones included.
        best: step and quality of the best validation so far.
        quality: of the latest validation.
        stale: validations since the best.
        skipped: meta-steps whose meta-gradient was not finite, and how many of them came last.
        validating: whether the run was stopped in a validation, which is to be done again.
        computation: what computes meta-gradients and scores, and by which engine.
    """

    def __init__(self, config: Config, run: Run, ranks: Ranks | None = None) -> None:
        self.settings, self.run, self.ranks = config.train, run, ranks or Ranks()
        self._check_ranks()
        self.parts = build(config)
        self.learner, self.source = self.parts.learner, self.parts.source
        self.computation = Computation(
            self.parts, build_metagradient(config, self.learner), config.seed, self.ranks, self._announce
        )
        self.outer = build_outer(config, self.learner)
        self.source.prepare(self.parts.device)
        first = {split: first_episodes(self.source, split, self.parts.dtype) for split in SPLITS}
        self.learner.check(first["train"])
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.quality = -math.inf
        self.stale = 0
        self.skipped = {"all": 0, "in_a_row": 0}
        self.validating = False
        self._ahead = Ahead(self.source, self.settings.meta_batch)
        self._engine_settings = config.engine
        self._strides = ", ".join(
            f"{group}.{key}" for group, key in _STRIDES if key in getattr(config, group)
        )
        self._meter = Meter(self.settings.meta_batch)

    def _check_ranks(self) -> None:
        """Raise ConfigError where a process would have no task."""
        for name in ("meta_batch", "validation_tasks", "test_tasks"):
            tasks = getattr(self.settings, name)
            if tasks < self.ranks.count:
                raise ConfigError(
                    f"train.{name}={tasks}: {self.ranks.count} processes need a task each; "
                    f"type train.{name}={self.ranks.count}, or start fewer"
                )

    def restore(self) -> None:
        """Go back to the run's last checkpoint, or make the first one (and find out that one can).

        Raises:
            ConfigError: the run has taken more steps than it is to take.
            MetarunError: the checkpoints are gone, all damaged, or of another network.
        """
        # Whatever decides on what comes next is decided once: the processes have to stay in step.
        state, typed = self.ranks.from_first(self._found)
        if state is None:
            self._choose()
            self._restart(0, 0)
            self.save()
            return
        if state["step"] > self.settings.steps:
            raise ConfigError(
                f"train.steps={self.settings.steps}: the run has taken {state['step']} steps already; "
                f"type train.steps={state['step']} or more"
            )
        try:
            self.learner.load_state_dict(state["learner"])
            self.outer.load_state_dict(state["outer"])
            self._meter.load_state_dict(state["meter"])
        except (RuntimeError, ValueError, LookupError, TypeError) as error:  # of torch, for what does not fit
            raise MetarunError(
                f"the checkpoint of step {state['step']} in {self.run.checkpoints.folder} is of another "
                f"network or optimizer ({' '.join(str(error).split())[:200]}): restore those of this run"
            ) from error
        self.step, self.best = state["step"], state["best"]
        self.stale, self.skipped = state["stale"], dict(state["skipped"])
        self.quality, self.validating = state["quality"], state.get("validating", False)
        # What was measured for a CPU says nothing about a GPU; what is typed anew is meant.
        other_device = state["device"] != self.parts.device.type
        if other_device or typed:
            self._choose()
        else:
            self.computation.use(Engine(**state["engine"]))
        self._restart(state["metrics_bytes"], self.step)
        log.info("resuming at step %d of %d", self.step, self.settings.steps)

    def _found(self) -> tuple[dict[str, Any] | None, bool]:
        """Return the checkpoint to go on from, and whether keys of the engine are typed anew.

        The best validation is forgotten where its learner is lost, unless it is the one to go on from.

        Raises:
            MetarunError: the checkpoints are gone, or all damaged.
        """
        state = self.run.checkpoints.newest(take_over=True)
        if state is None:
            if self.run.metrics.position():
                raise MetarunError(
                    f"{self.run.directory} has metrics and no checkpoint: restore its folder checkpoints "
                    f"from a copy, or delete metrics.jsonl to start again from step 0"
                )
        elif state["best"] and self.run.checkpoints.best(state["best"]["step"]) is None:
            if state["best"]["step"] == state["step"]:
                self._keep_best(state["best"], state["engine"], state["learner"])
            else:
                state = {**state, "best": None, "stale": 0}
        return state, any(key.startswith("engine.") for key in self.run.changing)

    def _restart(self, metrics_bytes: int, step: int) -> None:
        """Let the run's files say what the checkpoint says, and no more."""

        def write() -> None:
            self.run.forget_results()  # first: killed before the rest is said, the run is not finished
            self.run.metrics.cut(metrics_bytes)
            self.run.resumed(step)

        self.ranks.from_first(write)

    def _choose(self) -> None:
        self.computation.choose(self._engine_settings, self._batch())

    def _batch(self) -> TaskBatch:
        """Return this process's share of the next meta-batch."""
        return self._ahead.batch(self.step).part(self.ranks.share(self.settings.meta_batch))

    def _announce(self, engine: Engine) -> None:
        """Let the run's engine.json say how it is computed, for people to read."""
        if self.ranks.first:
            self.run.write_json("engine.json", {"strategy": engine.strategy, **asdict(engine)})

    def save(self) -> None:
        """Write the checkpoint from which restore goes on.

        Raises:
            MetarunError: a meta-parameter is not finite; the checkpoint before is left as it is.
            OSError: it cannot be written; the checkpoint before is left as it is.
        """
        self._check_finite()
        if not self.ranks.first:
            return
        state = {
            "step": self.step,
            "learner": self.learner.state_dict(),
            "outer": self.outer.state_dict(),
            "meter": self._meter.state_dict(),
            "best": self.best,
            "stale": self.stale,
            "quality": self.quality,
            "skipped": self.skipped,
            "validating": self.validating,
            "engine": asdict(self.computation.engine),
            "device": self.parts.device.type,
            "metrics_bytes": self.run.metrics.position(),
        }
        self.run.checkpoints.save(state, self.settings.keep)

    @property
    def finished(self) -> bool:
        """Whether all steps are taken, or the last validations have brought nothing."""
        return self.step >= self.settings.steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether as many validations as train.patience says have brought nothing."""
        return self.settings.patience is not None and self.stale >= self.settings.patience

    def is_due(self, interval: int) -> bool:
        """Say whether something done every `interval` steps (0: never), and after the last, is due."""
        return interval > 0 and (self.step % interval == 0 or self.step == self.settings.steps)

    def take_step(self, asked: Callable[[], int] = lambda: 0) -> int:
        """Take one meta-step on the next episodes, or skip it where its meta-gradient is not finite.

        Args:
            asked: why this process should stop, if it should (`StopSignals.reason`).

        Returns:
            Why the run should stop after this step; the same for all processes.

        Raises:
            MetarunError: the meta-gradient is not finite, and that is not to be skipped.
        """
        moves = self.computation.gradients(
            self._batch(), self.step, self.settings.steps, self.settings.meta_batch, self.save
        )  # where memory runs out it is saved, so that a resumed run has the same chunks
        reason = 0
        means: dict[str, Tensor] = {}
        before = None
        for scores in moves:
            means, reason = self._add_up(scores, asked)
            if not self._is_finite(means):
                if before is not None:
                    self.learner.load_state_dict(before[0])
                    self.outer.load_state_dict(before[1])
                self._skip(means)
                break
            if self.computation.moves_often and before is None:
                before = copy.deepcopy((self.learner.state_dict(), self.outer.state_dict()))
            self.outer.step(self.step)
        else:
            self._meter.add(means)
            self.skipped["in_a_row"] = 0
        self.step += 1
        return reason

    def _add_up(self, scores: Scores, asked: Callable[[], int]) -> tuple[dict[str, Tensor], int]:
        """Return the mean scores of the whole meta-batch, and why the run should stop, if it should."""
        sums = torch.stack([values.sum() for values in scores.values()]) / self.settings.meta_batch
        if self.ranks.count == 1:
            return dict(zip(scores, sums, strict=True)), asked()
        why = asked()
        total = self.ranks.add_up(
            self.outer.parameters, torch.cat([sums, sums.new_tensor([why > 0, why < 0])])
        )
        *_, signals, times = total.tolist()
        reason = signal.SIGTERM if signals else -1 if times else 0
        return dict(zip(scores, total, strict=False)), why if why > 0 else reason

    def _is_finite(self, means: dict[str, Tensor]) -> bool:
        gradients = [p.grad for p in self.outer.parameters if p.grad is not None]
        return bool((nn.utils.get_total_norm(gradients) + means["loss"]).isfinite())

    def _skip(self, means: dict[str, Tensor]) -> None:
        """Leave the meta-parameters as they are, and go on, if that is wanted."""
        loss = means["loss"].item()
        what = f"the loss is {loss}" if not math.isfinite(loss) else "the meta-gradient is not finite"
        self.outer.forget()
        if self.settings.on_nonfinite == "stop":
            self.save()
            raise self._diverged(what, self.step + 1)
        if self.skipped["in_a_row"] + 1 >= _MOST_SKIPPED:
            self.save()
            raise self._diverged(f"{what}, in {_MOST_SKIPPED} steps in a row, up to the one", self.step + 1)
        self.skipped = {name: count + 1 for name, count in self.skipped.items()}
        log.warning("step %d is skipped: %s (%d so far)", self.step + 1, what, self.skipped["all"])

    def log_scores(self) -> dict[str, float]:
        """Write the mean scores of the steps since the last call to the metrics, and return them."""
        means, timing = self._meter.read()
        skipped = {"skipped": self.skipped["all"]} if self.skipped["all"] else {}
        if self.ranks.first:
            self.run.metrics.append({"step": self.step, "split": "train", **means, **timing, **skipped})
        return means

    def log_rest(self) -> None:
        """Write the scores of the steps that an early end has left over."""
        if not self._meter.is_empty:
            self.log_scores()
            self.save()

    def validate(self, asked: Callable[[], int] = lambda: 0, message: str = "") -> None:
        """Score the validation tasks, and keep the learner if it is the best so far.

        Args:
            asked: why the run should stop, if it should: it is saved, and validates when it goes on. Not
                asked where several processes would have to agree.
            message: for what is raised then.

        Raises:
            Interrupted: a signal has come.
            OutOfTimeError: the time is over.
        """

        def between_chunks() -> None:
            if self.ranks.count == 1 and (reason := asked()):
                self.validating = True
                self.save()
                stop(reason, message)

        began = time.monotonic()
        curve = self.computation.evaluate("validation", self.settings.validation_tasks, between_chunks)
        self.validating = False
        self.quality = curve.quality
        means = {name: each.mean for name, each in curve.final.items()}
        taken = time.monotonic() - began
        self._meter.skip(taken)
        timing = {"tasks_per_second": curve.tasks / taken, "seconds": taken}
        if self.ranks.first:
            self.run.metrics.append({"step": self.step, "split": "validation", **means, **timing})
        log.info("step %d, %d validation tasks: %s", self.step, curve.tasks, describe(means))
        if self.best is not None and curve.quality <= self.best["quality"]:
            self.stale += 1
            return
        self.best, self.stale = {"step": self.step, "quality": curve.quality}, 0
        if self.ranks.first:
            self._keep_best(self.best, asdict(self.computation.engine), self.learner.state_dict())

    def _keep_best(
        self, best: Mapping[str, Any], engine: Mapping[str, Any], learner: Mapping[str, Any]
    ) -> None:
        self.run.checkpoints.save_best({**best, "engine": dict(engine), "learner": dict(learner)})

    def ask(self, hopeless: Callable[[int, float], bool]) -> None:
        """Tell of the latest validation, and end the run if it is given up.

        Raises:
            PrunedError: it is; in all processes.
        """
        if self.ranks.from_first(lambda: hopeless(self.step, self.quality)):
            raise PrunedError(f"given up at step {self.step}: other jobs were better by then")

    def _check_finite(self) -> None:
        for name, p in self.learner.named_parameters():
            if not p.isfinite().all():
                raise self._diverged(f"{name} is not finite", self.step)

    def _diverged(self, what: str, step: int) -> DivergedError:
        return DivergedError(
            f"{what} at step {step}: lower {self._strides} or outer.lr, or type outer.clip_norm=1; "
            f"the last good checkpoint is in {self.run.checkpoints.folder}, and "
            f"{resume_command(self.run.directory)} takes another outer.lr, outer.clip_norm or "
            f"train.on_nonfinite=skip"
        )

    def test(self, between_chunks: Callable[[], None] = lambda: None) -> Curve:
        """Score the best learner (the last, where none was validated) on the test tasks.

        Args:
            between_chunks: may raise, to stop; not called where several processes would have to agree.
        """
        if self.ranks.count > 1:
            between_chunks = _nothing
        best = self.ranks.from_first(self._best)
        self.learner.load_state_dict(best["learner"])
        curve = self.computation.evaluate("test", self.settings.test_tasks, between_chunks)
        ended = {"stopped_early_at": self.step} if self.step < self.settings.steps else {}
        if self.skipped["all"]:
            ended["skipped"] = self.skipped["all"]
        results = {"checkpoint_step": best["step"], "validation": self.best, **ended, **curve.as_dict()}
        if self.ranks.first:
            self.run.write_json("results.json", results)
        return curve

    def _best(self) -> dict[str, Any]:
        """Return the checkpoint that is tested."""
        best = self.run.checkpoints.best(self.best["step"]) if self.best else None
        best = best or self.run.checkpoints.newest()
        assert best is not None  # the last step was saved
        return best


def _nothing() -> None:
    """Do nothing between two chunks."""
