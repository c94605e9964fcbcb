"""Fashion-MNIST as arrays, read from the gzipped idx files of Debian's dataset-fashion-mnist."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
LICENCE = "MIT (c) 2017 Zalando SE, https://github.com/zalandoresearch/fashion-mnist"
TRAINED_ON = 50_000
"""Training may see only this many: calibration and validation come from the images after them."""


class DatasetError(Exception):
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
        advice = "apt-get install dataset-fashion-mnist, or pass --data FOLDER"
        raise DatasetError(f"{path} is not there: {advice}") from error
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
