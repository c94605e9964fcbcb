"""Commands to copy from the page: what was run, and the same with another plan's size as its target."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from onnx_lowrank.cli.optimize_command import optimize
from onnx_lowrank.report.html.commands import REPLACED, about_command, command_for

BEFORE = {"parameters": 1000, "bytes": 4000, "macs": 9000.0, "milliseconds": 2.0}
SIZE = {"parameters": 333, "bytes": 1500, "macs": 3000.0, "milliseconds": 1.5}
COMPACT = {"gate": {}, "resource": "parameters", "min_speedup": None}
LOSSLESS = {"gate": {}, "keep": None, "target_size": None, "target_macs": None, "target_latency": None}


def report(line: str, goal: dict[str, Any] = COMPACT) -> dict[str, Any]:
    return {"command": shlex.split(line), "goal": goal, "before": BEFORE, "source": "m.onnx"}


def other(line: str, goal: dict[str, Any] = COMPACT) -> str:
    return command_for(report(line, goal), SIZE, chosen=False)


def test_the_command_of_the_chosen_plan_is_the_one_that_was_run() -> None:
    line = "onnx-lowrank optimize 'a dir/m.onnx' --images photos --then quantize --bits auto --max-drop 0.02"
    assert command_for(report(line), SIZE, chosen=True) == line
    assert about_command(report(line), "certified", chosen=True) == "The command that was run:"


def test_another_plan_keeps_all_that_was_chosen() -> None:
    line = "onnx-lowrank optimize 'a dir/m.onnx' --text t.txt --then quantize --set '*=dense' --max-drop 0.02 --bits 32"
    assert other(line) == f"{line} --keep 0.333"


@pytest.mark.parametrize(
    ("resource", "target"),
    [
        ("parameters", "--keep 0.333"),
        ("bytes", "--target-size 1500B"),
        ("macs", "--target-macs 0.333334"),
        ("latency", "--target-latency 0.75"),
    ],
)
def test_the_target_is_in_the_resource_of_the_goal(resource: str, target: str) -> None:
    line = f"onnx-lowrank optimize m.onnx --algorithm compact --minimize {resource} --data d.npz"
    assert other(line, COMPACT | {"resource": resource}) == f"onnx-lowrank optimize m.onnx --data d.npz {target}"


@pytest.mark.parametrize("given", ["--target-size 10kB --target-latency 0.9", "--target-size=10kB --target-latency=.9"])
def test_targets_are_replaced_however_they_were_written(given: str) -> None:
    goal = LOSSLESS | {"target_size": 10_000, "target_latency": 0.9}
    told = other(f"onnx-lowrank optimize m.onnx {given} --algorithm=lossless --seed 3", goal)
    assert told == "onnx-lowrank optimize m.onnx --seed 3 --target-size 1500B --target-latency 0.75"


def test_lossless_without_a_target_gets_a_share_of_the_parameters() -> None:
    assert other("onnx-lowrank optimize m.onnx --algorithm lossless", LOSSLESS).endswith("m.onnx --keep 0.333")


def test_targets_stand_before_words_that_are_no_options() -> None:
    assert other("onnx-lowrank optimize --data d.npz -- --keep") == (
        "onnx-lowrank optimize --data d.npz --keep 0.333 -- --keep"
    )


def test_what_a_file_of_options_looks_for_is_overruled() -> None:
    told = other("onnx-lowrank optimize m.onnx --config c.toml")
    assert told.endswith("--config c.toml --algorithm lossless --minimize parameters --keep 0.333")


@pytest.mark.parametrize("words", [[], ["pytest", "-q"]])
@pytest.mark.parametrize("chosen", [True, False])
def test_without_a_command_its_shape_is_told(words: list[str], chosen: bool) -> None:
    made = report("") | {"command": words}
    told = "onnx-lowrank optimize … --target-size 1500B --data … --validation …"
    assert command_for(made, SIZE, chosen=chosen) == told
    assert about_command(made, "certified", chosen=chosen) == (
        "The command that makes the most accurate model of this size:"
    )


def test_a_plan_that_failed_is_said_to_need_another_gate() -> None:
    assert "--max-drop" in about_command(report("onnx-lowrank optimize m.onnx"), "failed", chosen=False)


def test_the_command_line_takes_what_is_told(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.touch()
    told = other(f"onnx-lowrank optimize {model} --data d.npz --minimize macs", COMPACT | {"resource": "macs"})
    parsed = optimize.make_context("optimize", shlex.split(told)[2:]).params
    assert parsed["target_macs"] == 0.333334
    assert parsed["minimize"] == "parameters"


@pytest.mark.parametrize("name", REPLACED)
def test_options_that_are_replaced_have_one_value(name: str) -> None:
    option = next(param for param in optimize.params if name in param.opts)
    assert isinstance(option, click.Option)
    assert not option.is_flag
    assert option.nargs == 1
