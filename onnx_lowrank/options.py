"""How the work is done, as a user may ask for it: frozen, keyword-only, and impossible in a wrong state."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from onnx_lowrank.errors import GoalError
from onnx_lowrank.types import Override
from onnx_lowrank.types.checks import check_numbers, check_type, check_whole, is_number, shown
from onnx_lowrank.types.overrides import BITS as BITS

Sensitivity: TypeAlias = Literal["joint", "inputs", "weights", "paper"]
LossObjective: TypeAlias = Literal["original", "labels"]
SAVING: dict[str, tuple[int, ...]] = {"bytes": BITS, "latency": (8, 32)}
"""What numbers may take, by the resource that is saved; of time, what operators multiply."""
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


MOST_THREADS, MOST_SEED = 1024, 2**63 - 1
"""More threads than that, which a run would have to start first, are a slip of the pen."""


LEAST_MEMORY, DEFAULT_MEMORY = 2**24, 2**30
"""Below the first a bound on memory bounds nothing; the second gives way to the widest weight, any other is kept."""


EXECUTOR = re.compile(r"local:([1-9]\d{0,2})|dask://(\S+:\d+)")
"""Processes on this machine, or a cluster's scheduler."""


LEAST_SHARD = 2**20
"""A file of weights below this is none."""


REFITTED = 512
"""Calibration samples that the last factors are refitted on, at most: all of them where it is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Where onnxruntime runs: an execution provider (auto, cpu, cuda, or onnxruntime's own name) and its threads.

    threads: 0 is all cores. Raises GoalError for fewer.
    """

    provider: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        check_whole(self, "threads")
        if not isinstance(self.provider, str):
            raise GoalError(f"the provider is auto, cpu, cuda or onnxruntime's own name, not {shown(self.provider)}")
        if not 0 <= self.threads <= MOST_THREADS:
            raise GoalError(f"threads must be 0 (all cores) or a number up to {MOST_THREADS:,}, not {self.threads}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How the work is done; nothing here changes what counts as a success.

    metric: a built-in's name, `name@output`, FILE.py:function, or a function (outputs, labels); None: what fits.
    memory: bytes that collection, refits and kept outputs may hold at once; the default gives way to the widest weight.
    exponents: a and b of the metric A^a ⊗ B^b in which `joint` fits bases (A of inputs, B of gradients); losses are
    predicted as ever. objective: whose loss is predicted, the distance to the original's outputs (None as well) or that
    of the labels, to first and second order, which chooses components, too. signed: add the first-order term of a
    labelled loss, cross-fitted. inter_layer: add what sites do to each other. refit: ridge least squares of the last
    factors on the compressed prefix; None: of plans that lose less by it on samples that nothing was fitted on.
    continuation: steps in which to shrink, collecting again after each. gamma: bound on the relative error of a layer
    under `paper`. loss: FILE.py:function(outputs, label) -> {output: gradient}, a loss of one's own. then: what is done
    to the factored model, judged with it: int8 by onnxruntime (static, dynamic), or of the weights alone. shared_input:
    weights that read one tensor may share a first factor. outputs: those that count, for the loss and the gate; none:
    all. groups: the key, in the samples, of what samples have in common. allow_weak_baseline: go on where the metric
    measures nothing; allow_random: judge an original that is not deterministic against its own spread. temperature,
    logit_bias, last_layer: what labels of calibration samples do in closed form, judged apart from truncation; the last
    layer, where nothing is said, if it wins in the search for the most accurate model. bits: what a number of a weight
    or a factor may take, of BITS; 32 stands for its own type and is always among them. For a goal of time 8 also means
    that operators may multiply integers. None: what `for_goal` says. overrides: what some weights become whatever the
    search says, GLOB=KEY:VALUE,… each (see `Override`); the last that names a weight counts. cache_dir: a folder where
    what was collected and measured is kept, for other goals, other processes, and a run that is cut off; None: nothing
    is kept. cache_limit: bytes that it may hold; what was used longest ago goes first. time_budget: seconds until a
    model is saved, about: the best that is certified by then. save_as_external_data: weights go to a file beside the
    model; above protobuf's 2 GiB they always do. shard_size: to several, each of so many bytes at most. executor: who
    collects, decomposes and runs candidates: None: this process; `local:N`: processes on this machine;
    `dask://HOST:PORT`: a cluster.

    >>> from onnx_lowrank import Options, Runtime
    >>> options = Options(include=("encoder.*",), bits=(8, 32), runtime=Runtime(threads=4))
    >>> options.rounds, Options().for_goal("bytes").bits, Options().for_goal("parameters").bits
    (True, (2, 4, 8, 12, 16, 32), (32,))
    """

    sensitivity: Sensitivity = "joint"
    metric: str | Callable[..., Any] | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rank_multiple: int = 8
    runtime: Runtime = Runtime()
    seed: int = 0
    memory: int = DEFAULT_MEMORY
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
    bits: tuple[int, ...] | None = None
    overrides: tuple[str, ...] = ()
    cache_dir: str | None = None
    cache_limit: int = 10 * 10**9
    time_budget: float | None = None
    save_as_external_data: bool = False
    shard_size: int | None = None
    executor: str | None = None

    @property
    def cache(self) -> tuple[str, int] | None:
        """Folder and bytes at most of what is kept; None: nothing is."""
        return None if self.cache_dir is None else (self.cache_dir, self.cache_limit)

    @property
    def result(self) -> Options:
        """What results depend on but for rounding: without where they are kept, and the count of threads."""
        return replace(
            self, cache_dir=None, cache_limit=0, time_budget=None, save_as_external_data=False, shard_size=None,
            executor=None, runtime=replace(self.runtime, threads=0),
        )  # fmt: skip

    @property
    def collecting(self) -> Options:
        """What curves depend on but for rounding, before they have number formats."""
        return replace(
            self.result, metric=None, then=None, temperature=False, logit_bias=False, last_layer=None, bits=None,
            refit=None, allow_weak_baseline=False, allow_random=False,
        )  # fmt: skip

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
        self._check_kinds()
        if self.then is not None and self.then not in THEN:
            raise GoalError(f"unknown step {self.then!r} after factoring: take {', '.join(map(repr, THEN))}")
        if self.sensitivity not in SENSITIVITIES:
            raise GoalError(unknown_sensitivity(self.sensitivity))
        if not 0 <= self.seed <= MOST_SEED:
            raise GoalError(f"the seed must be a whole number from 0 to {MOST_SEED}, not {self.seed}")
        if self.memory < LEAST_MEMORY:
            raise GoalError(f"the memory bound must be at least {LEAST_MEMORY // 2**20} MiB, not {self.memory} bytes")
        if self.time_budget is not None and not self.time_budget > 0:
            raise GoalError(f"the time budget must be more than 0 seconds (10m, say), not {self.time_budget:g}")
        if self.executor is not None and not EXECUTOR.fullmatch(self.executor):
            raise GoalError(
                f"unknown executor {self.executor!r}: give local:N (processes on this machine) or dask://HOST:PORT"
            )
        if self.shard_size is not None and self.shard_size < LEAST_SHARD:
            raise GoalError(f"--shard-size must be at least {LEAST_SHARD // 2**20} MiB, not {self.shard_size} bytes")
        if self.rank_multiple < 1:
            raise GoalError(f"the rank multiple must be 1 or more, not {self.rank_multiple}")
        self._check_switches()
        for name in ("include", "exclude", "outputs", "overrides"):
            if isinstance(getattr(self, name), str):
                raise GoalError(f"{name} takes a tuple of texts: ({getattr(self, name)!r},)")
        try:
            for text in self.overrides:
                Override.of(text)
        except ValueError as error:
            raise GoalError(str(error)) from error

    def _check_kinds(self) -> None:
        """Raise GoalError for a value of another kind than its field's."""
        check_type("Options(runtime=…)", self.runtime, Runtime)
        check_whole(self, "seed", "memory", "rank_multiple", "continuation", "cache_limit", "shard_size")
        check_numbers(self, "gamma", "time_budget")
        for name, wanted in (("bits", "(8, 32), say"), ("exponents", "(1, 0.5), say")):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, tuple | list) and all(map(is_number, value))):
                raise GoalError(f"Options({name}=…) takes a tuple of numbers, {wanted}, not {shown(value)}")
        own = callable(self.metric) or hasattr(self.metric, "values")
        if self.metric is not None and not isinstance(self.metric, str) and not own:
            raise GoalError(
                f"Options(metric=…) takes a metric's name, FILE.py:function or a function, not {shown(self.metric)}"
            )

    def _check_bits(self) -> None:
        """Raise GoalError for bits that there are not, and for what does not go with fewer than a number's own."""
        if self.bits is None:
            return
        if set(self.bits) - set(BITS) or 32 not in self.bits:
            given = ",".join(map(str, self.bits))
            raise GoalError(
                "--bits lists what a number may take, of 2, 4, 8, 12, 16 and 32; 32, its own type, is among them, for"
                f" what fewer would harm: 4,8,32 or 8,32, not {given}"
            )
        for name in self._beside_bits():
            if self.rounds:
                raise GoalError(f"{name} does not go with --bits below 32: leave one of them out")

    def _beside_bits(self) -> list[str]:
        """Return what is asked for that does not go with fewer bits than a number's own."""
        others = (
            (f"--then {self.then}", self.then is not None), ("--inter-layer", self.inter_layer),
            ("--continuation", self.continuation > 1),
            (f"--sensitivity {self.sensitivity}", self.sensitivity != "joint"),
        )  # fmt: skip
        return [name for name, asked in others if asked]

    @property
    def rounds(self) -> bool:
        """Whether weights may be stored, or multiplied, in fewer bits than their own."""
        return self.bits is not None and min(self.bits) < 32

    def for_goal(self, resource: str) -> Options:
        """Return the options with bits, where none are given: all that save the goal's resource.

        Its own type alone where bits save nothing, or something else that is asked for does not go with fewer.
        """
        if self.bits is not None:
            return self
        return replace(self, bits=(32,) if self._beside_bits() else SAVING.get(resource, (32,)))

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
