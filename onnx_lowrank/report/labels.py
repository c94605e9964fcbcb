"""What weights are called for people: by their own names, or their nodes' where an exporter made the names up."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from onnx_lowrank.report.numbers import shorten
from onnx_lowrank.types import Site

MADE_UP = re.compile(r"onnx::\w+|_*(val|v|t|tensor|const|constant|initializer)?_*\d+|p2o\.\S*|\d+\W*", re.IGNORECASE)
"""Names that exporters of torch, TensorFlow and Paddle give to what had none, or had one that they lost."""
NARROW, NAME = 80, 24
"""The columns that pages are made for, and of those a name's."""


def full_name(weight: str, node: str) -> str:
    """Return the name that a person may know: the weight's, or its node's."""
    return node if MADE_UP.fullmatch(weight) and node else weight


def room(width: int) -> int:
    """Return the letters that a name may have in a terminal of so many columns."""
    return NAME + max(width - NARROW, 0)


def labels(sites: Sequence[Site], width: int = NARROW) -> Mapping[str, str]:
    """Return site id -> the name to show in a terminal of so many columns, all different.

    Where names are too long, what they begin with alike goes first, and an operator's name at the end.
    """
    names = {site.id: full_name(site.weight, site.node) for site in sites}
    short = shortened(names.values(), {names[site.id]: site.op for site in sites}, room(width))
    return {site: short[name] for site, name in names.items()}


def shortened(names: Iterable[str], operators: Mapping[str, str], room: int) -> dict[str, str]:
    """Return name -> a name that fits, no two of them alike unless they were; whole where that is not possible."""
    every = list(dict.fromkeys(names))
    long = [name for name in every if len(name) > room]
    start = _common_parts(long)
    made = {}
    for name in every:
        end = f"/{operators.get(name, '')}"
        body = name.removesuffix(end) if len(name) > room else name
        body = "…" + body[len(start) :] if start and body.startswith(start) and len(body) > room else body
        made[name] = body
    for way in (shorten, _initials):
        labelled = {name: way(body, room) for name, body in made.items()}
        if len(set(labelled.values())) == len(labelled):
            return labelled
    counts = Counter(labelled.values())
    return {name: label if counts[label] == 1 else name for name, label in labelled.items()}


def _initials(text: str, width: int) -> str:
    """Return text with its parts as initials, from the first on, until it fits: '/b/e/l.0/a/self/query'."""
    parts = re.split(r"([/.])", text)
    for place in range(0, len(parts) - 1, 2):
        if sum(map(len, parts)) <= width:
            break
        parts[place] = parts[place] if parts[place].isdecimal() else parts[place][:1]
    return shorten("".join(parts), width)


def _common_parts(names: Sequence[str]) -> str:
    """Return the parts, up to a slash or a dot, that all names begin with; none of a single name."""
    if len(names) < 2:
        return ""
    least, most = min(names), max(names)  # what these two begin with, all between do
    size = next((place for place, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))
    common = least[:size]
    return common[: max(common.rfind("/"), common.rfind(".")) + 1]
