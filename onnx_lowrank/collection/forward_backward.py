"""Forward and backward over samples: what is projected (z) and the loss's gradient there (e), at every site.

One run of a batch gives the inputs, outputs and output gradients of all sites of a group; `JointFlow` turns them into
vectors on the side of the weight that is asked for. Nothing is kept from batch to batch.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
import onnx

from onnx_lowrank.collection.chain_components import ChainComponents
from onnx_lowrank.collection.projected_sides import at_call, looked_at, other
from onnx_lowrank.gradient import GradientRunner, build_gradient
from onnx_lowrank.gradient.build import GradientGraph, share_name
from onnx_lowrank.gradient.emitter import Dims
from onnx_lowrank.gradient.gradient_runner import Seeds, pack
from onnx_lowrank.numerics.kronecker_metric import SideName
from onnx_lowrank.ops import Call, straight
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.batching import batches, join, rows_of
from onnx_lowrank.runtime.runner import runs_on_cpu
from onnx_lowrank.types import Array, Chain, Feed, Site
from onnx_lowrank.weights.inventory import Inventory

Head = Callable[[Mapping[str, Array], int, Sequence[int]], Seeds]
"""(forward values, samples in them, their numbers in the set) -> the loss's gradient at the seeded tensors."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What a group of sites saw in one batch. `numbers`: which samples; `units`: what is summed over on its own."""

    flow: JointFlow
    values: Mapping[str, Array]
    gradients: Mapping[str, Array]
    numbers: Sequence[int]
    samples: int
    units: int

    def vectors(self, site: Site, side: SideName, every: int = 1) -> Iterator[tuple[Array, Array]]:
        """Yield z and e, both (units · positions, d) float32, for every call of the site.

        Of an image only every so manieth line is taken, beginning at another one in every batch.
        """
        lines = slice(self.numbers[0] % every, None, every) if every > 1 else None
        for call in self.flow.inventory.calls[site.id]:
            yield self.flow.vectors(site, side, call, self.values, self.gradients, lines)

    def ways(self, site: Site) -> tuple[bool, ...]:
        """Return for every call of the site whether it reads the weight transposed."""
        return tuple(call.transposed for call in self.flow.inventory.calls[site.id])

    def ends(self, site: Site) -> list[tuple[Array, Array]]:
        """Return the input and the gradient at the output of every call, as they are in the graph."""
        calls = self.flow.inventory.calls[site.id]
        return [(self.values[call.data], self.gradients[call.output]) for call in calls]


class JointFlow:
    """Runs a group of sites forward and backward. `seeded` are the tensors where the loss's gradient enters.

    `unreached`: site id -> why no gradient gets there. `broken`: numbers of the samples whose values or gradients at
    the sites are not finite, or too large to be squared: they are left out; `blamed`: site id -> those that it breaks.
    flights: batches that may be run at a time, on the CPU.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        inventory: Inventory,
        sites: Sequence[Site],
        seeded: Sequence[str],
        shapes: Mapping[str, Dims],
        runtime: Runtime,
        concurrent_batches: int = 1,
    ) -> None:
        self.inventory, self.seeded = inventory, tuple(seeded)
        self.concurrent_batches = (
            min(concurrent_batches, runtime.threads or os.cpu_count() or 1) if runs_on_cpu(runtime.provider) else 1
        )
        self._lock = Lock()
        self.broken: set[int] = set()
        self.blamed: dict[str, set[int]] = {}
        stored = {tensor.name for tensor in model.graph.initializer}  # before IR 4 they are listed as inputs, too
        self._given = {value.name for value in model.graph.input} - stored
        self._runtime = runtime
        self._components_of: dict[tuple[str, int, int], ChainComponents] = {}
        inside = {site.id: f"{site.op} keeps its product inside" for site in sites if not _shows(inventory, site)}
        sites = [site for site in sites if site.id not in inside]
        self._sides = looked_at(replace(inventory, sites=tuple(sites)))
        calls = [(site, call) for site in sites for call in inventory.calls[site.id]]
        outputs = [call.output for site, call in calls if "out" in self._at(site, call)]
        made = {name: node for node in model.graph.node for name in node.output}
        # a twin may read its inputs through a Cast, under another name
        self._data = {call.output: str(made[call.output].input[call.inputs.index(call.data)]) for _, call in calls}
        shares = {call.output: self._data[call.output] for site, call in calls if "in" in self._at(site, call)}
        graph = build_gradient(model, outputs, seeded, shapes=shapes, keep=self._kept(sites), shares=shares)
        self.unreached = inside | {site.id: why for site in sites if (why := self._missing(site, graph))}
        self.sites = [site for site in sites if site.id not in self.unreached]
        self._keep = self._kept(self.sites)  # of the others the graph may not hold what they read
        self._runner: GradientRunner | None = None
        if self.sites:
            packed = pack(_without(graph, self._wanted()), self._keep)
            del graph  # its copy of the weights, before the sessions make theirs
            alone = replace(runtime, threads=1) if self.concurrent_batches > 1 else runtime
            self._runner = GradientRunner(packed, runtime=alone)

    def _at(self, site: Site, call: Call) -> tuple[SideName, ...]:
        """Return the sides that are asked for, as this call has them."""
        return at_call(self._sides[site.id], call)

    def _wanted(self) -> set[str]:
        return {name for site in self.sites for name in self._gradients(site)}

    def _missing(self, site: Site, graph: GradientGraph) -> str:
        reasons = [graph.unreached.get(name, "") for name in self._gradients(site)]
        return next((reason for reason in reasons if reason), "")

    def _gradients(self, site: Site) -> Iterator[str]:
        """Yield what is asked of the gradient graph: e of every side and call."""
        for call in self.inventory.calls[site.id]:
            if "out" in self._at(site, call):
                yield call.output
            if "in" in self._at(site, call):
                yield share_name(self._data[call.output], call.output)

    def _kept(self, sites: Sequence[Site]) -> list[str]:
        """Return the tensors that a run gives besides gradients: each once, the model's own inputs aside."""
        return [name for name in dict.fromkeys(self._around(sites)) if name not in self._given]

    def _around(self, sites: Sequence[Site]) -> Iterator[str]:
        for site in sites:
            for call in self.inventory.calls[site.id]:
                if "in" in self._at(site, call):
                    yield call.data
                if "out" in self._at(site, call):
                    yield call.output
                    if len(call.inputs) > 2 and call.input(2):
                        yield call.input(2)

    def run(
        self, feeds: Sequence[Feed], numbers: Sequence[int], head: Head, *, batch: int, separate: bool
    ) -> Iterator[Batch]:
        """Yield what every batch of `feeds` gives; `separate`: the rows of a batch can be told apart everywhere.

        A batch that is not finite is run again sample by sample, so that only those are left out that are not.
        """
        for run, which, whole in self._ahead(feeds, numbers, head, batch=batch, separate=separate):
            if whole:
                yield whole.pop()  # popped: what one batch gave is let go before the next one runs
                continue
            for one, number in zip(run, which, strict=True):
                alone = self._tried([one], [number], head, separate) if len(run) > 1 else []
                if alone:
                    yield alone.pop()
                else:
                    self.broken.add(number)

    def _ahead(
        self, feeds: Sequence[Feed], numbers: Sequence[int], head: Head, *, batch: int, separate: bool
    ) -> Iterator[tuple[list[Feed], Sequence[int], list[Batch]]]:
        """Yield every batch and what it gives, in order; as many as `flights` are on their way, a thread each.

        Several runs on one thread each keep the cores busier than one run on several.
        """
        waiting: deque[tuple[list[Feed], Sequence[int], Future[list[Batch]]]] = deque()
        with ThreadPoolExecutor(self.concurrent_batches) as pool:
            start = 0
            for run in batches(feeds, batch) if self._runner is not None else ():
                which = numbers[start : start + len(run)]
                start += len(run)
                waiting.append((run, which, pool.submit(self._tried, run, which, head, separate)))
                if len(waiting) >= self.concurrent_batches:
                    yield _landed(waiting.popleft())
            while waiting:
                yield _landed(waiting.popleft())

    def _tried(self, run: Sequence[Feed], numbers: Sequence[int], head: Head, separate: bool) -> list[Batch]:
        """Return what one run of samples gives, empty where a value or a gradient at the sites is not finite."""
        if self._runner is None:
            return []
        feed, count = join(run), sum(rows_of(one) for one in run)

        def loss(values: Mapping[str, Array]) -> Seeds:
            with self._lock:  # a user's loss is not run twice at a time
                return head(values, count, numbers)

        found = self._runner.run(feed, loss)
        kept = {name: found.values[name] for name in self._keep}
        if not all(map(squarable, (*found.gradients.values(), *kept.values()))):
            if len(numbers) == 1:
                self._blame(numbers[0], {**feed, **kept}, found.gradients)
            return []
        return [Batch(self, {**feed, **found.values}, found.gradients, numbers, count, count if separate else 1)]

    def _blame(self, number: int, values: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
        """Remember the sites at which a sample is broken."""
        odd = {name for name, array in gradients.items() if not squarable(array)}
        strange = {name for name, array in values.items() if not squarable(array)}
        for site in self.sites:
            if not odd.isdisjoint(self._gradients(site)) or not strange.isdisjoint(self._around([site])):
                with self._lock:
                    self.blamed.setdefault(site.id, set()).add(number)

    def close(self) -> None:
        """Give up the sessions and their weights: nothing is run after this."""
        self._runner = None
        self._components_of.clear()

    def release(self) -> None:
        """Give up the sessions of chains: those of the next fold are others."""
        self._components_of.clear()

    def vectors(
        self,
        site: Site,
        side: SideName,
        call: Call,
        values: Mapping[str, Array],
        gradients: Mapping[str, Array],
        lines: slice | None = None,
    ) -> tuple[Array, Array]:
        """Return z and e (positions, d) of one call, float32; of an image only its `lines`.

        Of a node that reads the weight transposed, Ŵᵀ = Wᵀ Πᵀ, they are those of its other side, e first.
        """
        if call.transposed:
            z, e = self.vectors(site, other(side), straight(call), values, gradients, lines)
            return e, z
        if side == "out":
            bias = values.get(call.input(2)) if len(call.inputs) > 2 and call.input(2) else None
            z = call.linear(_part(values[call.output], lines), bias)
            return _single(z), _single(call.results(_part(gradients[call.output], lines)))
        share = gradients[share_name(self._data[call.output], call.output)]  # through this call alone: Wᵀ g
        x, pulled = (_part(array, lines) for array in (values[call.data], share))
        kernel = site.shape[2:]
        return _single(call.vectors(x, kernel)), _single(call.vectors(pulled, kernel))

    def chain_components(
        self, site: Site, chain: Callable[[], Chain], key: tuple[str, int], ends: Sequence[tuple[Array, Array]]
    ) -> Array:
        """Return (rows, r) ⟨Γ, component⟩ of every component of a chain of two stages, summed over the site's calls.

        ends: every call's input and gradient at the output, for the same rows; `key` names the chain, made only once.
        """
        total: Array | None = None
        for number, (call, (x, gradient)) in enumerate(zip(self.inventory.calls[site.id], ends, strict=True)):
            place = (*key, number)
            if place not in self._components_of:
                self._components_of[place] = ChainComponents(call, chain(), self._runtime)
            found = self._components_of[place].run(x, gradient)
            total = found if total is None else total + found
        if total is None:
            raise KeyError(site.id)
        return total


def _shows(inventory: Inventory, site: Site) -> bool:
    """Whether a tensor of the graph holds W x, so that there can be a gradient at it."""
    return all(call.observable != "inputs" for call in inventory.calls[site.id])


def _landed(
    flight: tuple[list[Feed], Sequence[int], Future[list[Batch]]],
) -> tuple[list[Feed], Sequence[int], list[Batch]]:
    run, numbers, future = flight
    return run, numbers, future.result()


def _without(graph: GradientGraph, wanted: set[str]) -> GradientGraph:
    """Every gradient is wanted as it is built; a place to drop those of sites that another call leaves unreached."""
    if set(graph.gradients) <= wanted:
        return graph
    dropped = {name for target, name in graph.gradients.items() if target not in wanted}
    outputs = [value for value in graph.model.graph.output if value.name not in dropped]
    del graph.model.graph.output[:]
    graph.model.graph.output.extend(outputs)
    kept = {target: name for target, name in graph.gradients.items() if target in wanted}
    return GradientGraph(graph.model, graph.seeds, kept, graph.unreached, graph.backward, graph.elems)


def squarable(array: Array) -> bool:
    """Whether all is finite, and the sum of its squares a float32: moments are sums of such products."""
    if array.dtype.kind != "f":
        return True
    flat = array.reshape(-1)
    flat = flat.astype(np.float32) if flat.itemsize < 4 else flat
    with np.errstate(all="ignore"):
        return bool(np.vdot(flat, flat) <= np.finfo(np.float32).max)


def _part(array: Array, lines: slice | None) -> Array:
    """Return some lines of (N, C, lines, …)."""
    return array if lines is None else array[:, :, lines]


def _single(array: Array) -> Array:
    return np.asarray(array, np.float32)
