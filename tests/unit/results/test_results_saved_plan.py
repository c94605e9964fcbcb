"""A saved plan: it survives its file, and a file that is no plan is refused with a line for the user."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from onnx_lowrank.errors import PlanError
from onnx_lowrank.options import Options
from onnx_lowrank.results.saved_plan import SavedChoice, SavedPlan, read_plan
from onnx_lowrank.types import UNCHANGED, Choice, Cost, Form, Option, Plan

PLAN = SavedPlan("ab" * 32, "inputs", 3, 8, (SavedChoice("y", "W", (6, 4, 3, 3), "kernel-first", (2,)),), "tool 1")


def test_a_plan_survives_its_file(tmp_path: Path):
    path = tmp_path / "plan.json"
    path.write_text(PLAN.to_json(), encoding="utf-8")
    assert read_plan(path) == PLAN
    assert PLAN.needs_data
    assert not replace(PLAN, sensitivity="weights").needs_data


def test_a_saved_plan_holds_what_is_factored():
    choices = (Choice("a", "A", Option(UNCHANGED, Cost())), Choice("b", "B", Option(Form("svd", (3,)), Cost())))
    saved = SavedPlan.of(Plan(choices), {"a": (9, 9), "b": (8, 7)}, "hash", Options(seed=5, rank_multiple=2), "t")
    choices = (SavedChoice("b", "B", (8, 7), "svd", (3,)),)
    assert saved == SavedPlan("hash", "joint", 5, 2, choices, "t", shared_input=True)


def damaged(change: str) -> str:
    content = json.loads(PLAN.to_json())
    if change == "format":
        content["format"] = "a recipe"
    elif change == "version":
        content["version"] = 99
    elif change == "missing":
        del content["model_sha256"]
    elif change == "choices":
        content["choices"] = [{"site": "y"}]
    elif change == "ranks":
        content["choices"][0]["ranks"] = "many"
    elif change == "list":
        return "[1, 2]"
    elif change == "cut":
        return PLAN.to_json()[:100]
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("format", "is not a plan"),
        ("version", "is a plan of version 99; this tool reads version 2"),
        ("missing", "is damaged (KeyError: 'model_sha256')"),
        ("choices", "is damaged (KeyError"),
        ("ranks", "is damaged (ValueError"),
        ("list", "is not a plan"),
        ("cut", "cannot be read as a plan"),
    ],
)
def test_a_file_that_is_no_plan(tmp_path: Path, change: str, says: str):
    path = tmp_path / "plan.json"
    path.write_text(damaged(change), encoding="utf-8")
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_plan_and_a_directory(tmp_path: Path):
    with pytest.raises(PlanError, match="no such file"):
        read_plan(tmp_path / "none.json")
    with pytest.raises(PlanError, match="cannot be read as a plan"):
        read_plan(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="cannot be read as a plan"):
        read_plan(tmp_path / "binary")


def test_an_older_refit_is_repeated_on_as_many_samples_as_it_had(tmp_path: Path):
    path = tmp_path / "plan.json"
    today = SavedPlan.of(Plan(()), {}, "hash", Options(refit=True), "t", refitted_on=512)
    path.write_text(today.to_json(), encoding="utf-8")
    assert read_plan(path).refitted_on == 512
    path.write_text(today.to_json().replace('  "refitted_on": 512,\n', ""), encoding="utf-8")
    assert read_plan(path).refitted_on == 64
