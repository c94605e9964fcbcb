"""Values as text and arrays, and back: plain data and this package's own types alone, so reading runs no one's code.

Text is JSON. What is no number, text, truth value or None is a list that begins with a letter:

    t, l: tuple, list    d: pairs of a mapping    f: frozenset    a: number of an array    s: numpy scalar
    o: number of a type, values of its fields     n: the same of a named tuple     e: of an enumeration, a name
    g: name of what reader and writer both have (see `given`)
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

import numpy as np

from onnx_lowrank.types import Array

PACKAGE = __name__.partition(".")[0]
Given = Mapping[str, object]
"""Objects that values refer to and that are not stored: name -> object, the same names when writing and reading."""


class DamagedError(Exception):
    """What was read is not what this version of the package writes."""


def pack(value: object, given: Given | None = None) -> tuple[str, list[Array]]:
    """Return a value as JSON and arrays, each array once. Raises TypeError for what is not data."""
    packer = _Packer({id(each): name for name, each in (given or {}).items()})
    body = packer.packed(value)
    return json.dumps([list(packer.types.values()), body], separators=(",", ":")), packer.arrays


def unpack(text: str, arrays: list[Array], given: Given | None = None) -> Any:
    """Return the value. Raises DamagedError for what `pack` of this version did not write."""
    try:
        types, body = json.loads(text)
        return _Unpacker([_type(name, tuple(parts)) for name, parts in types], arrays, given or {}).value(body)
    except (ValueError, TypeError, LookupError, AttributeError, ImportError, RecursionError) as error:
        raise DamagedError(str(error)) from error


@dataclass(slots=True, eq=False)
class _Packer:
    given: Mapping[int, str]
    arrays: list[Array] = field(default_factory=list)
    types: dict[type, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    _places: dict[int, int] = field(default_factory=dict)
    _numbers: dict[type, int] = field(default_factory=dict)

    def packed(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if id(value) in self.given:
            return ["g", self.given[id(value)]]
        if isinstance(value, np.ndarray):
            return ["a", self._array(value)]
        if isinstance(value, np.generic):
            return ["s", value.dtype.str, value.item()]
        if isinstance(value, Enum):
            return ["e", self._type(value), value.name]
        if isinstance(value, Mapping):
            return ["d", *([self.packed(key), self.packed(each)] for key, each in value.items())]
        if isinstance(value, frozenset):
            return ["f", *sorted((self.packed(each) for each in value), key=json.dumps)]  # the same in every process
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return ["n", self._type(value), *(self.packed(each) for each in value)]
        if type(value) in (tuple, list):
            return ["t" if isinstance(value, tuple) else "l", *map(self.packed, value)]
        if is_dataclass(value) and not isinstance(value, type):
            return ["o", self._type(value), *(self.packed(getattr(value, name)) for name in _stored(type(value)))]
        raise TypeError(f"{type(value).__name__} is not data that can be stored")

    def _array(self, value: Array) -> int:
        if value.dtype.hasobject:
            raise TypeError("an array of objects is not data that can be stored")
        if id(value) not in self._places:
            self._places[id(value)] = len(self.arrays)
            self.arrays.append(value)
        return self._places[id(value)]

    def _type(self, value: object) -> int:
        kind = type(value)
        if kind not in self.types:
            if kind.__module__.partition(".")[0] != PACKAGE:
                raise TypeError(f"{kind.__module__}.{kind.__qualname__} is not a type of {PACKAGE}")
            self._numbers[kind] = len(self.types)
            self.types[kind] = f"{kind.__module__}:{kind.__qualname__}", _parts(kind)
        return self._numbers[kind]


@dataclass(frozen=True, slots=True, eq=False)
class _Unpacker:
    types: list[type]
    arrays: list[Array]
    given: Given

    def value(self, body: Any) -> Any:
        if not isinstance(body, list):
            return body
        kind, *rest = body
        if kind in ("t", "l", "f"):
            return {"t": tuple, "l": list, "f": frozenset}[kind](self.value(each) for each in rest)
        if kind == "d":
            return {self.value(key): self.value(each) for key, each in rest}
        if kind == "o":
            return self._made(self.types[rest[0]], [self.value(each) for each in rest[1:]])
        return self._leaf(kind, rest)

    def _leaf(self, kind: str, rest: list[Any]) -> Any:
        if kind == "a":
            return self.arrays[rest[0]]
        if kind == "s":
            return self._scalar(np.dtype(rest[0]), rest[1])
        if kind == "e":
            return self.types[rest[0]][rest[1]]
        if kind == "n":
            return self.types[rest[0]](*(self.value(each) for each in rest[1:]))
        if kind == "g":
            return self.given[rest[0]]
        raise ValueError(f"unknown kind {kind!r}")

    @staticmethod
    def _scalar(kind: np.dtype[Any], value: Any) -> Any:
        if kind.kind not in "biufU":
            raise ValueError(f"no scalar of {kind}")
        return kind.type(value)

    @staticmethod
    def _made(kind: type, values: list[Any]) -> Any:
        """Return a value of a dataclass with these fields; nothing of it runs."""
        made: Any = object.__new__(kind)
        for name, each in zip(_stored(kind), values, strict=True):
            object.__setattr__(made, name, each)
        for other in fields(kind):
            if _own(other):
                object.__setattr__(made, other.name, _default(other))
        return made


def _own(each: Field[Any]) -> bool:
    """Whether a field is only what a value has worked out for itself: made anew, not stored."""
    return each.name.startswith("_") and (each.default is not MISSING or each.default_factory is not MISSING)


def _default(each: Field[Any]) -> Any:
    return each.default_factory() if each.default_factory is not MISSING else each.default


@cache
def _stored(kind: type) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind) if not _own(each))


def _parts(kind: type) -> tuple[str, ...]:
    """Return what a type's values are made of: a type of other parts is another one."""
    if is_dataclass(kind):
        return _stored(kind)
    return tuple(kind.__members__) if issubclass(kind, Enum) else tuple(kind._fields)  # type: ignore[attr-defined]


@cache
def _type(name: str, parts: tuple[str, ...]) -> type:
    """Return one of this package's types of data by name. Raises ValueError for any other, or one of other parts."""
    module, _, path = name.partition(":")
    if module.partition(".")[0] != PACKAGE or "." in path:
        raise ValueError(f"{name} is not a type of {PACKAGE}")
    found = getattr(importlib.import_module(module), path)
    data = isinstance(found, type) and (is_dataclass(found) or issubclass(found, (Enum, tuple)))
    if not data or found.__module__ != module or _parts(found) != parts:
        raise ValueError(f"{name} is no type of data, or has other parts")
    return found  # type: ignore[no-any-return]
