"""The private parts of Hydra and Optuna that metarun uses do what they did, in the versions installed."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.utils import get_class

from metarun.config import private

SOURCE = Path(__file__).parents[2] / "src"


def test_hydras_flags_are_parsed() -> None:
    flags = private.argument_parser().parse_args(["--multirun", "--cfg", "job", "a=1", "b=2"])
    assert (flags.multirun, flags.cfg, flags.overrides) == (True, "job", ["a=1", "b=2"])


def test_jobs_are_all_combinations_with_the_last_choice_fastest() -> None:
    parsed = OverridesParser.create().parse_overrides(["a=1,2", "b=3,4", "c=x"])
    expected = [[f"a={a}", f"b={b}", "c=x"] for a in (1, 2) for b in (3, 4)]
    assert private.all_combinations(parsed) == expected


def test_the_basic_launcher_is_there() -> None:
    assert issubclass(get_class(private.BASIC_LAUNCHER), Launcher)


def test_a_plugins_launcher_can_be_forgotten() -> None:
    Plugins.instance()
    store = ConfigStore.instance()
    store.store(group="hydra/launcher", name="of_a_plugin", node={})
    assert "of_a_plugin.yaml" in store.list("hydra/launcher")
    private.forget_registered_launchers(["of_a_plugin"])
    assert "of_a_plugin.yaml" not in store.list("hydra/launcher")


def test_what_a_job_raised_can_be_had_without_raising_it() -> None:
    error = ValueError("of the job")
    job = JobReturn(status=JobStatus.FAILED)
    job.return_value = error
    with pytest.raises(ValueError, match="of the job"):
        _ = job.return_value
    assert private.what_was_raised(job) is error


def test_a_trial_begun_elsewhere_can_be_reported_to() -> None:
    study = optuna.create_study()
    number = study.ask().number
    trial = private.trial_of(study, study.trials[number])
    trial.report(1.5, step=3)
    trial.set_user_attr("pruned", True)
    assert study.trials[number].intermediate_values == {3: 1.5}
    assert study.trials[number].user_attrs == {"pruned": True}


def test_no_other_module_touches_private_parts() -> None:
    pattern = re.compile(r"hydra\._internal|\._trial_id|\._return_value|\.repo\b")
    touching = {
        path.name for path in SOURCE.rglob("*.py") if pattern.search(path.read_text(encoding="utf-8"))
    }
    assert touching == {"private.py"}
