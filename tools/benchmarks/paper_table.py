"""The paper's table: what is left of a classifier at 50 to 90 % off, and what a gain is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.lines import Line
from benchmarks.paper import CELLS, LEAKY, PART
from benchmarks.target import Inventory, Target
from benchmarks.wording import NONE, number, percent, table, with_interval

ABOUT = (
    "Whole-file parameters; *lossless* is the most accurate model found of that size, *compact* the smallest whose"
    " validation top-1 falls by no more than the number behind it. {n} test samples, paired 95 % intervals of the"
    " change: of top-1 exact (with how many samples were won and lost), of the loss in nats. *Tempered*: both models"
    " with a temperature of their own, fitted on validation: a loss that falls only where it is not tempered is one of"
    " confidence. Latency: one sample a call, in turns with the original. *s*: of the whole run; collection, which the"
    " rows share, counts in each."
)
ABOUT_LEAKY = (
    "*Leaky*: calibrated, chosen and reported on the same {leaky:,} test samples, as one must not. The honest"
    " rows are those from above, told on these samples; by how much the leaky change is above theirs is leakage. (Also"
    " different: leaky plans were validated on {leaky:,} samples alone.)"
)
NOT_TOLD = "a file given with `--model`, which does not say how it was trained"
DIGITS = 4
CLASSIFIERS = ("resnext50", "vgg", "vit", "text")
BYTES_PER_ACTIVATION = {"resnext50": {0.3: 0.0, 0.2: 0.0, 0.1: 0.01}}
"""Share of the parameters kept -> by how much the top-1 on test labels may fall."""
AIMED = {"resnext50": 0.92}
"""The top-1 that training aims at."""
LARGEST = "compact/0"
NEAR = 1e-9
"""What counts as equal."""


def paper_targets(inventory: Inventory) -> Iterator[Target]:
    """Yield what is asked of the paper's own example."""
    for model, held in BYTES_PER_ACTIVATION.items():
        for keep, drop in held.items():
            least = f"within {number(drop, 2)} of the original's" if drop else "at least the original's"
            asked = f"{model}: at −{percent(1 - keep, 0)} of the file's parameters top-1 {least}"
            data = inventory.get((PART, model, f"lossless/{keep:g}"))
            if data is None or data["outcome"] != "made":
                yield Target(asked, data["reason"] if data else "", False if data else None)
                continue
            before, after, _ = data["top1"]
            yield Target(asked, _measured(data), after >= before - drop - NEAR)
    for model in CLASSIFIERS:
        yield _largest(inventory, model)
    for model, least in AIMED.items():
        yield _aimed(inventory, model, least)


def _measured(data: Line) -> str:
    before, after, change = data["top1"]
    text = f"{number(before, DIGITS)} → {number(after, DIGITS)} ({with_interval(change, DIGITS)}"
    chance = ", within chance" if change[1] <= 0 <= change[2] else ""
    losses = ", ".join(
        f"{key} {number(data[key][0], DIGITS)} → {number(data[key][1], DIGITS)} ({with_interval(data[key][2], DIGITS)})"
        for key in ("loss", "tempered")
    )
    return f"{text}{chance}), {losses}; {percent(data['kept'])} kept"


def _largest(inventory: Inventory, model: str) -> Target:
    """Return the largest reduction that holds: the product's own answer, and whether the test labels refute it."""
    asked = (
        f"{model}: the largest reduction that holds (compact, drop 0 on validation), not refuted by the test interval"
    )
    data = inventory.get((PART, model, LARGEST))
    if data is None or data["outcome"] != "made":
        return Target(asked, data["reason"] if data else "", None if data is None else False)
    made = [inventory.get((PART, model, cell.name)) for cell in CELLS if not cell.leaky]
    kept = [each["kept"] for each in made if each and each["outcome"] == "made" and _matched(each)]
    text = f"−{percent(1 - data['kept'])}: {_measured(data)}"
    least = f"−{percent(1 - min(kept))}" if kept else "none"
    text += f". Largest measured whose test top-1 is the original's or above: {least}"
    return Target(asked, text, data["top1"][2][2] >= -NEAR)


def _matched(data: Line) -> bool:
    before, after, _ = data["top1"]
    return bool(after >= before - NEAR)


def _aimed(inventory: Inventory, model: str, least: float) -> Target:
    asked = f"{model}: training aims at a top-1 of {number(least, 2)}"
    data = next((inventory[PART, model, cell.name] for cell in CELLS if (PART, model, cell.name) in inventory), None)
    if data is None or "top1" not in data:
        return Target(asked, "", None)
    before = data["top1"][0]
    return Target(asked, f"{number(before, DIGITS)}; {_weights(data['weights'])}", before >= least)


def paper(inventory: Inventory, model: str) -> list[str]:
    """Return the section of one model."""
    there = [(cell, inventory[PART, model, cell.name]) for cell in CELLS if (PART, model, cell.name) in inventory]
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
        text += [ABOUT_LEAKY.format(leaky=LEAKY), "", *_beside(dict(honest), leaky)]
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


def _beside(honest: Mapping[str, Line], leaky: Sequence[tuple[str, Line]]) -> list[str]:
    """Return the leaky rows, each after the honest one of its size on the same samples."""
    first = leaky[0][1]
    tops, losses = (number(first[key][0], DIGITS) for key in ("top1", "loss"))
    rows: list[tuple[str, ...]] = [("original", "100 %", tops, NONE, losses)]
    for name, data in leaky:
        fair = honest.get(name.replace("leaky", "lossless"))
        if fair is not None:
            rows.append(_told(name.replace("leaky", "lossless"), {**fair, **fair["leaky_samples"]}))
        rows.append(_told(name, data))
    return table(("", "kept", "top-1", "won, lost", "loss"), rows)


def _told(name: str, data: Line) -> tuple[str, ...]:
    won, lost = data["flips"]
    kept, top, loss = percent(data["kept"]), _changed(data["top1"]), _changed(data["loss"])
    return name.replace("/", " "), kept, top, f"{won}, {lost}", loss


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
