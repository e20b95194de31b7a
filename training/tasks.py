"""The interface of a task to the loop: one step, one evaluation, the trained networks, and what to report."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from distributed import Batch, Distributed
from hparams import HParams

Figures = dict[str, float]
Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]

LN2 = math.log(2)
PLATEAU_MARGIN = 0.01  # a loss this close to ln 2 is at chance
WATCHED_STEPS = 100  # steps averaged before a warning is given


class Part(NamedTuple):
    """A network that is trained."""

    prefix: str  # of the names of its checkpoints
    network: nn.Module
    optimizer: torch.optim.Optimizer


class Task:
    """One kind of training. Subclasses fill in the networks, a step and its figures."""

    def __init__(self, group: Distributed, hp: HParams) -> None:
        self.group, self.hp = group, hp
        self.fingerprints: dict[str, str] = {}  # of the networks that supervise or judge it, by name

    @cached_property
    def ema(self) -> AveragedModel | None:
        """The moving average of the main network, batch-norm statistics included, if ``hparams.ema_decay`` is set.

        It is evaluated and saved, as it is steadier and mostly better than the weights of any one step.
        """
        if not self.hp.ema_decay:
            return None
        return AveragedModel(self.main_network, multi_avg_fn=_running_mean(self.hp.ema_decay), use_buffers=True)

    @property
    def main_network(self) -> nn.Module:
        *_, main = self.parts()
        return main.network

    @property
    def result(self) -> nn.Module:
        """The network to evaluate and save: ``ema``, or without one the main network itself."""
        return self.ema.module if self.ema else self.main_network

    @contextlib.contextmanager
    def swap_in_ema(self) -> Iterator[None]:
        """Give the main network the weights of ``ema`` inside the block."""
        pairs = []
        if self.ema:
            both = (itertools.chain(n.parameters(), n.buffers()) for n in (self.main_network, self.ema.module))
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
        """Update the networks once; return "loss" and its parts, each a scalar tensor or one of (sum, count)."""
        raise NotImplementedError

    def evaluate_batch(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the same figures for ``batch``, without learning from it; networks are in eval mode."""
        raise NotImplementedError

    def parts(self) -> Iterator[Part]:
        """Yield every network that is trained, the main one last."""
        raise NotImplementedError

    def extra_state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold besides networks and optimizers."""
        return {}

    def load_extra_state(self, checkpoint: dict[str, Any]) -> None:
        """Restore what ``extra_state`` returned, as far as the checkpoint has it."""

    def score(self, figures: Figures) -> float:
        """Return the score of an evaluation; the lowest is the best."""
        raise NotImplementedError

    @property
    def awaits_evaluation(self) -> str | None:
        """What the next evaluation decides, in a sentence, or None; a continued run then begins with an evaluation."""

    def after_evaluation(self, figures: Figures) -> str | None:
        """React to an evaluation; return a sentence for the user if something changed."""

    def warning(self, recent: deque[Figures], step: int) -> str | None:
        """Return what is wrong with the last figures, if anything; called once per step."""

    def collage(self) -> np.ndarray | None:
        """Return pictures (N, T, height, width, 3) uint8 BGR of the last training step, or None."""

    def train_mode(self, on: bool) -> None:
        for part in self.parts():
            part.network.train(on)


def fingerprint(network: nn.Module) -> str:
    """Return a digest of a network's weights."""
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def adam(network: nn.Module, rate: float, beta1: float = 0.9) -> torch.optim.Adam:
    """Return Adam for ``network``, fused into a single pass over memory where torch supports that."""
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.Adam(network.parameters(), rate, (beta1, 0.999), fused=fused)


def _running_mean(decay: float) -> Callable[[Tensors, Tensors, torch.Tensor | int], None]:
    """Return the update of an exponential moving average, its decay growing as min(``decay``, (1 + n) / (10 + n)).

    With 0.99 throughout, the mean of an expert trained for 200 steps was still at chance: an eighth of it was the
    random initialisation.
    """

    @torch.no_grad()
    def update(means: Tensors, values: Tensors, count: torch.Tensor | int) -> None:
        share = max(1 - decay, 9 / (10 + int(count)))
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, values, share)
        else:  # counters of batch norms
            torch._foreach_copy_(means, values)

    return update


def is_at_chance(loss: float) -> bool:
    return abs(loss - LN2) < PLATEAU_MARGIN
