"""Other ways to the same meta-gradient, each as its users write it; every one fills `.grad`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from metarun.bench.cases import Work
from metarun.metagradients import FirstOrder
from metarun.rules import SGD, MetaSGD

Peer = Callable[[Work], None]
Rates = dict[str, Tensor | float]
Task = tuple[Tensor, Tensor]


def metarun(work: Work) -> None:
    """The engine, as a training uses it."""
    work.metagradient(work.learner, work.batch, work.engine.chunk, work.engine.use(work.learner))


def per_task_loop(work: Work) -> None:
    """Task by task: clone, adapt, backward, as learn2learn does."""
    learner, batch = work.learner, work.batch
    exact = not isinstance(work.metagradient, FirstOrder)
    initial = dict(learner.model.named_parameters())
    for t in range(len(batch)):
        params = {name: p.clone() for name, p in initial.items()}
        for _ in range(learner.loop.steps):
            loss = _loss(work, params, batch.support.x[t], batch.support.y[t])
            found = torch.autograd.grad(loss, list(params.values()), create_graph=exact)
            params = {
                name: p - _rate(work, name) * g for (name, p), g in zip(params.items(), found, strict=True)
            }
        query = _loss(work, params, batch.query.x[t], batch.query.y[t])
        torch.autograd.backward(query / len(batch))


def nested_functorch(work: Work) -> None:
    """`vmap` over `grad` over the adaptation; over a batch norm wrong (torch 2.13), as the check finds."""
    learner, batch = work.learner, work.batch
    names = [name for name, _ in learner.model.named_parameters()]

    def query_loss(params: dict[str, Tensor], rates: Rates, support: Task, query: Task) -> Tensor:
        def support_loss(params: dict[str, Tensor]) -> Tensor:
            return _loss(work, params, *support)

        for _ in range(learner.loop.steps):
            found = grad(support_loss)(params)
            if isinstance(work.metagradient, FirstOrder):
                found = {name: g.detach() for name, g in found.items()}
            params = {name: p - rates[name] * found[name] for name, p in params.items()}
        return _loss(work, params, *query)

    params: dict[str, Tensor] = dict(learner.model.named_parameters())
    rates = {name: _rate(work, name) for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # functorch warns of operations that it runs one task at a time
        losses = vmap(query_loss, in_dims=(None, None, 0, 0))(
            params, rates, (batch.support.x, batch.support.y), (batch.query.x, batch.query.y)
        )
    torch.autograd.backward(losses.mean())


def higher_library(work: Work) -> None:
    """The package `higher` (Grefenstette et al. 2019, arXiv:1910.01727), task by task."""
    import higher

    learner, batch = work.learner, work.batch
    params = list(learner.model.named_parameters())
    optimizer = torch.optim.SGD([{"params": [p]} for _, p in params], lr=0.0)
    rates = [_rate(work, name) for name, _ in params]
    for t in range(len(batch)):
        with higher.innerloop_ctx(learner.model, optimizer, copy_initial_weights=False) as (model, inner):
            for _ in range(learner.loop.steps):
                loss = learner.loss(model(batch.support.x[t])[None], batch.support.y[t : t + 1])[0]
                inner.step(loss, override={"lr": rates})
            query = learner.loss(model(batch.query.x[t])[None], batch.query.y[t : t + 1])[0]
            torch.autograd.backward(query / len(batch))


def peers(work: Work) -> dict[str, Peer]:
    """Return the peers that are installed and can do this work, by name."""
    found: dict[str, Peer] = {"loop": per_task_loop, "nested": nested_functorch}
    # higher has no first-order mode that also leaves the initialisation its gradient.
    if find_spec("higher") and not isinstance(work.metagradient, FirstOrder):
        found["higher"] = higher_library
    return found


def _loss(work: Work, params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """One task's loss."""
    model: nn.Module = work.learner.model
    return work.learner.loss(functional_call(model, params, (x,))[None], y[None])[0]


def _rate(work: Work, name: str) -> Tensor | float:
    rule = work.learner.rule
    if isinstance(rule, MetaSGD):
        rates: Tensor = rule.rates[name.replace(".", "/")]
        return rates
    assert isinstance(rule, SGD)
    return rule.lr
