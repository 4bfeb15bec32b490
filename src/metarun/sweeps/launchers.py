"""What Hydra's launchers need before they are used: a package, or a Ray cluster."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from metarun.errors import ConfigError

EXTRAS = {
    "hydra_plugins.hydra_joblib_launcher": "joblib",
    "hydra_plugins.hydra_submitit_launcher": "submitit",
    "hydra_plugins.hydra_ray_launcher": "ray",
}
"""The package that a launcher comes from → the extra of metarun that installs it."""

RAY = "hydra_plugins.hydra_ray_launcher"


def start_ray(settings: Any) -> None:
    """Start or join a Ray cluster; call this before installing signal handlers, which Ray would replace.

    Ray is told not to write a token into the home directory, and not to send usage statistics.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # otherwise similar lines of different jobs are dropped
    import ray

    if not ray.is_initialized():
        ray.init(**{key: value for key, value in settings.items() if value is not None})


def check_installed(target: str) -> None:
    """Raise ConfigError if the launcher's package is not installed."""
    for package, extra in EXTRAS.items():
        if target.startswith(package) and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"hydra/launcher={extra}: its package is not installed; type pip install 'metarun[{extra}]'"
            )
