"""Measure the time to the first finished frame of inference.py, by the length of video and speech.

    python -m benchmarks.first_frame [--lengths 60 600 3600] [--size 1280 720] [--times 3]

Prints a table and one JSON object per line: ``length_60`` … with the median and the worst of ``--times`` runs, in
seconds: ``cold``, from the start of a process, and ``loaded``, with the networks in memory. Each run ends with that
frame.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import cli
import video
from benchmarks import print_machine, report, run_inference
from benchmarks.scene import write_scene
from devices import pick_precision
from faces import FaceSearch
from lipsync import LipSync

SCENE = 60.0  # seconds that are rendered; longer videos repeat them
DETECTOR = "centerface"
# Runs inference.py up to the first frame that is written, and prints how long that took.
PROGRAM = """
import json, sys, time
start = time.perf_counter()
import inference, video
def first(writer, frame):
    print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
    raise KeyboardInterrupt
video.VideoWriter.write = first
inference.main(sys.argv[1:])
"""


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Measure the time to the first finished frame.")
    add = parser.add_argument
    add("--lengths", nargs="+", type=cli.positive(float), default=[60, 600, 3600], help="Length of each in seconds.")
    add("--size", nargs=2, type=cli.positive(int), default=[1280, 720], help="The size of the video: width height.")
    add("--times", type=cli.positive(int), default=3, help="Number of runs of each kind.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    print_machine(torch.device("cpu"), pick_precision("auto", torch.device("cpu")))
    lips = LipSync(search=FaceSearch(DETECTOR, cache=False))
    lips.load()
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder, "scene.mp4")
        write_scene(scene, min(SCENE, max(args.lengths)), tuple(args.size))
        for seconds in args.lengths:
            face, speech = prolong(scene, seconds)
            took = {
                "cold": [measure_cold(face, speech) for _ in range(args.times)],
                "loaded": [measure_loaded(lips, face, speech) for _ in range(args.times)],
            }
            figures = {kind: statistics.median(times) for kind, times in took.items()}
            report(f"length_{seconds:g}", figures | {f"{kind}_worst": max(times) for kind, times in took.items()})


def prolong(scene: Path, seconds: float) -> tuple[Path, Path]:
    """Return the scene repeated to a length of ``seconds``, and its sound as wav."""
    face, speech = scene.with_name(f"{seconds:g}.mp4"), scene.with_name(f"{seconds:g}.wav")
    again = math.ceil(seconds / SCENE) - 1
    command = [video.ffmpeg_path(), "-v", "error", "-stream_loop", str(again), "-i", str(scene), "-t", str(seconds)]
    command += ["-c", "copy", str(face), "-t", str(seconds), "-vn", "-ar", "44100", str(speech)]
    subprocess.run(command, check=True)
    return face, speech


def measure_cold(face: Path, speech: Path) -> float:
    arguments = ["--face", face, "--audio", speech, "--outfile", face.with_name("out.mp4")]
    return run_inference(*arguments, "--face_detector", DETECTOR, "--no_cache", program=PROGRAM)["seconds"]


def measure_loaded(lips: LipSync, face: Path, speech: Path) -> float:
    """Return the seconds to the first finished frame with loaded networks; ``lips`` should not cache boxes."""
    start = time.perf_counter()
    with contextlib.closing(lips.stream(lips.prepare(face, speech))) as frames:
        next(frames)
        return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
