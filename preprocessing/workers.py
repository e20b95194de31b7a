"""Worker processes: how many, on which devices, and how they end."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess

import cv2
import torch

from devices import cpu_count, pick_device, pick_precision
from errors import UserError
from face_detection.detectors import CPU_DETECTORS
from faces import FaceSearch
from reporting import SILENT, Reporter

from .clips import Clip, Dropped, Kept
from .cutting import Job, cut_clip
from .pieces import check_seconds
from .syncing import SyncCheck


@dataclass(frozen=True)
class PreprocessingOptions:
    """How faces are searched, and on which devices; how long clips are, and whether their sync is checked."""

    search: FaceSearch = FaceSearch(batch_size=32)
    device: str = "auto"
    precision: str = "auto"
    gpus: int = 1  # to use, each with its own processes
    workers: int | None = None  # videos at a time, per GPU; None: 1, or one per CPU core if the detector needs no GPU
    seconds: float | None = None  # longest clip; None: 30, and finished ones stay as they are
    sync: SyncCheck | None = None

    def __post_init__(self) -> None:
        check_seconds(self.seconds)
        if self.gpus < 1 or (self.workers is not None and self.workers < 1):
            raise UserError("the numbers of GPUs and of workers must be 1 or more")


def plan_workers(
    options: PreprocessingOptions, clips: int, report: Reporter = SILENT, cutting: bool = True
) -> list[Job]:
    """Return a job per worker process, at most one per clip; without ``cutting``, no detector is chosen.

    Raises UserError for devices that do not exist.
    """
    devices, workers = pick_devices(options), options.workers or 1
    search = options.search.settled(report) if cutting else options.search
    if search.detector in CPU_DETECTORS:
        devices, workers = ["cpu"], options.workers or cpu_count()
    precision = pick_precision(options.precision, torch.device(devices[0]))
    job = Job(
        search,
        seconds=options.seconds,
        sync=options.sync,
        requested_detector=options.search.detector,
        cutting=cutting,
    )
    jobs = [replace(job, search=search.on(torch.device(name), precision)) for name in devices]
    return (jobs * workers)[:clips]


def pick_devices(options: PreprocessingOptions) -> list[str]:
    """Return the devices of this process; under torchrun, every process of a machine has GPUs of its own."""
    if options.search.detector in CPU_DETECTORS:
        return ["cpu"]
    device = pick_device(options.device)
    if device.type == "cuda" and device.index is None:
        first = int(os.environ.get("LOCAL_RANK", 0)) * options.gpus
        pick_device(f"cuda:{first + options.gpus - 1}")
        return [f"cuda:{first + i}" for i in range(options.gpus)]
    if options.gpus > 1:
        raise UserError(f"--ngpu {options.gpus} needs as many GPUs, but the device is {device}")
    return [str(device)]


def cut_clips(clips: Sequence[Clip], jobs: Sequence[Job]) -> Generator[list[Kept] | Dropped, None, None]:
    """Cut all clips, here or in one process per job; yield each outcome as soon as it is known."""
    if len(jobs) < 2:
        yield from (cut_clip(clip, job) for job in jobs for clip in clips)
        return
    context = multiprocessing.get_context("spawn")  # CUDA and threads do not survive a fork
    threads = -(-cpu_count() // len(jobs))  # rounded up: no core stays idle
    pools = [ProcessPoolExecutor(1, context, start_worker, (threads,)) for _ in jobs]
    waiting, working = iter(clips), dict[Future, tuple[ProcessPoolExecutor, Job, Clip]]()

    def submit_next(pool: ProcessPoolExecutor, job: Job) -> None:
        for clip in itertools.islice(waiting, 1):
            working[pool.submit(cut_clip, clip, job)] = pool, job, clip

    clip = None
    try:
        with ignore_sigint():
            for pool, job in zip(pools, jobs):
                submit_next(pool, job)
        while working:  # a worker that is done gets the next clip, however long the others take
            # with a timeout, as on Windows Ctrl-C does not interrupt a wait without one
            for future in wait(working, timeout=1, return_when=FIRST_COMPLETED).done:
                pool, job, clip = working.pop(future)
                outcome = future.result()
                submit_next(pool, job)
                yield outcome
    except BaseException as error:
        for pool in pools:  # like ``terminate_workers`` of Python 3.14; the program may have other processes
            for process in list((pool._processes or {}).values()):
                process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise RuntimeError(
                f"the worker process that cut {clip.source if clip else 'a clip'} was killed, perhaps for lack of "
                "memory; the same command, best with fewer --workers, continues from there (a program of your own must "
                'check if __name__ == "__main__" before it calls this)'
            ) from error
        raise
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def ignore_sigint() -> Iterator[None]:
    """Have processes started inside ignore Ctrl-C: this process handles it, stops them, and reports it once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def start_worker(threads: int) -> None:
    """Share the CPU with the other workers, and do not outlive the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited from the main process, but not on Windows
    cv2.setNumThreads(threads)
    torch.set_num_threads(threads)
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()


def _exit_with_parent(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
