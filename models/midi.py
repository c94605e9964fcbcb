"""Writes notes as a MIDI file, has fluidsynth play them, and returns one recording a note."""

from __future__ import annotations

import struct
import subprocess
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .fetch import RecipeError, debian, program
from .splits import Array

SOUNDFONT = "/usr/share/sounds/sf2/FluidR3_GM.sf2"
RATE = 48000
SLOT = 1.25
SOUNDING = 0.9
TICKS = 1000  # a second: 500 a quarter at 120 beats a minute


@dataclass(frozen=True, kw_only=True)
class Note:
    """One note: General MIDI program, key number and velocity."""

    program: int
    key: int
    velocity: int

    @property
    def hertz(self) -> float:
        """Return the equal-tempered pitch at A4 = 440 Hz."""
        return float(440.0 * 2.0 ** ((self.key - 69) / 12.0))


def recordings(notes: Sequence[Note]) -> Array:
    """Return one row of RATE · SLOT samples a note, dry and without dither."""
    synth = program("fluidsynth", "fluidsynth")
    font = debian(SOUNDFONT, "fluid-soundfont-gm")
    with tempfile.TemporaryDirectory() as directory:
        score, sound = Path(directory) / "notes.mid", Path(directory) / "notes.wav"
        score.write_bytes(_midi(notes))
        command = [synth, "-ni", "-q", "-R", "0", "-C", "0", "-g", "0.6", "-r", str(RATE)]
        command += ["-O", "s16", "-T", "wav", "-F", str(sound), str(font), str(score)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not sound.exists():
            raise RecipeError(f"fluidsynth failed: {done.stderr.strip()[:200]}")
        with wave.open(str(sound)) as file:
            stereo = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    mono = stereo.reshape(-1, 2).mean(1) / 32768.0
    length = round(RATE * SLOT)
    mono = np.pad(mono, (0, max(0, length * len(notes) - len(mono))))
    return mono[: length * len(notes)].reshape(len(notes), length)


def _midi(notes: Sequence[Note]) -> bytes:
    """Return a format-0 MIDI file: one note a slot, and silence (CC 120) at its end."""
    events: list[tuple[int, bytes]] = []
    for i, note in enumerate(notes):
        start = round(i * SLOT * TICKS)
        events.append((start, bytes([0xC0, note.program])))
        events.append((start, bytes([0x90, note.key, note.velocity])))
        events.append((start + round(SOUNDING * TICKS), bytes([0x80, note.key, 0])))
        events.append((start + round((SLOT - 0.05) * TICKS), bytes([0xB0, 120, 0])))
    track, now = b"", 0
    for when, message in events:
        track += _variable(when - now) + message
        now = when
    track += _variable(TICKS) + b"\xff\x2f\x00"
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS // 2)
    return header + b"MTrk" + struct.pack(">I", len(track)) + track


def _variable(number: int) -> bytes:
    """Return MIDI's variable-length quantity."""
    out = [number & 0x7F]
    while number := number >> 7:
        out.insert(0, number & 0x7F | 0x80)
    return bytes(out)
