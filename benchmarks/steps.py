"""Measure what each step of a frame costs: CPU milliseconds of this process and of ffmpeg, and shares of all.

    OMP_NUM_THREADS=1 python -m benchmarks.steps [--face CLIP] [--size 720p] [--face_detector centerface]

CPU time hardly depends on other load on the machine. Prints a table and JSON lines: ``steps``, and ``paste``, the
milliseconds of pasting faces of several sizes with each blend.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

import arguments
import cli
from benchmarks import cpu_timed, open_machine, report, write_video
from benchmarks.scene import SIZES, write_scene
from lipsync import LipSync, read_speech
from models.weights import BLENDS
from mouths import CPU_BATCH, crop, generate, masked_and_whole
from mouths.drawing import CutFace, SpeakingTrack, cut_faces, openings_for, select_references
from mouths.pasting import DrawnFace, paste
from mouths.references import Reference

SIDES = (96, 150, 256, 512)  # pixels of the faces of ``measure_paste``
REPETITIONS = 50  # that each is pasted


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Measure what each step of a frame costs.")
    parser.add_argument(
        "--face", type=Path, help="The clip that is pasted into a moving scene; without it, a talking head."
    )
    parser.add_argument("--size", choices=SIZES, default="720p", help="The size of the scene.")
    parser.add_argument("--seconds", type=cli.positive(float), default=10.0, help="Length of the scene in seconds.")
    arguments.add_search_arguments(parser)
    parser.set_defaults(face_detector="centerface", no_cache=True)
    arguments.add_compute_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    open_machine(args)
    lips = LipSync(search=arguments.face_search(args), device=args.device, precision=args.precision)
    lips.load()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "scene.mp4")
        write_scene(clip, args.seconds, SIZES[args.size], args.face)
        report("steps", measure_steps(lips, clip))
    report("paste", measure_paste())


def measure_steps(lips: LipSync, clip: Path) -> dict[str, float]:
    """Return each step's CPU milliseconds per frame, and its share of all."""
    take = lips.prepare(clip, clip)  # also loads libraries, so that this is not timed
    source, (one,) = take.source, take.faces
    frames, boxes = list(take.frames()), list(one.boxes())
    known = frames, [SpeakingTrack(boxes, one.windows, one.mouth_settings)]
    places, cuts = zip(*((frame, cut) for frame, cuts in cut_faces(*known) for _, cut in cuts))
    batches = split(cuts)
    hidden = [[cut.hidden() for cut in batch] for batch in batches]
    mask = lips.generator.mask_top
    mels = [np.stack([cut.mel for cut in batch]) for batch in batches]
    inputs = list(zip(mels, (masked_and_whole([cut.filmed for cut in batch], mask) for batch in batches)))
    asked = [None if batch[0].gain is None else np.array([cut.gain for cut in batch]) for batch in batches]
    drawn: list[np.ndarray] = []
    references: list[Reference | None] = []

    def select() -> None:
        for batch, front, (mels, faces), gains in zip(batches, hidden, inputs, asked):
            wanted = openings_for(lips.model, batch, mels, gains)
            references.extend(select_references(batch, front, wanted, faces))

    steps: dict[str, Callable[[], object]] = {  # each uses what the ones before have left
        "decode": lambda: sum(1 for _ in take.frames()),
        "detect": lambda: lips.search.find(source, report=lips.report),
        "mels": lambda: list(itertools.islice(read_speech(clip, source.fps), len(frames))),
        "crop": lambda: list(cut_faces(*known)),
        "occlusion": lambda: [cut.hidden() for cut in cuts],
        "reference": select,
        "network": lambda: drawn.extend(
            f for pair, gains in zip(inputs, asked) for f in generate(lips.model, *pair, gains)
        ),
        "paste": lambda: paste_all(places, cuts, drawn, list(itertools.chain(*hidden)), references),
        "encode": lambda: write_video(clip.with_name("out.mp4"), source, clip, frames),
    }
    cost = {name: 1000 * cpu_timed(work) / len(frames) for name, work in steps.items()}
    cost["detect"] -= cost["decode"]  # listed by itself, once, although it is done twice
    return {
        **{f"{name}_ms": value for name, value in cost.items()},
        **{f"{name}_share": value / sum(cost.values()) for name, value in cost.items()},
        "frames": len(frames),
        "face_side": float(np.mean([cut.box[3] - cut.box[1] for cut in cuts])),
    }


def split(values: Sequence) -> list[Sequence]:
    return [values[i : i + CPU_BATCH] for i in range(0, len(values), CPU_BATCH)]


def paste_all(
    frames: Sequence[np.ndarray],
    cuts: Sequence[CutFace],
    faces: Sequence[np.ndarray],
    hidden: Sequence[np.ndarray | float],
    references: Sequence[Reference | None],
) -> None:
    for frame, cut, face, front, reference in zip(frames, cuts, faces, hidden, references):
        paste(frame, DrawnFace(face, cut.filmed, cut.box, front, reference), "feather", in_place=True)


def measure_paste() -> dict[str, float]:
    """Return the CPU milliseconds of pasting a face that partly differs from the one in the frame."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (720, 1280, 3), np.uint8)
    figures = {}
    for blend, side in itertools.product(BLENDS, SIDES):
        box = (300, 100, 300 + side, 100 + side)
        filmed = crop(frame, box)
        face = cv2.GaussianBlur(filmed, (0, 0), 2)
        face[60:90, 30:66] = 40
        work = partial(paste, frame, DrawnFace(face, filmed, box), blend, in_place=True)
        figures[f"{blend}_{side}_ms"] = 1000 * cpu_timed(lambda: [work() for _ in range(REPETITIONS)]) / REPETITIONS  # noqa: B023
    return figures


if __name__ == "__main__":
    sys.exit(main())
