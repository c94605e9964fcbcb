"""Fresh names: never twice, whatever is taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.graph.names import Fresh

HINTS = st.lists(st.sampled_from(["a", "a_2", "a_3", "b"]), max_size=30)


@given(taken=HINTS, later=HINTS, hints=HINTS)
def test_no_name_is_given_twice(taken: list[str], later: list[str], hints: list[str]):
    fresh = Fresh(set(taken))
    names = [fresh(hint) for hint in hints]
    fresh.take(later)
    names += [fresh(hint) for hint in hints]
    assert len(set(names)) == len(names)
    assert not set(names) & set(taken)
    assert not set(names[len(hints) :]) & set(later)
    assert all(name.startswith(hint) for name, hint in zip(names, [*hints, *hints], strict=True))
