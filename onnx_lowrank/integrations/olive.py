"""A pass of Olive (olive-ai): the model that comes in, smaller and certified, or as it came where nothing passes.

Needs olive-ai, which this package does not install. Olive finds the pass by a package config, olive.json beside this
file; `package_config` adds it to Olive's own passes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

from onnx_lowrank.integrations import OLIVE_PACKAGE_CONFIG
from onnx_lowrank.integrations.request import SETTINGS, request
from onnx_lowrank.pipeline import optimize

logger = logging.getLogger(f"olive.{__name__}")  # below Olive's own, so that its level and its handlers hold
ATTRIBUTE = "onnx_lowrank"
"""The key of the model's attributes that holds the certificate, with the hash of the file that it is about.

Olive hands attributes on to what later passes make, of which nothing is certified.
"""


def package_config() -> dict[str, Any]:
    """Return Olive's own package config with this pass added, for `olive.workflows.run(..., package_config=...)`."""
    config: dict[str, Any] = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text("utf-8"))
    config["passes"] |= json.loads(OLIVE_PACKAGE_CONFIG.read_text("utf-8"))["passes"]
    return config


class OnnxLowRank(Pass):
    """Low-rank factorization with a certificate; settings are named as the options of `onnx-lowrank optimize`."""

    @staticmethod
    def is_accelerator_agnostic(accelerator_spec: AcceleratorSpec) -> bool:
        """Return False: what is certified is what was measured with one execution provider."""
        return False

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        return {
            setting.name: PassConfigParam(type_=setting.type, required=setting.required, description=setting.about)
            for setting in SETTINGS
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: BasePassConfig, output_model_path: str
    ) -> ONNXModelHandler:
        """Return the model that passed, or the one that came in. Raises LowRankError, NotImplementedError."""
        if not isinstance(model, ONNXModelHandler):
            raise NotImplementedError(f"OnnxLowRank takes ONNX models, not {type(model).__name__}")
        settings = {setting.name: getattr(config, setting.name) for setting in SETTINGS}
        settings["provider"] = settings["provider"] or self.accelerator_spec.execution_provider
        asked = request(settings)
        source = Path(model.model_path)
        output = Path(resolve_onnx_path(output_model_path, source.name))
        result = optimize(source, asked.sources, asked.goal, asked.options, output=output)
        for note in (*result.warnings, *result.notes):
            logger.info("%s", note)
        if not result or result.certificate is None:
            logger.warning("OnnxLowRank leaves the model as it is: %s", result.reason)
            return model
        logger.info("%s; %d of %d bytes", result.reason, result.after.bytes, result.before.bytes)
        claim = {"file_sha256": hashlib.sha256(output.read_bytes()).hexdigest(), **asdict(result.certificate)}
        return ONNXModelHandler(
            model_path=str(output),
            inference_settings=model.inference_settings,
            use_ort_extensions=model.use_ort_extensions,
            model_attributes={**(model.model_attributes or {}), ATTRIBUTE: claim},
        )
