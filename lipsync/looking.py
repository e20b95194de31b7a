"""What the face looks like in each shot of a video, and how its mouths are made."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable

import numpy as np

import video
from boxes import FacePath
from concurrency import prefetch
from errors import UserError
from hparams import hparams as hp
from lipsync.options import Settled
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
    postures_of,
    shut_mouths,
)

LOOKED_AT, LOOK_EVERY = 6.0, 5  # seconds of a shot in which mouths to show are looked for, in every fifth frame
MAX_FACES = 64  # that are kept of them


def appearances_of(
    network: LipGenerator,
    source: video.VideoInfo,
    path: FacePath,
    used: int | None,
    options: Settled,
    with_references: bool = True,
    filmed: Callable[[int], int] = int,
) -> Appearances:
    """Look at the first shot that shows the face; at others when it is their turn.

    ``with_references`` they have other mouths to show. ``used`` is that of a ``Take``, ``filmed`` says which frame of
    the video is shown. Nobody knows the shots of a video that is not searched; and one without an index is not read
    again and again.
    """
    named = named_reference(source, path, used, options.reference)
    if named and not options.keeps_occlusions:
        return Appearances({0: Appearance(postures_of(named.faces), named)})

    def look(shot: int) -> Appearance | None:
        faces, larger = faces_of(source, path, used, shot)
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
        return Appearance(postures_of(faces), references, unoccluded)

    first = path.shot(path.begin())
    if not (known := look(first)):
        raise UserError(f"the frames of {source.path} that show the face cannot be read; convert it")
    searched = used is not None and source.indexed and not source.is_image
    return Appearances({first: known}, Shots(lambda index: path.shot(filmed(index)), look) if searched else None)


def settings_for_mouths(
    generator: weights.Checkpoint,
    options: Settled,
    movement: np.ndarray,
    rest: np.ndarray,
    appearances: Appearances | None,
    restore: Restore | None = None,
) -> MouthSettings:
    """Return how the mouths of some frames are made.

    By the sound, each moves so far and rests so much, (N,) in [0, 1]: with ``reference`` "same", the network sees that
    much of a shut mouth. ``restore`` sharpens them.
    """
    gains = generator.gain * options.mouth_gain * movement
    reference_share = rest if options.reference == "same" else np.ones(len(rest))
    unchanged = bool((gains == 1).all())
    return MouthSettings(
        options.blend, None if unchanged else gains, appearances, generator.opening, reference_share, restore
    )


def named_reference(
    source: video.VideoInfo, path: FacePath, used: int | None, number: str | int | None
) -> References | None:
    """Return the face in the frame of a number, of the whole video's; None if it is no number."""
    if not isinstance(number, int):
        return None
    index = number - source.start
    known = path.known(index + 1)
    if index < 0 or used is not None and index >= len(known):
        bound = f"begin with {source.start}" if index < 0 else f"end with {source.start + len(known) - 1}"
        raise UserError(f"--reference {number}: the frames that are used {bound}; name one of them")
    box, frame = known[index % len(known)], next(video.read_frames(source, index, 1), None)
    if box is None or frame is None:
        lack = "face in that frame" if box is None else "such frame"
        raise UserError(f"--reference {number}: {source.path} has no {lack}; name another")
    return References(crop(frame, box)[None], everywhere=True)


def faces_of(source: video.VideoInfo, path: FacePath, used: int | None, shot: int) -> tuple[np.ndarray, np.ndarray]:
    """Return some faces of the first seconds of a shot that show one, as far as the search has come.

    (N, 96, 96, 3), and the same in twice that size. ``used`` is that of a ``Take``.
    """
    faces, larger = ([np.empty((0, size, size, 3), np.uint8)] for size in (hp.img_size, 2 * hp.img_size))
    if (first := path.first_face(shot)) is None:
        return faces[0], larger[0]
    wanted = math.ceil(LOOKED_AT * source.fps)
    if used is not None:
        wanted = min(wanted, used - first)
    every = max(LOOK_EVERY, math.ceil(wanted / MAX_FACES))

    def is_over(index: int) -> bool:
        end = path.shot_end(shot)
        return end is not None and index >= end

    frames = prefetch(video.read_frames(source, first, math.ceil(wanted / every), every), 4)  # while the search goes on
    with contextlib.closing(frames):
        for index, frame in zip(itertools.count(first, every), frames):
            if is_over(index):  # before anybody waits for what comes next
                break
            known = path.known(index + 1)
            if used is not None and index >= len(known) or is_over(index):
                break
            if box := known[index % len(known)]:
                faces.append(crop(frame, box)[None])
                larger.append(crop(frame, box, 2 * hp.img_size)[None])
    seen, finer = np.concatenate(faces), np.concatenate(larger)
    even = evenly_lit(seen) if len(seen) else slice(None)
    return seen[even], finer[even]
