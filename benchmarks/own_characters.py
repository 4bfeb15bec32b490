"""Accuracy on class folders made of Omniglot's evaluation characters, through every way to use a run.

    metarun algo=protonet data=omniglot data.split=lake data.rotations=none data.train_way=20 \\
        train.steps=400 hydra.run.dir=RUN
    python benchmarks/own_characters.py RUN ARCHIVE --tasks 200

ARCHIVE is images_evaluation.zip. Each task has five characters, with one drawing of each as support and five
as queries, as a test of the run has. The run is used through the modules of `metarun predict`,
`metarun.load`, a file of `metarun export` in onnxruntime, and the endpoint of `metarun serve`.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import threading
import time
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
import requests
import torch
import uvicorn

import metarun
from metarun.evaluation.prediction.answers import answers
from metarun.evaluation.prediction.exporting import export
from metarun.evaluation.prediction.opened import opened
from metarun.evaluation.prediction.own_examples import read_query
from metarun.evaluation.prediction.usable import usable
from metarun.serving.app import Desk, Limits, make_app

WAY, SHOT, QUERY = 5, 1, 5


def folders(archive: zipfile.ZipFile, root: Path, generator: random.Random) -> None:
    """Write support/CLASS/*.png and query/CLASS/*.png of five random characters."""
    drawings = defaultdict(list)
    for name in archive.namelist():
        if name.endswith(".png"):
            drawings[name.rpartition("/")[0]].append(name)
    for character in generator.sample(sorted(drawings), WAY):
        chosen = generator.sample(sorted(drawings[character]), SHOT + QUERY)
        for i, name in enumerate(chosen):
            part = "support" if i < SHOT else "query"
            place = root / part / character.replace("/", " ") / name.rpartition("/")[2]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(archive.read(name))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--predict-only", action="store_true", help="leave the other ways out, which are slow"
    )
    options = parser.parse_args()
    archive, generator = zipfile.ZipFile(options.archive), random.Random(options.seed)
    app = make_app(Desk(usable(options.run), None, Limits()), ["127.0.0.1"])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/predict"
    shares: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.tasks):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            folders(archive, root, generator)
            model = opened(options.run, root / "support")
            query = read_query(root / "query", model.usable.reading, model.usable.dtype)
            truth = np.array(query.said)
            found = {"metarun predict": np.array([answer.label for answer in answers(model, query)])}
            shares["metarun predict"].append(float((found["metarun predict"] == truth).mean()))
            if options.predict_only:
                continue
            support = sorted((root / "support").rglob("*.png"))
            paths = [root / "query" / name for name in query.names]
            learner = metarun.load(options.run).fit(support, [path.parent.name for path in support])
            found["metarun.load"] = learner.predict(paths)
            export(root / "a.onnx", model, "onnx")
            session = onnxruntime.InferenceSession(str(root / "a.onnx"))
            ((_, x),) = query.parts(1000)
            probabilities = session.run(None, {"x": x.numpy()})[0]
            found["onnxruntime"] = np.array(model.classes)[probabilities.argmax(1)]
            parts = [(f"support:{p.parent.name}", (p.name, p.read_bytes())) for p in support]
            parts += [("query", (p.name, p.read_bytes())) for p in paths]
            sent = requests.post(address, files=parts, timeout=60).json()
            found["metarun serve"] = np.array([each["class"] for each in sent["answers"]])
        for way, labels in list(found.items())[1:]:
            shares[way].append(float((labels == truth).mean()))
    for way, values in shares.items():
        each = torch.tensor(values, dtype=torch.float64)
        print(f"{way}: {each.mean():.2%} ± {1.96 * each.std() / math.sqrt(len(each)):.2%}")


if __name__ == "__main__":
    main()
