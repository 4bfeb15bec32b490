"""What adapts, how far, on which examples, and how query sets are predicted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metarun.errors import ConfigError, with_keys
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.models import MLP, Conv4
from metarun.rules import SGD
from metarun.tasks import Examples, Scoring, Sinusoid, Tasks
from metarun.tasks.metrics import ACCURACY, cross_entropy, mean_squared_error


def learner(model: nn.Module | None = None, steps: int = 2, **options: object) -> GradientAdaptation:
    loop = {name: options.pop(name) for name in ("test_steps", "batch", "test_batch") if name in options}
    return GradientAdaptation(
        model=model or MLP(input_shape=(1,), output_size=1, hidden=(8, 8)),
        rule=SGD(lr=0.1),
        loop=InnerLoop(steps=steps, **loop),
        **options,
    ).double()


def sinusoids(shot: int = 6) -> Tasks:
    return Sinusoid(shot=shot, query=4, dtype=torch.float64).batch("train", 0, 3)


ALL = [
    f"{layer}.{kind}"
    for layer in ("body.layer1.linear", "body.layer2.linear", "head")
    for kind in ("weight", "bias")
]


@pytest.mark.parametrize(
    ("adapts", "expected"),
    [
        ("all", ALL),
        ("head", ALL[4:]),
        ("body", ALL[:4]),
        ("*.bias", ALL[1::2]),
        ("body.layer2.*", ALL[2:4]),
    ],
)
def test_only_what_adapts_is_adapted(adapts: str, expected: list[str]) -> None:
    made = learner(adapts=adapts)
    with torch.no_grad():
        adapted = made.adapt(sinusoids())
    assert sorted(adapted.params) == sorted(expected)
    for name, p in made.model.named_parameters():
        if name in expected:
            assert adapted.params[name].shape == (3, *p.shape)
        else:
            assert torch.equal(adapted.shared[name], p)


def test_what_a_norm_takes_away_adapts_to_itself() -> None:
    model = Conv4(input_shape=(1, 16, 16), output_size=3, filters=4)
    made = learner(model, adapts="body.block1.conv.bias")
    examples = Examples(torch.rand(2, 3, 1, 16, 16).double(), torch.rand(2, 3, 3).double())
    adapted = made.adapt(Tasks(examples, examples, scoring=Scoring(mean_squared_error)))
    (bias,) = adapted.params.values()
    assert torch.equal(bias, model.body.block1.conv.bias.expand(2, 4))


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with (
        pytest.raises(ConfigError, match=r"algo\.adapts=tail matches no parameter.*head\.weight"),
        with_keys(),
    ):
        learner(adapts="tail")


def test_head_of_a_model_without_one_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no layer called head"):
        learner(nn.Sequential(nn.Linear(1, 1)), adapts="head")


def test_running_statistics_are_an_error() -> None:
    with pytest.raises(ConfigError, match="track_running_stats=False"):
        learner(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)))


def test_testing_may_take_other_steps() -> None:
    made = learner(steps=2, test_steps=5)
    batch = sinusoids()
    assert len(list(made.trajectory(batch))) == 3
    assert len(list(made.eval().curve(batch))) == 6
    assert len(list(learner(steps=2).eval().curve(batch))) == 3


def test_no_steps_leave_the_initialisation() -> None:
    made = learner(steps=0)
    batch = sinusoids()
    prediction = made.predict(made.adapt(batch), batch.query.x)
    torch.testing.assert_close(prediction, torch.stack([made.model(x) for x in batch.query.x]))


def test_a_curve_is_what_shorter_loops_end_with() -> None:
    batch = sinusoids()
    model = MLP(input_shape=(1,), output_size=1, hidden=(8, 8))
    curve = [scores["loss"] for scores in learner(model, steps=3).curve(batch)]
    for steps, loss in enumerate(curve):
        shorter = learner(model, steps=steps)
        torch.testing.assert_close(shorter.scores(shorter.adapt(batch), batch)["loss"], loss)


def test_without_a_gradient_nothing_is_left_to_differentiate() -> None:
    made = learner()
    with torch.no_grad():
        adapted = made.adapt(sinusoids())
    assert not made.predict(adapted, sinusoids().query.x).requires_grad
    scores = list(made.curve(sinusoids()))[-1]
    assert not scores["loss"].requires_grad
    assert all(p.grad is None for p in made.parameters())


def test_adaptation_leaves_theta_alone() -> None:
    made = learner()
    before = {name: p.clone() for name, p in made.named_parameters()}
    with torch.no_grad():
        made.adapt(sinusoids())
    made.adapt(sinusoids())
    assert all(torch.equal(before[name], p) for name, p in made.named_parameters())


def test_minibatches_walk_round_the_support_set() -> None:
    loop = InnerLoop(steps=3, batch=4)
    support = Examples(torch.arange(6.0).view(1, 6, 1), torch.arange(6).view(1, 6))
    taken = [loop.minibatch(support, step, training=True).y.flatten().tolist() for step in range(3)]
    assert taken == [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]]
    assert loop.minibatch(support, 0, training=False) is support


def test_minibatch_steps_are_a_plain_loops() -> None:
    made = learner(steps=3, batch=4)
    batch = sinusoids()
    with torch.no_grad():
        adapted = made.adapt(batch).params
    for t in range(3):
        params = {name: p.detach() for name, p in made.model.named_parameters()}
        for step in range(3):
            chosen = torch.arange(step * 4, step * 4 + 4) % 6
            params = {name: p.requires_grad_() for name, p in params.items()}
            predictions = torch.func.functional_call(made.model, params, (batch.support.x[t, chosen],))
            loss = (predictions - batch.support.y[t, chosen]).square().mean()
            found = torch.autograd.grad(loss, list(params.values()))
            params = {n: (p - 0.1 * g).detach() for (n, p), g in zip(params.items(), found, strict=True)}
        for name, p in params.items():
            torch.testing.assert_close(adapted[name][t], p)


def test_without_transduction_query_examples_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 11, 1, 16, 16, generator=generator, dtype=torch.float64)
    support = Examples(images[:, :6], torch.arange(6).remainder(3).expand(2, 6))
    query = Examples(images[:, 6:], torch.arange(5).remainder(3).expand(2, 5))
    made = GradientAdaptation(
        model=Conv4(input_shape=(1, 16, 16), output_size=3, filters=4),
        rule=SGD(lr=0.1),
        loop=InnerLoop(steps=1),
        transductive=False,
    ).double()
    made.eval()
    with torch.no_grad():
        adapted = made.adapt(Tasks(support, query, scoring=Scoring(cross_entropy, (ACCURACY,))))
    predictions = made.predict(adapted, query.x)
    for t in range(2):
        own = {name: p[t] for name, p in adapted.params.items()}
        for i in range(5):
            beside = torch.cat([support.x[t], query.x[t, i : i + 1]])
            alone = torch.func.functional_call(made.model, own, (beside,))[-1]
            torch.testing.assert_close(predictions[t, i], alone)
    made.train()  # training is transductive all the same
    assert not torch.allclose(made.predict(adapted, query.x), predictions)
