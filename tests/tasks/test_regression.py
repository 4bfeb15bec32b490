"""What regression is judged by, the examples of smaller tasks, and tasks with fewer examples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from metarun.errors import ConfigError
from metarun.tasks import Examples, Scoring, Sinusoid, Tasks
from metarun.tasks.fewer_examples import axis, sizes, with_fewer_examples
from metarun.tasks.metrics import Measure, mean_squared_error, selected_by
from metarun.tasks.regression import COVERAGE, MSE, NLL, REGRESSION, coverage, negative_log_likelihood


def test_the_likelihood_is_that_of_each_target_summed_over_outputs() -> None:
    mean, scale = torch.tensor([[[0.0, 1.0], [2.0, 0.0]]]), torch.tensor([[[1.0, 2.0], [0.5, 1.0]]])
    y = torch.tensor([[[1.0, 0.0], [2.5, -1.0]]])
    logs = stats.norm.logpdf(y.numpy(), mean.numpy(), scale.numpy()).sum(2)
    predictions = Normal(mean, scale)
    assert negative_log_likelihood(predictions, y).item() == pytest.approx(-logs.mean())
    mask = torch.tensor([[False, True]])
    assert negative_log_likelihood(predictions, y, mask).item() == pytest.approx(-logs[0, 1])
    assert MSE.compute(predictions, y).item() == pytest.approx(float((y - mean).square().mean()))


def test_coverage_counts_what_lies_in_the_central_95_percent() -> None:
    z = stats.norm.ppf(0.975)
    y = torch.tensor([[-z - 0.01, -z + 0.01, 0.0, z - 0.01, z + 0.01]])[..., None].float()
    predictions = Normal(torch.zeros_like(y), torch.ones_like(y))
    assert coverage(predictions, y).item() == pytest.approx(0.6)
    assert coverage(predictions, y, torch.tensor([[1, 1, 1, 0, 0]]).bool()).item() == pytest.approx(2 / 3)


def test_the_interval_of_a_mixture_is_the_mixtures_own() -> None:
    mean = torch.tensor([-3.0, 3.0]).expand(1, 2000, 1, 2)
    mixture = MixtureSameFamily(Categorical(torch.ones_like(mean)), Normal(mean, torch.ones_like(mean)))
    g = torch.Generator().manual_seed(0)
    y = 3 * torch.randn(1, 2000, 1, generator=g).sign() + torch.randn(1, 2000, 1, generator=g)
    assert coverage(mixture, y).item() == pytest.approx(0.95, abs=0.02)
    assert coverage(mixture, torch.full((1, 2000, 1), 5.5)).item() == 0
    expected = math.log(0.5 * stats.norm.pdf(0, -3) + 0.5 * stats.norm.pdf(0, 3))
    assert negative_log_likelihood(mixture, torch.zeros(1, 2000, 1)).item() == pytest.approx(
        -expected, abs=1e-5
    )


def test_predictions_that_are_no_distribution_of_the_targets_are_refused() -> None:
    y = torch.zeros(2, 3, 1)
    for wrong in (torch.zeros(2, 3, 1), Normal(torch.zeros(2, 3), torch.ones(2, 3))):
        with pytest.raises(ConfigError, match=r"targets are \[2, 3, 1\]: expected a distribution over each"):
            negative_log_likelihood(wrong, y)


def scored(predict: object) -> dict[str, Tensor]:
    tasks = Sinusoid(shot=3, query=4).batch("test", 0, 2)
    return tasks.score(predict)  # type: ignore[arg-type]


def test_points_have_no_likelihood_and_distributions_have_all_three() -> None:
    assert list(scored(torch.zeros_like)) == ["loss", "mse"]
    whole = scored(lambda x: Normal(torch.zeros_like(x), torch.ones_like(x)))
    assert list(whole) == ["loss", "mse", "nll", "coverage"]
    assert torch.equal(whole["loss"], whole["mse"])  # the loss is still the data's
    tasks = Sinusoid(shot=3, query=4).batch("test", 0, 2).minimising(negative_log_likelihood)
    scores = tasks.score(lambda x: Normal(torch.zeros_like(x), torch.ones_like(x)))
    assert torch.equal(scores["loss"], scores["nll"])
    assert not torch.equal(scores["loss"], whole["loss"])


def test_the_loss_selects_in_regression_and_the_first_metric_elsewhere() -> None:
    assert selected_by(Scoring(mean_squared_error, REGRESSION).measures).name == "loss"
    assert selected_by((Measure("loss"), Measure("accuracy"), Measure("ece"))).name == "accuracy"
    assert not any(metric.selects for metric in (MSE, NLL, COVERAGE))


@given(st.integers(0, 10**6))
def test_packed_examples_are_the_same_in_the_same_order(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 7, 2, generator=generator)
    y = torch.randn(3, 7, 1, generator=generator)
    mask = torch.rand(3, 7, generator=generator) < 0.6
    packed = Examples(x, y, mask).packed()
    assert len(packed) == mask.sum(1).max()
    for task in range(3):
        count = slice(None) if packed.mask is None else packed.mask[task]
        assert torch.equal(packed.x[task][count], x[task][mask[task]])
        assert torch.equal(packed.y[task][count], y[task][mask[task]])
        if packed.mask is not None:
            assert not packed.x[task][~packed.mask[task]].any()


def test_packing_examples_that_all_count_leaves_no_mask() -> None:
    x = torch.ones(2, 3, 1)
    assert Examples(x, x, torch.tensor([[1, 0, 1], [0, 1, 1]]).bool()).packed().mask is None
    whole = Examples(x, x)
    assert whole.packed() is whole


def test_sets_one_after_another() -> None:
    a, b = Examples(torch.zeros(1, 2, 1), torch.zeros(1, 2)), Examples(torch.ones(1, 1, 1), torch.ones(1, 1))
    assert a.followed_by(b).mask is None
    masked = replace(a, mask=torch.tensor([[True, False]]))
    joined = masked.followed_by(b)
    assert joined.y.tolist() == [[0.0, 0.0, 1.0]]
    assert joined.mask is not None
    assert joined.mask.tolist() == [[True, False, True]]


def test_values_are_taken_from_the_first_on() -> None:
    tasks = Sinusoid(shot=13, query=2).batch("test", 0, 2)
    assert (axis(tasks), sizes(tasks)) == ("context examples", [*range(1, 11), 12, 13])
    for size, fewer in zip(sizes(tasks), with_fewer_examples(tasks), strict=True):
        assert torch.equal(fewer.support.x, tasks.support.x[:, :size])
        assert torch.equal(fewer.support.y, tasks.support.y[:, :size])
        assert fewer.query is tasks.query


def classes(labels: list[list[int]]) -> Tasks:
    y = torch.tensor(labels)
    return Tasks(
        Examples(torch.arange(y.numel()).view(*y.shape, 1).float(), y), Examples(y[..., None].float(), y)
    )


def test_of_classes_the_first_of_each_are_taken_in_their_order() -> None:
    tasks = classes([[0, 1, 1, 0, 0, 1], [1, 1, 1, 0, 0, 0]])
    assert (axis(tasks), sizes(tasks)) == ("shots", [1, 2, 3])
    first, second, third = with_fewer_examples(tasks)
    assert first.support.x[..., 0].tolist() == [[0, 1], [6, 9]]
    assert second.support.x[..., 0].tolist() == [[0, 1, 2, 3], [6, 7, 9, 10]]
    assert second.support.y.tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]
    assert third is tasks


def test_of_many_examples_too() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = [torch.randperm(90, generator=generator).remainder(3).tolist() for _ in range(2)]
    *_, fewer, whole = with_fewer_examples(tasks := classes(labels))
    assert whole is tasks
    for task, y in enumerate(labels):
        seen = {0: 0, 1: 0, 2: 0}
        kept = []
        for place, label in enumerate(y):
            seen[label] += 1
            if seen[label] <= 25:
                kept.append(float(90 * task + place))
        assert fewer.support.x[task, :, 0].tolist() == kept


def test_tasks_of_other_numbers_have_one_size() -> None:
    for tasks in (
        classes([[0, 1, 1, 0, 0, 1], [1, 1, 1, 1, 0, 0]]),
        classes([[0, 0, 1]]),
        Sinusoid(shot=(2, 5), query=2).batch("test", 0, 3),
    ):
        assert sizes(tasks) == []
        assert [fewer is tasks for fewer in with_fewer_examples(tasks)] == [True]
