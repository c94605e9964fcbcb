"""The few pieces of linear algebra that schemes share, in float64 and safe for singular matrices.

Decompositions run on one BLAS thread: the same bytes on any number of cores, and no spinning against other work
(measured beside a busy process: eigh of 384×384 takes 2.2 s on two OpenBLAS threads, .02 s on one).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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


def each(function: Callable[[T], R], items: Iterable[T], threads: int = 0) -> list[R]:
    """Return the results in order, `threads` at a time (0: as many as cores), each on one BLAS thread.

    Decompositions do not keep several cores busy, several of them do.
    """
    with _controller().limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        return list(pool.map(function, items))


def eigen(symmetric: Array) -> tuple[Array, Array]:
    """Return eigenvalues (n,), largest first and never negative, and eigenvectors (n, n) in columns.

    Signs are fixed (the largest entry of a vector is positive), so the same matrix gives the same bytes.
    """
    with _controller().limit(limits=1, user_api="blas"):
        values, vectors = scipy.linalg.eigh((symmetric + symmetric.T) / 2, driver="evd" if len(symmetric) > 1 else "ev")
    values = np.maximum(values[::-1], 0.0)
    return values, fix_signs(vectors[:, ::-1])


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
