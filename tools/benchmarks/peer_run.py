"""`python peer_run.py TOOL SOURCE.onnx TARGET.onnx SAMPLES.npz`: one call of a peer, in its own environment.

Nothing of this repository is imported here, and of each tool no more than it needs. A peer that fails ends with its own
exception. SAMPLES.npz holds arrays named `<number>/<input>`, one sample a number.
"""

from __future__ import annotations

import os
import sys
from typing import Any

INT4_OPSET = 21


def onnxslim(source: str, target: str, samples: str) -> None:
    import onnxslim

    onnxslim.slim(source, target)


def onnxsim(source: str, target: str, samples: str) -> None:
    import onnx
    import onnxsim

    made, holds = onnxsim.simplify(source)
    if not holds:
        raise SystemExit("onnxsim: its own check of the simplified model failed")
    onnx.save(made, target)


def onnx_shrink_ray(source: str, target: str, samples: str) -> None:
    import onnx
    from onnx_shrink_ray.shrink import quantize_weights

    onnx.save(quantize_weights(onnx.load(source)), target)


def nncf(source: str, target: str, samples: str) -> None:
    import nncf
    import onnx

    model, feeds = onnx.load(source), _feeds(samples)
    attention = any(node.op_type == "Softmax" for node in model.graph.node)
    kind = nncf.ModelType.TRANSFORMER if attention else None
    onnx.save(nncf.quantize(model, nncf.Dataset(feeds), model_type=kind, subset_size=len(feeds)), target)


def onnxruntime_static(source: str, target: str, samples: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        feeds = iter(_feeds(samples))

        def get_next(self) -> Any:
            return next(self.feeds, None)

    prepared = f"{target}.prepared"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    try:
        quantize_static(prepared, target, Reader())
    finally:
        os.remove(prepared)


def onnxruntime_dynamic(source: str, target: str, samples: str) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, target)


def onnxruntime_int4(source: str, target: str, samples: str) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    settings = DefaultWeightOnlyQuantConfig(
        block_size=32, is_symmetric=True, accuracy_level=4, op_types_to_quantize=("MatMul", "Gather")
    )
    model = onnx.load(source)
    if next(entry.version for entry in model.opset_import if not entry.domain) < INT4_OPSET:
        model = onnx.version_converter.convert_version(model, INT4_OPSET)  # it says 21 and changes nothing else
    work = MatMulNBitsQuantizer(model, algo_config=settings)
    work.process()
    work.model.save_model_to_file(target, False)


def _feeds(path: str) -> list[dict[str, Any]]:
    import numpy as np

    feeds: dict[str, dict[str, Any]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            number, _, name = key.partition("/")
            feeds.setdefault(number, {})[name] = arrays[key]
    return list(feeds.values())


if __name__ == "__main__":
    globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:])
