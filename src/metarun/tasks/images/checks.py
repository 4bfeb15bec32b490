"""Checks of class episodes: they must fit into their splits, and every key must have an effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metarun.errors import ConfigError
from metarun.tasks.images.mixing import MIXING
from metarun.tasks.types import SPLITS, Split

if TYPE_CHECKING:
    from metarun.tasks.images.class_episodes import ClassEpisodes

CONCENTRATION = 2
"""Default α of the Dirichlet distribution of query classes."""

MIXING_CONCENTRATION = 1
"""Default α of mixup and cutmix: the share of the other image is then uniform."""

FEWEST_WAY, MOST_SUPPORT = 5, 500
"""Meta-Dataset's minimum of classes and maximum of support images (arXiv:1903.03096, section 3.2)."""


def check_sizes(source: ClassEpisodes) -> None:
    """Raise ConfigError for an episode that is larger than its split."""
    for split in SPLITS[2:] if getattr(source, "for_tests", False) else SPLITS:
        sizes = source.sizes(split)
        key, shot_key, query_key = _keys(source, split)
        are_batches = split == "train" and source.train_batch is not None
        if (images := source.needed(split)) > source.fewest(split) and not are_batches:
            unlabelled = f", @source.unlabelled={sizes.unlabelled}" if sizes.unlabelled else ""
            typed = f"@source.{shot_key}={sizes.most_shot} and @source.{query_key}={sizes.query}{unlabelled}"
            raise ConfigError(
                f"{typed} need {images} images a class; there are {source.fewest(split)}",
                f"@source.{shot_key} and @source.{query_key} with a smaller sum",
            )
        way = sizes.way + sizes.distractors
        if source.sampler == "variable":
            key, way = "fewest_way", sizes.fewest_way
        if way > (classes := source.count(split)):
            told, besides = source.few(split)
            has = f"{classes} class{'' if classes == 1 else 'es'}"
            typed = f"@source.{key}={way - sizes.distractors}"
            if sizes.distractors:
                typed += f" and @source.distractors={sizes.distractors}"
            raise ConfigError(
                f"{typed}: the {split} split has {has}{told}",
                f"@source.{key}={classes} or less{besides}" if classes > 1 else f"more classes{besides}",
            )


def _keys(source: ClassEpisodes, split: Split) -> tuple[str, str, str]:
    """Return the keys of a split's way, shot and query."""
    typed = source.typed_sizes
    if split != "train":
        return "way", "shot", "query"
    way, query = (f"train_{key}" if typed[f"train_{key}"] else key for key in ("way", "query"))
    has_own = typed["train_shot"] or typed["train_query"]
    return way, "train_shot" if has_own else "shot", query


def _check_label_sets(source: ClassEpisodes) -> None:
    """Raise ConfigError for keys that do not go with several labels per image."""
    if getattr(source, "set_of", None) is not None:
        for key in ("train_batch", "train_rotations"):
            if value := getattr(source, key):
                raise ConfigError(
                    f"@source.{key}={str(value).lower()} is for one label set, and there are several",
                    "@source.labels=[label], with one column",
                )


def _check_augmentation(source: ClassEpisodes) -> None:
    """Raise ConfigError for augmentations that do not fit the images or the kind of training task."""
    mixing = [name for name in source.train_augment if name in MIXING]
    if mixing and source.train_batch is None:
        raise ConfigError(
            f"@source.train_augment={list(source.train_augment)}: {mixing[0]} is for mini-batches of images "
            f"of all classes",
            "algo=baseline, or another that is trained on them",
        )
    if not mixing and source.train_mixing != MIXING_CONCENTRATION:
        raise ConfigError(
            f"@source.train_mixing={source.train_mixing} has no effect without mixup or cutmix",
            "@source.train_augment=[mixup]",
        )
    if source.train_augment and len(source.input_shape) != 3:
        raise ConfigError(
            f"@source.train_augment={list(source.train_augment)} changes images [channels, height, "
            f"width], the data has {list(source.input_shape)}",
            "@source.train_augment=[]",
        )


def check_effects(source: ClassEpisodes) -> None:
    """Raise ConfigError for keys that have no effect or exclude one another."""
    _check_label_sets(source)
    if source.query_balance == "equal" and source.query_concentration != CONCENTRATION:
        raise ConfigError(
            f"@source.query_concentration={source.query_concentration} has no effect with "
            f"@source.query_balance=equal",
            "@source.query_balance=dirichlet, or leave it out",
        )
    if source.sampler == "variable":
        _check_variable(source)
    typed = {"fewest_way": source.fewest_way, "most_support": source.most_support}
    for (key, value), default in zip(typed.items(), (FEWEST_WAY, MOST_SUPPORT), strict=True):
        if source.sampler == "fixed" and value != default:
            raise ConfigError(
                f"@source.{key}={value} has no effect with @source.sampler=fixed", "@source.sampler=variable"
            )
    if source.unlabelled and source.query_balance == "dirichlet":
        raise ConfigError(
            f"@source.unlabelled={source.unlabelled}: with @source.query_balance=dirichlet all other images "
            f"may be queries",
            "@source.query_balance=equal",
        )
    if source.distractors and not source.unlabelled:
        raise ConfigError(
            f"@source.distractors={source.distractors} has no effect without unlabelled images",
            "@source.unlabelled=5",
        )
    _check_augmentation(source)
    if source.train_rotations and (
        len(source.input_shape) != 3 or source.input_shape[1] != source.input_shape[2]
    ):
        raise ConfigError(
            f"@source.train_rotations=true turns square images, the data has {list(source.input_shape)}",
            "@source.train_rotations=false",
        )
    if source.train_batch is None:
        return
    for key, size in source.typed_sizes.items():
        if size is not None:
            raise ConfigError(
                f"@source.{key}={size} has no effect with @source.train_batch={source.train_batch}",
                f"@source.{key}=null",
            )
    images = source.images("train") * (4 if source.train_rotations else 1)
    if source.train_batch > images:
        raise ConfigError(
            f"@source.train_batch={source.train_batch}: there are {images} training images",
            f"@source.train_batch={images} or less",
        )


def _check_variable(source: ClassEpisodes) -> None:
    """Raise ConfigError for keys and values that a variable sampler does not support."""
    for key, value, unused in (
        ("query_balance", source.query_balance, "equal"),
        ("imbalance", source.imbalance, 0),
        ("unlabelled", source.unlabelled, 0),
    ):
        if value != unused:
            raise ConfigError(
                f"@source.{key}={value} has no effect with @source.sampler=variable",
                f"@source.{key}={unused}",
            )
    most = max(source.way, source.training_output_size)
    if source.fewest_way > min(source.way, source.training_output_size):
        raise ConfigError(
            f"@source.fewest_way={source.fewest_way} exceeds the most classes, @source.way={source.way}",
            "@source.way=50",
        )
    if source.most_support < 2 * most:
        raise ConfigError(
            f"@source.most_support={source.most_support}: {most} classes may have two images each",
            f"@source.most_support={2 * most} or more",
        )
