"""Packages that would tell their makers how they are used, kept from it. Only before their import do they listen."""

from __future__ import annotations

import os
import sys


def silence_onnxruntime() -> None:
    """Keep it from telling Microsoft of the machine and of the model's file."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def silence_openvino() -> None:
    """Keep it and NNCF from telling Google Analytics how they are used."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
