"""Measure inference.py from files to file at three sizes, against the plain path in the same run.

    python -m benchmarks.end_to_end [--face CLIP --audio SPEECH] [--face_detector sfd] [--seconds 60]

The plain path is the reference's: every frame searched whole, in float32, one stage after another, two encodes. It is
timed on a part of the clip and scaled. Prints a table and one JSON object per line: ``360p``, ``720p``, ``1080p`` with
``ratio`` and ``fps`` (cold start included), the time to the first finished frame (``first_frame_s``, cold start
included; ``first_frame_loaded_s``, with loaded networks), the seconds of every stage alone, memory, and shares of the
matrix peak.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

import arguments
import audio
import cli
import video
from benchmarks import lip_sync_as_a_user, matrix_peak, open_machine, report, timed, write_video
from benchmarks.first_frame import measure_loaded
from benchmarks.inference import REFERENCE_BATCH, generate_plainly
from benchmarks.scene import SIZES, CountingDetector, write_scene
from concurrency import prefetch
from demo.talking_head import Recipe, write_speech
from devices import calls_at_a_time
from face_detection.detections import Detections
from face_detection.search import search
from lipsync import LipSync, pick_batch_size, read_speech
from models import Wav2Lip, optimize_for_inference
from mouths import SpeakingTrack, crop, masked_and_whole, redraw_mouths

GENERATOR_FLOP = 7.93e9  # per face
S3FD_FLOP = 631e3  # per pixel


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Measure inference.py from files to file at 360p, 720p and 1080p.")
    parser.add_argument(
        "--face", type=Path, help="The clip that is pasted into a moving scene; without it, a talking head."
    )
    parser.add_argument("--audio", type=Path, help="The speech; without it, synthetic speech.")
    parser.add_argument(
        "--seconds", type=cli.positive(float), default=10.0, help="Length of the result without --audio, in seconds."
    )
    parser.add_argument(
        "--plain_frames", type=cli.positive(int), default=4, help="Number of frames on which the plain path is timed."
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="Measure these sizes.")
    arguments.add_detector_arguments(parser)
    parser.set_defaults(face_detector="haar")
    arguments.add_compute_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    device, dtype = open_machine(args)
    with tempfile.TemporaryDirectory() as folder:
        speech, checkpoint = args.audio or Path(folder, "speech.wav"), Path(folder, "generator.pth")
        if not args.audio:
            write_speech(speech, Recipe(seconds=args.seconds))
        torch.save(Wav2Lip().state_dict(), checkpoint)
        for name in args.sizes:
            clip = Path(folder, f"{name}.mp4")
            write_scene(clip, args.seconds, SIZES[name], args.face)
            figures = lip_sync_as_a_user(args, checkpoint, clip, speech, clip.with_name("out.mp4"))
            figures["first_frame_loaded_s"] = measure_first_frame(args, checkpoint, clip, speech)
            figures |= measure_stages(args, clip, speech, device, dtype)
            figures["plain_seconds"] = measure_plainly(args, clip, speech, device)
            figures["ratio"] = figures["plain_seconds"] / figures["seconds"]
            report(name, figures)


def measure_first_frame(args: argparse.Namespace, checkpoint: Path, clip: Path, speech: Path) -> float:
    """Return the seconds to the first finished frame, with loaded networks and without cached boxes."""
    search = replace(arguments.face_search(args), cache=False)
    lips = LipSync(checkpoint, search=search, device=args.device, precision=args.precision)
    lips.load()
    return measure_loaded(lips, clip, speech)


# --------------------------------------------------------------------------------------------------------------------
# Every stage alone


def measure_stages(
    args: argparse.Namespace, clip: Path, speech: Path, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    source, figures = video.probe(clip), {}
    windows = read_speech(speech, source.fps)
    count = len(windows)
    figures["decode_s"] = timed(lambda: sum(1 for _ in video.repeat_frames(source, count)))

    detector = CountingDetector(arguments.face_search(args).on(device, dtype).open())
    found = Detections()
    frames = prefetch(video.read_frames(source, 0, count), 4)
    figures["search_s"] = timed(lambda: sum(search(found, frames, detector, float(source.fps))))
    figures |= {"detector_s": detector.seconds, "detector_pictures": detector.pictures}
    figures["detector_megapixels"] = detector.pixels / 1e6

    model = optimize_for_inference(Wav2Lip(), device, dtype)
    some = list(video.repeat_frames(source, min(96, count)))
    box = (source.width // 3, source.height // 4, source.width // 2, source.height // 2)
    calls = calls_at_a_time(device)
    batch = pick_batch_size(REFERENCE_BATCH, source, device)
    lip_sync = redraw_mouths(some, [SpeakingTrack([box] * len(some), windows)], model, batch, workers=calls)
    figures["generate_s"] = count / len(some) * timed(lambda: list(lip_sync))
    encode = timed(lambda: write_video(clip.with_name("stage.mp4"), source, speech, some))
    figures["encode_s"] = count / len(some) * encode
    peak = matrix_peak(device, dtype)
    figures["generator_share_of_peak"] = GENERATOR_FLOP * count / figures["generate_s"] / peak
    if args.face_detector == "sfd":
        figures["detector_share_of_peak"] = S3FD_FLOP * detector.pixels / detector.seconds / peak
    return figures


# --------------------------------------------------------------------------------------------------------------------
# The plain path


def measure_plainly(args: argparse.Namespace, clip: Path, speech: Path, device: torch.device) -> float:
    """Estimate the reference's seconds for the whole clip, from its stages on a part of it."""
    source = video.probe(clip)
    wav = video.read_audio(speech, 16000)
    count = audio.frame_count(len(wav), float(source.fps))
    sample = list(video.repeat_frames(source, min(64, count)))
    decode = timed(lambda: list(video.repeat_frames(source, len(sample)))) / len(sample)

    detector = arguments.face_search(args).on(device).open()
    few = sample[: args.plain_frames]
    detector.detect(few[:1])  # the first call takes longer
    detect = timed(lambda: [detector.detect([frame]) for frame in few]) / len(few)

    model = Wav2Lip().eval().to(device)
    box = (source.width // 3, source.height // 4, source.width // 2, source.height // 2)
    rows = [(frame, box, np.zeros((80, 16), np.float32)) for frame in sample]
    paste_plainly(model, rows)
    generate = timed(lambda: paste_plainly(model, rows)) / len(sample)
    encode = timed(lambda: write_video(clip.with_name("plain.mp4"), source, speech, sample))
    return count * (decode + detect + generate + 2 * encode / len(sample))


def paste_plainly(model: torch.nn.Module, rows: list[tuple]) -> None:
    mels = np.stack([mel for _, _, mel in rows])
    faces = masked_and_whole([crop(frame, box) for frame, box, _ in rows], Wav2Lip.mask_top)
    made = generate_plainly(model, mels, faces) * 255
    for (frame, (x1, y1, x2, y2), _), face in zip(rows, made):
        frame[y1:y2, x1:x2] = cv2.resize(face.astype(np.uint8), (x2 - x1, y2 - y1))


if __name__ == "__main__":
    sys.exit(main())
