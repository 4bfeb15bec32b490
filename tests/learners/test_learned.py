"""What learners show of what they have learned, beside values worked out from their parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from own_runs import trained

from metarun.evaluation.trained import reopen
from metarun.figures import Figure, Histograms, Lines, Points, Surface
from metarun.learners import Learner
from metarun.learners.seen import principal_components
from metarun.tasks import Tasks
from metarun.tasks.episodes import first_episodes

SMALL = ["model.hidden=[5]", "train.meta_batch=2"]


def learned(folder: Path, *words: str) -> tuple[Learner, Tasks, dict[str, Figure]]:
    opened = reopen(trained(folder / "run", *words), [])
    learner = opened.experiment.learner
    tasks = first_episodes(opened.experiment.source, "test", torch.float32, 3)
    return learner, tasks, {figure.name: figure for figure in learner.learned(tasks)}


def test_meta_sgd_shows_its_rates_by_layer_and_the_share_of_negative_ones(tmp_path: Path) -> None:
    learner, tasks, before = learned(tmp_path, "algo=metasgd", *SMALL)
    rates = learner.rule.rates
    figure = before["learned-rates"]
    assert isinstance(figure, Histograms)
    layers = {name.rpartition("/")[0] for name in rates}
    assert set(figure.values) == {layer.replace("/", ".") for layer in layers}
    for layer, values in figure.values.items():
        own = [rates[name].flatten() for name in rates if name.rpartition("/")[0].replace("/", ".") == layer]
        assert torch.equal(values, torch.cat(own).detach())
    assert "none is negative" in figure.caption
    with torch.no_grad():
        first = next(iter(rates.values()))
        first.fill_(-1)
    (again,) = learner.learned(tasks)
    assert "Negative: " in again.caption
    assert " 0.0%" in again.caption


def test_lslr_shows_its_rates_by_step(tmp_path: Path) -> None:
    learner, _, figures = learned(tmp_path, "algo=maml", "inner=lslr", "inner.steps=3", *SMALL)
    figure = figures["learned-rates-by-step"]
    assert isinstance(figure, Lines)
    rates = learner.rule.rates
    for layer, line in figure.lines.items():
        own = torch.stack([v for name, v in rates.items() if name.startswith(layer.replace(".", "/") + "/")])
        assert list(line.x) == [1, 2, 3, 4][: len(own[0])]
        assert line.y == pytest.approx(own.double().mean(0).tolist())


def test_meta_curvature_shows_spectra(tmp_path: Path) -> None:
    learner, _, figures = learned(tmp_path, "algo=meta_curvature", *SMALL)
    figure = figures["learned-curvature-spectra"]
    assert isinstance(figure, Lines)
    (name, matrices), *_ = learner.rule.matrices.items()
    spectrum = torch.linalg.svdvals(next(iter(matrices.parameters())).detach().double())
    assert figure.lines[f"{name.replace('/', '.')}, dimension 1"].y == pytest.approx(spectrum.tolist())


@pytest.mark.parametrize("rule", ["lstm", "mlp", "metz"])
def test_a_learned_optimizer_shows_its_update_surface(rule: str, tmp_path: Path) -> None:
    learner, _, figures = learned(
        tmp_path, "algo=l2l", "data=quadratics", f"inner={rule}", "inner.steps=3", "train.meta_batch=2"
    )
    figure = figures["update-surface"]
    assert isinstance(figure, Surface)
    gradients = torch.tensor([[float(text) for text in figure.rows]])
    assert figure.values.shape == (22, 20) == (gradients.shape[1], len(figure.columns))
    params = {"x": torch.zeros_like(gradients)}
    with torch.no_grad():
        moved, _ = learner.rule.update(params, {"x": gradients}, learner.rule.init(params), 0)
    assert torch.allclose(
        figure.values[:, 0].float(), moved["x"][0], rtol=0.2, atol=1e-4
    )  # labels are rounded


@pytest.mark.parametrize("rule", ["hypernet", "alfa"])
def test_a_hypernetwork_shows_the_rates_of_tasks(rule: str, tmp_path: Path) -> None:
    learner, tasks, figures = learned(tmp_path, "algo=maml", f"inner={rule}", "inner.steps=2", *SMALL)
    figure = figures["hypernetwork-rates"]
    assert isinstance(figure, Histograms)
    assert set(figure.values) == set(learner.adapted_names)
    assert all(values.shape == (2 * len(tasks),) for values in figure.values.values())
    seen: list[torch.Tensor] = []
    original = learner.rule.settings

    def settings(*arguments: object) -> torch.Tensor:
        seen.append(original(*arguments))
        return seen[-1]

    learner.rule.settings = settings
    with torch.no_grad(), learner.evaluating():
        learner.adapt(tasks.without_answers())
    first = torch.cat([each[:, 0, 0] for each in seen[:1]])
    assert torch.allclose(next(iter(figure.values.values()))[: len(tasks)], first)


def test_learners_that_embed_show_a_task_and_matching_networks_their_attention(tmp_path: Path) -> None:
    learner, tasks, figures = learned(
        tmp_path, "algo=matchingnet", "data=binary_classification", "model=mlp", *SMALL
    )
    points, attention = figures["embedding"], figures["attention"]
    assert isinstance(points, Points)
    shots, queries = len(tasks.support), len(tasks.query)
    assert points.kinds == ["support"] * shots + ["query"] * queries + ["mean of the support"] * 2
    with torch.no_grad(), learner.evaluating():
        both = torch.cat([tasks.support.x[:1], tasks.query.x[:1]], 1)
        features = learner.embeddings(both)[0].double()
        predictions = learner.predict(
            learner.adapt(tasks.part(slice(1)).without_answers()), tasks.query.x[:1]
        )
    own = [features[:shots][tasks.support.y[0] == c].mean(0) for c in (0, 1)]
    everything = torch.cat([features, torch.stack(own)])
    gaps = torch.cdist(everything, everything)
    assert (torch.cdist(points.places, points.places) <= gaps + 1e-5).all()  # a projection
    assert isinstance(attention, Surface)
    assert torch.allclose(attention.values.sum(1), torch.ones(queries, dtype=torch.float64), atol=1e-5)
    assert attention.columns == sorted(attention.columns)  # those of a class are together
    of_class_1 = attention.values[:, [label == "class 1" for label in attention.columns]].sum(1)
    expected = predictions[0].exp()[:, 1].double()[tasks.query.y[0].argsort(stable=True)]
    assert torch.allclose(of_class_1, expected, atol=1e-5)


def test_principal_components_are_those_of_the_covariance() -> None:
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.arange(
        1, 6
    )
    places, shares = principal_components(x)
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    assert torch.allclose(shares, (values / values.sum()).flip(0)[:2])
    expected = (x - x.mean(0)) @ vectors.flip(1)[:, :2]
    assert torch.allclose(places.abs(), expected.abs())
    assert torch.equal(principal_components(torch.ones(3, 4))[0], torch.zeros(3, 2, dtype=torch.float64))
    assert principal_components(torch.tensor([[1.0], [2.0]]))[0].shape == (2, 2)


def test_others_have_nothing_to_show(tmp_path: Path) -> None:
    assert learned(tmp_path, "algo=maml", *SMALL)[2] == {}


def test_tensorboard_gets_the_rates_at_every_validation(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trained(
        tmp_path / "run",
        *("algo=metasgd", "logger=tensorboard", "train.steps=4", "train.validate_every=2", *SMALL),
    )
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"histograms": 0})
    events.Reload()
    (tag, *_) = events.Tags()["histograms"]
    assert tag.startswith("learned-rates/")
    assert [event.step for event in events.Histograms(tag)] == [2, 4]
