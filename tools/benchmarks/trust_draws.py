"""Part "trust", the draws: what a gate lets through on samples drawn anew, beside the truth on 10,000 test images.

The demo was trained on the first 50,000 training images of Fashion-MNIST. A draw takes its calibration and validation
images, disjoint, from the last 10,000, which it never saw; draws share images by chance, as there are no more.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.lines import Lines
from benchmarks.trust_parts import ALLOWED, CERTIFIED, DEMO, FIRST, GATES, PART, draw_name, draws
from models.fashion_mnist import TRAINED_ON, Labelled, labelled, unit_batch
from onnx_lowrank.demo import MODEL
from onnx_lowrank.options import Compact, Options, Runtime
from onnx_lowrank.pipeline import DataSources, Session, meet_goal
from onnx_lowrank.pipeline.search import Search
from onnx_lowrank.plan import compact
from onnx_lowrank.results.parts import Size, Trial
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.runtime.timing import Timing
from onnx_lowrank.types import Interval

CALIBRATION = 512
RANK_MULTIPLE = 8
BATCH = 250


class Truth:
    """Top-1 of the original on the test images, and how much less a candidate has."""

    def __init__(self, test: Labelled, threads: int) -> None:
        self.test, self.threads = test, threads
        self.original = self._hits(onnx.load(MODEL))

    def drop(self, model: onnx.ModelProto) -> float:
        """Return the drop of top-1, positive for worse."""
        return float((self.original - self._hits(model)).mean())

    def _hits(self, model: onnx.ModelProto) -> NDArray[np.float64]:
        runner = Runner(model, runtime=Runtime(threads=self.threads))
        hits = []
        for start in range(0, len(self.test), BATCH):
            part = self.test[start : start + BATCH]
            logits = runner.run({"image": unit_batch(part.images)})["logits"]
            hits.append(logits.argmax(1) == part.labels)
        return np.concatenate(hits).astype(np.float64)


def measure(lines: Lines) -> None:
    """Measure every missing draw. Raises LowRankError, DatasetError among them."""
    key = hashlib.sha256(MODEL.read_bytes()).hexdigest()
    cells = [cell for cell in draws(lines.setting.quick) if not lines.has(PART, DEMO, draw_name(*cell), key)]
    if not cells:
        return
    train, test = (labelled(folder, part) for folder, part in _parts())
    truth, unseen = Truth(test, lines.setting.threads), train[TRAINED_ON:]
    for n, draw in cells:
        seed = lines.setting.seed
        chosen = np.random.default_rng([seed, n, draw]).permutation(len(unseen))[: CALIBRATION + n]
        sources = DataSources(
            data=_given(unseen[chosen[:CALIBRATION]]), validation=_given(unseen[chosen[CALIBRATION:]])
        )
        options = Options(
            metric="top1", seed=seed, runtime=Runtime(threads=lines.setting.threads), rank_multiple=RANK_MULTIPLE
        )
        with untimed():
            data = _draw(Session.of(MODEL, sources, options), truth)
        lines.add(PART, DEMO, draw_name(n, draw), key, data)
        told = {name: (round(each["kept"], 3), each["true_drop"]) for name, each in data["rules"].items()}
        print(f"{DEMO}: {draw_name(n, draw)}: kept, true drop: {told}", flush=True)


def _parts() -> Iterator[tuple[Any, str]]:
    from models.fashion_mnist import DEBIAN_FOLDER

    yield from ((DEBIAN_FOLDER, part) for part in ("train", "t10k"))


def _given(data: Labelled) -> dict[str, NDArray[Any]]:
    return {"image": unit_batch(data.images), "labels": data.labels.astype(np.int64)}


@contextmanager
def untimed() -> Iterator[None]:
    """Leave out the seconds that timing the final model takes: nothing here depends on it."""
    still = Timing(first_ms=1.0, second_ms=1.0, ratio=Interval(1.0, 1.0, 1.0), pairs=1)
    with patch.object(
        importlib.import_module("onnx_lowrank.pipeline.speed_goal"), "interleaved", lambda *_, **__: still
    ):
        yield


def _draw(session: Session, truth: Truth) -> dict[str, Any]:
    """Return what every rule does with one draw, all on one collection."""
    rules = {}
    for name, gate in GATES.items():
        result = meet_goal(session, Compact(gate=gate), dry_run=True)
        model, kept = (result.model, result.after.parameters / result.before.parameters) if result else (None, 1.0)
        rules[name] = _row(model, kept, len(result.trials), truth, result.reason)
    model, kept, tests = first_version(session)
    rules[FIRST] = _row(model, kept, tests, truth, "")
    return {"calibration": CALIBRATION, "test": len(truth.test), "top1": float(truth.original.mean()), "rules": rules}


def _row(model: onnx.ModelProto | None, kept: float, tests: int, truth: Truth, reason: str) -> dict[str, Any]:
    drop = 0.0 if model is None else truth.drop(model)
    return {"saved": model is not None, "kept": kept, "true_drop": drop, "tests": tests, "reason": reason}


def first_version(session: Session) -> tuple[onnx.ModelProto | None, float, int]:
    """Return what the first version's rule gives: the model or None, the share kept, and how many plans were tested.

    It searched the smallest plan whose two-sided interval of the drop ends at or below what is allowed.
    """
    gate = GATES[CERTIFIED]
    state = session.collect(session.metric(gate)[0])
    before = Size(session.inventory.parameters, session.loaded.bytes, state.calibrated.observed.macs)
    search = Search(session, state, session.problem("parameters"), *session.judge(gate), before)
    proposals, trials, held = compact(search.problem), [], list[Trial]()
    try:
        plan = next(proposals)
        while True:
            trials.append(search.trial(plan, lambda _: None))
            good = trials[-1].verdict.drop.high <= ALLOWED
            held += trials[-1:] if good else []
            plan = proposals.send(good)
    except StopIteration:
        pass
    if not held:
        return None, 1.0, len(trials)
    best = min(held, key=lambda trial: trial.size.parameters)
    return search.candidate(best.plan), best.size.parameters / before.parameters, len(trials)
