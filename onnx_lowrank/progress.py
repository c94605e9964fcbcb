"""How long steps report their progress; the command line shows it, the library stays silent."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

LOGGER = logging.getLogger("onnx_lowrank")
"""Every step that is over, at level INFO; nothing is shown unless the user of the library asks for it."""
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


class Clock:
    """Measures every step on its way to another Progress; `seconds` has the totals by title."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Advance]:
        """Time the step."""
        start = time.perf_counter()
        try:
            with self._inner.step(title, total) as advance:
                yield advance
        finally:
            spent = time.perf_counter() - start
            self.seconds[title] = self.seconds.get(title, 0.0) + spent
            LOGGER.info("%s: %.2f s", title, spent)
