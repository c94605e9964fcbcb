"""The few pieces of linear algebra that schemes share, in float64 and safe for singular matrices.

Decompositions run on one BLAS thread: the same bytes on any number of cores, and no spinning against other work
(measured beside a busy process: eigh of 384×384 takes 2.2 s on two OpenBLAS threads, .02 s on one).
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar, cast

import numpy as np
import scipy.linalg
from threadpoolctl import ThreadpoolController

from onnx_lowrank.types import Array

FLOOR = 1e-7
"""Eigenvalues of a second moment below this share of the largest one are taken to be this share: fewer samples than
dimensions, or dead channels, leave directions of which nothing is known, and 1 / sqrt(0) must not decide."""

T = TypeVar("T")
R = TypeVar("R")


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


class Workers:
    """Threads for many small products and decompositions, each on one BLAS thread, as a context manager.

    Decompositions and small products do not keep several cores busy; several of them do. `threads`: 0 is as many as
    cores. Results come in order.
    """

    def __init__(self, threads: int = 0) -> None:
        self._count = threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._count)
        self._limit = _controller().limit(limits=1, user_api="blas")

    def __enter__(self) -> Workers:
        self._limit.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()
        self._limit.__exit__(*error)

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return the results, an item at a time: for work that takes long and unequally long."""
        return list(self._pool.map(function, items))

    def map_striped(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return the results, the items divided among the threads beforehand: for work that takes little."""
        results: list[R | None] = [None] * len(items)

        def some(first: int) -> None:
            for index in range(first, len(items), self._count):
                results[index] = function(items[index])

        list(self._pool.map(some, range(min(self._count, len(items)))))
        return cast("list[R]", results)


def one_thread() -> AbstractContextManager[object]:
    """Return a context in which BLAS has one thread: many small products, which spinning threads would slow down."""
    return _controller().limit(limits=1, user_api="blas")  # type: ignore[no-any-return]


def trim() -> None:
    """Collect garbage, and give freed memory back to the system where its allocator keeps it (glibc)."""
    gc.collect()
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            library.malloc_trim(0)


def eigen(symmetric: Array) -> tuple[Array, Array]:
    """Return eigenvalues (n,), largest first and never negative, and eigenvectors (n, n) in columns.

    Signs are fixed (the largest entry of a vector is positive), so the same matrix gives the same bytes.
    """
    with _controller().limit(limits=1, user_api="blas"):
        values, vectors = scipy.linalg.eigh((symmetric + symmetric.T) / 2, driver="evd" if len(symmetric) > 1 else "ev")
    values = np.maximum(values[::-1], 0.0)
    return values, fix_signs(vectors[:, ::-1])


def lower_root(definite: Array) -> Array:
    """Return the lower triangular L with L Lᵀ = M (n×n) of a positive definite M: a tenth of a decomposition's work."""
    with _controller().limit(limits=1, user_api="blas"):
        return np.asarray(scipy.linalg.cholesky(definite, lower=True, check_finite=False))


def solve_upper(upper: Array, columns: Array) -> Array:
    """Return x with U x = columns, for an upper triangular U."""
    with _controller().limit(limits=1, user_api="blas"):
        return np.asarray(scipy.linalg.solve_triangular(upper, columns, check_finite=False))


def solve_lower(lower: Array, columns: Array) -> Array:
    """Return x with L x = columns, for a lower triangular L."""
    with _controller().limit(limits=1, user_api="blas"):
        return np.asarray(scipy.linalg.solve_triangular(lower, columns, lower=True, check_finite=False))


def solve_definite(definite: Array, columns: Array) -> Array:
    """Return x with M x = columns, for a positive definite M."""
    root = lower_root(definite)
    return solve_upper(root.T, solve_lower(root, columns))


def svd(matrix: Array) -> tuple[Array, Array]:
    """Return singular values (r,), largest first, and left singular vectors (rows, r), signs fixed."""
    with _controller().limit(limits=1, user_api="blas"):
        left, singular, _ = scipy.linalg.svd(matrix, full_matrices=False)
    return singular, fix_signs(left)


def fix_signs(columns: Array) -> Array:
    """Return the columns, each with the sign that makes its largest entry positive."""
    largest = np.argmax(np.abs(columns), axis=0)
    signs = np.sign(columns[largest, np.arange(columns.shape[1])])
    return columns * np.where(signs == 0, 1.0, signs)


def root(second_moment: Array) -> Array:
    """Return M^½ (n×n, symmetric) of a positive semidefinite M."""
    values, vectors = eigen(second_moment)
    return (vectors * np.sqrt(values)) @ vectors.T


def roots(second_moment: Array, floor: float = FLOOR) -> tuple[Array, Array]:
    """Return M^½ and M^-½ (both n×n, symmetric) of a positive semidefinite M, eigenvalues floored relatively."""
    values, vectors = eigen(second_moment)
    if values[0] <= 0:
        identity = np.eye(len(values))
        return identity, identity
    root = np.sqrt(np.maximum(values, floor * values[0]))
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


def tails(values: Array) -> Array:
    """Return t of length n + 1 with t[k] = sum of values[k:], summed from the small end (t[n] = 0)."""
    total = np.zeros(len(values) + 1)
    total[:-1] = np.cumsum(values[::-1])[::-1]
    return total


def relative(tail: Array) -> Array:
    """Return tail / tail[0], all zeros where there is nothing to lose."""
    return tail / tail[0] if tail[0] > 0 else np.zeros_like(tail)
