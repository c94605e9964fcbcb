"""Write the README's table of results between its markers, from raw lines alone: `python tools/readme_results.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "tools"):
    sys.path.insert(0, str(folder))

from benchmarks.bits import best, rows_by_model  # noqa: E402
from benchmarks.made import DROPS  # noqa: E402

README = ROOT / "README.md"
LINES = "tools/results/2026-11-30/bits.jsonl"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
HEADS = ("model", "int8", "best peer", "ours, .005", "ours, .01", "fastest peer", "ours")
ABOUT = """Bytes and time as shares of the original's, of files that are *certified*, all
by the same test on the same validation samples. int8 and the best peer (int8
and int4 of onnxruntime, NNCF) may lose {drop:g}; ours, with ranks and number
formats chosen together, at two drops. Time is of one sample on one thread at a
drop of {drop:g}. A dash: none is certified, or it was not measured.
[All rows]({page}).
"""


def table() -> str:
    """Return what stands between the markers."""
    lines = [json.loads(line) for line in (ROOT / LINES).read_text(encoding="utf-8").splitlines()]
    strict, mild = min(DROPS), max(DROPS)
    rows = []
    for model, there in rows_by_model(lines).items():
        at = {drop: best(model, there, drop) for drop in DROPS}
        rows.append((model, *at[mild][2:4], at[strict][4], at[mild][4], *at[mild][7:9]))
    about = ABOUT.format(drop=mild, page=LINES.replace(".jsonl", ".md"))
    rule = ("---", *["---:"] * (len(HEADS) - 1))
    text = "\n".join(f"| {' | '.join(row)} |" for row in (HEADS, rule, *rows))
    return f"{about}\n{text}"


def put(readme: str) -> str:
    """Return the README with the table as the lines have it."""
    head, rest = readme.split(BEGIN)
    return f"{head}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(put(README.read_text(encoding="utf-8")), encoding="utf-8")
