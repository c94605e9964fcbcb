"""What was collected at a group of sites: one value, which merges with that of other samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx_lowrank.collection.key import CollectionKey
from onnx_lowrank.collection.sample_cache import CacheKey, SampleCache
from onnx_lowrank.numerics.kronecker_metric import SideMoments

Moments = dict[CacheKey, SideMoments]


@dataclass(frozen=True, slots=True, eq=False)
class Collected:
    """key: what was collected. moments: by fold, the sums at every side that some sample has reached.

    broken: samples that were left out, not being finite; blamed: site id -> those that it breaks. cache: what scoring
    needs of single samples; closed where it did not fit, and then they are run again. Nothing changes a value but
    `fit(…, release=True)`, which takes the moments out as it uses them up, as they are most of the memory; and who
    owns a value closes its cache.
    """

    key: CollectionKey
    moments: tuple[Moments, ...]
    broken: frozenset[int]
    blamed: Mapping[str, frozenset[int]]
    cache: SampleCache

    def __add__(self, other: Collected) -> Collected:
        """Return what was collected on both sets of samples; its cache takes over both files.

        Raises ValueError where the keys differ in more than samples, or a sample is in both.
        """
        key = self.key + other.key
        moments = tuple(added(mine, theirs) for mine, theirs in zip(self.moments, other.moments, strict=True))
        blamed = {
            site: self.blamed.get(site, frozenset()) | other.blamed.get(site, frozenset())
            for site in (*self.blamed, *(site for site in other.blamed if site not in self.blamed))
        }
        caches = [part.cache for part in (self, other) if any(part.key.scored)]
        return Collected(key, moments, self.broken | other.broken, blamed, SampleCache.united(caches))


def added(mine: Mapping[CacheKey, SideMoments], theirs: Mapping[CacheKey, SideMoments]) -> Moments:
    """Return the sums of both, by side."""
    both = {key: moments + theirs[key] if key in theirs else moments for key, moments in mine.items()}
    return both | {key: moments for key, moments in theirs.items() if key not in mine}
