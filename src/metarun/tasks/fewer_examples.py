"""Tasks with fewer support examples, to score a learner after 1, 2, … examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from metarun.tasks.shots import places_in_class
from metarun.tasks.types import Tasks

# Every size up to ten; then in steps of about 20 %.
_SIZES = (*range(1, 11), 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 125, 150, 200, 250, 300, 400, 500, 600, 800)


def axis(tasks: Tasks) -> str:
    """Return the name of the number that grows along `with_fewer_examples`."""
    return "context examples" if tasks.support.y.is_floating_point() else "shots"


def sizes(tasks: Tasks) -> list[int]:
    """Return the numbers of support examples (per class, where there are classes) to test with.

    [] if the tasks or their classes have different numbers of support examples, which are then all used.
    """
    support = tasks.support
    if support.mask is not None or len(support) == 0:
        return []
    places = places_in_class(support.y)
    most = int(places.max()) + 1
    # Classes of unequal size: fewer than all classes have an example at the last place.
    if not support.y.is_floating_point() and bool(((places == most - 1).sum(1) * most != len(support)).any()):
        return []
    return [*(size for size in _SIZES if size < most), most]


def with_fewer_examples(tasks: Tasks) -> Iterator[Tasks]:
    """Yield the tasks with the first 1, 2, … support examples (of each class, where there are classes).

    The numbers are those of `sizes`; at last come the tasks with all their examples.
    """
    numbers = sizes(tasks)
    places = places_in_class(tasks.support.y)
    for number in numbers[:-1]:
        kept = places < number  # the same number in each task
        index = kept.long().argsort(dim=1, descending=True, stable=True)[:, : int(kept[0].sum())]
        yield replace(tasks, support=tasks.support.at(index))
    yield tasks
