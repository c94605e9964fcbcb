"""Standard output is the user's: only a process that asks for it has it turned away while HiGHS runs."""

from __future__ import annotations

import os

import pytest

from onnx_lowrank.plan import quiet_solver


@pytest.mark.parametrize(("held_back", "seen"), [(False, "before inside after"), (True, "before  after")])
def test_what_the_solver_writes(held_back: bool, seen: str, monkeypatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr(quiet_solver, "_held_back", held_back)
    os.write(1, b"before ")
    with quiet_solver.silent():
        os.write(1, b"inside")
    os.write(1, b" after")
    assert capfd.readouterr().out == seen
