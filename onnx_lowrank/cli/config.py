"""--config and --save-config: the options of `optimize` in a TOML file; what the command line says wins."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

APART = ("config", "save_config", "force", "quiet", "dry_run", "model")
"""What concerns one call alone, and is in no file."""


def read(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Have options that are not given come from a file. Raises a usage error for one that names what there is not."""
    if path is None:
        return None
    try:
        told = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise click.UsageError(f"--config {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--config {path} is no TOML: {error}") from error
    names = {
        _key(each): each for each in ctx.command.params if isinstance(each, click.Option) and each.name not in APART
    }
    found: dict[str, Any] = {}
    for key, value in told.items():
        option = names.get(key.replace("_", "-"))
        if option is None:
            close = difflib.get_close_matches(key.replace("_", "-"), names, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise click.UsageError(f"--config {path}: {key!r} is no option of {ctx.command.name}{hint}")
        found[option.name or ""] = _text(value, option, f"--config {path}: {key}")
    ctx.default_map = {**(ctx.default_map or {}), **found}
    return path


def _text(value: Any, option: click.Option, place: str) -> Any:
    """Return a value as an option takes it: typed ones as they are, others as they would be written there."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise click.UsageError(f"{place} is true or false, not {value!r}")
        return value
    many = option.multiple or option.nargs > 1
    if isinstance(value, list) and many:
        return [_text(each, _single(option), place) for each in value]
    if isinstance(value, list) and value and all(isinstance(each, int | float) for each in value):
        return ",".join(str(each) for each in value)  # bits = [8, 32], mean = [0.485, 0.456, 0.406]
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise click.UsageError(f"{place} cannot be {json.dumps(value, default=str)}")
    if option.multiple:
        return [str(value)]
    return str(value)


def _single(option: click.Option) -> click.Option:
    return click.Option(["--each"], type=option.type)


def _key(option: click.Parameter) -> str:
    """Return the name of an option in a file: the longest that it has, without its dashes."""
    return max((name.lstrip("-") for name in option.opts), key=len)


def written(ctx: click.Context) -> str:
    """Return the file of the options that were given to a call, by its command line or by its own file."""
    lines = [f"# onnx-lowrank {ctx.command.name} --config THIS.toml MODEL"]
    return "\n".join([*lines, *_given(ctx)]) + "\n"


def _given(ctx: click.Context) -> Iterator[str]:
    values: Mapping[str, Any] = ctx.params
    for param in ctx.command.params:
        name = param.name or ""
        source = ctx.get_parameter_source(name)
        if name in APART or source in (ParameterSource.DEFAULT, None) or not isinstance(param, click.Option):
            continue
        yield f"{_key(param)} = {_toml(values[name])}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(str(value), ensure_ascii=False)


CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=read,
    help="Take options from this TOML file (max-drop = 0.005); what is given here wins.",
)
SAVE_CONFIG = click.option(
    "--save-config", type=click.Path(path_type=Path), help="Write the options of this call, for --config."
)
