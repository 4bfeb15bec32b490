"""How a training's meta-gradients and scores are computed: by one engine, in chunks that memory holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

from metarun.engine.choice import choose
from metarun.engine.compiled import Compiled
from metarun.engine.memory import too_large
from metarun.engine.settings import Engine, EngineSettings
from metarun.errors import MetarunError
from metarun.evaluation.curve import Chunk, Curve, evaluate
from metarun.experiment.build import Parts
from metarun.learners import Scores
from metarun.metagradients import MetaGradient
from metarun.reports.progress import chunks_bar
from metarun.system.allocator import is_out_of_memory
from metarun.system.randomness import fix
from metarun.system.ranks import Ranks
from metarun.tasks import Split, TaskBatch

log = logging.getLogger("metarun")


class Computation:
    """Fills meta-gradients and scores tasks, the same way all through a run.

    Args:
        parts: the learner and its tasks.
        metagradient: as it was built; compiled here, where the engine says so.
        seed: of the run.
        ranks: this process among those of the run.
        announce: told of every engine that is used from then on.

    Attributes:
        engine: chosen once and kept; only lack of memory or of a compiler changes it.
    """

    engine: Engine

    def __init__(
        self,
        parts: Parts,
        metagradient: MetaGradient,
        seed: int,
        ranks: Ranks,
        announce: Callable[[Engine], None],
    ) -> None:
        self._learner, self._source, self._seed, self._ranks = parts.learner, parts.source, seed, ranks
        self._plain = self._metagradient = metagradient
        self._announce = announce

    @property
    def moves_often(self) -> bool:
        """Whether the outer loop may move more than once in a meta-step."""
        return self._plain.moves_often

    def choose(self, settings: EngineSettings, batch: TaskBatch) -> None:
        """Use the engine that suits the costliest meta-step on such a batch; the same in all processes."""
        self._plain.be_costly()
        self.use(self._ranks.from_first(lambda: choose(settings, self._plain, self._learner, batch)))

    def use(self, engine: Engine) -> None:
        """Compute like this from now on."""
        self.engine, self._workers = engine, engine.use(self._learner)
        self._metagradient = Compiled(self._plain) if engine.compile else self._plain
        self._announce(engine)

    def gradients(
        self, batch: TaskBatch, step: int, steps: int, of: int, smaller: Callable[[], None]
    ) -> Iterator[Scores]:
        """Fill `.grad` for each move of the outer loop in a meta-step, and yield the scores.

        Where memory runs out, go on for good in chunks of half the size, and tell `smaller`.

        Args:
            batch: of the meta-batch, or this process's share of it.
            step: meta-steps before.
            steps: of the whole run.
            of: tasks of the whole meta-batch.
            smaller: told of smaller chunks.

        Raises:
            MetarunError: not even one task fits, or memory runs out when the meta-parameters have moved.
        """
        while True:
            fix(self._seed, "step", step)
            self._metagradient.begin(step, steps, self._seed)
            moved = False
            try:
                for scores in self._metagradient.moves(
                    self._learner, batch, self.engine.chunk, self._workers, of=of
                ):
                    yield scores
                    moved = True
                break
            except (RuntimeError, MemoryError) as error:
                if moved and is_out_of_memory(error):
                    raise MetarunError(
                        "memory ran out within a meta-step, whose tasks all keep their adapted parameters: "
                        "type a smaller train.meta_batch, or metagradient.update=horizon"
                    ) from error
                chunk = _half(error, self.engine.size(len(batch)))
            self._learner.zero_grad(set_to_none=True)  # what earlier chunks have left there
            self.use(replace(self.engine, chunk=chunk))
            smaller()
            log.warning("memory ran out: from now on in chunks of %d tasks", chunk)
        if isinstance(self._metagradient, Compiled) and self._metagradient.gave_up:
            self.use(replace(self.engine, compile=False))

    def evaluate(self, split: Split, tasks: int, between_chunks: Callable[[], None] = lambda: None) -> Curve:
        """Score the first tasks of a split, in smaller chunks where memory runs out.

        Args:
            split: of the task source.
            tasks: how many.
            between_chunks: may raise, to stop.

        Raises:
            MetarunError: not even one task fits.
        """

        def progress(chunks: Iterator[Chunk], total: int) -> Iterator[Chunk]:
            for chunk in chunks_bar(split, chunks, total):
                between_chunks()
                yield chunk

        chunk = self.engine.size(tasks)
        while True:
            fix(self._seed, split)
            try:
                return evaluate(
                    self._learner,
                    self._source,
                    split,
                    tasks,
                    chunk=chunk,
                    workers=self._workers,
                    progress=progress,
                    ranks=self._ranks,
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
