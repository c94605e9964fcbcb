"""FusedConv and FusedGemm of com.microsoft: the product, then an addition, then an activation."""

from __future__ import annotations

from onnx import NodeProto

from onnx_lowrank.gradient.emitter import NoRule, Value
from onnx_lowrank.gradient.rule_context import RuleContext

PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Elu": ("alpha",)}
"""What `activation_params`, or `activation_alpha` and `activation_beta`, mean."""
PLAIN = ("Relu", "Tanh", "Sigmoid", "Softplus", "Softsign", "HardSwish")


def fused_conv(context: RuleContext) -> list[Value | None]:
    """Conv, plus the fourth input where it is given, then the activation."""
    y = _without_activation(context, "Conv", 3)
    if context.has(3):
        y = y + context.x(3)
    return [_activated(context, y, context.numbers("activation_params") or [])]


def fused_gemm(context: RuleContext) -> list[Value | None]:
    """Gemm, then the activation."""
    y = _without_activation(context, "Gemm", 3)
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    return [_activated(context, y, [context.number(name, 0.0) for name in names])]


def _without_activation(context: RuleContext, op_type: str, inputs: int) -> Value:
    emit, node = context.emit, context.node
    plain = NodeProto(op_type=op_type, name=emit.fresh(op_type), output=[emit.fresh(op_type)])
    plain.input.extend(node.input[:inputs])
    plain.attribute.extend(a for a in node.attribute if not a.name.startswith("activation"))
    emit.nodes.append(plain)
    return Value(emit, plain.output[0], context.x().elem)


def _activated(context: RuleContext, y: Value, parameters: list[float]) -> Value:
    kind = context.text("activation", "")
    if not kind:
        return y
    if kind in PLAIN:
        return y.apply(kind)
    if kind == "Clip":
        low, high = (context.emit.scalar(parameters[i], y.elem) for i in (0, 1))
        return context.emit.op("Clip", y, low, high)
    if kind not in PARAMETERS:
        raise NoRule(f"activation {kind!r}")
    return y.apply(kind, **dict(zip(PARAMETERS[kind], parameters, strict=False)))
