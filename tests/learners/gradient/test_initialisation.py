"""Fresh starts, parameters of each step's own, context parameters, warp layers, and going on from a task."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from plain_loop import by_engine, gradients, task_batch, worst
from torch import Tensor, nn
from torch.func import functional_call

from metarun.errors import ConfigError, with_keys
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact, FirstOrder, MetaStep, Reptile, Truncated
from metarun.models import MLP, Conv4
from metarun.rules import LSTM, SGD, LearnedRates, Parameters, UpdateRule
from metarun.tasks import Examples, Sinusoid, Tasks
from metarun.tasks.episodes import episodes

STEPS, RATE = 3, 0.05


def learner(model: nn.Module, rule: UpdateRule | None = None, **options: Any) -> GradientAdaptation:
    made = GradientAdaptation(
        model=model,
        rule=rule or SGD(lr=RATE),
        loop=InnerLoop(steps=options.pop("steps", STEPS), test_steps=options.pop("test_steps", None)),
        **options,
    )
    return made.double()


def mlp(**options: Any) -> MLP:
    torch.manual_seed(0)
    return larger(MLP(input_shape=(1,), output_size=1, hidden=(8, 8), **options))


def conv4(**options: Any) -> Conv4:
    torch.manual_seed(0)
    return larger(Conv4(input_shape=(1, 16, 16), output_size=3, filters=4, **options))


def larger(model: Any) -> Any:
    for name, p in model.named_parameters():
        if "values" not in name:  # context parameters start at zero
            nn.init.normal_(p, std=0.5)
    return model.double()


def fresh(rule: UpdateRule, seed: int = 0, **options: Any) -> GradientAdaptation:
    make = partial(MLP, input_shape=(1,), output_size=1, hidden=(8,))
    return learner(make(), rule, start="fresh", make_model=make, seed=seed, **options)


def sinusoids(count: int = 3, first: int = 0, split: str = "train") -> Tasks:
    return episodes(Sinusoid(shot=6, query=4, dtype=torch.float64), split, first, count)


def start_of(made: GradientAdaptation, tasks: Tasks) -> Parameters:
    with torch.no_grad():
        return next(made.trajectory(tasks)).params


# Fresh starts


def test_a_fresh_start_is_a_function_of_the_episode() -> None:
    made = fresh(LSTM(hidden=4))
    starts = [start_of(made, sinusoids(2, first)) for first in (0, 1)]
    again = start_of(fresh(LSTM(hidden=4)), sinusoids(3))
    for name, p in again.items():
        assert torch.equal(p[:2], starts[0][name])
        assert torch.equal(p[1:], starts[1][name])
        if name.endswith("weight"):
            assert not torch.equal(p[0], p[1])
    others = (
        start_of(fresh(LSTM(hidden=4), seed=1), sinusoids()),
        start_of(made, sinusoids(split="test")),
    )
    for other in others:
        assert not torch.equal(other["head.weight"], again["head.weight"])


def test_a_fresh_start_is_drawn_as_the_model_draws_it_and_leaves_the_global_generator_alone() -> None:
    made = fresh(LSTM())
    before = torch.get_rng_state()
    drawn = start_of(made, sinusoids(200))
    assert torch.equal(before, torch.get_rng_state())
    values = drawn["body.layer1.linear.weight"]  # a normal cut at two deviations of 0.01
    assert values.abs().max() <= 0.02
    assert values.std().item() == pytest.approx(0.0088, rel=0.05)
    assert (drawn["head.bias"] == 0).all()


def test_only_the_rule_is_meta_learned_from_a_fresh_start() -> None:
    made = fresh(LSTM(hidden=4))
    assert {name.split(".")[0] for name, _ in made.named_parameters()} == {"rule"}
    assert {name.split(".")[0] for name in made.state_dict()} == {"rule"}
    with pytest.raises(ConfigError, match=r"algo\.start=fresh learns none"), with_keys():
        Reptile().check(made)


@pytest.mark.parametrize("metagradient", [Exact(), FirstOrder(objective="mean"), Truncated(window=2)])
def test_a_learned_optimizer_is_the_same_in_any_chunks(metagradient: Any) -> None:
    made, batch = fresh(LSTM(hidden=4)), sinusoids(5)
    whole = by_engine(made, metagradient, batch, chunk=5)
    assert worst(by_engine(made, metagradient, batch, chunk=2), whole) < 1e-10


def test_a_fresh_start_is_a_plain_loops() -> None:
    made, batch = fresh(LSTM(hidden=4)), sinusoids()
    start = start_of(made, batch)
    made.zero_grad()
    for t in range(3):
        params = {name: p[t : t + 1].detach().requires_grad_() for name, p in start.items()}
        state = made.rule.init(params)
        for step in range(STEPS):
            loss = task_loss(made, params, batch, batch.support, t)
            found = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            params, state = made.rule.update(params, dict(zip(params, found, strict=True)), state, step)
        (task_loss(made, params, batch, batch.query, t) / 3).backward()
    expected = gradients(made)
    assert worst(by_engine(made, Exact(), batch, chunk=3), expected) < 1e-10


def task_loss(
    made: GradientAdaptation, params: dict[str, Tensor], batch: Tasks, examples: Examples, t: int
) -> Tensor:
    own = {name: p[0] for name, p in params.items()}
    predictions = functional_call(made.model, own, (examples.x[t],))
    return batch.scoring.loss(predictions[None], examples.y[t : t + 1])[0]


def test_a_fresh_start_wants_everything_to_adapt_and_episodes_with_keys() -> None:
    with pytest.raises(ConfigError, match=r"algo\.adapts=all"), with_keys():
        fresh(LSTM(), adapts="head")
    without = replace(sinusoids(), key=None)
    with pytest.raises(ConfigError, match="no key"), with_keys():
        fresh(LSTM()).adapt(without)


def test_keys_are_those_of_the_episode_whatever_it_is_asked_with() -> None:
    source = Sinusoid(shot=2, query=2)
    keys = episodes(source, "train", 0, 50).key
    assert keys.unique().numel() == 50
    assert torch.equal(episodes(source, "train", 20, 10).key, keys[20:30])
    assert torch.equal(episodes(source, "train", 0, 50).part(slice(7, 9)).key, keys[7:9])
    assert not set(keys.tolist()) & set(episodes(source, "test", 0, 50).key.tolist())


# Parameters of each step's own


def per_step_by_plain_loop(made: GradientAdaptation, batch: Tasks) -> dict[str, Tensor]:
    """Step k and the predictions after it with the norms' k-th weights and biases, one task after another."""
    made.zero_grad()
    theta = dict(made.model.named_parameters())
    own = {name.replace("/", "."): values for name, values in made.each_step.items()}
    for t in range(3):
        params = {name: p for name, p in theta.items() if name not in own}
        for step in range(STEPS):
            norms = {name: values[step] for name, values in own.items()}
            predictions = functional_call(made.model, {**params, **norms}, (batch.support.x[t],))
            loss = batch.scoring.loss(predictions[None], batch.support.y[t : t + 1])[0]
            found = torch.autograd.grad(loss, list(params.values()), create_graph=True, allow_unused=True)
            params = {n: p - RATE * g for (n, p), g in zip(params.items(), found, strict=True)}
        predictions = functional_call(made.model, {**params, **norms}, (batch.query.x[t],))
        (batch.scoring.loss(predictions[None], batch.query.y[t : t + 1])[0] / 3).backward()
    return gradients(made)


@pytest.mark.parametrize("rematerialise", [False, True])
@pytest.mark.parametrize("halve", ["pool", "stride"])
def test_norms_of_each_step_are_a_plain_loops(halve: str, rematerialise: bool) -> None:
    made, batch = learner(conv4(halve=halve), per_step="norms"), task_batch("conv4-batch")
    made.rematerialise = rematerialise
    assert {name.split("/")[-2] for name in made.each_step} == {"norm"}
    with torch.no_grad():
        for values in made.each_step.values():
            values.add_(0.3 * torch.randn(values.shape, generator=torch.Generator().manual_seed(1)).double())
    expected = per_step_by_plain_loop(made, batch)
    found = by_engine(made, Exact(), batch, chunk=2)
    assert worst(found, expected) < 1e-8
    assert all(found[f"each_step.{name}"].abs().sum((1,)).min() > 0 for name in made.each_step)
    assert not any(".norm." in name for name in found)  # the model's own are out of use


def test_more_steps_at_test_have_the_last_ones_norms() -> None:
    made, batch = learner(conv4(), per_step="norms", steps=2, test_steps=4), task_batch("conv4-batch")
    with torch.no_grad():
        for values in made.each_step.values():
            values[0].mul_(0.5)
    made.eval()
    with torch.no_grad():
        curve = list(made.trajectory(batch))
    name = next(iter(made.each_step)).replace("/", ".")
    used = [adapted.shared[name] for adapted in curve]
    values = made.each_step[name.replace(".", "/")]
    for found, expected in zip(used, [values[0], values[0], values[1], values[1], values[1]], strict=True):
        assert torch.equal(found, expected)


def test_norms_may_be_missing_but_a_pattern_has_to_fit() -> None:
    assert not learner(mlp(), per_step="norms").each_step
    assert list(learner(mlp(), per_step="head.*").each_step) == ["head/weight", "head/bias"]
    with pytest.raises(ConfigError, match=r"algo\.per_step=nrom matches no parameter"), with_keys():
        learner(mlp(), per_step="nrom")
    with pytest.raises(ConfigError, match="leaves no parameter that adapts"), with_keys():
        learner(mlp(), per_step="*")


# Context parameters, warp layers, patterns


def test_context_parameters_stand_where_cavia_has_them() -> None:
    assert next(iter(dict(mlp(context=3).named_parameters()))) == "context.values"
    assert mlp(context=3).body.layer1.linear.in_features == 1 + 3
    names = [name for name, _ in conv4(context=3).named_parameters() if "context" in name]
    assert {name.rpartition("context")[0] for name in names} == {"body.block3."}


def test_reptile_refuses_what_does_not_adapt_as_a_whole() -> None:
    for made in (
        learner(mlp(), adapts="head"),
        learner(mlp(context=3)),
        learner(mlp(context=3), adapts="*context.values"),
        learner(conv4(), per_step="norms"),
        learner(mlp(warp=True), adapts="!*.warp.*"),
    ):
        with pytest.raises(ConfigError, match="adapts as a whole"), with_keys():
            Reptile().check(made)
    with pytest.raises(ConfigError, match=r"type inner\.steps=1"), with_keys():
        Reptile().check(learner(mlp(), steps=0))


def test_truncation_with_no_way_back_to_what_is_learned_is_an_error() -> None:
    cut = Truncated(window=2, objective="final")
    with (
        pytest.raises(
            ConfigError, match="no derivative of the last of 3 inner steps reaches the initialisation"
        ),
        with_keys(),
    ):
        cut.check(learner(mlp()))
    for made in (learner(mlp(), LearnedRates(lr=RATE)), fresh(LSTM()), learner(mlp(), adapts="head")):
        cut.check(made)
    Truncated(window=2, update="horizon").check(learner(mlp()))
    for other in (
        Truncated(window=2, update="window"),
        Truncated(window=2, update="horizon", objective="annealed", anneal_for=0.4),
    ):
        with (
            pytest.raises(
                ConfigError,
                match=rf"metagradient\.update={other.update}: no derivative of the last of",
            ),
            with_keys(),
        ):
            other.check(learner(mlp()))


def test_a_meta_gradient_of_nothing_is_an_error() -> None:
    class Nothing(Exact):
        def gradients(self, *arguments: Any) -> MetaStep:
            return replace(super().gradients(*arguments), gradients={})

    with pytest.raises(ConfigError, match="the query loss depends on no meta-parameter"):
        by_engine(learner(mlp()), Nothing(), task_batch("mlp"), chunk=3)


@pytest.mark.parametrize(("model", "batch"), [(mlp, "mlp"), (conv4, "conv4-batch")])
@pytest.mark.parametrize("metagradient", [Exact(), FirstOrder()], ids=["exact", "first-order"])
def test_context_parameters_are_a_plain_loops(model: Any, batch: str, metagradient: Any) -> None:
    made, tasks = learner(model(context=3), adapts="*context.values"), task_batch(batch)
    assert len(made.adapted_names) == 1
    (name,) = made.adapted_names
    made.zero_grad()
    for t in range(3):
        theta = dict(made.model.named_parameters())
        phi = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        for _ in range(STEPS):
            predictions = functional_call(made.model, {**theta, name: phi}, (tasks.support.x[t],))
            loss = tasks.scoring.loss(predictions[None], tasks.support.y[t : t + 1])[0]
            (g,) = torch.autograd.grad(loss, phi, create_graph=not isinstance(metagradient, FirstOrder))
            phi = phi - RATE * g
        predictions = functional_call(made.model, {**theta, name: phi}, (tasks.query.x[t],))
        (tasks.scoring.loss(predictions[None], tasks.query.y[t : t + 1])[0] / 3).backward()
    expected = gradients(made)
    found = by_engine(made, metagradient, tasks, chunk=2)
    assert f"model.{name}" not in found
    assert worst(found, expected) < 1e-8


@pytest.mark.parametrize("model", [mlp, conv4])
def test_warp_layers_start_as_the_identity_and_do_not_adapt(model: Any) -> None:
    torch.manual_seed(0)
    kind, shape = (MLP, (1,)) if model is mlp else (Conv4, (1, 16, 16))
    options = {"input_shape": shape, "output_size": 3}
    plain, warped = kind(**options), kind(**options, warp=True)
    warped.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(5, *shape)
    torch.testing.assert_close(warped(x), plain(x))
    made = learner(model(warp=True), adapts="!*.warp.*")
    names = {name for name, _ in made.model.named_parameters()}
    assert names - made.adapted_names == {name for name in names if ".warp." in name}
    assert names - made.adapted_names


def test_a_pattern_of_all_but_everything_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"algo\.adapts=!\* leaves no parameter"), with_keys():
        learner(mlp(), adapts="!*")


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "elu", "gelu"])
def test_activations_are_torchs(activation: str) -> None:
    model = mlp(activation=activation)
    x = torch.randn(4, 1, dtype=torch.float64)
    hidden, f = x, getattr(torch.nn.functional, activation, torch.sigmoid)
    for layer in (model.body.layer1.linear, model.body.layer2.linear):
        hidden = f(layer(hidden))
    torch.testing.assert_close(model(x), model.head(hidden))


# Going on


def test_going_on_starts_where_another_task_ended() -> None:
    made = learner(mlp(), LearnedRates(lr=RATE))
    batch = sinusoids(2)
    first, second = batch.part(slice(0, 1)), batch.part(slice(1, 2))
    with torch.no_grad():
        after = made.adapt(first)
        last = made.adapt_from(after, second)
    params = {name: p[0] for name, p in after.params.items()}
    for _ in range(STEPS):
        params = {name: p.detach().requires_grad_() for name, p in params.items()}
        predictions = functional_call(made.model, params, (second.support.x[0],))
        found = torch.autograd.grad(
            (predictions - second.support.y[0]).square().mean(), list(params.values())
        )
        params = {n: p - RATE * g for (n, p), g in zip(params.items(), found, strict=True)}
    for name, p in params.items():
        torch.testing.assert_close(last.params[name][0], p.detach())
