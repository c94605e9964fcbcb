"""What a session keeps in the cache, and under which names: all that a result depends on is in its key.

Nothing that comes from a user's own code is kept, as what that imports is not seen; nothing that was timed, as another
load gives other times; of a continuation nothing but what is collected. What a file claims is never read from here: it
is measured on the file itself (`confirm`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from onnx_lowrank.metrics import Metric
from onnx_lowrank.metrics.custom import Custom
from onnx_lowrank.metrics.divergence import DivergenceKind
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.progress import Advance, Clock
from onnx_lowrank.samples import Split
from onnx_lowrank.store import RECALLED, Parts, Place, remembered
from onnx_lowrank.store.packing import Given
from onnx_lowrank.types import Choice
from onnx_lowrank.weights.inventory import Inventory

T = TypeVar("T")


class _Counting:
    """Counts steps, and shows nothing."""

    def __init__(self, told: Counter[str]) -> None:
        self._told = told

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Advance]:
        """Count a step by its title."""
        self._told[title.removeprefix(RECALLED)] += 1
        yield lambda units: None


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """place: None: nothing is kept. base: what every result of a session depends on. told: steps of many results that
    were read, as steps beneath other steps are not shown.
    """

    place: Place | None
    base: Parts
    clock: Clock
    told: Counter[str]

    @staticmethod
    def of(
        loaded: LoadedModel,
        split: Split,
        inventory: Inventory,
        options: Options,
        metric: Metric | None,
        kind: DivergenceKind,
        clock: Clock,
        told: Counter[str],
    ) -> Kept:
        """Return what keeps a session's results; nothing where code of the user's own has a part in them."""
        own_code = options.loss is not None or isinstance(metric, Custom)
        if options.cache is None or own_code or options.continuation > 1:
            return Kept(None, tuple, clock, told)

        def base() -> tuple[object, ...]:
            sets = [samples and samples.identity for samples in (split.calibration, split.screening)]
            return loaded.sha256, *sets, options.result, inventory.sites, inventory.all_shared_inputs, kind

        return Kept(options.cache, base, clock, told)

    def once(self, what: str, parts: Parts, make: Callable[[], T]) -> T:
        """Return what `make` gives, or gave before for the same parts."""
        return remembered(self.place, self.clock, what, lambda: (*self.base(), *parts()), make)

    def beneath(self, what: str, parts: Parts, make: Callable[[], T], given: Given | None = None) -> T:
        """Return the same of one of many parts of a step."""
        return remembered(self.place, _Counting(self.told), what, lambda: (*self.base(), *parts()), make, given)

    @property
    def notes(self) -> Iterator[str]:
        """Yield what was read instead of made, in one sentence, where anything was."""
        steps = [title.removeprefix(RECALLED) for title in self.clock.seconds if title.startswith(RECALLED)]
        steps += [f"{what} ({count} plan{'s' if count > 1 else ''})" for what, count in self.told.items()]
        if steps:
            yield f"read from the cache, not made again: {', '.join(steps)}"


def forms_of(choices: Sequence[Choice]) -> tuple[object, ...]:
    """Return what makes a plan's model: every weight's form, whatever it was thought to cost."""
    return tuple((choice.site, choice.option.form, choice.option.shared_input) for choice in choices)
