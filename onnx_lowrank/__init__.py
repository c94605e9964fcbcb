"""Make an exported ONNX model smaller and faster by low-rank factorization, without training, with proof."""

__version__ = "0.1.0"
