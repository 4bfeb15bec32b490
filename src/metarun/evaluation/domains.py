"""A trained run tested on other datasets than its own: other domains."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarun.config.composition import as_typed, compose_config
from metarun.config.overrides import single_values
from metarun.errors import ConfigError, did_you_mean
from metarun.evaluation.curve import Curve, evaluate
from metarun.evaluation.trained import Trained, reopen
from metarun.experiment.config import PLACES, read_config
from metarun.experiment.sources import build_source, is_of, parts_of
from metarun.runs.directory import Run
from metarun.system.randomness import fix
from metarun.tasks.description import class_names
from metarun.tasks.images.adapted import Adapted

# The sizes of episodes are those of the run, where the other data has such a key.
_SIZES = ("way", "shot", "query", "unlabelled", "distractors")


@dataclass(frozen=True)
class Domain:
    """A dataset to test on, typed as NAME or NAME:FOLDER.

    Attributes:
        typed: as it was typed.
        name: the option of `data`.
        root: the folder that follows it.
    """

    typed: str
    name: str
    root: str

    @classmethod
    def read(cls, typed: str, options: Sequence[str]) -> list[Domain]:
        """Return the domains of a text such as omniglot,folder:photographs; a folder's name may have commas.

        Args:
            typed: the text.
            options: the datasets that there are.

        Raises:
            ConfigError: there is no such dataset.
        """
        known = "|".join(map(re.escape, options))
        domains = []
        for each in re.split(rf",(?=(?:{known})(?:[:,]|$))", typed):
            name, _, root = each.partition(":")
            if name not in options:
                hint = did_you_mean(name, options)
                raise ConfigError(
                    f"--on {typed}: {name or 'nothing'} is no dataset{hint}; expected names of data=, as in "
                    f"--on omniglot,folder:photographs"
                )
            domains.append(cls(each, name, root))
        return domains

    def words(
        self, trained: Mapping[str, Any], shape: tuple[int, ...], config_dirs: Sequence[str]
    ) -> list[str]:
        """Return the overrides for a run.

        Args:
            trained: the data keys of the run.
            shape: of its inputs; images are decoded in this size, where the data allows it.
            config_dirs: a user's own folders of groups.

        Raises:
            ConfigError: the dataset reads no files, and a folder is named.
        """
        words = [f"data={self.name}"]
        keys = compose_config(words, config_dirs)["data"]
        place = next((key for key in PLACES if key in keys), None)
        if self.root and place is None:
            raise ConfigError(f"--on {self.typed}: {self.name} reads no files: type --on {self.name}")
        typed = {place: str(Path(self.root).expanduser().resolve())} if self.root and place else {}
        sizes = {key: trained[key] for key in _SIZES if isinstance(trained.get(key), int)}
        look = {"channels": shape[0], "size": shape[1]} if len(shape) == 3 and shape[1] == shape[2] else {}
        chosen = {key: value for key, value in {**sizes, **look}.items() if key in keys} | typed
        # Classes of the training are no test: of the run's own data, its own test classes are taken.
        own = next((part for part in parts_of(trained) if is_of(part, {**keys, **typed})), None)
        if own is not None and own is not trained:
            chosen |= {key: value for key, value in own.items() if key in keys and key != "_target_"}
        elif self.name == "folder" and own is None:
            chosen["shares"] = [0, 0, 1]  # where its folders do not say it, all classes are new
        return [*words, *(f"data.{key}={as_typed(value)}" for key, value in chosen.items())]


@dataclass(frozen=True)
class Tested:
    """A test on a domain.

    Attributes:
        domain: the dataset.
        trained: the run's learner, reopened with the dataset.
        overrides: of the run's config for this test.
        curve: the scores.
        fitted: what was done to its images, in words; empty: nothing.
        content: what is kept besides: names of classes.
    """

    domain: Domain
    trained: Trained
    overrides: Sequence[str]
    curve: Curve
    fitted: str
    content: Mapping[str, Any]


def on_domains(
    directory: Path, domains: Sequence[Domain], overrides: Sequence[str], config_dirs: Sequence[str] = ()
) -> Iterator[Tested]:
    """Yield the test of a run's best learner on each dataset.

    Args:
        directory: of the run.
        domains: the datasets; images are resized, and made grey or coloured, as the run's were.
        overrides: for all of them.
        config_dirs: a user's own folders of groups.

    Raises:
        ConfigError: a dataset does not fit the run.
        MetarunError: the directory holds no run, it has no checkpoint, or data is missing.
    """
    for word in single_values(overrides):
        if word.key_or_group in ("data", "data.test") or word.key_or_group.startswith("data.test."):
            raise ConfigError(f"{word.input_line}: --on says what is tested on: leave it out")
    run = Run.open(directory)
    trained, shape = run.config()["data"], _shape_of(run)
    also = ("train.test_tasks", "train.test_curve", "engine.workers")
    for domain in domains:
        words = [*domain.words(trained, shape, config_dirs), *overrides]
        tested = reopen(directory, words, config_dirs, also, fit_images=True)
        source = tested.experiment.source
        fix(tested.config.seed, "test")
        tasks = tested.config.train.test_tasks
        curve = evaluate(tested.experiment.learner, source, "test", tasks, tested.executor())
        fitted = source.in_words() if isinstance(source, Adapted) else ""
        yield Tested(domain, tested, words, curve, fitted, class_names(source, "test"))


def _shape_of(run: Run) -> tuple[int, ...]:
    """Return the shape of a run's inputs."""
    kept = run.inputs()
    if kept is not None:
        return tuple(kept["facts"]["input_shape"])
    return tuple(build_source(read_config({**run.config(), "device": "cpu"}, run.home), run.home).input_shape)
