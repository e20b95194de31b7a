"""Load the generator once, and lip-sync videos with it."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import numbers
import tempfile
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from datetime import date
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import audio
import boxes
import files
import identities
import speakers
import video
from concurrency import prefetch
from credentials import Credentials
from devices import calls_at_a_time, unused_gpu
from errors import UserError, prefix_errors
from face_path import Box, FacePath, Piece
from faces import FaceSearch
from hparams import hparams as hp
from lipsync.filmed import FADE, FilmedFace
from lipsync.looking import appearances_of, settings_for_mouths
from lipsync.mixing import Mix
from lipsync.options import FACE_SELECTORS, Options, ResolvedOptions
from lipsync.take import (
    SEARCH_MARGIN_SECONDS,
    Segment,
    SpeakingFace,
    Take,
    fading,
    open_face,
    open_mix,
    open_sound,
    search_range,
    segment_for,
)
from models import Wav2Lip, weights
from mouths import CPU_BATCH, LipGenerator, MouthSettings, Restore, SpeakingTrack, open_restorer, redraw_mouths
from reporting import SILENT, PrefixedReporter, Reporter
from runtimes import Runtime
from speakers import FaceCriterion
from sync import Expert, Result, open_expert, score_boxes

Speech = str | Path | Mapping[int, str | Path]  # a file, or one for each of several faces, by number from the left
Speeches = dict[int | None, Path]
AHEAD = 256  # frames by which the search for the face may be ahead of the generator
FIRST_BATCH = 4  # frames; few, so that the first frame comes soon
BATCH_BYTES = 64 << 20  # of the frames of a batch; each worker has one, and three more wait before and after them
INCLUDED_NETWORK_NOTE = (
    "network: the included one, free for any use (CC BY 4.0: credit the GRID corpus, by Cooke and others); "
    "the official one, for research: --checkpoint_path wav2lip_gan"
)


class LipSync:
    """A generator, loaded once, that makes lips match speech.

    ``checkpoint`` is a file or a name (``wav2lip``, ``wav2lip_gan``; None: the included network), ``expert`` that of
    an expert that measures how well face and speech match beforehand, ``restorer`` the file of a network that sharpens
    mouths (see ``restoring``; not live), ``credentials`` the files of certificates and a key that sign results (see
    ``credentials``). Devices, precisions and runtimes are those of the command line. Progress and notes go to
    ``report``. Networks are loaded on first use.
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
            raise UserError(f"batch_size must be 1 or more, not {batch_size}")
        self.runtime = Runtime(runtime, precision)
        self.device = self.runtime.pick_device(device)
        self.dtype = self.runtime.pick_precision(self.device)
        if runtime == "torch" and (missed := unused_gpu(device)):
            report.note(f"note: {missed}")
        self.search, self.batch_size, self.report = search.on(self.device, self.dtype), batch_size, report
        self._checkpoint, self.expert_path = checkpoint, expert
        self.restorer = Path(restorer) if restorer else None
        if credentials and (isinstance(credentials, (str, Path)) or len(credentials) != 2):
            raise UserError("credentials must be two files: the certificates and the key")
        self._credentials = credentials

    def load(self, searching: bool = True) -> None:
        """Load everything now (the face detector only if ``searching``), so that missing files show before any work."""
        if searching:
            self.search.open(self.report)
        _ = self.model, self.expert, self.restore, self.credentials

    def copy_with(self, search: FaceSearch, report: Reporter, restored: bool = True) -> LipSync:
        """Return a copy that shares the loaded networks, but has its own face search (with its cache) and reporter.

        It has the restorer only if ``restored``.
        """
        other = copy.copy(self)
        other.search, other.report = search.on(self.device, self.dtype), report
        if not restored:
            other.restorer = other.restore = None
        return other

    def run(self, face: str | Path, audio: Speech, outfile: str | Path, **options: Any) -> Take:
        """Write ``outfile``: the video or photo ``face`` speaks ``audio`` (any file with sound). ``options``: Options.

        With ``{0: "anna.wav", 1: "ben.wav"}`` several faces speak, each by its number from the left. The result's sound
        is their sum, as long as the longest. A face whose speech is over is left as it was filmed, or with
        ``silence="closed"`` has its mouth shut.

        Raises UserError, with a sentence for the user, for unusable input; OSError if the disk is full or read-only;
        RuntimeError for other failures.
        """
        outfile, inputs = files.as_path(outfile), input_files(face, audio, **options)
        self.check_writable(outfile)
        files.check_not_input("--outfile", outfile, inputs)  # before the work
        take = self.prepare(face, audio, **options)
        self.write(take, outfile)
        return take

    def check_writable(self, outfile: Path) -> None:
        """Raise UserError if a result cannot be written there, or not signed as requested."""
        video.check_writable(outfile)
        if self.credentials:
            self.credentials.check(outfile)

    def prepare(self, face: str | Path, speech: Speech, **options: Any) -> Take:
        """Find the face and read the speech."""
        _ = self.expert  # loaded now, so that a missing file shows before the work
        face, chosen, speeches = files.as_path(face), Options.of(options), _speeches(speech)
        if chosen.is_part:
            for path in (face, *speeches.values()):
                video.existing_file(path)  # cheap checks first
            with self.report.stage("Checking the film's sound"):
                notes = video.check_joinable(face)
            for note in notes:
                self.report.note(f"note: {note}")
        take = self._open_take(face, speeches, chosen)
        heard, several = take.sound, len(take.faces) > 1
        if several and not take.options.mix:
            heard = Mix([one.speech for one in take.faces], take.seconds)
        elif video.changes_format(heard.path, files.stamp(heard.path)):  # ffmpeg would write gaps, or hang in a part
            heard = Mix([heard], take.seconds)
        own = [self._for_face(one.options.face_index) if several else self for one in take.faces]
        resolved = tuple(
            replace(one, mouth_settings=self.mouth_settings(one), match=its.match(one))
            for one, its in zip(take.faces, own)
        )
        return replace(take, faces=resolved, sound=heard)

    def _for_face(self, index: int | None) -> LipSync:
        """Return a copy whose notes are prefixed with the face's number."""
        return self.copy_with(self.search, PrefixedReporter(self.report, f"face {index}"))

    def preview(self, face: str | Path, speech: Speech, second: float, **options: Any) -> np.ndarray:
        """Return the frame (height, width, 3) uint8 BGR of the result at this time, without making those before.

        Before and after a part (``start``, ``end``) this is the frame as it was filmed. The network may be shown
        another reference mouth than in a full run.
        """
        chosen = Options.of(options)
        if not (isinstance(second, numbers.Real) and 0 <= second < math.inf):
            raise UserError(f"second {second!r} is not a time in the video; give seconds from its beginning")
        speeches, into = _speeches(speech), second - (chosen.start or 0)
        seconds = max(0.0, into) + SEARCH_MARGIN_SECONDS  # a box depends on the frames around it
        with self._open_take(files.as_path(face), speeches, chosen, seconds) as take:
            into = second - float(take.source.start / take.source.fps)  # a part starts at a frame
            if chosen.is_part and not -1e-6 <= into < take.seconds - 1e-6:
                return take.filmed_at(second)
            return self.frame_at(take, max(0.0, into))

    def frame_at(self, take: Take, second: float) -> np.ndarray:
        """Return the frame of the result at this time of a take that has no mouth settings yet."""
        index = min(int(second * take.source.fps + 1e-6), len(take) - 1)  # 0.6 - 0.4 is not quite 0.2
        faces = []
        for one in take.faces:
            box = next(itertools.islice(one.boxes(), index, None))
            settings = self.mouth_settings(one, slice(index, index + 1))
            faces.append(SpeakingTrack([box], [one.windows[index]], settings))
        return next(redraw_mouths([take.faces[0].filmed.frame(index)], faces, self.model, 1))

    def _open_take(self, face: Path, speeches: Speeches, chosen: Options, seconds: float | None = None) -> Take:
        """Return a take, or only its first ``seconds``, without mouth settings yet and without the sum of speeches."""
        _check_choice(speeches, chosen)
        _ = self.restore  # loaded now, so that a missing file shows before the work
        opened = open_face(face, chosen, self.report)
        sounds = {index: open_sound(path, self.report) for index, path in speeches.items()}
        sound, longest = max(sounds.values(), key=lambda one: one[1])
        heard = open_mix(Path(chosen.mix), longest, self.report) if chosen.mix else sound
        segment = segment_for(opened, longest, chosen, self.report, seconds)
        resolved = self.resolve(chosen)  # which reads the network: after what is quick to check
        for note in chosen.without_effect(resolved.blend):
            self.report.note(f"note: {note}")
        with self._searching_once(len(speeches)) as searcher:
            faces = tuple(
                searcher._speaking_face(segment, resolved, index, *own, longest) for index, own in sounds.items()
            )
        _ = self.model  # built only when there is a face
        return Take(segment.source, faces, heard, resolved, segment.goes_on)

    @contextlib.contextmanager
    def _searching_once(self, faces: int) -> Iterator[LipSync]:
        """Yield a LipSync that searches frames only once for several faces, with a temporary cache if it has none."""
        if faces == 1 or self.search.cache:
            yield self
            return
        with tempfile.TemporaryDirectory() as folder:
            yield self.copy_with(replace(self.search, cache=True, folder=Path(folder)), self.report)

    def _speaking_face(
        self,
        segment: Segment,
        options: ResolvedOptions,
        index: int | None,
        sound: video.Sound,
        samples: int,
        longest: int,
    ) -> SpeakingFace:
        """Return the face that speaks ``sound``: the one at ``index``, or if None, that of the options.

        The sound has ``samples`` samples and is padded with silence to the ``longest`` of all sounds.
        """
        fps, until = float(segment.source.fps), segment.frames if segment.goes_on else None
        if index is None:
            filmed = self.find_face(segment.source, segment.searched, options)
        else:
            options = replace(options, face_index=index)
            with prefix_errors(f"--pair {index}={sound.path}"):
                filmed = self._for_face(index).find_face(segment.source, segment.searched, options)
                filmed.path.known(None)  # to its end, so that it is cached for the next face
            delayed = samples + round(options.lip_delay / 1000 * hp.sample_rate)
            spoken = audio.frame_count(delayed, fps) + FADE  # the mouth fades once all is said
            if options.silence != "closed" and samples < longest and spoken < segment.frames:
                until = spoken
        spectrogram = audio.Spectrogram(sound, longest)  # read as far as windows of it are requested
        usual = self.generator.loudness
        lift = 0.0 if usual is None else audio.lift_for(spectrogram, usual)
        windows = audio.MelWindows(spectrogram, fps, segment.frames, options.lip_delay / 1000, lift)
        fade = fading(segment.frames, options.is_part and segment.source.start > 0, until)
        return SpeakingFace(filmed, sound, windows, options, fade)

    def resolve(self, options: Options) -> ResolvedOptions:
        """Return the options, with the network's own defaults in the place of None."""
        if options.reference == "matching" and self.generator.opening is None:
            raise UserError("--reference matching: this network cannot tell how far mouths open; use --reference still")
        defaults = {name: getattr(self.generator, name) for name in ("pads", "blend", "reference")}
        defaults["lip_delay"] = 1000 / hp.fps * (self.generator.mel_lead or 0)  # unknown for official ones: none
        defaults["occlusion"] = ResolvedOptions.occlusion
        unsaid = {name: value for name, value in defaults.items() if getattr(options, name) is None}
        return ResolvedOptions(**vars(options) | unsaid)

    def stream(self, take: Take) -> Generator[np.ndarray, None, None]:
        """Yield the finished frames (height, width, 3) uint8 BGR, made somewhat ahead; the caller may modify them."""
        workers, made = calls_at_a_time(self.device), 0
        with contextlib.ExitStack() as opened:
            readers = [opened.enter_context(one.filmed.path.reader()) for one in take.faces]
            for one in take.faces:
                opened.enter_context(contextlib.closing(one.windows.spectrogram))

            def stop() -> None:
                for reader in readers:
                    reader.set()

            batch_size = pick_batch_size(self.batch_size, take.source, self.device, len(take.faces))
            frames = opened.enter_context(contextlib.closing(prefetch(take.frames(), batch_size)))
            faces = []
            for one, reader in zip(take.faces, readers):
                known = opened.enter_context(contextlib.closing(prefetch(one.boxes(reader), AHEAD)))
                faces.append(SpeakingTrack(known, one.windows, one.mouth_settings))
            first = min(FIRST_BATCH, batch_size)
            drawn = redraw_mouths(frames, faces, self.model, batch_size, workers, in_place=True, first=first)
            for frame in prefetch(drawn, batch_size, stop):
                made += 1
                yield frame if frame.flags.writeable else frame.copy()  # frames without a face in a repeated video
        if made < len(take):
            raise RuntimeError(f"only {made} of {len(take)} frames of {take.source.path} could be made")

    def write(self, take: Take, outfile: str | Path) -> None:
        """Write the video; it appears under its name only when it is complete, and signed if requested."""
        outfile, sign = files.as_path(outfile), None
        self.check_writable(outfile)
        files.check_not_input("--outfile", outfile, take.input_files)
        if self.credentials:
            software = f"Wav2Lip ({self.generator.path.name})"
            sign = partial(self.credentials.sign, source=take.source.path, title=outfile.name, software=software)
        comment = self.mark() if take.options.mark else ""
        encoding = video.Encoding(take.options.crf, take.options.preset, comment, sign)
        copied = take.copied()
        if copied:
            self.report.note(f"note: {copied}")
        count = len(take)
        if take.options.is_part:  # the number of frames around it is known only if they are copied
            count = len(copied.replaced) if copied else None
        if take.goes_on and not copied:  # otherwise a missing end would show only when most of it is made
            video.check_ahead(take.source)
        with (  # if writing fails or is interrupted, the frames end now
            contextlib.closing(self.stream_all(take, copied)) as frames,
            video.open_writer(outfile, take.source, take.output_sound, count, copied, encoding, self.report) as writer,
        ):
            for frame in self.report.track(frames, "Lip-syncing", count):
                writer.write(frame)

    def stream_all(self, take: Take, copied: video.Copied | None = None) -> Generator[np.ndarray, None, None]:
        """Yield the frames of ``stream`` and, if that is a part, the other frames of the video before and after it.

        Those that are ``copied`` are left out.
        """
        whole, start, stop = replace(take.source, start=0), take.source.start, take.source.start + len(take)
        first, rest = (copied.replaced.start, copied.replaced.stop - stop) if copied else (0, None)
        yield from video.read_frames(whole, first, start - first)
        yield from self.stream(take)
        if take.goes_on:
            yield from video.read_frames(whole, stop, rest)

    def mark(self) -> str:
        """Return a sentence that says what made the lips, and when."""
        return f"The lips in this video are synthetic: made by Wav2Lip ({self.generator.path.name}) on {date.today()}"

    def find_face(self, source: video.VideoInfo, wanted: int, options: ResolvedOptions) -> FilmedFace:
        """Return the face in the first ``wanted`` frames; with a box, in all of the video.

        Raises UserError if there is no face; the search goes only far enough to know that.
        """
        wanted = 1 if options.static else wanted
        filmed = partial(FilmedFace, source, pingpong=options.loop == "pingpong")
        if options.box:
            box = boxes.fixed_box(options.box, source)
            everywhere = np.tile(np.array(box, float), (wanted, 1))
            if options.is_part:
                return filmed(FacePath.of([box] * wanted, everywhere), wanted)
            return filmed(FacePath.of([box], everywhere), 1 if options.static else None)
        searched, frames, part = search_range(source, wanted, options)
        criterion = self.criterion(searched, frames, options)  # before the search: its files may be missing
        path = FacePath(lambda: self._follow(searched, frames, part, options, criterion))
        if options.on_missing_face == "error":
            path.known(None)
        else:
            path.begin()
        return filmed(path, wanted)

    def _follow(
        self,
        source: video.VideoInfo,
        wanted: int,
        part: slice,
        options: ResolvedOptions,
        criterion: FaceCriterion | None,
    ) -> Generator[Piece, None, None]:
        """Search and follow at once, for a ``part`` of the ``wanted`` frames; finally report those without a face."""
        known: list[Box | None] = []
        cuts, ended = 0, False
        with contextlib.closing(self.search.stream(source, wanted, self.report)) as seen:
            if criterion:
                pieces = speakers.follow(seen, source, options.pads, options.smooth, criterion)
            else:
                pieces = boxes.follow(seen, source, options.pads, options.face_index, options.smooth)
            for piece in boxes.restrict(pieces, part, source):
                cuts += ended and bool(piece.boxes)
                known += piece.boxes
                ended = bool(known) and (piece.shot_ends or ended and not piece.boxes)
                yield piece
        if options.face_index is not None and cuts:
            self.report.note(
                f"note: {cuts} {'cut' if cuts == 1 else 'cuts'}: faces are counted again from the left in each shot; "
                "use --start and --end for a single shot, or --face_like to follow a person"
            )
        who, first = criterion.DESCRIPTION if criterion else "", source.start + part.start
        if missing := boxes.describe_missing(known, float(source.fps), who, first):
            if options.on_missing_face == "error":
                raise UserError(f"{missing}; --on_missing_face keep leaves them as they are")
            self.report.note(f"{missing}; they are left as they are")

    def criterion(self, source: video.VideoInfo, wanted: int, options: Options) -> FaceCriterion | None:
        """Return the criterion that chooses the face shot by shot, if there is one."""
        if options.speaker:
            expert = self.expert or bundled_expert(self.device, self.dtype)
            return speakers.Speaker(source, wanted, expert, self.report)
        if options.face_like:
            picture = Path(options.face_like)
            video.probe(picture)  # errors in it are reported before anything is downloaded
            identity = identities.open_sface(options.identity, self.report)
            return speakers.Lookalike(source, picture, identity, self.search, self.report)
        return None

    def mouth_settings(self, one: SpeakingFace, frames: slice = slice(None)) -> MouthSettings:
        """Return, for these frames of a take, how far the lips move and what the network is shown of the face."""
        options, first = one.options, frames.start or 0
        lead = self.generator.lead / hp.fps
        closed = (one.windows.silence(lead) if options.silence == "closed" else np.zeros(len(one.windows)))[frames]
        with_references = options.reference != "same" or bool(closed.any())
        appearances = None
        if with_references or options.keeps_occlusions:
            appearances = appearances_of(self.model, one.filmed, options, with_references, first)
        settings = settings_for_mouths(self.generator, options, 1 - closed, closed, appearances, self.restore)
        aspect = one.filmed.source.pixel_aspect
        return replace(settings, strength=lambda index: one.strength(first + index), pixel_aspect=aspect)

    def match(self, one: SpeakingFace) -> Result | None:
        """Return how well face and speech match, if there is an expert; a failed measurement is only reported."""
        if not self.expert:
            return None
        try:
            result = score_boxes(one.filmed.source, one.filmed.path.seen, one.speech.path, self.expert, self.report)
        except UserError as problem:
            self.report.note(f"similarity not measured: {problem}")
            return None
        for line in str(result).splitlines():
            self.report.note(line)
        return result

    @cached_property
    def generator(self) -> weights.Checkpoint:
        """The checkpoint of the generator: its weights and its recommended settings."""
        if self._checkpoint is None:
            self.report.note(INCLUDED_NETWORK_NOTE)
        return weights.read_checkpoint(self._checkpoint or weights.DEMO, Wav2Lip, self.report)

    @cached_property
    def loaded_digests(self) -> dict[str, str | None]:
        """The digests of the files of the generator and the restorer, as they were when first asked for."""
        restorer = files.cached_digest(self.restorer) if self.restorer else None
        return {"checkpoint": files.cached_digest(self.generator.path), "restorer": restorer}

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


def input_files(face: str | Path, audio: Speech, **options: Any) -> list[Path]:
    """Return the files that a result is made of; raise UserError for invalid options."""
    return [files.as_path(face), *_speeches(audio).values(), *Options.of(options).input_files.values()]


def _speeches(given: Speech) -> Speeches:
    """Return the file of each speech by the number of its face, None if the options choose the face."""
    if not isinstance(given, Mapping):
        return {None: files.as_path(given)}
    if not given or None in given:
        raise UserError("no face is given a speech; give each one, such as {0: 'anna.wav', 1: 'ben.wav'}")
    for index in given:
        if not isinstance(index, numbers.Integral) or isinstance(index, bool) or index < 0:
            raise UserError(f"face numbers are whole numbers from 0 at the left, not {index!r}")
    return {int(index): files.as_path(path) for index, path in given.items()}


def _check_choice(speeches: Speeches, options: Options) -> None:
    """Raise UserError if both speeches and options say which face speaks."""
    for name in FACE_SELECTORS if None not in speeches else ():
        if getattr(options, name) is not None:
            raise UserError(f"--pair says which face speaks what, and so does --{name}; give one of them")


@lru_cache(maxsize=1)
def bundled_expert(device: torch.device, dtype: torch.dtype) -> Expert:
    """Return the included expert, read once for all videos in which it has to choose a face."""
    return open_expert(weights.DEMO, device, dtype)


def pick_batch_size(limit: int, picture: video.VideoInfo, device: torch.device, faces: int = 1) -> int:
    """Return how many frames are a batch: of at most ``BATCH_BYTES``, and with at most ``limit`` faces in all."""
    fitting = BATCH_BYTES // (picture.width * picture.height * 3)
    useful = min(limit, CPU_BATCH if device.type == "cpu" else limit) // faces
    return max(1, min(fitting, useful))
