"""A folder of files, one a sample: those in sub-folders have the sub-folder's name as label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.samples.npz import readable
from onnx_lowrank.samples.rows.row import Columns, Rows, RowSource
from onnx_lowrank.types.words import counted

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SOUNDS = (".wav", ".flac", ".ogg", ".aiff", ".aif")
MEDIA = {"image": IMAGES, "audio": SOUNDS}
"""Column -> suffixes of its files."""


def _listed(folder: Path) -> list[Path]:
    with readable(folder, "give another directory"):
        return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda e: e.name)


def _files(entries: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files of every medium."""
    return {
        column: [entry for entry in entries if entry.suffix.lower() in suffixes and entry.is_file()]
        for column, suffixes in MEDIA.items()
    }


def _media_in(folder: Path) -> tuple[str, list[Path], list[Path]]:
    """Return the medium of a folder, its own files, and its sub-folders; ("", [], []) where it has none of any."""
    entries = _listed(folder)
    folders = [entry for entry in entries if entry.is_dir()]
    own = _files(entries)
    for column, files in own.items():
        if files:
            return column, files, folders
    for sub in folders:
        for column, files in _files(_listed(sub)).items():
            if files:
                return column, [], folders
    return "", [], []


def holds_media(path: Path) -> bool:
    """Return whether a path is a folder of pictures or sounds, or of folders of them."""
    if not path.is_dir():
        return False
    try:
        return bool(_media_in(path)[0])
    except DataError:
        return False


def open_folder(path: Path, columns: Columns) -> Rows:
    """Return the files of a folder, those of classes in a random order, always the same.

    Raises DataError where some have a class and others none, or a class has none.
    """
    column, files, folders = _media_in(path)
    labels: list[str] | None = None
    if files and any(_files(_listed(folder))[column] for folder in folders):
        raise DataError(
            f"{path} has files of its own and files in sub-folders: a sub-folder is a class; move {files[0].name} into"
            " one, or give a folder with one of the two"
        )
    if not files:
        labels = []
        for folder in folders:
            inside = _files(_listed(folder))[column]
            if not inside:
                raise DataError(f"{folder} holds no {column} file, and a sub-folder is a class: fill or remove it")
            files += inside
            labels += [folder.name] * len(inside)
        order = np.random.default_rng(0).permutation(len(files))  # class after class would not be samples as they come
        files, labels = [files[i] for i in order], [labels[i] for i in order]
    many = f" in {counted(len(folders), 'class')}" if labels is not None else ""
    rows = [{column: file} for file in files]
    source = f"{counted(len(files), 'file')}{many} in {path}/"
    return Rows(source, rows, (column,), labels, lambda index: str(files[index]))


FOLDERS = RowSource(form="a folder of images or sounds, sub-folders being classes", takes=holds_media, open=open_folder)
