"""Which shapes a scheme is made for, and at which ranks it is exact."""

from __future__ import annotations

import pytest
from builders import fitting, full_rank

KERNEL = ["kernel-first", "kernel-last", "tucker-2"]


@pytest.mark.parametrize(
    ("shape", "groups", "names"),
    [
        ((6, 4), 1, ["svd"]),
        ((6, 4), 2, ["svd"]),
        ((6, 4, 1, 1), 1, ["svd"]),
        ((6, 4, 3), 1, KERNEL),
        ((6, 4, 3, 3), 1, [*KERNEL, "separable"]),
        ((6, 4, 1, 3), 1, KERNEL),
        ((6, 4, 3, 1), 1, KERNEL),
        ((6, 4, 3, 3), 2, ["kernel-first", "kernel-last"]),
        ((6, 4, 9), 1, KERNEL),
        ((6, 4, 10), 1, [*KERNEL, "channelwise"]),
        ((6, 6, 5, 2), 1, [*KERNEL, "separable", "channelwise"]),
        ((4, 6, 10), 1, KERNEL),
        ((4, 6, 12), 2, ["kernel-first", "kernel-last"]),
    ],
)
def test_a_shape_has_its_schemes(shape: tuple[int, ...], groups: int, names: list[str]):
    assert fitting(shape, groups) == names


@pytest.mark.parametrize(
    ("scheme", "shape", "groups", "ranks"),
    [
        ("svd", (6, 4), 1, (4,)),
        ("svd", (6, 4), 2, (3,)),
        ("kernel-first", (20, 4, 3), 1, (12,)),
        ("kernel-first", (20, 4, 3), 4, (5,)),
        ("kernel-last", (2, 9, 3), 1, (6,)),
        ("kernel-last", (4, 9, 3), 2, (6,)),
        ("tucker-2", (20, 4, 3), 1, (4, 12)),
        ("tucker-2", (2, 9, 3), 1, (6, 2)),
        ("separable", (6, 4, 3, 2), 1, (12,)),
        ("separable", (5, 4, 3, 2), 1, (10,)),
        ("channelwise", (6, 4, 10), 1, (6,)),
        ("channelwise", (20, 4, 10), 1, (10,)),
    ],
)
def test_a_scheme_is_exact_at_its_full_rank(scheme: str, shape: tuple[int, ...], groups: int, ranks: tuple[int, ...]):
    """Laws ask for what is exact at these ranks: here they are written out."""
    assert full_rank(scheme, shape, groups) == ranks
