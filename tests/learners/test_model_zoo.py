"""Models as users write them: the engine's numbers against a loop that knows nothing of it, in float64."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from model_zoo import ZOO, CalledTwice, Recurrent, SharedLayer, Transformer
from plain_loop import fill
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from metarun.engine.settings import Engine, EngineSettings, use_attention
from metarun.engine.ways import Way, find_way
from metarun.errors import ConfigError, with_keys
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact, FirstOrder, MetaGradient
from metarun.rules import SGD
from metarun.tasks import Examples, Scoring, Tasks
from metarun.tasks.metrics import cross_entropy

TASKS, STEPS, RATE = 3, 2, 0.3
ONE_BY_ONE = {"lstm", "lstm, two layers, both ways", "lstm cell", "gru", "rnn"}
PLAIN_ATTENTION = {"attention", "multihead attention", "transformer"}


@pytest.fixture(autouse=True)
def any_attention() -> Iterator[None]:
    yield
    use_attention(plain=False)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return ZOO[name]().double()


def tasks(name: str) -> Tasks:
    generator = torch.Generator().manual_seed(1)

    def examples(n: int) -> Examples:
        if name == "embedding":
            x = torch.randint(7, (TASKS, n, 6), generator=generator)
        else:
            x = torch.randn(TASKS, n, 6, 4, generator=generator, dtype=torch.float64)
        return Examples(x, torch.arange(n).remainder(2).expand(TASKS, n))

    return Tasks(examples(5), examples(4), scoring=Scoring(cross_entropy))


def learner_of(model: nn.Module) -> GradientAdaptation:
    return GradientAdaptation(model=model, rule=SGD(lr=RATE), loop=InnerLoop(steps=STEPS))


def numerical(name: str, model: nn.Module, batch: Tasks, direction: dict[str, Tensor], h: float) -> float:
    """The derivative of the query loss along a direction of the meta-parameters, by central differences."""

    def moved(distance: float) -> float:
        other = network(name)
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            for each, p in other.named_parameters():
                if each in direction:
                    p.add_(distance * direction[each])
        return loss_after(name, other, batch)

    return (moved(h) - moved(-h)) / (2 * h)


def loss_after(name: str, start: nn.Module, batch: Tasks) -> float:
    losses = []
    for t in range(TASKS):
        own = network(name)
        own.load_state_dict(start.state_dict())
        optimizer = torch.optim.SGD([p for p in own.parameters() if p.requires_grad], lr=RATE)
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(own(batch.support.x[t]), batch.support.y[t]).backward()
            optimizer.step()
        losses.append(F.cross_entropy(own(batch.query.x[t]), batch.query.y[t]).item())
    return sum(losses) / TASKS


@pytest.mark.parametrize("name", ZOO)
def test_losses_and_meta_gradients_are_those_of_networks_trained_one_by_one(name: str) -> None:
    model, batch = network(name), tasks(name)
    before = copy.deepcopy(model.state_dict())
    learner = learner_of(model)
    learner.check(batch)
    way = find_way(EngineSettings(), Exact(), learner, batch)
    assert way == Way(together=name not in ONE_BY_ONE, plain_attention=name in PLAIN_ATTENTION)

    def losses_of(chunk: int) -> Tensor:
        engine = Engine(chunk=chunk, plain_attention=way.plain_attention)
        return fill(learner, Exact(), batch, engine)["loss"]

    losses = losses_of(TASKS if way.together else 1)
    found = {each: p.grad.clone() for each, p in model.named_parameters() if p.grad is not None}
    assert losses.mean().item() == pytest.approx(loss_after(name, model, batch), rel=1e-12)
    assert found.keys() == {each for each, p in model.named_parameters() if p.requires_grad}

    generator = torch.Generator().manual_seed(2)
    direction = {
        each: torch.randn(p.shape, generator=generator, dtype=torch.float64) for each, p in found.items()
    }
    exact = sum((found[each] * d).sum().item() for each, d in direction.items())
    assert exact == pytest.approx(numerical(name, model, batch, direction, 1e-6), rel=1e-6, abs=1e-9)
    for chunk in (1, TASKS) if way.together else (1,):
        learner.zero_grad()
        assert torch.allclose(losses_of(chunk), losses, rtol=1e-12, atol=0)
        for each, p in model.named_parameters():
            assert each not in found or torch.allclose(p.grad, found[each], rtol=1e-9, atol=1e-12)  # type: ignore[arg-type]
    assert all(torch.equal(before[each], value) for each, value in model.state_dict().items())


@pytest.mark.parametrize("metagradient", [Exact(), FirstOrder()], ids=["exact", "first_order"])
@pytest.mark.parametrize("chunk", [1, TASKS])
def test_a_layer_under_two_names_is_the_layer_called_twice(metagradient: MetaGradient, chunk: int) -> None:
    torch.manual_seed(0)
    shared, twice, batch = SharedLayer().double(), CalledTwice().double(), tasks("shared layer")
    twice.load_state_dict(
        {
            key.replace("twice.1.", "again."): each
            for key, each in shared.state_dict().items()
            if "twice.3" not in key
        }
    )
    results = []
    for model in (shared, twice):
        learner = learner_of(model)
        scores = [fill(learner, metagradient, batch, Engine(chunk=chunk))["loss"] for _ in range(2)]
        assert torch.equal(*scores)  # scoring leaves the weights alone
        results.append([scores[0], *(p.grad for p in model.parameters())])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-13, atol=0)


def test_what_is_computed_otherwise_is_said_once(logged: list[str]) -> None:
    learner, batch = learner_of(network("lstm")), tasks("lstm")
    assert find_way(EngineSettings(), Exact(), learner, batch) == Way(together=False)
    (line,) = logged
    assert (
        "the model is computed one task after another, as the fastest way fails: RuntimeError: Batching rule"
        in line
    )
    logged.clear()
    find_way(EngineSettings(strategy="per_task"), Exact(), learner, batch)
    assert not logged


def test_what_is_typed_and_cannot_be_is_one_line() -> None:
    learner, batch = learner_of(network("lstm")), tasks("lstm")
    with (
        pytest.raises(
            ConfigError, match=r"engine.chunk=2: this model can only be computed one task after another"
        ),
        with_keys(),
    ):
        find_way(EngineSettings(chunk=2), Exact(), learner, batch)
    with (
        pytest.raises(
            ConfigError, match=r"engine.strategy=batched: this model can only be computed one task after"
        ),
        with_keys(),
    ):
        find_way(EngineSettings(strategy="batched"), Exact(), learner, batch)


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (1 - x.tanh() ** 2)


class Wrong(OnceOnly):
    """A derivative whose own derivative is half of what it should be."""

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (1 - x.tanh() * x.tanh().detach())


class Activated(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.head, self.function = nn.Linear(24, 2), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.head(x.flatten(1)))


def fused(x: Tensor) -> Tensor:
    """A kernel without second derivatives, called by its own name."""
    q = x[:, None, :, None]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)[0][:, 0, :, 0]


def test_a_function_without_second_derivatives_is_refused_and_not_taken_for_zero() -> None:
    learner, batch = learner_of(Activated(OnceOnly.apply).double()), tasks("residual")
    with pytest.raises(
        ConfigError, match="a function in Activated is once_differentiable, so its second derivatives"
    ):
        find_way(EngineSettings(), Exact(), learner, batch)
    assert find_way(EngineSettings(), FirstOrder(), learner, batch) == Way(together=False)


def test_second_derivatives_that_are_not_the_gradients_are_said(logged: list[str]) -> None:
    learner, batch = learner_of(Activated(Wrong.apply).double()), tasks("residual")
    find_way(EngineSettings(), Exact(), learner, batch)
    assert re.search(r"the second derivatives of Activated differ by \d+\.\d % from differences", logged[-1])


class InFloat32(Activated):
    """As mixed precision has it: a part is computed in float32 whatever the parameters are."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x.flatten(1)).float()
        return (h * torch.rsqrt(h.square().mean(1, keepdim=True) + 1e-5)).to(x.dtype)


class FirstState(Recurrent):
    """An LSTM that is given its first state, of torch's default type."""

    def body(self, x: Tensor) -> Tensor:
        zero = torch.zeros(1, len(x), 5)
        return self.cells(x, (zero, zero))[0].mean(1)


class ZeroInit(Activated):
    """A residual branch that starts at zero, before a ReLU."""

    def __init__(self) -> None:
        super().__init__(torch.relu)
        self.branch = nn.Linear(24, 24)
        nn.init.zeros_(self.branch.weight)
        nn.init.zeros_(self.branch.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head(x + torch.relu(self.branch(x)))


class Hooked(Activated):
    """Activations kept by a hook, for a picture."""

    def __init__(self) -> None:
        super().__init__(torch.tanh)
        self.seen: dict[str, Tensor] = {}
        self.head.register_forward_hook(lambda _, __, output: self.seen.__setitem__("head", output))


@pytest.mark.parametrize(
    "model",
    [InFloat32(torch.tanh), FirstState(nn.LSTM), ZeroInit(), Hooked()],
    ids=lambda model: type(model).__name__,
)
def test_right_models_are_taken_without_a_word(model: nn.Module, logged: list[str]) -> None:
    learner, batch = learner_of(model), tasks("residual")
    batch = batch.to(dtype=torch.float32)
    learner.check(batch)
    find_way(EngineSettings(), Exact(), learner, batch)
    assert not any("second derivatives" in line for line in logged)
    learner.check(batch)  # what a pass of vmap has left in the model does no harm


class Checkpointed(Activated):
    """Recomputes its hidden layer in the backward pass, by when its parameters are its own again."""

    def __init__(self) -> None:
        super().__init__(torch.tanh)
        self.hidden = nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        recomputed = checkpoint(lambda z: self.hidden(z).tanh(), x.flatten(1), use_reentrant=False)
        return self.head(recomputed)


class Alias(Activated):
    """A weight that is reached by another name."""

    def __init__(self) -> None:
        super().__init__(torch.tanh)
        self.hidden = nn.Linear(24, 24)
        self.weights = [self.hidden.weight]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(x.flatten(1), self.weights[0], self.hidden.bias).tanh())


class Derived(Activated):
    """Keeps what it once computed from a weight."""

    def __init__(self) -> None:
        super().__init__(torch.tanh)
        self.norm: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is None:
            self.norm = self.head.weight.detach().norm()
        return self.head(x.flatten(1)) / self.norm


class Locked(Activated):
    def __init__(self) -> None:
        super().__init__(torch.tanh)
        self.lock = threading.Lock()


class WritesInput(Activated):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.relu_().flatten(1))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Checkpointed(), "Checkpointed does not compute with the parameters that it is called with"),
        (Alias(), "Alias does not compute with the parameters that it is called with"),
        (Derived(), "Derived does not compute with the parameters that it is called with"),
        (Locked(), "Locked cannot be copied .TypeError: cannot pickle"),
        (WritesInput(torch.tanh), "WritesInput writes into its input"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_model_that_would_be_computed_wrong_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        learner_of(model.double()).check(tasks("residual"))


def test_a_sequence_that_begins_in_place_leaves_the_examples_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(24, 2)).double()
    with pytest.raises(ConfigError, match="Sequential writes into its input"):
        learner_of(model).check(tasks("residual"))


def test_lazy_layers_are_named() -> None:
    with pytest.raises(ConfigError, match="model: 1 is lazy, and has no weights yet"):
        learner_of(nn.Sequential(nn.Flatten(), nn.LazyLinear(2)))


def test_where_nothing_works_one_line_says_the_way_out() -> None:
    learner, batch = learner_of(Activated(fused).double()), tasks("residual")
    with (
        pytest.raises(ConfigError, match=r"it has no second derivatives .*: type metagradient=first_order"),
        with_keys(),
    ):
        find_way(EngineSettings(), Exact(), learner, batch)
    assert find_way(EngineSettings(), FirstOrder(), learner, batch).together


class RunningMean(nn.Module):
    """Statistics of its own, in a buffer that is written in training."""

    def __init__(self, momentum: float = 0.1) -> None:
        super().__init__()
        self.head, self.momentum = nn.Linear(24, 2), momentum
        self.register_buffer("mean", torch.zeros(24), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.training:
            self.mean = (1 - self.momentum) * self.mean + self.momentum * x.mean(0).detach()
        return self.head(x - self.mean)


class Counter(RunningMean):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(x.flatten(1))


class Remembering(RunningMean):
    """The same in an attribute."""

    last: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x, before = x.flatten(1), self.last
        self.last = x.mean(0).detach()
        return self.head(x - before)


class OnlyInEval(RunningMean):
    """Collected in training, used in evaluation."""

    seen: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.training:
            self.seen = x.mean(0).detach()
            return self.head(x)
        return self.head(x - self.seen)


class FunctionalDropout(RunningMean):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(x.flatten(1), 0.5, self.training))


class NumpyNoise(RunningMean):
    def forward(self, x: Tensor) -> Tensor:
        import numpy as np

        return self.head(x.flatten(1) + float(np.random.default_rng(0).normal()) + np.random.rand())


class Cached(RunningMean):
    """Keeps the last features for a picture: no harm."""

    def forward(self, x: Tensor) -> Tensor:
        self.features = x.flatten(1)
        return self.head(self.features)


class WrongShape(RunningMean):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1)).mean(0)


class Failing(RunningMean):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (RunningMean(), "its forward pass writes mean, which tasks would share"),
        (Counter(), "its forward pass writes calls, which tasks would share"),
        (Remembering(), "Remembering predicts differently after a forward pass: keep nothing"),
        (OnlyInEval(), "OnlyInEval predicts differently after a forward pass: keep nothing"),
        (FunctionalDropout(), "the forward pass of FunctionalDropout draws random numbers .dropout"),
        (NumpyNoise(), "the forward pass of NumpyNoise draws random numbers"),
        (Recurrent(nn.LSTM, num_layers=2, dropout=0.5), "the forward pass of Recurrent draws random numbers"),
        (WrongShape(), r"WrongShape maps 5 examples \[5, 6, 4\] to \[2\], expected \[5, outputs\]"),
        (
            Failing(),
            r"Failing fails on the data: RuntimeError: mat1 and mat2 .* \(test_model_zoo.py, line \d+\)",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_model_that_tasks_would_share_something_of_is_refused(model: nn.Module, message: str) -> None:
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(ConfigError, match=message):
        learner_of(model.double()).check(tasks("residual"))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name].double(), each.double()) for name, each in model.state_dict().items())


def test_a_model_that_keeps_what_nothing_depends_on_is_taken() -> None:
    learner_of(Cached().double()).check(tasks("residual"))


def test_what_is_frozen_moves_in_neither_loop() -> None:
    model, batch = network("frozen layer"), tasks("frozen layer")
    learner = learner_of(model)
    assert learner.adapted_names == {"b.weight", "b.bias", "head.weight", "head.bias"}
    assert learner.adapt(batch).params.keys() == learner.adapted_names
    model.requires_grad_(False)
    with (
        pytest.raises(
            ConfigError, match=r"algo.adapts=all: all matching parameters are frozen .requires_grad=False"
        ),
        with_keys(),
    ):
        learner_of(model)


def test_a_model_without_parameters_is_said_to_have_none() -> None:
    with pytest.raises(ConfigError, match="the model has no parameters: there is nothing that could adapt"):
        learner_of(nn.Flatten())


def test_a_transformer_is_scored_alike_with_and_without_a_graph() -> None:
    learner, batch = learner_of(Transformer().double()), tasks("transformer")
    way = find_way(EngineSettings(), FirstOrder(), learner, batch)
    engine = Engine(chunk=TASKS, plain_attention=way.plain_attention)
    trained = fill(learner, FirstOrder(), batch, engine)["loss"]
    learner.eval()
    *_, last = learner.curve(batch)
    assert torch.allclose(last["loss"], trained, rtol=1e-12)
