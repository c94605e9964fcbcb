"""Laws of arithmetic in integers: what operators compute stays what it was up to rounding to 8 bits, or they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from builders import fits, found_in, full_rank, ops, run
from hypothesis import given, reject, settings
from strategies import CASES, Case

from onnx_lowrank.collection import overridable
from onnx_lowrank.options import Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.schemes import SCHEMES, Factors
from onnx_lowrank.sensitivity.substitution import arriving, substitution
from onnx_lowrank.types import ARITHMETIC, Choice, Cost, Form, Option, Plan, Site
from onnx_lowrank.weights.find import find_sites
from onnx_lowrank.weights.inventory import Inventory, RangeSamples

CPU = Runtime(provider="cpu", threads=1)
NEAR = 0.02
"""Of what the largest input and the largest weight give everywhere: x has 256 steps, a weight 255, and so has what lies
between two factors."""
COMPUTED = {"Conv": "int8-static", "Gemm": "int8-dynamic", "MatMul": "int8-dynamic"}


def factored(found: Inventory, site: Site) -> list[tuple[Form, Factors | None]]:
    """Return the weight itself, and every scheme's largest ranks: what it computes is the same."""
    forms: list[tuple[Form, Factors | None]] = [(Form(), None)]
    for scheme in (scheme for scheme in SCHEMES if scheme.name in fits(site) and not site.rigid):
        if scheme.ranks(site.shape, 1, site.groups):
            most = full_rank(scheme.name, site.shape, site.groups)
            forms.append((Form(scheme.name, most), scheme.factor(found.weight(site), None, None, most, site.groups)))
    return forms


@pytest.mark.parametrize("op", sorted(COMPUTED))
def test_integers_compute_what_floats_do_up_to_rounding(op: str):
    @settings(max_examples=25)
    @given(CASES[op]())
    def law(case: Case):
        found = find_sites(case.model, multiple=1, rigid=True)
        if not found.sites or not found.arithmetic(found.sites[0]):
            reject()
        site, feed = found.sites[0], {"x": case.x}
        (number,) = found.arithmetic(site)
        assert number.name == COMPUTED[op]
        found = replace(found, ranged=RangeSamples([feed], CPU))
        runner = Runner(overridable(case.model, found.sources[site.id].entries), runtime=CPU)
        for form, factors in factored(found, site):
            option = Option(replace(form, storage=number.name), Cost())
            known = {} if factors is None else {(site.id, form.scheme): factors}
            made = rewrite(case.model, found, Plan((Choice(site.id, site.weight, option),)), known)
            onnx.checker.check_model(made)
            assert (made.graph.input, made.graph.output) == (case.model.graph.input, case.model.graph.output)
            dense = np.full(site.shape, np.abs(found.weight(site)).max())
            whole = {"x": np.full_like(case.x, np.abs(case.x).max())}
            most = runner.run(whole | substitution(found, site, arriving(found, site, dense)))
            for name, got in run(made, feed).items():
                expected = run(case.model, feed)[name]
                scale = max(np.abs(most[name]).max(), np.abs(expected).max())
                np.testing.assert_allclose(got, expected, rtol=0, atol=NEAR * scale + 1e-6)
            written = set(ops(made))
            assert written >= (
                {"QuantizeLinear", "Conv"} if op == "Conv" else {"DynamicQuantizeLinear", "MatMulInteger"}
            )
            assert not {"Gemm", "MatMul"} & written

    law()


@pytest.mark.parametrize("op", sorted(set(CASES) - set(COMPUTED)))
def test_other_operators_are_not_offered_integers(op: str):
    @settings(max_examples=10)
    @given(CASES[op]())
    def law(case: Case):
        found = found_in(case.model)
        assert all(not found.arithmetic(site) for site in found.sites)

    law()


def test_there_is_a_kind_of_activations_for_every_format():
    assert {name: number.activations for name, number in ARITHMETIC.items()} == {
        "int8-static": "static", "int8-dynamic": "dynamic",
    }  # fmt: skip
