"""Which of options that lose the same is taken first."""

from __future__ import annotations

from onnx_lowrank.schemes import SCHEMES, preference
from onnx_lowrank.types import DENSE, SHARED, Cost, Form, Option


def test_preference_names_parameters_macs_the_scheme_and_ranks():
    cost = Cost(10, 40, 5.0)
    names = [DENSE, *(scheme.name for scheme in SCHEMES), SHARED]
    options = [Option(Form(name, (1,)), cost) for name in names]
    keys = [preference(option) for option in options]
    assert keys == sorted(set(keys))
    assert preference(Option(Form(SHARED, (9,)), Cost(9, 40, 9.0))) < preference(options[0])
    assert preference(Option(Form(SHARED, (9,)), Cost(10, 40, 4.0))) < preference(options[0])
    assert preference(Option(Form("svd", (1,)), cost)) < preference(Option(Form("svd", (2,)), cost))
