"""Measure the speed of lip-syncing, against the same network run plainly in the same process.

    python -m benchmarks.inference [--face VIDEO --audio SPEECH] [--device cuda]

Prints a table and, for scripts, one JSON object per line: ``generator`` (ratio of throughput to float32, contiguous,
unfolded) and ``end_to_end`` (seconds of every stage alone, and of the pipeline that overlaps them).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import arguments
import cli
import video
from benchmarks import lip_sync_as_a_user, open_machine, report, timed, write_video
from benchmarks.scene import write_scene
from demo.talking_head import Recipe, write_speech
from lipsync import read_speech
from models import Wav2Lip, optimize_for_inference
from mouths import CPU_BATCH, SpeakingTrack, generate, redraw_mouths

ROUNDS = 5
REFERENCE_BATCH = 128  # faces, the default of --wav2lip_batch_size


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Measure the generator and the whole of inference.py.")
    parser.add_argument(
        "--face", type=Path, help="The video to lip-sync; without it, 10 s of a talking head, 1280x720."
    )
    parser.add_argument("--audio", type=Path, help="The speech; without it, 10 s of synthetic speech.")
    arguments.add_detector_arguments(parser)
    parser.set_defaults(face_detector="haar")
    parser.add_argument("--batch_size", type=cli.positive(int), default=CPU_BATCH, help="Batch size of the network.")
    arguments.add_compute_arguments(parser)
    parser.add_argument("--generator_only", action="store_true", help="Skip the run from file to file.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    device, dtype = open_machine(args)
    report("generator", measure_generator(device, dtype, args.batch_size))
    if not args.generator_only:
        report("end_to_end", measure_end_to_end(args, device, dtype))


def measure_generator(device: torch.device, dtype: torch.dtype, batch_size: int) -> dict[str, float]:
    """Return the median throughput of ``mouths.generate`` and of the unoptimized network, in turn.

    Each way runs at its own default batch, the plain one at the reference's 128; ``ratio_same_batch`` compares both at
    ours.
    """
    torch.manual_seed(0)
    plain = Wav2Lip().eval().to(device)
    fast = Wav2Lip()
    fast.load_state_dict(plain.state_dict())
    fast = optimize_for_inference(fast, device, dtype)
    ours, theirs = random_batch(batch_size), random_batch(REFERENCE_BATCH)
    difference = np.abs(generate(fast, *ours) - 255 * generate_plainly(plain, *ours))
    work = {
        "fast": (batch_size, lambda: generate(fast, *ours)),
        "plain": (REFERENCE_BATCH, lambda: generate_plainly(plain, *theirs)),
        "plain_same_batch": (batch_size, lambda: generate_plainly(plain, *ours)),
    }
    rounds = [{name: size / timed(run) for name, (size, run) in work.items()} for _ in range(ROUNDS)]
    fps = {name: statistics.median(r[name] for r in rounds) for name in work}
    return {
        "ratio": fps["fast"] / fps["plain"],
        "ratio_same_batch": fps["fast"] / fps["plain_same_batch"],
        **{f"{name}_fps": value for name, value in fps.items()},
        "batch_size": batch_size,
        "mean_grey_difference": float(difference.mean()),
    }


def random_batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(size)
    return rng.standard_normal((size, 80, 16)).astype(np.float32), rng.integers(0, 256, (size, 96, 96, 6), np.uint8)


@torch.inference_mode()
def generate_plainly(model: torch.nn.Module, mels: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Generate in the reference's way: float32, contiguous -> (N, 96, 96, 3) in [0, 1]."""
    device = next(model.parameters()).device
    x = torch.from_numpy(np.ascontiguousarray((faces / 255.0).transpose(0, 3, 1, 2), np.float32))
    m = torch.from_numpy(mels[:, None])
    return model(m.to(device), x.to(device)).cpu().numpy().transpose(0, 2, 3, 1)


def measure_end_to_end(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Time every stage on its own, then ``inference.py`` as a user runs it (model loading included)."""
    with tempfile.TemporaryDirectory() as folder:
        face, speech = args.face or Path(folder, "face.mp4"), args.audio or Path(folder, "speech.wav")
        if not args.face:
            write_scene(face, seconds=10, size=(1280, 720))
        if not args.audio:
            write_speech(speech, Recipe(seconds=10))
        figures = measure_stages(args, face, speech, device, dtype, Path(folder))
        checkpoint = Path(folder, "generator.pth")
        torch.save(Wav2Lip().state_dict(), checkpoint)
        whole = lip_sync_as_a_user(args, checkpoint, face, speech, Path(folder, "out.mp4"))
    return {**figures, "pipeline": whole["seconds"], "fps": whole["fps"], "peak_memory_mb": whole["peak_memory_mb"]}


def measure_stages(
    args: argparse.Namespace, face: Path, speech: Path, device: torch.device, dtype: torch.dtype, folder: Path
) -> dict[str, float]:
    source = video.probe(face)
    figures: dict[str, float] = {}
    start = time.perf_counter()
    windows = read_speech(speech, source.fps)
    figures["mel"] = time.perf_counter() - start
    frames = list(video.read_frames(source, 0, min(100, len(windows))))  # a sample; the stages are linear in frames
    scale = len(windows) / len(frames)
    figures["decode"] = scale * timed(lambda: sum(1 for _ in video.read_frames(source, 0, len(frames))))
    detector = arguments.face_search(args).on(device, dtype).open()
    figures["detect"] = scale * timed(lambda: [detector.detect(frames[i : i + 16]) for i in range(0, len(frames), 16)])
    model = optimize_for_inference(Wav2Lip(), device, dtype)
    boxes = [(source.width // 3, source.height // 4, source.width // 2, source.height // 2)] * len(frames)
    figures["generate"] = scale * timed(lambda: list(redraw_mouths(frames, [SpeakingTrack(boxes, windows)], model)))
    figures["encode"] = scale * timed(lambda: write_video(folder / "stage.mp4", source, speech, frames))
    return {"frames": len(windows), **figures}


if __name__ == "__main__":
    sys.exit(main())
