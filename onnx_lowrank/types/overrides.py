"""What a user decides for some weights instead of the search: a scheme, ranks, bits, or that they stay as they are."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from onnx_lowrank.types.chains import Ranks
from onnx_lowrank.types.forms import DENSE
from onnx_lowrank.types.number_formats import EACH, stage_formats

OWN_BITS = 32
BITS = (2, 4, 8, 12, 16, OWN_BITS)
"""What a number of a weight or a factor may take."""
KEYS = "dense, rank:N (rank:NxM of two ranks), scheme:NAME, bits:N"


@dataclass(frozen=True, slots=True)
class Override:
    """What weights of some names become: those whose name, or whose first node's, `glob` matches.

    scheme, ranks, bits: None leaves it to the search. text: as it was written, GLOB=KEY:VALUE,….
    """

    glob: str
    text: str
    scheme: str | None = None
    ranks: Ranks | None = None
    bits: int | None = None

    @staticmethod
    def of(text: str) -> Override:
        """Return what a text says. Raises ValueError, one line, where it says nothing that there is."""
        glob, equals, wanted = text.rpartition("=")
        if not glob or not equals:
            raise ValueError(f"--set takes GLOB=WHAT, with WHAT of {KEYS}, not {text!r}")
        made = Override(glob, text)
        for part in wanted.split(","):
            key, _, value = part.strip().partition(":")
            if key == DENSE and not value:
                made = replace(made, scheme=DENSE)
            elif key == "scheme" and value:
                made = replace(made, scheme=value)
            elif key == "rank" and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", value):
                made = replace(made, ranks=tuple(int(rank) for rank in value.split("x")))
            elif key == "bits" and value.isdecimal():
                if int(value) not in BITS:
                    listed = ", ".join(map(str, BITS[:-1]))
                    raise ValueError(f"--set {text!r}: a number takes {listed} or {BITS[-1]} bits, not {value}")
                made = replace(made, bits=int(value))
            else:
                raise ValueError(f"--set {text!r}: {part.strip()!r} is none of {KEYS}")
        if made.scheme == DENSE and made.ranks is not None:
            raise ValueError(f"--set {text!r}: a dense weight has no rank; leave one of them out")
        return made

    def names(self, *names: str) -> bool:
        """Return whether something of these names is meant."""
        return any(fnmatchcase(name, self.glob) for name in names)

    @property
    def factored(self) -> bool:
        """Whether the weight has to become a chain."""
        return self.ranks is not None or self.scheme not in (None, DENSE)

    def stores(self, storage: str) -> bool:
        """Return whether the bits allow a storage: all stages have them."""
        if self.bits is None:
            return True
        formats = stage_formats(storage, storage.count(EACH) + 1)
        return all((OWN_BITS if number is None else number.bits) == self.bits for number in formats)

    def allows(self, scheme: str, ranks: Ranks, storage: str) -> bool:
        """Return whether a form may be chosen: it is not the weight as it was, unless that is what is asked for."""
        if self.factored and scheme == DENSE:
            return False
        fits = self.scheme in (None, scheme) and (self.ranks is None or self.ranks == ranks)
        return fits and self.stores(storage)
