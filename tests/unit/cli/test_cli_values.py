"""Empty values are usage errors that name the option; `random` is a path like any other, in Python, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, node, value, weight
from cli_runs import run

import onnx_lowrank as lr

BYTES_PER_ACTIVATION = ("--threads", 1, "--observed")
"""Options with which `optimize` finds something to save here."""
EMPTY = {
    "optimize": (
        *("--data", "--validation", "--test", "--metric", "--loss", "-o", "--output", "--report", "--save-plan"),
        *("--pareto", "--provider", "--include", "--exclude", "--algorithm", "--keep", "--target-size", "--max-drop"),
        *("--min-speedup", "--memory", "--then", "--threads"),
    ),
    "inspect": ("--report", "--include", "--exclude"),
    "apply": ("-o", "--data", "--validation", "--provider"),
    "compare": ("--data", "--metric", "--report", "--provider"),
    "demo": ("-o", "--files", "--provider"),
}
PLACES = {"optimize": ("m.onnx",), "inspect": ("m.onnx",), "apply": ("p.json", "m.onnx"), "compare": ("a", "b")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: a model with labels of its own in cal.npz and, one sample a file, in val/."""
    weights = {"W1": weight((32, 64), 1, rank=8).astype(np.float32), "W2": weight((64, 4), 2).astype(np.float32)}
    nodes = [node("MatMul", ["x", "W1"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "W2"], ["y"])]
    onnx.save(build(nodes, [value("x", ["n", 32])], [value("y", ["n", 4])], weights), str(tmp_path / "m.onnx"))
    x = np.random.default_rng(0).normal(size=(114, 32)).astype(np.float32)
    labels = (np.maximum(x @ weights["W1"], 0) @ weights["W2"]).argmax(1)
    np.savez(tmp_path / "cal.npz", x=x[:64], labels=labels[:64])
    (tmp_path / "val").mkdir()
    for number in range(64, 114):
        np.save(tmp_path / "val" / f"{number:03d}.npy", x[number])
    np.save(tmp_path / "val" / "labels.npy", labels[64:])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "option"), [(command, option) for command, options in EMPTY.items() for option in options]
)
def test_an_empty_value_is_wrong_use_and_names_the_option(folder: Path, command: str, option: str) -> None:
    before = sorted(folder.rglob("*"))
    for words in ((option, ""), (f"{option}=",)) if option.startswith("--") else ((option, ""),):
        done = run(command, *PLACES.get(command, ()), *words)
        assert done.exit_code == 2, done.output
        last = done.output.splitlines()[-1]
        assert option in last
        assert "shell variable" in last
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("command", PLACES)
def test_so_is_an_empty_argument(folder: Path, command: str) -> None:
    done = run(command, *[""] * len(PLACES[command]))
    assert (done.exit_code, "is empty" in done.output) == (2, True)


def test_an_option_after_an_unset_variable_is_no_value(folder: Path) -> None:
    for option, follows in (("--report", "--force"), ("--validation", "--random-data"), ("--data", "-q")):
        done = run("optimize", "m.onnx", "--data", "cal.npz", option, follows)
        assert done.exit_code == 2
        assert option in done.output.splitlines()[-1]
        assert f" has no value: {follows} follows" in done.output.splitlines()[-1]
    assert run("optimize", "m.onnx", "--data").exit_code == 2
    assert sorted(p.name for p in folder.iterdir()) == ["cal.npz", "m.onnx", "val"]


def test_without_data_nothing_is_invented(folder: Path) -> None:
    for command in (("optimize", "m.onnx"), ("compare", "m.onnx", "m.onnx")):
        done = run(*command)
        assert (done.exit_code, "--random-data" in done.output) == (2, True)
        done = run(*command, "--random-data", "--data", "cal.npz")
        assert (done.exit_code, "either --data" in done.output) == (2, True)


@pytest.mark.parametrize("option", ["--data", "--validation", "--test"])
def test_a_set_that_is_missing_is_named_random_or_not(folder: Path, option: str) -> None:
    others = [("--data", "cal.npz")] if option != "--data" else []
    for name in ("random", "missing.npz"):
        done = run("optimize", "m.onnx", *[word for pair in others for word in pair], option, name)
        assert (done.exit_code, len(done.output.splitlines())) == (1, 1)
        assert f"{name}: no such file or directory" in done.output
    done = run("compare", "m.onnx", "m.onnx", "--data", "random")
    assert (done.exit_code, "random: no such file or directory" in done.output) == (1, True)
    assert not (folder / "m.lowrank.onnx").exists()


@pytest.mark.parametrize("option", ["--data", "--validation", "--test"])
def test_a_folder_called_random_is_read(folder: Path, option: str) -> None:
    (folder / "val").rename("random")
    rest = ("--data", "cal.npz") if option != "--data" else ("--validation", "cal.npz")
    done = run("optimize", "m.onnx", *rest, option, "random", *BYTES_PER_ACTIVATION)
    assert done.exit_code == 0, done.output
    assert "random data" not in done.output
    compared = run("compare", "m.onnx", "m.lowrank.onnx", "--data", "random")
    assert "random data" not in compared.output
    plan = (
        "optimize",
        "m.onnx",
        *rest,
        option,
        "random",
        *BYTES_PER_ACTIVATION,
        "--save-plan",
        "p.json",
        "-o",
        "a.onnx",
    )
    assert run(*plan).exit_code == 0
    sets = (*rest, option, "random") if option != "--test" else rest
    assert run("apply", "p.json", "m.onnx", *sets, "-o", "b.onnx").exit_code == 0


def test_in_python_random_is_a_path_and_the_constant_invents(folder: Path) -> None:
    with pytest.raises(lr.DataError, match=r"^random: no such file or directory"):
        lr.Session.of("m.onnx", lr.DataSources(data="random"))
    with pytest.raises(lr.DataError, match=r"^random: no such file or directory"):
        lr.compare("m.onnx", "m.onnx", "random")
    assert not lr.DataSources(data="random").random
    assert lr.DataSources(data=lr.RANDOM).random
    session = lr.Session.of("m.onnx", lr.RANDOM, lr.Options(seed=3))
    assert len(session.split.calibration) + len(session.split.screening or ()) + len(session.split.validation) == 64
    compared = lr.compare("m.onnx", "m.onnx", lr.RandomData(count=20), lr.Gate(max_drop=0.5, observed=True))
    assert any("random data" in note for note in compared.warnings)
    tested = lr.DataSources(data="cal.npz", test=lr.RandomData(count=9))
    assert tested.random
    assert len(lr.Session.of("m.onnx", tested, lr.Options(seed=3)).split.test or ()) == 9


def test_an_empty_path_is_not_the_current_directory(folder: Path) -> None:
    with pytest.raises(lr.DataError, match="is empty"):
        lr.Session.of("m.onnx", lr.DataSources(data=""))


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (("--random-data", "--input-shape", "x:3,32"), 0, ""),
        (("--random-data", "--input-shape", "x:3,31"), 1, "3x31 does not fit, the model has nx32"),
        (("--random-data", "--input-shape", "y:3"), 1, "no input is called so; the inputs are x"),
        (("--random-data", "--input-shape", "x"), 2, "write NAME:1,3,224,224"),
        (("--data", "cal.npz", "--input-shape", "x:3,32"), 2, "samples have shapes of their own"),
    ],
)
def test_the_shape_of_invented_samples_can_be_given(
    folder: Path, more: tuple[str, ...], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    done = run("optimize", "m.onnx", *more, "--observed", "--dry-run", "--sensitivity", "weights", "--threads", 1)
    assert done.exit_code in (code, 3 if code == 0 else code), done.output
    assert said in done.output
