"""Learning by gradient steps: MAML, Meta-SGD, ANIL, Reptile and their relatives are this one learner."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from metarun.batched import batched_forward
from metarun.errors import ConfigError
from metarun.learners.inner_loop import InnerLoop
from metarun.learners.learner import Graph, Learner
from metarun.learners.rematerialise import rematerialised
from metarun.rules import Parameters, UpdateRule
from metarun.tasks import Examples, Loss


@dataclass(frozen=True)
class AdaptedParameters:
    """What T tasks have learned: their parameters [T, …] by name, and the inputs they learned from."""

    params: Parameters
    shared: Mapping[str, Tensor]
    support_x: Tensor


class GradientAdaptation(Learner[AdaptedParameters]):
    """Every task starts from the model's own parameters θ and takes a few steps of an update rule.

    All T tasks are adapted together: their parameters carry a leading task dimension, the forward pass is
    batched over it (layer by layer for a sequence of known layers, else by vmap), and one ordinary
    `autograd.grad` of the summed losses gives every task's own gradient, since no task's loss depends on
    another's parameters. functorch's grad is never nested with vmap: over a batch norm in training mode its
    second derivatives are silently wrong (torch 2.13).

    Args:
        model: the network; its parameters are the initialisation θ.
        rule: what a step does.
        loop: how many steps on how much of the support set.
        loss: of predictions and targets, one value a task.
        metrics: more of the same, for people to read.
        adapts: which parameters adapt: `all`, `head` (the layer of that name: ANIL, Raghu et al. 2020,
            arXiv:1909.09157), `body` (all others), or a pattern of parameter names such as `body.block4.*`.
            The others are meta-learned, but the same for every task.
        transductive: at test, predict all query examples in one batch (they share batch-norm
            statistics); otherwise each one alone, beside the support set, as in Reptile's code.
        seed: of the rule's own random initial weights.

    Raises:
        ConfigError: no parameter matches `adapts`, or the model keeps running statistics or drops out.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        rule: UpdateRule,
        loop: InnerLoop,
        loss: Loss,
        metrics: Mapping[str, Loss],
        adapts: str = "all",
        transductive: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(loss, metrics)
        self.model: nn.Module = model
        self.rule: UpdateRule = rule
        self.loop = loop
        self._batched = batched_forward(model)
        self._copies: dict[int, nn.Module] = {}
        self.transductive = transductive
        self.adapted_names = _matching(adapts, [name for name, _ in model.named_parameters()])
        for name, module in model.named_modules():
            if getattr(module, "track_running_stats", False):
                raise ConfigError(
                    f"model: {name} keeps running statistics, which tasks would share: "
                    f"build it with track_running_stats=False"
                )
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
                raise ConfigError(
                    f"model: {name} drops out at random, from a generator that a resumed run would not have; "
                    f"build it with p=0"
                )
        rule.prepare(self._initial(), torch.Generator().manual_seed(seed))

    def _initial(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.model.named_parameters() if name in self.adapted_names}

    def trajectory(self, support: Examples, graph: Graph) -> Iterator[AdaptedParameters]:
        """Yield θ, expanded to T tasks, and the adapted parameters after each inner step."""
        params, shared = self._start(support.x.shape[0], graph)
        yield AdaptedParameters(params, shared, support.x)
        state = self.rule.init(params)
        for step in range(self.loop.count(self.training)):
            params, state = self._step((params, state), shared, support, step, graph)
            yield AdaptedParameters(params, shared, support.x)

    def adapt(self, support: Examples, graph: Graph = "exact") -> AdaptedParameters:
        """Return the adapted parameters after the last step; see `rematerialise`."""
        steps = self.loop.count(self.training)
        if not self.rematerialise or graph != "exact" or steps == 0:
            return super().adapt(support, graph)
        params, shared = self._start(support.x.shape[0], graph)
        values, structure = tree_flatten((params, self.rule.init(params)))
        if not all(isinstance(each, Tensor) and each.is_floating_point() for each in values):
            raise ConfigError(
                f"engine.rematerialise needs a rule whose state is made of floating-point tensors, "
                f"{type(self.rule).__name__}'s is not: type engine.rematerialise=false"
            )

        def one_step(values: tuple[Tensor, ...], step: int, differentiable: bool) -> tuple[Tensor, ...]:
            kind: Graph = "exact" if differentiable else "none"
            after = self._step(tree_unflatten(values, structure), shared, support, step, kind)
            return tuple(tree_flatten(after)[0])

        weights = [*shared.values(), *self.rule.parameters()]
        after = rematerialised(one_step, values, weights, steps)
        params, _ = tree_unflatten(after, structure)
        return AdaptedParameters(params, shared, support.x)

    def _start(self, tasks: int, graph: Graph) -> tuple[Parameters, Parameters]:
        """Return the parameters that adapt, for T tasks, and those that tasks share."""
        params: Parameters = {}
        shared: Parameters = {}
        for name, p in self.model.named_parameters():
            if name in self.adapted_names:
                params[name] = p.expand(tasks, *p.shape)
            else:
                shared[name] = p
        if graph == "none":
            params, shared = ({name: p.detach() for name, p in each.items()} for each in (params, shared))
        return params, shared

    def _step(
        self, before: tuple[Parameters, Any], shared: Parameters, support: Examples, step: int, graph: Graph
    ) -> tuple[Parameters, Any]:
        """Return the parameters and the rule's state after one inner step, given those before it."""
        params, state = before
        if graph == "none":
            params = _leaves(params)
        examples = self.loop.minibatch(support, step, self.training)
        with torch.enable_grad():
            loss = self.loss(self._forward(params, shared, examples.x), examples.y).sum()
            if loss.requires_grad:
                grads = torch.autograd.grad(
                    loss, list(params.values()), create_graph=graph == "exact", materialize_grads=True
                )
            else:  # only biases before a batch norm adapt, which takes them away
                grads = tuple(torch.zeros_like(p) for p in params.values())
        with torch.set_grad_enabled(graph != "none"):
            return self.rule.update(params, dict(zip(params, grads, strict=True)), state, step)

    def predict(self, adapted: AdaptedParameters, x: Tensor) -> Tensor:
        """Map x [T, n, …] to predictions [T, n, out]."""
        if self.training or self.transductive:
            return self._forward(adapted.params, adapted.shared, x)
        alone = [
            self._forward(adapted.params, adapted.shared, torch.cat([adapted.support_x, one], 1))[:, -1]
            for one in torch.split(x, 1, dim=1)
        ]
        return torch.stack(alone, 1)

    def _forward(self, params: Parameters, shared: Mapping[str, Tensor], x: Tensor) -> Tensor:
        tasks = x.shape[0]
        if self._batched is not None:
            everyones = {name: p.expand(tasks, *p.shape) for name, p in shared.items()}
            return self._batched({**params, **everyones}, x)
        model = self._model_of_this_thread()

        def one_task(params: Parameters, x: Tensor) -> Tensor:
            output: Tensor = functional_call(model, {**params, **shared}, (x,))
            return output

        if tasks == 1:  # nothing to vectorise over, and a plain convolution beats a grouped one
            return one_task({name: p.squeeze(0) for name, p in params.items()}, x.squeeze(0))[None]
        output: Tensor = vmap(one_task)(params, x)
        return output

    def _model_of_this_thread(self) -> nn.Module:
        """Return a copy for every other thread: functional_call puts its parameters into the module."""
        if threading.current_thread() is threading.main_thread():
            return self.model
        thread = threading.get_ident()
        if thread not in self._copies:
            self._copies[thread] = copy.deepcopy(self.model)
        return self._copies[thread]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._copies.clear()  # of another device or type now
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _leaves(params: Parameters) -> Parameters:
    """Cut the parameters from what made them, ready for the next step's gradient."""
    return {name: p.detach().requires_grad_() for name, p in params.items()}


def _matching(adapts: str, names: list[str]) -> set[str]:
    """Return the parameter names that `adapts` stands for."""
    head = {name for name in names if name.startswith("head.")}
    if adapts in ("head", "body") and not head:
        raise ConfigError(
            f"algo.adapts={adapts}: the model has no layer called head; "
            f"type a pattern of its parameter names instead: {', '.join(names)}"
        )
    known = {"all": set(names), "head": head, "body": set(names) - head}
    chosen = known.get(adapts, {name for name in names if fnmatchcase(name, adapts)})
    if not chosen:
        raise ConfigError(
            f"algo.adapts={adapts} matches no parameter: type all, head, body or a pattern of "
            f"{', '.join(names)}"
        )
    return chosen
