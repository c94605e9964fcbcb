"""Train, export and store the embedded demo: a small Fashion-MNIST network and its samples.

    pip install -e '.[zoo]' && apt-get install dataset-fashion-mnist
    python tools/train_demo.py

It writes `demo.onnx` (input `image`, float32 [batch, 1, 28, 28] in 0…1; output `logits`,
[batch, 10]) and `samples.npz`, whose entry `about` says what its arrays are.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from models.export import export
from models.fashion_mnist import DEBIAN_FOLDER, LICENCE, TRAINED_ON, DatasetError, Labelled, labelled, unit_batch
from models.networks.augment import shifted_and_flipped
from models.networks.training import Recipe, train
from models.networks.vgg import conv_block
from models.trained import training_images

DEMO_FOLDER = Path(__file__).resolve().parent.parent / "onnx_lowrank" / "demo"
SIZES = {"calibration": 512, "validation": 2_000, "test": 2_000}
ABOUT = (
    "Fashion-MNIST, {licence}. NAME_images: uint8 [n, 28, 28]; the model's input is float32 "
    "images[:, None] / 255. NAME_labels: uint8 [n], 0 T-shirt/top, 1 Trouser, 2 Pullover, 3 Dress, "
    "4 Coat, 5 Sandal, 6 Shirt, 7 Sneaker, 8 Bag, 9 Ankle boot. NAME_indices: where the images "
    "stand in their file. calibration and validation: disjoint random draws from the last 10,000 "
    "of the 60,000 training images, which the demo model was not trained on; test: a random draw "
    "from the 10,000 test images. Drawn with numpy.random.default_rng({seed})."
)


def demo_network() -> nn.Sequential:
    """Return the untrained network: four convolutions and a head of two wide layers."""
    return nn.Sequential(
        conv_block(1, 32, stride=1),
        conv_block(32, 64, stride=2),
        conv_block(64, 128, stride=2),
        conv_block(128, 128, stride=1),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(128 * 3 * 3, 320),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(320, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def exported(network: nn.Module) -> onnx.ModelProto:
    """Return the network as ONNX, in evaluation mode, with a dynamic batch."""
    network.to(memory_format=torch.contiguous_format)
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    model = export(network, (torch.zeros(1, 1, 28, 28),), inputs=("image",), output="logits", axes=axes)
    onnx.checker.check_model(model, full_check=True)
    return model


def correct_count(model: onnx.ModelProto, data: Labelled) -> int:
    """Return how many images onnxruntime's CPU provider classifies right."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    correct = 0
    for start in range(0, len(data), 500):
        part = data[start : start + 500]
        logits = np.asarray(session.run(["logits"], {"image": unit_batch(part.images)})[0])
        correct += int((logits.argmax(axis=1) == part.labels).sum())
    return correct


def accuracy_text(correct: int, count: int) -> str:
    """Return the share of `correct` with its 95 % interval (Wilson's score interval, z = 1.96)."""
    share, z = correct / count, 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    spread = math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half = z * spread / (1 + z * z / count)
    return f"{share:.4f} (95 % {centre - half:.4f} to {centre + half:.4f}, n = {count})"


def drawn_samples(training: Labelled, test: Labelled, seed: int) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of samples.npz: three disjoint draws, what they are, and where from."""
    rng = np.random.default_rng(seed)
    unseen = rng.permutation(np.arange(TRAINED_ON, len(training)))
    split = SIZES["calibration"], SIZES["calibration"] + SIZES["validation"]
    draws = {
        "calibration": (training, unseen[: split[0]]),
        "validation": (training, unseen[split[0] : split[1]]),
        "test": (test, rng.permutation(len(test))[: SIZES["test"]]),
    }
    about = np.array(ABOUT.format(licence=LICENCE, seed=seed))
    arrays: dict[str, NDArray[np.generic]] = {"about": about}
    for name, (source, indices) in draws.items():
        arrays[f"{name}_images"] = source.images[indices]
        arrays[f"{name}_labels"] = source.labels[indices]
        arrays[f"{name}_indices"] = indices.astype(np.uint16)
    return arrays


def write(model: onnx.ModelProto, samples: dict[str, NDArray[np.generic]], folder: Path) -> None:
    """Write both files; numpy dates zip entries 1980, so the same arrays give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "demo.onnx")
    np.savez_compressed(folder / "samples.npz", allow_pickle=False, **samples)
    for name in ("demo.onnx", "samples.npz"):
        print(f"{folder / name}: {(folder / name).stat().st_size / 1e6:.2f} MB")


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description="Train and export the Fashion-MNIST demo.")
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder of the idx files")
    parser.add_argument("--out", type=Path, default=DEMO_FOLDER, help="where the two files go")
    parser.add_argument("--epochs", type=int, default=14, help="about half a minute each")
    parser.add_argument("--seed", type=int, default=2024, help="of weights, order and draws")
    return parser.parse_args()


def main() -> None:
    """Read, train, export, score and write."""
    options = arguments()
    try:
        training, test = labelled(options.data, "train"), labelled(options.data, "t10k")
    except DatasetError as error:
        sys.exit(f"error: {error}")
    recipe = Recipe(epochs=options.epochs, seed=options.seed)
    network = train(demo_network, training_images(shifted_and_flipped, options.data), recipe, checkpoint=None).network
    model = exported(network)
    parameters = sum(math.prod(weight.dims) for weight in model.graph.initializer)
    print(f"{parameters:,} parameters, batch norms folded")
    unseen = training[TRAINED_ON:]
    print("unseen training images:", accuracy_text(correct_count(model, unseen), len(unseen)))
    accuracy = accuracy_text(correct_count(model, test), len(test))
    print("test accuracy:", accuracy)
    properties = {
        "name": "onnx-lowrank demo: Fashion-MNIST classifier",
        "dataset": f"Fashion-MNIST, the first {TRAINED_ON:,} training images",
        "licence": f"data set: {LICENCE}",
        "test_accuracy": accuracy,
    }
    onnx.helper.set_model_props(model, properties)
    write(model, drawn_samples(training, test, options.seed), options.out)


if __name__ == "__main__":
    main()
