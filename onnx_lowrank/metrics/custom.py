"""A metric of the user's own: a Python function, or `FILE.py:function`. The only place that runs a user's metric.

def f(outputs, labels):   # output name -> list of one array a sample, and the labels as they were given
    return values         # (n,) numbers to be averaged, one a sample; or one float of all samples
f.lower_is_better = True  # if it is
f.needs_labels = False    # if it does without
f.per_sample = True       # if a value depends on its own sample only: outputs are then streamed, not held
f.bounds = (0, 1)         # if every value a sample lies between: what is certified is then exact for any n
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from onnx_lowrank.errors import MetricError
from onnx_lowrank.metrics.metric import Labels
from onnx_lowrank.runtime.user_code import module_of, running
from onnx_lowrank.types import Array, Outputs


@dataclass(frozen=True, slots=True)
class Custom:
    """A user's function as a metric; it sees all samples at once, so all outputs are held in memory.

    With `f.per_sample = True` it is called on a few samples at a time and nothing is held: for values that do not
    depend on the other samples. An aggregate is called again on every bootstrap resample, for both models.
    """

    function: Callable[..., Any]
    name: str
    path: Path | None = None
    seen: set[str] = field(default_factory=set, compare=False, repr=False)
    output: ClassVar[str | None] = None
    needs_reference: ClassVar[bool] = False
    best: ClassVar[float | None] = None

    @property
    def higher_is_better(self) -> bool:
        """True unless the function's `lower_is_better` is."""
        return not getattr(self.function, "lower_is_better", False)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The function's `bounds`: between which numbers every value a sample lies."""
        bounds = getattr(self.function, "bounds", None)
        if bounds is None:
            return None
        low, high = bounds
        return float(low), float(high)

    @property
    def reads(self) -> tuple[str, ...]:
        """The outputs that the function was seen to read so far."""
        return tuple(sorted(self.seen))

    @property
    def whole(self) -> bool:
        """True unless the function's `per_sample` is."""
        return not getattr(self.function, "per_sample", False)

    @property
    def needs_labels(self) -> bool:
        """True unless the function's `needs_labels` is False."""
        return bool(getattr(self.function, "needs_labels", True))

    def values(self, outputs: Outputs, labels: Labels | None, reference: Outputs | None = None) -> Array | float:
        """Return (n,) float64 or a float. Raises MetricError, one line, for whatever goes wrong in the function."""
        with running(self.name, self.path, MetricError):
            noted = _Noting({name: list(samples) for name, samples in outputs.items()}, self.seen)
            result = self.function(noted, labels)
        return self._checked(result, len(next(iter(outputs.values()), ())))

    def _checked(self, result: Any, n: int) -> Array | float:
        try:
            values = np.asarray(result)
        except ValueError as error:
            raise MetricError(f"{self.name} returned a ragged {type(result).__name__}; {_wanted(n)}") from error
        if values.dtype.kind not in "fiub":
            raise MetricError(f"{self.name} returned {type(result).__name__} {_short(result)}; {_wanted(n)}")
        if values.ndim == 0:
            return float(values)
        if values.shape != (n,):
            raise MetricError(f"{self.name} returned an array of shape {values.shape}; {_wanted(n)}")
        return values.astype(np.float64)


class _Noting(dict[str, list[Array]]):
    """The outputs as a dict that notes which were read: the others are judged by nobody."""

    def __init__(self, outputs: dict[str, list[Array]], seen: set[str]) -> None:
        super().__init__(outputs)
        self._seen = seen

    def __getitem__(self, name: str) -> list[Array]:
        self._seen.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an output, noted."""
        self._seen.add(name)
        return super().get(name, default)

    def values(self) -> Any:
        """Return all outputs, noted."""
        self._seen.update(self)
        return super().values()

    def items(self) -> Any:
        """Return all names and outputs, noted."""
        self._seen.update(self)
        return super().items()


def _wanted(n: int) -> str:
    return f"return {n} numbers (one a sample, shape ({n},)) or one float"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def from_file(spec: str) -> Custom:
    """Return the metric of `FILE.py:function`, the function after the last colon. Runs the file.

    Raises MetricError where the file or the function is missing, or the file fails, with the line.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not name.isidentifier():
        raise MetricError(f"{spec}: which function? Give FILE.py:function")
    path = Path(place)
    if not path.is_file():
        raise MetricError(f"{place}: no such file; give FILE.py:function")
    with running(place, path, MetricError):
        module = module_of(path, f"onnx_lowrank_metric_{path.stem}", MetricError)
    function = getattr(module, name, None)
    if callable(function):
        return Custom(function, f"{path.name}:{name}", path)
    own = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
    raise MetricError(f"{place} has no function {name!r}; it has {', '.join(own) or 'none'}")
