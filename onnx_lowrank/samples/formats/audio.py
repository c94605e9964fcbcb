"""Sounds: decoded by soundfile, mixed to one channel, at the rate the model was made for."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
from scipy import signal

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec, first_line
from onnx_lowrank.samples.conform import shape_text
from onnx_lowrank.samples.formats.format import Encoder, column_of, single_input
from onnx_lowrank.samples.rows.row import Row, needed
from onnx_lowrank.types import Array

COLUMNS = ("audio", "sound", "wav", "speech")


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFormat:
    """How a sound becomes (1, samples) or (1, 1, samples) numbers from −1 to 1, one channel.

    rate: samples a second that the model takes; None: those of the files, which must then agree. seconds: how much of
    each sound, its beginning, silence behind what is shorter; None: all, or what the model's input holds.
    """

    rate: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and self.rate < 1:
            raise DataError(f"the rate must be 1 or more samples a second, not {self.rate}")
        if self.seconds is not None and not 0 < self.seconds < 1e6:
            raise DataError(f"the length of sounds must be above 0 seconds, not {self.seconds:g}")

    def fitted(self, inputs: Sequence[TensorSpec], columns: Sequence[str], source: str) -> Encoder:
        """Return what makes sounds fit the model's input. Raises DataError where it takes none."""
        needed("soundfile", f"reading sounds from {source}", "audio")
        spec = single_input(inputs, "sounds", source)
        column = column_of(columns, COLUMNS, "sounds", source)
        if len(spec.shape) not in (2, 3) or spec.dtype is None or spec.dtype.kind != "f":
            raise DataError(
                f"{source}: input {spec.name!r} takes {spec.type} {shape_text(spec)}, which is no sound: spectra are"
                " not made here; give an .npz a sample, or FILE.py that yields dicts"
            )
        fixed = spec.shape[-1] if isinstance(spec.shape[-1], int) and spec.shape[-1] > 0 else None
        rates: dict[str, int] = {}

        def encode(row: Row, place: str) -> dict[str, Array]:
            values, rate = _decoded(row[column], place)
            if self.rate is None and rates.setdefault("", rate) != rate:
                raise DataError(f"{place} has {rate} samples a second, others {rates['']}: give --rate 16000, say")
            wanted = self.rate or rate
            if wanted != rate:
                common = gcd(wanted, rate)
                values = signal.resample_poly(values, wanted // common, rate // common).astype(np.float32)
            length = fixed or (round(self.seconds * wanted) if self.seconds else len(values))
            values = np.pad(values[:length], (0, max(length - len(values), 0)))
            return {spec.name: values.reshape((1,) * (len(spec.shape) - 1) + (-1,))}

        rate = f"{self.rate} samples a second" if self.rate else "the files' own rate"
        length = f"{fixed} samples" if fixed else f"{self.seconds:g} s" if self.seconds else "whole"
        return Encoder(encode, (f"{source}: sounds of one channel, {rate}, {length}",))


def _decoded(sound: object, place: str) -> tuple[Array, int]:
    """Return (samples,) float32 numbers, the mean of all channels, and the samples a second."""
    module = needed("soundfile", "reading sounds", "audio")
    if not isinstance(sound, Path | bytes):
        raise DataError(f"{place} holds no sound but a {type(sound).__name__}; name another column with --column")
    try:
        file = io.BytesIO(sound) if isinstance(sound, bytes) else str(sound)
        values, rate = module.read(file, dtype="float32", always_2d=True)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        why = first_line(error)
        raise DataError(f"{place} is no sound that can be read ({why}); mend it or leave it out") from error
    return np.asarray(values.mean(axis=1), np.float32), int(rate)
