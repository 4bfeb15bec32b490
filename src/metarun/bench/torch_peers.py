"""Other ways to compute the same meta-gradient with torch, as their users write them; all fill `.grad`."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from metarun.bench.work import Work
from metarun.metagradients import FirstOrder
from metarun.rules import SGD, LearnedRates
from metarun.tasks import Scoring

Rates = dict[str, Tensor | float]
Task = tuple[Tensor, Tensor]


def per_task_loop(work: Work) -> None:
    """Compute task by task: clone, adapt, backward, as learn2learn does; or embed and solve each episode."""
    learner, batch = work.learner, work.batch
    if not work.has_inner_loop:
        _per_episode(work)
        return
    exact = not isinstance(work.metagradient, FirstOrder)
    initial = dict(learner.model.named_parameters())
    for t in range(len(batch)):
        params = {name: p.clone() for name, p in initial.items()}
        for _ in range(learner.loop.steps):
            loss = _loss(work, params, batch.support.x[t], batch.support.y[t])
            grads = torch.autograd.grad(loss, list(params.values()), create_graph=exact)
            params = {
                name: p - _rate(work, name) * g for (name, p), g in zip(params.items(), grads, strict=True)
            }
        query = _loss(work, params, batch.query.x[t], batch.query.y[t])
        torch.autograd.backward(query / len(batch))


def _per_episode(work: Work) -> None:
    """Embed, solve and differentiate one episode after another, as easyfsl, LibFewShot and learn2learn do."""
    learner, batch = work.learner, replace(work.batch, scoring=Scoring(work.source.loss))
    for t in range(len(batch)):
        episode = batch.part(slice(t, t + 1))
        losses = learner.scores(learner.adapt(episode), episode)["loss"]
        torch.autograd.backward(losses.sum() / len(batch))


def nested_functorch(work: Work) -> None:
    """Apply `vmap` over `grad` to the adaptation; wrong with batch norm (torch 2.13), as the check shows."""
    learner, batch = work.learner, work.batch
    names = [name for name, _ in learner.model.named_parameters()]

    def query_loss(params: dict[str, Tensor], rates: Rates, support: Task, query: Task) -> Tensor:
        def support_loss(params: dict[str, Tensor]) -> Tensor:
            return _loss(work, params, *support)

        for _ in range(learner.loop.steps):
            grads = grad(support_loss)(params)
            if isinstance(work.metagradient, FirstOrder):
                grads = {name: g.detach() for name, g in grads.items()}
            params = {name: p - rates[name] * grads[name] for name, p in params.items()}
        return _loss(work, params, *query)

    params: dict[str, Tensor] = dict(learner.model.named_parameters())
    rates = {name: _rate(work, name) for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # functorch warns about operations that it runs task by task
        losses = vmap(query_loss, in_dims=(None, None, 0, 0))(
            params, rates, (batch.support.x, batch.support.y), (batch.query.x, batch.query.y)
        )
    torch.autograd.backward(losses.mean())


def higher_library(work: Work) -> None:
    """Use the package `higher` (Grefenstette et al. 2019, arXiv:1910.01727), task by task."""
    import higher

    learner, batch = work.learner, work.batch
    params = list(learner.model.named_parameters())
    optimizer = torch.optim.SGD([{"params": [p]} for _, p in params], lr=0.0)
    rates = [_rate(work, name) for name, _ in params]
    for t in range(len(batch)):
        with higher.innerloop_ctx(learner.model, optimizer, copy_initial_weights=False) as (model, inner):
            for _ in range(learner.loop.steps):
                loss = _own_loss(work, model, batch.support.x[t], batch.support.y[t])
                inner.step(loss, override={"lr": rates})
            query = _own_loss(work, model, batch.query.x[t], batch.query.y[t])
            torch.autograd.backward(query / len(batch))


def torchopt_library(work: Work) -> None:
    """Use the package TorchOpt (Ren et al. 2022, arXiv:2211.06934): its MetaSGD, as in its MAML example."""
    import torchopt

    learner, batch = work.learner, work.batch
    assert isinstance(learner.rule, SGD)
    inner = torchopt.MetaSGD(learner.model, lr=learner.rule.lr)
    model_state = torchopt.extract_state_dict(learner.model, by="reference", detach_buffers=True)
    inner_state = torchopt.extract_state_dict(inner, by="reference")
    for t in range(len(batch)):
        for _ in range(learner.loop.steps):
            inner.step(_own_loss(work, learner.model, batch.support.x[t], batch.support.y[t]))
        query = _own_loss(work, learner.model, batch.query.x[t], batch.query.y[t])
        torch.autograd.backward(query / len(batch))
        torchopt.recover_state_dict(learner.model, model_state)
        torchopt.recover_state_dict(inner, inner_state)


def _loss(work: Work, params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return one task's loss with these parameters."""
    model: nn.Module = work.learner.model
    return work.source.loss(functional_call(model, params, (x,))[None], y[None])[0]


def _own_loss(work: Work, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return one task's loss with the model's own parameters."""
    return work.source.loss(model(x)[None], y[None])[0]


def _rate(work: Work, name: str) -> Tensor | float:
    rule = work.learner.rule
    if isinstance(rule, LearnedRates):
        rates: Tensor = rule.rates[name.replace(".", "/")]
        return rates
    assert isinstance(rule, SGD)
    return rule.lr
