"""Learners that read the support set: sets have no order, time has, padding is nothing, chunks are alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_zoo import ALL, DIMENSION, QUERIES, SEQUENCES, SETS, WAY, learner, predicted, tasks_of
from torch import Tensor

from metarun.engine.executor import Executor
from metarun.engine.meta_steps import meta_steps
from metarun.engine.settings import Engine
from metarun.errors import ConfigError
from metarun.learners import InContext, MemoryAugmented, NeuralProcess, ReadingLearner
from metarun.metagradients import Exact, Progress
from metarun.models import Linear
from metarun.tasks import Examples, Tasks

both = pytest.mark.parametrize("targets", ["values", "classes"])


@both
@pytest.mark.parametrize("name", SETS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_support_set_has_no_order(name: str, targets: str, seed: int) -> None:
    tasks = tasks_of(targets, [6, 6], seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    shuffled = replace(tasks, support=tasks.support.take(order))
    made = learner(name, targets)
    torch.testing.assert_close(predicted(made, shuffled), predicted(made, tasks), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SETS)
def test_nor_in_float32(name: str) -> None:
    tasks = tasks_of("values", [6, 6]).to(dtype=torch.float32)
    made = SETS[name](
        model=Linear(input_shape=(DIMENSION,), output_size=None), output_size=1, targets="values"
    ).eval()
    shuffled = replace(tasks, support=tasks.support.take(torch.tensor([3, 1, 5, 0, 2, 4])))
    torch.testing.assert_close(predicted(made, shuffled), predicted(made, tasks), rtol=0, atol=1e-6)


@both
@pytest.mark.parametrize("name", ["lstm", "mann", "snail", "icl"])
def test_a_sequence_has_one(name: str, targets: str) -> None:
    tasks = tasks_of(targets, [6, 6])
    turned = replace(tasks, support=tasks.support.take(torch.arange(5, -1, -1)))
    made = learner(name, targets)
    assert (predicted(made, turned) - predicted(made, tasks)).abs().max() > 1e-4


@both
@pytest.mark.parametrize("name", ALL)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), extra=st.integers(1, 4))
def test_padding_of_any_place_length_and_content_changes_no_bit(
    name: str, targets: str, seed: int, extra: int
) -> None:
    tasks = tasks_of(targets, [2, 5, 4], seed)
    generator = torch.Generator().manual_seed(seed + 1)
    support = tasks.support
    n = len(support) + extra
    assert support.mask is not None
    x = 1e3 * torch.randn(3, n, DIMENSION, generator=generator, dtype=torch.float64)
    y = torch.randint(0, WAY, (3, n), generator=generator) if targets == "classes" else 1e3 * x[..., :1]
    mask = torch.zeros(3, n, dtype=torch.bool)
    for task in range(3):  # the same examples in the same order, anywhere among the padding
        count = int(support.mask[task].sum())
        places = torch.randperm(n, generator=generator)[:count].sort().values
        x[task, places], y[task, places] = support.x[task, :count], support.y[task, :count]
        mask[task, places] = True
    made = learner(name, targets)
    assert torch.equal(predicted(made, replace(tasks, support=Examples(x, y, mask))), predicted(made, tasks))


@both
@pytest.mark.parametrize("name", ALL)
def test_tasks_of_other_sizes_are_as_if_each_were_alone(name: str, targets: str) -> None:
    counts = [1, 5, 3]
    tasks, made = tasks_of(targets, counts), learner(name, targets)
    together = predicted(made, tasks)
    for i, count in enumerate(counts):
        alone = tasks.part(slice(i, i + 1))
        alone = replace(alone, support=Examples(alone.support.x[:, :count], alone.support.y[:, :count]))
        torch.testing.assert_close(predicted(made, alone), together[i : i + 1], rtol=0, atol=1e-10)


@both
@pytest.mark.parametrize("name", ALL)
def test_a_query_sees_no_other_query(name: str, targets: str) -> None:
    tasks, made = tasks_of(targets, [4, 2]), learner(name, targets)
    others = tasks.query.x.clone()
    others[:, 1:] += 1.0
    changed = replace(tasks, query=replace(tasks.query, x=others))
    torch.testing.assert_close(
        predicted(made, changed)[:, 0], predicted(made, tasks)[:, 0], rtol=0, atol=1e-12
    )


@both
@pytest.mark.parametrize("name", SEQUENCES)
def test_what_is_predicted_of_a_support_example_is_as_if_it_came_after_those_before_it(
    name: str, targets: str
) -> None:
    tasks, made = tasks_of(targets, [5, 5]), learner(name, targets)
    with torch.no_grad():
        features = made.embed(tasks.support.x)
        along = made.support_outputs(made.learn(features, tasks), features)
        for i in range(5):
            before = replace(tasks, support=tasks.support.take(slice(i)))
            read = made.learn(features[:, :i], before)
            as_query = made.outputs(read, features[:, i : i + 1])
            torch.testing.assert_close(along[:, i : i + 1], as_query, rtol=0, atol=1e-10)


@both
@pytest.mark.parametrize("name", SEQUENCES)
def test_nothing_sees_what_comes_after(name: str, targets: str) -> None:
    tasks, made = tasks_of(targets, [5, 5]), learner(name, targets)
    x, y = tasks.support.x.clone(), tasks.support.y.clone()
    x[:, 3:] += 1.0
    y[:, 2:] = (y[:, 2:] + 1) % WAY if targets == "classes" else y[:, 2:] + 1
    later = replace(tasks, support=Examples(x, y))
    outputs = []
    with torch.no_grad():
        for changed in (tasks, later):
            features = made.embed(changed.support.x)
            outputs.append(made.support_outputs(made.learn(features, changed), features))
    assert torch.equal(outputs[0][:, :3], outputs[1][:, :3])  # the target of example 2 is not its own input
    assert not torch.equal(outputs[0][:, 3:], outputs[1][:, 3:])


def loop(made: ReadingLearner, tasks: Tasks) -> dict[str, Tensor]:
    """The gradient of the mean loss, one task after another without padding."""
    total: dict[str, Tensor] = {}
    for i in range(len(tasks)):
        alone = tasks.part(slice(i, i + 1))
        alone = replace(alone, support=alone.support.packed())
        scores = made.scores(made.adapt(alone.without_answers()), alone)
        parameters = dict(made.named_parameters())
        gradients = torch.autograd.grad(scores["loss"].sum(), list(parameters.values()), allow_unused=True)
        for name, g in zip(parameters, gradients, strict=True):
            if g is not None:
                total[name] = total.get(name, torch.zeros(())) + g / len(tasks)
    return total


@both
@pytest.mark.parametrize("name", [name for name in ALL if name not in ("np", "np_alone", "anp")])
def test_the_training_loss_is_the_mean_over_what_it_is_on(name: str, targets: str) -> None:
    tasks = tasks_of(targets, [5])
    of = {}
    for loss_on in ("query", "all"):
        made = learner(name, targets, loss_on=loss_on).train()
        try:
            with torch.no_grad():
                adapted = made.adapt(tasks.without_answers())
                of[loss_on] = made.scores(adapted, tasks)["loss"]
                features = made.embed(tasks.support.x)
                outputs = made.support_outputs(made.learn(features, tasks), features)
                on_support = replace(made._with_loss(tasks), query=tasks.support)
                support = on_support.score(lambda x: made.predictions(outputs))["loss"]  # noqa: B023
        finally:
            made.eval()
    expected = (5 * support + QUERIES * of["query"]) / (5 + QUERIES)
    torch.testing.assert_close(of["all"], expected, rtol=0, atol=1e-10)
    assert not torch.allclose(of["all"], of["query"])


@both
@pytest.mark.parametrize("loss_on", ["query", "all"])
@pytest.mark.parametrize("name", ALL)
def test_a_meta_step_is_the_same_in_any_chunks_and_as_a_loop(name: str, loss_on: str, targets: str) -> None:
    tasks, made = tasks_of(targets, [2, 5, 4, 3, 1]), learner(name, targets, loss_on=loss_on)
    made.train()
    try:
        expected = loop(made, tasks)
        for chunk in (1, 2, 5):
            executor = Executor(Engine(chunk=chunk), made)
            (step,) = meta_steps(Exact(), made, tasks, Progress(), executor)
            assert step.gradients.keys() == expected.keys()
            for parameter, gradient in step.gradients.items():
                torch.testing.assert_close(gradient, expected[parameter], rtol=1e-9, atol=1e-11)
    finally:
        made.eval()


@both
@pytest.mark.parametrize("name", ALL)
def test_likelihoods_are_in_float32_where_the_network_computes_in_bfloat16(name: str, targets: str) -> None:
    size = WAY if targets == "classes" else 1
    body = Linear(input_shape=(DIMENSION,), output_size=None)
    made = ALL[name](model=body, output_size=size, targets=targets)
    tasks = tasks_of(targets, [5, 5]).to(dtype=torch.float32)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(made.scores(made.adapt(tasks.without_answers()), tasks)["loss"])
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0.05)
    losses[1].sum().backward()


@pytest.mark.parametrize("name", ALL)
def test_a_task_without_examples_is_predicted_from_what_was_learned_before(name: str) -> None:
    tasks = tasks_of("values", [1, 1])
    empty = replace(tasks, support=tasks.support.take(slice(0)))
    assert predicted(learner(name, "values"), empty).isfinite().all()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda **given: NeuralProcess(path="none", **given), "leave nothing of the support set"),
        (lambda **given: NeuralProcess(path="attention", width=9, heads=2, **given), "does not divide"),
        (lambda **given: NeuralProcess(latent=2, predicts="mean", **given), "learned by likelihoods"),
        (InContext, "positions=None do not agree"),
        (lambda **given: InContext(causal=False, positions=4, **given), "positions=4 do not agree"),
        (lambda **given: InContext(positions=4, width=9, heads=2, **given), "does not divide"),
        (lambda **given: MemoryAugmented(heads=6, places=5, **given), "exceeds"),
    ],
)
def test_settings_that_do_not_agree_are_refused(made: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(model=Linear(input_shape=(2,), output_size=None), output_size=1, targets="values")


def test_a_support_set_beyond_the_positions_is_refused() -> None:
    made = learner("icl", "values")
    with pytest.raises(ConfigError, match="positions=9: a support set has 10 examples"):
        made.check(tasks_of("values", [10, 10]))
