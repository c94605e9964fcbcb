"""Settings of another program's configuration: they ask for the same run as the options of the command line."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from onnx_lowrank.cli.optimize_command import _goal, optimize
from onnx_lowrank.cli.shared_options import options_of
from onnx_lowrank.errors import DataError, GoalError
from onnx_lowrank.goals import Compact, Gate, Lossless
from onnx_lowrank.integrations.request import SETTINGS, Request, request
from onnx_lowrank.options import Runtime

DATA = {"data": "c.npz"}
ALIKE: dict[str, dict[str, Any]] = {
    "nothing but samples": {},
    "a gate": {"max_drop": 0.005, "drop_type": "relative", "confidence": 0.9},
    "observed": {"max_drop": 0.0, "observed": True, "metric": "agreement"},
    "a target implies lossless": {"keep": 0.6},
    "bytes of a file": {"target_size": 10_000_000},
    "a time and a size": {"algorithm": "lossless", "target_latency": 0.7, "target_macs": 0.5},
    "lossless without a size": {"algorithm": "lossless"},
    "the fastest": {"minimize": "latency", "min_speedup": 1.1},
    "the smallest file": {"minimize": "bytes"},
    "bits imply bytes": {"bits": [32, 8]},
    "bits of their own type": {"bits": [32]},
    "int8 behind it": {"then": "quantize-dynamic", "sensitivity": "inputs", "rank_multiple": 4},
    "names": {"include": ["a*", "b*"], "exclude": ["c"], "groups": "note", "set": ["d=dense", "e=rank:8"]},
    "a machine": {"provider": "cpu", "threads": 2, "memory": 2**29, "seed": 3},
}


def words(settings: dict[str, Any]) -> list[str]:
    """Return settings as the command line has them."""
    found: list[str] = []
    for name, value in settings.items():
        option = "--" + name.replace("_", "-")
        if name == "bits":
            found += [option, ",".join(map(str, value))]
        elif isinstance(value, list):
            found += [word for each in value for word in (option, each)]
        else:
            found += [option] if value is True else [option, str(value)]
    return found


@pytest.mark.parametrize("settings", ALIKE.values(), ids=ALIKE.keys())
def test_the_run_is_that_of_the_command_line(settings: dict[str, Any]) -> None:
    asked = request(DATA | settings)
    with optimize.make_context("optimize", ["m.onnx", *words(DATA | settings)]) as context:
        goal = _goal(context.params)
        options = options_of(context.params).for_goal(goal.resource)
    assert asked.goal == goal
    assert asked.options == options


def test_every_setting_is_an_option_of_the_command_line() -> None:
    options = {opt.lstrip("-").replace("-", "_") for param in optimize.params for opt in param.opts}
    options |= {"outputs"}  # --output, repeatable
    assert {setting.name for setting in SETTINGS} <= options
    assert all(setting.about for setting in SETTINGS)


def test_samples_outputs_and_what_is_none() -> None:
    asked = request({**DATA, "validation": "v.npz", "force_overlap": True, "outputs": ["y"], "keep": None})
    assert isinstance(asked, Request)
    assert (asked.sources.data, asked.sources.validation, asked.sources.test) == ("c.npz", "v.npz", None)
    assert asked.sources.force_overlap
    assert asked.options.outputs == ("y",)
    assert asked.goal == Compact(gate=Gate())
    assert asked.options.runtime == Runtime()
    assert isinstance(request({**DATA, "keep": 0.5}).goal, Lossless)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"max_drops": 0.1}, "unknown setting 'max_drops'"),
        ({"keep": 2.0}, "--keep is a share"),
        ({"keep": 0.5, "algorithm": "compact"}, "keep is a goal of the lossless algorithm"),
        ({"keep": 0.5, "minimize": "bytes"}, "minimize bytes is a goal of the compact algorithm"),
        ({"max_drop": 0.0}, "no finite number of samples"),
        ({"bits": [8]}, "32, its own type"),
        ({"threads": -1}, "threads must be"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(settings: dict[str, Any], part: str) -> None:
    with pytest.raises(GoalError, match=part):
        request(DATA | settings)


def test_samples_are_asked_for() -> None:
    with pytest.raises(DataError, match="set `data`"):
        request({"keep": 0.5})


def test_choices_are_those_of_the_command_line() -> None:
    """Another program checks them by their types, before anything is run."""
    choices = {param.name: getattr(param.type, "choices", None) for param in optimize.params}
    typed = {each.name: get_args(each.type) for each in SETTINGS if choices.get(each.name)}
    assert set(typed) == {"algorithm", "minimize", "drop_type", "then", "sensitivity"}
    assert {name: set(known) for name, known in typed.items()} == {name: set(choices[name]) for name in typed}
