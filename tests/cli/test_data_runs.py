"""A user's own images on the command line: looked at, prepared, trained on, resumed, tested elsewhere."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from picture_files import class_folders, encoded, pixels, write
from PIL import Image

from metarun.config.options import CONF
from metarun.evaluation.task_scores import TaskScores

Typed = Callable[..., tuple[int, str, str]]

COUNTS = {f"kind {i}": 4 + i % 3 for i in range(12)}
SIZES = ["data.size=8", "data.way=2", "data.query=3", "data.shares=[0.5,0.25,0.25]"]
DRAWN = ["folder", "data.root=pictures", *SIZES, "--out", "x.png"]
FOLDER = ["data=folder", "data.root=pictures", *SIZES]
FEW = [
    *("algo=protonet", "model=mlp", "model.hidden=[8]", "device=cpu", "engine.chunk=4", "train.meta_batch=2"),
    *("train.steps=6", "train.validate_every=3", "train.validation_tasks=8", "train.test_tasks=20"),
    "train.checkpoint_every=2",
]


@pytest.fixture
def typed_here(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """metarun in a folder with pictures/, and a cache of its own."""
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    class_folders(tmp_path / "pictures", COUNTS, side=8)
    return typed


def trained(typed: Typed, *words: str) -> dict[str, Any]:
    status, printed, said = typed(*FEW, *FOLDER, "hydra.run.dir=run", *words)
    assert status == 0, said
    assert "accuracy (%)" in printed
    results: dict[str, Any] = json.loads(Path("run/results.json").read_text())
    return results


def test_a_run_keeps_the_names_of_its_classes_and_what_was_left_out(typed_here: Typed) -> None:
    write(Path("pictures/kind 3/empty.png"), b"")
    results = trained(typed_here)
    assert len(results["classes"]) == 3
    assert set(results["classes"]) <= set(COUNTS)
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert manifest["data"]["left_out"] == {"an empty file": 1}
    assert manifest["data"]["left_out_files"] == {"kind 3/empty.png": "an empty file"}
    assert sum(manifest["data"]["classes"].values()) == 12
    status, _, said = typed_here("eval", "run")
    assert status == 0, said
    (kept,) = Path("run/evaluations").glob("*.json")
    tested = json.loads(kept.read_text())
    assert (tested["classes"], tested["final"]) == (results["classes"], results["final"])


def test_a_relative_folder_is_found_from_anywhere(typed_here: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(typed_here)
    shutil.rmtree("run")
    assert typed_here(*FEW, *FOLDER, "hydra.run.dir=run", "train.max_time=0.001")[0] == 124
    home = Path.cwd()
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    status, _, said = typed_here("resume", "../run", "train.max_time=null")
    assert status == 0, said
    assert json.loads((home / "run" / "results.json").read_text())["final"] == whole["final"]
    assert typed_here("eval", "../run")[0] == 0


def test_a_run_is_tested_on_another_folder_all_of_whose_classes_are_new(typed_here: Typed) -> None:
    trained(typed_here)
    class_folders(Path("new"), dict.fromkeys("xyz", 9), side=30)
    shutil.rmtree("pictures")  # what it was trained on may be elsewhere
    words = ["data.root=new", "data.shares=[0,0,1]", "data.way=3", "data.shot=2"]
    status, _, said = typed_here("eval", "run", *words)
    assert status == 0, said
    (kept,) = Path("run/evaluations").glob("*.json")
    assert json.loads(kept.read_text())["classes"] == ["x", "y", "z"]


def test_a_run_is_tested_on_several_domains_in_one_table(typed_here: Typed, omniglot_root: Path) -> None:
    trained(typed_here)
    class_folders(Path("new"), dict.fromkeys("xyz", 9), side=30)
    status, printed, said = typed_here(
        *("eval", "run", "--on", "folder:new,omniglot,folder:pictures", "data.shot=2", "train.test_tasks=30")
    )
    assert status == 0, said
    lines = [line for line in printed.splitlines() if line]
    assert [line.split()[0] for line in lines[3:6]] == ["folder:new", "omniglot", "folder:pictures"]
    assert lines[4].endswith("28 × 28 to 8 × 8, grey to colour")
    assert not lines[3].endswith("8")  # which was decoded in this size
    (kept,) = Path("run/evaluations").glob("*-domains.json")
    domains = json.loads(kept.read_text())["domains"]
    each = [path for path in sorted(Path("run/evaluations").glob("*.json")) if path != kept]
    status, printed, said = typed_here("compare", *map(str, each))
    assert (status, said) == (0, "")
    assert "data=omniglot" in printed
    assert [domain["images"] for domain in domains] == ["", "28 × 28 to 8 × 8, grey to colour", ""]
    assert domains[0]["classes"] == ["x", "y", "z"]
    assert all(domain["tasks"] == 30 for domain in domains)
    status, _, said = typed_here("eval", "run", "--on", "folder:new,omniglott")
    assert (status, said.count("\n")) == (2, 1)
    assert "data.root=" in said  # a folder's name may have commas
    status, _, said = typed_here("eval", "run", "--on", "omniglott")
    assert said.startswith("metarun: --on omniglott: omniglott is no dataset; did you mean omniglot?")
    status, printed, said = typed_here("eval", "run", "--on", "folder:new,miniimagenet", "train.test_tasks=3")
    assert status == 1
    assert "may not be fetched without a person" in said
    assert "folder:new" in printed  # what was tested is not lost
    Path("a, b").mkdir()
    class_folders(Path("a, b"), dict.fromkeys("xyz", 9), side=8)
    assert typed_here("eval", "run", "--on", "folder:a, b,folder:new", "train.test_tasks=3")[0] == 0
    status, _, said = typed_here("eval", "run", "--on", "sinusoid")
    assert status == 2
    assert "and [3, 8, 8] are wanted" in said or "its targets are values" in said


def test_images_that_change_under_a_run_are_noticed(typed_here: Typed, logged: list[str]) -> None:
    trained(typed_here, "train.max_time=1h")
    shutil.rmtree("run/evaluations", ignore_errors=True)
    Path("run/results.json").unlink()
    write(Path("pictures/kind 1/new.png"), encoded(pixels(5)))
    assert typed_here("resume", "run")[0] == 0
    assert any("the data has changed since the run began (pixels, images." in line for line in logged)


def test_a_network_as_it_is_is_tested_on_a_few_photographs(typed_here: Typed) -> None:
    words = ["algo=nearest", "model=linear", "data=folder", "data.root=pictures", "data.size=8", "data.way=3"]
    words += ["data.query=2", "data.shares=[0,0,1]", "train.test_tasks=20", "hydra.run.dir=run"]
    status, printed, said = typed_here(*words)
    assert status == 0, said
    assert "accuracy (%)" in printed
    assert len(json.loads(Path("run/results.json").read_text())["classes"]) == 12
    status, _, said = typed_here(*FEW, *words[2:], "hydra.run.dir=other")
    assert (status, said.count("\n")) == (2, 1)
    assert "these are a few real tasks, to be tested on: type metarun eval RUN data=" in said


def test_mini_batches_of_all_classes(typed_here: Typed) -> None:
    words = ["algo=baseline", "data.train_batch=8"]
    status, _, said = typed_here(
        *FEW,
        *words[:2],
        "data=folder",
        "data.root=pictures",
        *SIZES,
        "inner.test_steps=2",
        "hydra.run.dir=run",
    )
    assert status == 0, said


def test_unlabelled_images_need_a_learner_that_reads_them(typed_here: Typed) -> None:
    words = [*FEW, *FOLDER, "data.query=2", "data.unlabelled=1", "hydra.run.dir=run"]
    status, _, said = typed_here(*words)
    assert status == 2
    assert "data.unlabelled=1 has no effect with algo._target_=metarun.learners.ProtoNet: type" in said
    status, printed, said = typed_here(*words, "algo=soft_kmeans", "algo.refine=unlabelled")
    assert status == 0, said
    assert "transductive" not in printed


def test_data_is_listed_and_told_about(typed: Typed, typed_here: Typed) -> None:
    status, printed, _ = typed("data", "list")
    assert status == 0
    assert [line.split()[0] for line in printed.splitlines()] == sorted(
        path.stem for path in (CONF / "data").glob("*.yaml")
    )
    status, printed, _ = typed("data", "info", "folder", "data.root=pictures", *SIZES)
    assert status == 0
    assert "classes   12 (train 6, validation 3, test 3)" in printed
    assert "prepared  not yet" in printed
    assert not Path("cache").exists()
    status, printed, _ = typed("data", "info", "sinusoid")
    assert (status, printed) == (0, "inputs   [1]\ntargets  values\n")


def test_data_is_prepared_and_verified(typed_here: Typed) -> None:
    words = ["folder", "data.root=pictures", *SIZES]
    status, _, said = typed_here("data", "verify", *words)
    assert (status, said) == (
        1,
        "metarun: folder: pictures is not prepared: type metarun data prepare, or train\n",
    )
    status, printed, _ = typed_here("data", "prepare", *words)
    assert status == 0
    assert "left out  nothing" in printed
    assert typed_here("data", "verify", *words)[0] == 0
    (store,) = Path("cache/images").glob("*.images")
    content = bytearray(store.read_bytes())
    content[50] ^= 1
    store.write_bytes(content)
    status, _, said = typed_here("data", "verify", *words)
    assert status == 1
    assert "is damaged in block 0: delete it, and it is made again" in said
    store.unlink()
    write(Path("pictures/kind 1/cut.png"), encoded(pixels(1))[:200])
    assert typed_here("data", "prepare", *words)[0] == 0
    status, printed, said = typed_here("data", "verify", *words)
    assert status == 1
    assert "kind 1/cut.png: damaged" in printed
    os.utime("pictures/kind 2/000.png", (1, 1))
    assert "has changed since it was prepared" in typed_here("data", "verify", *words)[2]


def test_preparing_that_is_interrupted_says_how_to_go_on(
    typed_here: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("metarun.tasks.images.store.decode", interrupted)
    words = ["folder", "data.root=pictures", *SIZES]
    status, _, said = typed_here("data", "prepare", *words)
    again = shlex.join(["metarun", "data", "prepare", *words])
    assert (status, said) == (130, f"metarun: stopped; what is done is kept, and to go on: {again}\n")


def test_episodes_are_drawn_as_a_picture(typed_here: Typed) -> None:
    words = [
        "folder",
        "data.root=pictures",
        *SIZES,
        "--out",
        "episodes.png",
        "--episodes",
        "2",
        "--split",
        "test",
    ]
    status, printed, said = typed_here("data", "show", *words)
    assert status == 0, said
    assert printed == "episodes.png: 2 episodes of test, support above query\n"
    from metarun.tasks import ImageFolder

    source = ImageFolder(root="pictures", size=8, way=2, shot=1, query=3, shares=(0.5, 0.25, 0.25))
    tasks = source.batch("test", 0, 2)
    with Image.open("episodes.png") as image:
        assert image.size == (4 + 2 * 68, 2 * (16 + 4 * 68 + 8 + 12))
        first = torch.tensor(list(image.crop((4, 20, 68, 84)).get_flattened_data())).view(64, 64, 3)
    label = tasks.support.y[0].tolist().index(0)
    expected = (tasks.support.x[0, label] * 255).round().permute(1, 2, 0)
    assert torch.equal(first[4::8, 4::8], expected.long())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info"], "no dataset is named: expected a dataset"),
        (["info", "fodler"], "fodler: expected a dataset; did you mean folder?; choose from"),
        (["show", "folder", "data.root=pictures", *SIZES], "--out is missing: type --out FILE.png"),
        (
            ["info", *DRAWN],
            "--out is for metarun data",
        ),
        (["show", "sinusoid", "--out", "x.png"], "sinusoid: its inputs are [1], and a picture shows images"),
        (["show", *DRAWN[:-1], "x.nix"], "Pillow writes no such files"),
        (
            ["show", *DRAWN, "--episodes", "0"],
            "--episodes 0: should be",
        ),
        (["info", "folder"], "data.root is missing: type data.root=FOLDER, a folder of classes"),
        (["info", "folder", "data.root=pictures", "data.sice=8"], "data.sice"),
        (["forget", "folder"], "invalid choice: 'forget'"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(
    typed_here: Typed, words: list[str], message: str
) -> None:
    status, _, said = typed_here("data", *words)
    assert (status, said.count("\n")) == (2, 1), said
    assert message in said


def test_other_data_in_the_place_of_the_test_tasks(typed_here: Typed) -> None:
    class_folders(Path("others"), {f"new {i}": 4 for i in range(3)}, side=12)
    results = trained(typed_here, "data.test=folder:others")
    assert results["classes"] == ["new 0", "new 1", "new 2"]
    assert results["test_data"] == {"name": "folder:others", "fitted": ""}  # decoded in the network's size
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert manifest["data"]["test"]["classes"] == {"train": 0, "validation": 0, "test": 3}
    before = results["final"]
    status, _, said = typed_here("eval", "run")
    assert status == 0, said
    (kept,) = Path("run/evaluations").glob("*.json")
    content = json.loads(kept.read_text())
    assert content["final"] == before
    assert content["test_data"] == results["test_data"]
    kept.unlink()
    status, _, said = typed_here("eval", "run", "data.test=null")
    assert status == 0, said
    (kept,) = Path("run/evaluations").glob("*.json")
    assert set(json.loads(kept.read_text())["classes"]) <= set(COUNTS)
    for word, said in (
        ("data.test=sinusoid", "its targets are values, and those of the training are classes"),
        ("data.test=folder:nowhere", "there is no such folder or file"),
        ("data.test={data: folder, root: others, way: 3}", "its tasks have 3 outputs"),
        (
            "data.test={data: folder, root: others, rot: 3}",
            "data.test.rot=3: there is no such key; did you mean root",
        ),
        (
            "data.test={data: folder, root: others, fit: round}",
            "data.test.fit=round: should be 'crop', 'stretch' or",
        ),
    ):
        status, _, message = typed_here("eval", "run", word)
        assert status == 2, word
        assert said in message
        assert message.count("\n") == 1


def test_classes_of_the_training_are_no_test(typed_here: Typed) -> None:
    class_folders(Path("others"), {f"new {i}": 5 for i in range(14)}, side=12)
    status, _, said = typed_here(*FEW, *FOLDER, "hydra.run.dir=run", "data.test=folder:./pictures")
    assert (status, said.count("\n")) == (2, 1)
    assert "data.test=folder:pictures: these are the data of the training" in said
    words = [
        "data=mixture",
        "data.sources=[folder:pictures,{data: folder, root: others, shares: [0.5,0.2,0.3]}]",
    ]
    status, _, said = typed_here(*FEW, *words, *SIZES[:3], "hydra.run.dir=run")
    assert status == 0, said
    status, _, said = typed_here("eval", "run", "--on", "folder:others,folder:pictures")
    assert status == 0, said
    (kept,) = Path("run/evaluations").glob("*-domains.json")
    tests = json.loads(kept.read_text())["domains"]
    assert [len(test["classes"]) for test in tests] == [
        4,
        2,
    ]  # 0.3 of 14, 0.2 of 12: those of the run's split
    for word in ("data.test=omniglot", "data=omniglot"):
        status, _, said = typed_here("eval", "run", "--on", "folder:others", word)
        assert (status, said.count("\n")) == (2, 1)
        assert f"{word}: --on says what is tested on: leave it out" in said
    status, _, said = typed_here("eval", "run", "--on", "sinusoid:others")
    assert (status, said.count("\n")) == (2, 1)
    assert "--on sinusoid:others: sinusoid reads no files" in said


def test_both_ways_to_test_on_other_data_agree(typed_here: Typed) -> None:
    class_folders(Path("others"), {f"new {i}": 4 for i in range(3)}, side=12)
    trained(typed_here)
    found = []
    for words in (["--on", "folder:others"], ["data.test=folder:others"]):
        status, _, said = typed_here("eval", "run", *words)
        assert status == 0, said
        (kept,) = Path("run/evaluations").glob("*[!s].json")  # not -domains.json, with all datasets
        found.append((json.loads(kept.read_text())["final"], TaskScores.read(kept.with_suffix(".npz"))))
        shutil.rmtree("run/evaluations")
    (first, one), (second, other) = found
    assert one is not None
    assert other is not None
    assert first == second
    assert torch.equal(one.scores, other.scores)


def test_what_lies_inside_other_data_is_verified(typed_here: Typed) -> None:
    words = ["data.root=pictures", *SIZES]
    assert typed_here("data", "prepare", "folder", *words)[0] == 0
    assert typed_here("data", "verify", "folder", *words)[0] == 0
    status, _, said = typed_here("data", "verify", "folder", *words, "data.test=cub")
    assert status == 1
    assert "folder: cub: nothing in" in said
    sources = "data.sources=[folder:pictures,cub]"
    status, _, said = typed_here("data", "verify", "mixture", sources, *SIZES[:3])
    assert status == 1
    assert "cub: nothing in" in said


def test_a_published_dataset_is_prepared_and_told(typed_here: Typed) -> None:
    for part, first in (("train", 0), ("val", 2), ("test", 4)):
        class_folders(
            Path("data/cifar_fs") / part, {f"{part} {i}": 4 for i in range(first, first + 2)}, side=8
        )
    write(Path("data/cifar_fs/train/train 0/cut.png"), b"")
    words = ["data.root=data", "data.way=2", "data.query=3"]
    status, printed, said = typed_here("data", "prepare", "cifar_fs", *words)
    assert status == 0, said
    assert "left out" in printed
    assert "1 an empty file" in printed


def test_a_sweep_over_data_may_set_keys_that_the_default_lacks(typed_here: Typed) -> None:
    words = ["data=mnist_5k,sklearn", "data.way=2", "data.query=2", "hydra.sweep.dir=sweep"]
    status, printed, said = typed_here("-m", *FEW, *words)
    assert status == 0, said
    assert "mnist_5k" in printed
    assert "data.way=2" in json.loads(Path("sweep/sweep.json").read_text())["jobs"][1]


def test_a_mixture_is_trained_resumed_and_tested_on_each(typed_here: Typed) -> None:
    class_folders(Path("others"), {f"new {i}": 5 for i in range(14)}, side=12)
    words = [*FEW, "data=mixture", "data.sources=[folder:pictures,{data: folder, root: others}]", *SIZES[:3]]
    words += ["data.weights=[1,2]", "hydra.run.dir=run"]
    status, printed, said = typed_here(*words)
    assert status == 0, said
    results = json.loads(Path("run/results.json").read_text())
    shutil.rmtree("run")
    status, _, said = typed_here(*words, "train.steps=4")
    assert status == 0, said
    status, _, said = typed_here("resume", "run", "train.steps=6")
    assert status == 0, said
    assert json.loads(Path("run/results.json").read_text())["final"] == results["final"]
    status, printed, said = typed_here("eval", "run", "--on", "folder:others,folder:pictures")
    assert status == 0, said
    assert "folder:others" in printed
    status, _, said = typed_here(*words, "data.train_batch=4", "hydra.run.dir=other")
    assert (status, said.count("\n")) == (2, 1)
    assert "the classes of several datasets are no one set of classes" in said
    status, _, said = typed_here(*FEW, "data=mixture", "hydra.run.dir=other")
    assert (status, said.count("\n")) == (2, 1)
    assert "data.sources: expected two or more: type data.sources=[omniglot,mnist_5k]" in said
