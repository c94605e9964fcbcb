"""`--set`: what a user decides for a weight is what becomes of it, whatever a search would say, or a line why not."""

from __future__ import annotations

import pytest
from builders import mlp, normal

from onnx_lowrank import Compact, DataSources, Gate, GoalError, Options, Result, Runtime, Session, Skip, meet_goal
from onnx_lowrank.types import Choice, Override

FIRST, SECOND = "fc0", "fc1"


def session(*overrides: str, bits: tuple[int, ...] = (32,)) -> Session:
    model = mlp([24, 32, 40, 10], [6, 6, None], 3)
    options = Options(
        runtime=Runtime(threads=1, provider="cpu"), metric="relative-l2", rank_multiple=4, bits=bits,
        overrides=overrides, refit=False,
    )  # fmt: skip
    return Session.of(model, DataSources(data={model.graph.input[0].name: normal([200, 24], 5)}), options)


def solved(*overrides: str, bits: tuple[int, ...] = (32,)) -> Result:
    made = session(*overrides, bits=bits)
    resource = "parameters" if bits == (32,) else "bytes"
    return meet_goal(made, Compact(gate=Gate(max_drop=0.9, observed=True), resource=resource))


def choice(result: Result, weight: str) -> Choice:
    assert result.plan is not None, result.reason
    return next(c for c in result.plan.choices if c.weight == weight)


def test_the_weights_are_called_so():
    assert [site.weight for site in session().inventory.sites][:2] == [FIRST, SECOND]


@pytest.mark.parametrize("rank", [5, 8])
def test_a_rank_is_taken_as_it_is_also_off_the_grid(rank: int):
    result = solved(f"{FIRST}=rank:{rank}")
    assert choice(result, FIRST).option.ranks == (rank,)
    free = choice(solved(), FIRST).option.ranks
    assert free != (rank,)  # a search would have chosen another


def test_a_dense_weight_stays_and_is_told_of():
    result = solved(f"{FIRST}=dense")
    assert FIRST not in {c.weight for c in result.plan.choices}  # type: ignore[union-attr]
    (skip,) = [skip for skip in result.skips if skip.weight == FIRST]
    assert isinstance(skip, Skip)
    assert skip.detail == f"--set {FIRST}=dense"


def test_bits_and_schemes_are_taken_and_the_last_override_counts():
    result = solved("fc*=rank:7", f"{FIRST}=scheme:svd,bits:8", f"{SECOND}=dense,bits:4", bits=(4, 8, 32))
    first, second = choice(result, FIRST).option, choice(result, SECOND).option
    assert first.scheme == "svd"
    assert set(first.form.storage.split("/")) <= {"int8", "int8-blocks"}
    assert (second.scheme, second.form.storage) == ("dense", "int4")


def test_names_of_nodes_are_names_too():
    node = session().inventory.sites[0].node
    assert choice(solved(f"{node}=rank:5"), FIRST).option.ranks == (5,)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("nothing*=dense", "no weight that can be factored, and no node of one, is called 'nothing*'"),
        ("fc0=rank:400", "'fc0' gets smaller up to rank 20 by svd"),
        ("fc0=rank:4x4", "'fc0' gets smaller up to rank 20 by svd"),
        ("fc0=scheme:tucker-2", "'fc0' can be svd; 'tucker-2' does not fit it"),
        ("fc0=scheme:magic", "'fc0' can be svd; 'magic' is no scheme"),
        (
            "fc0=bits:8",
            "'fc0' is to have 8 bits, which only saves bytes or time: give --bits 8,32 with --minimize bytes or"
            " --target-size, and leave other targets out",
        ),
        ("fc0=bits:7", "--set 'fc0=bits:7': a number takes 2, 4, 8, 12, 16 or 32 bits, not 7"),
        ("fc0=rank", "'rank' is none of dense, rank:N"),
        ("fc0=rank:0", "'rank:0' is none of dense"),
        ("fc0=dense,rank:4", "a dense weight has no rank"),
        ("fc0", "--set takes GLOB=WHAT"),
        ("=dense", "--set takes GLOB=WHAT"),
    ],
)
def test_what_cannot_be_is_one_line(override: str, said: str):
    with pytest.raises(GoalError) as caught:
        session(override)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_where_a_tuple_is_meant_is_an_error():
    with pytest.raises(GoalError, match=r"overrides takes a tuple of texts: \('fc0=dense',\)"):
        Options(overrides="fc0=dense")  # type: ignore[arg-type]
    with pytest.raises(GoalError, match="include takes a tuple"):
        Options(include="fc0")  # type: ignore[arg-type]


def test_globs_may_have_an_equals_sign():
    override = Override.of("a=b*=rank:3x4")
    assert (override.glob, override.ranks) == ("a=b*", (3, 4))
    assert override.names("a=bc")
    assert not override.names("b")
