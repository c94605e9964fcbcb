"""Examples in docstrings of what one calls: all of them have one, and it runs."""

from __future__ import annotations

import doctest

import pytest

import onnx_lowrank as lr

CALLED = {
    "optimize": lr.optimize,
    "analyze": lr.analyze,
    "inspect": lr.inspect,
    "compare": lr.compare,
    "apply": lr.apply,
    "Session.of": lr.Session.of,
}


@pytest.mark.parametrize("name", CALLED)
def test_an_example_runs(name: str) -> None:
    (found,) = (t for t in doctest.DocTestFinder(recurse=False).find(CALLED[name], name, globs={}) if t.examples)
    assert doctest.DocTestRunner().run(found).failed == 0
