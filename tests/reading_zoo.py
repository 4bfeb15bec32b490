"""Learners that read the support set, small and in float64, and tasks for them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from metarun.learners import SNAIL, InContext, MemoryAugmented, NeuralProcess, ReadingLearner, Recurrent
from metarun.models import Linear
from metarun.tasks import Examples, Scoring, Tasks
from metarun.tasks.metrics import ACCURACY, cross_entropy, mean_squared_error
from metarun.tasks.regression import REGRESSION

SMALL = {"width": 8, "heads": 2}
TRANSFORMER = {**SMALL, "depth": 2, "hidden": 12}
SETS = {
    "cnp": lambda **given: NeuralProcess(width=8, **given),
    "np": lambda **given: NeuralProcess(width=8, latent=4, samples=3, test_samples=5, **given),
    "np_alone": lambda **given: NeuralProcess(width=8, latent=4, path="none", test_samples=2, **given),
    "anp": lambda **given: NeuralProcess(path="attention", latent=4, test_samples=3, **SMALL, **given),
    "tnp_d": lambda **given: InContext(causal=False, norm="post", head_depth=2, **TRANSFORMER, **given),
    "pfn": lambda **given: InContext(causal=False, **TRANSFORMER, **given),
}
SEQUENCES = {
    "icl": lambda **given: InContext(positions=9, **TRANSFORMER, **given),
    "lstm": lambda **given: Recurrent(width=6, layers=2, **given),
    "gru": lambda **given: Recurrent(cell="gru", width=6, **given),
    "mann": lambda **given: MemoryAugmented(controller=7, places=5, width=4, heads=2, **given),
    "mann_lstm": lambda **given: MemoryAugmented(memory="none", controller=7, **given),
    "snail": lambda **given: SNAIL(scale=32, reach=6, **given),
}
ALL = {**SETS, **SEQUENCES}
DIMENSION, WAY, QUERIES = 3, 3, 4


@cache
def learner(name: str, targets: str, **options: Any) -> ReadingLearner:
    size = WAY if targets == "classes" else 1
    made = ALL[name](
        model=Linear(input_shape=(DIMENSION,), output_size=None), output_size=size, targets=targets, **options
    )
    # Weights away from where they start: at first, attention hardly tells one example from another.
    generator = torch.Generator().manual_seed(3)
    for p in made.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=generator)
    return made.double().eval()


def tasks_of(targets: str, counts: list[int], seed: int = 0) -> Tasks:
    """Tasks with these numbers of support examples, as few columns of padding as that takes."""
    generator = torch.Generator().manual_seed(seed)
    most = max(counts)
    mask = torch.arange(most) < torch.tensor(counts)[:, None]

    def examples(n: int, mask: Tensor | None) -> Examples:
        x = torch.randn(len(counts), n, DIMENSION, generator=generator, dtype=torch.float64)
        if targets == "classes":
            y = torch.randint(0, WAY, (len(counts), n), generator=generator)
        else:
            y = torch.randn(len(counts), n, 1, generator=generator, dtype=torch.float64)
        return Examples(x, y, mask)

    scoring = (
        Scoring(cross_entropy, (ACCURACY,))
        if targets == "classes"
        else Scoring(mean_squared_error, REGRESSION)
    )
    support = examples(most, None if bool(mask.all()) else mask).padded()
    keys = torch.arange(len(counts)) * 7919 + seed
    return Tasks(support, examples(QUERIES, None), key=keys, scoring=scoring)


def predicted(made: ReadingLearner, tasks: Tasks) -> Tensor:
    """Logits, or mean and standard deviation side by side."""
    with torch.no_grad():
        predictions = made.predict(made.adapt(tasks), tasks.query.x)
    if isinstance(predictions, Distribution):
        return torch.cat([predictions.mean, predictions.stddev], 2)
    return predictions
