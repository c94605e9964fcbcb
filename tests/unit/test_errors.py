"""errors: one family."""

from __future__ import annotations

from onnx_lowrank import errors
from onnx_lowrank.errors import LowRankError


def test_every_error_is_of_one_family():
    found = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(found) == 7
    assert all(issubclass(error, LowRankError) for error in found)
