"""A run's directory: config, manifest, metrics, checkpoints, results and log."""

from __future__ import annotations

import hashlib
import json
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from metarun.errors import ConfigError, MetarunError, OutOfTimeError, PrunedError
from metarun.runs.added import ADDED_LATER, HAD_DTYPE, NEW_IN_GROUPS, NO
from metarun.runs.changes import differences, kept, may_change
from metarun.runs.checkpoints import Checkpoints
from metarun.runs.contents import are_results, is_plain
from metarun.runs.holding import copied_log, held
from metarun.runs.metrics import MetricsFile
from metarun.runs.resuming import resume_command
from metarun.system.files import as_json, write_text

log = logging.getLogger("metarun")

TEST_TASKS = "test_tasks.npz"
"""Name of the file with the scores of each test task."""

_WRITTEN = ("config.yaml", "manifest.json", "engine.json", "results.json", TEST_TASKS, "error.txt")


class Run:
    """One training with its directory; knows nothing of meta-learning."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.metrics = MetricsFile(directory / "metrics.jsonl")
        self.checkpoints = Checkpoints(directory / "checkpoints", self._identity)
        self._restart: dict[str, Any] | None = None

    @classmethod
    def create(cls, directory: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> Run:
        """Write the config and the manifest of a new run, or prepare to continue an existing one.

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
            MetarunError: the directory holds no run.
        """
        run = cls(directory)
        if not run.exists():
            raise MetarunError(
                f"{directory} is not a run: expected a folder with config.yaml and checkpoints/, "
                f"such as outputs/DATE/TIME"
            )
        return run

    def exists(self) -> bool:
        """Return whether this directory holds a run."""
        return self._path("config.yaml").is_file()

    def begin(self, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        """Write the config and the manifest of a new run, or prepare to continue an existing one.

        The files of an existing run stay unchanged until its checkpoint is loaded: `resumed` writes them.

        Raises:
            ConfigError: the directory holds a run that this config cannot continue.
        """
        if self.exists():
            changed = self.changed(config)
            self._restart = {"config": dict(config), "changed": changed, "manifest": dict(manifest)}
        elif next(self._path("checkpoints").glob("*.pt"), None):
            raise ConfigError(
                f"{self.directory} holds checkpoints and no config.yaml: restore config.yaml from a copy, or "
                f"type another hydra.run.dir=FOLDER"
            )
        else:
            self.write_json("manifest.json", manifest)
            self._write_config(config)

    def with_own(self, config: Mapping[str, Any], words: Sequence[str] = ()) -> dict[str, Any]:
        """Return a config with the existing run's seeding, unless `words` sets it: older runs keep theirs."""
        typed = any(word.lstrip("+").startswith("seeding=") for word in words)
        if typed or not self.exists():
            return dict(config)
        return {**config, "seeding": self.config()["seeding"]}

    def differing(self, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return the dotted keys in which a config differs from the run's own → (old value, new value).

        A key that a later metarun added is ignored if its value stands for what was done before.
        """
        different = differences(self.config(), ADDED_LATER | dict(config))
        return {
            key: values
            for key, values in different.items()
            if values != (None, NEW_IN_GROUPS.get(key, values))
        }

    def changed(self, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return the keys in which a config differs from the run's own → (old value, new value).

        Raises:
            ConfigError: some of these keys may not change, or the directory holds a sweep.
        """
        if self._path("sweep.json").exists():
            raise ConfigError(f"{self.directory} holds a sweep: type another hydra.run.dir=FOLDER")
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
        """Return a digest of the config values that may not change."""
        config = kept(HAD_DTYPE | self._config())
        # A key added later counts only if its value is not the old behaviour: older configs may lack it.
        old = ADDED_LATER | NEW_IN_GROUPS
        hashed = {
            key: value for key, value in config.items() if key in HAD_DTYPE or old.get(key, NO) != value
        }
        return hashlib.sha256(as_json(hashed).encode()).hexdigest()

    @property
    def changing(self) -> Mapping[str, Any]:
        """The keys that change with this resume, until `resumed` records them: key → (old, new)."""
        return self._restart["changed"] if self._restart else {}

    def resumed(self, step: int) -> None:
        """Record in the manifest that the run resumes from this step, and what has changed."""
        if self._restart is None:
            return
        restart, self._restart = self._restart, None
        original = self.manifest()
        different = {key: value for key, value in restart["manifest"].items() if original.get(key) != value}
        entry = {"step": step, "changed": restart["changed"], **different}
        earlier = original.get("resumed")
        entries = [*(earlier if isinstance(earlier, list) else []), entry]
        self.write_json("manifest.json", {**original, "resumed": entries})
        if restart["changed"]:
            self._write_config(restart["config"])

    def config(self) -> dict[str, Any]:
        """Return the composed config as plain values.

        Raises:
            MetarunError: the file is damaged.
        """
        config = self._config()
        # In the order of the file: the digest of a run's checkpoints depends on it.
        return config | {key: value for key, value in ADDED_LATER.items() if key not in config}

    def _config(self) -> dict[str, Any]:
        """Return the content of config.yaml."""
        path = self._path("config.yaml")
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise MetarunError(f"{path} is damaged: restore it from a copy") from error
        if not isinstance(config, dict) or not is_plain(config):
            raise MetarunError(f"{path} holds no config: restore it from a copy")
        return config

    def describe(self, data: Mapping[str, Any]) -> None:
        """Add to the manifest what the run's data turned out to be; warn where it was another before."""
        original = self.manifest()
        known = original.get("data", data)
        if not data or known == data:
            if data and "data" not in original:
                self.write_json("manifest.json", {**original, "data": data})
            return
        different = ", ".join(differences(known, data)) or "order"
        log.warning("the data has changed since the run began (%s): its bits will be others", different)

    def manifest(self) -> dict[str, Any]:
        """Return the content of manifest.json, needed to repeat the run; {} if the file is missing."""
        return self._read_json("manifest.json") or {}

    @property
    def home(self) -> str:
        """The folder that the run was started in, which may hold a user's classes; "" if it is unknown."""
        return str(self.manifest().get("directory", ""))

    def results(self) -> dict[str, Any] | None:
        """Return the results of a finished run, or None if the run is not finished.

        Raises:
            MetarunError: the file is damaged.
        """
        results = self._read_json("results.json")
        if results is not None and not are_results(results):
            raise MetarunError(
                f"{self._path('results.json')} does not hold results: delete it, and test again"
            )
        return results

    def error(self) -> str | None:
        """Return the error line of the run's last attempt, or None if that did not fail."""
        path = self._path("error.txt")
        return (
            path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] if path.is_file() else None
        )

    def forget_results(self) -> None:
        """Remove the results or the error of the last attempt: the run continues."""
        for name in ("results.json", TEST_TASKS, "error.txt"):
            self._path(name).unlink(missing_ok=True)

    def inputs(self) -> dict[str, Any] | None:
        """Return what the run keeps of its data, for its learner alone; None: an older metarun made it.

        Raises:
            MetarunError: the file is damaged.
        """
        return self._read_json("inputs.json")

    def calibration(self) -> dict[str, Any] | None:
        """Return the temperature that was fitted to validation tasks, and what it does; None: there is none.

        Raises:
            MetarunError: the file is damaged.
        """
        return self._read_json("calibration.json")

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the run atomically."""
        write_text(self._path(name), as_json(content, indent=2) + "\n")

    def _read_json(self, name: str) -> dict[str, Any] | None:
        """Return the content of a JSON file of the run, or None if there is no such file.

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
            raise MetarunError(f"{path} does not hold a JSON object: restore it from a copy, or delete it")
        return content

    def _write_config(self, config: Mapping[str, Any]) -> None:
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_text(self._path("config.yaml"), text)

    def _path(self, name: str) -> Path:
        return self.directory / name

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Lock the run for this process, and write the log and any error into its directory.

        The operating system releases the lock when the process ends, even if it is killed.

        Raises:
            InUseError: another process has locked it.
        """
        with held(self.directory), copied_log(self._path("metarun.log")) as handler:
            self.checkpoints.tidy()
            for name in _WRITTEN:
                for leftover in self.directory.glob(f".{name}-*"):
                    leftover.unlink()
            try:
                yield
            except BaseException as error:
                # The console shows one line; the log of the run keeps the traceback of an unexpected error.
                expected = isinstance(error, MetarunError | KeyboardInterrupt)
                trace = None if expected else (type(error), error, error.__traceback__)
                level = logging.INFO if isinstance(error, PrunedError) else logging.ERROR
                handler.handle(log.makeRecord(log.name, level, __file__, 0, "%s", (error,), trace))
                self.failed(error)
                raise

    def failed(self, error: BaseException) -> None:
        """Write error.txt: the error in one line, then the traceback if it is unexpected."""
        finished = self._path("results.json").exists()  # a finished run stays finished
        if finished or isinstance(error, KeyboardInterrupt | OutOfTimeError | PrunedError):
            return
        text = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, MetarunError):
            text = f"{type(error).__name__}: {text}\n\n{''.join(traceback.format_exception(error))}"
        elif error.__cause__ is not None and not isinstance(error.__cause__, MetarunError | OSError):
            text = f"{text}\n\n{''.join(traceback.format_exception(error.__cause__))}"
        with suppress(OSError):  # the error may be a full disk; the console shows it
            write_text(self._path("error.txt"), text.rstrip() + "\n")
