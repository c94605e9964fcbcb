"""The pass of Olive, without Olive: what its package config names is there. test_e2e_installs.py runs it."""

from __future__ import annotations

import ast
import importlib.util
import json

from onnx_lowrank.integrations import OLIVE_PACKAGE_CONFIG


def test_the_package_config_names_a_pass_of_its_module() -> None:
    config = json.loads(OLIVE_PACKAGE_CONFIG.read_text("utf-8"))
    assert config.keys() == {"passes", "extra_dependencies"}
    for name, entry in config["passes"].items():
        module, _, known = entry["module_path"].rpartition(".")
        assert known == name
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        with open(spec.origin, encoding="utf-8") as file:
            classes = [each for each in ast.parse(file.read()).body if isinstance(each, ast.ClassDef)]
        assert [each.name for each in classes if [ast.unparse(base) for base in each.bases] == ["Pass"]] == [name]
