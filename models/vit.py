"""A ViT-style classifier of Fashion-MNIST: 3.2 M parameters, 24 MatMul on 16 patches of 7 × 7 pixels.

Trained here, resumably: about two minutes of one core an epoch. Data: see `fashion_mnist`.
"""

from __future__ import annotations

import onnx

from . import fashion_mnist
from .splits import Splits
from .trained import checkpoint, exported_classifier, training_images

SOURCES = (fashion_mnist.SOURCE,)


def build() -> onnx.ModelProto:
    """Train (or go on with) the network and return it. Raises RecipeError."""
    from .networks.augment import shifted_and_flipped
    from .networks.training import Recipe, train
    from .networks.transformer import VisionTransformer

    recipe = Recipe(epochs=5, optimizer="adamw", rate=1e-3, weight_decay=0.05)
    course = train(VisionTransformer, training_images(shifted_and_flipped), recipe, checkpoint("vit"))
    return exported_classifier(course.network, course.about())


def samples() -> Splits:
    """Return the labelled sets of Fashion-MNIST."""
    return fashion_mnist.samples()
