"""What the final model's time has to be, and whether the measurement shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from onnx_lowrank.errors import GoalError
from onnx_lowrank.goals import Goal, Lossless
from onnx_lowrank.pipeline.budget import budget_of
from onnx_lowrank.pipeline.session import Session
from onnx_lowrank.pipeline.staging import timed_feeds
from onnx_lowrank.plan import Problem
from onnx_lowrank.results.parts import Size
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.runtime.timing import Timing, interleaved
from onnx_lowrank.types import Interval

SECONDS, SECONDS_TO_SHOW = 3.0, 12.0
"""Wall time of the last measurement: where it only informs, and where a goal depends on it."""
CORRECTIONS = 2
"""How often the budget of a target latency is corrected by what the last plan was measured at."""


def final_timing(session: Session, model: Path | onnx.ModelProto, goal: Goal) -> Timing:
    """Return the saved model's time against the original's, in turns on the validation samples."""
    runtime = session.options.runtime
    seconds = SECONDS if goal.speedup is None else SECONDS_TO_SHOW
    with session.clock.step("timing", 1) as advance:
        original = session.loaded.original or session.loaded.model
        first = Runner(original, runtime=runtime, spin=True)
        second = Runner(model, runtime=runtime, spin=True)
        feeds = timed_feeds(session.split.validation.feeds)
        timing = interleaved(first, second, feeds, seed=session.options.seed, seconds=seconds)
        advance(1)
    return timing


def too_slow(timing: Timing, goal: Goal) -> str:
    """Return why a model is not fast enough for a goal, "" where it is."""
    ratio = timing.ratio
    if goal.speedup is not None and not ratio.high <= 1 / goal.speedup:
        return (
            f"it takes {_said(ratio)} of the original's time, and --min-speedup {goal.speedup:g} allows"
            f" {1 / goal.speedup:.3f} at the most, even at the interval's upper end"
        )
    target = goal.target_latency if isinstance(goal, Lossless) else None
    if target is not None and ratio.low > target:
        return f"it takes {_said(ratio)} of the original's time, more than --target-latency {target:g}"
    return ""


def _said(ratio: Interval) -> str:
    return f"{ratio.estimate:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Slow:
    """A plan that held and was not fast enough."""

    timing: Timing
    why: str


def fastest(slow: Sequence[Slow]) -> Slow:
    """Return the plan of least measured time."""
    return min(slow, key=lambda plan: plan.timing.ratio.estimate)


def none_fast_enough(slow: Sequence[Slow]) -> str:
    """Say in one line how fast the fastest of the plans that held is."""
    best = fastest(slow)
    plans = "1 plan that held is" if len(slow) == 1 else f"{len(slow)} plans that held are"
    of_them = "" if len(slow) == 1 else "the fastest: "
    return f"{plans} not fast enough; {of_them}{best.why} ({best.timing.pairs} pairs)"


def corrected(asked: Goal, aimed: Goal, slow: Sequence[Slow], problem: Problem, before: Size) -> Goal | None:
    """Return a lower aim where plans for `aimed` held but missed the target latency; None where that cannot help.

    What was predicted at `aimed` was measured at more, so the next plans are made for as much less.
    """
    if not (isinstance(asked, Lossless) and isinstance(aimed, Lossless)) or not slow:
        return None
    if asked.target_latency is None or aimed.target_latency is None:
        return None
    measured = fastest(slow).timing.ratio.estimate
    wanted = min(asked.target_latency, 1 / (asked.speedup or 1.0))
    goal = replace(aimed, target_latency=aimed.target_latency * min(wanted / measured, 0.99))
    try:
        budget_of(goal, problem, before)
    except GoalError:
        return None
    return goal
