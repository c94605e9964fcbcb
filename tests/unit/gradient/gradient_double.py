"""A float32 model in float64, with a place to add something to any of its tensors."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from gradient_finite import Erf, Gelu
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


class Conv(OpRun):
    """In float64, one tap at a time (onnx's own is wrong for some groups, and slow for many)."""

    op_domain = ""

    def _run(self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, pads=None, strides=None):
        n = x.ndim - 2
        group, strides, dilations = group or 1, strides or [1] * n, dilations or [1] * n
        pads = pads if pads is not None else [0] * (2 * n)
        assert auto_pad in (None, "NOTSET", "VALID"), auto_pad
        x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)])
        extents = [d * (k - 1) + 1 for d, k in zip(dilations, w.shape[2:], strict=True)]
        sizes = [(x.shape[2 + i] - extents[i]) // strides[i] + 1 for i in range(n)]
        parts = x.reshape(x.shape[0], group, -1, *x.shape[2:])
        kernels = w.reshape(group, w.shape[0] // group, *w.shape[1:])
        y = np.zeros((x.shape[0], group, kernels.shape[1], int(np.prod(sizes))))
        for tap in itertools.product(*(range(k) for k in w.shape[2:])):
            cut = tuple(
                slice(t * d, t * d + (size - 1) * s + 1, s)
                for t, d, s, size in zip(tap, dilations, strides, sizes, strict=True)
            )
            window = parts[(slice(None), slice(None), slice(None), *cut)]
            y += np.matmul(kernels[(..., *tap)], window.reshape(*window.shape[:3], -1))
        y = y.reshape(x.shape[0], w.shape[0], *sizes)
        return (y if b is None else y + b.reshape(-1, *[1] * n),)


class ConvTranspose(OpRun):
    """In float64, one tap at a time (onnx's own is wrong for groups)."""

    op_domain = ""

    def _run(self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, output_padding=None,
             output_shape=None, pads=None, strides=None):  # fmt: skip
        n = x.ndim - 2
        group, strides, dilations = group or 1, strides or [1] * n, dilations or [1] * n
        pads, room = pads if pads is not None else [0] * (2 * n), output_padding or [0] * n
        assert auto_pad in (None, "NOTSET"), auto_pad
        assert b is None
        extents = [d * (k - 1) + 1 for d, k in zip(dilations, w.shape[2:], strict=True)]
        sizes = [(x.shape[2 + i] - 1) * strides[i] + extents[i] + room[i] for i in range(n)]
        kernels = w.reshape(group, w.shape[0] // group, *w.shape[1:])
        parts = x.reshape(x.shape[0], group, kernels.shape[1], -1)
        y = np.zeros((x.shape[0], group, w.shape[1], *sizes))
        for tap in itertools.product(*(range(k) for k in w.shape[2:])):
            put = tuple(
                slice(t * d, t * d + (size - 1) * s + 1, s)
                for t, d, s, size in zip(tap, dilations, strides, x.shape[2:], strict=True)
            )
            product = np.matmul(kernels[(..., *tap)].swapaxes(1, 2), parts)
            y[(slice(None), slice(None), slice(None), *put)] += product.reshape(*y.shape[:3], *x.shape[2:])
        cut = tuple(slice(pads[i], sizes[i] - pads[n + i]) for i in range(n))
        return (y.reshape(x.shape[0], -1, *sizes)[(slice(None), slice(None), *cut)],)


class BatchNormalization(OpRun):
    """At inference (onnx's own trains, before opset 14, where `momentum` is given)."""

    op_domain = ""

    def _run(self, x, scale, bias, mean, var, epsilon=1e-5, momentum=None, training_mode=None, spatial=None):
        s, b, m, v = (p.reshape(-1, *[1] * (x.ndim - 2)) for p in (scale, bias, mean, var))
        return ((x - m) / np.sqrt(v + epsilon) * s + b,)


class Double:
    """The model in float64; `run` adds `moves` to its tensors on the way."""

    def __init__(self, model: onnx.ModelProto, targets: Sequence[str], outputs: Sequence[str]) -> None:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        graph = copy.graph
        for tensor in graph.initializer:
            _widen(tensor)
        for values in (graph.input, graph.output):
            for value in values:
                if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                    value.type.tensor_type.elem_type = TensorProto.DOUBLE
        del graph.value_info[:]
        nodes = []
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.HasField("t"):
                    _widen(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.DOUBLE
            moved = [name for name in node.output if name in targets]
            nodes.append(node)
            for name in moved:
                node.output[list(node.output).index(name)] = f"{name}/still"
                nodes.append(helper.make_node("Add", [f"{name}/still", f"{name}/move"], [name]))
                graph.input.append(helper.make_tensor_value_info(f"{name}/move", TensorProto.DOUBLE, None))
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)
        self.targets, self.outputs = list(targets), list(outputs)
        self._evaluator = ReferenceEvaluator(copy, new_ops=[Conv, ConvTranspose, BatchNormalization, Erf, Gelu])

    def run(self, feed: Mapping[str, np.ndarray], moves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        wide = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in feed.items()}
        still = {f"{name}/move": np.asarray(moves.get(name, 0.0)) for name in self.targets}
        return dict(zip(self.outputs, self._evaluator.run(self.outputs, {**wide, **still}), strict=True))


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
