"""Run the sessions of the README and the manual for real, in an empty directory, and put their output there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"session": ROOT / "README.md", "int8": ROOT / "docs" / "manual.md"}
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
    """Return the first session, whole."""
    lines = [line for command in SESSION for line in (f"$ {command}", *run(command, folder), "")]
    return "\n".join(lines).rstrip()


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


def main() -> None:
    """Rewrite the blocks, or only those named on the command line."""
    names = sys.argv[1:] or ["session", "int8"]
    with tempfile.TemporaryDirectory() as folder:
        if "session" not in names:
            run(SESSION[0], Path(folder))
        for name in names:
            page, block = PAGES[name], {"session": session, "int8": int8}[name](Path(folder))
            page.write_text(put(page.read_text(encoding="utf-8"), name, block), encoding="utf-8")


if __name__ == "__main__":
    main()
