"""How far a whole run is, and how long it still takes: told from the stage that runs and those that usually follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from onnx_lowrank.progress import Advance

USUAL = {
    "reading": 1.0,
    "calibrating": 8.0,
    "measuring whole plans": 3.0,
    "moments for rounding": 2.0,
    "rounding weights": 40.0,
    "screening plans": 14.0,
    "measuring the original": 2.0,
    "validating": 43.0,
    "timing": 5.0,
    "testing": 2.0,
}
"""Stages in their order, with the share of the time that they usually take: by what titles begin with."""
VALIDATING, PLAN, PARTS = "validating", "validating plan", ("validating", "refitting", "quantising")
"""Plan after plan is made and validated, which is one stage; a title of PLAN begins the next one."""
PLANS = 8
"""Plans that are validated, usually."""
ROUNDING = ("moments for rounding", "rounding weights")
"""What there is only where bits are chosen: the first of them tells."""
ALMOST = 0.95
"""The share of validation that is done at most, as nobody knows which plan is the last."""
SURE = 0.05
"""A stage that is so far tells by its own pace how long it takes; before that it usually takes what it takes."""


class Forecast:
    """What is left of a run, in seconds. clock: seconds from some time on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._spent: dict[str, float] = {}
        self._stage, self._since, self._part = "", self._start, 0.0
        self._least = self._before = 0.0
        self._plans, self._of_plan = 0, False

    def enter(self, title: str) -> None:
        """Note that a stage begins."""
        stage = VALIDATING if title.startswith(PARTS) else next((s for s in USUAL if title.startswith(s)), "")
        self._plans += title.startswith(PLAN)
        self._of_plan = title.startswith(PLAN)
        if stage != self._stage or stage != VALIDATING:
            self._stage, self._since, self._part = stage, self._clock(), 0.0
            self._before = self._spent.pop(stage, 0.0)

    def advance(self, part: float) -> None:
        """Note how far the stage is, 0 to 1."""
        if self._stage == VALIDATING:
            done = self._plans - 1 + min(part, 1.0) if self._of_plan else self._plans
            self._part = max(self._part, min(done / PLANS, ALMOST))
            return
        self._part = min(part, 1.0)

    def leave(self) -> None:
        """Note that the stage is over."""
        if self._stage:
            self._spent[self._stage] = self._inside

    @property
    def _inside(self) -> float:
        """Seconds that this stage has taken so far."""
        return self._before + self._clock() - self._since

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    @property
    def left(self) -> float | None:
        """Seconds that are probably left; None before anything is known."""
        pace, stage, inside = self._pace(), self._stage, self._inside
        if not stage or (pace is None and self._part < SURE):
            return None
        own = inside * (1 - self._part) / self._part if self._part >= SURE else (pace or 0.0) * USUAL[stage]
        others = {each: spent for each, spent in self._spent.items() if each != stage}
        units = sum(USUAL[each] for each in others) + USUAL[stage]
        seen = (sum(others.values()) + inside + own) / units  # this stage is a sign of the others, too
        return own + seen * sum(USUAL[later] for later in self._later(stage))

    @property
    def share(self) -> float:
        """The share of the run that is done; it never falls."""
        left = self.left
        if left is not None:
            self._least = max(self._least, self.elapsed / max(self.elapsed + left, 1e-9))
        return self._least

    def _pace(self) -> float | None:
        """Return seconds a unit of USUAL, by the stages that are over; None before any."""
        over = {stage: spent for stage, spent in self._spent.items() if stage != self._stage}
        units, seconds = sum(USUAL[stage] for stage in over), sum(over.values())
        return seconds / units if seconds else None

    def _later(self, stage: str) -> list[str]:
        order = list(USUAL)
        rest = order[order.index(stage) + 1 :]
        return [s for s in rest if s not in ROUNDING or stage in ROUNDING]


class _Left(ProgressColumn):
    """Minutes and seconds: since the start of the run, and probably to its end."""

    def render(self, task: Task) -> Text:
        """Return the text beside a bar."""
        forecast = task.fields.get("forecast")
        if forecast is None:
            return Text(f"{task.completed:,.0f} of {task.total or 0:,.0f}")
        left = forecast.left
        return Text(f"{_minutes(forecast.elapsed)}, about {_minutes(left)} left" if left is not None else "")


class WholeRun:
    """One bar for a run, and the stage that runs beneath it, on a terminal."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._forecast = Forecast(clock)
        columns = (TextColumn("{task.description:<24}"), BarColumn(bar_width=20), _Left())
        self._bars = Progress(*columns, console=console, transient=True)
        self._whole = self._bars.add_task("the whole run", total=1.0, forecast=self._forecast)
        self._running = False

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Advance]:
        """Draw one stage."""
        if not self._running:
            self._bars.start()
            self._running = True
        stage = self._bars.add_task(f"  {title}", total=total)
        self._forecast.enter(title)
        done = 0

        def advance(units: int) -> None:
            nonlocal done
            done += units
            self._forecast.advance(done / total if total else 1.0)
            self._bars.update(stage, completed=done, total=max(total, done))
            self._bars.update(self._whole, completed=self._forecast.share)

        try:
            yield advance
        finally:
            self._forecast.leave()
            self._bars.remove_task(stage)

    def close(self) -> None:
        """Take the bars away: something else is to be printed."""
        if self._running:
            self._bars.stop()
            self._running = False


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
