"""Disable the telemetry of packages; must be called before they are imported."""

from __future__ import annotations

import os
import sys


def silence_onnxruntime() -> None:
    """Keep onnxruntime from sending data about the machine and the model file to Microsoft."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def silence_openvino() -> None:
    """Keep OpenVINO and NNCF from sending usage data to Google Analytics."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
