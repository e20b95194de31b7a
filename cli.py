"""What every script shares at its edge: one-line errors, exit codes, argument types, and the choice of a device."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from errors import UserError
from hparams import FILELISTS, hparams
from machine import Machine, join_processes

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line, and that knows ``--debug``."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message} (see {self.prog} --help)\n")


def run(parser: Parser, work: Callable[[argparse.Namespace], None], argv: list[str] | None = None) -> int:
    """Parse ``argv``, do the work, and turn whatever goes wrong into one line on stderr and an exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)  # a killed run cleans up as an interrupted one does
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # --help, or an error that has been printed
        return int(stop.code or 0)
    try:
        work(args)
        return 0
    except KeyboardInterrupt as stop:
        return _report(str(stop) or "stopped before the end; nothing was written", INTERRUPTED)
    except Exception as error:
        if args.debug:
            raise
        return _report(_one_line(error), _exit_code(error))


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _exit_code(error: Exception) -> int:
    return BAD_INPUT if isinstance(error, UserError) else FAILED


def _one_line(error: Exception) -> str:
    text = str(error)
    if "Original Traceback" in text:  # from a loader's worker process, whose last line is the error itself
        text = text.strip().splitlines()[-1].partition(": ")[2]
    text = " ".join(text.split())
    if isinstance(error, torch.OutOfMemoryError):
        return f"the device ran out of memory ({text}); try a smaller batch, smaller pictures or --device cpu"
    if isinstance(error, (UserError, RuntimeError, OSError)) and text:
        return text
    return f"{type(error).__name__}: {text}; this is a fault of the program, run again with --debug and report it"


def _report(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code


def progress(items: Iterable, label: str, total: int | None = None, unit: str = "frame") -> tqdm:
    return tqdm(items, label, total, unit=unit, disable=None)  # None: quiet when not a terminal


# --------------------------------------------------------------------------------------------------------------------
# Arguments that several scripts have


def add_compute_arguments(parser: Parser, precisions: Iterable[str] = tuple(PRECISIONS)) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--precision", choices=("auto", *precisions), default="auto", help="of the networks")


def add_training_arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("--data_root", required=True, type=Path, help="folder that preprocess.py wrote")
    add("--checkpoint_dir", required=True, type=Path, help="folder for checkpoints, samples and logs")
    add("--checkpoint_path", type=Path, help="continue from this checkpoint")
    add(
        "--resume", action="store_true", help="continue from the newest checkpoint in --checkpoint_dir, if there is one"
    )
    add("--filelists", type=Path, default=FILELISTS, help="folder with train.txt and val.txt")
    add("--hparams", default="", metavar="NAME=VALUE,…", help="change settings of hparams.py")
    add("--max_steps", type=positive(int), help="stop after this step; default: go on until stopped")
    add("--keep", type=positive(int), help="checkpoints to keep; default: all")
    add("--seed", type=int, default=0, help="of the weights and of the order of the data")
    add_compute_arguments(parser, ("fp32", "bf16"))


def start_training(args: argparse.Namespace) -> Machine:
    """Apply ``--hparams``, seed the weights, join the processes that torchrun started; before the first tensor."""
    # Training fills gigabytes of fresh memory at every step: a fault for every 4 kB of it, or one for every 2 MB.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    for name in ("checkpoint_path", "disc_checkpoint_path"):
        if args.resume and getattr(args, name, None):
            raise UserError(f"--resume looks for the newest checkpoints itself; give it or --{name}, not both")
    hparams.override(args.hparams)
    device = pick_device(args.device)
    torch.backends.cudnn.benchmark = True  # shapes stay the same, so looking for the fastest kernels pays
    machine = join_processes(device, pick_training_precision(args.precision, device))
    torch.manual_seed(args.seed)
    return machine


def training_options(args: argparse.Namespace) -> dict[str, object]:
    """Return what every ``training.Plan`` takes from the command line."""
    return {
        "checkpoint_dir": args.checkpoint_dir,
        "start_from": {"": args.checkpoint_path, "disc_": getattr(args, "disc_checkpoint_path", None)},
        "resume": args.resume,
        "max_steps": args.max_steps,
        "keep": args.keep,
        "num_workers": min(hparams.num_workers, cpu_count()),
    }


# --------------------------------------------------------------------------------------------------------------------
# Argument types


def boolean(text: str) -> bool:
    """True and False as people write them (the 2020 program took ``--static False`` for true)."""
    if text.lower() in ("true", "yes", "1", "on"):
        return True
    if text.lower() in ("false", "no", "0", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def positive(kind: type) -> Callable[[str], float]:
    """A number above zero of type ``kind`` (int or float)."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
        return value

    return parse


def finite(text: str) -> float:
    """Any number but nan and inf."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


# --------------------------------------------------------------------------------------------------------------------
# Device and precision


def pick_device(name: str) -> torch.device:
    """``auto`` -> the fastest device here; else the named one. Raises ValueError if it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no {name} here ({torch.cuda.device_count()} CUDA devices); use --device auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("there is no mps device here; use --device auto")
    return device


def pick_training_precision(name: str, device: torch.device) -> torch.dtype:
    """``auto`` -> bf16 autocast where the hardware has it; float16 would need its losses scaled."""
    if name != "auto":
        return named_precision(name, device)
    fast = cuda_has_bf16(device) if device.type == "cuda" else device.type == "cpu" and cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """``auto`` -> the fastest that stays within about one grey level of float32 on ``device``; else the named one."""
    if name != "auto":
        return named_precision(name, device)
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bf16() else torch.float32


def named_precision(name: str, device: torch.device) -> torch.dtype:
    dtype = PRECISIONS[name]
    if device.type == "cpu" and not cpu_computes(dtype):
        raise UserError(f"this CPU does not compute in {name}; use --precision auto or fp32")
    return dtype


def cpu_count() -> int:
    """Return how many CPUs this process may use: a container or taskset makes them fewer, and torchrun's share them."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, here // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def cpu_computes(dtype: torch.dtype) -> bool:
    """Whether oneDNN has convolutions in ``dtype`` for this CPU at all, fast or not."""
    if dtype == torch.float32 or not torch.backends.mkldnn.is_available():
        return True
    ops = torch.ops.mkldnn
    return bool(ops._is_mkldnn_bf16_supported() if dtype == torch.bfloat16 else ops._is_mkldnn_fp16_supported())


def cuda_has_bf16(device: torch.device) -> bool:
    """Whether this GPU computes in bfloat16. ``torch.cuda.is_bf16_supported`` also says yes where it is emulated (T4).

    Newer torch can be asked to leave these out, but not 2.4, and not about another GPU than the current one.
    """
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (elsewhere it is emulated, slower than float32)."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ("SSE41", "AVX", "AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"):
        return False
    capable = getattr(torch.cpu, "get_capabilities", dict)()
    if capable:
        return bool(capable.get("avx512_bf16") or capable.get("amx_bf16") or capable.get("bf16"))
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # torch before 2.12 has no public way, before 2.6 none
    return bool(ask())
