"""The generator and the visual-quality discriminator (Prajwal et al., ACM MM 2020, sections 3.3 and 3.4).

Module names and order are those of the official checkpoints' state dicts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from .conv import Conv2d, Conv2dTranspose, PlainConv2d, audio_encoder, scaled


def residual_blocks(channels: int, count: int) -> Iterator[Conv2d]:
    return (Conv2d(channels, channels, 3, 1, 1, residual=True) for _ in range(count))


def face_encoder(width: float) -> nn.ModuleList:
    """Masked and reference crop (N, 6, 96, 96) -> features at seven scales, 96 down to 1 pixel."""
    c16, c32, c64, c128, c256, c512 = (scaled(c, width) for c in (16, 32, 64, 128, 256, 512))

    def down(cin: int, cout: int, same: int) -> nn.Sequential:
        return nn.Sequential(Conv2d(cin, cout, 3, 2, 1), *residual_blocks(cout, same))

    return nn.ModuleList(
        [
            nn.Sequential(Conv2d(6, c16, 7, 1, 3)),  # 96
            down(c16, c32, same=2),  # 48
            down(c32, c64, same=3),  # 24
            down(c64, c128, same=2),  # 12
            down(c128, c256, same=2),  # 6
            down(c256, c512, same=1),  # 3
            nn.Sequential(Conv2d(c512, c512, 3, 1, 0), Conv2d(c512, c512, 1, 1, 0)),  # 1
        ]
    )


def face_decoder(width: float) -> nn.ModuleList:
    """Audio embedding -> picture features, each stage joined by the face encoder's features of its scale."""
    c16, c32, c64, c128, c256, c384, c512 = (scaled(c, width) for c in (16, 32, 64, 128, 256, 384, 512))

    def up(cin: int, cout: int, same: int) -> nn.Sequential:
        return nn.Sequential(Conv2dTranspose(cin, cout, 3, 2, 1, output_padding=1), *residual_blocks(cout, same))

    return nn.ModuleList(
        [
            nn.Sequential(Conv2d(c512, c512, 1, 1, 0)),  # 1
            nn.Sequential(Conv2dTranspose(c512 + c512, c512, 3, 1, 0), Conv2d(c512, c512, 3, 1, 1, residual=True)),  # 3
            up(c512 + c512, c512, same=2),  # 6
            up(c512 + c256, c384, same=2),  # 12
            up(c384 + c128, c256, same=2),  # 24
            up(c256 + c64, c128, same=2),  # 48
            up(c128 + c32, c64, same=2),  # 96
        ]
    )


class Wav2Lip(nn.Module):
    """The lip-sync generator: a face with its lower part masked, a reference face and a mel window -> the face.

    ``width`` scales the channels of every layer; 1.0 is the official network.
    """

    # inference settings, unless the user gives others; a checkpoint may have better ones than the reference
    pads = (0, 10, 0, 0)  # pixels added to the detector's box: top, bottom, left, right
    blend = "box"  # or "feather"
    gain = 1.0  # factor on the mouth movement that it generates
    mask_top = 0.5  # share of the height below which the input face is masked
    # frames by which a mouth's sound started before it in training, so that lips come early; None: unknown
    mel_lead: int | None = None
    # reference face: "same", the frame itself; "still", a similar one whose mouth is shut; or "matching", one whose
    # mouth is as open as the sound will open it: (the sound's embedding - silence's) · opening, 0 shut to 1 wide
    reference = "same"
    opening: list[float] | None = None
    # dB of the loud parts of the speech that it was trained with, see ``audio.lift_for``; None: speech stays as it is
    loudness: float | None = None

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.width = width
        self.face_encoder_blocks = face_encoder(width)
        self.audio_encoder = audio_encoder(width, residual_at_3x3=1)
        self.face_decoder_blocks = face_decoder(width)
        c32 = scaled(32, width)
        self.output_block = nn.Sequential(
            Conv2d(scaled(64, width) + scaled(16, width), c32, 3, 1, 1), nn.Conv2d(c32, 3, 1), nn.Sigmoid()
        )

    def forward(self, audio_sequences: torch.Tensor, face_sequences: torch.Tensor) -> torch.Tensor:
        """Return faces in [0, 1], BGR.

        Mels (N, 1, 80, 16) with faces (N, 6, 96, 96) give (N, 3, 96, 96). Windows of T frames, mels
        (N, T, 1, 80, 16) with faces (N, 6, T, 96, 96), give (N, 3, T, 96, 96).
        """
        mels, faces = audio_sequences, face_sequences  # the reference's names, for calls by keyword
        if faces.dim() == 4:
            return self.draw(self.audio_encoder(mels), faces)
        n, _, t = faces.shape[:3]
        voices = self.audio_encoder(mels.flatten(0, 1))
        out = self.draw(voices, faces.transpose(1, 2).flatten(0, 1))  # frames become rows of the batch
        return out.unflatten(0, (n, t)).transpose(1, 2)

    def draw(self, voices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        """Return what ``forward`` does for single frames, given audio embeddings (N, 512·width, 1, 1)."""
        features = []
        x = faces
        for block in self.face_encoder_blocks:
            x = block(x)
            features.append(x)
        x = voices
        for block in self.face_decoder_blocks:
            x = torch.cat((block(x), features.pop()), dim=1)
        return self.output_block(x)


class Wav2Lip_disc_qual(nn.Module):
    """The visual-quality discriminator: whether the lower half of a face is real, judged by single frames."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.width = width
        c32, c64, c128, c256, c512 = (scaled(c, width) for c in (32, 64, 128, 256, 512))
        self.face_encoder_blocks = nn.ModuleList(
            [
                nn.Sequential(PlainConv2d(3, c32, 7, 1, 3)),  # 48, 96
                nn.Sequential(PlainConv2d(c32, c64, 5, (1, 2), 2), PlainConv2d(c64, c64, 5, 1, 2)),  # 48, 48
                nn.Sequential(PlainConv2d(c64, c128, 5, 2, 2), PlainConv2d(c128, c128, 5, 1, 2)),  # 24, 24
                nn.Sequential(PlainConv2d(c128, c256, 5, 2, 2), PlainConv2d(c256, c256, 5, 1, 2)),  # 12, 12
                nn.Sequential(PlainConv2d(c256, c512, 3, 2, 1), PlainConv2d(c512, c512, 3, 1, 1)),  # 6, 6
                nn.Sequential(PlainConv2d(c512, c512, 3, 2, 1), PlainConv2d(c512, c512, 3, 1, 1)),  # 3, 3
                nn.Sequential(PlainConv2d(c512, c512, 3, 1, 0), PlainConv2d(c512, c512, 1, 1, 0)),  # 1, 1
            ]
        )
        self.binary_pred = nn.Sequential(nn.Conv2d(c512, 1, 1, 1, 0), nn.Sigmoid())

    def forward(self, faces: torch.Tensor, logits: bool = False) -> torch.Tensor:
        """Return the probability that faces (N, 3, T, 96, 96) are real, (T·N, 1), all clips' first frames first.

        With ``logits``, return the value before the sigmoid, so that gradients do not vanish when the network is sure.
        """
        x = faces.permute(2, 0, 1, 3, 4).flatten(0, 1)  # (T·N, 3, 96, 96), frame by frame as in the reference
        x = x[:, :, x.shape[2] // 2 :]
        for block in self.face_encoder_blocks:
            x = block(x)
        return (self.binary_pred[0](x) if logits else self.binary_pred(x)).flatten(1)

    def perceptual_forward(self, false_face_sequences: torch.Tensor) -> torch.Tensor:
        """Return the adversarial loss of generated faces (N, 3, T, 96, 96), as the reference calls it."""
        logits = self(false_face_sequences, logits=True)
        return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
