"""What a file says of how it was made, and whether it is still the file that this was said of."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_lowrank.types.verdicts import Certificate


@dataclass(frozen=True, slots=True)
class Provenance:
    """The record in a model's metadata. tool: what wrote it, with version.

    unchanged: whether graph and weights are those that were written; None where the record has no hash of them. Only
    then is the certificate one of this file.
    """

    tool: str
    certificate: Certificate | None
    unchanged: bool | None

    @property
    def line(self) -> str:
        """Say whether the certificate counts."""
        claim = "without a certificate"
        if (c := self.certificate) is not None:
            held = f"{c.metric} drops by less than {c.bound:.4g} at {100 * c.confidence:g} % confidence"
            seen = f"a drop of {c.drop:.4g}, nothing certified"
            claim = f"{c.word}: {held if c.word == 'certified' else seen} ({c.samples:,} samples)"
        if self.unchanged:
            return f"Written by {self.tool}, {claim}. Unchanged since."
        if self.unchanged is None:
            return f"Written by {self.tool}, {claim}. It holds no hash: whether it was changed since cannot be told."
        if self.certificate is None:
            return f"Written by {self.tool}, and changed since."
        return (
            f"Written by {self.tool} and CHANGED SINCE: it is not the file that was {claim}; judge it with `compare`."
        )
