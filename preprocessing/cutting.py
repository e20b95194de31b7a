"""Cut a video into a folder per clip: numbered crops of a face, audio.wav, mel.npy and clip.json."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch

import files
import video
from boxes import cut_face
from concurrency import prefetch
from dataset import MIN_FRAMES
from errors import CatchFailure, UserError
from face_detection.tracking import follow_face, gap_of, shots
from faces import AUTO, FaceSearch
from hparams import hparams as hp
from hparams import piece_name

from .clips import (
    Clip,
    Dropped,
    Kept,
    Unusable,
    find_finished,
    forget_dropped,
    note_dropped,
    note_kept,
    printable,
)
from .pieces import divide, join_interrupted
from .sound import check_sound, write_sound
from .syncing import Recording, SyncCheck, check_sync

OUR_FILES = re.compile(r"\d+\.jpg|audio\.wav|mel\.npy|clip\.json|\..*|Thumbs\.db|desktop\.ini")  # or the system's own
IN_THE_WAY = "in the way"
MAX_MISSING_PIECES = 50  # missing numbers in a row that end the search for pieces


@dataclass(frozen=True)
class Job:
    """How to cut clips; the same for every clip of one worker."""

    search: FaceSearch  # with its detector chosen, if anything is to be cut
    seconds: float | None = None  # longest clip
    sync: SyncCheck | None = None
    requested_detector: str = AUTO  # with AUTO, clips cut with any detector are finished
    cutting: bool = True  # False: only the sync of finished clips is checked, which needs no detector


@dataclass(frozen=True)
class SpeakerVideo:
    """A video as training needs it: one person at 25 frames a second, and the sound."""

    info: video.VideoInfo  # at its own rate
    sound: np.ndarray  # (samples,) at hparams.sample_rate
    boxes: np.ndarray  # (frames, 4) x1, y1, x2, y2 of the person, NaN where there is no face
    shots: list[tuple[int, int]]  # first frame, and frame after the last
    search_seconds: float  # for finding the boxes; 0: unknown, as some were found by a run before
    bytes: int  # of the file
    modified: int  # date of the file, in ns
    sha256: str

    def frames(self) -> Generator[np.ndarray, None, None]:
        """Decode its frames (height, width, 3) BGR, prefetching a few."""
        return prefetch(video.read_frames(at_25(self.info)), 4)

    def recording_of(self, piece: range) -> Recording:
        """Return the sound around these frames; for a whole video, it may be longer than the frames."""
        return Recording(self.sound, piece.start, None if len(piece) == len(self.boxes) else len(piece))

    def sound_of(self, piece: range) -> np.ndarray:
        return self.recording_of(piece).moved(0)[0]


def cut_clip(clip: Clip, job: Job) -> list[Kept] | Dropped:
    """Write the folders of a video, complete or not at all; raise only what affects every video, e.g. a full disk.

    If they are finished already, only check their sync as far as ``job`` asks for it.
    """
    if job.cutting:
        job.search.open()
    lock = files.locked(clip.folder.with_name(f".{clip.folder.name}.lock"), wait=True)  # another run may be cutting it
    with CatchFailure() as one, lock:
        kept = find_finished(clip, job.requested_detector, job.seconds)
        with CatchFailure():  # a finished folder may have been damaged since
            if kept:
                return [_checked(clip, known, job) for known in kept]
        check_replaceable(clip.folder)
        return write_clips(clip, job)
    if isinstance(one.failure, Unusable):
        dropped = _dropped(clip, one.failure.reason, one.failure.detail)
        if one.failure.lasting:
            with contextlib.suppress(OSError):
                note_dropped(clip, job.search.detector, job.seconds, dropped)
        return dropped
    if job.search.device.type == "cuda":
        # raises if the GPU has failed, and with it all that follows
        torch.cuda.synchronize(job.search.device)
    return _dropped(clip, "failed", one.reason)


def _checked(clip: Clip, kept: Kept, job: Job) -> Kept:
    """Return ``kept``, a finished piece of a clip, after the sync check that ``job`` asks for."""
    folder = clip.preprocessed_root / kept.clip
    if job.sync is None or job.sync.is_done([kept]):
        return kept
    if job.sync.action != "correct":
        return check_sync(folder, kept, job.sync, job.search.device)
    with partial_folder(clip.folder) as partial:  # a half-changed folder must never be seen
        copy = partial / "1"
        shutil.copytree(folder, copy)
        kept = check_sync(copy, kept, job.sync, job.search.device)
        _replace_folder(copy, folder)
    return kept


def _dropped(clip: Clip, reason: str, detail: str) -> Dropped:
    return Dropped(printable(clip.source), reason, printable(" ".join(detail.replace(str(clip.path), "it").split())))


def check_replaceable(folder: Path) -> None:
    """Raise Unusable if ``folder``, or those of pieces beside it, hold files that preprocessing does not write."""
    for old in (folder, *pieces_beside(folder)):
        contents = () if not old.exists() else old.iterdir() if old.is_dir() else [old]
        if strange := [file for file in contents if not OUR_FILES.fullmatch(file.name)]:
            problem = f"{strange[0]} was not written by preprocessing and would be lost; move it away"
            raise Unusable(IN_THE_WAY, problem, lasting=False)


def pieces_beside(folder: Path) -> list[Path]:
    """Return the existing folders of pieces of a video; ``MAX_MISSING_PIECES`` missing in a row end the search."""
    found, number, last = list[Path](), 0, 0
    while number < last + MAX_MISSING_PIECES:
        number += 1
        if (piece := folder.with_name(piece_name(folder.name, number))).exists():
            found.append(piece)
            last = number
    return found


@contextlib.contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder`` to fill; it is deleted when the block ends."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def boxes_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder for a search's results; kept if the work breaks off, since a search may have taken hours."""
    boxes = folder.with_name(f".{folder.name}.boxes")
    try:
        yield boxes
    except Unusable:
        shutil.rmtree(boxes, ignore_errors=True)
        raise
    shutil.rmtree(boxes, ignore_errors=True)


def _replace_folder(new: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    files.replace(new, folder)


def write_clips(clip: Clip, job: Job) -> list[Kept]:
    """Write a folder for every piece of a video that training can use; raise Unusable if there is none.

    A video of one piece becomes ``clip.folder``, one of several ``clip.folder``@1, @2, and so on.
    """
    with boxes_folder(clip.folder) as boxes:
        kept = _write_clips(read_speaker(clip.path, replace(job.search, cache=True, folder=boxes)), clip, job)
    forget_dropped(clip)
    return kept


def _write_clips(speaker: SpeakerVideo, clip: Clip, job: Job) -> list[Kept]:
    pieces = divide(speaker.shots, job.seconds)
    with partial_folder(clip.folder) as partial:
        made, left_out = _write_pieces(speaker, pieces, partial)
        names = [clip.name] if len(pieces) == 1 else [piece_name(clip.name, n) for n in range(1, len(made) + 1)]
        kept = []
        for name, (piece, shown, new) in zip(names, made):
            known = describe(clip, speaker, piece, shown, job.search)
            known = replace(known, clip=name, pieces=len(made), left_out=left_out)
            if job.sync:
                known = check_sync(new, known, job.sync, job.search.device, speaker.recording_of(piece))
            else:
                note_kept(new, known)
            kept.append(known)
        for old in (*reversed(pieces_beside(clip.folder)), clip.folder):  # from another file, or cut in another way
            shutil.rmtree(old, ignore_errors=True)
        for name, (*_, new) in zip(names, made):
            _replace_folder(new, clip.preprocessed_root / name)
    return kept


def _write_pieces(
    speaker: SpeakerVideo, pieces: Sequence[range], partial: Path
) -> tuple[list[tuple[range, list[bool], Path]], dict[str, int]]:
    """Write a folder below ``partial`` for every piece that can be used.

    Return each with whether its frames show a face and its folder, and how many frames were left out, by reason.
    """
    made, unusable, position = [], None, 0
    left_out: Counter[str] = Counter()
    with contextlib.closing(speaker.frames()) as frames:
        for number, piece in enumerate(pieces, 1):
            new = partial / str(number)
            new.mkdir()
            try:
                between = itertools.islice(frames, piece.start - position, piece.stop - position)
                made.append((piece, write_piece(speaker, piece, between, new), new))
            except Unusable as problem:
                shutil.rmtree(new)
                unusable = unusable or problem
                left_out[problem.reason] += len(piece)
            position = piece.stop
    if not made:
        assert unusable, "a video has at least one shot"
        among = f"none of its {len(pieces)} pieces is usable, e.g. the first: " if len(pieces) > 1 else ""
        raise Unusable(unusable.reason, f"{among}{unusable.detail}")
    return made, dict(left_out)


def write_clip(clip: Clip, search: FaceSearch) -> Kept:
    """Write a whole video to its folder, which exists, whatever its shots; raise Unusable if training cannot use it."""
    speaker = read_speaker(clip.path, replace(search, cache=False))
    whole = range(len(speaker.boxes))
    with contextlib.closing(speaker.frames()) as frames:
        shown = write_piece(speaker, whole, frames, clip.folder)
    kept = describe(clip, speaker, whole, shown, search)
    note_kept(clip.folder, kept)
    return kept


def read_speaker(source: Path, search: FaceSearch) -> SpeakerVideo:
    """Find the person in a video, and read its sound; raise Unusable if training cannot use it."""
    with unusable_if_it_fails("unreadable"):
        info = video.probe(source)
    check_source(info)
    with unusable_if_it_fails("no audio"):
        sound = video.read_audio(source, hp.sample_rate)
    check_sound(sound)
    began, resumed = time.monotonic(), search.cache and Path(search.folder or "").is_dir()
    with unusable_if_it_fails("unreadable"):
        found = search.find(at_25(info))
    # not smoothed, and not filled in where the detector missed a face
    boxes = follow_face(found, gap_of(hp.fps), smooth=False, fill=False)
    whole_shots, boxes = join_interrupted(shots(found), boxes)
    found_in, status = 0.0 if resumed else time.monotonic() - began, source.stat()
    stamps = status.st_size, status.st_mtime_ns, files.cached_digest(source)
    return SpeakerVideo(info, sound, boxes, whole_shots, found_in, *stamps)


def at_25(info: video.VideoInfo) -> video.VideoInfo:
    return replace(info, fps=Fraction(hp.fps))


def write_piece(speaker: SpeakerVideo, piece: range, frames: Iterable[np.ndarray], folder: Path) -> list[bool]:
    """Fill ``folder`` with crops and sound of these frames of a video; return for each whether it shows a face."""
    with unusable_if_it_fails("unreadable"):
        shown = cut_faces(frames, speaker.boxes[piece.start : piece.stop], folder)
    check_faces(shown)
    sound = speaker.sound_of(piece)
    check_sound(sound)
    write_sound(sound, folder)
    return shown


def describe(clip: Clip, speaker: SpeakerVideo, piece: range, shown: Sequence[bool], search: FaceSearch) -> Kept:
    return Kept(
        clip=clip.name,
        source=clip.source,
        bytes=speaker.bytes,
        face_detector=search.detector_name(),
        fps=round(float(speaker.info.fps), 3),
        frames=len(shown),
        frames_with_face=sum(shown),
        seconds=round(len(speaker.sound_of(piece)) / hp.sample_rate, 3),
        detector_seconds=round(speaker.search_seconds, 3),
        modified=speaker.modified,
        sha256=speaker.sha256,
        first=piece.start,
        source_frames=len(speaker.boxes),
    )


@contextlib.contextmanager
def unusable_if_it_fails(reason: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:  # what video raises about a file
        reason = "unreadable" if isinstance(error, video.CutShort) else reason
        raise Unusable(reason, str(error), lasting=not isinstance(error, video.Mendable)) from error


def check_source(info: video.VideoInfo) -> None:
    if info.is_image:
        raise Unusable("unreadable", f"{info.path} is a picture, not a video")
    if info.fps < video.MIN_FPS:
        seen = f"{float(info.fps):g} fps is too low to show lip movement"
        raise Unusable("rate", f"{seen}; the minimum is {video.MIN_FPS:g}")


def cut_faces(frames: Iterable[np.ndarray], boxes: np.ndarray, folder: Path) -> list[bool]:
    """Write the box of each frame as <frame number>.jpg; return for each frame whether it has a face."""
    shown: list[bool] = []
    for box, frame in zip(boxes, frames):  # in this order, zip takes no frame of the next piece
        face = cut_face(frame, box)
        if face is not None:  # a frame without one leaves a gap, so that numbers stay true to time
            (folder / f"{len(shown)}.jpg").write_bytes(cv2.imencode(".jpg", face)[1].tobytes())
        shown.append(face is not None)
    return shown


def check_faces(shown: Sequence[bool]) -> None:
    if not shown:
        raise Unusable("unreadable", "no frame can be decoded")
    if not any(shown):
        raise Unusable("no face", f"no face in any of {len(shown)} frames, or only in profile")
    longest = max(sum(run) for _, run in itertools.groupby(shown))
    if longest < hp.syncnet_T:
        raise Unusable("too short", f"a face for at most {longest} frames in a row; training needs {hp.syncnet_T}")
    if sum(shown) < MIN_FRAMES:
        raise Unusable("too short", f"a face in {sum(shown)} frames; training needs {MIN_FRAMES}")
