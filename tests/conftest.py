"""What every test shares: profiles of hypothesis, garbage kept apart, a still clock, and both widths of int8."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from onnx_lowrank.quantization import onnxruntime_int8 as quantize
from onnx_lowrank.runtime.timing import Timing, interleaved
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


def pytest_configure() -> None:
    """Give BLAS one thread in every worker, which is a process: two of two threads each take a quarter longer."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Keep what is imported by now out of later garbage collections: the product collects often (`linalg.trim`).

    Each would go through the modules and tests of the whole suite, which took two fifths of the time of `e2e`.
    """
    gc.collect()
    gc.freeze()


STILL = Timing(first_ms=1.0, second_ms=1.0, ratio=Interval(1.0, 1.0, 1.0), pairs=1)
TIMED = ("onnx_lowrank.pipeline.speed_goal", "onnx_lowrank.pipeline.compare")


@pytest.fixture(scope="session", autouse=True)
def _a_still_clock() -> Iterator[None]:
    """Leave out the seconds that latency measurement takes, where a test does not ask for `real_clock`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in TIMED:
            patch.setattr(importlib.import_module(name), "interleaved", lambda *a, **k: STILL)
        yield


@pytest.fixture
def real_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure latency, for a fifth of a second."""
    for name in TIMED:
        monkeypatch.setattr(
            importlib.import_module(name), "interleaved", lambda *a, **k: interleaved(*a, **{**k, "seconds": 0.2})
        )


@pytest.fixture(params=[None, False], ids=["own width", "7 bits"])
def usable_width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take this processor's own width, and 7 bits: 8 are right only where sums of 8-bit products do not saturate."""
    if request.param is not None:
        monkeypatch.setattr(quantize, "full_range", lambda: request.param)
