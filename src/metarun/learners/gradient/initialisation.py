"""Where adaptation starts: which parameters adapt, and fresh ones for every task."""

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
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm)
        for own, _ in module.named_parameters()
    }


def frozen(model: nn.Module) -> set[str]:
    """Return the names of the parameters that neither loop moves: those without requires_grad.

    A module may name some of them in a tuple `context_parameters`: those adapt all the same, from the same
    value in every task, and are not meta-learned (CAVIA's).
    """
    context = {
        f"{prefix}.{own}".removeprefix(".")
        for prefix, module in model.named_modules()
        for own in getattr(module, "context_parameters", ())
    }
    return {name for name, p in model.named_parameters() if not p.requires_grad} - context


def matching(adapts: str, names: list[str], setting: str = "@learner.adapts") -> set[str]:
    """Return the parameter names that `all`, `head`, `body` or a pattern stands for.

    Args:
        adapts: what to match.
        names: of all parameters.
        setting: whose value it is, for the message.

    Raises:
        ConfigError: the pattern fits no name, or there is none but those it leaves out.
    """
    if not names:
        raise ConfigError("the model has no parameters: there is nothing that could adapt", "another model")
    head = {name for name in names if name.startswith("head.")}
    if adapts in ("head", "body") and not head:
        raise ConfigError(
            f"{setting}={adapts}: the model has no layer called head",
            f"a pattern of its parameter names instead: {', '.join(names)}",
        )
    known = {"all": set(names), "head": head, "body": set(names) - head}
    if adapts in known:
        chosen, pattern_fits = known[adapts], True
    else:
        named = {name for name in names if fnmatchcase(name, adapts.removeprefix("!"))}
        chosen, pattern_fits = (set(names) - named if adapts.startswith("!") else named), bool(named)
    if not chosen or not pattern_fits:
        wrong = "leaves no parameter" if pattern_fits else "matches no parameter"
        words = (
            [word for word, fitting in known.items() if fitting]
            if setting == "@learner.adapts"
            else ["norms"]
        )
        raise ConfigError(
            f"{setting}={adapts} {wrong}", f"{', '.join(words)} or a pattern of {', '.join(names)}"
        )
    return chosen


def adapted_and_per_step(model: nn.Module, adapts: str, per_step: str | None) -> tuple[set[str], list[str]]:
    """Return which parameters adapt, and which have values of their own for each inner step, by name.

    Args:
        model: whose parameters they are.
        adapts: see `GradientAdaptation`.
        per_step: see `GradientAdaptation`.

    Raises:
        ConfigError: nothing adapts, or a pattern fits nothing.
    """
    names = [name for name, _ in model.named_parameters()]
    chosen, unmoved = matching(adapts, names), frozen(model)
    if not chosen - unmoved:
        raise ConfigError(
            f"@learner.adapts={adapts}: all that this stands for is frozen (requires_grad=False), so nothing "
            f"adapts: leave one of {', '.join(sorted(chosen))[:100]} free"
        )
    if per_step is None:
        return chosen - unmoved, []
    own = of_norms(model) if per_step == "norms" else matching(per_step, names, "@learner.per_step")
    if not chosen - unmoved - own:
        raise ConfigError(
            f"@learner.per_step={per_step} leaves no parameter that adapts", "@learner.per_step=norms"
        )
    return chosen - unmoved - own, [name for name in names if name in own - unmoved]


def check_starts_afresh(model: nn.Module, steps: int, *, alone: bool) -> None:
    """Raise ConfigError where parameters cannot be drawn anew for every task.

    Args:
        model: whose they are.
        steps: of the inner loop.
        alone: whether all of them adapt, and nothing else is learned of them.
    """
    if not alone:
        raise ConfigError(
            "@learner.start=fresh: all parameters adapt, from nothing learned",
            "@learner.adapts=all and @learner.per_step=null",
        )
    if steps == 0:
        raise ConfigError("@learner.start=fresh learns inner steps", "@loop.steps=1 or more")
    for name, _ in model.named_buffers():
        raise ConfigError(f"@learner.start=fresh: the model has a buffer, {name}, which no task draws")


class FreshParameters:
    """Parameters that the model's own initialisation draws anew for every task.

    Args:
        make: builds the model; it draws from torch's global generator, as torch's layers do.
        streams: say, with a task's key, where its draw starts.
    """

    def __init__(self, make: Callable[[], nn.Module], streams: Streams) -> None:
        self._make, self._streams = make, streams

    def draw(self, keys: Tensor, like: Mapping[str, Tensor]) -> Parameters:
        """Return parameters of tasks with these keys [T], of the names and types of `like`, [T, …]."""
        drawn: list[dict[str, Tensor]] = []
        # The global generator is set for each task's model alone, and put back as it was.
        with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
            for key in keys.tolist():
                torch.default_generator.manual_seed(self._streams.start("fresh parameters", key))
                drawn.append(dict(self._make().named_parameters()))
        return {
            name: torch.stack([each[name].detach() for each in drawn]).to(each_like.device, each_like.dtype)
            for name, each_like in like.items()
        }
