"""`metarun data list | info | prepare | verify | show`: look at datasets, prepare them, check their files."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from metarun.cli.arguments import add_config_dirs, parse
from metarun.config.composition import compose_config
from metarun.config.options import CONF, groups
from metarun.errors import ConfigError, Interrupted, MetarunError, did_you_mean
from metarun.experiment.config import read_config
from metarun.experiment.fit import without_training
from metarun.experiment.sources import build_source
from metarun.reports.data import about, found_in, in_lines
from metarun.tasks import SPLITS, TaskSource


def main(arguments: list[str]) -> None:
    """List datasets, or tell about one, prepare it, check its files, or draw a few of its episodes.

    Raises:
        ConfigError: there is no such dataset, or a key is wrong.
        MetarunError: files are missing or damaged.
    """
    parser = argparse.ArgumentParser(
        "metarun data",
        description="Look at datasets. Keys are those of a training, as in data.root=FOLDER data.size=84.",
        allow_abbrev=False,
    )
    parser.add_argument("what", choices=("list", *_VERBS), help="list them all, or what to do with one")
    parser.add_argument("name", nargs="?", help="a dataset, as in data=NAME")
    parser.add_argument("overrides", nargs="*", help="key=value, as in data.root=photographs")
    parser.add_argument("--out", type=Path, help="show: the picture's file, FILE.png")
    parser.add_argument("--episodes", type=int, default=3, help="show: how many (3)")
    parser.add_argument("--split", choices=SPLITS, default="train", help="show: of which split (train)")
    add_config_dirs(parser)
    options = parse(parser, arguments[1:])
    sources = [CONF, *(Path(folder) for folder in options.config_dirs)]
    described = {option.name: option.description for option in groups(sources)["data"]}
    if options.what == "list":
        width = max(map(len, described))
        print("\n".join(f"{name:<{width}}  {text}" for name, text in described.items()))
        return
    if options.name not in described:
        said = options.name or "no dataset is named"
        raise ConfigError(
            f"{said}: expected a dataset{did_you_mean(said, described)}; choose from {', '.join(described)}"
        )
    if (options.out is not None) != (options.what == "show"):
        missing = "--out is missing: type --out FILE.png"
        raise ConfigError(missing if options.what == "show" else "--out is for metarun data show")
    words = [f"data={options.name}", *options.overrides]
    config = without_training(read_config(compose_config(words, options.config_dirs)))
    _VERBS[options.what](build_source(config), options, words)


def _info(source: TaskSource, options: Any, words: Sequence[str]) -> None:  # noqa: ARG001
    print(in_lines(about(source)))


def _prepare(source: TaskSource, options: Any, words: Sequence[str]) -> None:
    import torch

    try:
        source.prepare(torch.device("cpu"))
    except KeyboardInterrupt:
        again = shlex.join(["metarun", "data", "prepare", options.name, *words[1:]])
        raise Interrupted(f"stopped; what is done is kept, and to go on: {again}", signal.SIGINT) from None
    print(in_lines({**about(source), **found_in(source)}))


def _verify(source: TaskSource, options: Any, words: Sequence[str]) -> None:
    verify = getattr(source, "verify", None)
    if verify is None:
        print(f"{options.name}: it has no files to check")
        return
    problems = verify()
    print(in_lines({**about(source), "problems": problems or "none"}))
    if problems:
        more = f"; {len(problems) - 1} more above" if len(problems) > 1 else ""
        raise MetarunError(f"{options.name}: {problems[0]}{more}")
    print(f"\nall is there: metarun {' '.join(words)}", file=sys.stderr)


def _show(source: TaskSource, options: Any, words: Sequence[str]) -> None:  # noqa: ARG001
    from metarun.reports.pictures import picture
    from metarun.tasks.description import class_names
    from metarun.tasks.episodes import episodes

    shape = source.input_shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ConfigError(f"{options.name}: its inputs are {list(shape)}, and a picture shows images")
    if options.episodes < 1:
        raise ConfigError(f"--episodes {options.episodes}: should be 1 or more")
    import torch

    source.prepare(torch.device("cpu"))
    tasks = episodes(source, options.split, 0, options.episodes)
    names = class_names(source, options.split).get("classes", [])
    try:
        picture(tasks, names).save(options.out)
    except (ValueError, KeyError) as error:  # Pillow's, for an unknown ending
        raise ConfigError(f"--out {options.out}: Pillow writes no such files: type --out FILE.png") from error
    except OSError as error:
        raise MetarunError(f"--out {options.out} cannot be written ({error.strerror or error})") from error
    print(f"{options.out}: {options.episodes} episodes of {options.split}, support above query")


_VERBS: dict[str, Callable[[TaskSource, Any, Sequence[str]], None]] = {
    "info": _info,
    "prepare": _prepare,
    "verify": _verify,
    "show": _show,
}
