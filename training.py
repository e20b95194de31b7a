"""Training, once for all three networks: losses, steps, the loop around them, evaluation, checkpoints and logs.

A ``Task`` knows its networks, what one step does and what is worth reporting. ``fit`` runs any task, on one process
or many, and can be stopped and continued at any step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

import files
from dataset import Batches, WindowDataset, evaluation_windows, make_loader
from hparams import HParams
from models import SyncNet_color, Wav2Lip, Wav2Lip_disc_qual, weights
from models.conv import fold_batchnorm

Batch = Sequence[torch.Tensor]
Figures = dict[str, float]

LN2 = math.log(2)
PLATEAU_MARGIN = 0.01  # a loss this close to ln 2 is guessing
SYNC_THRESHOLD = 0.75  # evaluation sync loss below which the sync loss starts to count (2020)
COLLAPSE = 5.0  # a discriminator or adversarial loss above this for WATCHED_STEPS steps has run away
WATCHED_STEPS = 100  # steps averaged before a warning is given
STEP_DIGITS = 9  # in the names of checkpoints (2020)


# --------------------------------------------------------------------------------------------------------------------
# Losses


def cosine_loss(audio: torch.Tensor, face: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the cosine of two unit embeddings (N, D) against y (N, 1); also return the cosine (N,).

    Paper, equation 1. Computed in float32, and clamped: rounding lifts a cosine to 1.0000004, where the loss fails.
    """
    with torch.autocast(audio.device.type, enabled=False):
        cosine = F.cosine_similarity(audio.float(), face.float()).clamp(0.0, 1.0)
        return _cross_entropy(cosine, y.flatten().float()).mean(), cosine


def all_pairs_loss(
    audio: torch.Tensor, face: torch.Tensor, place: torch.Tensor, nearest: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same cross-entropy for every face with every voice of a batch: unit embeddings (N, D) of N windows in sync.

    ``place`` (N, 2) is the clip and the first frame of each window. Half of the loss is the mean over matched pairs, a
    quarter that over pairs within a clip, ``nearest`` frames apart or more, and a quarter that over pairs across clips.
    Also return the cosine (N, N), faces down and voices across, and which of the pairs are matched.
    """
    clip, frame = place.unbind(1)
    same_clip = clip[:, None] == clip
    distance = (frame[:, None] - frame).abs()
    matched = same_clip & (distance == 0)
    with torch.autocast(audio.device.type, enabled=False):
        cosine = (face.float() @ audio.float().T).clamp(0.0, 1.0)
        losses = _cross_entropy(cosine, matched.float())
    parts = [(matched, 1 / 2), (same_clip & (distance >= nearest), 1 / 4), (~same_clip, 1 / 4)]
    return sum(share * _mean_where(losses, chosen) for chosen, share in parts), cosine, matched


def _cross_entropy(cosine: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Torch's, one by one; it fails for a cosine that is not a number, without a word on where it comes from."""
    number = cosine.nan_to_num(0.5)
    return F.binary_cross_entropy(number, y, reduction="none") + (cosine - number).detach()


def _mean_where(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the mean of the values chosen, 0 if there are none."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


def mouths_of(faces: torch.Tensor) -> torch.Tensor:
    """Windows of faces (N, 3, T, H, W) -> what the expert sees (N, 3·T, H/2, W): lower halves, frame after frame."""
    return faces[:, :, :, faces.shape[3] // 2 :].transpose(1, 2).flatten(1, 2)


def sync_loss(expert: nn.Module, mels: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """How far ``expert`` is from finding ``faces`` (N, 3, T, H, W) in sync with ``mels`` (N, 1, 80, 16)."""
    audio, face = expert(mels, mouths_of(faces))
    return cosine_loss(audio, face, torch.ones(len(faces), device=faces.device))[0]


def real_fake_loss(logits: torch.Tensor, real: bool) -> torch.Tensor:
    """The discriminator's cross-entropy, from logits so that a confident one still learns."""
    with torch.autocast(logits.device.type, enabled=False):
        return F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, float(real)).float())


# --------------------------------------------------------------------------------------------------------------------
# Processes and precision


@dataclass(frozen=True)
class Machine:
    """Where and how to compute: this process's device and place among the others, and the autocast type."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def to_device(self, batch: Batch) -> list[torch.Tensor]:
        return [part.to(self.device, non_blocking=True) for part in batch]

    def prepare(self, network: nn.Module) -> nn.Module:
        """Move ``network`` here; with several processes, share batch-norm statistics between them."""
        if self.world_size > 1:
            network = _share_statistics(network, self.device)
        return network.to(self.device, memory_format=torch.channels_last)

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return the form of ``network`` whose gradients are averaged over all processes."""
        if self.world_size == 1:
            return network
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows (N, ...) of all processes, one process after the other; every process must have N."""
        return _RowsOfAllProcesses.apply(rows) if self.world_size > 1 else rows

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Average over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values


def join_processes(device: torch.device, dtype: torch.dtype) -> Machine:
    """Join the group that ``torchrun`` describes in the environment, or be alone without one."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        return Machine(device, dtype)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Machine(device, dtype, dist.get_rank(), world_size)


class _MeanOverProcesses(torch.autograd.Function):
    """Average a tensor over all processes; its gradient is the average of theirs."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _MeanOverProcesses.forward(ctx, gradient)


class _RowsOfAllProcesses(torch.autograd.Function):
    """Concatenate the rows of all processes, for a loss that each of them computes from all rows.

    Each process then has the whole gradient of its own rows, but DistributedDataParallel will average over processes.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.chunk(dist.get_world_size())[dist.get_rank()] * dist.get_world_size()


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, as one would see them; torch's SyncBatchNorm needs GPUs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            wide = x.float()
            mean = _MeanOverProcesses.apply(wide.mean((0, 2, 3)))
            centred = wide - mean[:, None, None]
            variance = _MeanOverProcesses.apply(centred.square().mean((0, 2, 3)))
            self._remember(mean.detach(), variance.detach(), x.numel() / x.shape[1] * dist.get_world_size())
            scale = self.weight * torch.rsqrt(variance + self.eps)
            return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _remember(self, mean: torch.Tensor, variance: torch.Tensor, count: float) -> None:
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        self.num_batches_tracked += 1


def _share_statistics(network: nn.Module, device: torch.device) -> nn.Module:
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d  # same parameters and buffers, another forward
    return network


# --------------------------------------------------------------------------------------------------------------------
# Tasks: what one step does


class Task:
    """One kind of training. Subclasses fill in the networks, a step and its figures."""

    def __init__(self, machine: Machine, hp: HParams) -> None:
        self.machine, self.hp = machine, hp

    @cached_property
    def mean(self) -> AveragedModel | None:
        """The running mean of the main network, its statistics included, if ``hparams.ema_decay`` asks for one.

        It is what is evaluated and saved: steadier and mostly better than the weights of any one step.
        """
        if not self.hp.ema_decay:
            return None
        return AveragedModel(self.main_network, multi_avg_fn=_running_mean(self.hp.ema_decay), use_buffers=True)

    @property
    def main_network(self) -> nn.Module:
        *_, (_, network, _) = self.parts()
        return network

    @contextlib.contextmanager
    def mean_in_place(self) -> Iterator[None]:
        """Inside, the main network has the weights of ``mean``."""
        pairs = []
        if self.mean:
            both = (itertools.chain(n.parameters(), n.buffers()) for n in (self.main_network, self.mean.module))
            pairs = list(zip(*both))

        def exchange() -> None:
            for a, b in pairs:
                a.data, b.data = b.data, a.data

        exchange()
        try:
            yield
        finally:
            exchange()

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Improve the networks once; return "loss" and its parts, each a scalar tensor."""
        raise NotImplementedError

    def evaluate_batch(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the same figures for ``batch``, without learning from it; networks are in eval mode."""
        raise NotImplementedError

    def parts(self) -> Iterator[tuple[str, nn.Module, torch.optim.Optimizer]]:
        """Yield (checkpoint prefix, network, optimizer) of everything that learns, the main network last."""
        raise NotImplementedError

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides networks and optimizers."""
        return {}

    def load_extra_state(self, checkpoint: dict[str, Any]) -> None:
        """Take back what ``extra_state`` gave, as far as the checkpoint has it."""

    def after_evaluation(self, figures: Figures) -> str | None:
        """React to an evaluation; return a sentence for the user if something changed."""

    def warning(self, recent: deque[Figures], step: int) -> str | None:
        """Return what is wrong with the last figures, if anything; asked once a step."""

    def collage(self) -> np.ndarray | None:
        """Return pictures (N, T, height, width, 3) uint8 BGR of the last training step, or None."""

    def train_mode(self, on: bool) -> None:
        for _, network, _ in self.parts():
            network.train(on)


def _running_mean(decay: float) -> Callable[[list[torch.Tensor], list[torch.Tensor], torch.Tensor], None]:
    """Return what moves means towards values, keeping at most the share ``decay`` of them.

    A young mean forgets faster. With 0.99 throughout, that of an expert which had learned for 200 steps still guessed:
    an eighth of it was the random start.
    """

    @torch.no_grad()
    def update(means: list[torch.Tensor], values: list[torch.Tensor], count: torch.Tensor) -> None:
        share = max(1 - decay, 9 / (10 + int(count)))
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, values, share)
        else:  # counters of batch norms
            torch._foreach_copy_(means, values)

    return update


class ExpertTask(Task):
    """The expert learns to tell windows in sync from windows that are not (paper, section 3.2)."""

    def __init__(self, machine: Machine, hp: HParams, width: float = 1.0) -> None:
        super().__init__(machine, hp)
        self.expert = machine.prepare(SyncNet_color(width))
        self.parallel = machine.parallel(self.expert)
        self.optimizer = torch.optim.Adam(self.expert.parameters(), lr=hp.syncnet_lr)
        self._warned = False

    def parts(self) -> Iterator[tuple[str, nn.Module, torch.optim.Optimizer]]:
        yield "", self.expert, self.optimizer

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        figures = self._learning_figures(batch)
        self.optimizer.zero_grad()
        figures["loss"].backward()
        self.optimizer.step()
        return figures

    def evaluate_batch(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self._figures(self.expert, batch)

    def _learning_figures(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self._figures(self.parallel, batch)

    def _figures(self, network: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        mouths, mels, y = self.machine.to_device(batch)
        with self.machine.autocast():
            audio, face = network(mels, mouths)
        loss, cosine = cosine_loss(audio, face, y)
        matched, cosine = y.flatten() > 0.5, cosine.detach()
        return {
            "loss": loss,
            "accuracy": ((cosine > 0.5) == matched).float().mean(),
            # shares of the batch, so that averages over batches stay exact: see Averages
            "matched": _sum_and_count(cosine, matched),
            "mismatched": _sum_and_count(cosine, ~matched),
        }

    def warning(self, recent: deque[Figures], step: int) -> str | None:
        if self._warned or step < self.hp.plateau_warn_steps or len(recent) < WATCHED_STEPS:
            return None
        if not _guesses(float(np.mean([f["loss"] for f in recent]))):
            return None
        self._warned = True
        return (
            f"the expert still guesses (loss {LN2:.2f} = ln 2) after {step} steps. Likely causes, in order: sound and "
            "picture are offset in the data (check: python similarity.py --face CLIP --checkpoint_path EXPERT, one "
            "that is known to work, such as lipsync_expert); the data is not 25 fps, 16 kHz (check: report.json of "
            "preprocess.py, made again with python preprocess.py); too few clips or speakers "
            "(check: wc -l filelists/train.txt; thousands of clips are usual). The authors saw it leave the plateau "
            "only after 150000 steps on LRS2"
        )


def _guesses(loss: float) -> bool:
    return abs(loss - LN2) < PLATEAU_MARGIN


class AllPairsExpertTask(ExpertTask):
    """The same from batches of MatchedWindows: 64 windows make 64 matched and 4032 mismatched pairs, not 64 in all.

    Embedding faces and voices is nearly all of a step, comparing them costs nothing. Evaluations stay those of 2020.
    """

    def _learning_figures(self, batch: Batch) -> dict[str, torch.Tensor]:
        mouths, mels, place = self.machine.to_device(batch)
        with self.machine.autocast():
            audio, face = (self.machine.gather(part) for part in self.parallel(mels, mouths))
        place = self.machine.gather(place)
        loss, cosine, matched = all_pairs_loss(audio, face, place, self.hp.negative_distance)
        cosine = cosine.detach()
        found = (cosine > 0.5) == matched
        return {
            "loss": loss,
            # both kinds count alike, as in an evaluation; here there are far more wrong pairs
            "accuracy": (_mean_where(found, matched) + _mean_where(found, ~matched)) / 2,
            "matched": _sum_and_count(cosine, matched),
            "mismatched": _sum_and_count(cosine, ~matched),
        }


def _sum_and_count(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return torch.stack((values[chosen].sum(), chosen.sum().to(values.dtype)))


class GeneratorTask(Task):
    """The generator learns to redraw masked mouths: L1, and the sync loss of a frozen expert (paper, section 3.4)."""

    sync_weight_when_on = 0.01  # 2020

    def __init__(
        self, machine: Machine, hp: HParams, expert: nn.Module, judge: nn.Module | None = None, width: float = 1.0
    ) -> None:
        super().__init__(machine, hp)
        generator = Wav2Lip(width)
        if hp.audio_from_expert:
            adopt_audio_encoder(generator, expert)
        self.generator = machine.prepare(generator)
        self.parallel = machine.parallel(self.generator)
        betas = (hp.adam_beta1, 0.999)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=hp.initial_learning_rate, betas=betas)
        # in eval mode, its batch norms fixed and folded: in 2020 it stayed in train mode and its statistics drifted
        self.expert, self.judge = (network and self._frozen(network) for network in (expert, judge))
        self.sync_weight = hp.syncnet_wt

    def _frozen(self, network: nn.Module) -> nn.Module:
        return fold_batchnorm(network).requires_grad_(False).to(self.machine.device, memory_format=torch.channels_last)

    def parts(self) -> Iterator[tuple[str, nn.Module, torch.optim.Optimizer]]:
        yield "", self.generator, self.optimizer

    def extra_state(self) -> dict[str, Any]:
        return {"syncnet_wt": self.sync_weight}

    def load_extra_state(self, checkpoint: dict[str, Any]) -> None:
        if not self.hp.syncnet_wt:  # else --hparams has asked for one
            self.sync_weight = float(checkpoint.get("syncnet_wt", self.sync_weight))

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        x, frame_mels, mel, real = self.machine.to_device(batch)
        with self.machine.autocast():
            fake = self.parallel(frame_mels, x).float()
            figures = self._losses(fake, mel, real)
        self.optimizer.zero_grad()
        figures["loss"].backward()
        self.optimizer.step()
        self._shown = x, fake, real
        return figures

    def _losses(self, fake: torch.Tensor, mel: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        figures = {"l1": F.l1_loss(fake, real)}
        if self.sync_weight > 0 or not torch.is_grad_enabled():
            figures["sync"] = sync_loss(self.expert, mel, fake)
        loss = self._l1_weight() * figures["l1"]
        if self.sync_weight > 0:
            loss = loss + self.sync_weight * figures["sync"]
        return {"loss": loss, **figures}

    def _l1_weight(self) -> float:
        return 1 - self.sync_weight

    def evaluate_batch(self, batch: Batch) -> dict[str, torch.Tensor]:
        x, frame_mels, mel, real = self.machine.to_device(batch)
        with self.machine.autocast():
            return self._evaluation(self.generator(frame_mels, x).float(), mel, real)

    def _evaluation(self, fake: torch.Tensor, mel: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        figures = self._losses(fake, mel, real)
        figures["sync_of_real"] = sync_loss(self.expert, mel, real)
        if self.judge:
            figures["judge"] = sync_loss(self.judge, mel, fake)
            figures["judge_of_real"] = sync_loss(self.judge, mel, real)
        return figures

    def after_evaluation(self, figures: Figures) -> str | None:
        if self.sync_weight > 0 or not figures["sync"] < SYNC_THRESHOLD:
            return None
        self.sync_weight = self.sync_weight_when_on
        return f"the sync loss fell to {figures['sync']:.3f}: from now on it counts with weight {self.sync_weight}"

    def collage(self) -> np.ndarray:
        """Reference, masked input, generated and real face side by side, as in 2020."""
        x, fake, real = self._shown
        together = torch.cat((x[:, 3:], x[:, :3], fake.detach(), real), dim=4)  # (N, 3, T, H, 4·W)
        return (together.permute(0, 2, 3, 4, 1) * 255).round().to(torch.uint8).cpu().numpy()


def adopt_audio_encoder(generator: Wav2Lip, expert: SyncNet_color) -> None:
    """Let ``generator`` hear from the start what ``expert`` has learned to hear; both of one width.

    The L1 loss alone takes long to notice that the sound has to do with lips; so does the expert, but once is enough.
    """
    if generator.width != expert.width:
        raise ValueError(f"audio_from_expert takes an expert of width {generator.width:g}, not {expert.width:g}")
    blocks, count = list(expert.audio_encoder), len(generator.audio_encoder)
    alike = [*blocks[: count - 2], *blocks[-2:]]  # the expert has one residual block more before the last two
    for mine, theirs in zip(generator.audio_encoder, alike):
        mine.load_state_dict(theirs.state_dict())


class HQGeneratorTask(GeneratorTask):
    """The same against a visual-quality discriminator: generator first, then discriminator (paper, section 3.4)."""

    sync_weight_when_on = 0.03  # 2020

    def __init__(
        self, machine: Machine, hp: HParams, expert: nn.Module, judge: nn.Module | None = None, width: float = 1.0
    ) -> None:
        super().__init__(machine, hp, expert, judge, width)
        self.discriminator = machine.prepare(Wav2Lip_disc_qual(width))
        self.parallel_discriminator = machine.parallel(self.discriminator)
        betas, rate = (hp.adam_beta1, 0.999), hp.disc_initial_learning_rate
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=rate, betas=betas)
        self._checks = [self._collapse, self._guessing]

    def load_extra_state(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint.get("syncnet_wt") == GeneratorTask.sync_weight_when_on:  # switched on before the discriminator
            checkpoint = {**checkpoint, "syncnet_wt": self.sync_weight_when_on}
        super().load_extra_state(checkpoint)

    def parts(self) -> Iterator[tuple[str, nn.Module, torch.optim.Optimizer]]:
        yield "disc_", self.discriminator, self.discriminator_optimizer
        yield "", self.generator, self.optimizer

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.discriminator.requires_grad_(False)
        figures = super().train_step(batch)
        self.discriminator.requires_grad_(True)

        _, fake, real = self._shown
        with self.machine.autocast():
            logits = self.parallel_discriminator(torch.cat((real, fake.detach())), logits=True)
        figures |= self._judgement(logits)
        self.discriminator_optimizer.zero_grad()
        (figures["real"] + figures["fake"]).backward()
        self.discriminator_optimizer.step()
        return figures

    def _losses(self, fake: torch.Tensor, mel: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        figures = super()._losses(fake, mel, real)
        if self.hp.disc_wt > 0:
            figures["perceptual"] = real_fake_loss(self.discriminator(fake, logits=True), True)
            figures["loss"] = figures["loss"] + self.hp.disc_wt * figures["perceptual"]
        return figures

    def _l1_weight(self) -> float:
        return 1 - self.sync_weight - self.hp.disc_wt

    def _judgement(self, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        # the discriminator gives all clips' first frames, then all second ones, …: each half real, half fake
        real, fake = logits.view(self.hp.syncnet_T, -1).chunk(2, dim=1)
        return {"real": real_fake_loss(real, True), "fake": real_fake_loss(fake, False)}

    def _evaluation(self, fake: torch.Tensor, mel: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.discriminator(torch.cat((real, fake)), logits=True)
        return super()._evaluation(fake, mel, real) | self._judgement(logits)

    def warning(self, recent: deque[Figures], step: int) -> str | None:
        if len(recent) < WATCHED_STEPS:
            return None
        means = {name: float(np.mean([f.get(name, 0.0) for f in recent])) for name in ("perceptual", "real", "fake")}
        for check in self._checks:
            if text := check(means):
                self._checks.remove(check)  # each is reported once
                return text
        return None

    def _collapse(self, means: Figures) -> str | None:
        worst = max(means, key=means.__getitem__)
        if means[worst] < COLLAPSE:
            return None
        return (
            f"the discriminator has collapsed: its loss {worst!r} was {means[worst]:.1f} over the last {WATCHED_STEPS} "
            "steps. Go back to an earlier checkpoint with a lower --hparams disc_wt or disc_initial_learning_rate"
        )

    def _guessing(self, means: Figures) -> str | None:
        if not _guesses((means["real"] + means["fake"]) / 2):
            return None
        learned = max((int(state["step"]) for state in self.discriminator_optimizer.state.values()), default=0)
        if learned < self.hp.plateau_warn_steps:
            return None
        return (
            f"the discriminator still guesses (loss {LN2:.2f} = ln 2) after {learned} steps of its own. If the samples "
            "are not as sharp as real faces, it teaches the generator nothing, which changes faster than the "
            "discriminator learns: lower --hparams initial_learning_rate, raise disc_initial_learning_rate"
        )


# --------------------------------------------------------------------------------------------------------------------
# Figures


class Averages:
    """Exact means of figures over batches; a figure given as (sum, count) is averaged over its own count."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, figures: dict[str, torch.Tensor], count: int) -> None:
        for name, value in figures.items():
            value = value.detach().to(torch.float32 if value.device.type == "mps" else torch.float64)  # mps has no more
            pair = value if value.dim() else torch.stack((value * count, torch.full_like(value, count)))
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def means(self, machine: Machine) -> Figures:
        """Over all processes. Figures without a single value are left out."""
        if not self._sums:
            return {}
        table = machine.mean(torch.stack(list(self._sums.values())))
        return {name: float(total / count) for name, (total, count) in zip(self._sums, table.cpu()) if count > 0}


@torch.no_grad()
def evaluate(task: Task, loader: Iterable[Batch]) -> Figures:
    """Return the mean figures of ``task`` over ``loader``, an equal share on every process."""
    task.train_mode(False)
    averages = Averages()
    for batch in loader:
        averages.add(task.evaluate_batch(batch), len(batch[0]))
    task.train_mode(True)
    return averages.means(task.machine)


class Log:
    """metrics.jsonl, one object a line, and TensorBoard scalars and pictures where that package is installed."""

    def __init__(self, folder: Path, position: Position) -> None:
        self._path = folder / "metrics.jsonl"
        self._forget_after(position)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=position.step + 1)
        except ImportError:
            self._board = None

    def _forget_after(self, position: Position) -> None:
        """Drop what a killed run wrote after the checkpoint that we continue from."""
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a line that was cut off by the kill
                record = json.loads(line)
                again = record["step"] == position.step and record["split"] == "val" and position.owes_evaluation
                kept += [line] if record["step"] <= position.step and not again else []
        files.save(self._path, "".join(f"{line}\n" for line in kept))

    def figures(self, step: int, split: str, figures: Figures, seconds: float) -> None:
        record = {
            "step": step,
            "split": split,
            **{k: round(v, 6) for k, v in figures.items()},
            "seconds": round(seconds, 3),
        }
        self._file.write(f"{json.dumps(record)}\n")
        self._file.flush()
        if self._board:
            for name, value in figures.items():
                self._board.add_scalar(f"{name}/{split}", value, step)

    def pictures(self, step: int, pictures: np.ndarray) -> None:
        """Show the first frame of up to eight windows (N, T, H, W, 3) BGR, one below the other."""
        if self._board:
            grid = np.concatenate(pictures[:8, 0])[..., ::-1]
            self._board.add_image("samples", grid, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        if self._board:
            self._board.close()


# --------------------------------------------------------------------------------------------------------------------
# Checkpoints


def save_checkpoint(task: Task, folder: Path, position: Position, epoch: int, keep: int | None = None) -> Path:
    """Write ``checkpoint_step%09d.pth`` (and ``disc_…``) in ``folder``; keep ``keep`` of each, up to this step."""
    step = position.step
    for prefix, network, optimizer in task.parts():
        content = {
            "state_dict": network.state_dict(),
            "optimizer": optimizer.state_dict() if task.hp.save_optimizer_state else None,
            "global_step": step,
            "global_epoch": epoch,
            "owes_evaluation": position.owes_evaluation,
            "width": network.width,
            "hparams": dataclasses.asdict(task.hp),
            "random_state": torch.get_rng_state(),
            **task.extra_state(),
        }
        if not prefix and task.mean:
            content |= {
                "state_dict": task.mean.module.state_dict(),
                "training_state_dict": network.state_dict(),
                "steps_in_mean": int(task.mean.n_averaged),
            }
        path = folder / checkpoint_name(prefix, step)
        with files.whole(path) as partial:
            torch.save(content, partial)
    if keep:  # only now: every step that is left has all its parts
        for prefix, _, _ in task.parts():
            for old in [s for s in steps_saved(folder, prefix) if s <= step][:-keep]:
                (folder / checkpoint_name(prefix, old)).unlink()
    return path


def checkpoint_name(prefix: str, step: int) -> str:
    return f"{prefix}checkpoint_step{step:0{STEP_DIGITS}d}.pth"


def newest_step(folder: Path, prefixes: Sequence[str]) -> int | None:
    """Return the highest step for which ``folder`` has a checkpoint of every part, None if there is none."""
    return max(set.intersection(*(set(steps_saved(folder, prefix)) for prefix in prefixes)), default=None)


def steps_saved(folder: Path, prefix: str) -> list[int]:
    """Return the steps for which ``folder`` has a checkpoint of one part, ascending."""
    names = (
        path.stem.removeprefix(f"{prefix}checkpoint_step") for path in folder.glob(f"{prefix}checkpoint_step*.pth")
    )
    return sorted(int(name) for name in names if name.isdecimal() and len(name) >= STEP_DIGITS)


@dataclass(frozen=True)
class Position:
    """Where a run, or a checkpoint of it, stands."""

    step: int = 0
    owes_evaluation: bool = False  # of this step, still to come; it may switch on the sync loss
    hparams: dict[str, Any] = field(default_factory=dict)  # of the run that wrote it, as far as the file says

    def changes(self, hp: HParams) -> str:
        """Say in words what ``hp`` changes, nothing if nothing."""
        now = dataclasses.asdict(hp)
        return ", ".join(f"{n} {v} -> {now[n]}" for n, v in self.hparams.items() if n in now and now[n] != v)


def load_checkpoint(task: Task, path: Path, prefix: str = "") -> Position:
    """Continue one part of ``task`` from ``path``, ours or an official one.

    Raises ValueError if the file does not fit.
    """
    network, optimizer = next((n, o) for p, n, o in task.parts() if p == prefix)
    checkpoint = weights.read_checkpoint(path, type(network))
    if checkpoint.width != network.width:
        ours = checkpoint.width
        raise ValueError(f"{path} has width {ours:g}, this run {network.width:g}; say --hparams width={ours:g}")
    network.load_state_dict(checkpoint.extra.get("training_state_dict", checkpoint.state))
    if not prefix and task.mean:
        task.mean.module.load_state_dict(checkpoint.state)
        task.mean.n_averaged.fill_(checkpoint.extra.get("steps_in_mean", 1))
    if checkpoint.extra.get("optimizer"):
        chosen = [group["lr"] for group in optimizer.param_groups]
        optimizer.load_state_dict(checkpoint.extra["optimizer"])
        for group, rate in zip(optimizer.param_groups, chosen):
            group["lr"] = rate  # that of --hparams, not the one of the run that is continued
    if not prefix:
        task.load_extra_state(checkpoint.extra)
        if (state := checkpoint.extra.get("random_state")) is not None:
            torch.set_rng_state(state)
    extra = checkpoint.extra
    owes = bool(extra.get("owes_evaluation"))
    return Position(int(extra.get("global_step", 0)), owes, extra.get("hparams", {}))


def save_collage(folder: Path, step: int, pictures: np.ndarray) -> None:
    """Write ``samples_step%09d/<window>_<frame>.jpg`` as in 2020."""
    target = folder / f"samples_step{step:09d}"
    target.mkdir(exist_ok=True)
    for n, window in enumerate(pictures):
        for t, picture in enumerate(window):
            cv2.imwrite(str(target / f"{n}_{t}.jpg"), picture)


# --------------------------------------------------------------------------------------------------------------------
# The loop


class Stopped(KeyboardInterrupt):
    """The run was asked to stop and has saved itself."""


@dataclass
class Plan:
    """What to train with and for how long. Intervals are in steps."""

    checkpoint_dir: Path
    batch_size: int  # of all processes together
    checkpoint_interval: int
    eval_interval: int
    eval_steps: int  # batches in one evaluation, at most
    evaluate_first: bool = False  # also after step 1
    start_from: dict[str, Path | None] = field(default_factory=dict)  # checkpoint of each part of the task, by prefix
    resume: bool = False  # start from the newest in ``checkpoint_dir``
    max_steps: int | None = None
    keep: int | None = None  # checkpoints; None: all
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "checkpoint_interval", "eval_interval", "eval_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}; see --hparams")


def fit(task: Task, train: WindowDataset, val: WindowDataset, plan: Plan, show: Callable[[str], None]) -> None:
    """Train ``task`` as planned; ``show`` gets sentences for the user.

    Raises Stopped after Ctrl-C or SIGTERM, when all is saved; ValueError for a checkpoint that does not fit;
    RuntimeError for a loss that is not finite.
    """
    machine = task.machine
    plan.checkpoint_dir.mkdir(parents=True, exist_ok=True)
    position = _restore(task, plan)
    if machine.is_main:
        _introduce(train, val, plan, position, show)
        if plan.resume and (changes := position.changes(task.hp)):
            show(f"warning: this is not the run as it was: {changes}")
    batches = Batches(train, plan.batch_size, position.step, machine.rank, machine.world_size)
    windows = max(machine.world_size, min(plan.eval_steps * plan.batch_size, len(val.index)))
    evaluation = evaluation_windows(windows, plan.batch_size // machine.world_size, machine.rank, machine.world_size)
    pin = machine.device.type == "cuda"
    train_loader = make_loader(train, batches, plan.num_workers, pin)
    val_loader = make_loader(val, evaluation, plan.num_workers, pin)
    _Trainer(task, plan, position, batches, show).run(train_loader, val_loader)


def _restore(task: Task, plan: Plan) -> Position:
    """Load what the plan starts from and return where that stands, step 0 without any checkpoint."""
    prefixes, folder = [prefix for prefix, _, _ in task.parts()], plan.checkpoint_dir
    start_from = dict(plan.start_from)
    if plan.resume and (newest := newest_step(folder, prefixes)) is not None:
        start_from = {prefix: folder / checkpoint_name(prefix, newest) for prefix in prefixes}
    positions = {prefix: load_checkpoint(task, path, prefix) for prefix, path in start_from.items() if path}
    position = positions.get("", Position())
    latest = max((step for prefix in prefixes for step in steps_saved(folder, prefix)), default=0)
    if latest > position.step and not plan.resume:
        raise ValueError(
            f"{folder} holds a run that has come to step {latest}, and this one would write over it; "
            "add --resume to go on with it, or choose another --checkpoint_dir"
        )
    _check_agreement(task.machine, position.step, folder)
    return position


def _check_agreement(machine: Machine, step: int, folder: Path) -> None:
    """Raise ValueError if the processes have come to different steps."""
    steps = sorted(set(machine.gather(torch.tensor([step], device=machine.device)).tolist()))
    if len(steps) > 1:
        raise ValueError(
            f"the processes would continue after different steps, {' and '.join(map(str, steps))}: --checkpoint_dir "
            f"{folder} must be one folder that all machines share"
        )


def _introduce(
    train: WindowDataset, val: WindowDataset, plan: Plan, position: Position, show: Callable[[str], None]
) -> None:
    for name, data in (("training", train), ("validation", val)):
        show(f"{name}: {len(data.index.clips)} clips, {len(data.index)} windows")
        if data.index.unusable:
            folder, reason = next(iter(data.index.unusable.items()))
            show(f"warning: {len(data.index.unusable)} {name} clips cannot be used, the first: {folder}: {reason}")
    how = "continuing after" if position.step else "starting from"
    show(f"{how} step {position.step}, batches of {plan.batch_size}")


class _Trainer:
    """The loop of ``fit``: state that changes from step to step."""

    def __init__(
        self, task: Task, plan: Plan, position: Position, batches: Batches, show: Callable[[str], None]
    ) -> None:
        self.task, self.plan, self.batches, self.show = task, plan, batches, show
        self.step, self.owes_evaluation = position.step, position.owes_evaluation
        self.machine = task.machine
        self.recent: deque[Figures] = deque(maxlen=WATCHED_STEPS)
        self.log = Log(plan.checkpoint_dir, position) if self.machine.is_main else None
        self._stop = False
        self._saved = self._position
        self._whole = True  # between steps; in the middle of one there is nothing worth saving

    @property
    def _position(self) -> Position:
        return Position(self.step, self.owes_evaluation)

    def run(self, train_loader: Iterable[Batch], val_loader: Iterable[Batch]) -> None:
        plan = self.plan
        self.task.train_mode(True)
        remaining = None if plan.max_steps is None else max(0, plan.max_steps - self.step)
        quiet = None if self.machine.is_main else True  # None: when not on a terminal
        bar = tqdm(total=plan.max_steps, initial=self.step, unit="step", disable=quiet)
        with self._signals(), self._saving(), bar:
            if self.owes_evaluation:
                self._evaluate(val_loader)
            for batch in self._fetch(itertools.islice(train_loader, remaining)):
                self._train(batch, bar)
                self.owes_evaluation = self.step % plan.eval_interval == 0 or (self.step == 1 and plan.evaluate_first)
                due = self.step == 1 or self.step % plan.checkpoint_interval == 0  # kept from 2020: also at step 1
                if due:
                    self._save(pictures=True)
                if self.owes_evaluation:
                    self._evaluate(val_loader)
                if due:  # once more: what an evaluation changes is part of it
                    self._save()
        if self.log:
            self.log.close()

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Save when the run ends, however it ends, unless in the middle of a step."""
        try:
            yield
        finally:
            if self._whole:
                self._save()

    def _fetch(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches; stop, all processes after the same step, if one was asked to or has got none."""
        batches = iter(loader)
        while True:
            batch = problem = None
            try:
                batch = next(batches, None)
            except Exception as error:
                problem = error
            asked = torch.tensor(float(self._stop or problem is not None), device=self.machine.device)
            if self.machine.mean(asked) > 0:
                raise problem or self._stopped()
            if batch is None:
                return
            yield batch

    def _stopped(self) -> Stopped:
        return Stopped(f"stopped after step {self.step}, which is saved in {self.plan.checkpoint_dir}; add --resume")

    def _train(self, batch: Batch, bar: tqdm) -> None:
        start = time.perf_counter()
        self._whole = False
        self.step += 1
        averages = Averages()
        averages.add(self.task.train_step(batch), len(batch[0]))
        if self.task.mean:
            self.task.mean.update_parameters(self.task.main_network)
        figures = averages.means(self.machine)
        if not all(map(math.isfinite, figures.values())):
            clips = ", ".join(sorted(set(self.batches.clips_of(self.step - 1))))
            bad = ", ".join(name for name, value in figures.items() if not math.isfinite(value))
            raise RuntimeError(f"step {self.step}: {bad} is not finite; the clips of this batch: {clips}")
        self.recent.append(figures)
        if self.log:
            self.log.figures(self.step, "train", figures, time.perf_counter() - start)
        means = {name: np.mean([f[name] for f in self.recent if name in f]) for name in figures}
        bar.set_postfix({name: f"{value:.4f}" for name, value in means.items()}, refresh=False)
        bar.update()
        if (text := self.task.warning(self.recent, self.step)) and self.machine.is_main:
            self.show(f"warning: {text}")
        self._whole = True

    def _evaluate(self, loader: Iterable[Batch]) -> None:
        start = time.perf_counter()
        with self.task.mean_in_place():
            figures = evaluate(self.task, self._until_asked(loader))
        news = self.task.after_evaluation(figures)
        self.owes_evaluation = False
        if self.log:
            self.log.figures(self.step, "val", figures, time.perf_counter() - start)
            words = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            self.show(f"step {self.step}, validation: {words}")
            if news:
                self.show(news)

    def _until_asked(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of an evaluation; alone, do not wait for its end to stop. Several would not stop at one."""
        for batch in loader:
            if self._stop and self.machine.world_size == 1:
                raise self._stopped()
            yield batch

    def _save(self, pictures: bool = False) -> None:
        """Save what is not saved yet, and show the pictures of this step."""
        if not self.machine.is_main:
            return
        folder = self.plan.checkpoint_dir
        if self._saved != self._position:
            save_checkpoint(self.task, folder, self._position, self.batches.epoch_of(self.step), self.plan.keep)
            self._saved = self._position
        if pictures and (collage := self.task.collage()) is not None:
            save_collage(folder, self.step, collage)
            self.log.pictures(self.step, collage)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Note Ctrl-C and SIGTERM and finish the step first: half a step cannot be saved."""

        def ask(*_: object) -> None:
            self._stop = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
