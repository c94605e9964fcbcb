"""A classifier's scores on labelled samples, and two models' paired: top-1 exact, loss in nats by its differences."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import NDArray

from benchmarks import workbench as wb
from benchmarks.workbench import Workbench, triple

BATCH = 50
TEMPERATURES = (0.05, 20.0)
Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """A model's scores (n, classes) and the labels (n,) of one set."""

    logits: Array
    labels: Array

    @staticmethod
    def of(runner: wb.Runner, samples: wb.Samples, batch: int = BATCH) -> Scores:
        """Score samples whose labels are class numbers, `batch` of them a call at most."""
        outputs = (runner.run(wb.join(run)) for run in wb.batches(samples.feeds, batch))
        logits = np.concatenate([next(iter(each.values())) for each in outputs]).astype(np.float64)
        return Scores(logits, np.asarray(samples.labels).reshape(len(samples)).astype(int))

    @property
    def hits(self) -> Array:
        """1 where the largest score is at the label, (n,)."""
        return (self.logits.argmax(1) == self.labels).astype(float)

    def losses(self, temperature: float = 1.0) -> Array:
        """Return −log p(label) in nats, (n,)."""
        logs = scipy.special.log_softmax(self.logits / temperature, axis=1)
        return np.asarray(-logs[np.arange(len(self.labels)), self.labels])

    def temperature(self) -> float:
        best = scipy.optimize.minimize_scalar(
            lambda t: self.losses(float(np.exp(t))).mean(), bounds=np.log(TEMPERATURES), method="bounded"
        )
        return float(np.exp(best.x))

    def part(self, count: int) -> Scores:
        return Scores(self.logits[:count], self.labels[:count])


def original_on_test(bench: Workbench) -> Scores:
    return Scores.of(bench.original, bench.samples(bench.entry.tests[0]))


def compared(first: Scores, second: Scores) -> dict[str, Any]:
    """Return the original's mean, the candidate's, and the paired change, of top-1 and loss; n, and won and lost."""
    won, lost = flips(second.hits, first.hits)
    gain = wb.exact_difference(won, lost, len(first.hits), wb.LEVEL)  # positive: the candidate is better
    return {
        "n": len(first.hits),
        "top1": [float(first.hits.mean()), float(second.hits.mean()), triple(gain)],
        "flips": [won, lost],
        "loss": means(first.losses(), second.losses()),
    }


def flips(one: Array, other: Array) -> tuple[int, int]:
    return int(((one == 1) & (other == 0)).sum()), int(((other == 1) & (one == 0)).sum())


def means(first: Array, second: Array) -> list[Any]:
    return [float(first.mean()), float(second.mean()), triple(wb.paired_interval(second, first, wb.LEVEL))]


def ahead(theirs: Array, ours: Array) -> dict[str, Any]:
    """Return by how much the hits of theirs (n,) exceed ours (n,), with interval, and how many each has alone."""
    won, lost = flips(theirs, ours)
    return {"top1": triple(wb.exact_difference(won, lost, len(ours), wb.LEVEL)), "flips": [won, lost]}


def packed(hits: Array) -> str:
    """Return hits (n,) of 0 and 1 as text, eight a byte."""
    return base64.b64encode(np.packbits(hits.astype(bool)).tobytes()).decode("ascii")


def unpacked(text: str, count: int) -> Array:
    """Return the hits (count,) that `packed` wrote."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(float)
