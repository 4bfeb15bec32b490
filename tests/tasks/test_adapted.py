"""Images made to fit a network that was trained on others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import class_folders
from PIL import Image

from metarun.errors import ConfigError
from metarun.tasks import ImageFolder, Sinusoid
from metarun.tasks.images.adapted import Adapted


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    root = class_folders(tmp_path_factory.mktemp("pictures"), dict.fromkeys("abc", 4), side=16)
    return ImageFolder(root=str(root), size=16, way=2, shot=1, query=2, shares=(0.0, 0.0, 1.0))


def test_sizes_and_channels_become_those_of_the_run(source: ImageFolder) -> None:
    tasks = source.batch("test", 0, 3)
    smaller = Adapted(source, (1, 8, 8))
    found = smaller.batch("test", 0, 3).query.x
    assert found.shape == (3, 4, 1, 8, 8)
    luma = (tasks.query.x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(2)
    for image, grey in zip(found.flatten(0, 2), luma.flatten(0, 1), strict=True):
        expected = Image.fromarray(grey.numpy()).resize((8, 8), Image.Resampling.BILINEAR)
        assert np.abs(image.numpy() - np.asarray(expected)).max() < 1e-5
    assert smaller.in_words() == "16 × 16 to 8 × 8, colour to grey"
    assert smaller.names("test") == ["a", "b", "c"]
    larger = Adapted(smaller, (3, 32, 32))
    x = larger.batch("test", 0, 1).support.x
    assert torch.equal(x[:, :, 0], x[:, :, 2])
    assert (x >= 0).all()
    assert (x <= 1).all()
    assert larger.in_words() == "8 × 8 to 32 × 32, grey to colour"


def test_labels_and_episodes_stay(source: ImageFolder) -> None:
    plain, fitted = source.batch("test", 5, 2), Adapted(source, (3, 4, 4)).batch("test", 5, 2)
    assert torch.equal(plain.support.y, fitted.support.y)
    assert torch.equal(plain.info["class"], fitted.info["class"])


def test_what_is_no_image_is_refused(source: ImageFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"its inputs are \[1\], and \[3, 8, 8\] are wanted"):
        Adapted(Sinusoid(shot=1, query=1), (3, 8, 8))
    with pytest.raises(ConfigError, match="only images of one or three channels are made to fit"):
        Adapted(source, (4, 8, 8))
