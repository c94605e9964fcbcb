"""Reports of `optimize`, as JSON holds them, made without a run."""

from __future__ import annotations

from typing import Any


def verdict(word: str = "certified", bound: float | None = 0.0094, notes: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "word": word, "metric": "top1", "higher_is_better": True, "samples": 2000, "allowed": 0.01,
        "original": {"estimate": 0.9335, "low": 0.92, "high": 0.94, "level": 0.95},
        "candidate": {"estimate": 0.929, "low": 0.91, "high": 0.94, "level": 0.95},
        "drop": {"estimate": 0.0045, "low": -0.0013, "high": 0.0106, "level": 0.95},
        "bound": {"value": bound, "confidence": 0.95, "method": "exact paired test", "exact": True},
        "drop_type": "absolute", "reason": "worse", "notes": list(notes),
        "agreement": {"estimate": 0.981, "low": 0.974, "high": None, "level": 0.95},
    }  # fmt: skip


def size(share: float) -> dict[str, float]:
    return {"parameters": int(100 * share), "bytes": int(400 * share), "macs": 100 * share, "milliseconds": 0.0}


def option(scheme: str, error: float) -> dict[str, Any]:
    cost = {"parameters": 50, "bytes": 200, "macs": 50.0, "milliseconds": 0.0}
    form = {"scheme": scheme, "storage": "own", "ranks": [8]}
    return {**form, "error": error, "loss": 0.1, "deviation": 0.01, "cost": cost, **cost}


def made(**changes: Any) -> dict[str, Any]:
    """Return a report of a run that saved its only plan, as JSON holds it."""
    plan = {"choices": [{"site": "a", "weight": "w", "option": option("svd", 0.1)}], "origin": "plan 1", "mild": False}
    site = {"id": "a", "node": "n", "op": "Gemm", "weight": "w", "shape": [10, 10]}
    found: dict[str, Any] = {
        "format": "onnx-lowrank report", "tool": "0", "changed": True, "reason": "certified: worse",
        "goal": {"gate": {"observed": False}, "resource": "parameters"},
        "options": {"seed": 0, "gamma": 0.0, "signed": False, "loss": None, "include": [], "then": "", "refit": True,
                    "runtime": {"provider": "auto", "threads": 0}},
        "source": "m.onnx", "source_hash": "0", "before": size(1.0), "after": size(0.5), "plan": plan, "output": None,
        "output_sha256": None, "command": ["onnx-lowrank", "optimize", "m.onnx"], "host": {}, "divergence": "kl",
        "certificate": None, "metric": "labels: top1", "verdict": verdict(), "test": None, "latency": None, "steps": [],
        "sites": [site], "skips": [], "checks": [], "notes": ["a note"], "warnings": [], "seconds": {},
        "trials": [{"plan": plan, "verdict": verdict(), "size": size(0.5)}], "algorithm": "compact",
        "predicted_latency_ratio": None,
        "sensitivity": [{"site": "a", "probes": [], "range": None, "options": [option("svd", 0.1)]}],
    }  # fmt: skip
    return found | changes


def ended_early() -> dict[str, Any]:
    return made(changed=False, verdict=None, plan=None, trials=[], sensitivity=[], reason="20 samples cannot certify")


def step(name: str, share: float) -> dict[str, Any]:
    return {"name": name, "size": size(share), "verdict": verdict(), "test": None, "latency": None}


def with_trust(trusted: float | None, scheme: str = "svd") -> dict[str, Any]:
    """Return a report whose weight has a loss that is trusted up to this error; it has one of 0.1."""
    plan = {"choices": [{"site": "a", "weight": "w", "option": option(scheme, 0.1)}]}
    report = made(plan=plan, trials=[{"plan": plan, "verdict": verdict(), "size": size(0.5)}])
    report["sensitivity"][0]["range"] = trusted
    return report
