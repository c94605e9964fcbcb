"""Output of the command line: tables on standard output, progress and errors on standard error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import TypeVar

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from onnx_lowrank.cli.interrupts import stoppable
from onnx_lowrank.cli.outputs import Outputs
from onnx_lowrank.errors import LowRankError
from onnx_lowrank.progress import Advance, Silent
from onnx_lowrank.progress import Progress as Steps

FAILED = 1
NOTHING = 3
STOPPED = 130
"""Whatever the signal was."""
WATCHED = "onnx_lowrank.outputs"

EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""

T = TypeVar("T")


class Bars:
    """Progress bars with an ETA, removed when their step is done."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Advance]:
        """Draw one step."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(title, total=total)
            yield lambda units: bars.advance(task, units)


class Lines:
    """A line on standard error every EVERY seconds: which step it is, how far, and for how long the run goes on."""

    def __init__(self) -> None:
        self._start = self._told = time.monotonic()

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Advance]:
        """Tell of one step, where it is not over before a line is due."""
        done = 0

        def advance(units: int) -> None:
            nonlocal done
            done += units
            now = time.monotonic()
            if now - self._told >= EVERY:
                self._told = now
                with suppress(OSError):
                    click.echo(f"{now - self._start:5.0f} s  {title}: {done:,} of {total:,}", err=True)

        yield advance


def progress(*, quiet: bool) -> Steps:
    """Return bars on a terminal, and elsewhere a line now and then."""
    if quiet:
        return Silent()
    return Bars(Console(stderr=True)) if sys.stderr.isatty() else Lines()


def show(parts: Iterable[RenderableType], *, quiet: bool) -> None:
    """Print tables and texts, as wide as the terminal, 80 columns elsewhere."""
    if quiet:
        return
    console = Console(highlight=False)
    for part in parts:
        console.print(part)


def terminal_width() -> int:
    """Return the columns of the terminal; 80 where there is none."""
    return Console().width


def say(text: str, *, quiet: bool = False, color: str | None = None) -> None:
    """Print one line of text as it is; in a colour on a terminal that shows colours."""
    colored = color is not None and Console().color_system is not None and "NO_COLOR" not in os.environ
    if not quiet:
        click.echo(click.style(text, fg=color, bold=True) if colored else text)


def one_line_errors(command: Callable[..., T]) -> Callable[..., T]:
    """Turn the errors that this package raises on purpose into one line and exit code 1; bugs keep their traceback."""

    @wraps(command)
    def guarded(*args: object, **kwargs: object) -> T:
        with stoppable() as stop:
            try:
                return command(*args, **kwargs)
            except LowRankError as error:
                written = f"; written before that: {done}" if (done := _done()) else ""
                click.echo(f"error: {' '.join(str(error).split())}{written}", err=True)
                raise SystemExit(FAILED) from error
            except (KeyboardInterrupt, OSError) as error:
                if isinstance(error, OSError) and not stop.asked:
                    raise  # after a hangup, the terminal itself fails
                stop.over()
                with suppress(OSError):
                    click.echo(
                        f"stopped; {f'written: {done}' if (done := _done()) else 'nothing was written'}", err=True
                    )
                raise SystemExit(STOPPED) from error

    return guarded


def watched(outputs: Outputs) -> Outputs:
    """Remember what this command writes, so that an interrupted one can report what was written."""
    click.get_current_context().meta[WATCHED] = outputs
    return outputs


def _done() -> str:
    outputs = click.get_current_context().meta.get(WATCHED)
    return ", ".join(map(str, outputs.done())) if isinstance(outputs, Outputs) else ""
