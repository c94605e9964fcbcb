"""Runs a model on a split and gives its task metric with a bootstrap interval."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import metrics
from .splits import Array, Split

BATCH = 32
RESAMPLES = 1000
SEED = 20241206


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric, its 95 % bootstrap interval over the samples, and how many there were."""

    metric: str
    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Return the score as one line."""
        name = self.metric.rpartition(":")[2]
        return f"{name} {self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.n})"


def run(path: Path, split: Split) -> dict[str, list[Array]]:
    """Return each output of the model, one array a sample, as if each sample had been fed alone."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rank = {item.name: len(item.shape) for item in session.get_inputs()}
    found: dict[str, list[Array]] = {name: [] for name in names}
    whole = any(sample.ndim == rank[name] for name, sample in split.samples[0].items())
    size = 1 if whole else BATCH
    for start in range(0, len(split), size):
        block = split.samples[start : start + size]
        feed = {name: np.stack([sample[name] for sample in block]) for name in block[0]}
        if whole:
            feed = dict(block[0])
        for name, value in zip(names, session.run(names, feed), strict=True):
            parts = [value] if whole else [value[i : i + 1] for i in range(len(block))]
            found[name].extend(parts)
    return found


def score(outputs: dict[str, list[Array]], split: Split) -> Score:
    """Return the split's metric on outputs, with its interval."""
    function = getattr(metrics, split.metric.rpartition(":")[2])
    labels = np.asarray(split.labels)
    n = len(split)
    value = function(outputs, labels)
    draws = np.random.default_rng(SEED).integers(0, n, (RESAMPLES, n))
    if np.ndim(value):
        resampled = np.asarray(value)[draws].mean(1)
    else:
        resampled = np.array(
            [function({k: [v[i] for i in draw] for k, v in outputs.items()}, labels[draw]) for draw in draws]
        )
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Score(metric=split.metric, value=float(np.mean(value)), low=float(low), high=float(high), n=n)


def label_with(outputs: dict[str, list[Array]]) -> Array:
    """Return the class that the model itself gives to each sample."""
    scores = next(iter(outputs.values()))
    return np.array([int(x.reshape(-1).argmax()) for x in scores], dtype=np.int64)
