"""`metarun export RUN|MODEL --out FILE.onnx`: write an adapted learner as a function."""

from __future__ import annotations

from pathlib import Path

from metarun.cli.arguments import check_out, learner_parser, parse
from metarun.evaluation.prediction.exporting import export
from metarun.evaluation.prediction.opened import opened
from metarun.evaluation.prediction.usable import OPEN


def main(arguments: list[str]) -> None:
    """Write an adapted learner for torch.export or ONNX.

    Raises:
        ConfigError: an argument is wrong, or the examples do not fit the run.
        MetarunError: the learner cannot be exported.
    """
    parser = learner_parser(
        "export",
        "Write a learner that has seen labelled examples as a function of its inputs.",
        OPEN,
        "inner.test_steps=10",
    )
    parser.add_argument("--support", type=Path, help="of a run: class folders, a csv, or a file of rows")
    parser.add_argument("--format", choices=("torch", "onnx"), default="onnx", help="onnx, or torch (.pt2)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file")
    options = parse(parser, arguments[1:])
    check_out("--out", options.out)
    model = opened(options.run, options.support, [*options.overrides, "device=cpu"])
    export(options.out, model, options.format)
    shape = ", ".join(map(str, model.usable.facts.input_shape))
    output = f"probabilities of {', '.join(model.classes)}" if model.classes else "numbers"
    print(f"{options.out}: [n, {shape}] to {output}")
