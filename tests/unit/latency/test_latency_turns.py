"""Many models in turns, by a clock of the test's own."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_lowrank.latency.interleaving import MOST_ROUNDS, rounds_of, shares
from onnx_lowrank.runtime.timing import LEAST_PAIRS

FEED = {"x": np.zeros(1)}


class Clock:
    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now


class Model:
    def __init__(self, clock, name, seconds):
        self.clock, self.name, self.seconds = clock, name, seconds

    rest = 0.0

    def run(self, feed):
        self.clock.calls.append(self.name)
        self.clock.now += self.seconds(self.clock.now)
        return {}


def measured(*seconds, **settings):
    clock = Clock()
    timed = [(Model(clock, i, s if callable(s) else lambda now, s=s: s), FEED) for i, s in enumerate(seconds)]
    return rounds_of(timed, against=1, clock=clock, **settings), clock.calls


def test_shares_are_against_the_first():
    rounds, _ = measured(0.1, 0.02, 0.05)
    assert shares(rounds) == pytest.approx([1.0, 0.2, 0.5], rel=1e-9)


def test_steady_models_stop_at_the_least_rounds():
    rounds, calls = measured(0.2, 0.11)
    assert len(rounds) == LEAST_PAIRS
    # two calls of warm-up each, then turns there and back again; every turn settles once and is timed once
    assert calls[:4] == [0, 0, 1, 1]
    assert calls[4:12] == [0, 0, 1, 1, 1, 1, 0, 0]


def test_a_machine_that_slows_down_changes_no_share():
    slow = [lambda now, s=s: s * (1 + 9 * (now > 1.0)) for s in (0.1, 0.02, 0.05)]
    rounds, _ = measured(*slow)
    assert shares(rounds) == pytest.approx([1.0, 0.2, 0.5], rel=1e-9)
    assert rounds.max() > 0.5


def test_noise_goes_on_until_time_is_up_or_rounds_are():
    rng = np.random.default_rng(0)
    noisy = lambda now: 0.02 * float(rng.lognormal(0, 1))  # noqa: E731
    rounds, _ = measured(0.1, 0.02, noisy, seconds=5.0)
    assert LEAST_PAIRS < len(rounds) < MOST_ROUNDS
    assert len(measured(0.1, 0.02, noisy, seconds=1e9)[0]) == MOST_ROUNDS


def test_a_clock_that_stands_still_divides_by_nothing():
    rounds, _ = measured(0.0, 0.0)
    assert shares(rounds) == pytest.approx([1.0, 1.0])
