"""miniImageNet, tieredImageNet, CIFAR-FS, FC100, CUB, VGG Flower and FGVC Aircraft."""

from __future__ import annotations

import re
from collections.abc import Sequence

from metarun.tasks.images.published.archives import Archive, named_splits
from metarun.tasks.images.published.layouts import Known, Layout
from metarun.tasks.images.published.numbered import aircraft_lists, flower_numbers
from metarun.tasks.images.published.published import Published
from metarun.tasks.types import Split

# The archive of the University of Toronto; its page states the MD5.
_CIFAR100 = Archive(
    "cifar-100-python.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
    "eb9058c3a382ffc7106e4002c42a8d85",
)


class MiniImageNet(Published):
    """100 classes of ImageNet, 600 images each, 84 × 84 (Vinyals et al. 2016, arXiv:1606.04080).

    Divided into 64, 16 and 20 classes by Ravi & Larochelle 2017. It is not downloaded, because ImageNet's
    licence does not allow it.
    """

    name = "miniimagenet"
    ways, each = (64, 16, 20), 600
    known = Known(
        pickles=(
            "mini-imagenet-cache-{split}.pkl",
            "miniImageNet_category_split_train_phase_{split}.pickle",
            "mini_imagenet_{split}.pickle",
        )
    )
    by_hand = (
        "put mini-imagenet-cache-train.pkl, -val.pkl and -test.pkl there (zenodo.org/record/7978538; "
        "ImageNet's licence), or mini-imagenet.tar.gz, or images/ with train.csv, val.csv and test.csv"
    )


class TieredImageNet(Published):
    """608 classes of ImageNet, divided by superclass: 351, 97 and 160 (Ren et al. 2018, arXiv:1803.00676)."""

    name = "tieredimagenet"
    ways, each = (351, 97, 160), 600
    known = Known()
    by_hand = (
        "put train_images_png.pkl, train_labels.pkl and those of val and test there (12 GB; "
        "zenodo.org/record/7978538; ImageNet's licence), or folders train, val and test"
    )


class CifarFS(Published):
    """The 100 classes of CIFAR-100, 600 images each, 32 × 32: 64, 16 and 20 (arXiv:1805.08136)."""

    name = "cifar_fs"
    ways, each = (64, 16, 20), 600
    known = Known.of(named_splits("cifar_fs"), ("CIFAR_FS_{split}.pickle", "cifar_fs_{split}.pickle"))
    archives = (_CIFAR100,)


class FC100(Published):
    """The 100 classes of CIFAR-100, divided by superclass: 60, 20 and 20 (arXiv:1805.10123)."""

    name = "fc100"
    ways, each = (60, 20, 20), 600
    known = Known.of(named_splits("fc100"), ("FC100_{split}.pickle", "fc100_{split}.pickle"))
    archives = (_CIFAR100,)


def _of_cub(name: str) -> Split | None:
    """Return the split of a folder like 001.Black_footed_Albatross.

    Every second class is for training; the others are alternately for validation and test (code of Chen et
    al. 2019, arXiv:1904.04232).
    """
    number = re.match(r"(\d{3})\.", name)
    if number is None:
        return None
    place = int(number[1]) - 1
    return "train" if place % 2 == 0 else "validation" if place % 4 == 1 else "test"


class CUB(Published):
    """Caltech-UCSD Birds 200-2011: 200 species, 41 to 60 photographs each, divided 100, 50 and 50."""

    name = "cub"
    ways, each = (100, 50, 50), 41
    known = Known(split=_of_cub)
    archives = (
        Archive(
            "CUB_200_2011.tgz",
            (
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                "https://zenodo.org/record/8000562/files/CUB_200_2011.tgz",
            ),
            "97eceeb196236b17998738112f37df78",
        ),
    )


def _flower(name: str) -> Split | None:
    """Return the split of a folder like 001.pink primrose, pink primrose, pink_primrose or 1."""
    return _FLOWERS.get(name) or _FLOWERS.get(_NUMBERED.get(name.replace("_", " "), ""))


_FLOWERS = named_splits("vgg_flower")
_NUMBERED = {key: name for name in _FLOWERS for key in (name[4:], str(int(name[:3])))}


class VGGFlower(Published):
    """102 kinds of flowers, 40 to 258 photographs each (Nilsback & Zisserman 2008), divided 71, 15, 16."""

    name = "vgg_flower"
    ways, each = (71, 15, 16), 40
    known = Known(split=_flower, classes=_FLOWERS)
    archives = (
        Archive(
            "102flowers.tgz",
            ("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",),
            "52808999861908f626f3c1f4e79d11fa",
        ),
        Archive(
            "imagelabels.mat",
            ("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/imagelabels.mat",),
            "e0620be6f572b9609742df49c70aed4d",
        ),
    )

    def layouts(self) -> Sequence[Layout]:
        """Return how its files may lie there."""
        return (flower_numbers, *super().layouts())


class Aircraft(Published):
    """100 variants of aircraft, 100 photographs each (Maji et al. 2013, arXiv:1306.5151): 70, 15 and 15.

    A photograph is cropped to the box around the aircraft, as in Meta-Dataset.
    """

    name = "aircraft"
    ways, each = (70, 15, 15), 100
    known = Known.of(named_splits("aircraft"))
    archives = (
        Archive(
            "fgvc-aircraft-2013b.tar.gz",
            ("https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",),
            "d4acdd33327262359767eeaa97a4f732",
        ),
    )

    def layouts(self) -> Sequence[Layout]:
        """Return how its files may lie there."""
        return (aircraft_lists, *super().layouts())
