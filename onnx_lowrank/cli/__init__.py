"""The command line: parse, call, print, exit code. Nothing else in the package prints."""

from onnx_lowrank.cli.main import main

__all__ = ["main"]
