"""What was collected, by name: two collections of equal keys may stand in for each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from onnx_lowrank.collection.folds import Folds
from onnx_lowrank.types import Array
from onnx_lowrank.version import __version__

SAMPLES = ("samples", "scored")
"""The fields in which the keys of two shards of one collection differ."""


@dataclass(frozen=True, slots=True)
class CollectedSide:
    """A side of a site. lines, rows: one of so many lines of an image, and then of so many rows, is summed."""

    site: str
    side: str
    lines: int = 1
    rows: int = 1


@dataclass(frozen=True, slots=True)
class CollectionKey:
    """All that the numbers depend on but rounding (the count of threads is not in it).

    model: digest of the model's content. objective: which gradient enters, where, and how it is drawn (its seed too).
    samples: by fold, every sample's number in the set, by which its gradient is drawn, and the hash of its content.
    scored: by fold, the samples that are cached. sites: all that are run together, as a sample that is not finite at
    one of them is left out at all. sides: what moments are of. chains: sites whose chains need both ends of every call.
    batch, separate: what is run at a time, and whether its samples are told apart. memory: bounds rows that wait to be
    summed, and the sample cache. version: of the package, whose rewriting of the graph and thinning of samples count.
    """

    model: str
    objective: str
    seed: int
    samples: tuple[tuple[tuple[int, str], ...], ...]
    scored: tuple[tuple[int, ...], ...]
    sites: tuple[str, ...]
    sides: tuple[CollectedSide, ...]
    chains: tuple[str, ...]
    batch: int
    separate: bool
    memory: int
    provider: str
    version: str = __version__

    @property
    def folds(self) -> Folds:
        """The samples' numbers, and those of them that are scored."""
        return Folds(tuple(tuple(number for number, _ in part) for part in self.samples), self.scored)

    @property
    def text(self) -> str:
        """Return the key as one line of JSON, the same in every process."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the text: a name for a file."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __add__(self, other: CollectionKey) -> CollectionKey:
        """Return the key of both shards together.

        Raises ValueError for the first field that differs besides the samples, and for samples that are in both.
        """
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name not in SAMPLES and mine != theirs:
                raise ValueError(f"collections of different {field.name} do not merge: {mine!r} and {theirs!r}")
        if len(self.samples) != len(other.samples):
            raise ValueError(f"collections of {len(self.samples)} and of {len(other.samples)} folds do not merge")
        twice = {number for part in self.folds.parts for number in part}
        twice &= {number for part in other.folds.parts for number in part}
        if twice:
            raise ValueError(f"sample {min(twice)} is in both collections: its moments would count twice")
        samples = tuple(tuple(sorted(a + b)) for a, b in zip(self.samples, other.samples, strict=True))
        scored = tuple(tuple(sorted(a + b)) for a, b in zip(self.scored, other.scored, strict=True))
        return replace(self, samples=samples, scored=scored)


def digest_of(arrays: Iterable[tuple[str, Array]], start: str = "") -> str:
    """Return the SHA-256 of named arrays in this order, and of what went before."""
    digest = hashlib.sha256(start.encode())
    for name, array in arrays:
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
