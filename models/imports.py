"""Importing packages that depend on torchvision."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch


def import_beside_torchvision(name: str) -> ModuleType:
    """Import a module that imports torchvision, even if that was built for another torch.

    Such a pair (a CPU build of torch, torchvision from PyPI) lacks torchvision's compiled operators. Plain
    networks need none of them, but torchvision refuses to be imported before some are at least declared.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
    return importlib.import_module(name)
