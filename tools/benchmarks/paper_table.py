"""The paper's table: what is left of a classifier at 50 to 90 % off, and what a gain is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.lines import Line
from benchmarks.paper import CELLS, LEAKY, PART
from benchmarks.target import Found, Target
from benchmarks.wording import NONE, number, percent, table, with_interval

ABOUT = (
    "Whole-file parameters; *lossless* is the most accurate model found of that size, *compact* the smallest whose"
    " validation top-1 falls by no more than the number behind it. {n} test samples, paired 95 % intervals of the"
    " change: of top-1 exact (with how many samples were won and lost), of the loss in nats. *Tempered*: both models"
    " with a temperature of their own, fitted on validation."
)
ABOUT_LEAKY = (
    "*Leaky*: calibrated, chosen and reported on the same {leaky:,} test samples, as one must not. What it shows above"
    " the honest row of its size is leakage."
)
NOT_TOLD = "a file given with `--model`, which does not say how it was trained"
DIGITS = 4
CLASSIFIERS = ("resnext50", "vgg", "vit", "text")
HELD = {"resnext50": {0.3: 0.0, 0.2: 0.0, 0.1: 0.01}}
"""Share of the parameters kept -> by how much the top-1 on test labels may fall."""


def paper_targets(found: Found) -> Iterator[Target]:
    """Yield what is asked of the paper's own example."""
    for model, held in HELD.items():
        for keep, drop in held.items():
            least = f"within {number(drop, 2)} of the original's" if drop else "at least the original's"
            asked = f"{model}: at −{percent(1 - keep, 0)} of the file's parameters top-1 {least}"
            data = found.get((PART, model, f"lossless/{keep:g}"))
            if data is None or data["outcome"] != "made":
                yield Target(asked, data["reason"] if data else "", False if data else None)
                continue
            before, after, change = data["top1"]
            text = f"{number(before, DIGITS)} → {number(after, DIGITS)} ({with_interval(change, DIGITS)})"
            loss = f"loss {number(data['loss'][0], DIGITS)} → {number(data['loss'][1], DIGITS)}"
            yield Target(asked, f"{text}, {loss}; {percent(data['kept'])} kept", after >= before - drop)


def paper(found: Found, model: str) -> list[str]:
    """Return the section of one model."""
    there = [(cell, found[PART, model, cell.name]) for cell in CELLS if (PART, model, cell.name) in found]
    made = [(cell, data) for cell, data in there if data["outcome"] == "made"]
    if not there:
        return []
    reasons = [f"- {cell.name}: {data['reason']}" for cell, data in there if data["outcome"] != "made"]
    text = ["### The paper's reductions", "", _weights(there[0][1]["weights"]), ""]
    honest = [(cell.name, data) for cell, data in made if not cell.leaky]
    leaky = [(cell.name, data) for cell, data in made if cell.leaky]
    if honest:
        text += [ABOUT.format(n=f"{honest[0][1]['n']:,}"), "", *_rows(honest)]
    if leaky:
        text += [ABOUT_LEAKY.format(leaky=LEAKY), "", *_rows(leaky)]
    return [*text, *([*reasons, ""] if reasons else [])]


def _weights(about: Line) -> str:
    """Return which weights were used."""
    how = f"trained by the recipe in `models/`: `{about['training']}`" if about["training"] else NOT_TOLD
    return f"Weights: {how} (SHA-256 of the file: `{about['sha256'][:12]}`)."


def _rows(made: Sequence[tuple[str, Line]]) -> list[str]:
    heads = ("", "kept", "of the factorable", "MACs", "top-1", "won, lost", "loss", "loss, tempered", "latency ×", "s")
    first = made[0][1]
    original = ("original", "100 %", "100 %", "100 %", *_originals(first), "1", NONE)
    return table(heads, [original, *(_row(name, data) for name, data in made)])


def _originals(data: Line) -> tuple[str, ...]:
    top, loss, tempered = (number(data[key][0], DIGITS) for key in ("top1", "loss", "tempered"))
    return top, NONE, loss, tempered


def _row(name: str, data: Line) -> tuple[str, ...]:
    won, lost = data["flips"]
    return (
        name.replace("/", " "),
        percent(data["kept"]),
        percent(data["kept_factorable"]),
        percent(data["macs"]),
        _changed(data["top1"]),
        f"{won}, {lost}",
        _changed(data["loss"]),
        _changed(data["tempered"]),
        with_interval(data["latency"], 2) if data["latency"] else NONE,
        f"{data['seconds']:.0f}",
    )


def _changed(values: Sequence[Any]) -> str:
    """Return the candidate's value and by how much it differs from the original's."""
    _, after, change = values
    return f"{number(after, DIGITS)} ({with_interval(change, DIGITS)})"
