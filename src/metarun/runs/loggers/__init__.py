"""Loggers (`logger=`): each follows a run beside its metrics.jsonl, in a thread of its own."""

from metarun.runs.loggers.csv_file import CSVFile
from metarun.runs.loggers.logger import Ended, Logger, RunFacts
from metarun.runs.loggers.ml_flow import MLflow
from metarun.runs.loggers.tensor_board import TensorBoard
from metarun.runs.loggers.track_io import Trackio
from metarun.runs.loggers.weights_and_biases import WandB

__all__ = ["CSVFile", "Ended", "Logger", "MLflow", "RunFacts", "TensorBoard", "Trackio", "WandB"]
