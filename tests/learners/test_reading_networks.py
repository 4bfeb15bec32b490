"""The networks of learners that read, against torch's own and against formulas written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from reading_zoo import DIMENSION, QUERIES, WAY, learner, predicted, tasks_of
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from metarun.learners import InContext, MemoryAugmented, NeuralProcess, Recurrent
from metarun.learners.in_context.latent import bound, logits_of_mean
from metarun.learners.in_context.layers import Attention, attend
from metarun.learners.in_context.snail import AttentionBlock, DenseBlock
from metarun.learners.in_context.transformer import Block, Transformer
from metarun.system import hashing
from metarun.tasks import Tasks


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_a_softmax_of_products(masked: bool) -> None:
    q, k, v = normal(2, 3, 4, 5, seed=1), normal(2, 3, 6, 5, seed=2), normal(2, 3, 6, 5, seed=3)
    mask = torch.tensor([[1, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]]).bool() if masked else None
    found = attend(q, k, v, None if mask is None else mask[:, None, None])
    for task in range(2):
        for i in range(4):
            for head in range(3):
                seen = range(6) if mask is None else [j for j in range(6) if mask[task, j]]
                weights = torch.tensor(
                    [math.exp(float(q[task, head, i] @ k[task, head, j]) / math.sqrt(5)) for j in seen],
                    dtype=torch.float64,
                )
                expected = sum(
                    (w / weights.sum() * v[task, head, j] for w, j in zip(weights, seen, strict=True)),
                    torch.zeros(5, dtype=torch.float64),
                )
                got = found[task, i, 5 * head : 5 * head + 5]
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_the_attention_of_a_neural_process_is_torchs() -> None:
    ours = Attention(8, 2).double()
    torchs = nn.MultiheadAttention(8, 2, bias=False, batch_first=True).double()
    with torch.no_grad():
        torchs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        torchs.out_proj.weight.copy_(torch.eye(8))
    q, k, v = normal(2, 3, 8, seed=1), normal(2, 5, 8, seed=2), normal(2, 5, 8, seed=3)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    found = torchs(q, k, v, key_padding_mask=~mask, need_weights=False)[0]
    first = ours.first_norm(ours.query(q) + found)
    torch.testing.assert_close(ours(q, k, v, mask), ours.second_norm(first + F.relu(ours.out(first))))


def as_torchs(block: Block) -> nn.TransformerEncoderLayer:
    """torch's layer with the weights of a block."""
    pre = block.norm == "pre"
    width, hidden = block.out.in_features, block.up.out_features
    activation = F.gelu if pre else F.relu
    layer = nn.TransformerEncoderLayer(
        width, block.heads, hidden, 0.0, activation, batch_first=True, norm_first=pre
    ).double()
    pairs = {
        "self_attn.in_proj_": block.qkv, "self_attn.out_proj.": block.out, "linear1.": block.up,
        "linear2.": block.down, "norm1.": block.first_norm, "norm2.": block.second_norm,
    }  # fmt: skip
    state = {f"{to}{kind}": getattr(of, kind) for to, of in pairs.items() for kind in ("weight", "bias")}
    layer.load_state_dict(state)
    return layer


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_block_is_torchs_encoder_layer(norm: Any) -> None:
    block = Block(8, 2, 12, norm).double()
    x = normal(2, 5, 8)
    causal = torch.ones(5, 5).tril().bool()
    for mask in (None, causal):
        expected = as_torchs(block)(x, src_mask=None if mask is None else ~mask)
        got, _ = block.read(x, None if mask is None else mask[None, None])
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_support_set_and_queries_apart_are_one_pass_with_a_mask(norm: Any, itself: bool) -> None:
    stack = Transformer(3, 8, 2, 12, norm).double()
    support, query = normal(2, 5, 8, seed=1), normal(2, 4, 8, seed=2)
    x = torch.cat([support, query], 1)
    mask = torch.zeros(9, 9, dtype=torch.bool)  # as in TNP's code: all look at the support set alone
    mask[:, :5] = True
    if itself:
        mask[5:, 5:] = torch.eye(4).bool()
    for block in stack.blocks:
        x = as_torchs(block)(x, src_mask=~mask)
    x = stack.last_norm(x)
    read, caches = stack.read(support, None)
    torch.testing.assert_close(read, x[:, :5], rtol=0, atol=1e-11)
    answered = stack.answer(query, caches, None, itself=itself)
    torch.testing.assert_close(answered, x[:, 5:], rtol=0, atol=1e-11)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_recurrent_reader_is_torchs_network_on_the_sequence(cell: str) -> None:
    made = learner(cell, "values")
    assert isinstance(made, Recurrent)
    layers = len(made.cells)
    kind = nn.LSTM if cell == "lstm" else nn.GRU
    network = kind(DIMENSION + 2, made.width, layers, batch_first=True).double()
    state = {f"{name}_l{k}": p for k, c in enumerate(made.cells) for name, p in c.named_parameters()}
    network.load_state_dict(state)
    tasks = tasks_of("values", [5, 5])
    ones = torch.ones(2, 5, 1).double()
    with torch.no_grad():
        pairs = torch.cat([tasks.support.x, tasks.support.y, ones], 2)
        for i in range(QUERIES):
            query = torch.cat([tasks.query.x[:, i : i + 1], torch.zeros(2, 1, 2).double()], 2)
            hidden, _ = network(torch.cat([pairs, query], 1))
            outputs = made.head(hidden[:, -1])
            torch.testing.assert_close(outputs[:, 0], predicted(made, tasks)[:, i, 0], rtol=0, atol=1e-12)


def mann_step(made: MemoryAugmented, state: dict[str, Any], x: Tensor, label: Tensor) -> Tensor:
    """One step of one task: section 3 of the paper, place by place."""
    inputs = torch.cat([x, label, state["found"]])[None]
    hidden, cell = made.controller(inputs, (state["h"], state["c"]))
    state["h"], state["c"] = hidden, cell
    keys = made.keys(hidden)[0].tanh().view(made.heads, made.width)
    gates, strengths = made.gates(hidden)[0].chunk(2)
    by_usage = sorted(range(made.places), key=lambda place: float(state["usage"][place]))
    # Several places of usage zero are equally good; torch takes these.
    by_usage = state["usage"].topk(made.heads, largest=False).indices.tolist() or by_usage
    memory = [row.clone() for row in state["memory"]]
    for place in by_usage[: made.heads]:
        memory[place] = torch.zeros_like(memory[place])
    writes = []
    for head in range(made.heads):
        gate = gates[head].sigmoid()
        least = torch.zeros(made.places).double()
        least[by_usage[head]] = 1.0
        writes.append(gate * state["reads"][head] + (1 - gate) * least)
    for place in range(made.places):
        memory[place] = memory[place] + sum(writes[head][place] * keys[head] for head in range(made.heads))
    reads, found = [], []
    for head in range(made.heads):
        cosines = torch.stack([F.cosine_similarity(keys[head], row, dim=0, eps=1e-12) for row in memory])
        reads.append(((1 + F.softplus(strengths[head])) * cosines).softmax(0))
        found.append(sum(reads[-1][place] * memory[place] for place in range(made.places)))
    state["usage"] = made.decay * state["usage"] + sum(reads) + sum(writes)
    state["memory"], state["reads"], state["found"] = memory, reads, torch.cat(found)
    return made.head(torch.cat([hidden[0], state["found"]]))


def test_mann_is_its_equations_place_by_place() -> None:
    made = learner("mann", "classes")
    assert isinstance(made, MemoryAugmented)
    tasks = tasks_of("classes", [4])
    labels = F.one_hot(tasks.support.y[0], WAY).double()
    with torch.no_grad():
        expected = []
        for query in tasks.query.x[0]:
            state: dict[str, Any] = {
                "h": torch.zeros(1, 7).double(), "c": torch.zeros(1, 7).double(),
                "memory": [torch.full((4,), 1e-6).double() for _ in range(5)],
                "reads": [torch.zeros(5).double() for _ in range(2)],
                "usage": torch.zeros(5).double(), "found": torch.zeros(8).double(),
            }  # fmt: skip
            before = torch.zeros(WAY).double()
            for x, label in zip(tasks.support.x[0], labels, strict=True):
                mann_step(made, state, x, before)
                before = label
            expected.append(mann_step(made, state, query, before))
        got = predicted(made, tasks)[0]
    torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=1e-9)


def test_snail_is_convolutions_and_attention_over_the_whole_sequence() -> None:
    made = learner("snail", "classes")
    tasks = tasks_of("classes", [5, 5])
    labels = F.one_hot(tasks.support.y, WAY).double()
    with torch.no_grad():
        for i in range(QUERIES):
            query = torch.cat([tasks.query.x[:, i : i + 1], torch.zeros(2, 1, WAY).double()], 2)
            x = torch.cat([torch.cat([tasks.support.x, labels], 2), query], 1)
            for block in made.blocks:  # type: ignore[union-attr]
                if isinstance(block, DenseBlock):
                    kernel = torch.stack([block.before.weight, block.now.weight], 2)
                    padded = F.pad(x.mT, (block.dilation, 0))
                    f, g = F.conv1d(padded, kernel, block.now.bias, dilation=block.dilation).chunk(2, 1)
                    x = torch.cat([x, (f.tanh() * g.sigmoid()).mT], 2)
                else:
                    assert isinstance(block, AttentionBlock)
                    q, k, v = block.query(x), block.key(x), block.value(x)
                    logits = (q @ k.mT / math.sqrt(k.shape[2])).masked_fill(
                        ~torch.ones(6, 6).tril().bool(), -torch.inf
                    )
                    x = torch.cat([x, logits.softmax(2) @ v], 2)
            torch.testing.assert_close(made.head(x[:, -1]), predicted(made, tasks)[:, i], rtol=0, atol=1e-11)


def test_a_conditional_neural_process_is_a_mean_and_a_decoder() -> None:
    made = learner("cnp", "values")
    assert isinstance(made, NeuralProcess)
    tasks = tasks_of("values", [5])
    with torch.no_grad():
        points = [
            made.mean_encoder.points(torch.cat([x, y]))
            for x, y in zip(tasks.support.x[0], tasks.support.y[0], strict=True)
        ]
        r = made.mean_encoder.out(sum(points) / 5)
        for i, x in enumerate(tasks.query.x[0]):
            mean, s = made.decoder(torch.cat([x, r]))
            expected = torch.stack([mean, 0.1 + 0.9 * math.log1p(s.exp()) * torch.ones(()).double()])
            torch.testing.assert_close(predicted(made, tasks)[0, i], expected, rtol=0, atol=1e-11)


def training_loss(made: NeuralProcess, tasks: Tasks) -> Tensor:
    made.train()
    try:
        with torch.no_grad():
            return made.scores(made.adapt(tasks.without_answers()), tasks)["loss"]
    finally:
        made.eval()


@pytest.mark.parametrize("loss_on", ["query", "all"])
def test_with_one_sample_the_loss_is_the_evidence_lower_bound(loss_on: str) -> None:
    made = learner("anp", "values", loss_on=loss_on)
    assert isinstance(made, NeuralProcess)
    tasks = tasks_of("values", [3])
    with torch.no_grad():
        pairs = torch.cat([tasks.support.x, tasks.support.y], 2)
        everything = torch.cat([pairs, torch.cat([tasks.query.x, tasks.query.y], 2)], 1)
        prior, posterior = made._latent(pairs, None), made._latent(everything, None)
        noise = hashing.normal(tasks.key, 101, 4)  # type: ignore[arg-type]
        z = posterior.loc + posterior.scale * noise
        made.train()
        read = made.read(tasks.support.x, tasks.support.y, None, tasks.key)
        made.eval()
        scored = everything if loss_on == "all" else everything[:, 3:]
        x, y = scored[..., :DIMENSION], scored[..., DIMENSION:]
        known = torch.cat([x, made.cross_attention(made.positions(x), read.keys, read.values, None)], 2)
        mean, s = made.decoder(torch.cat([known, z[:, None].expand(-1, x.shape[1], -1)], 2)).chunk(2, 2)
        likelihood = Normal(mean, 0.1 + 0.9 * F.softplus(s)).log_prob(y).sum()
        expected = -(likelihood - kl_divergence(posterior, prior).sum()) / x.shape[1]
    torch.testing.assert_close(training_loss(made, tasks), expected[None], rtol=0, atol=1e-11)


def test_more_samples_are_the_importance_weighted_bound() -> None:
    prior, posterior = (
        Normal(normal(1, 2), torch.ones(1, 2).double()),
        Normal(normal(1, 2, seed=4), 0.5 * torch.ones(1, 2).double()),
    )
    z, likelihoods = normal(1, 3, 2, seed=5), normal(1, 3, seed=6)
    weights = [
        float(likelihoods[0, s] + (prior.log_prob(z[:, s]) - posterior.log_prob(z[:, s])).sum())
        for s in range(3)
    ]
    expected = math.log(sum(math.exp(w) for w in weights) / 3)
    assert bound(likelihoods, prior, posterior, z).item() == pytest.approx(expected, abs=1e-12)


def test_the_bound_is_below_the_likelihood_and_more_samples_are_nearer() -> None:
    """A conjugate model: z ~ N(0, 1), y | z ~ N(z, 1), so that y ~ N(0, 2)."""
    y, tasks = 1.3, 20_000
    zero, one = torch.zeros(tasks, 1).double(), torch.ones(tasks, 1).double()
    prior, posterior = Normal(zero, one), Normal(zero + 0.2, 0.9 * one)

    def estimate(samples: int) -> float:
        z = posterior.loc[:, None] + posterior.scale[:, None] * normal(tasks, samples, 1, seed=samples)
        return float(bound(Normal(z, 1.0).log_prob(torch.tensor(y)).squeeze(2), prior, posterior, z).mean())

    exact = float(Normal(0.0, math.sqrt(2)).log_prob(torch.tensor(y)))
    one_sample, ten = estimate(1), estimate(10)
    assert one_sample < ten < exact
    assert exact - ten < 0.25 * (exact - one_sample)


@pytest.mark.parametrize("kind", ["classes", "binary"])
def test_probabilities_are_averaged_over_samples(kind: Any) -> None:
    logits = normal(2, 3, 5, 4 if kind == "classes" else 1)
    if kind == "classes":
        expected = logits.softmax(3).mean(2)
        torch.testing.assert_close(logits_of_mean(logits, kind).softmax(2), expected)
    else:
        torch.testing.assert_close(logits_of_mean(logits, kind).sigmoid(), logits.sigmoid().mean(2))


def test_a_test_draws_the_same_latent_variables_every_time_and_others_than_the_training() -> None:
    made = learner("np", "values")
    tasks = tasks_of("values", [4, 4])
    assert torch.equal(predicted(made, tasks), predicted(made, tasks))
    other_keys = Tasks(tasks.support, tasks.query, key=tasks.key + 1, scoring=tasks.scoring)  # type: ignore[operator]
    assert not torch.equal(predicted(made, tasks), predicted(made, other_keys))


def test_the_three_sizes_are_those_of_the_papers_code() -> None:
    from metarun.models import Linear

    widths = {}
    for size in ("tiny", "small", "standard"):
        made = InContext(
            model=Linear(input_shape=(2,), output_size=None),
            output_size=1,
            targets="values",
            positions=4,
            size=size,
        )
        block = made.transformer.blocks[0]
        assert isinstance(block, Block)
        widths[size] = (made.width, len(made.transformer.blocks), block.heads)
    assert widths == {"tiny": (64, 3, 2), "small": (128, 6, 4), "standard": (256, 12, 8)}
