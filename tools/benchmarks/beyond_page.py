"""The page of part "beyond": gains on test labels by network and rival, what was found, and how often it was false."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lines import Line, Setting, cells_of
from benchmarks.plots import panels
from benchmarks.wording import table

SIZES = (0.3, 0.1)
"""Shares of the factorable parameters that are kept at most: −70 and −90 %."""
CELL, RIVAL, FALSE = "search", "rivals", "draws"
COLUMNS = {
    "ours": "ours", "truncation": "truncation", "truncation 0.3": "−70 %", "truncation 0.1": "−90 %",
    "last layer": "last layer", "svd": "SVD", "whitened": "whitened SVD", "pruned": "pruned", "early": "early stop",
    "decay": "decay",
}  # fmt: skip
"""What is shown of each, and its heading; the table of sizes has the rest."""
BY_SIZE = {
    f"{name} {size:g}": f"{heading} −{100 - 100 * size:.0f} %"
    for name, heading in (("svd", "SVD"), ("whitened", "whitened SVD"), ("pruned", "pruned"))
    for size in SIZES
}

FOUND = ("network", "plan", "kept", "claim", "on test labels")
MARKS = {"ours": ("o-", "ours"), "whitened": ("s--", "whitened SVD"), "svd": ("^:", "SVD")}
BETTER = "#d9f0d9"
LEAST = 6.0
"""Points below the original at which a panel ends."""


def body(lines: Sequence[Line], setting: Setting) -> list[str]:
    cells = {
        name: {**each[CELL], **each.get(RIVAL, {})} for name, each in cells_of(lines, "beyond").items() if CELL in each
    }
    groups: dict[tuple[str, str], list[Line]] = {}
    for name, data in sorted(cells.items()):
        kind, what = kind_of(name)
        groups.setdefault((kind, what), []).append(data)
    text = [
        "Top-1 on test labels, in points above the original: mean over seeds [the lowest and the highest of their 95 %"
        " intervals, exact, paired]. *Ours*: what the mode saves by itself, 0 where nothing; *truncation*: the same"
        " without fitting the last layer to labels, not claimed, and at most 30 and 10 % of the factorable parameters;"
        " *last layer*: that alone, of the whole network.",
        "",
        "![Accuracy against size](beyond.svg)",
        "",
        "Test accuracy against size, of the surest plan of at most that size by the samples that choose, with no"
        " fitted last layer: mean over seeds and the hull of their 95 % intervals. In the green region it is better"
        " than the original.",
        "",
    ]
    for kind in sorted({kind for kind, _ in groups}):
        text += [f"## {kind}", ""]
        for columns in (COLUMNS, BY_SIZE):
            rows = [_row(what, seeds, columns) for (each, what), seeds in groups.items() if each == kind]
            text += table(("learned", "seeds", "original", *columns.values()), rows)
        text += [f"{kind.capitalize()}: what was found.", "", *table(FOUND, list(_found(kind, cells)))]
    return [*text, *_claims({n: each[FALSE] for n, each in cells_of(lines, "beyond").items() if FALSE in each})]


def kind_of(name: str) -> tuple[str, str]:
    """Return a network's kind and what it learned."""
    kind, _, rest = name.partition("-")
    return (kind, rest.partition("-")[0]) if rest else ("networks of the zoo, as they are", name)


def _claims(draws: dict[str, Line]) -> list[str]:
    """Return the table of how often "better" is claimed over draws of the validation samples, and how often falsely."""
    if not draws:
        return []
    rows = [
        (name, f"{d['draws']} of {d['size']:,}", f"{d['pool']:,}", str(d["better"]), str(d["false"]),
         f"{100 * d['chosen']:+.2f}".replace("-", "−") if "chosen" in d else "–")
        for name, d in sorted(draws.items())
    ]  # fmt: skip
    heads = (
        "network",
        "draws",
        "of so many labels",
        "better claimed",
        "falsely",
        "true gain of what is chosen, points",
    )
    return ["## How often *better* is false", "", *table(heads, rows)]


def _row(what: str, seeds: Sequence[Line], keys: Iterable[str]) -> tuple[str, ...]:
    originals = np.mean([data["original"] for data in seeds])
    return (what, str(len(seeds)), f"{originals:.4f}", *(_points([data.get(key) for data in seeds]) for key in keys))


def _points(made: Sequence[Line | None]) -> str:
    known = [(0.0, 0.0, 0.0) if "top1" not in data else data["top1"][2] for data in made if data is not None]
    if not known:
        return "–"
    middle, low, high = np.mean([k[0] for k in known]), min(k[1] for k in known), max(k[2] for k in known)
    return f"{100 * middle:+.1f} [{100 * low:.1f}, {100 * high:.1f}]".replace("-", "−")


def _found(kind: str, cells: dict[str, Line]) -> Iterator[tuple[str, ...]]:
    for name, data in sorted(cells.items()):
        ours = data["ours"]
        if kind_of(name)[0] != kind:
            continue
        if not ours["changed"]:
            yield name, "–", "–", ours["reason"][:60], "–"
            continue
        bound = ours["bound"]
        claim = f"better by at least {-bound:.4f}" if bound < 0 else f"worse by at most {bound:.4f}"
        yield name, ours["plan"], f"{100 * ours['kept']:.0f} %", claim, _points([ours])


def draw(lines: Sequence[Line], path: Path) -> bool:
    """Draw accuracy against size, a panel for every kind of network and what it learned."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for name, cells in sorted(cells_of(lines, "beyond").items()):
        if CELL in cells and "curve" in cells[CELL]:
            groups.setdefault(kind_of(name), []).append(cells[CELL])
    return panels(path, [partial(_panel, kind, what, seeds) for (kind, what), seeds in groups.items()], 2.2, legend=4)


def _panel(kind: str, what: str, seeds: Sequence[Line], axes: Any) -> None:
    lowest, highest = 0.0, 0.5
    for name, (style, label) in MARKS.items():
        by_size: dict[float, list[Line]] = {}
        for data in seeds:
            for point in data["curve"]:
                if point["name"] == name:
                    by_size.setdefault(point["size"], []).append(point)
        sizes = sorted(size for size, points in by_size.items() if len(points) == len(seeds))
        if not sizes:
            continue
        kept = [100 * np.mean([point["kept"] for point in by_size[size]]) for size in sizes]
        gains = [100 * np.array([point["gain"] for point in by_size[size]]) for size in sizes]
        middle, low, high = zip(*((g[:, 0].mean(), g[:, 1].min(), g[:, 2].max()) for g in gains), strict=True)
        (line,) = axes.plot(kept, middle, style, label=label, markersize=3, linewidth=1)
        axes.fill_between(kept, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        lowest, highest = min(lowest, *middle), max(highest, *high)
    axes.axhline(0, color="black", linewidth=0.8, label="the original")
    bottom, top = max(lowest, -LEAST) - 0.5, highest + 0.5
    axes.axhspan(0, top, color=BETTER, zorder=0)
    axes.set(
        ylim=(bottom, top),
        xscale="log",
        xlabel="factorable parameters kept, %",
        ylabel="top-1, points",
        title=f"{what}, {len(seeds)} seed{'s' * (len(seeds) > 1)}"
        if kind.startswith("networks")
        else f"{kind}, {what}",
    )
    axes.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    axes.minorticks_off()
