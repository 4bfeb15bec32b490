"""The command line as a user types it, in real processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from metarun.config.options import CONF

FEW = ["device=cpu", "train.steps=3", "train.meta_batch=4", "train.validation_tasks=4", "train.test_tasks=8"]


def the_run(folder: Path) -> Path:
    (found,) = folder.glob("outputs/*/*/config.yaml")
    return found.parent


@pytest.mark.slow
def test_the_default_run(metarun, tmp_path: Path) -> None:
    done = metarun()
    assert done.returncode == 0, done.stderr
    assert "test: 1,000 tasks, mean ± 95 % confidence interval" in done.stdout
    before, after = (float(m) for m in re.findall(r"^\s*\d+  (\d+\.\d+) ± ", done.stdout, re.MULTILINE))
    assert after < 0.8
    assert before > 2  # the error after one step, on unseen sinusoids
    run = the_run(tmp_path)
    assert done.stdout.rstrip().endswith(f"run: {run}")
    assert {path.name for path in run.iterdir() if not path.name.startswith(".")} == {
        "config.yaml",
        "engine.json",
        "inputs.json",
        "manifest.json",
        "metrics.jsonl",
        "checkpoints",
        "results.json",
        "test_tasks.npz",
        "usage.json",
        "metarun.log",
    }
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["command"] == "metarun"
    assert manifest["seed"] == 0
    assert {"torch", "hydra-core", "python", "metarun"} <= manifest["versions"].keys()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"step", "split", "loss", "tasks_per_second", "seconds"} <= records[0].keys()
    results = json.loads((run / "results.json").read_text())
    assert results["final"]["loss"]["mean"] == pytest.approx(after, abs=1e-4)
    assert [entry["step"] for entry in results["curve"]] == [0, 1]


ERRORS = {
    "algo=mamll": "algo=mamll: there is no such option; did you mean maml?; the nearest are maml, imaml,",
    "alg=maml": "alg=maml: there is no such key; did you mean algo?; choose from seed, device, dtype, algo",
    "sedd=1": "sedd=1: there is no such key; did you mean seed?",
    "trian": "trian: there is no such command",
    "foo bar=1": "foo: there is no such command",
    "experiment=sinusoid": "experiment=sinusoid: there is no such option; did you mean sinusoid_maml?",
    "inner.lrr=1": "inner.lrr=1: there is no such key; did you mean lr?; choose from",
    "+inner.lrr=1": "inner.lrr=1: there is no such key; did you mean lr?; choose from",
    "+algo.inner_lr=1": "algo.inner_lr=1: there is no such key",
    "outer.optimizer.beta=1": "outer.optimizer.beta=1: there is no such key; did you mean betas?",
    "inner.lr=abc": "inner.lr=abc: should be a valid number",
    "inner.lr=-0.1": "inner.lr=-0.1: should be greater than or equal to 0",
    "inner.steps=-1": "inner.steps=-1: should be greater than or equal to 0",
    "inner.steps=1.5": "inner.steps=1.5: should be a valid integer",
    "train.steps=many": "train.steps=many: should be a valid integer",
    "train.steps": "train.steps: there is no such command",
    "data=omniglot data.way=0": "data.way=0: should be greater than or equal to 2",
    "data=omniglot data.shot=18": "data.shot=18 and data.query=5 need 23 images a class; there are 20",
    "data=omniglot data.way=401": "data.way=401: the validation split has 400 classes: type data.way=400",
    "data=omniglot data.split=laek": "data.split=laek: should be 'random' or 'lake'; did you mean lake?",
    "model=conv4": "model=conv4 needs images [channels, height, width], the data has [1]: type model=mlp",
    "model=conv4 model.norm=bach": "model.norm=bach: should be 'batch', 'group', 'layer' or 'none'; did you",
    "device=cuda:99": "device=cuda:99: ",
    "device=gpu": "device=gpu: should be auto, cpu, cuda or cuda:N",
    "engine.chunk=0": "engine.chunk=0: should be 'auto' or should be greater than 0",
    "algo.adapts=tail": "algo.adapts=tail matches no parameter",
    "algo=cavia model=linear data=linear_regression": "model._target_=metarun.models.Linear has no context",
    "algo=tnet model=linear data=linear_regression": "model._target_=metarun.models.Linear has no warp",
    "inner=metasgd metagradient=truncated engine.compile=true": "engine.compile=true: this",
    "algo=tnet model=mlp model.warp=false": "algo.adapts=!*.warp.* matches no parameter: type all",
    "algo.per_step=bogus": "algo.per_step=bogus matches no parameter: type norms or a pattern of",
    "maml": "maml: there is no such command; did you mean algo=maml?",
    "train=5": "train=5: Config group override must be",
    "data=null": "data=null: Config group override must be",
    "seed=99999999999999999999": "seed=99999999999999999999: should be less than 9223372036854775808",
    "device=cude": "device=cude: should be auto, cpu, cuda or cuda:N; did you mean cuda?",
    "outer.optimizer.betas=[1.5,0.9]": "outer.optimizer: Invalid beta parameter",
    "outer=sgd outer.optimizer.nesterov=true": "outer.optimizer: Nesterov momentum requires",
    "algo=metasgd inner.lr=[0.1,0.005]": "inner.lr=[0.1, 0.005]: should be",
    "+metagradient.a=1": "metagradient.a=1: there is no such key; choose from objective, anneal_for,",
    "metagradient=reptile +metagradient.a=1": "metagradient.a=1: there is no such key; choose from (it",
    "algo=cavia metagradient=reptile": "metagradient=reptile trains an initialisation that adapts as a whole",
    "algo=l2l inner=sgd": "there is nothing to learn: algo.start=fresh learns the update rule alone, and",
    "algo=l2l inner.steps=0": "algo.start=fresh needs inner steps: type inner.steps=1 or more",
    "algo=l2l engine.compile=true": "engine.compile=true: fresh parameters are drawn one task after another",
    "metagradient=multi_step engine.compile=true": "engine.compile=true: this meta-gradient is not the same",
    "algo=maml++ engine.rematerialise=true": "engine.rematerialise=true is for metagradient=exact with",
    "-m metagradient=reptile algo=reptile,l2l": "job 1, metagradient=reptile algo=l2l: metagradient=reptile",
    "metagradient=multi_step metagradient.anneal_for=0": "metagradient.objective=annealed and meta",
    "inner=adam inner.eps=0": "inner.eps=0: should be greater than 0",
    "+inner._partial_=true": "inner._partial_=true: there is no such key",
    "data=omniglot data.root=/nope": "data.root=/nope: there is no such folder",
    "data.shot=10000000": "data.shot=10000000: should be less than or equal to 1000000",
    "--config-dir nowhere": "--config-dir nowhere: it is not a folder",
    "--foo": "unrecognized arguments: --foo; see metarun --help",
    "list algo model": "unrecognized arguments: model; see metarun list --help",
    "resume": "the following arguments are required: DIRECTORY, overrides; see metarun resume --help",
    "-m algo=mamll,maml": "algo=mamll: there is no such option; did you mean maml?",
    "-m inner.lr=0.01,-1": "inner.lr=-1: should be greater than or equal to 0",
    "-m algo=glob(xx*)": "algo=glob(xx*): these overrides make no job",
    "seed=-1": "seed=-1: should be greater than or equal to 0",
    "~inner.lr": "inner.lr is missing: type inner.lr=VALUE",
    "inner._target_=metarun.rules.SDG": "inner._target_=metarun.rules.SDG: cannot be imported",
}


# In processes of their own too, as they are typed; all of them in this one, which is quicker.
BY_PROCESS = ["algo=mamll", "trian", "resume", "-m inner.lr=0.01,-1", "--foo"]


@pytest.mark.parametrize("command", ERRORS)
def test_a_mistake_is_one_line_status_2_and_nothing_written(typed, tmp_path: Path, command: str) -> None:
    check_mistake(command, *typed(*command.split()), tmp_path)


@pytest.mark.parametrize("command", BY_PROCESS)
def test_so_it_is_in_a_process_of_its_own(metarun, tmp_path: Path, command: str) -> None:
    done = metarun(*command.split())
    check_mistake(command, done.returncode, done.stdout, done.stderr, tmp_path)


def check_mistake(command: str, status: int, printed: str, said: str, folder: Path) -> None:
    assert status == 2, said
    assert said.startswith(f"metarun: {ERRORS[command]}"), said
    assert len(said) > len("metarun: ") + 20
    assert said.count("\n") == 1
    assert printed == ""
    assert list(folder.iterdir()) == []


def test_help_and_list_are_for_newcomers_and_light(metarun) -> None:
    page = metarun("--help")
    assert page.returncode == 0
    for word in (
        "metarun algo=metasgd data=omniglot",
        "resume",
        "eval",
        "list",
        "fomaml",
        "conv4",
        "engine.chunk",
    ):
        assert word in page.stdout
    assert metarun("algo=maml", "--help").stdout == page.stdout
    listed = metarun("list", "algo").stdout.splitlines()
    assert {line.split()[0] for line in listed[1:]} == {p.stem for p in (CONF / "algo").glob("*.yaml")}
    assert all(len(line) < 120 for line in metarun("list").stdout.splitlines())
    wrong = metarun("list", "alg")
    assert wrong.returncode == 2
    assert "did you mean algo?" in wrong.stderr
    imports = "import sys, metarun.cli.main, metarun.cli.help, metarun.cli.list"
    heavy = f"{imports}; sys.exit('torch' in sys.modules or 'hydra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", heavy], check=False).returncode == 0


def test_two_runs_of_one_second_have_two_directories(metarun, tmp_path: Path) -> None:
    together = [
        subprocess.Popen(
            [sys.executable, "-m", "metarun", *FEW],
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert [each.wait(timeout=120) for each in together] == [0, 0]
    assert len(list(tmp_path.glob("outputs/*/*/results.json"))) == 2


def test_a_sweep_runs_every_combination_and_a_failing_job_does_not_stop_it(metarun, tmp_path: Path) -> None:
    done = metarun("-m", "algo=maml,metasgd", "inner.lr=1e30,0.1", *FEW)
    assert done.returncode == 1
    assert "job 0: failed: " in done.stderr
    assert "job 2: failed: " in done.stderr
    assert "Traceback" not in done.stderr
    (sweep,) = tmp_path.glob("outputs/multirun/*/*")
    manifest = json.loads((sweep / "3" / "manifest.json").read_text())
    assert manifest["command"].startswith("metarun algo=metasgd inner.lr=0.1 device=cpu")
    assert sorted(path.parent.name for path in sweep.glob("*/results.json")) == ["1", "3"]


def test_eval_tests_again_under_other_conditions(metarun, tmp_path: Path) -> None:
    assert metarun(*FEW).returncode == 0
    run = the_run(tmp_path)
    done = metarun("eval", str(run), "data.shot=3", "inner.test_steps=4", "train.test_tasks=5")
    assert done.returncode == 0, done.stderr
    assert "test: 5 tasks" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if "±" in line][1:] == [
        "0",
        "1",
        "2",
        "3",
        "4",
    ]
    (kept,) = (run / "evaluations").glob("*.json")
    assert json.loads(kept.read_text())["overrides"][0] == "data.shot=3"
    other = metarun("eval", str(run), "data=linear_regression")
    assert other.returncode == 0, other.stderr

    again = metarun("eval", str(run))
    assert [line for line in again.stdout.splitlines() if "±" in line] == [
        line for line in _last_table(run).splitlines() if "±" in line
    ]
    for override, message in {
        "inner.steps=3": "inner.steps cannot be changed for a test; did you mean inner.test_steps?",
        "data.shoot=3": "data.shoot=3: there is no such key; did you mean shot?",
        "data.shot=0": "data.shot=0: should be greater than or equal to 1",
        "data.shot=1,2": "data.shot=1,2: one value at a time",
        "data.a.b=1": "data.a.b=1: a has no keys",
        "~data": "~data: every key is needed",
        "data=null": "",
        "data.train_shot=3": "data.train_shot cannot be changed for a test",
        "data=binary_classification": "the run was trained with input_shape (1,), this data has (2,)",
        "nonsense": "nonsense: not of the form key=value",
    }.items():
        wrong = metarun("eval", str(run), override)
        assert wrong.returncode == 2
        assert message in wrong.stderr
        assert wrong.stderr.count("\n") == 1
    assert metarun("eval", str(tmp_path)).returncode == 1


def _last_table(run: Path) -> str:
    from metarun.evaluation.curve import Curve, Estimate
    from metarun.reports.table import curve_table

    results = json.loads((run / "results.json").read_text())
    steps = [{"loss": Estimate(**entry["loss"])} for entry in results["curve"]]
    return curve_table(Curve("test", results["tasks"], steps))


def test_ctrl_c_while_testing_says_how_to_go_on(metarun, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metarun", "train.steps=2", "train.test_tasks=1000000"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(tmp_path.glob("outputs/*/*/checkpoints/best.pt")):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        last_line = process.stderr.read().splitlines()[-1]
    assert process.returncode == 143
    assert re.fullmatch(r"metarun: stopped .*; to go on: metarun resume .*", last_line), last_line


def test_resume_of_something_else_says_what_a_run_is(metarun, tmp_path: Path) -> None:
    done = metarun("resume", str(tmp_path))
    assert done.returncode == 1
    assert "is not a run: expected a folder with config.yaml" in done.stderr


def test_a_directory_that_holds_another_run_is_refused_and_left_alone(metarun, tmp_path: Path) -> None:
    assert metarun(*FEW, "hydra.run.dir=here").returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "here").rglob("*") if path.is_file()}
    done = metarun(*FEW, "seed=2", "hydra.run.dir=here")
    assert done.returncode == 2
    assert "here holds a run that differs in seed, data.seed: type another hydra.run.dir" in done.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "here").rglob("*") if path.is_file()} == before


def test_a_place_that_cannot_be_written_is_one_line(metarun, tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("in the way")
    done = metarun(*FEW)
    assert done.returncode == 1
    assert done.stderr.startswith("metarun: Not a directory: ")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error(metarun, tmp_path: Path) -> None:
    command = f"{sys.executable} -m metarun list | head -1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("algo=\n", "")


def test_a_users_own_data_can_be_evaluated_on(metarun, tmp_path: Path) -> None:
    assert metarun(*FEW).returncode == 0
    (tmp_path / "own" / "data").mkdir(parents=True)
    text = (CONF / "data" / "sinusoid.yaml").read_text().replace("amplitude: [0.1, 5.0]", "amplitude: [9, 9]")
    (tmp_path / "own" / "data" / "tall.yaml").write_text(text.replace("metarun.tasks.Sinusoid", "mine.Tall"))
    (tmp_path / "mine.py").write_text("from metarun.tasks import Sinusoid\nclass Tall(Sinusoid):\n    pass\n")
    done = metarun("eval", str(the_run(tmp_path)), "data=tall", "--config-dir", "own")
    assert done.returncode == 0, done.stderr
    losses = [float(m) for m in re.findall(r"^\s*\d+  (\d+\.\d+) ± ", done.stdout, re.MULTILINE)]
    assert losses[0] > 20  # half of 9² is 40; half of 5² is 12


def test_eval_stays_on_the_split_that_was_trained_on(metarun, tmp_path: Path, omniglot_root: Path) -> None:
    small = ["data=omniglot", "data.split=lake", "model.filters=4", *FEW]
    assert metarun(*small).returncode == 0
    run = str(the_run(tmp_path))
    plain, again = metarun("eval", run), metarun("eval", run, "data=omniglot")
    assert plain.returncode == again.returncode == 0
    assert plain.stdout.split("kept")[0] == again.stdout.split("kept")[0]
    assert "trained on" not in again.stderr
    assert "test classes may have been trained on" in metarun("eval", run, "data.split=random").stderr


USERS_MODULE = """
import torch
from metarun.rules import UpdateRule

class SignDescent(UpdateRule):
    def __init__(self, *, lr: float):
        super().__init__()
        self.lr = lr
    def update(self, params, grads, state, step):
        return {name: p - self.lr * grads[name].sign() for name, p in params.items()}, state
"""


def test_a_users_own_rule_from_outside_the_package(metarun, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USERS_MODULE)
    (tmp_path / "myconf" / "inner").mkdir(parents=True)
    option = {"_target_": "mine.SignDescent", "lr": 0.01, "steps": 2}
    text = "# metarun inner=sign --config-dir myconf\n# Steps of a fixed size.\n" + yaml.safe_dump(option)
    (tmp_path / "myconf" / "inner" / "sign.yaml").write_text(text)
    # The console script does not put the working directory on Python's path by itself; metarun does.
    script = [str(Path(sys.executable).parent / "metarun"), "inner=sign", "--config-dir", "myconf", *FEW]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((the_run(tmp_path) / "manifest.json").read_text())
    assert "myconf inner=sign" in manifest["command"]
    listed = metarun("list", "inner", "--config-dir", "myconf").stdout
    assert re.search(r"^  sign +Steps of a fixed size\.$", listed, re.MULTILINE)
    wrong = metarun("inner=sign", "inner.lr=x", "--config-dir", "myconf")
    assert wrong.returncode == 2
    assert wrong.stderr == "metarun: inner.lr=x: should be a valid number\n"
    wrong = metarun("inner=sing", "--config-dir", "myconf")
    assert "did you mean sign?" in wrong.stderr


def test_shell_completion_and_config_printing_work(metarun) -> None:
    assert "complete" in metarun("-sc", "install=bash").stdout
    completed = metarun("-sc", "query=bash", COMP_LINE="metarun algo=me", COMP_POINT="15")
    assert completed.stdout.split() == [
        *("algo=meta_curvature", "algo=metanet", "algo=metaoptnet", "algo=metasgd")
    ]
    printed = metarun("--cfg", "job", "algo=metasgd")
    assert yaml.safe_load(printed.stdout)["inner"]["_target_"] == "metarun.rules.LearnedRates"


def test_a_missing_archive_without_network_says_where_to_put_it(metarun, tmp_path: Path) -> None:
    proxy = {"HTTPS_PROXY": "http://127.0.0.1:9", "METARUN_CACHE": str(tmp_path / "empty")}
    done = metarun("data=omniglot", f"data.root={tmp_path}", *FEW, **proxy)
    assert done.returncode == 1
    assert re.search(
        r"metarun: images_background\.zip is not in .*/omniglot and cannot be downloaded", done.stderr
    )
    assert "Traceback" not in done.stderr
