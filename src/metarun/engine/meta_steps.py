"""A meta-step on all tasks of a meta-batch, computed chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from metarun.engine.compiled import Compiled
from metarun.engine.executor import Executor
from metarun.engine.parts import part_of
from metarun.errors import ConfigError, MetarunError
from metarun.learners import Learner
from metarun.metagradients import MetaGradient, MetaStep, Progress
from metarun.system.allocator import is_out_of_memory
from metarun.tasks import Tasks

Windows = Iterator[MetaStep]


def meta_steps(  # noqa: PLR0917  (together they define one meta-step)
    metagradient: MetaGradient[Any],
    learner: Learner[Any],
    tasks: Tasks,
    progress: Progress,
    executor: Executor,
    meta_batch_size: int | None = None,
) -> Iterator[MetaStep]:
    """Yield the MetaStep of each outer update in one meta-step, averaged over a meta-batch.

    Args:
        metagradient: the meta-gradient to compute.
        learner: has the meta-parameters, which may change between two updates.
        tasks: the meta-batch, or this process's share of it.
        progress: where in the run the meta-step is.
        executor: computes it.
        meta_batch_size: number of tasks of the whole meta-batch; by default that of `tasks`.

    Raises:
        ConfigError: no meta-parameter has a gradient.
        MetarunError: not even one task fits into memory, or memory runs out after an update.
    """
    weight = 1 / (meta_batch_size or len(tasks))

    def begin(chunk: slice) -> tuple[Windows, MetaStep | None]:
        part = part_of(learner, tasks.part(chunk))
        windows = metagradient.windows(learner, part, progress, weight)
        return windows, next(windows, None)

    def compile_new(chunks: Sequence[slice]) -> None:
        if isinstance(metagradient, Compiled):
            for chunk in chunks:
                metagradient.prepare(learner, part_of(learner, tasks.part(chunk)), progress, weight)

    first_steps = executor.map(begin, len(tasks), prepare=compile_new)
    chunks = [windows for windows, _ in first_steps]
    # Summed in the order of the chunks, whichever worker finishes first: the same bits every time.
    steps = [step for _, step in first_steps if step]
    del first_steps
    while steps:
        total = MetaStep.sum(steps)
        if not total.gradients:
            raise ConfigError(
                "the query loss depends on no meta-parameter",
                "@loop.steps=1 or more, or another metagradient, update rule or @learner.adapts",
            )
        yield total
        try:  # All chunks are in the same window: each keeps φ and the rule's state, but no graph.
            steps = [step for step in executor.spread(lambda windows: next(windows, None), chunks) if step]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise MetarunError(
                "memory ran out within a meta-step, whose tasks all keep their adapted parameters",
                "a smaller @train.meta_batch, or @metagradient.update=horizon",
            ) from error
