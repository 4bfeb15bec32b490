"""Networks of timm, where it is installed, and the line that says so where it is not."""

from __future__ import annotations

import sys

import pytest
import torch

from metarun.errors import ConfigError, with_keys
from metarun.models import Timm
from metarun.models.hub import Normalised


def test_without_the_package_there_is_a_line_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError) as error, with_keys():
        Timm(name="resnet18", input_shape=(3, 64, 64), output_size=None)
    assert "'metarun[timm]', with the torchvision of your torch" in str(error.value)
    assert "type model=efficientnet_lite0, which needs no hub" in str(error.value)
    with pytest.raises(ConfigError, match="1 or 3 colour channels, the data has 4"):
        Timm(name="resnet18", input_shape=(4, 64, 64), output_size=None)


def test_images_are_resized_coloured_and_normalised() -> None:
    x = torch.rand(2, 1, 8, 6)
    y = Normalised((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))(x)
    assert y.shape == (2, 3, 8, 6)
    torch.testing.assert_close(y[:, 2], (x[:, 0] - 0.3) / 0.3)
    assert Normalised((0.5,) * 3, (0.5,) * 3, 10)(x).shape == (2, 3, 10, 10)


def test_a_network_of_timm_embeds() -> None:
    timm = pytest.importorskip("timm")
    model = Timm(name="resnet18", input_shape=(1, 40, 40), output_size=None, pretrained=False).eval()
    x = torch.rand(2, 1, 40, 40)
    peer = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    peer.load_state_dict(model.body.state_dict())
    assert model.features == 512
    torch.testing.assert_close(model(x), peer(model.prepare(x)))
    with pytest.raises(ConfigError, match="timm has no such model; did you mean resnet18"):
        Timm(name="resnet81", input_shape=(1, 40, 40), output_size=None)
    with pytest.raises(ConfigError, match=r"it does not take images \[3, 40, 40\]"):
        Timm(name="vit_tiny_patch16_224", input_shape=(3, 40, 40), output_size=None, pretrained=False)
