"""Run the sessions of the README and the manual for real, in an empty directory, and put their output there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"session": ROOT / "README.md", "report": ROOT / "docs" / "report.md", "int8": ROOT / "docs" / "bits.md"}
DEMO = "--data demo/calibration.npz \\\n      --validation demo/validation.npz --test demo/test.npz"
SESSION = ("onnx-lowrank demo --files demo", f"onnx-lowrank optimize demo/demo.onnx {DEMO}")
INT8 = f"onnx-lowrank optimize demo/demo.onnx {DEMO} \\\n      --then quantize -o demo/int8.onnx"
FROM, UNTIL = "Each step, on validation", "Changed weights"
"""What is shown of the int8 session: what is claimed, these tables, and the last line."""


def run(command: str, folder: Path) -> list[str]:
    """Return what a command prints on a terminal of 80 columns."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "80"}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command!r} ended with {done.returncode}: {done.stderr}")
    return [line.rstrip() for line in done.stdout.splitlines()]


def session(folder: Path) -> str:
    """Return the first session, whole, as the manual has it."""
    lines = [line for command in SESSION for line in (f"$ {command}", *run(command, folder), "")]
    return "\n".join(lines).rstrip()


def cut(whole: str) -> str:
    """Return what the README has of it: the commands, what is claimed, the first table and the last line."""
    lines = whole.splitlines()
    return "\n".join([*"\n".join(lines[: lines.index(UNTIL)]).rstrip().splitlines(), "…", lines[-1]])


def int8(folder: Path) -> str:
    """Return what matters of the second."""
    lines = run(INT8, folder)
    shown = "\n".join(lines[lines.index(FROM) : lines.index(UNTIL)]).rstrip()
    return "\n".join([f"$ {INT8}", *lines[: lines.index("")], "…", shown, "…", lines[-1]])


def put(text: str, name: str, block: str) -> str:
    """Return a page with the block between the markers of this name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, rest = text.split(begin)
    return f"{head}{begin}\n```console\n{block}\n```\n{end}{rest.split(end)[1]}"


def shown(name: str) -> str:
    """Return a session as its page has it."""
    block = PAGES[name].read_text(encoding="utf-8").split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")
    return block[0].strip().removeprefix("```console\n").removesuffix("\n```")


def main(names: Sequence[str] = ("session", "int8")) -> None:
    """Rewrite the blocks, or only those that are named; `session` also writes the whole one of the manual.

    `cut` takes the README's from the manual's, and runs nothing.
    """
    blocks: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        if "cut" not in names and "session" not in names:
            run(SESSION[0], Path(folder))
        if "session" in names:
            blocks["report"] = session(Path(folder))
        if "session" in names or "cut" in names:
            blocks["session"] = cut(blocks.get("report", shown("report")))
        if "int8" in names:
            blocks["int8"] = int8(Path(folder))
    for name, block in blocks.items():
        PAGES[name].write_text(put(PAGES[name].read_text(encoding="utf-8"), name, block), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:] or ("session", "int8"))
