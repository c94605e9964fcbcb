"""Laws of number formats: what is written in one computes what was predicted, for every operator and scheme."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import onnx
import pytest
from builders import fits, found_in, full_rank, normal, run
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from strategies import CASES, Case

from onnx_lowrank.collection import overridable
from onnx_lowrank.cost import format_bytes
from onnx_lowrank.errors import PlanError
from onnx_lowrank.numerics.rounding import not_above
from onnx_lowrank.options import Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.passes.unpack import in_formats
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.schemes import SCHEMES, Factors, form_of, layout_of
from onnx_lowrank.sensitivity.substitution import stored_weight, substitution
from onnx_lowrank.types import (
    FORMATS,
    INT4,
    INT8,
    INT8_BLOCKS,
    INT12,
    OWN,
    Choice,
    Cost,
    Form,
    NumberFormat,
    Option,
    Plan,
    Site,
    Stage,
    formats_in,
    number_formats,
    stage_formats,
)
from onnx_lowrank.types.number_formats import PACKED
from onnx_lowrank.weights.compensation import Compensation, SideGrams
from onnx_lowrank.weights.find import find_sites
from onnx_lowrank.weights.integer_grid import Grid
from onnx_lowrank.weights.inventory import Inventory
from onnx_lowrank.weights.storage import Storage, packed

SINGLE = int(onnx.TensorProto.FLOAT)
SHAPES = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 70)),
    st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 3), st.integers(1, 3)),
)
ROUNDING_INPUTS = ("Gemm", "MatMul", "com.microsoft.Attention")
WITHOUT = [(op, number) for op in ("GRU", "LSTM", "RNN") for number in FORMATS.values()] + [
    ("Gather", number) for number in (INT8_BLOCKS, INT12)
]
WITH = [(op, number) for op in sorted(CASES) for number in FORMATS.values() if (op, number) not in WITHOUT]


def whole_and_factored(found: Inventory, site: Site) -> list[tuple[Form, Factors | None]]:
    """Return the weight itself, and every scheme's smallest ranks."""
    forms: list[tuple[Form, Factors | None]] = [(Form(), None)]
    for scheme in (scheme for scheme in SCHEMES if scheme.name in fits(site) and not site.rigid):
        if offered := list(scheme.ranks(site.shape, 1, site.groups)):
            most = full_rank(scheme.name, site.shape, site.groups)
            factors = scheme.factor(found.weight(site), None, None, most, site.groups)
            forms.append((form_of(scheme.name, offered[0], site), factors))
    return forms


def with_moments(found: Inventory, site: Site, seed: int) -> Inventory:
    """Return the inventory with moments of a site by which errors of rounding are made up for."""
    out, inner = site.shape[0] // site.groups, site.shape[1]
    xs, gs = normal((site.groups, 2 * inner, inner), seed), normal((site.groups, out, out), seed + 1)
    A, B = np.swapaxes(xs, 1, 2) @ xs, np.swapaxes(gs, 1, 2) @ gs
    grams = SideGrams(A[0].diagonal() if found.looks_up(site) else A, B)
    return replace(found, compensation=Compensation({site.id: grams}, 2**24))


@pytest.mark.parametrize("compensated", [False, True])
@pytest.mark.parametrize(("op", "number"), WITH)
def test_a_model_computes_with_the_numbers_that_are_stored(op: str, number: NumberFormat, compensated: bool):
    """To 1e-5 of what inputs and weights without signs give, as terms may cancel; where they stay packed to 2 % of it
    where onnxruntime has kernels of integers, as those round inputs to 8 bits as well.
    """

    @settings(max_examples=16)
    @given(CASES[op](), st.booleans())
    def law(case: Case, packed: bool):
        most = 0 if packed else PACKED
        patched = mock.patch.object(number_formats, "PACKED", most)
        with patched, mock.patch.dict(in_formats.__kwdefaults__, packed_from=most):
            computes(case, 2e-2 if packed and op in ROUNDING_INPUTS else 1e-5)

    def computes(case: Case, near: float):
        found = find_sites(case.model, multiple=1, rigid=True)
        assume(found.sites)
        site = found.sites[0]
        if number not in found.formats(site):
            reject()
        if compensated:
            found = with_moments(found, site, len(site.shape))
            assert found.compensates(site, number.name) == number.compensated
        feed = {"x": case.x}
        runner = Runner(
            overridable(case.model, found.sources[site.id].entries), runtime=Runtime(provider="cpu", threads=1)
        )
        for form, factors in whole_and_factored(found, site):
            option = Option(Form(form.scheme, form.ranks, number.name, form.interpolative), Cost())
            plan = Plan((Choice(site.id, site.weight, option),))
            if not number.fits(layout_of(form, site), looked_up=found.looks_up(site)):
                with pytest.raises(PlanError, match=f"only multiples of {number.outputs} are computed right"):
                    rewrite(case.model, found, plan, {} if factors is None else {(site.id, form.scheme): factors})
                continue
            made = rewrite(case.model, found, plan, {} if factors is None else {(site.id, form.scheme): factors})
            onnx.checker.check_model(made)
            weight = stored_weight(found, site, factors, option)  # type: ignore[arg-type]
            expected = runner.run({**feed, **substitution(found, site, weight)})
            unsigned = {"x": np.abs(case.x) if case.x.dtype.kind == "f" else case.x} | substitution(
                found, site, np.abs(weight)
            )
            seen = runner.run(unsigned)
            most = {name: max(np.abs(seen[name]).max(), np.abs(expected[name]).max()) for name in seen}
            for name, got in run(made, feed).items():
                np.testing.assert_allclose(got, expected[name], rtol=0, atol=near * most[name] + 1e-6)
            own = (f".{number.name}", ".scale", ".block")
            stored = [t for t in made.graph.initializer if t.name.endswith(own) and not t.name.startswith("unpack.")]
            written = sum(len(tensor.raw_data) for tensor in stored)
            assert written == format_bytes(layout_of(form, site), number, looked_up=found.looks_up(site))

    law()


MIXTURES = (
    *("int8/int4", "int4/int8", "int4/own", "own/int8", "int2/int4"),
    *("float16/int4", "int8/float16", "own/float16", "int8-blocks/int4", "int4/int8-blocks"),
    *("int12/int4", "float16/int12"),
)


@pytest.mark.parametrize("op", sorted({op for op, _ in WITH}))
def test_a_pair_may_have_a_format_for_each_stage(op: str):
    """Likewise, with moments and without, and the bytes of each stage in its own format."""
    near = 1e-5

    @settings(max_examples=12)
    @given(CASES[op](), st.sampled_from(MIXTURES), st.booleans())
    def law(case: Case, storage: str, compensated: bool):
        found = find_sites(case.model, multiple=1, rigid=True)
        assume(found.sites)
        site = found.sites[0]
        pairs = [(f, fs) for f, fs in whole_and_factored(found, site) if len(layout_of(f, site)) == 2]
        if not pairs or not set(formats_in(storage)) <= set(found.formats(site)):
            reject()
        form, factors = pairs[0]
        layout, numbers = layout_of(form, site), stage_formats(storage, 2)
        looked_up = found.looks_up(site)
        if not all(
            n is None or n.takes(s) or (looked_up and not i)
            for i, ((s, _), n) in enumerate(zip(layout, numbers, strict=True))
        ):
            reject()
        if compensated:
            found = with_moments(found, site, len(site.shape))
        option = Option(replace(form, storage=storage), Cost())
        plan = Plan((Choice(site.id, site.weight, option),))
        made = rewrite(case.model, found, plan, {(site.id, form.scheme): factors})  # type: ignore[dict-item]
        onnx.checker.check_model(made)
        feed = {"x": case.x}
        runner = Runner(
            overridable(case.model, found.sources[site.id].entries), runtime=Runtime(provider="cpu", threads=1)
        )
        weight = stored_weight(found, site, factors, option)  # type: ignore[arg-type]
        expected = runner.run({**feed, **substitution(found, site, weight)})
        unsigned = {"x": np.abs(case.x) if case.x.dtype.kind == "f" else case.x}
        seen = runner.run(unsigned | substitution(found, site, np.abs(weight)))
        for name, got in run(made, feed).items():
            most = max(np.abs(seen[name]).max(), np.abs(expected[name]).max())
            np.testing.assert_allclose(got, expected[name], rtol=0, atol=near * most + 1e-6)
        stored = {t.name for t in made.graph.initializer}
        for place, number in enumerate(numbers):
            named = f"{site.weight}.lowrank{place}"
            assert number is None or any(name.startswith(f"{named}.{number.name}") for name in stored)

    law()


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 70)), min_size=2, max_size=2), st.sampled_from([INT8, INT4])
)
def test_bytes_of_a_mixture_are_those_of_its_stages(shapes: list[tuple[int, int]], number: NumberFormat):
    layout = tuple((shape, ()) for shape in shapes)
    apart = [format_bytes((stage,), each) for stage, each in zip(layout, (number, INT4), strict=True)]
    assert format_bytes(layout, number, INT4) == sum(apart)
    assert format_bytes(layout, number, number) == format_bytes(layout, number)
    with pytest.raises(ValueError, match="zip"):
        format_bytes(layout, number, number, number)


def test_a_storage_names_one_format_for_all_stages_or_each():
    assert stage_formats("int8", 3) == (INT8,) * 3
    assert stage_formats("int4/own", 2) == (INT4, None)
    assert stage_formats(OWN, 2) == (None, None)
    assert formats_in("own/int4") == (INT4,)
    with pytest.raises(ValueError, match="'int8/int4' has formats of 2 stages, and there are 3"):
        stage_formats("int8/int4", 3)
    with pytest.raises(KeyError, match="int3"):
        formats_in("int8/int3")


@pytest.mark.parametrize(("op", "number"), WITHOUT)
def test_what_has_no_axis_of_channels_is_not_offered(op: str, number: NumberFormat):
    """Gates are in another order than canonically."""

    @settings(max_examples=20)
    @given(CASES[op]())
    def law(case: Case):
        found = found_in(case.model)
        assert all(number not in found.formats(site) for site in found.sites)

    law()


INTEGERS = [number for number in FORMATS.values() if not number.floating]
SHORT = [number for number in INTEGERS if not number.split]


@given(SHAPES, st.integers(0, 10**6), st.sampled_from(INTEGERS), st.booleans(), st.booleans())
def test_a_number_is_at_most_half_a_step_off_unless_it_was_cut(shape, seed, number, looked_up, rows):
    weight = normal(shape, seed)
    grid = Grid.symmetric(number, looked_up=looked_up, rows=looked_up and rows).at(shape)
    integers = grid.quantised(weight)
    seen = grid.seen(weight)
    assert number.low <= integers.q.min()
    assert integers.q.max() <= number.high
    step = np.abs(_spread(grid, integers.scale, shape))
    cut = (integers.q == number.high) | (integers.q == number.low)
    assert (np.abs(seen - weight)[~cut] <= 0.5 * step[~cut] * (1 + 1e-6)).all()
    plain = np.clip(np.rint(weight / _largest(grid, weight, number)), -number.high, number.high)
    plain = plain * _largest(grid, weight, number)
    assert not_above(float(((seen - weight) ** 2).sum()), float(((plain - weight) ** 2).sum()) * (1 + 1e-6) + 1e-12)


def _spread(grid: Grid, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if grid.block:
        return np.repeat(scale, grid.block, axis=grid.axis)[tuple(slice(n) for n in shape)]
    return np.broadcast_to(scale.reshape([-1 if i == grid.axis else 1 for i in range(len(shape))]), shape)


def _largest(grid: Grid, weight: np.ndarray, number: NumberFormat) -> np.ndarray:
    """Return the scales by the largest number of every channel or block."""
    if grid.block:
        starts = np.arange(0, weight.shape[grid.axis], grid.block)
        largest = np.maximum.reduceat(np.abs(weight), starts, axis=grid.axis)
    else:
        largest = np.abs(np.moveaxis(weight, grid.axis, 0)).reshape(weight.shape[grid.axis], -1).max(1)
    scale = (largest / number.high).astype(grid.scale).astype(float)
    if grid.digits:
        parts, exponents = np.frexp(scale)
        scale = np.ldexp(np.rint(parts * 2**grid.digits), exponents - grid.digits)
    return np.maximum(_spread(grid, scale, weight.shape), 1e-30)


@given(SHAPES, st.integers(0, 10**6), st.sampled_from(SHORT))
def test_integers_of_few_bits_share_a_byte(shape, seed, number):
    q = np.random.default_rng(seed).integers(number.low, number.high + 1, shape)
    tensor = packed(q, number.bits, "q")
    assert len(tensor.raw_data) == -(-q.size * number.bits // 8)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int8), q)


@pytest.mark.parametrize("number", list(FORMATS.values()))
def test_zeros_and_one_number_a_channel_are_kept(number: NumberFormat):
    storage = Storage(SINGLE).in_format(number)
    for weight in (np.zeros((4, 40), np.float32), np.full((4, 40), 3.0, np.float32), -np.ones((3, 1), np.float32)):
        np.testing.assert_allclose(storage.rounded(weight), weight, rtol=2**-5 if number.block else 1e-6)
    assert Form().storage == OWN
    assert storage.narrow
    assert Stage(np.ones((2, 2))).identity == ()
