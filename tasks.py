"""What each of the three networks learns from: its losses, one step, and what is worth reporting about it."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from distributed import Batch, Distributed, without_autocast
from errors import UserError
from hparams import HParams
from models import SyncNet_color, Wav2Lip, Wav2Lip_disc_qual
from models.conv import fold_batchnorm

Figures = dict[str, float]
Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]

LN2 = math.log(2)
PLATEAU_MARGIN = 0.01  # a loss this close to ln 2 is guessing
SYNC_THRESHOLD = 0.75  # evaluation sync loss below which the sync loss starts to count (reference)
COLLAPSE = 5.0  # a discriminator or adversarial loss above this for WATCHED_STEPS steps has run away
MOUTH = (0.58, 0.95, 0.2, 0.8)  # top, bottom, left, right of the mouth in a face crop, shares; wide for heads that turn
FEATURE_STAGES = (0, 3, 7)  # of the expert's face encoder: 96 x 48, 46 x 47 and 23 x 24 pixels
EDGE = 1e-4  # a cosine so close to 0 or 1 has the slope that the loss has here
WATCHED_STEPS = 100  # steps averaged before a warning is given


# --------------------------------------------------------------------------------------------------------------------
# Losses


def cosine_loss(audio: torch.Tensor, face: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the cosine of two unit embeddings (N, D) against y (N, 1); also return the cosine (N,).

    Paper, equation 1. Computed in float32, and clamped: rounding lifts a cosine to 1.0000004, where the loss fails.
    """
    with without_autocast(audio.device):
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
    with without_autocast(audio.device):
        cosine = (face.float() @ audio.float().T).clamp(0.0, 1.0)
        losses = _cross_entropy(cosine, matched.float())
    parts = [(matched, 1 / 2), (same_clip & (distance >= nearest), 1 / 4), (~same_clip, 1 / 4)]
    loss = torch.stack([share * _mean_where(losses, chosen) for chosen, share in parts]).sum()
    return loss, cosine, matched


def _cross_entropy(cosine: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Torch's, one by one; but near 0 and 1, where its slope has no end, it goes on straight.

    Two windows of silence look alike, cosine 1, and are no match: one such pair pulled thousands of times harder than
    all others. A cosine that is no number gives a loss that is none; torch fails, without a word on where it is from.
    """
    inside = cosine.nan_to_num(0.5).clamp(EDGE, 1 - EDGE)
    slope = (inside - y) / (inside * (1 - inside))
    return F.binary_cross_entropy(inside, y, reduction="none") + (cosine - inside) * slope.detach()


def _mean_where(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the mean of the values chosen, 0 if there are none."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


def mouths_of(faces: torch.Tensor) -> torch.Tensor:
    """Windows of faces (N, 3, T, H, W) -> what the expert sees (N, 3·T, H/2, W): lower halves, frame after frame."""
    return faces[:, :, :, faces.shape[3] // 2 :].transpose(1, 2).flatten(1, 2)


def sync_loss(expert: SyncNet_color, mels: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """How far ``expert`` is from finding ``faces`` (N, 3, T, H, W) in sync with ``mels`` (N, 1, 80, 16)."""
    audio, face = expert(mels, mouths_of(faces))
    return cosine_loss(audio, face, torch.ones(len(faces), device=faces.device))[0]


def mouth_weights(size: int, weight: float) -> torch.Tensor:
    """Return how much each pixel (size, size) of a face counts: the mouth ``weight`` times the rest, 1 on average."""
    weights = torch.ones(size, size)
    top, bottom, left, right = (round(share * size) for share in MOUTH)
    weights[top:bottom, left:right] = weight
    return weights / weights.mean()


def motion_loss(fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """L1 of what changes from each frame to the next in faces (N, 3, T, H, W)."""
    return F.l1_loss(fake.diff(dim=2), real.diff(dim=2))


def feature_loss(expert: SyncNet_color, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """L1 between what ``expert`` makes of generated and real mouths, mean of its first stages, faces (N, 3, T, H, W).

    A perceptual loss (Johnson et al., 2016) by the network that is at hand: it looks at lips, teeth and tongue only.
    """
    both = mouths_of(torch.cat((fake, real)))
    losses = []
    for stage, block in enumerate(expert.face_encoder.children()):
        both = block(both)
        if stage in FEATURE_STAGES:
            losses.append(_relative_l1(*both.float().chunk(2)))
        if stage == FEATURE_STAGES[-1]:
            break
    return torch.stack(losses).mean()


def _relative_l1(fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """L1 in units of the mean of ``real``, which learns nothing from it."""
    return F.l1_loss(fake, real.detach()) / real.detach().abs().mean().clamp(min=1e-3)


def real_fake_loss(logits: torch.Tensor, real: bool) -> torch.Tensor:
    """The discriminator's cross-entropy, from logits so that a confident one still learns."""
    with without_autocast(logits.device):
        return F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, float(real)).float())


# --------------------------------------------------------------------------------------------------------------------
# Tasks: what one step does


class Task:
    """One kind of training. Subclasses fill in the networks, a step and its figures."""

    def __init__(self, group: Distributed, hp: HParams) -> None:
        self.group, self.hp = group, hp

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

    @property
    def result(self) -> nn.Module:
        """What is evaluated and saved: ``mean``, or without one the main network itself."""
        return self.mean.module if self.mean else self.main_network

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
            for module in network.modules() if self.hp.frozen_norms else ():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()


def _adam(network: nn.Module, rate: float, beta1: float = 0.9) -> torch.optim.Adam:
    """Return Adam for ``network``, updating it in a single pass over memory where torch has that."""
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.Adam(network.parameters(), rate, (beta1, 0.999), fused=fused)


def _running_mean(decay: float) -> Callable[[Tensors, Tensors, torch.Tensor | int], None]:
    """Return what moves means towards values, keeping at most the share ``decay`` of them.

    A young mean forgets faster. With 0.99 throughout, that of an expert which had learned for 200 steps still guessed:
    an eighth of it was the random start.
    """

    @torch.no_grad()
    def update(means: Tensors, values: Tensors, count: torch.Tensor | int) -> None:
        share = max(1 - decay, 9 / (10 + int(count)))
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, values, share)
        else:  # counters of batch norms
            torch._foreach_copy_(means, values)

    return update


class ExpertTask(Task):
    """The expert learns to tell windows in sync from windows that are not (paper, section 3.2)."""

    def __init__(self, group: Distributed, hp: HParams, width: float = 1.0) -> None:
        super().__init__(group, hp)
        self.expert = group.prepare(SyncNet_color(width))
        self.parallel = group.parallel(self.expert)
        self.optimizer = _adam(self.expert, hp.syncnet_lr)
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
        mouths, mels, y = self.group.to_device(batch)
        with self.group.autocast():
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

    Embedding faces and voices is nearly all of a step, comparing them costs nothing. Evaluations stay the same.
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
            # both kinds count alike, as in an evaluation; here there are far more wrong pairs
            "accuracy": (_mean_where(found, matched) + _mean_where(found, ~matched)) / 2,
            "matched": _sum_and_count(cosine, matched),
            "mismatched": _sum_and_count(cosine, ~matched),
        }


def _sum_and_count(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    # values[chosen] would have the program wait for the device, which alone knows how many they are
    return torch.stack((torch.where(chosen, values, 0).sum(), chosen.sum().to(values.dtype)))


class Pictures(NamedTuple):
    """What went into the generator and came out, (N, 6 or 3, T, H, W) in [0, 1]."""

    x: torch.Tensor  # masked input and reference
    fake: torch.Tensor
    real: torch.Tensor


class GeneratorTask(Task):
    """The generator learns to redraw masked mouths: L1, and the sync loss of a frozen expert (paper, section 3.4)."""

    sync_weight_when_on = 0.01  # the reference

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
        self.optimizer = _adam(self.generator, hp.initial_learning_rate, hp.adam_beta1)
        # in eval mode, its batch norms folded: the reference left it in train mode, and its statistics drifted
        self.expert, self.judge = self._frozen(expert), self._frozen(judge) if judge else None
        self.sync_weight = hp.syncnet_wt
        self.last: Pictures | None = None  # of the last step
        self._weights = mouth_weights(hp.img_size, hp.mouth_wt).to(group.device)

    def _frozen(self, network: SyncNet_color) -> SyncNet_color:
        return self.group.place(fold_batchnorm(network).requires_grad_(False))

    def parts(self) -> Iterator[tuple[str, nn.Module, torch.optim.Optimizer]]:
        yield "", self.generator, self.optimizer

    def extra_state(self) -> dict[str, Any]:
        return {"syncnet_wt": self.sync_weight}

    def load_extra_state(self, checkpoint: dict[str, Any]) -> None:
        if not self.hp.syncnet_wt:  # else --hparams has asked for one
            self.sync_weight = float(checkpoint.get("syncnet_wt", self.sync_weight))

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        figures, _ = self._improve_generator(batch)
        return figures

    def _improve_generator(self, batch: Batch) -> tuple[dict[str, torch.Tensor], Pictures]:
        x, frame_mels, mel, real = self.group.to_device(batch)
        with self.group.autocast():
            fake = self.parallel(frame_mels, x).float()
            figures = self._losses(fake, mel, real)
        self.optimizer.zero_grad()
        figures["loss"].backward()
        self.optimizer.step()
        self.last = Pictures(x, fake.detach(), real)
        return figures, self.last

    def _losses(
        self, fake: torch.Tensor, mel: torch.Tensor, real: torch.Tensor, evaluating: bool = False
    ) -> dict[str, torch.Tensor]:
        """Return "loss" and its parts; ``evaluating``, also the sync loss that does not count yet."""
        figures = {"l1": F.l1_loss(fake, real)}
        if self.sync_weight > 0 or evaluating:
            figures["sync"] = sync_loss(self.expert, mel, self._to_expert(fake))
        loss = self._l1_weight() * self._drawing_loss(fake, real, figures)
        if self.sync_weight > 0:
            loss = loss + self.sync_weight * figures["sync"]
        return {"loss": loss, **figures}

    def _drawing_loss(self, fake: torch.Tensor, real: torch.Tensor, figures: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return L1, and what ``hparams`` want beside it, as one loss; note the parts in ``figures``."""
        loss = figures["l1"]
        if self.hp.mouth_wt != 1:
            figures["mouth"] = loss = ((fake - real).abs() * self._weights).mean()
        if self.hp.motion_wt > 0:
            figures["motion"] = motion_loss(fake, real)
            loss = loss + self.hp.motion_wt * figures["motion"]
        if self.hp.feature_wt > 0:
            figures["feature"] = feature_loss(self.expert, self._to_expert(fake), self._to_expert(real))
            loss = loss + self.hp.feature_wt * figures["feature"]
        return loss

    def _to_expert(self, faces: torch.Tensor) -> torch.Tensor:
        """Return faces (N, 3, T, H, W) as the expert is shown them."""
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

    def after_evaluation(self, figures: Figures) -> str | None:
        if self.sync_weight > 0 or not figures["sync"] < SYNC_THRESHOLD:
            return None
        self.sync_weight = self.sync_weight_when_on
        return f"the sync loss fell to {figures['sync']:.3f}: from now on it counts with weight {self.sync_weight}"

    def collage(self) -> np.ndarray | None:
        """Reference, masked input, generated and real face side by side, as in the reference; None before a step."""
        if self.last is None:
            return None
        x, fake, real = self.last
        together = torch.cat((x[:, 3:], x[:, :3], fake, real), dim=4)  # (N, 3, T, H, 4·W)
        return (together.permute(0, 2, 3, 4, 1) * 255).round().to(torch.uint8).cpu().numpy()


def adopt_audio_encoder(generator: Wav2Lip, expert: SyncNet_color) -> None:
    """Let ``generator`` hear from the start what ``expert`` has learned to hear; both of one width.

    The L1 loss alone takes long to notice that the sound has to do with lips; so does the expert, but once is enough.
    """
    if generator.width != expert.width:
        raise UserError(f"audio_from_expert takes an expert of width {generator.width:g}, not {expert.width:g}")
    blocks, count = list(expert.audio_encoder), len(generator.audio_encoder)
    alike = [*blocks[: count - 2], *blocks[-2:]]  # the expert has one residual block more before the last two
    for mine, theirs in zip(generator.audio_encoder, alike):
        mine.load_state_dict(theirs.state_dict())


class HQGeneratorTask(GeneratorTask):
    """The same against a visual-quality discriminator: generator first, then discriminator (paper, section 3.4)."""

    sync_weight_when_on = 0.03  # the reference

    def __init__(
        self,
        group: Distributed,
        hp: HParams,
        expert: SyncNet_color,
        judge: SyncNet_color | None = None,
        width: float = 1.0,
    ) -> None:
        super().__init__(group, hp, expert, judge, width)
        self.discriminator = group.prepare(Wav2Lip_disc_qual(width))
        self.parallel_discriminator = group.parallel(self.discriminator)
        self.discriminator_optimizer = _adam(self.discriminator, hp.disc_initial_learning_rate, hp.adam_beta1)
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
        figures, pictures = self._improve_generator(batch)
        self.discriminator.requires_grad_(True)

        with self.group.autocast():
            logits = self.parallel_discriminator(torch.cat((pictures.real, pictures.fake)), logits=True)
        figures |= self._judgement(logits)
        self.discriminator_optimizer.zero_grad()
        (figures["real"] + figures["fake"]).backward()
        self.discriminator_optimizer.step()
        return figures

    def _losses(
        self, fake: torch.Tensor, mel: torch.Tensor, real: torch.Tensor, evaluating: bool = False
    ) -> dict[str, torch.Tensor]:
        figures = super()._losses(fake, mel, real, evaluating)
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
