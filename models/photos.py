"""Photographs in Debian and PyPI packages, and the crops a classifier sees of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .fetch import debian, package
from .splits import Array

SKIMAGE = "scikit-image==0.26.0"
SKLEARN = "scikit-learn==1.9.1"
FOOLBOX = "foolbox==3.3.4"
STAMPS = "/usr/share/tuxpaint/stamps"
SIZE = 224
RESIZED = 256  # centre crop 0.875

LOMIRI = (
    "Bridge_by_Sander_Klootwijk",
    "Dragonfly_by_Bolly",
    "Kleiber_by_Lukas_Baubkus",
    "Picture_0B_by_freespace",
    "Picture_1A_by_freespace",
    "Wine_by_Jakkub_Mede",
    "aitzgorri_by_Aitzol_Berasategi",
    "free_by_Peter_Nerlich",
    "friends_by_Aitzol_Berasategi",
    "greentock_by_Peter_Nerlich",
    "life_by_Aitzol_Berasategi",
    "picosdeeuropa_by_Aitzol_Berasategi",
    "seeding_by_Clements_Engelhardt",
    "sunset_by_Aitzol_Berasategi",
)
MATE = "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood"
PLASMA = "BytheWater ColdRipple ColorfulCups EveningGlow FallenLeaf Grey Kite OneStandsOut Path"
PALAPELI = "castle-maintenon cincinnati-bridge citrus-fruits european-honey-bee"
DEBIAN = (
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "palapeli-data",
    "tuxpaint-stamps-default",
)


def photographs() -> list[Path]:
    """Return the files of the photographs, each showing another scene."""
    share = Path("/usr/share")
    lomiri = " ".join(DEBIAN[:2])
    wanted = [(share / f"backgrounds/{name}.jpg", lomiri) for name in LOMIRI]
    wanted += [(share / f"backgrounds/mate/nature/{x}.jpg", DEBIAN[2]) for x in MATE.split()]
    wanted += [(share / f"wallpapers/{x}/contents/images/2560x1600.jpg", DEBIAN[3]) for x in PLASMA.split()]
    cards = [*PALAPELI.split(), "panther-chameleon-female"]
    wanted += [(share / f"palapeli/collection/{name}.jpg", DEBIAN[4]) for name in cards]
    found = [debian(str(path), apt) for path, apt in wanted]
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
    found += [package(SKIMAGE) / "skimage" / "data" / name for name in names]
    folder = package(SKLEARN) / "sklearn" / "datasets" / "images"
    return [*found, folder / "china.jpg", folder / "flower.jpg"]


def stamp_files() -> dict[str, Path]:
    """Return tuxpaint's stamps by their path below the stamps' folder, without suffix."""
    root = debian(STAMPS, "tuxpaint-stamps-default")
    found = sorted(root.rglob("*.png"))
    return {path.relative_to(root).as_posix().removesuffix(".png"): path for path in found}


def labelled_photographs() -> tuple[list[Path], list[int]]:
    """Return foolbox's 20 ImageNet images and their classes, which are in their names."""
    folder = package(FOOLBOX) / "foolbox" / "data"
    files = sorted(folder.glob("imagenet_*_*.jpg"))
    return files, [int(path.stem.split("_")[2]) for path in files]


def on_white(path: Path) -> Any:
    """Return a stamp as a square PIL image, its object whole and inside the centre crop."""
    from PIL import Image

    stamp = Image.open(path).convert("RGBA")
    side = round(max(stamp.size) * RESIZED / SIZE)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(stamp, ((side - stamp.width) // 2, (side - stamp.height) // 2))
    return square.convert("RGB")


def opened(path: Path) -> Any:
    """Return a photograph as a PIL image."""
    from PIL import Image

    return Image.open(path).convert("RGB")


def centre(image: Any) -> Array:
    """Return the input [3, 224, 224]: short side to 256, centre crop, (x - 127) / 128."""
    from PIL import Image

    scale = RESIZED / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
    return _input(image.crop((left, top, left + SIZE, top + SIZE)))


def random_crop(image: Any, generator: np.random.Generator) -> Array:
    """Return the input [3, 224, 224] of a random square of 30 to 100 % of the short side."""
    from PIL import Image

    side = round(min(image.size) * float(generator.uniform(0.3, 1.0)))
    left = int(generator.integers(0, image.width - side + 1))
    top = int(generator.integers(0, image.height - side + 1))
    box = (left, top, left + side, top + side)
    crop = image.crop(box).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    if generator.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _input(crop)


def _input(image: Any) -> Array:
    pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)
    scaled: Array = (pixels - 127.0) / 128.0
    return scaled
