"""The README against the program: every command and option it names exists, and every command stands in it.

Its sessions are run in test_cli_readme_sessions.py.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
import pytest

import onnx_lowrank
from onnx_lowrank.cli import main

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MANUAL = (ROOT / "docs" / "manual.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT / "tools"))

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


def test_every_option_in_the_readme_exists() -> None:
    known = {opt for each in main.commands.values() for p in each.params for opt in p.opts}
    shown = re.findall(
        r"onnx-lowrank (?:optimize|analyze|apply|compare|inspect|report|demo)[^\n`]*(?:\\\n[^\n`]*)*", README + MANUAL
    )
    used = {option for line in shown for option in re.findall(r"(?<!\w)--[a-z-]+", line)}
    assert used
    assert used <= known


@pytest.mark.parametrize("purpose", ["demo", "test"])
def test_the_two_commands_are_one_line_each(purpose: str) -> None:
    text = command(purpose, README)
    assert "\n" not in text
    assert "pip install" in text


def test_names_used_in_the_readme_are_public() -> None:
    used = set(re.findall(r"\blr\.(\w+)", README + MANUAL))
    assert used
    assert used <= set(onnx_lowrank.__all__)
