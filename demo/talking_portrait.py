"""Make a training corpus of photographs that speak with real voices, in exact sync.

    python -m demo.talking_portrait --portraits PHOTOS --speakers VIDEOS --out DATA --clips 4000

PHOTOS holds pictures of faces, VIDEOS holds <speaker>/<clip>.mp4; each folder has a landmarks.npz written by
demo/landmarks.py. DATA gets folders as preprocess.py writes them, <portrait>/<clip>/{0,1,2…}.jpg, audio.wav and
mel.npy, and

twin.txt    the name of a clip beside it in which the same head moves in the same way and says something else, so that
            each of its frames shows the same moment with another mouth (see Wav2LipDataset); for a third of the pairs,
            the name of a folder with the photograph itself, as inference.py will be given it; for another third, of
            one with the twin's frames and mouths of its other moments, as inference.py puts them together
truth.json  the name of the sentence, and for each frame the distance of the lips in eye distances; of drawn heads,
            the opening of the mouth, 0 to 1, without a name

The same arguments always make the same clips. ``--real N`` adds every clip of the speakers themselves, N times, and
``--heads N`` adds clips of drawn heads (demo/talking_head.py). ``--silence``, ``--photo``, ``--mixed`` and
``--follow_jaw`` exist for experiments (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.ndimage import uniform_filter1d

import audio
import cli
import files
import video
from dataset import TWIN, save_mel
from demo.articulation import speak
from demo.head import Identity
from demo.mouth import OPEN, Teeth, as_photographed, render
from demo.portrait import MESH_INDEX, Portrait, Speaker, absolute, eye_distance, face_box, without_holes
from demo.scene import Actor, Shot, film
from demo.talking_head import make_clips, write_sound
from demo.variation import Camera, Degradation, vary_voice
from demo.voice import Voice, synthesize
from devices import cpu_count
from errors import MissingFile, UserError
from footage import VIDEO_SUFFIXES
from hparams import hparams as hp
from mouths.generating import crop
from mouths.references import References
from terminal import TERMINAL

SIZE = 112  # pixels of the crops: a little more than the networks' input
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]
PAIR, UTTERANCE, REAL, HEAD = range(4)  # first elements of seeds
RAISED = 0.5  # fraction of the teeth's height by which they are raised behind lips that do not smile at all
DONORS = 8  # photographs that are tried for teeth, if one shows none of its own
OTHER_MOMENTS = 10  # moments whose mouths a clip's reference has, if ``mixed``
MIXED = "_mixed"  # suffix of the folder with such references
LARGEST_SHARE = 0.35  # of one speaker; otherwise one voice would dominate training


@dataclass(frozen=True)
class Corpus:
    """Everything that determines the clips."""

    portraits: Path | None
    speakers: tuple[Path, ...]
    out: Path
    seed: int = 0
    choice: tuple[int, int] = (0, sys.maxsize)  # first and last + 1 of the photographs
    without: tuple[str, ...] = ()  # speakers, or clips as speaker/clip
    only: tuple[str, ...] = ()
    silence: float = 0.25  # fraction of the portraits' clips that begin with silence
    photo: float = 0.33  # fraction of the portraits' pairs whose twin is the photograph with its own mouth
    mixed: float = 0.33  # fraction of the pairs whose twin has mouths of its other moments
    follow_jaw: bool = False  # boxes grow when a mouth opens, as with many detectors

    def has(self, folder: Path) -> bool:
        """Whether a clip exists and is complete; raise UserError if it was made with other settings."""
        truth = folder / "truth.json"
        if not truth.exists():
            return False
        if json.loads(truth.read_text()).get("settings") != self.settings:
            raise UserError(f"{folder} was made with other settings; give them again, or another --out")
        return True

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that determine a clip of a given number; sentences and photographs are given as a digest."""
        own = {name: getattr(self, name) for name in ("seed", "silence", "photo", "mixed", "follow_jaw")}
        return own | {"chosen_from": _names_in(self)}


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Make photographs speak: a corpus for training.")
    add = parser.add_argument
    add("--portraits", type=Path, help="The folder with the photographs and their landmarks.npz.")
    add(
        "--speakers", type=Path, nargs="+", required=True, help="Folders with <speaker>/<clip>.mp4 and a landmarks.npz."
    )
    add("--out", required=True, type=Path, help="Write the clips into this folder.")
    add("--clips", type=amount, default=0, help="Number of clips of portraits, two per scene.")
    add("--real", type=amount, default=0, help="Number of variations of each clip of the speakers themselves.")
    add("--heads", type=amount, default=0, help="Number of clips of drawn heads, two per scene.")
    add("--seed", type=cli.seed, default=0, help="Random seed of the clips.")
    add(
        "--choice",
        type=span,
        metavar="FIRST:LAST",
        help="Use these photographs, by number; without it, all.",
    )
    add("--without", nargs="*", default=[], help="Exclude these speakers, or clips as speaker/clip.")
    add("--only", nargs="*", default=[], help="Use only these speakers or clips; without it, all.")
    add(
        "--photo",
        type=share,
        default=Corpus.photo,
        help="Use the photograph itself as the reference of this fraction of the pairs.",
    )
    add(
        "--mixed",
        type=share,
        default=Corpus.mixed,
        help="Give the reference mouths of its other moments in this fraction of the pairs.",
    )
    add("--silence", type=share, default=Corpus.silence, help="Begin this fraction of the clips with silence.")
    add("--follow_jaw", action="store_true", help="Let boxes grow when mouths open; without it, they keep one size.")
    add("--workers", type=cli.positive(int), default=cpu_count(), help="Number of clips made in parallel.")
    return parser


def span(text: str) -> tuple[int, int]:
    """``0:600`` -> (0, 600)."""
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a span such as 0:600")
    return int(first), int(last)


def amount(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of clips")
    return int(text)


def share(text: str) -> float:
    """Parse a number from 0 to 1."""
    if not 0 <= (value := cli.finite(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    corpus = Corpus(
        args.portraits, tuple(args.speakers), args.out, args.seed, args.choice or Corpus.choice, tuple(args.without),
        tuple(args.only), args.silence, args.photo, args.mixed, args.follow_jaw,
    )  # fmt: skip
    if args.clips and not args.portraits:
        raise UserError("--clips needs --portraits, the folder with the photographs")
    sentences = list_sentences(corpus)
    makers = [
        (partial(make_portrait_clip, corpus), -(-args.clips // 2) * 2),
        (partial(make_real_clip, corpus), args.real * len(sentences)),
        (partial(make_head_clip, corpus), -(-args.heads // 2) * 2),
    ]
    if not any(count for _, count in makers):
        raise UserError("nothing to make; give a number with --clips, --real or --heads")
    if before := next(corpus.out.glob("*/*/truth.json"), None):
        corpus.has(before.parent)  # fails if the corpus was begun with other settings
    for make, count in makers:
        if count:
            made = make_clips(make, count, args.workers)
            folders = list(TERMINAL.track(made, "Making clips", count, "clip"))
            print(f"{folders[-1].parent.parent}: {len(folders)} clips")


# --------------------------------------------------------------------------------------------------------------------
# Sentences and photographs


@dataclass(frozen=True)
class Sentence:
    """A filmed clip of a speaker."""

    path: Path
    name: str  # speaker/clip

    @property
    def who(self) -> str:
        return self.name.partition("/")[0]


@lru_cache(maxsize=4)
def list_sentences(corpus: Corpus) -> list[Sentence]:
    """Return the clips of all speakers that have landmarks; raise UserError if there is none."""
    found = []
    for folder in corpus.speakers:
        names = (name for name in _landmark_file(folder).files if "/" in name)
        wanted = [name for name in sorted(names) if _wanted(name, corpus)]
        there = ([folder / f"{name}{suffix}" for suffix in VIDEO_SUFFIXES] for name in wanted)
        paths = (next((path for path in some if path.exists()), None) for some in there)
        found += [Sentence(path, name) for path, name in zip(paths, wanted) if path]
    if not found:
        where = ", ".join(map(str, corpus.speakers))
        raise UserError(f"no clip in {where} has landmarks and a video and is selected by --only and --without")
    return found


@lru_cache(maxsize=4)
def _names_in(corpus: Corpus) -> str:
    """Return a digest of the names of all sentences and photographs that may be chosen."""
    names = [sentence.name for sentence in list_sentences(corpus)]
    if corpus.portraits:
        names += [str(name) for name in _photographs(corpus)]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _wanted(name: str, corpus: Corpus) -> bool:
    labels = {name, name.partition("/")[0]}
    return not labels & set(corpus.without) and (not corpus.only or bool(labels & set(corpus.only)))


@lru_cache(maxsize=8)
def _landmark_file(folder: Path) -> np.lib.npyio.NpzFile:
    path = folder / "landmarks.npz"
    if not path.is_file():
        raise MissingFile(f"{path} does not exist; demo/landmarks.py writes it")
    return np.load(path)


@lru_cache(maxsize=2)  # all frames of a clip, which may be long; a pair needs two
def open_speaker(sentence: Sentence) -> Speaker:
    """Read a clip's frames and landmarks."""
    data = _landmark_file(sentence.path.parent.parent)
    points = without_holes(absolute(data[sentence.name]))
    landmarks = np.full((len(points), 478, 2), points.mean((0, 1)))  # points that the file lacks stay constant
    landmarks[:, data["index"]] = points
    frames = _read_all(sentence.path)
    count = min(len(frames), len(landmarks))
    if max(len(frames), len(landmarks)) - count > 1:  # those were found frame by frame, as OpenCV counts them
        raise UserError(
            f"{sentence.path} has {len(landmarks)} frames with landmarks and lasts {len(frames)}: its picture begins "
            "late, or its rate varies; convert it, and find its landmarks again"
        )
    return Speaker(frames[:count], landmarks[:count])


def _read_all(path: Path) -> np.ndarray:
    source = video.probe(path)
    if abs(source.fps - hp.fps) > 0.01 * hp.fps:
        rate = float(source.fps)
        raise UserError(
            f"{path} has {rate:.4g} frames a second; convert it to {hp.fps:g}, and find its landmarks again"
        )
    return np.stack(list(video.read_frames(source)))


@lru_cache(maxsize=512)
def read_sound(sentence: Sentence) -> np.ndarray:
    """Return the sound of a clip (samples,), from a .flac beside it if there is one."""
    flac = sentence.path.with_suffix(".flac")
    return audio.load_wav(flac) if flac.exists() else video.read_audio(sentence.path, hp.sample_rate)


@lru_cache(maxsize=64)
def open_portrait(corpus: Corpus, number: int) -> Portrait:
    assert corpus.portraits  # checked in ``run``
    data = _landmark_file(corpus.portraits)
    path = corpus.portraits / str(data["names"][number])
    picture: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)  # Windows: imread needs ASCII names
    if picture is None:
        raise UserError(f"{path} cannot be read")
    return Portrait(picture, data["landmarks"][number] / 16)


@lru_cache(maxsize=4)
def _photographs(corpus: Corpus) -> np.ndarray:
    """Return the names of the photographs to choose from; raise UserError if there are none."""
    assert corpus.portraits  # checked in ``run``
    data, (first, last) = _landmark_file(corpus.portraits), corpus.choice
    if "names" not in data.files:
        raise UserError(f"{corpus.portraits} holds videos; --portraits needs a folder of photographs")
    if not len(names := data["names"][first:last]):
        raise UserError(f"--choice {first}:{last} leaves none of the {len(data['names'])} photographs")
    return names


# --------------------------------------------------------------------------------------------------------------------
# Photographs


def make_portrait_clip(corpus: Corpus, number: int) -> Path:
    """Write clip ``number``: a portrait says a sentence. Clips 2k and 2k + 1 are twins."""
    scene = np.random.default_rng((PAIR, corpus.seed, number // 2))
    round_, place = divmod(number // 2, len(_photographs(corpus)))
    order = np.random.default_rng((PAIR, corpus.seed, round_, 1)).permutation(len(_photographs(corpus)))
    which = corpus.choice[0] + int(order[place])
    name = f"portrait{which:05d}/{number:06d}"
    folder, twin = corpus.out / name, corpus.out / f"portrait{which:05d}/{number ^ 1:06d}"
    if corpus.has(folder):
        return folder
    portrait = open_portrait(corpus, which)
    silence = int(scene.integers(8, 26)) if scene.random() < corpus.silence else 0  # frames before the sentence
    kind = scene.random()  # of the reference
    photo, mixed = kind < corpus.photo, kind > 1 - corpus.mixed
    # if the reference is the photograph, its smile may be relaxed only a little
    relax, amplitude = scene.uniform(0, 0.3 if photo else 0.8), scene.uniform(0.9, 1.6)
    teeth = find_teeth(corpus, which, scene)
    utterances = [Utterance.draw(corpus, number + n, silence) for n in (0, (number ^ 1) - number)]
    count = min(utterance.count for utterance in utterances)
    camera, degradation, box = Camera(scene, count, hp.fps), Degradation(scene, SIZE), face_box(portrait.landmarks)
    utterance, speaker = utterances[0], open_speaker(utterances[0].sentence)
    shut = portrait.relaxed(speaker.rest, relax)

    faces, opening, matrices = [], [], []
    for i in range(count):
        points = portrait.posed(shut, utterance.movement(speaker, i), amplitude, camera.turn[i])
        opening.append(float(np.linalg.norm(points[MESH_INDEX[13]] - points[MESH_INDEX[14]]) / portrait.unit))
        chin = (points - portrait.turned(shut, camera.turn[i]))[MESH_INDEX[152], 1] if corpus.follow_jaw else 0.0
        matrices.append(camera.matrix(box + [0, 0, 0, chin], SIZE, i))
        frame = utterance.frame(speaker, i)
        faces.append(render(portrait, points, matrices[i], SIZE, speaker, frame, teeth, RAISED * relax))
    faces = degradation.apply(faces)
    if photo:
        twin = twin.with_name(f"{number & ~1:06d}_photo")
        if number % 2 == 0:
            still = [as_photographed(portrait, camera.turn[i], matrices[i], SIZE) for i in range(count)]
            write_frames(twin, degradation.apply(still))
    elif mixed:
        twin = twin.with_name(f"{twin.name}{MIXED}")
        write_frames(folder.with_name(f"{folder.name}{MIXED}"), with_other_mouths(faces, np.array(opening), scene))
    truth = {"sentence": utterance.sentence.name, "opening": opening}
    write_clip(corpus, folder, faces, utterance.sound(count), twin, truth)
    return folder


def find_teeth(corpus: Corpus, which: int, rng: np.random.Generator) -> Teeth | None:
    """Return the teeth of a photograph, or of one of ``DONORS`` others if it shows none; None if no donor does."""
    others = rng.integers(len(_photographs(corpus)), size=DONORS) + corpus.choice[0]
    found = (Teeth.of(open_portrait(corpus, int(number))) for number in (which, *others))
    return next(filter(None, found), None)


def with_other_mouths(faces: Sequence[np.ndarray], opening: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Return faces, 96 pixels wide, with mouths of a few other moments that are about as far open.

    Those are selected and moved as in inference, where the head of a reference was often elsewhere, or otherwise
    turned: a network that was only shown mouths in the right place copies them wherever they are.
    """
    faces = [crop(face, (0, 0, *face.shape[1::-1])) for face in faces]
    opening = opening / max(opening.max(), OPEN)
    known = np.sort(rng.permutation(len(faces))[:OTHER_MOMENTS])
    references = References(np.stack(faces)[known], openings=opening[known])
    return [references.select(face, 1.0, wanted).face for face, wanted in zip(faces, opening.tolist())]


@dataclass(frozen=True)
class Utterance:
    """A sentence as spoken in a clip: faster or slower than the original, maybe after a silence."""

    sentence: Sentence
    speed: float
    silence: int  # frames
    seed: tuple[int, ...]
    count: int  # frames

    @classmethod
    def draw(cls, corpus: Corpus, number: int, silence: int) -> Utterance:
        rng = np.random.default_rng((UTTERANCE, corpus.seed, number))
        sentences = list_sentences(corpus)
        sentence = sentences[rng.choice(len(sentences), p=_shares(tuple(s.who for s in sentences)))]
        speed = round(float(np.exp(rng.uniform(np.log(0.84), np.log(1.22)))), 2)  # that of the sound, see vary_voice
        spoken = int(len(_landmark_file(sentence.path.parent.parent)[sentence.name]) / speed)
        return cls(sentence, speed, silence, (UTTERANCE, corpus.seed, number, 1), silence + spoken)

    def moment(self, i: int) -> float:
        """Return the frame of the speaker's clip at frame ``i``, fractional, below 0 in the silence."""
        return (i - self.silence + 0.5) * self.speed - 0.5

    def movement(self, speaker: Speaker, i: int) -> np.ndarray:
        early = max(0, self.silence - i)  # frames until the sentence begins; in the last few, lips start to move
        return speaker.movement(max(0.0, self.moment(i))) * max(0.0, 1 - early / 4)

    def frame(self, speaker: Speaker, i: int) -> int:
        return speaker.nearest(max(0.0, self.moment(i)))

    def sound(self, count: int) -> np.ndarray:
        """Return the sound of the first ``count`` frames (samples,)."""
        rng = np.random.default_rng(self.seed)
        wav = read_sound(self.sentence)
        silence = np.zeros(round(self.silence * self.speed * hp.sample_rate / hp.fps), np.float32)
        return vary_voice(np.concatenate((silence, wav)), self.speed, rng)[: round(count * hp.sample_rate / hp.fps)]


@lru_cache(maxsize=4)
def _shares(speakers: Sequence[str]) -> np.ndarray:
    """Return the probability of each clip; a speaker's is proportional to the root of their number of clips.

    A speaker's share is limited to ``LARGEST_SHARE`` before shares are normalized to sum to 1.
    """
    names, place, counts = np.unique(speakers, return_inverse=True, return_counts=True)
    weights = np.sqrt(counts) / np.sqrt(counts).sum()
    limit = max(LARGEST_SHARE, 1 / len(names))
    weights = np.minimum(weights, limit)
    return weights[place] / counts[place] / weights.sum()


# --------------------------------------------------------------------------------------------------------------------
# The speakers themselves, and drawn heads


def make_real_clip(corpus: Corpus, number: int) -> Path:
    """Write clip ``number`` of the speakers as filmed, with a varied camera: every clip once, then all again."""
    sentences = list_sentences(corpus)
    sentence = sentences[number % len(sentences)]
    folder = corpus.out / f"real_{sentence.who}" / f"{sentence.path.stem}_{number // len(sentences)}"
    if corpus.has(folder):
        return folder
    rng = np.random.default_rng((REAL, corpus.seed, number))
    speaker = open_speaker(sentence)
    camera, degradation = Camera(rng, len(speaker.frames), hp.fps), Degradation(rng, SIZE)
    still = np.median(speaker.landmarks, 0)
    eyes = speaker.landmarks[:, [33, 133, 362, 263]].mean(1)
    path = uniform_filter1d(eyes, 5, axis=0, mode="nearest") - np.median(eyes, 0)
    boxes = face_box(still) + np.tile(path, 2)
    faces = []
    light = speaker.cast ** rng.uniform(0, 1)  # GRID has the colours of old tapes: green skin, yellow teeth
    for i, (frame, box) in enumerate(zip(speaker.frames, boxes)):
        picture = cv2.warpAffine(frame, camera.matrix(box, SIZE, i), (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
        faces.append(np.clip(picture / light, 0, 255).astype(np.uint8))
    lips = np.linalg.norm(speaker.landmarks[:, 13] - speaker.landmarks[:, 14], axis=1) / eye_distance(still)
    sound = vary_voice(read_sound(sentence), 1.0, rng)
    truth = {"sentence": sentence.name, "opening": lips.tolist()}
    write_clip(corpus, folder, degradation.apply(faces), sound, None, truth)
    return folder


def make_head_clip(corpus: Corpus, number: int, seconds: float = 2.4) -> Path:
    """Write a clip of a drawn head with a synthetic voice. Clips 2k and 2k + 1 are twins."""
    folder, twin = (corpus.out / f"head{number // 2:05d}" / f"{n:06d}" for n in (number, number ^ 1))
    if corpus.has(folder):
        return folder
    scene = np.random.default_rng((HEAD, corpus.seed, number // 2))
    rng = np.random.default_rng((HEAD, corpus.seed, number, 1))
    identity, voice = Identity.random(scene), Voice.random(scene)
    movements = speak(seconds, rng)
    seeds = scene.integers(1 << 31, size=2).tolist()
    shot = Shot((Actor(identity, movements, scene.uniform(0.44, 0.56), scene.uniform(0.56, 0.8), seeds[0]),), seeds[1])
    count = round(seconds * hp.fps)
    frames, boxes = zip(*film(shot, (192, 192), hp.fps, 0, count))
    boxes = uniform_filter1d(np.concatenate(boxes), 5, axis=0, mode="nearest")
    camera = Camera(scene, count, hp.fps)
    faces = [
        cv2.warpAffine(frame, camera.matrix(box, SIZE, i), (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
        for i, (frame, box) in enumerate(zip(frames, boxes))
    ]
    opening = movements.at((np.arange(count) + 0.5) / hp.fps)["aperture"]
    write_clip(corpus, folder, faces, synthesize(movements, voice, rng), twin, {"opening": opening.tolist()})
    return folder


# --------------------------------------------------------------------------------------------------------------------
# Writing clips


def write_clip(
    corpus: Corpus, folder: Path, faces: list[np.ndarray], wav: np.ndarray, twin: Path | None, truth: dict
) -> None:
    """Write a clip as preprocess.py does; truth.json comes last, when the clip is complete."""
    write_frames(folder, faces)
    write_sound(folder / "audio.wav", wav)
    heard = np.round(wav * 32767).astype(np.int16).astype(np.float32) / 32768
    save_mel(folder, audio.melspectrogram(heard).T)
    if twin:
        (folder / TWIN).write_text(f"{twin.name}\n", encoding="utf-8")
    truth = {**truth, "opening": np.round(truth["opening"], 4).tolist(), "settings": corpus.settings}
    files.save(folder / "truth.json", json.dumps(truth))


def write_frames(folder: Path, faces: Iterable[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, face in enumerate(faces):
        (folder / f"{i}.jpg").write_bytes(cv2.imencode(".jpg", face, JPEG)[1].tobytes())


if __name__ == "__main__":
    sys.exit(main())
