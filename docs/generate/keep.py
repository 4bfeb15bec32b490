"""python docs/generate/keep.py RUN TABLE [--published TEXT]: keep a finished run's result in docs/results."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import metarun
from generate.results import FOLDER, Cell
from metarun.runs.summary import summary


def row(run: metarun.Run, published: str) -> list[Cell]:
    """Return command, published and obtained number, budget, time, and the validations on the way."""
    found = summary(run.path, 0.0)
    if found.test is None:
        raise SystemExit(f"{run.path} is not finished: type metarun resume {run.path}")
    factor = 100 if found.metric["percent"] else 1
    mean, ci95 = (factor * value for value in found.test)
    digits = 2 if found.metric["percent"] else 3
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (run.path / "metrics.jsonl").read_text("utf-8").splitlines()
    ]
    minutes = round(sum(line["seconds"] for line in lines) / 60)
    scores = [factor * line[found.metric["name"]] for line in lines if line["split"] == "validation"]
    every = run.config["train"]["validate_every"]
    return [
        f"`{run.manifest['command'].partition(' hydra.run.dir')[0]}`",
        published,
        {"mean": round(mean, digits), "ci95": round(ci95, digits), "digits": digits},
        f"{found.steps:,} × {run.config['train']['meta_batch']}",
        f"{minutes} min",
        f"{' · '.join(f'{score:.1f}' for score in scores)}, every {every:,}",
    ]


def main() -> None:
    """Replace the row of the same command, or add one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("table", choices=sorted(path.stem for path in FOLDER.glob("omniglot_*.json")))
    parser.add_argument("--published", default="")
    options = parser.parse_args()
    path = FOLDER / f"{options.table}.json"
    content = json.loads(path.read_text("utf-8"))
    new = row(metarun.Run(options.run), options.published)
    content["rows"] = [old for old in content["rows"] if old[0] != new[0]] + [new]
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
