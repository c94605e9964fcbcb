"""Pictures: decoded by Pillow, sized and cropped, scaled and laid out as networks of a kind expect."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec, first_line
from onnx_lowrank.samples.conform import shape_text
from onnx_lowrank.samples.formats.format import Encoder, column_of, single_input
from onnx_lowrank.samples.rows.row import needed
from onnx_lowrank.types import Array

Resize = Literal["shorter", "exact"]
Layout = Literal["nchw", "nhwc"]
Channels = Literal["rgb", "bgr"]
RESIZES: tuple[Resize, ...] = ("shorter", "exact")
LAYOUTS: tuple[Layout, ...] = ("nchw", "nhwc")
CHANNELS: tuple[Channels, ...] = ("rgb", "bgr")
COLUMNS = ("image", "img", "jpg", "png", "picture")
DEPTHS = (1, 3)
"""Numbers of channels: grey, and colours."""
MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFormat:
    """What is done to a picture: (pixel · scale − mean) / std, of its middle.

    size: (height, width) that the model takes; None: those of its input. resize: `shorter` makes the shorter side
    size / crop and takes the middle of that size, `exact` stretches the whole picture; one that has the size is taken
    as it is. crop: in (0, 1]. mean, std: one
    number, or one a channel, in the order of `channels`. layout: None is what the input's shape says. Raises
    DataError for values out of range.
    """

    size: tuple[int, int] | None = None
    resize: Resize = "shorter"
    crop: float = 0.875
    cubic: bool = False
    channels: Channels = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout | None = None

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise DataError(f"the crop must be above 0 and at most 1, not {self.crop:g}")
        if self.size is not None and min(self.size) < 1:
            raise DataError(f"the size of images must be 1 or more, not {min(self.size)}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in DEPTHS:
                raise DataError(f"--{name} takes 1 number or 3, one a channel, not {len(values)}")
        if not all(np.isfinite((*self.mean, *self.std, self.scale))) or 0 in (*self.std, self.scale):
            raise DataError("mean, std and scale of images must be finite numbers, std and scale other than 0")

    def fitted(self, inputs: Sequence[TensorSpec], columns: Sequence[str], source: str) -> Encoder:
        """Return what makes pictures fit the model's input. Raises DataError where it takes none."""
        needed("PIL.Image", f"reading images from {source}", "images")
        spec = single_input(inputs, "images", source)
        column = column_of(columns, COLUMNS, "images", source)
        layout = self.layout or _layout_of(spec, source)
        depth, height, width = _dimensions(spec, layout)
        size = self.size or _size_of(spec, height, width, source)
        if not self.suits(depth):
            raise DataError(f"{source}: the model takes {depth} channel, and mean or std have 3 numbers: give one each")
        form = replace(self, size=size, layout=layout)
        note = (
            f"{source}: images as {layout} of {size[0]} × {size[1]}, {self.channels if depth == 3 else 'grey'},"
            f" {self.described}"
        )
        return Encoder(lambda row, place: {spec.name: form.encoded(row[column], depth, spec, place)}, (note,))

    def suits(self, depth: int) -> bool:
        """Return whether mean and std are for so many channels."""
        return all(len(values) in (1, depth) for values in (self.mean, self.std))

    @property
    def described(self) -> str:
        """What is done to pixels, in words."""
        whole = round(1 / self.scale)
        scale = f"1/{whole}" if whole > 1 and abs(1 / self.scale - whole) < 1e-9 else f"{self.scale:g}"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"pixel × {scale}, mean {mean}, std {std}"

    def encoded(self, picture: Path | bytes, depth: int, spec: TensorSpec, place: str) -> Array:
        """Return one picture with its batch axis, float32, or uint8 where the model takes that."""
        assert self.size is not None
        pixels = _decoded(picture, MODES[depth], self, place)
        if depth == 3 and self.channels == "bgr":
            pixels = pixels[..., ::-1]
        if spec.dtype == np.uint8:
            values = pixels
        else:
            mean, std = (np.asarray(each, np.float32) for each in (self.mean, self.std))
            values = (pixels * np.float32(self.scale) - mean) / std
        values = values if self.layout == "nhwc" else np.moveaxis(values, -1, 0)
        return np.ascontiguousarray(values)[np.newaxis]


IMAGENET = ImageFormat(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PRESETS: Mapping[str, ImageFormat] = {
    "imagenet": IMAGENET,
    "unit": ImageFormat(),
    "clip": ImageFormat(
        crop=1.0, cubic=True, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    ),
    "ssd": ImageFormat(resize="exact", scale=1.0, mean=(127.5,), std=(127.5,)),
    "inception": ImageFormat(scale=1.0, mean=(127.5,), std=(127.5,)),
    "tflite": ImageFormat(scale=1.0, mean=(127.0,), std=(128.0,)),
    "raw": ImageFormat(scale=1.0),
    "caffe": ImageFormat(channels="bgr", scale=1.0, mean=(103.939, 116.779, 123.68)),
}
"""By name: torchvision's and timm's networks; pixels from 0 to 1; CLIP; SSD and TensorFlow's detectors; TensorFlow's
Inception, MobileNet and EfficientNet; EfficientNet-Lite; pixels from 0 to 255; Caffe's VGG and ResNet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyImageFormat:
    """A preset that is still to be found, by which of them makes labels right; what `changes` names is given.

    Where that was not done, it is the first of PRESETS, and said to be assumed.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def candidates(self) -> dict[str, ImageFormat]:
        """Every preset with the changes, by its name. Raises DataError for changes out of range."""
        return {name: replace(preset, **self.changes) for name, preset in PRESETS.items()}

    def encoders(self, inputs: Sequence[TensorSpec], columns: Sequence[str], source: str) -> dict[str, Encoder]:
        """Return what presets make of pictures, of those that suit the input's channels. Raises DataError for none."""
        forms = self.candidates
        depth = _depth(inputs, forms["raw"].layout)
        suited = {name: form for name, form in forms.items() if form.suits(depth)} or forms
        return {name: form.fitted(inputs, columns, source) for name, form in suited.items()}

    def fitted(self, inputs: Sequence[TensorSpec], columns: Sequence[str], source: str) -> Encoder:
        """Return what makes pictures fit the model's input, as of the first preset. Raises DataError."""
        name, encoder = next(iter(self.encoders(inputs, columns, source).items()))
        note = f"{source}: --preset {name} is assumed, for no labels tell: name the one the model was trained with"
        return replace(encoder, notes=(*encoder.notes, note))


def _layout_of(spec: TensorSpec, source: str) -> Layout:
    if len(spec.shape) not in (3, 4):
        raise DataError(f"{source}: input {spec.name!r} takes {shape_text(spec)}, which is no image; give other data")
    first, last = spec.shape[-3] in DEPTHS, spec.shape[-1] in DEPTHS
    if first == last:
        raise DataError(
            f"{source}: input {spec.name!r} takes {shape_text(spec)}, which leaves open where the channels are: give"
            " --layout nchw or nhwc"
        )
    return "nchw" if first else "nhwc"


def _depth(inputs: Sequence[TensorSpec], layout: Layout | None) -> int:
    """Return the channels of the first input, as far as its shape tells."""
    spec = inputs[0]
    if len(spec.shape) not in (3, 4):
        return max(DEPTHS)
    ends = {"nchw": (-3,), "nhwc": (-1,), None: (-3, -1)}[layout]
    return next((int(d) for end in ends if (d := spec.shape[end]) in DEPTHS), max(DEPTHS))


def _dimensions(spec: TensorSpec, layout: Layout) -> tuple[int, Any, Any]:
    """Return (channels, height, width) as the input's shape has them; 3 channels where it does not say."""
    sizes = spec.shape[-3:]
    depth, height, width = sizes if layout == "nchw" else (sizes[2], sizes[0], sizes[1])
    return depth if depth in DEPTHS else 3, height, width


def _size_of(spec: TensorSpec, height: Any, width: Any, source: str) -> tuple[int, int]:
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise DataError(
            f"{source}: input {spec.name!r} takes {shape_text(spec)}, images of any size: give --size 224, say"
        )
    return height, width


def _decoded(picture: Path | bytes, mode: str, form: ImageFormat, place: str) -> Array:
    """Return (height, width, channels) uint8 pixels, turned as the camera says, of the size asked for."""
    pillow, ops = needed("PIL.Image", "reading images", "images"), needed("PIL.ImageOps", "reading images", "images")
    if not isinstance(picture, Path | bytes):
        raise DataError(f"{place} holds no image but a {type(picture).__name__}; name another column with --column")
    try:
        with pillow.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as opened:
            turned = ops.exif_transpose(opened)
            return np.asarray(_sized(_plain(turned, mode, pillow), form, pillow)).reshape(*(form.size or ()), -1)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, pillow.DecompressionBombError) as error:
        why = first_line(error)
        raise DataError(f"{place} is no image that can be read ({why}); mend it or leave it out") from error


def _plain(image: Any, mode: str, pillow: Any) -> Any:
    """Return the picture in eight bits; greys of 16 bits are scaled, not cut off."""
    if image.mode.startswith("I"):
        greys = np.asarray(image).astype(np.int64)
        image = pillow.fromarray(np.clip(greys >> 8 if greys.max() > 255 else greys, 0, 255).astype(np.uint8))
    return image.convert(mode)


def _sized(image: Any, form: ImageFormat, pillow: Any) -> Any:
    assert form.size is not None
    height, width = form.size
    if image.size == (width, height):
        return image
    how = pillow.Resampling.BICUBIC if form.cubic else pillow.Resampling.BILINEAR
    if form.resize == "exact":
        return image.resize((width, height), how)
    ratio = max(width / form.crop / image.width, height / form.crop / image.height)
    large = (max(round(image.width * ratio), width), max(round(image.height * ratio), height))
    left, top = (round((have - want) / 2) for have, want in zip(large, (width, height), strict=True))
    return image.resize(large, how).crop((left, top, left + width, top + height))
