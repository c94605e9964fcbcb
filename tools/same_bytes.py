"""Hold two checkouts against each other: are the files that they save the same, byte for byte, and which is faster?

    python tools/same_bytes.py BEFORE AFTER --zoo zoo --models demo,crepe --repeats 3

Every run is a process of its own, with this interpreter, one thread, and the checkout as its folder; the two take
turns, so what slows the machine down slows both. Exit code 1 where a file differs. The demo comes with the package;
other models are folders of the zoo (models/README.md).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

ANY_DROP = ("--algorithm", "lossless", "--keep", "0.7", "--max-drop", "0.9")
"""A file is wanted, whatever it loses: what is compared are bytes."""
SETTINGS = {
    "joint": ("--max-drop", "0.2"),
    "inputs": ("--sensitivity", "inputs", *ANY_DROP),
    "weights": ("--sensitivity", "weights", *ANY_DROP),
    "quantize": ("--sensitivity", "inputs", "--then", "quantize", *ANY_DROP),
}
SIDES = ("before", "after")


@dataclass
class Runs:
    """What the runs of one checkout gave: digests of the saved file (or the last line said), and seconds."""

    digests: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def run(checkout: Path, model: Path, data: Path, setting: str, out: Path) -> tuple[str, float]:
    command = [sys.executable, "-m", "onnx_lowrank", "optimize", str(model), "--data", str(data), "-o", str(out)]
    command += ["--force", "--threads", "1", "--quiet", *SETTINGS[setting]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    out.unlink(missing_ok=True)
    start = time.perf_counter()
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if out.is_file():
        return hashlib.sha256(out.read_bytes()).hexdigest(), seconds
    return f"exit {done.returncode}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}", seconds


def paths_of(name: str, zoo: Path, folder: Path, checkout: Path) -> tuple[Path, Path]:
    """Return a model and its calibration samples; those of the demo are written to `folder`."""
    if name != "demo":
        packed = zoo / name / "calibration.npz"
        return zoo / name / "model.onnx", packed if packed.is_file() else zoo / name / "calibration"
    command = [sys.executable, "-m", "onnx_lowrank", "demo", "--files", str(folder), "--force"]
    subprocess.run(command, cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, check=True)
    return folder / "demo.onnx", folder / "calibration.npz"


def compared(checkouts: dict[str, Path], model: Path, data: Path, setting: str, repeats: int, out: Path) -> bool:
    """Run both in turns and print a line; return whether all files are the same."""
    runs = {side: Runs() for side in SIDES}
    for number in range(repeats):
        for side in SIDES if number % 2 == 0 else reversed(SIDES):
            digest, seconds = run(checkouts[side], model, data, setting, out)
            runs[side].digests.append(digest)
            runs[side].seconds.append(seconds)
    ratios = [after / before for before, after in zip(runs["before"].seconds, runs["after"].seconds, strict=True)]
    digests = {*runs["before"].digests, *runs["after"].digests}
    same = len(digests) == 1
    times = " → ".join(f"{median(runs[side].seconds):.1f} s" for side in SIDES)
    print(
        f"{model.parent.name:<12}{setting:<10}{'same' if same else 'DIFFER':<8}{times:<20}"
        f"× {median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]  {', '.join(d[:12] for d in sorted(digests))}",
        flush=True,
    )
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--zoo", type=Path, default=Path("zoo"))
    parser.add_argument("--models", default="demo", help="of the zoo, and demo; with commas")
    parser.add_argument("--settings", default=",".join(SETTINGS), help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    checkouts = {"before": given.before.resolve(), "after": given.after.resolve()}
    same = True
    with tempfile.TemporaryDirectory() as folder:
        for name in given.models.split(","):
            model, data = paths_of(name, given.zoo.resolve(), Path(folder) / "demo", checkouts["before"])
            for setting in given.settings.split(","):
                out = Path(folder) / "out.onnx"
                same &= compared(checkouts, model, data, setting, given.repeats, out)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
