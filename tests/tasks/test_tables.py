"""Random tables, and the real ones of scikit-learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from sklearn import datasets
from sklearn.linear_model import LogisticRegression, Ridge

from metarun.errors import ConfigError
from metarun.tasks import BundledTable, TabularPrior
from metarun.tasks.episodes import episodes
from metarun.tasks.tables.bundled import SIZES
from metarun.tasks.tables.rows import standardised, widened

CLEAN = {"noise": (0.0, 0.05), "categorical": (0.0, 0.0), "missing": (0.0, 0.0)}


def prior(**given: Any) -> TabularPrior:
    return TabularPrior(**{"width": 16, "features": (3, 12), "classes": (2, 5), "query": 40, **given})


def test_columns_have_mean_zero_and_deviation_one_over_the_rows_that_count() -> None:
    x = 3 + 2 * torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(0)).double()
    x[0, 3, 1] = torch.nan
    x[:, :, 3] = 7.0  # a constant column
    shots = torch.tensor([20, 10])
    rows = standardised(x, shots, 20)
    assert rows[0, 3, 1] == 0
    for task in range(2):
        known = x[task, : shots[task]].numpy()
        for column in range(3):
            values = known[:, column][~torch.isnan(torch.tensor(known[:, column])).numpy()]
            expected = (x[task, :, column] - values.mean()) / values.std()
            torch.testing.assert_close(rows[task, :, column], expected.nan_to_num().clamp(-5, 5))
    assert (rows[:, :, 3] == 0).all()


def test_what_is_beyond_a_tables_columns_is_zero_and_rows_keep_their_length() -> None:
    x = torch.randn(2, 1000, 8, generator=torch.Generator().manual_seed(0))
    wide = widened(x, torch.tensor([2, 8]), 32)
    assert (wide[0, :, 2:] == 0).all()
    assert (wide[1, :, 8:] == 0).all()
    assert wide.square().sum(2).mean(1).tolist() == pytest.approx([32, 32], rel=0.1)


def test_tables_have_as_many_columns_and_classes_as_they_say() -> None:
    tasks = prior(shot=(5, 30)).batch("train", 0, 300)
    columns, ways = tasks.info["columns"], tasks.info["ways"]
    assert {int(c) for c in columns} == set(range(3, 13))
    assert {int(w) for w in ways} == set(range(2, 6))
    used = (tasks.query.x != 0).any(1)
    assert (used & (torch.arange(16) >= columns[:, None])).sum() == 0
    assert (tasks.query.y < ways[:, None]).all()
    assert tasks.ways is not None
    # Every class that a table has is there in most tables, though not in all.
    seen = torch.stack([(tasks.query.y == k).any(1) for k in range(5)], 1).sum(1)
    assert (seen == ways).float().mean() > 0.5


def accuracy(source: TabularPrior, tasks: int = 60) -> tuple[float, float]:
    """Of logistic regression, and of the most frequent class."""
    batch = source.batch("test", 0, tasks)
    results = []
    for i in range(tasks):
        x, y, labels = batch.support.x[i].numpy(), batch.support.y[i].numpy(), batch.query.y[i]
        if len(set(y)) > 1:
            model = LogisticRegression(max_iter=300).fit(x, y)
            right = float((torch.tensor(model.predict(batch.query.x[i].numpy())) == labels).float().mean())
            results.append((right, float(labels.bincount().max()) / len(labels)))
    return tuple(float(value) for value in torch.tensor(results).mean(0))  # type: ignore[return-value]


@pytest.mark.parametrize("mechanism", ["scm", "mlp", "clusters"])
def test_there_is_something_to_learn_in_every_kind_of_table(mechanism: Any) -> None:
    clean = {
        "noise": (0.0, 0.05),
        "activations": ("linear", "tanh"),
        "categorical": (0.0, 0.0),
        "missing": (0.0, 0.0),
    }
    source = prior(shot=100, mechanisms=(mechanism,), features=(3, 6), classes=(2, 3), **clean)
    right, most_frequent = accuracy(source)
    assert right > most_frequent + 0.15


def test_noise_missing_entries_and_levels_do_what_they_say() -> None:
    plain = {"shot": 50, "missing": (0.0, 0.0), "categorical": (0.0, 0.0), "mechanisms": ("mlp",)}
    clean, noisy = (accuracy(prior(**plain, activations=("linear",), noise=(n, n)))[0] for n in (0.0, 3.0))
    assert noisy < clean - 0.1
    inside = torch.arange(16) < prior(**plain).batch("test", 0, 50).info["columns"][:, None]

    def zeros(**keys: Any) -> float:
        x = prior(**{**plain, **keys}).batch("test", 0, 50).support.x
        return float((x == 0).float().mean(1)[inside].mean())

    assert zeros() < 0.01
    assert zeros(missing=(0.3, 0.3)) == pytest.approx(0.3, abs=0.02)
    tables = prior(**{**plain, "categorical": (1.0, 1.0)}).batch("test", 0, 50).support.x
    assert max(len(table[:, 0].unique()) for table in tables) <= 5


def test_a_perceptrons_columns_matter_wherever_they_are() -> None:
    """One cause, no noise: the column that the classes follow is any of the table's."""
    shape = {"shot": 200, "causes": (1, 1), "features": (6, 6), "classes": (2, 2), "layers": (1, 1)}
    plain = {"activations": ("linear",), "correlation": (0.0, 0.0)}
    source = prior(mechanisms=("mlp",), **shape, **plain, **CLEAN)
    tasks = source.batch("test", 0, 200)
    members = [(tasks.support.y == k).float() for k in (0, 1)]
    difference = [(tasks.support.x * m[..., None]).sum(1) / m.sum(1)[:, None].clamp_min(1) for m in members]
    column = (difference[0] - difference[1]).abs()[:, :6].argmax(1)
    assert stats.chisquare(torch.bincount(column, minlength=6).numpy()).pvalue > 1e-4


def test_values_are_standardised_and_can_be_learned() -> None:
    clean = {
        "noise": (0.0, 0.05),
        "activations": ("linear",),
        "categorical": (0.0, 0.0),
        "missing": (0.0, 0.0),
    }
    source = prior(target="values", shot=100, features=(3, 6), mechanisms=("mlp",), **clean)
    batch = source.batch("test", 0, 40)
    assert batch.ways is None
    assert batch.support.y.std(1).mean().item() == pytest.approx(1, abs=0.02)
    errors = [
        ((Ridge().fit(x.numpy(), y.numpy()).predict(q.numpy()) - t.squeeze(1).numpy()) ** 2).mean()
        for x, y, q, t in zip(batch.support.x, batch.support.y, batch.query.x, batch.query.y, strict=True)
    ]
    assert sum(errors) / len(errors) < 0.2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"features": (3, 20)}, r"features=\[3, 20\] exceeds width=16"),
        ({"classes": (2, 20)}, r"classes=\[2, 20\] exceeds most_classes=10"),
        ({"classes": (1, 3)}, r"classes=\[1, 3\]: a table has two or more"),
        ({"target": "values", "mechanisms": ("clusters",)}, r"mechanisms=\[clusters\] has classes alone"),
    ],
)
def test_ranges_that_do_not_fit(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prior(**keys)


@pytest.mark.parametrize("table", SIZES)
def test_real_tables_are_scikit_learns_in_random_halves(table: Any) -> None:
    loaded = getattr(datasets, f"load_{table}")()
    source = BundledTable(table=table, shot=40)
    tasks = episodes(source, "test", 0, 3)
    rows, support = tasks.info["row"], len(tasks.support)
    half = (len(loaded.data) + 1) // 2
    assert support == 40
    assert len(tasks.query) == len(loaded.data) - half
    for i in range(3):
        assert len(rows[i].unique()) == len(rows[i])
        x = torch.as_tensor(loaded.data)[rows[i]]
        known = x[:support]
        scale = known.std(0, correction=0)
        expected = ((x - known.mean(0)) / torch.where(scale > 1e-6, scale, 1.0)).clamp(-5, 5)
        columns = loaded.data.shape[1]
        got = torch.cat([tasks.support.x[i], tasks.query.x[i]])[:, :columns].double() / (64 / columns) ** 0.5
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
        if SIZES[table][1]:
            assert torch.equal(
                torch.cat([tasks.support.y[i], tasks.query.y[i]]), torch.as_tensor(loaded.target)[rows[i]]
            )
    assert not torch.equal(rows[0], rows[1])
    alone = source.batch("test", 1, 1)
    assert torch.equal(alone.info["row"][0], rows[1])
    assert torch.equal(alone.support.x[0], tasks.support.x[1])


def test_a_table_that_is_too_wide_or_has_too_many_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"width=8: wine has 13 columns"):
        BundledTable(table="wine", width=8)
    with pytest.raises(ConfigError, match=r"most_classes=3: digits has 10 classes"):
        BundledTable(table="digits", most_classes=3)
