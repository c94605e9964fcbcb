"""Arrays, and the names of their types at the inputs and outputs of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Feed: TypeAlias = Mapping[str, Array]
"""The inputs of one call of the model: input name -> array, ready to run."""
Outputs: TypeAlias = Mapping[str, Sequence[Array]]
"""Output name -> one array a sample, as the model returned it for that sample."""
