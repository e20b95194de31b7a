"""One command per table of RESULTS.md. Shared here: running inference.py, and timing and printing figures."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

import files
import video
from devices import pick_device, pick_precision

# Runs inference.py and prints what it cost; in a process of its own, so that imports and peak memory are included.
PROGRAM = """
import json, os, pathlib, sys, time
start = time.perf_counter()
import inference, video
imported = time.perf_counter()
writes, write = [], video.VideoWriter.write
def noted(writer, frame):
    writes.append(time.perf_counter())
    write(writer, frame)
video.VideoWriter.write = noted
code = inference.main(sys.argv[1:])
stop = time.perf_counter()
figures = {"frames": len(writes), "seconds": stop - start, "fps": len(writes) / (stop - start)}
figures["cpu_seconds"] = time.process_time() + sum(os.times()[2:4])
figures["import_s"] = imported - start
figures["first_frame_s"] = writes[0] - start if writes else 0
status = pathlib.Path("/proc/self/status")  # Linux; getrusage may report the parent's memory instead
lines = status.read_text().splitlines() if status.exists() else ["VmHWM: nan kB"]
figures["peak_memory_mb"] = float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
print(json.dumps(figures))
sys.exit(code)
"""


def open_machine(args: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """Return the device and precision chosen with the flags of ``add_compute_arguments``, and print them."""
    device = pick_device(args.device)
    dtype = pick_precision(args.precision, device)
    print_machine(device, dtype)
    return device, dtype


def print_machine(device: torch.device, dtype: torch.dtype) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {device.type}"
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, {str(dtype)[6:]}")


def report(name: str, figures: dict[str, float]) -> None:
    """Print a table for people and one line of JSON for scripts."""
    for key, value in figures.items():
        print(f"  {name:18} {key:28} {value:10.4f}")
    print(files.to_json({"name": name, **{key: round(value, 6) for key, value in figures.items()}}), flush=True)


def resident_mb(process: int | str = "self") -> float:
    """Return the resident memory of a process in MB; NaN except on Linux."""
    if not (status := Path(f"/proc/{process}/statm")).exists():
        return math.nan
    pages = int(status.read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the child processes that it waited for."""
    return time.process_time() + sum(os.times()[2:4])


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cpu_timed(work: Callable[[], object]) -> float:
    """Return the CPU seconds that ``work`` takes, including those of child processes that it waits for."""
    before = cpu_seconds()
    work()
    return cpu_seconds() - before


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of the best of several large matrix products: the peak of this machine."""
    side = 2048
    a = torch.randn(side, side).to(device, dtype)

    def product() -> None:
        (a @ a)[0, 0].item()  # waits for the device

    product()
    return 2 * side**3 / min(timed(product) for _ in range(10))


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the area under the ROC curve: how often a positive value exceeds a negative one."""
    from scipy import stats  # here: its import takes as long as all others together, and few benchmarks need it

    return float(stats.mannwhitneyu(positive, negative).statistic / len(positive) / len(negative))


def write_video(path: Path, like: video.VideoInfo, sound: Path, frames: Sequence[np.ndarray]) -> None:
    with video.VideoWriter(path, like, sound, len(frames)) as writer:
        for frame in frames:
            writer.write(frame)


def lip_sync_as_a_user(
    args: argparse.Namespace, checkpoint: Path, face: Path, speech: Path, outfile: Path
) -> dict[str, float]:
    """Run ``inference.py`` with the detector and device chosen in ``args``, without boxes cached by earlier runs."""
    arguments = ["--checkpoint_path", checkpoint, "--face", face.resolve(), "--audio", speech.resolve()]
    arguments += ["--outfile", outfile, "--face_detector", args.face_detector, "--no_cache"]
    arguments += ["--device", args.device, "--precision", args.precision]
    if args.face_detector_weights:
        arguments += ["--face_detector_weights", args.face_detector_weights.resolve()]
    return run_inference(*arguments)


def run_inference(*arguments: object, program: str = PROGRAM) -> dict[str, float]:
    """Run ``inference.py`` in a process of its own; return frames, seconds, fps, CPU seconds, memory and so on.

    A ``program`` that runs it in another way must print its figures as JSON in its last line.
    """
    command = [sys.executable, "-c", program, *map(str, arguments)]
    root = Path(__file__).resolve().parent.parent
    result = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1])
