"""The faces in a video: the arguments that choose a detector, the search through the frames, and the memory of it."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

import torch

import cli
import files
import video
from face_detection.detections import Detections, cache_name
from face_detection.detectors import DETECTORS, SFD_WEIGHTS, create_detector
from face_detection.search import search
from models import weights

SAVE_SECONDS = 5.0  # of work between two writings of the cache


def add_detector_arguments(parser: cli.Parser) -> None:
    parser.add_argument("--face_detector", choices=DETECTORS, default="sfd", help="haar needs no download")
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


def detector_weights(args: argparse.Namespace) -> Path | None:
    """Return the weights file of the chosen face detector, downloading the official S3FD's if it is not here."""
    if args.face_detector_weights or args.face_detector != "sfd" or SFD_WEIGHTS.exists():
        return args.face_detector_weights
    try:
        return weights.find("s3fd")
    except RuntimeError as error:
        raise RuntimeError(f"{error}, or use --face_detector haar, which needs no download") from error


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
        detector = create_detector(args.face_detector, str(device), detector_weights(args), dtype)
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
        raise ValueError(f"{source.path} has no frame that can be decoded")
    return found if wanted is None else found.first(wanted)


def cache_of(args: argparse.Namespace, source: video.VideoInfo) -> Path:
    name = cache_name(source.path, args.face_detector, args.face_detector_weights, source.geometry)
    return weights.cache_folder() / "boxes" / name


def remember(found: Detections, cache: Path) -> None:
    try:
        with files.whole(cache) as partial:
            found.save(partial)
    except OSError as error:  # a full or read-only cache costs time, not the result
        print(f"warning: the boxes could not be kept in {cache.parent} ({error.strerror})", file=sys.stderr)
