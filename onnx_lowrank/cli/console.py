"""Output of the command line: tables on standard output, progress and errors on standard error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console, RenderableType

from onnx_lowrank.cli.interrupts import Stop, stoppable
from onnx_lowrank.cli.outputs import REPORTED, STANDARD_OUTPUT, WATCHED, Inputs, Outputs
from onnx_lowrank.cli.whole_run import WholeRun
from onnx_lowrank.errors import LowRankError
from onnx_lowrank.progress import Advance, Silent
from onnx_lowrank.progress import Progress as Steps
from onnx_lowrank.report import error_json

FAILED = 1
NOTHING = 3
SHORT = 4
"""Something was saved, and it saves less than was asked for."""
STOPPED = 130
"""Whatever the signal was."""
DRAWN, STOP = "onnx_lowrank.bars", "onnx_lowrank.stop"

EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""

T = TypeVar("T")


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
                far = f"{done:,} of {total:,}" if done <= total else f"{done:,}, {total:,} were expected"
                with suppress(OSError):
                    click.echo(f"{now - self._start:5.0f} s  {title}: {far}", err=True)

        yield advance


def progress(*, quiet: bool) -> Steps:
    """Return bars on a terminal, until something is printed, and elsewhere a line now and then."""
    if quiet:
        return Silent()
    if not sys.stderr.isatty():
        return Lines()
    bars = WholeRun(Console(stderr=True))
    click.get_current_context().meta[DRAWN] = bars
    return bars


def _put_away() -> None:
    """Take bars from the terminal, before something is printed there."""
    context = click.get_current_context(silent=True)
    bars = None if context is None else context.meta.get(DRAWN)
    if isinstance(bars, WholeRun):
        bars.close()


def show(parts: Iterable[RenderableType], *, quiet: bool) -> None:
    """Print tables and texts, as wide as the terminal, 80 columns elsewhere."""
    if quiet:
        return
    _put_away()
    console = Console(highlight=False, stderr=_reports_to_standard_output())
    for part in parts:
        console.print(part)


def terminal_width() -> int:
    """Return the columns of the terminal; 80 where there is none."""
    return Console().width


def say(text: str, *, quiet: bool = False, color: str | None = None) -> None:
    """Print one line of text as it is; in a colour on a terminal that shows colours."""
    colored = color is not None and Console().color_system is not None and "NO_COLOR" not in os.environ
    if not quiet:
        _put_away()
        styled = click.style(text, fg=color, bold=True) if colored else text
        click.echo(styled, err=_reports_to_standard_output())


def one_line_errors(command: Callable[..., T]) -> Callable[..., T]:
    """Turn the errors that this package raises on purpose into one line and exit code 1; bugs keep their traceback."""

    @wraps(command)
    def guarded(*args: object, **kwargs: object) -> T:
        with stoppable() as stop:
            click.get_current_context().meta[STOP] = stop
            try:
                return command(*args, **kwargs)
            except LowRankError as error:
                _put_away()
                written = f"; written before that: {done}" if (done := _done()) else ""
                message = " ".join(str(error).split())
                click.echo(f"error: {message}{written}", err=True)
                _report(type(error).__name__, message)
                raise SystemExit(FAILED) from error
            except (KeyboardInterrupt, OSError) as error:
                if isinstance(error, OSError) and not stop.asked:
                    raise  # after a hangup, the terminal itself fails
                stop.over()
                _put_away()
                with suppress(OSError):
                    click.echo(
                        f"stopped; {f'written: {done}' if (done := _done()) else 'nothing was written'}", err=True
                    )
                raise SystemExit(STOPPED) from error
            finally:
                _put_away()

    return guarded


def ending_well(ask: Callable[[], bool]) -> None:
    """Let the first signal ask the search to end with what it has; `ask` says whether it will."""
    stop = click.get_current_context().meta.get(STOP)
    if isinstance(stop, Stop):
        stop.ask = ask


def watched(outputs: Outputs) -> Outputs:
    """Remember what this command writes, so that an interrupted one can report what was written."""
    click.get_current_context().meta[WATCHED] = outputs
    return outputs


def _report(kind: str, message: str) -> None:
    """Write a report of an error, where one was asked for and there is none yet; what hinders it is not told."""
    context = click.get_current_context()
    content = partial(error_json, kind, message, command_line(), FAILED)
    outputs = context.meta.get(WATCHED)
    path = _report_path(context)
    if path == STANDARD_OUTPUT:
        click.echo(content(), nl=False)
        return
    with suppress(LowRankError, OSError):
        if not isinstance(outputs, Outputs):  # an error so early that what is read is not known: replace nothing
            outputs = Outputs.of(Inputs(), {REPORTED: path}, force=False)
        if outputs.written.get(REPORTED) not in outputs.done():
            outputs.write(REPORTED, content)


def command_line() -> list[str]:
    """Return the words of the command that runs."""
    return ["onnx-lowrank", *sys.argv[1:]]


def _reports_to_standard_output() -> bool:
    """Return whether the report goes there, so that nothing else may."""
    context = click.get_current_context(silent=True)
    return context is not None and _report_path(context) == STANDARD_OUTPUT


def _report_path(context: click.Context) -> Path | None:
    """Return where the report goes; None: none was asked for."""
    names = (param.name for param in context.command.params if REPORTED in param.opts)
    paths = (context.params.get(name or "") for name in names)
    return next((path for path in paths if isinstance(path, Path)), None)


def _done() -> str:
    outputs = click.get_current_context().meta.get(WATCHED)
    return ", ".join(map(str, outputs.done())) if isinstance(outputs, Outputs) else ""
