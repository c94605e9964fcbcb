"""Forward and backward over samples: what is projected (z) and the loss's gradient there (e), at every site.

One run of a batch gives the inputs, outputs and output gradients of all sites of a group; `JointFlow` turns them into
vectors on the side of the weight that is asked for. Nothing is kept from batch to batch.
"""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
import onnx

from onnx_lowrank.calibration.pull import Pull
from onnx_lowrank.calibration.through import Through
from onnx_lowrank.curvature import SideName
from onnx_lowrank.gradient import GradientRunner, build_gradient
from onnx_lowrank.gradient.build import GradientGraph
from onnx_lowrank.gradient.run import Seeds, pack
from onnx_lowrank.gradient.values import Dims
from onnx_lowrank.ops import Call, operator
from onnx_lowrank.options import Options
from onnx_lowrank.runtime import batches, join, rows_of, runs_on_cpu
from onnx_lowrank.schemes import SCHEMES
from onnx_lowrank.sites import Found
from onnx_lowrank.types import Array, Chain, Feed, Site

Head = Callable[[Mapping[str, Array], int, Sequence[int]], Seeds]
"""(forward values, samples in them, their numbers in the set) -> the loss's gradient at the seeded tensors."""


def sides_of(site: Site, multiple: int = 1) -> tuple[SideName, ...]:
    """Return the sides that the schemes of a site project on: both of a kernel, the smaller one of a matrix."""
    fitting = (s for s in SCHEMES if s.ranks(site.shape, multiple, site.groups))
    return tuple(dict.fromkeys(side for s in fitting for side in s.sides(site.shape, site.groups)))


def width_of(site: Site, side: SideName) -> int:
    """Return the channels of a side, of one group where the weight is grouped."""
    return site.shape[0] // site.groups if side == "out" else site.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What a group of sites saw in one batch. `numbers`: which samples; `units`: what is summed over on its own."""

    flow: JointFlow
    values: Mapping[str, Array]
    gradients: Mapping[str, Array]
    numbers: Sequence[int]
    samples: int
    units: int

    def vectors(self, site: Site, side: SideName) -> Iterator[tuple[Array, Array]]:
        """Yield z and e, both (units · positions, d) float32, for every call of the site."""
        for z, raw in self.raw(site, side):
            yield z, self.flow.finish(site, side, raw)

    def raw(self, site: Site, side: SideName, every: int = 1) -> Iterator[tuple[Array, Array]]:
        """Yield z and what `JointFlow.finish` makes e of, whatever rows are put together in between.

        Of an image only every so manieth line is taken, beginning at another one in every batch.
        """
        lines = slice(self.numbers[0] % every, None, every) if every > 1 else None
        for call in self.flow.found.calls[site.id]:
            yield self.flow.raw(site, side, call, self.values, self.gradients, lines)


class JointFlow:
    """Runs a group of sites forward and backward. `seeded` are the tensors where the loss's gradient enters.

    `unreached`: site id -> why no gradient gets there. `broken`: numbers of the samples whose values or gradients at
    the sites are not finite: they are left out. flights: batches that may be run at a time, on the CPU.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        found: Found,
        sites: Sequence[Site],
        seeded: Sequence[str],
        shapes: Mapping[str, Dims],
        options: Options,
        flights: int = 1,
    ) -> None:
        self.found, self.seeded = found, tuple(seeded)
        self.flights = min(flights, options.threads or os.cpu_count() or 1) if runs_on_cpu(options.provider) else 1
        self._lock = Lock()
        self.broken: set[int] = set()
        stored = {tensor.name for tensor in model.graph.initializer}  # before IR 4 they are listed as inputs, too
        self._given = {value.name for value in model.graph.input} - stored
        self._provider, self._threads = options.provider, options.threads
        self._pulls: dict[str, Pull] = {}
        self._throughs: dict[tuple[str, int, int], Through] = {}
        self._weights: dict[str, Array] = {}
        calls = [(site, call) for site in sites for call in found.calls[site.id]]
        once = _read_once(model)
        self._direct = {call.output: x for site, call in calls if (x := _sole_data(once, site, call))}
        targets = [*(call.output for _, call in calls), *dict.fromkeys(self._direct.values())]
        keep = self._keep = [name for name in dict.fromkeys(self._kept(sites)) if name not in self._given]
        graph = build_gradient(model, targets, seeded, shapes=shapes, keep=keep)
        self.unreached = {site.id: why for site in sites if (why := self._missing(site, graph))}
        self.sites = [site for site in sites if site.id not in self.unreached]
        self._runner: GradientRunner | None = None
        if self.sites:
            packed = pack(_without(graph, self._wanted()), keep)
            del graph  # its copy of the weights, before the sessions make theirs
            threads = 1 if self.flights > 1 else self._threads
            self._runner = GradientRunner(packed, provider=self._provider, threads=threads)

    def _wanted(self) -> set[str]:
        outputs = {call.output for site in self.sites for call in self.found.calls[site.id]}
        return outputs | {x for output, x in self._direct.items() if output in outputs}

    def _missing(self, site: Site, graph: GradientGraph) -> str:
        reasons = [graph.unreached.get(call.output, "") for call in self.found.calls[site.id]]
        for call in self.found.calls[site.id]:
            if self._direct.get(call.output) in graph.unreached:
                del self._direct[call.output]
        return next((reason for reason in reasons if reason), "")

    def _kept(self, sites: Sequence[Site]) -> Iterator[str]:
        for site in sites:
            for call in self.found.calls[site.id]:
                if "in" in sides_of(site):
                    yield operator(call).data(call)
                if "out" in sides_of(site):
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
            if whole is not None:
                yield whole
                continue
            for one, number in zip(run, which, strict=True):
                alone = self._tried([one], [number], head, separate) if len(run) > 1 else None
                if alone is None:
                    self.broken.add(number)
                else:
                    yield alone

    def _ahead(
        self, feeds: Sequence[Feed], numbers: Sequence[int], head: Head, *, batch: int, separate: bool
    ) -> Iterator[tuple[list[Feed], Sequence[int], Batch | None]]:
        """Yield every batch and what it gives, in order; as many as `flights` are on their way, a thread each.

        Several runs on one thread each keep the cores busier than one run on several.
        """
        waiting: deque[tuple[list[Feed], Sequence[int], Future[Batch | None]]] = deque()
        with ThreadPoolExecutor(self.flights) as pool:
            start = 0
            for run in batches(feeds, batch) if self._runner is not None else ():
                which = numbers[start : start + len(run)]
                start += len(run)
                waiting.append((run, which, pool.submit(self._tried, run, which, head, separate)))
                if len(waiting) >= self.flights:
                    done, count, found = waiting.popleft()
                    yield done, count, found.result()
            for done, count, found in waiting:
                yield done, count, found.result()

    def _tried(self, run: Sequence[Feed], numbers: Sequence[int], head: Head, separate: bool) -> Batch | None:
        """Return what one run of samples gives, None where a value or a gradient at the sites is not finite."""
        if self._runner is None:
            return None
        feed, count = join(run), sum(rows_of(one) for one in run)

        def loss(values: Mapping[str, Array]) -> Seeds:
            with self._lock:  # a user's loss is not run twice at a time
                return head(values, count, numbers)

        found = self._runner.run(feed, loss)
        if not all(map(_finite, (*found.gradients.values(), *(found.values[name] for name in self._keep)))):
            return None
        return Batch(self, {**feed, **found.values}, found.gradients, numbers, count, count if separate else 1)

    def close(self) -> None:
        """Give up the sessions and their weights: nothing is run after this."""
        self._runner = None
        self._pulls.clear()
        self._throughs.clear()

    def raw(
        self,
        site: Site,
        side: SideName,
        call: Call,
        values: Mapping[str, Array],
        gradients: Mapping[str, Array],
        lines: slice | None = None,
    ) -> tuple[Array, Array]:
        """Return z (positions, d) and the gradient's rows of one call, float32; of an image only its `lines`."""
        op, gradient = operator(call), gradients[call.output]
        if side == "out":
            bias = values.get(call.input(2)) if len(call.inputs) > 2 and call.input(2) else None
            y = _part(values[call.output], lines)
            return _single(op.linear(call, y, bias)), _single(op.results(call, _part(gradient, lines)))
        x = values[op.data(call)]
        if math.prod(site.shape[2:]) > 1:  # the kernel reaches over lines: only its whole gradient can be cut
            direct = self._direct.get(call.output)
            pulled = gradients[direct] if direct else self._pull(site, call).run(x, gradient)
            return _channels(_part(x, lines)), _channels(_part(pulled, lines))
        rows, scale = _single(op.results(call, _part(gradient, lines))), op.scale(call)
        z = _single(op.vectors(call, _part(x, lines), site.shape[2:]))
        return z, rows if scale == 1.0 else rows * np.float32(scale)

    def through(self, batch: Batch, site: Site, chain: Chain, key: tuple[str, int]) -> Array:
        """Return (units, r) ⟨Γ_s, component⟩ of every component of a chain of two stages; `key` names the chain."""
        total: Array | None = None
        for number, call in enumerate(self.found.calls[site.id]):
            place = (*key, number)
            if place not in self._throughs:
                self._throughs[place] = Through(call, chain, self._provider, self._threads)
            rows = self._throughs[place].run(batch.values[operator(call).data(call)], batch.gradients[call.output])
            found = rows.reshape(batch.units, -1, rows.shape[1]).sum(1)
            total = found if total is None else total + found
        if total is None:
            raise KeyError(site.id)
        return total

    def finish(self, site: Site, side: SideName, raw: Array) -> Array:
        """Return e (positions, d): the rows themselves, but Wᵀ g for the inputs of a matrix."""
        if side == "out" or math.prod(site.shape[2:]) > 1:
            return raw
        return np.asarray(raw @ self._matrix(site))

    def _matrix(self, site: Site) -> Array:
        if site.id not in self._weights:
            self._weights[site.id] = _single(self.found.weight(site).reshape(site.shape[:2]))
        return self._weights[site.id]

    def _pull(self, site: Site, call: Call) -> Pull:
        if call.output not in self._pulls:
            weight = operator(call).canonical(call, onnx.numpy_helper.to_array(self.found.weights[site.weight]))
            self._pulls[call.output] = Pull(call, np.asarray(weight, np.float32), self._provider, self._threads)
        return self._pulls[call.output]


def _read_once(model: onnx.ModelProto) -> set[str]:
    """Return the tensors between nodes that one node alone reads; none where subgraphs may read as well."""
    if any(a.HasField("g") or a.graphs for node in model.graph.node for a in node.attribute):
        return set()
    uses = Counter(name for node in model.graph.node for name in node.input)
    ends = {v.name for v in (*model.graph.output, *model.graph.input)}
    return {name for name, count in uses.items() if count == 1 and name not in ends}


def _sole_data(once: set[str], site: Site, call: Call) -> str:
    """Return the data of a kernel that nobody else reads: its own gradient is Wᵀ g. Empty for all others."""
    x = operator(call).data(call)
    return x if math.prod(site.shape[2:]) > 1 and "in" in sides_of(site) and x in once else ""


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


def _finite(array: Array) -> bool:
    """Whether all is finite. A sum is quicker than a test of every value; it may itself overflow."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def _part(array: Array, lines: slice | None) -> Array:
    """Return some lines of (N, C, lines, …)."""
    return array if lines is None else array[:, :, lines]


def _single(array: Array) -> Array:
    return np.ascontiguousarray(array, np.float32)


def _channels(array: Array) -> Array:
    return _single(np.moveaxis(array, 1, -1).reshape(-1, array.shape[1]))
