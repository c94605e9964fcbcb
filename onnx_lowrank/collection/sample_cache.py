"""What the second pass needs of samples that the first has run: they are not run again.

At a side of a site all that counts of a sample is read_iᵀ (Σ_t z_t e_tᵀ) write_i, for a basis not known yet. So the
sum is kept where it is smaller than z and e, which are kept otherwise: in a file without a name, gone with the process.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Literal, TypeAlias

import numpy as np

from onnx_lowrank.numerics.kronecker_metric import Basis, project
from onnx_lowrank.types import Array, SideName

CacheKey: TypeAlias = tuple[str, SideName | Literal["chain", "shared"]]
CachedSample: TypeAlias = tuple[Array, ...]
"""One sample at one side of a site: (Σ z eᵀ,), or (z, e); of a chain see `chain_samples`. float32."""


def size(dimensions: int, positions: float) -> float:
    """Return the bytes of what is kept."""
    return 4 * dimensions * min(dimensions, 2 * positions)


def cached(pairs: Sequence[tuple[Array, Array]], groups: int = 1) -> CachedSample:
    """Return what to keep of one sample's z and e (positions, groups · d), one pair a call of the site."""
    positions, dimensions = sum(len(z) for z, _ in pairs), pairs[0][0].shape[1] // groups
    if 2 * positions >= dimensions:
        return (np.asarray(np.sum([_product(z, e, groups) for z, e in pairs], axis=0), np.float32),)
    return np.concatenate([z for z, _ in pairs]), np.concatenate([e for _, e in pairs])


def projected(basis: Basis, sample: CachedSample) -> Array:
    """Return (1, r) v_i = Σ_t (read_i · z_t)(write_i · e_t), float64."""
    if len(sample) == 2:
        return project(basis, *sample, 1)
    (product,) = sample
    with np.errstate(all="ignore"):  # what overflows is seen in the sums
        if basis.groups == 1:
            return np.asarray(((product.T @ basis.read) * basis.write).sum(0, dtype=np.float64)[None])
        read, write = basis.blocks()
        return np.asarray(((np.swapaxes(product, 1, 2) @ read) * write).sum((0, 1), dtype=np.float64)[None])


def _product(z: Array, e: Array, groups: int) -> Array:
    """Return Σ z eᵀ, (d, d); of groups the diagonal blocks, (groups, d, d)."""
    with np.errstate(all="ignore"):  # likewise
        if groups == 1:
            return np.asarray(z.T @ e)
        by_group = (np.moveaxis(rows.reshape(len(rows), groups, -1), 1, 0) for rows in (z, e))
        first, second = by_group
        return np.asarray(np.swapaxes(first, 1, 2) @ second)


_Shapes: TypeAlias = dict[CacheKey, list[tuple[int, ...]]]


class SampleCache:
    """A file of samples, at most `limit` bytes where `need` are expected; closed, and empty, where they do not fit."""

    def __init__(self, need: float, limit: float) -> None:
        self._file: IO[bytes] | None = None
        self._others: tuple[SampleCache, ...] = ()
        self._positions: dict[int, tuple[int, float, _Shapes]] = {}
        with contextlib.suppress(OSError):
            if 0 < need <= min(limit, shutil.disk_usage(tempfile.gettempdir()).free / 2):
                self._file = tempfile.TemporaryFile(prefix="onnx-lowrank-")  # noqa: SIM115 - closed with the passes

    @staticmethod
    def united(caches: Sequence[SampleCache]) -> SampleCache:
        """Return one cache of all their samples, which closes them with itself; closed where one of them is."""
        if not caches:
            return SampleCache(0, 0)
        first, *others = caches
        whole = SampleCache(0, 0)
        whole._file, whole._positions, whole._others = first._file, first._positions, (*first._others, *others)
        if not all(cache.open for cache in caches):
            whole.close()
        return whole

    @property
    def open(self) -> bool:
        """Whether samples can be put in."""
        return self._file is not None

    def __contains__(self, number: int) -> bool:
        """Whether a sample is in it."""
        return number in self._positions or any(number in other for other in self._others)

    def put(self, number: int, weight: float, sample: Mapping[CacheKey, CachedSample]) -> None:
        """Take what a sample gave; `weight` comes back with it. A full disk closes the file."""
        if self._file is None:
            return
        try:
            start = self._file.seek(0, 2)
            for arrays in sample.values():
                for array in arrays:
                    self._file.write(memoryview(np.ascontiguousarray(array, np.float32)).cast("B"))
            shapes = {key: [array.shape for array in arrays] for key, arrays in sample.items()}
            self._positions[number] = (start, weight, shapes)
        except OSError:
            self.close()

    def get(self, number: int) -> tuple[float, dict[CacheKey, CachedSample]]:
        """Return the weight and what `put` took. Raises KeyError where the sample is not there."""
        for other in self._others:
            if number in other:
                return other.get(number)
        start, weight, shapes = self._positions[number]
        if self._file is None:
            raise KeyError(number)
        self._file.seek(start)
        return weight, {key: tuple(self._read(self._file, shape) for shape in of) for key, of in shapes.items()}

    def _read(self, file: IO[bytes], shape: tuple[int, ...]) -> Array:
        data = file.read(4 * int(np.prod(shape)))
        return np.frombuffer(data, np.float32).reshape(shape)

    def close(self) -> None:
        """Give the file up."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written is tried again on closing
                self._file.close()
        self._file = None
        self._positions.clear()
        for other in self._others:
            other.close()
