"""Accuracy against size: the product's row beside the methods, and the plot. All figures here are made up."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("resnext50", "vgg", "vit", "text")
ORIGINAL = 0.9
KEEPS = (0.5, 0.3, 0.2, 0.1)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module


def cell(kept: float, top1: float) -> dict[str, Any]:
    change = top1 - ORIGINAL
    loss = [0.27, 0.28, [0.01, 0.005, 0.015]]
    top = [ORIGINAL, top1, [change, change - 0.004, change + 0.004]]
    about = {"reachable": True, "kept": kept, "n": 10000, "top1": top, "flips": [1, 2], "loss": loss}
    return {**about, "ahead": {"top1": [0.003, 0.001, 0.005], "flips": [40, 10]}}


def lossless(kept: float, top1: float) -> dict[str, Any]:
    made = {"outcome": "made", "reason": "", "kept_factorable": kept, "macs": kept, "latency": None, "seconds": 1.0}
    return {**cell(kept, top1), **made, "leaky": False, "tempered": [0.27, 0.28, [0.01, 0.005, 0.015]]}


def found(bench: Any, models: tuple[str, ...] = MODELS) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Ours at .895, the product at .899, the i-th of the others lower by .02 · 4ⁱ, never below .1."""
    methods = bench("benchmarks.methods")
    others = [m for m in methods.METHODS if m != methods.OURS]
    lines = {}
    for model in models:
        for keep in KEEPS:
            for i, method in enumerate(others):
                lines["methods", model, methods.cell_name(method, keep)] = cell(keep, max(0.89 - 0.02 * 4**i, 0.1))
            lines["methods", model, methods.cell_name(methods.OURS, keep)] = cell(keep, 0.895)
            lines["paper", model, f"lossless/{keep:g}"] = lossless(keep, 0.899)
    return lines


def test_the_product_is_a_row_of_its_own_and_what_differs_is_said(bench: Any) -> None:
    table, lines = bench("benchmarks.methods_table"), found(bench)
    lines["paper", "vgg", "lossless/0.1"] = {"outcome": "nothing", "reason": "cannot be reached"}
    text = table.methods(lines, "vgg")
    shown = ".8990 (−.0010 [−.0050, .0030])"
    assert f"| ours, lossless | {shown} | {shown} | {shown} | none |" in text
    assert table.ABOUT_LOSSLESS in text
    without = table.methods({key: data for key, data in lines.items() if key[0] == "methods"}, "vgg")
    assert not [line for line in without if "lossless" in line]


def test_the_target_is_ours_alone_and_the_product_is_told_where_ours_is_behind(bench: Any) -> None:
    table, lines = bench("benchmarks.methods_table"), found(bench)
    (met,) = table.method_targets(lines, ["vgg"])
    assert (met.met, met.measured) == (True, "at all 4 sizes")
    lines["methods", "vgg", "plain SVD/0.3"] = cell(0.3, 0.898)
    (missed,) = table.method_targets(lines, ["vgg"])
    assert missed.met is False
    said = "▲ 30 %: plain SVD .8980, ahead by .0030 [.0010, .0050]"
    assert missed.measured == f"{said} (ours, lossless, with validation labels: .8990)"
    del lines["paper", "vgg", "lossless/0.3"]
    (alone,) = table.method_targets(lines, ["vgg"])
    assert alone.measured == said


def test_points_are_the_plans_that_were_made_with_intervals_around_their_own_top1(bench: Any) -> None:
    plot, lines = bench("benchmarks.accuracy_plot"), found(bench)
    lines["methods", "vgg", "ALDS/0.1"] = {"reachable": False}
    del lines["methods", "vgg", "ALDS/0.2"]
    made = plot.lines_of(lines, "vgg")
    assert [point.kept for point in made["ALDS"]] == [0.3, 0.5]
    first = made["ours"][0]
    assert (first.kept, first.top1) == (0.1, 0.895)
    assert (first.low, first.high) == (pytest.approx(0.891), pytest.approx(0.899))
    assert len(made[plot.LOSSLESS]) == 4
    assert list(plot.STYLES) == [*bench("benchmarks.methods").METHODS, plot.LOSSLESS]


def test_the_panel_shows_all_of_ours_and_no_more_than_twice_its_depth(bench: Any) -> None:
    plot = bench("benchmarks.accuracy_plot")

    def floor(ours: float, other: float) -> float:
        lines = {"ours": [plot.Point(0.1, ours, ours - 0.01, ours + 0.01)]}
        lines["plain SVD"] = [plot.Point(0.1, other, other, other)]
        return float(plot.floor_of(lines, ORIGINAL))

    assert floor(0.86, 0.1) == pytest.approx(0.9 - 2 * 0.05)
    assert floor(0.86, 0.82) == pytest.approx(0.82)
    assert floor(0.86, 0.89) == pytest.approx(0.85)
    assert floor(0.95, 0.1) == pytest.approx(0.9 - 2 * plot.LEAST_DEPTH)


@pytest.mark.parametrize("models", [MODELS[:1], MODELS[:3], MODELS])
def test_the_plot_has_a_panel_a_model_and_the_same_bytes_every_time(
    bench: Any, tmp_path: Path, models: tuple[str, ...]
) -> None:
    pytest.importorskip("matplotlib")
    plot, lines = bench("benchmarks.accuracy_plot"), found(bench, models)
    files = [tmp_path / "plots" / name for name in ("one.svg", "two.svg")]
    assert all(plot.draw_accuracy(lines, MODELS, file) for file in files)
    text = files[0].read_text(encoding="utf-8")
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "dc:date" not in text
    titles = re.findall(r"<text [^>]*>(\w+)</text>", text)
    assert [title for title in titles if title in MODELS] == list(models)
    legend = [name for name in (*plot.STYLES, "original", plot.BELOW) if text.count(f">{name}</text>") != 1]
    assert legend == []
    assert len(text) < 150_000


def test_without_methods_there_is_no_plot(bench: Any, tmp_path: Path) -> None:
    draw = bench("benchmarks.accuracy_plot").draw_accuracy
    product = {key: data for key, data in found(bench).items() if key[0] == "paper"}
    unreached = {("methods", "vgg", "ours/0.1"): {"reachable": False}}
    assert not any(draw(lines, MODELS, tmp_path / "p.svg") for lines in ({}, product, unreached))
    assert list(tmp_path.iterdir()) == []


def test_what_lies_below_the_panel_is_an_arrow_at_its_edge(bench: Any) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    plot, axes = bench("benchmarks.accuracy_plot"), figure.subplots()
    lines = plot.lines_of(found(bench), "vgg")
    plot._panel(axes, model="vgg", original=ORIGINAL, lines=lines)
    bottom, top = axes.get_ylim()
    arrows = [line for line in axes.lines if line.get_marker() == plot.CARET_DOWN and len(line.get_xdata())]
    below = [method for method, points in lines.items() if points[0].top1 < bottom]
    assert below
    assert [line.get_color() for line in arrows] == [plot.STYLES[method][0] for method in below]
    for line in arrows:
        assert list(line.get_ydata()) == [bottom] * len(KEEPS)
        assert list(line.get_xdata()) == pytest.approx(KEEPS[::-1], rel=0.15)
    assert all(bottom < point.low and point.high < top for point in lines["ours"] + lines[plot.LOSSLESS])
