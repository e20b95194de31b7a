"""Face detection in a video: the choice of the detector, the search through the frames, and its cache.

found = FaceSearch("centerface").find(video.probe("talk.mp4"))
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

import downloads
import files
import video
from concurrency import prefetch
from errors import MissingFile, UserError
from face_detection.detections import Detections
from face_detection.detector import Detector
from face_detection.detectors import (
    CPU_DETECTORS,
    DETECTORS,
    SFD_WEIGHTS,
    create_detector,
    in_square_pixels,
    with_eye_distance,
)
from face_detection.search import search
from reporting import SILENT, Reporter

SAVE_SECONDS = 5.0  # between two writes of the cache
AUTO = "auto"
NAMES = (AUTO, *DETECTORS)
AUTO_CHOICES = BEST, FALLBACK = ("sfd", "centerface")  # "auto" is one of these
PUBLISHED = {"sfd": "s3fd", "yunet": "yunet"}  # names of the downloadable weights (``downloads.KNOWN``), by detector
RETRY_SECONDS = 300.0  # seconds after which a failed download is retried
_sfd_failures: dict[Path, tuple[str, float]] = {}  # by cache folder: why S3FD's weights are missing, and since when


@dataclass(frozen=True)
class FaceSearch:
    """How to detect faces, and whether to cache their boxes."""

    detector: str = AUTO  # one of ``NAMES``; auto: S3FD, or CenterFace if S3FD's weights are not available
    weights: str | Path | None = None  # of the detector; None: its standard ones
    batch_size: int = 16  # pictures per call of the detector
    cache: bool = True  # read and write the cached boxes of each video
    folder: str | Path | None = None  # for the cache; None: the user's cache folder
    device: torch.device = torch.device("cpu")  # for detectors that can use others; set by the caller of the search
    dtype: torch.dtype = torch.float32  # likewise

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size must be 1 or more, not {self.batch_size}")

    def detector_name(self, report: Reporter = SILENT) -> str:
        """Return the detector's name, resolving "auto" to S3FD if its weights are available, else to CenterFace."""
        if self.detector != AUTO:
            return self.detector
        if self.weights or SFD_WEIGHTS.exists() or sfd_is_available(report):
            return BEST
        return FALLBACK

    def detector_weights(self, report: Reporter = SILENT) -> str | Path | None:
        """Return the weights file of the detector, downloading published ones if necessary."""
        name = self.detector_name(report)
        if self.weights or name not in PUBLISHED:
            return self.weights
        if name == "sfd" and SFD_WEIGHTS.exists():
            return SFD_WEIGHTS
        try:
            return downloads.find(PUBLISHED[name], report)
        except RuntimeError as error:
            raise RuntimeError(f"{error}, or use --face_detector centerface, which needs no download") from error

    def settled(self, report: Reporter = SILENT) -> FaceSearch:
        """Return the same search with detector and weights resolved, so that other processes need not do so again."""
        return replace(self, detector=self.detector_name(report), weights=self.detector_weights(report))

    def on(self, device: torch.device, dtype: torch.dtype = torch.float32) -> FaceSearch:
        """Return the same search on another device and in another precision."""
        return replace(self, device=device, dtype=dtype)

    def open(self, report: Reporter = SILENT) -> Detector:
        """Return the detector, loaded once for all searches with the same settings.

        Raises MissingFile for missing weights, UserError for unusable ones, RuntimeError if a download fails.
        """
        if self.weights and not Path(self.weights).exists():
            raise MissingFile(f"--face_detector_weights {self.weights} does not exist; give the detector's file")
        if self.weights and self.detector in CPU_DETECTORS:
            raise UserError(f"--face_detector_weights: {self.detector} has its own weights; leave the flag out")
        name, file = self.detector_name(report), self.detector_weights(report)
        changed = files.stamp(Path(file)) if file else None
        return _opened(name, str(self.device), file, self.dtype, changed)

    def find(self, source: video.VideoInfo, wanted: int | None = None, report: Reporter = SILENT) -> Detections:
        """Return the detections in the first ``wanted`` frames (None: all), and cache them for the next run."""
        *_, found = self.stream(source, wanted, report)
        return found

    def stream(
        self, source: video.VideoInfo, wanted: int | None = None, report: Reporter = SILENT
    ) -> Generator[Detections, None, None]:
        """Yield the result of ``find`` as it grows, each time that there are more detections.

        They are cached every ``SAVE_SECONDS``, so that an interrupted search can continue.
        """
        cache = self.cache_of(source, report) if self.cache else None
        found = Detections.load(cache) if cache else Detections()
        end = math.inf if wanted is None else wanted
        if len(found) < end and not found.complete:
            try:
                for _ in self._go_on(found, source, wanted, self.open(report), cache, report):
                    if len(found) >= end:  # may be more: results must not depend on where a search stopped
                        break
                    yield found
                else:
                    found.complete = True
            except GeneratorExit:  # the caller needs no more
                if cache:
                    save_cache(found, cache, report)
                raise
            if cache:
                save_cache(found, cache, report)
        if not len(found):
            raise UserError(f"{source.path} has no frame that can be decoded")
        yield found if wanted is None else found.first(wanted)

    def _go_on(
        self,
        found: Detections,
        source: video.VideoInfo,
        wanted: int | None,
        detector: Detector,
        cache: Path | None,
        report: Reporter,
    ) -> Iterator[int]:
        """Search the remaining frames; yield the number added each time. ``wanted`` is for the progress bar."""
        saved, left = time.monotonic(), None if wanted is None else wanted - len(found)
        left = 1 if source.is_image else left
        frames = prefetch(video.read_frames(source, max(0, len(found) - 1)), 4)
        with contextlib.closing(frames), report.stage("Finding faces", left) as advance:
            seeing = in_square_pixels(detector, source.pixel_aspect)
            for step in search(found, frames, seeing, float(source.fps), self.batch_size):
                advance(step if wanted is None else max(0, min(step, wanted - len(found) + step)))
                if cache and time.monotonic() - saved > SAVE_SECONDS:
                    save_cache(found, cache, report)
                    saved = time.monotonic()
                yield step

    def cache_of(self, source: video.VideoInfo, report: Reporter = SILENT) -> Path:
        """Return the cache file of this detector's results for ``source``."""
        seen = (
            source.geometry,
            source.fps,
            source.width,
            source.height,
            source.stream,
            source.interlaced,
            source.transparent,
            *([source.start] if source.start else []),
            *([source.sample_aspect] if source.pixel_aspect != 1 else []),
        )
        detector, file = self.detector_name(report), self.weights
        if detector == "sfd" and not file and SFD_WEIGHTS.exists():  # put there by the user, who may replace it
            file = SFD_WEIGHTS
        weights_content = file and Path(file).is_file() and files.cached_digest(Path(file))
        if detector == "sfd" and self.dtype != torch.float32:
            seen = (*seen, self.dtype, "finite")  # not so once, when all frames seemed to have no face
        known = repr((files.sampled_digest(source.path), detector, weights_content, *seen))
        name = hashlib.sha256(known.encode()).hexdigest()[:32]
        return Path(self.folder or downloads.cache_folder() / "boxes") / f"{name}.npz"


@lru_cache(maxsize=2)
def _opened(name: str, device: str, file: str | Path | None, dtype: torch.dtype, changed: object) -> Detector:
    """Return a detector, which stays loaded; ``changed``, the stamp of its file, invalidates it if that is replaced."""
    return with_eye_distance(create_detector(name, device, file, dtype))


def sfd_is_available(report: Reporter) -> bool:
    """Return whether S3FD's official weights are in the cache or can be downloaded to it; if not, warn once.

    A failed download is retried only after ``RETRY_SECONDS``, since this is called for each of many videos, and a
    host that is down may take half a minute to fail.
    """
    folder = downloads.cache_folder()
    reason, since = _sfd_failures.get(folder, ("", -math.inf))
    if time.monotonic() - since > RETRY_SECONDS or downloads.is_local("s3fd"):
        try:
            downloads.find("s3fd", report)
            _sfd_failures.pop(folder, None)
            return True
        except RuntimeError as error:
            reason = str(error)
            _sfd_failures[folder] = reason, time.monotonic()
    report.note_once(f"warning: {reason}; until then faces are found by centerface instead of sfd")
    return False


def save_cache(found: Detections, cache: Path, report: Reporter) -> None:
    """Cache the boxes; if the cache is full or read-only, only warn."""
    try:
        with files.atomic_write(cache) as partial:
            found.save(partial)
    except OSError as error:
        report.note_once(f"warning: the face boxes could not be cached in {cache.parent} ({error.strerror})")
