"""Sources of functions and clouds: pure functions of seed and index, and drawn as their docstrings say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats

from metarun.errors import ConfigError
from metarun.tasks import (
    GaussianClasses,
    GaussianProcess,
    Harmonic,
    ImageCompletion,
    LinearFunctions,
    LinearRegression,
    TabularPrior,
    Tasks,
)
from metarun.tasks.kernels import covariance

TABLE = {"width": 12, "features": (2, 9), "most_classes": 4, "classes": (2, 4)}
SOURCES: dict[str, Any] = {
    "gp": GaussianProcess,
    "gp_periodic": lambda **given: GaussianProcess(kernel="periodic", dimension=2, **given),
    "linear": lambda **given: LinearFunctions(noise=0.1, **given),
    "sparse": lambda **given: LinearFunctions(function="sparse", nonzero=2, **given),
    "network": lambda **given: LinearFunctions(function="network", units=7, **given),
    "harmonic": Harmonic,
    "clouds": lambda **given: GaussianClasses(way=3, **given),
    "lines": lambda **given: LinearRegression(noise=0.1, **given),
    "tables": lambda **given: TabularPrior(
        width=12, features=(2, 9), most_classes=4, classes=(2, 4), **given
    ),
    "values": lambda **given: TabularPrior(
        target="values", width=12, features=(2, 9), classes=(2, 4), **given
    ),
}
every = pytest.mark.parametrize("name", SOURCES)


def same(one: Tasks, other: Tasks) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.tensors(), other.tensors(), strict=True))


@every
@pytest.mark.parametrize("shot", [4, (2, 6)])
def test_an_episode_does_not_depend_on_those_drawn_with_it(name: str, shot: Any) -> None:
    source = SOURCES[name](shot=shot, query=5)
    together = source.batch("test", 3, 6)
    for i in (0, 2, 5):
        assert same(source.batch("test", 3 + i, 1), together.part(slice(i, i + 1)))
    assert not same(source.batch("validation", 3, 6), together)
    assert not same(SOURCES[name](shot=shot, query=5, seed=1).batch("test", 3, 6), together)


# The columns of a table are standardised by its support rows.
@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("tables", "values")])
def test_query_sets_stay_the_same_with_other_numbers_of_shots(name: str) -> None:
    few, many = (SOURCES[name](shot=shot, query=5).batch("test", 0, 4) for shot in (2, (3, 8)))
    assert torch.equal(few.query.x, many.query.x)
    assert torch.equal(few.query.y, many.query.y)


@every
def test_numbers_of_support_examples_are_drawn_and_the_rest_is_padding(name: str) -> None:
    source = SOURCES[name](shot=(2, 5), query=2, train_shot=3)
    tasks = source.batch("test", 0, 600)
    mask = tasks.support.mask
    assert mask is not None
    if name == "clouds":  # of each class
        counts = torch.stack([(mask & (tasks.support.y == k)).sum(1) for k in range(3)], 1)
        assert (counts == counts[:, :1]).all()
        counts = counts[:, 0]
    else:
        counts = mask.sum(1)
    observed = torch.bincount(counts, minlength=6)
    assert observed[:2].sum() == 0
    assert stats.chisquare(observed[2:].numpy()).pvalue > 1e-4
    assert (tasks.support.x[~mask] == 0).all()
    assert (tasks.support.y[~mask] == 0).all()
    assert source.batch("train", 0, 3).support.mask is None


@pytest.mark.parametrize("kernel", ["rbf", "matern52", "periodic"])
def test_draws_of_a_process_have_its_covariance(kernel: Any) -> None:
    fixed = {"lengthscale": (0.5, 0.5), "scale": (0.8, 0.8), "period": (0.7, 0.7)}
    source = GaussianProcess(shot=2, query=2, kernel=kernel, noise=0.2, dtype=torch.float64, **fixed)
    tasks = source.batch("test", 0, 40_000)
    x = torch.cat([tasks.query.x, tasks.support.x], 1)
    y = torch.cat([tasks.query.y, tasks.support.y], 1)[..., 0]
    shape = {name: tasks.info[name] for name in ("lengthscale", "scale", "period")}
    expected = covariance(kernel, x, x, **shape) + 0.04 * torch.eye(4)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(expected), y[..., None], upper=False)[
        ..., 0
    ]
    # Independent standard normal numbers: their second moments are those of the identity.
    moments = whitened.mT @ whitened / len(y)
    assert (moments - torch.eye(4).double()).abs().max() < 5 / math.sqrt(len(y))
    assert stats.kstest(whitened.flatten().numpy(), "norm").pvalue > 1e-4


def test_a_sparse_function_depends_on_few_entries_and_a_network_bends() -> None:
    tasks = LinearFunctions(function="sparse", nonzero=2, dimension=6, shot=4, query=4).batch("test", 0, 50)
    assert ((tasks.info["w"] != 0).sum(1) == 2).all()
    tasks = LinearFunctions(
        function="network", units=50, dimension=3, shot=4, query=2000, dtype=torch.float64
    ).batch("test", 0, 300)
    hidden = (tasks.query.x @ tasks.info["w"]).relu() @ tasks.info["a"][..., None]
    torch.testing.assert_close(tasks.query.y, math.sqrt(2 / 50) * hidden)
    # √(2/h) keeps the size of linear functions: E y² = d.
    assert tasks.query.y.square().mean().item() == pytest.approx(3, rel=0.1)


def test_a_curriculum_grows_the_training_tasks_alone() -> None:
    grown, whole = (LinearFunctions(shot=9, query=9, curriculum=c) for c in ((2, 10), None))
    for split, number, entries in (("train", 0, 2), ("train", 19, 3), ("train", 900, 5), ("test", 0, 5)):
        tasks, plain = (source.batch(split, number, 1) for source in (grown, whole))  # type: ignore[arg-type]
        x = tasks.query.x.clone()
        assert torch.equal(x[..., :entries], plain.query.x[..., :entries])
        assert not x[..., entries:].any()
        torch.testing.assert_close(tasks.query.y, (x @ plain.info["w"].float()[..., None]))
    batch = grown.batch("train", 15, 10)
    assert torch.equal(batch.support.x[5], grown.batch("train", 20, 1).support.x[0])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"function": "sparse"}, r"nonzero=None and function=sparse do not agree"),
        ({"units": 3}, r"units=3 and function=linear do not agree"),
        ({"function": "sparse", "nonzero": 9}, r"nonzero=9 exceeds dimension=5"),
        ({"curriculum": (6, 10)}, r"curriculum=\[6, 10\]: expected at most 5 entries"),
        ({"curriculum": (2, 0)}, r"curriculum=\[2, 0\]: expected at most 5 entries, and one more after ev"),
    ],
)
def test_keys_of_linear_functions_that_do_not_agree(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LinearFunctions(shot=1, query=1, **keys)


def test_harmonic_waves_are_two_sines() -> None:
    tasks = Harmonic(shot=3, query=4, noise=0.0, dtype=torch.float64).batch("test", 0, 5)
    for i in range(5):
        info = {name: values[i] for name, values in tasks.info.items()}
        x = tasks.query.x[i, :, 0]
        expected = sum(
            info["amplitude"][k] * torch.sin((k + 1) * info["frequency"] * x + info["phase"][k])
            for k in range(2)
        )
        torch.testing.assert_close(tasks.query.y[i, :, 0], expected)


def test_clouds_are_around_their_means() -> None:
    tasks = GaussianClasses(way=3, shot=2, query=400, dimension=2, width=0.5, dtype=torch.float64).batch(
        "test", 0, 50
    )
    means = tasks.info["means"].gather(1, tasks.query.y[..., None].expand(-1, -1, 2))
    residuals = ((tasks.query.x - means) / 0.5).flatten()
    assert stats.kstest(residuals.numpy(), "norm").pvalue > 1e-4
    spread = (tasks.info["means"] / tasks.info["spread"][:, None, None]).flatten()
    assert stats.kstest(spread.numpy(), "norm").pvalue > 1e-3
    assert (torch.stack([(tasks.query.y == k).sum(1) for k in range(3)]) == 400).all()


@pytest.mark.parametrize("images", ["omniglot", "digits"])
def test_pixels_of_an_image_are_all_different_and_in_their_places(request: Any, images: Any) -> None:
    if images == "omniglot":
        request.getfixturevalue("omniglot_root")
    source = ImageCompletion(images=images, shot=(3, 20), query=30)
    tasks = source.batch("test", 0, 8)
    side = source.side
    places = ((tasks.query.x + 1) / 2 * (side - 1)).round().long()
    pictures = source._loaded["test"][tasks.info["image"]].view(8, side, side).float() / 255
    for i in range(8):
        expected = pictures[i, places[i, :, 0], places[i, :, 1]]
        torch.testing.assert_close(tasks.query.y[i, :, 0], expected)
        assert tasks.support.mask is not None
        x = torch.cat([tasks.query.x[i], tasks.support.x[i][tasks.support.mask[i]]])
        assert len(x.unique(dim=0)) == len(x)
    assert 0 <= tasks.query.y.min() < tasks.query.y.max() <= 1


def test_there_are_not_more_pixels_than_there_are() -> None:
    with pytest.raises(ConfigError, match=r"shot=60 and query=10 need 70 pixels; there are 64"):
        ImageCompletion(images="digits", shot=60, query=10)
