"""Learning by gradient steps: MAML, Meta-SGD, ANIL, Reptile and their relatives are this one learner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from metarun.errors import ConfigError
from metarun.learners.gradient.initialisation import FreshParameters, frozen, matching, of_norms
from metarun.learners.gradient.inner_loop import InnerLoop
from metarun.learners.gradient.rematerialise import rematerialised
from metarun.learners.gradient.task_forward import TaskForward
from metarun.learners.learner import Graph, Learner
from metarun.learners.second_derivatives import check_second_derivatives, mend_weight_norm
from metarun.learners.soundness import check_forward, check_layers, check_replacement
from metarun.rules import Parameters, UpdateRule
from metarun.rules.rule import key
from metarun.system.randomness import Seeding, Streams
from metarun.tasks import Examples, Loss, TaskBatch


@dataclass(frozen=True)
class AdaptedParameters:
    """What T tasks have learned: their parameters [T, …] by name, and the inputs they learned from.

    Attributes:
        params: the parameters that adapt.
        shared: the others, the same for all tasks.
        support_x: the inputs of the support sets.
        start: the parameters that adapt as they were before the first step.
        state: the rule's, after the last step.
    """

    params: Parameters
    shared: Mapping[str, Tensor]
    support_x: Tensor
    start: Parameters
    state: Any = None


class GradientAdaptation(Learner[AdaptedParameters]):
    """Every task starts from the model's own parameters θ and takes a few steps of an update rule.

    All T tasks are adapted together: their parameters carry a leading task dimension, the forward pass is
    batched over it (layer by layer for a sequence of known layers, else by vmap), and one ordinary
    `autograd.grad` of the summed losses gives every task's own gradient, since no task's loss depends on
    another's parameters. functorch's grad is never nested with vmap: over a batch norm in training mode its
    second derivatives are silently wrong (torch 2.13).

    Args:
        model: the network; its parameters are the initialisation θ. What does not require a gradient there
            is frozen: no loop moves it, but for the context parameters of its modules, which adapt and are
            not meta-learned (see `frozen`).
        rule: what a step does.
        loop: how many steps on how much of the support set.
        loss: of predictions and targets, one value a task.
        metrics: more of the same, for people to read.
        adapts: which parameters adapt: `all`, `head` (the layer of that name: ANIL, Raghu et al. 2020,
            arXiv:1909.09157), `body` (all others: BOIL, Oh et al. 2021, arXiv:2008.08882), a pattern of
            parameter names such as `body.block4.*`, or all but those of a pattern, `!*.norm.*`.
            The others are meta-learned, but the same for every task.
        start: `learned`, or `fresh`: each task draws parameters from the model's own initialisation, and only
            the rule is meta-learned (learned optimizers).
        proximal: λ of a term λ/2 ‖φ − θ‖² that the inner loop adds to each task's loss (iMAML, Rajeswaran et
            al. 2019, arXiv:1909.04630, equation 3).
        per_step: parameters that do not adapt, and are meta-learned for each inner step by itself: `norms`
            (of norm layers, if there are any, as in MAML++, arXiv:1810.09502, section 4), or a pattern.
            Predictions after a step use that step's own.
        transductive: at test, predict all query examples in one batch (they share batch-norm
            statistics); otherwise each one alone, beside the support set, as in Reptile's code.
        seed: of the rule's own random initial weights, and of fresh parameters.
        seeding: how they follow from it; see `Streams`.
        make_model: builds a fresh model.

    Raises:
        ConfigError: no parameter matches `adapts` or `per_step`, all are frozen, or the model keeps running
            statistics or drops out.
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
        start: Literal["learned", "fresh"] = "learned",
        proximal: NonNegativeFloat = 0.0,
        per_step: str | None = None,
        transductive: bool = True,
        seed: int = 0,
        seeding: Seeding = "streams",
        make_model: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__(loss, metrics)
        check_layers(model)
        mend_weight_norm(model)
        self.model: nn.Module
        if start == "learned":
            self.model = model
        else:  # Only its shape is used: no part of the learner, whose rule may be used on other networks.
            self.__dict__["model"] = model
        self.rule: UpdateRule = rule
        self.loop = loop
        self.proximal = proximal
        self.transductive = transductive
        streams = Streams(seed, seeding)
        names = [name for name, _ in model.named_parameters()]
        self.adapted_names = matching(adapts, names) - frozen(model)
        if not self.adapted_names:
            raise ConfigError(
                f"algo.adapts={adapts}: all that this stands for is frozen (requires_grad=False), so nothing "
                f"adapts: leave one of {', '.join(sorted(matching(adapts, names)))[:100]} free"
            )
        self.fresh: FreshParameters | None = None
        if start == "fresh":
            if adapts != "all" or per_step or make_model is None:
                raise ConfigError(
                    "algo.start=fresh: all parameters adapt, from nothing learned; type algo.adapts=all and "
                    "algo.per_step=null"
                )
            if loop.steps == 0:
                raise ConfigError("algo.start=fresh learns inner steps: type inner.steps=1 or more")
            for name, _ in model.named_buffers():
                raise ConfigError(f"algo.start=fresh: the model has a buffer, {name}, which no task draws")
            self.fresh = FreshParameters(make_model, streams)
        own_each_step = self._own_each_step(per_step, names)
        self.adapted_names -= set(own_each_step)
        if not self.adapted_names:
            raise ConfigError(
                f"algo.per_step={per_step} leaves no parameter that adapts: type algo.per_step=norms"
            )
        self.each_step = nn.ParameterDict()
        for name in own_each_step:
            p = model.get_parameter(name).requires_grad_(False)  # its place is taken
            self.each_step[key(name)] = nn.Parameter(p.repeat(max(loop.steps, 1), *[1] * p.dim()))
        self._forward = TaskForward(model)
        initial = {n: p.detach() for n, p in model.named_parameters() if n in self.adapted_names}
        rule.prepare(initial, streams.generator("rule"))

    def _own_each_step(self, pattern: str | None, names: list[str]) -> list[str]:
        """Return the names of the parameters that `per_step` stands for."""
        if pattern is None:
            return []
        fitting = of_norms(self.model) if pattern == "norms" else matching(pattern, names, "algo.per_step")
        return [name for name in names if name in fitting - frozen(self.model)]

    def trained_names(self) -> set[str]:
        """Return the names of the meta-parameters."""
        return {name for name, p in self.named_parameters() if p.requires_grad}

    def trajectory(
        self, support: Examples, graph: Graph, window: int | None = None
    ) -> Iterator[AdaptedParameters]:
        """Yield θ, expanded to T tasks, and the adapted parameters after each inner step.

        With a window of n steps nothing can be differentiated through the end of every n-th step.
        """
        start = self._start(support, graph)
        yield start
        yield from self.go_on(start, support, graph, window)

    def go_on(
        self, before: AdaptedParameters, support: Examples, graph: Graph, window: int | None = None
    ) -> Iterator[AdaptedParameters]:
        """Yield the parameters after each step from others than θ, as on a second task after a first."""
        params, state = before.params, self.rule.init(before.params)
        for step in range(self.loop.count(self.training)):
            if window and step and step % window == 0:
                params, state = _leaves(params), tree_map_only(Tensor, Tensor.detach, state)
            params, state = self._step((params, state), before, support, step, graph)
            yield AdaptedParameters(params, self._shared(before, step, graph), support.x, before.start, state)

    def adapt(self, support: Examples, graph: Graph = "exact") -> AdaptedParameters:
        """Return the adapted parameters after the last step; see `rematerialise`."""
        steps = self.loop.count(self.training)
        if not self.rematerialise or graph != "exact" or steps == 0:
            return super().adapt(support, graph)
        start = self._start(support, graph)
        values, structure = tree_flatten((start.params, self.rule.init(start.params)))
        if not all(isinstance(each, Tensor) and each.is_floating_point() for each in values):
            raise ConfigError(
                f"engine.rematerialise needs a rule whose state is made of floating-point tensors, "
                f"{type(self.rule).__name__}'s is not: type engine.rematerialise=false"
            )

        def one_step(values: tuple[Tensor, ...], step: int, differentiable: bool) -> tuple[Tensor, ...]:
            kind: Graph = "exact" if differentiable else "none"
            after = self._step(tree_unflatten(values, structure), start, support, step, kind)
            return tuple(tree_flatten(after)[0])

        shared = (p for name, p in start.shared.items() if key(name) not in self.each_step)
        weights = [*shared, *self.each_step.values(), *self.rule.parameters()]
        if self.proximal:
            weights += start.start.values()
        after = rematerialised(one_step, values, weights, steps)
        params, _ = tree_unflatten(after, structure)
        return AdaptedParameters(params, self._shared(start, steps - 1, graph), support.x, start.start)

    def _start(self, support: Examples, graph: Graph) -> AdaptedParameters:
        """Return θ for T tasks, as it is before the first step."""
        tasks = support.x.shape[0]
        if self.fresh is not None:
            if support.key is None:
                raise ConfigError("algo.start=fresh: these episodes have no key to draw parameters with")
            device, dtype = support.x.device, support.x.dtype if support.x.is_floating_point() else None
            own = {name: p.detach().to(device, dtype) for name, p in self.model.named_parameters()}
            drawn = _leaves(
                self.fresh.draw(support.key, {n: own.pop(n) for n in list(own) if n in self.adapted_names})
            )
            return AdaptedParameters(drawn, own, support.x, drawn)
        params: Parameters = {}
        shared: Parameters = {}
        for name, p in self.model.named_parameters():
            if name not in self.adapted_names:
                shared[name] = p.detach() if graph == "none" else p
                continue
            expanded = p.expand(tasks, *p.shape)
            learned = p.requires_grad and graph != "none"
            params[name] = expanded if learned else expanded.detach().requires_grad_(graph != "none")
        start = AdaptedParameters(params, shared, support.x, params)
        return replace(start, shared=self._shared(start, 0, graph))

    def _shared(self, start: AdaptedParameters, step: int, graph: Graph) -> Mapping[str, Tensor]:
        """Return the parameters that tasks share in inner step `step`, and in predictions after it."""
        if not self.each_step:
            return start.shared
        own = {}
        for name in start.shared:
            if key(name) in self.each_step:
                values = self.each_step[key(name)]
                values = values[min(step, len(values) - 1)]
                own[name] = values.detach() if graph == "none" else values
        return {**start.shared, **own}

    def _step(
        self,
        before: tuple[Parameters, Any],
        start: AdaptedParameters,
        support: Examples,
        step: int,
        graph: Graph,
    ) -> tuple[Parameters, Any]:
        """Return the parameters and the rule's state after one inner step, given those before it."""
        params, state = before
        if graph == "none":
            params = _leaves(params)
        examples = self.loop.minibatch(support, step, self.training)
        with torch.enable_grad():
            losses = self.loss(
                self._forward(params, self._shared(start, step, graph), examples.x), examples.y
            )
            total = losses.sum()
            if self.proximal:
                total = total + self.proximal / 2 * squared_distance(params, start.start)
            if total.requires_grad:
                grads = torch.autograd.grad(
                    total, list(params.values()), create_graph=graph == "exact", materialize_grads=True
                )
            else:  # only biases before a batch norm adapt, which takes them away
                grads = tuple(torch.zeros_like(p) for p in params.values())
        with torch.set_grad_enabled(graph != "none"):
            state = self.rule.observe(state, examples, losses if graph == "exact" else losses.detach())
            return self.rule.update(params, dict(zip(params, grads, strict=True)), state, step)

    @property
    def is_known(self) -> bool:
        """Whether the model is a sequence of layers that are known to work every way there is."""
        return self._forward.known

    def check(self, tasks: TaskBatch) -> None:
        """Raise ConfigError where the model's forward pass keeps or draws something; see `check_forward`."""
        if not self._forward.known:
            check_forward(self.model, tasks.support.x[0], tasks.query.x[0])
            check_replacement(self.model, tasks.support.x[0])

    def check_second_derivatives(self, tasks: TaskBatch) -> None:
        """Raise ConfigError where torch's are not those of the gradient; see `second_derivatives`."""
        if not self._forward.known:
            check_second_derivatives(self.model, tasks.support.x[0])

    def support_losses(self, adapted: AdaptedParameters, support: Examples) -> Tensor:
        """Return each task's loss on the whole of its support set, [T]."""
        return self.loss(self._forward(adapted.params, adapted.shared, support.x), support.y)

    def predict(self, adapted: AdaptedParameters, x: Tensor) -> Tensor:
        """Map x [T, n, …] to predictions [T, n, out]."""
        if self.training or self.transductive:
            return self._forward(adapted.params, adapted.shared, x)
        alone = [
            self._forward(adapted.params, adapted.shared, torch.cat([adapted.support_x, one], 1))[:, -1]
            for one in torch.split(x, 1, dim=1)
        ]
        return torch.stack(alone, 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._forward.forget_copies()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def squared_distance(params: Parameters, others: Parameters) -> Tensor:
    """Return ‖φ − θ‖², summed over tasks."""
    return torch.stack([(p - others[name]).square().sum() for name, p in params.items()]).sum()


def _leaves(params: Parameters) -> Parameters:
    """Cut the parameters from what made them, ready for the next step's gradient."""
    return {name: p.detach().requires_grad_() for name, p in params.items()}
