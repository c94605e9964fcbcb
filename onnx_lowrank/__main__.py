"""`python -m onnx_lowrank`."""

from onnx_lowrank.cli.main import main

main()
