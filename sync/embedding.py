"""Faces and voices as embeddings of the expert, one for every window of five frames.

The pipeline: frames -> faces -> windows of five mouths; sound -> mel windows; both -> expert -> unit vectors.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

import audio
import pictures
import video
from boxes import cut_face
from concurrency import prefetch
from devices import memory_format, pick_device
from errors import UserError
from face_detection.tracking import follow_faces, gap_of, shows_profiles
from faces import FaceSearch
from hparams import hparams as hp
from models import SyncNet_color, optimize_for_inference, weights
from rates import resample, resampled_indices
from reporting import SILENT, Reporter

Expert = SyncNet_color  # the network that embeds faces and voices
MAX_OFFSET = 15  # frames searched each way for the offset (Chung and Zisserman, 2016)
BATCH = {"cpu": 32, "cuda": 256}  # windows per network call
TRIM_BATCHES = 32  # between two calls of ``trim_memory``


@dataclass(frozen=True)
class Face:
    """One face of a video, at ``hparams.fps``."""

    boxes: np.ndarray  # (frames, 4) x1, y1, x2, y2 in the picture, NaN where it is not seen
    starts: np.ndarray  # (k,) first frame of every window of 5 frames that all show the face
    vectors: np.ndarray  # (k, D) float16, the unit-length embedding of each
    thumbnail: np.ndarray | None  # (96, 96, 3) uint8 BGR, from the first frame with the face


@dataclass(frozen=True)
class Voice:
    """One voice, in windows of sound that start at each video frame."""

    vectors: np.ndarray  # (n, D) float16, the embedding of each
    has_speech: np.ndarray | None = None  # (n,) bool; None: all have
    notes: tuple[str, ...] = ()  # sentences for the user about the sound

    @property
    def silent(self) -> bool:
        """Whether nobody speaks, from end to end."""
        return self.has_speech is not None and not self.has_speech.any()

    @property
    def frames(self) -> int:
        """How many video frames the sound covers."""
        return len(self.vectors) + hp.syncnet_T - 1


def open_expert(
    path_or_name: str | Path,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    report: Reporter = SILENT,
) -> Expert:
    """Load the expert of a checkpoint (a file or known name, official or ours, any width), ready to run fast.

    It runs on the fastest device here, unless one is given. Raises UserError (not an expert, no such device) or
    RuntimeError (download).
    """
    device = pick_device(str(device or "auto"))
    return optimize_for_inference(weights.load_model(path_or_name, SyncNet_color, report), device, dtype)


def open_video(path: Path) -> video.VideoInfo:
    return check_moving(video.probe(path))


def check_moving(source: video.VideoInfo) -> video.VideoInfo:
    if source.is_image:
        raise UserError(f"{source.path} is a picture; a match can only be measured in a video of {window_length()}")
    return source


def window_length() -> str:
    return f"at least {hp.syncnet_T} frames in a row, {hp.syncnet_T / hp.fps:g} s"


def find_tracks(
    source: video.VideoInfo,
    frames: int,
    expert: Expert,
    search: FaceSearch = FaceSearch(),
    report: Reporter = SILENT,
) -> list[np.ndarray]:
    """Return the boxes of every face in the frames that ``frames`` of sound can match; see ``follow_faces``.

    Raises UserError if there is no face.
    """
    wanted = math.ceil((frames + MAX_OFFSET) * source.fps / Fraction(hp.fps)) + 1
    parameter = next(expert.parameters())
    found = search.on(parameter.device, parameter.dtype).find(source, wanted, report)
    tracks = follow_faces(found, gap_of(source.fps))
    if not tracks:
        lack = "no face that faces the camera" if shows_profiles(found) else "no face"
        raise UserError(f"{lack} was found in any of the {len(found)} frames of {source.path}; try another detector")
    return tracks


def embed_faces(
    source: video.VideoInfo, tracks: Sequence[np.ndarray], expert: Expert, report: Reporter = SILENT
) -> list[Face]:
    """Embed every window of the faces whose boxes in each frame of ``source`` are ``tracks``, (frames, 4) each.

    Tracks may be longer than ``source``.
    """
    frames_of_all = report.track(video.read_frames(source, 0, len(tracks[0])), "Reading lips", len(tracks[0]))
    rows = zip(frames_of_all, zip(*tracks))
    thumbnails: list[np.ndarray | None] = [None] * len(tracks)

    count = 0

    def pictures() -> Iterator[list[np.ndarray | None]]:
        nonlocal count
        for frame, boxes in resample(rows, source.fps, Fraction(hp.fps)):
            count += 1
            crops = [face_of(frame, box) for box in boxes]
            thumbnails[:] = [old if old is not None else new for old, new in zip(thumbnails, crops)]
            yield [None if crop is None else crop[hp.img_size // 2 :] for crop in crops]

    with contextlib.closing(prefetch(pictures(), 16)) as frames:
        embedded = embed_windows(frames, len(tracks), lambda x: embed_mouths(expert, x), expert)
    indices = resampled_indices(len(tracks[0]), source.fps, Fraction(hp.fps))[:count]
    return [Face(track[indices], *pair, face) for track, pair, face in zip(tracks, embedded, thumbnails)]


def face_of(frame: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """Cut a face out as for training and resize it to (96, 96, 3); None if there is none."""
    return None if (crop := cut_face(frame, box)) is None else pictures.fitted(crop, hp.img_size)


def windows_of(pictures: Iterable[Sequence[np.ndarray | None]]) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (row, first frame, window) for every 5 consecutive frames that all have a picture in that row.

    ``pictures`` has for each frame one picture (height, width, 3) or None per row; a window is (5, height, width, 3).
    """
    recent: dict[int, deque] = {}
    for frame, row_pictures in enumerate(pictures):
        for row, picture in enumerate(row_pictures):
            last = recent.setdefault(row, deque(maxlen=hp.syncnet_T))
            if picture is None:
                last.clear()
                continue
            last.append(picture)
            if len(last) == hp.syncnet_T:
                yield row, frame - hp.syncnet_T + 1, np.stack(last)


def embed_windows(
    pictures: Iterable[Sequence[np.ndarray | None]],
    rows: int,
    embed: Callable[[np.ndarray], np.ndarray],
    network: torch.nn.Module,
    batch_size: int | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each row the first frames (k,) and the embeddings (k, D) of its windows; see ``windows_of``.

    ``embed`` turns a batch of windows (N, 5, height, width, 3) uint8 into (N, D).
    """
    size = batch_size or BATCH.get(next(network.parameters()).device.type, BATCH["cpu"])
    places: list[np.ndarray] = [np.empty((0, 2), np.int64)]
    vectors: list[np.ndarray] = []
    windows = windows_of(pictures)
    while batch := list(itertools.islice(windows, size)):
        if len(vectors) % TRIM_BATCHES == 0:
            trim_memory()
        places.append(np.array([(row, start) for row, start, _ in batch]))
        vectors.append(embed(np.stack([window for *_, window in batch])))
    row_of, starts = np.concatenate(places).T
    together = np.concatenate(vectors) if vectors else np.empty((0, 1), np.float32)
    return [(starts[row_of == row], together[row_of == row]) for row in range(rows)]


def trim_memory() -> None:
    """Give free memory back to the system.

    glibc before 2.38 hardly reuses the aligned blocks that torch frees (its bug 14581): after 20 minutes of video they
    took 1.5 GB. Other systems have no malloc_trim and do not need it.
    """
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@torch.inference_mode()
def embed_mouths(expert: Expert, windows: np.ndarray) -> np.ndarray:
    """Embed windows of mouths (N, 5, 48, 96, 3) uint8 BGR as (N, D) float16: 90 MB an hour, cosines err by 1e-4."""
    parameter = next(expert.parameters())
    x = torch.from_numpy(windows).to(parameter.device).permute(0, 1, 4, 2, 3).flatten(1, 2)  # (N, 15, 48, 96)
    x = (x.float() / 255).to(parameter.dtype, memory_format=memory_format(parameter.device))
    return expert.embed_video(x).half().cpu().numpy()


def embed_speech(path: Path, expert: Expert) -> Voice:
    """Embed the voice in any file; raise UserError if it is shorter than one window."""
    sound = video.Sound(path, hp.sample_rate)
    return replace(embed_sound(sound, expert, str(path)), notes=tuple(sound.notes))


@torch.inference_mode()
def embed_sound(sound: Iterable[np.ndarray], expert: Expert, name: str = "the sound") -> Voice:
    """Embed the window of sound that starts at each video frame; ``sound`` comes in blocks (samples,).

    Raises UserError, with ``name`` for the sound, if it is shorter than one window.
    """
    parameter = next(expert.parameters())
    mel, samples = audio.spectrogram_of(sound)
    if samples < hp.mel_step_size * hp.hop_size:
        raise UserError(f"{name} has {samples / hp.sample_rate:.2f} s of sound; it needs {window_length()}")
    count = audio.frame_count(samples, hp.fps) - hp.syncnet_T + 1
    windows = audio.MelWindows(mel, hp.fps, count)
    vectors, coming = [], iter(windows)
    while batch := list(itertools.islice(coming, 4 * BATCH.get(parameter.device.type, BATCH["cpu"]))):
        mels = torch.from_numpy(np.stack(batch))[:, None].to(parameter.device, parameter.dtype)  # (N, 1, 80, 16)
        vectors.append(expert.embed_audio(mels).half().cpu().numpy())
    return Voice(np.concatenate(vectors), windows.speech_mask())
