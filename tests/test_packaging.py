"""The wheel, installed elsewhere, finds its configs; importing the package stays light."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_importing_metarun_is_light() -> None:
    heavy = {"torch", "hydra", "omegaconf", "pydantic", "PIL"}
    code = f"import sys, metarun; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as an index would serve it."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_ships_every_config(wheel: Path) -> None:
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("metarun/conf/")}
    assert shipped == {f"metarun/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}


@pytest.mark.slow
def test_the_wheel_ships_the_sources_of_the_kernels(wheel: Path) -> None:
    here = {path.name for path in (ROOT / "src/metarun/learners/gradient/batched/native").iterdir()}
    shipped = [Path(name) for name in zipfile.ZipFile(wheel).namelist() if "/native/" in name]
    assert {path.name for path in shipped} == here


def test_the_wheel_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    # The dependencies of this environment, and metarun from the wheel alone.
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    site = next(home.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    own = Path(next(p for p in sys.path if p.endswith("site-packages")))
    (site / "dependencies.py").write_text(f"import sys; sys.path.append({str(own)!r})")
    (site / "dependencies.pth").write_text("import dependencies")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(home / "bin" / "python"), "-m", "metarun", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    where = subprocess.run(
        [
            str(home / "bin" / "python"),
            "-c",
            "import metarun.config.options; print(metarun.config.options.CONF)",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.strip() == str(site / "metarun" / "conf")
    done = run("algo=metasgd", "train.steps=2", "train.test_tasks=4", "train.validation_tasks=4")
    assert done.returncode == 0, done.stderr
    assert "metasgd" in run("list", "algo").stdout
    assert "complete" in run("-sc", "install=bash").stdout


def test_make_uses_uv_where_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "uv").write_text("#!/bin/sh\n")
    (tmp_path / "uv").chmod(0o755)
    paths = {"without": os.defpath, "with": f"{tmp_path}:{os.defpath}"}
    commands = {}
    for name, path in paths.items():
        environment = {**os.environ, "PATH": path}
        options = ["--always-make", "--just-print", "--no-print-directory", "VENV=elsewhere", "run"]
        printed = subprocess.run(
            ["make", *options], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        commands[name] = printed.stdout
    assert (
        "elsewhere/bin/python -m pip install --quiet --constraint constraints.txt torch"
        in commands["without"]
    )
    assert f"{tmp_path}/uv pip install --quiet --python elsewhere/bin/python --constraint" in commands["with"]
    assert f"{tmp_path}/uv venv" in commands["with"]
    for text in commands.values():  # the main job needs no peer, no launcher and no test
        assert "--editable ." in text
        assert "[dev]" not in text
