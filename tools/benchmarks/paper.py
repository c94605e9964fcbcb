"""Part "paper": a classifier at the paper's reductions, top-1 and loss on test labels, with the controls a gain needs.

Ranks are chosen on calibration samples, plans on validation samples; the test set is met once a plan. Controls: both
models with a temperature of their own, fitted on validation (a compressed model that is merely less sure of itself
gains loss, not knowledge); and the leaky protocol, which calibrates and validates on the samples that it reports.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import NDArray

from benchmarks.curves import QUICK_SAMPLES, triple
from benchmarks.lines import Lines
from benchmarks.zoo import Entry
from onnx_lowrank.options import Compact, Gate, Goal, Lossless, Options, Runtime
from onnx_lowrank.pipeline import DataSources, Session, meet_goal
from onnx_lowrank.results.result import Result
from onnx_lowrank.runtime.batching import batches, join
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples, read
from onnx_lowrank.statistics import LEVEL, exact_difference, paired_interval

PART = "paper"
KEEPS = (0.5, 0.3, 0.2, 0.1)
DROPS = (0.0, 0.005)
LEAKY_KEEPS = (0.3, 0.1)
LEAKY = 2000
"""Test samples that the leaky protocol calibrates, validates and reports on; the honest rows are told on them, too."""
ANY = Gate(max_drop=1.0, observed=True)
"""lossless: the size is what is asked for; what it costs is what is reported."""
BATCH = 50
TEMPERATURES = (0.05, 20.0)
Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table: a goal, by the honest protocol or the leaky one."""

    name: str
    goal: Goal
    leaky: bool = False


CELLS = (
    *(Cell(f"lossless/{keep:g}", Lossless(keep=keep, gate=ANY)) for keep in KEEPS),
    *(Cell(f"compact/{drop:g}", Compact(gate=Gate(max_drop=drop, observed=True))) for drop in DROPS),
    *(Cell(f"leaky/{keep:g}", Lossless(keep=keep, gate=ANY), leaky=True) for keep in LEAKY_KEEPS),
)
QUICK_CELLS = (CELLS[1],)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """A model's scores (n, classes) and the labels (n,) of one set."""

    logits: Array
    labels: Array

    @property
    def hits(self) -> Array:
        """1 where the largest score is at the label, (n,)."""
        return (self.logits.argmax(1) == self.labels).astype(float)

    def losses(self, temperature: float = 1.0) -> Array:
        """Return −log p(label) in nats, (n,)."""
        logs = scipy.special.log_softmax(self.logits / temperature, axis=1)
        return np.asarray(-logs[np.arange(len(self.labels)), self.labels])

    def temperature(self) -> float:
        """Return the temperature of least mean loss."""
        low, high = np.log(TEMPERATURES)
        found = scipy.optimize.minimize_scalar(
            lambda t: self.losses(float(np.exp(t))).mean(), bounds=(low, high), method="bounded"
        )
        return float(np.exp(found.x))

    def part(self, count: int) -> Scores:
        """Return the first samples."""
        return Scores(self.logits[:count], self.labels[:count])


@dataclass(frozen=True, slots=True, eq=False)
class Sets:
    """What a model is scored on, and the original's scores there."""

    validation: Samples
    test: Samples
    original: tuple[Scores, Scores]


def measure(entry: Entry, lines: Lines) -> None:
    """Measure every missing row of a classifier; the honest rows share one collection. Raises LowRankError."""
    quick = lines.setting.quick
    cells = QUICK_CELLS if quick else CELLS
    missing = [cell for cell in cells if not lines.has(PART, entry.name, cell.name, entry.sha256)]
    options = Options(metric="top1", seed=lines.setting.seed, runtime=Runtime(threads=lines.setting.threads))
    for leaky in (False, True):
        mine = [cell for cell in missing if cell.leaky == leaky]
        if not mine:
            continue
        start = time.perf_counter()
        session = Session.of(entry.model, _sources(entry, options, leaky=leaky, quick=quick), options)
        session.collect(session.metric(mine[0].goal.gate)[0])
        collection = time.perf_counter() - start
        sets = _sets(entry, session, quick=quick)
        for cell in mine:
            data = {**_row(session, cell, sets, collection), "weights": weights(entry, session)}
            lines.add(PART, entry.name, cell.name, entry.sha256, data)
            print(f"{entry.name}: {cell.name}: {data['outcome']}, {data.get('top1')}", flush=True)


def _sources(entry: Entry, options: Options, *, leaky: bool, quick: bool) -> DataSources:
    """Return the samples; leaky: the evaluation samples as calibration and validation, what one must not do."""
    runner = Runner(entry.model, runtime=options.runtime)
    if leaky:
        test = some(read(entry.tests[0].path, runner.inputs), quick=quick)
        part = test.subset(range(min(len(test), LEAKY)))
        return DataSources(data=part, validation=part, force_overlap=True)
    each = entry.calibration, entry.validation
    calibration, validation = (some(read(one.path, runner.inputs), quick=quick) for one in each)
    return DataSources(data=calibration, validation=validation)


def some(samples: Samples, *, quick: bool) -> Samples:
    """Return the samples, or for a trial a few, spread over the set."""
    count = min(len(samples), QUICK_SAMPLES)
    return samples.subset([i * len(samples) // count for i in range(count)]) if quick else samples


def weights(entry: Entry, session: Session) -> dict[str, str]:
    """Return which weights these are: the file's hash, and how it says that they were trained, "" where it does not."""
    said = {prop.key: prop.value for prop in session.loaded.model.metadata_props}
    return {"sha256": entry.sha256, "training": said.get("training", "")}


def _sets(entry: Entry, session: Session, *, quick: bool) -> Sets:
    runner = session.loaded.runner
    each = entry.validation, entry.tests[0]
    validation, test = (some(read(one.path, runner.inputs), quick=quick) for one in each)
    return Sets(validation, test, (scored(runner, validation), scored(runner, test)))


def scored(runner: Runner, samples: Samples, batch: int = BATCH) -> Scores:
    """Return a model's scores on a set of samples with class numbers as labels, `batch` samples a call at most."""
    rows = [next(iter(outputs.values())) for outputs in _outputs(runner, samples, batch)]
    logits = np.concatenate(rows).astype(np.float64)
    return Scores(logits, np.asarray(samples.labels).reshape(len(samples)).astype(int))


def _outputs(runner: Runner, samples: Samples, batch: int) -> Iterator[dict[str, Any]]:
    for run in batches(samples.feeds, batch):
        yield runner.run(join(run))


def _row(session: Session, cell: Cell, sets: Sets, collection: float) -> dict[str, Any]:
    """Return a row; `seconds` are those of the whole: what the rows share, `collection`, counts in each of them."""
    start = time.perf_counter()
    result = meet_goal(session, cell.goal, dry_run=True)
    seconds = collection + time.perf_counter() - start
    about: dict[str, Any] = {"reason": result.reason, "seconds": seconds, "leaky": cell.leaky}
    if not result:
        return {**about, "outcome": "nothing"}
    options = session.options
    runner = Runner(result.model, runtime=options.runtime)
    found = scored(runner, sets.validation), scored(runner, sets.test)
    (validation, test), part = sets.original, (sets.original[1].part(LEAKY), found[1].part(LEAKY))
    if cell.leaky:  # the samples that it reports are all that it has
        return {**about, "outcome": "made", **_sizes(result), **_compared((part[0],) * 2, (part[1],) * 2)}
    data = {**about, "outcome": "made", **_sizes(result), **_compared((validation, test), found)}
    return {**data, "leaky_samples": compared(*part)}


def _sizes(result: Result) -> dict[str, Any]:
    dense = sum(curve.dense.cost.parameters for curve in result.curves)
    return {
        "kept": result.after.parameters / result.before.parameters,
        "kept_factorable": result.plan.cost.parameters / dense if result.plan else 1.0,
        "bytes": [result.before.bytes, result.after.bytes],
        "macs": result.after.macs / result.before.macs,
        "latency": triple(result.latency.ratio) if result.latency else None,
    }


def _compared(before: Sequence[Scores], after: Sequence[Scores]) -> dict[str, Any]:
    """Return what there is to say of (validation, test): `compared` of the test, and tempered on validation."""
    temperatures = [before[0].temperature(), after[0].temperature()]
    tempered = [each[1].losses(t) for each, t in zip((before, after), temperatures, strict=True)]
    return {
        **compared(before[1], after[1]),
        "tempered": _means(*tempered),
        "temperatures": temperatures,
        "validation_top1": [float(each[0].hits.mean()) for each in (before, after)],
    }


def compared(first: Scores, second: Scores) -> dict[str, Any]:
    """Return the original's mean, the candidate's, and the paired change, of top-1 and loss; n, and won and lost."""
    gained = int(((second.hits == 1) & (first.hits == 0)).sum())
    lost = int(((second.hits == 0) & (first.hits == 1)).sum())
    gain = exact_difference(gained, lost, len(first.hits), LEVEL)  # positive: the candidate is better
    return {
        "n": len(first.hits),
        "top1": [float(first.hits.mean()), float(second.hits.mean()), triple(gain)],
        "flips": [gained, lost],
        "loss": _means(first.losses(), second.losses()),
    }


def _means(first: Array, second: Array) -> list[Any]:
    return [float(first.mean()), float(second.mean()), triple(paired_interval(second, first, LEVEL))]
