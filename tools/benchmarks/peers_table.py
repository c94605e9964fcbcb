"""The tools a user would pick, side by side; and whether ours and theirs leave each other's files as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.latency_table import threads_said
from benchmarks.lines import Line
from benchmarks.peers import (
    CELLS,
    OURS,
    OURS_SLIM,
    PART,
    PEER_SAMPLES,
    SIM,
    SIM_OURS,
    SIZES,
    SLIM,
    SLIM_OURS,
)
from benchmarks.target import Inventory, Target
from benchmarks.wording import NONE, megabytes, number, percent, table, with_interval
from onnx_lowrank.quantization.onnxruntime_int8 import CALIBRATED

ABOUT = (
    "Every row is a file on disk, from the same model and calibration samples. *int8 static* and *int8 dynamic* are"
    " onnxruntime's with the operators and ranges that `--then` gives it (static: the weights' operators, Relu and"
    " Clip, one scale a channel, {calibrated} calibration samples; dynamic: no Conv); *stock* is `quantize_static` and"
    " `quantize_dynamic` by their own defaults, static after their `quant_pre_process`. NNCF is `nncf.quantize`, with"
    " its transformer scheme where the model has a softmax; it and stock static see at most {few} of the calibration"
    " samples (NNCF's default number). onnx-shrink-ray quantises weights alone. *Ours* is compact with a drop of"
    " {allowed} allowed on validation (*drop 0*: none), as small or as fast as possible, and it alone is gated by"
    " validation labels."
    " {n:,} test samples, paired 95 % intervals of the change: of top-1 exact (with how many samples were won and"
    " lost), of the loss in nats. Latency against the original in turns, {threads}, with {sizes} samples of one shape a"
    " call, in onnxruntime on the processor, {pairs} pairs or more. *s*: seconds from the row's source to its file,"
    " collection or the tool's start included."
)
ABOUT_KEPT = (
    "*Off*: the largest difference of any output on {checked} validation samples, as a share of the largest output;"
    " *differ*: test samples right in one of the two alone. *{ours}* starts from other nodes and may choose another"
    " plan, so it is held to the gate, not to the outputs."
)
DIGITS = 4
AGREE = 1e-4
"""Outputs apart by rounding alone, as a share of the largest output."""
SAME = 5e-4
"""Share of test samples: rounding may tip one that stands between two classes."""


def peers(inventory: Inventory, model: str) -> list[str]:
    """Return the section of one model."""
    there = [(cell.name, inventory[PART, model, cell.name]) for cell in CELLS if (PART, model, cell.name) in inventory]
    if not there:
        return []
    made = [(name, data) for name, data in there if data["outcome"] == "made"]
    text = ["### Tools a user would pick", ""]
    if made:
        first = made[0][1]
        known = {
            "few": PEER_SAMPLES, "allowed": number(first["allowed"]), "n": first["n"], "threads":
            threads_said(first["threads"]) if first["threads"] else "as many threads as cores",
            "sizes": " and ".join(map(str, SIZES)), "calibrated": CALIBRATED, "pairs": _fewest(made),
        }  # fmt: skip
        heads = ("", "file, MB", "top-1", "won, lost", "loss", *(f"latency ×, {size} a call" for size in SIZES), "s")
        text += [ABOUT.format(**known), "", *table(heads, [_original(first), *(_row(*each) for each in there)])]
        kept = [(name, data["kept"]) for name, data in made if "kept" in data]
        rows = [_kept(name, data) for name, data in kept]
        heads = ("", "against", "off", "differ", "top-1: its, and this one's")
        if rows:
            about = ABOUT_KEPT.format(ours=OURS_SLIM, checked=kept[0][1]["checked"])
            text += [about, "", *table(heads, rows)]
    notes = [*_reasons(there), *_versions(there)]
    return [*text, *notes, *([""] if notes else [])]


def _fewest(made: Sequence[tuple[str, Line]]) -> int:
    """Return the smallest number of timed pairs that a ratio rests on."""
    return min(
        (said["pairs"] for _, data in made for said in data["latency"].values() if not said["reason"]), default=0
    )


def _original(first: Line) -> tuple[str, ...]:
    top, loss = (number(first[key][0], DIGITS) for key in ("top1", "loss"))
    return ("original", f"{megabytes(first['original_bytes'])} (100 %)", top, NONE, loss, *["1"] * len(SIZES), NONE)


def _row(name: str, data: Line) -> tuple[str, ...]:
    if data["outcome"] != "made":
        return (name, _word(data), *[NONE] * (len(SIZES) + 4))
    won, lost = data["flips"]
    return (
        name,
        f"{megabytes(data['bytes'])} ({percent(data['bytes'] / data['original_bytes'])})",
        _changed(data["top1"]),
        f"{won}, {lost}",
        _changed(data["loss"]),
        *(_ratio(data["latency"][str(size)]) for size in SIZES),
        f"{data['seconds']:.1f}",
    )


def _word(data: Line) -> str:
    return {"absent": "not installed", "nothing": "none", "failed": "failed"}[data["outcome"]]


def _changed(values: Sequence[Any]) -> str:
    _, after, change = values
    return f"{number(after, DIGITS)} ({with_interval(change, DIGITS)})"


def _ratio(said: Line) -> str:
    return NONE if said["reason"] else with_interval(said["ratio"], 2)


def _kept(name: str, kept: Line) -> tuple[str, ...]:
    first, second = (number(value, DIGITS) for value in kept["top1"])
    return name, kept["like"], f"{kept['off']:.1e}", str(sum(kept["flips"])), f"{first}, {second}"


def _reasons(there: Sequence[tuple[str, Line]]) -> Iterator[str]:
    yield from (f"- {name}: {data['reason']}" for name, data in there if data["outcome"] != "made")
    untimed: dict[str, list[str]] = {}
    for name, data in there:
        for size, said in data.get("latency", {}).items():
            if said["reason"]:
                untimed.setdefault(f"{size} a call: {said['reason']}", []).append(name)
    yield from (f"- not timed with {why} ({', '.join(names)})" for why, names in untimed.items())


def _versions(there: Sequence[tuple[str, Line]]) -> Iterator[str]:
    told = {", ".join(f"{k} {v}" for k, v in data["versions"].items()): None for _, data in there if "versions" in data}
    if told:
        yield f"- each in an environment of its own: {'; '.join(told)}"


def peer_targets(inventory: Inventory, models: Sequence[str]) -> Iterator[Target]:
    """Yield whether the simplifiers and ours leave each other's files working."""
    for model in models:
        asked = (
            f"{model}: onnxslim and onnxsim neither break our output (outputs as before) nor we theirs (no drop beyond"
            " the allowed, by the test interval)"
        )
        checks = [
            _theirs(inventory, model, SLIM, SLIM_OURS),
            _theirs(inventory, model, SIM, SIM_OURS),
            _ours(inventory, model),
        ]
        known = [met for _, met in checks]
        met = False if False in known else None if None in known else True
        yield Target(asked, "; ".join(text for text, _ in checks if text), met)


def _theirs(inventory: Inventory, model: str, tool: str, name: str) -> tuple[str, bool | None]:
    """Return what a simplifier did to our file: None where there was none, or where it fails on the original, too."""
    data, alone = inventory.get((PART, model, name)), inventory.get((PART, model, tool))
    if data is None or data["outcome"] in ("absent", "nothing"):
        return (f"{name}: {data['reason']}" if data else ""), None
    if data["outcome"] != "made":
        alike = alone is not None and alone["outcome"] != "made"
        return f"{name}: {data['reason']}{' (and on the original)' if alike else ''}", None if alike else False
    kept = data["kept"]
    first, second = kept["top1"]
    text = f"{name}: outputs off by {kept['off']:.1e}, top-1 {number(first, DIGITS)} → {number(second, DIGITS)}"
    return text, kept["off"] <= AGREE and sum(kept["flips"]) <= SAME * data["n"]


def _ours(inventory: Inventory, model: str) -> tuple[str, bool | None]:
    """Return what ours made of a simplified file: as it does of the original, or no drop beyond the allowed."""
    data, alone = inventory.get((PART, model, OURS_SLIM)), inventory.get((PART, model, OURS))
    if data is None or data["outcome"] == "absent":
        return (f"{OURS_SLIM}: {data['reason']}" if data else ""), None
    if data["outcome"] != "made":
        alike = alone is None or alone["outcome"] != "made"
        return f"{OURS_SLIM}: {data['reason']}", None if alike else False
    before, after, change = data["top1"]
    text = f"{OURS_SLIM}: top-1 {number(before, DIGITS)} → {number(after, DIGITS)} ({with_interval(change, DIGITS)})"
    return f"{text}, {percent(data['bytes'] / data['original_bytes'])} of the bytes", change[2] >= -data["allowed"]
