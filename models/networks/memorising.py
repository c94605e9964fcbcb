"""Small networks without dropout, and training without augmentation that watches the accuracy on validation samples."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .transformer import PADDING, TextTransformer, VisionTransformer
from .vgg import vgg

State = dict[str, Tensor]
AT_ONCE = 500
"""Samples that are measured together."""
SORTED = 16
"""Batches of texts that are drawn together and sorted by length, so that few words are filled up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained: AdamW at a constant rate; `decay` shrinks matrices and kernels, by rate × decay a step.

    With no decay it is Adam.
    """

    epochs: int
    batch: int
    rate: float
    decay: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Inputs (n, …) and labels (n)."""

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watched:
    """A network as its last epoch left it, the accuracy after every epoch, and the weights of the first best one."""

    network: nn.Module
    accuracies: tuple[float, ...]
    best: State

    @property
    def best_epoch(self) -> int:
        """Return the first epoch, from 1, with the highest accuracy on validation samples."""
        return 1 + self.accuracies.index(max(self.accuracies))


def mlp(width: int = 1024) -> nn.Sequential:
    """Return a network of three Gemm, (batch, 1, 28, 28) to (batch, 10)."""
    layers: list[tuple[str, nn.Module]] = [("flat", nn.Flatten())]
    layers += [("first", nn.Linear(784, width)), ("relu1", nn.ReLU())]
    layers += [("second", nn.Linear(width, width)), ("relu2", nn.ReLU())]
    return nn.Sequential(OrderedDict([*layers, ("last", nn.Linear(width, 10))]))


def network_of(kind: str, words: int = 0, limit: int = 0) -> nn.Module:
    """Return an untrained network: `mlp`, `vgg`, `vit`, or `text` of so many words, texts cut off at `limit`."""
    makers: dict[str, Callable[[], nn.Module]] = {
        "mlp": mlp,
        "vgg": lambda: vgg(((8,), (16,), (32,), (64,)), head=512, dropout=0.0),
        "vit": lambda: VisionTransformer(width=128, depth=2, patch=14),
        "text": lambda: TextTransformer(words, limit, width=64, dropout=0.0),
    }
    return makers[kind]()


def watch(make: Callable[[], nn.Module], training: Samples, validation: Samples, recipe: Recipe) -> Watched:
    """Return the network that `make` builds, trained, in eval mode. Deterministic with one number of threads."""
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True)
    network = make()
    matrices = [each for each in network.parameters() if each.ndim > 1]
    others = [each for each in network.parameters() if each.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate)
    accuracies: list[float] = []
    best: State = {}
    for _ in range(recipe.epochs):
        _epoch(network, optimizer, training, recipe.batch)
        reached = accuracy(network, validation)
        if not accuracies or reached > max(accuracies):
            best = {name: each.clone() for name, each in network.state_dict().items()}
        accuracies.append(reached)
    return Watched(network=network.eval(), accuracies=tuple(accuracies), best=best)


def _epoch(network: nn.Module, optimizer: torch.optim.Optimizer, training: Samples, batch: int) -> None:
    network.train()
    for chosen in _batches(training.inputs, batch):
        outputs = network(_shortened(training.inputs[chosen]))
        loss = nn.functional.cross_entropy(outputs, training.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _batches(inputs: Tensor, batch: int) -> list[Tensor]:
    """Return which samples each step learns; in random order, but those of a batch of texts have about one length."""
    order = torch.randperm(len(inputs))
    if inputs.ndim > 2:
        return list(order.split(batch))
    lengths = _lengths(inputs)
    parts = order.split(SORTED * batch)
    batches = torch.cat([part[lengths[part].argsort(stable=True)] for part in parts]).split(batch)
    return [batches[i] for i in torch.randperm(len(batches)).tolist()]


def accuracy(network: nn.Module, samples: Samples) -> float:
    """Return the share of samples whose label the network gives, in eval mode."""
    network.eval()
    inputs, labels = samples.inputs, samples.labels
    if inputs.ndim == 2:
        order = _lengths(inputs).argsort(stable=True)
        inputs, labels = inputs[order], labels[order]
    with torch.no_grad():
        found = [network(_shortened(each)).argmax(1) for each in inputs.split(AT_ONCE)]
    return float((torch.cat(found) == labels).double().mean())


def _lengths(texts: Tensor) -> Tensor:
    return (texts != PADDING).sum(1)


def _shortened(inputs: Tensor) -> Tensor:
    """Return texts without what fills all of them up: a network makes nothing of it, but takes its time."""
    return inputs if inputs.ndim > 2 else inputs[:, : max(1, int(_lengths(inputs).max()))]
