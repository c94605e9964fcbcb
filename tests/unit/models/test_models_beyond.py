"""Networks that remember labels: which labels are random, and what of a job is written. Training itself needs torch."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import run

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module


@pytest.fixture
def beyond(module: Callable[[str], Any]) -> Any:
    return module("models.beyond")


LABELS = np.arange(50_000) % 10


@pytest.mark.parametrize(("name", "count"), [("noise0", 0), ("noise10", 2000), ("noise40", 8000), ("clean2000", 0)])
def test_a_share_of_the_learned_labels_is_drawn_over_all_classes(beyond: Any, name: str, count: int):
    setting = beyond.SETTINGS[name]
    chosen, labels, random = beyond.learned_labels(LABELS, 10, setting, seed=3)
    assert (len(chosen), len(set(chosen)), random) == (setting.most, setting.most, count)
    right = labels == LABELS[chosen]
    assert right[count:].all()
    if count:
        assert np.mean(right[:count]) == pytest.approx(0.1, abs=0.03)
        np.testing.assert_allclose(np.bincount(labels[:count], minlength=10) / count, 0.1, atol=0.03)


def test_settings_of_one_seed_are_nested_and_seeds_differ(beyond: Any):
    found = {name: beyond.learned_labels(LABELS, 10, each, seed=0) for name, each in beyond.SETTINGS.items()}
    for name, (chosen, labels, _) in found.items():
        whole, noisy, _ = found["noise40"]
        np.testing.assert_array_equal(chosen, whole[: len(chosen)], err_msg=name)
        count = found[name][2]
        np.testing.assert_array_equal(labels[:count], noisy[:count], err_msg=name)
    again = beyond.learned_labels(LABELS, 10, beyond.SETTINGS["noise40"], seed=0)
    np.testing.assert_array_equal(again[1], found["noise40"][1])
    assert not np.array_equal(beyond.learned_labels(LABELS, 10, beyond.SETTINGS["noise40"], seed=1)[0], again[0])


def test_fewer_samples_are_seen_more_often_in_fewer_steps(beyond: Any):
    for kind in beyond.KINDS.values():
        epochs = [beyond.epochs_of(kind, samples, 20_000) for samples in (20_000, 5_000, 2_000)]
        assert epochs[0] == kind.epochs
        assert epochs == sorted(epochs)
        assert epochs[2] * 2_000 < epochs[1] * 5_000 < epochs[0] * 20_000


@pytest.fixture
def small(beyond: Any, module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three shades of images, and a network kind that learns them in a moment."""
    splits = module("models.splits")
    generator = np.random.default_rng(1)

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = generator.integers(0, 3, count)
        images = generator.normal(size=(count, 1, 28, 28)) * 0.1 + labels[:, None, None, None]
        return images.astype(np.float32), labels

    def split(count: int, metric: str = "models/metrics.py:top1") -> Any:
        images, labels = drawn(count)
        return splits.Split(samples=tuple({"input": each} for each in images), labels=labels, metric=metric)

    inputs, labels = drawn(60)
    three = splits.Splits(calibration=split(9, ""), validation=split(30), tests={"test": split(12)})
    sets = beyond.Sets(inputs=inputs, labels=labels, splits=three, classes=3, sources=("nowhere",))
    monkeypatch.setattr(beyond, "sets_of", {"shades": sets}.__getitem__)
    kind = beyond.Kind(data="shades", epochs=3, rate=1e-3, batch=20, decays=(0.1, 1.0))
    monkeypatch.setitem(beyond.KINDS, "mlp", kind)
    return beyond


def test_the_sets_are_written_once(small: Any, tmp_path: Path):
    small.write_data(tmp_path, "shades")
    about = json.loads((tmp_path / "shades" / "recipe.json").read_text())
    assert {name: each["n"] for name, each in about["splits"].items()} == {
        "calibration": 9,
        "validation": 30,
        "test": 12,
    }
    for each in about["splits"].values():
        with np.load(tmp_path / "shades" / each["file"]) as found:
            assert set(found) == {"input", "labels"}
            assert found["input"].shape == (each["n"], 1, 28, 28)
    (tmp_path / "shades" / "test.npz").unlink()
    small.write_data(tmp_path, "shades")
    assert not (tmp_path / "shades" / "test.npz").exists()


def accuracy(path: Path, split: Any) -> float:
    images = np.stack([each["input"] for each in split.samples])
    return float((run(onnx.load(path), {"input": images})["logits"].argmax(1) == split.labels).mean())


def test_a_job_writes_networks_with_their_accuracies_and_is_done_once(
    small: Any, module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(
        module("models.networks.memorising"),
        "mlp",
        lambda: torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(784, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
        ),
    )
    job = small.Job(kind="mlp", setting="noise20", seed=0, out=tmp_path)
    job.original()
    about = json.loads((job.folder / "recipe.json").read_text())
    assert job.folder.name == about["name"] == "mlp-noise20-s0"
    assert about["learned"]["random_labels"] == 12
    assert about["recipe"]["decay"] == 0
    watched = about["validation_by_epoch"]
    assert len(watched) == 3
    assert about["models"]["early"]["epoch"] == 1 + watched.index(max(watched))
    model = (job.folder / "model.onnx").read_bytes()
    job.decayed()
    about = json.loads((job.folder / "recipe.json").read_text())
    assert (job.folder / "model.onnx").read_bytes() == model
    decay = about["models"]["decay"]
    assert set(decay["validation_by_decay"]) == {"0.1", "1"}
    assert decay["accuracy"]["validation"] == max(decay["validation_by_decay"].values())
    splits = small.sets_of("shades").splits
    for name, entry in about["models"].items():
        path = job.folder / f"{name}.onnx"
        assert accuracy(path, splits.validation) == pytest.approx(entry["accuracy"]["validation"], abs=1e-4)
        assert accuracy(path, splits.tests["test"]) == pytest.approx(entry["accuracy"]["test"], abs=1e-4)
    content = {path: path.stat().st_mtime_ns for path in job.folder.iterdir()}
    job.original()
    job.decayed()
    assert {path: path.stat().st_mtime_ns for path in job.folder.iterdir()} == content
    again = dataclasses.replace(job, out=tmp_path / "again")
    again.original()
    assert (again.folder / "model.onnx").read_bytes() == model
