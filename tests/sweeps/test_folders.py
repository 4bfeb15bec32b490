"""Which folder a job has, and whether what lies there is its own; and where a sweep finds its options."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from metarun.config.composition import compose_config

FEW = [
    "device=cpu",
    "engine.chunk=2",
    "engine.workers=1",
    "engine.threads=1",
    "train.steps=2",
    "train.meta_batch=2",
    "train.validate_every=2",
    "train.validation_tasks=2",
    "train.test_tasks=4",
    "data.shot=2",
    "data.query=2",
]

Command = Callable[..., tuple[int, str, str]]


def jobs(sweep: str) -> list[dict[str, str]]:
    with Path(sweep, "jobs.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("subdir", "words", "complaint"),
    [
        (
            "s${seed}",
            ["seed=0,1", "inner.lr=0.01,0.02"],
            "job 0 (inner.lr=0.01) and job 1 (inner.lr=0.02) would share the folder sweep/s0",
        ),
        ("all", ["seed=0,1"], "job 0 (seed=0) and job 1 (seed=1) would share the folder sweep/all"),
        ("x/../y", ["seed=0,1"], "job 0 (seed=0) and job 1 (seed=1) would share the folder sweep/y"),
        (".", ["seed=0,1"], "the folder of job 0 would be ., not one inside that of the sweep"),
        ("../${hydra.job.num}", ["seed=0,1"], "the folder of job 0 would be ../0, not one inside"),
        ("/tmp/${hydra.job.num}", ["seed=0,1"], "the folder of job 0 would be /tmp/0, not one inside"),
        (
            "${inner.momentum}",
            ["inner=momentum", "inner.momentum=0.5,0.25"],
            None,
        ),
        ("${hydra.job.override_dirname}", ["seed=0,1", "inner.lr=0.01,0.02"], None),
    ],
)
def test_jobs_have_folders_of_their_own_or_none_runs(
    typed: Command, subdir: str, words: list[str], complaint: str | None
) -> None:
    status, _, said = typed("-m", *words, *FEW, "hydra.sweep.dir=sweep", f"hydra.sweep.subdir={subdir}")
    if complaint is None:
        assert (status, {job["status"] for job in jobs("sweep")}) == (0, {"finished"}), said
        assert len({job["loss_mean"] for job in jobs("sweep")}) == len(jobs("sweep"))
        return
    assert status == 2
    assert said.splitlines()[-1].startswith(f"metarun: hydra.sweep.subdir: {complaint}")
    assert not list(Path("sweep").rglob("config.yaml"))
    assert not Path("sweep/sweep.json").exists()  # or resume would take it for a sweep of the defaults


def test_excluded_keys_do_not_make_jobs_the_same(typed: Command) -> None:
    recipe = ["hydra.sweep.subdir=${hydra.job.override_dirname}"]
    recipe += ["hydra.job.config.override_dirname.exclude_keys=[inner.lr]"]
    status, _, said = typed("-m", "seed=0", "inner.lr=0.01,0.02", *FEW, "hydra.sweep.dir=sweep", *recipe)
    assert status == 2
    assert "job 0 (inner.lr=0.01)" in said
    assert "would share the folder" in said


def test_a_folder_inside_another_jobs_is_refused(typed: Command) -> None:
    OmegaConf.register_new_resolver("inside", {0.5: "a", 0.25: "a/b"}.get, replace=True)
    words = ["inner=momentum", "inner.momentum=0.5,0.25", *FEW, "hydra.sweep.dir=sweep"]
    status, _, said = typed("-m", *words, "hydra.sweep.subdir='${inside:${inner.momentum}}'")
    assert status == 2
    assert (
        "the folder of job 1 (inner.momentum=0.25) would be inside that of job 0 (inner.momentum=0.5)" in said
    )


def test_a_job_counts_as_finished_only_with_its_own_run(typed: Command) -> None:
    words = ["-m", "seed=0,1,2", *FEW, "hydra.sweep.dir=sweep"]
    assert typed(*words)[0] == 0
    before = jobs("sweep")
    shutil.rmtree("sweep/1")
    shutil.copytree("sweep/2", "sweep/1")
    for again in (["resume", "sweep"], words):
        status, out, said = typed(*again)
        assert status == 1
        assert [job["status"] for job in jobs("sweep")] == ["finished", "failed", "finished"]
        assert jobs("sweep")[1]["loss_mean"] == ""
        assert (
            jobs("sweep")[1]["error"]
            == "sweep/1 holds a run with another config (it differs in seed, data.seed)"
        )
        assert "sweep/1 holds a run that differs in seed" in said
        assert "failed: 1" in out
    shutil.rmtree("sweep/1")
    assert typed("resume", "sweep")[0] == 0
    assert [job["loss_mean"] for job in jobs("sweep")] == [job["loss_mean"] for job in before]


def test_a_search_says_that_its_trials_are_numbered(typed: Command) -> None:
    pytest.importorskip("optuna")
    words = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "inner.lr=interval(0.01,0.1)"]
    status, _, said = typed(*words, *FEW, "hydra.sweep.dir=sweep", "hydra.sweep.subdir=all")
    assert status == 0, said
    assert "hydra.sweep.subdir is not used in a search: trial N is in folder N" in said
    found = jobs("sweep")
    for job in found:
        results = json.loads(Path("sweep", job["job"], "results.json").read_text())
        assert float(job["loss_mean"]) == results["final"]["loss"]["mean"]
        assert float(job["validation_score"]) == results["validation"]["selection_score"]
    shutil.rmtree("sweep/1")
    shutil.copytree("sweep/0", "sweep/1")
    typed("resume", "sweep")
    assert [job["loss_mean"] for job in jobs("sweep")] == [found[0]["loss_mean"], ""]


RATE = "# metarun inner={name}\n# A rate.\ndefaults: [sgd, _self_]\nlr: {lr}\n"


def own_options(folder: str, **rates: float) -> None:
    inner = Path(folder, "inner")
    inner.mkdir(parents=True, exist_ok=True)
    for name, lr in rates.items():
        (inner / f"{name}.yaml").write_text(RATE.format(name=name, lr=lr))


def test_a_sweep_keeps_the_folders_of_options_of_all_its_commands(typed: Command) -> None:
    own_options("one", slow=0.01)
    own_options("other", fast=0.02)
    sweep = [*FEW, "hydra.sweep.dir=sweep"]
    assert typed("-m", "inner=slow", "seed=0", *sweep, "--config-dir", "one")[0] == 0
    status, _, said = typed("-m", "inner=fast", "seed=0", *sweep, "--config-dir", "other")
    assert status == 0, said
    kept = json.loads(Path("sweep/sweep.json").read_text())["config_dirs"]
    assert kept == [str(Path(folder).absolute()) for folder in ("one", "other")]
    shutil.rmtree("sweep/0")
    status, _, said = typed("resume", "sweep")
    assert status == 0, said
    assert [job["status"] for job in jobs("sweep")] == ["finished", "finished"]
    # Both at once, also from one command.
    assert (
        typed("-m", "inner=slow,fast", *FEW, "hydra.sweep.dir=both", "--config-dir=one", "-cd", "other")[0]
        == 0
    )


def test_a_folder_of_options_that_was_renamed_is_named_anew(typed: Command) -> None:
    own_options("one", slow=0.01)
    assert typed("-m", "inner=slow", "seed=0,1", *FEW, "hydra.sweep.dir=sweep", "--config-dir", "one")[0] == 0
    Path("one").rename("moved")
    shutil.rmtree("sweep/0")
    status, _, said = typed("resume", "sweep")
    assert status == 2
    assert (
        f"--config-dir {Path('one').absolute()}: it is not a folder, and the sweep sweep began with it"
        in said
    )
    status, _, said = typed("resume", "sweep", "--config-dir", "nowhere")
    assert (status, said.strip()) == (2, "metarun: --config-dir nowhere: it is not a folder")
    status, _, said = typed("resume", "sweep", "--config-dir", "moved")
    assert status == 0, said
    assert [job["status"] for job in jobs("sweep")] == ["finished", "finished"]


def test_a_resumed_run_takes_an_option_of_its_users(typed: Command) -> None:
    own_options("mine", slow=0.01)
    longer = Path("mine/train")
    longer.mkdir()
    (longer / "longer.yaml").write_text(
        "# x\n# y\ndefaults: [default, _self_]\nsteps: 4\nmeta_batch: 9\ntest_tasks: 4\n"
    )
    assert typed("inner=slow", *FEW, "hydra.run.dir=run", "--config-dir", "mine")[0] == 0
    status, _, said = typed("resume", "run", "train=longer", "--config-dir", "mine")
    assert status == 0, said
    config = Path("run/config.yaml").read_text()
    assert "steps: 4" in config
    assert "meta_batch: 2" in config  # which a run keeps


def test_a_class_that_is_elsewhere_is_looked_for_where_the_run_began(
    typed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine_here.py").write_text("from metarun.rules import SGD\nclass Own(SGD): ...\n")
    Path("own/inner").mkdir(parents=True)
    Path("own/inner/own.yaml").write_text("# x\n# y\n_target_: mine_here.Own\nlr: 0.01\nsteps: 1\n")
    assert typed("inner=own", *FEW, "hydra.run.dir=run", "--config-dir", "own")[0] == 0
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    monkeypatch.delitem(__import__("sys").modules, "mine_here")
    monkeypatch.setattr("sys.path", [each for each in __import__("sys").path if each != str(tmp_path)])
    for verb in ("eval", "resume"):
        status, _, said = typed(verb, "../run")
        assert status == 2
        assert (
            "inner._target_=mine_here.Own: cannot be imported (ModuleNotFoundError: No module named" in said
        )
        assert (
            f"the run was started in {tmp_path}; type the command there, or with PYTHONPATH={tmp_path}"
            in said
        )


def test_a_job_whose_config_is_damaged_is_its_own_row(typed: Command) -> None:
    words = ["-m", "seed=0,1", *FEW, "hydra.sweep.dir=sweep"]
    assert typed(*words)[0] == 0
    Path("sweep/0/config.yaml").write_text("a: [")
    shutil.rmtree("sweep/1")
    status, _, said = typed("resume", "sweep")
    assert status == 1
    assert [job["status"] for job in jobs("sweep")] == ["failed", "finished"], said
    assert jobs("sweep")[0]["error"] == "sweep/0/config.yaml is damaged: restore it from a copy"


@pytest.mark.parametrize("name", ["d$x", "b\\s", "a${seed}", "q'uote", "sp ace", "=", "ü,[x]"])
def test_a_folder_of_options_may_have_any_name(typed: Command, name: str) -> None:
    own_options(name, slow=0.015)
    assert compose_config(["inner=slow"], [name])["inner"]["lr"] == 0.015
    status, printed, said = typed("--cfg", "job", "inner=slow", "--config-dir", name)
    assert (status, "lr: 0.015" in printed) == (0, True), said


def test_what_hydra_takes_for_config_dir_is_it(typed: Command) -> None:
    own_options("one", slow=0.015)
    for words in (["--config-d", "one"], ["--config-di=one"], ["++hydra.searchpath=[file://one]"]):
        status, printed, said = typed("--cfg", "job", "inner=slow", *words)
        assert (status, "lr: 0.015" in printed) == (0, True), said


@pytest.mark.parametrize("words", [["--resolve"], ["--shell-completion"], ["--experimental-rerun", "x"]])
def test_flags_of_hydras_that_lead_nowhere_are_one_line(typed: Command, words: list[str]) -> None:
    status, _, said = typed(*words)
    assert status == 2
    assert said.startswith(f"metarun: {words[0]}")
    assert said.splitlines()[-1].endswith("see metarun --hydra-help")


def test_a_run_and_a_sweep_do_not_share_a_folder(typed: Command) -> None:
    assert typed(*FEW, "hydra.run.dir=run")[0] == 0
    status, _, said = typed("-m", "seed=0,1", *FEW, "hydra.sweep.dir=run")
    assert (status, said) == (2, "metarun: run holds a run: type another hydra.sweep.dir=FOLDER\n")
    assert not Path("run/0").exists()
    assert typed("-m", "seed=0,1", *FEW, "hydra.sweep.dir=sweep")[0] == 0
    status, _, said = typed(*FEW, "hydra.run.dir=sweep")
    assert (status, said.count("\n")) == (2, 1)
    assert said.endswith("sweep holds a sweep: type another hydra.run.dir=FOLDER\n")
    assert not Path("sweep/config.yaml").exists()


@pytest.mark.parametrize(
    "words", [["seed=range(0,1000000000)"], ["seed=range(0,101)", "data.seed=range(0,101)"]]
)
def test_too_many_jobs_are_refused_before_there_is_a_list_of_them(typed: Command, words: list[str]) -> None:
    status, _, said = typed("-m", *words, *FEW)
    assert status == 2
    assert said.startswith(f"metarun: {words[-1]}: a sweep has at most 10,000 jobs; type fewer values")
    assert not Path("outputs").exists()
