"""Options of a lip-sync."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

import video
from errors import UserError, suggest
from models import Wav2Lip, weights
from models.weights import BLENDS, REFERENCES

MIN_FPS, MAX_FPS = 1, 240  # of the result
MAX_PIXELS = 1 << 20  # the most that is plausible
MAX_DELAY = 10_000.0  # milliseconds, likewise
OPTION_CHOICES = {  # of options that accept only these words
    "speaker": ("auto",),
    "on_missing_face": ("keep", "error"),
    "loop": ("loop", "pingpong"),
    "silence": ("free", "closed"),
    "blend": BLENDS,
    "occlusion": ("keep", "ignore"),
    "preset": video.PRESETS,
}
NUMBER_OPTIONS = ("fps", "lip_delay", "mouth_gain", "start", "end", "resize_factor")
FOUR_SIDED_OPTIONS = ("pads", "crop", "box")  # of four pixels each
BOOLEAN_OPTIONS = ("static", "smooth", "mark")
FILE_OPTIONS = ("face_like", "mix")  # that are read
MOUTH_OPTIONS = ("lip_delay", "silence", "reference", "mouth_gain", "blend", "occlusion")  # how the mouth is drawn
FACE_SELECTORS = ("box", "face_index", "speaker", "face_like")  # ways to say which face; one at a time


@dataclass(frozen=True)
class Options:
    """Options of a lip-sync. Raises UserError for invalid values."""

    static: bool = False  # use only the first frame
    fps: float | None = None  # of the result; None: that of the video, 25 for photos
    pads: Sequence[int] | None = None  # pixels added to the box: top, bottom, left, right; None: the network's own
    resize_factor: float = 1  # by which frames are shrunk first
    crop: Sequence[int] = (0, -1, 0, -1)  # part of the frame to use: top, bottom, left, right; -1: all
    box: Sequence[int] | None = None  # of the face: top, bottom, left, right; None: it is searched for
    rotate: int = 0  # degrees by which frames are turned clockwise, before they are cropped; True: 90
    smooth: bool = True  # the boxes over time
    face_index: int | None = None  # from left to right when first seen, from 0; None: the largest
    speaker: str | None = None  # "auto": in each shot the face whose lips move with the video's own sound
    face_like: str | Path | None = None  # a picture: in each shot the face that looks like the one in it
    identity: str | Path = "sface"  # the network that compares faces, a file or a name
    on_missing_face: str = "keep"  # such frames are kept as they are, or "error"
    loop: str = "loop"  # how a video shorter than the speech is repeated, or "pingpong"
    lip_delay: float | None = None  # milliseconds by which lips move later; None: the network's own, if any
    silence: str = "free"  # what lips do in pauses: "free", as the network draws them, or "closed"
    # what the network sees of the face: "same", each frame itself; "still", one with a shut mouth; "matching", one with
    # a mouth as far open as the sound will open it; or a frame's number
    reference: str | int | None = None  # None: the network's own
    mouth_gain: float = 1.0  # factor of the network's movement: 0 keeps the mouth shut, 2 moves it twice as far
    start: float | None = None  # seconds of the video before the speech begins: only a part is made anew
    end: float | None = None  # seconds after which it ends at the latest; None: with the speech or the video
    mix: str | Path | None = None  # a file whose sound replaces the speech in the result
    mark: bool = True  # say in the file that its lips are synthetic
    blend: str | None = None  # how the mouth is blended in, see ``pasting.paste``; None: the network's own
    # "keep": what is in front of the mouth stays there, with "feather"; "ignore": it is drawn over; None: "keep"
    occlusion: str | None = None
    crf: int = video.Encoding.crf  # of the encoder: 0 to 51, lower is better
    preset: str = video.Encoding.preset  # of the encoder

    def __post_init__(self) -> None:
        for name in FOUR_SIDED_OPTIONS:
            if (sides := getattr(self, name)) is not None or name == "crop":
                object.__setattr__(self, name, _four_pixels(name, sides))
        self._check_types()
        if self.face_index is not None and self.face_index < 0:
            raise UserError(f"--face_index counts from 0 at the left, so it cannot be {self.face_index}")
        chosen = [name for name in FACE_SELECTORS if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise UserError(f"--{chosen[0]} and --{chosen[1]} both say which face; give one of them")
        if self.rotate is not True and not (_is_whole(self.rotate) and self.rotate in video.TURNS):
            raise UserError(f"--rotate {self.rotate} is not a turn; give 90, 180 or 270 degrees")
        object.__setattr__(self, "rotate", 90 if self.rotate is True else int(self.rotate))
        if self.speaker and self.static:
            raise UserError("--speaker auto needs moving lips, and --static shows one frame; use --face_index")
        if not 0 <= self.mouth_gain <= weights.MAX_GAIN:
            raise UserError(f"--mouth_gain {self.mouth_gain:g} is not between 0 and {weights.MAX_GAIN:g}")
        if isinstance(self.reference, numbers.Integral) and not isinstance(self.reference, bool):  # of numpy's too
            object.__setattr__(self, "reference", int(self.reference))
        is_frame = type(self.reference) is int and self.reference >= 0
        if not (is_frame or self.reference is None or _is_one_of(self.reference, REFERENCES)):
            raise UserError(f"--reference {self.reference} is not one of {', '.join(REFERENCES)} or a frame number")
        if self.start is not None and self.start < 0:
            raise UserError(f"--start {self.start:g} is before the video; it counts from its beginning")
        if self.end is not None and self.end <= (self.start or 0):
            raise UserError(f"--end {self.end:g} is not after --start {self.start or 0:g}")
        if self.is_part and self.static:
            raise UserError("--static shows one frame throughout and has no parts; leave out --start and --end")
        if abs(self.lip_delay or 0) > MAX_DELAY:
            raise UserError(f"--lip_delay takes milliseconds, {MAX_DELAY:.0f} at most, not {self.lip_delay:g}")
        if self.fps is not None and not MIN_FPS <= self.fps <= MAX_FPS:
            raise UserError(f"--fps {self.fps:g} is not between {MIN_FPS} and {MAX_FPS}")

    def _check_types(self) -> None:
        """Raise UserError for unknown words and for values of a wrong type or out of range."""
        for name, known in OPTION_CHOICES.items():
            if (value := getattr(self, name)) is not getattr(Options, name) and not _is_one_of(value, known):
                raise UserError(f"--{name} {value} is not known; give one of {', '.join(known)}")
        for name in NUMBER_OPTIONS:
            given = (value := getattr(self, name)) is not getattr(Options, name)
            if given and not _is_finite(value):
                raise UserError(f"--{name} {value} is not a number")
            if given:  # JSON and Fraction do not accept numpy's
                object.__setattr__(self, name, float(value))
        for name in BOOLEAN_OPTIONS:
            value = getattr(self, name)
            if not (np.ndim(value) == 0 and value in (True, False)):
                raise UserError(f"{name} must be True or False, not {value!r}")
        for name in (*FILE_OPTIONS, "identity"):
            value = getattr(self, name)
            if value is not getattr(Options, name) and not isinstance(value, (str, os.PathLike)):
                raise UserError(f"--{name} {value} is not a file name")
        for name in self.input_files:
            object.__setattr__(self, name, Path(getattr(self, name)))
        if self.face_index is not None:
            if not _is_whole(self.face_index):
                raise UserError(f"--face_index {self.face_index} is not a whole number")
            object.__setattr__(self, "face_index", int(self.face_index))
        if self.resize_factor < 1:
            raise UserError(f"--resize_factor {self.resize_factor:g} is not 1 or more; frames can only be shrunk")
        whole = int(self.resize_factor)  # 2 and 2.0 must be the same to the cache of boxes
        object.__setattr__(self, "resize_factor", whole if whole == self.resize_factor else float(self.resize_factor))
        if not (_is_whole(self.crf) and 0 <= self.crf < 52):
            raise UserError(f"--crf {self.crf} is not a whole number from 0 to 51")
        object.__setattr__(self, "crf", int(self.crf))

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Return the options with these values; raise UserError for unknown names and invalid values."""
        names = [field.name for field in fields(cls)]
        if unknown := sorted(given.keys() - names):
            hint = suggest(unknown[0], names, f"there are {', '.join(names)}")
            raise UserError(f"there is no option {unknown[0]}; {hint}")
        return cls(**given)

    def without_effect(self, blend: str) -> Iterator[str]:
        """Yield sentences about options that have no effect beside others, if mouths are blended in by ``blend``."""
        if self.box and self.pads is not None:
            yield "--box is used as it is, so --pads does nothing"
        if self.box and (not self.smooth or self.on_missing_face == "error"):
            flag = "--nosmooth" if not self.smooth else "--on_missing_face error"
            yield f"with --box no face is searched for, so {flag} does nothing"
        if self.occlusion == "keep" and blend != "feather":
            yield "--occlusion keep does nothing without --blend feather: the whole box is pasted"
        if self.identity != Options.identity and not self.face_like:
            yield "--identity is for --face_like, and does nothing without it"

    @property
    def input_files(self) -> dict[str, Path]:
        """The files that are read besides the face and the speech, by the option that names them."""
        return {name: Path(path) for name in FILE_OPTIONS if (path := getattr(self, name)) is not None}

    @property
    def is_part(self) -> bool:
        """Whether only a part of the video is made anew, and the rest stays around it."""
        return self.start is not None or self.end is not None


def _is_one_of(value: Any, words: Sequence[str]) -> bool:
    return isinstance(value, str) and value in words


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # a whole number with hundreds of digits
        return False


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) or _is_finite(value) and float(value).is_integer()


def _four_pixels(name: str, sides: Any) -> tuple[int, ...]:
    """Return the sides as four whole numbers; raise UserError if they are not that."""
    try:
        four = tuple(sides)
        whole = tuple(map(int, four))
        if whole != four:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"--{name} takes four whole numbers (top bottom left right), not {sides}") from None
    if len(whole) != 4:
        raise UserError(f"--{name} takes four numbers (top bottom left right), not {len(whole)}")
    if max(map(abs, whole)) > MAX_PIXELS:
        raise UserError(f"--{name} takes pixels, not {max(whole, key=abs)}; give smaller numbers")
    return whole


@dataclass(frozen=True)
class ResolvedOptions(Options):
    """Options without None: the network's own defaults are in its place."""

    pads: Sequence[int] = Wav2Lip.pads
    reference: str | int = Wav2Lip.reference
    blend: str = Wav2Lip.blend
    lip_delay: float = 0.0
    occlusion: str = "keep"

    @property
    def keeps_occlusions(self) -> bool:
        """Whether what is in front of the mouth stays there."""
        return self.occlusion == "keep" and self.blend == "feather"
