"""Fashion-MNIST (28 × 28, ten kinds of clothes), read from the gzipped idx files of Debian's dataset-fashion-mnist.

The zoo's networks are trained on the first 50,000 training images. Of the last 10,000, which they never see, the first
2,000 calibrate and the other 8,000 validate; the 10,000 test images test.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .fetch import RecipeError
from .splits import Split, Splits

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
LICENCE = "MIT (c) 2017 Zalando SE, https://github.com/zalandoresearch/fashion-mnist"
SOURCE = "apt: dataset-fashion-mnist"
TRAINED_ON = 50_000
"""Training may see only this many: calibration and validation come from the images after them."""
CALIBRATED_ON = 2_000
INPUT, OUTPUT = "input", "logits"


class DatasetError(RecipeError):
    """The data set is missing or damaged; the text is one line for a user."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Images, uint8 [n, 28, 28], and their classes, uint8 [n]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.images.shape != (len(self.labels), 28, 28):
            shapes = f"{self.images.shape} and {self.labels.shape}"
            raise DatasetError(f"images and labels do not fit each other: shapes {shapes}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: slice | NDArray[np.int64]) -> Labelled:
        return Labelled(images=self.images[which], labels=self.labels[which])


def idx_array(path: Path) -> NDArray[np.uint8]:
    """Return the unsigned bytes of one gzipped idx file, in the shape its header gives."""
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing: apt-get install dataset-fashion-mnist") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    # An idx header: two zero bytes, the type (8 is uint8), the rank, then each axis in 32 bits.
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise DatasetError(f"{path} is not an idx file of unsigned bytes")
    rank = content[3]
    shape = struct.unpack_from(f">{rank}I", content, 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if values.size != np.prod(shape, dtype=np.int64):
        raise DatasetError(f"{path} holds {values.size} values, its header says {shape}")
    return values.reshape(shape)


def labelled(folder: Path, split: str) -> Labelled:
    """Return the `train` (60,000) or the `t10k` (10,000) split."""
    return Labelled(
        images=idx_array(folder / f"{split}-images-idx3-ubyte.gz"),
        labels=idx_array(folder / f"{split}-labels-idx1-ubyte.gz"),
    )


def unit_batch(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the images as a network wants them: float32 [n, 1, 28, 28] in 0…1."""
    return images[:, None].astype(np.float32) / np.float32(255)


def training_part(folder: Path = DEBIAN_FOLDER) -> Labelled:
    """Return the images that training may see. Raises DatasetError."""
    return labelled(folder, "train")[:TRAINED_ON]


def samples(folder: Path = DEBIAN_FOLDER) -> Splits:
    """Return the labelled sets of a network with input INPUT, scored by top-1. Raises DatasetError."""
    unseen, test = labelled(folder, "train")[TRAINED_ON:], labelled(folder, "t10k")
    last = f"the last {len(unseen):,} training images, which were not trained on"
    return Splits(
        calibration=_split(unseen[:CALIBRATED_ON], f"the first {CALIBRATED_ON:,} of {last}", metric=""),
        validation=_split(unseen[CALIBRATED_ON:], f"all but the first {CALIBRATED_ON:,} of {last}"),
        tests={"test": _split(test, "the test images of Fashion-MNIST")},
    )


def _split(data: Labelled, note: str, metric: str = "models/metrics.py:top1") -> Split:
    return Split(
        samples=tuple({INPUT: image} for image in unit_batch(data.images)),
        labels=data.labels.astype(np.int64),
        metric=metric,
        note=note,
    )
