"""MANN: an LSTM with an external memory, which gets each label one step later than its input."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.errors import ConfigError
from metarun.fields import Count, Size
from metarun.learners.in_context.reading import ReadingLearner
from metarun.system.randomness import Streams

Decay = Annotated[float, Field(ge=0, le=1)]

# Entries of an empty memory, so small that its places have no direction.
_EMPTY = 1e-6


@dataclass(frozen=True)
class State:
    """Controller and memory of T sequences.

    Attributes:
        hidden: hidden state of the LSTM, [T, controller].
        cell: cell state of the LSTM, [T, controller].
        memory: [T, places, width].
        reads: weights of each head's last reading, [T, heads, places].
        usage: usage of each place, [T, places].
        found: content of the last reading, [T, heads · width].
    """

    hidden: Tensor
    cell: Tensor
    memory: Tensor
    reads: Tensor
    usage: Tensor
    found: Tensor

    def where(self, counts: Tensor, before: State) -> State:
        """Return this state for tasks where `counts` [T] is True, else the state before."""

        def chosen(name: str) -> Tensor:
            new: Tensor = getattr(self, name)
            return torch.where(counts.view(-1, *[1] * (new.dim() - 1)), new, getattr(before, name))

        return State(**{attribute.name: chosen(attribute.name) for attribute in fields(State)})

    def repeated(self, times: int) -> State:
        """Return each task's state `times` times, in consecutive rows."""
        return State(**{a.name: getattr(self, a.name).repeat_interleave(times, 0) for a in fields(State)})


@dataclass(frozen=True)
class Remembered:
    """T support sets after reading.

    Attributes:
        state: the state after the last example that is not padding.
        last_target: target of the last example that is not padding, [T, output_size].
        outputs: outputs for each support example from the examples before it, [T, n, outputs_size].
    """

    state: State
    last_target: Tensor
    outputs: Tensor


class MemoryAugmented(ReadingLearner):
    """Reads (x_t, y_{t−1}) and predicts y_t with a memory that is written at its least used places.

    Santoro, Bartunov, Botvinick, Wierstra & Lillicrap 2016, "Meta-Learning with Memory-Augmented Neural
    Networks", arXiv:1605.06065, section 3. A head with the key k = tanh(W h) reads with weights
    softmax(β cos(k, M)), and writes k with weights σ(α) w_read + (1 − σ(α)) w_least-used of the step before.
    Usage decays, u ← γ u + w_read + w_write. The least used place is emptied before it is written. Two things
    differ from the paper: the strength β ≥ 1 is learned, because cosines alone could not single out one of
    128 places; and head j uses the j-th least used place.

    Args:
        memory: `lru`; or `none`: only the LSTM, which gets each label one step later.
        controller: units of the LSTM.
        places: number of places of the memory.
        width: width of a place.
        heads: number of heads that read and write.
        decay: γ of usage.
        **shared: see ReadingLearner.

    Raises:
        ConfigError: there are more heads than places.
    """

    def __init__(
        self,
        *,
        memory: Literal["lru", "none"] = "lru",
        controller: Size = 200,
        places: Count = 128,
        width: Size = 40,
        heads: Count = 4,
        decay: Decay = 0.99,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if heads > places:
            raise ConfigError(f"@learner.heads={heads} exceeds @learner.places={places}", "@learner.heads=4")
        self.heads = heads if memory == "lru" else 0
        self.places, self.width, self.decay = places, width, decay
        found = self.heads * width
        with Streams(self.seed, self.seeding).drawing("learner"):
            self.controller = nn.LSTMCell(self.features + self.output_size + found, controller)
            if self.heads:
                self.keys = nn.Linear(controller, found)
                self.gates = nn.Linear(controller, 2 * self.heads)  # α and β of each head
            self.head = nn.Linear(controller + found, self.outputs_size)

    def _start(self, like: Tensor) -> State:
        tasks = len(like)
        hidden = like.new_zeros(tasks, self.controller.hidden_size)
        return State(
            hidden,
            hidden,
            like.new_full((tasks, self.places, self.width), _EMPTY),
            like.new_zeros(tasks, self.heads, self.places),
            like.new_zeros(tasks, self.places),
            like.new_zeros(tasks, self.heads * self.width),
        )

    def _step(self, x: Tensor, last_target: Tensor, before: State) -> tuple[Tensor, State]:
        """Return the outputs [T, outputs_size] and the state after one example, x [T, features]."""
        inputs = torch.cat([x, last_target, before.found], 1)
        hidden, cell = self.controller(inputs, (before.hidden, before.cell))
        state = State(hidden, cell, before.memory, before.reads, before.usage, before.found)
        if self.heads:
            state = self._remember(state)
        outputs: Tensor = self.head(torch.cat([hidden, state.found], 1))
        return outputs, state

    def _remember(self, state: State) -> State:
        """Return the state after writing to and reading from the memory."""
        keys = self.keys(state.hidden).tanh().view(-1, self.heads, self.width)
        gate, strength = self.gates(state.hidden).chunk(2, 1)
        least = state.usage.topk(self.heads, dim=1, largest=False).indices  # [T, heads]
        unused = F.one_hot(least, self.places).to(keys.dtype)  # [T, heads, places]
        gate = gate.sigmoid()[..., None]
        writes = gate * state.reads + (1 - gate) * unused
        emptied = state.memory * (1 - unused.sum(1))[..., None]
        memory = emptied + writes.mT @ keys
        similar = F.normalize(keys, dim=2, eps=_EMPTY) @ F.normalize(memory, dim=2, eps=_EMPTY).mT
        reads = ((1 + F.softplus(strength))[..., None] * similar).softmax(2)
        usage = self.decay * state.usage + (reads + writes).sum(1)
        found = (reads @ memory).flatten(1)
        return State(state.hidden, state.cell, memory, reads, usage, found)

    def read(self, features: Tensor, targets: Tensor, mask: Tensor | None, keys: Tensor | None) -> Remembered:  # noqa: ARG002
        """Return memory and controller after the support sets, and the outputs for support examples."""
        tasks, n = features.shape[:2]
        state = self._start(features)
        target = features.new_zeros(tasks, self.output_size)
        outputs = [features.new_zeros(tasks, 0, self.outputs_size)]
        for i in range(n):
            output, after = self._step(features[:, i], target, state)
            outputs.append(output[:, None])
            if mask is None:
                state, target = after, targets[:, i]
            else:
                state = after.where(mask[:, i], state)
                target = torch.where(mask[:, i, None], targets[:, i], target)
        return Remembered(state, target, torch.cat(outputs, 1))

    def outputs(self, read: Remembered, features: Tensor) -> Tensor:
        """Map queries [T, m, features], each after the support set, to outputs [T, m, outputs_size]."""
        m = features.shape[1]
        last_target = read.last_target.repeat_interleave(m, 0)
        outputs, _ = self._step(features.flatten(0, 1), last_target, read.state.repeated(m))
        return outputs.view(-1, m, self.outputs_size)

    def support_outputs(self, read: Remembered, features: Tensor) -> Tensor:  # noqa: ARG002
        """Return the outputs for each support example from earlier examples, [T, n, outputs_size]."""
        return read.outputs
