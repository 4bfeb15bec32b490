"""Which ways of computing a learner work at all: tried once, on real tasks, before any of them is timed."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from metarun.engine.parts import part_of
from metarun.engine.settings import EngineSettings, use_attention
from metarun.errors import ConfigError, MetarunError, in_one_line
from metarun.learners import Learner
from metarun.metagradients import MetaGradient, Progress
from metarun.system.allocator import is_out_of_memory
from metarun.tasks import Tasks

log = logging.getLogger("metarun")


class Way(NamedTuple):
    """A way of computing a learner.

    Attributes:
        together: whether several tasks may be computed at once.
        plain_attention: whether attention uses only kernels that have second derivatives.
    """

    together: bool = True
    plain_attention: bool = False


def find_way(
    settings: EngineSettings,
    metagradient: MetaGradient[Any] | None,
    learner: Learner[Any],
    tasks: Tasks,
    progress: Progress | None = None,
) -> Way:
    """Return the fastest way that works; log a warning if that is not the fastest of all.

    vmap cannot vectorise all that a model may do (an LSTM), and torch's fused attention has no second
    derivatives.

    Args:
        settings: values that are not auto are fixed.
        metagradient: the meta-gradient to compute; None: scores only.
        learner: the learner to compute; its mode is restored afterwards.
        tasks: real tasks, of which the first two are used.
        progress: where in the run the meta-step is.

    Raises:
        ConfigError: no way works, or none that the settings allow.
        MetarunError: raised by the learner itself.
    """
    apart = learner.apart(tasks)
    if apart:
        _check_apart(settings, apart)
    if learner.is_known:
        return Way(together=not apart)
    one_by_one = apart or settings.strategy == "per_task" or settings.chunk == 1 or len(tasks) == 1
    # Even if the settings demand batches, one task at a time is tried, so that the error can suggest it.
    batching = [False] if one_by_one else [True, False]
    modes = [Way(together, plain) for together in batching for plain in (False, True)]
    errors: list[Exception] = []
    for mode in modes:
        use_attention(plain=mode.plain_attention)
        try:
            few = part_of(learner, tasks.part(slice(2 if mode.together else 1)))
            _try(metagradient, learner, few, progress or Progress())
        except MetarunError:
            raise
        except Exception as error:  # torch or a user's class may raise anything
            if is_out_of_memory(error):
                raise
            errors.append(error)
            continue
        if errors:
            _report_slower(settings, mode, errors[0])
        if metagradient is not None and metagradient.second_order:
            learner.check_second_derivatives(tasks)
        return mode
    raise _nothing_works(metagradient, errors[-1]) from errors[-1]


def _try(
    metagradient: MetaGradient[Any] | None, learner: Learner[Any], tasks: Tasks, progress: Progress
) -> None:
    if metagradient is not None:
        metagradient.gradients(learner, tasks, progress, 1.0)
    if len(tasks.support) == 0:  # a mini-batch of all classes, which nothing is scored on
        return
    with learner.evaluating():
        for _ in learner.curve(tasks):
            pass


def _check_apart(settings: EngineSettings, reason: str) -> None:
    """Raise ConfigError where the settings demand chunks of tasks that must be computed apart."""
    if settings.chunk not in ("auto", 1) or settings.strategy == "batched":
        typed = "strategy=batched" if settings.strategy == "batched" else f"chunk={settings.chunk}"
        raise ConfigError(
            f"@engine.{typed}: tasks of different sizes are computed one after another, since {reason}",
            "@engine.chunk=auto @engine.strategy=auto, or @model.norm=group",
        )


def _report_slower(settings: EngineSettings, mode: Way, error: Exception) -> None:
    reason = in_one_line(error)
    if not mode.together and (settings.strategy == "batched" or settings.chunk not in ("auto", 1)):
        key = (
            "@engine.strategy=batched"
            if settings.strategy == "batched"
            else f"@engine.chunk={settings.chunk}"
        )
        raise ConfigError(
            f"{key}: this model can only be computed one task after another ({reason})",
            "@engine.chunk=auto @engine.strategy=auto",
        ) from error
    how = [] if mode.together else ["one task after another"]
    how += ["with plain attention kernels, which have second derivatives"] if mode.plain_attention else []
    log.warning("engine: the model is computed %s, as the fastest way fails: %s", " and ".join(how), reason)


def _nothing_works(metagradient: MetaGradient[Any] | None, error: Exception) -> ConfigError:
    reason = in_one_line(error)
    if isinstance(error, RuntimeError) and "derivative" in reason:
        return ConfigError(f"model: it has no second derivatives ({reason})", "@metagradient=first_order")
    return ConfigError(
        f"model: it cannot be {'trained' if metagradient else 'tested'} on this data: {reason}"
    )
