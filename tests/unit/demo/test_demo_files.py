"""The demo's files: written completely, with the samples of the package, in sets that share none."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from onnx_lowrank.cli import main
from onnx_lowrank.demo import SETS, demo_samples


def test_demo_files_are_complete(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["demo", "--files", str(tmp_path / "d")]).exit_code == 0
    names = sorted(p.name for p in (tmp_path / "d").iterdir())
    assert names == ["calibration.npz", "demo.onnx", "test.npz", "validation.npz"]
    for name, arrays in demo_samples().items():
        with np.load(tmp_path / "d" / f"{name}.npz") as stored:
            assert set(stored) == set(arrays)
            assert all(np.array_equal(stored[key], array) for key, array in arrays.items())


def test_no_image_is_in_two_sets() -> None:
    images = {name: {image.tobytes() for image in arrays["image"]} for name, arrays in demo_samples().items()}
    assert set(images) == set(SETS)
    assert all(images[first].isdisjoint(images[second]) for first, second in combinations(SETS, 2))
