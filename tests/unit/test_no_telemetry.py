"""onnxruntime reports nothing to anybody, unless its user has decided about that."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import onnxruntime
import pytest

from onnx_lowrank import no_telemetry


def imported(*names: str, **changes: str) -> str:
    """Return what a process says that imports these, its home no folder: keeping an identifier would be warned of."""
    environment = {name: value for name, value in os.environ.items() if name not in {"CI", "ORT_DISABLE_TELEMETRY"}}
    environment |= {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none", **changes}
    lines = [*(f"import {name}" for name in names), "import os", "print(os.environ['ORT_DISABLE_TELEMETRY'])"]
    call = [sys.executable, "-c", "; ".join(lines)]
    ran = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("names", [("onnx_lowrank", "onnxruntime"), ("onnx_lowrank.cli",)])
def test_onnxruntime_reports_nothing(names):
    assert imported(*names) == "1\n"


def test_who_has_decided_is_not_overruled():
    assert imported("onnx_lowrank", ORT_DISABLE_TELEMETRY="0").startswith("0\n")


def test_onnxruntime_imported_before_is_asked_to_send_no_more(monkeypatch):
    asked: list[bool] = []
    monkeypatch.delenv(no_telemetry.SWITCH)
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: asked.append(True))
    importlib.reload(no_telemetry)
    assert asked == [True]
