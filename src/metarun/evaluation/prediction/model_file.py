"""An adapted learner in a file of its own: its weights, what it has seen, and how examples become inputs.

The file is in the format safetensors: tensors, and one JSON text. Reading it runs no code.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from metarun import __version__
from metarun.errors import MetarunError, in_one_line, with_keys
from metarun.evaluation.prediction.own_examples import Labelled, Notes
from metarun.evaluation.prediction.task_model import TaskModel
from metarun.evaluation.prediction.usable import (
    LOSSES,
    Usable,
    plain_inputs,
    read_inputs,
    without_downloads,
)
from metarun.experiment.build import build_learner, chosen_device
from metarun.experiment.config import read_config
from metarun.experiment.sources import dtype_of
from metarun.system.files import naming, replace

_KEY = "metarun"
_FORMAT = 1
_OF_LEARNER = "learner."


def save_model(path: Path, model: TaskModel) -> None:
    """Write an adapted learner, atomically.

    Raises:
        MetarunError: safetensors is not installed.
        OSError: the file cannot be written.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise _missing() from error
    usable, support = model.usable, model.support
    weights = {f"{_OF_LEARNER}{name}": value for name, value in usable.learner.state_dict().items()}
    y = support.y
    if not isinstance(y, torch.Tensor):
        place = {name: number for number, name in enumerate(model.classes)}
        y = torch.tensor([place[label] for label in y])
    content = {
        "format": _FORMAT,
        "version": __version__,
        "config": usable.node,
        **plain_inputs(usable.facts, usable.reading),
        "classes": model.classes,
        "names": support.names,
        "temperature": model.temperature,
        "step": usable.step,
    }
    tensors = {**weights, "support.x": support.x, "support.y": y}
    # Weights that are shared are written twice.
    apart = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    data = save(apart, {_KEY: json.dumps(content)})
    with naming(path):
        replace(path, lambda file: file.write(data))


@with_keys()
def read_model(path: Path, device: str | None = None) -> TaskModel:
    """Return the adapted learner of a file.

    Args:
        path: of the file.
        device: where to put it; None: as in its run.

    Raises:
        MetarunError: it is no such file, or is damaged.
        ConfigError: its learner cannot be built here.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise _missing() from error
    try:
        with safe_open(path, "pt") as file:
            content: dict[str, Any] = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        if content["format"] != _FORMAT:
            raise MetarunError(f"{path} is of another metarun, {content['version']}: make it again")
        facts, reading = read_inputs(content)
        weights = {
            name.removeprefix(_OF_LEARNER): value
            for name, value in tensors.items()
            if name.startswith(_OF_LEARNER)
        }
        x, y = tensors["support.x"], tensors["support.y"]
        classes, names = list(content["classes"]), list(content["names"])
        node = without_downloads({**content["config"], **({} if device is None else {"device": device})})
        temperature, step = float(content["temperature"]), int(content["step"])
        labels = [str(classes[label]) for label in y.tolist() if label >= 0] if classes else y
        if not (0 < temperature < math.inf and len(labels) == len(x) == len(names)):
            raise ValueError("its examples, labels and temperature do not fit together")
        if tuple(x.shape[1:]) != facts.input_shape or facts.targets not in LOSSES:
            raise ValueError("its examples are not those of its network")
    except (
        SafetensorError,
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        RecursionError,
    ) as error:
        raise MetarunError(f"{path} is no file of metarun adapt ({in_one_line(error)[:100]})") from error
    config = read_config(node)
    learner = build_learner(config, facts)
    try:
        learner.load_state_dict(weights)
    except RuntimeError as error:  # torch's, for weights that do not fit
        raise MetarunError(f"{path} is damaged: its weights do not fit its network") from error
    learner.eval()
    usable = Usable(
        learner, config, facts, reading, dtype_of(config), chosen_device(config.device), step, node
    )
    return TaskModel(usable, Labelled(x, labels, names, Notes()), temperature)


def _missing() -> MetarunError:
    return MetarunError("files of metarun adapt need safetensors: pip install 'metarun[export]'")
