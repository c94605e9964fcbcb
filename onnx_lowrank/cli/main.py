"""The command group and the small commands: inspect, apply, compare, diff, schema, report, demo."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click

from onnx_lowrank import pipeline
from onnx_lowrank.cli import data_options
from onnx_lowrank.cli.analyze_command import analyze
from onnx_lowrank.cli.cache_command import cache
from onnx_lowrank.cli.command import HELP, Command
from onnx_lowrank.cli.console import NOTHING, one_line_errors, progress, say, show, terminal_width, watched
from onnx_lowrank.cli.optimize_command import finish, optimize
from onnx_lowrank.cli.outputs import OUTPUT, Inputs, Outputs
from onnx_lowrank.cli.process import tune_process
from onnx_lowrank.cli.shared_options import (
    EXTERNAL,
    FORCE,
    GATE,
    METRIC,
    MODEL,
    PROVIDERS,
    QUIET,
    REPORT,
    RUNTIME,
    SELECT,
    gate_of,
    options_of,
)
from onnx_lowrank.demo import MODEL as DEMO_MODEL
from onnx_lowrank.demo import SAMPLES as DEMO_SAMPLES
from onnx_lowrank.demo import demo_files, demo_samples
from onnx_lowrank.errors import ModelError
from onnx_lowrank.goals import Compact
from onnx_lowrank.report import (
    comparison_json,
    inspection_json,
    render_comparison,
    render_difference,
    render_inspection,
    schema_kinds,
)
from onnx_lowrank.report import schema as schema_text
from onnx_lowrank.report.html import html_page
from onnx_lowrank.report.json_report import read_report
from onnx_lowrank.results.saved_plan import read_plan
from onnx_lowrank.runtime.installed import conflict, packages
from onnx_lowrank.samples import path_forms
from onnx_lowrank.version import __version__

SETTINGS = {"help_option_names": list(HELP), "max_content_width": 100}


@click.group(context_settings=SETTINGS)
@click.version_option(__version__, "-V", "--version", prog_name="onnx-lowrank")
def main() -> None:
    """Make an exported ONNX model smaller and faster by low-rank factorization: no training, and proof that it holds.

    Exit codes: 0 saved and passed; 1 error; 2 wrong usage; 3 nothing acceptable found, no model written; 4 saved, but
    less than --fail-under.
    """
    tune_process()
    if wrong := conflict(packages()):
        click.echo(f"warning: {wrong}", err=True)


main.add_command(optimize)
main.add_command(analyze)
main.add_command(cache)


@main.command(cls=Command)
@MODEL
@SELECT
@click.option("--all", "everything", is_flag=True, help="List small weights one by one, too.")
@click.option(
    "--spectrum/--no-spectrum",
    default=None,
    help="Decompose weights, for the ranks that hold 90 and 99 % of their energy. Default: unless they are 256 MB of"
    " external data or more, which are not read then.",
)
@REPORT
@FORCE
@QUIET
@one_line_errors
def inspect(
    model: Path, everything: bool, spectrum: bool | None, report: Path | None, force: bool, quiet: bool, **values: Any
) -> None:
    """Show every weight of MODEL: factorable or not, and why not. Needs no data."""
    outputs = watched(Outputs.of(Inputs(models={"MODEL": model}), {"--report": report}, force=force))
    options = options_of(values)
    inspection = pipeline.inspect(
        model,
        include=options.include,
        exclude=options.exclude,
        rank_multiple=options.rank_multiple,
        spectrum=spectrum,
        progress=progress(quiet=quiet),
    )
    outputs.write("--report", lambda: inspection_json(inspection))
    show(render_inspection(inspection, everything=everything, width=terminal_width()), quiet=quiet)


@main.command(cls=Command)
@click.argument("plan", type=click.Path(path_type=Path))
@MODEL
@click.option("-o", "--out", "output", type=click.Path(path_type=Path), required=True, help="Where the new model goes.")
@click.option("--data", help="Calibration samples, the same as the plan's; not needed after --sensitivity weights.")
@click.option("--validation", help="Validation samples, if the plan's run was given some: they decide the split.")
@data_options.FORMAT
@click.option("--provider", default="auto", show_default=True, help=PROVIDERS)
@click.option("--threads", default=0, show_default=True, help="Threads for onnxruntime; 0: all cores.")
@EXTERNAL
@FORCE
@QUIET
@one_line_errors
def apply(plan: Path, model: Path, output: Path, validation: str | None, **values: Any) -> None:
    """Repeat a saved PLAN's schemes and ranks on the MODEL it was made for; judge the result with `compare`."""
    found = data_options.given(values)
    paths = {"data": found and found[1], "validation": validation}
    sets = data_options.sources(values, paths)
    samples = {f"--{name}": path for name, path in paths.items()}
    inputs = Inputs(models={"MODEL": model}, samples=samples, others={"PLAN": plan, **data_options.files(values)})
    outputs = watched(Outputs.of(inputs, {OUTPUT: output}, force=values["force"]))
    options = options_of(values)
    bars = progress(quiet=values["quiet"])
    pipeline.apply(
        plan, model, sets["data"], options,
        output=output, validation=sets["validation"], progress=bars, before_writing=outputs.check(OUTPUT),
    )  # fmt: skip
    say(f"wrote {output}; nothing was validated: onnx-lowrank compare {model} {output} --data …", quiet=values["quiet"])


@main.command(cls=Command)
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--data", help=f"Samples to judge on: {path_forms()}.")
@click.option("--random-data", is_flag=True, help="Judge on invented samples: says nothing of real inputs.")
@data_options.INPUT_SHAPE
@data_options.FORMAT
@METRIC
@GATE
@RUNTIME
@REPORT
@FORCE
@QUIET
@one_line_errors
def compare(first: Path, second: Path, random_data: bool, report: Path | None, quiet: bool, **values: Any) -> None:
    """Judge the model SECOND against FIRST; the last line is CERTIFIED, OBSERVED or FAILED (exit code 3)."""
    found = data_options.given(values)
    if (found is None) == (not random_data):
        raise data_options.missing()
    data_options.refuse_shapes({**values, "random_data": random_data})
    gate, options = gate_of(values), options_of(values)
    models = {"FIRST": first, "SECOND": second}
    path = found and found[1]
    others = data_options.files(values)
    inputs = Inputs(models=models, samples={"--data": path}, code={"--metric": values["metric"]}, others=others)
    outputs = watched(Outputs.of(inputs, {"--report": report}, force=values["force"]))
    samples = data_options.sources(values, {"data": path})["data"]
    comparison = pipeline.compare(
        first, second, data_options.invented(values) if samples is None else samples, gate, options,
        progress=progress(quiet=quiet),
    )  # fmt: skip
    outputs.write("--report", lambda: comparison_json(comparison))
    show(render_comparison(comparison), quiet=quiet)
    say(comparison.verdict.word.upper(), quiet=quiet, color="green" if comparison else "red")
    if not comparison:
        raise SystemExit(NOTHING)


@main.command(cls=Command)
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@one_line_errors
def diff(first: Path, second: Path) -> None:
    """Show which weights two saved plans, FIRST and SECOND, treat differently, and how else they differ."""
    plans = (read_plan(path) for path in (first, second))
    show(render_difference(*plans, width=terminal_width()), quiet=False)


@main.command(cls=Command)
@click.argument("kind", type=click.Choice(schema_kinds()))
def schema(kind: str) -> None:
    """Print the JSON Schema of what --report and --save-plan write."""
    click.echo(schema_text(kind), nl=False)


@main.command(cls=Command)
@click.argument("report", type=click.Path(path_type=Path))
@click.option("-o", "--out", "output", type=click.Path(path_type=Path), help="Default: <stem>.html beside REPORT.")
@FORCE
@QUIET
@one_line_errors
def report(report: Path, output: Path | None, force: bool, quiet: bool) -> None:
    """Write the page for a browser that belongs to a REPORT of `optimize --report`."""
    target = output or report.with_suffix(".html")
    outputs = watched(Outputs.of(Inputs(others={"REPORT": report}), {OUTPUT: target}, force=force))
    outputs.write(OUTPUT, lambda: html_page(read_report(report)))
    say(f"wrote {target}", quiet=quiet)


@main.command(cls=Command)
@click.option("-o", "--out", "output", type=click.Path(path_type=Path), help="Keep the compressed demo model here.")
@click.option("--files", type=click.Path(path_type=Path), help="Only write the demo's model and samples here.")
@FORCE
@RUNTIME
@QUIET
@one_line_errors
def demo(output: Path | None, files: Path | None, force: bool, quiet: bool, **values: Any) -> None:
    """Optimize the shipped model on its shipped samples, in under a minute, and show what a user would see."""
    if files is not None:
        _write_demo(files, force=force, quiet=quiet)
        return
    inputs = Inputs(models={"the shipped model": DEMO_MODEL}, others={"the shipped samples": DEMO_SAMPLES})
    outputs = watched(Outputs.of(inputs, {OUTPUT: output}, force=force))
    sets = demo_samples()
    sources = pipeline.DataSources(data=sets["calibration"], validation=sets["validation"], test=sets["test"])
    options = options_of(values)
    say("optimizing the shipped Fashion-MNIST network: 512 images calibrate, 2,000 validate, 2,000 test", quiet=quiet)
    with tempfile.TemporaryDirectory(prefix="onnx-lowrank-") as folder:
        target = output or Path(folder) / "demo.lowrank.onnx"
        bars = progress(quiet=quiet)
        session = pipeline.Session.of(DEMO_MODEL, sources, options, progress=bars)
        result = pipeline.meet_goal(session, Compact(), output=target, before_writing=outputs.check(OUTPUT))
        finish(result, quiet=quiet, saved=output)


def _write_demo(folder: Path, *, force: bool, quiet: bool) -> None:
    """Write the shipped model and samples into a folder, made if need be."""
    contents = demo_files()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"cannot make {folder}: {error.strerror}; choose another place with --files") from error
    inputs = Inputs(others={"the shipped model": DEMO_MODEL, "the shipped samples": DEMO_SAMPLES})
    places = {f"--files ({name})": folder / name for name in contents}
    outputs = watched(Outputs.of(inputs, places, force=force))
    for option, path in places.items():
        outputs.write(option, partial(contents.__getitem__, path.name))
        say(f"wrote {path}", quiet=quiet)
