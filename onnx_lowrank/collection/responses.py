"""What any change of a weight does to the loss, sample by sample: −⟨Γ_s, δ⟩, of rounding as of truncation.

A truncation is a sum of components of a basis (`project`); what rounding does is none. So the operator itself runs
with the change in the place of its weight, on the inputs that it had, and what comes out is multiplied by the gradient
there. Where activations are rounded as well, a chain runs on rounded numbers beside the same one as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import onnx

from onnx_lowrank.collection.gradient_batch import GradientBatch
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.ops import Call, write_chain
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array, Chain, Site, Stage


@dataclass(frozen=True, slots=True, eq=False)
class InIntegers:
    """A chain that is computed in integers of 8 bits: `exact` before its weights are rounded, `stored` after.

    span: the width of the range of what it reads where that is fixed; 0: it is that of every batch.
    """

    exact: Chain
    stored: Chain
    span: float = 0.0

    @property
    def parameters(self) -> int:
        """How many numbers are held."""
        return sum(stage.weight.size for stage in (*self.exact.stages, *self.stored.stages))


Change: TypeAlias = Array | InIntegers
Changes: TypeAlias = Mapping[str, Sequence[Change]]
"""Site id -> changes of its weight, (out, in of one group, *spatial), or of how it is computed."""


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

    def __init__(self, site: Site, calls: Sequence[Call], changes: Sequence[Change], runtime: Runtime) -> None:
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
        inputs = tuple("w" if slot == call.slot else name for slot, name in enumerate(call.inputs) if slot < 2)
        self._call, self._site, self._runtime = replace(call, name="", inputs=inputs, outputs=()), site, runtime
        looked_up = call.observable == "outputs"
        self._kind = np.int64 if looked_up else np.float32
        self._data = onnx.TensorProto.INT64 if looked_up else onnx.TensorProto.FLOAT
        stage = Stage(np.zeros(site.shape, np.float32), tuple(range(len(site.shape) - 2)), site.groups)
        written = write_chain(self._call, [(stage, "w")], _names({}))
        self._runner = self._opened(written.nodes, written.extra, weight=True)

    def _opened(self, nodes: Sequence[onnx.NodeProto], tensors: Mapping[str, Array], *, weight: bool = False) -> Runner:
        """Open these nodes, from the call's data, and a weight where it is fed, to the call's output."""
        value, single = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
        fed = [value("w", single, None)] if weight else []
        graph = onnx.helper.make_graph(
            nodes,
            "change",
            [value(self._call.data, self._data, None), *fed],
            [value(self._call.output, single, None)],
            [onnx.numpy_helper.from_array(np.array(array, order="C"), name) for name, array in tensors.items()],
        )
        opsets = [onnx.helper.make_opsetid("", max(self._call.opset, 13))]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
        return Runner(model, runtime=self._runtime, outputs=[self._call.output], arena=False)

    def given(self, change: Change) -> Array | Runner:
        """Return a change as the node reads it, or what computes in integers and not."""
        if isinstance(change, InIntegers):
            return self._in_integers(change)
        stage = Stage(np.array(change, np.float32), tuple(range(change.ndim - 2)), self._site.groups)
        return np.ascontiguousarray(self._call.stored(stage), np.float32)

    def _in_integers(self, change: InIntegers) -> Runner:
        """Open a chain on rounded numbers, minus the same chain on those that it reads."""
        tensors, nodes, taken = dict[str, Array](), list[onnx.NodeProto](), dict[str, int]()
        names, ends = _names(taken), list[str]()
        for what, chain in (("exact", change.exact), ("stored", change.stored)):
            call = replace(self._call, output=f"{what}.output")
            named = [(stage, names(f"{what}.w")) for stage in chain.stages]
            places = ["whole"] if len(named) == 1 else ["first", *["inner"] * (len(named) - 2), "last"]
            for (stage, name), place in zip(named, places, strict=True):
                tensors[name] = np.asarray(call.stored(stage, position=place), np.float32)  # type: ignore[arg-type]
            written = write_chain(call, named, names)
            tensors |= written.extra
            weights = {name for _, name in named}
            for node in written.nodes:
                slots = [slot for slot, name in enumerate(node.input) if name and name not in {*weights, *tensors}]
                if what == "stored" and weights.intersection(node.input) and slots:
                    read = node.input[slots[0]]
                    rounded = _Rounded(read, self._call.data, change.span, names)
                    nodes.extend(rounded.nodes)
                    tensors |= rounded.tensors
                    node.input[slots[0]] = rounded.output
                nodes.append(node)
            ends.append(call.output)
        nodes.append(onnx.helper.make_node("Sub", [ends[1], ends[0]], [self._call.output]))
        return self._opened(nodes, tensors)

    def output(self, x: Array, change: Array | Runner) -> Array:
        """Return what the node makes of x with the change as its weight, or what rounding changes of its output."""
        data = {self._call.data: np.asarray(x, self._kind)}
        found = change.run(data) if isinstance(change, Runner) else self._runner.run(data | {"w": change})
        return np.asarray(found[self._call.output], np.float32)


def _names(taken: dict[str, int]) -> Callable[[str], str]:
    """Return what gives new names."""

    def names(hint: str) -> str:
        taken[hint] = taken.get(hint, 0) + 1
        return f"{hint}~{taken[hint]}"

    return names


class _Rounded:
    """A tensor rounded to 256 steps: of its own range, times what `span` is of the range of the chain's data.

    What a chain has inside gets its range when it is written, from more samples: wider by as much as that of the data.
    """

    def __init__(self, read: str, data: str, span: float, names: Callable[[str], str]) -> None:
        self.tensors = {names("steps"): np.array(255.0, np.float32), names("zero"): np.array(0.0, np.float32)}
        self.nodes: list[onnx.NodeProto] = []
        steps, zero = self.tensors

        def add(op: str, *inputs: str) -> str:
            made = names(f"{read}.{op}")
            whole = {"keepdims": 0} if op.startswith("Reduce") else {}
            self.nodes.append(onnx.helper.make_node(op, inputs, [made], made, None, None, None, **whole))
            return made

        def width(tensor: str) -> str:
            most, least = add("ReduceMax", tensor), add("ReduceMin", tensor)
            return add("Sub", add("Max", most, zero), add("Min", least, zero))

        tiny = names("tiny")
        self.tensors[tiny] = np.array(1e-30, np.float32)
        wide = width(read)
        if span:
            known = names("span")
            self.tensors[known] = np.array(span, np.float32)
            wide = known if read == data else add("Mul", wide, add("Div", known, add("Max", width(data), tiny)))
        step = add("Max", add("Div", wide, steps), tiny)
        self.output = add("Mul", add("Round", add("Div", read, step)), step)
