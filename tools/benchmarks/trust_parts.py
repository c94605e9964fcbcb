"""Part "trust": its cells, by name: draws of the demo, and simulated gates."""

from __future__ import annotations

from onnx_lowrank.options import Gate

PART = "trust"
DEMO, SIMULATED = "demo", "simulated"
"""Stand for the model in the raw lines."""
ALLOWED = 0.01
CERTIFIED, NARROW, OBSERVED = "certified .01", "certified .005", "observed .005"
FIRST = "first version's .01"
GATES = {
    CERTIFIED: Gate(max_drop=ALLOWED),
    NARROW: Gate(max_drop=0.005),
    OBSERVED: Gate(max_drop=0.005, observed=True),
}
LIMITS = {**{name: gate.allowed() for name, gate in GATES.items()}, FIRST: ALLOWED}
"""What each rule allows."""
SIZES = (500, 2000)
"""Validation samples."""
DRAWS, QUICK_DRAWS = 20, 1


def draws(quick: bool) -> list[tuple[int, int]]:
    """Return (validation samples, number) of every draw, in turns of the sizes."""
    sizes, count = (SIZES[:1], QUICK_DRAWS) if quick else (SIZES, DRAWS)
    return [(n, draw) for draw in range(count) for n in reversed(sizes)]


def draw_name(n: int, draw: int) -> str:
    """Return the name of a draw's cell."""
    return f"draw/{n}/{draw}"
