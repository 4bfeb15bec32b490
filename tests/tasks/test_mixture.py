"""Several sources: each episode is of one of them, the same that it would be alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from toy_images import CLASSES, Blobs

from metarun.errors import ConfigError
from metarun.learners import ProtoNet
from metarun.models import MLP
from metarun.tasks import SPLITS, Sinusoid, Split, Tasks
from metarun.tasks.elsewhere import TestedElsewhere
from metarun.tasks.images.adapted import Adapted
from metarun.tasks.images.class_episodes import ClassEpisodes
from metarun.tasks.mixture import Mixture, joined

SIZES: dict[str, Any] = {"way": 3, "shot": 2, "query": 4}


class Grey(Blobs):
    """Images of eight pixels' side, all as dark as the source is."""

    input_shape: tuple[int, ...] = (1, 8, 8)
    images_per_class = 12
    level = 0.25

    def load(self) -> dict[Split, Tensor]:
        return {split: torch.full((n, 12, *self.input_shape), self.level) for split, n in CLASSES.items()}

    def names(self, split: Split) -> list[str]:
        return [f"grey {c}" for c in range(self.classes(split))]


class Coloured(Grey):
    input_shape = (3, 4, 4)
    level = 0.75


def mixture(weights: Any = None, **sizes: Any) -> Mixture:
    made = {"grey": Grey(**SIZES | sizes), "coloured": Coloured(**SIZES | sizes)}
    return Mixture(made, (1, 8, 8), weights)


@pytest.mark.parametrize(("weights", "shares"), [(None, [0.5, 0.5]), ([3, 1], [0.75, 0.25])])
def test_each_episode_is_of_one_source_drawn_with_its_weight(weights: Any, shares: list[float]) -> None:
    source = mixture(weights)
    of = source.of("train", 0, 4000)
    counts = torch.bincount(of).tolist()
    assert chisquare(counts, [4000 * share for share in shares]).pvalue > 1e-3
    tasks = source.batch("train", 0, 30)
    for t, place in enumerate(of[:30].tolist()):
        assert tasks.info["source"][t] == place
        assert torch.allclose(tasks.query.x[t], torch.tensor([0.25, 0.75][place]))
    assert not torch.equal(of[:200], source.of("test", 0, 200))


def test_an_episode_is_the_one_that_its_source_gives_alone() -> None:
    source = mixture()
    alone = [Grey(**SIZES), Adapted(Coloured(**SIZES), (1, 8, 8))]
    whole = source.batch("test", 5, 12)
    for t in range(12):
        one = source.batch("test", 5 + t, 1)
        own = alone[int(whole.info["source"][t])].batch("test", 5 + t, 1)
        for part in ("support", "query"):
            for field in ("x", "y"):
                found = getattr(getattr(whole, part), field)[t]
                assert torch.equal(found, getattr(getattr(one, part), field)[0])
                assert torch.equal(found, getattr(getattr(own, part), field)[0])
        assert torch.equal(whole.info["class"][t], own.info["class"][0])


def test_smaller_tasks_are_padded_and_padding_changes_no_result() -> None:
    class Small(Grey):
        images_per_class = 5

        def load(self) -> dict[Split, Tensor]:
            generator = torch.Generator().manual_seed(0)
            return {s: torch.rand(n, 5, 1, 8, 8, generator=generator) for s, n in CLASSES.items()}

    sizes = {**SIZES, "sampler": "variable", "fewest_way": 2, "most_support": 30, "shot": 6}
    source = Mixture({"grey": Grey(**sizes), "small": Small(**sizes)}, (1, 8, 8))
    learner = ProtoNet(model=MLP(input_shape=(1, 8, 8), output_size=None, hidden=(6,))).eval()
    whole = source.batch("test", 0, 8)
    assert whole.ways is not None
    assert whole.support.mask is not None
    losses = learner.scores(learner.adapt(whole), whole)["loss"]
    for t in range(8):
        alone = source.batch("test", t, 1)
        torch.testing.assert_close(learner.scores(learner.adapt(alone), alone)["loss"][0], losses[t])
    sizes_of = {place: whole.info["source"] == place for place in range(2)}
    assert all(chosen.any() for chosen in sizes_of.values())
    assert whole.support.mask[sizes_of[1]].sum(1).max() <= 3 * 5


def test_tasks_of_other_sizes_are_joined() -> None:
    def tasks(n: int, ways: Tensor | None, extra: int) -> Tasks:
        source = Blobs(way=2, shot=n, query=3)
        made = source.batch("test", 0, 2)
        return Tasks(
            made.support, made.query, {"class": made.info["class"], "odd": torch.zeros(2, extra)}, ways=ways
        )

    parts = [tasks(1, None, 1), tasks(3, torch.tensor([2, 2]), 2)]
    whole = joined(parts)
    assert len(whole) == 4
    assert whole.support.mask is not None
    assert whole.support.mask.sum(1).tolist() == [2, 2, 6, 6]
    assert (whole.support.x[0, 2:] == 0).all()
    assert whole.query.mask is None
    assert whole.ways is not None
    assert whole.ways.tolist() == [2, 2, 2, 2]
    assert set(whole.info) == {"class"}
    assert joined(parts[:1]) is parts[0]


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected two or more"):
        Mixture({"grey": Grey(**SIZES)}, (1, 8, 8))
    with pytest.raises(ConfigError, match=r"weights=\[1\]: there are 2 sources"):
        mixture([1])
    with pytest.raises(ConfigError, match=r"b has the number of outputs 2, and a 3"):
        Mixture({"a": Grey(**SIZES), "b": Grey(way=2, shot=1, query=1)}, (1, 8, 8))
    with pytest.raises(ConfigError, match=r"sine has the targets values, and grey classes"):
        Mixture({"grey": Grey(**SIZES), "sine": Sinusoid(shot=1, query=1)}, (1, 8, 8))


def test_the_test_tasks_are_of_another_source_that_is_made_to_fit() -> None:
    own, other = Grey(**SIZES), Coloured(**SIZES)
    source = TestedElsewhere(own, other, "coloured")
    for split in SPLITS:
        tasks = source.batch(split, 2, 3)
        assert torch.allclose(tasks.query.x, torch.tensor(0.75 if split == "test" else 0.25))
        assert tasks.query.x.shape[2:] == (1, 8, 8)
    assert source.elsewhere() == {"name": "coloured", "fitted": "4 × 4 to 8 × 8, colour to grey"}
    assert source.names("test")[0] == "grey 0"
    assert source.way == 3  # what the training's source says of itself
    plain = TestedElsewhere(own, Nameless(**SIZES), "plain")
    assert not hasattr(plain, "names")
    with pytest.raises(
        ConfigError, match=r"test=sine: its targets are values, and those of the training are cl"
    ):
        TestedElsewhere(own, Sinusoid(shot=1, query=1), "sine")
    with pytest.raises(ConfigError, match=r"test=two: its tasks have 2 outputs, and those of the training 3"):
        TestedElsewhere(own, Grey(way=2, shot=1, query=1), "two")


class Nameless(ClassEpisodes):
    input_shape = (1, 8, 8)
    images_per_class = 12

    def classes(self, split: Split) -> int:
        return CLASSES[split]

    def load(self) -> dict[Split, Tensor]:
        return {split: torch.zeros(n, 12, 1, 8, 8) for split, n in CLASSES.items()}
