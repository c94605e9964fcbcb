"""Train and export the zoo's ResNeXt-50 32×4d on Fashion-MNIST.

    pip install -e '.[zoo]' && apt-get install dataset-fashion-mnist
    python tools/train_resnext50.py --out resnext50.onnx
    python -m models resnext50 --model resnext50.onnx --out zoo/resnext50

About two hours on two cores. Interrupted, the same command goes on after the last whole epoch, to the same weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import onnx
import torch

from models.fashion_mnist import DEBIAN_FOLDER, TRAINED_ON
from models.fetch import RecipeError
from models.resnext50 import checkpoint, recipe, trained


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder of the idx files")
    parser.add_argument("--checkpoint", type=Path, help="file to go on from (in the cache)")
    parser.add_argument("--epochs", type=int, default=recipe().epochs)
    parser.add_argument("--until", type=int, help="stop after this epoch, to go on later")
    parser.add_argument("--batch", type=int, default=recipe().batch)
    parser.add_argument("--seed", type=int, default=recipe().seed, help="of weights, order and augmentation")
    parser.add_argument("--threads", type=int, default=0, help="0 (all cores); the weights depend on it")
    parser.add_argument("--images", type=int, default=TRAINED_ON, help="the first so many alone: a trial")
    return parser.parse_args()


def main() -> None:
    """Train, export and write."""
    given = arguments()
    if given.threads:
        torch.set_num_threads(given.threads)
    chosen = recipe(given.epochs, given.batch, given.seed)
    saved = given.checkpoint or checkpoint("resnext50")
    try:
        model = trained(chosen, saved, data=given.data, most=given.images, until=given.until)
    except RecipeError as error:
        sys.exit(f"error: {error}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, given.out)
    print(f"written: {given.out} ({given.out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
