"""What the page's buttons do: files in, files out, independent of Gradio."""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image

import adaptation
import audio
import downloads
import live
import pictures
import video
from boxes import crop_with_border
from concurrency import without_warnings
from errors import UserError
from face_detection.detections import Detections
from face_detection.geometry import intersection_over_union
from face_detection.tracking import follow_face, follow_faces, gap_of, max_simultaneous_faces, shots
from faces import FaceSearch
from hparams import hparams as hp
from lipsync import LipSync, Options, open_face, search_range, segment_for
from models import weights
from page.sessions import Learning, Session, check_length
from page.settings import Settings
from reporting import Reporter
from sync import Expert, SimilarityMatrix, measure, open_expert

SEARCHED_SECONDS = 2.0  # seconds of a video that are searched for faces to choose from
FACE_SIDE = 160  # pixels of a face to click on
MAX_PIXELS = 50_000_000  # of a photo or a frame: anybody may upload one, and it needs far more than 3 bytes per pixel
LIVE_SECONDS = 15.0  # of a video
LIVE_SIDE = 720  # pixels, longer side of live frames: they have to be drawn, sent and shown in time
KEPT_WEIGHTS = "; the best weights so far are kept"  # what ``training`` says, but nobody gets them from the page


@dataclass(frozen=True)
class FoundFace:
    """A face that can be clicked on: where it first appears, independent of frame size and rate."""

    second: float
    box: tuple[float, ...]  # x1, y1, x2, y2 as fractions of the frame's width and height
    picture: np.ndarray  # (side, side, 3) uint8 RGB


Speech = str | list[tuple[FoundFace, str]]  # a file, or one for each of several faces


class Actions:
    """Everything the page can do, with networks that are loaded once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._detector, self._loading = settings.detector, threading.Lock()

    def warm_up(self) -> None:
        """Load what every visitor needs before the first one has to wait for it."""
        settings = self.settings
        # once, as its note is for the operator, and a download that fails may take half a minute
        self._detector = FaceSearch(settings.detector).detector_name(settings.report)
        if settings.identity != Settings.identity:
            downloads.find(settings.identity, settings.report)
        self._expert()
        self.lips(None, settings.report).search.open(settings.report)
        audio.melspectrogram(np.zeros(hp.sample_rate, np.float32))

    def search(self, session: Session | None) -> FaceSearch:
        return FaceSearch(self._detector, folder=session.folder / "boxes" if session else None)

    @functools.cached_property
    def _own(self) -> LipSync:
        settings = self.settings
        lips = self._create(settings.checkpoint, restorer=settings.restorer, credentials=settings.credentials)
        _ = lips.model, lips.restore, lips.credentials
        return lips

    @functools.lru_cache(maxsize=1)  # noqa: B019  # the page has one, for as long as it lives
    def _visitors(self, checkpoint: str) -> LipSync:
        """Open a visitor's network, which may know their face: nothing of it stays on disk."""
        lips, own = self._create(checkpoint), self._own
        lips.runtime = replace(lips.runtime, keeps_int8=False)
        lips.restorer, lips.restore, lips.credentials = own.restorer, own.restore, own.credentials
        _ = lips.model
        return lips

    def _create(self, checkpoint: str | None, **more: Any) -> LipSync:
        settings = self.settings
        return LipSync(
            checkpoint,
            device=settings.device,
            precision=settings.precision,
            runtime=settings.runtime,
            batch_size=settings.batch_size,
            report=settings.report,
            **more,
        )

    @functools.cache  # noqa: B019
    def _expert(self) -> Expert:
        lips = self._own
        return open_expert(self.settings.expert, lips.device, lips.dtype, self.settings.report)

    def lips(
        self, session: Session | None, report: Reporter, checkpoint: str | None = None, restored: bool = False
    ) -> LipSync:
        """Return a ``LipSync`` for this session, with its own search cache and report, and the shared network."""
        with self._loading:
            opened = self._visitors(checkpoint) if checkpoint else self._own
        return opened.copy_with(self.search(session), report, restored)

    # ----------------------------------------------------------------------------------------------------------------
    # Lip-sync

    def find_faces(self, session: Session, face: str, report: Reporter, rotate: int = 0) -> list[FoundFace]:
        """Return the faces at the start of a video or photo, from left to right."""
        check_pixels(face)
        lips = self.lips(session, report)
        source = open_face(Path(face), Options(rotate=rotate))
        wanted = 1 if source.is_image else max(1, round(SEARCHED_SECONDS * source.fps))
        found = lips.search.find(source, wanted, report)
        tracks = follow_faces(found, gap_of(source.fps))
        if not tracks:
            if source.is_image:
                raise UserError("no face was found; try another photo, with a face seen from the front")
            raise UserError("no face was found at the start; --rotate if it lies on its side, or try another video")
        return [_first_appearance(source, track) for track in tracks]

    def preview(
        self, session: Session, face: str, speech: Speech, second: float, report: Reporter, **options: Any
    ) -> np.ndarray:
        """Return the frame of the result at ``second``, (height, width, 3) uint8 RGB."""
        lips, spoken, options = self._settled(session, face, speech, self._seconds(speech), report, options)
        return lips.preview(face, spoken, second, **options)[..., ::-1]

    def lip_sync(self, session: Session, face: str, speech: Speech, report: Reporter, **options: Any) -> Path:
        """Return the file of the result."""
        seconds = self._seconds(speech)
        if options.get("start") is not None or options.get("end") is not None:
            check_film(Path(face), self.settings.max_seconds)  # the whole video is written again
        outfile = session.new_file(".mp4")
        lips, spoken, options = self._settled(session, face, speech, seconds, report, options)
        lips.run(face, spoken, outfile, **options)
        return outfile

    def _seconds(self, speech: Speech) -> float:
        """Return the length of the speech, of several the longest; raise UserError if it is too long."""
        paths = [speech] if isinstance(speech, str) else [path for _, path in speech]
        return max(seconds_of(path, self.settings.max_seconds) for path in paths)

    def _settled(
        self,
        session: Session,
        face: str,
        speech: Speech,
        seconds: float,
        report: Reporter,
        options: dict[str, Any],
    ) -> tuple[LipSync, Any, dict[str, Any]]:
        """Return the network, the speech (or speeches by the number of their face) and the ``Options``.

        In ``options``, "chosen" is the FoundFace of the face that was clicked on. Its number counts all faces of the
        video, not only those visible when it was chosen. If only a part is used that begins later, the face at its
        place then is chosen. "network" is a checkpoint, "sharp" whether mouths are restored.
        """
        check_pixels(face)
        if like := options.get("face_like"):
            check_pixels(str(like))
        lips = self.lips(session, report, options.pop("network", None), options.pop("sharp", False))
        chosen, options = options.pop("chosen", None), options | ({"identity": self.settings.identity} if like else {})
        if not isinstance(speech, str):
            numbers = self._numbers(lips, face, [found_face for found_face, _ in speech], seconds, Options.of(options))
            if None in numbers or len({*numbers}) < len(numbers):
                raise UserError("a face that was given a speech is lost in the video; give fewer faces a speech")
            if chosen:
                report.note("the click on a face is ignored, because each speech already belongs to a face")
            return lips, dict(zip(numbers, (path for _, path in speech))), options
        if chosen:
            (options["face_index"],) = self._numbers(lips, face, [chosen], seconds, Options.of(options))
            if options["face_index"] is None:  # which would select the largest face
                raise UserError(
                    "in the used part of the video, the face that was clicked on is not where it was; click on another "
                    "face, or let the part begin at another moment"
                )
        return lips, speech, options

    def _numbers(
        self, lips: LipSync, face: str, seen: list[FoundFace], seconds: float, how: Options
    ) -> list[int | None]:
        """Return the numbers of faces, see ``number_of``, among all in the frames used by a speech of ``seconds``."""
        source = open_face(Path(face), how)
        segment = segment_for(source, round(seconds * hp.sample_rate), how)
        searched = search_range(segment.source, 1 if source.is_image else segment.searched, how)
        found = lips.search.find(searched.source, searched.frames, lips.report)
        return [number_of(one, found, searched.source) for one in seen]

    # ----------------------------------------------------------------------------------------------------------------
    # The other tabs

    def measure(self, session: Session, face: str, sounds: list[str], report: Reporter) -> tuple[str, Path]:
        """Return how well faces and voices match, in words and as a plot."""
        from sync.drawing import draw

        check_pixels(face)
        paths = [Path(sound) for sound in sounds or [face]]
        for path in paths:
            seconds_of(path, self.settings.max_seconds)
        with self._loading:
            expert = self._expert()
        matrix = measure(face, paths, expert, self.search(session), report).matrix
        plot = session.new_file(".png")
        draw(plot, matrix, paths)
        return "\n".join(verdicts(matrix)), plot

    def adapt(self, session: Session, face: str, minutes: float, report: Learning) -> tuple[Path, Path, str]:
        """Adapt the network to a person; return the checkpoint, the contact sheet, and the improvement in words."""
        check_pixels(face)
        seconds_of(face, self.settings.max_seconds)
        check_film(Path(face), self.settings.max_seconds)  # its pictures may last longer than its sound
        outfile = session.new_file(".pth", Path(face).stem[:60])  # named after the video, so that people can be told
        options = adaptation.AdaptationOptions(
            min(minutes, self.settings.max_minutes),
            self.settings.checkpoint or weights.DEMO,
            search=self.search(session),
            device=self.settings.device,
        )
        try:
            adapted = adaptation.adapt(face, outfile, options, report)
        except BaseException as problem:
            outfile.unlink(missing_ok=True)  # it has the best weights so far, which nobody gets
            if KEPT_WEIGHTS not in str(problem):
                raise
            raise RuntimeError(f"learning failed: {str(problem).partition(KEPT_WEIGHTS)[0]}") from problem
        before, after = (examined.figures["l1"] for examined in (adapted.before, adapted.after))
        won = f"Difference from the real mouth, on a held-out part: {before:.4f} before, {after:.4f} after."
        if not adapted.is_better:
            won += " It did not improve; use the old network."
        elif after >= before:
            won += " Its fine detail is nearer."
        return outfile, adapted.sheet, won

    def prepare_live(self, session: Session, face: str, report: Reporter) -> live.Face:
        """Prepare a face for live speech; of a video, the first ``LIVE_SECONDS`` are used, back and forth."""
        check_pixels(face)
        source = open_face(Path(face), Options())
        shrink = -(-max(source.stored) // LIVE_SIDE)
        lips = self.lips(session, report)
        fps = hp.fps if source.fps > hp.fps else None  # what cannot be drawn in time is not heard
        return live.prepare(lips, face, LIVE_SECONDS, resize_factor=shrink, fps=fps, silence="closed")


def seconds_of(path: str | Path, most: float) -> float:
    """Return how long the sound of a file lasts; raise UserError if that is too long."""
    seconds = video.Sound(path, hp.sample_rate).measure(most) / hp.sample_rate
    check_length(seconds, most)
    return seconds


def check_film(path: Path, most: float) -> None:
    """Raise UserError for a video that lasts longer than this page allows."""
    film = video.probe(path)
    frames, goes_on = video.count_frames(film, max(1, round(most * film.fps)))
    check_length(math.inf if goes_on else float(frames / film.fps), most)


def check_pixels(path: str) -> None:
    """Raise UserError for a photo or a video that would need too much memory."""
    if (pixels := pixels_of(path)) > MAX_PIXELS:
        raise UserError(
            f"this has {pixels / 1e6:.0f} million pixels or more, and the page takes {MAX_PIXELS / 1e6:.0f} million; "
            "shrink it"
        )


@functools.lru_cache(maxsize=256)  # Gradio names uploads by their contents
def pixels_of(path: str) -> int:
    """Return how many pixels a photo (by its header) or a frame has, at least."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    with contextlib.suppress(OSError), without_warnings():  # Pillow reads no videos, and not all pictures
        try:
            with PIL.Image.open(path) as picture:
                return math.prod(picture.size)
        except PIL.Image.DecompressionBombError:  # raised before the size is known
            return 2 * PIL.Image.MAX_IMAGE_PIXELS  # type: ignore[operator]  # with None, nothing is a bomb
    if pictures.is_picture(Path(path)):  # with a header that Pillow cannot read
        raise UserError("this kind of picture is not supported; save it as JPEG or PNG")
    return math.prod(video.probe(path).stored)


def verdicts(matrix: SimilarityMatrix) -> Iterator[str]:
    """Yield for each voice how well it matches and, if there are several faces, which one speaks."""
    for voice, name in enumerate(matrix.names):
        result, face = matrix.best(voice), matrix.best_face(voice) + 1
        does = "speaks" if result.related else "is nearest"
        speaker = f"face {face} {does}, " if len(matrix.faces) > 1 else ""
        _, *words = str(result).splitlines()  # the first line is a row of figures
        yield f"{Path(name).name}: {speaker}mean similarity {result.mean:.2f}, {'; '.join(words)}"


def number_of(chosen: FoundFace, found: Detections, source: video.VideoInfo) -> int | None:
    """Return the number (as in ``--face_index``) of the face at the place of ``chosen``; None if there is none."""
    frame, gap = round(chosen.second * source.fps), gap_of(source.fps)
    at = min(max(0, frame - source.start), len(found) - 1)
    first, stop = next((first, stop) for first, stop in shots(found) if first <= at < stop)
    found, at = Detections(found.boxes[first:stop], found.change[first:stop]), at - first
    there = np.array(chosen.box) * ((source.width, source.height) * 2)
    boxes = [follow_face(found, gap, index, smooth=False)[at] for index in range(max_simultaneous_faces(found, gap))]
    overlaps = [0.0 if np.isnan(box).any() else intersection_over_union(box, there) for box in boxes]
    return int(np.argmax(overlaps)) if any(overlaps) else None


def _first_appearance(source: video.VideoInfo, track: np.ndarray) -> FoundFace:
    """Return a face where it first appears, in a square picture with some context."""
    first = int(np.flatnonzero(~np.isnan(track[:, 0]))[0])
    frame = next(video.read_frames(source, first, 1))
    x1, y1, x2, y2 = track[first]
    middle, reach = np.array([x1 + x2, y1 + y2]) / 2, 0.65 * max(x2 - x1, y2 - y1)
    x1, y1, x2, y2 = np.concatenate((middle - reach, middle + reach)).astype(int).tolist()
    picture = crop_with_border(frame, (x1, y1, x2, y2))
    sides = np.array((source.width, source.height) * 2)
    shown = cv2.resize(picture, (FACE_SIDE, FACE_SIDE))[..., ::-1]
    return FoundFace(float(first / source.fps), tuple(map(float, track[first] / sides)), shown)
