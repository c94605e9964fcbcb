"""cache: what earlier runs have kept."""

from __future__ import annotations

from pathlib import Path

import click

from onnx_lowrank.cli.command import Command
from onnx_lowrank.cli.console import one_line_errors, say, show
from onnx_lowrank.cli.shared_options import CACHE_DIR, cache_folder
from onnx_lowrank.report import render_cache
from onnx_lowrank.report.numbers import counted, size
from onnx_lowrank.store import Store


@click.command(cls=Command)
@CACHE_DIR
@click.option("--clear", is_flag=True, help="Remove all of it, and nothing else that is in the folder.")
@one_line_errors
def cache(cache_dir: Path | None, clear: bool) -> None:
    """Show what --cache has kept, by steps, with sizes and the time that it saves; or clear it."""
    folder = cache_dir or cache_folder()
    if not folder.is_dir():
        say(f"{folder}: nothing is kept there", quiet=False)
        return
    store = Store.at(folder)
    entries = store.entries()
    if clear:
        freed = store.clear()
        say(f"{folder}: {counted(len(entries), 'result')} removed, {size(freed)} freed", quiet=False)
        return
    show(render_cache(folder, entries), quiet=False)
