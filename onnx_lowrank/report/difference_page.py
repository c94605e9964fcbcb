"""What the terminal shows after `diff`: the weights that two plans treat differently, and how else they differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from rich.console import RenderableType
from rich.markup import escape
from rich.text import Text

from onnx_lowrank.report import numbers
from onnx_lowrank.report.labels import NARROW, shortened
from onnx_lowrank.report.layout import titled
from onnx_lowrank.results.saved_plan import SavedChoice, SavedPlan
from onnx_lowrank.types import DENSE, OWN

ABOUT_ALL = {"choices", "tool"}
"""What is not told as a difference of the plans as a whole."""


def render_difference(first: SavedPlan, second: SavedPlan, *, width: int = NARROW) -> Iterator[RenderableType]:
    """Yield a table of the weights that differ, and a line for everything else that does."""
    ours, theirs = ({choice.weight: choice for choice in plan.choices} for plan in (first, second))
    every = list(dict.fromkeys([*ours, *theirs]))
    changed = [weight for weight in every if _told(ours.get(weight)) != _told(theirs.get(weight))]
    names = shortened(changed, {}, _room(width))
    if changed:
        table = titled("Weights", "weight", "shape", "first", "second")
        for weight in changed:
            one = ours.get(weight) or theirs[weight]
            forms = (_told(ours.get(weight)), _told(theirs.get(weight)))
            table.add_row(escape(names[weight]), numbers.shape(one.shape), *forms)
        yield table
    for field in fields(SavedPlan):
        before, after = (getattr(plan, field.name) for plan in (first, second))
        if before != after and field.name not in ABOUT_ALL:
            yield Text(f"· {field.name}: {_short(before)} and {_short(after)}")
    differ = f"{numbers.counted(len(changed), 'weight')} {'differs' if len(changed) == 1 else 'differ'}"
    yield Text(f"{differ}, {len(every) - len(changed)} alike")


def _room(width: int) -> int:
    """Return the columns of a weight's name."""
    return max(width - 50, 24)


def _told(choice: SavedChoice | None) -> str:
    """Return what becomes of a weight: 'svd 64 int8', 'as it is'."""
    if choice is None:
        return "as it is"
    ranks, storage = "×".join(map(str, choice.ranks)), "" if choice.storage == OWN else choice.storage
    scheme = "" if choice.scheme == DENSE else choice.scheme
    return " ".join(part for part in (scheme, ranks, storage) if part)


def _short(value: object) -> str:
    text = str(value)
    return text[:12] + "…" if len(text) > 40 else text
