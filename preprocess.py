"""Turn a folder of videos into training data: face crops, sound and mel of every clip.

    python preprocess.py --data_root VIDEOS --preprocessed_root DATA

The way through: video -> frames at 25 fps -> boxes of a face -> numbered crops; its sound -> audio.wav -> mel.npy.
Under torchrun every process takes its share of the clips, and the last one to finish writes the report.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import torch
from scipy.io import wavfile
from tqdm import tqdm

import audio
import cli
import faces
import files
import video
from concurrency import prefetch
from dataset import LEAST_FRAMES
from devices import cpu_count, pick_device, pick_precision
from errors import MissingFile, UserError
from face_detection.detections import Detections, cut_out
from face_detection.detectors import CPU_DETECTORS, Detector, create_detector
from face_detection.search import search
from face_detection.tracking import GAP_SECONDS, follow_face
from footage import VIDEO_SUFFIXES, is_video, visible_files
from hparams import FILELISTS
from hparams import hparams as hp

OUR_FILES = re.compile(r"\d+\.jpg|audio\.wav|mel\.npy|clip\.json")
LONGEST_NAME = 246  # bytes of a clip's folder: file systems allow 255, and it is written as .NAME.partial
MIN_SECONDS = hp.mel_step_size / hp.mel_frames_per_second  # of sound, one training window: 0.2 s
SPLITS = ("train", "val", "test")
NAMED_ON_SCREEN = 10  # dropped clips; report.json names all


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Turn a folder of videos into face crops, audio.wav and mel.npy for training.")
    add = parser.add_argument
    add("--data_root", required=True, type=Path, help="folder with videos, at any depth")
    add("--preprocessed_root", required=True, type=Path, help="folder to write; finished clips in it are kept")
    add("--batch_size", type=cli.positive(int), default=32, help="pictures per call of the face detector")
    add("--ngpu", type=cli.positive(int), default=1, help="how many GPUs to use, each with its own processes")
    add(
        "--workers",
        type=cli.positive(int),
        help="videos at a time, per GPU; default: 1, for centerface and haar one per CPU core",
    )
    cli.add_detector_arguments(parser)
    cli.add_compute_arguments(parser)
    add("--split", type=fractions, metavar="TRAIN,VAL,TEST", help="write filelists, by top-level folder: 0.9,0.05,0.05")
    add("--filelists", type=Path, default=FILELISTS, help="where --split writes train.txt, val.txt and test.txt")
    add("--seed", type=int, default=0, help="of the split")
    return parser


def fractions(text: str) -> tuple[float, ...]:
    """Parse ``0.9,0.05,0.05``: the shares of train, val and test."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3 or not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers that sum to 1, such as 0.9,0.05,0.05")
    return shares


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    check_arguments(args)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    tally = cut_share(args, rank, world)
    total = merge_ranks(tally, args.preprocessed_root, rank, world)
    if total is None:
        print(f"process {rank} of {world}: {len(tally.kept)} clips kept; the last to finish writes report.json")
        return
    report = describe(total, args)
    files.save(args.preprocessed_root / "report.json", json.dumps(report, indent=1))
    check_kept(report, args)
    print_table(report, args)
    if args.split:
        print(write_filelists(total.kept, args.split, args.seed, args.filelists))


def cut_share(args: argparse.Namespace, rank: int, world: int) -> Tally:
    """Cut this process's share of the clips, those that are not finished."""
    started = time.monotonic()
    clips = find_clips(args.data_root)
    rank_report(args.preprocessed_root, rank).unlink(missing_ok=True)  # of a run that was stopped
    tally = Tally()
    todo = [clip for clip in clips[rank::world] if not tally.add_finished(clip, args)]
    jobs = plan_workers(args, len(todo)) if todo else []

    try:
        with contextlib.closing(cut_clips(todo, jobs)) as outcomes:
            for outcome in tqdm(outcomes, "Cutting faces", len(todo), unit="clip", disable=True if rank else None):
                tally.add(outcome)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; finished clips are kept, and the same command goes on from there") from None

    tally.seconds = time.monotonic() - started
    return tally


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError or FileNotFoundError for what argparse cannot see, before anything is read."""
    if not args.data_root.exists():
        raise MissingFile(f"--data_root {args.data_root} does not exist")
    if not args.data_root.is_dir():
        raise UserError(f"--data_root {args.data_root} is a file; give the folder that holds the videos")
    for name in ("preprocessed_root", "filelists") if args.split else ("preprocessed_root",):
        files.check_folder(getattr(args, name))


# --------------------------------------------------------------------------------------------------------------------
# Videos -> names


@dataclass(frozen=True)
class Clip:
    """One video and the folder that it becomes."""

    source: str  # path relative to data_root, with forward slashes
    name: str  # dir/clip relative to preprocessed_root, without white space


def find_clips(data_root: Path) -> list[Clip]:
    """Return every video below ``data_root``, sorted, each with its own name; raise ValueError if there is none."""
    present = list(visible_files(data_root))
    videos = sorted((path.relative_to(data_root) for path in present if is_video(path)), key=_mp4_first)
    if not videos:
        example = f" ({len(present)} other files, e.g. {present[0].name})" if present else ""
        raise UserError(
            f"no video in {data_root}{example}: looked at any depth for {' '.join(VIDEO_SUFFIXES)}, "
            "and for files without a suffix that start like a video"
        )
    taken: dict[str, Path] = {}
    for path in videos:
        # Files right in data_root are named after it, as the reference named clips after the folder they lie in.
        # Folders of folders become one level, because a line of a filelist is dir/clip.
        folder = "__".join(path.parent.parts) or data_root.resolve().name or "clips"
        choices = itertools.chain((path.stem, path.name), (f"{path.name}.{n}" for n in itertools.count(2)))
        names = (_clean(f"{folder}/{choice}") for choice in choices)
        taken[next(name for name in names if name not in taken)] = path
    return sorted((Clip(path.as_posix(), name) for name, path in taken.items()), key=lambda clip: clip.source)


def _mp4_first(path: Path) -> tuple[bool, str]:
    """Of videos that differ only in their suffix, the MP4 keeps the name that the reference gave it."""
    return path.suffix.lower() != ".mp4", str(path)


def _clean(name: str) -> str:
    """A name that can stand in a filelist, whose lines end at the first space and are UTF-8, and on a disk."""
    return "/".join(map(_short, _printable(re.sub(r"\s", "_", name)).replace("?", "_").split("/")))


def _short(name: str) -> str:
    """``name``, or if a disk would not take it with .NAME.partial around it, its beginning and a digest of it all."""
    whole = name.encode()
    if len(whole) <= LONGEST_NAME:
        return name
    return f"{whole[: LONGEST_NAME - 20].decode(errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:12]}"


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()  # file names need not be valid UTF-8; screens and JSON insist


# --------------------------------------------------------------------------------------------------------------------
# One video -> one folder


@dataclass(frozen=True)
class Job:
    """How to cut clips; the same for every clip of one worker."""

    data_root: Path
    preprocessed_root: Path
    face_detector: str
    weights: Path | None
    device: str
    dtype: torch.dtype
    batch_size: int  # pictures per detector call


@dataclass(frozen=True)
class Kept:
    """A finished clip; also the content of its clip.json, by which a later run knows that it is finished."""

    clip: str  # dir/clip
    source: str
    bytes: int  # of the source
    face_detector: str
    fps: float  # of the source
    frames: int  # at 25 fps
    frames_with_face: int
    seconds: float  # of sound
    detector_seconds: float
    modified: int | None = None  # when the source was, in ns; None: an older version did not note it
    sha256: str | None = None  # of the source: another file under its name is cut anew

    def is_of(self, source: Path) -> bool:
        """Whether it was cut from what is in ``source``, which is only read if that is not clear without."""
        status = source.stat()
        if self.bytes != status.st_size:
            return False
        return self.modified in (None, status.st_mtime_ns) or self.sha256 == files.digest(source)


@dataclass(frozen=True)
class Dropped:
    """A clip that cannot be used."""

    source: str
    reason: str  # one of a few, to be counted
    detail: str


class Unusable(Exception):
    """Raised with (reason, detail) where a clip turns out to be of no use."""


def cut_clip(clip: Clip, job: Job) -> Kept | Dropped:
    """Write the clip's folder, complete or not at all; raise only what would hit every clip: no detector, no space."""
    detector = detector_of(job)
    folder = job.preprocessed_root / clip.name
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        check_replaceable(folder)
        with files.locked(folder.with_name(f".{folder.name}.lock")):  # two runs would ruin each other's
            shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
            partial.mkdir()
            try:
                kept = write_clip(clip, job, detector, partial)
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(partial, folder)
                return kept
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except Unusable as problem:
        reason, detail = problem.args
    except (ValueError, RuntimeError, OSError, cv2.error) as error:  # one odd clip must not end a run of days
        if files.is_disk_error(error):
            raise
        reason, detail = "failed", f"{type(error).__name__}: {error}"
    detail = " ".join(detail.replace(str(job.data_root / clip.source), "it").split())
    return Dropped(_printable(clip.source), reason, _printable(detail))


@lru_cache(maxsize=1)
def detector_of(job: Job) -> Detector:
    """The worker's detector, loaded once."""
    return create_detector(job.face_detector, job.device, job.weights, job.dtype)


def check_replaceable(folder: Path) -> None:
    """Raise Unusable unless ``folder`` is absent or holds only what preprocessing writes."""
    if folder.exists():
        contents = folder.iterdir() if folder.is_dir() else [folder]
        if strange := [file for file in contents if not OUR_FILES.fullmatch(file.name)]:
            raise Unusable("in the way", f"{strange[0]} is not a file of preprocessing and would be lost; move it away")


def write_clip(clip: Clip, job: Job, detector: Detector, folder: Path) -> Kept:
    """Fill ``folder`` with the crops, sound, mel and clip.json; raise Unusable when training could not use it."""
    path = job.data_root / clip.source
    with unusable_if_it_fails("unreadable"):
        info = video.probe(path)
    check_source(info)
    with unusable_if_it_fails("no audio"):
        wav = video.read_audio(path, hp.sample_rate)
    check_sound(wav)
    write_sound(wav, folder)

    at_25 = replace(info, fps=Fraction(hp.fps))
    with unusable_if_it_fails("unreadable"):
        boxes, search_seconds = find_face(video.read_frames(at_25), detector, job.batch_size)
        shown = cut_faces(video.read_frames(at_25), boxes, folder)
    check_faces(shown)
    kept = Kept(
        clip.name, clip.source, path.stat().st_size, job.face_detector, round(float(info.fps), 3),
        len(shown), sum(shown), round(len(wav) / hp.sample_rate, 3), round(search_seconds, 3),
        path.stat().st_mtime_ns, files.digest(path),
    )  # fmt: skip
    (folder / "clip.json").write_text(json.dumps(asdict(kept), indent=1))
    return kept


@contextlib.contextmanager
def unusable_if_it_fails(reason: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:  # what video raises about a file
        raise Unusable("unreadable" if isinstance(error, video.CutShort) else reason, str(error)) from error


def check_source(info: video.VideoInfo) -> None:
    if info.is_image:
        raise Unusable("unreadable", f"{info.path} is a picture, not a video")
    if info.fps < video.MIN_FPS:
        seen = f"{float(info.fps):g} frames a second show too little of the lips"
        raise Unusable("rate", f"{seen}; least: {video.MIN_FPS:g}")


def check_sound(wav: np.ndarray) -> None:
    if len(wav) < MIN_SECONDS * hp.sample_rate:
        raise Unusable("too short", f"{len(wav) / hp.sample_rate:.2f} s of sound; training needs {MIN_SECONDS:g} s")
    if np.abs(wav).max() < video.SILENCE:
        raise Unusable("no audio", "its sound track is silent from end to end, so nothing can be in or out of sync")


def write_sound(wav: np.ndarray, folder: Path) -> None:
    """Write ``wav`` (samples,) as audio.wav, 16 kHz mono 16 bit, and its mel as mel.npy, (mel frames, 80) float32."""
    # Not audio.save_wav: it raises the volume, and the mels of the reference are those of the sound as it is.
    samples = np.clip(np.round(wav * 32768), -32768, 32767).astype(np.int16)
    wavfile.write(folder / "audio.wav", hp.sample_rate, samples)
    heard = samples.astype(np.float32) / 32768  # what audio.load_wav will read back
    np.save(folder / "mel.npy", np.ascontiguousarray(audio.melspectrogram(heard).T))


def find_face(frames: Iterator[np.ndarray], detector: Detector, batch_size: int) -> tuple[np.ndarray, float]:
    """Search ``frames`` (height, width, 3) BGR for one person, the largest of every shot.

    Returns the boxes (frames, 4) x1, y1, x2, y2, NaN where there is no face, and the seconds that it took. Boxes are
    neither smoothed nor filled in where a face was looked for and missed.
    """
    began = time.monotonic()
    found = Detections()
    with contextlib.closing(prefetch(frames, 4)) as ahead:
        deque(search(found, ahead, detector, hp.fps, batch_size), maxlen=0)
    boxes = follow_face(found, round(GAP_SECONDS * hp.fps), smooth=False, fill=False)
    return boxes, time.monotonic() - began


def cut_faces(frames: Iterator[np.ndarray], boxes: np.ndarray, folder: Path) -> list[bool]:
    """Write what is in the box of each frame as <frame number>.jpg; return for each whether that is a face."""
    shown: list[bool] = []
    with contextlib.closing(prefetch(frames, 4)) as ahead:
        for frame, box in zip(ahead, boxes):
            face = frame[:0, :0] if np.isnan(box[0]) else cut_out(frame, box)
            if face.size:  # a frame without one leaves a hole in the numbers, so that they stay true to time
                (folder / f"{len(shown)}.jpg").write_bytes(cv2.imencode(".jpg", face)[1].tobytes())
            shown.append(face.size > 0)
    return shown


def check_faces(shown: Sequence[bool]) -> None:
    if not shown:
        raise Unusable("unreadable", "no frame can be decoded")
    if not any(shown):
        raise Unusable("no face", f"no face in any of {len(shown)} frames")
    longest = max(sum(run) for _, run in itertools.groupby(shown))
    if longest < hp.syncnet_T:
        raise Unusable("too short", f"a face for at most {longest} frames in a row; training needs {hp.syncnet_T}")
    if sum(shown) < LEAST_FRAMES:
        raise Unusable("too short", f"a face in {sum(shown)} frames; training needs {LEAST_FRAMES}")


# --------------------------------------------------------------------------------------------------------------------
# Workers


def plan_workers(args: argparse.Namespace, clips: int) -> list[Job]:
    """One job per worker process, at most one per clip. Raises ValueError for devices that are not there."""
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cpu") if args.face_detector in CPU_DETECTORS else pick_device(args.device)
    devices = [str(device)]
    if device.type == "cuda" and device.index is None:
        devices = [f"cuda:{local_rank * args.ngpu + i}" for i in range(args.ngpu)]
        pick_device(devices[-1])
    elif args.ngpu > 1 and args.face_detector not in CPU_DETECTORS:
        raise UserError(f"--ngpu {args.ngpu} needs as many GPUs, but the device is {device}")
    workers, detector = args.workers or 1, cli.face_search(args).detector_name()
    if detector in CPU_DETECTORS:
        device, devices, workers = torch.device("cpu"), ["cpu"], args.workers or cpu_count()
    job = Job(
        args.data_root, args.preprocessed_root, detector, cli.face_search(args).detector_weights(), str(device),
        pick_precision(args.precision, device), args.batch_size,
    )  # fmt: skip
    return [replace(job, device=name) for _ in range(workers) for name in devices][:clips]


def cut_clips(clips: Sequence[Clip], jobs: Sequence[Job]) -> Iterator[Kept | Dropped]:
    """Cut all clips, here or in one process per job; yield what became of each as it is known."""
    if len(jobs) < 2:
        yield from (cut_clip(clip, job) for job in jobs for clip in clips)
        return
    context = multiprocessing.get_context("spawn")  # CUDA and threads do not survive a fork
    threads = -(-cpu_count() // len(jobs))  # rounded up: no core stays idle
    pools = [ProcessPoolExecutor(1, context, start_worker, (threads,)) for _ in jobs]
    try:
        with ignore_sigint():
            turns = itertools.cycle(zip(pools, jobs))
            futures = [pool.submit(cut_clip, clip, job) for clip, (pool, job) in zip(clips, turns)]
        yield from (future.result() for future in as_completed(futures))
    except BaseException as error:
        for process in multiprocessing.active_children():
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise RuntimeError(
                "a worker process was killed, perhaps for lack of memory; the same command, best with fewer --workers, "
                "goes on from there"
            ) from error
        raise
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def ignore_sigint() -> Iterator[None]:
    """Processes started inside never hear Ctrl-C: this one does, stops them, and is the only one to speak."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def start_worker(threads: int) -> None:
    """Share the CPU with the other workers, and do not outlive the process that gives out the clips."""
    cv2.setNumThreads(threads)
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


# --------------------------------------------------------------------------------------------------------------------
# Report


@dataclass
class Tally:
    """What became of the clips."""

    kept: list[Kept] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    finished_before: int = 0  # of those kept
    detector_frames: int = 0
    detector_seconds: float = 0.0
    seconds: float = 0.0

    def add(self, outcome: Kept | Dropped) -> None:
        if isinstance(outcome, Dropped):
            self.dropped.append(outcome)
            return
        self.kept.append(outcome)
        self.detector_frames += outcome.frames
        self.detector_seconds += outcome.detector_seconds

    def add_finished(self, clip: Clip, args: argparse.Namespace) -> bool:
        """Count ``clip`` as kept and return True if an earlier run finished it and would cut the same again."""
        try:
            kept = Kept(**json.loads((args.preprocessed_root / clip.name / "clip.json").read_text()))
            same = kept.is_of(args.data_root / clip.source)
        except (OSError, ValueError, TypeError):
            return False
        if not same or (kept.clip, kept.source) != (clip.name, clip.source):
            return False
        if args.face_detector not in (faces.AUTO, kept.face_detector):
            return False
        self.kept.append(kept)
        self.finished_before += 1
        return True

    @classmethod
    def from_json(cls, part: dict) -> Tally:
        kept, dropped = ([kind(**clip) for clip in part[name]] for name, kind in (("kept", Kept), ("dropped", Dropped)))
        return cls(**{**part, "kept": kept, "dropped": dropped})

    def __add__(self, other: Tally) -> Tally:
        """Processes work at the same time, so ``seconds`` is that of the slower one."""
        added = (getattr(self, name) + getattr(other, name) for name in list(vars(self))[:-1])
        return Tally(*added, max(self.seconds, other.seconds))


def rank_report(root: Path, rank: int) -> Path:
    return root / f"report.{rank}.json"


def merge_ranks(tally: Tally, root: Path, rank: int, world: int) -> Tally | None:
    """Leave this process's tally in ``root`` for the others; return the sum if all have done so, else None.

    Files instead of a process group: nobody waits for the slowest, and machines share no more than the folder.
    """
    if world == 1:
        return tally
    files.save(rank_report(root, rank), json.dumps(asdict(tally)))
    paths = [rank_report(root, other) for other in range(world)]
    try:
        parts = [json.loads(path.read_text()) for path in paths]
    except FileNotFoundError:
        return None
    for path in paths:
        path.unlink(missing_ok=True)
    return sum((Tally.from_json(part) for part in parts), Tally())


def describe(total: Tally, args: argparse.Namespace) -> dict[str, Any]:
    """The content of report.json."""
    kept, dropped = total.kept, total.dropped
    speed = total.detector_frames / total.detector_seconds if total.detector_seconds else None
    return {
        "data_root": _printable(str(args.data_root)),
        # if no clip was left to cut, nobody had to know
        "face_detector": cli.face_search(args).detector_name() if speed else args.face_detector,
        "finished_before": total.finished_before,  # of those kept
        "dropped_by_reason": dict(Counter(clip.reason for clip in dropped).most_common()),
        "converted": {clip.clip: clip.fps for clip in kept if clip.fps != hp.fps},  # the rate it had
        "frames": sum(clip.frames for clip in kept),
        "frames_with_face": sum(clip.frames_with_face for clip in kept),
        "detector_frames_per_second": speed and round(speed, 1),  # of one worker; null if nothing was left to do
        "seconds": round(total.seconds, 1),
        "kept": [asdict(clip) for clip in sorted(kept, key=lambda clip: clip.clip)],
        "dropped": [asdict(clip) for clip in sorted(dropped, key=lambda clip: clip.source)],
    }


def check_kept(report: dict[str, Any], args: argparse.Namespace) -> None:
    if not report["kept"]:
        first = report["dropped"][0]
        raise UserError(
            f"none of the {len(report['dropped'])} videos in {args.data_root} can be used ({reasons(report)}); "
            f"e.g. {first['source']}: {first['detail']}; {args.preprocessed_root / 'report.json'} names them all"
        )


def reasons(report: dict[str, Any]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in report["dropped_by_reason"].items())


def print_table(report: dict[str, Any], args: argparse.Namespace) -> None:
    before = f" ({report['finished_before']} of them before)" if report["finished_before"] else ""
    print(f"clips      {len(report['kept'])} kept{before}, {len(report['dropped'])} dropped")
    for clip in report["dropped"][:NAMED_ON_SCREEN]:
        print(f"  {clip['reason']:<10} {clip['source']}: {clip['detail']}")
    if len(report["dropped"]) > NAMED_ON_SCREEN:
        print(f"  … in all {reasons(report)}")
    for fps, count in Counter(report["converted"].values()).most_common():
        print(f"converted  {count} from {fps:g} to {hp.fps:g} fps")
    print(f"frames     {report['frames']}, {report['frames_with_face'] / report['frames']:.1%} with a face")
    speed = report["detector_frames_per_second"]
    print(f"detector   {report['face_detector']}, {speed:g} frames/s a worker" if speed else "detector   not needed")
    used = Counter(clip["face_detector"] for clip in report["kept"])
    for name in sorted(set(used) - {report["face_detector"]}):
        print(f"           {used[name]} clips were cut before with {name}")
    print(f"time       {report['seconds']} s")
    print(f"report     {args.preprocessed_root / 'report.json'}")


# --------------------------------------------------------------------------------------------------------------------
# Split


def write_filelists(kept: Sequence[Kept], shares: Sequence[float], seed: int, folder: Path) -> str:
    """Write train.txt, val.txt and test.txt, no top-level folder in two of them; return a sentence about them."""
    groups: dict[str, list[str]] = {}
    for clip in sorted(kept, key=lambda clip: clip.clip):
        parts = PurePosixPath(clip.source).parts
        groups.setdefault(parts[0] if len(parts) > 1 else ".", []).append(clip.clip)
    note = ""
    if len(groups) == 1:
        note = "; there is only one top-level folder, so the split is by clip and the same speaker is on every side"
        groups = {clip: [clip] for clip in next(iter(groups.values()))}
    lists = split_groups(groups, shares, seed)
    for split, clips in lists.items():
        files.save(folder / f"{split}.txt", "".join(f"{clip}\n" for clip in sorted(clips)))
    counts = ", ".join(f"{split} {len(clips)}" for split, clips in lists.items())
    return f"split      {counts} clips, in {folder}{note}"


def split_groups(groups: Mapping[str, Sequence[str]], shares: Sequence[float], seed: int) -> dict[str, list[str]]:
    """Deal whole groups of clips out to ``SPLITS`` so that the number of clips comes as close to ``shares`` as it can.

    Every split with a share gets a group as long as there are enough, small ones going to val and test.
    """
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    names.sort(key=lambda name: -len(groups[name]))  # large groups first: small ones even out what is left
    total = sum(map(len, groups.values()))
    wanted = {split: share * total for split, share in zip(SPLITS, shares)}
    lists: dict[str, list[str]] = {split: [] for split in SPLITS}
    for split in (split for split in SPLITS[1:] if wanted[split] > 0):
        if len(names) > 1:
            lists[split] += groups[names.pop()]
    for name in names:
        lists[max(SPLITS, key=lambda split: wanted[split] - len(lists[split]))] += groups[name]
    return lists


if __name__ == "__main__":
    sys.exit(main())
