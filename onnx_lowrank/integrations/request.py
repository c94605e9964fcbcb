"""Settings by name, as a configuration file of another program holds them, to samples, goal and options of a run.

Names and what goes together are those of `onnx-lowrank optimize`, defaults those of the library; samples are paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from onnx_lowrank.errors import DataError, GoalError
from onnx_lowrank.goals import Compact, DropType, Gate, Goal, Lossless, Resource
from onnx_lowrank.options import Options, Runtime, Sensitivity, Then
from onnx_lowrank.pipeline import DataSources


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting: its name, its type as `typing` writes it, and what it does. None is always the tool's default."""

    name: str
    type: Any
    about: str
    required: bool = False


SAMPLES = (
    Setting("data", str, "Calibration samples: .npz, .npy, a folder, Polygraphy's .json, or FILE.py:function.", True),
    Setting("validation", str, "Samples that gate; without them, a fifth of `data` is set aside."),
    Setting("test", str, "Samples that nothing is chosen on; measured once, at the end."),
    Setting("force_overlap", bool, "Allow the same samples in two of the sets."),
)
GATE = (
    Setting("max_drop", float, "How much worse the metric may get: 0.01, and 0.05 for relative-l2."),
    Setting("drop_type", DropType, "absolute, or relative: as a share of the original's metric."),
    Setting("confidence", float, "At which a test has to show that the drop is smaller than max_drop: 0.95."),
    Setting("observed", bool, "Go by the estimated drop alone: nothing is certified."),
)
TARGETS = (
    Setting("keep", float, "lossless: share of all the model's parameters to keep."),
    Setting("target_size", int, "lossless: bytes of the saved file."),
    Setting("target_macs", float, "lossless: share of the multiply-accumulates to keep."),
    Setting("target_latency", float, "lossless: share of the original's time to take; also with one of the others."),
)
GOAL = (
    Setting("algorithm", Literal["compact", "lossless"], "lossless with one of the targets, else compact."),
    Setting("minimize", Resource, "compact: what is to be smallest; parameters, or bytes with `bits` below 32."),
    *TARGETS,
    Setting("min_speedup", float, "Save only what is measured to be so many times as fast as the original."),
)
LISTS = ("bits", "include", "exclude", "outputs", "set")
WAYS = (
    Setting("metric", str, "top1, agreement, ..., name@output, or FILE.py:function; chosen from labels and outputs."),
    Setting("bits", list[int], "Bits that a number may take, chosen together with the ranks: [8, 32], say."),
    Setting("then", Then, "Also make it int8: quantize, quantize-dynamic or quantize-weights."),
    Setting("sensitivity", Sensitivity, "What a factorization is to keep: joint, inputs, weights or paper."),
    Setting("include", list[str], "Only weights or nodes of these names (globs)."),
    Setting("exclude", list[str], "No weights or nodes of these names (globs)."),
    Setting("set", list[str], "What weights of some names become: GLOB=dense, rank:64, scheme:tucker-2 or bits:8."),
    Setting("outputs", list[str], "Outputs of the model that count, for the loss and the gate: all."),
    Setting("groups", str, "A key in the data, equal where samples share a source."),
    Setting("rank_multiple", int, "Ranks are multiples of this: 8."),
    Setting("memory", int, "Bytes that collection may hold at once: 2**30."),
    Setting("seed", int, "Seed of splits, sampling and intervals: 0."),
)
RUNTIME = (
    Setting("provider", str, "auto, cpu, cuda, another short name, or onnxruntime's own."),
    Setting("threads", int, "Threads for onnxruntime; 0: all cores."),
)
SETTINGS: tuple[Setting, ...] = (*SAMPLES, *GATE, *GOAL, *WAYS, *RUNTIME)
"""All of them, in the order in which they are told of."""


@dataclass(frozen=True, slots=True)
class Request:
    """What `optimize` takes besides the model."""

    sources: DataSources
    goal: Goal
    options: Options


def request(values: Mapping[str, Any]) -> Request:
    """Return the run that settings ask for; those that are None, or not there, are not set.

    Raises GoalError for an unknown name, for values out of range and for what does not go together; DataError where
    `data` is missing.
    """
    given = {name: value for name, value in values.items() if value is not None}
    if unknown := sorted(set(given) - {setting.name for setting in SETTINGS}):
        raise GoalError(f"unknown setting {unknown[0]!r}: take {', '.join(setting.name for setting in SETTINGS)}")
    if "data" not in given:
        raise DataError("no samples: set `data` to a path")
    ways = _of(WAYS, given)
    ways |= {name: tuple(ways[name]) for name in LISTS if name in ways}
    if "bits" in ways:
        ways["bits"] = tuple(sorted(set(ways["bits"])))
    if "set" in ways:
        ways["overrides"] = ways.pop("set")
    goal = _goal(given)
    options = Options(runtime=Runtime(**_of(RUNTIME, given)), **ways).for_goal(goal.resource)
    return Request(DataSources(**_of(SAMPLES, given)), goal, options)


def _goal(given: Mapping[str, Any]) -> Goal:
    gate, targets, speedup = Gate(**_of(GATE, given)), _of(TARGETS, given), given.get("min_speedup")
    resource: Resource = given.get("minimize") or ("bytes" if min(given.get("bits", (32,))) < 32 else "parameters")
    if given.get("algorithm", "lossless" if targets else "compact") == "lossless":
        if given.get("minimize", "parameters") != "parameters":
            raise GoalError(f"minimize {resource} is a goal of the compact algorithm: give a target instead")
        return Lossless(gate=gate, min_speedup=speedup, **targets)
    if targets:
        raise GoalError(f"{next(iter(targets))} is a goal of the lossless algorithm: leave algorithm compact out")
    return Compact(gate=gate, resource=resource, min_speedup=speedup)


def _of(settings: tuple[Setting, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    return {setting.name: given[setting.name] for setting in settings if setting.name in given}
