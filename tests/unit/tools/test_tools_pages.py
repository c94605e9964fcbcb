"""Pages are made of raw lines alone: numbers as they are written, and a row for what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tools_lines import page_of, raw, rows_of, verdict

from onnx_lowrank.types import Cost, Curve, Form, Option

Bench = Callable[[str], Any]


def test_number_is_short(bench: Bench) -> None:
    number = bench("benchmarks.wording").number
    shown = [number(value) for value in (0.6564, -0.0154, -0.0001, 0.0, 1.0, -12.3456, float("inf"), float("nan"))]
    assert shown == [".656", "−.015", ".000", ".000", "1.000", "−12.346", "∞", "?"]


@pytest.mark.parametrize(("higher", "change"), [(True, "−.015 [−.031, .001]"), (False, ".015 [−.001, .031]")])
def test_change_is_candidate_less_original(bench: Bench, higher: bool, change: str) -> None:
    candidate = 0.641 if higher else 0.671
    cell = bench("benchmarks.wording").both(verdict(0.656, candidate, [0.015, -0.001, 0.031], higher=higher))
    assert cell == f".656 → {candidate:.3f} ({change})".replace("0.", ".")


def test_goals_stand_side_by_side(bench: Bench) -> None:
    saved = {
        "outcome": "saved", "reason": "passed", "exit": 0, "kept_factorable": 0.25, "factored": 6,
        "before": {"parameters": 1000, "bytes": 4_000_000, "macs": 10.0},
        "after": {"parameters": 250, "bytes": 1_000_000, "macs": 2.5},
        "validation": verdict(0.966, 0.963, [0.003, -0.001, 0.007]),
        "latency": [0.52, 0.49, 0.55], "milliseconds": [10.0, 5.2], "validations": 9,
        "tests": {"test": verdict(0.956, 0.951, [0.005, -0.002, 0.012])},
        "command": "onnx-lowrank optimize zoo/crepe/model.onnx", "seconds": 61.4, "peak_bytes": 1_234_000_000,
    }  # fmt: skip
    refused = {
        "outcome": "nothing", "reason": "none of 9 plans passed", "exit": 3, "tests": {}, "validations": 9,
        "command": "onnx-lowrank optimize", "seconds": 8.0, "peak_bytes": 5e8,
    }  # fmt: skip
    lines = [raw("goals", "crepe", "compact/joint", saved), raw("goals", "crepe", "compact/weights", refused)]
    text = page_of(bench, "goals", lines)
    assert "|  | compact, joint | compact, plain |" in text
    assert "| outcome | saved | nothing acceptable (exit 3) |" in text
    assert "| test | .956 → .951 (−.005 [−.012, .002]) | — |" in text
    assert "| file, MB | 4.0 → 1.0 (25.0 %) | — |" in text
    assert "| latency × | .52 [.49, .55] | — |" in text
    assert "| peak memory, MB | 1,234 | 500 |" in text
    assert "- compact, plain: none of 9 plans passed" in text


def floored(*, decided: bool = True) -> dict[str, Any]:
    """Three weights alone: one that is free, one that costs a decision too many, one that surely does."""

    def weight(node: str, saved: int, drop: list[float], loss: float) -> dict[str, Any]:
        flips = [max(drop[0], 0.0), 0.0, 0.1] if decided else None
        about = {"site": f"{node}_out", "node": node, "scheme": "svd", "rank": 64, "predicted": loss, "saved": saved}
        measured = {"drop": drop, "exceeds": drop[0] > 0.005, "loss": [loss, loss / 2, loss * 2], "flips": flips}
        return about | measured

    return {
        "metric": "metrics.py:top1" if decided else "metrics.py:pair_correlation", "unit": "nats of KL", "n": 200,
        "allowed": 0.005, "sites": 3, "factorable": 10_000,
        "margins": {"n": 564, "shares": [[0.01, 0.125, 0.1, 0.15], [0.02, 0.2, 0.17, 0.24]]} if decided else None,
        "weights": [
            weight("/bad/Conv", 1000, [0.1, 0.06, 0.15], 0.2),
            weight("/near/Conv", 500, [0.01, -0.01, 0.03], 0.02),
            weight("/free/Conv", 250, [-0.005, -0.02, 0.01], 0.001),
        ],
    }  # fmt: skip


def test_floor_lists_the_least_drop_for_what_is_saved_first(bench: Bench) -> None:
    text = page_of(bench, "floor", [raw("floor", "efficientnet", "weights", floored())])
    assert [row.split("`")[1] for row in rows_of(text, "| `/")] == ["/free/Conv", "/near/Conv", "/bad/Conv"]
    free = rows_of(text, "| `/free/Conv`")[0]
    assert "| svd, 64 | 250 (2.50 %) | −.005 [−.020, .010] | 0.001 [0.0005, 0.002] | .000 [.000, .100] |" in free
    told = "On 200 validation samples (one decision is .005): 2 of 3 weights alone exceed .005 (1 with their whole"
    assert told in text
    assert "The others save 2.5 % of the factorable parameters at these ranks; all save 17.5 %." in text
    assert "564 validation samples with p₁ − p₂ below .01: .125 [.100, .150], below .02: .200 [.170, .240]." in text


def test_a_gain_counts_as_no_drop_and_ties_go_by_loss(bench: Bench) -> None:
    gained = {"node": "gained", "drop": [-0.1, -0.2, 0.0], "saved": 100, "loss": [0.5, 0.4, 0.6]}
    equal = {"node": "equal", "drop": [0.0, -0.1, 0.1], "saved": 100, "loss": [0.1, 0.0, 0.2]}
    assert [weight["node"] for weight in bench("benchmarks.floor").ranked([gained, equal])] == ["equal", "gained"]


def test_floor_without_decisions_tells_neither_margins_nor_flips(bench: Bench) -> None:
    text = page_of(bench, "floor", [raw("floor", "minilm", "weights", floored(decided=False))])
    assert "On 200 validation samples: 2 of 3 weights" in text
    assert "drop of `pair_correlation`" in text
    assert "| .01000 [−.01000, .03000] |" in rows_of(text, "| `/near/Conv`")[0]
    assert "p₁" not in text
    assert "decisions that flip" not in text


def test_the_mildest_option_is_the_largest_short_of_dense(bench: Bench) -> None:
    costs = {"dense": 100, 8: 20, 32: 80, 40: 100}
    options = [
        Option(Form("dense" if r == "dense" else "svd", () if r == "dense" else (r,)), Cost(c))
        for r, c in costs.items()
    ]
    mildest = bench("benchmarks.floor").mildest
    assert mildest(Curve("s", tuple(options))).ranks == (32,)
    assert mildest(Curve("s", tuple(options[:1]))) is None


@pytest.mark.parametrize(
    ("scores", "lead"), [([[0.0, 0.0, 0.0]], 0.0), ([[0.5, 0.3, 0.2]], 0.2), ([[math.log(6), math.log(3), 0.0]], 0.3)]
)
def test_margin_is_of_probabilities_or_of_the_softmax(bench: Bench, scores: list[list[float]], lead: float) -> None:
    assert bench("benchmarks.floor").margin(np.array(scores)) == pytest.approx(lead, abs=1e-12)


def test_the_curve_is_a_row_a_model(bench: Bench) -> None:
    data = {
        "collection": 53.94, "original": 0.2, "curve": 1.71, "points": 100, "measured": 10, "a_measured": 0.123,
        "an_unmeasured": 0.0041, "calibration": 275, "validation": 564, "sites": 34,
    }  # fmt: skip
    lines = [raw("pareto", "efficientnet", "curve", data)]
    lines += [raw("pareto", "crepe", "curve", {**data, "measured": 0, "a_measured": None})]
    text = page_of(bench, "pareto", lines)
    assert "| crepe | 34 | 275, 564 | 53.9 | 0.2 | 1.7 | 100 | 0 | — | 4.1 |" in text
    assert "| efficientnet | 34 | 275, 564 | 53.9 | 0.2 | 1.7 | 100 | 10 | 0.12 | 4.1 |" in text


def test_int8_alone_and_behind_factors_stand_side_by_side(bench: Bench) -> None:
    about = {"original_bytes": 88_900_000, "allowed": 0.005, "threads": 2, "factorable": 0.9987}
    made = {
        **about, "outcome": "made", "parameters": 0.5, "macs": 0.25, "reason": "", "bytes": 22_300_000,
        "validation": verdict(0.966, 0.964, [0.002, -0.001, 0.007]),
        "tests": {"test": verdict(0.956, 0.951, [0.005, -0.002, 0.012])}, "latency": [0.44, 0.42, 0.47],
    }  # fmt: skip
    none = {**about, "outcome": "nothing", "reason": "none of 9 plans passed"}
    ours = {**made, "schemes": {"Conv svd": 3, "Conv dense": 1}}
    cells = {"int8 static": made, "ours, latency": ours, "ours + int8 static": none}
    text = page_of(bench, "quantize", [raw("quantize", "crepe", name, data) for name, data in cells.items()])
    assert rows_of(text, "99.9 % of the parameters are in factorable weights.")[0].endswith("a call, 2 threads.")
    assert "| original | 88.9 | 100 % | 100 % | .966 | .956 | 1 |" in text
    assert "| weights that became | ours, latency |" in text
    assert "| Conv svd | 3 |" in text
    row = "| int8 static | 22.3 (25.1 %) | 50.0 % | 25.0 % | .964 (−.002 [−.007, .001]) | .951 (−.005 [−.012, .002])"
    assert f"{row} | .44 [.42, .47] |" in text
    assert "| ours + int8 static | — | — | — | — | — | — |" in text
    assert "- ours + int8 static: none of 9 plans passed" in text


@pytest.mark.parametrize(("measured", "off"), [(0.5, "+10.0 %"), (0.65, "−15.4 %")])
def test_predicted_time_stands_beside_the_measured(bench: Bench, measured: float, off: str) -> None:
    plan = {
        "resource": "latency", "share": 0.5, "predicted": 0.55, "factored": 3, "pairs": 50,
        "measured": [measured, measured - 0.01, measured + 0.01], "milliseconds": [10.0, 10 * measured],
    }  # fmt: skip
    data = {"seconds": 21.4, "groups": 7, "sites": 9, "original_ms": 10.25, "share": 0.8, "plans": [plan]}
    lines = [raw("latency", "crepe", f"plans, {threads} threads", data) for threads in (1, 2)]
    text = page_of(bench, "latency", lines)
    ends = f"[{measured - 0.01:.3f}, {measured + 0.01:.3f}]".replace("0.", ".")
    row = f"| 50 % of time | 3 | .550 | {f'{measured:.3f}'.lstrip('0')} {ends} | {off} |"
    assert text.count(row) == 2
    assert (
        "One thread: 7 measurements for 9 weights took 21 s; the weights take 80 % of the original's 10.2 ms." in text
    )


def test_the_leaky_protocol_stands_apart_from_the_honest_rows(bench: Bench) -> None:
    def row(after: float, lost: int, *, leaky: bool = False) -> dict[str, Any]:
        change = [after - 0.91, after - 0.915, after - 0.905]
        return {
            "outcome": "made", "reason": "", "seconds": 61.2, "leaky": leaky, "kept": 0.3, "kept_factorable": 0.299,
            "bytes": [9e7, 3e7], "macs": 0.4, "latency": [0.6, 0.55, 0.65], "n": 10000, "flips": [31, lost],
            "top1": [0.91, after, change], "loss": [0.2756, 0.2712, [-0.0044, -0.006, -0.003]],
            "tempered": [0.27, 0.271, [0.001, -0.002, 0.004]], "temperatures": [1.2, 1.0], "weights": weights,
            "leaky_samples": {"n": 2000, "top1": [0.915, after, change], "flips": [7, 8], "loss": [0.26, 0.27, change]},
        }  # fmt: skip

    weights = {"sha256": "0123456789abcdef", "training": ""}
    nothing = {"outcome": "nothing", "reason": "none passed", "seconds": 1.0, "weights": weights, "leaky": False}
    cells = {"lossless/0.3": row(0.912, 11), "leaky/0.3": row(0.919, 5, leaky=True), "compact/0": nothing}
    text = page_of(bench, "paper", [raw("paper", "resnext50", name, data) for name, data in cells.items()])
    assert "| lossless 0.3 | 30.0 % | 29.9 % | 40.0 % | .9120 (.0020 [−.0030, .0070]) | 31, 11 |" in text
    assert "- compact/0: none passed" in text
    order = ("*Leaky*: calibrated, chosen and reported on the same 2,000", "| lossless 0.3 | 30.0 % | .9120 (.0020")
    places = [text.index(each) for each in (*order, "| leaky 0.3 | 30.0 % | .9190")]
    assert places == sorted(places)
    assert "Weights: a file given with `--model`, which does not say how it was trained (SHA-256" in text
