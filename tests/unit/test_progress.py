"""When a search ends with what it has: by a clock that is set by hand."""

from __future__ import annotations

import pytest

from onnx_lowrank.progress import Clock, EndedError, Ending, Silent


class Now:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_time_is_over_when_the_budget_is_but_for_the_reserve():
    now = Now()
    ending = Ending(60, now)
    with ending.searching():
        now.seconds += 59
        ending.check()
        ending.reserve = 2
        with pytest.raises(EndedError, match="the time budget of 60 s was used up"):
            ending.check()
        ending.check()  # it is told once
    assert "60 s" in ending.reason


def test_without_a_budget_time_is_never_over():
    now = Now()
    ending = Ending(None, now)
    with ending.searching():
        now.seconds += 1e9
        ending.check()


def test_outside_of_a_search_nothing_ends():
    now = Now()
    ending = Ending(60, now)
    now.seconds += 61
    ending.check()
    assert not ending.ask()


def test_the_first_search_has_the_time_since_the_opening_the_second_its_own():
    now = Now()
    ending = Ending(60, now)
    now.seconds += 50
    with ending.searching():
        now.seconds += 11
        with pytest.raises(EndedError):
            ending.check()
    now.seconds += 1000
    with ending.searching():
        now.seconds += 59
        ending.check()


def test_it_ends_when_asked_to_only_with_something_to_write():
    ending = Ending()
    with ending.searching():
        assert not ending.ask()
        ending.check()
        ending.found = True
        assert ending.ask()
        with pytest.raises(EndedError, match="asked"):
            ending.check()
        assert not ending.ask()


def test_what_was_found_is_written_undisturbed():
    now = Now()
    ending = Ending(60, now)
    with ending.searching():
        ending.found = True
        with ending.paused():
            now.seconds += 61
            ending.check()
            assert not ending.ask()
        with pytest.raises(EndedError):
            ending.check()
        with ending.paused():
            pass
        ending.check()  # it has ended


def test_a_part_of_the_budget():
    now = Now()
    ending = Ending(60, now)

    def slow() -> str:
        now.seconds += 37
        ending.check()
        return "made"

    with ending.searching():
        assert ending.within(0.6, slow) is None
        assert not ending.reason
        assert ending.within(0.6, lambda: "made") == "made"
        ending.check()  # the rest of the budget is there
        now.seconds += 24
        with pytest.raises(EndedError):
            ending.check()


def test_who_asks_is_heard_within_a_part():
    ending = Ending(60, Now())
    with ending.searching():
        ending.found = True
        ending.ask()
        with pytest.raises(EndedError):
            ending.within(0.6, ending.check)


def test_every_unit_of_every_step_asks():
    now = Now()
    clock = Clock(Silent(), Ending(60, now))
    done: list[int] = []

    def work() -> None:
        with clock.step("step", 10) as advance:
            for number in range(10):
                now.seconds += 20
                advance(1)
                done.append(number)

    with clock.ending.searching(), pytest.raises(EndedError):
        work()
    assert done == [0, 1, 2]
    assert "step" in clock.seconds
