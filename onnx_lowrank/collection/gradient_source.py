"""Forward and backward over samples: one run of a batch gives what all sites of a group see there.

Nothing is kept from batch to batch but the numbers of samples that are not finite.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import TypeAlias

import numpy as np
import onnx

from onnx_lowrank.collection.gradient_batch import GradientBatch
from onnx_lowrank.collection.site_tensors import SiteTensors
from onnx_lowrank.gradient import GradientRunner, build_gradient
from onnx_lowrank.gradient.build import GradientGraph
from onnx_lowrank.gradient.emitter import Dims
from onnx_lowrank.gradient.gradient_runner import Seeds, pack
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.batching import batches, join, rows_of
from onnx_lowrank.runtime.runner import runs_on_cpu
from onnx_lowrank.types import Array, Feed, Site
from onnx_lowrank.weights.inventory import Inventory

Head: TypeAlias = Callable[[Mapping[str, Array], int, Sequence[int]], Seeds]
"""(forward values, samples in them, their numbers in the set) -> the loss's gradient at the seeded tensors."""
_Run: TypeAlias = tuple[list[Feed], Sequence[int], list[GradientBatch]]
_Pending: TypeAlias = tuple[list[Feed], Sequence[int], "Future[list[GradientBatch]]"]


class GradientSource:
    """Runs a group of sites forward and backward. `seeded` are the tensors where the loss's gradient enters.

    `unreached`: site id -> why no gradient gets there; `sites` are the others. concurrent_batches: run at a time, on
    the CPU. A log of the runs so far: `broken`, the samples whose values or gradients at the sites are not finite, or
    too large to be squared, which are left out; `blamed`: site id -> those that it breaks.
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
        *,
        ends: bool = False,
    ) -> None:
        self.seeded = tuple(seeded)
        self._concurrent = _at_a_time(concurrent_batches, runtime)
        self._lock = Lock()
        self.broken: set[int] = set()
        self.blamed: dict[str, set[int]] = {}
        opaque = {site.id: f"{site.op} keeps its product inside" for site in sites if _opaque(inventory, site)}
        visible = [site for site in sites if site.id not in opaque]
        self.tensors = tensors = SiteTensors.of(model, inventory, visible, ends=ends)
        graph = build_gradient(
            model,
            tensors.outputs(visible),
            seeded,
            shapes=shapes,
            keep=tensors.values(visible),
            shares=tensors.shares(visible),
        )
        missing = {site.id: why for site in visible if (why := _missing(tensors.gradients(site), graph))}
        self.unreached: Mapping[str, str] = opaque | missing
        self.sites = [site for site in visible if site.id not in missing]
        self._values = tensors.values(self.sites)  # of the others the graph may not hold what they read
        self._runner: GradientRunner | None = None
        if self.sites:
            wanted = {name for site in self.sites for name in tensors.gradients(site)}
            packed = pack(_without(graph, wanted), self._values)
            del graph  # its copy of the weights, before the sessions make theirs
            alone = replace(runtime, threads=1) if self._concurrent > 1 else runtime
            self._runner = GradientRunner(packed, runtime=alone)

    def run(
        self, feeds: Sequence[Feed], numbers: Sequence[int], head: Head, *, batch: int, separate: bool
    ) -> Iterator[GradientBatch]:
        """Yield what every batch of `feeds` gives; `separate`: the rows of a batch can be told apart everywhere.

        A batch that is not finite is run again sample by sample, so that only those are left out that are not.
        """
        for run, which, whole in self._ahead(feeds, numbers, head, batch=batch, separate=separate):
            if whole:
                yield whole.pop()  # popped: what one batch gave is let go before the next one runs
                continue
            for feed, number in zip(run, which, strict=True):
                alone = self._tried([feed], [number], head, separate) if len(run) > 1 else []
                if alone:
                    yield alone.pop()
                else:
                    self.broken.add(number)

    def _ahead(
        self, feeds: Sequence[Feed], numbers: Sequence[int], head: Head, *, batch: int, separate: bool
    ) -> Iterator[_Run]:
        """Yield every batch and what it gives, in order; several run at a time, a thread for each of them.

        Several runs on one thread each keep the cores busier than one run on several.
        """
        waiting: deque[_Pending] = deque()
        with ThreadPoolExecutor(self._concurrent) as pool:
            start = 0
            for run in batches(feeds, batch) if self._runner is not None else ():
                which = numbers[start : start + len(run)]
                start += len(run)
                waiting.append((run, which, pool.submit(self._tried, run, which, head, separate)))
                if len(waiting) >= self._concurrent:
                    yield _done(waiting.popleft())
            while waiting:
                yield _done(waiting.popleft())

    def _tried(self, run: Sequence[Feed], numbers: Sequence[int], head: Head, separate: bool) -> list[GradientBatch]:
        """Return what one run of samples gives, empty where a value or a gradient at the sites is not finite."""
        if self._runner is None:
            return []
        feed, count = join(run), sum(map(rows_of, run))

        def loss(values: Mapping[str, Array]) -> Seeds:
            with self._lock:  # a user's loss is not run twice at a time
                return head(values, count, numbers)

        result = self._runner.run(feed, loss)
        values = {name: result.values[name] for name in self._values}
        if not all(map(squarable, (*result.gradients.values(), *values.values()))):
            if len(numbers) == 1:
                self._blame(numbers[0], {**feed, **values}, result.gradients)
            return []
        units = count if separate else 1
        return [GradientBatch(self.tensors, {**feed, **result.values}, result.gradients, numbers, count, units)]

    def _blame(self, number: int, values: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
        """Remember the sites at which a sample is broken."""
        odd_gradients = {name for name, array in gradients.items() if not squarable(array)}
        odd_values = {name for name, array in values.items() if not squarable(array)}
        for site in self.sites:
            asked, around = self.tensors.gradients(site), self.tensors.around([site])
            if not odd_gradients.isdisjoint(asked) or not odd_values.isdisjoint(around):
                with self._lock:
                    self.blamed.setdefault(site.id, set()).add(number)

    def close(self) -> None:
        """Give up the sessions and their weights: nothing is run after this."""
        self._runner = None


def _at_a_time(concurrent_batches: int, runtime: Runtime) -> int:
    if not runs_on_cpu(runtime.provider):
        return 1
    return min(concurrent_batches, runtime.threads or os.cpu_count() or 1)


def _opaque(inventory: Inventory, site: Site) -> bool:
    """Whether no tensor of the graph holds W x, so that there can be no gradient at it."""
    return any(call.observable == "inputs" for call in inventory.calls[site.id])


def _missing(names: Iterator[str], graph: GradientGraph) -> str:
    """Return why some gradient is not there, or ""."""
    reasons = [graph.unreached.get(name, "") for name in names]
    return next((reason for reason in reasons if reason), "")


def _done(pending: _Pending) -> _Run:
    run, numbers, future = pending
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
