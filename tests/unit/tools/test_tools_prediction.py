"""Predicted against measured rise: the rank correlation, its interval and its figure."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools_lines import page_of, raw, rows_of

Bench = Callable[[str], Any]
RISING = [0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 9.0]
BEYOND = [0.1, 0.05]


def points(measured: list[float], inside: int) -> list[dict[str, Any]]:
    """Predictions of 1, 2, 3 …, the first `inside` of them within the range."""
    return [
        {"site": f"s{i}", "scheme": "svd", "rank": 8, "predicted": i + 1.0, "measured": value, "inside": i < inside}
        for i, value in enumerate(measured)
    ]


def predicted(count: int) -> list[dict[str, Any]]:
    data = {"points": points([*RISING, 0.0], 7), "unit": "nats of KL"}
    return [raw("prediction", model, "points", data) for model in ("crepe", "minilm", "ppocr")[:count]]


def test_correlation_is_one_inside_and_less_over_all(bench: Bench) -> None:
    rank_correlation = bench("benchmarks.prediction").rank_correlation
    data = points([*RISING, *BEYOND], len(RISING))
    (inside, _, high), count = rank_correlation(data, inside=True)
    (whole, low, _), every = rank_correlation(data, inside=False)
    assert (inside, high, count, every) == (pytest.approx(1.0, abs=1e-12), 1.0, 8, 10)
    assert whole == pytest.approx(1 - 6 * sum(d * d for d in [2, 2, 2, 2, 2, 2, 2, 2, 7, 9]) / 990, abs=1e-12)
    assert -1 <= low < whole


def test_correlation_interval_is_the_same_for_the_same_seed_and_another_for_another(bench: Bench) -> None:
    rank_correlation = bench("benchmarks.prediction").rank_correlation
    data = points([3.0, 1.0, 2.0, 5.0, 4.0, 9.0, 6.0, 7.0, 8.0, 10.0], 10)
    first, again, other = (rank_correlation(data, inside=True, drawn=300, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 1.0, 1.0]])
def test_too_few_points_and_equal_values_are_no_correlation_and_no_warning(bench: Bench, values: list[float]) -> None:
    (value, _, _), count = bench("benchmarks.prediction").rank_correlation(points(values, 3), inside=True, drawn=300)
    assert value != value
    assert count == len(values)


def test_predictions_are_shown_with_interval_and_figure(bench: Bench) -> None:
    data = {"points": points(RISING + BEYOND, 8), "unit": "nats of KL"}
    text = page_of(bench, "prediction", [raw("prediction", "crepe", "points", data)])
    assert rows_of(text, "| inside the range")[0].startswith("| inside the range | 1.000 [")
    assert rows_of(text, "| all points")[0].endswith("| 10 |")
    assert "](prediction.svg)" in text


def test_whole_plans_are_shown_with_their_factor_and_what_checking_took(bench: Bench) -> None:
    plans = [
        {"keep": keep, "predicted": 1e-5, "expected": 2e-5, "measured": measured, "deviation": 1e-6}
        for keep, measured in ((0.9, 3e-5), (0.6, 1e-5), (0.2, 9e-5))
    ]
    others = [{"name": "unseen", "n": 20, "plans": [plans[0] | {"measured": 9e-7, "expected": 1e-7}, *plans[1:]]}]
    data = {"plans": plans, "unit": "nats of KL", "said": "", "seconds": 1.5, "collecting": 11.0}
    data |= {"n": 100, "others": others}
    text = page_of(bench, "prediction", [raw("prediction", "vgg", "plans", data)])
    assert rows_of(text, "| 90%")[0].endswith("| 1e-05 | 2e-05 | 3e-05 ± 1e-06 | 1.50 |")
    assert (
        "2 of 3 within a factor of 2; 1 lose more than a smaller one (100 unseen inputs). Checking took 1.5 s beside"
        " 11.0 s of collecting." in text
    )
    assert "On unseen (20): 1 of 3 within a factor of 2 (of the others 1 below 1e-06: rounding)." in text


def test_without_predictions_there_is_no_figure(bench: Bench, tmp_path: Path) -> None:
    assert not bench("benchmarks.prediction").draw([], tmp_path / "p.svg")
    assert not (tmp_path / "p.svg").exists()


def test_a_missing_matplotlib_is_said_in_one_line(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    error = bench("benchmarks.plots").PlotError
    with pytest.raises(error, match=r"^p\.svg is not drawn: .*matplotlib.*; pip install '\.\[bench\]'$"):
        bench("benchmarks.prediction").draw(predicted(1), tmp_path / "p.svg")


@pytest.mark.parametrize("count", [1, 3])
def test_the_figure_is_the_same_bytes_every_time(bench: Bench, tmp_path: Path, count: int) -> None:
    pytest.importorskip("matplotlib")
    files = [tmp_path / "plots" / name for name in ("one.svg", "two.svg")]
    assert all(bench("benchmarks.prediction").draw(predicted(count), file) for file in files)
    text = files[0].read_text(encoding="utf-8")
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "dc:date" not in text
    assert text.count("inside (7 of 9; 1 at 0)") == count
    assert len(text) < 150_000
