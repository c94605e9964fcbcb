"""Law: a stage whose identity block is not stored computes what the same stage with it computes.

Rows that are the stage's inputs pass through it; columns that are its outputs are added to them. In every group.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from builders import found_in, normal, ops, plan_of, run
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


def drawn_numbers(data: st.DataObject, groups: int, width: int, rank: int) -> tuple[int, ...]:
    """Return `rank` of `width` numbers in every group, in any order."""
    return tuple(
        group * width + number for group in range(groups) for number in data.draw(st.permutations(range(width)))[:rank]
    )


def stage_with_passing_rows(data: st.DataObject, rows: int, rank: int, spatial: int, groups: int = 1) -> Stage:
    """Return a stage of (rows, rank) in every group, of which (rows - rank, rank) are stored."""
    passed = drawn_numbers(data, groups, rows, rank)
    return Stage(small((groups * (rows - rank), rank, *(1,) * spatial), 2), groups=groups, passed=passed)


def stage_with_added_columns(data: st.DataObject, rank: int, columns: int, spatial: int, groups: int) -> Stage:
    """Return a stage of (rank, columns) in every group, of which (rank, columns - rank) are stored."""
    added = drawn_numbers(data, groups, columns, rank)
    return Stage(small((groups * rank, columns - rank, *(1,) * spatial), 2), groups=groups, added=added)


def outputs(case: Case, inventory: Inventory, site: Site, chain: Chain) -> tuple[onnx.ModelProto, Array]:
    plan = plan_of({site.id: ("svd", (1,))}, inventory)
    model = rewrite(case.model, inventory, plan, {(site.id, "svd"): Fixed(chain)})
    onnx.checker.check_model(model, full_check=True)
    return model, run(model, {"x": case.x})["y"]


def whole(chain: Chain) -> Chain:
    return Chain(tuple(Stage(stage.full, stage.owns, stage.groups) for stage in chain.stages))


def located(case: Case) -> tuple[Case, Inventory, Site] | None:
    inventory = found_in(case.model)
    return (case, inventory, inventory.sites[0]) if inventory.sites else None


def cases(op: str) -> st.SearchStrategy[tuple[Case, Inventory, Site]]:
    """Nodes of one group or several, with at least two outputs of each, whose rows lie on an axis."""

    def fits(drawn: tuple[Case, Inventory, Site] | None) -> bool:
        return drawn is not None and drawn[2].shape[0] > drawn[2].groups and rows_lie_on_an_axis(drawn)

    return CASES[op]().map(located).filter(fits)


def cases_with_columns(op: str) -> st.SearchStrategy[tuple[Case, Inventory, Site]]:
    """Nodes with at least two inputs of each group, whose columns lie on an axis."""
    return CASES[op]().map(located).filter(lambda drawn: drawn and drawn[2].shape[1] > 1 and "in" in drawn[2].identity)


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
        rows, spatial, groups = site.shape[0] // site.groups, len(site.shape) - 2, site.groups
        rank = data.draw(st.integers(1, rows - 1))
        first = Stage(small((groups * rank, *site.shape[1:]), 1), tuple(range(spatial)), groups)
        chain = Chain((first, stage_with_passing_rows(data, rows, rank, spatial, groups)))
        model = check(case, inventory, site, chain)
        assert layout_parameters(chain.layout) == layout_parameters(whole(chain).layout) - groups * rank**2
        assert sum(n.op_type == "Concat" for n in model.graph.node) == len(inventory.calls[site.id])

    law()


@pytest.mark.parametrize("op", sorted(set(CASES) - {"Gather"}))
def test_columns_are_added_in_the_first_stage(op: str):
    """In a recurrent cell too: the first stage is a MatMul before its node."""

    @given(cases_with_columns(op), st.data())
    def law(drawn: tuple[Case, Inventory, Site], data: st.DataObject):
        case, inventory, site = drawn
        columns, spatial, groups = site.shape[1], len(site.shape) - 2, site.groups
        rank = data.draw(st.integers(1, columns - 1))
        first = stage_with_added_columns(data, rank, columns, spatial, groups)
        last = Stage(small((site.shape[0], rank, *site.shape[2:]), 1), tuple(range(spatial)), groups)
        chain = Chain((first, last))
        model = check(case, inventory, site, chain)
        assert layout_parameters(chain.layout) == layout_parameters(whole(chain).layout) - groups * rank**2
        assert ops(model).count("Add") == len(inventory.calls[site.id])

    law()


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_columns_are_added_and_rows_pass_in_one_chain(op: str):
    """A kernel between two pointwise stages, as Tucker-2 has them, in several groups too."""

    def wide(drawn: tuple[Case, Inventory, Site]) -> bool:
        return drawn[2].shape[0] > drawn[2].groups

    @given(cases_with_columns(op).filter(wide), st.data())
    def law(drawn: tuple[Case, Inventory, Site], data: st.DataObject):
        case, inventory, site = drawn
        rows, columns, groups = site.shape[0] // site.groups, site.shape[1], site.groups
        spatial = len(site.shape) - 2
        inner, outer = data.draw(st.integers(1, columns - 1)), data.draw(st.integers(1, rows - 1))
        core = Stage(small((groups * outer, inner, *site.shape[2:]), 1), tuple(range(spatial)), groups)
        first = stage_with_added_columns(data, inner, columns, spatial, groups)
        chain = Chain((first, core, stage_with_passing_rows(data, rows, outer, spatial, groups)))
        check(case, inventory, site, chain)
        saved = groups * (inner**2 + outer**2)
        assert layout_parameters(chain.layout) == layout_parameters(whole(chain).layout) - saved

    law()


def check(case: Case, inventory: Inventory, site: Site, chain: Chain) -> onnx.ModelProto:
    """Return the model with the chain: its output is that of the stored identities, its factors are the chain's."""
    model, got = outputs(case, inventory, site, chain)
    _, expected = outputs(case, inventory, site, whole(chain))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    factors = [t for t in model.graph.initializer if re.search(r"\.lowrank\d$", t.name)]
    assert sum(int(np.prod(t.dims)) for t in factors) == layout_parameters(chain.layout)
    return model


@pytest.mark.parametrize("op", sorted(CASES))
def test_rows_pass_through_an_inner_stage(op: str):
    """In a recurrent cell too: what comes before its node is a MatMul of its own."""

    @given(cases(op), st.data())
    def law(drawn: tuple[Case, Inventory, Site], data: st.DataObject):
        case, inventory, site = drawn
        rows, spatial, groups = site.shape[0], len(site.shape) - 2, site.groups
        rank = data.draw(st.integers(1, 3))
        middle = rank + data.draw(st.integers(1, 3))
        first = Stage(small((groups * rank, *site.shape[1:]), 1), tuple(range(spatial)), groups)
        last = Stage(small((rows, middle, *(1,) * spatial), 3), groups=groups)
        check(case, inventory, site, Chain((first, stage_with_passing_rows(data, middle, rank, spatial, groups), last)))

    law()


@pytest.mark.parametrize("op", sorted(set(CASES) - set(LAST)))
def test_rows_cannot_pass_inside_a_node(op: str):
    @given(cases(op), st.data())
    def law(drawn: tuple[Case, Inventory, Site], data: st.DataObject):
        case, inventory, site = drawn
        first = Stage(small((1, *site.shape[1:]), 1))
        chain = Chain((first, stage_with_passing_rows(data, site.shape[0], 1, 0)))
        with pytest.raises(ValueError, match=r"no rows can pass through stage 1|inside the node"):
            outputs(case, inventory, site, chain)

    law()


def test_columns_cannot_be_added_to_indices():
    @given(CASES["Gather"]().map(located).filter(bool), st.data())
    def law(drawn: tuple[Case, Inventory, Site], data: st.DataObject):
        case, inventory, site = drawn
        first = stage_with_added_columns(data, 1, site.shape[1], 0, 1)
        assert site.identity == ("out",)
        with pytest.raises(ValueError, match="no inputs can be added in stage 0 of Gather"):
            outputs(case, inventory, site, Chain((first, Stage(small((site.shape[0], 1), 1)))))

    law()


@pytest.mark.parametrize(
    ("given_numbers", "match"),
    [
        ((0,), "1 {} for an identity of 2"),
        ((0, 0), r"{} \(0, 0\) of 5 in every group"),
        ((0, 5), r"{} \(0, 5\) of 5 in every group"),
        ((-1, 2), r"{} \(-1, 2\) of 5 in every group"),
    ],
)
def test_numbers_that_are_none(given_numbers: tuple[int, ...], match: str):
    with pytest.raises(ValueError, match=match.format("rows")):
        Stage(small((3, 2), 1), passed=given_numbers)
    with pytest.raises(ValueError, match=match.format("columns")):
        Stage(small((2, 3), 1), added=given_numbers)


def test_every_group_has_rows_and_columns_of_its_own():
    """Two groups of four numbers, of which two are chosen: in the order of the groups."""
    for numbers in ((0, 1, 2, 3), (4, 5, 0, 1), (0, 4, 1, 5)):
        with pytest.raises(ValueError, match="of 4 in every group"):
            Stage(small((4, 2), 1), groups=2, passed=numbers)
        with pytest.raises(ValueError, match="of 4 in every group"):
            Stage(small((4, 2), 1), groups=2, added=numbers)
    assert Stage(small((4, 2), 1), groups=2, passed=(3, 1, 4, 6)).rows == 8
    assert Stage(small((4, 2), 1), groups=2, added=(3, 1, 4, 6)).columns == 8


def test_an_identity_is_of_one_kind_in_a_stage_without_axes():
    with pytest.raises(ValueError, match="owns no axes, and is of one kind"):
        Stage(small((2, 2), 1), passed=(0, 1), added=(0, 1))
    with pytest.raises(ValueError, match="owns no axes, and is of one kind"):
        Stage(small((2, 2, 3), 1), owns=(0,), passed=(0, 1))
