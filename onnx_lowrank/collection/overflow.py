"""Sites where what is collected is too large for float32, or no number: they are named, and the others go on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnx_lowrank.collection.collected import Collected
from onnx_lowrank.collection.scores import ScoreKey, Scores
from onnx_lowrank.collection.site_group import SiteGroup
from onnx_lowrank.numerics.kronecker_metric import SideMoments
from onnx_lowrank.types import SHARED


def too_large(collected: Collected) -> dict[str, str]:
    """Return site id -> why it has to be left out: of a fold without a whole sample those that break the most.

    As soon as every fold has a whole sample, those whose moments are not finite.
    """
    parts = collected.key.folds.parts
    if any(part and collected.broken.issuperset(part) for part in parts):
        most = max(map(len, collected.blamed.values()), default=0)
        breaking = [site for site, numbers in collected.blamed.items() if len(numbers) == most]
        said = f"not finite, or over what float32 can square, on {most} of {sum(map(len, parts))} calibration samples"
        return dict.fromkeys(breaking, f"the input, or the gradient of the loss, is {said}")
    odd = {site for part in collected.moments for (site, _), moments in part.items() if not _finite(moments)}
    return dict.fromkeys(odd, "the squares of its inputs, or of the gradients there, add up to more than float32 holds")


def _finite(moments: SideMoments) -> bool:
    transposed = moments.transposed is None or _finite(moments.transposed)
    return bool(transposed and np.isfinite(moments.Z).all() and np.isfinite(moments.E).all())


def finite_scores(scored: Mapping[ScoreKey, Scores], group: SiteGroup) -> tuple[dict[ScoreKey, Scores], dict[str, str]]:
    """Return the scores without sites where they are not finite, and site id -> why of those.

    What other weights share with such a site goes as well.
    """
    odd = {site for (site, _), scores in scored.items() if not np.isfinite(scores.tails).all()}
    reasons = dict.fromkeys(odd, "what its ranks lose, by the gradients of these samples, is not finite")
    sharing = {
        member for shared in group.shared_inputs if odd.intersection(shared.members) for member in shared.members
    }
    finite = {
        key: scores
        for key, scores in scored.items()
        if key[0] not in odd and not (key[1] == SHARED and key[0] in sharing)
    }
    return finite, reasons
