"""What a written file says of itself, and that it is not taken for what another tool made of the file afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import classifier_folder
from click.testing import CliRunner

from onnx_lowrank import DataSources, Gate, Options, Runtime, Session, compare, inspect, meet_goal
from onnx_lowrank.cli import main
from onnx_lowrank.goals import Compact
from onnx_lowrank.passes.node_marks import METADATA_KEY
from onnx_lowrank.pipeline.provenance import provenance


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was certified and saved."""
    folder = classifier_folder(tmp_path_factory.mktemp("made"))
    data = DataSources(data=str(folder / "cal.npz"), validation=str(folder / "val.npz"))
    session = Session.of(str(folder / "model.onnx"), data, Options(runtime=Runtime(provider="cpu", threads=1)))
    result = meet_goal(session, Compact(gate=Gate(max_drop=0.2)), output=folder / "out.onnx")
    assert result.changed, result.reason
    assert result.certificate is not None
    assert result.certificate.word == "certified"
    return folder / "out.onnx"


def changed(path: Path, change: Callable[[onnx.ModelProto], object], **how: object) -> Path:
    """Return another file with the model after a change."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, str(path.with_name("other.onnx")), **how)
    return path.with_name("other.onnx")


def nudge(model: onnx.ModelProto) -> None:
    """Change one bit of one weight."""
    tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[0] = np.nextafter(array.flat[0], np.float32(9))
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def test_a_file_is_known_as_it_was_written(written: Path) -> None:
    made = inspect(written).provenance
    assert made is not None
    assert made.unchanged is True
    assert made.tool.startswith("onnx-lowrank ")
    assert made.certificate is not None
    assert made.certificate.bound < 0.2
    assert made.line.endswith("Unchanged since.")


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda m: m.metadata_props.add(key="author", value="someone"), {}),
        (lambda m: None, {"save_as_external_data": True, "location": "other.data", "size_threshold": 0}),
    ],
    ids=["a note", "weights beside it"],
)
def test_storage_and_notes_are_no_change(written: Path, change: Callable[..., object], how: dict[str, object]) -> None:
    made = inspect(changed(written, change, **how)).provenance
    assert made is not None
    assert made.unchanged is True


@pytest.mark.parametrize(
    "change",
    [
        nudge,
        lambda m: m.graph.node[0].attribute.add(name="noise", type=onnx.AttributeProto.INT, i=3),
        lambda m: setattr(m.opset_import[0], "version", m.opset_import[0].version + 1),
    ],
    ids=["a bit of a weight", "an attribute", "an opset"],
)
def test_a_certificate_is_not_of_what_was_changed(written: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(written)
    change(model)
    made = provenance(model)
    assert made is not None
    assert made.unchanged is False
    assert "CHANGED SINCE" in made.line
    assert made.certificate is not None  # what it was


def test_the_terminal_and_the_report_say_so(written: Path) -> None:
    path = changed(written, nudge)
    done = CliRunner().invoke(main, ["inspect", str(path), "--report", "-"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["provenance"]["unchanged"] is False
    shown = CliRunner().invoke(main, ["inspect", str(path)]).output
    assert "CHANGED SINCE" in " ".join(shown.split())


def test_a_model_of_another_tool_says_nothing(written: Path) -> None:
    source = written.with_name("model.onnx")
    assert inspect(source).provenance is None
    assert "Written by" not in CliRunner().invoke(main, ["inspect", str(source)]).output


RECORD = {"tool": "onnx-lowrank 9"}
CERTIFICATE = {
    "word": "certified", "metric": "top1", "samples": 9, "units": 9, "drop_type": "absolute", "allowed": 0.1,
    "drop": 0.0, "low": 0.0, "high": 0.0, "bound": 0.1, "confidence": 0.95, "method": "m", "plans": 1,
    "validation_sha256": "0",
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"tool": 3}', json.dumps({"tool": "\x1b[2Jgone"}), "[" * 100_000],
    ids=range(8),
)
def test_a_record_that_is_none_is_none(written: Path, text: str) -> None:
    model = onnx.load(written.with_name("model.onnx"))
    model.metadata_props.add(key=METADATA_KEY, value=text)
    assert provenance(model) is None


@pytest.mark.parametrize(
    "change",
    [{"bound": "0.1"}, {"bound": True}, {"samples": 1.5}, {"word": "\x1b[2J"}, {"metric": None}, {"metric": "x" * 999}],
    ids=str,
)
def test_a_certificate_that_is_none_is_none(written: Path, change: dict[str, object]) -> None:
    model = onnx.load(written.with_name("model.onnx"))
    for certificate, found in ((CERTIFICATE, True), (CERTIFICATE | change, False)):
        del model.metadata_props[:]
        model.metadata_props.add(key=METADATA_KEY, value=json.dumps(RECORD | {"certificate": certificate}))
        made = provenance(model)
        assert made is not None
        assert made.unchanged is None  # without a hash
        assert (made.certificate is not None) is found


def test_what_is_applied_again_is_whole_without_a_certificate(written: Path) -> None:
    folder = written.parent
    again = [str(folder / name) for name in ("p.json", "model.onnx", "again.onnx")]
    data = ["--data", str(folder / "cal.npz"), "--validation", str(folder / "val.npz"), "--threads", "1"]
    run = ["optimize", again[1], *data, "--max-drop", "0.2", "--save-plan", again[0], "--dry-run"]
    assert CliRunner().invoke(main, run).exit_code == 0
    done = CliRunner().invoke(main, ["apply", *again[:2], "-o", again[2], *data])
    assert done.exit_code == 0, done.output
    made = inspect(again[2]).provenance
    assert made is not None
    assert (made.unchanged, made.certificate) == (True, None)
    assert compare(again[2], str(written), str(folder / "val.npz")).verdict.drop.estimate == 0
