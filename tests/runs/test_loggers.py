"""Loggers follow a run, through the real libraries, offline, over kills and failures."""

from __future__ import annotations

import csv
import json
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from time import sleep
from typing import Any, ClassVar

import numpy as np
import pytest
from own_runs import trained

from metarun.config.composition import compose_config
from metarun.errors import ConfigError
from metarun.experiment.config import read_config
from metarun.runs.directory import Run
from metarun.runs.loggers import CSVFile, Ended, Logger, MLflow, RunFacts, TensorBoard, Trackio, WandB
from metarun.runs.loggers.following import Loggers
from metarun.runs.metrics import MetricsFile
from metarun.training.loop import train

Curve = dict[str, list[tuple[int, float]]]


class Followed:
    """A run directory whose metrics are written, followed, cut back and followed again."""

    def __init__(self, folder: Path, make: Callable[[], Logger]) -> None:
        self.folder, self.make = folder, make
        self.metrics = MetricsFile(folder / "metrics.jsonl")

    def begin(self, step: int) -> None:
        facts = RunFacts(self.folder, {"inner.lr": 0.1, "model.hidden": [40, 40], "seed": 0, "x": None}, step)
        self.loggers = Loggers({"it": self.make()}, facts)

    def log(self, *steps: int) -> None:
        for step in steps:
            record = {"step": step, "split": "train", "loss": step / 10, "seconds": 1.0}
            self.loggers.record(*self.metrics.append(record))


def of_csv(folder: Path) -> Curve:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {"train/loss": [(int(row["step"]), float(row["loss"])) for row in rows]}


def of_tensorboard(folder: Path) -> Curve:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def of_mlflow(folder: Path) -> Curve:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("metarun").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"inner.lr": "0.1", "model.hidden": "[40, 40]", "seed": "0", "x": "None"}
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def of_trackio(folder: Path) -> Curve:
    from trackio.sqlite_storage import SQLiteStorage

    curve: Curve = {}
    for run in SQLiteStorage.get_runs("metarun"):
        for line in SQLiteStorage.get_logs("metarun", run):
            for name, value in line.items():
                if "/" in name:
                    curve.setdefault(name, []).append((line["step"], value))
    return curve


def of_wandb(folder: Path) -> Curve:
    """The histories of its offline files: records in LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2 as records

    curve: Curve = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, place, parts = path.read_bytes(), 7, b""
        while place + 7 <= len(data):
            if (left := 32768 - place % 32768) < 7:
                place += left
                continue
            length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
            parts += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):  # whole, or the last part
                record = records.Record()
                record.ParseFromString(parts)
                parts = b""
                line = {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                for name, value in line.items():
                    if "/" in name and isinstance(value, float):
                        curve.setdefault(name, []).append((line["meta_step"], value))
    return curve


LIBRARIES: dict[str, tuple[Callable[[Path], Logger], Callable[[Path], Curve]]] = {
    "csv": (lambda folder: CSVFile(), of_csv),
    "tensorboard": (lambda folder: TensorBoard(), of_tensorboard),
    "mlflow": (lambda folder: MLflow(uri=f"sqlite:///{folder}/mlflow.db"), of_mlflow),
    "trackio": (lambda folder: Trackio(), of_trackio),
    "wandb": (lambda folder: WandB(mode="offline"), of_wandb),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_killed_run_that_is_resumed_has_the_curve_of_one_that_was_not(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio", raising=False)
    make, read = LIBRARIES[library]
    run = Followed(tmp_path, lambda: make(tmp_path))
    run.begin(0)
    run.log(1, 2)
    at_checkpoint = run.metrics.position()
    run.loggers.flush()
    run.log(3, 4)
    run.loggers.close("interrupted", {})  # what came after the checkpoint has been handed over
    run.metrics.truncate(at_checkpoint)

    run.begin(2)
    run.log(3)
    run.loggers.flush()
    run.log(4, 5)
    run.loggers.close("finished", {"test/loss": 0.25})
    curve = read(tmp_path)
    assert curve["train/loss"] == [(step, pytest.approx(step / 10)) for step in (1, 2, 3, 4, 5)]
    if library in ("tensorboard", "mlflow", "trackio"):
        assert [value for _, value in curve["test/loss"]] == [0.25]


def test_a_logger_that_comes_later_gets_all_from_the_start(tmp_path: Path) -> None:
    run = Followed(tmp_path, TensorBoard)
    for step in (1, 2):
        run.metrics.append({"step": step, "split": "train", "loss": step / 10})
    run.begin(2)
    run.log(3)
    run.loggers.close("finished", {})
    assert [step for step, _ in of_tensorboard(tmp_path)["train/loss"]] == [1, 2, 3]


def test_tensorboard_has_pictures_histograms_and_hparams(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Followed(tmp_path, TensorBoard)
    run.begin(0)
    assert run.loggers.new
    run.loggers.pictures(0, {"validation/episodes": np.full((4, 6, 3), 200, np.uint8)})
    run.loggers.histograms(1, {"rates": np.linspace(-1, 1, 11, dtype=np.float32)})
    run.log(1)
    run.loggers.close("finished", {"test/accuracy": 0.9})
    run.begin(1)
    assert not run.loggers.new
    run.loggers.pictures(1, {"validation/episodes": np.zeros((4, 6, 3), np.uint8)})  # it has them
    run.loggers.close("finished", {"test/accuracy": 0.9})

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (image,) = events.Images("validation/episodes")
    assert (image.height, image.width) == (4, 6)
    (histogram,) = events.Histograms("rates")
    assert (histogram.step, histogram.histogram_value.num) == (1, 11)
    tags = events.summary_metadata
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= tags.keys()
    assert b"inner.lr" in tags["_hparams_/session_start_info"].plugin_data.content


class Own(Logger):
    """A user's own logger, which fails or waits where it is told to."""

    heard: ClassVar[list[tuple[int, Mapping[str, float]]]] = []
    ends: ClassVar[list[tuple[Ended, Mapping[str, float]]]] = []

    def __init__(self, *, fails_at: int = 1_000_000, sleeps: float = 0.0) -> None:
        self.fails_at, self.sleeps = fails_at, sleeps

    def open(self, run: RunFacts, kept: Mapping[str, Any]) -> Mapping[str, Any]:
        assert run.name.endswith("/run")
        return {"opened": kept.get("opened", 0) + 1}

    def scores(self, step: int, scores: Mapping[str, float], time: float) -> None:
        sleep(self.sleeps)
        if step >= self.fails_at:
            raise OSError(28, "No space left on device")
        Own.heard.append((step, scores))

    def close(self, ended: Ended, scores: Mapping[str, float]) -> None:
        Own.ends.append((ended, scores))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    Own.heard, Own.ends = [], []
    monkeypatch.chdir(tmp_path)
    return [
        *("train.steps=6", "train.log_every=1", "train.validate_every=3", "model.hidden=[4]"),
        f"+logger.own={{_target_:{__name__}.Own}}",
    ]


def test_the_training_hands_over_every_line_and_the_test(own: list[str], tmp_path: Path) -> None:
    run = Run(trained(tmp_path / "run", *own))
    lines = run.metrics.records()
    assert [(step, set(scores)) for step, scores in Own.heard] == [
        (line["step"], {f"{line['split']}/{name}" for name in line if name not in ("step", "split", "time")})
        for line in lines
    ]
    results = run.results()
    assert results is not None
    final = results["final"]
    scores = {f"test/{name}": final[name]["mean"] for name in ("loss", "mse")}
    assert Own.ends == [("finished", scores)]
    kept = json.loads((run.directory / "loggers.json").read_text())["own"]
    assert kept == {"position": run.metrics.position(), "own": {"opened": 1}}


def test_a_failing_logger_warns_once_and_the_run_goes_on(own: list[str], tmp_path: Path, logged) -> None:
    plain = Run(trained(tmp_path / "plain", *own[:-1]))
    run = Run(trained(tmp_path / "run", *own[:-1], f"+logger.own={{_target_:{__name__}.Own,fails_at:3}}"))
    (warning,) = [line for line in logged if "logger." in line]
    assert "logger.own has failed, and the run goes on without it" in warning
    assert "No space left on device" in warning
    assert [step for step, _ in Own.heard] == [1, 2]
    assert run.results() == plain.results()  # to the last bit


def test_a_logger_that_hangs_does_not_hold_up_the_run(
    own: list[str], tmp_path: Path, logged, monkeypatch
) -> None:
    monkeypatch.setattr("metarun.runs.loggers.following._SECONDS_AT_END", 0.3)
    monkeypatch.setattr("metarun.runs.loggers.following._LONGEST_QUEUE", 4)
    began = time.monotonic()
    run = Run(trained(tmp_path / "run", *own[:-1], f"+logger.own={{_target_:{__name__}.Own,sleeps:20}}"))
    assert time.monotonic() - began < 15
    assert run.results()
    assert any("logger.own is 4 records behind, and the run goes on without it" in line for line in logged)


def test_a_dead_server_costs_a_warning(own: list[str], tmp_path: Path, logged, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    trained(tmp_path / "run", *own[:-1], "logger=mlflow", "logger.mlflow.uri=http://127.0.0.1:9")
    (warning,) = [line for line in logged if "logger." in line]
    assert "logger.mlflow has failed, and the run goes on without it" in warning
    assert Run(tmp_path / "run").results()


@pytest.mark.parametrize(
    ("library", "module", "extra"),
    [
        ("tensorboard", "torch.utils.tensorboard", "tensorboard"),
        ("mlflow", "mlflow", "mlflow"),
        ("wandb", "wandb", "wandb"),
        ("trackio", "trackio", "trackio"),
    ],
)
def test_a_library_that_is_not_there_is_named(
    library: str, module: str, extra: str, own: list[str], tmp_path: Path, logged, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    trained(tmp_path / "run", *own[:-1], f"logger={library}")
    assert any(f"is not installed: pip install 'metarun[{extra}]'" in line for line in logged)


def test_wandb_without_a_key_does_not_ask_on_the_terminal(
    own: list[str], tmp_path: Path, logged, monkeypatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    trained(tmp_path / "run", *own[:-1], "logger=wandb")
    assert any("wandb has no key: type wandb login, or logger.wandb.mode=offline" in line for line in logged)


def test_a_damaged_loggers_file_begins_anew(own: list[str], tmp_path: Path, logged) -> None:
    run = trained(tmp_path / "run", *own)
    for content in ("{", "[]", '{"own": {"position": "x"}}'):
        (run / "loggers.json").write_text(content)
        Loggers({"own": Own()}, RunFacts(run, {}, 6)).close("finished", {})
        assert any("loggers.json is damaged: loggers begin anew" in line for line in logged)
        assert json.loads((run / "loggers.json").read_text())["own"]["own"] == {"opened": 1}
        logged.clear()


def test_a_run_may_be_resumed_with_other_loggers(own: list[str], tmp_path: Path) -> None:
    words = own[:-1]
    trained(tmp_path / "run", *words)
    node = compose_config(
        [
            *("train.meta_batch=2", "train.validation_tasks=4", "train.test_tasks=4", "device=cpu"),
            *(*words, own[-1], "train.steps=7"),
        ]
    )
    train(read_config(node), Run.create(tmp_path / "run", node, {}))
    assert [step for step, _ in Own.heard] == [1, 2, 3, 3, 4, 5, 6, 6, 7, 7]  # twice: of validations, too
    assert json.loads((tmp_path / "run/manifest.json").read_text())["resumed"][0]["changed"]["logger"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["logger=tensorbord"], "logger=tensorbord: there is no such option; did you mean tensorboard"),
        (["logger=wandb", "logger.wandb.mode=on"], "logger.wandb.mode=on: should be 'online' or 'offline'"),
        (["logger=csv", "+logger.csv.file=x"], "logger.csv.file=x: there is no such key"),
        (["+logger.x={_target_:os.system}"], "logger.x._target_=os.system: expected a subclass of"),
        (["logger=[csv,tensorboard]", "logger.tensorboard.folder=3"], "logger.tensorboard.folder=3: "),
    ],
)
def test_wrong_settings_are_said_before_any_work(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(compose_config(words))
    assert message in str(error.value)
