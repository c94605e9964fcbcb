"""Commands to copy: the one that was run, and the same with the size of another plan as its target."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

TARGETS = {
    "parameters": "--keep",
    "bytes": "--target-size",
    "macs": "--target-macs",
    "latency": "--target-latency",
}
"""The option that bounds each resource."""
REPLACED = ("--algorithm", "--minimize", *TARGETS.values())
"""Options that say what is looked for; each has one value."""
GATED = "the gate stays as it is: this plan failed, and only a larger --max-drop would save the like"


def command_for(report: Mapping[str, Any], size: Mapping[str, Any], *, chosen: bool) -> str:
    """Return the command that makes a plan of this size: what was run for the chosen one, else with another target."""
    words = list(report["command"])
    if not _known(report):
        return f"onnx-lowrank optimize … --target-size {size['bytes']}B --data … --validation …"
    if chosen:
        return shlex.join(words)
    options, rest = _parted(words)
    settled = ["--algorithm", "lossless", "--minimize", "parameters"] if "--config" in _names(options) else []
    return shlex.join([*_without(options), *settled, *_targets(report, size), *rest])


def about_command(report: Mapping[str, Any], word: str, *, chosen: bool) -> str:
    """Return what the command of a plan does."""
    if chosen and _known(report):
        return "The command that was run:"
    told = "The command that makes the most accurate model of this size"
    return f"{told} ({GATED}):" if word == "failed" else f"{told}:"


def _known(report: Mapping[str, Any]) -> bool:
    """Return whether the command that was run is in the report: not where Python made it."""
    return list(report["command"][1:2]) == ["optimize"]


def _targets(report: Mapping[str, Any], size: Mapping[str, Any]) -> Iterator[str]:
    """Yield targets that a plan just meets, in the resources of the goal."""
    goal, before = report["goal"], report["before"]
    given = {
        "parameters": goal.get("keep"), "bytes": goal.get("target_size"), "macs": goal.get("target_macs"),
        "latency": goal.get("target_latency"),
    }  # fmt: skip
    resources = [name for name, value in given.items() if value is not None] or [goal.get("resource", "parameters")]
    for resource in resources:
        yield TARGETS[resource]
        key = "milliseconds" if resource == "latency" else resource
        yield f"{size['bytes']}B" if resource == "bytes" else _share(size[key], before[key])


def _share(part: float, whole: float) -> str:
    """Return a share that is no smaller, in six decimals."""
    share = math.ceil(1e6 * part / whole) / 1e6 if whole else 1.0
    return f"{min(share, 1.0):.6f}".rstrip("0").rstrip(".")


def _parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words that may be options, and those from `--` on, which are none."""
    end = words.index("--") if "--" in words else len(words)
    return list(words[:end]), list(words[end:])


def _names(words: Sequence[str]) -> set[str]:
    return {word.partition("=")[0] for word in words}


def _without(words: Sequence[str]) -> Iterator[str]:
    """Yield the words without options that are replaced and their values."""
    following = iter(words)
    for word in following:
        name, equals, _ = word.partition("=")
        if name not in REPLACED:
            yield word
        elif not equals:
            next(following, None)
