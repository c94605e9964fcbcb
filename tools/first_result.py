"""What it takes to begin: a fresh environment, the install line, the size on disk, and seconds to the first results.

Writes first.md and first.jsonl into --out. The package is installed from this tree; what it needs comes from where pip
gets it, so seconds to install hang on the network and pip's cache.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("", "[images]", "[text]", "[report]")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the page.")
def main(out: Path) -> None:
    """Measure, and write the page."""
    out.mkdir(parents=True, exist_ok=True)
    rows, load = [], f"{os.getloadavg()[0]:.1f}"
    with tempfile.TemporaryDirectory() as folder:
        for extra in EXTRAS:
            place = Path(folder) / (extra.strip("[]") or "core")
            rows.append(_installed(place, extra))
        runs = _runs(Path(folder) / "core" / "bin" / "onnx-lowrank", Path(folder))
    about = {
        "python": platform.python_version(),
        "system": platform.system(),
        "cores": str(os.cpu_count()),
        "load": load,
    }
    lines = [{"install": rows, "runs": runs, "host": about}]
    (out / "first.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    (out / "first.md").write_text(_page(rows, runs, about), "utf-8")
    click.echo(f"written: {out / 'first.md'}")


def _installed(place: Path, extra: str) -> dict[str, object]:
    """Return seconds and megabytes of an environment with the package and an extra, without pip itself."""
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    empty = _bytes(place)
    start = time.perf_counter()
    subprocess.run([place / "bin" / "pip", "install", "-q", f"{ROOT}{extra}"], check=True, capture_output=True)
    seconds = time.perf_counter() - start
    sizes = {path.name: _bytes(path) for path in next(place.glob("lib/*/site-packages")).iterdir() if path.is_dir()}
    largest = sorted(sizes.items(), key=lambda pair: -pair[1])[:3]
    return {"what": f"onnx-lowrank{extra}", "seconds": seconds, "bytes": _bytes(place) - empty, "largest": largest}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _runs(tool: Path, folder: Path) -> list[dict[str, object]]:
    """Return the seconds of the first commands of a user, each a process of its own."""
    demo = folder / "demo"
    data = ("--data", demo / "calibration.npz", "--validation", demo / "validation.npz")
    commands = {
        "--help": ("--help",),
        "demo --files": ("demo", "--files", demo),
        "inspect": ("inspect", demo / "demo.onnx"),
        "analyze, ranks alone": ("analyze", demo / "demo.onnx", *data, "--bits", 32),
        "optimize": ("optimize", demo / "demo.onnx", *data, "-o", folder / "small.onnx"),
        "optimize --minimize bytes": ("optimize", demo / "demo.onnx", *data, "--minimize", "bytes", "--dry-run"),
    }
    made = []
    for name, words in commands.items():
        start = time.perf_counter()
        done = subprocess.run([tool, *map(str, words)], capture_output=True, text=True)
        made.append({"command": name, "seconds": time.perf_counter() - start, "exit_code": done.returncode})
    return made


def _page(rows: list[dict[str, object]], runs: list[dict[str, object]], about: dict[str, str]) -> str:
    text = ["# To begin", "", "Written by `tools/first_result.py`; do not edit.", "",
            "| install | seconds | MB on disk | of them |", "| --- | ---: | ---: | --- |"]  # fmt: skip
    for row in rows:
        largest = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in row["largest"])  # type: ignore[attr-defined]
        text.append(f"| {row['what']} | {row['seconds']:.0f} | {row['bytes'] / 1e6:.0f} | {largest} |")  # type: ignore[operator]
    text += ["", "| command, on the shipped model | seconds | exit code |", "| --- | ---: | ---: |"]
    text += [f"| {run['command']} | {run['seconds']:.1f} | {run['exit_code']} |" for run in runs]
    text += ["", ", ".join(f"{key} {value}" for key, value in about.items()) + ".", ""]
    return "\n".join(text)


if __name__ == "__main__":
    main()
