"""Learning by gradient steps: one learner for MAML, Meta-SGD, ANIL, Reptile and related methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from metarun.errors import ConfigError
from metarun.figures import Figure
from metarun.learners.gradient.graph import Derivatives, Graph, graph_for
from metarun.learners.gradient.initialisation import (
    FreshParameters,
    adapted_and_per_step,
    check_starts_afresh,
)
from metarun.learners.gradient.inner_loop import InnerLoop
from metarun.learners.gradient.parameters import AdaptedParameters, leaves, squared_distance
from metarun.learners.gradient.rematerialise import rematerialised_tree
from metarun.learners.gradient.task_forward import TaskForward
from metarun.learners.learner import IterativeLearner
from metarun.learners.second_derivatives import check_second_derivatives, mend_weight_norm
from metarun.learners.soundness import (
    PADDED_NORMS,
    check_forward,
    check_layers,
    check_replacement,
    has_batch_norms,
)
from metarun.rules import Parameters, UpdateRule
from metarun.rules.rule import at_step, key
from metarun.system.randomness import Seeding, Streams
from metarun.tasks import Tasks


class GradientAdaptation(IterativeLearner[AdaptedParameters]):
    """Each task starts from the model's parameters θ and takes a few steps of an update rule.

    All T tasks are adapted together. Their parameters have a leading task dimension, and the forward pass is
    batched over it (layer by layer for a sequence of known layers, else by vmap). No task's loss depends on
    another task's parameters, so one `autograd.grad` of the summed losses gives every task's own gradient.
    functorch's grad is never nested with vmap: over a batch norm in training mode its second derivatives are
    silently wrong (torch 2.13).

    Args:
        model: the network; its parameters are the initialisation θ. Parameters without requires_grad are
            frozen in both loops, except the context parameters of its modules, which adapt and are not
            meta-learned (see `frozen`).
        rule: the update rule of an inner step.
        loop: the number of inner steps and their support examples.
        adapts: the parameters that adapt: `all`; `head` (the layer of that name: ANIL, Raghu et al. 2020,
            arXiv:1909.09157); `body` (all except the head: BOIL, Oh et al. 2021, arXiv:2008.08882); a pattern
            of parameter names such as `body.block4.*`; or, as in `!*.norm.*`, all except a pattern.
            All other parameters are meta-learned, but the same for every task.
        start: `learned`, or `fresh`: each task draws parameters from the model's own initialisation, and only
            the rule is meta-learned (learned optimizers).
        proximal: λ of a term λ/2 ‖φ − θ‖² that the inner loop adds to each task's loss (iMAML, Rajeswaran et
            al. 2019, arXiv:1909.04630, equation 3).
        per_step: parameters that do not adapt but have meta-learned values for each inner step: `norms`
            (those of norm layers, if there are any, as in MAML++, arXiv:1810.09502, section 4), or a pattern.
            Predictions after a step use that step's values.
        transductive: True: at test, predict all query examples in one batch, so they share batch-norm
            statistics; False: predict each query example separately, together with the support set, as in
            Reptile's code.
        seed: seeds the rule's initial weights and fresh parameters.
        seeding: how their seeds are derived; see `Streams`.
        make_model: builds a fresh model.

    Raises:
        ConfigError: no parameter matches `adapts` or `per_step`, all parameters are frozen, or the model has
            running statistics or dropout.
    """

    can_rematerialise: ClassVar[bool] = True
    thread_safe: ClassVar[bool] = True

    def __init__(
        self,
        *,
        model: nn.Module,
        rule: UpdateRule,
        loop: InnerLoop,
        adapts: str = "all",
        start: Literal["learned", "fresh"] = "learned",
        proximal: NonNegativeFloat = 0.0,
        per_step: str | None = None,
        transductive: bool = True,
        seed: int = 0,
        seeding: Seeding = "streams",
        make_model: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        check_layers(model)
        mend_weight_norm(model)
        self.model: nn.Module
        if start == "learned":
            self.model = model
        else:  # Not a submodule, because only its shapes are used: the rule may be used on other networks.
            self.__dict__["model"] = model
        self.rule: UpdateRule = rule
        self.loop = loop
        self.proximal = proximal
        self.transductive = transductive
        streams = Streams(seed, seeding)
        self.fresh: FreshParameters | None = None
        if start == "fresh":
            check_starts_afresh(model, loop.steps, alone=adapts == "all" and not per_step)
            if make_model is None:
                raise ConfigError("@learner.start=fresh draws from a new model: it needs make_model")
            self.fresh = FreshParameters(make_model, streams)
        self.adapted_names, per_step_names = adapted_and_per_step(model, adapts, per_step)
        self.each_step = nn.ParameterDict()
        for name in per_step_names:
            p = model.get_parameter(name).requires_grad_(False)  # replaced by the values of each step
            self.each_step[key(name)] = nn.Parameter(p.repeat(max(loop.steps, 1), *[1] * p.dim()))
        self._forward = self._make_forward(model)
        rule.prepare(self._like(model), streams.generator("rule"))

    def _make_forward(self, model: nn.Module) -> TaskForward:
        return TaskForward(model)

    def _like(self, model: nn.Module) -> dict[str, Tensor]:
        """Return tensors with the names and shapes of the parameters that adapt, without T."""
        return {n: p.detach() for n, p in model.named_parameters() if n in self.adapted_names}

    @property
    def steps(self) -> int:
        """The number of inner steps in the current mode (training or test)."""
        return self.loop.count(self.training)

    def trajectory(
        self, tasks: Tasks, derivatives: Derivatives = "exact", window: int | None = None
    ) -> Iterator[AdaptedParameters]:
        """Yield θ, expanded to T tasks, and the adapted parameters after each inner step.

        With a window of n steps the graph is cut after every n-th step.
        """
        graph = graph_for(derivatives)
        start = self._start(tasks, graph)
        yield start
        yield from self._trajectory_from(start, tasks, graph, window)

    def adapt_from(
        self, before: AdaptedParameters, tasks: Tasks, derivatives: Derivatives = "exact"
    ) -> AdaptedParameters:
        """Return the parameters after the last step from `before`, as for learning two tasks in sequence."""
        adapted = before
        for adapted in self._trajectory_from(before, tasks, graph_for(derivatives)):  # noqa: B007  (keeps the last)
            pass
        return adapted

    def _trajectory_from(
        self, before: AdaptedParameters, tasks: Tasks, graph: Graph, window: int | None = None
    ) -> Iterator[AdaptedParameters]:
        params, state = before.params, self.rule.init(before.params)
        for step in range(self.steps):
            if window and step and step % window == 0:
                params, state = leaves(params), tree_map_only(Tensor, Tensor.detach, state)
            params, state = self._step((params, state), before, tasks, step, graph)
            shared = self._shared(before, step, graph)
            yield AdaptedParameters(params, shared, tasks.support.x, before.start, state)

    def adapt(self, tasks: Tasks, derivatives: Derivatives = "exact") -> AdaptedParameters:
        """Return the adapted parameters after the last step; see `rematerialise`."""
        graph, steps = graph_for(derivatives), self.steps
        start = self._start(tasks, graph)
        if not self.rematerialise or graph != "exact" or steps == 0:
            adapted = start
            for adapted in self._trajectory_from(start, tasks, graph):  # noqa: B007  (only the last is kept)
                pass
            return adapted

        def one_step(before: Any, step: int, differentiable: bool) -> Any:
            return self._step(before, start, tasks, step, "exact" if differentiable else "none")

        shared = (p for name, p in start.shared.items() if key(name) not in self.each_step)
        weights = [*shared, *self.each_step.values(), *self.rule.parameters()]
        if self.proximal:
            weights += start.start.values()
        before = (start.params, self.rule.init(start.params))
        params, _ = rematerialised_tree(one_step, before, weights, steps, of=type(self.rule).__name__)
        return AdaptedParameters(params, self._shared(start, steps - 1, graph), tasks.support.x, start.start)

    def _start(self, tasks: Tasks, graph: Graph) -> AdaptedParameters:
        """Return the parameters of T tasks before the first step."""
        support = tasks.support
        if self.fresh is not None:
            if tasks.key is None:
                raise ConfigError("@learner.start=fresh: these episodes have no key to draw parameters with")
            device, dtype = support.x.device, support.x.dtype if support.x.is_floating_point() else None
            others = {name: p.detach().to(device, dtype) for name, p in self.model.named_parameters()}
            like = {name: others.pop(name) for name in list(others) if name in self.adapted_names}
            initial = leaves(self.fresh.draw(tasks.key, like))
            return AdaptedParameters(initial, others, support.x, initial)
        params: Parameters = {}
        shared: Parameters = {}
        for name, p in self.model.named_parameters():
            if name not in self.adapted_names:
                shared[name] = p.detach() if graph == "none" else p
                continue
            expanded = self._forward.expand(p, len(tasks))
            learned = p.requires_grad and graph != "none"
            params[name] = expanded if learned else expanded.detach().requires_grad_(graph != "none")
        start = AdaptedParameters(params, shared, support.x, params)
        return replace(start, shared=self._shared(start, 0, graph))

    def _shared(self, start: AdaptedParameters, step: int, graph: Graph) -> Mapping[str, Tensor]:
        """Return the parameters that tasks share in inner step `step` and in predictions after this step."""
        if not self.each_step:
            return start.shared
        of_step = {}
        for name in start.shared:
            if key(name) in self.each_step:
                values = at_step(self.each_step[key(name)], step)
                of_step[name] = values.detach() if graph == "none" else values
        return {**start.shared, **of_step}

    def _step(
        self,
        before: tuple[Parameters, Any],
        start: AdaptedParameters,
        tasks: Tasks,
        step: int,
        graph: Graph,
    ) -> tuple[Parameters, Any]:
        """Return the parameters and the rule's state after one inner step."""
        params, state = before
        if graph == "none":
            params = leaves(params)
        examples = self.loop.minibatch(tasks.support, step, self.training)
        with torch.enable_grad():
            predictions = self._forward(params, self._shared(start, step, graph), examples.x)
            losses = tasks.losses(predictions, examples)
            total = losses.sum()
            if self.proximal:
                total = total + self.proximal / 2 * squared_distance(params, start.start)
            if total.requires_grad:
                grads = torch.autograd.grad(
                    total, list(params.values()), create_graph=graph == "exact", materialize_grads=True
                )
            else:  # only biases adapt that a following batch norm cancels
                grads = tuple(torch.zeros_like(p) for p in params.values())
        with torch.set_grad_enabled(graph != "none"):
            state = self.rule.observe(state, examples, losses if graph == "exact" else losses.detach())
            return self.rule.update(params, dict(zip(params, grads, strict=True)), state, step)

    @property
    def is_transductive(self) -> bool | None:
        """Whether batch norms see the query set of a test; None without batch norms."""
        return self.transductive if has_batch_norms(self.model) else None

    @property
    def keeps_state(self) -> bool:
        """Whether the update rule keeps parameters from task to task."""
        return self.rule.keeps_state

    @property
    def not_to_compile(self) -> str:
        """The reason why the meta-gradient cannot be compiled to one graph; empty if it can."""
        return "fresh parameters are drawn one task after another" if self.fresh else ""

    @property
    def has_kernels(self) -> bool:
        """Whether metarun's own kernels compute the model's convolutions and batch norms on a CPU."""
        return self._forward.has_kernels

    def compute_plainly(self, *, plainly: bool) -> None:
        """Compute one task after another by the model's own forward pass, or as fast as possible."""
        self._forward.plainly = plainly

    @property
    def is_known(self) -> bool:
        """Whether the model is a sequence of known layers, which work with every execution strategy."""
        return self._forward.known

    def apart(self, tasks: Tasks) -> str:
        """Return why tasks of different sizes must be computed one by one: batch norms."""
        return PADDED_NORMS if tasks.is_padded and has_batch_norms(self.model) else ""

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError if the model would mix tasks."""
        if not self._forward.known:
            check_forward(self.model, tasks.support.x[0], tasks.query.x[0])
            check_replacement(self.model, tasks.support.x[0])

    def check_second_derivatives(self, tasks: Tasks) -> None:
        """Raise ConfigError if the model has no second derivatives; see `second_derivatives`."""
        if not self._forward.known:
            check_second_derivatives(self.model, tasks.support.x[0])

    def support_losses(self, adapted: AdaptedParameters, tasks: Tasks) -> Tensor:
        """Return each task's loss on its whole support set, [T]."""
        predictions = self._forward(adapted.params, adapted.shared, tasks.support.x)
        return tasks.losses(predictions, tasks.support)

    def predict(self, adapted: AdaptedParameters, x: Tensor) -> Tensor:
        """Map x [T, n, …] to predictions [T, n, out]."""
        if self.training or self.transductive:
            return self._forward(adapted.params, adapted.shared, x)
        predictions = [
            self._forward(adapted.params, adapted.shared, torch.cat([adapted.support_x, example], 1))[:, -1]
            for example in torch.split(x, 1, dim=1)
        ]
        return torch.stack(predictions, 1)

    def learned(self, tasks: Tasks) -> list[Figure]:
        """Return figures of what the rule has learned."""

        def adapt() -> None:
            with self.evaluating(), torch.no_grad():
                self.adapt(tasks.without_answers())

        return self.rule.learned(adapt)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._forward.forget_copies()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self
