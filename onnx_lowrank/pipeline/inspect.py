"""`inspect`: every weight of a model, its possible schemes and its energy spectrum. No data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from onnx_lowrank.cost import unchanged_cost
from onnx_lowrank.graph import model_io
from onnx_lowrank.graph.mapped import mapped_tensors
from onnx_lowrank.numerics import linalg
from onnx_lowrank.passes.prepare import prepared
from onnx_lowrank.pipeline.loaded_model import read_model
from onnx_lowrank.pipeline.notes import preparation_notes
from onnx_lowrank.pipeline.provenance import provenance
from onnx_lowrank.progress import Progress, steps_of
from onnx_lowrank.results.inspection import Inspection, WeightRow
from onnx_lowrank.types import Array, Site
from onnx_lowrank.weights.find import find_sites, largest_first
from onnx_lowrank.weights.inventory import Inventory
from onnx_lowrank.weights.shared_input import unshared_notes

SHARES = (0.9, 0.99)
NO_SPECTRUM = "weights are not read, as they are large: --spectrum also shows the ranks that hold most of their energy"


def inspect(
    model: onnx.ModelProto | Path | str,
    *,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    rank_multiple: int = 8,
    spectrum: bool | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Return every weight of the model, factorable or not and why not. Raises ModelError.

    spectrum: whether weights are decomposed, for the ranks that hold their energy; None: unless they are so large that
    they stay in their file (`graph.mapped`), where nothing else reads them.

    >>> from onnx_lowrank import inspect
    >>> from onnx_lowrank.demo import MODEL
    >>> found = inspect(MODEL)
    >>> found.rows[0].site.weight, found.rows[0].site.shape
    ('7.weight', (320, 1152))
    """
    read = read_model(model)
    ready = prepared(read.model)
    inventory = find_sites(ready.model, include=include, exclude=exclude, multiple=rank_multiple)
    if spectrum is None:
        spectrum = not any(mapped_tensors(ready.model))
    rows = []
    with steps_of(progress).step("decomposing weights", len(inventory.sites)) as advance:
        for site in inventory.sites:
            rows.append(_row(inventory, site, _ranks_for(inventory, site) if spectrum else {}))
            advance(1)
    rows.sort(key=lambda row: (-row.site.parameters, row.site.weight))
    skips = tuple(largest_first(inventory.skips))
    notes = preparation_notes(ready.inlined, ready.moved)
    storages = {key: source.storage for key, source in inventory.sources.items()}
    notes += () if spectrum else (NO_SPECTRUM,)
    notes += unshared_notes(inventory.sites, inventory.calls, storages, inventory.shared_inputs)
    opset, shared = model_io.main_opset(ready.model), inventory.shared_inputs
    return Inspection(
        read.source, opset, inventory.parameters, read.bytes, tuple(rows), skips, tuple(notes), shared,
        provenance(read.model),
    )  # fmt: skip


def _ranks_for(inventory: Inventory, site: Site) -> dict[float, int]:
    """Return the ranks that hold shares of a weight's energy: all groups are cut at one, so theirs is added."""
    parts = np.split(inventory.weight(site), site.groups)
    energy = np.cumsum(np.sum([_spectrum(part) for part in parts], axis=0))
    total = float(energy[-1])
    return {share: int(np.searchsorted(energy, share * total) + 1) if total > 0 else 0 for share in SHARES}


def _row(inventory: Inventory, site: Site, ranks: dict[float, int]) -> WeightRow:
    return WeightRow(
        site=site,
        bytes=unchanged_cost(site, ()).bytes,
        share=site.parameters / max(inventory.parameters, 1),
        break_even=None if site.identity else site.break_even,
        full_rank=site.full_rank,
        rank_for=ranks,
    )


def _spectrum(weight: Array) -> Array:
    """Return the squared singular values of (out, in · k), largest first."""
    matrix = weight.reshape(weight.shape[0], -1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return linalg.eigen(small)[0]
