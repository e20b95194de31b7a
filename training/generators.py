"""The generator's tasks, without and with the visual-quality discriminator."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from distributed import Batch, Distributed
from errors import UserError
from hparams import HParams
from models import SyncNet_color, Wav2Lip, Wav2Lip_disc_qual
from models.conv import fold_batchnorm
from training.losses import (
    adversarial_loss,
    detail_loss,
    feature_loss,
    motion_loss,
    mouth_weights,
    sync_loss,
)
from training.tasks import LN2, WATCHED_STEPS, Figures, Part, Task, adam, fingerprint, is_at_chance

SYNC_THRESHOLD = 0.75  # evaluation sync loss below which the sync loss starts to count (reference)
SYNC_WEIGHT_WHEN_ON = {False: 0.01, True: 0.03}  # without and with a discriminator (reference)
COLLAPSE = 5.0  # a discriminator or adversarial loss has diverged if its mean over WATCHED_STEPS is above this


class Pictures(NamedTuple):
    """Input, output and target of the generator, (N, 6 or 3, T, H, W) in [0, 1]."""

    x: torch.Tensor  # masked input and reference
    fake: torch.Tensor
    real: torch.Tensor


class GeneratorTask(Task):
    """The generator learns to redraw masked mouths: L1, and the sync loss of a frozen expert (paper, section 3.4)."""

    sync_weight_when_on = SYNC_WEIGHT_WHEN_ON[False]

    def __init__(
        self,
        group: Distributed,
        hp: HParams,
        expert: SyncNet_color,
        judge: SyncNet_color | None = None,
        width: float = 1.0,
    ) -> None:
        super().__init__(group, hp)
        generator = Wav2Lip(width)
        if hp.audio_from_expert:
            adopt_audio_encoder(generator, expert)
        self.generator = group.prepare(generator)
        self.parallel = group.parallel(self.generator)
        self.optimizer = adam(self.generator, hp.initial_learning_rate, hp.adam_beta1)
        teachers = {"expert": expert} | ({"judge": judge} if judge else {})
        self.fingerprints = {name: fingerprint(network) for name, network in teachers.items()}  # as in their files
        # in eval mode with folded batch norms: the reference left it in train mode, so its statistics drifted
        self.expert, self.judge = self._frozen(expert), self._frozen(judge) if judge else None
        self.sync_weight = hp.syncnet_wt
        self.last: Pictures | None = None  # of the last step
        # each is weighted by hparams' NAME_wt and logged under its name
        self._added_losses = {"motion": motion_loss, "detail": detail_loss, "feature": self._feature_loss}
        self._weights = mouth_weights(hp.img_size, hp.mouth_wt).to(group.device)

    def _frozen(self, network: SyncNet_color) -> SyncNet_color:
        return self.group.place(fold_batchnorm(network).requires_grad_(False))

    def parts(self) -> Iterator[Part]:
        yield Part("", self.generator, self.optimizer)

    def extra_state(self) -> dict[str, Any]:
        return {"syncnet_wt": self.sync_weight, "mask_top": self.hp.mask_top, "mel_lead": self.hp.mel_lead}

    def load_extra_state(self, checkpoint: dict[str, Any]) -> None:
        if not self.hp.syncnet_wt:  # else --hparams sets it
            weight = float(checkpoint.get("syncnet_wt", self.sync_weight))
            switched_on = weight == SYNC_WEIGHT_WHEN_ON["discriminator" in checkpoint]  # not chosen by the user
            self.sync_weight = self.sync_weight_when_on if switched_on else weight
        if self._l1_weight() <= 0:
            raise UserError(
                f"the checkpoint's syncnet_wt {self.sync_weight:g} leaves no weight for L1; set another by --hparams"
            )

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        figures, _ = self._gradients_of(batch)
        self.optimizer.step()
        return figures

    def _gradients_of(self, batch: Batch) -> tuple[dict[str, torch.Tensor], Pictures]:
        """Compute the generator's gradients; return the losses and pictures of a batch."""
        x, frame_mels, mel, real = self.group.to_device(batch)
        with self.group.autocast():
            fake = self.parallel(frame_mels, x).float()
            figures = self._losses(fake, mel, real)
        self.optimizer.zero_grad()
        figures["loss"].backward()
        self.last = Pictures(x, fake.detach(), real)
        return figures, self.last

    def _losses(
        self, fake: torch.Tensor, mel: torch.Tensor, real: torch.Tensor, evaluating: bool = False
    ) -> dict[str, torch.Tensor]:
        """Return "loss" and its parts; if ``evaluating``, also a sync loss whose weight is still 0."""
        figures = {"l1": F.l1_loss(fake, real)}
        if self.sync_weight > 0 or evaluating:
            figures["sync"] = sync_loss(self.expert, mel, self._to_expert(fake))
        loss = self._l1_weight() * self._drawing_loss(fake, real, figures)
        if self.sync_weight > 0:
            loss = loss + self.sync_weight * figures["sync"]
        return {"loss": loss, **figures}

    def _drawing_loss(self, fake: torch.Tensor, real: torch.Tensor, figures: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return L1 plus the losses that ``hparams`` add to it; put the parts into ``figures``."""
        loss = figures["l1"]
        if self.hp.mouth_wt != 1:
            figures["mouth"] = loss = ((fake - real).abs() * self._weights).mean()
        for name, loss_of in self._added_losses.items():
            if (weight := getattr(self.hp, f"{name}_wt")) > 0:
                figures[name] = loss_of(fake, real)
                loss = loss + weight * figures[name]
        return loss

    def _feature_loss(self, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        return feature_loss(self.expert, self._to_expert(fake), self._to_expert(real))

    def _to_expert(self, faces: torch.Tensor) -> torch.Tensor:
        """Return faces (N, 3, T, H, W) as the expert's input: grey if ``sync_grey`` is set."""
        return faces.mean(1, keepdim=True).expand_as(faces) if self.hp.sync_grey else faces

    def _l1_weight(self) -> float:
        return 1 - self.sync_weight

    def evaluate_batch(self, batch: Batch) -> dict[str, torch.Tensor]:
        x, frame_mels, mel, real = self.group.to_device(batch)
        with self.group.autocast():
            return self._evaluation(self.generator(frame_mels, x).float(), mel, real)

    def _evaluation(self, fake: torch.Tensor, mel: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        figures = self._losses(fake, mel, real, evaluating=True)
        figures["sync_of_real"] = sync_loss(self.expert, mel, self._to_expert(real))
        if self.judge:
            figures["judge"] = sync_loss(self.judge, mel, fake)
            figures["judge_of_real"] = sync_loss(self.judge, mel, real)
        return figures

    def score(self, figures: Figures) -> float:
        """Weigh L1 and sync as the loss does; a sync loss below that of real faces counts as theirs."""
        by = "judge" if self.judge else "sync"
        weight = self.sync_weight or self.sync_weight_when_on
        return (1 - weight) * figures["l1"] + weight * max(figures[by], figures[f"{by}_of_real"])

    def train_mode(self, on: bool) -> None:
        super().train_mode(on)
        for module in self.generator.modules() if self.hp.frozen_norms else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    @property
    def awaits_evaluation(self) -> str | None:
        if self.sync_weight > 0:
            return None
        return (
            f"the sync loss is off until an evaluation finds it below {SYNC_THRESHOLD}; "
            f"--hparams syncnet_wt={self.sync_weight_when_on} turns it on from the start"
        )

    def after_evaluation(self, figures: Figures) -> str | None:
        if self.sync_weight > 0 or not figures["sync"] < SYNC_THRESHOLD:
            return None
        self.sync_weight = self.sync_weight_when_on
        return f"the sync loss fell to {figures['sync']:.3f}: from now on it counts with weight {self.sync_weight}"

    def collage(self) -> np.ndarray | None:
        """Return reference, masked input, generated and real face side by side (reference); None before a step."""
        if self.last is None:
            return None
        x, fake, real = self.last
        together = torch.cat((x[:, 3:], x[:, :3], fake, real), dim=4)  # (N, 3, T, H, 4·W)
        return (together.permute(0, 2, 3, 4, 1) * 255).round().to(torch.uint8).cpu().numpy()


def adopt_audio_encoder(generator: Wav2Lip, expert: SyncNet_color) -> None:
    """Copy the audio encoder of ``expert`` into ``generator``, which must have the same width.

    With L1 alone it takes long to learn that sound and lips are related, which the expert knows already.
    """
    if generator.width != expert.width:
        raise UserError(f"audio_from_expert needs an expert of width {generator.width:g}, not {expert.width:g}")
    blocks, count = list(expert.audio_encoder), len(generator.audio_encoder)
    alike = [*blocks[: count - 2], *blocks[-2:]]  # the expert has one residual block more before the last two
    for mine, theirs in zip(generator.audio_encoder, alike):
        mine.load_state_dict(theirs.state_dict())


class HQGeneratorTask(GeneratorTask):
    """GeneratorTask with a visual-quality discriminator (paper, section 3.4).

    Both learn from the same pictures. No weight changes before all gradients are computed, so a step that fails
    before that, usually for lack of memory, leaves the networks as they were.
    """

    sync_weight_when_on = SYNC_WEIGHT_WHEN_ON[True]

    def __init__(
        self,
        group: Distributed,
        hp: HParams,
        expert: SyncNet_color,
        judge: SyncNet_color | None = None,
        width: float = 1.0,
    ) -> None:
        super().__init__(group, hp, expert, judge, width)
        self.discriminator = group.prepare(Wav2Lip_disc_qual(hp.disc_width or width))
        self.parallel_discriminator = group.parallel(self.discriminator)
        self.discriminator_optimizer = adam(self.discriminator, hp.disc_initial_learning_rate, hp.adam_beta1)
        self._checks = [self._collapse, self._guessing]

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), "discriminator": True}

    def parts(self) -> Iterator[Part]:
        yield Part("disc_", self.discriminator, self.discriminator_optimizer)
        yield Part("", self.generator, self.optimizer)

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.discriminator.requires_grad_(False)
        figures, pictures = self._gradients_of(batch)
        self.discriminator.requires_grad_(True)

        with self.group.autocast():
            logits = self.parallel_discriminator(torch.cat((pictures.real, pictures.fake)), logits=True)
        figures |= self._discriminator_losses(logits)
        self.discriminator_optimizer.zero_grad()
        (figures["real"] + figures["fake"]).backward()
        self.optimizer.step()
        self.discriminator_optimizer.step()
        return figures

    def _losses(
        self, fake: torch.Tensor, mel: torch.Tensor, real: torch.Tensor, evaluating: bool = False
    ) -> dict[str, torch.Tensor]:
        figures = super()._losses(fake, mel, real, evaluating)
        if self.hp.disc_wt > 0:
            figures["perceptual"] = adversarial_loss(self.discriminator(fake, logits=True), True)
            figures["loss"] = figures["loss"] + self.hp.disc_wt * figures["perceptual"]
        return figures

    def _l1_weight(self) -> float:
        return 1 - self.sync_weight - self.hp.disc_wt

    def _discriminator_losses(self, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        # logits come frame by frame: all clips' first frames, then all second ones, …, each half real, half fake
        real, fake = logits.view(self.hp.syncnet_T, -1).chunk(2, dim=1)
        return {"real": adversarial_loss(real, True), "fake": adversarial_loss(fake, False)}

    def _evaluation(self, fake: torch.Tensor, mel: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.discriminator(torch.cat((real, fake)), logits=True)
        return super()._evaluation(fake, mel, real) | self._discriminator_losses(logits)

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
        if not is_at_chance((means["real"] + means["fake"]) / 2):
            return None
        learned = max((int(state["step"]) for state in self.discriminator_optimizer.state.values()), default=0)
        if learned < self.hp.plateau_warn_steps:
            return None
        return (
            f"the discriminator still guesses (loss {LN2:.2f} = ln 2) after {learned} steps of its own. If the samples "
            "are not as sharp as real faces, it teaches the generator nothing, because the generator changes faster "
            "than the discriminator learns: lower --hparams initial_learning_rate, raise disc_initial_learning_rate"
        )
