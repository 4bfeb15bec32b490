"""The base of predictors that learn nothing from task to task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from metarun.errors import ConfigError
from metarun.learners.learner import Adapted, Learner
from metarun.tasks import Tasks


class Oracle(Learner[Adapted]):
    """Predicts from a support set and the parameters that the task was drawn with (`Tasks.info`)."""

    learns: ClassVar[bool] = False
    thread_safe: ClassVar[bool] = True
    knows: ClassVar[tuple[str, ...]] = ()

    def known(self, tasks: Tasks) -> Mapping[str, Tensor]:
        """Return the parameters of each task that the oracle needs, [T, …] by name.

        Raises:
            ConfigError: `Tasks.info` lacks a parameter.
        """
        missing = [name for name in self.knows if name not in tasks.info]
        if missing:
            raise ConfigError(
                f"{type(self).__name__} needs to know of each task its {', '.join(missing)}, which this "
                f"data does not tell",
                self.data,
            )
        return {name: tasks.info[name] for name in self.knows}

    # The override to type for data with these parameters.
    data: ClassVar[str] = ""

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError if `Tasks.info` lacks a parameter that the oracle needs."""
        self.known(tasks)
