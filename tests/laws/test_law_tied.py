"""Laws of tables that are tied to an output layer: exact at full rank, stored once, predicted as they are measured."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from builders import behind_cast, build, elements, factored, found_in, node, normal, ops, run, value, weight
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from test_law_joint import check

from onnx_lowrank.types import Array

SEEDS = st.integers(0, 10**6)
SMALL = st.integers(1, 3)
WAYS = ("right", "left", "gemm right", "gemm left", "stored transposed")


@dataclass(frozen=True)
class Case:
    """Tokens x (n, width) -> their rows, and logits y of the tokens as numbers: the loss is linear in the table E."""

    model: onnx.ModelProto
    x: Array

    def __repr__(self) -> str:
        return f"Case({ops(self.model)}, x={self.x.shape})"


@st.composite
def cases(draw: st.DrawFn, way: str) -> Case:
    """The table to the right or to the left of the vectors, with and without flags, α, β and bias, twice or once."""
    width, seed = draw(st.integers(2, 6)), draw(SEEDS)
    rows, count, twice = width + draw(st.integers(1, 5)), draw(SMALL), draw(st.booleans())
    E = np.ascontiguousarray(weight((width, rows), seed).T)
    stored, table, weights = "E", "E", {"E": E}
    nodes = [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT)]
    if way == "stored transposed":
        stored, weights = "T", {"T": np.ascontiguousarray(E.T)}
        nodes.append(node("Transpose", ["T"], ["E"], perm=[1, 0]))
    nodes.append(node("Gather", [table, "x"], ["rows"], "embed"))
    h = "h"
    if way in ("left", "gemm left") or draw(st.booleans()):
        nodes.append(node("Transpose", ["h"], ["ht"], perm=[1, 0]))
        h = "ht"
    more = {"alpha": draw(st.sampled_from([1.0, -2.0])), "beta": draw(st.sampled_from([1.0, 0.5]))}
    outputs = ["y", "again"][: 1 + twice]
    for name in outputs:
        shape = [rows, count] if "left" in way else [count, rows]
        if way == "right" and name == "y":
            nodes.append(node("Transpose", ["E"], ["turned"], perm=[1, 0]))
        if way == "right" or way == "stored transposed":
            if h == "ht":
                nodes.append(node("Transpose", ["ht"], [f"h of {name}"], perm=[1, 0]))
            left = f"h of {name}" if h == "ht" else "h"
            right = "turned" if way == "right" else stored
            nodes.append(node("MatMul", [left, right], [name], f"head {name}"))
        elif way == "left":
            nodes.append(node("MatMul", ["E", h], [name], f"head {name}"))
        else:
            weights[f"b {name}"] = normal(shape, seed + 1)
            given = [h, "E"] if way == "gemm right" else ["E", h]
            flags = {"transA": int(h == "ht"), "transB": 1} if way == "gemm right" else {"transA": 0, "transB": 0}
            nodes.append(node("Gemm", [*given, f"b {name}"], [name], f"head {name}", **flags, **more))
    x = np.random.default_rng(seed).integers(-rows, rows, (count, width))
    ends = [value("rows", [count, width, width]), *(value(name, shape) for name in outputs)]
    return Case(build(nodes, [value("x", x.shape, TensorProto.INT64)], ends, weights), x)


@pytest.mark.parametrize("way", WAYS)
def test_full_rank_reproduces_both_outputs_of_factors_that_are_stored_once(way: str):
    @given(cases(way))
    def law(case: Case):
        found = found_in(case.model)
        (site,) = found.sites
        width, rows = site.shape
        changed = factored(case.model, {site.id: ("svd", width)})
        onnx.checker.check_model(changed)
        assert elements(changed) == elements(case.model) - rows * width + (rows + width) * width
        expected, got = run(case.model, {"x": case.x}), run(changed, {"x": case.x})
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-3)

    law()


@pytest.mark.parametrize("way", WAYS)
def test_without_an_identity_the_factors_give_the_same_in_both_places(way: str):
    """Outputs of the lookup that pass are inputs of the output layer that are added."""

    seen = set()

    @given(cases(way), st.integers(1, 6))
    def law(case: Case, rank: int):
        (site,) = found_in(case.model).sites
        width, rows = site.shape
        picks = {site.id: ("svd", min(rank, width))}
        plain, interpolative = (factored(case.model, picks, interpolative=kind) for kind in (False, True))
        onnx.checker.check_model(interpolative)
        assert site.identity in ((), ("out",)), "a lookup reads indices"
        without = picks[site.id][1] if site.identity and picks[site.id][1] < width else 0
        seen.add(bool(without))
        factors = [t for t in interpolative.graph.initializer if re.search(r"\.lowrank\d$", t.name)]
        assert sum(np.prod(t.dims) for t in factors) == picks[site.id][1] * (rows + width - without)
        assert elements(plain) - elements(interpolative) == without**2
        expected, got = run(plain, {"x": case.x}), run(interpolative, {"x": case.x})
        for name, array in expected.items():
            assert got[name].shape == array.shape
            np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-3)

    law()
    assert True in seen


@pytest.mark.parametrize("way", WAYS)
def test_less_than_full_rank_does_not(way: str):
    """The law above can fail."""

    @given(cases(way))
    def law(case: Case):
        (site,) = found_in(case.model).sites
        changed = factored(case.model, {site.id: ("svd", 1)})
        expected, got = run(case.model, {"x": case.x})["y"], run(changed, {"x": case.x})["y"]
        if case.x.any():
            assert not np.allclose(got, expected, rtol=1e-6, atol=1e-7)

    law()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_a_table_in_half_precision_keeps_its_type_and_its_casts(way: str, kind: int):
    """What remains is the rounding of two factors to 8 or 11 bits."""

    @given(cases(way), st.booleans())
    def law(case: Case, interpolative: bool):
        stored = "T" if way == "stored transposed" else "E"
        model = behind_cast(case.model, [stored], kind)
        (site,) = found_in(model).sites
        rank = site.shape[0] - interpolative  # at the full rank there is no identity
        plain, changed = (factored(model, {site.id: ("svd", rank)}, interpolative=i) for i in (False, interpolative))
        assert [t.data_type for t in changed.graph.initializer if re.search(r"\.lowrank\d$", t.name)] == [kind, kind]
        expected, got = run(plain if interpolative else model, {"x": case.x}), run(changed, {"x": case.x})
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=0, atol=5e-2 * max(np.abs(array).max(), 1.0))

    law()


@pytest.mark.parametrize("way", [way for way in WAYS if way != "stored transposed"])
def test_projections_are_what_substitution_does_to_both_outputs(way: str):
    """⟨Γ, δ⟩ of the sum of both ways, exactly, at every rank."""

    @given(cases(way), SEEDS)
    def law(case: Case, seed: int):
        check(case.model, case.x, [output.name for output in case.model.graph.output], seed)

    law()
