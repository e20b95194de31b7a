"""Measure the speed of a training step, against the same step in plain float32, in turn.

    python -m benchmarks.training [--device cuda] [--only expert]

Full width, the reference's batches (expert 64 windows; generator and HQ 16 windows of 5 frames). Prints a table and one
JSON object per line: ``expert``, ``generator``, ``hq`` with ``ratio``, seconds per step of both ways, and both losses.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import torch

import arguments
import cli
from benchmarks import print_machine, report
from devices import pick_device, pick_training_precision
from distributed import Distributed
from hparams import HParams
from models import SyncNet_color
from training import ExpertTask, GeneratorTask, HQGeneratorTask, Task

ROUNDS = 3
TASKS = ("expert", "generator", "hq")
VARIANTS = ("fast", "plain")
_prepared: tuple[Task, list[torch.Tensor]]  # set by ``prepare``, in a process of its own


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Measure training steps.")
    parser.add_argument("--only", choices=TASKS, help="Measure only this one; without it, all.")
    parser.add_argument("--rounds", type=cli.positive(int), default=ROUNDS, help="Number of steps each way, in turn.")
    arguments.add_compute_arguments(parser, ("fp32", "bf16"))
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    device = pick_device(args.device)
    dtype = pick_training_precision(args.precision, device)
    print_machine(device, dtype)
    for kind in (args.only,) if args.only else TASKS:
        report(kind, measure(kind, device, dtype, args.rounds))


def measure(kind: str, device: torch.device, dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Return median seconds per step both ways, from equal weights and data; a process each, for torch's allocator."""
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    losses: dict[str, float] = {}
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        processes = {
            variant: stack.enter_context(ProcessPoolExecutor(1, context, prepare, (variant, kind, device, dtype)))
            for variant in VARIANTS
        }
        for round_number in range(rounds + 1):
            for variant, process in processes.items():
                taken, losses[variant] = process.submit(step).result()
                if round_number:  # the first is a warm-up
                    seconds[variant].append(taken)
    fast, plain = (statistics.median(seconds[variant]) for variant in VARIANTS)
    return {
        "ratio": plain / fast,
        "seconds": fast,
        "plain_seconds": plain,
        "loss": losses["fast"],
        "plain_loss": losses["plain"],
    }


def prepare(variant: str, kind: str, device: torch.device, dtype: torch.dtype) -> None:
    global _prepared
    os.environ["THP_MEM_ALLOC_ENABLE"] = str(int(variant == "fast"))  # as in recipes.training_session
    torch.backends.cudnn.benchmark = variant == "fast"  # likewise
    task = make_task(kind, Distributed(device, dtype)) if variant == "fast" else make_plain(kind, device)
    batch = make_batch(kind)
    if variant == "fast" and device.type == "cuda":
        batch = [part.pin_memory() for part in batch]  # as dataset.Loader does
    _prepared = task, batch


def step() -> tuple[float, float]:
    """Return the seconds that a step takes, and its loss."""
    task, batch = _prepared
    start = time.perf_counter()
    loss = float(task.train_step(batch)["loss"].detach())  # float waits for a GPU
    return time.perf_counter() - start, loss


def make_task(kind: str, group: Distributed) -> Task:
    torch.manual_seed(0)
    hp = HParams(syncnet_wt=0.03)
    if kind == "expert":
        task: Task = ExpertTask(group, hp)
    else:
        make = GeneratorTask if kind == "generator" else HQGeneratorTask
        task = make(group, hp, SyncNet_color().eval())
    task.train_mode(True)
    return task


def make_plain(kind: str, device: torch.device) -> Task:
    """Make a task in the reference's way: float32, contiguous, torch's default Adam and pages, the expert unfolded."""
    task = make_task(kind, Distributed(device))
    for part in task.parts():
        part.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # not in torch's stubs
        for group in part.optimizer.param_groups:
            group["fused"] = None
    if isinstance(task, GeneratorTask):
        torch.manual_seed(0)
        task.expert = SyncNet_color().eval().requires_grad_(False).to(device)
    return task


def make_batch(kind: str) -> list[torch.Tensor]:
    torch.manual_seed(1)
    if kind == "expert":
        return [torch.rand(64, 15, 48, 96), torch.randn(64, 1, 80, 16), torch.randint(0, 2, (64, 1)).float()]
    n = 16
    return [
        torch.rand(n, 6, 5, 96, 96),
        torch.randn(n, 5, 1, 80, 16),
        torch.randn(n, 1, 80, 16),
        torch.rand(n, 3, 5, 96, 96),
    ]


if __name__ == "__main__":
    sys.exit(main())
