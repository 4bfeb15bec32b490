"""The rules of samplers: Meta-Dataset's against its formula written out, imbalance, wrong labels, padding."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tasks_numbered import Numbered, where_from
from torch import Tensor

from metarun.engine.executor import Executor
from metarun.engine.meta_steps import meta_steps
from metarun.engine.settings import Engine
from metarun.errors import ConfigError
from metarun.learners import LEO, GradientAdaptation, InnerLoop, MatchingNet, ProtoNet, SoftKMeans
from metarun.metagradients import Exact, Progress
from metarun.models import MLP, Conv4, Linear
from metarun.rules import SGD, LearnedRates
from metarun.tasks import SPLITS, Examples, Split, Tasks
from metarun.tasks.draws import Draws
from metarun.tasks.images.class_episodes import ClassEpisodes
from metarun.tasks.images.pool import Pool
from metarun.tasks.images.sampling import Sizes, fixed, noisy, variable

META_DATASET = Sizes(way=50, shot=100, query=10)


def pool(counts: list[int]) -> Pool:
    """Images that are their own place."""
    total = sum(counts)
    return Pool(torch.arange(total), torch.arange(total), torch.tensor(counts))


class Uneven(ClassEpisodes):
    """Classes with 3, 4, … images; a number is its class and its image."""

    input_shape = (2,)

    def classes(self, split: Split) -> int:
        return 12

    def fewest(self, split: Split) -> int:
        return 3

    def pools(self) -> dict[Split, Pool]:
        counts = torch.arange(12) % 7 + 3
        images = torch.cat([torch.tensor([[c, i] for i in range(n)]) for c, n in enumerate(counts.tolist())])
        return dict.fromkeys(SPLITS, Pool(images.to(torch.uint8), torch.arange(len(images)), counts))


def variable_source(**given: Any) -> Uneven:
    sizes = {"way": 8, "shot": 6, "query": 3, "fewest_way": 3, "most_support": 20}
    return Uneven(sampler="variable", **sizes | given)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(2, 300), min_size=5, max_size=70),
    seed=st.integers(0, 10**6),
    sizes=st.builds(
        Sizes,
        way=st.integers(5, 50),
        shot=st.integers(1, 100),
        query=st.integers(1, 10),
        most_support=st.integers(100, 500),
    ),
)
def test_every_episode_is_one_of_meta_datasets(counts: list[int], seed: int, sizes: Sizes) -> None:
    """The rule of arXiv:1903.03096 written out for one episode, from what was drawn."""
    drawn = variable(pool(counts), Draws(seed, 0, 0, 3), sizes)
    assert drawn.ways is not None
    for t in range(3):
        way = int(drawn.ways[t])
        assert 5 <= way <= min(sizes.way, len(counts))
        classes = drawn.classes[t, :way].tolist()
        assert len(set(classes)) == way
        q = min(sizes.query, *(counts[c] // 2 for c in classes))
        assert drawn.info["query"][t] == q
        queries, shots = Counter[int](), Counter[int]()
        seen = set()
        for picked, found in ((drawn.query, queries), (drawn.support, shots)):
            assert picked.mask is not None
            for label, index, counted in zip(
                picked.label[t].tolist(), picked.index[t].tolist(), picked.mask[t].tolist(), strict=True
            ):
                if not counted:
                    continue
                assert label < way
                assert index < counts[classes[label]]
                assert (label, index) not in seen
                seen.add((label, index))
                found[label] += 1
        assert set(queries.values()) == {q}
        assert len(queries) == len(shots) == way
        assert sum(shots.values()) <= sizes.most_support
        assert [shots[c] for c in range(way)] == drawn.info["shot"][t, :way].tolist()
        assert all(shots[c] <= counts[classes[c]] - q for c in range(way))


def test_the_sizes_follow_the_formula() -> None:
    """With every draw known, the whole rule is one line each."""
    counts = [20, 37, 5, 90, 400, 12, 64, 33]
    draws = Draws(3, 0, 0, 40)
    drawn = variable(pool(counts), draws, META_DATASET)
    again = Draws(3, 0, 0, 40)
    u_way, bits, u_beta, u_alpha = again.uniform(), again.choose(8, 8), again.uniform(), again.uniform(8)
    for t in range(40):
        way = 5 + math.floor(float(u_way[t]) * 4)
        sizes = [counts[c] for c in bits[t, :way].tolist()]
        q = min(10, *(size // 2 for size in sizes))
        beta = float(u_beta[t])
        total = min(500, sum(math.floor(beta * min(100, size - q) + 1) for size in sizes))
        weights = [
            size * math.exp(math.log(0.5) + float(u) * (math.log(2) - math.log(0.5)))
            for size, u in zip(sizes, u_alpha[t, :way], strict=True)
        ]
        shots = [
            min(math.floor(w / sum(weights) * (total - way)) + 1, size - q)
            for w, size in zip(weights, sizes, strict=True)
        ]
        assert drawn.ways is not None
        assert (int(drawn.ways[t]), int(drawn.info["query"][t])) == (way, q)
        assert drawn.info["shot"][t, :way].tolist() == shots
        assert not drawn.info["shot"][t, way:].any()


def test_ways_images_and_the_size_are_drawn_as_they_should() -> None:
    drawn = variable(pool([100] * 12), Draws(0, 0, 0, 4000), META_DATASET)
    assert drawn.ways is not None
    assert chisquare(torch.bincount(drawn.ways, minlength=13)[5:]).pvalue > 1e-3
    assert chisquare(torch.bincount(drawn.classes[:, 0], minlength=12)).pvalue > 1e-3
    first = drawn.query.index[:, 0]
    assert chisquare(torch.bincount(first, minlength=100)).pvalue > 1e-3
    # β reaches from support sets of one image a class to all that there are.
    assert drawn.support.mask is not None
    per_class = drawn.info["shot"].sum(1) / drawn.ways
    assert per_class.min() < 2
    assert per_class[drawn.ways == 5].max() > 75
    assert int(drawn.support.mask.sum(1).max()) <= 500


def test_an_episode_depends_on_its_number_alone() -> None:
    source = variable_source()
    whole, alone = source.batch("test", 0, 9), source.batch("test", 7, 1)
    for part in ("support", "query"):
        assert torch.equal(getattr(whole, part).x[7:8], getattr(alone, part).x)
        assert torch.equal(getattr(whole, part).mask[7:8], getattr(alone, part).mask)
    assert whole.ways is not None
    assert (whole.support.y.amax(1) < whole.ways).all()
    assert not whole.support.x[~whole.support.mask].any()  # type: ignore[index]
    assert where_from(whole, "support").shape == (9, 20, 2)


def test_imbalance_changes_the_numbers_of_images_of_each_class() -> None:
    drawn = fixed(pool([30] * 9), Draws(0, 0, 0, 3000), Sizes(4, 10, 2, imbalance=0.5))
    assert drawn.support.mask is not None
    counts = torch.stack([((drawn.support.label == c) & drawn.support.mask).sum(1) for c in range(4)], 1)
    assert torch.equal(counts, drawn.info["shot"])
    assert chisquare(torch.bincount(counts.flatten(), minlength=16)[5:]).pvalue > 1e-3
    assert int(counts.min()) == 5
    equal = fixed(pool([30] * 9), Draws(0, 0, 0, 5), Sizes(4, 10, 2))
    assert equal.support.mask is None


def test_some_labels_are_wrong() -> None:
    y = torch.arange(4).repeat(500, 25)
    found = noisy(y, 4, 0.3, Draws(0, 0, 0, 500))
    wrong = found != y
    assert wrong.double().mean().item() == pytest.approx(0.3, abs=0.01)
    assert chisquare(torch.bincount((found - y)[wrong] % 4, minlength=4)[1:]).pvalue > 1e-3
    ways = torch.tensor([2, 3]).repeat(250)
    of_few = noisy(y % ways[:, None], ways, 0.5, Draws(0, 0, 0, 500))
    assert (of_few < ways[:, None]).all()
    assert torch.equal(noisy(y, 4, 0.0, Draws(0, 0, 0, 500)), y)
    clean, dirty = (Numbered(way=4, shot=3, query=2, label_noise=share) for share in (0.0, 0.5))
    for split in SPLITS:
        a, b = clean.batch(split, 0, 20), dirty.batch(split, 0, 20)
        assert torch.equal(a.support.x, b.support.x)
        assert torch.equal(a.query.y, b.query.y)
        assert 0.3 < (a.support.y != b.support.y).double().mean() < 0.7


@pytest.mark.parametrize("distractors", [0, 2])
def test_unlabelled_images_are_of_the_episode_and_of_no_other_part(distractors: int) -> None:
    more = Numbered(way=3, shot=2, query=2, unlabelled=3, distractors=distractors)
    plain = Numbered(way=3, shot=2, query=2)
    for split in SPLITS:
        tasks, without = more.batch(split, 0, 50), plain.batch(split, 0, 50)
        assert tasks.unlabelled is not None
        assert not tasks.unlabelled.y.any()
        if not distractors:
            assert torch.equal(tasks.support.x, without.support.x)
            assert torch.equal(tasks.query.x, without.query.x)
        for t in range(50):
            seen = {
                tuple(pair) for part in ("support", "query") for pair in where_from(tasks, part)[t].tolist()
            }
            free = [tuple(pair) for pair in (tasks.unlabelled.x[t] * 255).round().long().tolist()]
            assert len(set(free)) == len(free) == 3 * (3 + distractors)
            assert not seen & set(free)
            classes = Counter(c for c, _ in free)
            assert set(classes.values()) == {3}
            assert len(set(classes) - {c for c, _ in seen}) == distractors


def test_soft_k_means_is_refined_by_unlabelled_images() -> None:
    """Equations 3 and 4 of arXiv:1803.00676, class by class; the query set changes nothing."""
    tasks = Numbered(way=3, shot=2, query=2, unlabelled=3, dtype=torch.float64).batch("test", 0, 4)
    learner = (
        SoftKMeans(model=Linear(input_shape=(2,), output_size=None), refine="unlabelled").double().eval()
    )
    assert learner.is_transductive is None
    found = learner.predict(learner.adapt(tasks), tasks.query.x)
    assert tasks.unlabelled is not None
    for t in range(4):
        x, y, free = tasks.support.x[t], tasks.support.y[t], tasks.unlabelled.x[t]
        means = torch.stack([x[y == c].mean(0) for c in range(3)])
        shares = (-(free[:, None] - means).square().sum(2)).softmax(1)
        for c in range(3):
            total = x[y == c].sum(0) + (shares[:, c, None] * free).sum(0)
            prototype = total / (2 + shares[:, c].sum())
            expected = -(tasks.query.x[t] - prototype).square().sum(1)
            torch.testing.assert_close(found[t, :, c], expected, rtol=0, atol=1e-12)
    with pytest.raises(ConfigError, match="refine=unlabelled: the data has no unlabelled examples"):
        learner.check(replace(tasks, unlabelled=None))


LEARNERS = {
    "maml with batch norms": lambda: GradientAdaptation(
        model=MLP(input_shape=(2,), output_size=8, hidden=(5,), norm="batch"),
        rule=SGD(lr=0.3),
        loop=InnerLoop(steps=2),
    ),
    "maml": lambda: GradientAdaptation(
        model=MLP(input_shape=(2,), output_size=8, hidden=(5,)), rule=SGD(lr=0.3), loop=InnerLoop(steps=2)
    ),
    "protonet with batch norms": lambda: ProtoNet(
        model=MLP(input_shape=(2,), output_size=None, hidden=(5,), norm="batch")
    ),
    "protonet": lambda: ProtoNet(model=MLP(input_shape=(2,), output_size=None, hidden=(5,))),
    "soft_kmeans": lambda: SoftKMeans(model=MLP(input_shape=(2,), output_size=None, hidden=(5,))),
    "leo": lambda: LEO(
        model=MLP(input_shape=(2,), output_size=None, hidden=(5,)),
        rule=LearnedRates(lr=0.5, per="all"),
        loop=InnerLoop(steps=2),
        training_output_size=8,
        latent=3,
    ),
    "full context": lambda: MatchingNet(
        model=MLP(input_shape=(2,), output_size=None, hidden=(5,)), full_context=True
    ),
}


def unpadded(tasks: Tasks, t: int) -> Tasks:
    """One task with the examples that count, written out."""

    def examples(padded: Examples) -> Examples:
        assert padded.mask is not None
        counted = padded.mask[t]
        return Examples(padded.x[t][counted][None], padded.y[t][counted][None])

    assert tasks.ways is not None
    return replace(
        tasks,
        support=examples(tasks.support),
        query=examples(tasks.query),
        ways=tasks.ways[t : t + 1],
        key=None if tasks.key is None else tasks.key[t : t + 1],
        info={},
    )


@pytest.mark.parametrize("name", LEARNERS)
def test_a_meta_step_is_that_of_the_same_tasks_without_padding(name: str) -> None:
    torch.manual_seed(0)
    learner = LEARNERS[name]().double()
    tasks = replace(variable_source(dtype=torch.float64).batch("train", 0, 5), key=torch.arange(5))

    def step(tasks: Tasks, meta_batch: int, chunk: int) -> tuple[Tensor, dict[str, Tensor]]:
        executor = Executor(Engine(chunk=chunk), learner)
        (made,) = meta_steps(Exact(), learner, tasks, Progress(), executor, meta_batch)
        return made.scores["loss"], dict(made.gradients)

    apart = bool(learner.apart(tasks))
    assert apart == (name not in ("maml", "protonet"))
    loss, gradients = step(tasks, 5, 1 if apart else 2)
    alone = [step(unpadded(tasks, t), 5, 1) for t in range(5)]
    torch.testing.assert_close(loss.flatten(), torch.cat([each for each, _ in alone]).flatten())
    for parameter, gradient in gradients.items():
        expected = sum(grads[parameter] for _, grads in alone)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_a_network_on_images_of_different_numbers() -> None:
    """Conv4's batch norms, layer by layer over tasks, see no padding either."""

    class Pictures(Uneven):
        input_shape = (1, 16, 16)

        def pools(self) -> dict[Split, Pool]:
            counts = torch.arange(12) % 7 + 3
            images = torch.rand(int(counts.sum()), 1, 16, 16, generator=torch.Generator().manual_seed(0))
            return dict.fromkeys(SPLITS, Pool(images, torch.arange(len(images)), counts))

    sizes = {"way": 4, "shot": 3, "query": 2, "fewest_way": 2, "most_support": 10}
    tasks = Pictures(sampler="variable", dtype=torch.float64, **sizes).batch("test", 0, 3)  # type: ignore[arg-type]
    model = Conv4(input_shape=(1, 16, 16), output_size=4, filters=3)
    learner = GradientAdaptation(model=model, rule=SGD(lr=0.3), loop=InnerLoop(steps=1)).double()
    (made,) = meta_steps(Exact(), learner, tasks, Progress(), Executor(Engine(chunk=1), learner), 3)
    assert all(gradient.isfinite().all() for gradient in made.gradients.values())
    executor = Executor(Engine(chunk=1), learner)
    for t in range(3):
        (alone,) = meta_steps(Exact(), learner, unpadded(tasks, t), Progress(), executor)
        torch.testing.assert_close(made.scores["loss"].flatten()[t], alone.scores["loss"].flatten()[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"query_balance": "dirichlet"}, "query_balance=dirichlet has no effect with sampler=variable"),
        ({"unlabelled": 2}, "unlabelled=2 has no effect with sampler=variable"),
        ({"imbalance": 0.5}, "imbalance=0.5 has no effect with sampler=variable"),
        ({"fewest_way": 9}, "fewest_way=9 exceeds the most classes, way=8: give way=50"),
        ({"way": 40, "fewest_way": 13, "most_support": 99}, "fewest_way=13: the train split has 12 classes"),
        ({"most_support": 10}, "most_support=10: 8 classes may have two images each"),
    ],
)
def test_what_a_variable_sampler_cannot_do(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        variable_source(**given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"unlabelled": 5}, "shot=2 and query=2, unlabelled=5 need 9 images a class; there are 8"),
        ({"fewest_way": 3}, "fewest_way=3 has no effect with sampler=fixed: give sampler=variable"),
        ({"distractors": 2}, "distractors=2 has no effect without unlabelled images: give unlabelled=5"),
        ({"unlabelled": 1, "distractors": 5}, "way=3 and distractors=5: the validation split has 7 classes"),
        ({"unlabelled": 1, "query_balance": "dirichlet"}, "all other images may be queries"),
    ],
)
def test_what_a_fixed_sampler_cannot_do(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Numbered(way=3, shot=2, query=2, **given)
    assert message in str(error.value)


def test_an_imbalance_needs_more_images() -> None:
    Numbered(way=3, shot=4, query=2, imbalance=0.5)
    with pytest.raises(ConfigError, match=r"shot=7 and query=2 need 9 images a class; there are 8"):
        Numbered(way=3, shot=5, query=2, imbalance=0.5)
