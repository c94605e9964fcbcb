"""analyze: whether it is worth it, before anything is validated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from onnx_lowrank import pipeline
from onnx_lowrank.cli import data_options
from onnx_lowrank.cli.command import Command
from onnx_lowrank.cli.console import command_line, one_line_errors, progress, show, terminal_width, watched
from onnx_lowrank.cli.outputs import Inputs, Outputs
from onnx_lowrank.cli.shared_options import (
    BITS,
    CACHE,
    EXECUTOR,
    FORCE,
    GATE,
    HTML,
    METRIC,
    MODEL,
    QUIET,
    REPORT,
    RUNTIME,
    SELECT,
    SET,
    gate_of,
    options_of,
    usage,
)
from onnx_lowrank.goals import Compact
from onnx_lowrank.report import analysis_json, render_analysis
from onnx_lowrank.report.html import html_page, needed_for_html


@click.command(cls=Command)
@MODEL
@data_options.DATA
@click.option("--validation", help="Samples that would gate; without them, a fifth of --data is set aside.")
@click.option("--random-data", is_flag=True, help="Invent samples. Says nothing of real inputs.")
@data_options.INPUT_SHAPE
@data_options.FORMAT
@click.option(
    "--minimize",
    type=click.Choice(["bytes", "parameters", "macs"]),
    default="bytes",
    show_default=True,
    help="What sizes are told of.",
)
@METRIC
@GATE
@BITS
@SELECT
@SET
@RUNTIME
@CACHE
@EXECUTOR
@click.option("--all", "everything", is_flag=True, help="List all layers.")
@REPORT
@HTML
@FORCE
@QUIET
@one_line_errors
def analyze(model: Path, **values: Any) -> None:
    """Show which layers of MODEL carry the loss, and what each size would cost. Nothing is validated or written."""
    found = data_options.given(values)
    if (found is None) == (not values["random_data"]):
        raise data_options.missing()
    data_options.refuse_shapes(values)
    paths = {"data": found and found[1], "validation": values["validation"]}
    goal, options = usage(lambda: Compact(gate=gate_of(values), resource=values["minimize"])), options_of(values)
    inputs = Inputs(
        models={"MODEL": model},
        samples={f"--{name}": path for name, path in paths.items()},
        code={"--metric": values["metric"]},
        others=data_options.files(values),
    )
    sides = {"--report": values["report"], "--html": values["html"]}
    outputs = watched(Outputs.of(inputs, sides, force=values["force"]))
    if values["html"] is not None:
        needed_for_html()
    sets = data_options.sources(values, paths)
    data = data_options.invented(values) if sets["data"] is None else sets["data"]
    samples = pipeline.DataSources(data=data, validation=sets["validation"])
    analysis = pipeline.analyze(model, samples, goal, options, progress=progress(quiet=values["quiet"]))
    command = command_line()
    outputs.write("--report", lambda: analysis_json(analysis, command))
    outputs.write("--html", lambda: html_page(json.loads(analysis_json(analysis, command))))
    show(render_analysis(analysis, everything=values["everything"], width=terminal_width()), quiet=values["quiet"])
