"""Numbers with their nouns and verbs: 1 weight holds, 2 weights hold."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return '1 weight', '2 weights', '3 classes'."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def verb(number: int, one: str, many: str) -> str:
    """Return the form of a verb that goes with a number of things."""
    return one if number == 1 else many
