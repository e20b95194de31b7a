"""Loss functions."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from distributed import without_autocast
from models import SyncNet_color

MOUTH_AREA = (0.58, 0.95, 0.2, 0.8)  # top, bottom, left, right as shares of a face crop; wide, for heads that turn
DETAIL_POOL = 8  # pixels each way: how far lips are off even in good results
FEATURE_STAGES = (0, 3, 7)  # of the expert's face encoder: 48 x 96, 46 x 47 and 23 x 24 pixels (height x width)
EDGE = 1e-4  # nearer to 0 or 1, the loss continues with the slope it has here


def cosine_loss(audio: torch.Tensor, face: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy of the cosine of unit embeddings (N, D) against y (N, 1), and the cosine (N,).

    Paper, equation 1. Computed in float32, and clamped: rounding can give a cosine of 1.0000004, where the loss fails.
    """
    with without_autocast(audio.device):
        cosine = F.cosine_similarity(audio.float(), face.float()).clamp(0.0, 1.0)
        return elementwise_loss(cosine, y.flatten().float()).mean(), cosine


def all_pairs_loss(
    audio: torch.Tensor, face: torch.Tensor, place: torch.Tensor, nearest: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the cross-entropy of every face with every voice of a batch: unit embeddings (N, D) of windows in sync.

    ``place`` (N, 2) is the clip and the first frame of each window. Half of the loss is the mean over matched pairs.
    A quarter is the mean over pairs within a clip that are ``nearest`` or more frames apart, and a quarter the mean
    over pairs across clips; if a batch has only one of these two kinds, it counts half. Also return the cosine (N, N),
    a row per face and a column per voice, and which pairs are matched.
    """
    clip, frame = place.unbind(1)
    same_clip = clip[:, None] == clip
    distance = (frame[:, None] - frame).abs()
    matched = same_clip & (distance == 0)
    with without_autocast(audio.device):
        cosine = (face.float() @ audio.float().T).clamp(0.0, 1.0)
        losses = elementwise_loss(cosine, matched.float())
    mismatched = same_clip & (distance >= nearest), ~same_clip
    means = torch.stack([mean_where(losses, chosen) for chosen in mismatched])
    kinds = torch.stack([chosen.any() for chosen in mismatched]).sum().clamp(min=1)
    return (mean_where(losses, matched) + means.sum() / kinds) / 2, cosine, matched


def elementwise_loss(cosine: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return each cosine's binary cross-entropy, linear outside [EDGE, 1 - EDGE] so that its gradient is bounded.

    Two windows of silence are mismatched but have cosine 1: the gradient of one such pair was thousands of times that
    of all others. NaN gives a loss of NaN; torch's own function fails without saying where it comes from.
    """
    inside = cosine.nan_to_num(0.5).clamp(EDGE, 1 - EDGE)
    slope = (inside - y) / (inside * (1 - inside))
    return F.binary_cross_entropy(inside, y, reduction="none") + (cosine - inside) * slope.detach()


def mean_where(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the mean of the chosen values, 0 if there are none."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


def expert_input(faces: torch.Tensor) -> torch.Tensor:
    """Turn windows of faces (N, 3, T, H, W) into the expert's input (N, 3·T, H/2, W): their lower halves."""
    return faces[:, :, :, faces.shape[3] // 2 :].transpose(1, 2).flatten(1, 2)


def sync_loss(expert: SyncNet_color, mels: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Return the expert's loss for ``faces`` (N, 3, T, H, W) being in sync with ``mels`` (N, 1, 80, 16)."""
    audio, face = expert(mels, expert_input(faces))
    return cosine_loss(audio, face, torch.ones(len(faces), device=faces.device))[0]


def mouth_weights(size: int, weight: float) -> torch.Tensor:
    """Return the weights of a face's pixels (size, size): the mouth has ``weight`` times the rest, 1 on average."""
    weights = torch.ones(size, size)
    top, bottom, left, right = (round(share * size) for share in MOUTH_AREA)
    weights[top:bottom, left:right] = weight
    return weights / weights.mean()


def motion_loss(fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return L1 between the frame-to-frame differences of faces (N, 3, T, H, W)."""
    return F.l1_loss(fake.diff(dim=2), real.diff(dim=2))


def detail_loss(fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return L1 between the local amounts of fine detail in faces (N, 3, T, H, W).

    L1 of pixels is lowest for a blur wherever the place of an edge is uncertain. A blur always has too little detail.
    """
    return F.l1_loss(_detail(fake), _detail(real))


def _detail(faces: torch.Tensor) -> torch.Tensor:
    """Return how far greys are from those around them, averaged over squares of ``DETAIL_POOL``, (N·T, 1, h, w).

    Lattices of single pixels, which transposed convolutions draw easily, are no detail.
    """
    greys = faces.mean(1).flatten(0, 1)[:, None]
    greys = F.avg_pool2d(F.avg_pool2d(greys, 2, 1), 2, 1)  # 1 2 1 each way, whose response to them is 0
    fine = greys - F.avg_pool2d(greys, 5, 1, 2, count_include_pad=False)
    return F.avg_pool2d(fine.abs(), DETAIL_POOL, DETAIL_POOL // 2)


def feature_loss(expert: SyncNet_color, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return L1 between the expert's features of generated and real mouths, given faces (N, 3, T, H, W).

    The mean over ``FEATURE_STAGES``: a perceptual loss (Johnson et al., 2016) with a network that is at hand and is
    trained on lips, teeth and tongue only.
    """
    both = expert_input(torch.cat((fake, real)))
    losses = []
    for stage, block in enumerate(expert.face_encoder.children()):
        both = block(both)
        if stage in FEATURE_STAGES:
            losses.append(_relative_l1(*both.float().chunk(2)))
        if stage == FEATURE_STAGES[-1]:
            break
    return torch.stack(losses).mean()


def _relative_l1(fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return L1 in units of the mean of ``real``, which gets no gradient."""
    return F.l1_loss(fake, real.detach()) / real.detach().abs().mean().clamp(min=1e-3)


def adversarial_loss(logits: torch.Tensor, real: bool) -> torch.Tensor:
    """Return the discriminator's cross-entropy, from logits so that a confident one still learns."""
    with without_autocast(logits.device):
        return F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, float(real)).float())
