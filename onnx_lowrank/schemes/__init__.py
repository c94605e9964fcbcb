"""Schemes: a canonical weight (out, in, *spatial) becomes a chain of factors. They know nothing of operators."""

from onnx_lowrank.schemes.base import Factors, Scheme
from onnx_lowrank.schemes.kernel_last import KernelLast
from onnx_lowrank.schemes.refitted import Refitted
from onnx_lowrank.schemes.spectrum import spectrum
from onnx_lowrank.schemes.svd import KernelFirst, Svd

SCHEMES: tuple[Scheme, ...] = (Svd(), KernelFirst(), KernelLast())
"""Every scheme, in the order in which ties are decided."""

__all__ = ["SCHEMES", "Factors", "KernelFirst", "KernelLast", "Refitted", "Scheme", "Svd", "by_name", "spectrum"]


def by_name(name: str) -> Scheme:
    """Return the scheme of that name. Raises KeyError."""
    return {scheme.name: scheme for scheme in SCHEMES}[name]
