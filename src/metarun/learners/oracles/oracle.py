"""The base of predictors that learn nothing from task to task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from metarun.errors import ConfigError
from metarun.learners.learner import Adapted, Learner
from metarun.tasks import Tasks


class Oracle(Learner[Adapted]):
    """Predicts from a support set and what its source tells of how the task was drawn (`Tasks.info`)."""

    learns: ClassVar[bool] = False
    thread_safe: ClassVar[bool] = True
    knows: ClassVar[tuple[str, ...]] = ()

    def known(self, tasks: Tasks) -> Mapping[str, Tensor]:
        """Return what the source tells of each task, [T, …] by name.

        Raises:
            ConfigError: it does not tell all that is needed.
        """
        missing = [name for name in self.knows if name not in tasks.info]
        if missing:
            raise ConfigError(
                f"{type(self).__name__} needs to know of each task its {', '.join(missing)}, which this "
                f"data does not tell",
                self.data,
            )
        return {name: tasks.info[name] for name in self.knows}

    # What to type for data that tells it.
    data: ClassVar[str] = ""

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError where the source does not tell what is needed."""
        self.known(tasks)
