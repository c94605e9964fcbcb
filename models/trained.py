"""Image classifiers that the zoo trains itself, on Fashion-MNIST: checkpoints in the cache, then an export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from .export import export
from .fashion_mnist import DEBIAN_FOLDER, INPUT, OUTPUT, TRAINED_ON, training_part, unit_batch
from .fetch import RecipeError, cache

if TYPE_CHECKING:
    from .networks.training import Augment, Data

TOLERANCE = 1e-4
"""Of logits, exported against trained: two float32 implementations of one network. Relative where logits exceed 1."""


def checkpoint(name: str) -> Path:
    """Return where a network's checkpoint is kept."""
    return cache() / "trained" / f"{name}.pt"


def training_images(augment: Augment, folder: Path = DEBIAN_FOLDER, most: int = TRAINED_ON) -> Data:
    """Return at most `most` of the images that training may see. Raises DatasetError."""
    import torch

    from .networks.training import Data

    images = training_part(folder)[:most]
    labels = torch.from_numpy(images.labels.astype(np.int64))
    return Data(inputs=torch.from_numpy(unit_batch(images.images)), labels=labels, augment=augment)


def exported_classifier(network: Any, about: Mapping[str, Any]) -> onnx.ModelProto:
    """Return a trained network of images (batch, 1, 28, 28) as ONNX, with `about`, how it was trained, inside."""
    import torch

    example = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    axes = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
    return exported(network, about, example, name=INPUT, axes=axes)


def exported(
    network: Any, about: Mapping[str, Any], example: Any, *, name: str, axes: Mapping[str, Mapping[int, str]]
) -> onnx.ModelProto:
    """Return a trained network as ONNX. Raises RecipeError where onnxruntime computes something else than torch."""
    import torch

    network = network.eval().to(memory_format=torch.contiguous_format)
    model = export(network, (example[:1],), inputs=(name,), output=OUTPUT, axes=axes)
    onnx.helper.set_model_props(model, {"training": json.dumps(dict(about))})
    with torch.no_grad():
        expected = network(example).numpy()
    off = np.abs(_run(model, name, example.numpy()) - expected).max()
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not off <= allowed:
        raise RecipeError(f"the exported network is off by {off:.2g} from torch's, more than {allowed:.2g}")
    return model


def _run(model: onnx.ModelProto, name: str, batch: Any) -> Any:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], {name: batch})[0]
