"""Other people's tools, each in a virtual environment of its own, run as a process; only the file they write is read.

A tool that cannot be installed, fails, takes too long or writes nothing is a PeerError with one line: a row, no crash.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RUNTIME = ("onnx==1.23.2", "onnxruntime==1.32.0")
REQUIREMENTS: Mapping[str, tuple[str, ...]] = {
    "nncf": ("nncf==3.4.0", *RUNTIME),
    "onnx-shrink-ray": ("onnx-shrink-ray==0.0.11", *RUNTIME),
    "onnxslim": ("onnxslim==0.1.98", RUNTIME[0]),
    "onnxsim": ("onnxsim==0.8.1", RUNTIME[0]),
    **dict.fromkeys(("onnxruntime-static", "onnxruntime-dynamic", "onnxruntime-int4"), (*RUNTIME[::-1], "onnx-ir")),
}
TOLD = ("onnx", "onnxruntime", "numpy")
"""Packages whose versions are told beside a tool's own."""
INSTALL_SECONDS, RUN_SECONDS = 1200.0, 1800.0


class PeerError(Exception):
    """A tool that made no file, in one line."""


class NotInstalledError(PeerError):
    """A tool that could not be had here: tried again next time."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An installed tool: what to run before `SOURCE TARGET SAMPLES`, and the versions that this runs."""

    command: tuple[str, ...]
    versions: Mapping[str, str]


def ready(tool: str, venvs: Path) -> Ready:
    """Return the tool, installed under `venvs` where it is not there yet. Raises NotInstalledError."""
    wanted = REQUIREMENTS[tool]
    folder = venvs / wanted[0].replace("==", "-")
    python = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    frozen = folder / "frozen.txt"  # written when all is installed: without it the environment is made again
    if not frozen.is_file():
        try:
            _called([sys.executable, "-m", "venv", "--clear", str(folder)], INSTALL_SECONDS)
            _called([python, "-m", "pip", "install", "--quiet", *wanted], INSTALL_SECONDS)
            frozen.write_text(_called([python, "-m", "pip", "freeze"], INSTALL_SECONDS), encoding="utf-8")
        except PeerError as error:
            raise NotInstalledError(f"not installed: {error}") from error
    pairs = (line.partition("==") for line in frozen.read_text(encoding="utf-8").splitlines())
    installed = {name.replace("_", "-").lower(): version for name, _, version in pairs}
    versions = {name: installed[name] for name in (tool, *TOLD) if name in installed}
    return Ready((python, str(Path(__file__).resolve().parent / "peer_run.py"), tool), versions)


def run_peer(command: Sequence[str], source: Path, target: Path, samples: Path, seconds: float = RUN_SECONDS) -> float:
    """Have `target` made of `source` and return the seconds it took, the interpreter's start included.

    Raises PeerError with the first line of what the tool says, after `seconds`, or where no file is there in the end.
    """
    target.unlink(missing_ok=True)
    start = time.perf_counter()
    _called([*command, str(source), str(target), str(samples)], seconds)
    if not target.is_file():
        raise PeerError("it ended well but wrote no file")
    return time.perf_counter() - start


def _called(command: Sequence[str], seconds: float) -> str:
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # an environment sees its own packages alone
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"CI": "true"}  # by which NNCF's telemetry knows that nobody agreed to it
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise PeerError(f"no answer within {seconds:g} s") from error
        except OSError as error:
            raise PeerError(f"{command[0]} cannot be run: {error.strerror}") from error
        out.seek(0)
        err.seek(0)
        if done.returncode:
            raise PeerError(last_error(err.read()) or f"exit code {done.returncode} without a word")
        return out.read()


def last_error(errors: str) -> str:
    """Return the first line of the last exception in a program's error output, or its last line."""
    lines = [line.rstrip() for line in errors.splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback ")]
    behind = lines[starts[-1] + 1 :] if starts else []
    line = next((line for line in behind if not line.startswith(" ")), lines[-1] if lines else "")
    return line if len(line) <= 300 else line[:297] + "..."
