"""The main command: optimize."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from onnx_lowrank import pipeline
from onnx_lowrank.cli import config, data_options
from onnx_lowrank.cli.command import Command
from onnx_lowrank.cli.console import (
    NOTHING,
    SHORT,
    command_line,
    ending_well,
    one_line_errors,
    progress,
    say,
    show,
    terminal_width,
    watched,
)
from onnx_lowrank.cli.outputs import OUTPUT, Inputs, Outputs
from onnx_lowrank.cli.shared_options import (
    BITS,
    CACHE,
    EXECUTOR,
    EXTERNAL,
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
    Bytes,
    Seconds,
    gate_of,
    options_of,
    stacked,
    usage,
)
from onnx_lowrank.goals import Compact, Goal, Lossless
from onnx_lowrank.options import OBJECTIVES
from onnx_lowrank.options import THEN as STEPS
from onnx_lowrank.pipeline.fit_companions import wanted
from onnx_lowrank.pipeline.pareto import no_curve
from onnx_lowrank.report import ending, render_result, result_json
from onnx_lowrank.report.html import html_page, needed_for_html
from onnx_lowrank.results.result import Result
from onnx_lowrank.results.saved_plan import SavedPlan
from onnx_lowrank.sensitivity.modes import HELP as MODES_HELP
from onnx_lowrank.sensitivity.modes import MODES
from onnx_lowrank.version import __version__

DATA = stacked(
    data_options.DATA,
    click.option("--validation", help="Samples that gate; without them, a fifth of --data is set aside."),
    click.option("--test", help="Samples that nothing is chosen on; measured once, at the end."),
    click.option("--random-data", is_flag=True, help="Invent samples. Says nothing of real inputs; a warning stays."),
    data_options.INPUT_SHAPE,
    click.option("--force-overlap", is_flag=True, help="Allow the same samples in two of the sets."),
    data_options.FORMAT,
)
GOAL = stacked(
    click.option(
        "--algorithm",
        type=click.Choice(["compact", "lossless"]),
        help="compact: smallest model whose metric holds. lossless: most accurate model within a size; must hold, too."
        " Default: lossless with one of the targets below, else compact.",
    ),
    GATE,
    click.option("--keep", type=float, help="lossless: share of all the model's parameters to keep, 0.6 say."),
    click.option("--target-size", type=Bytes(), help="lossless: bytes of the saved file, 10MB say."),
    click.option("--target-macs", type=float, help="lossless: share of the multiply-accumulates to keep."),
    click.option(
        "--target-latency",
        type=float,
        help="lossless: share of the original's time to take, 0.7 say; alone or with one of the others.",
    ),
    click.option(
        "--minimize",
        type=click.Choice(["parameters", "bytes", "macs", "latency"]),
        default="parameters",
        show_default=True,
        help="compact: what is to be smallest. latency: milliseconds, measured on this machine, weight by weight.",
    ),
    click.option(
        "--min-speedup",
        type=float,
        metavar="S",
        help="Save only what is measured to be S times as fast as the original, even at the interval's slow end."
        " Default: 1.02 where latency is the goal, else nothing.",
    ),
)
SENSITIVITY = stacked(
    click.option(
        "--sensitivity",
        type=click.Choice([mode.name for mode in MODES]),
        default=MODES[0].name,
        show_default=True,
        help=MODES_HELP,
    ),
    click.option(
        "--loss",
        metavar="FILE.py:FUNCTION",
        help="A labelled loss of your own, by its gradient at the outputs; for --objective labels, --signed and paper.",
    ),
    click.option(
        "--exponents",
        nargs=2,
        type=float,
        default=(1.0, 1.0),
        show_default=True,
        metavar="A B",
        help="joint: how much inputs and gradients shape factors, 0 to 1. 1 0: as inputs, 0 0: as weights.",
    ),
    click.option(
        "--objective",
        type=click.Choice(OBJECTIVES),
        help="Whose loss is to stay low: the distance to the original's outputs, or that of the labels, which chooses"
        " what is kept as well as how much. Default: original.",
    ),
    click.option("--signed", is_flag=True, help="Add the first-order term of the labelled loss, cross-fitted."),
    click.option("--inter-layer", is_flag=True, help="Add what the factored weights do to each other."),
    click.option(
        "--refit/--no-refit",
        default=None,
        help="Refit the last factors on the compressed prefix (least squares). Default: where samples that nothing was"
        " fitted on show less loss by it.",
    ),
    click.option(
        "--continuation",
        type=click.IntRange(1, 8),
        default=1,
        show_default=True,
        metavar="STEPS",
        help="Shrink in so many steps, collecting again after each.",
    ),
    click.option(
        "--shared-input/--no-shared-input",
        default=True,
        show_default=True,
        help="Weights that read the same tensor (Q, K, V; gate, up) may share their first factor.",
    ),
    click.option(
        "--gamma", type=float, default=0.1, show_default=True, help="paper: bound on a layer's relative error."
    ),
    click.option(
        "--memory",
        type=Bytes(),
        default="1GiB",
        show_default=True,
        help="What collection may hold at once. The default gives way to the widest weight.",
    ),
)
THEN = click.option(
    "--then",
    type=click.Choice(STEPS),
    help="Also make it int8; gate and report are of both together. quantize: static (QDQ), ranges from --data."
    " quantize-dynamic: ranges at run time, for models of MatMul. quantize-weights: only the file, float arithmetic.",
)
COMPANIONS = stacked(
    click.option("--temperature", is_flag=True, help="Also fit a temperature of the logits to calibration labels."),
    click.option("--logit-bias", is_flag=True, help="Also fit a bias of the logits to calibration labels."),
    click.option(
        "--last-layer/--no-last-layer",
        default=None,
        help="Also refit the last layer to calibration labels, by ridge regression. Like the two above: reported apart"
        " from what factoring does. Default: in lossless without a size, where the samples that choose show a gain.",
    ),
)


@click.command(cls=Command)
@MODEL
@click.option(
    "-o", "--out", "output", type=click.Path(path_type=Path), help="Default: <stem>.lowrank.onnx beside MODEL."
)
@DATA
@GOAL
@METRIC
@SENSITIVITY
@BITS
@THEN
@COMPANIONS
@SELECT
@SET
@RUNTIME
@click.option(
    "--time-budget",
    type=Seconds(),
    help="Save the best that is certified by then: 90s, 10m, 1h30m. Default: as long as it takes. Ctrl-C and SIGTERM do"
    " the same at once, where anything is certified.",
)
@CACHE
@EXECUTOR
@EXTERNAL
@REPORT
@HTML
@click.option("--save-plan", type=click.Path(path_type=Path), help="Write schemes and ranks, for `apply`.")
@click.option(
    "--pareto",
    type=click.Path(path_type=Path),
    help="Write the curve of size against predicted loss, ten points measured: .csv or .json.",
)
@config.CONFIG
@config.SAVE_CONFIG
@click.option("--all", "everything", is_flag=True, help="List weights that stay as they are, too.")
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Leave with exit code 4 where what was saved is not at least so much smaller than MODEL's file, 0.3 say.",
)
@click.option("--dry-run", is_flag=True, help="Do everything but write the model.")
@FORCE
@QUIET
@one_line_errors
def optimize(model: Path, output: Path | None, **values: Any) -> None:
    """Compress MODEL, and save only what validation has shown to hold.

    A test on the validation samples has to certify that the metric drops by less than --max-drop; --observed goes
    by the estimate alone.
    """
    goal = _goal(values)
    options = options_of(values).for_goal(goal.resource)
    if values["save_plan"] is not None and options.continuation > 1:
        raise click.UsageError("a plan made by --continuation cannot be repeated by `apply`: leave --save-plan out")
    if values["save_plan"] is not None and wanted(options):
        raise click.UsageError("a plan does not repeat what is fitted to labels: leave --save-plan out")
    if values["save_plan"] is not None:
        options = replace(options, last_layer=False)
    if values["save_plan"] is not None and options.objective == "labels" and options.loss is not None:
        raise click.UsageError(
            "a plan made for a loss of your own cannot be repeated by `apply`: leave --save-plan out"
        )
    if values["pareto"] is not None and (refusal := no_curve(options)):
        raise click.UsageError(refusal)
    if values["html"] is not None:
        needed_for_html()
    sources = _sources(values)
    target = None if values["dry_run"] else output or model.parent / f"{model.stem}.lowrank.onnx"
    outputs = _outputs(model, target, values)
    session = pipeline.Session.of(model, sources, options, progress=progress(quiet=values["quiet"]))
    ending_well(session.clock.ending.ask)
    result = pipeline.meet_goal(
        session, goal, output=target, dry_run=values["dry_run"], before_writing=outputs.check(OUTPUT)
    )
    _write_side_files(result, outputs)
    if result.sites:
        outputs.write("--pareto", lambda: pipeline.points_text(pipeline.pareto(session, goal), values["pareto"]))
    finish(result, quiet=values["quiet"], saved=target, everything=values["everything"])
    _hold_to(values["fail_under"], result)


def _hold_to(least: float | None, result: Result) -> None:
    """Leave with an exit code of its own where less than this share of the file's bytes is saved."""
    share = 1 - result.after.bytes / result.before.bytes
    if least is not None and share < least:
        click.echo(f"error: {share:.1%} of the bytes are saved, and --fail-under asks for {least:.1%}", err=True)
        raise SystemExit(SHORT)


def _outputs(model: Path, target: Path | None, values: dict[str, Any]) -> Outputs:
    """Return what the run will write, checked before any work. Raises ModelError."""
    inputs = Inputs(
        models={"MODEL": model},
        samples={f"--{name}": path for name, path in _paths(values).items()},
        code={f"--{name}": values[name] for name in ("metric", "loss")},
        others=data_options.files(values),
    )
    sides = {
        f"--{name.replace('_', '-')}": values[name] for name in ("report", "html", "save_plan", "pareto", "save_config")
    }
    return watched(Outputs.of(inputs, {OUTPUT: target, **sides}, force=values["force"]))


def _sources(values: dict[str, Any]) -> pipeline.DataSources:
    if (data_options.given(values) is None) == (not values["random_data"]):
        raise data_options.missing()
    data_options.refuse_shapes(values)
    sets = data_options.sources(values, _paths(values))
    return pipeline.DataSources(
        data=data_options.invented(values) if sets["data"] is None else sets["data"],
        validation=sets["validation"],
        test=sets["test"],
        force_overlap=values["force_overlap"],
    )


def _paths(values: dict[str, Any]) -> dict[str, str | None]:
    """Return the path of every set of samples."""
    found = data_options.given(values)
    return {"data": found and found[1], "validation": values["validation"], "test": values["test"]}


def _goal(values: dict[str, Any]) -> Goal:
    gate = gate_of(values)
    targets = {name: values[name] for name in ("keep", "target_size", "target_macs", "target_latency")}
    speedup, resource = values["min_speedup"], values["minimize"]
    set_targets = [name for name, value in targets.items() if value is not None]
    if values["algorithm"] == "lossless" or (values["algorithm"] is None and set_targets):
        if resource != "parameters":
            raise click.UsageError(f"--minimize {resource} is a goal of the compact algorithm: give a target instead")
        return usage(lambda: Lossless(gate=gate, min_speedup=speedup, **targets))
    if set_targets:
        option = "--" + set_targets[0].replace("_", "-")
        raise click.UsageError(f"{option} is a goal of the lossless algorithm: leave --algorithm compact out")
    source = click.get_current_context().get_parameter_source("minimize")
    if values["bits"] is not None and min(values["bits"]) < 32 and source is ParameterSource.DEFAULT:
        resource = "bytes"
    return usage(lambda: Compact(gate=gate, resource=resource, min_speedup=speedup))


def _write_side_files(result: Result, outputs: Outputs) -> None:
    outputs.write("--save-config", lambda: config.written(click.get_current_context()))
    command = command_line()
    outputs.write("--report", lambda: result_json(result, command))
    outputs.write("--html", lambda: html_page(json.loads(result_json(result, command))))
    if result.plan is not None:
        tool = f"onnx-lowrank {__version__}"
        outputs.write("--save-plan", lambda: SavedPlan.of_result(result, tool).to_json())


def finish(result: Result, *, quiet: bool, saved: Path | None, everything: bool = False) -> None:
    """Print a result; leave with exit code 3 where nothing was found."""
    show(render_result(result, everything=everything, width=terminal_width()), quiet=quiet)
    if not result:
        say(f"NOTHING SAVED: {result.reason}", quiet=quiet, color="red")
        raise SystemExit(NOTHING)
    say(ending(result, saved), quiet=quiet)
