"""What a weight is called for people: by its own name, or its node's where an exporter made the name up."""

from __future__ import annotations

import re

from onnx_lowrank.report.numbers import shorten
from onnx_lowrank.types import Site

MADE_UP = re.compile(r"onnx::\w+|_*(val|v|t|tensor|const|constant|initializer)?_*\d+|p2o\.\S*|\d+\W*", re.IGNORECASE)
"""Names that exporters of torch, TensorFlow and Paddle give to what had none, or had one that they lost."""
NARROW, NAME = 80, 24
"""The columns that pages are made for, and of those a name's."""


def label(site: Site, width: int = NARROW) -> str:
    """Return the name to show in a terminal of so many columns, its end kept: where names differ."""
    name = site.node if MADE_UP.fullmatch(site.weight) and site.node else site.weight
    return ending(name, NAME + max(width - NARROW, 0))


def ending(name: str, width: int) -> str:
    """Return a name that fits, from its middle on; whole parts of it where there are any."""
    if len(name) <= width:
        return name
    tail = name[len(name) - width + 1 :]
    cut = re.search(r"[./]", tail[: width // 3])
    return "…" + (tail[cut.end() :] if cut else tail) if len(tail) > 1 else shorten(name, width)
