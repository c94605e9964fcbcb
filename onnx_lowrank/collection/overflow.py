"""Sites where what is collected is too large for float32, or no number: they are named, and the others go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from onnx_lowrank.collection.forward_backward import JointFlow
from onnx_lowrank.collection.sample_cache import CacheKey
from onnx_lowrank.collection.scores import Joint
from onnx_lowrank.numerics.kronecker_metric import SideMoments
from onnx_lowrank.types import SHARED, SharedInput, Site


def too_large(
    flow: JointFlow, parts: Sequence[Sequence[int]], moments: Sequence[Mapping[CacheKey, SideMoments]]
) -> dict[str, str]:
    """Return site id -> why it has to be left out: of a fold without a whole sample those that break the most.

    As soon as every fold has a whole sample, those whose moments are not finite.
    """
    if any(part and flow.broken.issuperset(part) for part in parts):
        most = max(map(len, flow.blamed.values()), default=0)
        count = sum(map(len, parts))
        said = f"not finite, or over what float32 can square, on {most} of {count} calibration samples"
        return dict.fromkeys(_breaking(flow, most), f"the input, or the gradient of the loss, is {said}")
    odd = {site for part in moments for (site, _), one in part.items() if not _finite(one)}
    return dict.fromkeys(odd, "the squares of its inputs, or of the gradients there, add up to more than float32 holds")


def _breaking(flow: JointFlow, most: int) -> list[str]:
    return [site for site, numbers in flow.blamed.items() if len(numbers) == most]


def _finite(moments: SideMoments) -> bool:
    turned = moments.transposed is None or _finite(moments.transposed)
    return bool(turned and np.isfinite(moments.Z).all() and np.isfinite(moments.E).all())


def leave_infinite(joint: Joint, sites: Sequence[Site], shared_inputs: Iterable[SharedInput]) -> None:
    """Take out the sites whose scores are not finite, and what their siblings share with them."""
    here = {site.id for site in sites}
    scored = {key: one for key, one in joint.scored.items() if key[0] in here}
    odd = {site for (site, _), one in scored.items() if not np.isfinite(one.tails).all()}
    for site in odd:
        joint.overflowing[site] = "what its ranks lose, by the gradients of these samples, is not finite"
    members_by_site = {
        member for shared in shared_inputs if odd.intersection(shared.members) for member in shared.members
    }
    for key in scored:
        if key[0] in odd or (key[1] == SHARED and key[0] in members_by_site):
            del joint.scored[key]
