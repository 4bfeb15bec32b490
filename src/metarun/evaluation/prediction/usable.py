"""A run's best learner, and what is needed to use it without the data that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from metarun.config.overrides import single_values
from metarun.errors import ConfigError, did_you_mean, with_keys
from metarun.evaluation.trained import best_state, override
from metarun.experiment.build import Facts, build_learner, chosen_device
from metarun.experiment.config import Config, needed_by, read_config
from metarun.experiment.fit import without_training
from metarun.experiment.sources import build_source, dtype_of
from metarun.learners import Learner
from metarun.runs.directory import Run
from metarun.tasks.metrics import Loss, binary_cross_entropy, cross_entropy, mean_squared_error
from metarun.tasks.reading import Reading, reading_from, reading_of
from metarun.tasks.types import Targets, TaskSource, targets_of

LOSSES: dict[Targets, Loss] = {
    "classes": cross_entropy,
    "binary": binary_cross_entropy,
    "values": mean_squared_error,
}
"""What an inner loop minimises."""

# Keys that may differ from the training's.
OPEN = ("inner.test_steps", "inner.test_batch", "algo.transductive", "algo.proximal", "device")


@dataclass(frozen=True)
class Usable:
    """A trained learner, in evaluation mode.

    Attributes:
        learner: with its weights.
        config: of the run.
        facts: what it knows of its tasks.
        reading: how examples become inputs.
        dtype: of inputs.
        device: where it is.
        step: meta-step of its checkpoint.
        node: the config as plain values.
        run: None: it is of a file.
    """

    learner: Learner[Any]
    config: Config
    facts: Facts
    reading: Reading
    dtype: torch.dtype
    device: torch.device
    step: int
    node: Mapping[str, Any]
    run: Run | None = None

    @property
    def temperature(self) -> float:
        """What logits are divided by: 1, or what the run keeps for this checkpoint."""
        kept = self.calibration
        return 1.0 if kept is None else float(kept["temperature"])

    @property
    def limit(self) -> int | None:
        """The number of classes that its head can tell apart; None: any."""
        kind, size = type(self.learner), self.facts.output_size
        # Learners that read labels have an input for each class, and no head of the model's.
        return size if "output_size" in needed_by(kind) else kind.model_output_size(size)

    @property
    def settings(self) -> dict[str, Any]:
        """The values of the keys that may differ from the training's, but the device."""
        parts = [key.partition(".") for key in OPEN if "." in key]
        return {f"{group}.{name}": self.node[group].get(name) for group, _, name in parts}

    @property
    def calibration(self) -> dict[str, Any] | None:
        """What the run keeps of a calibration with this checkpoint and these settings; None: nothing."""
        kept = None if self.run is None else self.run.calibration()
        if kept is None or (kept["checkpoint_step"], kept["settings"]) != (self.step, self.settings):
            return None
        return kept


def without_downloads(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config whose model fetches no weights: they come from a checkpoint."""
    model = dict(node["model"])
    return {**node, "model": {**model, "pretrained": False} if "pretrained" in model else model}


def inputs_of(source: TaskSource) -> dict[str, Any]:
    """Return what a run keeps of its source, to use its learner without it, as plain values."""
    return plain_inputs(Facts.of(source), reading_of(source))


def plain_inputs(facts: Facts, reading: Reading) -> dict[str, Any]:
    """Return them as plain values for a file."""
    return {"facts": asdict(facts), "reading": reading.plain()}


def read_inputs(content: Mapping[str, Any]) -> tuple[Facts, Reading]:
    """Return what `inputs_of` was made of."""
    facts = dict(content["facts"])
    return Facts(tuple(facts.pop("input_shape")), **facts), reading_from(content["reading"])


@with_keys()
def usable(directory: Path, overrides: Sequence[str] = ()) -> Usable:
    """Return a run's best learner (the last, where none was validated).

    Args:
        directory: of the run.
        overrides: of keys in OPEN.

    Raises:
        ConfigError: an override does not fit.
        MetarunError: the directory is not a run's, or has no checkpoint.
    """
    run = Run.open(directory)
    for word in single_values(overrides):
        if word.key_or_group not in OPEN:
            raise ConfigError(
                f"{word.input_line}: {word.key_or_group} cannot be changed for a prediction"
                f"{did_you_mean(word.key_or_group, OPEN)}; choose from {', '.join(OPEN)}"
            )
    node = without_downloads(override(run.config(), overrides))
    config = without_training(read_config(node, run.home))
    kept = run.inputs()
    if kept is None:  # of an older metarun: its data says it
        source = build_source(config, run.home)
        facts, reading = Facts.of(source), reading_of(source)
        if targets_of(source) not in LOSSES:
            raise ConfigError(
                f"the targets of this run are {targets_of(source)}: expected classes or numbers"
            )
    else:
        facts, reading = read_inputs(kept)
    learner = build_learner(config, facts, home=run.home)
    state = best_state(run)
    learner.load_state_dict(state["learner"])
    learner.eval()
    device, dtype = chosen_device(config.device), dtype_of(config)
    return Usable(learner, config, facts, reading, dtype, device, state["step"], node, run)
