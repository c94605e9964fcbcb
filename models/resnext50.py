"""ResNeXt-50 32×4d on Fashion-MNIST: 23.0 M parameters, 53 Conv, a third of their weights grouped.

The paper's own example (arXiv 2412.06867) at the size of 28 × 28: a 3×3 stride-2 stem, no pooling behind it, strides 2,
2, 2, 1. Training takes about two hours of two cores; `tools/train_resnext50.py` has its switches. A network that is
already there is taken with `python -m models resnext50 --model FILE`. Data: see `fashion_mnist`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from . import fashion_mnist
from .splits import Splits
from .trained import checkpoint, exported_classifier, training_images

if TYPE_CHECKING:
    from .networks.training import Recipe

SOURCES = (fashion_mnist.SOURCE,)


def recipe(epochs: int = 7, batch: int = 128, seed: int = 2024) -> Recipe:
    """Return how it is trained."""
    from .networks.training import Recipe

    return Recipe(epochs=epochs, batch=batch, rate=0.1, smoothing=0.1, seed=seed)


def trained(
    chosen: Recipe,
    saved: Path,
    *,
    data: Path = fashion_mnist.DEBIAN_FOLDER,
    most: int = fashion_mnist.TRAINED_ON,
    until: int | None = None,
) -> onnx.ModelProto:
    """Train (or go on with) the network, until an epoch or to the end, and return it. Raises RecipeError."""
    from .networks.augment import shifted_flipped_erased
    from .networks.resnext import resnext
    from .networks.training import train

    images = training_images(shifted_flipped_erased, data, most)
    course = train(resnext, images, chosen, saved, until=until)
    return exported_classifier(course.network, course.about())


def build() -> onnx.ModelProto:
    """Train (or go on with) the network and return it. Raises RecipeError."""
    return trained(recipe(), checkpoint("resnext50"))


def samples() -> Splits:
    """Return the labelled sets of Fashion-MNIST."""
    return fashion_mnist.samples()
