"""Training from the weights of a run or a file, and with parameters that stay as they are."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metarun.config.composition import compose_config
from metarun.errors import ConfigError
from metarun.experiment.build import build
from metarun.experiment.config import read_config
from metarun.experiment.starts import InitialWeights, load, read_weights
from metarun.models import MLP

Typed = Callable[..., tuple[int, str, str]]

CLOUDS = ["data=binary_classification", "model=mlp", "model.hidden=[6]", "model.norm=batch", "device=cpu"]
SHORT = ["train.steps=6", "train.meta_batch=2", "train.validate_every=3", "train.test_tasks=20"]


def perceptron(**keys: Any) -> MLP:
    return MLP(input_shape=(3,), output_size=None, **keys)


@pytest.fixture
def source(typed: Typed) -> dict[str, Any]:
    status, _, said = typed("algo=protonet", *CLOUDS, *SHORT, "hydra.run.dir=source")
    assert status == 0, said
    return results("source")


def results(run: str) -> dict[str, Any]:
    return json.loads(Path(run, "results.json").read_text())["final"]


@pytest.mark.parametrize(
    "wrapped", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}]
)
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_a_files_weights_are_found(tmp_path: Path, wrapped: Any, prefix: str) -> None:
    model, other = perceptron(), perceptron()
    torch.nn.init.normal_(model.body[0].linear.weight)
    torch.save(wrapped({prefix + n: t for n, t in model.state_dict().items()}), tmp_path / "weights.pt")
    load(other, read_weights("weights.pt", str(tmp_path)), InitialWeights(init_from="weights.pt"))
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in model.state_dict().items())


def test_what_does_not_fit_is_named_or_left_as_it_starts(caplog: pytest.LogCaptureFixture) -> None:
    model, weights = perceptron(hidden=(4, 5)), perceptron(hidden=(4, 6)).state_dict()
    with pytest.raises(ConfigError) as error:
        load(model, weights, InitialWeights(init_from="w.pt"))
    assert "body.layer2.linear.weight is [6, 4] there and [5, 4] here" in str(error.value)
    assert "type model.strict=false to leave these as they start" in str(error.value)
    before = model.body[1].linear.weight.clone()
    with caplog.at_level("INFO", logger="metarun"):
        load(model, weights, InitialWeights(init_from="w.pt", strict=False))
    assert torch.equal(model.body[0].linear.weight, weights["body.layer1.linear.weight"])
    assert torch.equal(model.body[1].linear.weight, before)
    assert "model.init_from=w.pt: 2 of 4 tensors" in caplog.text
    with pytest.raises(ConfigError, match="type another run or model"):
        load(model, {"other": torch.ones(1)}, InitialWeights(init_from="w.pt", strict=False))


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("attacked"),))


def test_a_file_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Attack()}, "attack.pt")
    Path("pickled.pt").write_bytes(pickle.dumps({"weight": Attack()}))
    Path("text.pt").write_text("weights")
    torch.save({"epoch": 3}, "empty.pt")
    for name in ("attack.pt", "pickled.pt", "text.pt", "empty.pt", "missing.pt"):
        with pytest.raises(
            ConfigError, match=f"^model.init_from={name}: .*(expected a run|holds no weights)"
        ):
            read_weights(name)
    assert not Path("attacked").exists()


def test_another_algorithm_starts_from_a_run_and_goes_on_without_it(
    typed: Typed, source: dict[str, Any]
) -> None:
    start = ["model.init_from=source", *CLOUDS, *SHORT]
    status, _, said = typed("algo=nearest", *start, "train.steps=0", "hydra.run.dir=tested")
    assert status == 0, said
    assert said.count("model.init_from=source: 6 of 6 tensors") == 1
    assert results("tested") == source  # with the running statistics of the training

    status, _, said = typed("algo=maml", *start, "hydra.run.dir=maml")
    assert (status, said.count("\n")) == (2, 1)
    assert "head.weight is not there, head.bias is not there: type model.strict=false" in said
    status, _, said = typed("algo=maml", *start, "model.strict=false", "hydra.run.dir=maml")
    assert status == 0, said
    shutil.rmtree("source")
    status, _, said = typed("resume", "maml", "train.steps=8")
    assert status == 0, said


def test_the_first_checkpoint_has_the_weights_and_parameters_per_step_start_from_them(
    typed: Typed, source: dict[str, Any]
) -> None:
    words = ["algo=maml++", "inner.steps=3", *CLOUDS, "model.init_from=source", "model.strict=false"]
    learner = build(read_config(compose_config(words)), start=True).learner
    trained = read_weights("source")
    values = learner.each_step["body/layer1/norm/weight"]
    assert torch.equal(values, trained["body.layer1.norm.weight"].expand(3, -1))
    assert not torch.equal(values, torch.ones_like(values))


@pytest.mark.parametrize("algo", ["protonet", "maml"])
def test_frozen_parameters_and_the_statistics_of_their_norms_stay(
    typed: Typed, source: dict[str, Any], algo: str
) -> None:
    start = ["model.init_from=source", "model.strict=false", "algo.freeze=*layer1*", "model.hidden=[6,5]"]
    status, _, said = typed(f"algo={algo}", *CLOUDS, *SHORT, *start, "hydra.run.dir=run")
    assert status == 0, said
    before, after = read_weights("source"), read_weights("run")
    shared = [name for name in before if "layer1" in name and name in after]
    assert len(shared) == (6 if algo == "protonet" else 4)
    assert all(torch.equal(before[name], after[name]) for name in shared)
    fresh = build(read_config(compose_config([f"algo={algo}", *CLOUDS, "model.hidden=[6,5]"]))).learner
    name = "body.layer2.linear.weight"
    assert not torch.equal(after[name], fresh.state_dict()[f"model.{name}"])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["algo=protonet", "algo.freeze=*block9*"],
            "algo.freeze=*block9* matches no parameter of the model: type",
        ),
        (["algo=protonet", "model.init_from=."], "model.init_from=.: . is not a run: expected a folder with"),
        (["algo=protonet", "model.strict=false"], "model.strict=false: without model.init_from this key has"),
        (["algo=protonet", "algo.freeze=all"], "there is nothing to learn"),
        (
            ["algo=scratch", "model.init_from=source"],
            "GradientAdaptation does not start from weights of a model",
        ),
        (
            ["algo=protonet", "model.init_from=nowhere"],
            "model.init_from=nowhere: No such file or directory: exp",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(
    typed: Typed, source: dict[str, Any], words: list[str], complaint: str
) -> None:
    status, _, said = typed(*words, *CLOUDS)
    assert (status, said.count("\n")) == (2, 1), said
    assert complaint in said
