"""Which ways of computing a learner work at all: tried once, on real tasks, before any of them is timed."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from metarun.engine.settings import EngineSettings, use_attention
from metarun.errors import ConfigError, MetarunError, in_one_line
from metarun.learners import Learner
from metarun.metagradients import MetaGradient, Progress
from metarun.system.allocator import is_out_of_memory
from metarun.tasks import Tasks

log = logging.getLogger("metarun")


class Way(NamedTuple):
    """A way that works.

    Attributes:
        together: whether several tasks may be computed at once.
        plain_attention: whether attention is computed by kernels that have second derivatives.
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
    """Return the first way that works, the fastest first, and say so where that is not the first of all.

    Torch cannot vectorise all that a model may do (an LSTM), and its fused attention has no second
    derivatives.

    Args:
        settings: what is not auto there is kept to.
        metagradient: what is to be computed; None: scores alone.
        progress: at which meta-step.
        learner: whose; in the mode that it is in afterwards.
        tasks: real ones; two are used.

    Raises:
        ConfigError: none works, or none of those that the settings leave.
        MetarunError: of the learner's own.
    """
    if learner.is_known:
        return Way()
    apart = settings.strategy == "per_task" or settings.chunk == 1 or len(tasks) == 1
    # Where tasks have to be computed together, the others are tried to say that they would do.
    ways = [
        Way(together, plain) for together in ([False] if apart else [True, False]) for plain in (False, True)
    ]
    errors: list[Exception] = []
    for way in ways:
        use_attention(plain=way.plain_attention)
        try:
            _try(metagradient, learner, tasks.part(slice(2 if way.together else 1)), progress or Progress())
        except MetarunError:
            raise
        except Exception as error:  # of torch or of a user's class, of any kind
            if is_out_of_memory(error):
                raise
            errors.append(error)
            continue
        if errors:
            _say(settings, way, errors[0])
        if metagradient is not None and metagradient.second_order:
            learner.check_second_derivatives(tasks)
        return way
    raise _nothing_works(metagradient, errors[-1]) from errors[-1]


def _try(
    metagradient: MetaGradient[Any] | None, learner: Learner[Any], tasks: Tasks, progress: Progress
) -> None:
    was_training = learner.training
    if metagradient is not None:
        metagradient.gradients(learner, tasks, progress, 1.0)
    learner.eval()
    try:
        for _ in learner.curve(tasks):
            pass
    finally:
        learner.train(was_training)


def _say(settings: EngineSettings, way: Way, error: Exception) -> None:
    reason = in_one_line(error)
    if not way.together and (settings.strategy == "batched" or settings.chunk not in ("auto", 1)):
        key = (
            "@engine.strategy=batched"
            if settings.strategy == "batched"
            else f"@engine.chunk={settings.chunk}"
        )
        raise ConfigError(
            f"{key}: this model can be computed one task after another only ({reason})",
            "@engine.chunk=auto @engine.strategy=auto",
        ) from error
    done = [] if way.together else ["one task after another"]
    done += ["with attention of plain kernels, which have second derivatives"] if way.plain_attention else []
    log.warning("engine: the model is computed %s, since otherwise: %s", " and ".join(done), reason)


def _nothing_works(metagradient: MetaGradient[Any] | None, error: Exception) -> ConfigError:
    reason = in_one_line(error)
    if isinstance(error, RuntimeError) and "derivative" in reason:
        return ConfigError(f"model: it has no second derivatives ({reason})", "@metagradient=first_order")
    return ConfigError(
        f"model: it cannot be {'trained' if metagradient else 'tested'} on this data: {reason}"
    )
