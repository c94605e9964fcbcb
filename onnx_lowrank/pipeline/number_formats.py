"""`--bits`: the formats that run here, and curves that have every option in each of them, or in integer arithmetic."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from onnx_lowrank.collection.positions import observe_positions
from onnx_lowrank.options import Options
from onnx_lowrank.passes.integer_arithmetic import refused_arithmetic
from onnx_lowrank.passes.unpack import refused
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.progress import Progress
from onnx_lowrank.sensitivity.calibrated import Calibrated, CalibrationSetup, SensitivityState
from onnx_lowrank.sensitivity.integer_arithmetic import with_arithmetic
from onnx_lowrank.sensitivity.rounding import compensation_of, in_formats
from onnx_lowrank.types import ARITHMETIC, FORMATS, INT8
from onnx_lowrank.weights.inventory import Inventory


def with_formats(
    loaded: LoadedModel, inventory: Inventory, options: Options, state: SensitivityState, progress: Progress
) -> tuple[SensitivityState, tuple[str, ...]]:
    """Return the state with options in all number formats that are asked for and run here, and a note on each other."""
    asked = [number for number in FORMATS.values() if number.bits in (options.bits or ())]
    unavailable = {number.name: refused(loaded.model, number, options.runtime) for number in asked}
    notes = tuple(f"{name} is not available: {why}" for name, why in unavailable.items() if why)
    setup = _setup(loaded, inventory, options, state.calibrated)
    state = replace(state, calibrated=replace(state.calibrated, observed=setup.observed))
    return in_formats(setup, state, [number for number in asked if not unavailable[number.name]], progress), notes


def in_arithmetic(
    loaded: LoadedModel, inventory: Inventory, options: Options, state: SensitivityState, progress: Progress
) -> tuple[SensitivityState, tuple[str, ...]]:
    """Return the state with options that integers compute, where they run here, and a note on each that does not."""
    if INT8.bits not in (options.bits or ()):
        return state, ()
    unavailable = {
        number.name: refused_arithmetic(loaded.model, number, options.runtime) for number in ARITHMETIC.values()
    }
    notes = tuple(f"{name} is not available: {why}" for name, why in unavailable.items() if why)
    setup = _setup(loaded, inventory, options, state.calibrated)
    state = replace(state, calibrated=replace(state.calibrated, observed=setup.observed))
    allowed = [number for number in ARITHMETIC.values() if not unavailable[number.name]]
    return with_arithmetic(setup, state, allowed, progress), notes


def with_compensation(
    loaded: LoadedModel,
    inventory: Inventory,
    options: Options,
    calibrated: Calibrated,
    chosen: Collection[str],
    progress: Progress,
) -> Inventory:
    """Return the inventory that rounds weights as it was done when a plan was made; chosen: its number formats."""
    numbers = [number for number in FORMATS.values() if number.name in chosen]
    if not any(number.compensated for number in numbers):
        return inventory
    setup = _setup(loaded, inventory, options, calibrated)
    return replace(inventory, compensation=compensation_of(setup, numbers, progress))


def _setup(loaded: LoadedModel, inventory: Inventory, options: Options, calibrated: Calibrated) -> CalibrationSetup:
    outside = inventory.part(bodies=False)
    observed = observe_positions(loaded.model, outside, calibrated.samples.feeds, options)
    return CalibrationSetup(
        loaded, calibrated.samples, outside, calibrated.objective, options, observed, calibrated.batch
    )
