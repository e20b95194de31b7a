"""Choose the device, the precision, the number of CPU threads and the size of batches to compute with."""

from __future__ import annotations

import math
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from errors import UserError, is_out_of_memory

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds per period, and the period; or max
FAST_FP16 = (7, 0)  # compute capability from which NVIDIA GPUs are faster in half precision (Volta)
MAX_WORKERS = 8  # concurrent network calls; more would only hold more frames in memory
OTHER_TORCH = "install another as pytorch.org describes"
Result = TypeVar("Result")
_lock = threading.Lock()


def pick_device(name: str) -> torch.device:
    """Return the named device, or for ``auto`` the fastest; raise UserError if it is not available."""
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
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        built_without = not (count or torch.version.cuda or torch.version.hip)
        why = f": torch was built without CUDA; {OTHER_TORCH}, or" if built_without else f" ({count} CUDA devices);"
        raise UserError(f"there is no {name} here{why} use --device auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("there is no mps device here; use --device auto")
    return device


def unused_gpu(name: str) -> str:
    """Return a sentence for the user if ``auto`` misses an NVIDIA GPU for lack of another torch; otherwise nothing."""
    if name != "auto" or torch.version.cuda or torch.version.hip or not shutil.which("nvidia-smi"):
        return ""
    return f"this computer has an NVIDIA GPU, but its torch was built without CUDA; {OTHER_TORCH}"


def own_device(name: str) -> str:
    """Return this process's own GPU under torchrun, otherwise ``name``."""
    is_first = not int(os.environ.get("LOCAL_RANK", 0))
    return name if is_first or name not in ("auto", "cuda") or not torch.cuda.is_available() else str(own_gpu())


def own_gpu() -> torch.device:
    """Return this process's own GPU; raise UserError if torchrun started more processes than there are GPUs."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    if local >= (count := torch.cuda.device_count()):
        raise UserError(f"every process needs its own GPU; use --nproc_per_node={count}, the number of GPUs")
    return torch.device("cuda", local)


def pick_training_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the named precision, or for ``auto`` bf16 if the hardware has it; fp16 would need loss scaling."""
    if name == "fp16":
        raise UserError("training in fp16 would lose small gradients; use bf16 or fp32")
    if name != "auto":
        return named_precision(name, device)
    fast = cuda_has_bf16(device) if device.type == "cuda" else device.type == "cpu" and cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the named precision, or for ``auto`` the fastest on ``device`` within about one grey level of float32."""
    if name != "auto":
        return named_precision(name, device)
    if device.type == "cuda":
        halves = torch.cuda.get_device_capability(device) >= FAST_FP16
        return torch.float16 if halves else torch.float32
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bf16() else torch.float32


def named_precision(name: str, device: torch.device) -> torch.dtype:
    if name not in PRECISIONS:
        raise UserError(f"precision {name} is not one of auto, {', '.join(PRECISIONS)}")
    dtype = PRECISIONS[name]
    if device.type == "cpu" and not cpu_computes(dtype):
        raise UserError(f"this CPU does not compute in {name}; use --precision auto or fp32")
    return dtype


def cpu_count() -> int:
    """Return the number of CPUs for this process: those that containers or taskset allow, shared under torchrun."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(here, _container_quota()) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _container_quota() -> int:
    """Return how many CPUs' time a container may use, as by ``docker --cpus``, which changes no affinity."""
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no control group, or "max"
        return sys.maxsize


def cpu_computes(dtype: torch.dtype) -> bool:
    """Return whether oneDNN has convolutions in ``dtype`` for this CPU at all, fast or not."""
    if dtype == torch.float32 or not torch.backends.mkldnn.is_available():
        return True
    ops = torch.ops.mkldnn
    return bool(ops._is_mkldnn_bf16_supported() if dtype == torch.bfloat16 else ops._is_mkldnn_fp16_supported())


def cuda_has_bf16(device: torch.device) -> bool:
    """Return whether this GPU computes in bfloat16 in hardware.

    ``torch.cuda.is_bf16_supported`` also returns True where it is emulated (T4). Newer versions of torch can exclude
    these, but not 2.4, and only for the current GPU.
    """
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def cpu_has_bf16() -> bool:
    """Return whether this CPU multiplies bfloat16 matrices in hardware (emulation is slower than float32)."""
    # torch has a public query from 2.12 on, and a private one from 2.6 on; on Macs it has no oneDNN, which uses them
    return torch.backends.mkldnn.is_available() and _cpu_has(
        "avx512_bf16", "amx_bf16", "bf16", until="AVX512_CORE_VNNI", private="_is_avx512_bf16_supported"
    )


def cpu_has_vnni() -> bool:
    """Return whether this CPU multiplies 8-bit matrices in hardware (elsewhere sums of their products may overflow)."""
    return _cpu_has("avx512_vnni", "avx_vnni", until="AVX512_CORE", private="_is_vnni_supported")


def _cpu_has(*names: str, until: str, private: str) -> bool:
    """Return whether the CPU has one of these instruction sets, and ONEDNN_MAX_CPU_ISA does not exclude it."""
    sets = ("SSE41", "AVX", "AVX2", "AVX512_CORE", "AVX512_CORE_VNNI")
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in sets[: sets.index(until) + 1]:
        return False
    capable: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    if capable:
        return any(capable.get(name) for name in names)
    return bool(getattr(torch.cpu, private, bool)())


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the memory format of the networks' tensors: channels last, except on MPS.

    There the gradients of batch norms fail with it, on torch 2.9 to 2.13 at least (its issues 188371 and 175189).
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def split_on_oom(work: Callable[..., Result], *batches: np.ndarray | None) -> list[Result]:
    """Return ``[work(*batches)]``; if memory runs out, split the batches (equally long, or None) in half and retry."""
    count = next(len(batch) for batch in batches if batch is not None)
    try:
        return [work(*batches)]
    except RuntimeError as error:
        if count == 1 or not is_out_of_memory(error):
            raise
    # not inside the except block, where the error would keep alive whatever filled the memory
    halves = (slice(None, count // 2), slice(count // 2, None))
    parts = ([None if batch is None else batch[half] for batch in batches] for half in halves)
    return [made for part in parts for made in split_on_oom(work, *part)]


def cpu_calls_and_threads() -> tuple[int, int]:
    """Return how many calls of the network to run in parallel on the CPU, and the threads of each."""
    threads = min(torch.get_num_threads(), cpu_count())  # torch does not know what a container may use
    share = -(-threads // MAX_WORKERS)  # rounded up: eight calls with one thread each would leave 4 of 12 cores idle
    return -(-threads // share), share


def calls_at_a_time(device: torch.device) -> int:
    """Return how many calls of the network to run in parallel, each in a thread that has called ``limit_threads``.

    Parallel calls with few threads each need not wait for the slowest core at every layer; the decoder and the encoder
    compete for the cores. On devices other than the CPU, one call is prepared while another runs.
    """
    return cpu_calls_and_threads()[0] if device.type == "cpu" else 2


def limit_threads() -> None:
    """Limit this thread, one of ``calls_at_a_time``, to its share of the CPU's threads; others are not affected."""
    with _lock:
        threads = torch.get_num_threads()
        torch.set_num_threads(cpu_calls_and_threads()[1])
        # torch stores one number for the thread that sets it and one for new threads; this restores the latter
        elsewhere = threading.Thread(target=torch.set_num_threads, args=(threads,))
        elsewhere.start()
        elsewhere.join()
