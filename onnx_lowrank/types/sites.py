"""Weights that a graph holds: those that can be factored, where they work, what is collected there; and the others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

import numpy as np

from onnx_lowrank.types.arrays import Array
from onnx_lowrank.types.overrides import Override

Extent: TypeAlias = Literal["after", "before", "nowhere"]
"""Where a stage multiplies along the axes that it owns: a convolution at its outputs, a transposed one at its inputs; a
lookup in a table (the first stage of a chain without axes) multiplies nothing."""
SideName: TypeAlias = Literal["out", "in"]
"""A side of a weight: its outputs (rows) or its inputs (columns)."""


class Why(str, Enum):
    """Why a weight stays as it is."""

    DEPTHWISE = "depthwise convolution"
    QUANTISED = "quantised weight"
    RECURRENT = "recurrent cell"
    SUBGRAPH = "used in a subgraph or local function"
    EMBEDDING = "embedding table"
    OPERATOR = "operator not factored"
    ELEMENTWISE = "elementwise, bias or normalisation"
    DTYPE = "number type not handled"
    SHAPE = "not a matrix or a kernel"
    SHARED = "shared in different roles"
    OVERRIDABLE = "a caller may replace it"
    OUTPUT = "is an output of the graph"
    TOO_SMALL = "no rank would save anything"
    EXCLUDED = "excluded by the user"
    UNREACHED = "not reached by the data"
    NOWHERE = "leads to no output"
    NOT_FINITE = "holds NaN or Inf"
    OVERFLOW = "not finite on the samples"


@dataclass(frozen=True, slots=True)
class Skip:
    """A weight that is left alone, and why."""

    weight: str
    node: str
    op: str
    shape: tuple[int, ...]
    why: Why
    detail: str = ""

    @property
    def parameters(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Site:
    """A weight that can be factored: y = W x, at every position of the input.

    `shape` is canonical: (out, in, *spatial); `id` is the output tensor of the first node that uses the weight,
    `sharers` the output tensors of all of them (rewritten together or not at all). With `groups` W is block-diagonal:
    `in` counts the channels of one group, `out` those of all. `whole`: its axes cannot be divided among stages.
    `itemsize`: bytes of a number of a factor, `dense_itemsize` of the weight itself (0: the same). Of integers,
    `scale_bytes` are those of a scale and its zero point, one for each channel of `scale_axis` (None: one for the whole
    weight). `body`: the If, Loop or Scan body whose nodes use it, empty in the main graph. `identity`: the sides on
    which its operators can do without an identity block of a factor (interpolative factors). `rigid`: no scheme factors
    it, and another number format is all that it may get. `fixed`: what a user decided instead of the search.
    """

    id: str
    node: str
    op: str
    weight: str
    shape: tuple[int, ...]
    sharers: tuple[str, ...]
    itemsize: int = 4
    groups: int = 1
    whole: bool = False
    dense_itemsize: int = 0
    scale_bytes: int = 0
    scale_axis: int | None = None
    body: str = ""
    identity: tuple[SideName, ...] = ()
    rigid: bool = False
    fixed: Override | None = None

    @property
    def parameters(self) -> int:
        """Number of elements of the dense weight."""
        return math.prod(self.shape)

    @property
    def full_rank(self) -> int:
        """The rank of the weight (of a group) as a matrix, kernel with the input."""
        return min(self.shape[0] // self.groups, math.prod(self.shape[1:]))

    @property
    def break_even(self) -> float:
        """The rank (of a group) at which a plain pair is as large as W: nm / (n + m), kernel with the input."""
        rows, columns = self.shape[0] // self.groups, math.prod(self.shape[1:])
        return rows * columns / (rows + columns)


@dataclass(frozen=True, slots=True)
class SharedInput:
    """Matrices that multiply one and the same input, so that one first factor can serve them all.

    `members` are the sites' ids in the order of the graph, `outs` their numbers of outputs, `inner` that of inputs.
    `identity`: that of all of them.
    """

    members: tuple[str, ...]
    outs: tuple[int, ...]
    inner: int
    identity: tuple[SideName, ...] = ()


@dataclass(frozen=True, slots=True)
class Positions:
    """Where a site works, for one sample: `calls` × the extent of every spatial axis before and after it.

    A linear site has no axes; its `calls` are the vectors it maps (tokens). Means over samples, so not whole numbers.
    """

    calls: float = 1.0
    before: tuple[float, ...] = ()
    after: tuple[float, ...] = ()
    at: Extent = "after"


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """What calibration collects at a site; additive, so shards merge with `+`.

    A: (in, in) sum of x xᵀ over positions (channels only for a convolution), float64. Of a table, whose inputs are
    one-hot, it is diagonal and only that is kept: (in,) how often every row was looked up.
    C: (out, out) sum of y yᵀ over positions, without the bias, float64; None where W A Wᵀ is exact.
    patches, keys: (n, in, *spatial) inputs at the n positions of smallest random key (a bottom-n sample).
    H: (out, out) sum of h hᵀ over what Wᵀ maps where a table is also an output layer; None: nowhere.
    """

    A: Array
    C: Array | None = None
    patches: Array | None = None
    keys: Array | None = None
    positions: int = 0
    samples: int = 0
    room: int = 0
    H: Array | None = None

    @property
    def energy(self) -> float:
        """Sum of |x|² over positions: the trace of A."""
        return float(self.A.sum() if self.A.ndim == 1 else self.A.trace())

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets of samples together."""
        patches, keys = self.patches, self.keys
        if patches is not None and other.patches is not None:
            keys = np.concatenate([_given(self.keys), _given(other.keys)])
            order = np.argsort(keys, kind="stable")[: self.room]
            patches = np.concatenate([patches, other.patches])[order]
            keys = keys[order]
        return Moments(
            A=self.A + other.A,
            C=None if self.C is None or other.C is None else self.C + other.C,
            patches=patches,
            keys=keys,
            positions=self.positions + other.positions,
            samples=self.samples + other.samples,
            room=self.room,
            H=other.H if self.H is None else self.H if other.H is None else self.H + other.H,
        )


def _given(array: Array | None) -> Array:
    if array is None:
        raise ValueError("patches come with their keys")
    return array
