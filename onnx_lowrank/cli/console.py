"""How the command line speaks: tables on standard output, progress and errors on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TypeVar

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from onnx_lowrank.errors import LowRankError
from onnx_lowrank.progress import Advance, Silent
from onnx_lowrank.progress import Progress as Steps

FAILED = 1
NOTHING = 3

T = TypeVar("T")


class Bars:
    """Progress bars with an ETA, gone when their step is done."""

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
        try:
            return command(*args, **kwargs)
        except LowRankError as error:
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise SystemExit(FAILED) from error
        except KeyboardInterrupt as error:
            click.echo("stopped; nothing was written", err=True)
            raise SystemExit(130) from error

    return guarded
