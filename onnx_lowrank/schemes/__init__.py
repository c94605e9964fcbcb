"""Schemes: a canonical weight (out, in, *spatial) becomes a chain of factors. They know nothing of operators."""

from onnx_lowrank.schemes.channelwise import Channelwise
from onnx_lowrank.schemes.interpolative import interpolated, stored_sides
from onnx_lowrank.schemes.kernel_last import KernelLast
from onnx_lowrank.schemes.nested_pair import NestedPair
from onnx_lowrank.schemes.offered import (
    SCHEMES,
    among,
    by_name,
    fitting,
    form_of,
    layout_of,
    preference,
    ranks_of,
    shared_form,
)
from onnx_lowrank.schemes.product import product
from onnx_lowrank.schemes.refitted import Refitted
from onnx_lowrank.schemes.scheme import ChainScheme, Factors, FittedSide, FittedSides, Scheme, largest
from onnx_lowrank.schemes.separable import Separable
from onnx_lowrank.schemes.shared_factor import cut_shared, factor_shared, shared_layout, shared_ranks, shared_sides
from onnx_lowrank.schemes.spectrum import spectrum
from onnx_lowrank.schemes.svd import KernelFirst, Svd
from onnx_lowrank.schemes.tucker import Tucker2

__all__ = [
    "SCHEMES",
    "ChainScheme",
    "Channelwise",
    "Factors",
    "FittedSide",
    "FittedSides",
    "KernelFirst",
    "KernelLast",
    "NestedPair",
    "Refitted",
    "Scheme",
    "Separable",
    "Svd",
    "Tucker2",
    "among",
    "by_name",
    "cut_shared",
    "factor_shared",
    "fitting",
    "form_of",
    "interpolated",
    "largest",
    "layout_of",
    "preference",
    "product",
    "ranks_of",
    "shared_form",
    "shared_layout",
    "shared_ranks",
    "shared_sides",
    "spectrum",
    "stored_sides",
]
