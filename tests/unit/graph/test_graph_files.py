"""Which file a path is; and in Python, too, the original is never overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest
from builders import mlp
from hypothesis import given
from hypothesis import strategies as st

import onnx_lowrank as lr
from onnx_lowrank.graph import model_io
from onnx_lowrank.graph.files import identity, special
from onnx_lowrank.results.saved_plan import SavedPlan

GOAL = lr.Compact(gate=lr.Gate(max_drop=0.5, observed=True))
OPTIONS = lr.Options(metric="cosine", runtime=lr.Runtime(threads=1), sensitivity="weights")


def test_one_file_has_one_identity_there_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "e").symlink_to("d")
    for name in ("there", "missing", "deep/er/missing"):
        (tmp_path / f"{name[0]}.link").symlink_to(f"d/{name}")
        if name == "there":
            (tmp_path / "d" / name).touch()
            os.link(tmp_path / "d" / name, tmp_path / "hard")
            assert identity(Path("hard")) == identity(tmp_path / "d" / name)
        ways = (
            tmp_path / "d" / name,
            Path("d") / name,
            Path("e") / name,
            Path("d/../e") / name,
            Path(f"{name[0]}.link"),
        )
        assert len({identity(way) for way in ways}) == 1
    others = ("d/there", "d/missing", "d/missing2", "missing", "d/deep/missing", "d/deep/er/missing", "d")
    assert len({identity(Path(other)) for other in others}) == len(others)
    (tmp_path / "loop").symlink_to("loop")
    assert identity(Path("loop")) == identity(tmp_path / "loop") != identity(Path("d"))


@given(st.lists(st.sampled_from(["a", "b", "..", "."]), min_size=1, max_size=6))
def test_spelling_does_not_matter(parts: list[str]) -> None:
    path = Path("/nowhere", *parts)
    assert identity(path) == identity(Path(os.path.normpath(path)))


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    found = [special(path) for path in (tmp_path, tmp_path / "pipe", tmp_path / "file", tmp_path / "none")]
    assert found == ["a directory", "a pipe", "", ""]
    assert [special(Path(p)) for p in ("/dev/null", "/dev/none", "/proc/self/fd/99")] == ["a device"] * 3
    with pytest.raises(lr.ModelError, match="a device"):
        model_io.write_bytes(Path("/dev/null"), b"text")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose weights lie beside it, and links to both files."""
    path = tmp_path / "m.onnx"
    model = mlp([32, 64, 8], [4, None], 1)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    os.link(path, tmp_path / "hard")
    (tmp_path / "soft").symlink_to("m.onnx")
    (tmp_path / "weights").symlink_to("w.bin")
    return path


def test_in_python_the_original_is_never_overwritten(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    before = {path.name: path.read_bytes() for path in model.parent.iterdir()}
    session = lr.Session.of("m.onnx", lr.RANDOM, OPTIONS)
    result = lr.meet_goal(session, GOAL)
    assert result.plan is not None
    plan = SavedPlan.of_result(result, "test")
    monkeypatch.chdir("/")  # what was read is known by more than its name
    for target in (model, *(model.parent / name for name in ("hard", "soft", "weights", "w.bin"))):
        for act in (
            lambda target=target: lr.optimize(model, lr.RANDOM, GOAL, OPTIONS, output=target),
            lambda target=target: lr.meet_goal(session, GOAL, output=target),
            lambda target=target: result.save(str(target)),
            lambda target=target: lr.apply(plan, model, output=target),
        ):
            with pytest.raises(lr.ModelError, match="never overwritten"):
                act()
    assert {path.name: path.read_bytes() for path in model.parent.iterdir()} == before
    result.save(model.parent / "other.onnx")
    lr.apply(plan, model, output=model.parent / "other.onnx")


def test_a_link_made_meanwhile_is_seen_at_the_moment_of_writing(model: Path) -> None:
    target = model.parent / "late"
    session = lr.Session.of(model, lr.RANDOM, OPTIONS)
    with pytest.raises(lr.ModelError, match="never overwritten"):
        lr.meet_goal(session, GOAL, output=target, before_writing=lambda: target.symlink_to("m.onnx"))
    assert target.is_symlink()


def test_before_writing_may_stop_it(model: Path) -> None:
    def no() -> None:
        raise lr.ModelError("not now")

    session = lr.Session.of(model, lr.RANDOM, OPTIONS)
    before = sorted(model.parent.iterdir())
    with pytest.raises(lr.ModelError, match="not now"):
        lr.meet_goal(session, GOAL, output=model.parent / "new", before_writing=no)
    assert lr.meet_goal(session, GOAL, output=model.parent / "new", dry_run=True, before_writing=no)
    assert sorted(model.parent.iterdir()) == before


def test_the_weights_of_a_big_model_do_not_go_over_the_original_either(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_lowrank.graph.large.PROTOBUF_LIMIT", 1000)
    (model.parent / "w.onnx.data").symlink_to("w.bin")
    before = (model.parent / "w.bin").read_bytes()
    result = lr.meet_goal(lr.Session.of(model, lr.RANDOM, OPTIONS), GOAL)
    result.save(model.parent / "w.onnx")
    assert (model.parent / "w.onnx.2.data").is_file()  # a name that leads to no file
    assert (model.parent / "w.onnx.data").readlink() == Path("w.bin")
    assert (model.parent / "w.bin").read_bytes() == before
