"""A network in the style of VGG (Simonyan and Zisserman, arXiv 1409.1556) for images of 28 × 28."""

from __future__ import annotations

from torch import nn

STAGES = ((24,), (48, 48), (96, 96), (256, 256))
HEAD = 1152


def conv_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3×3 convolution, batch norm (the export folds it into the convolution) and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def vgg(
    stages: tuple[tuple[int, ...], ...] = STAGES, head: int = HEAD, classes: int = 10, dropout: float = 0.3
) -> nn.Sequential:
    """Return the network, (batch, 1, 28, 28) to (batch, classes): 3×3 convolutions, halving, and three wide layers."""
    layers: list[nn.Module] = []
    inputs, size = 1, 28
    for number, widths in enumerate(stages):
        if number:
            layers.append(nn.MaxPool2d(2))
            size //= 2
        for width in widths:
            layers.append(conv_block(inputs, width))
            inputs = width
    layers += [nn.Flatten()]
    for width_in, width_out in ((inputs * size * size, head), (head, head)):
        layers += [nn.Dropout(dropout), nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(head, classes))
