"""LSE-D and LSE-C: the distance between lips and voice for an independent network, and its confidence in their offset.

The network and the search for the offset are those of Chung and Zisserman ("Out of time: automated lip sync in the
wild", 2016); the two scores are defined in section 4.2 of the Wav2Lip paper. LSE-D is the mean distance at the best
offset, smaller is better; LSE-C is how far it is below the median over all offsets, larger is better.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from scipy.signal import medfilt

import video
from concurrency import prefetch, without_warnings
from errors import UserError, needs
from face_detection.detections import Detections
from face_detection.geometry import cut_square
from face_detection.tracking import fill_gaps, link_tracks, shots
from faces import FaceSearch
from models import SyncNet_v2, weights
from rates import resample, resampled_indices
from reporting import SILENT, Reporter
from sync.embedding import embed_windows

FPS = Fraction(25)
SAMPLE_RATE = 16000  # Hz
SIDE = 224  # pixels of the network's square input
WINDOW = 5  # frames
MFCC_STEP = 160  # samples: 100 MFCC frames a second
MFCC_LENGTH = 400  # samples under one MFCC frame
MFCC_PER_FRAME = 4
MFCC_WINDOW = 20
MFCC_BLOCK = 10000  # MFCC frames computed at a time (100 s)
REACH = 15  # frames searched each way
MIN_FRAMES = WINDOW + 1  # the sound of the last window is never complete, so one window needs six frames
MIN_TRACK = 10  # frames; the official 100 exclude clips under four seconds
MAX_GAP = 25  # frames; longer gaps between detections end a track, shorter ones are interpolated
CROP_SCALE = 0.4  # of the face's size, added around it
MEDIAN = 13  # frames of the median filter over a track's centre and size
BLOCK = 1024  # windows compared at a time
BATCH = 16  # windows per network call; one needs 3 MB as float32


@dataclass(frozen=True)
class Score:
    """LSE of one face track of one file."""

    file: str
    track: int  # 0 if whole frames are scored
    lse_d: float
    lse_c: float
    offset: int  # frames; above 0 if the sound is ahead of the picture, as in the official program
    frames: int  # windows compared, plus 4


def score_file(
    path: Path, network: SyncNet_v2, search: FaceSearch | None = None, report: Reporter = SILENT
) -> list[Score]:
    """Return the scores of every face in a video with its own sound.

    Without ``search`` the frames must be faces already (LRS2, LRS3, LRW) and are scored whole. With it, faces are
    detected, tracked and cropped first, as real videos need. Raises UserError if the file cannot be scored.
    """
    source = video.probe(path)
    if source.is_image:
        raise UserError(f"{path} is a picture, not a video")
    heard = video.Sound(path, SAMPLE_RATE)
    wav = np.concatenate(list(heard))
    if len(wav) < MIN_FRAMES * SAMPLE_RATE / FPS:
        raise UserError(f"{path} has {len(wav) / SAMPLE_RATE:.2f} s of sound; LSE needs {float(MIN_FRAMES / FPS)} s")
    if np.abs(wav).max() < video.SILENCE:
        raise UserError(f"{path} is silent from end to end, so nothing can be in or out of sync")
    for note in (*source.notes, *heard.notes):
        report.note(f"note: {note}")
    tracks = find_tracks(source, search, network, report) if search else None
    pictures = whole_frames(source) if tracks is None else track_crops(source, tracks)
    rows = 1 if tracks is None else len(tracks)
    with contextlib.closing(prefetch(pictures, 8)) as frames:
        windows = embed_windows(frames, rows, lambda x: embed_lips(network, x), network, BATCH)
    sound = embed_sound(network, wav)
    # as in the official program, the last window of a face is left out even where there is sound for it
    covered = [(starts[:-1][starts[:-1] < len(sound)], lips) for starts, lips in windows]
    scores = [
        Score(str(path), track, *lse(lips[: len(starts)], sound[starts]), len(starts) + WINDOW - 1)
        for track, (starts, lips) in enumerate(covered)
        if len(starts)
    ]
    if not scores:
        raise UserError(f"{path} is too short: LSE needs {MIN_FRAMES} frames with sound")
    return scores


def lse(lips: np.ndarray, sound: np.ndarray) -> tuple[float, float, int]:
    """Features of consecutive windows, (N, D) each -> LSE-D, LSE-C and the offset in frames."""
    mean = mean_distances(lips, sound)
    best = int(mean.argmin())
    return float(mean[best]), float(np.median(mean) - mean[best]), REACH - best


def mean_distances(lips: np.ndarray, sound: np.ndarray) -> np.ndarray:
    """Return the mean distance of every window's lips to the sound -REACH … REACH windows later, (2·REACH + 1,)."""
    # Kept quirk: the sound is padded with zeros at its ends, and the scores of the paper include these distances.
    padded = np.pad(sound, ((REACH, REACH), (0, 0)))
    total = np.zeros(2 * REACH + 1)
    for first in range(0, len(lips), BLOCK):
        some = lips[first : first + BLOCK]
        shifted = (padded[first + shift :][: len(some)] for shift in range(2 * REACH + 1))
        total += [np.linalg.norm(some - other, axis=1).sum() for other in shifted]
    return total / len(lips)


# --------------------------------------------------------------------------------------------------------------------
# Sound


def open_judge(path_or_name: str | Path, device: torch.device, report: Reporter = SILENT) -> SyncNet_v2:
    """Return the network; raise UserError now, not after all videos, if the package for MFCCs is missing."""
    with needs("eval"):
        import python_speech_features  # noqa: F401
    return weights.load_model(path_or_name, SyncNet_v2, report).to(device)


def mfcc(samples: np.ndarray) -> np.ndarray:
    """Samples (n,) int16 at 16 kHz -> (13, frames) float64; in blocks, since each second needs 300 kB meanwhile."""
    from python_speech_features import mfcc as mfcc_of

    frames = max(1, 1 + -(-(len(samples) - MFCC_LENGTH) // MFCC_STEP))
    blocks = []
    for first in range(0, frames, MFCC_BLOCK):
        stop = min(first + MFCC_BLOCK, frames)
        lead = min(1, first)  # pre-emphasis needs the sample before a block's first, so one more frame is computed
        end = (stop - 1) * MFCC_STEP + MFCC_LENGTH
        blocks.append(mfcc_of(samples[(first - lead) * MFCC_STEP : end], SAMPLE_RATE)[lead : lead + stop - first])
    return np.concatenate(blocks).T


@torch.inference_mode()
def embed_sound(network: SyncNet_v2, wav: np.ndarray) -> np.ndarray:
    """Sound (samples,) float in [-1, 1] -> features (windows, 1024) of the window that starts at each video frame."""
    samples = np.clip(np.round(wav * 32768), -32768, 32767).astype(np.int16)
    features = mfcc(samples).astype(np.float32)
    count = len(samples) * FPS // SAMPLE_RATE - WINDOW
    starts = iter(range(0, int(count) * MFCC_PER_FRAME, MFCC_PER_FRAME))
    vectors = []
    while batch := list(itertools.islice(starts, 8 * BATCH)):
        windows = np.stack([features[:, start : start + MFCC_WINDOW] for start in batch])[:, None]  # (N, 1, 13, 20)
        vectors.append(network.forward_aud(torch.from_numpy(windows).to(device_of(network))).cpu().numpy())
    return np.concatenate(vectors)


# --------------------------------------------------------------------------------------------------------------------
# Pictures


@torch.inference_mode()
def embed_lips(network: SyncNet_v2, windows: np.ndarray) -> np.ndarray:
    """Windows (N, 5, 224, 224, 3) uint8 BGR -> features (N, 1024)."""
    x = torch.from_numpy(windows).to(device_of(network)).permute(0, 4, 1, 2, 3).float()  # (N, 3, 5, 224, 224)
    return network.forward_lip(x).cpu().numpy()


def device_of(network: SyncNet_v2) -> torch.device:
    return next(network.parameters()).device


def whole_frames(source: video.VideoInfo) -> Iterator[list[np.ndarray | None]]:
    """Yield each frame at 25 fps, resized to (224, 224, 3), for videos of cropped faces such as LRS2's."""
    for frame in resample(video.read_frames(source), source.fps, FPS):
        yield [cv2.resize(frame, (SIDE, SIDE))]


class FaceTrack(NamedTuple):
    """A face in one shot at 25 fps."""

    first: int  # frame
    boxes: np.ndarray  # (frames, 4) from ``first`` on, NaN where the face is not visible


def find_tracks(
    source: video.VideoInfo, search: FaceSearch, network: SyncNet_v2, report: Reporter = SILENT
) -> list[FaceTrack]:
    """Return every face of every shot. Raises UserError if none is visible for ``MIN_TRACK`` frames."""
    found = search.on(device_of(network)).find(source, report=report)
    rows = resampled_indices(len(found), source.fps, FPS)
    lasting = []
    for boxes in shot_tracks(found, float(source.fps)):
        boxes = boxes[rows]
        on_view = np.flatnonzero(~np.isnan(boxes[:, 0]))
        if len(on_view) >= MIN_TRACK:  # keep only the track's own frames: a film of an hour has a thousand shots
            lasting.append(FaceTrack(int(on_view[0]), boxes[on_view[0] : on_view[-1] + 1].copy()))
    if not lasting:
        raise UserError(f"no face is visible for {MIN_TRACK} frames in {source.path}; try another detector")
    return lasting


def shot_tracks(found: Detections, fps: float) -> Iterator[np.ndarray]:
    gap = round(MAX_GAP * fps / FPS)
    for first, stop in shots(found):
        for track in link_tracks(found.boxes[first:stop], gap // 2):  # it links over gaps twice as long
            boxes = np.full((len(found), 4), np.nan)
            boxes[first + np.array(track.frames)] = track.boxes
            fill_gaps(boxes, gap)
            yield boxes


def track_crops(source: video.VideoInfo, tracks: Sequence[FaceTrack]) -> Iterator[list[np.ndarray | None]]:
    """Yield for each frame at 25 fps the crop (224, 224, 3) of every track, None where it is not visible."""
    squares = [steady_squares(track.boxes) for track in tracks]
    later = sorted(range(len(tracks)), key=lambda row: -tracks[row].first)  # the next one last
    current: list[int] = []
    for number, frame in enumerate(resample(video.read_frames(source), source.fps, FPS)):
        crops: list[np.ndarray | None] = [None] * len(tracks)
        while later and tracks[later[-1]].first <= number:
            current.append(later.pop())
        current = [row for row in current if number - tracks[row].first < len(tracks[row].boxes)]
        for row in current:
            square = squares[row][number - tracks[row].first]
            if not np.isnan(square[0]):
                crops[row] = crop_square(frame, *square)
        yield crops


def steady_squares(boxes: np.ndarray) -> np.ndarray:
    """Boxes (frames, 4) -> centre x, y and half the longer side, (frames, 3), median-filtered over each run."""
    x1, y1, x2, y2 = boxes.T
    squares = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, np.maximum(x2 - x1, y2 - y1) / 2], axis=1)
    known = np.flatnonzero(~np.isnan(x1))
    for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        # Kept quirk: the filter pads the ends of a track with zeros, so the first and last crops are off.
        with without_warnings():  # from scipy, about runs shorter than the filter
            squares[run] = np.stack([medfilt(column, MEDIAN) for column in squares[run].T], axis=1)
    return squares


def crop_square(frame: np.ndarray, x: float, y: float, half: float) -> np.ndarray:
    """Crop the square that the official program crops: ``CROP_SCALE`` larger than the face, to the sides and below."""
    reach = half * (1 + CROP_SCALE)
    return cut_square(frame, int(x - reach), int(y - half), max(1, int(2 * reach)), SIDE)
