"""The loss whose rise is predicted: the divergence from the original's own outputs, or a labelled one.

`Objective` knows where its gradient enters the graph and draws it: sampled targets for the curvature (docs/method.md,
section 3.3: the true Fisher), real labels for the signed first-order term.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.collection.key import digest_of
from onnx_lowrank.errors import MetricError
from onnx_lowrank.gradient import Final, final_activation
from onnx_lowrank.gradient import losses as heads
from onnx_lowrank.gradient.gradient_runner import Seeds
from onnx_lowrank.metrics.class_scores import probable
from onnx_lowrank.metrics.divergence import DivergenceKind, OutputDivergence, Probing, probing
from onnx_lowrank.runtime.user_code import running
from onnx_lowrank.types import Array, Outputs

CustomLoss = Callable[[Mapping[str, Array], object], Mapping[str, Array]]
"""(the model's outputs of one sample, its label) -> gradient of its loss at some of these outputs."""
IGNORED = -100
"""The label of a position that does not count."""


@dataclass(frozen=True, slots=True)
class Objective:
    """probing: the divergence, output by output. finals: output -> where its gradient enters, and how it is read.

    targets: a sample's seeded tensor -> the original's value there, where the model at hand is no longer the original.
    """

    probing: Probing
    finals: Mapping[str, Final]
    probable: frozenset[str]
    seed: int = 0
    labels: Sequence[Any] | Array | None = None
    custom: CustomLoss | None = None
    signed: bool = False
    targets: Sequence[Mapping[str, Array]] | None = None

    @staticmethod
    def of(model: onnx.ModelProto, kind: DivergenceKind, reference: Outputs, seed: int) -> Objective:
        """Return the objective of a model, from its outputs on a few samples."""
        finals = {name: final_activation(model, name) for name in reference}
        sigmoids = [name for name, final in finals.items() if final.kind == "sigmoid"]
        probed = probing(kind, reference, sigmoids)
        seeded = {each.name for each in probed.outputs}
        usable = {n: f if f.kind != "none" and _fits(f, n, probed) else Final("none", n) for n, f in finals.items()}
        chances = frozenset(name for name in seeded if all(map(probable, reference[name])))
        return Objective(probed, {n: f for n, f in usable.items() if n in seeded}, chances, seed)

    @property
    def seeded(self) -> list[str]:
        """Tensors where the gradient enters."""
        own = list(self.finals) if self.custom is not None else []
        return list(dict.fromkeys([*(final.tensor for final in self.finals.values()), *own]))

    @property
    def identity(self) -> str:
        """Say which sampled gradients these are, as one line of JSON: two of the same draw the same."""
        parts = {
            "outputs": [asdict(output) for output in self.probing.outputs],
            "finals": {name: asdict(final) for name, final in self.finals.items()},
            "probable": sorted(self.probable),
            "seeded": self.seeded,
            "seed": self.seed,
            "targets": None if self.targets is None else digest_of(pair for t in self.targets for pair in t.items()),
        }
        return json.dumps(parts, sort_keys=True, separators=(",", ":"))

    @property
    def unit(self) -> str:
        """The name of what is measured."""
        kinds = {each.kind for each in self.probing.outputs}
        if kinds == {"kl"}:
            return "nats of KL"
        if kinds == {"bernoulli"}:
            return "nats of KL a bit"
        return "relative squared error" if kinds == {"relative-l2"} else "nats and relative squared error"

    def sampled(self, values: Mapping[str, Array], samples: int, numbers: Sequence[int]) -> Seeds:
        """Return gradients whose second moment is the curvature; a sample's are the same in whatever batch it is."""
        rngs = [np.random.default_rng([self.seed, number]) for number in numbers]
        seeds: dict[str, Array] = {}
        for each in self.probing.outputs:
            final = self.finals[each.name]
            value = values[final.tensor]
            whole, share = _whole(value, samples)
            added = whole.ndim - value.ndim
            aim = whole if self.targets is None else self._aim(final.tensor, numbers).reshape(whole.shape)
            if len(aim) % len(numbers):  # samples that cannot be told apart draw together
                drawn = self._draw(each, final, aim, added, np.random.default_rng([self.seed, *numbers]))
            else:
                rows = zip(np.split(aim, len(numbers)), rngs, strict=True)
                drawn = np.concatenate([self._draw(each, final, row, added, rng) for row, rng in rows])
            if self.targets is not None:
                drawn = drawn + self._pull(each, final, whole, aim, added)
            drawn = (drawn * math.sqrt(share)).astype(value.dtype).reshape(value.shape)
            seeds[final.tensor] = seeds[final.tensor] + drawn if final.tensor in seeds else drawn
        return seeds

    def _aim(self, tensor: str, numbers: Sequence[int]) -> Array:
        parts = [self.targets[i][tensor] for i in numbers] if self.targets is not None else []
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _draw(self, each: OutputDivergence, final: Final, value: Array, added: int, rng: np.random.Generator) -> Array:
        """Return the gradient of the sum at the values that targets are drawn from, divided by √M."""
        if each.kind == "bernoulli":
            return heads.sampled_binary(value, rng)
        if each.kind == "relative-l2":
            return heads.noise(value, each.variance, rng)
        axis = _class_axis(final, value, added)
        if final.kind == "none" and each.name in self.probable:
            return heads.sampled_of_probabilities(value, rng, axis=axis)
        return heads.sampled(value, rng, axis=axis)

    def _pull(self, each: OutputDivergence, final: Final, value: Array, aim: Array, added: int) -> Array:
        """Return the gradient of the divergence from `aim` itself, which is zero at the original, times √M."""
        axis = _class_axis(final, value, added)
        if each.kind == "bernoulli":
            mean, count = heads.binary_divergence(value, aim).gradient, math.prod(value.shape[1:])
        elif each.kind == "relative-l2":
            mean, count = heads.squared_error(value, aim, each.variance).gradient, math.prod(value.shape[1:])
        else:
            chances = final.kind == "none" and each.name in self.probable
            loss = heads.divergence_of_probabilities if chances else heads.divergence
            mean = loss(value, aim, axis=axis).gradient
            count = math.prod(value.shape[1:]) // value.shape[axis]
        return mean * math.sqrt(max(count, 1))

    @property
    def has_slope(self) -> bool:
        """Whether there is a loss whose gradient at the original is not zero: labels, or decisions taken for labels."""
        return self.custom is not None or any(each.kind == "kl" for each in self.probing.outputs)

    @property
    def class_scores(self) -> OutputDivergence | None:
        """The output whose cross-entropy with the labels is the labelled loss; None where no output is class scores."""
        return next((each for each in self.probing.outputs if each.kind == "kl"), None)

    def labelled(self, values: Mapping[str, Array], samples: int, numbers: Sequence[int]) -> Seeds:
        """Return the gradient of the labelled loss of every sample. Raises MetricError where labels do not fit.

        Without labels the original's own decisions stand for them.
        """
        labels = None if self.labels is None else [self.labels[i] for i in numbers]
        if self.custom is not None and labels is not None:
            return self._custom(values, samples, labels)
        return self._cross_entropy(values, samples, labels)

    def _cross_entropy(self, values: Mapping[str, Array], samples: int, labels: Sequence[object] | None) -> Seeds:
        each = self.class_scores
        if each is None:
            raise MetricError("the signed term needs class scores or a loss of your own: give --loss FILE.py:FUNCTION")
        final = self.finals[each.name]
        value = values[final.tensor]
        whole, share = _whole(value, samples)
        axis = _class_axis(final, whole, whole.ndim - value.ndim)
        shape = list(whole.shape)
        del shape[axis]
        target = whole.argmax(axis) if labels is None else _flat(labels)
        target = target.reshape(-1)
        if not _classes(target, int(np.prod(shape)), whole.shape[axis]):
            raise MetricError(
                f"the signed term needs a class number for every one of the {int(np.prod(shape))} decisions of output"
                f" {each.name!r}, the labels hold {target.size} {target.dtype} values: give --loss FILE.py:FUNCTION"
            )
        target = target.reshape(shape)
        chances = final.kind == "none" and each.name in self.probable
        loss = heads.cross_entropy_of_probabilities if chances else heads.cross_entropy
        gradient = share * loss(whole, target, axis=axis, ignore=IGNORED).gradient
        return {final.tensor: gradient.astype(value.dtype).reshape(value.shape)}

    def _custom(self, values: Mapping[str, Array], samples: int, labels: Sequence[object]) -> Seeds:
        parts: dict[str, list[Array]] = {}
        for index, label in enumerate(labels):
            width = samples // len(labels)
            rows = slice(index * width, (index + 1) * width)
            one = {n: v[rows] if v.ndim and v.shape[0] == samples else v for n, v in values.items()}
            for name, gradient in self._called(one, label).items():
                if name not in one or np.shape(gradient) != one[name].shape:
                    raise MetricError(
                        f"the loss gives a gradient of shape {np.shape(gradient)} at {name!r}; it must be one of the"
                        f" model's outputs, with its shape: {', '.join(one)}"
                    )
                parts.setdefault(name, []).append(np.asarray(gradient, one[name].dtype))
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def _called(self, outputs: Mapping[str, Array], label: object) -> Mapping[str, Array]:
        with running("the loss given", None, MetricError):
            given = self.custom(outputs, label) if self.custom is not None else None
        if not isinstance(given, Mapping):
            raise MetricError(f"the loss gives a {type(given).__name__}; it must give {{output: gradient}}")
        return given

    def divergence(self, reference: Mapping[str, Array], outputs: Mapping[str, Array], samples: int) -> float:
        """Return the summed divergence of the samples of one run."""
        return self.probing.summed(reference, outputs, samples)


def _whole(value: Array, samples: int) -> tuple[Array, int]:
    """Return a value with its samples first, and what the gradient of their mean counts.

    A leading axis that is a multiple of them is taken apart. A value that cannot be is taken as one: the sum of the
    samples' losses is its own × samples.
    """
    if value.ndim and value.shape[0] == samples:
        return value, 1
    if value.ndim and value.shape[0] and value.shape[0] % samples == 0:
        return value.reshape(samples, value.shape[0] // samples, *value.shape[1:]), 1
    return value.reshape(1, *value.shape), samples


def _flat(labels: Sequence[object]) -> Array:
    """Return the labels of several samples in one row; of no number type where they are no arrays."""
    try:
        return np.concatenate([np.asarray(label).reshape(-1) for label in labels])
    except ValueError:  # a ragged label
        return np.full(len(labels), None, dtype=object)


def _classes(target: Array, count: int, classes: int) -> bool:
    """Whether these are `count` class numbers, or marks of positions that do not count."""
    if target.dtype.kind not in "iu" or target.size != count:
        return False
    used = target[target != IGNORED]
    return not used.size or bool(used.min() >= 0 and used.max() < classes)


def _class_axis(final: Final, value: Array, added: int) -> int:
    """Return the axis of the classes; `added` leading axes are not the model's."""
    if final.kind != "none":
        return final.axis + added if final.axis >= 0 else final.axis
    return 1 + added if value.ndim - added >= 4 else -1


def _fits(final: Final, name: str, probed: Probing) -> bool:
    """Whether seeding before the final activation is seeding of this divergence."""
    kind = {each.name: each.kind for each in probed.outputs}.get(name)
    return (kind == "kl" and final.kind in ("softmax", "log_softmax")) or (
        kind == "bernoulli" and final.kind == "sigmoid"
    )
