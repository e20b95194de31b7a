"""Train the expert as bfloat16 autocast would, on machines that have no bfloat16, to see what it costs in accuracy.

    python -m benchmarks.emulated_bf16 ARGUMENTS OF color_syncnet_train.py

Everything that autocast keeps in bfloat16 is rounded to it, forward and backward: inputs, weights and results of
convolutions, results of batch norms and sums. Layers accumulate in float32, as in oneDNN and cuDNN. A step takes about
as long as in float32.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

import arguments
import cli
import recipes
from models.conv import Conv2d
from terminal import TERMINAL


class Rounded(torch.autograd.Function):
    """Round a tensor, and its gradient on the way back, to bfloat16; both stay float32."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        return x.bfloat16().float()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.bfloat16().float()


@contextlib.contextmanager
def emulation() -> Iterator[None]:
    """Make networks of ``models`` compute as under bfloat16 autocast, forward and backward."""
    convolve = nn.Conv2d._conv_forward

    def rounded_convolve(self: nn.Conv2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return Rounded.apply(convolve(self, *map(Rounded.apply, (x, weight, bias))))

    def round_result(module: nn.Module, _: tuple, result: torch.Tensor) -> Any:  # torch's stubs want None
        return Rounded.apply(result) if isinstance(module, (nn.BatchNorm2d, Conv2d)) else None

    with mock.patch.object(nn.Conv2d, "_conv_forward", rounded_convolve), register_module_forward_hook(round_result):
        yield


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(description="Train the expert as bfloat16 autocast would.")
    arguments.add_training_arguments(parser)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    options = replace(arguments.training_options(args), precision="fp32")
    with emulation():
        recipes.train_expert(args.data_root, args.checkpoint_dir, options, TERMINAL)


if __name__ == "__main__":
    sys.exit(main())
