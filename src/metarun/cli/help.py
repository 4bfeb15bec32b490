"""`metarun --help`: examples, commands, and the options of each group."""

from __future__ import annotations

import textwrap

from metarun.cli.main import verbs
from metarun.config.options import CONF, groups

_PAGE = """\
metarun trains a learner that learns quickly, tests it on tasks it has never seen, and saves the run.

  metarun                                        MAML on sinusoids, half a minute, nothing to download
  metarun algo=metasgd data=omniglot             Meta-SGD on 5-way 1-shot Omniglot
  metarun data=omniglot data.way=20 data.shot=5 inner.steps=5 model.filters=32
  metarun experiment=sinusoid_metasgd            a published set-up, whole
  metarun -m algo=maml,metasgd seed=0,1,2        a sweep: every combination, and a table at its end
  metarun -m hydra/sweeper=optuna search=rates   a search; hydra.sweeper.n_trials=40
  metarun resume outputs/DATE/TIME               continue a run or a sweep that was stopped or killed
  metarun --cfg job algo=metasgd                 print the config of a command, run nothing

Commands:
{commands}

Choose one option of each group, as in algo=metasgd (metarun list GROUP describes them):
{groups}

Then set single keys, as in inner.lr=0.05. Often used:
  seed                   of weights, tasks and data split (0)
  device                 auto, cpu, cuda, cuda:1
  train.steps            meta-steps; train.meta_batch: tasks per meta-step
  train.max_time         save and stop after 90s, 1h30m, 2-12:00:00; train.patience: for early stopping
  train.validate_every   meta-steps between validations; train.checkpoint_every: between checkpoints
  data.way, data.shot    classes, and support examples per class; data.query: query examples per class
  data.root, data.split  the folder of the archives; random or lake
  inner.lr, inner.steps  the rate and number of inner steps; inner.test_steps: at test
  model.filters          channels; model.norm: batch, group, layer, none
  engine.chunk           tasks in memory at once; engine.threads: of torch on a CPU

Runs are saved in outputs/DATE/TIME: config, metrics, checkpoints, results. Your options: --config-dir FOLDER.
Shell completion: eval "$(metarun -sc install=bash)" (bash, zsh or fish). Hydra's flags: metarun --hydra-help.
"""


def main(arguments: list[str]) -> None:  # noqa: ARG001
    """Print the page."""
    commands = "\n".join(f"  metarun {name:<10} {description}" for name, description in verbs().items())
    group_lines = "\n".join(
        textwrap.fill(
            f"  {name:<15} {', '.join(option.name for option in options)}", 110, subsequent_indent=" " * 18
        )
        for name, options in groups([CONF]).items()
    )
    print(_PAGE.format(commands=commands, groups=group_lines), end="")
