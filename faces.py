"""The faces in a video: the arguments that choose a detector, the search through the frames, and the memory of it."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import time
from pathlib import Path

import torch

import cli
import files
import video
from errors import UserError
from face_detection.detections import Detections, cache_name
from face_detection.detectors import DETECTORS, SFD_WEIGHTS, Detector, create_detector
from face_detection.search import search
from models import weights

SAVE_SECONDS = 5.0  # of work between two writings of the cache


def add_detector_arguments(parser: cli.Parser) -> None:
    parser.add_argument(
        "--face_detector",
        choices=("auto", *DETECTORS),
        default="auto",
        help="auto: sfd, or where its weights cannot be had centerface; centerface and haar need no download",
    )
    parser.add_argument("--face_detector_weights", type=Path, help="weights of the detector, if not the usual ones")


def add_search_arguments(parser: cli.Parser) -> None:
    """What scripts take that search one video at a time and remember what they saw."""
    add_detector_arguments(parser)
    parser.add_argument(
        "--face_det_batch_size", type=cli.positive(int), default=16, help="pictures per call of the face detector"
    )
    parser.add_argument("--no_cache", action="store_true", help="detect again, and do not remember the boxes")


def search_settings(**chosen: object) -> argparse.Namespace:
    """Return what ``find_faces`` takes: the defaults of the command line, but for what is ``chosen`` by name."""
    parser = cli.Parser("")
    add_search_arguments(parser)
    return argparse.Namespace(**{**vars(parser.parse_args([])), **chosen})


def detector_name(args: argparse.Namespace) -> str:
    """Return the face detector to use: the chosen one, or of "auto" S3FD if its weights can be had, else CenterFace."""
    if args.face_detector != "auto":
        return args.face_detector
    weights_given = args.face_detector_weights or SFD_WEIGHTS.exists()
    return "sfd" if weights_given or sfd_can_be_had(weights.cache_folder()) else "centerface"


@functools.cache  # a run of many videos asks for each of them, and a host that is down may take half a minute to say so
def sfd_can_be_had(folder: Path) -> bool:
    """Whether the official S3FD's weights are here or can be downloaded to the cache ``folder``; if not, say so."""
    try:
        weights.find("s3fd")
    except RuntimeError as error:
        print(f"warning: {error}; until then faces are found by centerface instead of sfd", file=sys.stderr)
        return False
    return True


def detector_weights(args: argparse.Namespace) -> Path | None:
    """Return the weights file of the face detector to use, downloading the official S3FD's if it is not here."""
    if args.face_detector_weights or SFD_WEIGHTS.exists() or detector_name(args) != "sfd":
        return args.face_detector_weights
    try:
        return weights.find("s3fd")
    except RuntimeError as error:
        raise RuntimeError(f"{error}, or use --face_detector centerface, which needs no download") from error


def open_detector(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Detector:
    return create_detector(detector_name(args), str(device), detector_weights(args), dtype)


def find_faces(
    args: argparse.Namespace, source: video.VideoInfo, wanted: int | None, device: torch.device, dtype: torch.dtype
) -> Detections:
    """Return what the detector sees in the first ``wanted`` frames (None: all), remembering it for the next run.

    What was seen is kept every ``SAVE_SECONDS``, so that an interrupted search goes on from there.
    """
    cache = None if args.no_cache else cache_of(args, source)
    found = Detections.load(cache) if cache else Detections()
    missing = None if wanted is None else max(0, wanted - len(found))
    if missing != 0 and not found.complete:
        detector = open_detector(args, device, dtype)
        frames = video.prefetch(video.read_frames(source, len(found), missing), 4)
        steps = search(found, frames, detector, float(source.fps), args.face_det_batch_size)
        with contextlib.closing(frames), cli.progress((), "Finding faces", missing) as bar:
            saved = time.monotonic()
            for step in steps:
                bar.update(step)
                if cache and time.monotonic() - saved > SAVE_SECONDS:
                    remember(found, cache)
                    saved = time.monotonic()
        found.complete = wanted is None or len(found) < wanted
        if cache:
            remember(found, cache)
    if not len(found):
        raise UserError(f"{source.path} has no frame that can be decoded")
    return found if wanted is None else found.first(wanted)


def cache_of(args: argparse.Namespace, source: video.VideoInfo) -> Path:
    seen = source.geometry, source.fps, (source.width, source.height)
    name = cache_name(source.path, detector_name(args), args.face_detector_weights, *seen)
    return weights.cache_folder() / "boxes" / name


def remember(found: Detections, cache: Path) -> None:
    try:
        with files.whole(cache) as partial:
            found.save(partial)
    except OSError as error:  # a full or read-only cache costs time, not the result
        print(f"warning: the boxes could not be kept in {cache.parent} ({error.strerror})", file=sys.stderr)
