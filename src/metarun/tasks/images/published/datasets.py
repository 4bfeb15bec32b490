"""miniImageNet, tieredImageNet, CIFAR-FS, FC100 and CUB: what each is, and how it may be had."""

from __future__ import annotations

import re

from metarun.tasks.images.published.archives import Archive, named_splits
from metarun.tasks.images.published.layouts import Known
from metarun.tasks.images.published.published import Published
from metarun.tasks.types import Split

# Toronto's own archive; the MD5 is that of its page.
_CIFAR100 = Archive(
    "cifar-100-python.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
    "eb9058c3a382ffc7106e4002c42a8d85",
)


class MiniImageNet(Published):
    """100 classes of ImageNet, 600 images each, 84 × 84 (Vinyals et al. 2016, arXiv:1606.04080).

    As divided by Ravi & Larochelle 2017: 64, 16 and 20 classes. Its licence is ImageNet's, so that it
    is not fetched.
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
    known = Known(
        split=lambda name: named_splits("cifar_fs").get(name),
        pickles=("CIFAR_FS_{split}.pickle", "cifar_fs_{split}.pickle"),
    )
    archives = (_CIFAR100,)


class FC100(Published):
    """The 100 classes of CIFAR-100, divided by superclass: 60, 20 and 20 (arXiv:1805.10123)."""

    name = "fc100"
    ways, each = (60, 20, 20), 600
    known = Known(
        split=lambda name: named_splits("fc100").get(name),
        pickles=("FC100_{split}.pickle", "fc100_{split}.pickle"),
    )
    archives = (_CIFAR100,)


def _of_cub(name: str) -> Split | None:
    """Return the split of a folder like 001.Black_footed_Albatross.

    Every second class is for training, the others in turn for validation and test (Chen et al. 2019,
    arXiv:1904.04232, in their code).
    """
    number = re.match(r"(\d{3})\.", name)
    if number is None:
        return None
    place = int(number[1]) - 1
    return "train" if place % 2 == 0 else "validation" if place % 4 == 1 else "test"


class CUB(Published):
    """Caltech-UCSD Birds 200-2011: 200 species, 41 to 60 photographs each; 100, 50 and 50 of them."""

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
