"""One command per figure that the README quotes; what they share is how a figure is printed."""

from __future__ import annotations

import json
import platform

import torch


def print_machine(device: torch.device, dtype: torch.dtype) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {device.type}"
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, {str(dtype)[6:]}")


def report(name: str, figures: dict[str, float]) -> None:
    """Print a table for people and one line of JSON for scripts."""
    for key, value in figures.items():
        print(f"  {name:18} {key:28} {value:10.4f}")
    print(json.dumps({"name": name, **{key: round(value, 6) for key, value in figures.items()}}), flush=True)
