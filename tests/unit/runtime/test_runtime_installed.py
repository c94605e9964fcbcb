"""Two packages of onnxruntime are found and told, with the mend; one is fine."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from onnx_lowrank.cli import main
from onnx_lowrank.runtime.installed import conflict, packages


def test_one_package_is_fine() -> None:
    assert len(packages()) == 1
    assert conflict(packages()) == ""


def test_two_are_told_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("onnxruntime", "onnxruntime-gpu")
    monkeypatch.setattr(sys.modules["onnx_lowrank.cli.main"], "packages", lambda: both)
    done = CliRunner().invoke(main, ["inspect", "nowhere.onnx"])
    assert done.output.startswith("warning: onnxruntime and onnxruntime-gpu are both installed")
    assert "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu\n" in done.output
    assert done.exit_code == 1
