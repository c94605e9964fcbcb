"""`bench("benchmarks.NAME")` imports a module of tools/."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    for folder in (ROOT, ROOT / "tools"):
        monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module
