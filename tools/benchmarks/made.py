"""Files made of a model, for parts "quantize" and "peers": by ours, by int8, by both, and by other people's tools."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import workbench as wb
from benchmarks.goals import MAX_DROP
from benchmarks.lines import Line, source_digest
from benchmarks.peer_tools import NotInstalledError, PeerError, ready, run_peer
from benchmarks.workbench import Workbench
from onnx_lowrank import Compact, Gate, Goal, Lossless, LowRankError, ModelError, Session

ORIGINAL, OURS, FASTEST, SLIM = "original", "ours, size", "ours, latency", "onnxslim"
INT4 = "onnxruntime-int4"
STRICT, QUICK_DROP = 0.002, 0.1
"""A stricter gate, for a metric that is not the one of the tests: minilm's similarities beside human ones; and what a
trial allows, whose few samples tell nothing smaller."""
INTEGERS = (8, 32)
DROPS = (0.005, 0.01)
"""What part "bits" allows."""
PEER_SAMPLES = 300
"""Calibration samples that peers see: NNCF's default."""


@dataclass(frozen=True, slots=True)
class Row:
    """Made of `source` by a peer (`tool`), by ours for the smallest `resource`, or by `then` alone.

    like: whose outputs it is held against. allowed: the drop on validation that ours may have; certified: at 95 %
    confidence, not only observed. bits: those of the number formats that ours may choose. size: the most accurate model
    of that share of the bytes instead; None: as small as may be.
    """

    tool: str = ""
    resource: wb.Resource | None = None
    then: wb.Then | None = None
    source: str = ORIGINAL
    like: str = ""
    allowed: float = MAX_DROP
    certified: bool = False
    bits: tuple[int, ...] = (32,)
    size: float | None = None


def _certified(kind: str, resource: wb.Resource = "bytes", **fields: Any) -> dict[str, Row]:
    """Return rows of ours for the fewest bytes, or the least time, at every drop of part "bits"."""
    return {f"{kind}, {drop:g}": Row(resource=resource, allowed=drop, certified=True, **fields) for drop in DROPS}


ROWS = {
    "int8 static": Row(then="quantize"),
    "int8 dynamic": Row(then="quantize-dynamic"),
    "int8 weights": Row(then="quantize-weights"),
    "int8 static, stock": Row("onnxruntime-static"),
    "int8 dynamic, stock": Row("onnxruntime-dynamic"),
    "NNCF": Row("nncf"),
    "onnx-shrink-ray": Row("onnx-shrink-ray"),
    SLIM: Row("onnxslim", like=ORIGINAL),
    "onnxsim": Row("onnxsim", like=ORIGINAL),
    OURS: Row(resource="parameters"),
    FASTEST: Row(resource="latency"),
    "ours + int8 static": Row(resource="parameters", then="quantize"),
    "ours + int8 dynamic": Row(resource="parameters", then="quantize-dynamic"),
    "ours + int8 weights": Row(resource="parameters", then="quantize-weights"),
    "ours + int8 weights, strict": Row(resource="parameters", then="quantize-weights", allowed=STRICT),
    "ours, size, drop 0": Row(resource="parameters", allowed=0.0),
    "ours + int8 static, drop 0": Row(resource="parameters", then="quantize", allowed=0.0),
    "onnxslim of ours": Row("onnxslim", source=OURS, like=OURS),
    "onnxsim of ours": Row("onnxsim", source=OURS, like=OURS),
    "ours of onnxslim": Row(resource="parameters", source=SLIM, like=OURS),
    "int4 blocks": Row(INT4),
    **_certified("factors"),
    **_certified("factors, then int8", then="quantize-weights"),
    **_certified("ranks and bits", bits=wb.BITS),
    **_certified("ranks and integers", "latency", bits=INTEGERS),
    "ranks and bits, drop 0": Row(resource="bytes", allowed=0.0, bits=wb.BITS),
    "ranks and bits, 15 %": Row(resource="bytes", allowed=QUICK_DROP, bits=wb.BITS, size=0.15),
}


def make(bench: Workbench, name: str) -> Line:
    """Make a row's file and return what it took; what keeps it from being made or loaded is its reason."""
    row = ROWS[name]
    about: Line = {
        "reason": "", "original_bytes": bench.session.loaded.bytes, "threads": bench.options.runtime.threads,
        "allowed": QUICK_DROP if bench.quick else row.allowed, **(wb.settings(row.then) if row.then else {}),
    }  # fmt: skip
    try:
        about |= _made(bench, name)
    except NotInstalledError as error:
        return {**about, "outcome": "absent", "reason": str(error)}
    except (PeerError, LowRankError) as error:
        return {**about, "outcome": "failed", "reason": str(error)}
    if about["reason"]:
        return {**about, "outcome": "nothing"}
    try:
        wb.same_interface(bench.original, bench.runner(path_of(bench, name)))
    except ModelError as error:
        why = str(error).removeprefix("onnxruntime cannot load the model: ")
        return {**about, "outcome": "failed", "reason": f"does not load: {why}"}
    return {**about, "outcome": "made", "bytes": wb.file_bytes(path_of(bench, name))}


def path_of(bench: Workbench, name: str) -> Path:
    file = f"{name.replace(' ', '-').replace(',', '')}.onnx"
    return bench.entry.model if name == ORIGINAL else bench.once(_folder) / file


def _folder(bench: Workbench) -> Path:
    """Return where the files of this model, this code and these settings are."""
    stem = f"{bench.entry.name}-{bench.entry.sha256[:8]}-{source_digest()}-{bench.options.seed}"
    folder = bench.runs / f"{stem}{'-quick' * bench.quick}"
    folder.mkdir(exist_ok=True)
    return folder


def _made(bench: Workbench, name: str) -> Line:
    """Return what a row's file took, with a reason where there was nothing to make or nothing passed.

    Raises PeerError, NotInstalledError, LowRankError.
    """
    row, target, source = ROWS[name], path_of(bench, name), path_of(bench, ROWS[name].source)
    if not source.is_file() and (why := _without(bench, row.source)):
        return {"reason": f"there is no file of {row.source}: {why}"}
    target.unlink(missing_ok=True)
    if row.tool:
        tool = ready(row.tool, bench.lines.folder / "venvs")
        seconds = run_peer(tool.command, source, target, bench.once(_samples))
        return {"reason": "", "seconds": seconds, "versions": dict(tool.versions)}
    if row.resource is not None:
        return _ours(bench, row, row.resource, target)
    start = time.perf_counter()
    wb.store(wb.quantised(wb.load(source), row.then, bench.samples(bench.entry.calibration).feeds), target)
    return {"reason": "", "seconds": time.perf_counter() - start, "parameters": 1.0, "macs": 1.0}


def _without(bench: Workbench, source: str) -> str:
    """Make what a row is made of; return why it cannot be. Raises NotInstalledError."""
    try:
        return str(_made(bench, source)["reason"])
    except NotInstalledError:
        raise
    except (PeerError, LowRankError) as error:
        return str(error)


def _ours(bench: Workbench, row: Row, resource: wb.Resource, target: Path) -> Line:
    formats = resource if min(row.bits) < max(row.bits) else None
    session, spent = bench.once(_collected, row.source, row.bits, formats)
    allowed = QUICK_DROP if bench.quick else row.allowed
    start, gate = time.perf_counter(), Gate(max_drop=allowed, observed=not row.certified)
    goal: Goal = Compact(gate=gate, resource=resource)
    if row.size is not None:
        goal = Lossless(target_size=int(row.size * bench.session.loaded.bytes), gate=gate)
    result = bench.goal(session, goal, row.then)
    seconds = spent + time.perf_counter() - start
    tried = [[trial.size.bytes, trial.verdict.bound.value, trial.verdict.passed] for trial in result.trials]
    if not result:
        return {"reason": result.reason, "seconds": seconds, "tried": tried}
    wb.store(result.model, target)
    operators = {site.id: site.op for site in result.sites}
    won = Counter(f"{operators[c.site]} {c.option.scheme}" for c in (result.plan.choices if result.plan else ()))
    shares = {what: getattr(result.after, what) / getattr(result.before, what) for what in ("parameters", "macs")}
    about = {"schemes": dict(sorted(won.items())), "predicted_latency": result.predicted_ratio, "tried": tried}
    return {"reason": "", "seconds": seconds, **shares, **about}


def _collected(
    bench: Workbench, source: str, bits: tuple[int, ...], formats: wb.Resource | None
) -> tuple[Session, float]:
    """Return a session that is collected, with the original judged, and the seconds that took.

    formats: the goal that number formats are scored for, if there are any.
    """
    start, gate = time.perf_counter(), Gate(max_drop=MAX_DROP, observed=True)
    session = bench.opened(path_of(bench, source), bits=bits)
    state = session.collect(session.metric(gate)[0])
    if formats is not None:
        session.in_formats(state, formats)
    session.judge(gate)
    return session, time.perf_counter() - start


def _samples(bench: Workbench) -> Path:
    """Return the file of calibration samples that a peer reads: inputs alone, no labels, one sample a call."""
    path = bench.once(_folder) / "samples.npz"
    feeds = wb.some(bench.samples(bench.entry.calibration), PEER_SAMPLES).feeds
    arrays: dict[str, Any] = {f"{i:05}/{name}": x for i, feed in enumerate(feeds) for name, x in feed.items()}
    np.savez(path, **arrays)
    return path
