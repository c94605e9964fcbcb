"""What a user wants: the algorithm, its target, and when a candidate holds; frozen, and impossible in a wrong state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from onnx_lowrank.errors import GoalError
from onnx_lowrank.types.checks import check_numbers, check_type, shown

DropType: TypeAlias = Literal["absolute", "relative"]
Resource: TypeAlias = Literal["parameters", "bytes", "macs", "latency"]
LEAST_SPEEDUP = 1.02
"""The speedup that a goal of latency has to show by default."""
MAX_DROP, TOLERANCE = 0.01, 0.05
"""Allowed by default: the drop of a metric, and the mean relative error of an output that is no decision."""
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """When a candidate holds: a test at `confidence` rejects that its metric's drop is `max_drop` or more.

    max_drop: None is the metric's own default, MAX_DROP for most. `relative` divides the drop by the original's metric.
    observed: the estimate alone decides, and nothing is claimed. Raises GoalError for values out of range, and for a
    drop of 0 that is not only to be observed.

    >>> from onnx_lowrank import Gate
    >>> Gate(max_drop=0.02).allowed(), Gate().allowed(), Gate(confidence=0.99).level
    (0.02, 0.01, 0.99)
    >>> Gate(max_drop=0)
    Traceback (most recent call last):
    onnx_lowrank.errors.GoalError: no finite number of samples certifies a drop of 0: ...
    """

    max_drop: float | None = None
    drop_type: DropType = "absolute"
    confidence: float = CONFIDENCE
    observed: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, "max_drop", "confidence")
        if self.drop_type not in get_args(DropType):
            raise GoalError(f"drop_type is 'absolute' or 'relative', not {shown(self.drop_type)}")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise GoalError(f"the allowed drop must be a number, 0 or more, not {self.max_drop}")
        if not 0.5 <= self.confidence < 1:
            raise GoalError(f"the confidence must be between 0.5 and 1 (0.95, say), not {self.confidence}")
        if self.max_drop == 0 and not self.observed:
            raise GoalError(
                "no finite number of samples certifies a drop of 0: give --max-drop 0.01, say, to certify that less is"
                " lost, or --observed to go by the estimate alone, which claims nothing"
            )

    @property
    def alpha(self) -> float:
        """How often the test may be wrong."""
        return 1 - self.confidence

    @property
    def level(self) -> float:
        """The level of the bound that is compared with what is allowed."""
        return self.confidence

    @property
    def relative(self) -> bool:
        """Whether drops are shares of the original's metric."""
        return self.drop_type == "relative"

    def allowed(self, default: float = MAX_DROP) -> float:
        """Return the drop that is allowed; `default` is that of the metric, where the user names none."""
        return default if self.max_drop is None else self.max_drop


@dataclass(frozen=True, kw_only=True, slots=True)
class Compact:
    """The smallest model whose metric holds (arXiv 2412.06867, compact algorithm); by latency, the fastest.

    min_speedup: how many times as fast as the original it has to be, by measurement, even at the slow end of the
    interval; LEAST_SPEEDUP where the resource is latency, else nothing. Raises GoalError for one out of range.

    >>> from onnx_lowrank import Compact, Gate
    >>> goal = Compact(gate=Gate(max_drop=0.02), resource="bytes")
    >>> goal.name, goal.speedup, Compact(resource="latency").speedup
    ('compact', None, 1.02)
    """

    gate: Gate = Gate()
    resource: Resource = "parameters"
    min_speedup: float | None = None

    def __post_init__(self) -> None:
        check_type("Compact(gate=…)", self.gate, Gate)
        check_numbers(self, "min_speedup")
        if self.resource not in get_args(Resource):
            known = ", ".join(map(repr, get_args(Resource)))
            raise GoalError(f"Compact(resource=…) takes one of {known}, not {shown(self.resource)}")
        _check_speedup(self.min_speedup, self.resource)

    @property
    def name(self) -> str:
        """The algorithm's name."""
        return "compact"

    @property
    def target_size(self) -> int | None:
        """The bytes that the saved model may have; None: no target."""
        return None

    @property
    def speedup(self) -> float | None:
        """The speed-up that has to be shown; None: none."""
        return _speedup(self.min_speedup, self.resource)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lossless:
    """The most accurate model within a size or a time (arXiv 2412.06867, lossless algorithm); it must hold, too.

    Without any target the most accurate smaller model of any size, by labels: `searches`. Else one of: `keep`, share of
    all the model's parameters; `target_size`, bytes of the saved model; `target_macs`, share of the model's
    multiply-accumulates. `target_latency`, share of its time: by itself, or with one of them, both kept. min_speedup:
    as for Compact. Raises GoalError otherwise.

    >>> from onnx_lowrank import Lossless
    >>> Lossless(keep=0.5).resource, Lossless(target_size=10_000_000).resource, Lossless().searches
    ('parameters', 'bytes', True)
    >>> Lossless(keep=50)
    Traceback (most recent call last):
    onnx_lowrank.errors.GoalError: --keep is a share between 0 and 1, not 50
    """

    keep: float | None = None
    target_size: int | None = None
    target_macs: float | None = None
    gate: Gate = Gate()
    target_latency: float | None = None
    min_speedup: float | None = None

    def __post_init__(self) -> None:
        check_type("Lossless(gate=…)", self.gate, Gate)
        check_numbers(self, "keep", "target_macs", "target_latency", wanted="a share between 0 and 1, 0.6 say")
        check_numbers(self, "target_size", "min_speedup")
        targets = [v for v in (self.keep, self.target_size, self.target_macs) if v is not None]
        if len(targets) > 1:
            raise GoalError(
                "lossless takes one of keep, target size and target MACs, or a target latency, alone or with one of"
                " them: give --keep 0.6, say"
            )
        shares = (("keep", self.keep), ("target-macs", self.target_macs), ("target-latency", self.target_latency))
        for name, share in shares:
            if share is not None and not 0 < share <= 1:
                raise GoalError(f"--{name} is a share between 0 and 1, not {share}")
        if self.target_size is not None and self.target_size <= 0:
            raise GoalError(f"--target-size must be more than 0 bytes, not {self.target_size}")
        _check_speedup(self.min_speedup, self.resource)

    @property
    def name(self) -> str:
        """The algorithm's name."""
        return "lossless"

    @property
    def searches(self) -> bool:
        """Whether no target bounds the size: the most accurate of all sizes is looked for."""
        return all(v is None for v in (self.keep, self.target_size, self.target_macs, self.target_latency))

    @property
    def resource(self) -> Resource:
        """What the budget counts; where there are two, the time."""
        return "latency" if self.target_latency is not None else self.size_resource

    @property
    def size_resource(self) -> Resource:
        """What the budget beside a time counts."""
        if self.target_size is not None:
            return "bytes"
        return "macs" if self.target_macs is not None else "parameters"

    @property
    def cap(self) -> Resource | None:
        """What is bounded besides the time; None where there is one budget."""
        sized = any(v is not None for v in (self.keep, self.target_size, self.target_macs))
        return self.size_resource if sized and self.target_latency is not None else None

    @property
    def speedup(self) -> float | None:
        """The speed-up that has to be shown; None: none."""
        return _speedup(self.min_speedup, self.resource)


def _speedup(asked: float | None, resource: Resource) -> float | None:
    return LEAST_SPEEDUP if asked is None and resource == "latency" else asked


def _check_speedup(asked: float | None, resource: Resource) -> None:
    """Raise GoalError for a speed-up that is none, and for a goal of latency that allows a slower model."""
    if asked is None:
        return
    least = 1.0 if resource == "latency" else 0.0
    if not least <= asked < math.inf or asked == 0:
        raise GoalError(
            f"--min-speedup must be {'1 or more where latency is the goal' if least else 'more than 0'}"
            f" (1.02, say), not {asked:g}"
        )


Goal: TypeAlias = Compact | Lossless
