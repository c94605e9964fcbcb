"""RESULTS.md is made of raw lines: the cells, and the marks beside the targets."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_lowrank.plan import Problem
from onnx_lowrank.types import UNCHANGED, Cost, Curve, Form, Moments, Option

TOOLS = Path(__file__).resolve().parents[2] / "tools"
MODELS = ("crepe", "minilm", "ppocr", "efficientnet")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module


def said(original: float, candidate: float, drop: list[float], *, higher: bool = True) -> dict[str, Any]:
    return {
        "metric": "metrics.py:score",
        "n": 50,
        "higher_is_better": higher,
        "original": [original, 0.5, 0.75],
        "candidate": [candidate, 0.5, 0.75],
        "drop": drop,
    }


def crepe(kept: float) -> dict[str, Any]:
    """What a goal run leaves behind."""
    return {
        "outcome": "saved",
        "reason": "passed",
        "exit": 0,
        "before": {"parameters": 1000, "bytes": 4_000_000, "macs": 10.0},
        "after": {"parameters": int(1000 * kept), "bytes": int(4_000_000 * kept), "macs": 10 * kept},
        "kept_factorable": kept,
        "factored": 6,
        "validation": said(0.966, 0.963, [0.003, -0.001, 0.007]),
        "latency": [0.52, 0.49, 0.55],
        "milliseconds": [10.0, 5.2],
        "validations": 9,
        "tests": {"test": said(0.956, 0.951, [0.005, -0.002, 0.012])},
        "command": "onnx-lowrank optimize zoo/crepe/model.onnx",
        "seconds": 61.4,
        "peak_bytes": 1_234_000_000,
    }


def now() -> str:
    """The state of the package's source, as the tool sees it."""
    return str(importlib.import_module("benchmarks.lines").source_digest())


def raw(part: str, model: str, cell: str, data: dict[str, Any], source: str = "") -> dict[str, Any]:
    machine = {"cpu": "a processor", "cores": "2", "system": "Linux", "numpy": "2.0"}
    circumstances = {"threads": 0, "source": source or now(), "machine": machine, "load": 1.5}
    return {"part": part, "model": model, "cell": cell, **circumstances, "data": data}


def rows_of(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def document(bench: Any, lines: list[dict[str, Any]], *, quick: bool = False) -> str:
    setting = bench("benchmarks.lines").Setting(0, 0, quick)
    text: str = bench("benchmarks.tables").document(lines, (*MODELS, "resnext50", "vgg"), setting)
    return text


def test_number_is_short(bench: Any) -> None:
    number = bench("benchmarks.wording").number
    shown = [number(value) for value in (0.6564, -0.0154, -0.0001, 0.0, 1.0, -12.3456, float("inf"), float("nan"))]
    assert shown == [".656", "−.015", ".000", ".000", "1.000", "−12.346", "∞", "?"]


@pytest.mark.parametrize(("higher", "change"), [(True, "−.015 [−.031, .001]"), (False, ".015 [−.001, .031]")])
def test_change_is_candidate_less_original(bench: Any, higher: bool, change: str) -> None:
    candidate = 0.641 if higher else 0.671
    cell = bench("benchmarks.wording").both(said(0.656, candidate, [0.015, -0.001, 0.031], higher=higher))
    assert cell == f".656 → {candidate:.3f} ({change})".replace("0.", ".")


def test_nothing_measured_leaves_every_target_open(bench: Any) -> None:
    text = document(bench, [])
    assert "Nothing was measured yet." in text
    assert all(" open " in row for row in rows_of(text, "| crepe") + rows_of(text, "| minilm"))


@pytest.mark.parametrize(("kept", "mark"), [(0.25, "met"), (0.75, "**MISSED**")])
def test_goal_and_its_target(bench: Any, kept: float, mark: str) -> None:
    text = document(bench, [raw("goals", "crepe", "compact/inputs", crepe(kept))])
    target = next(row for row in rows_of(text, "| crepe: compact") if "half" in row)
    assert f"| {mark} |" in target
    assert "latency × .52 [.49, .55]" in target
    assert rows_of(text, "| test |") == ["| test | .956 → .951 (−.005 [−.012, .002]) |"]
    assert rows_of(text, "| file, MB") == [f"| file, MB | 4.0 → {4 * kept:.1f} ({100 * kept:.1f} %) |"]


def test_a_clear_no_is_met_for_plain_svd(bench: Any) -> None:
    refused = {
        "outcome": "nothing", "reason": "none of 9 plans passed", "exit": 3, "tests": {}, "validations": 9,
        "command": "onnx-lowrank optimize", "seconds": 8.0, "peak_bytes": 5e8,
    }  # fmt: skip
    text = document(bench, [raw("goals", "ppocr", "compact/weights", refused)])
    assert "| met | exit 3: none of 9 plans passed |" in text
    assert rows_of(text, "| outcome") == ["| outcome | nothing acceptable (exit 3) |"]
    assert "- compact, plain: none of 9 plans passed" in text


def test_memory_over_the_target_fails(bench: Any) -> None:
    data = {"peak_bytes": 2.1e9, "seconds": 50.0, "exit": 0, "command": "onnx-lowrank optimize"}
    text = document(bench, [raw("memory", "minilm", "compact/inputs", data)])
    assert "| minilm | 2,100 | 2,000 | **FAIL** | 50 | 0 |" in text
    assert "| **MISSED** | 2,100 MB |" in text


def test_a_level_that_was_not_run_is_a_dash(bench: Any) -> None:
    about = {
        "sets": {"test": {"metric": "m.py:lee", "n": 50, "note": "", "original": [0.656, 0.5, 0.8], "recipe": 0.656}},
        "shared": 0, "counts": {"test": 50}, "sites": 36, "factorable": 50, "parameters": 100, "bytes": 400,
    }  # fmt: skip
    cut = {
        "reachable": True, "kept_factorable": 0.8, "kept_model": 0.9, "factored": 30, "predicted": 0.01, "unit": "nats",
        "tests": {"test": said(0.656, 0.641, [0.015, -0.001, 0.031])},
    }  # fmt: skip
    lines = [raw("curves", "minilm", "baseline", about), raw("curves", "minilm", "inputs/global/0.8", cut)]
    text = document(bench, lines)
    assert "| 90 % (95 %) | 80 % (90 %) | 60 % (80 %) | 40 % (70 %) |" in text
    assert rows_of(text, "| whitened, global")[0] == "| whitened, global | — | .641 (−.015 [−.031, .001]) | — | — |"
    assert "whitened, global .641" in next(row for row in rows_of(text, "| minilm: Lee") if "| met |" in row)


def test_cells_are_kept_and_found_again(bench: Any, tmp_path: Path) -> None:
    lines = bench("benchmarks.lines")
    first = lines.Lines(tmp_path, lines.Setting(0, 0, False))
    first.add("goals", "crepe", "compact/inputs", "abc", {"outcome": "nothing"})
    again = lines.Lines(tmp_path, lines.Setting(0, 0, False))
    assert again.has("goals", "crepe", "compact/inputs", "abc")
    assert not again.has("goals", "crepe", "compact/inputs", "another model")
    assert not lines.Lines(tmp_path, lines.Setting(1, 0, False)).all()
    assert not lines.Lines(tmp_path, lines.Setting(0, 0, True)).all()
    assert json.loads((tmp_path / "goals.jsonl").read_text(encoding="utf-8"))["data"] == {"outcome": "nothing"}


@pytest.mark.parametrize("old", [True, False])
def test_what_an_earlier_state_of_the_code_measured_is_marked(bench: Any, old: bool) -> None:
    text = document(bench, [raw("goals", "crepe", "compact/inputs", crepe(0.25), "an older state" if old else "")])
    target = next(row for row in rows_of(text, "| crepe: compact") if "half" in row)
    assert target.endswith("† |") is old
    assert ("to be run again: 1 of 1." in text) is old
    assert ("All cells were measured by the code as it is." in text) is not old


def points(measured: list[float], inside: int) -> list[dict[str, Any]]:
    """Predictions of 1, 2, 3 …, the first `inside` of them within the range."""
    return [
        {"site": f"s{i}", "scheme": "svd", "rank": 8, "predicted": i + 1.0, "measured": value, "inside": i < inside}
        for i, value in enumerate(measured)
    ]


RISING = [0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 9.0]
BEYOND = [0.1, 0.05]


def test_correlation_is_one_inside_and_less_over_all(bench: Any) -> None:
    rank_correlation = bench("benchmarks.prediction").rank_correlation
    data = points([*RISING, *BEYOND], len(RISING))
    (inside, _, high), count = rank_correlation(data, inside=True, resamples=1000, seed=0)
    (whole, low, _), every = rank_correlation(data, inside=False, resamples=1000, seed=0)
    assert (inside, high, count, every) == (pytest.approx(1.0, abs=1e-12), 1.0, 8, 10)
    assert whole == pytest.approx(1 - 6 * sum(d * d for d in [2, 2, 2, 2, 2, 2, 2, 2, 7, 9]) / 990, abs=1e-12)
    assert -1 <= low < whole


def test_correlation_interval_is_the_same_for_the_same_seed_and_another_for_another(bench: Any) -> None:
    rank_correlation = bench("benchmarks.prediction").rank_correlation
    data = points([3.0, 1.0, 2.0, 5.0, 4.0, 9.0, 6.0, 7.0, 8.0, 10.0], 10)
    first, again, other = (rank_correlation(data, inside=True, resamples=300, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_too_few_points_are_no_correlation(bench: Any) -> None:
    rank_correlation = bench("benchmarks.prediction").rank_correlation
    (value, _, _), count = rank_correlation(points([1.0, 2.0], 2), inside=True, resamples=300, seed=0)
    assert value != value
    assert count == 2


def test_equal_values_are_no_correlation_and_no_warning(bench: Any) -> None:
    rank_correlation = bench("benchmarks.prediction").rank_correlation
    (value, _, _), _ = rank_correlation(points([1.0, 1.0, 1.0], 3), inside=True, resamples=300, seed=0)
    assert value != value


@pytest.mark.parametrize(("measured", "mark"), [(RISING, "met"), (RISING[::-1], "**MISSED**")])
def test_predictions_are_shown_with_interval_and_plot(bench: Any, measured: list[float], mark: str) -> None:
    data = {"points": points(measured + BEYOND, 8), "unit": "nats of KL"}
    text = document(bench, [raw("prediction", "crepe", "points", data)])
    value = "1.000" if mark == "met" else "−1.000"
    target = rows_of(text, "| crepe: rank correlation")[0]
    assert f"| {mark} | {value} [" in target
    assert "of 8 points; all: " in target
    assert target.endswith("of 10 points |")
    assert rows_of(text, "| inside the range")[0].startswith(f"| inside the range | {value} [")
    assert rows_of(text, "| all points")[0].endswith("| 10 |")
    assert "](tools/plots/prediction.svg)" in text


def test_without_predictions_there_is_no_plot(bench: Any, tmp_path: Path) -> None:
    assert "prediction.svg" not in document(bench, [raw("goals", "crepe", "compact/inputs", crepe(0.25))])
    assert not bench("benchmarks.plots").draw({}, MODELS, tmp_path / "p.svg")
    assert not (tmp_path / "p.svg").exists()


def predicted(count: int) -> dict[tuple[str, str, str], dict[str, Any]]:
    values = [*RISING, 0.0]
    return {("prediction", m, "points"): {"points": points(values, 7), "unit": "nats of KL"} for m in MODELS[:count]}


def test_a_missing_matplotlib_is_said_in_one_line(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plots = bench("benchmarks.plots")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(plots.PlotError, match=r"^p\.svg is not drawn: .*matplotlib.*; pip install '\.\[bench\]'$"):
        plots.draw(predicted(1), MODELS, tmp_path / "p.svg")


@pytest.mark.parametrize("count", [1, 3])
def test_the_plot_is_the_same_bytes_every_time(bench: Any, tmp_path: Path, count: int) -> None:
    pytest.importorskip("matplotlib")
    draw = bench("benchmarks.plots").draw
    files = [tmp_path / "plots" / name for name in ("one.svg", "two.svg")]
    assert all(draw(predicted(count), MODELS, file) for file in files)
    text = files[0].read_text(encoding="utf-8")
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "dc:date" not in text
    assert text.count("inside (7 of 9; 1 at 0)") == count
    assert len(text) < 150_000


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


def test_floor_lists_the_least_drop_for_what_is_saved_first(bench: Any) -> None:
    text = document(bench, [raw("floor", "efficientnet", "weights", floored())])
    assert [row.split("`")[1] for row in rows_of(text, "| `/")] == ["/free/Conv", "/near/Conv", "/bad/Conv"]
    free = rows_of(text, "| `/free/Conv`")[0]
    assert "| svd, 64 | 250 (2.50 %) | −.005 [−.020, .010] | 0.001 [0.0005, 0.002] | .000 [.000, .100] |" in free
    said = "On 200 validation samples (one decision is .005): 2 of 3 weights alone exceed .005 (1 with their whole"
    assert said in text
    assert "The others save 2.5 % of the factorable parameters at these ranks; all save 17.5 %." in text
    assert "564 validation samples with p₁ − p₂ below .01: .125 [.100, .150], below .02: .200 [.170, .240]." in text


def test_a_gain_counts_as_no_drop_and_ties_go_by_loss(bench: Any) -> None:
    gained = {"node": "gained", "drop": [-0.1, -0.2, 0.0], "saved": 100, "loss": [0.5, 0.4, 0.6]}
    equal = {"node": "equal", "drop": [0.0, -0.1, 0.1], "saved": 100, "loss": [0.1, 0.0, 0.2]}
    ranked = bench("benchmarks.floor_table").ranked({"weights": [gained, equal]})
    assert [weight["node"] for weight in ranked] == ["equal", "gained"]


def test_floor_without_decisions_tells_neither_margins_nor_flips(bench: Any) -> None:
    text = document(bench, [raw("floor", "minilm", "weights", floored(decided=False))])
    assert "On 200 validation samples: 2 of 3 weights" in text
    assert "drop of `pair_correlation`" in text
    assert "| .01000 [−.01000, .03000] |" in rows_of(text, "| `/near/Conv`")[0]
    assert "p₁" not in text
    assert "decisions that flip" not in text


@pytest.mark.parametrize("measured", [True, False])
def test_a_refused_compact_points_to_the_floor(bench: Any, measured: bool) -> None:
    refused = {
        "outcome": "nothing", "reason": "none of 9 plans passed", "exit": 3, "tests": {}, "validations": 9,
        "command": "onnx-lowrank optimize", "seconds": 8.0, "peak_bytes": 5e8,
    }  # fmt: skip
    lines = [raw("goals", "efficientnet", "compact/joint", refused)]
    lines += [raw("floor", "efficientnet", "weights", floored())] if measured else []
    target = next(row for row in rows_of(document(bench, lines), "| efficientnet: compact") if "99 %" in row)
    note = "; see floor: 2 of 3 weights alone exceed .005 (1 with their whole interval), on 200 samples"
    assert target.endswith(f"| **MISSED** | exit 3: none of 9 plans passed{note if measured else ''} |")


def test_the_mildest_option_is_the_largest_short_of_dense(bench: Any) -> None:
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
def test_margin_is_of_probabilities_or_of_the_softmax(bench: Any, scores: list[list[float]], lead: float) -> None:
    margin = bench("benchmarks.floor").margin
    assert margin(np.array(scores)) == pytest.approx(lead, abs=1e-12)


def test_close_counts_what_lies_below_each_bound(bench: Any) -> None:
    found = bench("benchmarks.floor").close([0.005, 0.015, 0.03, 0.5])
    assert [each[:2] for each in found] == [[0.01, 0.25], [0.02, 0.5], [0.05, 0.75]]
    assert all(low < share < high for _, share, low, high in found)


def test_the_curve_is_a_row_a_model(bench: Any) -> None:
    data = {
        "collection": 53.94, "original": 0.2, "curve": 1.71, "points": 100, "measured": 10, "a_measured": 0.123,
        "an_unmeasured": 0.0041, "calibration": 275, "validation": 564, "sites": 34,
    }  # fmt: skip
    lines = [raw("pareto", "efficientnet", "curve", data)]
    lines += [raw("pareto", "crepe", "curve", {**data, "measured": 0, "a_measured": None})]
    text = document(bench, lines)
    assert "| crepe | 34 | 275, 564 | 53.9 | 0.2 | 1.7 | 100 | 0 | — | 4.1 |" in text
    assert "| efficientnet | 34 | 275, 564 | 53.9 | 0.2 | 1.7 | 100 | 10 | 0.12 | 4.1 |" in text


def test_int8_alone_and_behind_factors_stand_side_by_side(bench: Any) -> None:
    tables = bench("benchmarks.quantize_table")
    about = {"original_bytes": 88_900_000, "allowed": 0.005, "threads": 2, "factorable": 0.9987}
    made = {
        **about,
        "outcome": "made",
        "parameters": 0.5,
        "macs": 0.25,
        "reason": "",
        "bytes": 22_300_000,
        "validation": said(0.966, 0.964, [0.002, -0.001, 0.007]),
        "tests": {"test": said(0.956, 0.951, [0.005, -0.002, 0.012])},
        "latency": [0.44, 0.42, 0.47],
    }
    none = {**about, "outcome": "nothing", "reason": "none of 9 plans passed", "bytes": 0}
    ours = {**made, "schemes": {"Conv svd": 3, "Conv dense": 1}}
    found = {("quantize", "crepe", "int8 static"): made, ("quantize", "crepe", "ours + int8 static"): none}
    found["quantize", "crepe", "ours, latency"] = ours
    text = tables.quantize(found, "crepe")
    assert any(line.startswith("99.9 % of the parameters are in factorable weights.") for line in text)
    assert any(line.endswith("one sample a call, 2 threads.") for line in text)
    assert "| original | 88.9 | 100 % | 100 % | .966 | .956 | 1 |" in text
    assert "| weights that became | ours, latency |" in text
    assert "| Conv svd | 3 |" in text
    assert (
        "| int8 static | 22.3 (25.1 %) | 50.0 % | 25.0 % | .964 (−.002 [−.007, .001])"
        " | .951 (−.005 [−.012, .002]) | .44 [.42, .47] |" in text
    )
    assert "| ours + int8 static | — | — | — | — | — | — |" in text
    assert "- ours + int8 static: none of 9 plans passed" in text
    assert tables.quantize(found, "minilm") == []


@pytest.mark.parametrize(("measured", "mark", "off"), [(0.5, "met", "+10.0 %"), (0.65, "**MISSED**", "−15.4 %")])
def test_predicted_time_stands_beside_the_measured(bench: Any, measured: float, mark: str, off: str) -> None:
    def plan(share: float, predicted: float, ratio: float) -> dict[str, Any]:
        about = {"resource": "latency", "share": share, "predicted": predicted, "factored": 3, "pairs": 50}
        return about | {"measured": [ratio, ratio - 0.01, ratio + 0.01], "milliseconds": [10.0, 10 * ratio]}

    data = {
        "seconds": 21.4, "groups": 7, "sites": 9, "original_ms": 10.25, "share": 0.8,
        "plans": [plan(0.9, 0.9, 0.9), plan(0.5, 0.55, measured)],
    }  # fmt: skip
    text = document(bench, [raw("latency", "crepe", f"plans, {threads} threads", data) for threads in (1, 2)])
    ends = f"[{measured - 0.01:.3f}, {measured + 0.01:.3f}]".replace("0.", ".")
    said = f"{measured:.3f} ".lstrip("0") + ends
    assert f"| 50 % of time | 3 | .550 | {said} | {off} |" in text
    target = rows_of(text, "| crepe: predicted time")[0]
    shown = f"2 plans, at worst {off} (predicted .550, measured {said})"
    assert f"| {mark} | one thread: {shown}; 2 threads: {shown} |" in target
    assert (
        "One thread: 7 measurements for 9 weights took 21 s; the weights take 80 % of the original's 10.2 ms." in text
    )


@pytest.mark.parametrize(
    ("matmul", "bytes_", "marks"), [(0.75, 5.0e7, ("met", "met")), (0.85, 7.0e7, ("**MISSED**",) * 2)]
)
def test_minilm_is_judged_by_its_matrices_and_by_its_whole_file(
    bench: Any, matmul: float, bytes_: float, marks: tuple[str, str]
) -> None:
    """Its word table is factorable, too: a share of all factorable weights would say nothing of the matrices."""
    data = {
        **crepe(0.5),
        "kept_by_operator": {"MatMul": matmul, "Gather": 0.3},
        "before": {"parameters": 10, "bytes": 9.0e7, "macs": 1.0},
        "after": {"parameters": 5, "bytes": bytes_, "macs": 1.0},
    }
    cell = {
        "outcome": "made", "reason": "", "bytes": bytes_, "original_bytes": 9.0e7, "parameters": 0.5, "macs": 1.0,
        "threads": 2, "factorable": 0.96, "allowed": 0.005, "latency": [0.44, 0.42, 0.47],
        "validation": said(1.0, 0.995, [0.005, 0.004, 0.006]),
        "tests": {"test": said(0.656, 0.652, [0.004, 0.0, 0.008])},
    }  # fmt: skip
    lines = [raw("goals", "minilm", "compact/joint", data), raw("quantize", "minilm", "ours + int8 weights", cell)]
    text = document(bench, lines)
    (matrices,) = (row for row in rows_of(text, "| minilm: compact") if "MatMul parameters" in row)
    (file,) = rows_of(text, "| minilm: the whole file")
    assert f"| {marks[0]} | 50.0 % kept (MatMul {100 * matmul:.1f} %, Gather 30.0 %); " in matrices
    assert f"| {marks[1]} | ours + int8 weights: {100 * bytes_ / 9.0e7:.1f} %; " in file


@pytest.mark.parametrize(("ratio", "mark"), [([0.2, 0.19, 0.21], "met"), ([0.39, 0.38, 0.41], "**MISSED**")])
def test_a_speed_up_has_to_hold_at_the_slow_end(bench: Any, ratio: list[float], mark: str) -> None:
    cell = {
        "outcome": "made", "reason": "", "bytes": 2e7, "original_bytes": 9.0e7, "parameters": 0.2, "macs": 0.2,
        "threads": 2, "factorable": 0.999, "allowed": 0.005, "latency": ratio,
        "validation": said(0.96, 0.96, [0.0, -0.01, 0.01]), "tests": {"test": said(0.95, 0.95, [0.0, -0.01, 0.01])},
    }  # fmt: skip
    timed = {"latency": ratio, "pairs": 99, "threads": 2, "milliseconds": [10.0, 2.0]}
    cells = [raw("quantize", "crepe", "ours, latency", {**cell, "latency": [0.5, 0.4, 0.6], "threads": 1})]
    text = document(bench, [*cells, raw("threads", "crepe", "ours, latency", timed)])
    (row,) = rows_of(text, "| crepe: compact by latency")
    said_so = f"{1 / ratio[0]:.1f} times [{1 / ratio[2]:.1f}, {1 / ratio[1]:.1f}] (99 pairs), 2.0 times with one thread"
    assert f"| {mark} | {said_so}; " in row
    assert (
        "| crepe: compact by latency at least 2.5 times as fast, one sample a call, two threads | open |"
        in document(bench, cells)
    )


def test_the_papers_table_marks_what_was_asked_and_keeps_the_leaky_protocol_apart(bench: Any) -> None:
    def row(after: float, lost: int, *, leaky: bool = False) -> dict[str, Any]:
        change = [after - 0.91, after - 0.915, after - 0.905]
        return {
            "outcome": "made", "reason": "", "seconds": 61.2, "leaky": leaky, "kept": 0.3, "kept_factorable": 0.299,
            "bytes": [9e7, 3e7], "macs": 0.4, "latency": [0.6, 0.55, 0.65], "n": 10000, "flips": [31, lost],
            "top1": [0.91, after, change], "loss": [0.2756, 0.2712, [-0.0044, -0.006, -0.003]],
            "tempered": [0.27, 0.271, [0.001, -0.002, 0.004]], "temperatures": [1.2, 1.0],
            "validation_top1": [0.9, 0.9], "weights": weights,
            "leaky_samples": {"n": 2000, "top1": [0.915, after, change], "flips": [7, 8], "loss": [0.26, 0.27, change]},
        }  # fmt: skip

    weights = {"sha256": "0123456789abcdef", "training": ""}
    nothing = {"outcome": "nothing", "reason": "none passed", "seconds": 1.0, "weights": weights}
    lines = [
        raw("paper", "resnext50", "lossless/0.3", row(0.912, 11)),
        raw("paper", "resnext50", "lossless/0.2", row(0.9085, 46)),
        raw("paper", "resnext50", "leaky/0.3", row(0.919, 5, leaky=True)),
        raw("paper", "resnext50", "compact/0", nothing),
        raw("paper", "vgg", "compact/0", row(0.906, 60)),
        raw("paper", "vgg", "lossless/0.5", {**row(0.911, 60), "kept": 0.5}),
    ]
    text = document(bench, lines)
    losses = "loss .2756 → .2712 (−.0044 [−.0060, −.0030]), tempered .2700 → .2710 (.0010 [−.0020, .0040])"
    assert f"| met | .9100 → .9120 (.0020 [−.0030, .0070], within chance), {losses}; 30.0 % kept |" in text
    assert "**MISSED** | .9100 → .9085 (−.0015 [−.0065, .0035], within chance)" in text
    assert "| resnext50: at −90 % of the file's parameters top-1 within .01 of the original's | open |" in text
    assert "| lossless 0.3 | 30.0 % | 29.9 % | 40.0 % | .9120 (.0020 [−.0030, .0070]) | 31, 11 |" in text
    assert "- compact/0: none passed" in text
    (largest,) = rows_of(text, "| resnext50: the largest reduction that holds")
    assert "| **MISSED** | none passed |" in largest
    (largest,) = rows_of(text, "| vgg: the largest reduction that holds")
    assert "| met | −70.0 %: .9100 → .9060" in largest
    assert "Largest measured whose test top-1 is the original's or above: −50.0 %" in largest
    assert "| resnext50: training aims at a top-1 of .92 | **MISSED** | .9100; Weights: a file given" in text
    honest, leaky = (
        text.index(row) for row in ("| lossless 0.3 | 30.0 % | .9120 (.0020", "| leaky 0.3 | 30.0 % | .9190")
    )
    assert honest < leaky
    assert "Weights: a file given with `--model`, which does not say how it was trained (SHA-256" in text
    assert honest > text.index("*Leaky*: calibrated, chosen and reported on the same 2,000")


def test_a_temperature_of_its_own_takes_back_what_was_only_certainty(bench: Any) -> None:
    paper = bench("benchmarks.paper")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 4000)
    logits = 2.0 * np.eye(4)[labels] + rng.normal(size=(4000, 4))
    right, sure = paper.Scores(logits, labels), paper.Scores(10.0 * logits, labels)
    assert sure.losses().mean() > 1.2 * right.losses().mean()
    assert sure.temperature() == pytest.approx(10.0 * right.temperature(), rel=1e-3)
    np.testing.assert_allclose(sure.losses(sure.temperature()), right.losses(right.temperature()), rtol=1e-3, atol=1e-3)
    found = paper._compared((right, right), (sure, sure))
    assert found["top1"][2][0] == 0.0
    assert found["loss"][2][1] > 0
    assert abs(found["tempered"][2][0]) < 1e-4


@pytest.mark.parametrize("groups", [1, 2])
def test_asvd_is_svd_of_the_weight_with_scaled_inputs(bench: Any, groups: int) -> None:
    """W S = U Σ Vᵀ: its left singular vectors are what whitened SVD finds under the scaled moments."""
    rng = np.random.default_rng(groups)
    weight, x = rng.normal(size=(8, 6, 3, 3)), rng.normal(size=(400, 6 * groups)) * np.arange(1, 6 * groups + 1)
    fit = Moments(A=x.T @ x, C=np.eye(8), positions=400, samples=400)
    scaled = bench("benchmarks.methods")._scaled(weight, fit)
    scale = np.sqrt(np.sqrt((x**2).mean(0)))
    for group in range(groups):
        part = weight[group * 8 // groups : (group + 1) * 8 // groups]
        WS = (part * scale[group * 6 : (group + 1) * 6, None, None]).reshape(len(part), -1)
        block = scaled.C[
            group * 8 // groups : (group + 1) * 8 // groups, group * 8 // groups : (group + 1) * 8 // groups
        ]
        np.testing.assert_allclose(block / 400, WS @ WS.T, rtol=1e-9)


def test_a_method_ahead_of_ours_is_named(bench: Any) -> None:
    methods = bench("benchmarks.methods")

    def cell(top1: float, low: float = 0.04) -> dict[str, Any]:
        change = [top1 - 0.91, top1 - 0.915, top1 - 0.905]
        loss = [0.27, 0.28, [0.01, 0.005, 0.015]]
        about = {
            "reachable": True,
            "kept": 0.3,
            "n": 10000,
            "top1": [0.91, top1, change],
            "flips": [1, 2],
            "loss": loss,
        }
        return {**about, "ahead": {"top1": [0.049, low, 0.06], "flips": [490, 0]}}

    lines = [
        raw("methods", "resnext50", methods.cell_name(m, keep), cell(0.90 + 0.001 * (m == methods.OURS)))
        for m in methods.METHODS
        for keep in methods.KEEPS
    ]
    text = document(bench, lines)
    (row,) = rows_of(text, "| resnext50: ours on or above")
    assert "| met | at all 4 sizes |" in row
    assert "| ours | .9010 (−.0090 [−.0140, −.0040]) at 30.0 % | .9010 (−.0090 [−.0140, −.0040]) |" in text
    assert "above ours" not in text
    lines[0]["data"] = cell(0.95)
    text = document(bench, lines)
    (row,) = rows_of(text, "| resnext50: ours on or above")
    assert "| **MISSED** | ▲ 50 %: plain SVD .9500, ahead by .0490 [.0400, .0600] |" in row
    assert "| plain SVD | ▲ .9500 (" in text
    assert "- ▲ 50 %, plain SVD: ahead by .0490 [.0400, .0600]; loss .2800 against .2800" in text
    lines[0]["data"] = cell(0.95, -0.01)
    assert "△ 50 %: plain SVD .9500, ahead by .0490 [−.0100, .0600] (each within chance) |" in document(bench, lines)


def test_hits_are_kept_and_paired(bench: Any) -> None:
    methods, rng = bench("benchmarks.methods"), np.random.default_rng(0)
    ours, theirs = (rng.integers(0, 2, 1003).astype(float) for _ in range(2))
    np.testing.assert_array_equal(methods.unpacked(methods.packed(ours), 1003), ours)
    ahead = methods.ahead(theirs, ours)
    assert ahead["top1"][0] == pytest.approx(theirs.mean() - ours.mean())
    assert ahead["top1"][1] < ahead["top1"][0] < ahead["top1"][2]
    assert sum(ahead["flips"]) == (ours != theirs).sum()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.77])
def test_uniform_plans_use_what_multiples_leave_over(bench: Any, share: float) -> None:
    """Ten equal weights step together: the common share alone leaves up to a step of each."""
    dense = Option(UNCHANGED, Cost(parameters=100))
    curve = (dense, *(Option(Form("svd", (k,)), Cost(parameters=k), error=1 / k) for k in (16, 32, 48, 64, 80)))
    curves = tuple(Curve(f"s{i}", curve) for i in range(10))
    problem = Problem(curves, {c.site: c.site for c in curves}, "parameters")
    budget = share * problem.dense
    plan = bench("benchmarks.methods").uniform(problem, budget)
    kept = sorted(choice.option.cost.parameters for choice in plan.choices)
    assert budget - 20 < plan.cost.parameters <= budget
    assert kept[-1] - kept[0] <= 20
    assert bench("benchmarks.methods").uniform(problem, 0.1 * problem.dense) is None


def test_every_part_has_the_command_that_measured_it(bench: Any) -> None:
    made = {"outcome": "nothing", "reason": "none passed", "seconds": 1.0}
    given, own = ({"sha256": "0" * 64, "training": training} for training in ("", "seed 0"))
    lines = [
        raw("paper", "resnext50", "compact/0", {**made, "weights": given}),
        raw("paper", "vgg", "compact/0", {**made, "weights": own}),
        {**raw("goals", "crepe", "compact/joint", crepe(0.3)), "threads": 2},
    ]
    text = document(bench, lines)
    assert "python -m models resnext50 --model resnext50.onnx --out zoo/resnext50\n" in text
    assert "python -m models vgg --out zoo/vgg\n" in text
    assert "python tools/bench.py --zoo zoo --models crepe --part goals --seed 0 --threads 2\n" in text
    assert "python tools/bench.py --zoo zoo --models resnext50,vgg --part paper --seed 0\n" in text


def test_all_committed_cells_of_a_model_are_of_the_same_weights() -> None:
    files = sorted((TOOLS / "results").glob("*.jsonl"))
    lines = [json.loads(text) for file in files for text in file.read_text(encoding="utf-8").splitlines()]
    hashes: dict[str, set[str]] = {}
    for line in lines:
        hashes.setdefault(line["model"], set()).add(line["sha256"])
    assert len(hashes) >= len(MODELS)
    assert {model: len(found) for model, found in hashes.items()} == dict.fromkeys(hashes, 1)


def test_a_zoo_without_models_is_an_error_and_writes_nothing(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["bench.py", "--zoo", str(tmp_path / "none"), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        bench("bench").main()
    assert ended.value.code == 2
    assert "none holds no model: python -m models NAME" in capsys.readouterr().err
    assert not out.exists()


def test_a_cell_is_found_again_on_the_same_model_alone(bench: Any, tmp_path: Path) -> None:
    lines = bench("benchmarks.lines")
    kept = lines.Lines(tmp_path, lines.Setting(0, 1, False))
    kept.add("methods", "vgg", "ours/0.5", "a" * 64, {"n": 3})
    again = lines.Lines(tmp_path, lines.Setting(0, 1, False))
    assert again.get("methods", "vgg", "ours/0.5", "a" * 64) == {"n": 3}
    assert again.get("methods", "vgg", "ours/0.5", "b" * 64) is None
    assert again.get("methods", "vgg", "ours/0.3", "a" * 64) is None
