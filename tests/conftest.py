"""What every test shares: profiles of hypothesis, garbage kept apart, a still clock, and both widths of int8."""

from __future__ import annotations

import gc
import importlib

import pytest
from hypothesis import HealthCheck, settings

from onnx_lowrank.quantization import onnxruntime_int8 as quantize
from onnx_lowrank.runtime.timing import Timing
from onnx_lowrank.types import Interval

settings.register_profile(
    "suite",
    max_examples=20,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("thorough", settings.get_profile("suite"), max_examples=200, derandomize=False)
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """Keep what is imported by now out of later garbage collections: the product collects often (`linalg.trim`).

    Each would go through the modules and tests of the whole suite, which took two fifths of the time of `e2e`.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the seconds that latency measurement takes; what it says decides nothing."""
    timing = Timing(first_ms=1.0, second_ms=1.0, ratio=Interval(1.0, 1.0, 1.0), pairs=1)
    for name in ("onnx_lowrank.pipeline.speed_goal", "onnx_lowrank.pipeline.compare"):
        monkeypatch.setattr(importlib.import_module(name), "interleaved", lambda *a, **k: timing)


@pytest.fixture(params=[None, False], ids=["own width", "7 bits"])
def usable_width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take this processor's own width, and 7 bits: 8 are right only where sums of 8-bit products do not saturate."""
    if request.param is not None:
        monkeypatch.setattr(quantize, "full_range", lambda: request.param)
