"""Samples on the command line: a path as it is, or with the format of its images, texts, sounds or columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_lowrank.cli.shared_options import stacked, usage
from onnx_lowrank.samples import NamedLabels, RandomData, Source, StoredData, path_forms, stored_forms
from onnx_lowrank.samples.formats import PRESETS, AnyImageFormat, AudioFormat, FeatureFormat, Format, TextFormat
from onnx_lowrank.samples.formats.images import CHANNELS, LAYOUTS, RESIZES
from onnx_lowrank.samples.rows.row import Columns

if TYPE_CHECKING:
    _NumbersType = click.ParamType[tuple[float, ...]]
    _SizeType = click.ParamType[tuple[int, int]]
    _FractionType = click.ParamType[float]
else:
    _NumbersType = _SizeType = _FractionType = click.ParamType  # generic only in recent versions


class Ratio(_FractionType):
    """A number, or two of them: 0.0039, 1/255."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        try:
            return float(Fraction(str(value).replace(" ", "")))
        except (ValueError, ZeroDivisionError):
            self.fail(f"{value!r} is no number; write 0.0039 or 1/255", param, ctx)


class Numbers(_NumbersType):
    """One number, or three with commas between."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return the numbers."""
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers; write 0.5 or 0.485,0.456,0.406", param, ctx)


class ImageSize(_SizeType):
    """A size of images: 224, or 224x320, height first."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return (height, width)."""
        parts = str(value).lower().split("x")
        if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
            self.fail(f"{value!r} is no size; write 224, or 224x320 with the height first", param, ctx)
        return int(parts[0]), int(parts[-1])


KINDS: Mapping[str, tuple[str, ...]] = {
    "images": ("preset", "size", "resize", "crop", "mean", "std", "scale", "layout", "channels"),
    "text": ("tokenizer", "max_length", "next_token"),
    "audio": ("rate", "seconds"),
    "table": (),
}
"""Options that say how --data is stored, and those that say how it becomes what the model takes."""
STORED = ("column", "label_column")
"""Options of all of them."""
FORMAT = stacked(
    click.option(
        "--images",
        metavar="PATH",
        help="Like --data, but images to decode: a folder, sub-folders being classes; or rows of a table or archive."
        " --validation and --test are then of the same kind, as with the three below.",
    ),
    click.option("--text", metavar="PATH", help="Like --data, but texts: a .txt, a line each, or a table's column."),
    click.option(
        "--audio", metavar="PATH", help="Like --data, but sounds: a folder of .wav, sub-folders being classes."
    ),
    click.option("--table", metavar="PATH", help="Like --data, but columns of numbers: .csv, .tsv, .parquet, .arrow."),
    click.option("--classes", metavar="FILE", help="Class names in the model's order, one a line, for named labels."),
    click.option("--column", metavar="NAME", multiple=True, help="A column that is read; repeatable, in order."),
    click.option("--label-column", metavar="NAME", help="The column of labels. Default: label or labels."),
    click.option(
        "--preset",
        type=click.Choice(sorted(PRESETS)),
        help="images: what a family of networks was trained with. Default: the one that makes most labels right.",
    ),
    click.option("--size", type=ImageSize(), help="images: 224, or 224x320 (height first). Default: the model's."),
    click.option(
        "--resize",
        type=click.Choice(RESIZES),
        help="images: make the shorter side --size / --crop and take the middle, or stretch the whole to --size.",
    ),
    click.option("--crop", type=Ratio(), help="images: the share of the shorter side that is kept; 224/256 say."),
    click.option("--scale", type=Ratio(), help="images: what pixels of 0 to 255 are multiplied by first; 1/255 say."),
    click.option("--mean", type=Numbers(), help="images: then subtracted; one number, or one a channel."),
    click.option("--std", type=Numbers(), help="images: then divided by; one number, or one a channel."),
    click.option("--channels", type=click.Choice(CHANNELS), help="images: the order of the colours."),
    click.option("--layout", type=click.Choice(LAYOUTS), help="images: where the channels are. Default: by the input."),
    click.option("--tokenizer", type=click.Path(path_type=Path), help="text: a tokenizer.json, or its folder."),
    click.option(
        "--next-token/--no-next-token",
        default=None,
        help="text: labels are the tokens that follow. Default: where the model goes on from a key–value cache.",
    ),
    click.option(
        "--max-length",
        type=int,
        help="text: tokens at most (a window, for a language model). Default: the model's, or the tokenizer's.",
    ),
    click.option("--rate", type=int, help="audio: samples a second that the model takes; others are resampled."),
    click.option("--seconds", type=float, help="audio: how much of each sound; silence behind what is shorter."),
)
DATA = click.option(
    "--data",
    help=f"Calibration samples: {path_forms()}. FILE.py is run; keys of an .npz are input names, and `labels`.",
)


def given(values: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the option that names the samples, and its value; None where there is none. Raises a usage error."""
    found = [(name, values[name]) for name in ("data", *KINDS) if values.get(name) is not None]
    if len(found) > 1:
        raise click.UsageError(f"--{found[0][0]} and --{found[1][0]} both name the samples: give one of them")
    kind = found[0][0] if found else "data"
    for other, options in (*KINDS.items(), ("any", STORED)):
        for name in options:
            if other != kind and not (other == "any" and kind != "data") and values.get(name) not in (None, ()):
                wanted = f"--{other}" if other != "any" else "--images, --text, --audio or --table"
                raise click.UsageError(
                    f"--{name.replace('_', '-')} goes with {wanted}, and the samples are of --{kind}"
                )
    if values.get("classes") is not None and not found:
        raise click.UsageError("--classes names the labels of samples: give --data PATH, or leave it out")
    return found[0] if found else None


def sources(values: Mapping[str, Any], paths: Mapping[str, str | None]) -> dict[str, Source | None]:
    """Return the samples of every role, in the format that the options describe. Raises a usage error."""
    found = given(values)
    classes = None if values["classes"] is None else Path(values["classes"])
    if found is None or found[0] == "data":
        if classes is None:
            return dict(paths)
        return {
            role: None if path is None else NamedLabels(source=path, classes=classes) for role, path in paths.items()
        }
    form = usage(_FORMATS[found[0]], values)
    columns = Columns(data=tuple(values["column"]), label=values["label_column"])
    return {
        role: None if path is None else StoredData(path=Path(path), format=form, columns=columns, classes=classes)
        for role, path in paths.items()
    }


def files(values: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files that a format reads besides the samples, by option."""
    named = {f"--{name}": values[name] for name in ("classes", "tokenizer")}
    return {option: Path(path) for option, path in named.items() if path is not None}


def missing(options: str = "--data PATH") -> click.UsageError:
    """Return the error of a call without samples."""
    kinds = ", ".join(f"--{kind}" for kind in KINDS)
    return click.UsageError(
        f"give either {options} ({kinds} for what is to be decoded: {stored_forms()}) or, to try the tool without any"
        " samples, --random-data"
    )


def _images(values: Mapping[str, Any]) -> Format:
    changes = {name: values[name] for name in KINDS["images"][1:] if values[name] is not None}
    candidates = AnyImageFormat(changes=changes)
    forms = candidates.candidates
    return candidates if values["preset"] is None else forms[values["preset"]]


def _text(values: Mapping[str, Any]) -> Format:
    if values["tokenizer"] is None:
        raise click.UsageError("--text needs the model's own tokenizer: give --tokenizer tokenizer.json")
    columns = values["column"]
    if len(columns) > 2:
        raise click.UsageError(f"--text takes one --column, or two for pairs, not {len(columns)}")
    pair = (columns[0], columns[1]) if len(columns) == 2 else None
    return TextFormat(
        tokenizer=values["tokenizer"], length=values["max_length"], pair=pair, next_token=values["next_token"]
    )


INPUT_SHAPE = click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="NAME:1,3,224,224",
    help="With --random-data: the shape of an input whose dimensions are free. Repeatable.",
)


def invented(values: Mapping[str, Any]) -> RandomData:
    """Return the source of invented samples. Raises a usage error for a shape that is none."""
    shapes = []
    for text in values["input_shapes"]:
        name, _, sizes = text.rpartition(":")
        if not name or not all(part.strip().isdecimal() for part in sizes.split(",")):
            raise click.UsageError(f"--input-shape {text!r}: write NAME:1,3,224,224")
        shapes.append((name, tuple(int(part) for part in sizes.split(","))))
    return RandomData(shapes=tuple(shapes))


def refuse_shapes(values: Mapping[str, Any]) -> None:
    """Raise a usage error for --input-shape beside samples, which have shapes of their own."""
    if values["input_shapes"] and not values["random_data"]:
        raise click.UsageError("--input-shape goes with --random-data: samples have shapes of their own")


_FORMATS: Mapping[str, Callable[[Mapping[str, Any]], Format]] = {
    "images": _images,
    "text": _text,
    "audio": lambda values: AudioFormat(rate=values["rate"], seconds=values["seconds"]),
    "table": lambda values: FeatureFormat(),
}
