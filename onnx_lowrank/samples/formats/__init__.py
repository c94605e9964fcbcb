"""Formats: how a picture, a text, a sound or a row of numbers becomes what a model takes."""

from onnx_lowrank.samples.formats.audio import AudioFormat
from onnx_lowrank.samples.formats.features import FeatureFormat
from onnx_lowrank.samples.formats.format import Encoder, Format
from onnx_lowrank.samples.formats.images import PRESETS, AnyImageFormat, ImageFormat
from onnx_lowrank.samples.formats.text import TextFormat

__all__ = [
    "PRESETS",
    "AnyImageFormat",
    "AudioFormat",
    "Encoder",
    "FeatureFormat",
    "Format",
    "ImageFormat",
    "TextFormat",
]
