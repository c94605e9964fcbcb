"""How results show themselves where nobody formats them: one line in a shell, a small table in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from onnx_lowrank.results.parts import Size


def megabytes(value: float) -> str:
    """Return bytes as '2.61 MB'."""
    return f"{value / 1e6:.3g} MB"


def line(kind: str, *parts: str) -> str:
    """Return '<Result: …; …>', without what is empty."""
    return f"<{kind}: {'; '.join(' '.join(part.split()) for part in parts if part)}>"


def sizes(before: Size, after: Size) -> str:
    """Return '2.61 MB → 0.296 MB'."""
    return f"{megabytes(before.bytes)} → {megabytes(after.bytes)}"


def html(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with a title."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<p><b>{escape(title)}</b></p><table><tr>{head}</tr>{body}</table>"


def size_rows(before: Size, after: Size) -> list[tuple[str, str, str, str]]:
    """Return the rows that two models' sizes have: what, before, after, and the share that is left."""

    def row(what: str, old: float, new: float, text: str = ",.0f") -> tuple[str, str, str, str]:
        return what, format(old, text), format(new, text), f"{new / old:.1%}" if old else ""

    return [
        ("file", megabytes(before.bytes), megabytes(after.bytes), f"{after.bytes / max(before.bytes, 1):.1%}"),
        row("parameters", before.parameters, after.parameters),
        row("MACs a sample", before.macs, after.macs),
    ]
