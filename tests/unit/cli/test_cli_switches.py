"""The command line's switches for sensitivity, the curve's file, and options that fit nothing."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import fields
from pathlib import Path

import cli_runs
import click
import numpy as np
import onnx
import pytest
from builders import mlp, normal, run
from click.testing import CliRunner, Result

from onnx_lowrank.cli import main
from onnx_lowrank.cli.shared_options import options_of
from onnx_lowrank.errors import GoalError
from onnx_lowrank.options import LEAST_MEMORY, Options, Runtime
from onnx_lowrank.pipeline import Session

SWITCHES = ("sensitivity", "exponents", "objective", "loss", "signed", "inter_layer", "refit", "continuation")
BOUNDS = ("gamma", "memory")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classifier of two weights of rank 4, labelled samples, and a loss."""
    model = mlp([16, 24, 10], [4, 4], 1)
    model.graph.node[-1].output[0] = model.graph.output[0].name = "logits"
    onnx.save(model, str(tmp_path / "model.onnx"))
    for name, seed, count in (("cal", 1, 73), ("val", 2, 80)):
        x = normal([count, 16], seed)
        np.savez(tmp_path / f"{name}.npz", x=x, labels=run(model, {"x": x})["logits"].argmax(1))
    (tmp_path / "loss.py").write_text(
        "import numpy as np\n"
        "def good(outputs, label):\n"
        "    p = np.exp(outputs['logits']); p /= p.sum(); p[0, label] -= 1\n"
        "    return {'logits': p}\n"
        "def wrong(outputs, label):\n    return {'logits': np.zeros(3)}\n"
        "def broken(outputs, label):\n    return 1 / 0\n"
    )
    return tmp_path


def optimize(folder: Path, *more: object) -> Result:
    data = ("--data", folder / "cal.npz", "--validation", folder / "val.npz", "--threads", 1, "--rank-multiple", 2)
    return cli_runs.run("optimize", folder / "model.onnx", *data, "--observed", "--max-drop", 0, *more)


def refused(done: Result, code: int, text: str) -> None:
    assert done.exit_code == code, done.output
    assert text in " ".join(done.output.split())
    assert "Traceback" not in done.output
    if code == 1:
        assert len(done.output.splitlines()) == 1


def record(folder: Path) -> dict[str, object]:
    saved = onnx.load(str(folder / "model.lowrank.onnx"))
    return json.loads(next(p.value for p in saved.metadata_props if p.key == "onnx_lowrank"))


@pytest.mark.parametrize("choice", ["joint", "inputs", "weights", "paper"])
def test_every_sensitivity_saves_a_model_that_names_it(folder: Path, choice: str):
    done = optimize(folder, "--sensitivity", choice, "--gamma", 0.5, "--no-refit")
    assert done.exit_code == 0, done.output
    assert (record(folder)["sensitivity"], record(folder)["switches"]) == (choice, [])


def test_a_refit_that_nobody_asked_for_is_told(folder: Path):
    assert optimize(folder).exit_code == 0
    assert record(folder)["switches"] == ["refit"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--exponents", 1, 0.5, "--no-refit"), "exponents"),
        (("--objective", "labels", "--no-refit"), "objective"),
        (("--objective", "labels", "--no-refit", "--loss", "loss.py:good"), "objective"),
        (("--signed", "--no-refit"), "signed"),
        (("--signed", "--no-refit", "--loss", "loss.py:good"), "signed"),
        (("--inter-layer", "--no-refit"), "inter_layer"),
        (("--refit",), "refit"),
        (("--continuation", 2), "continuation"),
    ],
)
def test_every_switch_reaches_the_model(folder: Path, arguments: tuple[object, ...], named: str):
    done = optimize(folder, *(folder / a if a == "loss.py:good" else a for a in arguments))
    assert done.exit_code == 0, done.output
    assert record(folder)["switches"] == [named]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--sensitivity", "magic"), 2, "'magic' is not one of"),
        (("--memory", "1kB"), 2, "at least 16 MiB, not 1000 bytes"),
        (("--memory", "lots"), 2, "is not a size"),
        (("--gamma", "0"), 2, "--gamma must be more than 0"),
        (("--gamma", "nan"), 2, "--gamma must be more than 0"),
        (("--continuation", "9"), 2, "is not in the range 1<=x<=8"),
        (("--continuation", "0"), 2, "is not in the range 1<=x<=8"),
        (("--continuation", "2", "--save-plan", "p.json"), 2, "leave --save-plan out"),
        (("--continuation", "2", "--sensitivity", "inputs"), 2, "--continuation belongs to --sensitivity joint"),
        (("--inter-layer", "--sensitivity", "paper"), 2, "--inter-layer belongs to --sensitivity joint"),
        (("--signed", "--sensitivity", "weights"), 2, "--signed belongs to --sensitivity joint"),
        (("--exponents", "1", "1.5"), 2, "two numbers from 0 to 1, of inputs and gradients (1 0.5), not 1 1.5"),
        (("--exponents", "1", "half"), 2, "'half' is not a valid float"),
        (("--exponents", "1", "0", "--sensitivity", "inputs"), 2, "--exponents belongs to --sensitivity joint"),
        (("--objective", "truth"), 2, "'truth' is not one of 'original', 'labels'"),
        (("--objective", "labels", "--sensitivity", "weights"), 2, "--objective labels belongs to --sensitivity joint"),
        (("--objective", "labels", "--loss", "l.py:f", "--save-plan", "p.json"), 2, "leave --save-plan out"),
        (("--objective", "labels", "--loss", "nothing.py:good"), 1, "no such file; give FILE.py:function"),
        (("--loss", "loss.py:good"), 2, "only used with --signed or --sensitivity paper"),
        (("--signed", "--loss", "nothing.py:good"), 1, "no such file; give FILE.py:function"),
        (("--signed", "--loss", "loss.py"), 1, "which function?"),
        (("--signed", "--loss", "loss.py:other"), 1, "it has good, wrong, broken"),
        (("--signed", "--loss", "loss.py:wrong"), 1, "a gradient of shape (3,) at 'logits'"),
        (("--signed", "--loss", "loss.py:broken"), 1, "ZeroDivisionError"),
        (("--sensitivity", "paper", "--algorithm", "lossless", "--keep", "0.5", "--gamma", "1e-9"), 1, "--gamma 1e-09"),
        (("--pareto", "nowhere/x.csv"), 1, "no directory"),
    ],
)
def test_wrong_use_is_refused_and_leaves_nothing(
    folder: Path, arguments: tuple[str, ...], code: int, text: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    refused(optimize(folder, *arguments), code, text)
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


def test_a_missing_directory_for_the_curve_is_told_before_any_work(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Session, "of", lambda *a, **k: pytest.fail("work was begun"))
    refused(optimize(folder, "--pareto", folder / "nowhere" / "x.csv"), 1, "there is no directory")


@pytest.mark.parametrize("text", ["16MiB", "17MB", "1GB", str(LEAST_MEMORY)])
def test_memory_as_people_write_it(folder: Path, text: str):
    assert optimize(folder, "--memory", text, "--dry-run").exit_code == 0


def test_the_curve_is_written_beside_the_other_files(folder: Path):
    asked = ("--report", folder / "r.json", "--save-plan", folder / "p.json", "--max-drop", 0.5)
    model = onnx.load(str(folder / "model.onnx"))  # some noise on top: a rank that loses nothing leaves no curve
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        noisy = array + 0.02 * normal(array.shape, array.size)
        tensor.CopyFrom(onnx.numpy_helper.from_array(noisy, tensor.name))
    onnx.save(model, str(folder / "model.onnx"))
    done = optimize(folder, "--pareto", folder / "x.csv", *asked)
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((folder / "x.csv").read_text().splitlines()))
    assert len(rows) > 5
    assert float(rows[0]["kept"]) == 1.0
    assert int(rows[-1]["parameters"]) < int(rows[0]["parameters"])
    assert sum(row["drop"] != "" for row in rows) >= 5
    assert {row["metric"] for row in rows} == {"", "top1"}
    assert optimize(folder, "--pareto", folder / "x.json", "--dry-run").exit_code == 0
    points = json.loads((folder / "x.json").read_text())["points"]
    assert [str(p["parameters"]) for p in points] == [row["parameters"] for row in rows]


def test_a_model_without_sites_ends_with_its_reasons_and_no_curve(folder: Path):
    done = optimize(folder, "--exclude", "*", "--pareto", folder / "x.csv", "--report", folder / "r.json")
    assert done.exit_code == 3, done.output
    assert "excluded by the user" in done.output
    assert (folder / "r.json").exists()
    assert not (folder / "x.csv").exists()


@pytest.mark.parametrize(
    "more",
    [
        ("--exponents", 1, 0.5),
        ("--objective", "labels"),
        ("--signed",),
        ("--inter-layer",),
        ("--refit",),
        ("--refit", "--sensitivity", "weights"),
        ("--exclude", "fc1"),
        ("--sensitivity", "paper", "--gamma", 0.5),
        ("--sensitivity", "paper", "--gamma", 0.5, "--loss", "loss.py:good"),
    ],
    ids=str,
)
def test_a_plan_made_with_any_switch_is_repeated(
    folder: Path, more: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder)
    done = optimize(folder, *more, "--save-plan", "p.json", "-o", "a.onnx")
    assert done.exit_code == 0, done.output
    data = ("--data", "cal.npz", "--validation", "val.npz", "--threads", "1")
    done = CliRunner().invoke(main, ["apply", "p.json", "model.onnx", "-o", "b.onnx", *data])
    assert done.exit_code == 0, done.output
    assert onnx.load("a.onnx").graph == onnx.load("b.onnx").graph


def test_help_says_something_of_every_option():
    command = main.commands["optimize"]
    text = CliRunner().invoke(main, ["optimize", "--help"]).output
    given = [p for p in command.params if isinstance(p, click.Option)]
    assert {p.name for p in given} >= {*SWITCHES, *BOUNDS} | {"pareto", "save_plan"}
    for option in given:
        assert option.help
        assert all(name in text for name in option.opts)
    assert "1GiB" in text
    assert "[default: 0.1]" in text


def test_every_option_of_the_library_can_be_given_on_the_command_line():
    """Each value arrives: what is given differs from the default in every field."""
    given = {
        "sensitivity": "joint", "metric": "top1", "include": ("a",), "exclude": ("b",), "rank_multiple": 3,
        "provider": "cpu", "threads": 2, "seed": 4, "memory": 2**25, "signed": True, "inter_layer": True,
        "exponents": (1.0, 0.5), "objective": "labels",
        "refit": True, "continuation": 2, "gamma": 0.2, "loss": "f.py:f", "then": "quantize", "shared_input": False,
        "outputs": ("y",), "groups": "patient", "allow_weak_baseline": True, "allow_random": True,
        "temperature": True, "logit_bias": True, "last_layer": True, "bits": (32,), "overrides": ("w=dense",),
        "cache_dir": "kept", "cache_limit": 5, "time_budget": 60.0,
            "save_as_external_data": True, "shard_size": 2**21, "executor": "local:2",
    }  # fmt: skip
    runtime = {field.name for field in fields(Runtime)}
    assert given.keys() - runtime == {field.name for field in fields(Options)} - {"runtime"}
    assert given.keys() <= {p.name for p in main.commands["optimize"].params}
    made = options_of(given)
    assert {name: getattr(made.runtime if name in runtime else made, name) for name in given} == given
    assert made.runtime.provider != Runtime().provider
    assert made.runtime.threads != Runtime().threads
    rest = given.keys() - runtime
    assert [n for n in sorted(rest) if getattr(made, n) == getattr(Options(), n)] == ["sensitivity"]
    assert options_of({"bits": (8, 32)}).bits == (8, 32)  # which does not go with some of the others


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"gamma": 0.0}, "--gamma"),
        ({"gamma": -1.0}, "--gamma"),
        ({"gamma": math.nan}, "--gamma"),
        ({"gamma": math.inf}, "--gamma"),
        ({"continuation": 0}, "--continuation"),
        ({"continuation": -3}, "--continuation"),
        ({"memory": LEAST_MEMORY - 1}, "memory bound"),
        ({"sensitivity": "magic"}, "unknown sensitivity"),
        ({"exponents": (1.0, -0.5)}, "--exponents takes two numbers"),
        ({"exponents": (1.0, math.nan)}, "--exponents takes two numbers"),
        ({"exponents": (1.0,)}, "--exponents takes two numbers"),
        *(({"exponents": (1.0, 0.5), "sensitivity": s}, "--exponents belongs") for s in ("inputs", "weights", "paper")),
        ({"objective": "truth"}, "unknown objective 'truth': take 'original' or 'labels'"),
        *(({"objective": "labels", "sensitivity": s}, "--objective labels belongs") for s in ("inputs", "paper")),
        ({"loss": "f.py:f"}, "only used with --signed"),
        ({"loss": "f.py:f", "sensitivity": "weights"}, "only used with --signed"),
        ({"signed": True, "sensitivity": "inputs"}, "--signed belongs"),
        ({"signed": True, "sensitivity": "weights"}, "--signed belongs"),
        *(({"inter_layer": True, "sensitivity": s}, "--inter-layer belongs") for s in ("inputs", "weights", "paper")),
        *(({"continuation": 2, "sensitivity": s}, "--continuation belongs") for s in ("inputs", "weights", "paper")),
    ],
)
def test_options_that_cannot_be_meant_are_refused(values: dict[str, object], text: str):
    with pytest.raises(GoalError, match=text) as caught:
        Options(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"loss": "f.py:f", "signed": True},
        {"loss": "f.py:f", "objective": "labels"},
        {"objective": "original", "sensitivity": "weights"},
        {"loss": "f.py:f", "sensitivity": "paper"},
        {"memory": LEAST_MEMORY, "gamma": 1e-9, "continuation": 1},
        *({"refit": True, "sensitivity": s} for s in ("joint", "inputs", "weights", "paper")),
    ],
)
def test_options_that_can_be_meant_are_taken(values: dict[str, object]):
    made = Options(**values)
    assert {name: getattr(made, name) for name in values} == values
