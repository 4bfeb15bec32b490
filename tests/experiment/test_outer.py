"""Schedules by hand, clipping, and the state that a checkpoint holds."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from metarun.experiment.outer import Outer, OuterSettings


def settings(**options: object) -> OuterSettings:
    return OuterSettings(**{"optimizer": {}, "lr": 1.0, **options})


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0] * 5),
        ("linear", [1.0, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", [1.0, 0.8828, 0.6, 0.3172, 0.2]),
    ],
)
def test_schedules_by_hand(schedule: str, expected: list[float]) -> None:
    made = settings(schedule=schedule, **({} if schedule == "constant" else {"final_lr": 0.2}))
    assert [made.rate(step, 4) for step in range(5)] == pytest.approx(expected, abs=1e-4)


def test_a_rate_that_drops_by_steps() -> None:
    made = settings(schedule="step", drop_every=2, drop_to=0.5)
    assert [made.rate(step, 9) for step in range(6)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    for wrong in (
        {"schedule": "step"},
        {"drop_every": 2},
        {"schedule": "step", "drop_every": 2, "final_lr": 0.1},
    ):
        with pytest.raises(ValidationError, match=r"type outer\.schedule="):
            settings(**wrong)


def test_a_final_rate_that_is_never_reached_is_an_error() -> None:
    with pytest.raises(ValidationError, match=r"outer\.final_lr=0\.2 has no effect with outer\.schedule"):
        settings(final_lr=0.2)


def test_the_rate_of_the_step_is_applied() -> None:
    p = nn.Parameter(torch.zeros(1))
    outer = Outer(settings(schedule="linear"), torch.optim.SGD, [p], steps=4)
    moves = []
    for step in range(4):
        before = p.item()
        p.grad = torch.ones(1)
        outer.step(step)
        moves.append(before - p.item())
        assert p.grad is None
    assert moves == pytest.approx([1.0, 0.75, 0.5, 0.25])


@pytest.mark.parametrize(
    ("clip", "moved"), [({"clip_value": 1.0}, [1.0, 1.0]), ({"clip_norm": 1.0}, [0.6, 0.8])]
)
def test_clipping(clip: dict[str, float], moved: list[float]) -> None:
    p = nn.Parameter(torch.zeros(2))
    outer = Outer(settings(**clip), torch.optim.SGD, [p], steps=1)
    p.grad = torch.tensor([3.0, 4.0])
    outer.step(0)
    assert (-p).tolist() == pytest.approx(moved, rel=1e-5)


def test_state_goes_on_as_if_never_interrupted() -> None:
    def run(p: nn.Parameter, outer: Outer, steps: range) -> None:
        for step in steps:
            p.grad = p.detach() ** 2 + step
            outer.step(step)

    whole, first = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    run(whole, Outer(settings(), torch.optim.Adam, [whole], steps=6), range(6))
    outer = Outer(settings(), torch.optim.Adam, [first], steps=6)
    run(first, outer, range(3))
    second = nn.Parameter(first.detach().clone())
    resumed = Outer(settings(), torch.optim.Adam, [second], steps=6)
    resumed.load_state_dict(outer.state_dict())
    run(second, resumed, range(3, 6))
    assert torch.equal(whole, second)
