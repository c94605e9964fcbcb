"""Arrays, and what they are called where they flow in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Feed: TypeAlias = Mapping[str, Array]
"""What one call of the model is given: input name -> array, ready to run."""
Outputs: TypeAlias = Mapping[str, Sequence[Array]]
"""Output name -> one array a sample, as the model returned it for that sample."""
