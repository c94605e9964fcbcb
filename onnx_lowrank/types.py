"""The nouns of the package: frozen values that flow from step to step (DESIGN.md, section 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Feed: TypeAlias = Mapping[str, Array]
"""What one call of the model is given: input name -> array, ready to run."""
Outputs: TypeAlias = Mapping[str, Sequence[Array]]
"""Output name -> one array a sample, as the model returned it for that sample."""
Ranks: TypeAlias = tuple[int, ...]
"""The inner widths of a chain; one number for a pair of factors."""
Layout: TypeAlias = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
"""A chain without its numbers: (weight shape, owned spatial axes) a stage."""


Extent: TypeAlias = Literal["after", "before", "nowhere"]
"""Where a stage multiplies along the axes that it owns: a convolution at its outputs, a transposed one at its inputs; a
lookup in a table (the first stage of a chain without axes) multiplies nothing."""


class Why(str, Enum):
    """Why a weight stays as it is."""

    GROUPED = "grouped convolution"
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
    `in` counts the channels of one group, `out` those of all. `whole`: its axes cannot be dealt to different stages.
    `itemsize`: bytes of a number of a factor, `dense_itemsize` of the weight itself (0: the same). Of integers,
    `scale_bytes` are those of a scale and its zero point, one for each channel of `scale_axis` (None: one for the whole
    weight). `body`: the If, Loop or Scan body whose nodes use it, empty in the main graph.
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

    @property
    def parameters(self) -> int:
        """Number of elements of the dense weight."""
        return math.prod(self.shape)

    @property
    def break_even(self) -> float:
        """The rank (of a group) at which a pair of factors is as large as W: nm / (n + m), kernel with the input."""
        rows, columns = self.shape[0] // self.groups, math.prod(self.shape[1:])
        return rows * columns / (rows + columns)


@dataclass(frozen=True, slots=True)
class Family:
    """Siblings: matrices that multiply one and the same input, so that one first factor can serve them all.

    `members` are the sites' ids in the order of the graph, `outs` their outputs, `inner` the inputs of each.
    """

    members: tuple[str, ...]
    outs: tuple[int, ...]
    inner: int


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
    """

    A: Array
    C: Array | None = None
    patches: Array | None = None
    keys: Array | None = None
    positions: int = 0
    samples: int = 0
    room: int = 0

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
        )


def _given(array: Array | None) -> Array:
    if array is None:
        raise ValueError("patches come with their keys")
    return array


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One factor: weight (out, in, *spatial) and the spatial axes whose stride, pad and dilation it carries.

    With `groups` it is block-diagonal: (out, in of one group, *spatial).
    """

    weight: Array
    owns: tuple[int, ...] = ()
    groups: int = 1

    def __post_init__(self) -> None:
        if self.weight.shape[0] % self.groups:
            raise ValueError(f"{self.weight.shape[0]} outputs cannot be dealt to {self.groups} groups")
        if self.weight.ndim < 2:
            raise ValueError(f"a stage needs (out, in, *spatial), got shape {self.weight.shape}")
        for axis, size in enumerate(self.weight.shape[2:]):
            if size > 1 and axis not in self.owns:
                raise ValueError(f"kernel {size} on axis {axis}, which the stage does not own")
        self.weight.flags.writeable = False


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Stages applied first to last; each owns its axes alone, and neighbours' widths agree."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        for first, second in zip(self.stages, self.stages[1:], strict=False):
            if first.weight.shape[0] != second.weight.shape[1] * second.groups:
                raise ValueError(f"widths differ: {first.weight.shape} then {second.weight.shape}")
        owned = [axis for stage in self.stages for axis in stage.owns]
        if len(owned) != len(set(owned)):
            raise ValueError("an axis is owned by two stages")

    @property
    def layout(self) -> Layout:
        """Shape and owned axes of every stage."""
        return tuple((stage.weight.shape, stage.owns) for stage in self.stages)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a site costs: stored elements, bytes, and for one sample multiply-accumulates and milliseconds.

    Milliseconds are 0 unless the goal is one of latency: only then are they measured.
    """

    parameters: int = 0
    bytes: int = 0
    macs: float = 0.0
    milliseconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters + other.parameters,
            self.bytes + other.bytes,
            self.macs + other.macs,
            self.milliseconds + other.milliseconds,
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters - other.parameters,
            self.bytes - other.bytes,
            self.macs - other.macs,
            self.milliseconds - other.milliseconds,
        )


DENSE = "dense"
SHARED = "shared"
"""The scheme of siblings with one first factor: y_i = U_i (V x)."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to store a site: dense, or a scheme at a rank, with its cost and its predicted rise of the loss.

    `error` is the relative squared error at the site's output (0 dense, 1 all gone); `loss` is on the scale of the
    divergence that the run measures (nats of KL, or relative squared error), so sites add. `deviation` is the standard
    error of `loss` over samples; `slope` the predicted change of the labelled loss to first order, with its own.
    `family`: the ids of all siblings that take the option at these ranks together or not at all, as they share the
    first factor; it is counted in the cost of the first of them alone.
    """

    scheme: str
    ranks: Ranks
    cost: Cost
    error: float = 0.0
    loss: float = 0.0
    deviation: float = 0.0
    slope: float = 0.0
    slope_deviation: float = 0.0
    family: tuple[str, ...] = ()

    @property
    def dense(self) -> bool:
        """Whether the weight stays as it is."""
        return self.scheme == DENSE


@dataclass(frozen=True, slots=True)
class Probe:
    """One measured substitution at a site: relative squared error there, and the divergence of the model's output.

    `predicted` is what the curvature said of it on the same samples (None: there was no prediction).
    """

    error: float
    loss: float
    predicted: float | None = None
    scheme: str = ""
    ranks: Ranks = ()


@dataclass(frozen=True, slots=True)
class Curve:
    """All options of a site, dense first, then by falling cost; `probes` is what their losses were measured on.

    `reach` is the perturbation range: the largest relative error at which prediction and measurement agreed; beyond
    it options carry the measured loss. None where nothing was predicted.
    """

    site: str
    options: tuple[Option, ...]
    probes: tuple[Probe, ...] = ()
    reach: float | None = None

    @property
    def dense(self) -> Option:
        """The option that changes nothing."""
        return self.options[0]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a plan does with one site."""

    site: str
    weight: str
    option: Option


@dataclass(frozen=True, slots=True)
class Plan:
    """Site -> option for every site, and the predicted rise of the loss of all together."""

    choices: tuple[Choice, ...]
    origin: str = ""

    @property
    def loss(self) -> float:
        """Predicted rise of the loss, in the unit of its options."""
        return math.fsum(choice.option.loss for choice in self.choices)

    @property
    def cost(self) -> Cost:
        """Cost of all sites together."""
        return sum((choice.option.cost for choice in self.choices), Cost())

    @property
    def factored(self) -> tuple[Choice, ...]:
        """The choices that change the graph."""
        return tuple(choice for choice in self.choices if not choice.option.dense)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float
    level: float = 0.95

    @property
    def width(self) -> float:
        """From end to end."""
        return self.high - self.low


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """How far one output moved, over all samples."""

    name: str
    relative_l2: float
    cosine: float
    max_error: float
    finite: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Original against candidate on held-out samples. Truthy when the candidate holds.

    `drop` is how much worse the candidate is (positive is worse, whatever the metric's direction); `bound` is the
    number that was compared with `allowed`: the drop's estimate, or the upper end of its interval.
    """

    passed: bool
    metric: str
    higher_is_better: bool
    samples: int
    original: Interval
    candidate: Interval
    drop: Interval
    bound: float
    allowed: float
    agreement: Interval | None = None
    differences: tuple[OutputDifference, ...] = ()
    reason: str = ""
    notes: tuple[str, ...] = field(default=())

    def __bool__(self) -> bool:
        return self.passed
