"""ResNeXt-50 32×4d (Xie et al., arXiv 1611.05431) for images of 28 × 28."""

from __future__ import annotations

from torch import Tensor, nn

GROUPS, GROUP_WIDTH, EXPANSION = 32, 4, 4
DEPTHS = (3, 4, 6, 3)
STRIDES = (2, 2, 2, 1)


def normalised(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution that keeps the size but for its stride, and its batch norm."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class Bottleneck(nn.Module):
    """1×1, grouped 3×3, 1×1, around which the input passes; `width` is that of a ResNet of the same depth."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        inner, outputs = width * GROUP_WIDTH * GROUPS // 64, width * EXPANSION
        self.body = nn.Sequential(
            *normalised(inputs, inner, 1),
            nn.ReLU(inplace=True),
            *normalised(inner, inner, 3, stride=stride, groups=GROUPS),
            nn.ReLU(inplace=True),
            *normalised(inner, outputs, 1),
        )
        nn.init.zeros_(self.body[-1].weight)  # every block begins as its shortcut (Goyal et al., arXiv 1706.02677)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*normalised(inputs, outputs, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 4 width, rows / stride, columns / stride)."""
        return nn.functional.relu(self.body(x) + self.shortcut(x))


class SpatialMean(nn.Module):
    """The mean over rows and columns: one node, where adaptive pooling and a flattening would be two."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, channels)."""
        return x.mean((2, 3))


def resnext(depths: tuple[int, ...] = DEPTHS, classes: int = 10) -> nn.Sequential:
    """Return the network, (batch, 1, 28, 28) to (batch, classes): a 3×3 stride-2 stem, no pooling behind it."""
    layers = [*normalised(1, 64, 3, stride=2), nn.ReLU(inplace=True)]
    inputs = 64
    for stage, (depth, stride) in enumerate(zip(depths, STRIDES, strict=False)):
        for block in range(depth):
            layers.append(Bottleneck(inputs, 64 << stage, stride if block == 0 else 1))
            inputs = (64 << stage) * EXPANSION
    network = nn.Sequential(*layers, SpatialMean(), nn.Linear(inputs, classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
