"""Being stopped: Ctrl-C, SIGTERM and SIGHUP all unwind, so that half-made files are removed, and none gives a trace."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


WELL = b"\nstopping: the best plan that is certified so far is tested and written; once more stops at once\n"


class Stop:
    """What the signals have asked for so far.

    ask: asks the work to end by itself with what it has, once; returns whether it will. Such a signal does not count.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.ended = False
        self.ask: Callable[[], bool] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Unwind at the first signal; the second is left to the cleanup that it falls into, the next ones are not."""
        ask, self.ask = self.ask, None
        if ask is not None and ask():
            with suppress(OSError):
                os.write(2, WELL)  # print may be what was interrupted
            return
        self.asked += 1
        if self.asked != 2 and not self.ended:
            raise KeyboardInterrupt

    def over(self) -> None:
        """Raise no more: all is cleaned up, and only the message and the exit are left."""
        self.ended = True
        atexit.register(_deaf)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Handle the signals in here; only the main thread may. One that is ignored already (nohup) stays ignored."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in heard:
            signal.signal(number, stop)
        yield stop
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


def _deaf() -> None:
    """Leave the last moments of the interpreter alone: a signal in there would print a trace."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
