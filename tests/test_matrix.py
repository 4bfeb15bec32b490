"""Every option there is in conf/ runs: a new yaml is tested without a test being written for it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import album, class_folders, medical_images

from metarun.config.composition import compose_config
from metarun.config.options import CONF, groups
from metarun.errors import ConfigError
from metarun.experiment.build import check_fit
from metarun.experiment.config import read_config
from metarun.experiment.schema import locate
from metarun.learners import IterativeLearner, ReadingLearner
from metarun.runs.directory import Run
from metarun.tasks.packages import package_folder
from metarun.training.loop import train

OPTIONS = {group: [option.name for option in options] for group, options in groups([CONF]).items()}
FEW = ["train.steps=3", "train.meta_batch=4", "train.validation_tasks=4", "train.test_tasks=8"]
# Long inner loops are cut: what is tested is that the parts fit.
SHORT = ["inner.steps=2", "inner.test_steps=3"]

# What an option cannot do without; everything else runs with the defaults.
NEEDS = {
    "metagradient=implicit": ["algo.proximal=2"],
    "inner=reptile": ["metagradient=reptile"],
    "metagradient=truncated": ["inner=metasgd"],
    "model=conv4": ["data=omniglot", "model.filters=4"],
    "model=efficientnet_lite0": ["data=omniglot", "algo=nearest", "model.size=32", "train.steps=0"],
    "model=timm": ["data=omniglot", "algo=nearest", "model.pretrained=false"],
    "model=resnet10": ["data=omniglot", "model.width=2"],
    "model=resnet18": ["data=omniglot", "model.width=2"],
    "model=resnet12": ["data=omniglot", "model.widths=[2,2,3,3]"],
    "model=wrn28_10": ["data=omniglot", "model.depth=10", "model.widen=1", "data.query=1"],
    "model=linear": ["data=linear_regression"],
    "model=vector": ["data=quadratics"],
    "model=embedding": ["data=omniglot", "algo=cnp", "model.filters=4"],
}


NODES = {algo: compose_config([f"algo={algo}"]) for algo in OPTIONS["algo"]}
LEARNERS = {algo: locate("algo", node["algo"]) for algo, node in NODES.items()}
# Algorithms that have no curve over inner steps; that learn classes, or values, alone; that are trained on
# mini-batches of images; that learn nothing; that read the support set.
WITHOUT_STEPS = [algo for algo, learner in LEARNERS.items() if not issubclass(learner, IterativeLearner)]
OF_CLASSES = [algo for algo, learner in LEARNERS.items() if learner.targets == "classes"]
OF_VALUES = [algo for algo, learner in LEARNERS.items() if learner.targets == "values"]
ON_IMAGES = [algo for algo, learner in LEARNERS.items() if learner.trains_on == "images"]
UNTRAINED = [algo for algo, node in NODES.items() if node["train"]["steps"] == 0]
WITHOUT_MODEL = [algo for algo, node in NODES.items() if node["model"]["_target_"] is None]
READING = [algo for algo, learner in LEARNERS.items() if issubclass(learner, ReadingLearner)]
CLASSES = (
    "arrays",
    "binary_classification",
    "folder",
    "omniglot",
    "gaussian_classes",
    "tabular_prior",
    "tables",
)
OF_IMAGES = ("folder", "omniglot")
# What predictors need that know how tasks were drawn.
DRAWN = {
    "gp_oracle": ("gp",),
    "bayes_oracle": ("gaussian_classes",),
    "ridge_oracle": ("gp", "linear_icl", "harmonic"),
}
# Small episodes, and how many numbers of support examples there are to test after.
EPISODES: dict[str, tuple[list[str], int]] = {
    "arrays": (["data.file=rows.npz", "data.shot=3", "data.query=3"], 3),
    "binary_classification": ([], 5),
    "folder": (["data.size=28", "data.channels=1", "data.query=3", "data.shares=[0.34,0.33,0.33]"], 1),
    "gaussian_classes": (["data.shot=3"], 3),
    "gp": (["data.shot=[3,8]"], 1),
    "harmonic": (["data.shot=12"], 11),
    "image_completion": (["data.shot=[3,9]", "data.query=10"], 1),
    "linear_icl": ([], 10),
    "linear_regression": ([], 10),
    "omniglot": ([], 1),
    "quadratics": ([], 10),
    "sinusoid": ([], 10),
    "tables": (["data.table=iris", "data.width=8", "data.shot=20"], 1),
    "tabular_prior": (["data.width=8", "data.features=[2,8]", "data.shot=[8,12]", "data.query=8"], 1),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen classes of pictures of noise, four to six of each."""
    root = tmp_path_factory.mktemp("pictures")
    return class_folders(root, {f"class {i}": 4 + i % 3 for i in range(15)}, side=28)


def settings_of(algo: str) -> list[str]:
    """What makes an algorithm short."""
    has_rule = NODES[algo]["inner"]["_target_"] is not None
    return [*(SHORT if has_rule else []), *(["train.steps=0"] if algo in UNTRAINED else [])]


def refusal(algo: str, data: str) -> str:
    """Why an algorithm cannot learn from this data; empty if it can."""
    ignores_absent = getattr(LEARNERS[algo], "ignores_absent_classes", algo == "proto_maml")
    reasons = {
        "has no classes to be trained on as a whole": algo in ON_IMAGES
        and data not in (*OF_IMAGES, "arrays"),
        "its targets are values, and .* learns classes": algo in OF_CLASSES and data not in CLASSES,
        "its targets are classes, and .* learns values": algo in OF_VALUES and data in CLASSES,
        "these are a few real tasks, to be tested on": data == "tables" and algo not in UNTRAINED,
        "needs to know of each task|takes the noise of each": data not in DRAWN.get(algo, (data,)),
        "would count the classes that smaller tasks do not have": (
            data == "tabular_prior" and algo in OF_CLASSES and not ignores_absent
        ),
        "has no feature maps to compare": algo == "relationnet" and data not in OF_IMAGES,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


# Their sampler and store are those of folder; tests/tasks/test_published.py has the rest.
PUBLISHED = (
    "miniimagenet",
    "tieredimagenet",
    "cifar_fs",
    "fc100",
    "cub",
    "vgg_flower",
    "aircraft",
    "quickdraw",
)
# Their episodes are those of folder or arrays, so that one algorithm is enough.
ALIKE = {
    "aeon": ["data.name=ItalyPowerDemand"],
    "sklearn": ["data.name=wine"],
    "mnist_5k": ["model.filters=4"],
    "glyphs": ["data.each=7", "model.filters=4"],
    "double_digits": ["data.each=4", "data.size=16", "data.query=2", "model.filters=4"],
    "medmnist": ["data.name=bloodmnist", "data.query=1", "model.filters=4"],
    "meta_album": ["data.name=BRD_Micro", "data.size=16", "data.way=2", "data.query=1", "model.filters=4"],
    "mixture": [
        "data.sources=[mnist_5k,{data:folder,root:pictures}]",
        "data.size=16",
        "data.way=2",
        "data.query=2",
        "model.filters=4",
    ],
}


@pytest.mark.parametrize("data", PUBLISHED)
def test_every_published_dataset(tmp_path: Path, data: str) -> None:
    root = tmp_path / data
    for part, first in (("train", 0), ("val", 3), ("test", 6)):
        classes = {f"{i + 4 * k + 1:03}.{part}": 4 for k in range(2) for i in range(first, first + 2)}
        class_folders(root / part, classes, side=16)
    words = ["algo=protonet", f"data={data}", f"data.root={tmp_path}", "data.size=16", "data.way=2"]
    results = run(tmp_path, [*words, "data.query=2", "model.filters=4"])
    assert math.isfinite(results.final["loss"].mean)


@pytest.mark.parametrize("data", ALIKE)
def test_every_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Path, data: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("METARUN_DATA", str(tmp_path / "data"))
    (tmp_path / "pictures").symlink_to(pictures)
    medical_images(tmp_path / "data/medmnist/bloodmnist.npz", channels=3, labels=8)
    album(tmp_path / "data/meta_album/BRD_Micro")
    if data == "glyphs":
        font = package_folder("matplotlib", data, data) / "mpl-data/fonts/ttf/DejaVuSansMono.ttf"
        ALIKE[data].append(f"data.fonts={font}")
    results = run(tmp_path, ["algo=protonet", f"data={data}", *ALIKE[data]])
    assert math.isfinite(results.final["loss"].mean)


@pytest.mark.parametrize("algo", OPTIONS["algo"])
@pytest.mark.parametrize("data", [data for data in OPTIONS["data"] if data not in (*PUBLISHED, *ALIKE)])
def test_every_algorithm_on_every_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any, algo: str, data: str
) -> None:
    if data in ("omniglot", "image_completion"):
        request.getfixturevalue("omniglot_root")
    # A model with context parameters, warp layers and a body, wherever an algorithm may ask for them.
    model = ["model.filters=4"] if data in OF_IMAGES else ["model=mlp"]
    model = ["model=linear"] if algo == "nearest" else [] if algo in WITHOUT_MODEL else model
    episodes, sizes = EPISODES[data]
    if data == "arrays":
        generator = np.random.default_rng(0)
        np.savez(tmp_path / "rows.npz", x=generator.normal(size=(150, 2)), y=np.arange(150) % 25)
        monkeypatch.chdir(tmp_path)
    if data == "folder":
        batch = ["data.train_batch=8"] if algo in ON_IMAGES else []
        episodes = [*episodes, f"data.root={request.getfixturevalue('pictures')}", *batch]
    words = [f"algo={algo}", f"data={data}", *model, *settings_of(algo), *FASTER.get(algo, []), *episodes]
    if reason := refusal(algo, data):
        with pytest.raises(ConfigError, match=reason):
            run(tmp_path, words)
        return
    results = run(tmp_path, words)
    steps = (sizes if algo != "sklearn" else 1) if algo in WITHOUT_STEPS else 9 if algo == "leo" else 4
    assert len(results.steps) == steps
    assert ("accuracy" in results.final) == (data in CLASSES)


@pytest.mark.parametrize(
    "option",
    [
        f"{group}={option}"
        for group in ("inner", "metagradient", "outer", "model", "engine")
        for option in OPTIONS[group]
        if option != "none"
    ],
)
def test_every_other_option(tmp_path: Path, request: Any, option: str) -> None:
    needs = NEEDS.get(option, [])
    if option == "model=timm":
        pytest.importorskip("timm")
    if "data=omniglot" in needs:
        request.getfixturevalue("omniglot_root")
    learned_start = ["algo=l2l"] if option in ("inner=lstm", "inner=mlp", "inner=metz") else []
    window = ["metagradient.window=1"] if option in ("metagradient=truncated", "metagradient=pes") else []
    short = [] if {"algo=nearest", "algo=cnp"} & set(needs) else SHORT
    results = run(tmp_path, [option, *needs, *learned_start, *window, *short])
    assert all(math.isfinite(each.mean) for scores in results.steps for each in scores.values())


def test_a_learner_without_a_network_and_an_inner_loop(tmp_path: Path) -> None:
    results = run(tmp_path, ["model=none", "inner=none"], algo={"_target_": "lone_learners.ShiftedMean"})
    assert (results.axis, len(results.steps)) == ("context examples", 10)
    assert all(math.isfinite(scores["loss"].mean) for scores in results.steps)


def run(folder: Path, overrides: list[str], **nodes: Any) -> Any:
    node = compose_config([*FEW, *overrides, "device=cpu"]) | nodes
    return train(read_config(node), Run.create(folder / "run", node, {}))


@pytest.mark.parametrize("name", OPTIONS["experiment"])
def test_every_published_set_up_fits_together_and_says_where_it_is_from(name: str) -> None:
    config = read_config(compose_config([f"experiment={name}"]))
    check_fit(config)
    comment = [
        line
        for line in (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
        if line.startswith("# ")
    ]
    assert comment[1].startswith(f"# metarun experiment={name}")
    if name.endswith("_short"):
        full = read_config(compose_config([f"experiment={name.removesuffix('_short')}"]))
        assert config.train.steps < full.train.steps
        assert config.algo == full.algo
    else:
        assert re.search(r"arXiv:\d{4}\.\d{5}", " ".join(comment[2:]))
        assert f"{name}_short" in OPTIONS["experiment"]


@pytest.mark.slow
@pytest.mark.parametrize("algo", OPTIONS["algo"])
def test_every_algorithm_from_the_command_line(metarun, tmp_path: Path, algo: str) -> None:
    data = ["data=omniglot", "model.filters=4"] if algo in [*ON_IMAGES, "relationnet"] else []
    data = ["data=binary_classification"] if algo in OF_CLASSES and not data else data
    data = [f"data={DRAWN[algo][0]}"] if algo in DRAWN else data
    done = metarun(f"algo={algo}", *data, *FEW, *settings_of(algo), *FASTER.get(algo, []), "device=cpu")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/*/*/results.json"))) == 1


# Slopes and intercepts away from zero, where the model starts.
LINES = ["data=linear_regression", "data.slope=[1,2]", "data.intercept=[1,2]"]
TOY = [*LINES, "model=linear", "inner.lr=0.1", "outer.lr=0.1"]
NETWORK = [*LINES, "model=mlp", "model.hidden=[8]", "outer.lr=0.01"]
PERCEPTRON = ["model=mlp", "model.hidden=[16]", "outer.lr=0.01"]
CLOUDS = ["data=binary_classification", "data.dimension=4", *PERCEPTRON]
# A thousand steps of TIM for each test are for a real one.
FASTER = {
    "pfn": ["algo.size=tiny"],
    "tim": ["algo.steps=20"],
    "snail": ["algo.scale=16"],
    "mann": ["algo.controller=20", "algo.places=8", "algo.width=6", "algo.heads=2"],
    "sklearn": ["algo.method=neighbours"],
}
IMPROVES: dict[str, list[str]] = {
    **dict.fromkeys(OF_CLASSES, CLOUDS),
    **dict.fromkeys(ON_IMAGES, PERCEPTRON),
    "relationnet": ["data=omniglot", "model.filters=4", "model.halvings=3", "data.query=2", "outer.lr=0.01"],
    # After the network's last ReLU no cosine is negative: without a full context there is little to learn.
    "matchingnet": [*CLOUDS, "data.dimension=2", "algo.full_context=true"],
    "hypernet": [*NETWORK, "inner.lr=0.05"],
    "tnet": [*NETWORK, "inner.lr=0.1"],
    "cavia": NETWORK,
    "boil": [*NETWORK, "inner.lr=0.1"],
    "l2l": ["inner.steps=10", "outer.lr=0.01", "train.meta_batch=16"],
    **{algo: [*LINES, "outer.lr=0.003"] for algo in READING},
    "leo": [*CLOUDS, "algo.finetuning_lr=0.1"],
}
# Those that read learn their networks from nothing.
STEPS = dict.fromkeys(READING, 200)


BLOBS = {"_target_": "toy_images.Blobs", "way": 3, "shot": 5, "query": 5, "train_batch": 32}


@pytest.mark.parametrize("algo", [algo for algo in OPTIONS["algo"] if algo not in UNTRAINED])
def test_every_algorithm_improves_on_its_toy_task(tmp_path: Path, algo: str) -> None:
    def final_loss(steps: int) -> float:
        toy = IMPROVES.get(algo, TOY)
        settings = [
            f"algo={algo}",
            *toy,
            *FASTER.get(algo, []),
            f"train.steps={steps}",
            "train.validate_every=0",
        ]
        node = compose_config(["train.meta_batch=4", *settings, "train.test_tasks=50", "device=cpu"])
        if algo in ON_IMAGES:
            node["data"] = BLOBS
        curve = train(read_config(node), Run.create(tmp_path / str(steps), node, {}))
        # A likelihood has no natural zero.
        return float(curve.final["mse" if algo in READING else "loss"].mean)

    steps = STEPS.get(algo, 100)
    assert final_loss(steps) < (0.85 if algo in OF_CLASSES else 0.5) * final_loss(0)
