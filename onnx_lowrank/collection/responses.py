"""What any change of a weight does to the loss, sample by sample: −⟨Γ_s, δ⟩, of rounding as of truncation.

A truncation is a sum of components of a basis (`project`); what rounding does is none. So the operator itself runs
with the change in the place of its weight, on the inputs that it had, and what comes out is multiplied by the gradient
there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnx_lowrank.collection.gradient_batch import GradientBatch
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.ops import Call, write_chain
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array, Site, Stage

Changes = Mapping[str, Sequence[Array]]
"""Site id -> changes of its weight, (out, in of one group, *spatial)."""


def responses(
    setup: CollectionSetup, changes: Changes, progress: Callable[[int], None] = lambda count: None
) -> dict[str, Array]:
    """Return site id -> (samples, changes) −⟨Γ_s, δ⟩ of the scored samples, with the gradients of their scores.

    Sites that no gradient reaches are left out, and samples that are not finite. The samples run once; the caller
    bounds how many changes there are at a time.
    """
    source = setup.source([site for site in setup.inventory.sites if site.id in changes], ends=True)
    runtime, calls = setup.options.runtime, setup.inventory.calls
    sites = [SiteResponses(site, calls[site.id], changes[site.id], runtime) for site in source.sites]
    found: dict[str, list[Array]] = {site.id: [] for site in source.sites}
    for numbers in setup.folds.scored:
        feeds = [setup.feeds[number] for number in numbers]
        for batch in source.run(feeds, numbers, setup.objective.sampled, batch=setup.batch, separate=setup.separate):
            for each in sites:
                found[each.site.id].append(each.of(batch))
            progress(len(batch.numbers))
            del batch
    source.close()
    return {site: np.concatenate(rows) for site, rows in found.items() if rows}


class SiteResponses:
    """The runs of one site with changes in the place of its weight."""

    def __init__(self, site: Site, calls: Sequence[Call], changes: Sequence[Array], runtime: Runtime) -> None:
        self.site = site
        self._runs = [_Run(call, site, runtime) for call in calls]
        self._given = [[run.given(change) for change in changes] for run in self._runs]

    def of(self, batch: GradientBatch) -> Array:
        """Return (units, changes) −⟨Γ_s, δ⟩ of a batch, as tails are: divided by the root of a unit's samples."""
        total = np.zeros((batch.units, len(self._given[0])))
        for run, changes, (x, gradient) in zip(self._runs, self._given, batch.ends(self.site), strict=True):
            pulled = np.asarray(gradient, np.float32).reshape(batch.units, -1)
            for place, change in enumerate(changes):
                moved = run.output(x, change).reshape(batch.units, -1)
                total[:, place] -= np.einsum("np,np->n", moved, pulled, dtype=np.float64)
        return total / math.sqrt(batch.samples / batch.units)


def groups(setup: CollectionSetup, counts: Mapping[str, int]) -> Iterator[list[Site]]:
    """Yield the sites of `counts` (site id -> changes) in groups whose changes take half of the memory allowed."""
    group: list[Site] = []
    held = 0
    for site in (site for site in setup.inventory.sites if site.id in counts):
        need = 4 * site.parameters * counts[site.id]
        if group and held + need > setup.options.memory // 2:
            yield group
            group, held = [], 0
        group.append(site)
        held += need
    if group:
        yield group


class _Run:
    """One call with its weight as an input, and nothing added to W x."""

    def __init__(self, call: Call, site: Site, runtime: Runtime) -> None:
        taken: dict[str, int] = {}

        def names(hint: str) -> str:
            taken[hint] = taken.get(hint, 0) + 1
            return f"{hint}~{taken[hint]}"

        self._call, self._site = call, site
        inputs = tuple("w" if slot == call.slot else name for slot, name in enumerate(call.inputs) if slot < 2)
        bare = replace(call, name="", inputs=inputs, outputs=())
        stage = Stage(np.zeros(site.shape, np.float32), tuple(range(len(site.shape) - 2)), site.groups)
        written = write_chain(bare, [(stage, "w")], names)
        value, single = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
        looked_up = call.observable == "outputs"
        data = value(call.data, onnx.TensorProto.INT64 if looked_up else single, None)
        graph = onnx.helper.make_graph(
            written.nodes,
            "change",
            [data, value("w", single, None)],
            [value(call.output, single, None)],
            [onnx.numpy_helper.from_array(array, name) for name, array in written.extra.items()],
        )
        opsets = [onnx.helper.make_opsetid("", max(call.opset, 13))]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
        self._kind = np.int64 if looked_up else np.float32
        self._runner = Runner(model, runtime=runtime, outputs=[call.output], arena=False)

    def given(self, change: Array) -> Array:
        """Return a change as the node reads it."""
        stage = Stage(np.array(change, np.float32), tuple(range(change.ndim - 2)), self._site.groups)
        return np.ascontiguousarray(self._call.stored(stage), np.float32)

    def output(self, x: Array, change: Array) -> Array:
        """Return what the node makes of x with the change as its weight."""
        found = self._runner.run({self._call.data: np.asarray(x, self._kind), "w": change})
        return np.asarray(found[self._call.output], np.float32)
