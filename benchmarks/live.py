"""Measure live lip-sync: the delay from a sound sample to its frame, frames per second, and memory.

    python -m benchmarks.live [--face VIDEO --audio SPEECH] [--seconds 30] [--size 720p]

``latency``: sound is pushed in pieces of 40 ms in real time, and frames are taken when they are due. The delay is the
time from a sample, which waits for the rest of its piece and for the 212 ms of sound after it, to the frame that starts
with it. ``sustained``: sound is pushed as fast as frames are made of it; CPU seconds include the decoder, and memory is
that of the process after a quarter of the sound and at its end (Linux). ``crowd``: as ``latency``, in ``--sessions``
sessions at the same time.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

import arguments
import cli
import live
import video
from benchmarks import cpu_seconds, open_machine, report, resident_mb
from benchmarks.scene import SIZES, write_scene
from demo.talking_head import Recipe, write_speech
from hparams import hparams as hp
from lipsync import LipSync

PIECE = 0.04  # seconds of sound pushed at a time
BEHIND = 0.5  # seconds that frames may lag behind the speaker
CLIP = 10.0  # seconds of the video, which plays back and forth


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Measure live lip-sync.")
    parser.add_argument(
        "--face", type=Path, help="The clip that is pasted into a moving scene; without it, a talking head."
    )
    parser.add_argument("--audio", type=Path, help="The speech; without it, synthetic speech.")
    parser.add_argument(
        "--seconds", type=cli.positive(float), default=30.0, help="Seconds of speech in each measurement."
    )
    parser.add_argument("--sessions", type=cli.positive(int), help="Also measure this many sessions at the same time.")
    parser.add_argument("--size", choices=SIZES, default="720p", help="The size of the frames.")
    arguments.add_detector_arguments(parser)
    parser.set_defaults(face_detector="haar")
    arguments.add_compute_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    open_machine(args)
    with tempfile.TemporaryDirectory() as folder:
        clip, speech = Path(folder, "clip.mp4"), args.audio or Path(folder, "speech.wav")
        write_scene(clip, CLIP, SIZES[args.size], args.face)
        if not args.audio:
            write_speech(speech, Recipe(seconds=args.seconds))
        sound = np.resize(video.read_audio(speech, hp.sample_rate), round(args.seconds * hp.sample_rate))
        lips = LipSync(search=arguments.face_search(args), device=args.device, precision=args.precision)
        start = time.perf_counter()
        face = live.prepare(lips, clip)
        prepared = time.perf_counter()
        with live.Session(lips, face, behind=BEHIND) as session:
            report("start", {"prepare_s": prepared - start, "open_s": time.perf_counter() - prepared})
            report("latency", measure_latency(session, sound))
        report("sustained", measure_sustained(lips, face, sound))
        if args.sessions:
            report("crowd", measure_crowd(lips, face, sound, args.sessions))


def measure_latency(session: live.Session, sound: np.ndarray) -> dict[str, float]:
    """Return the delay from each frame's first sample to the frame, in real time, after a second of silence."""
    begun, delays, pauses = threading.Event(), [], 0
    size = round(PIECE * hp.sample_rate)
    pieces = np.split(sound, range(size, len(sound), size))

    def speak() -> None:
        begun.wait()
        for number, piece in enumerate(pieces, 1):
            time.sleep(max(0.0, start + number * PIECE - time.monotonic()))
            session.push(piece)
        session.end()

    speaker = threading.Thread(target=speak)
    speaker.start()
    for frame in session.play():
        now = time.monotonic()
        if frame.number == round(session.fps):
            start = now
            begun.set()
        if frame.moment is not None:
            delays.append(now - start - frame.moment)
        pauses += frame.moment is None and bool(delays)
        if not speaker.is_alive() and not session.waiting:
            session.close()
    speaker.join()
    figures = {"first_s": delays[0], "median_s": float(np.median(delays)), "worst_s": max(delays)}
    passed = round(len(sound) / hp.sample_rate * session.fps) - len(delays)
    return {**figures, "frames": len(delays), "passed_over": passed, "waited_for_sound": pauses}


def measure_crowd(lips: LipSync, face: live.Face, sound: np.ndarray, count: int) -> dict[str, float]:
    """Return the figures of ``count`` simultaneous sessions, in the median, and the worst delay of all."""
    with contextlib.ExitStack() as opened, ThreadPoolExecutor(count) as people:
        sessions = [opened.enter_context(live.Session(lips, face, behind=BEHIND)) for _ in range(count)]
        each = list(people.map(partial(measure_latency, sound=sound), sessions))
    figures = {name: float(np.median([one[name] for one in each])) for name in each[0]}
    seconds = len(sound) / hp.sample_rate
    figures |= {"worst_s": max(one["worst_s"] for one in each), "fps_of_each": figures["frames"] / seconds}
    return {**figures, "fps_in_all": sum(one["frames"] for one in each) / seconds, "memory_mb": resident_mb()}


def measure_sustained(lips: LipSync, face: live.Face, sound: np.ndarray) -> dict[str, float]:
    """Return frames per second when all are requested at once, CPU seconds per frame, and memory on the way."""
    begun, used, made, memory = time.perf_counter(), cpu_seconds(), 0, []
    with live.Session(lips, face) as session:
        opened = cpu_seconds() - used
        start = time.perf_counter()
        for second in np.split(sound, range(hp.sample_rate, len(sound), hp.sample_rate)):
            session.push(second)
            while frames := session.frames():
                made += len(frames)
            memory.append(resident_mb())
        seconds = time.perf_counter() - start
    used = cpu_seconds() - used - opened
    figures = {"frames": made, "fps": made / seconds, "cpu_s_per_frame": used / made, "open_s": start - begun}
    return {**figures, "memory_mb_quarter": memory[len(memory) // 4], "memory_mb_end": memory[-1]}


if __name__ == "__main__":
    sys.exit(main())
