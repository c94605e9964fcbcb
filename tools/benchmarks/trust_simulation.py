"""Part "trust", the simulation: how often the last plan that is certified loses as much as is not allowed, or more."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from benchmarks.lines import Lines
from benchmarks.trust_kinds import ALPHA, Bounded, Kind, RightOrWrong
from benchmarks.trust_parts import PART, SIMULATED, SIZES
from benchmarks.trust_sets import Correlation, MacroF1

KINDS: tuple[Kind, ...] = (
    RightOrWrong(),
    Bounded("bounded, spread", sparse=False),
    Bounded("bounded, rare losses", sparse=True),
    MacroF1(),
    Correlation("correlation, all scores move", sparse=False),
    Correlation("correlation, rare losses", sparse=True),
)
CHANGED = (0.005, 0.01, 0.02, 0.05)
"""Shares of samples whose value changes, at the severity that loses just what is allowed."""
BESIDE = 0.0075
"""A share beside those that the bound of a metric of a set was made by: between two of them, where it is weakest."""
PLANS = (1, 5, 15)
QUICK_REPETITIONS, QUICK_CHANGED, QUICK_SIZES = 200, CHANGED[2:3], SIZES[:1]


def severities(plans: int) -> list[float]:
    """Return the severities of a sequence up to the first plan that must not be certified, which is its middle one."""
    middle = plans // 2 + 1
    return [rank / middle for rank in range(1, middle + 1)]


def cells(quick: bool) -> list[tuple[Kind, float, int]]:
    """Return (kind, share changed, samples) of every cell."""
    shares, sizes = (QUICK_CHANGED, QUICK_SIZES) if quick else (CHANGED, SIZES)
    return [(kind, changed, n) for kind in KINDS for changed in shares for n in sizes]


def beside(quick: bool) -> list[tuple[Kind, float, int]]:
    """Return the cells beside the others."""
    return [] if quick else [(kind, BESIDE, n) for kind in KINDS for n in SIZES]


def cell_name(kind: Kind, changed: float, n: int) -> str:
    """Return the name of a cell."""
    return f"simulation/{kind.name}/{changed:g}/{n}"


def measure(lines: Lines) -> None:
    """Simulate every missing cell."""
    key = hashlib.sha256(f"{KINDS} {ALPHA:g} {PLANS}".encode()).hexdigest()
    for kind, changed, n in (*cells(lines.setting.quick), *beside(lines.setting.quick)):
        name = cell_name(kind, changed, n)
        if lines.has(PART, SIMULATED, name, key):
            continue
        count = QUICK_REPETITIONS if lines.setting.quick else kind.repetitions
        data = simulate(kind, changed, n, count, lines.setting.seed)
        lines.add(PART, SIMULATED, name, key, data)
        print(f"{SIMULATED}: {name}: {data['false']} of {count} false, power {data['power']:.3f}", flush=True)


def simulate(kind: Kind, changed: float, n: int, count: int, seed: int) -> dict[str, Any]:
    """Return how many of `count` sequences ended with a false claim, by number of plans, and the power at no drop.

    The samples are the same for every number of plans. A sequence goes wrong where the plan that loses what is allowed
    is certified, and all before it; what comes after it changes nothing.
    """
    place = [seed, [each.name for each in KINDS].index(kind.name), round(changed * 1e6), n]
    false = dict.fromkeys(PLANS, 0)
    for repetition in kind.simulated(np.random.default_rng([*place, 0]), changed, n, count, balanced=False):
        if repetition.holds(1.0):
            for plans in PLANS:
                false[plans] += all(repetition.holds(severity) for severity in severities(plans)[:-1])
    certified, drops = 0, []
    for repetition in kind.simulated(np.random.default_rng([*place, 1]), changed, n, count, balanced=True):
        certified += repetition.holds(1.0)
        drops.append(repetition.observed)
    return {
        "kind": kind.name, "changed": changed, "n": n, "repetitions": count, "allowed": kind.allowed(changed),
        "false": {str(plans): number for plans, number in false.items()}, "power": certified / count,
        "best": kind.best(changed, n, float(np.std(drops))),
    }  # fmt: skip
