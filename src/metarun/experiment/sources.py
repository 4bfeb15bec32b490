"""Builds task sources from a checked config, those inside others too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from metarun.errors import ConfigError, MetarunError, in_one_line, with_keys
from metarun.experiment.config import GIVEN, PLACES, Config, OtherData, check_made, check_target
from metarun.experiment.fit import check_source
from metarun.experiment.schema import check, locate, target_fields
from metarun.experiment.starts import arguments_of, settings_of
from metarun.fields import Seed
from metarun.system.allocator import is_out_of_memory
from metarun.system.randomness import Seeding
from metarun.tasks import TaskSource
from metarun.tasks.elsewhere import TestedElsewhere
from metarun.tasks.images.decoding import Channels
from metarun.tasks.images.published.published import Size
from metarun.tasks.mixture import Mixture, Weight

# Keys that say which data are meant.
_IDENTITY = (*PLACES, "name")


@with_keys()
def build_source(config: Config, home: str = "") -> TaskSource:
    """Build the task source; no images are read from disk yet.

    Args:
        config: of the experiment.
        home: the folder that relative paths in the config start from, where they exist there.
    """
    offered = {"dtype": dtype_of(config), "seeding": config.seeding, "home": home}
    data, others = arguments_of(OtherData, config.data), settings_of(OtherData, config.data)
    arguments = wanted("data", data, offered)
    if "dtype" not in arguments and config.dtype != "float32":
        raise ConfigError(
            f"dtype={config.dtype}: {data['_target_']} always makes float32: "
            f"give it a `dtype` argument, or type dtype=float32"
        )
    source: TaskSource = make("data", data, **arguments)
    check_source(data["_target_"], source)
    if others.test is None:
        return source
    if any(is_of(part, others.test) for part in parts_of(data)):
        raise ConfigError(
            f"data.test={others.test.get('label')}: these are the data of the training, whose own test "
            f"classes are tested without it: leave it out"
        )
    sizes = {key: value for key, value in data.items() if not key.startswith("train_")}
    other = _part("data.test", others.test, sizes, offered, tuple(source.input_shape))
    return TestedElsewhere(source, other, str(others.test.get("label", "another")))


def parts_of(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the nodes of the datasets that a training has: those of a mixture, or its only one."""
    sources = data.get("sources")
    return (
        [part for part in sources if isinstance(part, Mapping)]
        if isinstance(sources, list | tuple)
        else [data]
    )


def is_of(data: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two nodes are the same data: the same dataset, or folder."""
    are_real = any(key in other for key in (*_IDENTITY, "shares"))  # synthetic data have new tasks
    same = data.get("_target_") == other.get("_target_") and are_real
    return same and all(_same_place(data.get(key), other.get(key)) for key in _IDENTITY)


def _same_place(one: object, other: object) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
    return one == other


def mixture(
    *,
    sources: Sequence[Mapping[str, Any]] | None,
    weights: Sequence[Weight] | None = None,
    size: Size = 84,
    channels: Channels = 3,
    seed: Seed = 0,
    seeding: Seeding = "streams",
    home: str = "",
    dtype: torch.dtype = torch.float32,
    **shared: Any,
) -> Mixture:
    """Return a mixture of sources.

    Args:
        sources: the nodes of them, with a label each.
        weights: see Mixture.
        size: height and width of the images, in pixels.
        channels: 3 (colour) or 1 (grey).
        seed: determines the episodes.
        seeding: how splits follow from it; see `Streams`.
        home: the folder that relative paths start from, if they are there.
        dtype: of the inputs.
        **shared: the keys that hold for all sources.

    Raises:
        ConfigError: a source has no such key, or they do not fit together.
    """
    if shared.get("train_batch") is not None:
        raise ConfigError(
            f"@source.train_batch={shared['train_batch']}: the classes of several datasets are no one set of "
            f"classes: type algo=protonet, or data of one dataset"
        )
    offered = {"dtype": dtype, "seeding": seeding, "home": home}
    shape = (channels, size, size)
    built: dict[str, TaskSource] = {}
    for node in sources or ():
        label = str(node.get("label", len(built)))
        while label in built:
            label += "'"
        key = f"data.sources: {node.get('label', label)}"
        built[label] = _part(key, node, {"seed": seed, **shared}, offered, shape)
    return Mixture(built, shape, weights, seed)


def _part(
    key: str,
    node: Mapping[str, Any],
    whole: Mapping[str, Any],
    offered: Mapping[str, Any],
    shape: tuple[int, ...],
) -> TaskSource:
    """Build a source inside another, named by its key; the keys of the whole hold where it has no own.

    Raises:
        ConfigError: it has no such key, or a value is wrong.
    """
    own = {key: value for key, value in node.items() if key != "label"}
    target = locate(key, own)
    check_target("data", own, target)
    fields = target_fields(target, GIVEN["data"])
    look = {"size": shape[1], "channels": shape[0]} if len(shape) == 3 else {}
    common = {key: value for key, value in {**whole, **look}.items() if key in fields.types}
    own = {**common, **own}
    check(key, own, fields)
    try:
        source: TaskSource = make(key, own, **wanted("data", own, offered))
    except MetarunError as error:
        raise type(error)(f"{key}: {error.problem}", error.remedy) from error
    check_source(f"{key}: {own['_target_']}", source)
    return source


def wanted(group: str, node: Mapping[str, Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the offered arguments that the class of a node takes."""
    fields = target_fields(locate(group, node)).types
    return {name: value for name, value in offered.items() if name in fields}


def dtype_of(config: Config) -> torch.dtype:
    """Return the dtype of parameters and examples."""
    return torch.float64 if config.dtype == "float64" else torch.float32


def make(group: str, node: Mapping[str, Any], **arguments: Any) -> Any:
    """Call a node's `_target_` with its keys and the arguments; nested nodes stay plain values.

    Raises:
        MetarunError: raised by the target itself.
        ConfigError: the target fails in another way, or returns an object of another kind than the group's.
    """
    try:
        instance = instantiate(dict(node), **arguments, _convert_="all", _recursive_=False)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, MetarunError):
            raise cause from None
        if isinstance(cause, PermissionError) and cause.filename:
            raise MetarunError(f"{group}: {cause.filename} cannot be read ({cause.strerror})") from None
        if is_out_of_memory(cause):
            raise ConfigError(f"{group}: it does not fit into memory: type smaller sizes") from error
        raise ConfigError(f"{group}._target_={node['_target_']} fails: {in_one_line(cause)}") from error
    if not arguments.get("_partial_"):
        check_made(group, instance)
    return instance
