"""The training: build, meta-steps with validation and checkpoints, and the final test."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from metarun.build import build, build_metagradient, build_outer
from metarun.choice import choose
from metarun.compiled import Compiled
from metarun.config import Config
from metarun.engine import Engine
from metarun.errors import MetarunError
from metarun.evaluate import Chunk, Curve, evaluate
from metarun.learners import Scores
from metarun.ledger import is_out_of_memory, too_large
from metarun.runs.directory import Run
from metarun.runs.progress import TrainingProgress, chunks_bar, describe
from metarun.runs.signals import StopSignals
from metarun.tasks import Split, TaskBatch
from metarun.tasks.ahead import Ahead

log = logging.getLogger("metarun")


def train(config: Config, run: Run) -> Curve:
    """Train from the run's last checkpoint, or from the start, then test the best learner.

    Returns:
        The curve over adaptation steps on the test tasks, also in the run's results.json.

    Raises:
        ConfigError: the groups of the config do not fit together.
        MetarunError: data is missing, a checkpoint is damaged, or the loss is no longer a number.
        Interrupted: SIGINT or SIGTERM came; the run can be resumed.
    """
    to_go_on = f"to go on: metarun resume {run.directory}"
    with StopSignals() as signals:
        training = Training(config, run)
        training.restore()
        steps = config.train.steps
        with TrainingProgress(training.step, steps) as progress:
            while training.step < steps:
                training.take_step()
                progress.step()
                if training.is_due(config.train.log_every):
                    progress.scores(training.step, training.log_scores())
                if training.is_due(config.train.validate_every):
                    training.validate()
                stopping = signals.received is not None or training.step == steps
                if stopping or training.is_due(config.train.checkpoint_every):
                    training.save()
                signals.stop_if_received(f"stopped after step {training.step} of {steps}; {to_go_on}")
        return training.test(lambda: signals.stop_if_received(f"stopped while testing; {to_go_on}"))


class Training:
    """The state of a training between two meta-steps, and what is done to it.

    Attributes:
        step: meta-steps taken so far.
        best: step and quality of the best validation so far.
        engine: how the work is computed; chosen once and kept for the whole run.
    """

    def __init__(self, config: Config, run: Run) -> None:
        self.settings, self.run = config.train, run
        self.parts = build(config)
        self.learner, self.source = self.parts.learner, self.parts.source
        self.metagradient = build_metagradient(config, self.learner)
        self.outer = build_outer(config, self.learner)
        self.source.prepare(self.parts.device)
        self.step = 0
        self.best: dict[str, Any] | None = None
        self._ahead = Ahead(self.source, self.settings.meta_batch)
        self._engine_settings = config.engine
        self._meter = Meter(self.settings.meta_batch)

    def restore(self) -> None:
        """Go back to the run's last checkpoint, or make the first one (and find out that one can)."""
        state = self.run.load("last")
        if state is None:
            batch = self._ahead.batch(0)
            self._use(choose(self._engine_settings, self.metagradient, self.learner, batch))
            self.run.metrics.cut(0)
            self.save()
            return
        self.learner.load_state_dict(state["learner"])
        self.outer.load_state_dict(state["outer"])
        self._meter.load_state_dict(state["meter"])
        self.step, self.best = state["step"], state["best"]
        self._use(Engine(**state["engine"]))
        self.run.metrics.cut(state["metrics_bytes"])
        log.info("resuming at step %d of %d", self.step, self.settings.steps)

    def _use(self, engine: Engine) -> None:
        """Compute like this from now on; the run's engine.json says how, for people to read."""
        self.engine, self._workers = engine, engine.use(self.learner)
        plain = self.metagradient.plain if isinstance(self.metagradient, Compiled) else self.metagradient
        self.metagradient = Compiled(plain) if engine.compile else plain
        self.run.write_json("engine.json", {"strategy": engine.strategy, **asdict(engine)})

    def save(self) -> None:
        """Write the checkpoint from which restore goes on.

        Raises:
            MetarunError: a meta-parameter is not finite; the checkpoint before is left as it is.
        """
        self._check_finite()
        state = {
            "step": self.step,
            "learner": self.learner.state_dict(),
            "outer": self.outer.state_dict(),
            "meter": self._meter.state_dict(),
            "best": self.best,
            "engine": asdict(self.engine),
            "metrics_bytes": self.run.metrics.position(),
        }
        self.run.save("last", state)

    def is_due(self, interval: int) -> bool:
        """Say whether something done every `interval` steps (0: never), and after the last, is due."""
        return interval > 0 and (self.step % interval == 0 or self.step == self.settings.steps)

    def take_step(self) -> None:
        """Take one meta-step on the next episodes."""
        batch = self._ahead.batch(self.step)
        scores = self._meta_gradient(batch)
        self._meter.add(scores)
        self.outer.step(self.step)
        self.step += 1

    def _meta_gradient(self, batch: TaskBatch) -> Scores:
        """Fill `.grad`; where memory runs out, go on for good in chunks of half the size, and save that.

        Raises:
            MetarunError: not even one task fits.
        """
        while True:
            try:
                scores = self.metagradient(self.learner, batch, self.engine.chunk, self._workers)
                break
            except (RuntimeError, MemoryError) as error:
                chunk = _half(error, self.engine.size(len(batch)))
            self.learner.zero_grad(set_to_none=True)  # what earlier chunks have left there
            self._use(replace(self.engine, chunk=chunk))
            self.save()  # resumed, this step is to have the same chunks
            log.warning("memory ran out: from now on in chunks of %d tasks", chunk)
        if isinstance(self.metagradient, Compiled) and self.metagradient.gave_up:
            self._use(replace(self.engine, compile=False))
        return scores

    def log_scores(self) -> dict[str, float]:
        """Write the mean scores of the steps since the last call to the metrics, and return them.

        Raises:
            MetarunError: the loss is not finite.
        """
        means, timing = self._meter.read()
        if not math.isfinite(means["loss"]):
            raise self._diverged(f"the loss is {means['loss']}")
        self.run.metrics.append({"step": self.step, "split": "train", **means, **timing})
        return means

    def validate(self) -> None:
        """Score the validation tasks, and keep the learner if it is the best so far."""
        began = time.monotonic()
        curve = self._evaluate("validation", self.settings.validation_tasks)
        means = {name: each.mean for name, each in curve.final.items()}
        seconds = time.monotonic() - began
        self._meter.skip(seconds)
        timing = {"tasks_per_second": curve.tasks / seconds, "seconds": seconds}
        self.run.metrics.append({"step": self.step, "split": "validation", **means, **timing})
        log.info("step %d, %d validation tasks: %s", self.step, curve.tasks, describe(means))
        if self.best is None or curve.quality > self.best["quality"]:
            self.best = {"step": self.step, "quality": curve.quality}
            engine = asdict(self.engine)
            self.run.save("best", {**self.best, "engine": engine, "learner": self.learner.state_dict()})

    def _check_finite(self) -> None:
        for name, p in self.learner.named_parameters():
            if not p.isfinite().all():
                raise self._diverged(f"{name} is not finite")

    def _diverged(self, what: str) -> MetarunError:
        return MetarunError(
            f"{what} at step {self.step}: lower inner.lr or outer.lr, or type outer.clip_norm=1; "
            f"the last good checkpoint is in {self.run.directory / 'checkpoints'}"
        )

    def test(self, between_chunks: Callable[[], None] = lambda: None) -> Curve:
        """Score the best learner (the last, where none was validated) on the test tasks."""
        best = self.run.load("best") if self.best else None
        best = best or self.run.load("last")
        assert best is not None  # the last step was saved
        self.learner.load_state_dict(best["learner"])
        curve = self._evaluate("test", self.settings.test_tasks, between_chunks)
        self.run.write_json("results.json", {"checkpoint_step": best["step"], **curve.as_dict()})
        return curve

    def _evaluate(self, split: Split, tasks: int, between_chunks: Callable[[], None] = lambda: None) -> Curve:
        def progress(chunks: Iterator[Chunk], total: int) -> Iterator[Chunk]:
            for chunk in chunks_bar(split, chunks, total):
                between_chunks()
                yield chunk

        chunk = self.engine.size(tasks)
        while True:
            try:
                return evaluate(
                    self.learner,
                    self.source,
                    split,
                    tasks,
                    chunk=chunk,
                    workers=self._workers,
                    progress=progress,
                )
            except (RuntimeError, MemoryError) as error:
                chunk = _half(error, chunk)


def _half(error: Exception, chunk: int) -> int:
    """Return half of a chunk where the error says that memory ran out; raise the error again otherwise."""
    if not is_out_of_memory(error):
        raise error
    if chunk == 1:
        raise too_large() from error
    return chunk // 2


class Meter:
    """Means over meta-steps, read back from the device only when somebody wants to see them."""

    def __init__(self, meta_batch: int) -> None:
        self._meta_batch = meta_batch
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._since = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums since the last reading, so that a resumed run writes the same means."""
        return {"sums": self._sums, "steps": self._steps, "seconds": time.monotonic() - self._since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's sums."""
        self._sums, self._steps = state["sums"], state["steps"]
        self._since = time.monotonic() - state["seconds"]

    def add(self, scores: Scores) -> None:
        """Add the scores of one meta-step, [B]."""
        for name, values in scores.items():
            mean = values.detach().mean()
            self._sums[name] = mean + self._sums[name].to(mean.device) if name in self._sums else mean
        self._steps += 1

    def skip(self, seconds: float) -> None:
        """Leave time out of the rate that was spent on something else."""
        self._since += seconds

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the mean scores, and tasks per second and seconds; then start again."""
        names = list(self._sums)
        sums = torch.stack([self._sums[name] for name in names]).tolist()  # one read-back for all
        means = {name: total / self._steps for name, total in zip(names, sums, strict=True)}
        now = time.monotonic()
        seconds = now - self._since
        timing = {"tasks_per_second": self._steps * self._meta_batch / seconds, "seconds": seconds}
        self._sums, self._steps, self._since = {}, 0, now
        return means, timing
