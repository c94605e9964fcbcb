"""What sizes would cost: predicted, measured on samples held back, and a conclusion that an optimum keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import mlp, normal
from click.testing import CliRunner

from onnx_lowrank import Compact, DataSources, GoalError, Options, Runtime, analyze
from onnx_lowrank.cli import main

OPTIONS = Options(runtime=Runtime(threads=1, provider="cpu"), metric="agreement", rank_multiple=1)


def model() -> onnx.ModelProto:
    return mlp([24, 48, 10], [4, None], 3)


def samples(count: int = 200) -> DataSources:
    return DataSources(data={model().graph.input[0].name: normal([count, 24], 5)})


def test_smaller_sizes_lose_more_and_are_measured_on_samples_held_back() -> None:
    found = analyze(model(), samples(2000), options=OPTIONS)
    kept, predicted = [p.kept for p in found.points], [p.predicted for p in found.points]
    assert kept == sorted(kept, reverse=True)
    assert predicted == sorted(predicted)
    assert all(p.measured is not None and p.bound is not None and 0 <= (p.changed or 0) <= 1 for p in found.points)
    assert found.points[-1].measured > found.points[0].measured  # type: ignore[operator]
    assert found.reason.startswith("worth it: about ")
    assert not found.result
    assert found.result.trials == ()
    assert {layer.site.weight for layer in found.layers} == {site.weight for site in found.result.sites}
    losses = [layer.loss for layer in found.layers]
    assert losses == sorted(losses, reverse=True)


def test_too_few_samples_are_told_and_a_goal_of_time_is_refused() -> None:
    found = analyze(model(), samples(20), Compact(resource="parameters"), OPTIONS)
    assert not found.reason.startswith("worth it")
    assert "samples" in found.reason
    with pytest.raises(GoalError, match="time has to be measured"):
        analyze(model(), samples(), Compact(resource="latency"), OPTIONS)


def test_a_model_without_weights_is_told() -> None:
    empty = mlp([24, 48, 10], [4, None], 3)
    found = analyze(empty, samples(), options=Options(include=("nothing",), metric="agreement"))
    assert found.reason.startswith("no weight of this model can be factored")
    assert (found.points, found.layers) == ((), ())


def test_the_command_shows_it_and_writes_the_page(tmp_path: Path) -> None:
    onnx.save(model(), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "cal.npz", **samples().data)  # type: ignore[arg-type]
    words = ["analyze", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "cal.npz"), "--metric", "agreement"]
    words += ["--rank-multiple", "1", "--threads", "1", "--html", str(tmp_path / "a.html"), "--report"]
    done = CliRunner().invoke(main, [*words, str(tmp_path / "a.json")])
    assert done.exit_code == 0, done.output
    assert "What a size would cost" in done.output
    assert "loss, error: of the layer by itself, at 10 % of its bytes" in done.output
    assert 'id="chart-loss"' in (tmp_path / "a.html").read_text("utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "a.json", "cal.npz", "m.onnx"]
