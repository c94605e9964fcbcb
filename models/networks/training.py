"""Training that can be interrupted: after every epoch a checkpoint, from which it goes on to the same weights."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..fetch import RecipeError

Augment = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained: epochs, batch, peak rate of a warmed-up cosine, and what seeds the random numbers."""

    epochs: int
    batch: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    rate: float = 0.1
    weight_decay: float = 5e-4
    smoothing: float = 0.0
    seed: int = 2024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Data:
    """What is learned from: inputs (n, …), labels (n), and what is done to a batch before it is learned."""

    inputs: Tensor
    labels: Tensor
    augment: Augment

    def digest(self) -> str:
        """Return a hash of the samples."""
        content = self.inputs.numpy().tobytes() + self.labels.numpy().tobytes()
        return hashlib.sha256(content).hexdigest()


@dataclass(slots=True, eq=False)
class Course:
    """A network on its way: everything that the next epoch depends on."""

    recipe: Recipe
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    epoch: int = 0

    def about(self) -> dict[str, Any]:
        """Return how the network was trained so far: the recipe, and how many of its epochs."""
        return dataclasses.asdict(self.recipe) | {"epochs_done": self.epoch}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": torch.get_rng_state(),
            "epoch": self.epoch,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        self.epoch = state["epoch"]


def train(
    make: Callable[[], nn.Module], data: Data, recipe: Recipe, checkpoint: Path | None, *, until: int | None = None
) -> Course:
    """Return the network that `make` builds, trained, in eval mode; `until` stops earlier, to be resumed.

    Deterministic on one machine with one number of threads. Raises RecipeError for a checkpoint of another recipe or
    of other data, and for one that is damaged.
    """
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True)
    course = _course(make().to(memory_format=torch.channels_last), data, recipe)
    about = dataclasses.asdict(recipe) | {"data": data.digest()}
    if checkpoint is not None and checkpoint.exists():
        course.restore(_read(checkpoint, about))
        print(f"resumed after epoch {course.epoch}: {checkpoint}", flush=True)
    while course.epoch < (recipe.epochs if until is None else min(until, recipe.epochs)):
        start, used = time.perf_counter(), time.process_time()
        loss = _epoch(course, data, recipe)
        course.epoch += 1
        if checkpoint is not None:
            _write(checkpoint, course.state() | {"about": about})
        took = f"{time.perf_counter() - start:.0f} s, {time.process_time() - used:.0f} s of CPU"
        print(f"epoch {course.epoch}/{recipe.epochs}: loss {loss:.4f} ({took})", flush=True)
    course.network.eval()
    return course


def _course(network: nn.Module, data: Data, recipe: Recipe) -> Course:
    steps = recipe.epochs * _steps(data, recipe)
    weights, decay = network.parameters(), recipe.weight_decay
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(weights, momentum=0.9, weight_decay=decay, nesterov=True)
    else:
        optimizer = torch.optim.AdamW(weights, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.rate, total_steps=steps, pct_start=0.2, cycle_momentum=False
    )
    return Course(recipe, network, optimizer, schedule)


def _steps(data: Data, recipe: Recipe) -> int:
    steps = len(data.labels) // recipe.batch
    if not steps:
        raise RecipeError(
            f"{len(data.labels)} samples do not fill a batch of {recipe.batch}: give more, or less a batch"
        )
    return steps


def _epoch(course: Course, data: Data, recipe: Recipe) -> float:
    """Learn every sample once, but for what does not fill a last batch, and return the mean loss."""
    course.network.train()
    steps, total = _steps(data, recipe), 0.0
    for chosen in torch.randperm(len(data.labels))[: steps * recipe.batch].split(recipe.batch):
        inputs = data.augment(data.inputs[chosen])
        if inputs.ndim == 4:
            inputs = inputs.to(memory_format=torch.channels_last)
        outputs = course.network(inputs)
        loss = nn.functional.cross_entropy(outputs, data.labels[chosen], label_smoothing=recipe.smoothing)
        course.optimizer.zero_grad()
        loss.backward()
        course.optimizer.step()
        course.schedule.step()
        total += loss.item()
    return total / steps


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _read(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's state. Raises RecipeError where it was made otherwise, or is none."""
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise RecipeError(f"{path} is no checkpoint, or a damaged one: delete it to train anew") from error
    other = [f"{key} {state['about'].get(key)}" for key, value in about.items() if state["about"].get(key) != value]
    if other:
        raise RecipeError(f"{path} was trained with {', '.join(other)}: delete it, or train as it was")
    return state
