"""Matrix products: MatMul, FusedMatMul, Gemm, Einsum."""

from __future__ import annotations

import string

from onnx_lowrank.gradient.emitter import NoRule, Value
from onnx_lowrank.gradient.rule_context import Gradients, RuleContext
from onnx_lowrank.gradient.tensor_ops import (
    expand_like,
    matmul,
    reshape,
    reshape_like,
    swap_last,
    unbroadcast,
    unsqueeze,
)


def matmul_rule(context: RuleContext) -> Gradients:
    """Y = A B: dA = g Bᵀ, dB = Aᵀ g, summed over broadcast batches."""
    a, b, g = context.x(0), context.x(1), context.g
    A, B = a, b
    if b.rank == 1:
        B, g = unsqueeze(b, [1]), unsqueeze(g, [g.rank])
    if a.rank == 1:
        A, g = unsqueeze(a, [0]), unsqueeze(g, [g.rank - 1])
    return [
        _back(_left(g, B), A, a) if context.wants(0) else None,
        _back(_right(A, g, B), B, b) if context.wants(1) else None,
    ]


def _left(g: Value, B: Value) -> Value:
    return matmul(g, swap_last(B))


def _right(A: Value, g: Value, B: Value) -> Value:
    """Aᵀ g; where B is one matrix for a batch of A, the batch is part of the sum."""
    if B.rank == 2 and A.rank > 2:
        k, n = A.emit.size(A, -1), A.emit.size(g, -1)
        rows = A.emit.ints([-1])
        A = reshape(A, A.emit.concat([rows, k]), (None, A.dims[-1] if A.dims else None))
        g = reshape(g, A.emit.concat([rows, n]), (None, g.dims[-1] if g.dims else None))
    return matmul(swap_last(A), g)


def _back(gradient: Value, widened: Value, operand: Value) -> Value:
    summed = unbroadcast(gradient, widened)
    return summed if widened is operand else reshape_like(summed, operand)


def fused_matmul(context: RuleContext) -> Gradients:
    """com.microsoft FusedMatMul: Y = α A' B', each transposed or not; its gradients are two more of them."""
    if context.integer("transBatchA", 0) or context.integer("transBatchB", 0):
        raise NoRule("transposes batches")
    a, b, g = context.x(0), context.x(1), context.g
    if min(a.rank, b.rank) < 2:
        raise NoRule("multiplies by a vector")
    ta, tb, alpha = context.integer("transA", 0), context.integer("transB", 0), context.number("alpha", 1.0)
    A, B = (swap_last(a) if ta else a), (swap_last(b) if tb else b)
    left = right = None
    if context.wants(0):
        left = unbroadcast(_left(g, B), A) * alpha
        left = swap_last(left.like(A)) if ta else left
    if context.wants(1):
        right = unbroadcast(_right(A, g, B), B) * alpha
        right = swap_last(right.like(B)) if tb else right
    return [left, right]


def gemm(context: RuleContext) -> Gradients:
    """Y = α A' B' + β C, as Gemm again."""
    a, b, g = context.x(0), context.x(1), context.g
    ta, tb, alpha = context.integer("transA", 0), context.integer("transB", 0), context.number("alpha", 1.0)
    left = right = bias = None
    if context.wants(0):
        left = _gemm(b, g, tb, 1, alpha, a) if ta else _gemm(g, b, 0, 1 - tb, alpha, a)
    if context.wants(1):
        right = _gemm(g, a, 1, ta, alpha, b) if tb else _gemm(a, g, 1 - ta, 0, alpha, b)
    if context.wants(2):
        bias = unbroadcast(g, context.x(2)) * context.number("beta", 1.0)
    return [left, right, bias]


def _gemm(a: Value, b: Value, ta: int, tb: int, alpha: float, like: Value) -> Value:
    return a.emit.op("Gemm", a, b, dims=like.dims, transA=ta, transB=tb, alpha=alpha)


def einsum(context: RuleContext) -> Gradients:
    """Each operand's gradient is an Einsum of g and the other operands, then broadcast over what was summed alone."""
    terms, output = _terms(context)
    operands = [context.x(i) for i in range(len(terms))]
    gradients: list[Value | None] = []
    for index, (term, operand) in enumerate(zip(terms, operands, strict=True)):
        if not context.wants(index):
            gradients.append(None)
            continue
        if len(set(term)) != len(term):
            raise NoRule("takes a diagonal")
        others = [(terms[i], operands[i]) for i in range(len(terms)) if i != index]
        gradients.append(_einsum_gradient(context.g, output, others, term, operand))
    return gradients


def _einsum_gradient(g: Value, output: str, others: list[tuple[str, Value]], term: str, operand: Value) -> Value:
    present = set(output).union(*(other for other, _ in others))
    found = "".join(letter for letter in term if letter in present)
    equation = ",".join([output, *(other for other, _ in others)]) + "->" + found
    sizes = dict(zip(term, operand.dims or (None,) * len(term), strict=True))
    part = g.emit.op("Einsum", g, *(value for _, value in others), dims=None, equation=equation)
    axes = [axis for axis, letter in enumerate(term) if letter not in present]
    widened = unsqueeze(part, axes)
    if axes:
        return expand_like(widened, operand)
    # A letter of extent 1 here may be longer in the others: it was broadcast.
    known = all(isinstance(size, int) and size != 1 for size in sizes.values())
    return widened.like(operand) if known else unbroadcast(widened, operand)


def _terms(context: RuleContext) -> tuple[list[str], str]:
    """The letters of every operand and of the output, the ellipsis spelled out in letters that are free."""
    equation = context.text("equation", "").replace(" ", "")
    left, arrow, output = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = sorted(letter for letter in set(left) - set(",.") if left.count(letter) == 1)
        output = ("..." if "..." in left else "") + "".join(letters)
    free = [letter for letter in string.ascii_letters if letter not in equation]
    hidden = [context.x(i).rank - len(term.replace("...", "")) for i, term in enumerate(terms) if "..." in term]
    names = "".join(free[: max(hidden, default=0)])
    spelled = [_spell(term, names, context.x(i).rank) for i, term in enumerate(terms)]
    return spelled, output.replace("...", names)


def _spell(term: str, names: str, rank: int) -> str:
    count = rank - len(term.replace("...", ""))
    return term.replace("...", names[len(names) - count :])
