"""README and manual against the program: every command and option they name exists, and every command stands in them.

Their sessions are run in test_docs_sessions.py, their other blocks in test_docs_blocks.py.
"""

from __future__ import annotations

import re
import sys

import click
import pytest
from docs_pages import EVERYTHING, PUBLIC, ROOT

import onnx_lowrank
from onnx_lowrank.cli import main

README = (ROOT / "README.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT / "tools"))

import readme_results  # noqa: E402
from readme_commands import command  # noqa: E402


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_is_in_the_readme_and_has_help(name: str) -> None:
    assert f"onnx-lowrank {name}" in README
    assert main.commands[name].help


def test_every_option_has_help() -> None:
    bare = [
        f"{name} {parameter.opts[0]}"
        for name, each in main.commands.items()
        for parameter in each.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert bare == []


def test_every_option_in_prose_exists() -> None:
    """Those of blocks are parsed in test_docs_blocks.py."""
    known = {opt for each in main.commands.values() for p in each.params for opt in p.opts}
    shown = re.findall(
        r"onnx-lowrank (?:optimize|analyze|apply|compare|inspect|report|demo)[^\n`]*(?:\\\n[^\n`]*)*", EVERYTHING
    )
    used = {option for line in shown for option in re.findall(r"(?<!\w)--[a-z-]+", line)}
    assert used
    assert used <= known


@pytest.mark.parametrize("purpose", ["demo", "test"])
def test_the_two_commands_are_one_line_each(purpose: str) -> None:
    text = command(purpose, README)
    assert "\n" not in text
    assert "pip install" in text


def test_names_used_in_python_are_public() -> None:
    used = set(re.findall(r"\blr\.(\w+)", EVERYTHING))
    assert used
    assert used <= {*PUBLIC, "__version__"}
    assert {*onnx_lowrank.__all__} <= {*PUBLIC, "__version__"}


def test_the_readme_is_short() -> None:
    """About 120 lines: what has more to say is a page of the manual."""
    assert len(README.splitlines()) <= 140


def test_the_table_of_results_is_that_of_the_lines() -> None:
    assert readme_results.put(README) == README
    assert max(map(len, readme_results.table().splitlines())) <= 80
