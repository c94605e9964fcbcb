"""Options that several commands share, and values as users write them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnx_lowrank.errors import DataError, GoalError
from onnx_lowrank.goals import CONFIDENCE, MAX_DROP, Gate
from onnx_lowrank.metrics import METRICS, traits_of
from onnx_lowrank.options import BITS as ALL_BITS
from onnx_lowrank.options import Options, Runtime

if TYPE_CHECKING:
    _ParamType = click.ParamType[int]
    _FloatType = click.ParamType[float]
    _ManyType = click.ParamType[tuple[int, ...]]
else:
    _ParamType = _FloatType = _ManyType = click.ParamType  # generic only in recent versions

F = TypeVar("F", bound=Callable[..., Any])
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Bytes(_ParamType):
    """A size: 10MB, 800kB, 1.5GiB, or a plain number of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", str(value))
        if match is None or match[2].upper() not in UNITS or match[1].count(".") > 1 or match[1] == ".":
            self.fail(f"{value!r} is not a size; write 10MB, 800kB or 1.5GiB", param, ctx)
        return int(float(match[1]) * UNITS[match[2].upper()])


class Seconds(_FloatType):
    """A time: 90s, 10m, 1h30m, or a plain number of seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, (int, float)):
            return float(value)
        text = str(value).strip()
        match = re.fullmatch(r"(?:(\d+(?:\.\d*)?)h)?(?:(\d+(?:\.\d*)?)m)?(?:(\d+(?:\.\d*)?)s?)?", text)
        if match is None or not text:
            self.fail(f"{value!r} is not a time; write 90s, 10m or 1h30m", param, ctx)
        return sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True))


class Bits(_ManyType):
    """What a number may take: 8,32, say, or auto for all."""

    name = "bits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the bits, rising."""
        if isinstance(value, tuple):
            return value
        if value == "auto":
            return ALL_BITS
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdecimal() for part in parts):
            self.fail(f"{value!r} is no list of bits; write 8,32 or auto", param, ctx)
        return tuple(sorted({int(part) for part in parts}))


def stacked(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Return one decorator that applies several, listed in the order that --help shows."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


MODEL = click.argument("model", type=click.Path(path_type=Path))
QUIET = click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
REPORT = click.option(
    "--report",
    "--json",
    "report",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write everything as JSON to this file, also where nothing was found, or an error ended the run. -: to"
    " standard output, and all else to standard error.",
)
HTML = click.option(
    "--html", type=click.Path(path_type=Path), help="Write everything as one page for a browser (extra `report`)."
)
FORCE = click.option("--force", is_flag=True, help="Replace what exists where something is to be written.")


def _metric_names(*, needs_labels: bool) -> str:
    return ", ".join(metric.name for metric in METRICS if metric.needs_labels == needs_labels)


def _other_defaults() -> str:
    """Return the metrics that have another default drop: "; of relative-l2 0.05"."""
    drops = {metric.name: traits_of(metric).default_drop for metric in METRICS}
    return "".join(f"; of {name} {drop:g}" for name, drop in drops.items() if drop != MAX_DROP)


METRIC = click.option(
    "--metric",
    help=f"{_metric_names(needs_labels=True)} (labels); {_metric_names(needs_labels=False)} (no labels); name@output;"
    " or FILE.py:function for your own. Default: chosen from labels and outputs.",
)
PROVIDERS = "auto, cpu, cuda, tensorrt, openvino, coreml, directml, or onnxruntime's own name."
RUNTIME = stacked(
    click.option("--provider", default="auto", show_default=True, help=PROVIDERS),
    click.option("--threads", default=0, show_default=True, help="Threads for onnxruntime; 0: all cores."),
    click.option("--seed", default=0, show_default=True, help="Seed of splits, sampling and intervals."),
)
GATE = stacked(
    click.option(
        "--max-drop",
        type=float,
        help=f"How much worse the metric may get. Default: {MAX_DROP:g}{_other_defaults()}.",
    ),
    click.option(
        "--drop-type",
        type=click.Choice(["absolute", "relative"]),
        default="absolute",
        show_default=True,
        help="relative: as a share of the original's metric.",
    ),
    click.option(
        "--confidence",
        default=CONFIDENCE,
        show_default=True,
        help="At which a test has to show that the drop is smaller than --max-drop, whatever was tried.",
    ),
    click.option("--observed", is_flag=True, help="Go by the estimated drop alone: nothing is certified."),
    click.option(
        "--output",
        "outputs",
        multiple=True,
        metavar="NAME",
        help="An output of the model that counts, for the loss and the gate; repeatable. Default: all.",
    ),
    click.option("--groups", metavar="KEY", help="A key in the data, equal where samples share a source."),
    click.option("--allow-weak-baseline", is_flag=True, help="Go on where the metric measures nothing."),
    click.option(
        "--allow-random", is_flag=True, help="Judge a model that is not deterministic against its own spread."
    ),
)
BITS = click.option(
    "--bits",
    type=Bits(),
    help="Bits that a number of a weight or factor may take, chosen together with the ranks: 32 (its own type), 8,32,"
    " 4,8,32, or auto (2, 12 and 16, too; all that run here). 16: half precision; 12 and 8: integers with a scale a"
    " channel, or (8) one for 32 inputs, as 4 and 2 have; arithmetic stays float. With a goal of latency: 8,32, and"
    " operators multiply integers. Default: auto where the goal is bytes, 8,32 where it is latency, else 32.",
)
SELECT = stacked(
    click.option("--include", multiple=True, metavar="GLOB", help="Only weights or nodes of this name; repeatable."),
    click.option("--exclude", multiple=True, metavar="GLOB", help="No weights or nodes of this name; repeatable."),
    click.option("--rank-multiple", default=8, show_default=True, help="Ranks are multiples of this."),
)

EXTERNAL = stacked(
    click.option(
        "--save-as-external-data",
        is_flag=True,
        help="Write weights to OUT.data beside OUT, as is done above 2 GiB in any case.",
    ),
    click.option("--shard-size", type=Bytes(), help="The same, in several files of so many bytes at most: 2GB, say."),
)
EXECUTOR = click.option(
    "--executor",
    help="Who collects and runs candidates: local:N, processes on this machine, or dask://HOST:PORT, a cluster."
    " Default: this process.",
)
CACHE_DIR = click.option(
    "--cache-dir", type=click.Path(path_type=Path, file_okay=False), help="The same in this folder.", metavar="DIR"
)
CACHE = stacked(
    click.option(
        "--cache",
        is_flag=True,
        help="Keep what is collected and measured for other goals, and go on where a run was cut off. In"
        " $XDG_CACHE_HOME/onnx-lowrank; `onnx-lowrank cache` shows and clears it.",
    ),
    CACHE_DIR,
    click.option(
        "--cache-limit",
        type=Bytes(),
        default="10GB",
        show_default=True,
        help="What the cache may hold; what was used longest ago goes first.",
    ),
)

SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="GLOB=WHAT",
    help="Decide for weights or nodes of this name: dense, rank:64 (rank:16x32), scheme:tucker-2, bits:8, or several"
    " with commas; the last that names a weight counts. Repeatable.",
)


def gate_of(values: dict[str, Any]) -> Gate:
    """Return the gate that the options ask for. Raises a usage error."""
    return usage(lambda: Gate(**{name: values[name] for name in ("max_drop", "drop_type", "confidence", "observed")}))


def options_of(values: dict[str, Any]) -> Options:
    """Return the run's options. Raises a usage error."""
    known = (
        *("sensitivity", "metric", "include", "exclude", "rank_multiple", "seed", "overrides"),
        *("memory", "exponents", "objective", "signed", "inter_layer", "refit", "continuation", "gamma", "loss"),
        *("then", "shared_input", "bits"),
        *("outputs", "groups", "allow_weak_baseline", "allow_random"),
        *("temperature", "logit_bias", "last_layer", "time_budget", "save_as_external_data", "shard_size", "executor"),
    )
    asked = {name: values[name] for name in known if name in values}
    if values.get("cache") or values.get("cache_dir") is not None:
        asked |= {"cache_dir": str(values["cache_dir"] or cache_folder()), "cache_limit": values["cache_limit"]}
    return usage(lambda: Options(runtime=runtime_of(values), **asked))


def cache_folder() -> Path:
    """Return the user's folder for what can be made again (the XDG base directory specification; on Windows its own).

    A relative $XDG_CACHE_HOME is ignored, as that specification asks for.
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "onnx-lowrank"


def runtime_of(values: dict[str, Any]) -> Runtime:
    """Return provider and threads, the defaults of a command that has no such options. Raises a usage error."""
    return usage(lambda: Runtime(**{name: values[name] for name in ("provider", "threads") if name in values}))


T = TypeVar("T")


def usage(make: Callable[..., T], *values: Any) -> T:
    """Return what `make` makes of the values; one out of range becomes a usage error (exit code 2)."""
    try:
        return make(*values)
    except (GoalError, DataError) as error:
        raise click.UsageError(str(error)) from error
