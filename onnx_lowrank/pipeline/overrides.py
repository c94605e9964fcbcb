"""`--set`: what a user decided for some weights, put into the inventory and into the curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_lowrank.errors import GoalError
from onnx_lowrank.options import Options
from onnx_lowrank.plan import Problem
from onnx_lowrank.schemes import SCHEMES, fitting
from onnx_lowrank.types import DENSE, Array, Curve, Override, Site, Skip, Why
from onnx_lowrank.types.overrides import OWN_BITS
from onnx_lowrank.weights.inventory import Inventory


def with_overrides(inventory: Inventory, options: Options) -> Inventory:
    """Return the inventory with what is decided noted at its sites; a weight that stays as it is, is none.

    Of several overrides that name a weight the last one counts. Raises GoalError, one line, where an override names
    nothing or asks for what a weight cannot be.
    """
    overrides = [Override.of(text) for text in options.overrides]
    decided: dict[str, Override] = {}
    for override in overrides:
        named = [site for site in inventory.sites if override.names(site.weight, site.node)]
        if not named:
            raise GoalError(
                f"--set {override.text!r}: no weight that can be factored, and no node of one, is called"
                f" {override.glob!r}; `onnx-lowrank inspect` lists them"
            )
        decided |= dict.fromkeys((site.id for site in named), override)
    sites, skips = list[Site](), list(inventory.skips)
    for site in inventory.sites:
        own = decided.get(site.id)
        if own is not None and own.scheme == DENSE and (own.bits == OWN_BITS or not options.rounds):
            why = f"--set {own.text}"
            skips.append(Skip(site.weight, site.node, site.op, site.shape, Why.EXCLUDED, why))
            continue
        sites.append(site if own is None else _fixed(site, own, inventory, options))
    ids = {site.id for site in sites} - decided.keys()
    shared = tuple(each for each in inventory.all_shared_inputs if ids.issuperset(each.members))
    return replace(inventory, sites=tuple(sites), skips=tuple(skips), all_shared_inputs=shared)


def _fixed(site: Site, override: Override, inventory: Inventory, options: Options) -> Site:
    """Return a site with what is decided. Raises GoalError where it cannot be."""
    head = f"--set {override.text!r}: {site.weight!r}"
    if override.bits is not None:
        _check_bits(site, override.bits, inventory, options, head)
    if override.scheme == DENSE:
        return replace(site, fixed=override, rigid=True, identity=())
    made = replace(site, fixed=override)
    if override.factored and (site.rigid or not fitting(made, options.rank_multiple)):
        raise GoalError(f"{head} {_instead(site, override, options.rank_multiple)}")
    return made


def _check_bits(site: Site, bits: int, inventory: Inventory, options: Options, head: str) -> None:
    asked = options.bits or (OWN_BITS,)
    if bits == OWN_BITS:
        return
    if asked == (OWN_BITS,):
        raise GoalError(
            f"{head} is to have {bits} bits, which only saves bytes or time: give --bits {bits},{OWN_BITS} with"
            " --minimize bytes or --target-size, and leave other targets out"
        )
    if bits not in asked:
        listed = ",".join(map(str, asked))
        raise GoalError(f"{head} is to have {bits} bits, and --bits is {listed}: add {bits} there")
    able = {OWN_BITS, *(number.bits for number in (*inventory.formats(site), *inventory.arithmetic(site)))}
    if bits not in able:
        raise GoalError(f"{head} can have {', '.join(map(str, sorted(able)))} bits, not {bits}")


def _instead(site: Site, override: Override, multiple: int) -> str:
    """Return what a weight can be, where it cannot be what is decided."""
    offered = [] if site.rigid else fitting(site, multiple)
    if not offered:
        return "can be factored by no scheme so that it gets smaller"
    if override.scheme is not None and override.scheme not in {scheme.name for scheme, _ in offered}:
        known = {scheme.name for scheme in SCHEMES}
        what = "does not fit it" if override.scheme in known else "is no scheme"
        return f"can be {', '.join(scheme.name for scheme, _ in offered)}; {override.scheme!r} {what}"
    most = {scheme.name: "x".join(str(max(r)) for r in zip(*ranks, strict=True)) for scheme, ranks in offered}
    limits = ", ".join(f"{rank} by {name}" for name, rank in most.items() if override.scheme in (None, name))
    return f"gets smaller up to rank {limits}"


def imposed(problem: Problem, sites: Sequence[Site]) -> Problem:
    """Return the problem with only those options of decided weights that are allowed.

    Raises GoalError where none is known, because it could not be measured.
    """
    fixed = {site.id: site.fixed for site in sites if site.fixed is not None}
    curves, tails = list[Curve](), None if problem.tails is None else dict[str, Array](problem.tails)
    for curve in problem.curves:
        override = fixed.get(curve.site)
        if override is None:
            curves.append(curve)
            continue
        places = [i for i, o in enumerate(curve.options) if override.allows(o.scheme, o.ranks, o.form.storage)]
        if not places:
            raise GoalError(
                f"--set {override.text!r}: what {problem.weights[curve.site]!r} loses by that is not known here (no"
                " gradient reaches it, or the format does not run): leave it out"
            )
        curves.append(replace(curve, options=tuple(curve.options[i] for i in places), original=curve.dense))
        if tails is not None and curve.site in tails:
            tails[curve.site] = np.ascontiguousarray(tails[curve.site][:, places])
    return replace(problem, curves=tuple(curves), tails=tails)
