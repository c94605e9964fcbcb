"""What viewers of graphs show of a changed weight, at the last node of its chain: metadata of nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx

from onnx_lowrank.types import OWN, Choice, Form, Site

METADATA_KEY = "onnx_lowrank"
ORDER = ".order"
"""What tensors are called that say in which order channels are."""


def mark(nodes: Sequence[onnx.NodeProto], choice: Choice, site: Site) -> None:
    """Write the form, the share of numbers kept, and the predicted rise of the loss, where there are these.

    At the last of the nodes that a weight became which reads a factor: what only orders channels may go.
    """
    option = choice.option
    start = f"{site.weight}."
    reading = [n for n in nodes if any(i.startswith(start) and not i.endswith(ORDER) for i in n.input)]
    node = (reading or nodes)[-1]
    said = {"form": told(option.form)}
    if option.cost.parameters:
        said["kept"] = f"{option.cost.parameters / site.parameters:.3g}"
    if option.loss and math.isfinite(option.loss):
        said["loss"] = f"{option.loss:.2g}"
    for key, value in said.items():
        node.metadata_props.add(key=f"{METADATA_KEY}.{key}", value=value)


def told(form: Form) -> str:
    """Return scheme, ranks and, where it is another, the number format: 'svd 64 int8'."""
    ranks, storage = "x".join(map(str, form.ranks)), "" if form.storage == OWN else form.storage
    return " ".join(part for part in (form.scheme, ranks, storage) if part)
