"""How a training computes meta-gradients and scores: with one engine for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from metarun.engine.compiled import Compiled
from metarun.engine.executor import Executor
from metarun.engine.meta_steps import meta_steps
from metarun.engine.settings import Engine, EngineSettings
from metarun.engine.tuning import choose, choose_for_evaluation, engine_of_a_test
from metarun.engine.watch import Watch
from metarun.evaluation.curve import Curve, evaluate
from metarun.experiment.build import Experiment
from metarun.metagradients import MetaGradient, MetaStep, Progress
from metarun.reports.progress import chunks_bar
from metarun.system.randomness import fix
from metarun.system.ranks import Ranks
from metarun.tasks import Split, Tasks


class Computation:
    """Computes meta-steps and scores tasks, the same way all through a run.

    Args:
        experiment: the learner and its tasks.
        metagradient: the meta-gradient that trains it.
        seed: seed of the run.
        ranks: this process among those of the run.
        open_workers: whether metarun chooses the number of workers.
        announce: called with both engines whenever one has changed.
        save: saves the run; called before continuing with smaller chunks, so that a resumed run has them too.
    """

    def __init__(
        self,
        experiment: Experiment,
        metagradient: MetaGradient[Any],
        *,
        seed: int,
        ranks: Ranks,
        open_workers: bool,
        announce: Callable[[Engine, Engine], None],
        save: Callable[[], None],
    ) -> None:
        self._learner, self._source = experiment.learner, experiment.source
        self._plain = self._metagradient = metagradient
        self._seed, self._ranks, self._open_workers = seed, ranks, open_workers
        self._announce, self._save = announce, save

    @property
    def engine(self) -> Engine:
        """The engine of the meta-gradients; lack of memory or of a compiler, or slow steps, may change it."""
        return self._training.engine

    @property
    def evaluation_engine(self) -> Engine:
        """The engine that scores tasks."""
        return self._evaluation.engine

    @property
    def steps_per_window(self) -> int | None:
        """Number of inner steps between outer updates; None: one update after all of them."""
        return self._plain.steps_per_window

    def choose(self, settings: EngineSettings, meta_batch: Tasks, validation: Tasks, steps: int) -> None:
        """Choose the engines for these tasks and the costliest meta-step; the same in all processes."""
        costliest = Progress(self._plain.costliest(steps), steps, self._seed)

        def choose_both() -> tuple[Engine, Engine]:
            if steps == 0:  # a test alone
                engine = engine_of_a_test(settings, self._learner, validation)
            else:
                engine = choose(settings, self._plain, self._learner, meta_batch, costliest)
            return engine, choose_for_evaluation(settings, engine, self._learner, validation)

        self.use(*self._ranks.broadcast_from_rank0(choose_both))

    def use(self, training: Engine, evaluation: Engine) -> None:
        """Compute with these engines from now on."""
        self._training = Executor(training, self._learner, self._on_smaller_chunks)
        self._watch: Watch | None = None
        self._evaluation = Executor(evaluation, self._learner, self._announce_engines)
        self._metagradient = Compiled(self._plain) if training.compile else self._plain
        self._announce_engines()

    def _announce_engines(self) -> None:
        self._announce(self.engine, self.evaluation_engine)

    def _on_smaller_chunks(self) -> None:
        self._watch = None  # it knows the chunks of before
        self._announce_engines()
        self._save()

    def meta_steps(self, tasks: Tasks, progress: Progress, meta_batch_size: int) -> Iterator[MetaStep]:
        """Yield the MetaStep of each outer update in a meta-step.

        Args:
            tasks: the meta-batch, or this process's share of it.
            progress: where in the run the meta-step is.
            meta_batch_size: number of tasks of the whole meta-batch.

        Raises:
            MetarunError: not even one task fits into memory.
        """
        fix(self._seed, "step", progress.step)
        start = time.perf_counter()
        yield from meta_steps(
            self._metagradient, self._learner, tasks, progress, self._training, meta_batch_size
        )
        self._adjust_workers(time.perf_counter() - start, tasks, progress)
        if isinstance(self._metagradient, Compiled) and self._metagradient.gave_up:
            self.use(replace(self.engine, compile=False), self.evaluation_engine)

    def _adjust_workers(self, seconds: float, tasks: Tasks, progress: Progress) -> None:
        """Change the number of workers if meta-steps take clearly longer than measured."""
        if self._watch is None:  # with several processes, or compiled, the number is fixed
            is_open = self._open_workers and self._ranks.count == 1 and not self.engine.compile
            self._watch = Watch(self.engine, len(tasks), is_open=is_open)
        if self._watch.notes(seconds):
            compute = lambda part: self._plain.gradients(self._learner, part, progress, 1.0)
            engine = self._watch.measure(self._learner, tasks, compute)
            if engine is None:
                return
            self._training.engine = engine
            self._announce_engines()

    def evaluate(
        self,
        split: Split,
        tasks: int,
        between_chunks: Callable[[], None] = lambda: None,
        *,
        over_examples: bool = False,
    ) -> Curve:
        """Score the first tasks of a split.

        Args:
            split: split of the task source.
            tasks: number of tasks.
            between_chunks: called between chunks; may raise, to stop.
            over_examples: see `evaluation.curve.evaluate`.

        Raises:
            MetarunError: not even one task fits into memory.
        """

        def show(chunks: Iterable[Any], total: int) -> Iterator[Any]:
            for chunk in chunks_bar(split, chunks, total):
                between_chunks()
                yield chunk

        fix(self._seed, split)
        return evaluate(
            self._learner,
            self._source,
            split,
            tasks,
            self._evaluation,
            show=show,
            ranks=self._ranks,
            over_examples=over_examples,
        )
