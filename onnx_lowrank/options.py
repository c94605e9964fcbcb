"""What a user can ask for: frozen, keyword-only, and impossible in a wrong state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnx_lowrank.errors import GoalError

DropType: TypeAlias = Literal["absolute", "relative"]
Sensitivity: TypeAlias = Literal["joint", "inputs", "weights", "paper"]
Resource: TypeAlias = Literal["parameters", "bytes", "macs", "latency"]
LossObjective: TypeAlias = Literal["original", "labels"]
BITS = (2, 4, 8, 32)
OBJECTIVES: tuple[LossObjective, ...] = ("original", "labels")
Then: TypeAlias = Literal["quantize", "quantize-dynamic", "quantize-weights"]
THEN: tuple[Then, ...] = ("quantize", "quantize-dynamic", "quantize-weights")
SENSITIVITIES: dict[Sensitivity, tuple[str, frozenset[str]]] = {
    "joint": (
        "inputs and loss gradients",
        frozenset({"--exponents", "--objective", "--signed", "--inter-layer", "--continuation", "--shared-input"}),
    ),
    "inputs": ("whitened", frozenset({"--shared-input"})),
    "weights": ("plain SVD", frozenset({"--shared-input"})),
    "paper": ("arXiv 2412.06867 to the letter", frozenset({"--signed", "--loss"})),
}
"""What they go by, and the switches that have a meaning with them: those of the modes in `sensitivity.modes`."""
FITTED: frozenset[Sensitivity] = frozenset({"joint", "inputs"})
"""What fits factors on samples as well as it can: the last ones are refitted without being asked for."""


LEAST_SPEEDUP = 1.02
"""The speedup that a goal of latency has to show by default."""
LEAST_MEMORY = 2**24
"""Below this a bound on memory bounds nothing."""


REFITTED = 512
"""Calibration samples that the last factors are refitted on, at most: all of them where it is asked for."""
MAX_DROP, TOLERANCE = 0.01, 0.05
"""Allowed by default: the drop of a metric, and the mean relative error of an output that is no decision."""
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Where onnxruntime runs: an execution provider (auto, cpu, cuda, or onnxruntime's own name) and its threads.

    threads: 0 is all cores. Raises GoalError for fewer.
    """

    provider: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise GoalError(f"threads must be 0 (all cores) or a positive number, not {self.threads}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """When a candidate holds: a test at `confidence` rejects that its metric's drop is `max_drop` or more.

    max_drop: None is the metric's own default, MAX_DROP for most. `relative` divides the drop by the original's metric.
    observed: the estimate alone decides, and nothing is claimed. Raises GoalError for values out of range, and for a
    drop of 0 that is not only to be observed.
    """

    max_drop: float | None = None
    drop_type: DropType = "absolute"
    confidence: float = CONFIDENCE
    observed: bool = False

    def __post_init__(self) -> None:
        if self.max_drop is not None and (math.isnan(self.max_drop) or self.max_drop < 0):
            raise GoalError(f"the allowed drop must be 0 or more, not {self.max_drop}")
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
    """

    gate: Gate = Gate()
    resource: Resource = "parameters"
    min_speedup: float | None = None

    def __post_init__(self) -> None:
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
    """

    keep: float | None = None
    target_size: int | None = None
    target_macs: float | None = None
    gate: Gate = Gate()
    target_latency: float | None = None
    min_speedup: float | None = None

    def __post_init__(self) -> None:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How the work is done; nothing here changes what counts as a success.

    memory: bytes that collection may hold at once. exponents: a and b of the metric A^a ⊗ B^b in which `joint` fits
    bases (A of inputs, B of gradients); losses are predicted as ever. objective: whose loss is predicted, the
    distance to the original's outputs (None as well) or that of the labels, to first and second order, which
    chooses components, too. signed: add the first-order term of a labelled loss, cross-fitted. inter_layer: add
    what sites do to each other. refit: ridge least squares of the last factors on the compressed prefix; None: of
    plans that lose less by it on samples that nothing was fitted on. continuation: steps in which to shrink,
    collecting again after each. gamma: bound on the relative error of a layer under `paper`. loss:
    FILE.py:function(outputs, label) -> {output: gradient}, a loss of one's own. then: what is done to the factored
    model, judged with it: int8 by onnxruntime (static, dynamic), or of the weights alone. shared_input: weights
    that read one tensor may share a first factor. outputs: those that count, for the loss and the gate; none: all.
    groups: the key, in the samples, of what samples have in common. allow_weak_baseline: go on where the metric
    measures nothing; allow_random: judge an original that is not deterministic against its own spread.
    temperature, logit_bias, last_layer: what labels of calibration samples do in closed form, judged apart from
    truncation; the last layer, where nothing is said, if it wins in the search for the most accurate model. bits: what
    a number of a weight or a factor may take, of BITS; 32 stands for its own type and is always among them.
    """

    sensitivity: Sensitivity = "joint"
    metric: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rank_multiple: int = 8
    runtime: Runtime = Runtime()
    seed: int = 0
    memory: int = 2**30
    exponents: tuple[float, float] = (1.0, 1.0)
    objective: LossObjective | None = None
    signed: bool = False
    inter_layer: bool = False
    refit: bool | None = None
    continuation: int = 1
    gamma: float = 0.1
    loss: str | None = None
    then: Then | None = None
    shared_input: bool = True
    outputs: tuple[str, ...] = ()
    groups: str | None = None
    allow_weak_baseline: bool = False
    allow_random: bool = False
    temperature: bool = False
    logit_bias: bool = False
    last_layer: bool | None = None
    bits: tuple[int, ...] = (32,)

    @property
    def shares(self) -> bool:
        """Whether a first factor may be shared: not in the paper's rule, nor where weights shrink in steps."""
        return self.shared_input and "--shared-input" in self._switches and self.continuation == 1

    @property
    def first_order(self) -> bool:
        """Whether the first-order term of a labelled loss is added to the losses."""
        return self.signed or self.objective == "labels"

    @property
    def may_refit(self) -> bool:
        """Whether last factors are refitted where that pays, or in any case."""
        return self.refit is True or (self.refit is None and self.sensitivity in FITTED and self.continuation == 1)

    @property
    def _switches(self) -> frozenset[str]:
        return SENSITIVITIES[self.sensitivity][1]

    def __post_init__(self) -> None:
        if self.then is not None and self.then not in THEN:
            raise GoalError(f"unknown step {self.then!r} after factoring: take {', '.join(map(repr, THEN))}")
        if self.sensitivity not in SENSITIVITIES:
            raise GoalError(unknown_sensitivity(self.sensitivity))
        if self.memory < LEAST_MEMORY:
            raise GoalError(f"the memory bound must be at least {LEAST_MEMORY // 2**20} MiB, not {self.memory} bytes")
        if self.rank_multiple < 1:
            raise GoalError(f"the rank multiple must be 1 or more, not {self.rank_multiple}")
        self._check_switches()

    def _check_bits(self) -> None:
        """Raise GoalError for bits that there are not, and for what does not go with fewer than a number's own."""
        if set(self.bits) - set(BITS) or 32 not in self.bits:
            given = ",".join(map(str, self.bits))
            raise GoalError(
                f"--bits lists what a number may take, of 2, 4, 8 and 32; 32, its own type, is among them, for what"
                f" fewer would harm: 4,8,32 or 8,32, not {given}"
            )
        others = (
            (f"--then {self.then}", self.then is not None), ("--inter-layer", self.inter_layer),
            ("--continuation", self.continuation > 1),
            (f"--sensitivity {self.sensitivity}", self.sensitivity != "joint"),
        )  # fmt: skip
        for name, asked in others:
            if asked and self.rounds:
                raise GoalError(f"{name} does not go with --bits below 32: leave one of them out")

    @property
    def rounds(self) -> bool:
        """Whether weights may be stored in fewer bits than their own."""
        return min(self.bits) < 32

    def _check_switches(self) -> None:
        """Raise GoalError for a switch out of range, or one that would do nothing."""
        self._check_bits()
        if not 0 < self.gamma < math.inf:
            raise GoalError(f"--gamma must be more than 0 (0.1, say), not {self.gamma}")
        if self.continuation < 1:
            raise GoalError(f"--continuation must be 1 step or more, not {self.continuation}")
        if len(self.exponents) != 2 or not all(0 <= exponent <= 1 for exponent in self.exponents):
            given = " ".join(f"{exponent:g}" for exponent in self.exponents)
            raise GoalError(f"--exponents takes two numbers from 0 to 1, of inputs and gradients (1 0.5), not {given}")
        if tuple(self.exponents) != (1, 1) and "--exponents" not in self._switches:
            raise GoalError(f"--exponents belongs to --sensitivity joint, not to {self.sensitivity}")
        if self.objective not in (None, *OBJECTIVES):
            raise GoalError(f"unknown objective {self.objective!r}: take {' or '.join(map(repr, OBJECTIVES))}")
        if self.objective == "labels" and "--objective" not in self._switches:
            raise GoalError(f"--objective labels belongs to --sensitivity joint, not to {self.sensitivity}")
        if self.signed and "--signed" not in self._switches:
            raise GoalError(f"--signed belongs to --sensitivity joint: {self.sensitivity} knows no gradient")
        for name, wanted in (("--inter-layer", self.inter_layer), ("--continuation", self.continuation > 1)):
            if wanted and name not in self._switches:
                raise GoalError(f"{name} belongs to --sensitivity joint, not to {self.sensitivity}")
        if self.loss is not None and not self.first_order and "--loss" not in self._switches:
            raise GoalError(
                "--loss is only used with --signed or --sensitivity paper, and --objective labels: add one, or leave it"
                " out"
            )


def unknown_sensitivity(name: str) -> str:
    """Return the message that no mode has this name, with those that exist."""
    *first, last = (f"{known!r} ({what})" for known, (what, _) in SENSITIVITIES.items())
    return f"unknown sensitivity {name!r}: take {', '.join(first)} or {last}"
