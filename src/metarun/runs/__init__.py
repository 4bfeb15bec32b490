"""Run directories; knows nothing of meta-learning."""

from metarun.system.callable_package import make_callable

make_callable(__name__, "metarun.api.runs", "runs")
