"""Make the lips in a video or photo match any speech.

    python inference.py --face VIDEO_OR_PHOTO --audio SPEECH

The way through: sound -> mel windows; frames -> boxes; crops and mels -> generator -> mouths, pasted and encoded.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch

import audio
import cli
import faces
import files
import similarity
import video
from errors import UserError
from face_detection.tracking import GAP_SECONDS, follow_face, most_together
from hparams import hparams as hp
from models import Wav2Lip, optimize_for_inference, weights

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels

CPU_BATCH = 16  # faces; larger network calls are no faster on a CPU
MOST_WORKERS = 8  # network calls at a time; more would only hold more frames
LEAST_FPS, MOST_FPS = 1, 240  # of the result
FLIGHT_BYTES = 128 << 20  # frames whose faces are being generated; as many wait on either side
OURS = (
    "network: the one that comes along, CC BY 4.0, yours to use for anything (learned from the GRID corpus of Cooke, "
    "Barker, Cunningham and Shao 2006, and public-domain portraits); the official one: --checkpoint_path wav2lip_gan"
)
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Lip-sync a video or photo to any speech.")
    add = parser.add_argument
    add("--checkpoint_path", help="generator: a file, wav2lip or wav2lip_gan; default: the one that comes along, demo")
    add("--face", required=True, type=Path, help="video or photo with a face")
    add("--audio", required=True, type=Path, help="any file with speech in it, videos included")
    add("--outfile", type=Path, default=Path("results/result_voice.mp4"), help="video to write")
    add("--static", nargs="?", const=True, default=False, type=cli.boolean, help="use only the first frame")
    add("--fps", type=cli.positive(float), help="frame rate of the result; default: that of --face, or 25")
    add(
        "--pads", nargs="+", type=int, help="pixels added to the box: top bottom left right; default: the network's own"
    )
    add("--wav2lip_batch_size", type=cli.positive(int), default=128, help="at most so many faces per network call")
    add("--resize_factor", type=cli.positive(int), default=1, help="shrink the frames by this factor first")
    add("--crop", nargs="+", type=int, default=[0, -1, 0, -1], help="part to use: top bottom left right, -1: all")
    add("--box", nargs="+", type=int, default=[-1, -1, -1, -1], help="the face's box: top bottom left right")
    add("--rotate", action="store_true", help="turn the frames 90 degrees clockwise (before --crop)")
    add("--nosmooth", action="store_true", help="do not smooth the boxes over time")
    add("--syncnet_checkpoint_path", help="expert: also tell how well the speech matches the face as it was filmed")
    faces.add_search_arguments(parser)
    add("--face_index", type=int, help="which face, from left to right at first sight, 0 first; default: the largest")
    add("--on_missing_face", choices=("keep", "error"), default="keep", help="keep such frames as they are, or stop")
    add("--loop", choices=("loop", "pingpong"), default="loop", help="how to repeat a video shorter than the speech")
    add("--lip_delay", type=cli.finite, default=0.0, help="milliseconds: lips later; 40 for those trained as in 2020")
    add("--blend", choices=("box", "feather"), help="paste the whole box, or only the mouth, softly; default as --pads")
    cli.add_compute_arguments(parser)
    add("--crf", type=int, choices=range(52), metavar="0-51", default=18, help="quality of the result; lower is better")
    add("--preset", choices=PRESETS, default="superfast", help="effort of the encoder")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace, model: torch.nn.Module | None = None) -> None:
    """Do what ``args`` say. A ``model`` from ``optimize_for_inference`` spares many runs in one process its loading."""
    check_arguments(args)
    device = cli.pick_device(args.device)
    dtype = cli.pick_precision(args.precision, device)
    source = open_face(args)
    # only counted here, and decoded again aside: an hour of sound would take 230 MB
    samples = sum(map(len, video.stream_audio(args.audio, hp.sample_rate)))
    count = audio.frame_count(samples, float(source.fps))
    generator = model or read_generator(args.checkpoint_path)  # built only when there is a face
    expert = args.syncnet_checkpoint_path and similarity.open_expert(args.syncnet_checkpoint_path, device, dtype)

    with ThreadPoolExecutor(1) as aside:  # librosa takes over a second to import
        windows = aside.submit(open_speech, args.audio, source.fps, args.lip_delay / 1000)
        boxes, used, seen = find_boxes(args, source, count, args.pads or generator.pads, device, dtype)
        model = model or optimize_for_inference(weights.build(generator, Wav2Lip), device, dtype)
        windows = windows.result()
    if expert:
        print_match(source, seen, args.audio, expert)

    pingpong = args.loop == "pingpong"
    frames = video.repeat_frames(source, len(windows), used, pingpong)
    blend = args.blend or generator.blend
    once = used is not None and len(windows) <= used  # each frame is shown once, so it may be drawn on
    shown = (boxes[video.source_index(i, len(boxes), pingpong)] for i in range(len(windows)))
    with cpu_workers(device) as workers:
        batch_size = pick_batch_size(args.wav2lip_batch_size, source, device, workers)
        frames = video.prefetch(frames, batch_size)
        finished = lip_sync(frames, shown, windows, model, batch_size, blend, workers, in_place=once)
        with video.VideoWriter(args.outfile, source, args.audio, len(windows), args.crf, args.preset) as writer:
            for frame in cli.progress(video.prefetch(finished, batch_size), "Lip-syncing", len(windows)):
                writer.write(frame)
    print(f"{args.outfile}: {len(windows)} frames, {float(len(windows) / source.fps):.2f} s")


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for what argparse cannot see, before anything is read."""
    for name in ("pads", "crop", "box"):
        if getattr(args, name) is not None and len(getattr(args, name)) != 4:
            raise UserError(f"--{name} takes four numbers (top bottom left right), not {len(getattr(args, name))}")
    if args.face_index is not None and args.face_index < 0:
        raise UserError(f"--face_index counts from 0 at the left, so it cannot be {args.face_index}")
    if args.fps and not LEAST_FPS <= args.fps <= MOST_FPS:
        raise UserError(f"--fps {args.fps:g} is not between {LEAST_FPS} and {MOST_FPS}")
    video.check_writable(args.outfile)
    files.check_not_read("--outfile", args.outfile, (args.face, args.audio))


def read_generator(path_or_name: str | None) -> weights.Checkpoint:
    """Read a generator's weights, or those that come with this repository, and then say what these are."""
    if path_or_name is None:
        print(OURS)
    return weights.read_checkpoint(path_or_name or weights.DEMO, Wav2Lip)


def open_face(args: argparse.Namespace) -> video.VideoInfo:
    """Probe the video or photo and say what is not taken as it is; the rate is that of ``--fps``, if there is one."""
    info = video.probe(args.face, video.Geometry(args.resize_factor, args.rotate, tuple(args.crop)))
    video.check_size(info)
    for note in info.notes:
        print(f"note: {note}")
    if args.fps:
        return replace(info, fps=Fraction(args.fps).limit_denominator(1001))
    if info.fps < video.MIN_FPS:
        print(f"note: {args.face} has {float(info.fps):.3g} frames a second, too few for lips to move: now {hp.fps:g}")
        return replace(info, fps=Fraction(hp.fps))
    return info


def open_speech(path: Path, fps: Fraction, delay: float = 0.0) -> audio.MelWindows:
    """Read any sound and return one mel window for every frame of the result, ``delay`` seconds earlier."""
    mel, samples = audio.spectrogram_of(video.stream_audio(path, hp.sample_rate))
    return audio.MelWindows(mel, float(fps), audio.frame_count(samples, float(fps)), delay)


@contextlib.contextmanager
def cpu_workers(device: torch.device) -> Iterator[int]:
    """Yield how many calls of the network to run at a time, and give each its share of the CPU's threads meanwhile.

    Calls side by side, a thread each, need not wait for the slowest core at every layer: the cores are also wanted by
    the decoder and the encoder. On another device, one call is prepared while another runs.
    """
    if device.type != "cpu":
        yield 2
        return
    threads = torch.get_num_threads()
    share = -(-threads // MOST_WORKERS)  # rounded up: of 12 cores, eight calls with one thread each would leave 4 idle
    workers = -(-threads // share)
    torch.set_num_threads(share)
    try:
        yield workers
    finally:
        torch.set_num_threads(threads)


def pick_batch_size(limit: int, picture: video.VideoInfo, device: torch.device, workers: int) -> int:
    """The largest useful batch of which ``workers`` and one more fit in ``FLIGHT_BYTES``."""
    fitting = max(1, FLIGHT_BYTES // (picture.width * picture.height * 3) // (workers + 1))
    return min(limit, fitting, CPU_BATCH if device.type == "cpu" else limit)


# --------------------------------------------------------------------------------------------------------------------
# Frames -> boxes


def find_boxes(
    args: argparse.Namespace,
    source: video.VideoInfo,
    wanted: int,
    pads: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[list[Box | None], int | None, np.ndarray]:
    """Return a box for every source frame and how many frames to use (None: all), from ``--box`` or by detection.

    Also return the face as it was seen, (frames, 4) float: neither padded, nor smoothed, nor filled in.
    """
    if args.box != [-1, -1, -1, -1]:
        box = fixed_box(args.box, source)
        return [box], 1 if args.static else None, np.tile(np.array(box, float), (1 if args.static else wanted, 1))
    wanted = 1 if args.static else wanted
    found = faces.find_faces(args, source, wanted, device, dtype)
    gap = round(GAP_SECONDS * source.fps)
    followed = follow_face(found, gap, args.face_index, not args.nosmooth)[:wanted]
    if args.face_index is not None and np.isnan(followed).all():
        check_face_index(args.face_index, most_together(found, gap))
    boxes = padded_boxes(followed, pads, source)
    report_missing(boxes, args.on_missing_face, float(source.fps))
    return boxes, len(boxes), follow_face(found, gap, args.face_index, smooth=False, fill=False)[:wanted]


def print_match(source: video.VideoInfo, seen: np.ndarray, speech: Path, expert: torch.nn.Module) -> None:
    """Print what ``similarity.py`` would; what cannot be measured does not keep anybody from lip-syncing."""
    try:
        print(similarity.score_boxes(source, seen, speech, expert))
    except UserError as problem:
        print(f"similarity not measured: {problem}")


def fixed_box(box: Sequence[int], picture: video.VideoInfo) -> Box:
    top, bottom, left, right = box
    if not (0 <= top < bottom <= picture.height and 0 <= left < right <= picture.width):
        raise UserError(
            f"--box {top} {bottom} {left} {right} (top bottom left right) does not lie inside the "
            f"{picture.width}x{picture.height} frame"
        )
    return left, top, right, bottom


def check_face_index(index: int, count: int) -> None:
    """Raise ValueError if there are faces, but not so many."""
    if 0 < count <= index:
        on_view = f"{count} faces are" if count > 1 else "one face is"
        raise UserError(f"--face_index {index}, but {on_view} on view at most, counted from 0 at the left")


def padded_boxes(boxes: np.ndarray, pads: Sequence[int], picture: video.VideoInfo) -> list[Box | None]:
    """(frames, 4) float boxes, NaN where missing -> whole pixels inside the picture, None where nothing is left.

    Raises ValueError when no frame has a face, or the pads leave none.
    """
    if np.isnan(boxes).all():
        raise UserError(
            "no face was found in any frame; try another --face_detector, --rotate if the picture lies on its side, "
            "--crop to the face if it is tiny, or give --box yourself"
        )
    top, bottom, left, right = pads
    padded = boxes + np.array([-left, -top, right, bottom])
    limits = np.array([picture.width, picture.height] * 2)
    padded = np.clip(np.round(padded), 0, limits)
    usable = (padded[:, 2] > padded[:, 0]) & (padded[:, 3] > padded[:, 1])  # False for NaN
    if not usable.any():
        raise UserError(f"--pads {top} {bottom} {left} {right} leave nothing of the face; use smaller numbers")
    return [tuple(int(v) for v in box) if ok else None for box, ok in zip(padded, usable)]


def report_missing(boxes: list[Box | None], policy: str, fps: float) -> None:
    """Tell which frames have no face; raise ValueError instead if ``policy`` is "error"."""
    missing = np.array([box is None for box in boxes])
    if not missing.any():
        return
    edges = np.flatnonzero(np.diff(missing, prepend=False, append=False))
    runs = [f"{start}-{stop - 1}" if stop - start > 1 else f"{start}" for start, stop in zip(edges[::2], edges[1::2])]
    where = ", ".join(runs[:8]) + (", …" if len(runs) > 8 else "")
    count = missing.sum()
    text = f"{count} of {len(boxes)} frames ({count / fps:.1f} s) have no face: {where}"
    if policy == "error":
        raise UserError(f"{text}; with --on_missing_face keep they are left as they are")
    print(f"{text}; they are left as they are")


# --------------------------------------------------------------------------------------------------------------------
# Boxes and mels -> finished frames


def lip_sync(
    frames: Iterable[np.ndarray],
    boxes: Iterable[Box | None],
    mels: Iterable[np.ndarray],
    model: torch.nn.Module,
    batch_size: int = CPU_BATCH,
    blend: str = "box",
    workers: int = 1,
    in_place: bool = False,
) -> Iterator[np.ndarray]:
    """Yield every frame with its mouth moved; frames whose box is None come back as they went in.

    ``frames`` (height, width, 3) uint8 BGR are changed only if ``in_place``; ``boxes`` (x1, y1, x2, y2) in whole pixels
    inside the frame; ``mels`` (80, 16) windows, see ``audio.MelWindows``; ``model`` a ``Wav2Lip``, plain or from
    ``optimize_for_inference``, which decides the device and precision. ``blend``: "box" or "feather". ``workers`` is
    how many batches the model works on at a time; more than one read ahead, see ``cpu_workers``.
    """
    rows = zip(frames, boxes, mels)
    batches = iter(lambda: list(itertools.islice(rows, batch_size)), [])

    def with_mouths(batch: list) -> tuple[list, Iterator[np.ndarray]]:
        with_face = [row for row in batch if row[1] is not None]
        return batch, iter(generate(model, *network_inputs(with_face)) if with_face else ())

    for batch, mouths in video.in_parallel(with_mouths, batches, workers):
        for frame, box, _ in batch:
            yield frame if box is None else paste(frame, next(mouths), box, blend, in_place)


def network_inputs(rows: Sequence[tuple[np.ndarray, Box, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Frames with box and mel -> mels (N, 80, 16) float32 and faces (N, 96, 96, 6) uint8: lower half blank ‖ whole."""
    size = hp.img_size
    faces = np.empty((len(rows), size, size, 6), np.uint8)
    for face, (frame, (x1, y1, x2, y2), _) in zip(faces, rows):
        face[..., 3:] = cv2.resize(frame[y1:y2, x1:x2], (size, size))
        face[..., :3] = face[..., 3:]
        face[size // 2 :, :, :3] = 0
    return np.stack([mel for _, _, mel in rows]), faces


def generate(model: torch.nn.Module, mels: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Run the generator on the output of ``network_inputs`` -> faces (N, 96, 96, 3) uint8 BGR.

    What does not fit in the device's memory is done in halves.
    """
    try:
        return _generate(model, mels, faces)
    except torch.OutOfMemoryError:
        if len(faces) == 1:
            raise
    # only here: inside the block, the error would keep alive whatever filled the memory
    half = len(faces) // 2
    return np.concatenate((generate(model, mels[:half], faces[:half]), generate(model, mels[half:], faces[half:])))


@torch.inference_mode()
def _generate(model: torch.nn.Module, mels: np.ndarray, faces: np.ndarray) -> np.ndarray:
    parameter = next(model.parameters())
    x, m = torch.from_numpy(faces), torch.from_numpy(mels)
    if parameter.is_cuda:
        x, m = x.pin_memory(), m.pin_memory()
    x = x.to(parameter.device, non_blocking=True).permute(0, 3, 1, 2)  # (N, 6, 96, 96), channels last in memory
    m = m.to(parameter.device, parameter.dtype, non_blocking=True)[:, None]  # (N, 1, 80, 16)
    out = model(m, (x.float() / 255).to(parameter.dtype))
    return (out.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def paste(frame: np.ndarray, face: np.ndarray, box: Box, blend: str, in_place: bool = False) -> np.ndarray:
    """Return ``frame``, or a copy of it unless ``in_place``, with ``face`` (96, 96, 3) stretched over ``box``."""
    x1, y1, x2, y2 = box
    frame = frame if in_place else frame.copy()
    target = frame[y1:y2, x1:x2]
    face = cv2.resize(face, (x2 - x1, y2 - y1))
    if blend == "box":  # kept quirk: the whole box is replaced, its unmasked upper half included
        target[:] = face
    else:
        mask = cv2.resize(feather_mask(), (x2 - x1, y2 - y1))[..., None]
        target[:] = (target + mask * (face.astype(np.float32) - target)).round()
    return frame


@lru_cache(maxsize=1)  # every frame needs it
def feather_mask() -> np.ndarray:
    """(96, 96) float32 in [0, 1]: 1 on the mouth, falling smoothly to 0 at the cheeks, the nose and the box's edge."""
    x, y = np.meshgrid(*[np.linspace(0, 1, hp.img_size, dtype=np.float32)] * 2)
    sides = np.minimum(x, 1 - x) / 0.15
    top = (y - 0.4) / 0.15  # the generator redraws the lower half; the fade starts just above it
    bottom = (1 - y) / 0.08
    ramp = np.clip(np.minimum(np.minimum(sides, top), bottom), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


if __name__ == "__main__":
    sys.exit(main())
