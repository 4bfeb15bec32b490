"""A batch of tasks is one tree, and scores predictions: masks, ways, distributions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal

from metarun.learners import GradientAdaptation, InnerLoop
from metarun.models import MLP
from metarun.rules import SGD, Hypernet
from metarun.tasks import Examples, Metric, Scoring, Sinusoid, Tasks
from metarun.tasks import metrics as m


def tasks() -> Tasks:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, 2, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[True] * n + [False] * (5 - n) for n in (5, 3, 1, 4)])
    examples = Examples(x, torch.arange(5).remainder(3).expand(4, 5), mask)
    return Tasks(
        examples,
        replace(examples, mask=None),
        {"angle": torch.arange(4.0)},
        torch.arange(4),
        torch.tensor([3, 2, 3, 3]),
        Scoring(m.cross_entropy, (m.ACCURACY,)),
    )


def test_all_tensors_are_cut_moved_and_measured_together() -> None:
    whole = tasks()
    part = whole.part(slice(1, 3))
    assert len(part) == 2
    assert [len(tensor) for tensor in part.tensors()] == [2] * len(whole.tensors()) == [2] * 8
    assert part.scoring is whole.scoring
    assert part.bytes == whole.bytes // 2 == sum(t.numel() * t.element_size() for t in part.tensors())
    single = whole.to(dtype=torch.float32)
    assert {t.dtype for t in single.tensors()} == {torch.float32, torch.int64, torch.bool}
    assert torch.equal(part.support.mask, whole.support.mask[1:3])


def test_a_minibatch_takes_its_mask_along() -> None:
    loop = InnerLoop(steps=2, batch=2)
    taken = loop.minibatch(tasks().support, step=1, training=True)
    assert torch.equal(taken.mask, tasks().support.mask[:, 2:4])


@pytest.mark.parametrize(
    "function",
    [
        m.mean_squared_error,
        m.sum_squared_error,
        m.cross_entropy,
        m.binary_cross_entropy,
        m.accuracy,
        m.binary_accuracy,
    ],
)
def test_padding_counts_for_nothing(function: m.Loss) -> None:
    generator = torch.Generator().manual_seed(1)
    classes = {m.cross_entropy: 3, m.accuracy: 3}.get(function, 1)
    predictions = torch.randn(4, 5, classes, generator=generator, dtype=torch.float64)
    if function in (m.mean_squared_error, m.sum_squared_error):
        targets = torch.randn(4, 5, 1, generator=generator, dtype=torch.float64)
    else:
        targets = torch.arange(5).remainder(max(classes, 2)).expand(4, 5)
    mask = tasks().support.mask
    expected = [
        function(p[None, k], t[None, k])[0] for p, t, k in zip(predictions, targets, mask, strict=True)
    ]
    garbage = predictions.masked_fill(~mask[..., None], torch.nan)  # what padding is does not matter
    found = function(garbage if function is not m.sum_squared_error else predictions, targets, mask)
    torch.testing.assert_close(found, torch.stack(expected))
    everything = function(predictions, targets, torch.ones_like(mask))
    torch.testing.assert_close(everything, function(predictions, targets))


def test_a_task_of_padding_alone_has_the_loss_zero() -> None:
    assert m.cross_entropy(torch.randn(1, 2, 3), torch.zeros(1, 2).long(), torch.zeros(1, 2).bool()) == 0


def test_distributions_are_scored_by_their_logits_or_their_mean() -> None:
    logits, labels = torch.randn(2, 4, 3), torch.arange(4).remainder(3).expand(2, 4)
    categorical = Categorical(logits=logits)
    torch.testing.assert_close(m.cross_entropy(categorical, labels), -categorical.log_prob(labels).mean(1))
    assert torch.equal(m.accuracy(categorical, labels), m.accuracy(logits, labels))
    one, binary = torch.randn(2, 4, 1), torch.arange(4).remainder(2).expand(2, 4)
    bernoulli = Bernoulli(logits=one)
    expected = -bernoulli.log_prob(binary[..., None].float()).mean((1, 2))
    torch.testing.assert_close(m.binary_cross_entropy(bernoulli, binary), expected)
    values = torch.randn(2, 4, 1)
    assert torch.equal(m.mean_squared_error(Normal(one, 2.0), values), m.mean_squared_error(one, values))
    with pytest.raises(ValueError, match="predictions are a Normal, but these targets are classes"):
        m.cross_entropy(Normal(one, 1.0), labels)


def test_no_class_is_predicted_that_a_task_does_not_have() -> None:
    whole = tasks()
    logits = torch.zeros(4, 5, 3, dtype=torch.float64)
    logits[..., 2] = 9.0
    within = Tasks(whole.support, replace(whole.query, y=torch.zeros(4, 5).long()), scoring=whole.scoring)
    for predictions in (logits, Categorical(logits=logits)):
        scores = replace(within, ways=whole.ways).score(lambda _, p=predictions: p)
        # Task 1 has two ways: the third class, which is predicted elsewhere, is none of them.
        assert scores["accuracy"].tolist() == [0.0, 1.0, 0.0, 0.0]
        assert scores["loss"][1] == pytest.approx(torch.log(torch.tensor(2.0)).item())


def test_the_first_metric_selects_and_the_loss_where_there_is_none() -> None:
    error = Metric(name="error", compute=lambda _, targets: targets)
    measures = Scoring(m.cross_entropy, (error, m.ACCURACY)).measures
    assert [each.name for each in measures] == ["loss", "error", "accuracy"]
    assert m.selected_by(measures).name == "error"
    assert m.selected_by(Scoring(m.cross_entropy).measures).name == "loss"


def test_tasks_without_scoring_say_what_they_lack() -> None:
    with pytest.raises(ValueError, match=r"have no scoring: Tasks\(…, scoring=Scoring\(loss\)\)"):
        replace(tasks(), scoring=None).score(lambda x: x)


def test_padded_support_sets_adapt_as_shorter_ones_do() -> None:
    """Gradient steps on padded tasks, against each task's own examples alone, in float64."""
    torch.manual_seed(0)
    model = MLP(input_shape=(1,), output_size=1, hidden=(8,)).double()
    learner = GradientAdaptation(model=model, rule=SGD(lr=0.1), loop=InnerLoop(steps=3))
    whole = Sinusoid(shot=5, query=3, dtype=torch.float64).batch("train", 0, 4)
    mask = tasks().support.mask
    x = whole.support.x.masked_fill(~mask[..., None], 7.0)
    padded = replace(whole, support=Examples(x, whole.support.y.masked_fill(~mask[..., None], 9.0), mask))
    together = learner.adapt(padded).params
    for number, count in enumerate((5, 3, 1, 4)):
        one = whole.part(slice(number, number + 1))
        alone = learner.adapt(replace(one, support=one.support.take(slice(count)))).params
        for name, p in alone.items():
            torch.testing.assert_close(together[name][number], p[0], rtol=1e-12, atol=1e-14)


def test_a_batch_norm_that_would_count_padding_is_refused() -> None:
    model = MLP(input_shape=(1,), output_size=1, hidden=(8,), norm="batch")
    learner = GradientAdaptation(model=model, rule=SGD(lr=0.1), loop=InnerLoop(steps=3))
    whole = Sinusoid(shot=5, query=3).batch("train", 0, 4)
    learner.check(whole)
    assert not learner.apart(whole)
    padded = replace(whole, support=replace(whole.support, mask=tasks().support.mask))
    assert learner.apart(padded) == "its batch norms would count the padding of smaller tasks"


def test_a_hypernetwork_sees_no_padding() -> None:
    rule = Hypernet(lr=0.1, input_shape=(1,), output_size=1, features=["examples"])
    params = {"w": torch.zeros(4, 2)}
    rule.prepare({"w": params["w"][0]}, torch.Generator().manual_seed(0))
    mask = tasks().support.mask
    x, y = torch.randn(4, 5, 1), torch.randn(4, 5, 1)
    seen = rule.observe(rule.init(params), Examples(x, y, mask), torch.zeros(4))["examples"]
    for number, count in enumerate((5, 3, 1, 4)):
        one = Examples(x[number, None, :count], y[number, None, :count])
        alone = rule.observe(rule.init({"w": params["w"][:1]}), one, torch.zeros(1))["examples"]
        torch.testing.assert_close(seen[number], alone[0])
