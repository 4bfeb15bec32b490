"""Every fixed rule takes the steps of torch.optim; every rule's derivatives are finite differences'."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from metarun.errors import ConfigError, with_keys
from metarun.rules import (
    LSTM,
    MLP,
    SGD,
    Adagrad,
    Adam,
    Hypernet,
    LearnedRates,
    MetaCurvature,
    MetzMLP,
    Momentum,
    RMSProp,
    UpdateRule,
)
from metarun.rules.coordinatewise import log_and_sign
from metarun.tasks import Examples

STEPS = 5
SHAPES = {"body.weight": (2, 3), "body.bias": (2,), "head.weight": (1, 2, 2, 2)}
SIZES: dict[str, Any] = {"input_shape": (2,), "output_size": 3}
Parameters = dict[str, Tensor]


def grid(**choices: list[Any]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def named(options: dict[str, Any], **names: str) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in options.items()}


FIXED: list[tuple[UpdateRule, type[torch.optim.Optimizer], dict[str, Any]]] = [
    *((SGD(**o), torch.optim.SGD, o) for o in grid(lr=[0.0, 1e-3, 0.3])),
    *(
        (Momentum(**o), torch.optim.SGD, o)
        for o in grid(
            lr=[1e-3, 0.1], momentum=[0.0, 0.9], dampening=[0.0, 0.3], weight_decay=[0.0, 0.1]
        )
    ),
    *(
        (Momentum(**o), torch.optim.SGD, o)
        for o in grid(lr=[1e-3, 0.1], momentum=[0.5, 0.9], nesterov=[True], weight_decay=[0.0, 0.1])
    ),
    *(
        (Adagrad(**o), torch.optim.Adagrad, named(o, initial_sum="initial_accumulator_value"))
        for o in grid(
            lr=[0.01, 0.5], lr_decay=[0.0, 0.1], weight_decay=[0.0, 0.1], initial_sum=[0.0, 0.2], eps=[1e-10]
        )
    ),
    *(
        (RMSProp(**o), torch.optim.RMSprop, o)
        for o in grid(
            lr=[0.01], alpha=[0.9, 0.99], eps=[1e-8, 1e-2], weight_decay=[0.0, 0.1], momentum=[0.0, 0.9],
            centered=[False, True],
        )
    ),
    *(
        (
            Adam(**o),
            torch.optim.AdamW if o["decoupled"] else torch.optim.Adam,
            {"betas": (o["beta1"], o["beta2"]), **{k: o[k] for k in ("lr", "eps", "weight_decay")}},
        )
        for o in grid(
            lr=[1e-3, 0.1], beta1=[0.0, 0.9], beta2=[0.9, 0.999], eps=[1e-8, 1e-2], weight_decay=[0.0, 0.1],
            decoupled=[False, True],
        )
    ),
]  # fmt: skip

RULES: dict[str, Callable[[], UpdateRule]] = {
    "sgd": lambda: SGD(lr=0.1),
    "momentum": lambda: Momentum(lr=0.1, weight_decay=0.1),
    "nesterov": lambda: Momentum(lr=0.1, nesterov=True),
    "adagrad": lambda: Adagrad(lr=0.1),
    "rmsprop": lambda: RMSProp(lr=0.1, momentum=0.5, centered=True, eps=0.1),
    "adam": lambda: Adam(lr=0.1, weight_decay=0.1),
    "adam-beta1=0": lambda: Adam(lr=0.1, beta1=0.0),
    "adamw": lambda: Adam(lr=0.1, weight_decay=0.1, decoupled=True),
    "metasgd": lambda: LearnedRates(lr=0.1),
    "learned-rate": lambda: LearnedRates(lr=0.1, per="all", momentum=0.5, positive=True),
    "layer-rates": lambda: LearnedRates(lr=0.1, per="layer", momentum=0.5),
    "lslr": lambda: LearnedRates(lr=0.1, per="tensor", per_step=3, positive=True),
    "meta-curvature": lambda: MetaCurvature(lr=0.1),
    "hypernet": lambda: Hypernet(lr=0.1, momentum=0.5, hidden=8, embedding=8, **SIZES),
    "alfa": lambda: Hypernet(
        lr=0.1, per_step=2, features=["means"], hidden=None, **SIZES
    ),
    "lstm": lambda: LSTM(hidden=4),
    "mlp": lambda: MLP(hidden=4),
    "metz": lambda: MetzMLP(hidden=4, step_scale=0.1, magnitude_scale=0.1),
}  # fmt: skip
LEARNED = list(RULES)[list(RULES).index("metasgd") :]


def gradient(p: Tensor) -> Tensor:
    """Of a loss that is not quadratic: Σ p⁴/4 + sin p."""
    return p**3 + p.cos()


def start(tasks: int = 2) -> Parameters:
    generator = torch.Generator().manual_seed(0)
    draw = lambda shape: torch.empty(tasks, *shape, dtype=torch.float64).uniform_(
        -1.5, 1.5, generator=generator
    )
    return {name: draw(shape) for name, shape in SHAPES.items()}


def prepared(rule: UpdateRule, moved: float = 0.1) -> UpdateRule:
    """The rule with weights that differ from where they start, so that no derivative is zero by symmetry."""
    generator = torch.Generator().manual_seed(0)
    rule.prepare({name: p[0] for name, p in start().items()}, generator)
    rule.double()
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(moved * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return rule


def follow(rule: UpdateRule, params: Parameters, steps: int = STEPS) -> Parameters:
    tasks = len(next(iter(params.values())))
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).view(1, 4, 2).expand(tasks, -1, -1)
    examples = Examples(x, torch.arange(4).remainder(3).expand(tasks, -1))
    state = rule.init(params)
    for step in range(steps):
        losses = torch.stack([(p**4 / 4 + p.sin()).flatten(1).sum(1) for p in params.values()]).sum(0) + 9
        state = rule.observe(state, examples, losses)
        grads = {name: gradient(p) for name, p in params.items()}
        params, state = rule.update(params, grads, state, step)
    return params


@pytest.mark.parametrize(("rule", "optimizer", "options"), FIXED)
def test_is_torch_optims(
    rule: UpdateRule, optimizer: type[torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    expected = [p.clone().requires_grad_() for p in start().values()]
    by_torch = optimizer(expected, **options)
    for _ in range(STEPS):
        for p in expected:
            p.grad = gradient(p.detach())
        by_torch.step()
    found = list(follow(rule, start()).values())
    torch.testing.assert_close(found, [p.detach() for p in expected], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", RULES)
def test_derivative_with_respect_to_the_start_is_finite_differences(name: str) -> None:
    rule = prepared(RULES[name]())

    def end(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(follow(rule, dict(zip(SHAPES, values, strict=True)), steps=3).values())

    assert torch.autograd.gradcheck(end, tuple(p.requires_grad_() for p in start(1).values()), atol=1e-6)


class _Follow(torch.nn.Module):
    """A rule's path as a module, so that its weights can be passed in."""

    def __init__(self, rule: UpdateRule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self) -> Parameters:
        return follow(self.rule, start(), steps=3)


@pytest.mark.parametrize("name", LEARNED)
def test_derivative_with_respect_to_its_weights_is_finite_differences(name: str) -> None:
    rule = prepared(RULES[name]())
    names = [f"rule.{each}" for each, _ in rule.named_parameters()]
    assert names

    def end(*values: Tensor) -> Tensor:
        found = torch.func.functional_call(_Follow(rule), dict(zip(names, values, strict=True)), ())
        return torch.cat([p.flatten() for p in found.values()])

    weights = tuple(p.detach().clone().requires_grad_() for p in rule.parameters())
    assert torch.autograd.gradcheck(end, weights, atol=1e-6, fast_mode=True)
    used = torch.autograd.grad(end(*weights).sum(), weights, allow_unused=True)
    assert all(g is not None and g.abs().max() > 0 for g in used)


@pytest.mark.parametrize("name", RULES)
def test_tasks_do_not_see_one_another(name: str) -> None:
    rule = prepared(RULES[name]())
    together = follow(rule, start(3))
    for t in range(3):
        alone = follow(rule, {each: p[t : t + 1] for each, p in start(3).items()})
        for each, p in alone.items():
            torch.testing.assert_close(together[each][t], p[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", RULES)
def test_leaves_what_it_is_given_alone(name: str) -> None:
    rule = prepared(RULES[name]())
    params = start()
    before = {each: p.clone() for each, p in params.items()}
    follow(rule, params)
    assert all(torch.equal(params[each], p) for each, p in before.items())


@pytest.mark.parametrize("name", ["adagrad", "rmsprop", "adam", "adamw"])
def test_an_entry_without_gradient_stays_and_is_differentiable(name: str) -> None:
    p = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    rule = {**RULES, "adamw": lambda: Adam(lr=0.1), "adam": lambda: Adam(lr=0.1, beta1=0.0)}[name]()
    params, _ = rule.update({"w": p}, {"w": p * torch.tensor([0.0, 1.0])}, rule.init({"w": p}), 0)
    assert params["w"][0, 0] == 1
    params["w"].sum().backward()
    assert torch.isfinite(p.grad).all()


def test_nesterov_without_momentum_is_an_error() -> None:
    with (
        pytest.raises(ConfigError, match=r"needs inner\.dampening=0 and inner\.momentum above 0"),
        with_keys(),
    ):
        Momentum(lr=0.1, momentum=0.0, nesterov=True)


def rates(per: str, **options: Any) -> LearnedRates:
    rule = LearnedRates(lr=0.1, per=per, **options)
    rule.prepare({name: p[0] for name, p in start().items()}, torch.Generator())
    return rule.double()


@pytest.mark.parametrize(
    ("per", "expected"),
    [
        ("all", {"all": ()}),
        ("layer", {"body": (), "head": ()}),
        ("tensor", {"body/weight": (), "body/bias": (), "head/weight": ()}),
        ("entry", {"body/weight": (2, 3), "body/bias": (2,), "head/weight": (1, 2, 2, 2)}),
    ],
)
def test_what_has_a_rate_of_its_own(per: str, expected: dict[str, tuple[int, ...]]) -> None:
    assert {name: tuple(rate.shape) for name, rate in rates(per).rates.items()} == expected
    stepwise = rates(per, per_step=4, momentum=0.5)
    for each in (stepwise.rates, stepwise.momenta):
        assert {name: tuple(rate.shape) for name, rate in each.items()} == {
            name: (4, *shape) for name, shape in expected.items()
        }


@pytest.mark.parametrize("per", ["all", "layer", "tensor", "entry"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.6])
def test_learned_rates_start_as_torch_optims_sgd(per: str, positive: bool, momentum: float | None) -> None:
    found = follow(rates(per, positive=positive, momentum=momentum, per_step=2), start())
    expected = follow(Momentum(lr=0.1, momentum=momentum or 0.0), start())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_each_step_has_its_own_rate_and_later_ones_the_last() -> None:
    rule = rates("all", per_step=2)
    with torch.no_grad():
        rule.rates["all"].copy_(torch.tensor([0.1, 0.3]))
    params = start()
    for lr in (0.1, 0.3, 0.3):
        params = {name: p - lr * gradient(p) for name, p in params.items()}
    torch.testing.assert_close(follow(rule, start(), steps=3), params)


def test_positive_rates_stay_so_however_far_they_are_moved() -> None:
    rule = rates("layer", positive=True, momentum=0.5)
    with torch.no_grad():
        for p in rule.parameters():
            p.sub_(100)
    assert rule.rate("head.weight", 0) > 0
    with pytest.raises(ConfigError, match="have to start above 0"):
        LearnedRates(lr=0.0, positive=True)


def test_meta_sgd_rates_start_from_one_draw_of_the_interval() -> None:
    initial = {"a.weight": torch.zeros(50, 50), "b": torch.zeros(7)}
    drawn = []
    for seed in range(200):
        rule = LearnedRates(lr=[0.005, 0.1])
        rule.prepare(initial, torch.Generator().manual_seed(seed))
        values = torch.cat([rate.detach().flatten() for rate in rule.rates.values()])
        assert values.unique().numel() == 1
        assert {rate.shape for rate in rule.rates.values()} == {torch.Size([50, 50]), torch.Size([7])}
        drawn.append(values[0].item())
    assert 0.005 <= min(drawn) < 0.01
    assert 0.095 < max(drawn) <= 0.1
    assert abs(sum(drawn) / len(drawn) - 0.0525) < 0.006


def test_meta_curvature_starts_as_gradient_descent_and_is_three_products() -> None:
    rule = MetaCurvature(lr=0.1)
    initial = {
        "conv.weight": torch.randn(4, 3, 2, 2),
        "fc.weight": torch.randn(4, 3),
        "fc.bias": torch.randn(4),
    }
    rule.prepare(initial, torch.Generator())
    rule.double()
    params = {name: p.double().expand(2, *p.shape) for name, p in initial.items()}
    generator = torch.Generator().manual_seed(1)
    grads = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in params.items()}
    plain, _ = SGD(lr=0.1).update(params, grads, (), 0)
    torch.testing.assert_close(rule.update(params, grads, (), 0)[0], plain)

    with torch.no_grad():
        for p in rule.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    moved, _ = rule.update(params, grads, (), 0)
    out, into, filters = rule.matrices["conv/weight"]
    assert (out.shape, into.shape, filters.shape) == ((4, 4), (3, 3), (4, 4))
    conv = torch.einsum("pa,qb,rc,tabc->tpqr", out, into, filters, grads["conv.weight"].flatten(3))
    torch.testing.assert_close(
        moved["conv.weight"], params["conv.weight"] - 0.1 * conv.view_as(params["conv.weight"])
    )
    out, into = rule.matrices["fc/weight"]
    dense = torch.einsum("pa,qb,tab->tpq", out, into, grads["fc.weight"])
    torch.testing.assert_close(moved["fc.weight"], params["fc.weight"] - 0.1 * dense)
    (out,) = rule.matrices["fc/bias"]
    torch.testing.assert_close(moved["fc.bias"], params["fc.bias"] - 0.1 * grads["fc.bias"] @ out.T)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_a_hypernet_starts_as_gradient_descent(momentum: float) -> None:
    rule = Hypernet(lr=0.1, momentum=momentum, input_shape=(2,), output_size=3)
    prepared(rule, moved=0)
    found, expected = follow(rule, start()), follow(Momentum(lr=0.1, momentum=momentum), start())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)  # its start is single precision


@pytest.mark.parametrize("feature", ["means", "norms", "loss", "examples"])
def test_a_hypernet_gives_tasks_that_differ_in_a_feature_settings_of_their_own(feature: str) -> None:
    rule = prepared(Hypernet(lr=0.1, features=[feature], input_shape=(2,), output_size=3), moved=0.3)
    one = start(1)
    params = {name: p.expand(2, *p.shape[1:]) for name, p in one.items()}
    grads = {name: gradient(p) for name, p in params.items()}
    x = torch.randn(1, 4, 2, dtype=torch.float64).expand(2, -1, -1).clone()
    losses = torch.ones(2, dtype=torch.float64)
    if feature == "examples":
        x[1] += 1
    elif feature == "loss":
        losses[1] = 3.0
    else:
        grads = {name: g * torch.tensor([1.0, 2.0], dtype=g.dtype).view(2, *[1] * (g.dim() - 1))
                 for name, g in grads.items()}  # fmt: skip
    state = rule.observe(rule.init(params), Examples(x, torch.arange(4).remainder(3).expand(2, -1)), losses)
    settings = rule.settings(params, grads, state, 0)
    assert settings.shape == (2, 2, len(SHAPES))  # task, rate and weight decay, layer
    assert not torch.isclose(settings[0, 0], settings[1, 0]).any()


def test_a_hypernet_without_features_is_an_error() -> None:
    with pytest.raises(ConfigError, match="each once"):
        Hypernet(lr=0.1, features=[], input_shape=(1,), output_size=1)


def test_log_and_sign_by_hand() -> None:
    gradients = torch.tensor([1.0, -(torch.e**2), 1e-5, -1e-5, 0.0], dtype=torch.float64)
    # log|g| / 10 and the sign from e⁻¹⁰ = 4.54e-5 on; below it −1 and e¹⁰ g.
    expected = [[0, 1], [0.2, -1], [-1, 0.220264657948], [-1, -0.220264657948], [-1, 0]]
    torch.testing.assert_close(log_and_sign(gradients, 10), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    "rule", [LSTM(hidden=4), MLP(hidden=4), MetzMLP(hidden=4)], ids=["lstm", "mlp", "metz"]
)
def test_a_learned_optimizer_fits_any_network(rule: UpdateRule) -> None:
    prepared(rule)
    weights = {name: p.clone() for name, p in rule.state_dict().items()}
    larger = {"a": torch.randn(3, 30, 20, dtype=torch.float64), "b": torch.randn(3, 7, dtype=torch.float64)}
    moved = follow(rule, larger)
    assert {name: p.shape for name, p in moved.items()} == {name: p.shape for name, p in larger.items()}
    assert not torch.equal(moved["a"], larger["a"])
    assert all(torch.equal(weights[name], p) for name, p in rule.state_dict().items())


@pytest.mark.parametrize("rule", [LSTM(hidden=4), MLP(hidden=4)], ids=["lstm", "mlp"])
def test_coordinates_of_equal_gradients_move_alike(rule: UpdateRule) -> None:
    prepared(rule)
    moved = follow(rule, {"a": torch.full((1, 2, 3), 0.3).double(), "b": torch.full((1, 4), 0.3).double()})
    values = torch.cat([moved["a"].flatten(), moved["b"].flatten()])
    torch.testing.assert_close(values, values[0].expand(10), rtol=1e-12, atol=0)


def test_the_lstm_is_torchs() -> None:
    rule = prepared(LSTM(hidden=4, scale=1.0))
    reference = torch.nn.LSTM(2, 4, num_layers=2).double()
    with torch.no_grad():
        for layer, gates in enumerate(rule.gates):
            inputs = gates.in_features - 4
            getattr(reference, f"weight_ih_l{layer}").copy_(gates.weight[:, :inputs])
            getattr(reference, f"weight_hh_l{layer}").copy_(gates.weight[:, inputs:])
            getattr(reference, f"bias_ih_l{layer}").copy_(gates.bias)
            getattr(reference, f"bias_hh_l{layer}").zero_()
    grads = torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    params = {"w": torch.zeros(1, 6, dtype=torch.float64)}
    state = rule.init(params)
    for step, g in enumerate(grads):
        params, state = rule.update(params, {"w": g}, state, step)
    outputs, _ = reference(log_and_sign(grads[:, 0], 10.0))
    torch.testing.assert_close(params["w"][0], rule.output(outputs).squeeze(-1).sum(0))


def test_metz_features_by_hand() -> None:
    """The perceptron replaced by sums of its inputs, two steps of one tensor with two coordinates."""

    class Sums(torch.nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            self.seen = features
            return torch.stack([features.sum(-1), torch.zeros_like(features[..., 0])], -1)

    rule = MetzMLP(step_scale=1.0)
    rule.network = Sums()
    phi = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    gradients = torch.tensor([[[2.0, 1.0]], [[-1.0, 3.0]]], dtype=torch.float64)
    params, state = {"w": phi}, rule.init({"w": phi})
    means, square = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for step, g in enumerate(gradients):
        before = params["w"][0]
        params, state = rule.update(params, {"w": g}, state, step)
        for j, decay in enumerate((0.9, 0.99, 0.999)):
            means[:, j] = decay * means[:, j] + (1 - decay) * g[0]
        square = 0.999 * square + 0.001 * g[0] ** 2
        root = 1 / (square + 1e-8).sqrt()
        raw = torch.stack([g[0], before, *means.T, root, *(means * root[:, None]).T], 1)
        scaled = raw / ((raw**2).mean(0) + 1e-5).sqrt()
        times = torch.tensor([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5], dtype=torch.float64)
        expected = torch.cat([scaled, torch.tanh(step / times - 1).expand(2, -1)], 1)
        torch.testing.assert_close(rule.network.seen[0], expected)
        torch.testing.assert_close(params["w"][0], before + expected.sum(1))


def test_a_metz_step_is_direction_times_exponential_of_magnitude() -> None:
    rule = MetzMLP(step_scale=0.3, magnitude_scale=0.5)
    rule.network = torch.nn.Module()
    rule.network.forward = lambda features: torch.tensor([2.0, -1.0]).expand(*features.shape[:2], 2)
    zero = {"w": torch.zeros(1, 2)}
    params, _ = rule.update(zero, {"w": torch.ones(1, 2)}, rule.init(zero), 0)
    torch.testing.assert_close(params["w"], torch.full((1, 2), 0.3 * 2.0 * 2.718281828**-0.5))


def test_settings_of_a_hypernet_by_hand() -> None:
    """α exp(u), λ (1 + u) and σ(m + u), with u as the last layer's bias, its weights being zero."""
    rule = Hypernet(lr=0.1, weight_decay=0.2, momentum=0.5, per_step=2, **SIZES)
    prepared(rule, moved=0)
    u = torch.tensor([[0.1, 0.2, 0.3], [1.0, -2.0, 0.5], [0.0, 1.0, -1.0]], dtype=torch.float64)
    with torch.no_grad():
        rule.network[-1].bias.copy_(u.flatten())
        rule.rates[1] *= 3
    params = start()
    for step, rate in ((0, 0.1), (1, 0.3), (7, 0.3)):
        settings = rule.settings(params, params, rule.init(params), step)
        expected = torch.stack([rate * u[0].exp(), 0.2 * (1 + u[1]), u[2].sigmoid()])
        torch.testing.assert_close(settings, expected.expand(2, -1, -1), rtol=1e-6, atol=0)
    moved, state = rule.update(params, params, rule.init(params), 0)
    alpha, decay, momentum = expected[:, 0] / torch.tensor([3, 1, 1])
    name = "body.weight"
    torch.testing.assert_close(moved[name], (1 - decay) * params[name] - alpha * params[name])
    again, _ = rule.update(params, params, state, 0)
    velocity = (1 + momentum) * params[name]
    torch.testing.assert_close(again[name], (1 - decay) * params[name] - alpha * velocity)


@pytest.mark.parametrize("what", ["x", "y"])
def test_a_hypernet_sees_inputs_and_targets(what: str) -> None:
    rule = prepared(Hypernet(lr=0.1, features=["examples"], **SIZES), moved=0.3)
    x, y = torch.zeros(2, 3, 2, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.int64)
    (x if what == "x" else y)[1] += 1
    params = {name: p[:1].expand(2, *p.shape[1:]) for name, p in start().items()}
    state = rule.observe(rule.init(params), Examples(x, y), torch.ones(2, dtype=torch.float64))
    one, other = rule.settings(params, params, state, 0)
    assert not torch.isclose(one, other).all()
