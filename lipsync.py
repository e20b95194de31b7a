"""Lip-sync: a face and a speech in, a video out.

    LipSync("wav2lip_gan").run("talk.mp4", "speech.wav", "out.mp4")

or frame by frame, as they are made:

    lips = LipSync()
    take = lips.prepare("talk.mp4", "speech.wav")
    for frame in lips.stream(take): ...  # (height, width, 3) uint8 BGR

The way through: sound -> mel windows; frames -> boxes; crops and mels -> generator -> mouths, pasted and encoded.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import numbers
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from datetime import date
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import audio
import boxes
import files
import identities
import parts
import pasting
import speakers
import video
from appearance import Appearance, Appearances, Shots
from boxes import Box, FacePath, Piece
from concurrency import prefetch
from credentials import Credentials
from devices import cpu_workers
from errors import UserError
from faces import FaceSearch
from hparams import hparams as hp
from models import Wav2Lip, weights
from models.weights import REFERENCES
from mouths import CPU_BATCH, LipGenerator, Manner, all_mouths, crop, redraw_mouths, shut_mouths
from occlusion import Bare
from references import References, postures_of
from reporting import SILENT, Reporter
from restoring import Restore, open_restorer
from runtimes import Runtime
from sync import Expert, Result, open_expert, score_boxes

LEAST_FPS, MOST_FPS = 1, 240  # of the result
MOST_PIXELS = 1 << 20  # that somebody may mean
MOST_DELAY = 10_000.0  # milliseconds, likewise
VALUES = {  # of options that take one of a few words
    "speaker": ("auto",),
    "on_missing_face": ("keep", "error"),
    "loop": ("loop", "pingpong"),
    "silence": ("free", "closed"),
    "blend": pasting.BLENDS,
    "occlusion": ("keep", "ignore"),
    "preset": video.PRESETS,
}
NUMBERS = ("fps", "lip_delay", "mouth_gain", "start", "end")
CHOICES = ("box", "face_index", "speaker", "face_like")  # ways to say which face; one at a time
LOOKED_AT, LOOK_EVERY = 6.0, 5  # seconds of a shot in which mouths to show are looked for, in every fifth frame
MOST_FACES = 64  # that are kept of them
AROUND = 0.5  # seconds that are looked at beyond a frame that is shown alone
AHEAD = 256  # frames by which the search for the face may be ahead of them
FIRST_BATCH = 4  # faces; nobody should wait for more of them to see the first
FLIGHT_BYTES = 128 << 20  # frames whose faces are being generated; as many wait on either side
OURS = (
    "network: the one that comes along, CC BY 4.0, yours to use for anything (learned from the GRID corpus of Cooke, "
    "Barker, Cunningham and Shao 2006, and public-domain portraits); the official one, for research and personal use: "
    "--checkpoint_path wav2lip_gan"
)


@dataclass(frozen=True)
class Options:
    """How to lip-sync. Raises UserError for what cannot be."""

    static: bool = False  # use only the first frame
    fps: float | None = None  # of the result; None: that of the video, 25 for photos
    pads: tuple[int, ...] | None = None  # pixels added to the box: top, bottom, left, right; None: the network's own
    resize_factor: int = 1  # by which frames are shrunk first
    crop: tuple[int, ...] = (0, -1, 0, -1)  # part of the frame to use: top, bottom, left, right; -1: all
    box: tuple[int, ...] | None = None  # the face's: top, bottom, left, right; None: it is looked for
    rotate: bool = False  # frames by 90 degrees clockwise, before they are cropped
    smooth: bool = True  # the boxes over time
    face_index: int | None = None  # from left to right at first sight, 0 first; None: the largest
    speaker: str | None = None  # "auto": in each shot the face whose lips move with the video's own sound
    face_like: Path | None = None  # a picture: in each shot the face that looks like the one in it
    identity: str | Path = "sface"  # the network that tells, a file or a name
    on_missing_face: str = "keep"  # such frames as they are, or "error"
    loop: str = "loop"  # a video shorter than the speech; or "pingpong"
    lip_delay: float = 0.0  # milliseconds that lips come later; 40 for networks trained as the reference is
    silence: str = "free"  # what lips do in pauses: "free", what the network likes, or "closed"
    # what the network sees of the face: "same", each frame itself; "still", one with a shut mouth; "matching", one with
    # a mouth as far open as the sound will open it; or a frame's number
    reference: str | int | None = None  # None: the network's own
    mouth_gain: float = 1.0  # of the network's movement: 0 keeps the mouth shut, 2 moves it twice as far
    start: float | None = None  # seconds of the video before the speech begins: only a part is made anew
    end: float | None = None  # seconds after which it ends at the latest; None: with the speech or the video
    mix: Path | None = None  # a file whose sound is heard in the result, instead of that which moves the lips
    mark: bool = True  # say in the file that its lips are synthetic
    blend: str | None = None  # how the mouth is put in, see ``pasting.paste``; None: the network's own
    occlusion: str = "keep"  # what is in front of the mouth stays there, with "feather"; "ignore": it is drawn over
    crf: int = 18  # of the encoder: 0 to 51, lower is better
    preset: str = "superfast"  # of the encoder

    def __post_init__(self) -> None:
        for name in ("pads", "crop", "box"):
            if (sides := getattr(self, name)) is not None and len(sides) != 4:
                raise UserError(f"--{name} takes four numbers (top bottom left right), not {len(sides)}")
            if sides is not None and max(map(abs, sides)) > MOST_PIXELS:
                raise UserError(f"--{name} takes pixels, not {max(sides, key=abs)}; give smaller numbers")
        if self.face_index is not None and self.face_index < 0:
            raise UserError(f"--face_index counts from 0 at the left, so it cannot be {self.face_index}")
        chosen = [name for name in CHOICES if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise UserError(f"--{chosen[0]} and --{chosen[1]} both say which face; give one of them")
        self._check_kinds()
        if self.speaker and self.static:
            raise UserError("--speaker auto watches lips move, and --static shows one frame; choose by --face_index")
        if not 0 <= self.mouth_gain <= weights.MOST_GAIN:
            raise UserError(f"--mouth_gain {self.mouth_gain:g} is not between 0 and {weights.MOST_GAIN:g}")
        if isinstance(self.reference, numbers.Integral):  # of numpy's too
            object.__setattr__(self, "reference", int(self.reference))
        if not (self.reference in (None, *REFERENCES) or isinstance(self.reference, int) and self.reference >= 0):
            raise UserError(f"--reference {self.reference} is none of {', '.join(REFERENCES)} and no frame's number")
        if self.start is not None and self.start < 0:
            raise UserError(f"--start {self.start:g} lies before the video; it counts from its beginning")
        if self.end is not None and self.end <= (self.start or 0):
            raise UserError(f"--end {self.end:g} does not lie after --start {self.start or 0:g}")
        if self.is_part and self.static:
            raise UserError("--static shows one frame throughout, and has no part to begin at; leave --start and --end")
        if abs(self.lip_delay) > MOST_DELAY:
            raise UserError(f"--lip_delay takes milliseconds, {MOST_DELAY:.0f} at most, not {self.lip_delay:g}")
        if self.fps and not LEAST_FPS <= self.fps <= MOST_FPS:
            raise UserError(f"--fps {self.fps:g} is not between {LEAST_FPS} and {MOST_FPS}")

    def _check_kinds(self) -> None:
        """Raise UserError for words that are not known, and for what is no number, or none that can be."""
        for name, known in VALUES.items():
            if (value := getattr(self, name)) != getattr(Options, name) and value not in known:
                raise UserError(f"--{name} {value} is not known; {', '.join(known)} can be given")
        for name in NUMBERS:
            given = (value := getattr(self, name)) is not getattr(Options, name)
            if given and not (isinstance(value, numbers.Real) and math.isfinite(value)):
                raise UserError(f"--{name} {value} is not a number")
        if not (isinstance(self.resize_factor, numbers.Integral) and self.resize_factor > 0):
            raise UserError(f"--resize_factor {self.resize_factor} is not a whole number above 0")
        if self.crf not in range(52):
            raise UserError(f"--crf {self.crf} is not a whole number from 0 to 51")

    @property
    def is_part(self) -> bool:
        """Whether only a part of the video is made anew, and the rest stays around it."""
        return self.start is not None or self.end is not None


@dataclass(frozen=True)
class Settled(Options):
    """Options that leave nothing to the network: where they did, they have its own habits."""

    pads: tuple[int, ...] = Wav2Lip.pads
    reference: str | int = Wav2Lip.reference
    blend: str = Wav2Lip.blend

    @property
    def keeps_occlusions(self) -> bool:
        """Whether what is in front of the mouth stays there."""
        return self.occlusion == "keep" and self.blend == "feather"


@dataclass(frozen=True)
class Take:
    """A face and a speech, looked for and listened to: all that is needed to make the frames.

    The face is known as far as it takes to begin. The search goes on when the frames are made. Of a part of a video, it
    is about that part alone.
    """

    source: video.VideoInfo  # starts where the part does
    speech: video.Sound
    heard: video.Sound  # in the result: the speech, or the mix that it is a part of
    windows: audio.MelWindows  # one for each frame of the result
    face: FacePath
    used: int | None  # so many frames of the video are used, if it has them; None: all of it, with one box
    options: Settled
    manner: Manner = Manner()
    goes_on: bool = False  # the video, after the part
    match: Result | None = None  # how well the speech matches the face as it was filmed
    until: int | None = None  # frame of the result from which on the face is left as it was filmed
    others: tuple[Take, ...] = ()  # more faces of the same frames, each with a speech of its own: see ``dialogue``

    def __repr__(self) -> str:
        return f"<Take of {self.source.path}: {len(self)} frames, {self.seconds:.2f} s>"

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def seconds(self) -> float:
        return float(len(self) / self.source.fps)

    @property
    def heard_in_all(self) -> tuple[video.Sound | video.Splice, int | None]:
        """The sound of the written video and the number of its frames; nobody has counted those around a part."""
        if not self.options.is_part:
            return self.heard, len(self)
        start, seconds = float(self.source.start / self.source.fps), self.seconds
        return video.Splice(self.source.path, self.heard, start, seconds, self.goes_on), None

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames as they were filmed, one for each of the result; read-only where they are shown again."""
        return video.repeat_frames(self.source, len(self), self.used, self._pingpong)

    def frame(self, index: int) -> np.ndarray:
        """Return one of them."""
        if self.used is None:  # how many there are is not known
            return next(itertools.islice(self.frames(), index, None))
        return next(video.read_frames(self.source, video.source_index(index, len(self.face.boxes), self._pingpong), 1))

    def filmed(self, index: int) -> int:
        """Return which frame of the video, whose faces were searched for, is shown in one of them."""
        return video.source_index(index, len(self.face.known(index + 1)), self._pingpong)

    def boxes(self) -> Iterator[Box | None]:
        """Yield the box of the face in each of them as soon as it is known, the last when the search is over.

        Once the search is stopped, there are no more.
        """
        until = len(self) if self.until is None else self.until
        for index in range(len(self)):
            known = self.face.known(index + 1 if index + 1 < len(self) else None)
            if self.face.stopped:
                return
            yield known[video.source_index(index, len(known), self._pingpong)] if index < until else None

    @property
    def _pingpong(self) -> bool:
        return self.options.loop == "pingpong"


class LipSync:
    """A generator, loaded once, that makes lips match speech.

    ``checkpoint`` is a file or a name (``wav2lip``, ``wav2lip_gan``; None: the network that comes along), ``expert``
    another that tells how well face and speech match before, ``restorer`` the file of one that sharpens mouths (see
    ``restoring``; not live), ``credentials`` the files of certificates and a key that sign what is written (see
    ``credentials``); devices, precisions and runtimes are those of the command line. What goes on is told to
    ``report``. Networks are loaded when they are needed first.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        search: FaceSearch = FaceSearch(),
        expert: str | Path | None = None,
        restorer: str | Path | None = None,
        credentials: tuple[str | Path, str | Path] | None = None,
        device: str = "auto",
        precision: str = "auto",
        runtime: str = "torch",
        batch_size: int = 128,
        report: Reporter = SILENT,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"a batch of {batch_size} faces is none; give batch_size a number above 0")
        self.runtime = Runtime(runtime, precision)
        self.device = self.runtime.pick_device(device)
        self.dtype = self.runtime.pick_precision(self.device)
        self.search, self.batch_size, self.report = search, batch_size, report
        self._checkpoint, self.expert_path = checkpoint, expert
        self.restorer = Path(restorer) if restorer else None
        self._credentials = credentials

    def load(self, searching: bool = True) -> None:
        """Load everything now, what finds faces if it is wanted, so that what is missing is missed before any work."""
        if searching:
            self.search.detector_weights(self.report)
        _ = self.model, self.expert, self.restore, self.credentials

    def serving(self, search: FaceSearch, report: Reporter, restored: bool = True) -> LipSync:
        """Return the same networks, the restorer only if it is wanted, for somebody else.

        They have another memory of faces and hear other reports.
        """
        other = copy.copy(self)
        other.search, other.report = search, report
        if not restored:
            other.restorer = other.restore = None
        return other

    def run(self, face: str | Path, audio: str | Path, outfile: str | Path, **options: Any) -> Take:
        """Write ``outfile``: the video or photo ``face`` speaks ``audio`` (any file with sound). ``options``: Options.

        Raises UserError, with a sentence for the user, for input that cannot be used; RuntimeError for what fails.
        """
        face, audio, outfile = Path(face), Path(audio), Path(outfile)
        chosen = Options(**options)
        self.check_writable(outfile)
        read = (face, audio, chosen.mix, chosen.face_like)
        files.check_not_read("--outfile", outfile, [Path(path) for path in read if path])
        take = self.prepare(face, audio, **options)
        self.write(take, outfile)
        return take

    def check_writable(self, outfile: Path) -> None:
        """Raise UserError if a result cannot be written there, or not signed as it is to be."""
        video.check_writable(outfile)
        if self.credentials:
            self.credentials.check(outfile)

    def prepare(self, face: str | Path, speech: str | Path, seconds: float | None = None, **options: Any) -> Take:
        """Find the face and listen to the speech; of the result only the first ``seconds``, if they are given."""
        _ = self.expert  # if it is not there, nobody should have to wait to hear of it
        take = self._look_and_listen(Path(face), Path(speech), seconds, Options(**options))
        match = self.match(take.source, take.face, Path(speech))
        return replace(take, manner=self.manner(take), match=match)

    def preview(self, face: str | Path, speech: str | Path, second: float, **options: Any) -> np.ndarray:
        """Return the frame (height, width, 3) uint8 BGR of the result at this moment, without making those before.

        Mouths to show the network are looked for up to that moment only, so the one that it lends may be another.
        """
        chosen = Options(**options)
        second = max(0.0, second - (chosen.start or 0))
        # a box depends on the frames around it
        return self.glimpse(self._look_and_listen(Path(face), Path(speech), second + AROUND, chosen), second)

    def glimpse(self, take: Take, second: float) -> np.ndarray:
        """Return the frame of the result at this moment of a take whose manner, and its others', is not settled yet."""
        index = min(int(second * take.source.fps + 1e-6), len(take) - 1)  # 0.6 less 0.4 is not quite 0.2
        frame = take.frame(index)
        for one in (take, *take.others):
            manner, box = self.manner(one, slice(index, index + 1)), next(itertools.islice(one.boxes(), index, None))
            frame = next(redraw_mouths([frame], [box], [one.windows[index]], self.model, 1, manner))
        return frame

    def _look_and_listen(self, face: Path, speech: Path, seconds: float | None, chosen: Options) -> Take:
        """Return a take whose manner is not settled yet."""
        _ = self.restore  # if it is missing, nobody should have to wait to hear of it
        source = open_face(face, chosen, self.report)
        sound, samples = open_sound(speech, self.report)
        limit = samples if seconds is None else min(samples, math.ceil(seconds * hp.sample_rate))
        wanted, goes_on = audio.frame_count(limit, float(source.fps)), False
        if chosen.is_part:
            source, wanted, goes_on = parts.cut_out(
                source, wanted, chosen.start or 0, chosen.end, self.report if seconds is None else SILENT
            )
        heard = open_sound(chosen.mix, self.report)[0] if chosen.mix else sound
        chosen = self.settle(chosen)
        path, used = self.find_face(source, wanted, chosen)
        _ = self.model  # built only when there is a face
        spectrogram = audio.Spectrogram(sound, samples)  # read as far as somebody wants windows of it
        windows = audio.MelWindows(spectrogram, float(source.fps), wanted, chosen.lip_delay / 1000)
        return Take(source, sound, heard, windows, path, used, chosen, goes_on=goes_on)

    def settle(self, options: Options) -> Settled:
        """Return the options with the network's own habits where they leave that to it."""
        if options.reference == "matching" and self.generator.opening is None:
            raise UserError("--reference matching: this network does not tell how far it opens mouths; say still")
        unsaid = [name for name in ("pads", "blend", "reference") if getattr(options, name) is None]
        return Settled(**vars(options) | {name: getattr(self.generator, name) for name in unsaid})

    def stream(self, take: Take) -> Generator[np.ndarray, None, None]:
        """Yield the finished frames (height, width, 3) uint8 BGR, some of them ahead."""
        takes = take, *take.others

        def stop() -> None:
            for one in takes:
                one.face.stop()

        with cpu_workers(self.device) as workers, contextlib.ExitStack() as opened:
            for one in takes:
                opened.enter_context(contextlib.closing(one.face))
            batch_size = pick_batch_size(self.batch_size, take.source, self.device, workers)
            first = min(FIRST_BATCH, batch_size)
            frames = opened.enter_context(contextlib.closing(prefetch(take.frames(), batch_size)))
            for one in takes:
                known = opened.enter_context(contextlib.closing(prefetch(one.boxes(), AHEAD)))
                rows = frames, known, one.windows
                frames = redraw_mouths(*rows, self.model, batch_size, one.manner, workers, in_place=True, first=first)
            yield from prefetch(frames, batch_size, stop)

    def write(self, take: Take, outfile: str | Path) -> None:
        """Write the video; it appears under its name only when it is complete, and signed if it is to be."""
        outfile, sign = Path(outfile), None
        self.check_writable(outfile)
        if self.credentials:
            made_by = f"Wav2Lip ({self.generator.path.name})"
            sign = partial(self.credentials.sign, source=take.source.path, title=outfile.name, made_by=made_by)
        writing = take.options.crf, take.options.preset, self.mark() if take.options.mark else ""
        heard, count = take.heard_in_all
        with (
            contextlib.closing(self.stream_all(take)) as frames,  # if writing fails, or somebody stops it, they end now
            video.VideoWriter(outfile, take.source, heard, count, *writing, sign) as writer,
        ):
            for frame in self.report.track(frames, "Lip-syncing", count):
                writer.write(frame)

    def stream_all(self, take: Take) -> Generator[np.ndarray, None, None]:
        """Yield what ``stream`` does, and if that is a part, the other frames of the video before and after it."""
        whole, start = replace(take.source, start=0), take.source.start
        yield from video.read_frames(whole, 0, start)
        yield from self.stream(take)
        if take.goes_on:
            yield from video.read_frames(whole, start + len(take))

    def mark(self) -> str:
        """Say what made the lips, and when."""
        return f"The lips in this video are synthetic: made by Wav2Lip ({self.generator.path.name}) on {date.today()}"

    def find_face(self, source: video.VideoInfo, wanted: int, options: Settled) -> tuple[FacePath, int | None]:
        """Return the face in each of the first ``wanted`` frames, and how many frames to use at most (None: all).

        Raises UserError if there is no face; the search goes only as far as that takes to know.
        """
        wanted = 1 if options.static else wanted
        if options.box:
            box = boxes.fixed_box(options.box, source)
            used = 1 if options.static else wanted if options.is_part else None
            shown: list[Box | None] = [box] * (wanted if options.is_part else 1)
            return FacePath.of(shown, np.tile(np.array(box, float), (wanted, 1))), used
        searched, frames, part = searched_for(source, wanted, options)
        wish = self.wish(searched, frames, options)  # what it lacks should be missed before the search
        path = FacePath(lambda: self._follow(searched, frames, part, options, wish))
        path.known(None) if options.on_missing_face == "error" else path.begin()
        return path, wanted

    def _follow(
        self, source: video.VideoInfo, wanted: int, part: slice, options: Settled, wish: speakers.Wish | None
    ) -> Generator[Piece, None, None]:
        """Search and follow at a time, for a ``part`` of the ``wanted`` frames; in the end say which have no face."""
        known: list[Box | None] = []
        with contextlib.closing(self.search.stream(source, wanted, self.device, self.dtype, self.report)) as seen:
            if wish:
                pieces = speakers.follow(seen, source, options.pads, options.smooth, wish)
            else:
                pieces = boxes.follow(seen, source, options.pads, options.face_index, options.smooth)
            for piece in boxes.only(pieces, part, source):
                known += piece[0]
                yield piece
        who, first = wish.WHO if wish else "", source.start + part.start
        if missing := boxes.describe_missing(known, float(source.fps), who, first):
            if options.on_missing_face == "error":
                raise UserError(f"{missing}; with --on_missing_face keep they are left as they are")
            self.report.note(f"{missing}; they are left as they are")

    def wish(self, source: video.VideoInfo, wanted: int, options: Options) -> speakers.Wish | None:
        """Return what chooses the face shot by shot, if something does."""
        if options.speaker:
            expert = self.expert or open_expert(weights.DEMO, self.device, self.dtype)
            return speakers.Speaker(source, wanted, expert)
        if options.face_like:
            picture = Path(options.face_like)
            video.probe(picture)  # what is wrong with it is said before anything is downloaded
            identity = identities.open_sface(options.identity, self.report)
            return speakers.Lookalike(source, picture, identity, self.search, self.report)
        return None

    def manner(self, take: Take, frames: slice = slice(None)) -> Manner:
        """Settle, for these frames of a take, how far the lips move and what the network sees of the face."""
        options = take.options
        closed = (take.windows.silence() if options.silence == "closed" else np.zeros(len(take)))[frames]
        gains = self.generator.gain * options.mouth_gain * (1 - closed)
        lending = options.reference != "same" or bool(closed.any())
        appearances = None
        if lending or options.keeps_occlusions:
            first = frames.start or 0
            face = take.source, take.face, take.used
            appearances = self.appearances(*face, options, lending, lambda index: take.filmed(first + index))
        stillness = closed if options.reference == "same" else np.ones(len(closed))
        gains, opening = None if (gains == 1).all() else gains, self.generator.opening
        return Manner(options.blend, gains, appearances, opening, stillness, self.restore)

    def appearances(
        self,
        source: video.VideoInfo,
        path: FacePath,
        used: int | None,
        options: Settled,
        lending: bool = True,
        filmed: Callable[[int], int] = int,
    ) -> Appearances:
        """Look at the first shot that shows the face; at others when it is their turn.

        Those have references that are ``lending`` their mouths. ``used`` is that of a ``Take``, ``filmed`` says which
        frame of the video is shown. Nobody knows the shots of a video that is not searched; and one without an index
        is not read again and again.
        """
        named = self._named_reference(source, path, used, options.reference)
        if named and not options.keeps_occlusions:
            return Appearances({0: Appearance(postures_of(named.faces), named)})

        def look(shot: int) -> Appearance | None:
            faces = faces_of(source, path, used, shot)
            if not len(faces):
                return None
            bare = Bare(faces) if options.keeps_occlusions else None
            choose = all_mouths if options.reference == "matching" else shut_mouths
            references = named or choose(self.model, bare.faces if bare else faces) if lending else None
            return Appearance(postures_of(faces), references, bare)

        first = path.shot(path.begin())
        if not (known := look(first)):
            raise UserError(f"the frames of {source.path} that show the face cannot be read; convert it")
        searched = used is not None and source.indexed and not source.is_image
        return Appearances({first: known}, Shots(lambda index: path.shot(filmed(index)), look) if searched else None)

    def _named_reference(
        self, source: video.VideoInfo, path: FacePath, used: int | None, number: str | int | None
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

    def match(self, source: video.VideoInfo, path: FacePath, speech: Path) -> Result | None:
        """Tell how well they match, if an expert was asked for; what it cannot say keeps nobody from lip-syncing."""
        if not self.expert:
            return None
        try:
            result = score_boxes(source, path.seen, speech, self.expert)
        except UserError as problem:
            self.report.note(f"similarity not measured: {problem}")
            return None
        self.report.note(str(result))
        return result

    @cached_property
    def generator(self) -> weights.Checkpoint:
        """The weights, and the pads and blend that go with them."""
        if self._checkpoint is None:
            self.report.note(OURS)
        return weights.read_checkpoint(self._checkpoint or weights.DEMO, Wav2Lip, self.report)

    @cached_property
    def model(self) -> LipGenerator:
        return self.runtime.open_generator(self.generator, self.device, self.dtype, self.report)

    @cached_property
    def expert(self) -> Expert | None:
        return open_expert(self.expert_path, self.device, self.dtype, self.report) if self.expert_path else None

    @cached_property
    def credentials(self) -> Credentials | None:
        return Credentials(*self._credentials) if self._credentials else None

    @cached_property
    def restore(self) -> Restore | None:
        return open_restorer(self.restorer, self.device) if self.restorer else None


def open_face(path: Path, options: Options, report: Reporter = SILENT) -> video.VideoInfo:
    """Probe the video or photo and say what is not taken as it is; the rate is that of the options, if there is one."""
    info = video.probe(path, video.Geometry(options.resize_factor, options.rotate, tuple(options.crop)))
    video.check_size(info)
    for note in info.notes:
        report.note(f"note: {note}")
    if options.fps:
        return replace(info, fps=Fraction(options.fps).limit_denominator(1001))
    if info.fps < video.MIN_FPS:
        report.note(f"note: {path} has {float(info.fps):.3g} frames a second, too few for lips to move: now {hp.fps:g}")
        return replace(info, fps=Fraction(hp.fps))
    return info


def searched_for(source: video.VideoInfo, wanted: int, options: Options) -> tuple[video.VideoInfo, int, slice]:
    """Return where the face in the first ``wanted`` frames is searched for, in how many, and which are the wanted ones.

    A box depends on the frames around it: of a part, some before and after are searched as well.
    """
    around = round(AROUND * source.fps) if options.is_part else 0
    before = min(around, source.start)
    part = slice(before, before + wanted)
    return replace(source, start=source.start - before), part.stop + around, part


def faces_of(source: video.VideoInfo, path: FacePath, used: int | None, shot: int) -> np.ndarray:
    """Return some faces (N, 96, 96, 3) of the first seconds of a shot that show one, as far as the search has come.

    ``used`` is that of a ``Take``.
    """
    shown = [np.empty((0, hp.img_size, hp.img_size, 3), np.uint8)]
    if (first := path.first_face(shot)) is None:
        return shown[0]
    wanted = math.ceil(LOOKED_AT * source.fps)
    if used is not None:
        wanted = min(wanted, used - first)
    every = max(LOOK_EVERY, math.ceil(wanted / MOST_FACES))

    def is_over(index: int) -> bool:
        end = path.shot_end(shot)
        return end is not None and index >= end

    frames = video.read_frames(source, first, math.ceil(wanted / every), every)
    for index, frame in zip(itertools.count(first, every), prefetch(frames, 4)):  # while the search goes on
        if is_over(index):  # before anybody waits for what comes next
            break
        known = path.known(index + 1)
        if used is not None and index >= len(known) or is_over(index):
            break
        if box := known[index % len(known)]:
            shown.append(crop(frame, box)[None])
    return np.concatenate(shown)


def open_sound(path: Path, report: Reporter = SILENT) -> tuple[video.Sound, int]:
    """Return the sound of a file and its number of samples; raises UserError if there is none, or it is cut short."""
    sound = video.Sound(path, hp.sample_rate)
    samples = sound.measure()
    next(iter(sound))  # whether it can be decoded, and is loud enough
    for note in sound.notes:
        report.note(f"note: {note}")
    return sound, samples


def read_speech(path: Path, fps: Fraction) -> audio.MelWindows:
    """Read any sound and return one mel window for every frame of the result."""
    mel, samples = audio.spectrogram_of(video.Sound(path, hp.sample_rate))
    return audio.MelWindows(mel, float(fps), audio.frame_count(samples, float(fps)))


def pick_batch_size(limit: int, picture: video.VideoInfo, device: torch.device, workers: int) -> int:
    """The largest useful batch of which ``workers`` and one more fit in ``FLIGHT_BYTES``."""
    fitting = max(1, FLIGHT_BYTES // (picture.width * picture.height * 3) // (workers + 1))
    return min(limit, fitting, CPU_BATCH if device.type == "cpu" else limit)
