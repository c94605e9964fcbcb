"""What a command writes never stands in the place of what it reads, of another output, or of what is no file."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, node, value, weight
from cli_runs import run
from click.testing import Result

BYTES_PER_ACTIVATION = ("--threads", 1, "--observed")
"""Options with which `optimize` finds something to save here."""


def optimize(folder: Path, *more: object) -> Result:
    data = ("--data", folder / "cal.npz", "--validation", folder / "val.npz")
    return run("optimize", folder / "model.onnx", *data, *BYTES_PER_ACTIVATION, *more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a model whose weights lie in w.bin, samples as a file and as a directory, and a metric."""
    weights = {"W1": weight((32, 64), 1, rank=8).astype(np.float32), "W2": weight((64, 4), 2).astype(np.float32)}
    nodes = [node("MatMul", ["x", "W1"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "W2"], ["y"])]
    model = build(nodes, [value("x", ["n", 32])], [value("y", ["n", 4])], weights)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    rng = np.random.default_rng(0)
    for name, count in (("cal", 64), ("val", 80)):
        x = rng.normal(size=(count, 32)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", x=x, labels=(np.maximum(x @ weights["W1"], 0) @ weights["W2"]).argmax(1))
    for number, row in enumerate(x[:4]):
        (tmp_path / "set" / f"test_data_set_{number}").mkdir(parents=True)
        tensor = onnx.numpy_helper.from_array(row[None], "x")
        onnx.save_tensor(tensor, tmp_path / "set" / f"test_data_set_{number}" / "input_0.pb")
    (tmp_path / "mine.py").write_text("def hits(outputs, labels):\n    return [1.0 for _ in labels]\n")
    (tmp_path / "old.json").write_text("of another day")
    return tmp_path


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(folder: Path, act: Callable[[], Result], *says: str) -> None:
    """Run, and demand one line, exit code 1, and everything as it was."""
    before = listing(folder)
    done = act()
    assert done.exit_code == 1, done.output
    assert done.output.startswith("error: ")
    assert len(done.output.splitlines()) == 1
    for text in says:
        assert text in done.output
    assert listing(folder) == before


def hard(folder: Path, target: str) -> Path:
    os.link(folder / target, folder / "link")
    return folder / "link"


def soft(folder: Path, target: str) -> Path:
    (folder / "link").symlink_to(target)
    return folder / "link"


def spelled(folder: Path, target: str) -> Path:
    return folder / "set" / ".." / target


def relative(folder: Path, target: str) -> Path:
    return Path(os.path.relpath(folder / target))


@pytest.mark.parametrize("option", ["-o", "--report", "--save-plan", "--pareto"])
@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("way", [hard, soft, spelled, relative])
def test_optimize_never_writes_over_the_model(folder: Path, option: str, force: tuple[str, ...], way: Callable) -> None:
    path = way(folder, "model.onnx")
    refused(folder, lambda: optimize(folder, option, path, *force), option, "MODEL", "never overwritten")


@pytest.mark.parametrize(
    ("target", "role"),
    [
        ("w.bin", "MODEL's external data"),
        ("cal.npz", "--data"),
        ("val.npz", "--validation"),
        ("set/test_data_set_2/input_0.pb", "--test"),
        ("mine.py", "--metric"),
    ],
)
@pytest.mark.parametrize("way", [hard, soft, spelled])
def test_nor_over_anything_else_that_it_reads(folder: Path, target: str, role: str, way: Callable) -> None:
    path = way(folder, target)
    more = ("--test", folder / "set", "--metric", f"{folder / 'mine.py'}:hits", "--force")
    for option in ("-o", "--report"):
        refused(folder, lambda option=option: optimize(folder, *more, option, path), option, role, "never overwritten")


def test_nor_over_files_of_python_that_it_runs(folder: Path) -> None:
    shutil.copy(folder / "mine.py", folder / "data.py")
    more = ("--signed", "--loss", f"{folder / 'mine.py'}:f", "--force", "--report")
    refused(folder, lambda: optimize(folder, *more, folder / "mine.py"), "--loss", "never overwritten")
    data = ("--data", f"{folder / 'data.py'}:load", "--force", "--report", folder / "data.py")
    refused(folder, lambda: run("optimize", folder / "model.onnx", *data), "--data", "never overwritten")


def test_the_small_commands_keep_what_they_read(folder: Path) -> None:
    model, cal, force = folder / "model.onnx", folder / "cal.npz", "--force"
    refused(folder, lambda: run("inspect", model, "--report", model, force), "MODEL")
    refused(folder, lambda: run("inspect", model, "--report", folder / "w.bin", force), "external data")
    other = shutil.copy(model, folder / "other.onnx")
    given = ("compare", model, other, "--data", cal, "--metric", f"{folder / 'mine.py'}:hits", force, "--report")
    for target, role in (("model.onnx", "FIRST"), ("other.onnx", "SECOND"), ("cal.npz", "--data"), ("mine.py", "--m")):
        refused(folder, lambda target=target: run(*given, folder / target), role, "never overwritten")
    plan = folder / "old.json"
    given = ("apply", plan, model, "--data", cal, "--validation", folder / "val.npz", force, "-o")
    for target, role in (("old.json", "PLAN"), ("w.bin", "external"), ("cal.npz", "--data"), ("val.npz", "--val")):
        refused(folder, lambda target=target: run(*given, folder / target), role, "never overwritten")


def test_two_outputs_are_two_files(folder: Path) -> None:
    (folder / "link").symlink_to("not-yet")
    here = Path(os.path.relpath(folder))
    for force in ((), ("--force",)):
        for first, second in (
            (("-o", folder / "x"), ("--report", folder / "x")),
            (("--save-plan", folder / "x"), ("--pareto", folder / "set" / ".." / "x")),
            (("--report", here / "x"), ("--pareto", folder / "x")),
            (("-o", folder / "x"), ("--report", folder / "x.data")),
            (("--report", folder / "not-yet"), ("--pareto", folder / "link")),
        ):
            says = (first[0], second[0], "same file")
            refused(folder, lambda a=first, b=second, f=force: optimize(folder, *a, *b, *f), *says)
    default = folder / "model.lowrank.onnx"
    refused(folder, lambda: optimize(folder, "--report", default), "same file")


def test_what_exists_needs_force_everywhere(folder: Path) -> None:
    old, model = folder / "old.json", folder / "model.onnx"
    for option in ("-o", "--report", "--save-plan", "--pareto"):
        refused(folder, lambda option=option: optimize(folder, option, old), "exists", "--force", option)
    (folder / "x.data").write_text("weights of another model")
    refused(folder, lambda: optimize(folder, "-o", folder / "x"), "x.data exists", "--force")
    refused(folder, lambda: run("inspect", model, "--report", old), "exists", "--force", "--report")
    data = ("--data", folder / "cal.npz")
    refused(folder, lambda: run("compare", model, model, *data, "--report", old), "exists", "--force")
    refused(folder, lambda: run("apply", old, model, *data, "-o", old.with_name("x")), "x.data exists", "--force")
    refused(folder, lambda: run("demo", "-o", old), "exists", "--force")
    (folder / "d").mkdir()
    (folder / "d" / "test.npz").write_text("mine")
    refused(folder, lambda: run("demo", "--files", folder / "d"), "exists", "--force")


def test_with_force_it_is_replaced_and_a_link_leads_where_it_led_no_more(folder: Path) -> None:
    (folder / "link").symlink_to("mine.py")
    before = (folder / "mine.py").read_bytes()
    assert run("inspect", folder / "model.onnx", "--report", folder / "link", "--force").exit_code == 0
    assert (folder / "link").read_text().startswith("{")
    assert (folder / "mine.py").read_bytes() == before
    more = ("--report", folder / "old.json", "--force", "-o", folder / "link")
    assert optimize(folder, *more).exit_code == 0
    assert (folder / "old.json").read_text().startswith("{")
    assert run("demo", "--files", folder, "--force").exit_code == 0


@pytest.mark.parametrize("option", ["-o", "--report", "--save-plan", "--pareto"])
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_only_files_are_replaced(folder: Path, option: str, force: tuple[str, ...]) -> None:
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as wire:
        wire.bind(os.path.relpath(folder / "wire"))
        (folder / "null").symlink_to("/dev/null")
        for target, kind in (
            (Path("/dev/null"), "a device"),
            (Path("/dev/stdout"), ""),  # a pipe, a terminal, or a file of the shell's: whatever, it is not replaced
            (folder / "null", "a device"),
            (folder / "set", "a directory"),
            (Path("."), "a directory"),
            (folder / "pipe", "a pipe"),
            (folder / "wire", "a socket"),
        ):
            refused(folder, lambda target=target: optimize(folder, option, target, *force), option, f"is {kind}")
    assert Path("/dev/null").is_char_device()
    assert Path("/dev/stdout").is_symlink()


@pytest.mark.parametrize("name", ["-o", "--report", "--save-plan", "--pareto"])
def test_what_appears_during_the_run_is_left(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is checked right before it is published; so are the other files, each before it is written."""
    place = folder / "late"
    (folder / "mine.py").write_text(
        f"import pathlib\ndef hits(o, labels):\n    pathlib.Path({str(place)!r}).write_text('mine')\n"
        "    return [1.0 for _ in labels]\n"
    )
    spare = ("-o", folder / "out.onnx") if name != "-o" else ()
    done = optimize(folder, name, place, *spare, "--allow-weak-baseline", "--metric", f"{folder / 'mine.py'}:hits")
    assert done.exit_code == 1, done.output
    assert len(done.output.splitlines()) == 1
    assert f"{place} was made by something else during the run" in done.output
    assert place.read_text() == "mine"
    assert (folder / "out.onnx").exists() == (name != "-o")
    assert (f"written before that: {folder / 'out.onnx'}" in done.output) == (name != "-o")
    assert not list(folder.glob(".onnx-lowrank-*"))


def test_apply_and_the_small_reports_look_again_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, model, out = folder / "p.json", folder / "model.onnx", folder / "out"
    weights = ("--sensitivity", "weights", "--save-plan", plan, "-o", folder / "a.onnx")
    assert optimize(folder, *weights).exit_code == 0
    for part, name, command in (
        ("onnx_lowrank.pipeline.apply", "checked", ("apply", plan, model, "-o")),
        ("onnx_lowrank.cli.main", "inspection_json", ("inspect", model, "--report")),
        ("onnx_lowrank.cli.main", "comparison_json", ("compare", model, model, "--data", plan.parent / "cal.npz",
                                                      "--report")),
    ):  # fmt: skip
        module = importlib.import_module(part)
        kept = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, kept=kept: (out.write_text("mine"), kept(*a))[1])
        done = run(*command, out)
        assert (done.exit_code, len(done.output.splitlines())) == (1, 1), done.output
        assert "was made by something else" in done.output
        assert out.read_text() == "mine"
        out.unlink()


def test_a_link_to_an_input_that_appears_during_the_run_is_refused_even_with_force(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("onnx_lowrank.cli.main")
    text = module.inspection_json
    monkeypatch.setattr(module, "inspection_json", lambda it: (soft(folder, "model.onnx"), text(it))[1])
    done = run("inspect", folder / "model.onnx", "--report", folder / "link", "--force")
    assert (done.exit_code, "never overwritten" in done.output) == (1, True)
    assert (folder / "link").is_symlink()
