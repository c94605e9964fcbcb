"""Part "scaling": networks of a given size, exponents, and the runs that are made without any zoo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import scipy.stats
from tools_lines import page_of, raw

from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner

Bench = Callable[[str], Any]


@pytest.mark.parametrize("width", [16, 24])
def test_a_network_is_as_large_as_told_and_decides(bench: Bench, width: int) -> None:
    synthetic = bench("benchmarks.synthetic")
    model = synthetic.network(width, seed=0)
    onnx.checker.check_model(model, full_check=True)
    floats = [c for c in model.graph.initializer if c.data_type == onnx.TensorProto.FLOAT]
    scales = synthetic.BLOCKS  # of attention, one number a block
    assert sum(int(np.prod(c.dims)) for c in floats) == synthetic.parameters(width) + scales
    scores = Runner(model, runtime=Runtime(provider="cpu", threads=1)).run({"input": synthetic.samples(64, 0, 0)})[
        "scores"
    ]
    assert np.isfinite(scores).all()
    assert len(set(scores.argmax(1).tolist())) > 1


def test_the_sizes_are_what_the_table_is_about(bench: Bench) -> None:
    scaling, synthetic = bench("benchmarks.scaling"), bench("benchmarks.synthetic")
    millions = [synthetic.parameters(width) / 1e6 for width in scaling.WIDTHS]
    np.testing.assert_allclose(millions, [0.5, 1.5, 5, 16, 50, 100], rtol=0.07)


def test_a_network_is_the_same_for_the_same_seed_and_samples_differ_by_part(bench: Bench) -> None:
    synthetic = bench("benchmarks.synthetic")
    first, again, other = (synthetic.network(16, seed).SerializeToString() for seed in (0, 0, 1))
    assert first == again != other
    one, two = (synthetic.samples(8, 0, part) for part in (0, 1))
    assert one.shape == (8, synthetic.TOKENS, synthetic.FEATURES)
    assert all(not np.array_equal(x, y) for x in one for y in two)
    np.testing.assert_array_equal(one, synthetic.samples(8, 0, 0))


def test_singular_values_fall_and_inputs_keep_their_size(bench: Bench) -> None:
    falling = bench("benchmarks.synthetic").falling
    weight = falling(np.random.default_rng(0), 96, 64)
    values = np.linalg.svd(weight, compute_uv=False)
    assert values[48] < 0.1 * values[0]
    gain = np.square(np.random.default_rng(1).normal(size=(2000, 96)) @ weight).mean()
    assert 0.7 < gain < 1.5  # 1 in expectation; few directions carry most of it


def test_a_power_is_found_and_its_interval_is_the_slopes(bench: Bench) -> None:
    exponent = bench("benchmarks.scaling").exponent
    xs = np.array([0.5, 1.5, 5.0, 16.0, 50.0, 100.0])
    np.testing.assert_allclose(exponent([*zip(xs, 3 * xs**1.25, strict=True)]), [1.25] * 3, atol=1e-9)
    ys = 3 * xs**1.25 * np.exp([0.1, -0.1, 0.05, 0.0, -0.1, 0.1])
    slope, low, high = exponent([*zip(xs, ys, strict=True)])
    X = np.stack([np.ones(6), np.log(xs)], axis=1)
    coefficients, residuals, *_ = np.linalg.lstsq(X, np.log(ys))
    error = np.sqrt(residuals[0] / 4 * np.linalg.inv(X.T @ X)[1, 1])
    half = scipy.stats.t.ppf(0.975, 4) * error
    np.testing.assert_allclose([slope, low, high], coefficients[1] + np.array([0, -half, half]), rtol=1e-9)


def test_two_points_have_no_interval(bench: Bench) -> None:
    assert bench("benchmarks.scaling").exponent([(1.0, 1.0), (2.0, 2.0)]) is None


def run_of(parameters: float, count: int, seconds: float, peak: float) -> dict[str, Any]:
    return {
        "exit": 0, "seconds": seconds, "peak_bytes": peak, "parameters": parameters, "bytes": 4 * parameters,
        "samples": count, "validation": 512, "sites": 26, "kept": 0.5, "agreement": 0.998,
        "steps": {"calibrating": seconds / 2, "timing": seconds / 100}, "saved_bytes": 2 * parameters,
    }  # fmt: skip


def test_costs_and_exponents_stand_on_the_page(bench: Bench) -> None:
    scaling, synthetic = bench("benchmarks.scaling"), bench("benchmarks.synthetic")
    lines = []
    for cell in scaling.cells(scaling.MODEL, False):
        width, count = map(int, cell.name.split("/"))
        n = float(synthetic.parameters(width))
        data = run_of(n, count, 2e-6 * n**1.25 * count**0.5, 100 * n**0.75)
        lines.append(raw("scaling", scaling.MODEL, cell.name, data))
    text = page_of(bench, "scaling", lines).splitlines()
    assert text[0] == "# What it costs"
    assert "| seconds by parameters | 1.25 [1.25, 1.25] | 1.25 [1.25, 1.25] |" in text
    assert "| peak memory by parameters | .75 [.75, .75] | .75 [.75, .75] |" in text
    assert "| seconds by samples | .50 [.50, .50] | .50 [.50, .50] |" in text
    assert "| peak memory by samples | .00 [.00, .00] | .00 [.00, .00] |" in text
    (row,) = [line for line in text if line.startswith("| 99.72 | 512 |")]
    assert row.endswith("| 50.0 % | 0.998 | calibrating 50 % |")
    assert len([line for line in text if "| 4.96 |" in line]) == 1 + len(scaling.COUNTS)


def few(scaling: Any, monkeypatch: pytest.MonkeyPatch, width: int, count: int) -> None:
    values = {"WIDTHS": (width,), "COUNTS": (count,), "WIDTH": width, "SAMPLES": count}
    for name, value in values.items():
        monkeypatch.setattr(scaling, f"QUICK_{name}", value)


def test_it_runs_without_a_zoo_and_once_a_cell(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks are the smallest that can keep half; the command line is real, once."""
    scaling, synthetic, tool, lines_of = (
        bench(name) for name in ("benchmarks.scaling", "benchmarks.synthetic", "bench", "benchmarks.lines")
    )
    lines = lines_of.Lines(tmp_path, lines_of.Setting(0, 1, True))
    few(scaling, monkeypatch, 40, 32)
    monkeypatch.setattr(scaling, "VALIDATION", 32)
    assert tool.measure(tmp_path / "no zoo", [], [scaling.PART], lines) == []
    (line,) = lines.all()
    data = line["data"]
    assert (line["model"], line["cell"]) == (scaling.MODEL, "40/32")
    assert (data["exit"], data["samples"], data["sites"]) == (0, 32, 2 + 6 * synthetic.BLOCKS)  # table and head
    assert 0.3 < data["kept"] <= 0.5
    assert data["peak_bytes"] > 5e7
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_that_fails_is_told_with_its_last_words_and_leaves_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaling, tool, lines_of = bench("benchmarks.scaling"), bench("bench"), bench("benchmarks.lines")
    lines = lines_of.Lines(tmp_path, lines_of.Setting(0, 1, True))
    few(scaling, monkeypatch, 16, 16)
    used = {"exit": 1, "seconds": 0.1, "peak_bytes": 1, "last": "no such thing"}
    monkeypatch.setattr(scaling, "optimized", lambda *_: (used, None))
    (failure,) = tool.measure(tmp_path, [], [scaling.PART], lines)
    assert failure == "synthetic, scaling: 16/16: exit 1: no such thing"
    assert lines.all() == []
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_watched_process_is_told_by_its_exit_its_memory_and_its_last_words(bench: Bench) -> None:
    code = "import sys; sys.stderr.write('first\\nlast\\n'); sys.exit(3)"
    used = bench("benchmarks.process").watched(["-c", code])
    assert (used["exit"], used["last"]) == (3, "last")
    assert used["peak_bytes"] > 1e6
    assert used["seconds"] > 0
