"""The command line, called in this process."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from onnx_lowrank.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def optimize(folder: Path, *more: object) -> Result:
    """Optimise what `builders.classifier_folder` wrote, by the drop that is observed."""
    data = ("--data", folder / "cal.npz", "--validation", folder / "val.npz")
    return run("optimize", folder / "model.onnx", *data, "--threads", 1, "--observed", "--max-drop", 0, *more)
