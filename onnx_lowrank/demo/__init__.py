"""The shipped model and samples: a small convolutional network on Fashion-MNIST, trained by tools/train_demo.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnx_lowrank.types import Array

FOLDER = Path(__file__).parent
MODEL = FOLDER / "demo.onnx"
SETS = ("calibration", "validation", "test")


def demo_samples() -> dict[str, dict[str, Array]]:
    """Return set name -> {"image": (n, 1, 28, 28) float32 in 0…1, "labels": (n,) int64}; the sets are disjoint."""
    with np.load(FOLDER / "samples.npz", allow_pickle=False) as stored:
        return {
            name: {
                "image": stored[f"{name}_images"].astype(np.float32)[:, None] / np.float32(255),
                "labels": stored[f"{name}_labels"].astype(np.int64),
            }
            for name in SETS
        }


def write_files(folder: Path) -> list[Path]:
    """Write demo.onnx and one .npz a set into `folder`, made if need be; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "demo.onnx"]
    paths[0].write_bytes(MODEL.read_bytes())
    for name, arrays in demo_samples().items():
        paths.append(folder / f"{name}.npz")
        np.savez_compressed(paths[-1], **arrays)  # type: ignore[arg-type]
    return paths
