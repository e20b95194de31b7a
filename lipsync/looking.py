"""Collect what the face looks like in each shot of a video, and settle how its mouths are made."""

from __future__ import annotations

import contextlib
import itertools
import math

import numpy as np

import video
from concurrency import prefetch
from errors import UserError
from hparams import hparams as hp
from lipsync.filmed import FilmedFace
from lipsync.options import ResolvedOptions
from models import weights
from mouths import (
    Appearance,
    Appearances,
    LipGenerator,
    MouthSettings,
    References,
    Restore,
    Shots,
    UnoccludedFace,
    all_mouths,
    crop,
    evenly_lit,
    poses_of,
    shut_mouths,
)

REFERENCE_SECONDS, REFERENCE_STEP = 6.0, 5  # seconds of a shot searched for reference mouths, in every fifth frame
MAX_FACES = 64  # kept per shot


def appearances_of(
    network: LipGenerator, face: FilmedFace, options: ResolvedOptions, with_references: bool = True, start: int = 0
) -> Appearances:
    """Return what the face looks like: in the first shot that shows it, and later in others when they are reached.

    ``with_references`` includes reference mouths. Frames are counted from the one that is shown at ``start``. Other
    shots are skipped in a video that is not searched, whose cuts are unknown, and in one without an index, which would
    have to be read again and again.
    """
    named = named_reference(face, options.reference) if isinstance(options.reference, int) else None
    if named and not options.keeps_occlusions:
        return Appearances({0: Appearance(poses_of(named.faces), named)})

    def analyse(shot: int) -> Appearance | None:
        faces, larger = faces_of(face, shot)
        if not len(faces):
            return None
        unoccluded = UnoccludedFace(faces) if options.keeps_occlusions else None
        free = unoccluded.chosen if unoccluded else slice(None)
        if named or not with_references:
            references = named
        elif options.reference == "matching":
            references = all_mouths(network, faces[free], larger[free])
        else:
            references = shut_mouths(network, faces[free])
        return Appearance(poses_of(faces), references, unoccluded)

    path, source = face.path, face.source
    first = path.shot(path.begin())
    if not (known := analyse(first)):
        raise UserError(f"the frames of {source.path} that show the face cannot be read; convert it")
    searched = face.used is not None and source.indexed and not source.is_image
    shots = Shots(lambda index: path.shot(face.number(start + index)), analyse)
    return Appearances({first: known}, shots if searched else None)


def settings_for_mouths(
    generator: weights.Checkpoint,
    options: ResolvedOptions,
    movement: np.ndarray,
    rest: np.ndarray,
    appearances: Appearances | None,
    restore: Restore | None = None,
) -> MouthSettings:
    """Return the settings by which the mouths of some frames are made.

    ``movement`` and ``rest`` (N,) in [0, 1] come from the sound: how far each mouth moves and, with ``reference``
    "same", how much of a shut mouth the network is shown. ``restore`` sharpens the mouths.
    """
    gains = generator.gain * options.mouth_gain * movement
    reference_share = rest if options.reference == "same" else np.ones(len(rest))
    unchanged = bool((gains == 1).all())
    return MouthSettings(options.blend, None if unchanged else gains, appearances, reference_share, restore)


def named_reference(face: FilmedFace, number: int) -> References:
    """Return the face in a frame, numbered within the whole video; raise UserError if that frame is not used."""
    source = face.source
    index = number - source.start
    if index < 0 or not face.shows(index):
        first = source.start
        bound = f"begin with {first}" if index < 0 else f"end with {first + len(face.path.boxes) - 1}"
        raise UserError(f"--reference {number}: the frames that are used {bound}; name one of them")
    box, frame = face.box_in(index), next(video.read_frames(source, index, 1), None)
    if box is None or frame is None:
        lack = "face in that frame" if box is None else "such frame"
        raise UserError(f"--reference {number}: {source.path} has no {lack}; name another")
    return References(crop(frame, box)[None], whole_face=True)


def faces_of(face: FilmedFace, shot: int) -> tuple[np.ndarray, np.ndarray]:
    """Return some faces from the first seconds of a shot, as far as the search has come.

    The seconds count from the shot's first face. Shape (N, 96, 96, 3), and the same faces at twice that size.
    """
    path, source = face.path, face.source
    faces, larger = ([np.empty((0, size, size, 3), np.uint8)] for size in (hp.img_size, 2 * hp.img_size))
    if (first := path.first_face(shot)) is None:
        return faces[0], larger[0]
    wanted = math.ceil(REFERENCE_SECONDS * source.fps)
    if face.used is not None:
        wanted = min(wanted, face.used - first)
    every = max(REFERENCE_STEP, math.ceil(wanted / MAX_FACES))

    def is_over(index: int) -> bool:
        end = path.shot_end(shot)
        return end is not None and index >= end

    frames = prefetch(video.read_frames(source, first, math.ceil(wanted / every), every), 4)  # beside the search
    with contextlib.closing(frames):
        for index, frame in zip(itertools.count(first, every), frames):
            if is_over(index):  # before ``shows`` waits for the search
                break
            if not face.shows(index) or is_over(index):
                break
            if box := face.box_in(index):
                faces.append(crop(frame, box)[None])
                larger.append(crop(frame, box, 2 * hp.img_size)[None])
    seen, finer = np.concatenate(faces), np.concatenate(larger)
    even = evenly_lit(seen) if len(seen) else slice(None)
    return seen[even], finer[even]
