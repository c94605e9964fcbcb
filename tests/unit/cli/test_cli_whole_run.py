"""The bar of a whole run: what it says is left gets less, and nothing of it stays on the terminal."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from onnx_lowrank.cli import console
from onnx_lowrank.cli.whole_run import USUAL, Forecast, WholeRun


class Clock:
    """A clock that stands until it is set forward."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run_through(forecast: Forecast, clock: Clock, seconds: dict[str, float]) -> list[tuple[float | None, float]]:
    """Return what is left, and the share done, ten times a stage."""
    told = []
    for title, spent in seconds.items():
        forecast.enter(title)
        for step in range(1, 11):
            clock.now += spent / 10
            forecast.advance(step / 10)
            told.append((forecast.left, forecast.share))
        forecast.leave()
    return told


def test_what_is_left_is_right_where_stages_take_what_they_usually_take():
    clock = Clock()
    forecast = Forecast(clock)
    seconds = {title: 3 * units for title, units in USUAL.items()}
    whole = sum(seconds.values())
    told = run_through(forecast, clock, seconds)
    begun = list(seconds).index("moments for rounding") * 10  # what comes before does not know that there is rounding
    ended = list(seconds).index("validating") * 10
    ends = np.cumsum([spent / 10 for spent in seconds.values() for _ in range(10)])
    for (left, share), elapsed in list(zip(told, ends, strict=True))[begun:ended]:
        assert left == pytest.approx(whole - elapsed, abs=1e-6)
        assert share == pytest.approx(max(elapsed / whole, told[begun - 1][1]))  # it does not fall where more is known
    assert forecast.left == pytest.approx(0.0, abs=1e-6)
    assert forecast.share == pytest.approx(1.0)


def test_plans_that_are_made_and_validated_in_turns_are_one_stage():
    clock = Clock()
    forecast = Forecast(clock)
    run_through(forecast, clock, {"reading": 1.0, "calibrating": 8.0})
    left = []
    for plan in range(1, 9):
        run_through(forecast, clock, {"refitting": 1.0})
        told = run_through(forecast, clock, {f"validating plan {plan}": 2.0})
        left.append(told[-1][0])
    assert left == sorted(left, reverse=True)  # from the end of one plan to that of the next
    assert left[-1] < left[0] / 3
    assert forecast.elapsed == pytest.approx(33.0)


def test_the_share_never_falls_and_slow_stages_move_what_is_left():
    clock = Clock()
    forecast = Forecast(clock)
    told = run_through(forecast, clock, {"reading": 1.0, "calibrating": 8.0, "screening plans": 140.0})
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    quick, slow = told[19][0], told[-1][0]
    assert quick is not None
    assert slow is not None
    assert slow > quick  # screening took ten times as long as usual, and so, it seems, will the rest


def test_nothing_is_known_of_a_run_that_has_just_begun():
    forecast = Forecast(Clock())
    assert forecast.left is None
    forecast.enter("something new")
    assert forecast.left is None
    assert forecast.share == 0.0


def test_bars_are_drawn_and_taken_away():
    text = io.StringIO()
    bars = WholeRun(Console(file=text, force_terminal=True, width=80, color_system=None))
    with bars.step("calibrating", 4) as advance:
        advance(2)
        bars._bars.refresh()
        assert "the whole run" in text.getvalue()
        assert "calibrating" in text.getvalue()
        assert "2 of 4" in text.getvalue()
    bars.close()
    bars.close()
    assert text.getvalue().rstrip().endswith("\x1b[2K")  # the lines are cleared, nothing is left behind
    assert max(len(line) for line in text.getvalue().replace("\r", "\n").split("\n") if "\x1b" not in line) <= 80


def test_lines_elsewhere_say_how_far_it_is_also_where_it_takes_more_than_expected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "EVERY", 0.0)
    with console.Lines().step("screening plans", 2) as advance:
        for _ in range(3):
            advance(1)
    said = [line.split("  ")[-1] for line in capsys.readouterr().err.splitlines()]
    assert said == [
        "screening plans: 1 of 2",
        "screening plans: 2 of 2",
        "screening plans: 3, 2 were expected",
    ]
