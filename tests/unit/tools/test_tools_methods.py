"""Methods at equal size: sizes are used up, decisions are paired, and the page and its figure say who is ahead."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools_lines import page_of, raw, verdict

from onnx_lowrank.plan import Problem
from onnx_lowrank.types import UNCHANGED, Cost, Curve, Form, Moments, Option

Bench = Callable[[str], Any]
MODELS = ("resnext50", "vgg", "vit", "text")
ORIGINAL = 0.9
KEEPS = (0.5, 0.3, 0.2, 0.1)


def cell(kept: float, top1: float, low: float = 0.001) -> dict[str, Any]:
    change = top1 - ORIGINAL
    loss = [0.27, 0.28, [0.01, 0.005, 0.015]]
    top = [ORIGINAL, top1, [change, change - 0.004, change + 0.004]]
    about = {"reachable": True, "kept": kept, "n": 10000, "top1": top, "flips": [1, 2], "loss": loss}
    return {**about, "ahead": {"top1": [0.003, low, 0.005], "flips": [40, 10]}}


def lossless(kept: float, top1: float) -> dict[str, Any]:
    return {**cell(kept, top1), "outcome": "made", "reason": ""}


def measured(bench: Bench, models: tuple[str, ...] = MODELS) -> list[dict[str, Any]]:
    """Ours at .895, the product at .899, the i-th of the others lower by .02 · 4ⁱ, never below .1."""
    methods, lines = bench("benchmarks.methods"), []
    for model in models:
        for keep in KEEPS:
            for i, method in enumerate(methods.METHODS):
                top1 = 0.895 if method == methods.OURS else max(0.89 - 0.02 * 4 ** (i - 1), 0.1)
                lines.append(raw("methods", model, methods.cell_name(method, keep), cell(keep, top1)))
            lines.append(raw("paper", model, f"lossless/{keep:g}", lossless(keep, 0.899)))
    return lines


def changed(lines: list[dict[str, Any]], name: str, data: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The lines with another cell of vgg in place of one, or without it."""
    kept = [line for line in lines if (line["model"], line["cell"]) != ("vgg", name)]
    part = "paper" if name.startswith("lossless") else "methods"
    return kept if data is None else [*kept, raw(part, "vgg", name, data)]


def points_of(bench: Bench, lines: list[dict[str, Any]]) -> dict[str, Any]:
    cells_of = bench("benchmarks.lines").cells_of
    cells, product = (cells_of(lines, part).get("vgg", {}) for part in ("methods", "paper"))
    points: dict[str, Any] = bench("benchmarks.methods_page").points_of(cells, product)
    return points


def test_the_product_is_a_row_of_its_own_and_what_differs_is_said(bench: Bench) -> None:
    lines = changed(measured(bench, ("vgg",)), "lossless/0.1", {"outcome": "nothing", "reason": "cannot be reached"})
    text, about = page_of(bench, "methods", lines), bench("benchmarks.methods_page").PRODUCT
    shown = ".8990 (−.0010 [−.0050, .0030])"
    assert f"| ours, lossless | {shown} | {shown} | {shown} | none |" in text
    assert about in text
    assert about not in page_of(bench, "methods", [line for line in lines if line["part"] == "methods"])


def test_a_method_above_ours_is_marked_and_explained(bench: Bench) -> None:
    lines = measured(bench, ("vgg",))
    assert "above ours" not in page_of(bench, "methods", lines)
    text = page_of(bench, "methods", changed(lines, "plain SVD/0.3", cell(0.31, 0.898)))
    assert "| plain SVD | .8700 (−.0300 [−.0340, −.0260]) | ▲ .8980 (−.0020 [−.0060, .0020]) at 31.0 % |" in text
    lead = "plain SVD: ahead by .0030 [.0010, .0050]; loss .2800 against .2800"
    assert f"- ▲ 30 %, {lead}" in text
    text = page_of(bench, "methods", changed(lines, "plain SVD/0.3", cell(0.3, 0.898, -0.001)))
    assert "- △ 30 %, plain SVD: ahead by .0030 [−.0010, .0050]" in text
    text = page_of(bench, "methods", changed(lines, "ours/0.3", {"reachable": False}))
    assert "- ▲ 30 %, ALDS: ours has no plan of this size" in text


def test_divergence_is_averaged_over_replicates_and_refusals_are_told(bench: Bench) -> None:
    def diverged(loss: float) -> dict[str, Any]:
        ends = [loss, loss / 2, loss * 2]
        tests = {"test": verdict(0.656, 0.641, [0.015, -0.001, 0.031])}
        return {"reachable": True, "kept": 0.8, "predicted": 0.1, "unit": "nats", "loss": ends, "tests": tests}

    cells = {"ours/0.8/0": diverged(0.1), "ours/0.8/1": diverged(0.3), "ours/0.8/2": {"reachable": False, "why": "no"}}
    cells |= {"plain SVD/0.8/0": diverged(0.5)}
    text = page_of(bench, "methods", [raw("methods", "minilm", name, data) for name, data in cells.items()])
    assert "| ours | — | 0.2 [0.1, 0.4] 0.1–0.3 (2 of 3 replicates) | — | — |" in text
    assert "| plain SVD | — | 0.5 [0.25, 1] | — | — |" in text
    assert "| ours | — | .641 (−.015 [−.031, .001]) | — | — |" in text
    assert "- none: no" in text


def test_cells_of_a_replicate_come_together_and_what_sees_no_data_has_one(bench: Bench) -> None:
    names = [cell.name for cell in bench("benchmarks.methods").cells("minilm", False)]
    replicates = [int(name.rsplit("/", 1)[1]) for name in names]
    assert replicates == sorted(replicates)
    assert [name for name in names if name.startswith("ALDS")] == [f"ALDS/{keep}/0" for keep in (0.9, 0.8, 0.6, 0.4)]
    assert len(names) == len(set(names))
    assert [cell.name for cell in bench("benchmarks.methods").cells("vgg", False)][:4] == [f"ours/{k:g}" for k in KEEPS]


def test_hits_are_kept_and_paired(bench: Bench) -> None:
    scores, rng = bench("benchmarks.scores"), np.random.default_rng(0)
    ours, theirs = (rng.integers(0, 2, 1003).astype(float) for _ in range(2))
    np.testing.assert_array_equal(scores.unpacked(scores.packed(ours), 1003), ours)
    ahead = scores.ahead(theirs, ours)
    assert ahead["top1"][0] == pytest.approx(theirs.mean() - ours.mean())
    assert ahead["top1"][1] < ahead["top1"][0] < ahead["top1"][2]
    assert sum(ahead["flips"]) == (ours != theirs).sum()


def test_a_temperature_of_its_own_takes_back_what_was_only_certainty(bench: Bench) -> None:
    scored = bench("benchmarks.scores").Scores
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 4000)
    logits = 2.0 * np.eye(4)[labels] + rng.normal(size=(4000, 4))
    right, sure = scored(logits, labels), scored(10.0 * logits, labels)
    assert sure.losses().mean() > 1.2 * right.losses().mean()
    assert sure.temperature() == pytest.approx(10.0 * right.temperature(), rel=1e-3)
    np.testing.assert_allclose(sure.losses(sure.temperature()), right.losses(right.temperature()), rtol=1e-3, atol=1e-3)
    pair = bench("benchmarks.paper").controlled((right, right), (sure, sure))
    assert pair["top1"][2][0] == 0.0
    assert pair["loss"][2][1] > 0
    assert abs(pair["tempered"][2][0]) < 1e-4


@pytest.mark.parametrize("groups", [1, 2])
def test_asvd_is_svd_of_the_weight_with_scaled_inputs(bench: Bench, groups: int) -> None:
    """W S = U Σ Vᵀ: its left singular vectors are what whitened SVD finds under the scaled moments."""
    rng = np.random.default_rng(groups)
    weight, x = rng.normal(size=(8, 6, 3, 3)), rng.normal(size=(400, 6 * groups)) * np.arange(1, 6 * groups + 1)
    fit = Moments(A=x.T @ x, C=np.eye(8), positions=400, samples=400)
    scaled = bench("benchmarks.methods").scaled(weight, fit)
    scale = np.sqrt(np.sqrt((x**2).mean(0)))
    for group in range(groups):
        rows = slice(group * 8 // groups, (group + 1) * 8 // groups)
        WS = (weight[rows] * scale[group * 6 : (group + 1) * 6, None, None]).reshape(8 // groups, -1)
        np.testing.assert_allclose(scaled.C[rows, rows] / 400, WS @ WS.T, rtol=1e-9)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.77])
def test_uniform_plans_use_what_multiples_leave_over(bench: Bench, share: float) -> None:
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


def test_points_are_the_plans_that_were_made_with_intervals_around_their_own_top1(bench: Bench) -> None:
    lines = changed(changed(measured(bench, ("vgg",)), "ALDS/0.1", {"reachable": False}), "ALDS/0.2", None)
    made = points_of(bench, lines)
    assert [point[0] for point in made["ALDS"]] == [0.3, 0.5]
    assert made["ours"][0] == pytest.approx((0.1, 0.895, 0.891, 0.899))
    assert len(made["ours, lossless"]) == 4
    styles = bench("benchmarks.methods_page").STYLES
    assert set(styles) == {*bench("benchmarks.methods").METHODS, "ours, lossless"}


def test_the_panel_shows_all_of_ours_and_no_more_than_twice_its_depth(bench: Bench) -> None:
    page = bench("benchmarks.methods_page")

    def floor(ours: float, other: float) -> float:
        points = {"ours": [(0.1, ours, ours - 0.01, ours + 0.01)], "plain SVD": [(0.1, other, other, other)]}
        return float(page.floor_of(points, ORIGINAL))

    assert floor(0.86, 0.1) == pytest.approx(0.9 - 2 * 0.05)
    assert floor(0.86, 0.82) == pytest.approx(0.82)
    assert floor(0.86, 0.89) == pytest.approx(0.85)
    assert floor(0.95, 0.1) == pytest.approx(0.9 - 2 * page.LEAST_DEPTH)


@pytest.mark.parametrize("models", [MODELS[:1], MODELS[:3], MODELS])
def test_the_figure_has_a_panel_a_model_and_the_same_bytes_every_time(
    bench: Bench, tmp_path: Path, models: tuple[str, ...]
) -> None:
    pytest.importorskip("matplotlib")
    page, lines = bench("benchmarks.methods_page"), measured(bench, models)
    files = [tmp_path / "plots" / name for name in ("one.svg", "two.svg")]
    assert all(page.draw_accuracy(lines, file) for file in files)
    text = files[0].read_text(encoding="utf-8")
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "dc:date" not in text
    titles = re.findall(r"<text [^>]*>(\w+)</text>", text)
    assert [title for title in titles if title in MODELS] == list(models)
    names = (page.LABELS.get(name, name) for name in (*page.STYLES, "original"))
    assert [name for name in names if text.count(f">{name}</text>") != 1] == []
    assert len(text) < 150_000


def test_without_methods_there_is_no_figure(bench: Bench, tmp_path: Path) -> None:
    draw = bench("benchmarks.methods_page").draw_accuracy
    product = [line for line in measured(bench) if line["part"] == "paper"]
    unreached = [raw("methods", "vgg", "ours/0.1", {"reachable": False})]
    assert not any(draw(lines, tmp_path / "p.svg") for lines in ([], product, unreached))
    assert list(tmp_path.iterdir()) == []
