"""`python -m onnx_lowrank.cli`."""

from onnx_lowrank.cli.main import main

main()
