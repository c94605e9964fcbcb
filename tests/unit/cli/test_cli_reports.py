"""What programs read: reports on standard output, of errors as well; exit codes; plans that differ; marked nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from builders import classifier_folder
from cli_runs import optimize, run
from jsonschema import Draft202012Validator, ValidationError

from onnx_lowrank import DataSources, Gate, Options, Runtime, RuntimeProblem, compare, inspect
from onnx_lowrank import optimize as optimize_model
from onnx_lowrank.goals import Compact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return classifier_folder(tmp_path)


def check(kind: str, report: object) -> None:
    """Hold a file to its published schema."""
    Draft202012Validator(json.loads(run("schema", kind).output)).validate(report)


def test_a_report_on_standard_output_is_all_that_is_there(folder: Path):
    done = optimize(folder, "--json", "-")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["exit_code"], report["changed"]) == (0, True)
    check("report", report)
    assert "Before and after" in done.stderr
    assert not (folder / "-").exists()


@pytest.mark.parametrize("arguments", [("inspect", "model.onnx"), ("compare", "model.onnx", "model.onnx")])
def test_other_commands_report_there_as_well(folder: Path, arguments: tuple[str, ...]):
    command, *models = arguments
    data = ("--data", folder / "val.npz", "--threads", 1, "--observed") if command == "compare" else ()
    done = run(command, *(folder / model for model in models), *data, "--report", "-")
    report = json.loads(done.stdout)
    assert report["exit_code"] == done.exit_code == 0, done.stderr
    check({"compare": "comparison", "inspect": "inspection"}[command], report)


def test_nothing_else_goes_to_standard_output(folder: Path):
    done = optimize(folder, "--html", "-")
    assert done.exit_code == 1
    assert "--html - is no file: only --report can go to standard output" in done.stderr


def test_an_error_has_a_report_too(folder: Path):
    done = run("optimize", folder / "none.onnx", "--data", folder / "cal.npz", "--report", folder / "r.json")
    assert done.exit_code == 1
    report = json.loads((folder / "r.json").read_text())
    assert report["format"] == "onnx-lowrank error"
    check("error", report)
    assert (report["exit_code"], report["error"]) == (1, "ModelError")
    assert f"error: {report['reason']}" == done.stderr.strip()
    assert report["command"][0] == "onnx-lowrank"
    assert report["host"]["onnx"] == onnx.__version__
    again = run("optimize", folder / "none.onnx", "--data", folder / "cal.npz", "--report", folder / "r.json")
    assert "r.json exists" in again.stderr
    there = run("optimize", folder / "none.onnx", "--data", folder / "cal.npz", "--json", "-")
    assert json.loads(there.stdout)["reason"] == report["reason"]


def test_what_bars_another_output_has_a_report_too_and_bars_itself(folder: Path):
    """An error before any work: the model's place is taken; a report that is barred itself is not written."""
    model, report = folder / "model.onnx", folder / "r.json"
    taken = folder / "model.lowrank.onnx"
    taken.write_bytes(b"mine")
    done = optimize(folder, "--report", report)
    assert done.exit_code == 1
    content = json.loads(report.read_text())
    check("error", content)
    assert content["exit_code"] == 1
    assert f"error: {content['reason']}" == done.stderr.strip()
    assert "model.lowrank.onnx exists; give --force" in content["reason"]
    assert taken.read_bytes() == b"mine"
    before = report.read_bytes()
    assert optimize(folder, "--report", report, "--seed", 1).exit_code == 1
    assert report.read_bytes() == before  # which stays without --force
    done = optimize(folder, "--report", report, "--force", "-o", folder / "nowhere" / "m.onnx")
    assert "there is no directory" in json.loads(report.read_text())["reason"] in done.stderr
    assert report.read_bytes() != before
    original = model.read_bytes()
    for place in (model, taken):
        assert optimize(folder, "--report", place, "-o", taken, "--force").exit_code == 1
    assert (model.read_bytes(), taken.read_bytes()) == (original, b"mine")


def test_an_error_before_the_outputs_are_known_has_a_report_too(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def missing() -> None:
        raise RuntimeProblem("it is not installed")

    monkeypatch.setattr("onnx_lowrank.cli.optimize_command.needed_for_html", missing)
    for name, written in (("r.json", True), ("model.onnx", False)):
        done = optimize(folder, "--html", folder / "p.html", "--report", folder / name, "--force")
        assert (done.exit_code, done.stderr) == (1, "error: it is not installed\n")
        assert (b"it is not installed" in (folder / name).read_bytes()) == written


def test_nothing_found_has_a_report_with_its_exit_code(folder: Path):
    done = optimize(folder, "--exclude", "*", "--json", "-")
    assert done.exit_code == 3
    report = json.loads(done.stdout)
    assert (report["exit_code"], report["changed"]) == (3, False)
    check("report", report)


def test_less_than_was_asked_for_has_an_exit_code_of_its_own(folder: Path):
    done = optimize(folder, "--fail-under", 0.1)
    assert done.exit_code == 0, done.stderr
    done = optimize(folder, "--fail-under", 0.95, "--force")
    assert done.exit_code == 4
    assert "of the bytes are saved, and --fail-under asks for 95.0%" in done.stderr
    assert (folder / "model.lowrank.onnx").exists()
    assert optimize(folder, "--fail-under", 30).exit_code == 2


def test_plans_are_compared_weight_by_weight(folder: Path):
    for name, more in (("a", ("--set", "W1=rank:5")), ("b", ("--set", "W1=rank:7", "--seed", 3)), ("c", ())):
        done = optimize(folder, "--max-drop", 0.9, *more, "--save-plan", folder / f"{name}.json", "--dry-run")
        assert done.exit_code == 0, done.output
    check("plan", json.loads((folder / "a.json").read_text()))
    done = run("diff", folder / "a.json", folder / "b.json")
    assert done.exit_code == 0, done.output
    (row,) = [line for line in done.output.splitlines() if "W1" in line]
    assert row.split() == ["W1", "64×32", "svd", "5", "svd", "7"]
    assert "· seed: 0 and 3" in done.output
    assert done.output.splitlines()[-1].startswith("1 weight differs, ")
    assert "0 weights differ" in run("diff", folder / "a.json", folder / "a.json").output
    wrong = run("diff", folder / "a.json", folder / "model.onnx")
    assert wrong.exit_code == 1
    assert "give a file written by `optimize --save-plan`" in wrong.output


def test_nodes_say_what_became_of_their_weight(folder: Path):
    assert optimize(folder, "--set", "W1=rank:8", "--save-plan", folder / "p.json").exit_code == 0
    made = onnx.load(str(folder / "model.lowrank.onnx"))
    (first, *_) = ({p.key: p.value for p in n.metadata_props} for n in made.graph.node if n.metadata_props)
    assert first["onnx_lowrank.form"] == "svd 8"
    assert 0 < float(first["onnx_lowrank.kept"]) < 0.5
    assert first.keys() <= {"onnx_lowrank.form", "onnx_lowrank.kept", "onnx_lowrank.loss"}
    onnx.checker.check_model(made)
    data = ("--data", folder / "cal.npz", "--validation", folder / "val.npz", "--threads", 1)
    done = run("apply", folder / "p.json", folder / "model.onnx", "-o", folder / "again.onnx", *data)
    assert done.exit_code == 0, done.output
    assert onnx.load(str(folder / "again.onnx")).graph == made.graph


def test_schemas_are_those_of_the_types_and_hold_what_is_wrong_off():
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, root / "tools" / "report_schema.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert run("schema", "nothing").exit_code == 2
    for kind in ("report", "plan", "error", "comparison", "inspection"):
        with pytest.raises(ValidationError):
            check(kind, {"format": f"onnx-lowrank {kind}"})


def test_results_show_themselves_in_one_line_and_in_a_table(folder: Path):
    options, gate = Options(runtime=Runtime(threads=1, provider="cpu")), Gate(max_drop=0.0, observed=True)
    sources = DataSources(data=folder / "cal.npz", validation=folder / "val.npz")
    result = optimize_model(folder / "model.onnx", sources, Compact(gate=gate), options)
    compared = compare(folder / "model.onnx", folder / "model.onnx", folder / "val.npz", gate, options)
    for shown, kind in ((result, "Result"), (compared, "Comparison"), (inspect(folder / "model.onnx"), "Inspection")):
        assert repr(shown).startswith(f"<{kind}: ")
        assert "\n" not in repr(shown)
        assert len(repr(shown)) < 200
        page = shown._repr_html_()
        assert page.count("<tr>") == page.count("</tr>") > 1
    assert "→" in repr(result)
    assert "dtype" not in repr(result)
