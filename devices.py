"""Which device and precision to compute on, with how many CPU threads, and how much at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from errors import UserError, is_out_of_memory

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_WORKERS = 8  # network calls at a time; more would only hold more frames
Result = TypeVar("Result")
_lock = threading.Lock()


def pick_device(name: str) -> torch.device:
    """``auto`` -> the fastest device here; else the named one. Raises UserError if it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"cannot compute on {name!r}; use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no {name} here ({torch.cuda.device_count()} CUDA devices); use --device auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("there is no mps device here; use --device auto")
    return device


def own_device(name: str) -> str:
    """Under torchrun every process of a machine takes its own GPU."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    return f"cuda:{local}" if local and name in ("auto", "cuda") and torch.cuda.is_available() else name


def pick_training_precision(name: str, device: torch.device) -> torch.dtype:
    """``auto`` -> bf16 autocast where the hardware has it; float16 would need its losses scaled, and is refused."""
    if name == "fp16":
        raise UserError("training in fp16 would lose small gradients; use bf16 or fp32")
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
    if name not in PRECISIONS:
        raise UserError(f"precision {name} is none of auto, {', '.join(PRECISIONS)}")
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
    # torch before 2.12 has no public way to ask, before 2.6 none
    return _cpu_has("avx512_bf16", "amx_bf16", "bf16", until="AVX512_CORE_VNNI", private="_is_avx512_bf16_supported")


def cpu_has_vnni() -> bool:
    """Whether this CPU multiplies eight-bit matrices in hardware (elsewhere sums of their products may overflow)."""
    return _cpu_has("avx512_vnni", "avx_vnni", until="AVX512_CORE", private="_is_vnni_supported")


def _cpu_has(*names: str, until: str, private: str) -> bool:
    """Whether the CPU has one of these instructions, and oneDNN is not limited to a set that comes no further."""
    sets = ("SSE41", "AVX", "AVX2", "AVX512_CORE", "AVX512_CORE_VNNI")
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in sets[: sets.index(until) + 1]:
        return False
    capable: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    if capable:
        return any(capable.get(name) for name in names)
    return bool(getattr(torch.cpu, private, bool)())


def memory_format(device: torch.device) -> torch.memory_format:
    """Return how the networks' tensors lie in memory: channels last, but on MPS, whose batch norms fail in that.

    Their gradients do, on torch 2.9 to 2.13 at least (its issues 188371 and 175189).
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def in_halves(work: Callable[..., Result], *batches: np.ndarray | None) -> list[Result]:
    """Return what ``work`` makes of arrays of one length, or None, at once; or of their halves, if memory lacks."""
    count = next(len(batch) for batch in batches if batch is not None)
    try:
        return [work(*batches)]
    except RuntimeError as error:
        if count == 1 or not is_out_of_memory(error):
            raise
    # only here: inside the block, the error would keep alive whatever filled the memory
    halves = (slice(None, count // 2), slice(count // 2, None))
    parts = ([None if batch is None else batch[half] for batch in batches] for half in halves)
    return [made for part in parts for made in in_halves(work, *part)]


def cpu_shares() -> tuple[int, int]:
    """Return how many calls of the network to run at a time on the CPU, and the threads of each."""
    threads = torch.get_num_threads()
    share = -(-threads // MAX_WORKERS)  # rounded up: of 12 cores, eight calls with one thread each would leave 4 idle
    return -(-threads // share), share


def calls_at_a_time(device: torch.device) -> int:
    """Return how many calls of the network to run at a time, each in a thread that has called ``take_share``.

    Calls side by side, a thread each, need not wait for the slowest core at every layer: the cores are also wanted by
    the decoder and the encoder. On another device, one call is prepared while another runs.
    """
    return cpu_shares()[0] if device.type == "cpu" else 2


def take_share() -> None:
    """Let this thread, one of ``calls_at_a_time``, compute with its share of the CPU's threads, and no other thread."""
    with _lock:
        threads = torch.get_num_threads()
        torch.set_num_threads(cpu_shares()[1])
        # torch keeps one number for the thread that sets it, and one for threads to come
        elsewhere = threading.Thread(target=torch.set_num_threads, args=(threads,))
        elsewhere.start()
        elsewhere.join()
