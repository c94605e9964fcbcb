"""Interleaved latency, by a clock of the test's own: no assertion here depends on the machine."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.timing import LEAST_PAIRS, SETTLE_CALLS, SETTLE_LEAST, SETTLE_MOST, TURN, interleaved

FEEDS = [{"x": np.array([float(i)])} for i in range(3)]


class Clock:
    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now


class Model:
    """Takes `seconds`, times what the machine does just then."""

    def __init__(self, clock, name, seconds, slowdown=lambda now: 1.0):
        self.clock, self.name, self.seconds, self.slowdown = clock, name, seconds, slowdown

    rest = 0.0

    def run(self, feed):
        self.clock.calls.append((self.name, float(feed["x"][0])))
        self.clock.now += self.seconds * self.slowdown(self.clock.now)
        return {}


def turns(calls):
    """Return the calls without neighbouring repeats, the warm-up left out."""
    return [call for call, before in zip(calls[4:], calls[3:], strict=False) if call != before]


def timed(first=0.01, second=0.004, slowdown=lambda now: 1.0, **settings):
    clock = Clock()
    models = [Model(clock, name, seconds, slowdown) for name, seconds in (("a", first), ("b", second))]
    return interleaved(*models, FEEDS, clock=clock, **settings), clock.calls


def test_ratio_and_medians():
    timing, _ = timed(rounds=20, seed=0)
    assert timing.first_ms == pytest.approx(10)
    assert timing.second_ms == pytest.approx(4)
    assert timing.ratio.estimate == pytest.approx(0.4)
    assert (timing.ratio.low, timing.ratio.high) == pytest.approx((0.4, 0.4))
    assert timing.pairs == 20


def test_models_take_turns_and_share_their_feeds():
    _, calls = timed(rounds=4, seed=0)
    names = [name for name, _ in turns(calls)]
    # A B, B A, A B, B A; a turn beside one of the same model on another feed stays apart.
    assert names == ["a", "b", "b", "a", "a", "b", "b", "a"]
    feeds = [feed for _, feed in turns(calls)]
    assert feeds[::2] == feeds[1::2]
    assert sorted(feeds[:6:2]) == [0.0, 1.0, 2.0]


def test_a_machine_that_slows_down_halfway_changes_the_medians_not_the_ratio():
    timing, _ = timed(rounds=21, seed=0, seconds=1e9, slowdown=lambda now: 1.0 + 3.0 * (now > 0.3))
    assert timing.ratio.estimate == pytest.approx(0.4)
    assert timing.first_ms > 20


def test_the_budget_ends_it_but_not_before_the_least_pairs():
    assert timed(first=1.0, second=1.0, rounds=200, seed=0, seconds=3.0)[0].pairs == LEAST_PAIRS
    # a turn of calls longer than it settles at most: one, and one that is timed
    long = 1.5 * SETTLE_MOST
    assert timed(first=long, second=long, rounds=200, seed=0, seconds=66 * long)[0].pairs == pytest.approx(17, abs=1)
    few = timed(rounds=3, seed=0)[0]
    assert few.pairs == 3
    assert (few.ratio.low, few.ratio.high) == (0.0, math.inf)


def test_short_calls_are_repeated_so_that_a_turn_settles():
    _, calls = timed(first=0.0005, second=1.5 * TURN, rounds=1, seed=0)
    settled = max(SETTLE_LEAST / 0.0005, SETTLE_CALLS)
    assert sum(name == "a" for name, _ in calls[4:]) == pytest.approx(settled + TURN / 0.0005, abs=2)
    assert sum(name == "b" for name, _ in calls[4:]) == math.ceil(SETTLE_MOST / (1.5 * TURN)) + 1


def test_a_clock_that_stands_still_divides_by_nothing():
    timing, calls = timed(first=0.0, second=0.0, rounds=6, seed=0)
    assert timing.ratio.estimate == 1
    assert len(calls) < 30_000


def test_the_seed_decides_the_order_of_the_feeds():
    orders = [tuple(feed for _, feed in turns(timed(rounds=3, seed=seed)[1])) for seed in (0, 0, 1, 2, 3)]
    assert orders[0] == orders[1]
    assert len(set(orders)) > 1


def test_nothing_to_time():
    with pytest.raises(DataError, match="nothing to time"):
        interleaved(Model(Clock(), "a", 1.0), Model(Clock(), "b", 1.0), [], seed=0)


def test_a_model_whose_threads_spin_is_waited_for_after_every_turn(monkeypatch):
    """Otherwise it takes cores from the next one, and the faster model looks slower than it is."""
    slept = []
    monkeypatch.setattr("onnx_lowrank.runtime.timing.time.sleep", slept.append)
    clock = Clock()
    a, b = Model(clock, "a", 0.01), Model(clock, "b", 0.02)
    b.rest = 0.03
    timing = interleaved(a, b, [{"x": np.zeros(1)}] * 3, seed=0, seconds=1.0, clock=clock)
    assert slept == [0.03] * timing.pairs
    assert timing.ratio.estimate == pytest.approx(2.0)
