"""options: what cannot be meant is refused with a line for the user; what a goal counts and demands."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnx_lowrank.errors import GoalError
from onnx_lowrank.goals import Compact, Gate, Lossless
from onnx_lowrank.options import Options, Runtime


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Gate(max_drop=-0.1, observed=True), "0 or more, not -0.1"),
        (lambda: Gate(max_drop=math.nan, observed=True), "0 or more, not nan"),
        (lambda: Gate(confidence=1.0), "between 0.5 and 1"),
        (lambda: Gate(confidence=0.4), "between 0.5 and 1"),
        (lambda: Lossless(keep=0.5, target_macs=0.5), "lossless takes one of keep, target size and"),
        (lambda: Lossless(keep=0.0), "--keep is a share between 0 and 1, not 0"),
        (lambda: Lossless(keep=60), "--keep is a share between 0 and 1, not 60"),
        (lambda: Lossless(target_macs=1.1), "--target-macs is a share"),
        (lambda: Lossless(target_size=0), "more than 0 bytes"),
        (lambda: Lossless(target_latency=1.5), "--target-latency is a share"),
        (lambda: Lossless(keep=0.5, min_speedup=0.0), "--min-speedup must be more than 0"),
        (lambda: Lossless(target_latency=0.5, min_speedup=0.9), "1 or more where latency is the goal"),
        (lambda: Compact(resource="latency", min_speedup=math.nan), "1 or more where latency is the goal"),
        (lambda: Options(sensitivity="joint!"), "unknown sensitivity 'joint!': take"),
        (lambda: Options(rank_multiple=0), "1 or more, not 0"),
        (lambda: Options(runtime=Runtime(threads=-1)), "threads must be 0"),
        (lambda: Options(runtime=Runtime(threads=100_000)), "or a number up to 1,024, not 100000"),
        (lambda: Options(seed=-1), "the seed must be a whole number from 0 to"),
        (lambda: Options(seed=2**63), "not 9223372036854775808"),
        (lambda: Gate(max_drop=math.inf), "0 or more, not inf"),
    ],
)
def test_a_wrong_wish_cannot_exist(make, says: str):
    with pytest.raises(GoalError) as caught:
        make()
    assert says in str(caught.value)


def test_what_a_goal_counts():
    assert (
        Compact(gate=Gate(max_drop=0.0, observed=True)).name,
        Compact(gate=Gate(max_drop=0.0, observed=True)).resource,
        Compact(resource="macs").resource,
    ) == ("compact", "parameters", "macs")
    goals = (Lossless(keep=0.5), Lossless(target_size=9), Lossless(target_macs=1.0))
    assert [g.resource for g in goals] == ["parameters", "bytes", "macs"]
    assert {g.name for g in goals} == {"lossless"}
    assert Lossless(target_latency=0.7).resource == "latency"


def test_only_a_goal_of_latency_demands_a_speed_up_by_itself():
    assert Lossless(target_latency=0.7).speedup == Compact(resource="latency").speedup == 1.02
    assert Lossless(keep=0.5).speedup is Compact(gate=Gate(max_drop=0.0, observed=True)).speedup is None
    assert Compact(min_speedup=0.95).speedup == 0.95
    assert Compact(resource="latency", min_speedup=1.0).speedup == 1.0


@pytest.mark.parametrize(
    ("resource", "given", "expected"),
    [
        ("parameters", {}, (32,)),
        ("macs", {}, (32,)),
        ("bytes", {}, (2, 4, 8, 12, 16, 32)),
        ("latency", {}, (8, 32)),
        ("bytes", {"bits": (32,)}, (32,)),
        ("latency", {"bits": (32,)}, (32,)),
        ("bytes", {"bits": (8, 32)}, (8, 32)),
        ("bytes", {"then": "quantize-weights"}, (32,)),
        ("bytes", {"inter_layer": True}, (32,)),
        ("latency", {"continuation": 2}, (32,)),
        ("bytes", {"sensitivity": "weights"}, (32,)),
    ],
)
def test_bits_are_those_that_save_what_the_goal_is_where_none_are_given(resource, given, expected):
    asked = Options(**given)
    assert asked.for_goal(resource).bits == expected
    assert asked.bits == given.get("bits")
    assert asked.for_goal(resource).rounds == (min(expected) < 32)


def own(outputs, labels):
    return [1.0 for _ in labels]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Gate(max_drop="0.1"), "Gate(max_drop=…) takes a number, not '0.1'"),
        (lambda: Gate(max_drop=True), "Gate(max_drop=…) takes a number, not True"),
        (lambda: Gate(confidence=None), "Gate(confidence=…) takes a number, not None"),
        (lambda: Gate(drop_type="rel"), "drop_type is 'absolute' or 'relative', not 'rel'"),
        (lambda: Runtime(threads="x"), "Runtime(threads=…) takes a whole number, not 'x'"),
        (lambda: Runtime(threads=1.5), "Runtime(threads=…) takes a whole number, not 1.5 (float)"),
        (lambda: Runtime(provider=3), "onnxruntime's own name, not 3 (int)"),
        (lambda: Lossless(keep="half"), "Lossless(keep=…) takes a share between 0 and 1, 0.6 say, not 'half'"),
        (lambda: Lossless(target_size="10MB"), "Lossless(target_size=…) takes a number, not '10MB'"),
        (lambda: Lossless(gate=0.1), "Lossless(gate=…) takes Gate(…), not 0.1 (float)"),
        (lambda: Compact(gate=0.1), "Compact(gate=…) takes Gate(…), not 0.1 (float)"),
        (lambda: Compact(resource="size"), "takes one of 'parameters', 'bytes', 'macs', 'latency', not 'size'"),
        (lambda: Options(seed="x"), "Options(seed=…) takes a whole number, not 'x'"),
        (lambda: Options(memory="1GB"), "Options(memory=…) takes a whole number, not '1GB'"),
        (lambda: Options(bits="8,32"), "Options(bits=…) takes a tuple of numbers, (8, 32), say, not '8,32'"),
        (lambda: Options(bits=8), "Options(bits=…) takes a tuple of numbers, (8, 32), say, not 8 (int)"),
        (lambda: Options(exponents=1.0), "takes a tuple of numbers, (1, 0.5), say, not 1.0 (float)"),
        (lambda: Options(runtime=4), "Options(runtime=…) takes Runtime(…), not 4 (int)"),
        (lambda: Options(metric=5), "takes a metric's name, FILE.py:function or a function, not 5 (int)"),
    ],
)
def test_another_kind_of_value_is_one_line_that_says_what_is_wanted(make, says: str):
    with pytest.raises(GoalError) as caught:
        make()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_and_functions_are_taken():
    assert Gate(max_drop=np.float32(0.5)).allowed() == 0.5
    assert Options(seed=np.int64(3), bits=(np.int64(8), 32), metric=own).metric is own  # type: ignore[arg-type]
    assert Runtime(threads=np.int32(2)).threads == 2  # type: ignore[arg-type]
    assert Lossless(keep=1).keep == 1
