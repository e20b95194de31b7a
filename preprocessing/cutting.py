"""One video -> one folder: numbered crops of a face, audio.wav, mel.npy and clip.json."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.io import wavfile

import audio
import files
import video
from concurrency import prefetch
from dataset import MIN_FRAMES
from errors import OneOfMany, UserError
from face_detection.detections import Detections, cut_out
from face_detection.detector import Detector
from face_detection.detectors import in_square_pixels
from face_detection.search import search as search_frames
from face_detection.tracking import follow_face, gap_of
from faces import FaceSearch
from hparams import hparams as hp

from .clips import Clip, Dropped, Kept, Unusable, find_finished, note_dropped, printable

OUR_FILES = re.compile(r"\d+\.jpg|audio\.wav|mel\.npy|clip\.json")
IN_THE_WAY = "in the way"
MIN_SECONDS = hp.mel_step_size / hp.mel_frames_per_second  # of sound, one training window: 0.2 s


@dataclass(frozen=True)
class Job:
    """How to cut clips; the same for every clip of one worker."""

    data_root: Path
    preprocessed_root: Path
    search: FaceSearch  # settled


def cut_clip(clip: Clip, job: Job) -> Kept | Dropped:
    """Write the clip's folder, complete or not at all; raise only what would hit every clip: no detector, no space."""
    detector = job.search.open()
    source, folder = job.data_root / clip.source, job.preprocessed_root / clip.name
    with OneOfMany() as one:
        check_replaceable(folder)
        with files.locked(folder.with_name(f".{folder.name}.lock"), wait=True):  # another run may be cutting it
            if kept := find_finished(clip, job.data_root, job.preprocessed_root, job.search.detector):
                return kept
            with new_folder(folder) as partial:
                return write_clip(source, partial, clip, job.search, detector)
    if isinstance(one.failure, Unusable):
        dropped = _dropped(clip, source, one.failure.reason, one.failure.detail)
        if dropped.reason != IN_THE_WAY:  # which has nothing to do with the video
            with contextlib.suppress(OSError):
                note_dropped(clip, job.data_root, job.preprocessed_root, job.search.detector, dropped)
        return dropped
    if job.search.device.type == "cuda":
        # if the GPU has failed, it fails here, and so would all that follows
        torch.cuda.synchronize(job.search.device)
    return _dropped(clip, source, "failed", one.reason)


def _dropped(clip: Clip, source: Path, reason: str, detail: str) -> Dropped:
    return Dropped(printable(clip.source), reason, printable(" ".join(detail.replace(str(source), "it").split())))


def check_replaceable(folder: Path) -> None:
    """Raise Unusable unless ``folder`` is absent or holds only what preprocessing writes."""
    if folder.exists():
        contents = folder.iterdir() if folder.is_dir() else [folder]
        if strange := [file for file in contents if not OUR_FILES.fullmatch(file.name)]:
            raise Unusable(IN_THE_WAY, f"{strange[0]} is not a file of preprocessing and would be lost; move it away")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which replaces ``folder`` when the block ends without an error."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    partial.mkdir()
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        files.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_clip(source: Path, folder: Path, clip: Clip, search: FaceSearch, detector: Detector) -> Kept:
    """Fill ``folder`` with the crops, sound, mel and clip.json of a video; raise Unusable if training cannot use it.

    ``detector`` is what ``search`` opened; ``clip`` says under which names all this is noted.
    """
    with unusable_if_it_fails("unreadable"):
        info = video.probe(source)
    check_source(info)
    with unusable_if_it_fails("no audio"):
        wav = video.read_audio(source, hp.sample_rate)
    check_sound(wav)
    write_sound(wav, folder)

    at_25 = replace(info, fps=Fraction(hp.fps))
    with unusable_if_it_fails("unreadable"):
        seeing = in_square_pixels(detector, at_25.pixel_aspect)
        boxes, search_seconds = find_face(video.read_frames(at_25), seeing, search.batch_size)
        shown = cut_faces(video.read_frames(at_25), boxes, folder)
    check_faces(shown)
    status = source.stat()
    kept = Kept(
        clip=clip.name,
        source=clip.source,
        bytes=status.st_size,
        face_detector=search.detector_name(),
        fps=round(float(info.fps), 3),
        frames=len(shown),
        frames_with_face=sum(shown),
        seconds=round(len(wav) / hp.sample_rate, 3),
        detector_seconds=round(search_seconds, 3),
        modified=status.st_mtime_ns,
        sha256=files.digest(source),
    )
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
        deque(search_frames(found, ahead, detector, hp.fps, batch_size), maxlen=0)
    boxes = follow_face(found, gap_of(hp.fps), smooth=False, fill=False)
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
    if sum(shown) < MIN_FRAMES:
        raise Unusable("too short", f"a face in {sum(shown)} frames; training needs {MIN_FRAMES}")
