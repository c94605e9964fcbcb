"""Notes to the user on model, samples and measurements, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_lowrank.graph.model_io import Level, Standing
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.sensitivity.calibrated import Calibrated
from onnx_lowrank.types import Feed, Plan, formats_in
from onnx_lowrank.weights.inventory import Inventory


def loading_notes(loaded: LoadedModel, inventory: Inventory) -> list[str]:
    """Return what was done to a model so that its weights can be factored, and which check its result must pass."""
    notes = [*held_notes(loaded.standing), *preparation_notes(loaded.inlined, loaded.moved)]
    integers = sum(site.itemsize == 1 for site in inventory.sites)
    return [*notes, *([quantised_note(integers)] if integers else [])]


def preparation_notes(inlined: Sequence[str], moved: int) -> list[str]:
    """Return what was done to a graph so that weights in it can be factored."""
    return [*([inlined_note(inlined)] if inlined else []), *([moved_note(moved)] if moved else [])]


def standing_notes(standing: Standing, which: str) -> list[str]:
    """Return the note on a model that onnxruntime loads and onnx.checker does not accept, or not fully."""
    if standing.level is Level.FULL:
        return []
    check = "onnx.checker's full check" if standing.level is Level.BASIC else "onnx.checker"
    return [f"{which} does not pass {check} ({standing.why}), but onnxruntime loads it"]


def held_notes(standing: Standing) -> list[str]:
    """Return the same of an original, with the check that its result must pass."""
    held = "to the basic check" if standing.level is Level.BASIC else "to that"
    return [f"{note}: the result is held {held}" for note in standing_notes(standing, "the original")]


def inlined_note(names: Sequence[str]) -> str:
    """Return the note on local functions that were inlined."""
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"local functions are inlined, so that weights in them can be factored: {shown}"


def moved_note(count: int) -> str:
    """Return the note on weights that were moved to the main graph."""
    which = "1 weight is" if count == 1 else f"{count} weights are"
    return f"{which} moved from inside If, Loop or Scan to the main graph, to be factored there"


def quantised_note(count: int) -> str:
    """Return the note on factors that are integers."""
    which = (
        "1 weight is stored as 8-bit integers, and so are its"
        if count == 1
        else (f"{count} weights are stored as 8-bit integers, and so are their")
    )
    return f"{which} factors, with scales of the same kind; what lies between two factors stays float"


def narrow_notes(inventory: Inventory, calibrated: Calibrated) -> list[str]:
    """Say how many samples the widest linear site needs: fewer vectors than dimensions leave directions unseen."""
    samples, positions = calibrated.fitted, calibrated.observed.positions
    observed = [site for site in inventory.sites if site.id in positions and positions[site.id][0].at != "nowhere"]
    linear = [site for site in observed if len(site.shape) == 2]
    counts = [(site, samples * sum(at.calls for at in positions[site.id])) for site in linear]
    few = [(site, count) for site, count in counts if count < 4 * site.shape[1]]
    if not few:
        return []
    site, vectors = max(few, key=lambda pair: pair[0].shape[1] / pair[1])
    wanted = -(-4 * site.shape[1] * samples // max(int(vectors), 1))
    return [
        f"{site.node} has {site.shape[1]} inputs and saw {vectors:,.0f} vectors:"
        f" about {wanted:,} calibration samples would serve it better"
    ]


def untimed_note(weight: str, why: str) -> str:
    """Return why a weight has no time of its own."""
    return f"{weight} cannot be timed alone, so it stays as it is: {why}"


def integer_notes(plan: Plan) -> list[str]:
    """Say what is special of operators that multiply integers, by how their activations become some."""
    each = [{number.activations for number in formats_in(c.option.form.storage)} for c in plan.choices]
    kinds = [kind for kinds in each for kind in kinds]
    notes = []
    if count := kinds.count("static"):
        notes.append(
            f"{_weights(count)} in integers with ranges of the calibration samples: what lies outside of them is cut,"
            " so inputs of another kind need other samples"
        )
    if count := kinds.count("dynamic"):
        notes.append(
            f"{_weights(count)} in integers with ranges found at every call: what a sample gives depends a little on"
            " what is in its batch; it was judged by itself"
        )
    return notes


def _weights(count: int) -> str:
    return f"{count} weight{'' if count == 1 else 's'}"


def inventory_notes(inventory: Inventory, feeds: Sequence[Feed]) -> list[str]:
    """Return a note for every table of which calibration did not look up all rows: the others have no known loss."""
    notes = []
    for site in (site for site in inventory.sites if not site.body):
        names = [call.data for call in inventory.calls[site.id] if call.observable == "outputs"]
        if not names:
            continue
        indices = [feed[name].reshape(-1) for feed in feeds for name in names if name in feed]
        rows = site.shape[1]
        seen = len(np.unique(np.concatenate(indices) % rows)) if indices else 0
        if seen < rows:
            known = f"{seen:,} of the {rows:,} rows" if indices else f"an unknown part of the {rows:,} rows"
            notes.append(
                f"{site.node}: calibration looks up {known} of its table; what factoring or rounding does to the"
                f" others is not measured: give samples that hold them, for validation too, or"
                f" --exclude '{site.weight}'"
            )
    return notes
