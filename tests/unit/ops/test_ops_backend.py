"""ONNX's own node tests, their weights made constant: exact at full rank, or refused with a reason.

What is small in these tests is taken all the same: only here size is no reason.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import factored, fits, found_in, full_rank, ops, run
from onnx.backend.test.case import node
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator

from onnx_lowrank.errors import LowRankError
from onnx_lowrank.types import Array
from onnx_lowrank.weights import find as sites
from onnx_lowrank.weights.inventory import Inventory

SLOTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "Einsum": (0, 1),
    "Gather": (0,),
    "LSTM": (1,),
    "GRU": (1,),
    "RNN": (1,),
}
"""The inputs that may hold a weight."""
EXACT = {"Conv": 6, "ConvTranspose": 9, "MatMul": 2, "Gemm": 22, "LSTM": 6, "GRU": 6, "RNN": 6}
"""At least so many are exact (onnx 1.23); of Gather they are of other axes or dimensions, of Einsum of batches."""
EXACT_CONVERTED = {"Conv": 22, "ConvTranspose": 2, "Gather": 2, "MatMul": 1}
Taken = tuple[str, int, onnx.ModelProto, dict[str, Array], list[Array]]


@cache
def cases(op: str) -> tuple[Any, ...]:
    """Return the tests of this operator: importing its module makes them, while those of all operators take seconds."""
    importlib.import_module(f"{node.__name__}.{op.lower()}")
    models = [(case, case.model.graph.node) for case in node._NodeTestCases if case.model is not None]
    return tuple(case for case, nodes in models if len(nodes) == 1 and nodes[0].op_type == op and case.data_sets)


def taken(op: str) -> Iterator[Taken]:
    """Yield every test of one node of this operator, with one of its inputs constant: what is fed, what is expected."""
    for case in cases(op):
        given, expected = case.data_sets[0]
        names = [value.name for value in case.model.graph.input]
        for slot in SLOTS[op][: len(names)]:
            model = onnx.ModelProto.FromString(case.model.SerializeToString())
            name = model.graph.node[0].input[slot]
            array = given[names.index(name)]
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            model.graph.input.remove(next(v for v in model.graph.input if v.name == name))
            feed = {n: a for n, a in zip(names, given, strict=True) if n != name}
            yield case.name, slot, model, feed, list(expected)


def outputs(model: onnx.ModelProto, feed: dict[str, Array]) -> list[Array]:
    """Return what onnxruntime gives, or ONNX's reference where onnxruntime has no kernel for it."""
    try:
        return list(run(model, feed).values())
    except LowRankError:
        return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, feed)]


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "_size", lambda *given: None)


def check(model: onnx.ModelProto, inventory: Inventory, feed: dict[str, Array], expected: list[Array]) -> None:
    """Assert that every site is exact at full rank, by every scheme."""
    for site in inventory.sites:
        for scheme in fits(site):
            changed = factored(model, {site.id: (scheme, full_rank(scheme, site.shape, site.groups))})
            for got, wanted in zip(outputs(changed, feed), expected, strict=True):
                np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", sorted(SLOTS))
def test_full_rank_gives_the_expected_outputs(op: str):
    exact, refused = 0, []
    for name, slot, model, feed, expected in taken(op):
        found = found_in(model)
        check(model, found, feed, expected)
        exact += len(found.sites)
        weight = model.graph.initializer[-1].name
        refused += [(name, slot, s.why, s.detail) for s in found.skips if s.weight == weight]
        assert found.sites or refused[-1][:2] == (name, slot)
    assert exact >= EXACT.get(op, 0)
    assert all(detail for *_, detail in refused)


def test_full_rank_gives_the_expected_outputs_of_models_that_pytorch_wrote():
    """Their weights are in the file; so tables (Embedding) are there as well."""
    exact: Counter[str] = Counter()
    for case in load_model_tests(kind="pytorch-converted"):
        folder = Path(case.model_dir)
        model = onnx.load(folder / "model.onnx")
        stored = {tensor.name for tensor in model.graph.initializer}
        names = [value.name for value in model.graph.input if value.name not in stored]
        data = folder / "test_data_set_0"
        arrays = [read(data / f"input_{i}.pb") for i in range(len(list(data.glob("input_*.pb"))))]
        if model.opset_import[0].version < 7 and "Gemm" in ops(model):
            continue  # onnxruntime has no kernel for it
        found = found_in(model)
        check(model, found, dict(zip(names, arrays, strict=True)), [read(data / "output_0.pb")])
        exact.update(site.op for site in found.sites)
    assert exact == EXACT_CONVERTED


def read(path: Path) -> Array:
    return onnx.numpy_helper.to_array(onnx.load_tensor(path))
