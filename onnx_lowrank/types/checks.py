"""What a wish is made of, checked when it is made: one line that says what was given and what is wanted."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from onnx_lowrank.errors import GoalError


def is_number(value: Any) -> bool:
    """Return whether a value is a number, numpy's as well; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_numbers(wish: object, *names: str, wanted: str = "a number") -> None:
    """Raise GoalError where a field holds no number; None passes where it is the field's own way of saying nothing."""
    _check(wish, names, is_number, wanted)


def check_whole(wish: object, *names: str) -> None:
    """Raise GoalError where a field holds no whole number; None passes, as above."""
    _check(wish, names, is_whole, "a whole number")


def check_type(what: str, value: Any, *types: type) -> None:
    """Raise GoalError where a value is of none of these types of the package."""
    if not isinstance(value, types):
        wanted = " or ".join(f"{kind.__name__}(…)" for kind in types)
        raise GoalError(f"{what} takes {wanted}, not {shown(value)}")


def shown(value: Any) -> str:
    """Return a value for an error, with its type where that is not plain."""
    text = " ".join(repr(value).split())
    text = text if len(text) <= 60 else f"{text[:57]}…"
    return text if value is None or isinstance(value, str | bool) else f"{text} ({type(value).__name__})"


def _check(wish: object, names: tuple[str, ...], fits: Callable[[Any], bool], wanted: str) -> None:
    fields = type(wish).__dataclass_fields__  # type: ignore[attr-defined]
    for name in names:
        value = getattr(wish, name)
        if not fits(value) and not (value is None and fields[name].default is None):
            raise GoalError(f"{type(wish).__name__}({name}=…) takes {wanted}, not {shown(value)}")
