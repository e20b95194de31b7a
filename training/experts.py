"""The expert's task."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from distributed import Batch, Distributed
from hparams import HParams
from models import SyncNet_color
from training.losses import (
    all_pairs_loss,
    cosine_loss,
    mean_where,
)
from training.tasks import LN2, WATCHED_STEPS, Figures, Part, Task, adam, is_at_chance


class ExpertTask(Task):
    """The expert learns to tell windows in sync from windows that are not (paper, section 3.2)."""

    def __init__(self, group: Distributed, hp: HParams, width: float = 1.0) -> None:
        super().__init__(group, hp)
        self.expert = group.prepare(SyncNet_color(width))
        self.parallel = group.parallel(self.expert)
        self.optimizer = adam(self.expert, hp.syncnet_lr)
        self._warned = False

    def parts(self) -> Iterator[Part]:
        yield Part("", self.expert, self.optimizer)

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
        mouths, mels, y = self.group.to_device(batch)
        with self.group.autocast():
            audio, face = network(mels, mouths)
        loss, cosine = cosine_loss(audio, face, y)
        matched, cosine = y.flatten() > 0.5, cosine.detach()
        return {
            "loss": loss,
            "accuracy": ((cosine > 0.5) == matched).float().mean(),
            # sums and counts, so that means over batches are exact: see Averages
            "matched": _sum_and_count(cosine, matched),
            "mismatched": _sum_and_count(cosine, ~matched),
        }

    def score(self, figures: Figures) -> float:
        return figures["loss"]

    def warning(self, recent: deque[Figures], step: int) -> str | None:
        if self._warned or step < self.hp.plateau_warn_steps or len(recent) < WATCHED_STEPS:
            return None
        if not is_at_chance(float(np.mean([f["loss"] for f in recent]))):
            return None
        self._warned = True
        return (
            f"the expert still guesses (loss {LN2:.2f} = ln 2) after {step} steps. Likely causes, in order: sound and "
            "picture are offset in the data (check: python similarity.py --face CLIP --checkpoint_path EXPERT, with "
            "an expert known to work, such as lipsync_expert); the data is not 25 fps, 16 kHz (check: report.json of "
            "preprocess.py, made again with python preprocess.py); too few clips or speakers "
            "(check: wc -l filelists/train.txt; thousands of clips are usual). The authors saw it leave the plateau "
            "only after 150000 steps on LRS2"
        )


class AllPairsExpertTask(ExpertTask):
    """ExpertTask on all pairs of a batch of MatchedWindows.

    64 windows make 64 matched and 4032 mismatched pairs, not 64 in all. Nearly all the time of a step is spent on
    embedding; comparing costs nothing. Evaluations stay the same.
    """

    def _learning_figures(self, batch: Batch) -> dict[str, torch.Tensor]:
        mouths, mels, place = self.group.to_device(batch)
        with self.group.autocast():
            audio, face = (self.group.gather(part) for part in self.parallel(mels, mouths))
        place = self.group.gather(place)
        loss, cosine, matched = all_pairs_loss(audio, face, place, self.hp.negative_distance)
        cosine = cosine.detach()
        found = (cosine > 0.5) == matched
        return {
            "loss": loss,
            # both kinds count equally, as in an evaluation; here far more pairs are mismatched
            "accuracy": (mean_where(found, matched) + mean_where(found, ~matched)) / 2,
            "matched": _sum_and_count(cosine, matched),
            "mismatched": _sum_and_count(cosine, ~matched),
        }


def _sum_and_count(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    # values[chosen] would wait for the device, as its size depends on the data
    return torch.stack((torch.where(chosen, values, 0).sum(), chosen.sum().to(values.dtype)))
