"""The page of part "bits": of what is certified at a drop the smallest and the fastest stand side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tools_lines import page_of, raw, rows_of, verdict

Bench = Callable[[str], Any]


def timed(time: float) -> dict[str, Any]:
    latency = {
        f"{count}/{threads}": {"reason": "", "ratio": [time, time, time]} for count in (1, 16) for threads in (1, 2)
    }
    return {**latency, "16/2": {"reason": "the batch axis of x is fixed"}}


def made(size: int, bound: float) -> dict[str, Any]:
    return {
        "outcome": "made", "reason": "", "bytes": size, "original_bytes": 1_000_000, "bound": bound, "kl": 1e-4,
        "validation": verdict(0.9, 0.899, [0.001, -0.001, 0.003]), "tests": {}, "seconds": 3.0,
    }  # fmt: skip


def test_the_smallest_and_the_fastest_that_are_certified_stand_side_by_side(bench: Bench) -> None:
    cells = {
        "int8 static": made(260_000, 0.004),
        "int8 dynamic": made(250_000, 0.02),
        "int4 blocks": made(160_000, 0.008),
        "NNCF": {"outcome": "failed", "reason": "no such file", "original_bytes": 1_000_000},
        "ranks and bits, 0.005": made(90_000, 0.0045),
        "ranks and bits, 0.01": made(50_000, 0.009),
        "ranks and integers, 0.01": made(150_000, 0.008),
        "int8 static: time": timed(0.4),
        "int8 dynamic: time": timed(0.3),
        "int4 blocks: time": timed(0.9),
        "NNCF: time": {},
        "ranks and bits, 0.005: time": timed(0.8),
        "ranks and integers, 0.01: time": timed(0.2),
    }
    text = page_of(bench, "bits", [raw("bits", "vgg", name, data) for name, data in cells.items()])
    assert rows_of(text, "| vgg | ") == [
        "| vgg | .005 | 26.0 % | 26.0 % | 9.0 % | .35 | .35 | .40 | .80 | 2.00 |",
        "| vgg | .010 | 26.0 % | 16.0 % | 5.0 % | .19 | .31 | .40 | .20 | .50 |",
    ]
    assert "| NNCF | failed | — | — | — | — | — | — | — | — |" in text
    assert "- NNCF: no such file" in text
    row = "| int8 static | 0.3 (26.0 %) | < .0040 | .899 (−.001 [−.003, .001]) | 1.0e-04 | .40 [.40, .40]"
    assert row in text
    untimed = next(line for line in text.splitlines() if line.startswith("| ranks and bits, 0.01 |"))
    assert untimed.endswith("| — | — | — | — | 3 |")


def test_predicted_losses_stand_beside_measured_ones(bench: Bench) -> None:
    points = [
        {"site": "a", "scheme": "svd", "storage": "int4", "predicted": p, "measured": m}
        for p, m in ((1e-3, 1.5e-3), (1e-3, 5e-3), (1e-9, 2e-9))
    ]
    plans = [
        {"share": 0.25, "predicted": 1e-3, "expected": 2e-3, "measured": 3e-3},
        {"share": 0.1, "predicted": 1e-2, "expected": 2e-2, "measured": 1e-1},
    ]
    data = {"points": points, "plans": plans, "unit": "nats of KL", "n": 384}
    lines = [raw("bits", "vgg", "int8 static", made(260_000, 0.004)), raw("bits", "vgg", "prediction", data)]
    text = page_of(bench, "bits", lines)
    assert "| int4 | 2 | 1 | 3.25 | 1.85 | 4.65 |" in text
    assert "| 25% | 0.001 | 0.002 | 0.003 | 1.50 |" in text
    assert "1 of 2 within a factor of 2 (384" in text
