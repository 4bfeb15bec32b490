"""What training begins with: weights of another run or of a file, and parameters that stay fixed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor, nn

from metarun.errors import ConfigError, MetarunError
from metarun.runs.directory import Run
from metarun.system.tensor_files import DamagedFileError, read_tensors

log = logging.getLogger("metarun")


class InitialWeights(BaseModel, extra="forbid", frozen=True):
    """Keys of every model.

    Attributes:
        init_from: a run's folder, or a file with a model's state_dict.
        strict: whether each of the model's weights must be there, in its shape.
    """

    init_from: str | None = None
    strict: bool = True


class Fixed(BaseModel, extra="forbid", frozen=True):
    """Keys of every algorithm that has a model.

    Attributes:
        freeze: the model's parameters that are not trained: `all`, `body` (all but its head), or a pattern of
            their names.
    """

    freeze: str | None = None


def arguments_of(settings: type[BaseModel], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node without the keys of these settings: the arguments of its class."""
    return {key: value for key, value in node.items() if key not in settings.model_fields}


def settings_of(settings: type[BaseModel], node: Mapping[str, Any]) -> Any:
    """Return these settings, from a node that has other keys too."""
    return settings(**{key: value for key, value in node.items() if key in settings.model_fields})


def read_weights(place: str, home: str = "") -> dict[str, Tensor]:
    """Return a model's weights by name.

    Args:
        place: a run's folder, of which the best checkpoint is taken (the last, where none was validated); or
            a file that torch.save has made of a state_dict, alone or under the key state_dict, model or
            learner.
        home: the folder that a relative place starts from.

    Raises:
        ConfigError: there is no such run or file, or it holds no weights.
    """
    path = Path(home, place).expanduser()
    try:
        if path.is_dir():
            content = _learner_of(path, place)
        else:
            content = read_tensors(path, sealed=False)
            content = next((content[key] for key in _NESTED if isinstance(content.get(key), dict)), content)
    except (OSError, DamagedFileError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged, or no file of tensors"
        raise ConfigError(
            f"model.init_from={place}: {reason}: expected a run's folder, or a file that torch.save has made "
            f"of a state_dict"
        ) from error
    weights = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    for prefix in ("module.", "model."):  # of torch's DataParallel, and of a learner
        if any(name.startswith(prefix) for name in weights):
            weights = {
                name.removeprefix(prefix): tensor
                for name, tensor in weights.items()
                if name.startswith(prefix)
            }
    if not weights:
        raise ConfigError(f"model.init_from={place}: it holds no weights of a model")
    return weights


def _learner_of(directory: Path, place: str) -> dict[str, Any]:
    """Return the state of a run's best learner."""
    try:
        checkpoints = Run.open(directory).checkpoints
        state = checkpoints.best() or checkpoints.newest()
    except MetarunError as error:
        raise ConfigError(f"model.init_from={place}: {error}") from error
    if state is None:
        raise ConfigError(f"model.init_from={place}: this run has no checkpoint yet: train it first")
    learner: dict[str, Any] = state["learner"]
    return learner


_NESTED = ("learner", "state_dict", "model")


def fitting(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that have a place of their name and shape in a model."""
    return {
        name: weights[name]
        for name, tensor in model.state_dict().items()
        if name in weights and weights[name].shape == tensor.shape
    }


def load(
    model: nn.Module, weights: Mapping[str, Tensor], settings: InitialWeights, *, announce: bool = True
) -> None:
    """Load the weights that fit, and log which ones do not, if asked to.

    Raises:
        ConfigError: settings.strict, and a weight of the model is missing or has another shape; or none fits.
    """
    own, found = model.state_dict(), fitting(model, weights)
    place = f"model.init_from={settings.init_from}"
    others = [
        f"{name} is {list(weights[name].shape)} there and {list(tensor.shape)} here"
        if name in weights
        else f"{name} is not there"
        for name, tensor in own.items()
        if name not in found
    ]
    if not found or (others and settings.strict):
        wanted = "another run or model" if not found else "model.strict=false to leave these as they start"
        raise ConfigError(f"{place}: {_few(others or ['the model has no weights'])}: type {wanted}")
    model.load_state_dict({**own, **found})
    if not announce:
        return
    log.info("%s: %d of %d tensors", place, len(found), len(own))
    if others:
        log.info("as they start: %s", _few(others))
    if unused := [name for name in weights if name not in own]:
        log.info("not used: %s", _few(unused))


def _few(items: list[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def freeze(model: nn.Module, pattern: str) -> None:
    """Let the parameters of this pattern require no gradient; norms keep their running statistics then.

    Raises:
        ConfigError: the pattern matches none.
    """
    names = [name for name, _ in model.named_parameters()]
    matches = [
        name
        for name in names
        if pattern == "all"
        or (pattern == "body" and not name.startswith("head."))
        or fnmatchcase(name, pattern)
    ]
    if not matches:
        raise ConfigError(
            f"algo.freeze={pattern} matches no parameter of the model: type all, body or a pattern of "
            f"{_few(names) or '(it has none)'}"
        )
    for name in matches:
        model.get_parameter(name).requires_grad_(False)


def model_to_start(learner: nn.Module, place: str) -> nn.Module:
    """Return a learner's model, which weights are loaded into.

    Raises:
        ConfigError: the learner has none, or draws its parameters anew for each task.
    """
    model = dict(learner.named_children()).get("model")
    if model is None:
        raise ConfigError(
            f"model.init_from={place}: {type(learner).__name__} does not start from weights of a model "
            f"with these settings: leave it out"
        )
    return model
