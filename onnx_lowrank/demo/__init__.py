"""The shipped model and samples: a small convolutional network on Fashion-MNIST, trained by tools/train_demo.py."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from onnx_lowrank.types import Array

FOLDER = Path(__file__).parent
MODEL, SAMPLES = FOLDER / "demo.onnx", FOLDER / "samples.npz"
SETS = ("calibration", "validation", "test")


def demo_samples() -> dict[str, dict[str, Array]]:
    """Return set name -> {"image": (n, 1, 28, 28) float32 in 0…1, "labels": (n,) int64}; the sets are disjoint."""
    with np.load(SAMPLES, allow_pickle=False) as stored:
        return {
            name: {
                "image": stored[f"{name}_images"].astype(np.float32)[:, None] / np.float32(255),
                "labels": stored[f"{name}_labels"].astype(np.int64),
            }
            for name in SETS
        }


def demo_files() -> dict[str, bytes]:
    """Return file name -> content: demo.onnx, and one .npz a set."""
    files = {"demo.onnx": MODEL.read_bytes()}
    for name, arrays in demo_samples().items():
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
        files[f"{name}.npz"] = content.getvalue()
    return files
