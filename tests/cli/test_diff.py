"""metarun diff: what differs between two runs, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

FEW = ["device=cpu", "train.steps=3", "train.meta_batch=2", "train.validation_tasks=2", "train.test_tasks=4"]


def test_diff_shows_config_environment_and_results(metarun, tmp_path: Path) -> None:
    for name, word in (("a", "seed=0"), ("again", "seed=0"), ("b", "inner.lr=0.02")):
        assert metarun(*FEW, word, f"hydra.run.dir={name}").returncode == 0
    same = metarun("diff", "a", "again")
    assert (same.returncode, same.stdout) == (0, "nothing differs, the results included\n")

    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    different = metarun("diff", "a", "b")
    assert different.returncode == 0, different.stderr
    rows = [line.split() for line in different.stdout.splitlines()]
    assert ["inner.lr", "0.01", "0.02"] in rows
    assert any(row[:1] == ["versions.torch"] and row[-1] == "1.0" for row in rows)
    loss = json.loads((tmp_path / "a" / "results.json").read_text())["final"]["loss"]["mean"]
    assert f"({loss!r})" in different.stdout

    refused = metarun("diff", "a", ".")
    assert refused.returncode == 1
    assert ". is not a run" in refused.stderr


def test_the_manifest_holds_what_is_needed_to_repeat_a_run(metarun, tmp_path: Path) -> None:
    assert metarun(*FEW, "hydra.run.dir=run", METARUN_TEST="1").returncode == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["command"] == f"metarun {' '.join(FEW)}"
    assert {"torch", "numpy", "hydra-core", "pytest"} <= manifest["versions"].keys()
    assert manifest["environment"]["METARUN_TEST"] == "1"
    assert manifest["environment"]["OMP_NUM_THREADS"] == "1"
    assert {"seed", "device", "threads", "cores", "host", "platform", "git"} <= manifest.keys()
