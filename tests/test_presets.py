"""What makes a method that method, said by conf/ and seen in what a learner is and does."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from metarun.config.composition import compose_config
from metarun.config.options import CONF, groups
from metarun.experiment.build import build, build_metagradient
from metarun.experiment.config import Config, read_config
from metarun.experiment.schema import locate
from metarun.learners import GradientAdaptation
from metarun.metagradients import EvolutionStrategies, Exact
from metarun.tasks.episodes import episodes

BODY = {"body.layer1.linear.weight", "body.layer1.linear.bias"}
NORM = {"body.layer1.norm.weight", "body.layer1.norm.bias"}
HEAD = {"head.weight", "head.bias"}
ALL = BODY | NORM | HEAD
NETWORK = ["model=mlp", "model.hidden=[8]", "model.norm=layer"]

# What moves in the inner loop, and on what path the outer loop learns it.
MOVES: dict[str, tuple[set[str], str]] = {
    "alfa": (ALL, "Exact"),
    "anil": (HEAD, "Exact"),
    "boil": (BODY | NORM, "Exact"),
    "cavia": ({"context.values"}, "Exact"),
    "fomaml": (ALL, "FirstOrder"),
    "hypernet": (ALL, "Exact"),
    "imaml": (ALL, "Implicit"),
    "l2l": ({"head.weight"}, "Truncated"),
    "maml": (ALL, "Exact"),
    "maml++": (BODY | HEAD, "Exact"),
    "meta_curvature": (ALL, "Exact"),
    "metasgd": (ALL, "Exact"),
    "proto_maml": (ALL, "Exact"),  # its head is each task's own
    "reptile": (ALL, "Reptile"),
    "scratch": (ALL, "Exact"),
    "tnet": (ALL, "Exact"),  # but for the warp layers, which it has beside these
}


def composed(*overrides: str) -> Config:
    return read_config(compose_config([*overrides, "device=cpu"]))


def learner(config: Config) -> GradientAdaptation:
    made = build(config).learner
    assert isinstance(made, GradientAdaptation)
    return made


def weights(made: GradientAdaptation) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in made.rule.named_parameters()}


def test_no_algorithm_is_left_out() -> None:
    names = {option.name for option in groups([CONF])["algo"]}
    of_steps = {
        name
        for name in names
        if issubclass(locate("algo", compose_config([f"algo={name}"])["algo"]), GradientAdaptation)
    }
    assert of_steps == set(MOVES)


@pytest.mark.parametrize("algo", MOVES)
def test_what_adapts_and_along_which_meta_gradient(algo: str) -> None:
    classes = ["data=binary_classification"] if algo == "proto_maml" else []
    config = composed(f"algo={algo}", *([] if algo == "l2l" else NETWORK), *classes)
    made = learner(config)
    tasks = episodes(build(config).source, "train", 0, 2)
    with torch.no_grad():
        start, after = itertools.islice(made.trajectory(tasks), 2)
    moved = {name for name, p in after.params.items() if not torch.equal(p, start.params[name])}
    assert (moved, type(build_metagradient(config, made)).__name__) == MOVES[algo]


def test_tnet_has_warp_layers_and_maml_has_none() -> None:
    warp = lambda algo: {
        name for name in learner(composed(f"algo={algo}", *NETWORK)).trained_names() if "warp" in name
    }
    assert warp("tnet")
    assert not warp("maml")


def test_every_switch_of_maml_plus_plus_is_on() -> None:
    config = composed("algo=maml++", *NETWORK)
    made = learner(config)
    assert set(weights(made).values()) == {
        (5,)
    }  # LSLR: a rate for every tensor that adapts, and each of 5 steps
    assert len(weights(made)) == len(BODY | HEAD)
    assert {tuple(p.shape) for p in made.each_step.values()} == {(5, 8)}
    assert len(made.each_step) == len(NORM)
    metagradient = build_metagradient(config, made)
    assert isinstance(metagradient, Exact)
    assert (metagradient.objective, metagradient.anneal_for) == ("annealed", 0.1)
    assert (config.outer.schedule, config.outer.lr, config.outer.final_lr) == ("cosine", 1e-3, 1e-5)


@pytest.mark.parametrize(
    ("inner", "count"),
    [("learned_rate", 1), ("layer_rates", 3), ("lslr", 5 * len(ALL)), ("metasgd", 8 * 5 + 1), ("sgd", 0)],
)
def test_so_many_rates_are_learned(inner: str, count: int) -> None:
    made = learner(composed(f"inner={inner}", *NETWORK))
    assert sum(p.numel() for p in made.rule.parameters()) == count


def test_features_are_those_of_the_papers() -> None:
    layers = len(ALL)
    alfa, hypernet = (learner(composed(f"inner={each}", *NETWORK)).rule for each in ("alfa", "hypernet"))
    sees = lambda rule: rule.get_parameter("network.0.weight").shape[1]
    assert sees(alfa) == 2 * layers  # the means of each tensor and of its gradient
    assert sees(hypernet) > 2 * layers
    assert not [name for name, _ in alfa.named_parameters() if "momenta" in name or "encoder" in name]


def test_other_settings_of_papers() -> None:
    def given(group: str, *overrides: str) -> dict[str, Any]:
        content: dict[str, Any] = getattr(composed(*overrides), group)
        return content

    assert given("inner", "algo=reptile")["beta1"] == 0
    assert given("inner", "algo=reptile")["second_moments"] == "kept"
    assert given("inner", "algo=l2l")["steps"] == 100
    assert given("algo", "algo=l2l")["start"] == "fresh"
    assert given("algo", "algo=imaml")["proximal"] > 0
    assert given("model", "algo=cavia", "model=mlp")["context"] == 5
    assert given("inner", "inner=nesterov")["nesterov"] is True
    assert given("inner", "inner=adamw")["decoupled"] is True
    config = composed("algo=l2l", "metagradient=pes")
    pes = build_metagradient(config, learner(config))
    assert isinstance(pes, EvolutionStrategies)
    assert pes.window == 20
    gates = learner(composed("algo=l2l")).rule.get_parameter("gates.0.bias")
    forget = gates.view(4, -1)[1]  # remembers at first, as is usual (Jozefowicz et al. 2015)
    assert (forget == 1).all()
