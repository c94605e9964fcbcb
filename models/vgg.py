"""A VGG-style classifier of Fashion-MNIST: 5.0 M parameters, seven 3×3 Conv (19 %) and three wide Gemm (80 %).

Trained here, resumably: about a minute of one core an epoch. Data: see `fashion_mnist`.
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
    from .networks.vgg import vgg

    recipe = Recipe(epochs=6, rate=0.05)
    course = train(vgg, training_images(shifted_and_flipped), recipe, checkpoint("vgg"))
    return exported_classifier(course.network, course.about())


def samples() -> Splits:
    """Return the labelled sets of Fashion-MNIST."""
    return fashion_mnist.samples()
