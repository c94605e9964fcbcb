"""Run the README's session for real, in an empty directory, and put its real output into the README."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- session: begin -->", "<!-- session: end -->"
SESSION = (
    "onnx-lowrank demo --files demo",
    "onnx-lowrank optimize demo/demo.onnx --data demo/calibration.npz \\\n"
    "      --validation demo/validation.npz --test demo/test.npz",
)


def run(folder: Path) -> str:
    """Return the session as a terminal of 80 columns shows it."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "80"}
    lines = []
    for command in SESSION:
        done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode or done.stderr:
            raise SystemExit(f"{command!r} ended with {done.returncode}: {done.stderr}")
        lines += [f"$ {command}", *(line.rstrip() for line in done.stdout.splitlines()), ""]
    return "\n".join(lines).rstrip()


def main() -> None:
    """Rewrite the block between the markers."""
    with tempfile.TemporaryDirectory() as folder:
        session = run(Path(folder))
    text = README.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    README.write_text(f"{head}{BEGIN}\n```console\n{session}\n```\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
