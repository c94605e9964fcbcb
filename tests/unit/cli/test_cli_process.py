"""What the command line does to its process, the library does not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from onnx_lowrank.demo import MODEL

WATCHED = """
import ctypes, os, sys
import onnxruntime
calls = []
onnxruntime.set_default_logger_severity = lambda level: calls.append("severity")
real = ctypes.CDLL
class Library(real):
    def __getattr__(self, name):
        if name == "mallopt":
            return lambda *given: calls.append("mallopt")
        return real.__getattr__(self, name)
ctypes.CDLL = Library
dup2 = os.dup2
os.dup2 = lambda *given: (calls.append("dup2"), dup2(*given))[1]
import onnx_graphsurgeon
severity = onnx_graphsurgeon.logger.G_LOGGER.severity
"""
LIBRARY = """
import onnx_lowrank as lr
from onnx_lowrank.demo import MODEL, demo_samples
sets = demo_samples()
data = lr.DataSources(data=sets["calibration"], validation=sets["validation"])
lr.optimize(MODEL, data, lr.Lossless(keep=0.5), lr.Options(sensitivity="weights"))
"""
COMMAND = """
import tempfile
from onnx_lowrank.cli import main
with tempfile.TemporaryDirectory() as folder:
    main(["demo", "--files", folder, "--quiet"], standalone_mode=False)
from onnx_lowrank.plan.quiet_solver import silent
with silent():
    pass
"""
TOLD = """
assert onnx_graphsurgeon.logger.G_LOGGER.severity == severity
print(*sorted(set(calls)))
"""


@pytest.mark.parametrize(("script", "calls"), [(LIBRARY, ""), (COMMAND, "dup2 mallopt severity")])
@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_the_process_is_touched_by_the_command_line_alone(script: str, calls: str):
    command = [sys.executable, "-W", "ignore", "-c", WATCHED + script + TOLD]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == calls


@pytest.mark.parametrize(("encoding", "size"), [("ascii", "320x1152"), ("cp1252", "320×1152"), ("utf-8", "320×1152")])
def test_an_output_that_has_few_letters_gets_plain_ones(encoding: str, size: str) -> None:
    words = [sys.executable, "-m", "onnx_lowrank", "inspect", str(MODEL)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "80"}
    done = subprocess.run(words, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    assert size in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "?" not in text
