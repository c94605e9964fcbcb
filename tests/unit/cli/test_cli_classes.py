"""--classes with --data: labels of an .npz that are names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import classifier_folder
from cli_runs import optimize, run

from onnx_lowrank import MetricError, Options, Runtime, compare

NAMES = ("cat", "ant", "dog", "cow")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classifier's samples with names for labels."""
    place = classifier_folder(tmp_path)
    for name in ("cal", "val"):
        held = np.load(place / f"{name}.npz")
        np.savez(place / f"{name}.npz", x=held["x"], labels=np.array(NAMES)[held["labels"]])
    (place / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return place


def test_the_command_line_numbers_names_in_npz(folder: Path):
    done = optimize(folder, "--classes", folder / "classes.txt")
    assert done.exit_code == 0, done.output
    assert "top1" in done.output
    done = run(
        "compare", folder / "model.onnx", folder / "model.onnx", "--data", folder / "val.npz", "--threads", 1,
        "--observed", "--classes", folder / "classes.txt",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "1.0000" in done.output
    (folder / "classes.txt").write_text("cat\nant\ndog\n")
    done = optimize(folder, "--classes", folder / "classes.txt", "--force")
    assert done.exit_code == 1
    assert f"class 'cow' is not in {folder / 'classes.txt'}" in done.stderr
    assert "cal.npz: sample #" in done.stderr


def test_without_classes_the_error_names_them(folder: Path):
    for more in ((), ("--metric", "top1")):
        done = optimize(folder, *more)
        assert done.exit_code == 1
        assert "give --classes FILE with the names of all classes, one a line, in the model's order" in done.stderr
    with pytest.raises(MetricError, match=r"the labels are names \('\w+', say\).*onnx_lowrank.samples.NamedLabels"):
        compare(folder / "model.onnx", folder / "model.onnx", folder / "val.npz", options=Options(runtime=Runtime()))
    done = run("optimize", folder / "model.onnx", "--random-data", "--classes", folder / "classes.txt")
    assert done.exit_code == 2
    assert "--classes names the labels of samples" in done.stderr
