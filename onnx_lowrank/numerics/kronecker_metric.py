"""The two-sided metric A ⊗ B of a site: moments that add, the best basis in it, and what every rank loses.

A truncation is a projection Π = Σ_i write_i read_iᵀ on one side of the weight: on its outputs (y = W x, Ŵ = Π W) or on
its inputs (Ŵ = W Π). Seen there, everything is two vectors a position: z, what is projected, and e, the gradient of
the loss with respect to it. Outputs: z = y, e = g = ∂L/∂y. Inputs: z = x, e = h = Wᵀ g.

With A = E x xᵀ and B = E g gᵀ, the truncated singular value decomposition of P = A^½ Wᵀ B^½ minimises the Kronecker
approximation of the loss, ½ tr(B δ A δᵀ) (docs/method.md, section 3.1). Its singular vectors are the eigenvectors of
B^½ (W A Wᵀ) B^½ = E^½ Z E^½ on the outputs, of A^½ (Wᵀ B W) A^½ = Z^½ E Z^½ on the inputs, with Z = E z zᵀ, E = E e eᵀ:
the smaller side serves, no Gram of k×k patches is needed, and only one root is inverted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from onnx_lowrank.numerics import linalg
from onnx_lowrank.types import Array, SideName

TwoSidedMetric: TypeAlias = Literal["joint", "inputs", "weights"]
Exponents: TypeAlias = tuple[float, float]
"""a of the input moment A and b of the gradient moment B in the metric A^a ⊗ B^b, both in [0, 1]."""
WHOLE: Exponents = (1.0, 1.0)
OF_METRIC: dict[TwoSidedMetric, Exponents] = {"joint": WHOLE, "inputs": (1.0, 0.0), "weights": (0.0, 0.0)}
SHRINK = (1e-2, 1e-1, 1.0)
"""Shares of a multiple of the identity (of W Wᵀ where it comes through the weight) added to A and to B."""
TINY = 1e-300
NEARLY_SINGULAR = 1e-12
"""Eigenvalues of W Wᵀ below this share of the largest are taken to be this share: of a float32 weight all rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class SideMoments:
    """Sums over positions, float64: Z (d, d) of z zᵀ and E (d, d) of e eᵀ. Additive, so shards merge with `+`.

    Of a grouped weight the diagonal blocks, a group each: (groups, d, d). transposed: those where the transposed weight
    is read; on its inputs, which are the outputs of the weight, what is projected is Wᵀ g, and e is the input.
    """

    Z: Array
    E: Array
    positions: int
    samples: int
    transposed: SideMoments | None = None

    def __add__(self, other: SideMoments) -> SideMoments:
        """Return the moments of both sets of samples together."""
        transposed = (
            self.transposed + other.transposed
            if self.transposed and other.transposed
            else self.transposed or other.transposed
        )
        return SideMoments(
            self.Z + other.Z,
            self.E + other.E,
            self.positions + other.positions,
            self.samples + other.samples,
            transposed,
        )

    def __sub__(self, part: SideMoments) -> SideMoments:
        """Return the moments without those of a part of the samples."""
        transposed = self.transposed - part.transposed if self.transposed and part.transposed else self.transposed
        return SideMoments(
            self.Z - part.Z, self.E - part.E, self.positions - part.positions, self.samples - part.samples, transposed
        )

    @property
    def empty(self) -> bool:
        """Whether nothing reaches the site, or nothing of it reaches the loss."""
        alone = not (trace(self.Z) > 0 and trace(self.E) > 0)
        return alone and (self.transposed is None or self.transposed.empty)

    def group(self, group: int) -> SideMoments:
        """Return the moments of one group."""
        return SideMoments(self.Z[group], self.E[group], self.positions, self.samples)


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """Π of rank k is the first k of Σ_i write_i read_iᵀ; read, write: (d, r) in columns, strongest first.

    Of a grouped weight every group has its own: (groups · d, r), and Π is block-diagonal.
    """

    side: SideName
    read: Array
    write: Array
    shrink: float
    groups: int = 1

    def single(self) -> Basis:
        """Return the basis as float32: what samples are projected on."""
        return replace(self, read=self.read.astype(np.float32), write=self.write.astype(np.float32))

    def blocks(self) -> tuple[Array, Array]:
        """Return read and write a group each, (groups, d, r)."""
        shape = (self.groups, -1, self.read.shape[1])
        return self.read.reshape(shape), self.write.reshape(shape)

    def group(self, group: int) -> Basis:
        """Return the basis of one group."""
        read, write = self.blocks()
        return Basis(self.side, read[group], write[group], self.shrink)


def trace(moments: Array) -> float:
    """Return the trace of (d, d), or of all (groups, d, d) together."""
    return float(np.trace(moments, axis1=-2, axis2=-1).sum())


def in_metric(
    moments: SideMoments, side: SideName, gram: Array, metric: TwoSidedMetric, exponents: Exponents = WHOLE
) -> SideMoments:
    """Return the moments as they would be with A^a and B^b in place of A and B.

    "joint": of the `exponents`; "inputs" has B = 1; "weights", plain ‖W − Ŵ‖, A = B = 1. gram: as of `bases`. The
    moment that comes through the weight is `between` its gram and itself: exactly W A^a Wᵀ (Wᵀ B^b W) where a or b is
    0 or 1, or W square and invertible, else an upper bound of it, as A itself is not collected on the outputs.
    """
    a, b = exponents if metric == "joint" else OF_METRIC[metric]
    if (a, b) == WHOLE:
        return moments
    transposed = moments.transposed if a or b else None  # plain ‖W − Ŵ‖ is the same either way
    if transposed is not None:  # there z is the gradient, through the weight, and e the input, or the other way round
        transposed = _raised(transposed, side, gram, (b, a))
    return replace(_raised(moments, side, gram, (a, b)), transposed=transposed)


def _raised(moments: SideMoments, side: SideName, gram: Array, exponents: Exponents) -> SideMoments:
    """Return Z and E (sums, as before) of A^a and B^b, without the transposed reading."""
    count, (z, e) = max(moments.positions, 1), exponents
    if side == "out":
        Z, E = between(gram, moments.Z / count, z), power(moments.E / count, e)
    else:
        Z, E = power(moments.Z / count, z), between(gram, moments.E / count, e)
    return replace(moments, Z=moments.Z if z == 1 else count * Z, E=moments.E if e == 1 else count * E, transposed=None)


def power(moments: Array, exponent: float) -> Array:
    """Return M^t of (d, d), or of every (groups, d, d), positive semidefinite; 0: the identity."""
    if exponent in (0, 1):
        return moments if exponent else np.broadcast_to(np.eye(moments.shape[-1]), moments.shape)
    if moments.ndim == 3:
        return np.stack([power(each, exponent) for each in moments])
    values, vectors = linalg.eigen(moments)
    return np.asarray((vectors * values**exponent) @ vectors.T)


def between(start: Array, end: Array, share: float) -> Array:
    """Return the weighted geometric mean start #_t end of positive semidefinite (d, d), or of every (groups, d, d).

    start^½ (start^-½ end start^-½)^t start^½ (Kubo and Ando, Math. Ann. 246, 1980), the point at `share` of the way in
    the metric that every congruence keeps: C X Cᵀ #_t C Y Cᵀ = C (X #_t Y) Cᵀ for invertible C. Positive definite where
    both are. `start` and `end` themselves at 0 and 1.
    """
    if share in (0, 1):
        return end if share else start
    if start.ndim == 3:
        return np.stack([between(*pair, share) for pair in zip(start, end, strict=True)])
    root, inverse = linalg.roots(start, NEARLY_SINGULAR)
    return np.asarray(root @ power(inverse @ end @ inverse, share) @ root)


def bases(moments: SideMoments, side: SideName, gram: Array, rank: int, shrinks: Sequence[float]) -> list[Basis]:
    """Return the best basis (d, rank) for every shrinkage; `gram` (d, d) is W Wᵀ on the outputs, Wᵀ W on the inputs.

    The root is taken of the matrix that is shrunk towards the identity, so it can always be inverted. Any root will
    do: another one turns the eigenvectors by what it is turned itself. With groups, of every group by itself: moments
    and gram (groups, d, d).
    """
    if gram.ndim == 3:
        return _grouped([bases(moments.group(g), side, own, rank, shrinks) for g, own in enumerate(gram)])
    moments = _single_product(moments)
    count = max(moments.positions, 1)
    rooted, through = (moments.E, moments.Z) if side == "out" else (moments.Z, moments.E)
    return [_basis(rooted / count, through / count, side, gram, rank, shrink) for shrink in shrinks]


def _grouped(parts: Sequence[Sequence[Basis]]) -> list[Basis]:
    """Return the bases of all groups as one, for every shrinkage."""
    return [
        Basis(
            groups[0].side,
            np.concatenate([basis.read for basis in groups]),
            np.concatenate([basis.write for basis in groups]),
            groups[0].shrink,
            len(groups),
        )
        for groups in zip(*parts, strict=True)
    ]


def _single_product(moments: SideMoments) -> SideMoments:
    """Return the A ⊗ B nearest to the sum over both ways in which a weight is read; without the other way the same.

    In the Frobenius norm (Van Loan and Pitsianis, 1993): Σ u_i Z_i ⊗ Σ v_i E_i, u the leading eigenvector of the
    product of the Gram matrices of E and Z, v = (Gram of Z) u; neither has negative entries.
    """
    if moments.transposed is None:
        return moments
    ways = (moments, moments.transposed)
    Z = [way.Z / max(way.samples, 1) for way in ways]
    E = [way.E / max(way.positions, 1) for way in ways]
    sizes = [max(float(np.linalg.norm(z)), TINY) for z in Z]
    Z, E = (
        [z / size for z, size in zip(Z, sizes, strict=True)],
        [e * size for e, size in zip(E, sizes, strict=True)],
    )
    of_z, of_e = (np.array([[np.vdot(a, b) for b in moments] for a in moments]) for moments in (Z, E))
    values, vectors = np.linalg.eig(of_e @ of_z)
    u = np.abs(vectors[:, int(np.argmax(values.real))].real)
    v = of_z @ u
    return SideMoments(u[0] * Z[0] + u[1] * Z[1], v[0] * E[0] + v[1] * E[1], 1, 1)


def _basis(rooted: Array, through: Array, side: SideName, gram: Array, rank: int, shrink: float) -> Basis:
    root = linalg.lower_root(rooted + max(shrink * float(rooted.trace()) / len(rooted), TINY) * np.eye(len(rooted)))
    through = through + shrink * float(through.trace()) / max(float(gram.trace()), TINY) * gram
    _, vectors = linalg.eigen(root.T @ through @ root)
    vectors = vectors[:, :rank]
    onto, back = root @ vectors, linalg.solve_upper(root.T, vectors)
    return Basis(side, onto, back, shrink) if side == "out" else Basis(side, back, onto, shrink)


def kronecker(basis: Basis, moments: SideMoments) -> Array:
    """Return (r + 1,) the loss ½ tr(B δ A δᵀ) of every rank, on any moments; never rising with the rank.

    A counts per sample, B per position (docs/method.md, 3.1). Losses of groups add, and of both ways to read a weight.
    """
    if moments.transposed is not None:
        return kronecker(basis, replace(moments, transposed=None)) + kronecker(basis, moments.transposed)
    if moments.Z.ndim == 3:
        return np.asarray(np.sum([kronecker(basis.group(g), moments.group(g)) for g in range(basis.groups)], axis=0))
    reading = basis.read.T @ (moments.Z / max(moments.samples, 1)) @ basis.read
    writing = basis.write.T @ (moments.E / max(moments.positions, 1)) @ basis.write
    product = (reading * writing)[::-1, ::-1]
    # what a block from the small end sums to: its last row and column are new each time
    steps = np.tril(product).sum(1) + np.triu(product).sum(0) - product.diagonal()
    losses = np.zeros(len(product) + 1)
    losses[1:] = 0.5 * np.maximum.accumulate(np.maximum(np.cumsum(steps), 0.0))
    return losses[::-1].copy()


def project(basis: Basis, z: Array, e: Array, samples: int) -> Array:
    """Return (samples, r) v_si = Σ_t (read_i · z_t)(write_i · e_t); z, e: (samples · positions, d), in order."""
    with np.errstate(all="ignore"):  # what overflows is seen in the sums
        if basis.groups > 1:
            product = _by_group(z, e, basis)
        else:
            product = (z @ basis.read.astype(z.dtype, copy=False)) * (e @ basis.write.astype(e.dtype, copy=False))
        return np.asarray(product.reshape(samples, -1, product.shape[-1]).sum(1, dtype=np.float64))


def _by_group(z: Array, e: Array, basis: Basis) -> Array:
    """Return (positions, r) Σ over groups of (read_i · z)(write_i · e)."""
    reading, writing = (
        np.swapaxes(rows.reshape(len(rows), basis.groups, -1), 0, 1) @ side.astype(rows.dtype, copy=False)
        for rows, side in zip((z, e), basis.blocks(), strict=True)
    )
    return np.asarray((reading * writing).sum(0))


def tails(projected: Array, ranks: Sequence[int]) -> Array:
    """Return (samples, len(ranks)) Σ_{i ≥ k} v_si, summed from the small end: −⟨Γ_s, δ_k⟩."""
    summed = np.cumsum(projected[:, ::-1], axis=1)[:, ::-1]
    summed = np.concatenate([summed, np.zeros((len(summed), 1))], axis=1)
    return summed[:, list(ranks)]


def rises(tail: Array) -> tuple[Array, Array]:
    """Return (ranks,) ½ E_s tail² and its standard error, of (samples, ranks) tails with sampled targets."""
    with np.errstate(all="ignore"):  # what is not finite shows in the result
        squares = 0.5 * tail**2
        count = len(squares)
        error = squares.std(0, ddof=1) / np.sqrt(count) if count > 1 else np.full(squares.shape[1], np.inf)
        return squares.mean(0), error
