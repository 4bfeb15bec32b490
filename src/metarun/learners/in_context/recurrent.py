"""A recurrent network that reads the pairs of a support set one after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metarun.fields import Depth, Size
from metarun.learners.in_context.reading import ReadingLearner
from metarun.system.randomness import Streams

State = list[tuple[Tensor, ...]]
"""For each layer: h and, for an LSTM, c, [T, width]."""


@dataclass(frozen=True)
class States:
    """The states of a recurrent network in T support sets.

    Attributes:
        before: the state before each example, by layer: h and, for an LSTM, c, [T, n, width].
        last: the state after the last example that is not padding, [T, width].
    """

    before: list[tuple[Tensor, ...]]
    last: State


class Recurrent(ReadingLearner):
    """An LSTM or a GRU over (x₁, y₁), (x₂, y₂), …; a query is a last input without a target.

    The plain form of Hochreiter, Younger & Conwell 2001, "Learning to Learn Using Gradient Descent": the
    hidden state holds all knowledge of a task.

    Args:
        cell: `lstm` or `gru`.
        width: width of the hidden state.
        layers: number of layers.
        **shared: see ReadingLearner.
    """

    def __init__(
        self, *, cell: Literal["lstm", "gru"] = "lstm", width: Size = 128, layers: Depth = 1, **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.width, self.parts = width, 2 if cell == "lstm" else 1
        kind = nn.LSTMCell if cell == "lstm" else nn.GRUCell
        inputs = self.features + self.output_size + 1  # the last input says whether there is a target
        with Streams(self.seed, self.seeding).drawing("learner"):
            sizes = [inputs, *[width] * (layers - 1)]
            self.cells = nn.ModuleList(kind(size, width) for size in sizes)
            self.head = nn.Linear(width, self.outputs_size)

    def _step(self, x: Tensor, state: State) -> State:
        after: State = []
        for cell, before in zip(self.cells, state, strict=True):
            result = cell(x, before if self.parts == 2 else before[0])
            after.append(tuple(result) if self.parts == 2 else (result,))
            x = after[-1][0]
        return after

    def read(self, features: Tensor, targets: Tensor, mask: Tensor | None, keys: Tensor | None) -> States:  # noqa: ARG002
        """Return the states before each example and after all examples."""
        tasks, n = features.shape[:2]
        pairs = torch.cat([features, targets, features.new_ones(tasks, n, 1)], 2)
        zero = features.new_zeros(tasks, self.width)
        state: State = [(zero,) * self.parts for _ in self.cells]
        states = [state]
        for i in range(n):
            after = self._step(pairs[:, i], state)
            state = after if mask is None else _where(mask[:, i, None], after, state)
            states.append(state)
        layers = range(len(self.cells))
        before = (
            [
                tuple(torch.stack([state[k][part] for state in states[:-1]], 1) for part in range(self.parts))
                for k in layers
            ]
            if n
            else []
        )
        return States(before, states[-1])

    def _without_target(self, features: Tensor, state: State) -> Tensor:
        """Return the outputs for inputs [k, features] without a target, from states [k, width]."""
        unknown = features.new_zeros(len(features), self.output_size + 1)
        result: Tensor = self.head(self._step(torch.cat([features, unknown], 1), state)[-1][0])
        return result

    def outputs(self, read: States, features: Tensor) -> Tensor:
        """Map embedded queries [T, m, features] to outputs [T, m, outputs_size]."""
        m = features.shape[1]
        state = [tuple(part.repeat_interleave(m, 0) for part in layer) for layer in read.last]
        return self._without_target(features.flatten(0, 1), state).view(-1, m, self.outputs_size)

    def support_outputs(self, read: States, features: Tensor) -> Tensor:
        """Return the outputs for each support example from earlier examples, [T, n, outputs_size]."""
        state = [tuple(part.flatten(0, 1) for part in layer) for layer in read.before]
        outputs = self._without_target(features.flatten(0, 1), state)
        return outputs.view(*features.shape[:2], self.outputs_size)


def _where(counts: Tensor, after: State, before: State) -> State:
    """Return the state `after` for tasks where `counts` [T, 1] is True, else the state `before`."""
    return [
        tuple(torch.where(counts, new, old) for new, old in zip(*layer, strict=True))
        for layer in zip(after, before, strict=True)
    ]
