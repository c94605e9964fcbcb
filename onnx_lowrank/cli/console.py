"""Output of the command line: tables on standard output, progress and errors on standard error."""

from __future__ import annotations

import sys
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


def progress(*, quiet: bool) -> Steps:
    """Return bars on a terminal, silence elsewhere."""
    return Silent() if quiet or not sys.stderr.isatty() else Bars(Console(stderr=True))


def show(parts: Iterable[RenderableType], *, quiet: bool) -> None:
    """Print tables and texts, as wide as the terminal, 80 columns elsewhere."""
    if quiet:
        return
    console = Console(highlight=False)
    for part in parts:
        console.print(part)


def say(text: str, *, quiet: bool = False) -> None:
    """Print one line of text as it is."""
    if not quiet:
        click.echo(text)


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
