"""Importing this keeps onnxruntime from reporting what it runs: models are their owners' business.

From 1.29 on its official builds send names and hashes of models and weights, by default, and write an identifier of the
device. It reads ORT_DISABLE_TELEMETRY once, when it is imported, so this comes first; set to 0 beforehand, the variable
stays as it is. Where onnxruntime was imported before this package, it is asked to send no further events.
"""

import os
import sys

SWITCH = "ORT_DISABLE_TELEMETRY"
"""onnxruntime's own variable."""

if SWITCH not in os.environ:
    os.environ[SWITCH] = "1"
    imported = sys.modules.get("onnxruntime")
    if imported is not None and hasattr(imported, "disable_telemetry_events"):
        imported.disable_telemetry_events()
