"""Plain twins of interpolative options: fewer numbers are not always less time, so both are timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx_lowrank.cost import chain_cost
from onnx_lowrank.schemes import layout_of
from onnx_lowrank.types import OWN, Curve, Option, Positions, Site


@dataclass(frozen=True, slots=True)
class Kind:
    """Options whose time is interpolated from one another."""

    scheme: str
    interpolative: bool
    storage: str = OWN

    def of(self, option: Option) -> bool:
        """Return whether an option is of this kind."""
        form = option.form
        return not option.shared_input and (form.scheme, form.interpolative, form.storage) == (
            self.scheme,
            self.interpolative,
            self.storage,
        )


def with_twins(site: Site, curve: Curve, positions: Sequence[Positions]) -> tuple[Curve, list[int]]:
    """Return the curve with plain twins behind interpolative options, and each option's place in the given one.

    Only twins that are smaller than the weight; the weights of a shared input have none.
    """
    options: list[Option] = []
    origins: list[int] = []
    for place, option in enumerate(curve.options):
        forms = [option]
        if option.form.interpolative and not option.shared_input:
            form = replace(option.form, interpolative=False)
            twin = replace(option, form=form, cost=chain_cost(site, layout_of(form, site), positions))
            if twin.cost.parameters < curve.dense.cost.parameters:
                forms.append(twin)
        options += forms
        origins += [place] * len(forms)
    return replace(curve, options=tuple(options)), origins
