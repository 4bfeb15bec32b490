"""What is the best that can be reached: against scikit-learn, numpy, and sums over all that could be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.linear_model import Ridge
from torch.distributions import MultivariateNormal

from metarun.errors import ConfigError
from metarun.evaluation.curve import Estimate
from metarun.learners import BayesClassifier, Classical, GaussianProcessOracle, LinearOracle
from metarun.tasks import GaussianClasses, GaussianProcess, LinearFunctions, Sinusoid, TaskSource
from metarun.tasks.episodes import episodes

F64 = torch.float64


@pytest.mark.parametrize("kernel", ["rbf", "matern52", "periodic"])
@pytest.mark.parametrize("shot", [9, (1, 9)])
def test_the_posterior_is_scikit_learns(kernel: str, shot: object) -> None:
    source = GaussianProcess(shot=shot, query=6, kernel=kernel, noise=0.1, dimension=1, dtype=F64)  # type: ignore[arg-type]
    tasks = episodes(source, "test", 0, 4)
    learner = GaussianProcessOracle()
    predictions = learner.predict(learner.adapt(tasks), tasks.query.x)
    for i in range(4):
        info = {name: float(values[i]) for name, values in tasks.info.items()}
        shape = {
            "rbf": kernels.RBF(info["lengthscale"]),
            "matern52": kernels.Matern(info["lengthscale"], nu=2.5),
            "periodic": kernels.ExpSineSquared(info["lengthscale"], info["period"]),
        }[kernel]
        count = slice(None) if tasks.support.mask is None else tasks.support.mask[i]
        model = GaussianProcessRegressor(info["scale"] ** 2 * shape, alpha=0.1**2, optimizer=None)
        model.fit(tasks.support.x[i][count].numpy(), tasks.support.y[i][count].numpy())
        mean, deviation = model.predict(tasks.query.x[i].numpy(), return_std=True)
        np.testing.assert_allclose(predictions.mean[i, :, 0].numpy(), mean.squeeze(), atol=1e-7)
        variance = predictions.stddev[i, :, 0].numpy() ** 2
        np.testing.assert_allclose(variance, deviation**2 + 0.1**2, atol=1e-7)


def test_no_other_lengthscale_is_as_likely_and_the_intervals_are_right() -> None:
    tasks = episodes(GaussianProcess(shot=12, query=30), "test", 0, 400)
    learner = GaussianProcessOracle()
    scores = learner.scores(learner.adapt(tasks.without_answers()), tasks)
    assert torch.equal(scores["loss"], scores["nll"])
    for factor in (0.7, 1.4):
        info = {**tasks.info, "lengthscale": factor * tasks.info["lengthscale"]}
        other = type(tasks)(tasks.support, tasks.query, info, tasks.key, scoring=tasks.scoring)
        worse = learner.scores(learner.adapt(other.without_answers()), other)["loss"]
        difference = Estimate.of(worse - scores["loss"])
        assert difference.mean > 2 * difference.ci95
    inside = Estimate.of(scores["coverage"])
    assert abs(inside.mean - 0.95) < 2 * inside.ci95


@pytest.mark.parametrize("shot", [3, 5, 12])
def test_least_squares_is_numpys_with_the_smallest_norm(shot: int) -> None:
    tasks = episodes(LinearFunctions(shot=shot, query=4, noise=0.3, dtype=F64), "test", 0, 5)
    w = LinearOracle().adapt(tasks)
    for i in range(5):
        expected = np.linalg.lstsq(tasks.support.x[i].numpy(), tasks.support.y[i].numpy(), rcond=None)[0]
        np.testing.assert_allclose(w[i].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("shot", [3, 12, (1, 12)])
def test_ridge_is_scikit_learns_with_the_variance_of_the_noise(shot: object) -> None:
    tasks = episodes(LinearFunctions(shot=shot, query=4, noise=0.5, dtype=F64), "test", 0, 5)  # type: ignore[arg-type]
    w = LinearOracle(regularisation=None).adapt(tasks)
    for i in range(5):
        count = slice(None) if tasks.support.mask is None else tasks.support.mask[i]
        model = Ridge(0.25, fit_intercept=False).fit(
            tasks.support.x[i][count].numpy(), tasks.support.y[i][count].numpy()
        )
        np.testing.assert_allclose(w[i, :, 0].numpy(), model.coef_.squeeze(), atol=1e-9)


def test_without_noise_ridge_is_least_squares() -> None:
    tasks = episodes(LinearFunctions(shot=3, query=4, dtype=F64), "test", 0, 5)
    ridge, least = LinearOracle(regularisation=None).adapt(tasks), LinearOracle().adapt(tasks)
    torch.testing.assert_close(ridge, least, rtol=0, atol=1e-8)


def test_least_squares_reaches_the_known_error() -> None:
    """Without noise d − i for i < d examples; with it σ² (1 + d / (n − d − 1)) for n > d + 1."""
    tasks = episodes(LinearFunctions(shot=3, query=10, dtype=F64), "test", 0, 4000)
    error = Estimate.of(LinearOracle().scores(LinearOracle().adapt(tasks), tasks)["mse"])
    assert abs(error.mean - 2.0) < 2 * error.ci95
    tasks = episodes(LinearFunctions(shot=15, query=10, noise=0.5, dtype=F64), "test", 0, 4000)
    error = Estimate.of(LinearOracle().scores(LinearOracle().adapt(tasks), tasks)["mse"])
    assert abs(error.mean - 0.25 * (1 + 5 / 9)) < 2 * error.ci95


@pytest.mark.parametrize("shot", [2, (1, 3)])
def test_the_best_classifier_is_bayes_rule(shot: object) -> None:
    """log p(x, support of the class) − log p(support of the class), as joint normal densities."""
    tasks = episodes(GaussianClasses(way=3, shot=shot, query=2, dimension=2, dtype=F64), "test", 0, 3)  # type: ignore[arg-type]
    learner = BayesClassifier()
    logits = learner.predict(learner.adapt(tasks), tasks.query.x)
    for i in range(3):
        tau, sigma = float(tasks.info["spread"][i]), float(tasks.info["width"][i])

        def density(points: torch.Tensor, tau: float = tau, sigma: float = sigma) -> torch.Tensor:
            n = len(points)
            if n == 0:
                return torch.zeros(())
            covariance = tau**2 * torch.ones(n, n, dtype=F64) + sigma**2 * torch.eye(n, dtype=F64)
            return MultivariateNormal(torch.zeros(n, dtype=F64), covariance).log_prob(points.T).sum()

        count = torch.ones(len(tasks.support), dtype=torch.bool)
        if tasks.support.mask is not None:
            count = tasks.support.mask[i]
        x, y = tasks.support.x[i][count], tasks.support.y[i][count]
        for j, query in enumerate(tasks.query.x[i]):
            joint = [density(torch.cat([x[y == k], query[None]])) - density(x[y == k]) for k in range(3)]
            got = logits[i, j] - math.log(2 * math.pi)  # constants that all classes share are left out
            torch.testing.assert_close(got, torch.stack(joint), rtol=0, atol=1e-9)


@pytest.mark.parametrize("oracle", [GaussianProcessOracle, BayesClassifier])
def test_data_that_does_not_tell_is_refused(oracle: type) -> None:
    source: TaskSource = Sinusoid(shot=3, query=3)
    with pytest.raises(
        ConfigError, match=r"needs to know of each task its .*, which this data does not tell"
    ):
        oracle().check(episodes(source, "test", 0, 1))


def test_ridge_needs_the_noise() -> None:
    with pytest.raises(ConfigError, match="takes the noise of each task, which this data does not tell"):
        LinearOracle(regularisation=None).check(episodes(Sinusoid(shot=3, query=3), "test", 0, 1))


@pytest.mark.parametrize("method", ["linear", "forest", "neighbours"])
def test_classical_models_are_fitted_to_each_task_alone(method: str) -> None:
    tasks = episodes(GaussianClasses(way=3, shot=(2, 4), query=5, spread=(3.0, 3.0)), "test", 0, 3)
    learner = Classical(method=method, output_size=4, targets="classes")  # type: ignore[arg-type]
    logits = learner.predict(learner.adapt(tasks), tasks.query.x)
    torch.testing.assert_close(logits.exp().sum(2), torch.ones(3, 15), rtol=0, atol=1e-5)
    assert (logits[..., :3].argmax(2) == tasks.query.y).float().mean() > 0.8
    assert (logits[..., 3] < -5).all()  # a class that the task does not have
    alone = tasks.part(slice(1, 2))
    assert torch.equal(learner.predict(learner.adapt(alone), alone.query.x), logits[1:2])


@pytest.mark.parametrize("method", ["linear", "forest", "neighbours"])
def test_classical_models_of_values(method: str) -> None:
    tasks = episodes(LinearFunctions(shot=30, query=5, dimension=2), "test", 0, 3)
    learner = Classical(method=method, output_size=1, targets="values")  # type: ignore[arg-type]
    predictions = learner.predict(learner.adapt(tasks), tasks.query.x)
    assert predictions.shape == (3, 5, 1)
    assert (predictions - tasks.query.y).square().mean() < 0.5 * tasks.query.y.square().mean()


def test_a_support_set_of_one_class_is_that_class() -> None:
    tasks = episodes(GaussianClasses(way=3, shot=2, query=2), "test", 0, 1)
    same = type(tasks.support)(tasks.support.x, torch.ones_like(tasks.support.y))
    alone = type(tasks)(same, tasks.query, scoring=tasks.scoring)
    learner = Classical(output_size=3, targets="classes")
    assert (learner.predict(learner.adapt(alone), alone.query.x).argmax(2) == 1).all()
