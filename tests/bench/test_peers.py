"""Every side computes the same meta-gradient, of work in the published sizes."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from metarun.bench.cases import CASES, EMBEDDING, GROWTH
from metarun.bench.check import Check, is_the_same
from metarun.bench.sides import PEERS
from metarun.bench.torch_peers import per_task_loop
from metarun.bench.work import Side, make_work

CPU = torch.device("cpu")
SINUSOID = ["sinusoid-5", "sinusoid-5-first-order", "sinusoid-5-metasgd"]
CONV4 = ["conv4-5q", "conv4-5q-first-order"]
WITH_TORCH = ["loop", "nested", "higher", "torchopt"]
# What cannot be done, and what torch.func does wrong.
UNABLE = {
    ("sinusoid-5-first-order", "higher"),
    ("sinusoid-5-first-order", "torchopt"),
    ("sinusoid-5-metasgd", "torchopt"),
    ("conv4-5q-first-order", "higher"),
    ("conv4-5q-first-order", "torchopt"),
}
WRONG = {("conv4-5q", "nested")}


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_work(case: str) -> None:
    work = make_work(CASES[case], CPU, tasks=2)
    assert len(work.batch) == 2
    if case != "protonet-resnet12-84":  # it takes seconds to measure
        assert work.engine.chunk >= 1


@pytest.mark.parametrize(("case", "peer"), list(product([*SINUSOID, *CONV4], WITH_TORCH)))
def test_the_sides_agree_except_where_functorch_is_wrong(case: str, peer: str) -> None:
    pytest.importorskip(PEERS[peer].package)
    check = Check(CASES[case])
    assert PEERS[peer].can(check.work(), CPU) == ((case, peer) not in UNABLE)
    if (case, peer) not in UNABLE:
        assert is_the_same(check.relative_error(PEERS[peer].start)) == ((case, peer) not in WRONG)


@pytest.mark.parametrize("case", [case for case in EMBEDDING if case.endswith("-head")])
def test_one_episode_after_another_agrees_for_a_learner_without_steps(case: str) -> None:
    check = Check(CASES[case])
    assert [name for name, peer in PEERS.items() if peer.can(check.work(), CPU)] == ["loop"]
    assert is_the_same(check.relative_error(PEERS["loop"].start))


@pytest.mark.parametrize("case", [*SINUSOID, pytest.param("conv4-5q", marks=pytest.mark.slow)])
def test_jax_agrees(case: str) -> None:
    pytest.importorskip("jax")
    assert is_the_same(Check(CASES[case]).relative_error(PEERS["jax"].start))


@pytest.mark.parametrize(
    ("case", "device", "can"),
    [
        ("sinusoid-5", "cpu", False),
        ("sinusoid-5-compiled", "cpu", True),
        ("sinusoid-5-compiled", "cuda", False),
        ("conv4-5q", "cpu", True),
    ],
)
def test_jax_races_where_it_has_no_compiler_to_itself(case: str, device: str, can: bool) -> None:
    work = make_work(CASES[case], CPU, tasks=1)
    assert PEERS["jax"].can(work, torch.device(device)) == can
    assert PEERS["loop"].can(work, torch.device(device))


@pytest.mark.parametrize("wrong", ["model.body.layer1.linear.weight", "model.head.bias"])
def test_a_wrong_gradient_is_noticed(wrong: str) -> None:
    def start(work) -> Side:
        def compute() -> None:
            per_task_loop(work)
            dict(work.learner.named_parameters())[wrong].grad[0] *= 1 + 1e-5

        return Side(compute)

    assert not is_the_same(Check(CASES["sinusoid-1"]).relative_error(start))


def test_a_missing_gradient_is_noticed() -> None:
    def start(work) -> Side:
        return Side(lambda: (per_task_loop(work), setattr(work.learner.model.head.bias, "grad", None)))

    assert not is_the_same(Check(CASES["sinusoid-1"]).relative_error(start))


def test_work_is_the_published_size() -> None:
    for case, support, query in [
        ("sinusoid-5", (25, 10, 1), (25, 10, 1)),
        ("conv4-75q", (32, 5, 1, 28, 28), (32, 75, 1, 28, 28)),
        ("conv4-20way-5shot", (16, 100, 1, 28, 28), (16, 100, 1, 28, 28)),
        ("conv4-84", (4, 5, 3, 84, 84), (4, 75, 3, 84, 84)),
    ]:
        batch = make_work(CASES[case], CPU).batch
        assert (batch.support.x.shape, batch.query.x.shape) == (support, query), case
    work = make_work(CASES["conv4-84"], CPU, tasks=1)
    assert work.learner.model.body.block1.conv.weight.shape == (32, 3, 3, 3)
    assert (work.learner.loop.steps, work.learner.rule.lr, work.meta_batch) == (5, 0.01, 4)


def test_engine_settings_of_a_case_count() -> None:
    work = make_work([*CASES["conv4-5q"], "engine.chunk=2", "engine.workers=1"], CPU, tasks=4)
    assert (work.engine.chunk, work.engine.workers) == (2, 1)


def test_growth_is_in_one_number() -> None:
    for growth in GROWTH.values():
        works = [make_work(point, CPU, tasks=1) for point in growth.points()]
        tasks = tuple(work.meta_batch for work in works)
        steps = tuple(work.learner.loop.steps for work in works)
        grows, stays = (tasks, steps) if growth.over == "tasks" else (steps, tasks)
        assert grows == growth.values
        assert len(set(stays)) == 1
