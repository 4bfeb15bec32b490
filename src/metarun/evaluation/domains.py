"""A trained run tested on other datasets than its own: other domains."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarun.config.composition import compose_config, quoted
from metarun.errors import ConfigError, did_you_mean
from metarun.evaluation.curve import Curve, evaluate
from metarun.evaluation.trained import reopen
from metarun.runs.directory import Run
from metarun.system.randomness import fix
from metarun.tasks.description import class_names
from metarun.tasks.images.adapted import Adapted

# The sizes of episodes are those of the run, where the other data has such a key.
_SIZES = ("way", "shot", "query")


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

    def words(self, trained: Mapping[str, Any], config_dirs: Sequence[str]) -> list[str]:
        """Return the overrides for a run whose data keys are `trained`."""
        words = [f"data={self.name}"]
        keys = compose_config(words, config_dirs)["data"]
        sizes = [key for key in _SIZES if isinstance(trained.get(key), int) and key in keys]
        words += [f"data.{key}={trained[key]}" for key in sizes]
        if self.root:
            words.append(f"data.root={quoted(Path(self.root).expanduser().resolve())}")
        if self.name == "folder":
            words.append("data.shares=[0,0,1]")  # where its folders do not say it, all classes are new
        return words


@dataclass(frozen=True)
class Tested:
    """A test on a domain.

    Attributes:
        domain: the dataset.
        curve: the scores.
        fitted: what was done to its images, in words; empty: nothing.
        content: what is kept besides: names of classes.
    """

    domain: Domain
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
    trained = Run.open(directory).config()["data"]
    also = ("train.test_tasks", "train.test_curve", "engine.workers")
    for domain in domains:
        words = [*domain.words(trained, config_dirs), *overrides]
        run = reopen(directory, words, config_dirs, also, fit_images=True)
        source = run.experiment.source
        fix(run.config.seed, "test")
        curve = evaluate(run.experiment.learner, source, "test", run.config.train.test_tasks, run.executor())
        fitted = source.in_words() if isinstance(source, Adapted) else ""
        yield Tested(domain, curve, fitted, class_names(source, "test"))
