"""A plan as JSON: written by `--save-plan`, read by `apply`. Schemes and ranks, and what model they are for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_lowrank.errors import PlanError
from onnx_lowrank.metrics.divergence import DivergenceKind
from onnx_lowrank.options import LossObjective, Options, Sensitivity, Then
from onnx_lowrank.results.result import Result
from onnx_lowrank.sensitivity.modes import mode_named
from onnx_lowrank.types import OWN, Choice, Plan, Ranks
from onnx_lowrank.types.number_formats import EACH, INT8_STATIC

FORMAT = "onnx-lowrank plan"
VERSION = 2
OLDER_REFIT = 64
"""Samples of a refit, at most, in plans that do not say."""


@dataclass(frozen=True, slots=True)
class SavedChoice:
    """One factored weight; `shared_input`: the ids of all weights that share its first factor.

    interpolative, storage: see `Form`; older plans say nothing of them, and are repeated with plain factors as stored
    as the weight. parameters, loss: what the choice cost and was predicted to lose, to be read; 0: not told.
    """

    site: str
    weight: str
    shape: tuple[int, ...]
    scheme: str
    ranks: Ranks
    shared_input: tuple[str, ...] = ()
    interpolative: bool = False
    storage: str = OWN
    parameters: int = 0
    loss: float = 0.0

    @staticmethod
    def of(choice: Choice, shape: tuple[int, ...]) -> SavedChoice:
        """Return the saved form of a choice for a weight of that shape."""
        form, together, loss = choice.option.form, choice.option.shared_input, float(choice.option.loss)
        return SavedChoice(
            choice.site, choice.weight, shape, form.scheme, form.ranks, together, form.interpolative, form.storage,
            int(choice.option.cost.parameters), loss if math.isfinite(loss) else 0.0,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """What is needed to repeat a plan: the model's hash, how the factors were made, and the choices.

    `divergence` is the loss whose gradient entered the factors (sensitivity joint); `refit`: so were the last
    factors; `refitted_on`: on how many samples at most; `then`: what came after factoring; `shared_input`: whether
    weights were allowed to share a first factor; `exponents`: of the metric of `joint`; `objective`: whose loss
    chose its components; `outputs`: those that counted; `groups`: the key of what samples have in common, by which
    they were split.
    """

    model_sha256: str
    sensitivity: Sensitivity
    seed: int
    rank_multiple: int
    choices: tuple[SavedChoice, ...]
    tool: str = ""
    divergence: DivergenceKind = "relative-l2"
    refit: bool = False
    refitted_on: int = OLDER_REFIT
    then: Then | None = None
    shared_input: bool = False
    outputs: tuple[str, ...] = ()
    groups: str | None = None
    exponents: tuple[float, float] = (1.0, 1.0)
    objective: LossObjective | None = None

    @property
    def needs_data(self) -> bool:
        """Whether the factors, or the ranges of int8, depend on calibration samples."""
        static = any(INT8_STATIC.name in c.storage.split(EACH) for c in self.choices)
        return self.factors_need_data or static or self.then == "quantize"

    @property
    def factors_need_data(self) -> bool:
        """Whether the factors do."""
        return mode_named(self.sensitivity).needs_data or self.refit

    @staticmethod
    def of(
        plan: Plan,
        shapes: Mapping[str, tuple[int, ...]],
        model_sha256: str,
        options: Options,
        tool: str,
        divergence: DivergenceKind = "relative-l2",
        refitted_on: int = 0,
    ) -> SavedPlan:
        """Return the saved form of a plan; `shapes` are the sites' by id."""
        choices = tuple(SavedChoice.of(choice, shapes[choice.site]) for choice in plan.factored)
        return SavedPlan(
            model_sha256,
            options.sensitivity,
            options.seed,
            options.rank_multiple,
            choices,
            tool,
            divergence,
            refitted_on > 0,
            refitted_on or OLDER_REFIT,
            options.then,
            options.shares,
            options.outputs,
            options.groups,
            options.exponents,
            options.objective,
        )

    @staticmethod
    def of_result(result: Result, tool: str = "") -> SavedPlan:
        """Return what repeats the model that was made. Raises PlanError where nothing was, or by more than factors."""
        options = result.request.options
        if result.plan is None:
            raise PlanError(f"there is no plan to save: {result.reason}")
        if options.temperature or options.logit_bias or options.last_layer:
            raise PlanError("a plan does not repeat what is fitted to labels: leave that out")
        request, shapes = result.request, {site.id: site.shape for site in result.sites}
        return SavedPlan.of(
            result.plan, shapes, result.original.sha256, request.options, tool, request.divergence, request.refitted_on
        )

    def to_json(self) -> str:
        """Return the text of the plan file."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "tool": self.tool,
            "model_sha256": self.model_sha256,
            "sensitivity": self.sensitivity,
            "divergence": self.divergence,
            **({"exponents": list(self.exponents)} if self.exponents != (1.0, 1.0) else {}),
            **({"objective": self.objective} if self.objective is not None else {}),
            "refit": self.refit,
            **({"refitted_on": self.refitted_on} if self.refit else {}),
            **({"then": self.then} if self.then is not None else {}),
            "shared_input": self.shared_input,
            **({"outputs": list(self.outputs)} if self.outputs else {}),
            **({"groups": self.groups} if self.groups is not None else {}),
            "seed": self.seed,
            "rank_multiple": self.rank_multiple,
            "choices": [_choice_json(choice) for choice in self.choices],
        }
        return json.dumps(content, indent=2) + "\n"


def _choice_json(choice: SavedChoice) -> dict[str, object]:
    content: dict[str, object] = {
        "site": choice.site,
        "weight": choice.weight,
        "shape": list(choice.shape),
        "scheme": choice.scheme,
        "ranks": list(choice.ranks),
    }
    if choice.interpolative:
        content["interpolative"] = True
    if choice.storage != OWN:
        content["storage"] = choice.storage
    if choice.parameters:
        content |= {"parameters": choice.parameters, "loss": choice.loss}
    return content | ({"shared_input": list(choice.shared_input)} if choice.shared_input else {})


def read_plan(path: Path) -> SavedPlan:
    """Return the plan in a file. Raises PlanError, one line, for anything that is not such a file."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PlanError(f"{path}: no such file; give a plan written by `optimize --save-plan`") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PlanError(f"{path} cannot be read as a plan; give a file written by `optimize --save-plan`") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise PlanError(f"{path} is not a plan; give a file written by `optimize --save-plan`")
    if content.get("version") != VERSION:
        raise PlanError(f"{path} is a plan of version {content.get('version')}; this tool reads version {VERSION}")
    try:
        choices = tuple(
            SavedChoice(
                str(c["site"]),
                str(c["weight"]),
                tuple(int(n) for n in c["shape"]),
                str(c["scheme"]),
                tuple(int(n) for n in c["ranks"]),
                tuple(str(member) for member in c.get("shared_input", ())),
                bool(c.get("interpolative", False)),
                str(c.get("storage", OWN)),
                int(c.get("parameters", 0)),
                float(c.get("loss", 0.0)),
            )
            for c in content["choices"]
        )
        return SavedPlan(
            str(content["model_sha256"]),
            content["sensitivity"],
            int(content["seed"]),
            int(content["rank_multiple"]),
            choices,
            str(content.get("tool", "")),
            content.get("divergence", "relative-l2"),
            bool(content.get("refit", False)),
            int(content.get("refitted_on", OLDER_REFIT)),
            content.get("then"),
            bool(content.get("shared_input", False)),
            tuple(str(name) for name in content.get("outputs", ())),
            None if content.get("groups") is None else str(content["groups"]),
            (float((exponents := content.get("exponents", (1.0, 1.0)))[0]), float(exponents[1])),
            content.get("objective"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(f"{path} is damaged ({type(error).__name__}: {error}); save the plan again") from error
