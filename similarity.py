"""How well do face and voice belong together? The expert's cosine similarity, window by window.

    python similarity.py --checkpoint_path EXPERT --face VIDEO [--audio SPEECH …]

The way through: frames -> faces -> windows of five mouths; sound -> mel windows; both -> expert -> cosines.
As a library:

    expert = similarity.open_expert("expert.pth")
    result = similarity.score(Path("talk.mp4"), None, expert)
    result.mean, result.offset_frames, result.confidence, result.verdict
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import io
import itertools
import json
import math
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import audio
import cli
import faces
import files
import video
from errors import UserError
from face_detection.detections import cut_out
from face_detection.tracking import GAP_SECONDS, follow_faces
from hparams import hparams as hp
from models import SyncNet_color, optimize_for_inference, weights

REACH = 15  # frames searched each way for the offset (Chung and Zisserman, 2016)
LEAST_SHARE = 0.5  # of the windows: an offset at which fewer are both seen and heard is not considered
PEAK = 3  # frames: offsets nearer to the best one are no rivals, they are part of its peak
RELATED = 0.2  # confidence above which face and voice belong together: see benchmarks/sync.py
IN_SYNC = 1  # frames off that nobody notices
RELATED_IN_PLACE = 0.1  # the same where there is no offset: of 31, chance hits those by 3, and less proof is enough
BATCH = {"cpu": 32, "cuda": 256}  # windows per network call
BLOCK = 4096  # windows compared at a time
TRIM_BATCHES = 32  # between two times that free memory is given back


def get_parser() -> cli.Parser:
    parser = cli.Parser("Measure how well the faces in a video and voices belong together.")
    add = parser.add_argument
    add("--checkpoint_path", "--syncnet_checkpoint_path", required=True, help="expert: a file, or lipsync_expert")
    add("--face", required=True, type=Path, help="video with one face or several")
    add("--audio", nargs="*", type=Path, default=[], help="files with a voice; default: the sound of the video")
    add("--json", type=Path, help="write all figures here")
    add("--csv", type=Path, help="write time, similarity and box of every window here")
    add("--plot", type=Path, help="draw similarity over time and over offsets here (png, pdf, svg)")
    add("--overlay", type=Path, help="write the video here with boxes coloured by similarity")
    faces.add_search_arguments(parser)
    cli.add_compute_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    check_arguments(args)
    device = cli.pick_device(args.device)
    source = open_video(args.face)
    expert = open_expert(args.checkpoint_path, device, cli.pick_precision(args.precision, device))

    voices = [listen_to(path, expert) for path in args.audio or [args.face]]
    tracks = find_tracks(args, source, max(voice.frames for voice in voices), expert)
    seen = watch(source, tracks, expert)
    table = Table([str(path) for path in args.audio or [args.face]], seen, voices)
    print(table)
    if args.json:
        files.save(args.json, json.dumps(table.to_json(), indent=1))
    if args.csv:
        files.save(args.csv, table.to_csv())
    if args.plot:
        draw(args.plot, table, args.audio or [args.face])
    if args.overlay:
        write_overlay(args.overlay, source, tracks, table, (args.audio or [args.face])[0])


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for what argparse cannot see, before anything is read."""
    inputs = (args.face, *args.audio, Path(args.checkpoint_path))
    for name in ("json", "csv", "plot", "overlay"):
        if not (path := getattr(args, name)):
            continue
        if path.is_dir():
            raise UserError(f"--{name} {path} is a folder; give the name of the file to write")
        files.check_not_read(f"--{name}", path, inputs)
        files.check_folder(path.parent)  # what cannot be written should fail now, not after the work
    files.check_different({f"--{name}": getattr(args, name) for name in ("json", "csv", "plot", "overlay")})
    if args.overlay:
        video.check_writable(args.overlay)
    if args.plot and args.plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"--plot {args.plot} must end in .png, .pdf or .svg")


# --------------------------------------------------------------------------------------------------------------------
# Files -> what can be compared


@dataclass(frozen=True)
class Face:
    """One face of a video, at ``hparams.fps``."""

    boxes: np.ndarray  # (frames, 4) x1, y1, x2, y2 in the picture, NaN where it is not seen
    starts: np.ndarray  # (k,) first frame of every window of 5 frames that all show the face
    vectors: np.ndarray  # (k, D) float16, the embedding of each, of unit length
    thumbnail: np.ndarray | None  # (96, 96, 3) uint8 BGR, at first sight


@dataclass(frozen=True)
class Voice:
    """One voice: ``vectors`` (n, D) float16, the embedding of the window that starts with each video frame."""

    vectors: np.ndarray

    @property
    def frames(self) -> int:
        """How many video frames the sound covers."""
        return len(self.vectors) + hp.syncnet_T - 1


def open_expert(
    path_or_name: str | Path, device: torch.device = torch.device("cpu"), dtype: torch.dtype = torch.float32
) -> torch.nn.Module:
    """Return the expert of a checkpoint (a file or known name, official or ours, any width), made fast.

    Raises FileNotFoundError, ValueError (not an expert) or RuntimeError (download).
    """
    return optimize_for_inference(weights.load_model(path_or_name, SyncNet_color), device, dtype)


def open_video(path: Path) -> video.VideoInfo:
    return check_moving(video.probe(path))


def check_moving(source: video.VideoInfo) -> video.VideoInfo:
    if source.is_image:
        raise UserError(f"{source.path} is a picture; a match can only be measured in a video, {window_length()}")
    return source


def window_length() -> str:
    return f"at least {hp.syncnet_T} frames in a row, {hp.syncnet_T / hp.fps:g} s"


def find_tracks(
    search: argparse.Namespace, source: video.VideoInfo, frames: int, expert: torch.nn.Module
) -> list[np.ndarray]:
    """Return the boxes of every face as far as ``frames`` of sound can be about them; see ``follow_faces``.

    ``search`` are the arguments of ``faces.find_faces``. Raises ValueError if there is no face.
    """
    wanted = math.ceil((frames + REACH) * source.fps / Fraction(hp.fps)) + 1
    parameter = next(expert.parameters())
    found = faces.find_faces(search, source, wanted, parameter.device, parameter.dtype)
    tracks = follow_faces(found, round(GAP_SECONDS * source.fps))
    if not tracks:
        raise UserError(f"no face was found in any of the {len(found)} frames of {source.path}; try another detector")
    return tracks


def watch(source: video.VideoInfo, tracks: Sequence[np.ndarray], expert: torch.nn.Module) -> list[Face]:
    """Embed every window of the faces whose boxes in each frame of ``source`` are ``tracks``, (frames, 4) each.

    Tracks may go on after the last frame of ``source``.
    """
    rows = zip(video.read_frames(source, 0, len(tracks[0])), zip(*tracks))
    thumbnails: list[np.ndarray | None] = [None] * len(tracks)

    count = 0

    def pictures() -> Iterator[list[np.ndarray | None]]:
        nonlocal count
        for frame, boxes in video.resample(rows, source.fps, Fraction(hp.fps)):
            count += 1
            crops = [face_of(frame, box) for box in boxes]
            thumbnails[:] = [old if old is not None else new for old, new in zip(thumbnails, crops)]
            yield [None if crop is None else crop[hp.img_size // 2 :] for crop in crops]

    frames = video.prefetch(pictures(), 16)
    embedded = embed_windows(frames, len(tracks), lambda x: embed_mouths(expert, x), expert)
    shown = (resample_boxes(track, source.fps, Fraction(hp.fps))[:count] for track in tracks)
    return [Face(boxes, *pair, face) for boxes, pair, face in zip(shown, embedded, thumbnails)]


def resample_boxes(boxes: np.ndarray, source: Fraction, target: Fraction) -> np.ndarray:
    """Give the boxes (frames, 4) of a video the rate that ``video.resample`` gives its frames."""
    kept = list(video.resample(boxes, source, target))  # none, of one frame at 60
    return np.array(kept).reshape(-1, 4)


def face_of(frame: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """Cut a face out as for training and resize it to (96, 96, 3); None if there is none."""
    if np.isnan(box[0]) or not (crop := cut_out(frame, box)).size:
        return None
    return cv2.resize(crop, (hp.img_size, hp.img_size))


def windows_of(pictures: Iterable[Sequence[np.ndarray | None]]) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (row, first frame, window) for every 5 frames in a row whose pictures of a row are all there.

    ``pictures`` has for each frame one picture (height, width, 3) or None per row; a window is (5, height, width, 3).
    """
    recent: dict[int, deque] = {}
    for frame, row_pictures in enumerate(pictures):
        for row, picture in enumerate(row_pictures):
            last = recent.setdefault(row, deque(maxlen=hp.syncnet_T))
            if picture is None:
                last.clear()
                continue
            last.append(picture)
            if len(last) == hp.syncnet_T:
                yield row, frame - hp.syncnet_T + 1, np.stack(last)


def embed_windows(
    pictures: Iterable[Sequence[np.ndarray | None]],
    rows: int,
    embed: Callable[[np.ndarray], np.ndarray],
    network: torch.nn.Module,
    batch_size: int | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each row the first frames (k,) and the embeddings (k, D) of its windows; see ``windows_of``.

    ``embed`` turns a batch of windows (N, 5, height, width, 3) uint8 into (N, D).
    """
    size = batch_size or BATCH.get(next(network.parameters()).device.type, BATCH["cpu"])
    places, vectors = [np.empty((0, 2), np.int64)], []
    windows = windows_of(pictures)
    while batch := list(itertools.islice(windows, size)):
        if len(vectors) % TRIM_BATCHES == 0:
            trim_memory()
        places.append(np.array([(row, start) for row, start, _ in batch]))
        vectors.append(embed(np.stack([window for *_, window in batch])))
    row_of, starts = np.concatenate(places).T
    together = np.concatenate(vectors) if vectors else np.empty((0, 1), np.float32)
    return [(starts[row_of == row], together[row_of == row]) for row in range(rows)]


def trim_memory() -> None:
    """Give free memory back to the system.

    glibc before 2.38 hardly reuses the aligned blocks that torch frees (its bug 14581): after 20 minutes of video they
    were 1.5 GB. Other systems have no malloc_trim and do not need it.
    """
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@torch.inference_mode()
def embed_mouths(expert: torch.nn.Module, windows: np.ndarray) -> np.ndarray:
    """Windows of mouths (N, 5, 48, 96, 3) uint8 BGR -> (N, D) float16: an hour takes 90 MB, and cosines err by 1e-4."""
    parameter = next(expert.parameters())
    x = torch.from_numpy(windows).to(parameter.device).permute(0, 1, 4, 2, 3).flatten(1, 2)  # (N, 15, 48, 96)
    x = (x.float() / 255).to(parameter.dtype, memory_format=torch.channels_last)
    return expert.embed_video(x).half().cpu().numpy()


def listen_to(path: Path, expert: torch.nn.Module) -> Voice:
    """Embed the voice in any file; raise ValueError if it does not fill one window."""
    return listen(video.stream_audio(path, hp.sample_rate), expert, str(path))


@torch.inference_mode()
def listen(sound: Iterable[np.ndarray], expert: torch.nn.Module, name: str = "the sound") -> Voice:
    """Embed the window of sound that starts with each video frame; ``sound`` comes in blocks (samples,).

    Raises ValueError, which calls it ``name``, if it does not fill one window.
    """
    parameter = next(expert.parameters())
    mel, samples = audio.spectrogram_of(sound)
    if samples < hp.mel_step_size * hp.hop_size:
        raise UserError(f"{name} has {samples / hp.sample_rate:.2f} s of sound; it takes {window_length()}")
    count = audio.frame_count(samples, hp.fps) - hp.syncnet_T + 1
    windows = iter(audio.MelWindows(mel, hp.fps, count))
    vectors = []
    while batch := list(itertools.islice(windows, 4 * BATCH.get(parameter.device.type, BATCH["cpu"]))):
        mels = torch.from_numpy(np.stack(batch))[:, None].to(parameter.device, parameter.dtype)  # (N, 1, 80, 16)
        vectors.append(expert.embed_audio(mels).half().cpu().numpy())
    return Voice(np.concatenate(vectors))


# --------------------------------------------------------------------------------------------------------------------
# Comparing


@dataclass(frozen=True)
class Result:
    """How well one face and one voice match."""

    fps: float  # that frames are counted in
    frames: int  # as long as there are both picture and sound
    windows: np.ndarray  # (nobs,) first frame of every window that is both seen and heard
    similarity: np.ndarray  # (nobs,) cosine of each, without any offset
    curve: np.ndarray  # (2·REACH + 1,) mean cosine when the sound is taken -REACH … REACH frames later; NaN: too few

    @property
    def missing(self) -> int:
        """Windows that are left out because a frame does not show the face."""
        return max(0, self.frames - hp.syncnet_T + 1) - len(self.similarity)

    @property
    def mean(self) -> float:
        return float(self.similarity.mean()) if len(self.similarity) else math.nan

    @property
    def offset_frames(self) -> int:
        """How many frames the sound comes late (below 0: early)."""
        return 0 if np.isnan(self.curve).all() else int(np.nanargmax(self.curve)) - REACH

    @property
    def confidence(self) -> float:
        """How far the best offset stands above the best that is no part of its peak; 0 if there is none to compare.

        Any pair is more similar at some offset than at most: it takes a peak without a rival to tell that they belong
        together. On this scale experts of any level, and clips of any length, share one threshold.
        """
        rivals = self._rivals
        return float(np.nanmax(self.curve) - rivals.max()) if len(rivals) else 0.0

    @property
    def _rivals(self) -> np.ndarray:
        """The values of the curve that are no part of its highest peak."""
        if np.isnan(self.curve).all():
            return np.empty(0)
        away = np.abs(np.arange(len(self.curve)) - np.nanargmax(self.curve)) > PEAK
        return self.curve[away & ~np.isnan(self.curve)]

    @property
    def contrast(self) -> float:
        """How far the mean stands above what this pair reaches at the median offset; -inf where they never meet.

        Faces that the expert does not know well are more, or less, similar to any voice; this level cancels here.
        """
        return self.mean - float(np.nanmedian(self.curve)) if len(self.similarity) else -math.inf

    @property
    def verdict(self) -> str:
        if not len(self._rivals):
            return "too short to tell"
        in_place = abs(self.offset_frames) <= IN_SYNC
        if self.confidence < (RELATED_IN_PLACE if in_place else RELATED):
            return "unrelated"
        return "in sync" if in_place else f"off by {self.offset_frames} frames"

    def describe(self) -> Any:
        """Return ``scipy.stats.describe`` of the similarity, in plain numbers; NaN what one window cannot tell."""
        from scipy import stats  # here: it takes as long to import as everything else

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on few or equal values
            found = stats.describe(self.similarity.astype(np.float64))
        return type(found)(int(found.nobs), tuple(map(float, found.minmax)), *map(float, found[2:]))

    def __str__(self) -> str:
        milliseconds = abs(self.offset_frames) / self.fps * 1000
        meaning = {
            "too short to tell": "there are too few offsets to compare",
            "unrelated": f"no offset within {REACH} frames makes face and voice match",
            "in sync": f"best offset {self.offset_frames:+d} frames",
        }.get(self.verdict, f"the sound comes {milliseconds:.0f} ms {'late' if self.offset_frames > 0 else 'early'}")
        lines = [str(self.describe()), f"{self.verdict}: {meaning}; confidence {self.confidence:.2f}"]
        if self.missing:
            lines.append(
                f"{self.missing} of {self.missing + len(self.similarity)} windows lack the face and do not count"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        found = self.describe()
        figures = dict(zip(("min", "max"), found.minmax), **{name: getattr(found, name) for name in found._fields[2:]})
        return {
            "nobs": found.nobs,
            **{name: value if math.isfinite(value) else None for name, value in figures.items()},
            "offset_frames": self.offset_frames,
            "confidence": self.confidence,
            "verdict": self.verdict,
            "windows_without_face": self.missing,
            "offset_curve": [None if math.isnan(value) else float(value) for value in self.curve],
            "similarity": [float(value) for value in self.similarity],
            "fps": self.fps,
        }


def cosines(face: Face, voice: Voice, reach: int = REACH) -> np.ndarray:
    """Return (windows of the face, 2·reach + 1): its cosine with the voice -reach … reach frames later, else NaN."""
    table = np.full((len(face.starts), 2 * reach + 1), np.nan, np.float32)
    for column in range(2 * reach + 1):
        partners = face.starts + column - reach
        heard = np.flatnonzero((partners >= 0) & (partners < len(voice.vectors)))
        for first in range(0, len(heard), BLOCK):
            rows = heard[first : first + BLOCK]
            pairs = face.vectors[rows], voice.vectors[partners[rows]]
            table[rows, column] = np.einsum("nd,nd->n", *pairs, dtype=np.float32)
    return table


def compare(face: Face, voice: Voice) -> Result:
    """Return how well ``face`` and ``voice`` match; its ``similarity`` is empty where they never meet."""
    table = cosines(face, voice)
    heard = ~np.isnan(table)
    enough = heard.sum(0) >= max(1, LEAST_SHARE * heard[:, REACH].sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an offset without any window is NaN, as it should be
        curve = np.where(enough, np.nanmean(table, axis=0), np.nan) if len(table) else np.full(2 * REACH + 1, np.nan)
    now = heard[:, REACH]
    return Result(hp.fps, min(len(face.boxes), voice.frames), face.starts[now], table[now, REACH], curve)


def score(face: Path, sound: Path | None, expert: torch.nn.Module, search: argparse.Namespace | None = None) -> Result:
    """Return how well ``sound`` (None: the video's own) matches the face in ``face``, of several the best-matching one.

    ``expert`` is from ``open_expert``; ``search`` says how to find faces, see ``faces.search_settings``. Raises
    ValueError or FileNotFoundError, with a sentence for the user, for files that cannot be compared.
    """
    source, voice = open_video(face), listen_to(sound or face, expert)
    seen = watch(source, find_tracks(search or faces.search_settings(), source, voice.frames, expert), expert)
    return Table([str(sound or face)], seen, [voice]).best(0)


def score_boxes(source: video.VideoInfo, boxes: np.ndarray, sound: Path, expert: torch.nn.Module) -> Result:
    """Like ``score`` for a face whose boxes in the first frames are known: (frames, 4) x1, y1, x2, y2, NaN if none."""
    seen = watch(check_moving(source), [boxes], expert)
    return Table([str(sound)], seen, [listen_to(sound, expert)]).best(0)


# --------------------------------------------------------------------------------------------------------------------
# Who is speaking


class Table:
    """Every face with every voice: ``results[face][voice]``.

    Raises ValueError if no face ever meets a voice.
    """

    def __init__(self, names: Sequence[str], seen: Sequence[Face], voices: Sequence[Voice]) -> None:
        self.names, self.seen, self.voices = names, seen, voices
        self.results = [[compare(face, voice) for voice in voices] for face in seen]
        if not any(len(result.similarity) for row in self.results for result in row):
            raise UserError(
                f"face and voice never meet: it takes {window_length()}, that show the face while sound lasts"
            )

    @property
    def matrix(self) -> np.ndarray:
        """(faces, voices) mean similarity, NaN where they never meet."""
        return np.array([[result.mean for result in row] for row in self.results])

    def best_face(self, voice: int) -> int:
        """Return the face that ``voice`` matches best, by ``Result.contrast``."""
        return int(np.argmax([row[voice].contrast for row in self.results]))

    def best_voice(self, face: int) -> int:
        """Return the voice that ``face`` matches best."""
        return int(np.argmax([result.contrast for result in self.results[face]]))

    def best(self, voice: int) -> Result:
        return self.results[self.best_face(voice)][voice]

    def __str__(self) -> str:
        if len(self.seen) == len(self.voices) == 1:
            return str(self.results[0][0])
        matrix = self.matrix
        lines = ["mean similarity      " + "".join(f"{f'voice {v + 1}':>10}" for v in range(len(self.voices)))]
        for face, row in enumerate(matrix):
            x1, y1, x2, y2 = np.nanmedian(self.seen[face].boxes, axis=0)
            where = f"face {face + 1} at {(x1 + x2) / 2:.0f},{(y1 + y2) / 2:.0f}"
            lines.append(f"{where:21}" + "".join(f"{value:10.3f}" for value in row))
        for voice, name in enumerate(self.names):
            lines += [f"voice {voice + 1} ({name}): face {self.best_face(voice) + 1}", str(self.best(voice))]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The figures of the first voice with its best face; with several faces or voices also those of every pair."""
        content = self.best(0).to_json()
        if len(self.seen) == len(self.voices) == 1:
            return content
        tracks = [
            {"first_frame": int(shown[0]), "last_frame": int(shown[-1]), "frames": len(shown),
             "box": [round(float(v), 1) for v in np.nanmedian(face.boxes, axis=0)]}
            for face in self.seen if len(shown := np.flatnonzero(~np.isnan(face.boxes[:, 0])))
        ]  # fmt: skip
        voices = [
            {"file": name, "best_track": self.best_face(voice), **self.best(voice).to_json()}
            for voice, name in enumerate(self.names)
        ]
        matrix = [[None if math.isnan(value) else float(value) for value in row] for row in self.matrix]
        return {**content, "tracks": tracks, "voices": voices, "matrix": matrix}

    def to_csv(self) -> str:
        """One line per window of every pair, its time and box those of the window's first frame."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(("time", "similarity", "x1", "y1", "x2", "y2", "face", "voice"))
        for (f, face), (v, _) in itertools.product(enumerate(self.seen), enumerate(self.voices)):
            result = self.results[f][v]
            for start, value in zip(result.windows, result.similarity):
                box = (f"{side:.1f}" for side in face.boxes[start])
                writer.writerow((f"{start / result.fps:.3f}", f"{value:.6f}", *box, f + 1, v + 1))
        return text.getvalue()


# --------------------------------------------------------------------------------------------------------------------
# Pictures

ENVELOPE_RATE = 50  # values a second of a drawn waveform
SHOWN_SECONDS = 1.0  # single windows jump about; what is shown is their mean over this long
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive")


def smoothed(result: Result, frames: int) -> np.ndarray:
    """Return the similarity around each of ``frames`` frames, (frames,), NaN where no window is near."""
    middle = result.windows + hp.syncnet_T // 2
    inside = middle < frames
    total = np.bincount(middle[inside], result.similarity[inside], minlength=frames)
    count = np.bincount(middle[inside], minlength=frames).astype(float)
    box = np.ones(min(frames, round(SHOWN_SECONDS * hp.fps) | 1))
    near = np.convolve(count, box, "same")
    return np.divide(np.convolve(total, box, "same"), near, out=np.full(frames, np.nan), where=near > 0.5)


def draw(path: Path, table: Table, sounds: Sequence[Path]) -> None:
    """Draw for every voice, one file each, its waveform, the similarity of each face, and the offset curves."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeError(f"--plot needs matplotlib ({error}); pip install matplotlib") from error

    many = len(table.seen) * len(table.voices) > 1
    figure = Figure(figsize=(12, 3.2 * (len(sounds) + many)), layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(sounds) + many, 1, squeeze=False)[:, 0]
    if many:
        _draw_matrix(parts[0], table)
    for voice, (part, sound) in enumerate(zip(parts[many:], sounds)):
        _draw_voice(part, table, voice, sound)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100, format=path.suffix[1:].lower())
    files.save(path, drawn.getvalue())


def envelope(sound: Path) -> np.ndarray:
    """Return the largest amplitude in every 1 / ``ENVELOPE_RATE`` seconds of a file."""
    step = hp.sample_rate // ENVELOPE_RATE
    blocks = video.stream_audio(sound, hp.sample_rate)
    return np.concatenate([np.maximum.reduceat(np.abs(block), range(0, len(block), step)) for block in blocks])


def _draw_matrix(part: Any, table: Table) -> None:
    """Thumbnails of the faces, and how each matches each voice."""
    axes = part.subplots(1, len(table.seen), squeeze=False)[0]
    for face, (axis, shown) in enumerate(zip(axes, table.seen)):
        if shown.thumbnail is not None:
            axis.imshow(shown.thumbnail[..., ::-1])
        for spine in axis.spines.values():
            spine.set(color=COLOURS[face % len(COLOURS)], linewidth=4)
        lines = [f"voice {v + 1}: {value:.2f}" for v, value in enumerate(table.matrix[face])]
        best = [str(v + 1) for v in range(len(table.voices)) if table.best_face(v) == face]
        title = f"face {face + 1}" + (f", best for voice {', '.join(best)}" if best else "")
        axis.set(title=title, xlabel="\n".join(lines), xticks=[], yticks=[])


def _draw_voice(part: Any, table: Table, voice: int, sound: Path) -> None:
    time, curve = part.subplots(1, 2, width_ratios=(3, 1))
    loud = envelope(sound)
    loud /= max(1e-9, float(loud.max()))
    seconds = (np.arange(len(loud)) + 0.5) / ENVELOPE_RATE
    time.fill_between(seconds, 0.5 - loud / 2, 0.5 + loud / 2, color="0.88", linewidth=0, label="waveform")
    for face, row in enumerate(table.results):
        result, colour = row[voice], COLOURS[face % len(COLOURS)]
        time.plot(result.windows / result.fps, result.similarity, ".", color=colour, markersize=2, alpha=0.4)
        values = smoothed(result, result.frames)
        time.plot(np.arange(len(values)) / result.fps, values, color=colour, label=f"face {face + 1}")
        curve.plot(range(-REACH, REACH + 1), result.curve, color=colour)
    best = table.best(voice)
    curve.axvline(best.offset_frames, color="0.6", linestyle=":")
    time.set(ylim=(0, 1), xlabel="seconds", ylabel="cosine similarity")
    time.set_title(f"{Path(table.names[voice]).name.replace('$', chr(92) + '$')}: {best.verdict}", fontsize=10)
    time.legend(loc="lower right", fontsize=8)
    curve.set(ylim=(0, 1), xlabel="sound late by … frames", title=f"confidence {best.confidence:.2f}")


def write_overlay(path: Path, source: video.VideoInfo, tracks: Sequence[np.ndarray], table: Table, sound: Path) -> None:
    """Write the video with a box around every face, from red (similarity 0) to green (1), by its best voice."""
    voices = [table.best_voice(face) for face in range(len(table.seen))]
    values = [smoothed(table.results[face][voice], len(table.seen[face].boxes)) for face, voice in enumerate(voices)]
    frames = video.read_frames(source, 0, len(tracks[0]))
    with video.VideoWriter(path, source, sound, len(tracks[0])) as writer:
        for i, frame in enumerate(cli.progress(frames, "Drawing boxes", len(tracks[0]))):
            at_rate = min(math.floor(i * hp.fps / source.fps + 0.5), len(values[0]) - 1)
            for boxes, similarity, voice in zip(tracks, values, voices):
                if not np.isnan(boxes[i, 0]):
                    label = f"{similarity[at_rate]:.2f}" + (f" voice {voice + 1}" if len(table.voices) > 1 else "")
                    _draw_box(frame, boxes[i], similarity[at_rate], label)
            writer.write(frame)


def _draw_box(frame: np.ndarray, box: np.ndarray, similarity: float, label: str) -> None:
    """Draw in place; grey where the similarity is not known."""
    known = not math.isnan(similarity)
    share = min(1.0, max(0.0, similarity)) if known else 0.0
    colour = (0, round(255 * min(1, 2 * share)), round(255 * min(1, 2 - 2 * share))) if known else (160, 160, 160)
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    thick = max(1, min(frame.shape[:2]) // 180)
    cv2.rectangle(frame, (x1, y1), (x2, y2), colour, thick)
    size = max(0.4, min(frame.shape[:2]) / 720)
    cv2.putText(frame, label if known else "?", (x1, max(12, y1 - 6)), cv2.FONT_HERSHEY_SIMPLEX, size, colour, thick)


if __name__ == "__main__":
    sys.exit(main())
