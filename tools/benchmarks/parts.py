"""A part: cells that are measured once, and the page that is made of their lines."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.lines import Cells, Line, Setting, cells_of
from benchmarks.wording import table
from benchmarks.workbench import Workbench, WorkbenchError
from benchmarks.zoo import MODELS, Entry
from models.fetch import RecipeError
from onnx_lowrank import LowRankError

Body = Callable[[Sequence[Line], Setting], list[str]]
"""(all lines, setting) -> what the page says, nothing where nothing was measured."""
Draw = Callable[[Sequence[Line], Path], bool]
"""Draw a figure of the lines to a path; False where there is nothing to draw."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one line holds: `measure` returns its data, which JSON knows. again: a cell whose data says so is rerun."""

    name: str
    measure: Callable[[Workbench], Line]
    again: Callable[[Line], bool] = lambda data: False


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the benchmark: measurements of some models, kept in OUT/<name>.jsonl, and a page, OUT/<name>.md.

    cells: (model, quick) -> its cells; a later one may rest on an earlier one's line. models: of the zoo. own: models
    that it brings itself, measured whatever the zoo holds. found: those that it finds in the zoo's folder. figures:
    file name -> what draws it. costly: run only where it is asked for. before: commands that come before the
    benchmark's own. whole: the body is the whole page.
    """

    name: str
    title: str
    cells: Callable[[str, bool], Sequence[Cell]]
    body: Body
    models: tuple[str, ...] = ()
    own: Mapping[str, Callable[[], Entry]] = field(default_factory=dict)
    found: Callable[[Path], Iterable[Entry]] | None = None
    figures: Mapping[str, Draw] = field(default_factory=dict)
    costly: bool = False
    before: tuple[str, ...] = ()
    whole: bool = False


def run(part: Part, bench: Workbench, wanted: str = "*") -> list[str]:
    """Measure what is missing of a part on one model; return what failed, as one line.

    wanted: a pattern of the names of cells, as of files.
    """
    entry, lines = bench.entry, bench.lines
    start, failures = time.perf_counter(), []
    try:
        for cell in (each for each in part.cells(entry.name, lines.setting.quick) if fnmatch(each.name, wanted)):
            known = lines.get(part.name, entry.name, cell.name, entry.sha256)
            if known is not None and not cell.again(known):
                continue
            data = cell.measure(bench)
            lines.add(part.name, entry.name, cell.name, entry.sha256, data)
            print(f"{entry.name}: {part.name}: {cell.name}: {str(data)[:160]}", flush=True)
    except (LowRankError, RecipeError, WorkbenchError) as error:
        failures = [f"{entry.name}, {part.name}: {error}"]
        print(failures[0], file=sys.stderr, flush=True)
    bench.forget()
    print(f"{entry.name}: {part.name} took {time.perf_counter() - start:.0f} s", flush=True)
    return failures


def page(part: Part, lines: Sequence[Line], setting: Setting) -> str:
    """Return a part's page, with how its lines were measured; "" where nothing was."""
    mine = [line for line in lines if line["part"] == part.name]
    body = part.body(lines, setting) if mine else []
    if not body or part.whole:
        return "\n".join(body)
    trial = " in a quick trial: not to be quoted" if setting.quick else ""
    threads = " or ".join(sorted({str(line["threads"]) for line in mine}))
    call = f"python tools/bench.py --zoo zoo --part {part.name} --seed {setting.seed} --threads {threads}"
    places = Counter(", ".join(f"{key} {value}" for key, value in line["machine"].items()) for line in mine)
    sources = Counter((line["model"], line["source"]) for line in mine)
    states = ", ".join(f"`{source}` ({model}, {count} cells)" for (model, source), count in sources.items())
    text = [f"# {part.title}{trial}", "", f"Written by `tools/bench.py --part {part.name}`; do not edit.", "", *body]
    text += [
        "## How it was measured",
        "",
        "```sh",
        *part.before,
        call + (" --quick" if setting.quick else ""),
        "```",
        "",
    ]
    text += [f"- {place} ({count} cells)" for place, count in places.items()]
    text += [f"- state of `onnx_lowrank/` (a hash of its source): {states}"]
    return "\n".join([*text, f"- raw lines: `{part.name}.jsonl` beside this page"]) + "\n"


def sections(part: str, section: Callable[[str, Cells], list[str]], *about: str) -> Body:
    """Return a body of a section a model, in the zoo's order, behind paragraphs about all of them."""

    def body(lines: Sequence[Line], setting: Setting) -> list[str]:
        models = cells_of(lines, part)
        names = sorted(models, key=lambda name: MODELS.index(name) if name in MODELS else len(MODELS))
        made = [(name, section(name, models[name])) for name in names]
        text = [line for name, each in made if each for line in (f"## {name}", "", *each)]
        return [*(line for paragraph in about for line in (paragraph, "")), *text] if text else []

    return body


def one_table(part: str, about: str, heads: str, row: Callable[[Line], str]) -> Body:
    """Return a body of one table, a row a model's cell; heads and rows with ` | ` between their columns."""

    def body(lines: Sequence[Line], setting: Setting) -> list[str]:
        cells = ((model, data) for model, cells in cells_of(lines, part).items() for data in cells.values())
        return [
            about,
            "",
            *table(("", *heads.split(" | ")), [(model, *row(data).split(" | ")) for model, data in cells]),
        ]

    return body
