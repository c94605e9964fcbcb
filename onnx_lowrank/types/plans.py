"""Ways to store a weight, what they cost and lose, and the choice of one for every weight."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from onnx_lowrank.types.chains import Ranks
from onnx_lowrank.types.forms import OWN, UNCHANGED, Form


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


@dataclass(frozen=True, slots=True)
class Option:
    """One form of a site, with its cost and its predicted rise of the loss.

    `error` is the relative squared error at the site's output (0 dense, 1 all gone); `loss` is on the scale of the
    divergence that the run measures (nats of KL, or relative squared error), so sites add. `deviation` is the standard
    error of `loss` over samples; `slope` the predicted change of the labelled loss to first order, with its own.
    shared_input: the ids of all weights that take the option at these ranks together or not at all, as they share the
    first factor; it is counted in the cost of the first of them alone.
    """

    form: Form
    cost: Cost
    error: float = 0.0
    loss: float = 0.0
    deviation: float = 0.0
    slope: float = 0.0
    slope_deviation: float = 0.0
    shared_input: tuple[str, ...] = ()

    @property
    def scheme(self) -> str:
        """The form's scheme."""
        return self.form.scheme

    @property
    def ranks(self) -> Ranks:
        """The form's ranks."""
        return self.form.ranks

    @property
    def dense(self) -> bool:
        """Whether the weight stays as it is."""
        return self.form.unchanged


@dataclass(frozen=True, slots=True)
class Probe:
    """One measured substitution at a site: relative squared error there, and the divergence of the model's output.

    `predicted` is the prediction from the curvature (None: there was no prediction); `deviation` the standard error of
    the measured loss over so many `samples` (0: not told).
    """

    error: float
    loss: float
    predicted: float | None = None
    form: Form = UNCHANGED
    deviation: float = 0.0
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Curve:
    """All options of a site, dense first, then by falling cost; `probes` is what their losses were measured on.

    `trust_range` is the largest relative error at which prediction and measurement of the site alone agreed; beyond it
    options carry the measured loss. None where the site was not measured alone, or nothing was predicted. `original`:
    the dense option where a user does not allow it, so that the options are without it.
    """

    site: str
    options: tuple[Option, ...]
    probes: tuple[Probe, ...] = ()
    trust_range: float | None = None
    original: Option | None = None

    @property
    def dense(self) -> Option:
        """The option that changes nothing."""
        return self.original or self.options[0]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a plan does with one site."""

    site: str
    weight: str
    option: Option

    @property
    def plain(self) -> Choice:
        """The same choice with plain factors; its cost is that of the form that was chosen."""
        return replace(self, option=replace(self.option, form=replace(self.option.form, interpolative=False)))

    @property
    def own(self) -> Choice:
        """The same choice with numbers stored as the weight's own; its cost is that of the form that was chosen."""
        return replace(self, option=replace(self.option, form=replace(self.option.form, storage=OWN)))


@dataclass(frozen=True, slots=True)
class Plan:
    """Site -> option for every site, and the predicted rise of the loss of all together.

    mild: tested on the way to smaller plans, and of so little loss that a refit of its factors is not worth its time.
    early: expected to be so far from the limit that a first look at a part of the samples may certify it.
    """

    choices: tuple[Choice, ...]
    origin: str = ""
    mild: bool = False
    early: bool = False

    @property
    def loss(self) -> float:
        """Predicted rise of the loss, in the unit of its options."""
        return math.fsum(choice.option.loss for choice in self.choices)

    @property
    def cost(self) -> Cost:
        """Cost of all sites together."""
        return sum((choice.option.cost for choice in self.choices), Cost())

    @property
    def plain(self) -> Plan:
        """The same plan with plain factors: the same products, whose stages are one node each."""
        return replace(self, choices=tuple(choice.plain for choice in self.choices))

    @property
    def own(self) -> Plan:
        """The same plan with all numbers stored as the weights' own."""
        return replace(self, choices=tuple(choice.own for choice in self.choices))

    @property
    def factored(self) -> tuple[Choice, ...]:
        """The choices that change the graph."""
        return tuple(choice for choice in self.choices if not choice.option.dense)
