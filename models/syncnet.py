"""Networks that rate whether lips and voice match: the expert that supervises training, and the judge behind LSE.

``SyncNet_color`` is the expert of the paper (section 3.2). ``SyncNet_v2`` is the independent network of Chung and
Zisserman ("Out of time", 2016) whose distances are the LSE-D and LSE-C scores. Module names and order are those of
the official files' state dicts.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .conv import Conv2d, audio_encoder, scaled


class SyncNet_color(nn.Module):
    """Embeds five mouth pictures and 0.2 s of sound so that those in sync point the same way."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.width = width
        c32, c64, c128, c256, c512 = (scaled(c, width) for c in (32, 64, 128, 256, 512))
        self.face_encoder = nn.Sequential(
            Conv2d(15, c32, 7, 1, 3),  # 48, 96
            Conv2d(c32, c64, 5, (1, 2), 1),  # 46, 47
            Conv2d(c64, c64, 3, 1, 1, residual=True),
            Conv2d(c64, c64, 3, 1, 1, residual=True),
            Conv2d(c64, c128, 3, 2, 1),  # 23, 24
            Conv2d(c128, c128, 3, 1, 1, residual=True),
            Conv2d(c128, c128, 3, 1, 1, residual=True),
            Conv2d(c128, c128, 3, 1, 1, residual=True),
            Conv2d(c128, c256, 3, 2, 1),  # 12, 12
            Conv2d(c256, c256, 3, 1, 1, residual=True),
            Conv2d(c256, c256, 3, 1, 1, residual=True),
            Conv2d(c256, c512, 3, 2, 1),  # 6, 6
            Conv2d(c512, c512, 3, 1, 1, residual=True),
            Conv2d(c512, c512, 3, 1, 1, residual=True),
            Conv2d(c512, c512, 3, 2, 1),  # 3, 3
            Conv2d(c512, c512, 3, 1, 0),  # 1, 1
            Conv2d(c512, c512, 1, 1, 0),
        )
        self.audio_encoder = audio_encoder(width, residual_at_3x3=2)

    def forward(self, audio_sequences: torch.Tensor, face_sequences: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (audio, video) embeddings of unit length, (N, 512·width) float32 each.

        Mels (N, 1, 80, 16), and mouths (N, 15, 48, 96): five lower halves stacked, BGR in [0, 1]. The last ReLU
        keeps embeddings non-negative, so their cosine lies in [0, 1] up to rounding. Names are those of the reference.
        """
        return self.embed_audio(audio_sequences), self.embed_video(face_sequences)

    def embed_audio(self, mels: torch.Tensor) -> torch.Tensor:
        """Return the audio half of ``forward``, to compare one voice with many faces."""
        return F.normalize(self.audio_encoder(mels).flatten(1).float())

    def embed_video(self, mouths: torch.Tensor) -> torch.Tensor:
        """Return the video half of ``forward``."""
        return F.normalize(self.face_encoder(mouths).flatten(1).float())


def _audio_stack() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(1, 1),
        nn.Conv2d(64, 192, 3, 1, 1), nn.BatchNorm2d(192), nn.ReLU(inplace=True), nn.MaxPool2d(3, (1, 2)),
        nn.Conv2d(192, 384, 3, 1, 1), nn.BatchNorm2d(384), nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, 1, 1), nn.BatchNorm2d(256), nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, 1, 1), nn.BatchNorm2d(256), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 512, (5, 4)), nn.BatchNorm2d(512), nn.ReLU(),
    )  # fmt: skip


def _lip_stack() -> nn.Sequential:
    pool = (1, 3, 3)
    return nn.Sequential(
        nn.Conv3d(3, 96, (5, 7, 7), (1, 2, 2)), nn.BatchNorm3d(96), nn.ReLU(inplace=True),
        nn.MaxPool3d(pool, (1, 2, 2)),
        nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)), nn.BatchNorm3d(256), nn.ReLU(inplace=True),
        nn.MaxPool3d(pool, (1, 2, 2), (0, 1, 1)),
        nn.Conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)), nn.BatchNorm3d(256), nn.ReLU(inplace=True),
        nn.Conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)), nn.BatchNorm3d(256), nn.ReLU(inplace=True),
        nn.Conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)), nn.BatchNorm3d(256), nn.ReLU(inplace=True),
        nn.MaxPool3d(pool, (1, 2, 2)),
        nn.Conv3d(256, 512, (1, 6, 6)), nn.BatchNorm3d(512), nn.ReLU(inplace=True),
    )  # fmt: skip


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


class SyncNet_v2(nn.Module):
    """The network of ``syncnet_v2.model``: features of 0.2 s of sound and of five frames, compared by distance."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = _audio_stack()
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = _lip_stack()

    def forward_aud(self, mfcc: torch.Tensor) -> torch.Tensor:
        """MFCC windows (N, 1, 13, 20) -> features (N, 1024)."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))

    def forward_lip(self, frames: torch.Tensor) -> torch.Tensor:
        """Frame windows (N, 3, 5, 224, 224), BGR in [0, 255] -> features (N, 1024)."""
        return self.netfclip(self.netcnnlip(frames).flatten(1))
