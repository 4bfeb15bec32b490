"""What was learned, used on a person's own examples."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_runs import few, trained
from picture_files import bad_files, encoded, pixels, write
from PIL import Image
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from metarun import load
from metarun.config.composition import compose_config
from metarun.errors import ConfigError, MetarunError
from metarun.evaluation.prediction.answers import answers, plain_cell
from metarun.evaluation.prediction.calibration import Scored, best_temperature, level_of
from metarun.evaluation.prediction.own_examples import read_query, read_support
from metarun.evaluation.prediction.task_model import TaskModel
from metarun.evaluation.prediction.usable import inputs_of, read_inputs, usable
from metarun.experiment.config import read_config
from metarun.experiment.sources import build_source
from metarun.tasks.images.decoding import Look
from metarun.tasks.reading import ImageReading, reading_of

Typed = Callable[..., tuple[int, str, str]]


def test_predict_gives_what_a_test_gives(runs: Any, pictures: Path, tmp_path: Path) -> None:
    """The same task through the run's own episodes, and through files."""
    for algo in ("protonet", "maml", "metasgd", "r2d2"):
        learner = usable(runs(algo))
        source = build_source(learner.config)
        tasks = source.batch("test", 0, 1)
        for part in ("support", "query"):
            examples = getattr(tasks, part)
            for i, (x, y) in enumerate(zip(examples.x[0], examples.y[0].tolist(), strict=True)):
                array = (x * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
                write(tmp_path / algo / part / f"c{y}" / f"{i:02}.png", encoded(array))
        support = read_support(tmp_path / algo / "support", learner.reading, learner.dtype)
        model = TaskModel(learner, support)
        query = read_query(tmp_path / algo / "query", learner.reading, learner.dtype)
        ((places, x),) = query.parts(100)
        found = model.logits(x)
        with torch.no_grad(), learner.learner.evaluating():
            order = support_order(tasks.support.y[0])
            same = replace(
                tasks,
                support=tasks.support.take(order),
                query=tasks.query.take(query_order(tasks.query.y[0])),
            )
            expected = learner.learner.predict(learner.learner.adapt(same), same.query.x)[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert places == list(range(9))


def support_order(y: Tensor) -> Tensor:
    """Files are read class by class, and in a class in their order."""
    return y.argsort(stable=True)


query_order = support_order


@pytest.mark.parametrize("algo", ["protonet", "maml"])
def test_any_number_of_classes_that_the_head_allows(
    runs: Any, pictures: Path, tmp_path: Path, algo: str
) -> None:
    learner = usable(runs(algo))
    for classes in (2, 3, 12):
        support, query = few(pictures, tmp_path / f"{classes}", classes)
        examples = read_support(support, learner.reading, learner.dtype)
        if algo == "maml" and classes > 3:
            with pytest.raises(
                ConfigError, match=r"have 12 classes, and this run's head tells 3 apart: give 3"
            ):
                TaskModel(learner, examples)
            continue
        model = TaskModel(learner, examples)
        found = list(answers(model, read_query(query, learner.reading, learner.dtype)))
        assert len(found) == 6 * classes
        assert {answer.label for answer in found} <= {f"kind {c:02}" for c in range(classes)}  # type: ignore[union-attr]
    one = few(pictures, tmp_path / "one", 1)[0]
    with pytest.raises(ConfigError, match=r"are of one class, kind 00: expected two or more"):
        TaskModel(learner, read_support(one, learner.reading, learner.dtype))


def test_parts_change_nothing_and_bad_files_are_named(runs: Any, pictures: Path, tmp_path: Path) -> None:
    learner = usable(runs("protonet"))
    support, query = few(pictures, tmp_path)
    for name, (content, _) in bad_files().items():
        write(query / "kind 00" / name, content)
        write(support / "kind 01" / name, content)
    (support / "an empty class").mkdir()
    write(support / "a bad class" / "x.png", b"")
    examples = read_support(support, learner.reading, learner.dtype)
    assert len(examples.names) == 6
    assert examples.notes.left_out["an empty class"] == "a class without an image that can be read"
    assert examples.notes.left_out["a bad class"] == "a class without an image that can be read"
    for name, (_, why) in bad_files().items():
        assert examples.notes.left_out[f"kind 01/{name}"].startswith(why)
    model = TaskModel(learner, examples)
    others = read_query(query, learner.reading, learner.dtype)
    whole = list(answers(model, others))
    assert len(whole) == 18
    assert set(others.notes.left_out) == {f"kind 00/{name}" for name in bad_files()}
    parts = [model.probabilities(x) for _, x in read_query(query, learner.reading, learner.dtype).parts(2)]
    ((_, x),) = read_query(query, learner.reading, learner.dtype).parts(1000)
    torch.testing.assert_close(torch.cat(parts), model.probabilities(x))


def test_a_run_is_used_without_its_data(pictures: Path, tmp_path: Path) -> None:
    root = shutil.copytree(pictures, tmp_path / "pictures")
    words = ["algo=protonet", "data=folder", f"data.root={root}", "data.size=8", "data.way=2", "data.query=1"]
    place = trained(tmp_path / "run", *words, "model=mlp")
    before = usable(place)
    kept = (place / "inputs.json").read_text()
    (place / "inputs.json").unlink()  # as in an older run
    assert usable(place).reading == before.reading
    shutil.rmtree(root)
    with pytest.raises(MetarunError):
        usable(place)
    (place / "inputs.json").write_text(kept)
    after = usable(place)
    assert (after.facts, after.reading) == (before.facts, before.reading)


def test_what_a_run_keeps_of_its_data_is_read_back(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(90, 4)), y=np.arange(90) % 9)
    for words in (
        ["data=arrays", f"data.file={tmp_path}/a.npz", "data.way=2", "data.shares=[0.34,0.33,0.33]"],
        ["data=sinusoid"],
        ["data=sklearn", "data.name=wine"],
    ):
        source = build_source(read_config(compose_config(words)))
        content = json.loads(json.dumps(inputs_of(source)))
        facts, reading = read_inputs(content)
        assert facts.input_shape == tuple(source.input_shape)
        assert reading.plain() == content["reading"]


def test_dark_ink_and_colours_are_converted_and_said() -> None:
    reading = ImageReading(Look(10, 1, "stretch"), ink=True)
    picture = pixels(0, 10)
    grey = np.array(Image.fromarray(picture).convert("L"))
    assert torch.equal(reading.read(encoded(picture))[0], torch.from_numpy(255 - grey))
    assert reading.told(encoded(picture)) == "colour made grey"
    assert reading.told(encoded(grey)) == ""
    assert ImageReading(Look(10)).told(encoded(grey)) == "grey made of three equal channels"


def test_the_temperature_is_the_best_one() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(400, 5, generator=generator, dtype=torch.float64)
    labels = torch.distributions.Categorical(logits=logits / 2.5).sample()
    found = best_temperature(logits, labels)
    best = minimize_scalar(
        lambda t: float(F.cross_entropy(logits / t, labels)),
        bounds=(0.1, 10),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found == pytest.approx(best.x, rel=1e-5)
    assert math.isclose(found, 2.5, rel_tol=0.2)


def test_a_level_of_doubt_by_hand() -> None:
    confidence = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.55], dtype=torch.float64)
    logits = torch.stack([confidence, 1 - confidence], 1).log()
    labels = torch.tensor([0, 0, 2, 0, 1])  # right, right, unknown, right, wrong
    level = level_of([Scored(logits, labels)], 1.0, 0.75)
    assert level.threshold == pytest.approx(0.6)
    assert (level.right, level.covered, level.unknown) == pytest.approx((0.75, 0.75, 1.0))
    assert level_of([Scored(logits, labels)], 1.0, 0.9).threshold == pytest.approx(0.8)
    with pytest.raises(MetarunError, match=r"--reject 0.9: no level .* the best has 0.200"):
        level_of([Scored(logits, 1 - labels)], 1.0, 0.9)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\nx", "＝1"])
def test_no_cell_starts_a_formula(text: str) -> None:
    assert plain_cell(text) == f"'{text}"
    assert plain_cell(f"a{text}") == f"a{text}"


def test_the_command(typed: Typed, runs: Any, pictures: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs("protonet"), tmp_path / "run")
    support, query = few(pictures, tmp_path)
    (support / "kind 00").rename(support / "=1+1")
    (query / "kind 00").rename(query / "=1+1")
    words = ["predict", str(run), "--support", str(support), "--query", str(query)]
    status, printed, said = typed(*words, "--out", "a.csv")
    assert status == 0, said
    assert "learned from 6 labelled examples of 3 classes; 18 of 18 examples predicted" in printed
    assert "of 18 whose folder or column says a class" in printed
    with Path("a.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18
    assert rows[0]["name"] == "'=1+1/2.png"
    assert {row["class"] for row in rows} <= {"'=1+1", "kind 01", "kind 02"}
    assert all(float(row["margin"]) <= float(row["probability"]) <= 1 for row in rows)
    status, printed, said = typed(*words, "--picture", "a.png")
    assert status == 0, said
    with Image.open("a.png") as sheet:
        assert sheet.width > 5 * 128
        assert sheet.height > 4 * 128
    status, _, said = typed(*words, "--picture", "a.xyz")
    assert (status, said.count("\n")) == (2, 1)
    status, printed, said = typed(*words, "--calibrate")
    assert status == 0, said
    assert "calibrated on 100 validation tasks of 3 classes and 2 examples: temperature" in printed
    kept = json.loads((run / "calibration.json").read_text())
    assert kept["nll"][1] <= kept["nll"][0]
    _, again, _ = typed(*words)
    assert f"temperature {kept['temperature']:.3f}" in again
    assert usable(run).temperature == kept["temperature"]
    (run / "calibration.json").write_text(json.dumps(kept | {"temperature": 2.0}))
    paths = sorted(support.rglob("*.png"))
    estimator = load(run).fit(paths, [path.parent.name for path in paths])
    others = sorted(query.rglob("*.png"))
    cooler = estimator.predict_proba(others)
    assert usable(run, ["algo.transductive=true"]).temperature == 1  # of other settings nothing is known
    (run / "calibration.json").write_text(json.dumps(kept | {"checkpoint_step": 99, "temperature": 2.0}))
    plain = load(run).fit(paths, [path.parent.name for path in paths]).predict_proba(others)
    np.testing.assert_allclose(cooler, (np.sqrt(plain).T / np.sqrt(plain).sum(1)).T, rtol=1e-6)
    (run / "calibration.json").write_text(json.dumps(kept))
    status, printed, said = typed(*words, "--reject", "0.99", "--out", "b.csv")
    assert (status, said.count("\n")) == (1, 1) if status else "rejected below" in printed
    status, printed, said = typed(*words, "--reject", "0.3")
    assert status == 0, said
    assert "of 3 classes and as many queries of unknown ones" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--support", "nowhere", "--query", "q"], "--support nowhere: there is no such folder or file"),
        (["--support", "s", "--query", "nowhere"], "--query nowhere: there is no such folder or file"),
        (
            ["--support", "empty", "--query", "q"],
            "--support empty: expected a folder of images for each class",
        ),
        (["--support", "s", "--query", "empty"], "--query empty: it holds no images"),
        (["--support", "s", "--query", "q", "--reject", "2"], "--reject 2.0: should be between 0 and 1"),
        (["--support", "s", "--query", "q", "data.way=5"], "data.way cannot be changed for a prediction"),
        (
            ["--support", "s", "--query", "q", "--out", "no/a.csv"],
            "--out no/a.csv: expected a file in an existing folder",
        ),
        (["--query", "q"], "--support"),
    ],
)
def test_wrong_words_are_one_line(
    typed: Typed, runs: Any, pictures: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    support, query = few(pictures, tmp_path)
    support.rename(tmp_path / "s")
    query.rename(tmp_path / "q")
    (tmp_path / "empty").mkdir()
    status, _, message = typed("predict", str(runs("protonet")), *words)
    assert status == 2
    assert said in message
    assert message.count("\n") == 1


def test_numbers_are_predicted_in_their_units(typed: Typed, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    slope, x = generator.normal(size=30), generator.uniform(-1, 1, (30, 20))
    y = 100 + 10 * slope[:, None] * x
    with Path("tasks.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "y", "task"])
        writer.writerows(zip(x.ravel(), y.ravel(), np.repeat(np.arange(30), 20), strict=True))
    data = ["data=arrays", "data.file=tasks.csv", "data.task=task", "data.query=5"]
    for algo in ("cnp", "maml"):
        run = trained(tmp_path / algo, f"algo={algo}", *data)
        for name, rows in (("s", range(8)), ("q", range(8, 12))):
            lines = ["x,y", *(f"{x[0, i]},{y[0, i]}" for i in rows)]
            Path(f"{name}.csv").write_text("\n".join(lines))
        status, _, said = typed(
            "predict", str(run), "--support", "s.csv", "--query", "q.csv", "--out", "a.csv"
        )
        assert status == 0, said
        with Path("a.csv").open(newline="", encoding="utf-8-sig") as file:
            found = list(csv.DictReader(file))
        assert [row["name"] for row in found] == ["row 1", "row 2", "row 3", "row 4"]
        assert all(80 < float(row["value"]) < 120 for row in found)
        assert ("low" in found[0]) == (algo == "cnp")
        if algo == "cnp":
            assert all(float(row["low"]) < float(row["value"]) < float(row["high"]) for row in found)


@pytest.mark.parametrize("algo", ["protonet", "metasgd", "r2d2"])
def test_an_adapted_learner_in_a_file_gives_the_same_answers(
    typed: Typed, runs: Any, pictures: Path, tmp_path: Path, algo: str
) -> None:
    support, query = few(pictures, tmp_path)
    status, printed, said = typed(
        "adapt", str(runs(algo)), "--support", str(support), "--out", "a.safetensors"
    )
    assert status == 0, said
    assert "a.safetensors: 6 labelled examples of 3 classes" in printed
    run = ["predict", str(runs(algo)), "--support", str(support), "--query", str(query), "--out", "run.csv"]
    assert typed(*run)[0] == 0
    shutil.rmtree(support)
    status, printed, said = typed("predict", "a.safetensors", "--query", str(query), "--out", "file.csv")
    assert status == 0, said
    assert Path("file.csv").read_text() == Path("run.csv").read_text()
    for words, why in (
        (
            ["--support", str(query)],
            "has seen its examples: --support is for a run",
        ),
        (["--reject", "0.9"], "has seen its examples"),
        (["inner.test_steps=3"], "inner.test_steps=3: of a file only the device can be changed"),
    ):
        status, _, said = typed("predict", "a.safetensors", "--query", str(query), *words)
        assert (status, said.count("\n")) == (2, 1)
        assert why in said


def test_numbers_in_a_file(typed: Typed, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "algo=maml", "data=sinusoid", "data.shot=5")
    np.savez(tmp_path / "s.npz", x=np.linspace(-1, 1, 5)[:, None], y=np.linspace(0, 1, 5))
    np.savez(tmp_path / "q.npz", x=np.linspace(-1, 1, 3)[:, None])
    assert typed("adapt", str(run), "--support", "s.npz", "--out", "a.safetensors")[0] == 0
    whole = ["predict", str(run), "--support", "s.npz", "--query", "q.npz", "--out", "run.csv"]
    assert typed(*whole)[0] == 0
    status, _, said = typed("predict", "a.safetensors", "--query", "q.npz", "--out", "file.csv")
    assert status == 0, said
    assert Path("file.csv").read_text() == Path("run.csv").read_text()


def test_other_files_are_no_models(typed: Typed, runs: Any, pictures: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    support, query = few(pictures, tmp_path)
    assert typed("adapt", str(runs("protonet")), "--support", str(support), "--out", "a.safetensors")[0] == 0
    whole = Path("a.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[: len(whole) // 2])
    Path("empty.safetensors").write_bytes(b"")
    save_file({"x": torch.zeros(2)}, "other.safetensors")
    save_file({"x": torch.zeros(2)}, "odd.safetensors", {"metarun": '{"format": 1, "facts": 3}'})
    for name in ("cut", "empty", "other", "odd"):
        status, _, said = typed("predict", f"{name}.safetensors", "--query", str(query))
        assert (status, said.count("\n")) == (1, 1), name
        assert f"{name}.safetensors is no file of metarun adapt" in said
    status, _, said = typed("adapt", str(runs("protonet")), "--support", str(support), "--out", "no/a")
    assert (status, said.count("\n")) == (2, 1)
    hostile = whole.replace(b"metarun.tasks.ImageFolder", b"os.system.__call__.xxxxxx")
    hostile = hostile.replace(b"metarun.learners.ProtoNet", b"subprocess.Popen" + b"x" * 9)
    Path("hostile.safetensors").write_bytes(hostile)
    status, _, said = typed("predict", "hostile.safetensors", "--query", str(query))
    assert (status, said.count("\n")) == (2, 1)
    assert "_target_=" in said  # which is not called


def test_two_hundred_classes_and_examples_that_are_in_both(runs: Any, tmp_path: Path) -> None:
    for c in range(200):
        for i in range(2):
            content = encoded(pixels(2 * c + i, 8))
            write(tmp_path / "support" / f"{c}" / f"{i}.png", content)
            if i == 0:
                write(tmp_path / "query" / f"{c}.png", content)
    learner = usable(runs("protonet"))
    model = TaskModel(learner, read_support(tmp_path / "support", learner.reading, learner.dtype))
    found = list(answers(model, read_query(tmp_path / "query", learner.reading, learner.dtype)))
    assert len(found) == 200
    one_each = {"support": tmp_path / "one"}
    for c in range(200):
        target = one_each["support"] / f"{c}" / "0.png"
        target.parent.mkdir(parents=True)
        shutil.copy(tmp_path / "query" / f"{c}.png", target)
    alone = TaskModel(learner, read_support(one_each["support"], learner.reading, learner.dtype))
    query = read_query(tmp_path / "query", learner.reading, learner.dtype)
    labels = {query.names[answer.place]: answer.label for answer in answers(alone, query)}  # type: ignore[union-attr]
    assert labels == {f"{c}.png": f"{c}" for c in range(200)}  # what it has seen it knows


def test_queries_are_read_part_by_part(runs: Any, pictures: Path, tmp_path: Path) -> None:
    support, query = few(pictures, tmp_path)
    for i in range(600):
        (query / f"{i}.png").symlink_to(query / "kind 00" / "5.png")
    learner = usable(runs("protonet"))
    model = TaskModel(learner, read_support(support, learner.reading, learner.dtype))
    told: list[int] = []
    found = list(answers(model, read_query(query, learner.reading, learner.dtype), show=told.append))
    assert len(found) == sum(told) == 618
    assert max(told) <= 256


def test_names_in_any_encoding(typed: Typed, runs: Any, pictures: Path, tmp_path: Path) -> None:
    support, query = few(pictures, tmp_path)
    odd = ["ü 雪.png", "C:\\x\\y.png", 'a,"b".png', "x\ny.png", os.fsdecode(b"\xff.png")]
    for name in odd:
        shutil.copy(pictures / "kind 00" / "5.png", query / name)
    (support / "kind 00").rename(support / os.fsdecode(b"\xe9t\xe9"))
    words = ["predict", str(runs("protonet")), "--support", str(support), "--query", str(query)]
    status, printed, said = typed(*words, "--out", "a.csv")
    assert status == 0, said
    with Path("a.csv").open(newline="", encoding="utf-8-sig") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert set(odd[:4]) <= names
    assert "\\udcff.png" in names
    assert "\\udce9t\\udce9" in printed


def test_ctrl_c_leaves_no_half_file(
    typed: Typed, runs: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    support, query = few(pictures, tmp_path)
    run = str(runs("protonet"))
    Path("a.csv").write_text("what was there")

    def interrupted(*given: Any, **keys: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(TaskModel, "probabilities", interrupted)
    words = ["predict", run, "--support", str(support), "--query", str(query), "--out", "a.csv"]
    status, _, said = typed(*words)
    assert (status, said.count("\n")) == (130, 1)
    assert Path("a.csv").read_text() == "what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "query", "support"]


def test_a_csv_of_queries_keeps_its_order_and_needs_no_labels(
    runs: Any, pictures: Path, tmp_path: Path
) -> None:
    support, query = few(pictures, tmp_path)
    lines = ["kind 01/5.png,", "kind 00/none.png,", "kind 00/5.png,kind 00", "kind 02/5.png,kind 02"]
    learner = usable(runs("protonet"))
    model = TaskModel(learner, read_support(support, learner.reading, learner.dtype))
    for text in (
        "\n".join(["path,label", *lines]),
        "\n".join(["Path", *(line.split(",")[0] for line in lines)]),
    ):
        (query / "list.csv").write_text(text)
        others = read_query(query / "list.csv", learner.reading, learner.dtype)
        found = list(answers(model, others))
        assert [others.names[answer.place] for answer in found] == [f"kind 0{c}/5.png" for c in (1, 0, 2)]
        assert others.notes.left_out == {"kind 00/none.png": "unreadable (No such file or directory)"}
        assert others.said[1:] == ([None, "kind 00", "kind 02"] if "label" in text else [None] * 3)
    (query / "list.csv").write_text("path\n../../secret.png\n")
    with pytest.raises(ConfigError, match=r"line 2: \.\./\.\./secret\.png is outside of"):
        read_query(query / "list.csv", learner.reading, learner.dtype)
    (query / "list.csv").write_text("file\na.png\n")
    with pytest.raises(ConfigError, match=r"^--query: .*list\.csv has the columns file: expected path"):
        read_query(query / "list.csv", learner.reading, learner.dtype)


@pytest.mark.parametrize("algo", ["snail", "metanet"])
def test_learners_that_read_labels_have_a_number_of_classes(
    runs: Any, pictures: Path, tmp_path: Path, algo: str
) -> None:
    learner = usable(runs(algo))
    for classes in (2, 3, 4):
        examples = read_support(
            few(pictures, tmp_path / f"{classes}", classes)[0], learner.reading, learner.dtype
        )
        if classes == 4:
            with pytest.raises(
                ConfigError, match="the examples have 4 classes, and this run's head tells 3 apart"
            ):
                TaskModel(learner, examples)
            continue
        found = TaskModel(learner, examples).probabilities(examples.x)
        assert found.shape == (2 * classes, classes)
        torch.testing.assert_close(found.sum(1), torch.ones(2 * classes, dtype=torch.float64))


def test_bytes_are_bytes_in_every_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (90, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(90) % 9)
    words = [
        "algo=protonet",
        "data=arrays",
        f"data.file={tmp_path}/a.npz",
        "data.way=2",
        "data.query=2",
        "data.shot=2",
    ]
    run = trained(tmp_path / "run", *words, "data.shares=[0.34,0.33,0.33]", "model=mlp")
    learner = usable(run)
    found = []
    for kind in (np.uint8, np.int64, np.float64):
        np.savez(tmp_path / "s.npz", x=x[:12].astype(kind), y=np.arange(12) % 3)
        model = TaskModel(learner, read_support(tmp_path / "s.npz", learner.reading, learner.dtype))
        ((_, inputs),) = read_query(tmp_path / "s.npz", learner.reading, learner.dtype).parts(100)
        found.append(model.probabilities(inputs))
        assert inputs.dtype == torch.uint8
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    np.savez(tmp_path / "s.npz", x=x[:12] / 255, y=np.arange(12) % 3)
    with pytest.raises(ConfigError, match=r"other numbers than 0, 1, … 255"):
        read_support(tmp_path / "s.npz", learner.reading, learner.dtype)


def test_targets_of_another_number_are_refused(tmp_path: Path) -> None:
    learner = usable(trained(tmp_path / "run", "algo=maml", "data=sinusoid"))
    np.savez(tmp_path / "s.npz", x=np.zeros((3, 1)), y=np.zeros((3, 2)))
    with pytest.raises(
        ConfigError, match=r"targets \[3, 2\]: expected one row or more, and 1 numbers for each"
    ):
        TaskModel(learner, read_support(tmp_path / "s.npz", learner.reading, learner.dtype, values=True))


def test_transparent_paper_is_white_with_the_nearest_pixel_too() -> None:
    drawing = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    drawing.putpixel((3, 4), (0, 0, 0, 255))
    buffer = io.BytesIO()
    drawing.save(buffer, "PNG")
    for nearest in (False, True):
        ink = ImageReading(Look(10, 1, "stretch"), ink=True, nearest=nearest).read(buffer.getvalue())[0]
        assert int(ink.sum()) == 255
        assert ink[4, 3] == 255


def test_images_may_be_arrays(typed: Typed, runs: Any, pictures: Path, tmp_path: Path) -> None:
    support, query = few(pictures, tmp_path)
    learner = usable(runs("protonet"))
    for name, folder in (("s", support), ("q", query)):
        paths = sorted(folder.rglob("*.png"))
        images = np.stack([learner.reading.read(path.read_bytes()).numpy() for path in paths])  # type: ignore[union-attr]
        np.savez(f"{name}.npz", images=images, y=[path.parent.name for path in paths])
    found = []
    for words in (
        ["--support", str(support), "--query", str(query)],
        ["--support", "s.npz", "--query", "q.npz"],
    ):
        status, printed, said = typed("predict", str(runs("protonet")), *words, "--out", "a.csv")
        assert status == 0, said
        assert "of 18 whose folder or column says a class" in printed
        with Path("a.csv").open(newline="", encoding="utf-8-sig") as file:
            found.append([(row["class"], row["probability"]) for row in csv.DictReader(file)])
    assert found[0] == found[1]
    np.savez("s.npz", images=np.zeros((3, 9, 9)), y=[0, 1, 2])
    status, _, said = typed("predict", str(runs("protonet")), "--support", "s.npz", "--query", "q.npz")
    assert (status, said.count("\n")) == (2, 1)
    assert "--support: images are [3, 9, 9], and the run was trained on [n, 3, 8, 8]" in said


def test_images_without_a_label_are_no_class(typed: Typed, runs: Any, pictures: Path, tmp_path: Path) -> None:
    learner = usable(runs("protonet"))
    support, _ = few(pictures, tmp_path)
    paths = sorted(support.rglob("*.png"))
    images = np.stack([learner.reading.read(path.read_bytes()).numpy() for path in paths])  # type: ignore[union-attr]
    labels = [path.parent.name for path in paths]
    np.savez("s.npz", images=images, y=["", *labels[1:]])
    examples = read_support(Path("s.npz"), learner.reading, learner.dtype)
    assert (examples.y, examples.names[0]) == (labels[1:], "row 2")
    assert torch.equal(examples.x, torch.from_numpy(images[1:]))
    assert read_query(Path("s.npz"), learner.reading, learner.dtype).said == [None, *labels[1:]]
    np.savez("s.npz", images=images, y=[""] * len(images))
    status, _, said = typed("predict", str(runs("protonet")), "--support", "s.npz", "--query", "s.npz")
    assert (status, said.count("\n")) == (2, 1), said
    assert "--support s.npz: none of its 6 rows has a label" in said


def test_a_mixture_reads_images_as_its_parts_do(pictures: Path) -> None:
    sizes = ["data.way=2", "data.query=2", "data.size=8", "data.channels=1"]
    part = f"{{data: folder, root: {pictures}, shares: [0.4,0.3,0.3]}}"
    for sources, expected in (
        (f"[{part},{part}]", ImageReading(Look(8, 1, "crop"))),
        (f"[{part},glyphs]", ImageReading(Look(8, 1, "stretch"))),
    ):
        source = build_source(
            read_config(compose_config(["data=mixture", f"data.sources={sources}", *sizes]))
        )
        assert reading_of(source) == expected
