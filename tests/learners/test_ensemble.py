"""Predictions averaged over orders of columns and classes, against a loop that turns the tables by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from reading_zoo import DIMENSION, WAY, learner, predicted, tasks_of
from torch import Tensor
from torch.distributions import MixtureSameFamily

from metarun.errors import ConfigError
from metarun.learners import InContext
from metarun.models import Conv4, Linear
from metarun.tasks import Examples, Tasks

COUNT = DIMENSION * WAY


def turned(tasks: Tasks, columns: int, classes: int) -> Tasks:
    """The same tables with columns and classes rotated by so many places."""

    def examples(given: Examples) -> Examples:
        x = given.x[..., [(i + columns) % DIMENSION for i in range(DIMENSION)]]
        y = given.y if given.y.is_floating_point() else (given.y + classes) % WAY
        return replace(given, x=x, y=y)

    return replace(tasks, support=examples(tasks.support), query=examples(tasks.query))


@pytest.mark.parametrize("counts", [[6, 6], [2, 5]])
def test_probabilities_are_means_over_the_orders(counts: list[int]) -> None:
    tasks = tasks_of("classes", counts)
    alone, ensemble = learner("pfn", "classes"), learner("pfn", "classes", ensemble=COUNT)
    expected: Tensor = torch.zeros(())
    for i in range(COUNT):
        logits = predicted(alone, turned(tasks, i * DIMENSION // COUNT, i))
        old = [(k + i) % WAY for k in range(WAY)]
        expected = expected + logits.softmax(2)[..., old] / COUNT
    torch.testing.assert_close(predicted(ensemble, tasks).softmax(2), expected, rtol=0, atol=1e-12)
    assert (predicted(alone, tasks).softmax(2) - expected).abs().max() > 1e-4


def test_distributions_become_a_mixture() -> None:
    tasks = tasks_of("values", [4, 4])
    alone, ensemble = learner("pfn", "values"), learner("pfn", "values", ensemble=DIMENSION)
    found = ensemble.predict(ensemble.adapt(tasks), tasks.query.x)
    assert isinstance(found, MixtureSameFamily)
    each = []
    for i in range(DIMENSION):
        now = turned(tasks, i, 0)
        prediction = alone.predict(alone.adapt(now), now.query.x)
        assert not isinstance(prediction, Tensor)
        each.append(prediction.log_prob(tasks.query.y))
    expected = torch.stack(each).exp().mean(0).log()
    torch.testing.assert_close(found.log_prob(tasks.query.y), expected, rtol=0, atol=1e-12)


def test_all_orders_together_have_none() -> None:
    """With three columns and two classes, six members are all pairs of rotations."""
    tasks = tasks_of("classes", [5, 5])
    two = replace(tasks.support, y=tasks.support.y % 2)
    tasks = replace(tasks, support=two, ways=torch.tensor([2, 2]))
    made = learner("pfn", "classes", ensemble=6)
    expected = predicted(made, tasks).softmax(2)
    assert torch.equal(expected[..., 2], torch.zeros_like(expected[..., 2]))
    for columns, flipped in itertools.product(range(DIMENSION), (False, True)):
        now = turned(tasks, columns, 0)
        if flipped:
            now = replace(now, support=replace(now.support, y=1 - now.support.y))
        found = predicted(made, now).softmax(2)
        found = found[..., [1, 0, 2]] if flipped else found
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_columns_of_zeros_stay_where_they_are() -> None:
    """A network that was trained on tables to the left of zeros meets no others."""
    tasks = tasks_of("classes", [5, 5])
    empty = torch.tensor([1.0, 0.0, 1.0]).double()
    tasks = replace(
        tasks,
        support=replace(tasks.support, x=tasks.support.x * empty),
        query=replace(tasks.query, x=tasks.query.x * empty),
    )
    seen = []
    made = learner("pfn", "classes", ensemble=2)
    read = made.read

    def watched(features: Tensor, *given: Tensor | None) -> object:
        seen.append(features)
        return read(features, *given)  # type: ignore[arg-type]

    made.read = watched  # type: ignore[method-assign]
    try:
        predicted(made, tasks)
    finally:
        del made.read
    assert torch.equal(seen[0], tasks.support.x)
    assert torch.equal(seen[1], tasks.support.x[..., [2, 1, 0]])


def test_training_takes_the_table_as_it_is() -> None:
    tasks = tasks_of("classes", [5, 5])
    losses = []
    for count in (1, 4):
        made = learner("pfn", "classes", ensemble=count).train()
        losses.append(made.scores(made.adapt(tasks.without_answers()), tasks)["loss"])
        made.eval()
    assert torch.equal(*losses)


def test_what_is_embedded_first_has_no_columns() -> None:
    model = Conv4(input_shape=(1, 28, 28), output_size=None, filters=4)
    with pytest.raises(ConfigError, match="orders of columns, and the model embeds its inputs"):
        InContext(model=model, output_size=5, targets="classes", causal=False, ensemble=2)
    InContext(
        model=Linear(input_shape=(3,), output_size=None),
        output_size=5,
        targets="classes",
        causal=False,
        ensemble=2,
    )
