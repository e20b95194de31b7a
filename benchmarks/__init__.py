"""One command per figure that the README quotes; what they share is how a figure is printed."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable

import torch


def print_machine(device: torch.device, dtype: torch.dtype) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {device.type}"
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, {str(dtype)[6:]}")


def report(name: str, figures: dict[str, float]) -> None:
    """Print a table for people and one line of JSON for scripts."""
    for key, value in figures.items():
        print(f"  {name:18} {key:28} {value:10.4f}")
    print(json.dumps({"name": name, **{key: round(value, 6) for key, value in figures.items()}}), flush=True)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matrix_peak(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """Return the FLOP per second of the best of several large matrix products: what this machine can do at all."""
    a = torch.randn(side, side).to(device, dtype)

    def product() -> None:
        (a @ a)[0, 0].item()  # waits for the device

    product()
    return 2 * side**3 / min(timed(product) for _ in range(10))
