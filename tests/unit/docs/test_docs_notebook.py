"""The notebook's cells, run as they stand, on a part of the demo's samples."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import tempfile
from pathlib import Path

import pytest
from docs_pages import ROOT
from threadpoolctl import threadpool_limits

import onnx_lowrank as lr
from onnx_lowrank import demo

COUNTS = {"calibration": 64, "validation": 640, "test": 640}
CELLS = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_stored_without_outputs() -> None:
    assert {cell["cell_type"] for cell in CELLS} == {"markdown", "code"}
    assert [cell for cell in CELLS if cell.get("outputs") or cell.get("execution_count")] == []


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: {k: v[: COUNTS[name]] for k, v in arrays.items()} for name, arrays in demo.demo_samples().items()}
    monkeypatch.setattr(demo, "demo_samples", lambda: few)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    short = functools.partial(lr.Options, rank_multiple=32, refit=False, runtime=lr.Runtime(threads=1))
    monkeypatch.setattr(lr, "Options", short)
    names: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), threadpool_limits(1):
        for cell in CELLS:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
    assert "smallest certified drop" in printed.getvalue()
    assert names["comparison"]
