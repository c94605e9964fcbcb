"""What is packed comes back the same; what is no data of ours is refused, in both directions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnx_lowrank.options import Options
from onnx_lowrank.schemes import fitting, largest
from onnx_lowrank.store.packing import DamagedError, pack, unpack
from onnx_lowrank.types import UNCHANGED, Cost, Curve, Form, Option, Site, Why
from onnx_lowrank.weights.compensation import Compensation, SideGrams

ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
COSTS = st.builds(Cost, st.integers(0, 2**60), st.integers(0, 9), st.floats(allow_nan=False), st.floats(0, 1))
FORMS = st.builds(Form, st.sampled_from(["svd", "dense"]), st.tuples(st.integers(0, 9)), storage=st.text(max_size=5))
LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), ARRAYS, COSTS, FORMS),
    *(st.sampled_from(Why), st.builds(np.float32, st.floats(width=32, allow_nan=False))),
)
KEYS = st.one_of(st.text(), st.integers(), st.tuples(st.text(), st.text()))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        *(st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(KEYS, inner)),
        *(st.frozensets(st.text()), st.builds(Option, FORMS, COSTS)),
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if is_dataclass(one) and not isinstance(one, type):
        return all(same(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@given(VALUES)
def test_what_is_packed_comes_back(value: object):
    assert same(unpack(*pack(value)), value)


@given(VALUES)
def test_packing_is_the_same_every_time(value: object):
    """So that it can be the key of a result; a set's order is no part of it."""
    again = unpack(*pack(value))
    assert pack(value)[0] == pack(again)[0]


def test_infinity_and_what_is_no_number_come_back():
    back = unpack(*pack((float("inf"), float("-inf"), float("nan"), np.float64("inf"))))
    assert back[:2] == (float("inf"), float("-inf"))
    assert np.isnan(back[2])
    assert back[3] == np.inf
    assert isinstance(back[3], np.float64)


def test_an_array_is_stored_once_however_often_it_is_referred_to():
    array = np.arange(3.0)
    text, arrays = pack([array, {"again": array}])
    assert len(arrays) == 1
    back = unpack(text, arrays)
    assert back[0] is back[1]["again"]


def test_what_both_sides_have_is_not_stored():
    array, site = np.arange(3.0), Site("a", "a", "MatMul", "w", (2, 2), ("a",))
    text, arrays = pack({"one": site, "two": array}, {"site": site, "array": array})
    assert not arrays
    assert unpack(text, arrays, {"site": site, "array": array}) == {"one": site, "two": array}
    with pytest.raises(DamagedError, match="site"):
        unpack(text, arrays, {"array": array})


def test_what_a_value_works_out_for_itself_is_made_anew():
    grams = {"a": SideGrams(np.eye(2)[None], np.eye(2)[None])}
    value = Compensation(grams, 7)
    value._sides["a", 0, "in"] = None
    back = unpack(*pack(value))
    assert back.memory == 7
    assert back._sides == {}
    assert back._sides is not value._sides
    assert same(back.grams, grams)


@pytest.mark.parametrize(("shape", "groups"), [((24, 16), 1), ((16, 16, 3, 3), 1), ((16, 8, 3, 3), 2)])
def test_factors_of_every_scheme_say_the_same_afterwards(shape: tuple[int, ...], groups: int):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    site = Site("a", "a", "Conv" if len(shape) > 2 else "MatMul", "w", shape, ("a",), groups=groups)
    made = 0
    for scheme, ranks in fitting(site, 4):
        factors = scheme.factor(weight, None, None, largest(ranks), groups)
        back = unpack(*pack(factors))
        for one in ranks:
            assert back.error(one) == factors.error(one)
            np.testing.assert_array_equal(back.dense(one), factors.dense(one))
        made += 1
    assert made >= 1


class Foreign(Enum):
    ONE = 1


@dataclass
class Own:
    value: int = 1
    more: list[int] = field(default_factory=list)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(object(), id="object"),
        pytest.param(print, id="function"),
        pytest.param({1, 2}, id="set"),
        pytest.param(b"bytes", id="bytes"),
        pytest.param(1j, id="complex"),
        pytest.param(Foreign.ONE, id="foreign enumeration"),
        pytest.param(Own(), id="foreign dataclass"),
        pytest.param(np.array([object()], object), id="array of objects"),
        pytest.param(Own, id="type"),
    ],
)
def test_what_is_no_data_of_ours_is_refused(value: object):
    with pytest.raises(TypeError, match="not"):
        pack([value])


@pytest.mark.parametrize(
    "name",
    [
        *("os:system", "subprocess:Popen", "builtins:eval", "onnx_lowrank_evil:Cost", "onnx_lowrank.cli:main"),
        *("onnx_lowrank.store.packing:json", "onnx_lowrank.store.packing:pack", "onnx_lowrank.none:Cost"),
        *("onnx_lowrank.errors:ModelError", "onnx_lowrank.types:Cost", "onnx_lowrank.types.plans:Cost.dense"),
    ],
)
def test_no_other_type_is_made_by_name(name: str):
    """Nor by the name under which another module has it."""
    with pytest.raises(DamagedError):
        unpack(json.dumps([[[name, []]], ["o", 0]]), [])


def test_a_type_of_other_parts_is_another_type():
    text, arrays = pack(Cost(1, 2))
    with pytest.raises(DamagedError, match="other parts"):
        unpack(text.replace('"parameters"', '"params"'), arrays)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "[[],", '[[],["x"]]', '[[],["a",0]]', '[[],["o",3]]', '[[],["s","O",1]]', "[[],[]]", "[[]]"],
)
def test_text_that_was_not_packed_is_damaged(text: str):
    with pytest.raises(DamagedError):
        unpack(text, [])


def test_text_of_great_depth_is_damaged():
    with pytest.raises(DamagedError):
        unpack("[[]," + '["l",' * 100_000 + "1" + "]" * 100_001, [])


def test_what_keys_are_made_of_packs():
    """Options, sites and curves: of these every key is made."""
    curve = Curve("a", (Option(UNCHANGED, Cost(4, 16)),))
    text, _ = pack((Options(), Site("a", "a", "MatMul", "w", (2, 2), ("a",)), curve))
    assert pack((Options(), Site("a", "a", "MatMul", "w", (2, 2), ("a",)), curve))[0] == text
    assert pack((Options(seed=1), Site("a", "a", "MatMul", "w", (2, 2), ("a",)), curve))[0] != text
