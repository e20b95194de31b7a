"""Measure time and memory of inference.py by the length of the video and by the width of the generator.

    python -m benchmarks.scaling [--lengths 10 60 600] [--widths 0.25 0.5 1]

Prints a table and one JSON object per line: ``length_10`` …, ``width_1`` … with seconds and peak memory, then
``length_growth`` and ``width_growth``: by what factor seconds and memory grow from the smallest to the largest, and the
factor of the seconds over that of the work, ``seconds_over_work`` (1.0 is linear).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

import cli
from benchmarks import print_machine, report, run_inference
from benchmarks.scene import write_scene
from demo.talking_head import Recipe, write_speech
from devices import pick_precision
from models import Wav2Lip


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Measure how time and memory grow with length and width.")
    add = parser.add_argument
    add("--lengths", nargs="+", type=cli.positive(float), default=[10, 60, 600], help="Length of each in seconds.")
    add("--widths", nargs="+", type=cli.positive(float), default=[0.25, 0.5, 1.0], help="The widths of the generator.")
    add("--size", nargs=2, type=cli.positive(int), default=[1280, 720], help="The size of the video: width height.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    print_machine(torch.device("cpu"), pick_precision("auto", torch.device("cpu")))
    with tempfile.TemporaryDirectory() as folder:
        lengths = {s: measure(Path(folder), s, min(args.widths), args.size) for s in sorted(args.lengths)}
        show("length", lengths, {s: s for s in lengths})
        widths = {w: measure(Path(folder), min(args.lengths), w, args.size) for w in sorted(args.widths)}
        show("width", widths, {w: w**2 for w in widths})  # work grows with input and output channels


def measure(folder: Path, seconds: float, width: float, size: list[int]) -> dict[str, float]:
    face, speech, checkpoint = folder / "face.mp4", folder / "speech.wav", folder / "generator.pth"
    write_scene(face, seconds, (size[0], size[1]))
    write_speech(speech, Recipe(seconds=seconds))
    torch.save({"state_dict": Wav2Lip(width).state_dict(), "width": width}, checkpoint)
    return run_inference(
        "--checkpoint_path", checkpoint, "--face", face, "--audio", speech, "--outfile", folder / "out.mp4",
        "--face_detector", "centerface", "--no_cache",
    )  # fmt: skip


def show(name: str, results: dict[float, dict[str, float]], work: dict[float, float]) -> None:
    for value, figures in results.items():
        report(f"{name}_{value:g}", figures)
    least, most = min(results), max(results)
    growth = {key: results[most][key] / results[least][key] for key in ("seconds", "peak_memory_mb")}
    report(f"{name}_growth", {"seconds_over_work": growth["seconds"] / (work[most] / work[least]), **growth})


if __name__ == "__main__":
    sys.exit(main())
