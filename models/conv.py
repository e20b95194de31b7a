"""What the networks share: convolution blocks, the audio encoder, and their optimisation for inference."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from devices import memory_format

Network = TypeVar("Network", bound=nn.Module)


def scaled(channels: int, width: float) -> int:
    """Return ``channels`` times ``width``, rounded to a multiple of 8 and never below 8."""
    return max(8, round(channels * width / 8) * 8)


class Conv2d(nn.Module):
    """Convolution, batch norm, ReLU; with ``residual`` the input is added before the ReLU."""

    def __init__(self, cin: int, cout: int, kernel_size, stride=1, padding=0, residual: bool = False) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(cin, cout, kernel_size, stride, padding), nn.BatchNorm2d(cout))
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv_block(x)
        return F.relu(out + x if self.residual else out, inplace=True)


class Conv2dTranspose(nn.Module):
    """Transposed convolution, batch norm, ReLU."""

    def __init__(self, cin: int, cout: int, kernel_size, stride=1, padding=0, output_padding=0) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ConvTranspose2d(cin, cout, kernel_size, stride, padding, output_padding), nn.BatchNorm2d(cout)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv_block(x), inplace=True)


class PlainConv2d(nn.Module):
    """Convolution and leaky ReLU without normalisation: the discriminator's block.

    Its initial weights preserve the scale of signals (He et al., 2015). With torch's own, as in the reference, each
    block shrinks them, and 13 in a row leave nothing: logits of different faces differed by 1e-7.
    """

    slope = 0.01  # of the leaky ReLU

    def __init__(self, cin: int, cout: int, kernel_size, stride=1, padding=0) -> None:
        super().__init__()
        conv = nn.Conv2d(cin, cout, kernel_size, stride, padding)
        if not conv.weight.is_meta:  # for which it would import torch._dynamo, which takes 1.5 s
            nn.init.kaiming_normal_(conv.weight, self.slope)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has one
        self.conv_block = nn.Sequential(conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(self.conv_block(x), self.slope, inplace=True)


nonorm_Conv2d = PlainConv2d  # its name in the reference


def audio_encoder(width: float, residual_at_3x3: int) -> nn.Sequential:
    """Mel windows (N, 1, 80, 16) -> embeddings (N, 512·width, 1, 1). The expert's has one residual block more."""
    c32, c64, c128, c256, c512 = (scaled(c, width) for c in (32, 64, 128, 256, 512))
    return nn.Sequential(
        Conv2d(1, c32, 3, 1, 1),  # 80, 16
        Conv2d(c32, c32, 3, 1, 1, residual=True),
        Conv2d(c32, c32, 3, 1, 1, residual=True),
        Conv2d(c32, c64, 3, (3, 1), 1),  # 27, 16
        Conv2d(c64, c64, 3, 1, 1, residual=True),
        Conv2d(c64, c64, 3, 1, 1, residual=True),
        Conv2d(c64, c128, 3, 3, 1),  # 9, 6
        Conv2d(c128, c128, 3, 1, 1, residual=True),
        Conv2d(c128, c128, 3, 1, 1, residual=True),
        Conv2d(c128, c256, 3, (3, 2), 1),  # 3, 3
        *(Conv2d(c256, c256, 3, 1, 1, residual=True) for _ in range(residual_at_3x3)),
        Conv2d(c256, c512, 3, 1, 0),  # 1, 1
        Conv2d(c512, c512, 1, 1, 0),
    )


class OneDnnConv2d(nn.Module):
    """A folded ``Conv2d`` as a single oneDNN call: sum and ReLU are done before the result leaves the cache."""

    def __init__(self, conv: nn.Conv2d, residual: bool) -> None:
        super().__init__()
        self.conv = conv
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c = self.conv
        where = (c.weight, c.bias, c.padding, c.stride, c.dilation, c.groups)
        if self.residual:
            return torch.ops.mkldnn._convolution_pointwise.binary(x, x, *where, "add", 1.0, "relu", [], None)
        return torch.ops.mkldnn._convolution_pointwise(x, *where, "relu", [], None)


def fold_batchnorm(network: Network) -> Network:
    """Merge every batch norm into the convolution before it, in place; return ``network`` in eval mode.

    The function stays the same up to rounding, with fewer passes over memory. The network can no longer be trained.
    """
    network.eval()
    for block in network.modules():
        if isinstance(block, (Conv2d, Conv2dTranspose)):
            parts: list[Any] = list(block.conv_block)
            conv, norm = parts
            fused = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
            block.conv_block = nn.Sequential(fused)
    return network


def optimize_for_inference(network: Network, device: torch.device, dtype: torch.dtype) -> Network:
    """Return ``network`` (changed in place) ready to run fast: folded, channels last, on ``device`` in ``dtype``."""
    fold_batchnorm(network).requires_grad_(False)
    network.to(device, dtype, memory_format=memory_format(device))  # type: ignore[call-overload]  # stubs lack it
    if device.type == "cpu" and hasattr(torch.ops.mkldnn, "_convolution_pointwise"):  # what torch.compile uses too
        for parent in list(network.modules()):
            for name, block in parent.named_children():
                if isinstance(block, Conv2d):
                    folded: Any = block.conv_block[0]
                    setattr(parent, name, OneDnnConv2d(folded, block.residual))
    return network
