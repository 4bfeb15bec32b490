"""What a learner is given of a chunk's tasks."""

from __future__ import annotations

from typing import Any

from metarun.learners import Learner
from metarun.tasks import Tasks


def part_of(learner: Learner[Any], tasks: Tasks) -> Tasks:
    """Return a chunk's tasks; those that must be computed apart have no padding.

    Such a chunk is one task: see `find_way`.
    """
    return tasks.packed() if learner.apart(tasks) else tasks
