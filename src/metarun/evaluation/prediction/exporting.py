"""An adapted learner as one function of its inputs, in the formats of torch.export and ONNX."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from metarun import __version__
from metarun.errors import MetarunError, in_one_line
from metarun.evaluation.prediction.task_model import TaskModel, class_logits
from metarun.system.files import naming, replace

Format = Literal["torch", "onnx"]

_MOST = 65_536  # examples of one call
_ABOUT = "metarun.json"


class Function(nn.Module):
    """Maps raw inputs to probabilities [n, classes], or to numbers [n, outputs] in the units of the targets.

    Inputs are images as uint8 [n, channels, size, size], or rows of numbers [n, *shape], as they are in a
    file: scaling is part of the function.

    Args:
        model: an adapted learner whose predictions do not depend on one another.

    Raises:
        MetarunError: they do.
    """

    in_mean: Tensor | None
    in_shift: Tensor
    in_divisor: Tensor
    out_mean: Tensor | None
    out_shift: Tensor
    out_divisor: Tensor

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        if model.is_transductive:
            raise MetarunError(
                "each prediction of this learner depends on the others (its batch norms, or the algorithm), "
                "which a function of one input cannot do: train with model.norm=none, or with algo=protonet"
            )
        model.check()  # adapts it
        self.learner = model.usable.learner.eval()
        self._adapted, self._dtype = model.adapted, model.usable.dtype
        self._classes, self.temperature = len(model.classes), model.temperature
        reading = model.usable.reading
        self._of_bytes = model.support.x.dtype == torch.uint8
        scalings = {"in": getattr(reading, "scaling", None), "out": getattr(reading, "of_targets", None)}
        for name, scaling in scalings.items():
            for part in ("mean", "shift", "divisor"):
                value = None if scaling is None else torch.from_numpy(getattr(scaling, part)).to(self._dtype)
                self.register_buffer(f"{name}_{part}", value)

    def example(self, model: TaskModel) -> Tensor:
        """Return raw inputs, two of them."""
        if self._of_bytes:
            return model.support.x[:1].repeat_interleave(2, 0)
        return torch.zeros(2, *model.usable.facts.input_shape, dtype=self._dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is predicted of raw inputs."""
        if self._of_bytes:
            x = x.to(self._dtype) / 255
        elif self.in_mean is not None:
            x = (torch.where(x.isfinite(), x, self.in_mean) - self.in_shift) / self.in_divisor
        predicted = self.learner.predict(self._adapted, x[None])
        if self._classes:
            return (class_logits(predicted, self._classes)[0] / self.temperature).softmax(-1)
        values: Any = predicted.mean if isinstance(predicted, Distribution) else predicted
        if self.out_mean is None:
            only: Tensor = values[0]
            return only
        divisor = torch.where(self.out_divisor.isfinite(), self.out_divisor, 0.0)
        in_units: Tensor = values[0] * divisor + self.out_shift
        return in_units


def export(path: Path, model: TaskModel, form: Format) -> None:
    """Write an adapted learner as a function, atomically, with its classes and how inputs are read.

    Raises:
        MetarunError: it depends on other inputs, torch cannot write it, or a package is missing.
        OSError: the file cannot be written.
    """
    function = Function(model).cpu()
    about = json.dumps(
        {
            "version": __version__,
            "classes": model.classes,
            "reading": model.usable.reading.plain(),
            "input": "uint8" if function._of_bytes else str(function._dtype).removeprefix("torch."),
            "output": "probabilities" if model.classes else "values",
        }
    )
    example = function.example(model)
    shapes = ({0: torch.export.Dim("n", min=1, max=_MOST)},)
    with _quiet():
        try:
            program = torch.export.export(function, (example,), dynamic_shapes=shapes)
            content = _in_onnx(program, about) if form == "onnx" else _in_torch(program, about)
        except MetarunError:
            raise
        except Exception as error:  # torch raises many kinds
            raise MetarunError(
                f"this learner cannot be exported to {form} ({in_one_line(error)[:150]})"
            ) from error
    with naming(path):
        replace(path, lambda file: file.write(content))


def _in_torch(program: torch.export.ExportedProgram, about: str) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={_ABOUT: about})
    return buffer.getvalue()


def _in_onnx(program: torch.export.ExportedProgram, about: str) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MetarunError(
            "--format onnx needs onnx and onnxscript: pip install 'metarun[export]'"
        ) from error
    made = torch.onnx.export(
        program, input_names=["x"], output_names=["y"], dynamo=True, verbose=False, external_data=False
    )
    assert made is not None
    made.model.metadata_props["metarun"] = about
    content: bytes = made.model_proto.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters say of packages that are not there to themselves."""
    names = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "torch.export")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
