"""Packages that would tell their makers how they are used, kept from it. Only before their import do they listen."""

from __future__ import annotations

import os
import sys


def silence_onnxruntime() -> None:
    """It would tell Microsoft of the machine and of the model's file."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def silence_openvino() -> None:
    """It and NNCF would tell Google Analytics."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
