"""Train and export the networks of the bench part `beyond`: small ones that remember labels, and their rivals.

    pip install -e '.[zoo]' && apt-get install dataset-fashion-mnist
    python tools/train_beyond.py --out beyond --kinds mlp --seeds 0
    python tools/train_beyond.py --out beyond --kinds mlp --seeds 0 --decay

Half a minute (text) to a minute and a half of one core a network, and as long for every decay with `--decay`. What is
there is not trained again, so that the same command goes on where it was interrupted. `models/beyond.py` says what is
learned.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from models.beyond import KINDS, SETTINGS, Job
from models.fetch import RecipeError


def names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what reads a list with commas of known names."""

    def names(given: str) -> list[str]:
        chosen = given.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    return names


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the directory of all networks and sets")
    parser.add_argument("--kinds", type=names_of(KINDS), default=",".join(KINDS))
    parser.add_argument("--settings", type=names_of(SETTINGS), default=",".join(SETTINGS))
    parser.add_argument("--seeds", type=lambda given: [int(each) for each in given.split(",")], default="0,1,2")
    parser.add_argument("--decay", action="store_true", help="train them with weight decay, too")
    parser.add_argument("--threads", type=int, default=1, help="the weights depend on it")
    return parser.parse_args()


def main() -> None:
    """Train what is not there yet: seed after seed, kind after kind."""
    given = arguments()
    torch.set_num_threads(given.threads)
    jobs = [
        Job(kind=kind, setting=setting, seed=seed, out=given.out)
        for seed in given.seeds
        for kind in given.kinds
        for setting in given.settings
    ]
    try:
        for job in jobs:
            if given.decay:
                job.decayed()
            else:
                job.original()
    except RecipeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
