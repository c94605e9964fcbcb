"""What holds on a GPU: collection equals the CPU's, and models get smaller or faster there, in a few minutes.

    python tools/gpu_check.py --out gpu.json [--model resnext50.onnx --data cal.npz --validation val.npz]

The demo's curves are collected on both providers and compared, then the demo, and the model given, are optimized for
the provider's own latency. Written are the numbers with versions; the exit code is 1 where something does not hold.
`--provider cpu` tries the script itself where there is no GPU.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np

import onnx_lowrank as lr
from onnx_lowrank.demo import MODEL, demo_samples
from onnx_lowrank.errors import LowRankError
from onnx_lowrank.runtime.runner import resolve_providers

SMALL = 1e-6
"""Losses below this, in nats, are rounding on any provider."""
TOLERANCE = 0.05
"""How much the median loss of an option may differ: float32 with other orders of sums, and TF32 in convolutions. What
the modes of single weights are off by themselves is a factor of 2."""
TARGET = 0.8
"""Share of the original's time that the larger model may take."""
SAMPLES = 64
"""Calibration samples of the larger model."""


@click.command()
@click.option("--provider", default="cuda", show_default=True, help="cuda, tensorrt, or onnxruntime's own name.")
@click.option("--model", type=click.Path(path_type=Path), help="A larger model, with --data and --validation.")
@click.option("--data", type=click.Path(path_type=Path))
@click.option("--validation", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the numbers go, as JSON.")
def main(provider: str, model: Path | None, data: Path | None, validation: Path | None, out: Path) -> None:
    """Check a provider, and write what was measured."""
    if model is not None and (data is None or validation is None):
        raise click.UsageError("--model needs --data and --validation")
    start = time.perf_counter()
    try:
        used = resolve_providers(provider)[0]
        found: dict[str, Any] = {"provider": used, "host": _host()}
        found["collection"] = collection(provider)
        found["demo"] = optimized(MODEL, _demo(), lr.Compact(resource="latency"), provider)
        if model is not None and data is not None and validation is not None:
            goal = lr.Lossless(target_latency=TARGET, gate=lr.Gate(observed=True, max_drop=0.02))
            found["model"] = optimized(model, _few(data, validation), goal, provider)
    except LowRankError as error:
        raise click.ClickException(str(error)) from error
    found["seconds"] = time.perf_counter() - start
    wrong = failures(found)
    found["failures"] = wrong
    out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for line in told(found):
        click.echo(line)
    if wrong:
        raise click.ClickException("; ".join(wrong))


def collection(provider: str) -> dict[str, float]:
    """Return how far the losses of the demo's options are from the CPU's, and what collecting takes there."""
    losses, seconds = {}, {}
    for name in ("cpu", provider):
        options = lr.Options(runtime=lr.Runtime(provider=name))
        session = lr.Session.of(MODEL, _demo(), options)
        start = time.perf_counter()
        state = session.collect(session.metric(lr.Gate())[0])
        seconds[name] = time.perf_counter() - start
        losses[name] = np.array([o.loss for curve in state.calibrated.decomposed.curves for o in curve.options])
    own, other = losses["cpu"], losses[provider]
    if own.shape != other.shape:
        return {"options": len(own), "median": float("inf"), "largest": float("inf"), **seconds}
    counted = np.maximum(own, other) > SMALL
    off = np.abs(own - other)[counted] / np.maximum(own, other)[counted]
    return {
        "options": int(counted.sum()), "median": float(np.median(off)), "largest": float(off.max()),
        "seconds_cpu": seconds["cpu"], "seconds": seconds[provider],
    }  # fmt: skip


def optimized(model: Path, samples: lr.DataSources, goal: lr.Compact | lr.Lossless, provider: str) -> dict[str, Any]:
    """Return what a run on the provider gave: in words, bytes and time, and where its own time went."""
    start = time.perf_counter()
    options = lr.Options(runtime=lr.Runtime(provider=provider)).for_goal(goal.resource)
    result = lr.optimize(model, samples, goal, options)
    timing = result.latency
    return {
        "saved": bool(result), "reason": result.reason,
        "verdict": None if result.verdict is None else result.verdict.word,
        "bytes": result.after.bytes / result.before.bytes,
        "ratio": None if timing is None else [timing.ratio.estimate, timing.ratio.low, timing.ratio.high],
        "seconds": time.perf_counter() - start, "steps": dict(result.seconds),
    }  # fmt: skip


def failures(found: Mapping[str, Any]) -> list[str]:
    """Return what does not hold, a sentence each."""
    wrong = []
    if found["collection"]["median"] > TOLERANCE:
        wrong.append(f"the median loss is off by {found['collection']['median']:.1%}, {TOLERANCE:.0%} are allowed")
    for name in ("demo", "model"):
        run = found.get(name)
        if (
            run is not None
            and not run["saved"]
            and "not fast enough" not in run["reason"]
            and "faster" not in run["reason"]
        ):
            wrong.append(f"{name}: nothing was saved: {run['reason']}")
    return wrong


def told(found: Mapping[str, Any]) -> list[str]:
    """Return the numbers, a line each."""
    seen = found["collection"]
    lines = [
        f"{found['provider']}: {seen['options']} losses are off the CPU's by {seen['median']:.2%} in the median,"
        f" {seen['largest']:.1%} at most; collected in {seen['seconds']:.1f} s, on the CPU in {seen['seconds_cpu']:.1f}"
    ]
    for name in ("demo", "model"):
        if (run := found.get(name)) is not None:
            ratio = "" if run["ratio"] is None else f", {run['ratio'][0]:.2f} of the time"
            what = run["verdict"] if run["saved"] else f"nothing saved ({run['reason']})"
            lines.append(f"{name}: {what}, {run['bytes']:.1%} of the bytes{ratio}; took {run['seconds']:.0f} s")
    return [*lines, f"all of it took {found['seconds']:.0f} s"]


def _demo() -> lr.DataSources:
    sets = demo_samples()
    return lr.DataSources(data=sets["calibration"], validation=sets["validation"])


def _few(data: Path, validation: Path) -> lr.DataSources:
    with np.load(data) as file:
        few = {name: file[name][:SAMPLES] for name in file.files}
    return lr.DataSources(data=few, validation=validation)


def _host() -> dict[str, str]:
    packages = ("onnx-lowrank", "onnxruntime-gpu", "numpy", "onnx")
    return {"system": platform.platform(), "python": platform.python_version(), **{p: version(p) for p in packages}}


if __name__ == "__main__":
    main()
