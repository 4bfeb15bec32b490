"""The start of adaptation: the names of adapting parameters, and fresh parameters for every task."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from metarun.errors import ConfigError
from metarun.rules import Parameters
from metarun.system.randomness import Streams

_GLOBAL_GENERATOR = threading.Lock()


def of_norms(model: nn.Module) -> set[str]:
    """Return the names of the parameters of normalisation layers."""
    return {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm)
        for name, _ in module.named_parameters()
    }


def frozen(model: nn.Module) -> set[str]:
    """Return the names of the parameters that neither loop changes: those without requires_grad.

    An exception are the parameters that a module lists in a tuple `context_parameters`: they adapt from the
    same value in every task, and are not meta-learned (CAVIA).
    """
    context = {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, module in model.named_modules()
        for name in getattr(module, "context_parameters", ())
    }
    return {name for name, p in model.named_parameters() if not p.requires_grad} - context


def matching(adapts: str, names: list[str], setting: str = "@learner.adapts") -> set[str]:
    """Return the parameter names that `all`, `head`, `body` or a pattern selects.

    Args:
        adapts: the keyword or pattern.
        names: the names of all parameters.
        setting: the setting with this value, for the message.

    Raises:
        ConfigError: the pattern matches no name, or excludes every name.
    """
    if not names:
        raise ConfigError("the model has no parameters: there is nothing that could adapt", "another model")
    head = {name for name in names if name.startswith("head.")}
    if adapts in ("head", "body") and not head:
        raise ConfigError(
            f"{setting}={adapts}: the model has no layer called head",
            f"a pattern of its parameter names instead: {', '.join(names)}",
        )
    keywords = {"all": set(names), "head": head, "body": set(names) - head}
    if adapts in keywords:
        selection, pattern_matches = keywords[adapts], True
    else:
        matches = {name for name in names if fnmatchcase(name, adapts.removeprefix("!"))}
        selection = set(names) - matches if adapts.startswith("!") else matches
        pattern_matches = bool(matches)
    if not selection or not pattern_matches:
        problem = "leaves no parameter" if pattern_matches else "matches no parameter"
        words = (
            [word for word, members in keywords.items() if members]
            if setting == "@learner.adapts"
            else ["norms"]
        )
        raise ConfigError(
            f"{setting}={adapts} {problem}", f"{', '.join(words)} or a pattern of {', '.join(names)}"
        )
    return selection


def adapted_and_per_step(model: nn.Module, adapts: str, per_step: str | None) -> tuple[set[str], list[str]]:
    """Return the names of parameters that adapt, and of parameters with values for each inner step.

    Args:
        model: the network.
        adapts: see `GradientAdaptation`.
        per_step: see `GradientAdaptation`.

    Raises:
        ConfigError: no parameter adapts, or a pattern matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    selection, frozen_names = matching(adapts, names), frozen(model)
    if not selection - frozen_names:
        raise ConfigError(
            f"@learner.adapts={adapts}: all matching parameters are frozen (requires_grad=False), so nothing "
            f"adapts: unfreeze one of {', '.join(sorted(selection))[:100]}"
        )
    if per_step is None:
        return selection - frozen_names, []
    step_names = of_norms(model) if per_step == "norms" else matching(per_step, names, "@learner.per_step")
    if not selection - frozen_names - step_names:
        raise ConfigError(
            f"@learner.per_step={per_step} leaves no parameter that adapts", "@learner.per_step=norms"
        )
    return (
        selection - frozen_names - step_names,
        [name for name in names if name in step_names - frozen_names],
    )


def check_starts_afresh(model: nn.Module, steps: int, *, alone: bool) -> None:
    """Raise ConfigError if parameters cannot be drawn anew for every task.

    Args:
        model: the network.
        steps: number of inner steps.
        alone: whether all parameters adapt and none has values per step.
    """
    if not alone:
        raise ConfigError(
            "@learner.start=fresh needs all parameters to adapt, without values per step",
            "@learner.adapts=all and @learner.per_step=null",
        )
    if steps == 0:
        raise ConfigError("@learner.start=fresh needs inner steps", "@loop.steps=1 or more")
    for name, _ in model.named_buffers():
        raise ConfigError(f"@learner.start=fresh: the model has a buffer, {name}, which cannot be drawn")


class FreshParameters:
    """Parameters that the model's own initialisation draws anew for every task.

    Args:
        make: builds the model; the initialisation draws from torch's global generator, as torch's layers do.
        streams: seeds the draw of each task, together with the task's key.
    """

    def __init__(self, make: Callable[[], nn.Module], streams: Streams) -> None:
        self._make, self._streams = make, streams

    def draw(self, keys: Tensor, like: Mapping[str, Tensor]) -> Parameters:
        """Return parameters [T, …] of tasks with these keys [T], with the names and types of `like`."""
        models: list[dict[str, Tensor]] = []
        # Seed the global generator for each task's model, and restore it at the end.
        with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
            for key in keys.tolist():
                torch.default_generator.manual_seed(self._streams.start("fresh parameters", key))
                models.append(dict(self._make().named_parameters()))
        return {
            name: torch.stack([params[name].detach() for params in models]).to(old.device, old.dtype)
            for name, old in like.items()
        }
