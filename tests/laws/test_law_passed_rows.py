"""Law: a stage that lets its inputs pass through computes what the same stage with an identity block computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from builders import found_in, normal, plan_of, run
from hypothesis import given
from hypothesis import strategies as st
from strategies import CASES, Case

from onnx_lowrank.cost import layout_parameters
from onnx_lowrank.ops import OPS
from onnx_lowrank.ops.op import StageSite
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.schemes.product import product
from onnx_lowrank.types import Array, Chain, Ranks, Site, Stage
from onnx_lowrank.weights.inventory import Inventory

LAST = sorted(op.op_type for op in OPS if op.observable != "inputs")
"""Operators whose last stage is a node of its own."""


@dataclass(frozen=True)
class Fixed:
    """Factors that are one chain."""

    made: Chain
    scheme: str = "svd"

    def error(self, ranks: Ranks) -> float:
        return 0.0

    def chain(self, ranks: Ranks) -> Chain:
        return self.made

    def dense(self, ranks: Ranks) -> Array:
        return product(self.made)


def small(shape: tuple[int, ...], seed: int) -> Array:
    return (normal(shape, seed) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def stage_with_passing_rows(rows: int, inputs: int, spatial: int, passed: tuple[int, ...], seed: int) -> Stage:
    return Stage(small((rows - inputs, inputs, *(1,) * spatial), seed), passed=passed)


def outputs(case: Case, inventory: Inventory, site: Site, chain: Chain) -> tuple[onnx.ModelProto, Array]:
    plan = plan_of({site.id: ("svd", (1,))}, inventory)
    model = rewrite(case.model, inventory, plan, {(site.id, "svd"): Fixed(chain)})
    onnx.checker.check_model(model, full_check=True)
    return model, run(model, {"x": case.x})["y"]


def whole(chain: Chain) -> Chain:
    return Chain(tuple(Stage(stage.full, stage.owns) for stage in chain.stages))


def cases(op: str) -> st.SearchStrategy[tuple[Case, Inventory, Site]]:
    """Nodes of one group that share their weight with no other, and with at least two outputs."""

    def located(case: Case) -> tuple[Case, Inventory, Site] | None:
        inventory = found_in(case.model)
        fits = inventory.sites and inventory.sites[0].groups == 1 and inventory.sites[0].shape[0] > 1
        return (case, inventory, inventory.sites[0]) if fits else None

    return CASES[op]().map(located).filter(lambda drawn: drawn is not None and rows_lie_on_an_axis(drawn))


def rows_lie_on_an_axis(drawn: tuple[Case, Inventory, Site]) -> bool:
    """Whether the operator can let rows pass; a vector on the right of W has no axis of its own for them."""
    case, inventory, site = drawn
    call = inventory.calls[site.id][0]
    inside = call.observable == "inputs"
    axis = call.op.channel_axis(call, StageSite(1, 3 if inside else 2, "x", "W", "y"))
    return axis is not None and not (site.op == "MatMul" and call.slot == 0 and case.x.ndim == 1)


@pytest.mark.parametrize("op", LAST)
def test_rows_pass_through_the_last_stage(op: str):
    @given(cases(op), st.data())
    def law(drawn: tuple[Case, Inventory, Site], data: st.DataObject):
        case, inventory, site = drawn
        rows, spatial = site.shape[0], len(site.shape) - 2
        rank = data.draw(st.integers(1, rows - 1))
        passed = tuple(data.draw(st.permutations(range(rows)))[:rank])
        first = Stage(small((rank, *site.shape[1:]), 1), tuple(range(spatial)))
        chain = Chain((first, stage_with_passing_rows(rows, rank, spatial, passed, 2)))
        model, got = outputs(case, inventory, site, chain)
        _, expected = outputs(case, inventory, site, whole(chain))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        assert layout_parameters(chain.layout) == layout_parameters(whole(chain).layout) - rank**2
        factors = [t for t in model.graph.initializer if t.name.endswith((".lowrank0", ".lowrank1"))]
        assert sum(int(np.prod(t.dims)) for t in factors) == layout_parameters(chain.layout)
        assert sum(n.op_type == "Concat" for n in model.graph.node) == len(inventory.calls[site.id])

    law()


@pytest.mark.parametrize("op", sorted(CASES))
def test_rows_pass_through_an_inner_stage(op: str):
    """In a recurrent cell too: what comes before its node is a MatMul of its own."""

    @given(cases(op), st.data())
    def law(drawn: tuple[Case, Inventory, Site], data: st.DataObject):
        case, inventory, site = drawn
        rows, spatial = site.shape[0], len(site.shape) - 2
        rank = data.draw(st.integers(1, 3))
        middle = rank + data.draw(st.integers(1, 3))
        passed = tuple(data.draw(st.permutations(range(middle)))[:rank])
        first = Stage(small((rank, *site.shape[1:]), 1), tuple(range(spatial)))
        last = Stage(small((rows, middle, *(1,) * spatial), 3))
        chain = Chain((first, stage_with_passing_rows(middle, rank, spatial, passed, 2), last))
        _, got = outputs(case, inventory, site, chain)
        _, expected = outputs(case, inventory, site, whole(chain))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)

    law()


@pytest.mark.parametrize("op", sorted(set(CASES) - set(LAST)))
def test_rows_cannot_pass_inside_a_node(op: str):
    @given(cases(op))
    def law(drawn: tuple[Case, Inventory, Site]):
        case, inventory, site = drawn
        first = Stage(small((1, *site.shape[1:]), 1))
        chain = Chain((first, stage_with_passing_rows(site.shape[0], 1, 0, (0,), 2)))
        with pytest.raises(ValueError, match=r"no rows can pass through stage 1|inside the node"):
            outputs(case, inventory, site, chain)

    law()


@pytest.mark.parametrize(
    ("given_rows", "match"),
    [((0,), "1 rows for 2 inputs"), ((0, 0), r"rows \(0, 0\) of 5"), ((0, 5), r"rows \(0, 5\) of 5")],
)
def test_rows_that_are_none(given_rows: tuple[int, ...], match: str):
    with pytest.raises(ValueError, match=match):
        Stage(small((3, 2), 1), passed=given_rows)


def test_a_group_lets_nothing_pass():
    with pytest.raises(ValueError, match="one group"):
        Stage(small((4, 2), 1), groups=2, passed=(0, 1))
