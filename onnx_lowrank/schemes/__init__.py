"""Schemes: a canonical weight (out, in, *spatial) becomes a chain of factors. They know nothing of operators."""

from onnx_lowrank.schemes.base import ChainScheme, Factors, Scheme, largest, ranks_of
from onnx_lowrank.schemes.channelwise import Channelwise
from onnx_lowrank.schemes.kernel_last import KernelLast
from onnx_lowrank.schemes.pair import NestedPair
from onnx_lowrank.schemes.product import product
from onnx_lowrank.schemes.refitted import Refitted
from onnx_lowrank.schemes.separable import Separable
from onnx_lowrank.schemes.shared import cut_shared, factor_shared, shared_layout, shared_ranks
from onnx_lowrank.schemes.spectrum import spectrum
from onnx_lowrank.schemes.svd import KernelFirst, Svd
from onnx_lowrank.schemes.tucker import Tucker2

SCHEMES: tuple[Scheme, ...] = (Svd(), KernelFirst(), KernelLast(), Tucker2(), Separable(), Channelwise())
"""Every scheme, in the order in which ties are decided."""

__all__ = [
    "SCHEMES",
    "ChainScheme",
    "Channelwise",
    "Factors",
    "KernelFirst",
    "KernelLast",
    "NestedPair",
    "Refitted",
    "Scheme",
    "Separable",
    "Svd",
    "Tucker2",
    "by_name",
    "cut_shared",
    "factor_shared",
    "largest",
    "product",
    "ranks_of",
    "shared_layout",
    "shared_ranks",
    "spectrum",
]


def by_name(name: str) -> Scheme:
    """Return the scheme of that name. Raises KeyError."""
    return {scheme.name: scheme for scheme in SCHEMES}[name]
