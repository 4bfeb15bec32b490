"""A run's directory: config, manifest, metrics, checkpoints, results and log."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from metarun.errors import ConfigError, MetarunError, OutOfTimeError, PrunedError
from metarun.runs.changes import differences, kept, may_change
from metarun.runs.checkpoints import Checkpoints
from metarun.runs.contents import are_results, is_plain
from metarun.runs.holding import copied_log, held
from metarun.runs.metrics import MetricsFile
from metarun.system.files import as_json, write_text

log = logging.getLogger("metarun")


class Run:
    """One training with its directory; knows nothing of meta-learning."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.metrics = MetricsFile(directory / "metrics.jsonl")
        self.checkpoints = Checkpoints(directory / "checkpoints", self._identity)
        self._restart: dict[str, Any] | None = None

    @classmethod
    def create(cls, directory: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> Run:
        """Write the config and the manifest of a new run, or let this config continue the one that is there.

        Raises:
            ConfigError: the directory holds a run that this config cannot continue.
        """
        run = cls(directory)
        run.begin(config, manifest)
        return run

    @classmethod
    def open(cls, directory: Path) -> Run:
        """Return an existing run.

        Raises:
            MetarunError: the directory is not a run's.
        """
        run = cls(directory)
        if not run.exists():
            raise MetarunError(
                f"{directory} is not a run: expected a folder with config.yaml and checkpoints/, "
                f"such as outputs/DATE/TIME"
            )
        return run

    def exists(self) -> bool:
        """Say whether a run was begun in this directory."""
        return self._path("config.yaml").is_file()

    def begin(self, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        """Write the config and the manifest of a new run, or let this config continue the one that is there.

        The files of one that goes on are only changed once it has found its checkpoint, by `resumed`.

        Raises:
            ConfigError: the directory holds a run that this config cannot continue.
        """
        if self.exists():
            changed = self.changed(config)
            self._restart = {"config": dict(config), "changed": changed, "manifest": dict(manifest)}
        elif next(self._path("checkpoints").glob("*.pt"), None):
            raise ConfigError(
                f"{self.directory} holds checkpoints and no config.yaml: restore that from a copy, or type "
                f"another hydra.run.dir=FOLDER"
            )
        else:
            self.write_json("manifest.json", manifest)
            self._write_config(config)

    def with_own(self, config: Mapping[str, Any], words: Sequence[str] = ()) -> dict[str, Any]:
        """Return a config with the run's own seeding, unless another was typed: older runs keep theirs."""
        typed = any(word.lstrip("+").startswith("seeding=") for word in words)
        if typed or not self.exists():
            return dict(config)
        return {**config, "seeding": self.config()["seeding"]}

    def differing(self, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return the dotted keys in which a config differs from the run's own, with old and new value.

        A key that came with a later metarun does not count, where its value is what was done before.
        """
        found = differences(self.config(), _ADDED_LATER | dict(config))
        return {key: both for key, both in found.items() if both != (None, _NEW_IN_GROUPS.get(key, both))}

    def changed(self, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return the keys in which a config differs from the run's own, with the old and the new value.

        Raises:
            ConfigError: some of them are of those that a run keeps.
        """
        if not self.exists():
            return {}
        different = self.differing(config)
        refused = [key for key in different if not may_change(key)]
        if refused:
            raise ConfigError(
                f"{self.directory} holds a run that differs in {', '.join(refused)}: type another "
                f"hydra.run.dir=FOLDER, or {resume_command(self.directory)} to continue that run"
            )
        return different

    def _identity(self) -> str:
        """Return a digest of what a run keeps for all its life."""
        config = kept(_HAD_DTYPE | self._config())
        # What came later counts where it is something new: an older run has it or not, and is the same.
        old = _ADDED_LATER | _NEW_IN_GROUPS
        told = {
            key: value for key, value in config.items() if key in _HAD_DTYPE or old.get(key, _NO) != value
        }
        return hashlib.sha256(as_json(told).encode()).hexdigest()

    @property
    def changing(self) -> Mapping[str, Any]:
        """The keys that change as the run goes on, until `resumed` has recorded them: key → old and new."""
        return self._restart["changed"] if self._restart else {}

    def resumed(self, step: int) -> None:
        """Record that the run goes on from this step, and what has changed since it began."""
        if self._restart is None:
            return
        start, self._restart = self._restart, None
        first = self.manifest()
        different = {key: value for key, value in start["manifest"].items() if first.get(key) != value}
        entry = {"step": step, "changed": start["changed"], **different}
        before = first.get("resumed")
        entries = [*(before if isinstance(before, list) else []), entry]
        self.write_json("manifest.json", {**first, "resumed": entries})
        if start["changed"]:
            self._write_config(start["config"])

    def config(self) -> dict[str, Any]:
        """Return the composed config as plain values.

        Raises:
            MetarunError: the file is damaged.
        """
        return _ADDED_LATER | self._config()

    def _config(self) -> dict[str, Any]:
        """Return what config.yaml holds."""
        path = self._path("config.yaml")
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise MetarunError(f"{path} is damaged: restore it from a copy") from error
        if not isinstance(config, dict) or not is_plain(config):
            raise MetarunError(f"{path} holds no config: restore it from a copy")
        return config

    def manifest(self) -> dict[str, Any]:
        """Return what one needs to know to repeat the run; nothing where it was lost."""
        return self._read_json("manifest.json") or {}

    @property
    def home(self) -> str:
        """The folder that the run was started in, where a user's own classes may be; "" where it was lost."""
        return str(self.manifest().get("directory", ""))

    def results(self) -> dict[str, Any] | None:
        """Return the results of a finished run, None of any other.

        Raises:
            MetarunError: the file is damaged.
        """
        results = self._read_json("results.json")
        if results is not None and not are_results(results):
            raise MetarunError(
                f"{self._path('results.json')} holds something else: delete it, and test again"
            )
        return results

    def error(self) -> str | None:
        """Return the line with which the run failed when it was last tried, if it did."""
        path = self._path("error.txt")
        return (
            path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] if path.is_file() else None
        )

    def forget_results(self) -> None:
        """Remove how the run ended when it was last tried: it goes on."""
        for name in ("results.json", "error.txt"):
            self._path(name).unlink(missing_ok=True)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a file of the run atomically, for people and programs."""
        write_text(self._path(name), as_json(content, indent=2) + "\n")

    def _read_json(self, name: str) -> dict[str, Any] | None:
        """Return the content of a file of the run.

        Raises:
            MetarunError: the file is damaged.
        """
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise MetarunError(f"{path} is damaged: restore it from a copy, or delete it") from error
        if not isinstance(content, dict):
            raise MetarunError(f"{path} holds something else: restore it from a copy, or delete it")
        return content

    def _write_config(self, config: Mapping[str, Any]) -> None:
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_text(self._path("config.yaml"), text)

    def _path(self, name: str) -> Path:
        return self.directory / name

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Hold the run for this process, and copy the log, and how it failed if it does, into its directory.

        The system lets go of it when the process ends, however that happens.

        Raises:
            InUseError: another process holds it.
        """
        with held(self.directory), copied_log(self._path("metarun.log")) as handler:
            self.checkpoints.tidy()
            for name in ("config.yaml", "manifest.json", "engine.json", "results.json", "error.txt"):
                for leftover in self.directory.glob(f".{name}-*"):
                    leftover.unlink()
            try:
                yield
            except BaseException as error:
                # The console shows a person the one line; the run keeps where an unexpected error came from.
                expected = isinstance(error, MetarunError | KeyboardInterrupt)
                trace = None if expected else (type(error), error, error.__traceback__)
                level = logging.INFO if isinstance(error, PrunedError) else logging.ERROR
                handler.handle(log.makeRecord(log.name, level, __file__, 0, "%s", (error,), trace))
                self.failed(error)
                raise

    def failed(self, error: BaseException) -> None:
        """Leave the error in the run's error.txt: its line, then where it came from if it is unexpected."""
        finished = self._path("results.json").exists()  # and stays so: what was refused is another thing
        if finished or isinstance(error, KeyboardInterrupt | OutOfTimeError | PrunedError):
            return
        text = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, MetarunError):
            text = f"{type(error).__name__}: {text}\n\n{''.join(traceback.format_exception(error))}"
        elif error.__cause__ is not None and not isinstance(error.__cause__, MetarunError | OSError):
            text = f"{text}\n\n{''.join(traceback.format_exception(error.__cause__))}"
        with suppress(OSError):  # a full disk is the error, as a rule, and is said on the console
            write_text(self._path("error.txt"), text.rstrip() + "\n")


def resume_command(directory: Path) -> str:
    """Return what to type to go on with a run or a sweep, for any name of its directory."""
    name = str(directory)
    return f"metarun resume {shlex.quote(f'./{name}' if name.startswith('-') else name)}"


# What a run of an older metarun had without saying so.
_NO = object()
_NEW_IN_GROUPS = {"data.resize": "lanczos"}
_HAD_DTYPE = {"dtype": "float32"}
_ADDED_LATER = {**_HAD_DTYPE, "seeding": "shared"}
