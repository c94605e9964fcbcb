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
    "Session": lr.Session,
    "Session.of": lr.Session.of,
    "pareto": lr.pareto,
    "read": lr.read,
    "DataSources": lr.DataSources,
    "Compact": lr.Compact,
    "Lossless": lr.Lossless,
    "Gate": lr.Gate,
    "Options": lr.Options,
}


@pytest.mark.parametrize("name", CALLED)
def test_an_example_runs(name: str) -> None:
    (found,) = (t for t in doctest.DocTestFinder(recurse=False).find(CALLED[name], name, globs={}) if t.examples)
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found).failed == 0
