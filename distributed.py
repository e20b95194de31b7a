"""Where a network trains: on which device, in which precision, alone or as one of several processes."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import numbers
import os
import signal
import warnings
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from devices import memory_format, own_gpu
from errors import UserError

Batch = Sequence[torch.Tensor]
Network = TypeVar("Network", bound=nn.Module)
MAX_SEED = 2**63 - 1  # torch's limit
TIMEOUT = datetime.timedelta(hours=2)  # for slow processes: one machine may first have to compute a large set's mels


# signals that ask a process to stop, besides Ctrl-C; all but SIGTERM are sent when a terminal is closed (SIGBREAK on
# Windows)
STOP_SIGNALS = {"SIGTERM", "SIGHUP", "SIGBREAK"}


def check_seed(seed: int) -> None:
    """Raise UserError if random number generators do not accept this seed."""
    if not (isinstance(seed, numbers.Integral) and 0 <= seed <= MAX_SEED):
        raise UserError(f"the seed {seed!r} is not a whole number from 0 to 2^63 - 1")


def active_signals(names: Set[str]) -> list[int]:
    """Return the numbers of those signals that exist on this platform and are not ignored (as nohup does)."""
    numbers = [getattr(signal, name) for name in names & set(dir(signal))]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


@dataclass(frozen=True)
class Distributed:
    """Where and how to compute: this process's device, its rank among the others, and the autocast type."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def to_device(self, batch: Batch) -> list[torch.Tensor]:
        # only on CUDA: MPS might still read from the batch after it is freed
        return [part.to(self.device, non_blocking=self.device.type == "cuda") for part in batch]

    def prepare(self, network: Network) -> Network:
        """Move ``network`` to the device; with several processes, share batch-norm statistics between them."""
        if self.world_size > 1:
            network = _share_statistics(network, self.device)
        return self.place(network)

    def place(self, network: Network) -> Network:
        """Move ``network`` to the device, with channels last in memory where that works."""
        how = memory_format(self.device)
        return network.to(self.device, memory_format=how)  # type: ignore[call-overload]  # stubs lack it

    def parallel(self, network: nn.Module) -> nn.Module:
        """Wrap ``network`` so that its gradients are averaged over all processes."""
        if self.world_size == 1:
            return network
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows (N, ...) of all processes, concatenated by rank; every process must have N."""
        if self.world_size == 1:
            return rows
        # gradients flow back to the rows of all processes, and DistributedDataParallel then averages them
        from torch.distributed.nn import functional  # imported here because some builds of torch lack it

        return torch.cat(functional.all_gather(rows.contiguous(), dist.group.WORLD))  # the default was set at import

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Average over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def wait(self) -> None:
        """Wait until all processes have reached this point."""
        self.mean(torch.zeros(1, device=self.device)).item()  # on a GPU, only item() waits


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """Return a context in which tensors on ``device`` are computed in their own precision."""
    if not torch.amp.autocast_mode.is_autocast_available(device.type):  # MPS before torch 2.5
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def join_processes(device: torch.device, dtype: torch.dtype) -> Distributed:
    """Join the process group that ``torchrun`` describes in the environment, if there is one.

    Raises UserError if there are more processes than GPUs, or the device does not support several processes.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        return Distributed(device, dtype)
    if device.type == "mps":
        raise UserError("several processes cannot train on mps; start one, or use --device cpu")
    if device.type == "cuda":
        device = own_gpu()
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        nccl = device.type == "cuda" and dist.is_nccl_available()  # not on Windows
        dist.init_process_group("nccl" if nccl else "gloo", timeout=TIMEOUT)
        atexit.register(leave_processes)  # for programs that do not call it
    # torch 2.13 deprecates these functions but has no public replacement yet
    warnings.filterwarnings("ignore", r"torch\.distributed\.nn\.functional\..* is deprecated")
    return Distributed(device, dtype, dist.get_rank(), world_size)


def leave_processes() -> None:
    """Leave the process group, if there is one; if its threads still ran at exit, Python would abort."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def abandon_processes() -> None:
    """After a failure, leave without waiting for the others: by NCCL they may wait for this one, for hours."""
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "nccl":
        # from torch 2.6 on, which wants the group; before, to leave is to abort
        abort = getattr(dist.distributed_c10d, "_abort_process_group", dist.destroy_process_group)
        abort(dist.group.WORLD)


def preserve_rng(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Return a context that restores torch's random state, also that of ``device``, when it ends."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _mean_over_processes(values: torch.Tensor) -> torch.Tensor:
    """Average a tensor over all processes; its gradient is the average of theirs."""
    from torch.distributed.nn import functional

    return functional.all_reduce(values, group=dist.group.WORLD) / dist.get_world_size()


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes combined; torch's SyncBatchNorm needs GPUs."""

    # optional in BatchNorm2d, but always set in our networks
    momentum: float
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        with without_autocast(x.device):
            wide = x.float()
            mean = _mean_over_processes(wide.mean((0, 2, 3)))
            centred = wide - mean[:, None, None]
            variance = _mean_over_processes(centred.square().mean((0, 2, 3)))
            self._remember(mean.detach(), variance.detach(), x.numel() / x.shape[1] * dist.get_world_size())
            scale = self.weight * torch.rsqrt(variance + self.eps)
            return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _remember(self, mean: torch.Tensor, variance: torch.Tensor, count: float) -> None:
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        self.num_batches_tracked.add_(1)


def _share_statistics(network: Network, device: torch.device) -> Network:
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d  # same parameters and buffers, another forward
    return network
