"""docs/pipelines.md against the files it tells of: inputs, settings, hooks, options; its script is run.

docs/features.md: every row has its evidence, and what it names is there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from onnx_lowrank.cli import main
from onnx_lowrank.integrations.request import SETTINGS, request
from tests.action import ACTION, ROOT
from tests.builders import mlp, normal

FEATURES = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def table(heading: str) -> set[str]:
    """Return what stands in backquotes in the first column of the tables of a section."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return {
        name for line in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall("`(.+?)`", line)
    }


def test_options_exist():
    known = {option for each in main.commands.values() for param in each.params for option in param.opts}
    used = set(
        re.findall(r"(?<![\w-])--[a-z][a-z-]+", "".join(re.findall(r"onnx-lowrank .*", "\n".join(blocks("sh")))))
    )
    assert used - known == {"--rm"} & used


def test_the_action_has_the_inputs_of_the_page():
    assert table("GitHub action") == ACTION["inputs"].keys()
    steps = yaml.safe_load(blocks("yaml")[0])["jobs"]["compress"]["steps"]
    ours = next(step for step in steps if "onnx-lowrank@" in step["uses"])
    needed = {name for name, about in ACTION["inputs"].items() if about.get("required")}
    assert needed <= ours["with"].keys() <= ACTION["inputs"].keys()
    told = set(re.findall(rf"steps\.{ours['id']}\.outputs\.(\w+)", PAGE))
    assert told <= ACTION["outputs"].keys()


def test_the_pass_has_the_settings_of_the_page():
    section = PAGE.split("| settings | |")[1].split("\n\n")[0]
    named = set(re.findall(r"`([a-z_]+)`", section)) - {"auto"}
    assert named == {setting.name for setting in SETTINGS}
    settings = next(iter(json.loads(blocks("json")[0])["passes"].values()))
    assert settings.pop("type") == "OnnxLowRank"
    request(settings)


def test_the_hook_is_there():
    hooks = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))}
    used = yaml.safe_load(blocks("yaml")[1])["repos"][0]["hooks"][0]
    program, command = hooks[used["id"]]["entry"].split()
    assert program == "onnx-lowrank"
    context = main.commands[command].make_context(command, list(used["args"]))
    assert (str(context.params["first"]), str(context.params["second"])) == ("model.onnx", "model.lowrank.onnx")
    pattern = re.compile(used["files"])
    assert [name for name in ("model.onnx", "model.lowrank.onnx", "model2.onnx") if pattern.search(name)] == [
        "model.onnx", "model.lowrank.onnx",
    ]  # fmt: skip


@pytest.mark.parametrize(("samples", "changed"), [(2000, "True"), (40, "False")])
def test_the_script_goes_on_with_what_there_is(samples: int, changed: str, tmp_path: Path):
    onnx.save(mlp([24, 32, 32, 6], [3, 5, 2], 11), str(tmp_path / "model.onnx"))
    for seed, name in enumerate(("cal", "val")):
        np.savez(tmp_path / f"{name}.npz", x=normal([samples, 24], seed))
    script = re.search(r"<!-- run: shell -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert script is not None
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-eu", "-c", script[1]],
        cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == changed
    made = tmp_path / ("model.lowrank.onnx" if changed == "True" else "model.onnx")
    assert (tmp_path / "deployed.onnx").read_bytes() == made.read_bytes()


def test_every_feature_has_its_evidence():
    rows = [line.split(" | ") for line in FEATURES.splitlines() if line.startswith("| [")]
    assert len(rows) > 25
    assert {len(row) for row in rows} == {8}
    marks = {mark.strip(" |") for row in rows[2:] for mark in row[1:]}
    assert marks == {"Y", "N", "part", "?"}
    headings = re.findall(r"^### (.*)$", FEATURES, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert {row[0].split("(#")[1].rstrip(")") for row in rows} == anchors
    sections = dict(zip(headings, re.split(r"^### .*$", FEATURES, flags=re.MULTILINE)[1:], strict=True))
    assert [name for name, text in sections.items() if "onnx-lowrank" not in text and "onnxsim" not in text] == []


@pytest.mark.parametrize("page", ["features.md", "pipelines.md"])
def test_links_lead_to_files(page: str):
    folder = ROOT / "docs"
    links = re.findall(r"\]\((?!http|#)([^)#]+)", (folder / page).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (folder / link).exists()] == []
