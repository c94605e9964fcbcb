"""What sensitivities depend on, for the keys of what is kept (`store`)."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_lowrank.collection.key import digest_of
from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.options import Options
from onnx_lowrank.samples import Samples
from onnx_lowrank.sensitivity.calibrated import CalibrationSetup, OpenModel
from onnx_lowrank.store import Place
from onnx_lowrank.types import Feed
from onnx_lowrank.weights.inventory import Inventory


def place_of(options: Options, objective: Objective) -> Place | None:
    """Return where results are kept; nowhere with a loss of the user's own, as what its code imports is not seen."""
    return options.cache if objective.custom is None else None


def parts_of(
    opened: OpenModel,
    inventory: Inventory,
    samples: Samples,
    objective: Objective,
    options: Options,
    held_back: Sequence[Feed] = (),
) -> tuple[object, ...]:
    """Return all that curves depend on before they have number formats; what was collected follows from that."""
    held = digest_of(pair for feed in held_back for pair in sorted(feed.items()))
    sites = inventory.sites, inventory.shared_inputs
    return opened.sha256, samples.identity, objective.identity, objective.signed, held, options.collecting, sites


def parts_of_setup(setup: CalibrationSetup) -> tuple[object, ...]:
    """Return the same of what calibration works on."""
    return parts_of(setup.opened, setup.inventory, setup.samples, setup.objective, setup.options)
