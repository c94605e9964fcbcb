"""Networks that learned too much, and what else is done about it: is a smaller network better than such a one?

Small networks are trained on labels of which a share is random, or on few samples, until they remember labels and not
only what classes have in common; without augmentation and dropout, which would keep them from it. Beside each stand
its rivals, chosen on the validation labels that truncation is chosen on: the weights of the epoch that was best on
them (`early`), and the best of several weight decays, each trained to the last epoch (`decay`).

Random labels: of n samples, the first round(share × n) of a random order get labels drawn uniformly over all classes,
the right one among them. So with 10 classes 20 % random labels are 18 % wrong ones, with 2 classes 10 %. A seed decides
which samples are learned, which labels are random and what they become, the first weights, and the order. At one seed
settings are nested: the labels that are random at 10 % are among those of 20 %, the 2,000 samples are among the 5,000.

Only what is learned is noisy. Labels of calibration, validation and test are those of the data set, and the sets are
the same for all networks of one kind of data: of Fashion-MNIST 2,000, 5,000 and 10,000 (training draws from the first
50,000 training images, see `fashion_mnist`), of texts those of `text`. Words are numbered by all training texts, also
where a network learns a part of them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from . import fashion_mnist, text
from .__main__ import tool_versions
from .splits import Array, Split, Splits, write
from .trained import exported, exported_classifier

if TYPE_CHECKING:
    from torch import nn

    from .networks.memorising import Recipe, Samples, Watched

VALIDATED_ON = 5_000
"""Of the images that Fashion-MNIST's validation set has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A network's data and training. `decays` are what is tried; `epochs` are those of a full training set."""

    data: str
    epochs: int
    rate: float
    batch: int = 128
    decays: tuple[float, ...] = (0.3, 1.0, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is learned: at most so many samples, of which a share has random labels."""

    noise: float = 0.0
    most: int = 20_000


KINDS = {
    "mlp": Kind(data="fashion", epochs=25, rate=5e-4),
    "vgg": Kind(data="fashion", epochs=16, rate=1e-3),
    "vit": Kind(data="fashion", epochs=22, rate=3e-4),
    "text": Kind(data="text", epochs=6, rate=1e-3, batch=64, decays=(1.0, 3.0, 10.0, 30.0)),
}
SETTINGS = {
    "noise0": Setting(),
    "noise10": Setting(noise=0.1),
    "noise20": Setting(noise=0.2),
    "noise40": Setting(noise=0.4),
    "clean2000": Setting(most=2_000),
    "clean5000": Setting(most=5_000),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sets:
    """What may be learned, with the right labels, the sets that the product reads, and how many classes there are."""

    inputs: Array
    labels: Array
    splits: Splits
    classes: int
    words: int = 0
    sources: tuple[str, ...]


@cache
def sets_of(data: str) -> Sets:
    """Return the sets of a data set, `fashion` or `text`. Raises RecipeError."""
    return {"fashion": _images, "text": _texts}[data]()


def _images() -> Sets:
    splits, training = fashion_mnist.samples(), fashion_mnist.training_part()
    whole = splits.validation
    note = f"the first {VALIDATED_ON:,} of {len(whole):,}: {whole.note}"
    samples, labels = whole.samples[:VALIDATED_ON], np.asarray(whole.labels)[:VALIDATED_ON]
    validation = dataclasses.replace(whole, samples=samples, labels=labels, note=note)
    return Sets(
        inputs=fashion_mnist.unit_batch(training.images),
        labels=training.labels.astype(np.int64),
        splits=dataclasses.replace(splits, validation=validation),
        classes=10,
        sources=(fashion_mnist.SOURCE,),
    )


def _texts() -> Sets:
    training = text.by_purpose(text.collected())["training"]
    words = text.vocabulary(training)
    return Sets(
        inputs=text.filled_up(training, words),
        labels=np.array([int(each.positive) for each in training], np.int64),
        splits=text.samples(),
        classes=2,
        words=text.FIRST_WORD + len(words),
        sources=text.SOURCES,
    )


def learned_labels(labels: Array, classes: int, setting: Setting, seed: int) -> tuple[Array, Array, int]:
    """Return which samples are learned, with what labels, and how many of them, the first ones, have random labels."""
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(labels))
    drawn = generator.integers(0, classes, len(labels))
    chosen = chosen[: setting.most]
    count = round(setting.noise * len(chosen))
    return chosen, np.concatenate([drawn[:count], labels[chosen[count:]]]), count


def epochs_of(kind: Kind, samples: int, full: int) -> int:
    """Return more epochs for fewer samples, by the root of how many fewer: fewer steps all the same."""
    return round(kind.epochs * math.sqrt(full / samples))


def write_data(out: Path, data: str) -> None:
    """Write the sets of a data set, once, and `recipe.json`, which says what they are."""
    folder = out / data
    if (folder / "recipe.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    sets, found = sets_of(data), {}
    for name, split in sets.splits.named().items():
        path = write(split, folder / name)
        found[name] = {"file": path.name, "n": len(split), "shapes": split.shapes(), "note": split.note}
    about = {"name": data, "metric": sets.splits.validation.metric, "sources": list(sets.sources), "splits": found}
    _write(folder / "recipe.json", about | {"tools": tool_versions()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One network: its kind, its setting, its seed, and the directory of them all."""

    kind: str
    setting: str
    seed: int
    out: Path

    @property
    def folder(self) -> Path:
        """Return where the network and its rivals are."""
        return self.out / f"{self.kind}-{self.setting}-s{self.seed}"

    def original(self) -> None:
        """Train the network, unless it is there; write it and `early`, its best epoch."""
        if (self.folder / "recipe.json").exists():
            return
        write_data(self.out, KINDS[self.kind].data)
        self.folder.mkdir(parents=True, exist_ok=True)
        lesson = _Lesson.of(self)
        recipe = lesson.recipe()
        watched = lesson.watched(recipe)
        models = {"model": lesson.written(watched.network, "model", recipe.epochs, recipe)}
        watched.network.load_state_dict(watched.best)
        models["early"] = lesson.written(watched.network, "early", watched.best_epoch, recipe)
        about = {
            "name": self.folder.name,
            "kind": self.kind,
            "setting": self.setting,
            "seed": self.seed,
            "data": KINDS[self.kind].data,
            "learned": lesson.about(),
            "recipe": dataclasses.asdict(recipe) | {"threads": lesson.threads()},
            "tools": tool_versions(),
            "models": models,
            "validation_by_epoch": [round(each, 4) for each in watched.accuracies],
        }
        _write(self.folder / "recipe.json", about)

    def decayed(self) -> None:
        """Train the network with every weight decay, unless that is done; write the best on validation as `decay`."""
        self.original()
        about = json.loads((self.folder / "recipe.json").read_text("utf-8"))
        if "decay" in about["models"]:
            return
        lesson, tried = _Lesson.of(self), {}
        for decay in KINDS[self.kind].decays:
            recipe = lesson.recipe(decay)
            tried[decay] = recipe, lesson.watched(recipe)
        best = max(tried, key=lambda decay: tried[decay][1].accuracies[-1])
        recipe, watched = tried[best]
        entry = lesson.written(watched.network, "decay", recipe.epochs, recipe)
        validation = {f"{decay:g}": round(each.accuracies[-1], 4) for decay, (_, each) in tried.items()}
        about["models"]["decay"] = entry | {"decay": best, "validation_by_decay": validation}
        _write(self.folder / "recipe.json", about)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Lesson:
    """What a job learns, as tensors, and what it is measured on."""

    job: Job
    sets: Sets
    training: Samples
    random: int
    wrong: float
    epochs: int
    measured: Mapping[str, Samples]

    @classmethod
    def of(cls, job: Job) -> _Lesson:
        kind, setting = KINDS[job.kind], SETTINGS[job.setting]
        sets = sets_of(kind.data)
        chosen, labels, random = learned_labels(sets.labels, sets.classes, setting, job.seed)
        full = min(Setting().most, len(sets.labels))
        splits = {"validation": sets.splits.validation, "test": sets.splits.tests["test"]}
        return cls(
            job=job,
            sets=sets,
            training=_samples(sets.inputs[chosen], labels),
            random=random,
            wrong=float((labels != sets.labels[chosen]).mean()),
            epochs=epochs_of(kind, len(chosen), full),
            measured={name: _samples(_rows(split), split.labels) for name, split in splits.items()},
        )

    def recipe(self, decay: float = 0.0) -> Recipe:
        from .networks.memorising import Recipe

        kind = KINDS[self.job.kind]
        return Recipe(epochs=self.epochs, batch=kind.batch, rate=kind.rate, decay=decay, seed=self.job.seed)

    def about(self) -> dict[str, Any]:
        return {"samples": len(self.training.labels), "random_labels": self.random, "wrong_share": round(self.wrong, 4)}

    @staticmethod
    def threads() -> int:
        import torch

        return int(torch.get_num_threads())

    def watched(self, recipe: Recipe) -> Watched:
        from .networks.memorising import network_of, watch

        def make() -> nn.Module:
            return network_of(self.job.kind, self.sets.words, text.LIMIT)

        start, used = time.perf_counter(), time.process_time()
        found = watch(make, self.training, self.measured["validation"], recipe)
        took = f"{time.perf_counter() - start:.0f} s, {time.process_time() - used:.0f} s of CPU"
        print(f"{self.job.folder.name}, decay {recipe.decay:g}: {recipe.epochs} epochs in {took}", flush=True)
        return found

    def written(self, network: nn.Module, name: str, epoch: int, recipe: Recipe) -> dict[str, Any]:
        """Export a network, and return its epoch and its accuracies."""
        from .networks.memorising import Samples, accuracy

        first = Samples(inputs=self.training.inputs[: self.random], labels=self.training.labels[: self.random])
        found = {"training": self.training} | ({"random_labels": first} if self.random else {}) | dict(self.measured)
        accuracies = {key: round(accuracy(network, each), 4) for key, each in found.items()}
        print(f"{self.job.folder.name} {name}, epoch {epoch}: {accuracies}", flush=True)
        about = {"name": self.job.folder.name} | dataclasses.asdict(recipe) | {"epochs_done": epoch}
        onnx.save(self.exporter()(network, about), str(self.job.folder / f"{name}.onnx"))
        return {"epoch": epoch, "accuracy": accuracies}

    def exporter(self) -> Callable[[nn.Module, Mapping[str, Any]], onnx.ModelProto]:
        if not self.sets.words:
            return exported_classifier
        axes = {text.INPUT: {0: "batch", 1: "sequence"}, fashion_mnist.OUTPUT: {0: "batch"}}
        example = self.training.inputs[:3, : text.LIMIT // 2]
        return lambda network, about: exported(network, about, example, name=text.INPUT, axes=axes)


def _samples(inputs: Array, labels: Any) -> Samples:
    import torch

    from .networks.memorising import Samples

    return Samples(inputs=torch.from_numpy(inputs), labels=torch.from_numpy(np.asarray(labels)))


def _rows(split: Split) -> Array:
    """Return the samples of a set as one array, texts filled up."""
    ((name, _),) = split.samples[0].items()
    found = [sample[name] for sample in split.samples]
    if not split.ragged:
        return np.stack(found)
    return np.stack([np.pad(each[0], (0, text.LIMIT - each.size), constant_values=text.PADDING) for each in found])


def _write(path: Path, about: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all: a recipe says that its network is done."""
    part = path.with_name(f".{path.name}")
    part.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
