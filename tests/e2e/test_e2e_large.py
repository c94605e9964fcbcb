"""A model whose weights stay in their file goes through every command, with the same plan, and leaves nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_lowrank as lr
from onnx_lowrank.graph import mapped, model_io, scratch
from onnx_lowrank.graph.mapped import mapped_tensors
from onnx_lowrank.runtime import runner
from onnx_lowrank.store import spill
from tests.builders import classifier_folder
from tests.unit.cli.cli_runs import optimize, run


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a model beside its weights, and none of it read into memory."""
    place = tmp_path / "in"
    place.mkdir()
    classifier_folder(place)
    model = onnx.load(place / "model.onnx")
    (place / "model.onnx").rename(place / "whole.onnx")
    onnx.save(model, place / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    for module, name, number in (
        *((module, "MAPPED_FROM", 0) for module in (mapped, runner)),
        *((module, "LEAST", 64) for module in (mapped, scratch, spill)),
    ):
        monkeypatch.setattr(module, name, number)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return place


def left(folder: Path) -> list[str]:
    return [path.name for path in (folder.parent / "temporary").iterdir()]


def report(folder: Path, *more: object, model: str = "model.onnx") -> dict[str, object]:
    data = ("--data", folder / "cal.npz", "--validation", folder / "val.npz", "--threads", 1)
    gate = ("--observed", "--max-drop", 0, "--report", folder / "report.json", "--force", "--quiet")
    result = run("optimize", folder / model, *data, *gate, *more)
    assert result.exit_code == 0, result.output
    made: dict[str, object] = json.loads((folder / "report.json").read_text("utf-8"))
    return made


def forms(made: dict[str, object]) -> list[tuple[object, ...]]:
    plan = made["plan"]
    assert isinstance(plan, dict)
    return [
        (choice["weight"], *(choice["option"][key] for key in ("scheme", "ranks", "storage")))
        for choice in plan["choices"]
    ]


@pytest.mark.parametrize(
    "goal", [(), ("--minimize", "bytes"), ("--keep", 0.8), ("--sensitivity", "weights"), ("--keep", 0.8, "--refit")]
)
def test_the_plan_is_that_of_the_same_model_in_memory(folder: Path, goal: tuple[object, ...]):
    before = hashlib.sha256((folder / "weights.bin").read_bytes()).hexdigest()
    apart = report(folder, "-o", folder / "out.onnx", *goal)
    whole = report(folder, "-o", folder / "whole-out.onnx", *goal, model="whole.onnx")
    assert forms(apart) == forms(whole)
    x = np.load(folder / "val.npz")["x"]
    outputs = [runner.Runner(onnx.load(folder / name)).run({"x": x})["y"] for name in ("out.onnx", "whole-out.onnx")]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-4)
    assert hashlib.sha256((folder / "weights.bin").read_bytes()).hexdigest() == before
    assert (folder / "out.onnx.data").is_file() or "bytes" in goal  # then all of it is small
    assert not left(folder)


def test_commands_read_it(folder: Path):
    report(folder, "-o", folder / "out.onnx", "--save-plan", folder / "plan.json")
    inspected = run("inspect", folder / "model.onnx")
    assert inspected.exit_code == 0, inspected.output
    assert "weights are not read, as they are large" in " ".join(inspected.output.split())
    assert "99 %" in run("inspect", folder / "model.onnx", "--spectrum").output
    compared = run(
        "compare", folder / "model.onnx", folder / "out.onnx", "--data", folder / "val.npz", "--observed",
        "--max-drop", 0.1,
    )  # fmt: skip
    assert compared.exit_code == 0, compared.output
    applied = run(
        "apply", folder / "plan.json", folder / "model.onnx", "-o", folder / "again.onnx", "--data",
        folder / "cal.npz", "--validation", folder / "val.npz", "--threads", 1,
    )  # fmt: skip
    assert applied.exit_code == 0, applied.output
    assert (folder / "again.onnx.data").is_file()


def test_a_result_in_memory_is_whole(folder: Path, tmp_path: Path):
    sources = lr.DataSources(data=str(folder / "cal.npz"), validation=str(folder / "val.npz"))
    result = lr.optimize(folder / "model.onnx", sources, lr.Compact(gate=lr.Gate(observed=True, max_drop=0)))
    assert result
    expected = model_io.content_hash(result.model)
    assert any(mapped_tensors(result.model))
    result.save(tmp_path / "saved.onnx")
    assert model_io.content_hash(onnx.load(tmp_path / "saved.onnx")) == expected


def test_weights_are_never_taken_without_being_asked(folder: Path):
    (folder / "out.onnx.data").write_text("mine")
    result = optimize(folder, "-o", folder / "out.onnx")
    assert result.exit_code == 1
    assert "out.onnx.data exists" in result.output
    assert (folder / "out.onnx.data").read_text() == "mine"
    own = optimize(folder, "-o", folder / "weights.bin", "--force")
    assert own.exit_code == 1
    assert "never overwritten" in own.output or "external data" in own.output


def test_a_file_that_goes_meanwhile_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch):
    collect = lr.Session.collect

    def gone(self: lr.Session, metric: object) -> object:
        (folder / "weights.bin").unlink()
        return collect(self, metric)  # type: ignore[arg-type]

    monkeypatch.setattr(lr.Session, "collect", gone)
    result = optimize(folder, "-o", folder / "out.onnx")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert result.output.count("error: ") == 1
    assert not (folder / "out.onnx").exists()


def test_weights_in_several_files(folder: Path):
    report(folder, "-o", folder / "out.onnx", "--keep", 0.9, "--shard-size", "1MiB")
    assert (folder / "out.onnx.data").is_file()
    report(folder, "-o", folder / "out.onnx", "--keep", 0.8, "--save-as-external-data")
    assert sorted(path.name for path in folder.glob("out.onnx*")) == ["out.onnx", "out.onnx.2.data"]
    onnx.checker.check_model(str(folder / "out.onnx"), full_check=True)


def test_files_of_weights_that_are_none_are_one_line(folder: Path):
    result = optimize(folder, "-o", folder / "out.onnx", "--shard-size", "10kB")
    assert result.exit_code == 2
    assert "--shard-size must be at least 1 MiB" in " ".join(result.output.split())
