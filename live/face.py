"""Prepare a face for live speech, and save it in a folder."""

from __future__ import annotations

import base64
import itertools
import json
import math
import numbers
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

import files
import video
from boxes import within
from errors import MissingFile, UserError
from face_path import Box, FacePath
from hparams import hparams as hp
from lipsync import (
    MAX_FPS,
    MIN_FPS,
    MOUTH_OPTIONS,
    FilmedFace,
    LipSync,
    Options,
    ResolvedOptions,
    appearances_of,
    open_face,
)
from mouths import Appearance, References, UnoccludedFace, crop
from mouths.appearance import MAX_APPEARANCES
from mouths.references import POSE_SIZE

SECONDS = 60.0  # of a video that are used by default
FORMAT = "wav2lip live face 6"
NAME, SOURCE = "face.json", "source-"
SOURCE_COPY = re.compile(rf"{SOURCE}[0-9a-f]{{16}}(\..*)?")  # copies of videos and photos
LARGEST = 320 << 20  # bytes of face.json: 16 appearances of 64 faces, and a day of boxes
SAVED_OPTIONS = ("resize_factor", "rotate", "crop", "loop", *MOUTH_OPTIONS)  # options that are saved
MAX_OPENING = 100.0  # limit for ``References.openings``, which is about 1


@dataclass(frozen=True, eq=False)
class Face:
    """A video or photo of a person, the boxes of the face, and what it looks like."""

    source: video.VideoInfo
    boxes: list[Box | None]  # of the first frames
    used: int | None  # how many of them are shown, repeatedly; None: all of the video, with one box
    appearances: list[Appearance]  # one or more, of different shots
    options: ResolvedOptions
    shots: Sequence[int] = (0,)  # their first frames

    def __repr__(self) -> str:
        return f"<Face of {self.source.path}, {float(self.source.fps):g} fps>"

    def frames(self) -> Iterator[tuple[np.ndarray, Box | None, float]]:
        """Yield the frames as they were filmed, each with its box and the opacity of its mouth, without end."""
        path = FacePath.of(self.boxes, np.empty((len(self.boxes), 4)), self.shots)
        filmed = FilmedFace(self.source, path, self.used, self.options.loop == "pingpong")
        return zip(filmed.frames(), filmed.boxes(), map(filmed.strength, itertools.count()))

    def save(self, folder: str | Path) -> None:
        """Save the face in a folder of its own, with a copy of the video or photo; replace any face there.

        The previous face's copy stays until the next time, for sessions that still read it.
        """
        folder = Path(folder)
        check_own(folder)
        digest = files.digest(self.source.path)
        copy = folder / f"{SOURCE}{digest[:16]}{self.source.path.suffix}"
        if not (copy.is_file() and files.digest(copy) == digest):
            with files.atomic_write(copy) as partial:
                shutil.copyfile(self.source.path, partial)
        used = {copy.name, _source_name(folder)}  # sessions with the previous face go on reading its copy
        files.save(folder / NAME, json.dumps(self._described(copy.name, digest)))
        for old in folder.iterdir():
            if SOURCE_COPY.fullmatch(old.name) and old.name not in used:
                old.unlink()

    def _described(self, name: str, digest: str) -> dict[str, object]:
        return {
            "format": FORMAT,
            "source": name,
            "sha256": digest,
            "fps": self.source.fps.as_integer_ratio(),
            "used": self.used,
            "options": {name: getattr(self.options, name) for name in SAVED_OPTIONS},
            "appearances": [_packed_appearance(one) for one in self.appearances],
            "boxes": self.boxes,
            "shots": list(self.shots),
        }

    @classmethod
    def load(cls, folder: str | Path) -> Face:
        """Load a saved face. Raises MissingFile or UserError if there is none, or it is damaged."""
        folder = Path(folder).absolute()  # the working folder may change meanwhile
        path = folder / NAME
        if not path.is_file():
            raise MissingFile(f"{folder} has no {NAME}: it is not a prepared face; make one with live.prepare and save")
        try:
            return _parse(folder, _read(path))
        except UserError as problem:
            raise UserError(f"{path}: {problem}; prepare the face again") from None
        except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError):
            raise UserError(f"{path} is damaged, or not a prepared face; prepare the face again") from None


def prepare(lips: LipSync, face: str | Path, seconds: float = SECONDS, **options: Any) -> Face:
    """Find the face in the first ``seconds`` of a video, or in a photo, and what it looks like in each shot.

    ``options`` as for ``LipSync.run``; by default the video plays back and forth (``loop="pingpong"``).
    """
    if not (isinstance(seconds, numbers.Real) and 0 < seconds < math.inf):
        raise UserError(f"a face is prepared from the first seconds of a video, not from {seconds!r}")
    chosen = Options.of({"loop": "pingpong", **options})
    if given := [name for name in ("start", "end", "mix") if getattr(chosen, name) is not None]:
        raise UserError(f"a face is prepared from the first seconds of a video; leave {' and '.join(given)} out")
    source = open_face(files.as_path(face).absolute(), chosen, lips.report)
    chosen = lips.resolve(chosen)
    filmed = lips.find_face(source, math.ceil(seconds * source.fps), chosen)
    appearances, path = appearances_of(lips.model, filmed, chosen), filmed.path
    for shot in path.shots if appearances.shots else ():
        first = path.first_face(shot)
        if first is not None and (box := path.boxes[first]):
            for frame in video.read_frames(source, first, 1):
                appearances.of(crop(frame, box), first)
    return Face(source, path.boxes, filmed.used and len(path.boxes), appearances.remembered, chosen, path.shots)


def check_own(folder: Path) -> None:
    """Make the folder of a face; raise UserError if something else is in it."""
    files.check_folder(folder)
    others = (path for path in folder.iterdir() if not (path.name.startswith(".") or SOURCE_COPY.fullmatch(path.name)))
    if not (folder / NAME).is_file() and any(others):
        raise UserError(f"{folder} holds other files; give a new name for the prepared face")


# --------------------------------------------------------------------------------------------------------------------
# Reading files that anybody may have made


def _source_name(folder: Path) -> str | None:
    """Return the name of the copy that the saved face in this folder uses; None if there is none."""
    try:
        return str(_read(folder / NAME)["source"])
    except (OSError, UserError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _read(path: Path) -> dict:
    if path.stat().st_size > LARGEST:
        raise ValueError
    content = json.loads(path.read_bytes())
    if content["format"] != FORMAT:
        raise UserError("it was made by another version")
    return content


def _parse(folder: Path, content: dict) -> Face:
    """Return the face; raise UserError or some common exception for invalid content."""
    options, (numerator, denominator) = _options(content["options"]), content["fps"]
    if not all(map(_whole, (numerator, denominator))) or not MIN_FPS <= numerator / denominator <= MAX_FPS:
        raise ValueError
    source = replace(_source(folder, content, options), fps=Fraction(numerator, denominator))
    boxes = [_box(box, source) for box in content["boxes"]]
    if content["used"] != len(boxes) and not (content["used"] is None and len(boxes) == 1):
        raise ValueError
    shots = content.get("shots", [0])  # missing in faces that were saved earlier
    if not (shots[:1] == [0] and all(map(_whole, shots)) and sorted({*shots}) == shots and shots[-1] < len(boxes)):
        raise ValueError
    appearances = [_appearance(one, options) for one in content["appearances"]]
    if not 0 < len(appearances) <= MAX_APPEARANCES:
        raise ValueError
    return Face(source, boxes, content["used"], appearances, options, shots)


def _packed_appearance(appearance: Appearance) -> dict[str, object]:
    references, unoccluded = appearance.references, appearance.unoccluded
    assert references is not None  # a prepared face has reference mouths
    return {
        "postures": _packed(appearance.poses),
        "references": _packed(references.faces),
        "apart": None if references.openings is None else references.openings.tolist(),
        "larger": None if references.larger is None else _packed(references.larger),
        "bare": _packed(unoccluded.faces) if unoccluded else None,
    }


def _appearance(content: dict, options: ResolvedOptions) -> Appearance:
    poses = np.frombuffer(base64.b64decode(content["postures"]), np.float32).reshape(-1, *POSE_SIZE[::-1])
    faces = _unpacked(content["references"])
    openings = None if content["apart"] is None else np.array(content["apart"], float)
    larger = None if content["larger"] is None else _unpacked(content["larger"], 2 * hp.img_size)
    if openings is not None and (openings.shape != faces.shape[:1] or not (np.abs(openings) < MAX_OPENING).all()):
        raise ValueError
    if larger is not None and len(larger) != len(faces):
        raise ValueError
    if options.keeps_occlusions != (content["bare"] is not None) or not (len(poses) and np.isfinite(poses).all()):
        raise ValueError
    unoccluded = UnoccludedFace(_unpacked(content["bare"]), chosen=True) if options.keeps_occlusions else None
    return Appearance(poses, References(faces, isinstance(options.reference, int), openings, larger), unoccluded)


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _unpacked(text: str, size: int = hp.img_size) -> np.ndarray:
    """Return faces (N, size, size, 3) uint8."""
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, size, size, 3)


def _source(folder: Path, content: dict, options: ResolvedOptions) -> video.VideoInfo:
    name = content["source"]
    if Path(name).name != name or not name.startswith(SOURCE):
        raise ValueError
    path = folder / name
    if not path.is_file() or files.digest(path) != content["sha256"]:
        raise UserError(f"{name} is missing or was changed")
    return video.probe(path, video.Geometry(options.resize_factor, options.rotate, tuple(options.crop)))


def _options(values: dict) -> ResolvedOptions:
    """Return the options; raise ValueError for other names or kinds than were saved, UserError for invalid values."""
    kinds = {
        "reference": (str, int), "blend": (str,), "occlusion": (str,), "crop": (list,), "lip_delay": (float,),
        "rotate": (bool, int), "resize_factor": (int, float),
    }  # fmt: skip
    usual = Options()
    if set(values) != set(SAVED_OPTIONS):
        raise ValueError
    if not all(type(values[name]) in kinds.get(name, (type(getattr(usual, name)),)) for name in SAVED_OPTIONS):
        raise ValueError
    return ResolvedOptions(**values)


def _box(box: list[int] | None, picture: video.VideoInfo) -> Box | None:
    if box is None:
        return None
    x1, y1, x2, y2 = box
    width, height = picture.width, picture.height  # a face cut by the edge reaches beyond it, but not far
    if not all(map(_whole, box)) or not (-width <= x1 < x2 <= 2 * width and -height <= y1 < y2 <= 2 * height):
        raise ValueError
    left, top, right, bottom = within((x1, y1, x2, y2), width, height)
    if left >= right or top >= bottom:
        raise ValueError
    return x1, y1, x2, y2


def _whole(value: object) -> bool:
    return type(value) is int
