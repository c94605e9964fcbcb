"""How long steps report their progress; the command line shows it, the library stays silent."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

from onnx_lowrank.errors import GoalError
from onnx_lowrank.types.checks import shown

LOGGER = logging.getLogger("onnx_lowrank")
"""Every step that is over, at level INFO; nothing is shown unless the user of the library asks for it."""
T = TypeVar("T")
Advance = Callable[[int], None]
"""Called with the number of units done since the last call."""


class Progress(Protocol):
    """Shows steps of known length."""

    def step(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Enter a step of `total` units; the value advances it."""


class Silent:
    """Shows nothing."""

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Advance]:
        """Do nothing."""
        yield lambda units: None


def steps_of(progress: Progress | None) -> Progress:
    """Return what shows the steps; nobody does where it is None. Raises GoalError for what shows none."""
    if progress is None:
        return Silent()
    if not callable(getattr(progress, "step", None)) or isinstance(progress, type):
        raise GoalError(
            "progress takes an object with a method step(title, total), a context manager that gives a function to"
            f" advance by (onnx_lowrank.progress.Progress), not {shown(progress)}"
        )
    return progress


class EndedError(Exception):
    """The work is to end with what there is; its text says why."""


class Ending:
    """Whether a search is to end with what it has: because somebody asks, or its time is over.

    budget: seconds that a search may take, of the first one from here on; None: as long as it takes. reserve: seconds
    of it that are left for writing and testing what was found. found: whether there is something to write. reason: why
    it ended; empty while it goes on.
    """

    def __init__(self, budget: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._budget = clock, budget
        self._start: float | None = clock()
        self._active = self._asked = False
        self._share = 1.0
        self.reserve = 0.0
        self.found = False
        self.reason = ""

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Let a search be ended in here."""
        start = self._clock() if self._start is None else self._start
        self.reserve, self.found, self.reason, self._asked = 0.0, False, "", False
        self._start, self._active = start, True
        try:
            yield
        finally:
            self._start, self._active = None, False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not end in here: what was found is written."""
        active, self._active = self._active, False
        try:
            yield
        finally:
            self._active = active and not self.reason

    def within(self, share: float, make: Callable[[], T]) -> T | None:
        """Return what `make` gives; None where that was not there when so much of the budget was used up.

        Raises EndedError where somebody asks.
        """
        before, self._share = self._share, share
        try:
            return make()
        except EndedError:
            if self._asked:
                raise
            self.reason, self._active = "", True
            return None
        finally:
            self._share = before

    def ask(self) -> bool:
        """Ask it to end; return whether it will, by itself and with something to write."""
        if self._active and self.found:
            self._asked = True
        return self._active and self._asked

    def check(self) -> None:
        """Raise EndedError where it is to end."""
        if not self._active or self._start is None:
            return
        if self._asked:
            self.reason = "stopped when asked to"
        elif self._budget is not None and self._clock() - self._start + self.reserve > self._budget * self._share:
            self.reason = f"stopped as the time budget of {self._budget:g} s was used up"
        if self.reason:
            self._active = False
            raise EndedError(self.reason)


class Clock:
    """Measures every step on its way to another Progress; `seconds` has the totals by title.

    ending: is asked after every unit whether it is time to end.
    """

    def __init__(self, inner: Progress, ending: Ending | None = None) -> None:
        self._inner = inner
        self.seconds: dict[str, float] = {}
        self.ending = ending or Ending()

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Advance]:
        """Time the step. Raises EndedError in between, where the work is to end."""
        start = time.perf_counter()
        try:
            with self._inner.step(title, total) as advance:

                def told(units: int) -> None:
                    advance(units)
                    self.ending.check()

                yield told
        finally:
            spent = time.perf_counter() - start
            self.seconds[title] = self.seconds.get(title, 0.0) + spent
            LOGGER.info("%s: %.2f s", title, spent)
