"""The command line: exit codes, one-line errors, files written and not written."""

from __future__ import annotations

import json
from pathlib import Path

import click
import onnx
import pytest
from builders import classifier_folder
from cli_runs import optimize, run

from onnx_lowrank import __version__
from onnx_lowrank.cli import main
from onnx_lowrank.cli.shared_options import Bytes

COMMANDS = tuple(main.commands)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return classifier_folder(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_does_not_hang_on_who_parsed_a_command_first(command: str) -> None:
    made = main.commands[command]
    made._help_option = None  # as in a new process
    made.get_help_option(click.Context(made, info_name=command))  # a context without the group's settings
    done = run(command, "-h")
    assert (done.exit_code, done.output[:6]) == (0, "Usage:"), done.output


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(command: str, flag: str) -> None:
    done = run(command, flag)
    assert done.exit_code == 0
    assert done.output.startswith("Usage:")


def test_version() -> None:
    assert __version__ in run("--version").output


def test_the_default_output_stands_beside_the_model_and_passes(folder: Path) -> None:
    done = optimize(folder)
    assert done.exit_code == 0, done.output
    saved = folder / "model.lowrank.onnx"
    assert saved.stat().st_size < (folder / "model.onnx").stat().st_size
    assert "svd" in done.output
    share = 100 * saved.stat().st_size / (folder / "model.onnx").stat().st_size
    assert done.output.splitlines()[-1] == f"saved {saved}: observed, {share:.1f} % of the bytes"
    assert max(len(line) for line in done.output.splitlines() if str(folder) not in line) <= 80
    assert sorted(p.name for p in folder.iterdir()) == ["cal.npz", "model.lowrank.onnx", "model.onnx", "val.npz"]


def test_an_existing_output_needs_force(folder: Path) -> None:
    (folder / "model.lowrank.onnx").write_text("mine")
    done = optimize(folder)
    assert done.exit_code == 1
    assert "--force" in done.output
    assert (folder / "model.lowrank.onnx").read_text() == "mine"
    assert optimize(folder, "--force").exit_code == 0


def test_the_input_is_never_overwritten(folder: Path) -> None:
    before = (folder / "model.onnx").read_bytes()
    done = optimize(folder, "-o", folder / "model.onnx", "--force")
    assert done.exit_code == 1
    assert "never overwritten" in done.output
    assert (folder / "model.onnx").read_bytes() == before


def test_exit_code_3_writes_no_model_and_shows_reasons(folder: Path) -> None:
    done = optimize(folder, "--exclude", "*")
    assert done.exit_code == 3
    assert "excluded by the user" in done.output
    assert "NOTHING SAVED" in done.output
    assert not list(folder.glob("*.lowrank.onnx"))


def test_dry_run_writes_no_model_but_what_is_asked_for(folder: Path) -> None:
    done = optimize(folder, "--dry-run", "--report", folder / "r.json", "--save-plan", folder / "p.json")
    assert done.exit_code == 0, done.output
    assert not list(folder.glob("*.lowrank.onnx"))
    report = json.loads((folder / "r.json").read_text())
    assert report["changed"] is True
    assert report["algorithm"] == "compact"
    assert report["checks"][0]["measured"] > 0
    assert json.loads((folder / "p.json").read_text())["choices"]


def test_quiet_prints_nothing(folder: Path) -> None:
    done = optimize(folder, "--quiet")
    assert (done.exit_code, done.output) == (0, "")


def test_a_saved_plan_gives_the_same_bytes_of_weights(folder: Path) -> None:
    assert optimize(folder, "--save-plan", folder / "p.json", "-o", folder / "a.onnx").exit_code == 0
    data = ("--data", folder / "cal.npz", "--validation", folder / "val.npz")
    done = run("apply", folder / "p.json", folder / "model.onnx", "-o", folder / "b.onnx", *data)
    assert done.exit_code == 0, done.output
    first, second = (onnx.load(str(folder / name)).graph for name in ("a.onnx", "b.onnx"))
    assert first == second


def test_apply_asks_for_data_and_for_the_right_model(folder: Path) -> None:
    optimize(folder, "--save-plan", folder / "p.json", "-o", folder / "a.onnx")
    done = run("apply", folder / "p.json", folder / "model.onnx", "-o", folder / "b.onnx")
    assert (done.exit_code, "--data" in done.output) == (1, True)
    done = run("apply", folder / "p.json", folder / "a.onnx", "-o", folder / "b.onnx", "--data", folder / "cal.npz")
    assert (done.exit_code, "another model" in done.output) == (1, True)
    assert not (folder / "b.onnx").exists()


def test_a_plan_from_weights_needs_no_data(folder: Path) -> None:
    done = optimize(folder, "--sensitivity", "weights", "--save-plan", folder / "p.json", "-o", folder / "a.onnx")
    assert done.exit_code == 0, done.output
    done = run("apply", folder / "p.json", folder / "model.onnx", "-o", folder / "b.onnx")
    assert done.exit_code == 0, done.output
    assert onnx.load(str(folder / "a.onnx")).graph == onnx.load(str(folder / "b.onnx")).graph


def test_compare_ends_with_its_word(folder: Path) -> None:
    optimize(folder)
    same = run(
        "compare", folder / "model.onnx", folder / "model.lowrank.onnx", "--data", folder / "val.npz", "--observed"
    )
    assert (same.exit_code, same.output.splitlines()[-1]) == (0, "OBSERVED")
    sure = run(
        "compare", folder / "model.onnx", folder / "model.lowrank.onnx", "--data", folder / "val.npz", "--max-drop", 0.1
    )
    assert (sure.exit_code, sure.output.splitlines()[-1]) == (0, "CERTIFIED")
    assert sure.stdout.startswith("certified: top1 ")
    broken = onnx.load(str(folder / "model.onnx"))
    array = onnx.numpy_helper.to_array(broken.graph.initializer[1])
    broken.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(-array, "W2"))
    onnx.save(broken, str(folder / "broken.onnx"))
    other = run("compare", folder / "model.onnx", folder / "broken.onnx", "--data", folder / "val.npz")
    assert (other.exit_code, other.output.splitlines()[-1]) == (3, "FAILED")


def test_inspect_lists_every_weight(folder: Path) -> None:
    done = run("inspect", folder / "model.onnx", "--all", "--report", folder / "i.json")
    assert done.exit_code == 0
    assert "W1" in done.output
    assert "W2" in done.output
    report = json.loads((folder / "i.json").read_text())
    assert [row["site"]["weight"] for row in report["rows"]] == ["W1"]
    assert report["rows"][0]["rank_for"]["0.99"] <= 8
    assert [skip["weight"] for skip in report["skips"]] == ["W2"]


def test_random_data_warns_in_the_report_and_in_the_model(folder: Path) -> None:
    done = run("optimize", folder / "model.onnx", "--random-data", "--metric", "cosine", "--max-drop", 0.5)
    assert done.exit_code == 0, done.output
    assert "random data" in done.output
    saved = onnx.load(str(folder / "model.lowrank.onnx"))
    record = json.loads(next(p.value for p in saved.metadata_props if p.key == "onnx_lowrank"))
    assert "random data" in record["warning"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ((), 2, "--random-data"),
        (("--random-data", "--data", "x.npz"), 2, "either --data"),
        (("--random-data", "--algorithm", "compact", "--keep", "0.5"), 2, "leave --algorithm compact out"),
        (("--random-data", "--algorithm", "lossless"), 1, "by labels: give them with the validation"),
        (("--random-data", "--algorithm", "lossless", "--target-size", "ten"), 2, "10MB"),
        (("--random-data", "--algorithm", "compact", "--target-latency", "0.7"), 2, "leave --algorithm compact out"),
        (("--random-data", "--keep", "1.7"), 2, "--keep is a share"),
        (("--random-data", "--algorithm", "lossless", "--target-latency", "2"), 2, "--target-latency is a share"),
        (("--random-data", "--algorithm", "lossless", "--minimize", "latency"), 2, "goal of the compact"),
        (("--random-data", "--minimize", "latency", "--min-speedup", "0.5"), 2, "1 or more where latency"),
        (("--random-data", "--observed", "--max-drop", "-1"), 2, "0 or more"),
        (("--random-data", "--confidence", "7"), 2, "0.95"),
        (("--data", "missing.npz"), 1, "no such file"),
        (("--random-data", "--report", "/nowhere/at/all/r.json"), 1, "no directory"),
        (("--random-data", "--provider", "Nonsense"), 1, "does not work"),
        (("--random-data", "--metric", "nonsense"), 1, "unknown metric"),
        (("--random-data", "--observed", "--max-drop", "0", "--metric", "kl"), 1, "--max-drop"),
        (("--random-data", "--metric", "top1"), 1, "labels"),
    ],
)
def test_wrong_use_is_one_clear_line(folder: Path, arguments: tuple[str, ...], code: int, text: str) -> None:
    before = sorted(folder.iterdir())
    done = run("optimize", folder / "model.onnx", *arguments)
    assert done.exit_code == code, done.output
    assert text in done.output
    assert "Traceback" not in done.output
    if code == 1:
        assert len(done.output.splitlines()) == 1
    assert sorted(folder.iterdir()) == before


def test_an_unreachable_size_names_the_smallest_which_then_works(folder: Path) -> None:
    goal = ("--algorithm", "lossless", "--max-drop", 1)
    done = optimize(folder, *goal, "--keep", 0.01)
    assert done.exit_code == 1
    smallest = done.output.split("parameters is ")[1].split(";")[0]
    assert optimize(folder, *goal, "--keep", smallest).exit_code == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [("10MB", 10_000_000), ("800kB", 800_000), ("1.5GiB", 3 * 2**29), ("77", 77), ("5 mib", 5 * 2**20)],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert Bytes().convert(text, None, None) == size
