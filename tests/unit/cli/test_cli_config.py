"""Options in a TOML file: read as if they were given, written as they were, and refused by name where wrong."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from onnx_lowrank.cli import config, main
from onnx_lowrank.cli.optimize_command import optimize


def parsed(tmp_path: Path, text: str, *arguments: str) -> click.Context:
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    words = ["m.onnx", "--config", str(tmp_path / "c.toml"), *arguments]
    return optimize.make_context("optimize", words)


def refused(tmp_path: Path, text: str, *arguments: str) -> str:
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    words = ["optimize", "m.onnx", "--config", str(tmp_path / "c.toml"), *arguments]
    done: Result = CliRunner().invoke(main, words)
    assert done.exit_code == 2, done.output
    return done.output


EVERY = """
max-drop = 0.005
minimize = "bytes"
bits = [4, 8, 32]
include = ["a*", "b*"]
exponents = [1, 0.5]
observed = true
memory = "2GB"
threads = 2
mean = [0.485, 0.456, 0.406]
size = "224x320"
o = "x.onnx"
"""


def test_options_of_every_kind(tmp_path: Path) -> None:
    values = parsed(tmp_path, EVERY.replace("o = ", "out = ")).params
    assert values["max_drop"] == 0.005
    assert (values["minimize"], values["bits"], values["include"]) == ("bytes", (4, 8, 32), ("a*", "b*"))
    assert (values["exponents"], values["observed"], values["memory"]) == ((1.0, 0.5), True, 2 * 10**9)
    assert (values["threads"], values["mean"], values["size"]) == (2, (0.485, 0.456, 0.406), (224, 320))
    assert values["output"] == Path("x.onnx")


def test_the_command_line_wins(tmp_path: Path) -> None:
    assert parsed(tmp_path, "max_drop = 0.005\n", "--max-drop", "0.02").params["max_drop"] == 0.02


def test_what_was_given_is_written_and_read_again(tmp_path: Path) -> None:
    first = parsed(tmp_path, 'metric = "top1"\n', "--bits", "8,32", "--keep", "0.5", "--include", 'a "b"', "--signed")
    text = config.written(first)
    assert "threads" not in text
    again = parsed(tmp_path, text)
    names = ("metric", "bits", "keep", "include", "signed")
    assert {name: again.params[name] for name in names} == {name: first.params[name] for name in names}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max-dorp = 1\n", "'max-dorp' is no option of optimize (did you mean 'max-drop'?)"),
        ("max-drop = \n", "is no TOML"),
        ('observed = "yes"\n', "observed is true or false, not 'yes'"),
        ("max-drop = true\n", "max-drop cannot be true"),
        ('metric = ""\n', 'metric cannot be ""'),
        ("force = true\n", "'force' is no option of optimize"),
        ('minimize = "size"\n', "'size' is not one of"),
    ],
)
def test_what_is_wrong_in_a_file_is_wrong_use(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["optimize", "m.onnx", "--config", str(tmp_path / "no.toml")])
    assert done.exit_code == 2
    assert "cannot be read: No such file or directory" in done.output
