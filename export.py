"""Export a generator or an expert to ONNX, for use outside Python.

python export.py --checkpoint_path wav2lip_gan --outfile wav2lip_gan.onnx
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cli
import files
from errors import UserError
from models import SyncNet_color, Wav2Lip, weights
from models.exporting import INPUTS, OUTPUTS, check_onnx, read_exportable, write_onnx
from terminal import TERMINAL

NETWORKS = {"generator": Wav2Lip, "expert": SyncNet_color}


def get_parser() -> cli.Parser:
    parser = cli.Parser("Export a generator or an expert to ONNX, and check the result against torch.")
    add = parser.add_argument
    add(
        "--checkpoint_path",
        type=cli.file_or_name,
        default=weights.DEMO,
        help="The network: a file, wav2lip, wav2lip_gan, lipsync_expert or demo.",
    )
    add(
        "--network",
        choices=NETWORKS,
        help="The network to export if --checkpoint_path is demo, which has both.",
    )
    add("--outfile", required=True, type=Path, help="The file to write (.onnx).")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    if args.outfile.suffix.lower() != ".onnx":
        raise UserError(f"--outfile {args.outfile} must end in .onnx")
    files.check_outputs({"--outfile": args.outfile}, [Path(args.checkpoint_path)])
    check_onnx()  # before a download
    checkpoint, network = read_exportable(args.checkpoint_path, NETWORKS.get(args.network), TERMINAL)
    difference = write_onnx(checkpoint, network, args.outfile)
    inputs = ", ".join(f"{name} (N, {', '.join(map(str, shape))})" for name, shape in INPUTS[network].items())
    print(f"{args.outfile}: {network.__name__}, {inputs} -> {', '.join(OUTPUTS[network])}")
    print(f"checked with onnxruntime: at most {difference:.1e} away from torch")


if __name__ == "__main__":
    sys.exit(main())
