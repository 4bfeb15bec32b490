"""Torch's global generators: what draws from them can be repeated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from metarun.config.composition import compose_config
from metarun.experiment.build import build
from metarun.experiment.config import read_config
from metarun.runs.directory import Run
from metarun.system.randomness import Streams, fix
from metarun.tasks.episodes import episodes
from metarun.training.loop import train
from metarun.training.restore import restore
from metarun.training.state import Training

# A user's algorithm whose embedding drops entries at random.
MINE = """
import torch
from metarun.learners import Learner

class Dropping(Learner):
    def __init__(self, *, model, rule, loop, seed):
        super().__init__()
        self.model, self.drop = model, torch.nn.Dropout(0.5)

    def adapt(self, tasks):
        return tasks.support

    def predict(self, adapted, x):
        return self.drop(self.model(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
"""


def test_the_state_follows_from_seed_work_and_number_alone() -> None:
    def draw(*of: object) -> float:
        torch.rand(3)
        fix(*of)  # type: ignore[arg-type]
        return torch.rand(()).item()

    drawn = [draw(0, "step", 0), draw(0, "step", 1), draw(1, "step", 0), draw(0, "test", 0)]
    assert len(set(drawn)) == 4
    assert draw(0, "step", 1) == drawn[1]


def test_dropout_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_that_drops.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    short = ["device=cpu", "train.steps=8", "train.test_tasks=4", "train.validation_tasks=4"]
    node = compose_config([*short, "train.checkpoint_every=3", "train.validate_every=4"])
    node["algo"] = {"_target_": "mine_that_drops.Dropping"}
    config = read_config(node)

    def weights(run: Run) -> torch.Tensor:
        state = run.checkpoints.newest()
        assert state is not None
        return torch.cat([each.flatten() for each in state["learner"].values()])

    whole, stopped = Run.create(tmp_path / "whole", node, {}), Run.create(tmp_path / "stopped", node, {})
    torch.rand(1)
    expected = train(config, whole)
    torch.rand(2)
    training = Training(config, stopped)
    restore(training)
    for step in range(5):
        training.take_step()
        if step == 2:
            training.save()
    assert train(config, stopped) == expected
    assert torch.equal(weights(stopped), weights(whole))


def first_weights(*overrides: str) -> dict[str, torch.Tensor]:
    learner = build(read_config(compose_config(["device=cpu", *overrides]))).learner
    return {name: p.detach().flatten() for name, p in learner.named_parameters()}


def test_model_and_rule_draw_numbers_of_their_own() -> None:
    for seeding, same in (("shared", True), ("streams", False)):
        one, other = (Streams(0, seeding).generator(each) for each in ("model", "rule"))
        assert torch.equal(torch.rand(5, generator=one), torch.rand(5, generator=other)) is same
    # The rule's first entries used to be the model's, scaled: both are uniform, or normal, around zero.
    for seeding, same in (("shared", True), ("streams", False)):
        found = first_weights("inner=mlp", "model.hidden=[40]", f"seeding={seeding}")
        rule = found["rule.network.0.weight"][:20]
        with torch.random.fork_rng():
            torch.manual_seed(Streams(0, seeding).start("model"))
            drawn = torch.empty(20, 2)
            torch.nn.init.kaiming_uniform_(drawn, a=5**0.5)
        ratio = rule / drawn.flatten()[:20]
        assert bool((ratio.std() < 1e-6 * ratio.abs().mean()).item()) is same


CONSUMERS = ["model", "rule", "split", "fresh parameters"]


def test_every_consumer_and_every_bit_of_the_seed_makes_another_stream() -> None:
    seeds = [0, 1, 2**31, 2**32, 2**32 + 1, 2**62, 2**63 - 1]
    starts = {Streams(seed).start(name) % 2**32 for seed in seeds for name in CONSUMERS}
    assert len(starts) == len(seeds) * len(CONSUMERS)  # of which torch's generators take 32 bits
    assert len({Streams(3).start("fresh parameters", key) for key in (0, 1, 2**32, -1)}) == 4


@pytest.mark.parametrize("words", [[], ["algo=l2l"], ["algo=hypernet"]], ids=" ".join)
def test_seeds_that_share_their_low_bits_are_other_runs(words: list[str]) -> None:
    small, large = (first_weights(*words, f"seed={seed}") for seed in (1, 2**32 + 1))
    drawn = [name for name in small if small[name].unique().numel() > 1]
    assert drawn
    assert not any(torch.equal(small[name], large[name]) for name in drawn)
    before = [first_weights(*words, f"seed={seed}", "seeding=shared") for seed in (1, 2**32 + 1)]
    assert all(torch.equal(before[0][name], before[1][name]) for name in drawn)


def test_splits_and_fresh_parameters_follow_from_all_bits() -> None:
    def split(seed: int, seeding: str) -> torch.Tensor:
        words = ["data=omniglot", "device=cpu", f"seed={seed}", f"seeding={seeding}"]
        return build(read_config(compose_config(words))).source.characters()["test"]  # type: ignore[attr-defined]

    def fresh(seed: int, seeding: str) -> torch.Tensor:
        words = ["algo=l2l", "device=cpu", f"seed={seed}", f"seeding={seeding}"]
        built = build(read_config(compose_config(words)))
        with torch.no_grad():
            start = next(built.learner.trajectory(episodes(built.source, "train", 0, 2)))
        return start.params["head.weight"]

    for draw in (split, fresh):
        assert torch.equal(draw(1, "shared"), draw(2**32 + 1, "shared"))
        assert not torch.equal(draw(1, "streams"), draw(2**32 + 1, "streams"))
        assert not torch.equal(draw(1, "streams"), draw(1, "shared"))
        assert torch.equal(draw(1, "streams"), draw(1, "streams"))


OLD = Path(__file__).parents[1] / "data" / "run-of-0.1"


@pytest.fixture
def old_run(tmp_path: Path, typed: object) -> Path:
    """A run of metarun 0.1.0 from before streams had names: seed 2³² + 3, fresh parameters, 4 steps of 4."""
    shutil.copytree(OLD, tmp_path / "run")
    return tmp_path / "run"


def scores(path: Path) -> list[float]:
    content = json.loads(path.read_text())
    return [each["loss"]["mean"] for each in content["curve"]]


def test_an_older_run_keeps_its_numbers_when_resumed(old_run: Path, typed) -> None:
    expected = scores(OLD.with_name("run-of-0.1.after-8-steps.json"))
    assert typed("resume", "run", "train.steps=8", "device=cpu")[0] == 0
    assert scores(old_run / "results.json") == pytest.approx(expected, rel=1e-6)
    records = [json.loads(line) for line in (old_run / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in records if each["split"] == "validation"] == [2, 4, 6, 8]


def test_an_older_run_goes_on_by_its_own_command_however_often(old_run: Path, typed) -> None:
    _, *words = json.loads((OLD / "manifest.json").read_text())["command"].split()
    expected = scores(OLD.with_name("run-of-0.1.after-8-steps.json"))
    for steps in (6, 8):
        status, _, said = typed(*words, f"train.steps={steps}", "hydra.run.dir=run")
        assert status == 0, said
    assert scores(old_run / "results.json") == pytest.approx(expected, rel=1e-6)


def test_an_older_run_is_the_same_run_after_it_was_resumed(old_run: Path, typed) -> None:
    before = Run(old_run)._identity()
    kept = (old_run / "checkpoints" / "best.pt").read_bytes()
    assert typed("resume", "run", "train.steps=6", "device=cpu")[0] == 0
    assert "seeding: shared" in (old_run / "config.yaml").read_text()
    assert Run(old_run)._identity() == before
    # Killed right after its config was written: its checkpoints are still its own.
    shutil.copytree(OLD / "checkpoints", old_run / "checkpoints", dirs_exist_ok=True)
    assert (old_run / "checkpoints" / "best.pt").read_bytes() == kept
    status, _, said = typed("resume", "run", "train.steps=8", "device=cpu")
    assert status == 0, said
    assert "another config" not in said
    assert scores(old_run / "results.json") == pytest.approx(
        scores(OLD.with_name("run-of-0.1.after-8-steps.json")), rel=1e-6
    )


def test_jobs_of_an_older_sweep_draw_alike(tmp_path: Path, typed) -> None:
    few = [
        "device=cpu",
        "train.steps=2",
        "train.meta_batch=2",
        "train.validation_tasks=2",
        "train.test_tasks=4",
    ]
    assert typed("-m", "seed=0,1", *few, "seeding=shared", "hydra.sweep.dir=sweep")[0] == 0
    for path in (
        *Path("sweep").glob("*/config.yaml"),
        Path("sweep/sweep.json"),
    ):  # as they were before it had a name
        text = path.read_text().replace("seeding: shared\n", "").replace(',\n    "seeding=shared"', "")
        path.write_text(text.replace(',\n      "seeding=shared"', ""))
    assert "seeding" not in "".join(path.read_text() for path in Path("sweep").glob("*/config.yaml"))
    assert "seeding" not in Path("sweep/sweep.json").read_text()
    for steps in (3, 4):
        status, printed, said = typed("resume", "sweep", f"train.steps={steps}")
        assert status == 0, said
        assert "2/2" in printed
    shutil.rmtree("sweep/1")
    assert typed("resume", "sweep")[0] == 0
    assert all("seeding: shared" in path.read_text() for path in Path("sweep").glob("*/config.yaml"))


def test_an_older_run_is_tested_and_compared(old_run: Path, typed) -> None:
    assert typed("eval", "run", "device=cpu")[0] == 0
    (kept,) = (old_run / "evaluations").glob("*.json")
    assert scores(kept) == pytest.approx(scores(OLD / "results.json"), rel=1e-6)
    shutil.copytree(old_run, "other")
    assert typed("resume", "other", "train.steps=6", "device=cpu")[0] == 0
    status, printed, _ = typed("diff", "run", "other")
    assert status == 0
    assert "train.steps" in printed
