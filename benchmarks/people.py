"""Measure a generator on videos of real people: sync, movement of the lips, sharpness.

    python -m benchmarks.people --videos CLIPS --folder results/people --mediapipe mediapipe/bin/python

CLIPS are videos of people who speak, in sync, best of people on whom the networks were not trained. Each is lip-synced
to the sound of another person, and to silence. Prints, as a table and as JSON lines:

expert, judge   mean similarity per clip: with its own sound (matched), with the other's (mismatched), lip-synced to it;
                AUCs. The judge is an expert from which no generator learned
sharpness       variance of the Laplacian of the lower half of the face, shrunk to 96 pixels, relative to the real one
movement        standard deviation of the distance of the lips, in eye distances, relative to that of the speaker who is
                heard; and in silence how far they are apart, as a share of the range from shut to open. By the
                landmarks of demo/landmarks.py, run by --mediapipe
aperture        correlation of that distance with the known one over frames, where the voice is that of a talking
                portrait: CLIPS may include folders with truth.json, which demo.talking_portrait writes

and writes people.png, frames as filmed above the same frames lip-synced, into --folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import cli
import files
import video
from benchmarks import print_machine, report
from benchmarks.demo_networks import SEARCH, compare, lip_sync
from boxes import cut_face
from demo.portrait import absolute, lip_distance, without_holes
from errors import UserError
from evaluation.aperture import compare_apertures
from evaluation.leakage import write_silence
from evaluation.lips import movement, opening_share
from evaluation.table import phase_row
from face_detection.tracking import follow_face
from footage import find_videos
from hparams import hparams as hp
from models import weights
from pictures import resized
from rates import resample
from sync import open_expert

TRUTH = "truth.json"
SIZE = 224  # pixels of the videos that are made of talking portraits
COLUMNS, ROWS, HEIGHT = 10, 8, 150  # of the contact sheet: moments, clips, pixels of a face


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Measure a generator on videos of real people.")
    add_people_arguments(parser)
    add = parser.add_argument
    add("--checkpoint_path", default=weights.DEMO, help="The generator to measure.")
    add("--syncnet_checkpoint_path", default=weights.DEMO, help="The expert that compares faces and voices.")
    add("--clips", type=cli.positive(int), help="Number of clips to use, at most.")
    add("--folder", type=Path, default=Path("results/people"), help="Put the videos and the sheet into this folder.")
    return parser


def add_people_arguments(parser: cli.Parser) -> None:
    """Add the flags for the videos, the judge and the landmarks."""
    add = parser.add_argument
    add(
        "--videos",
        required=True,
        type=Path,
        nargs="+",
        help="Videos of people who speak, in sync, or folders with them.",
    )
    add("--judge", default=weights.JUDGE, help="An expert that no generator learned from.")
    add("--mediapipe", type=Path, help="The python of an environment with mediapipe, see demo/landmarks.py.")


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    prepared = [path for path in args.videos if (path / TRUTH).is_file()]
    videos = [path for path in args.videos if path not in prepared]
    originals = [*(find_videos(videos) if videos else ()), *(film(args.folder, path) for path in prepared)]
    originals = originals[: args.clips]
    if len(originals) < 2:
        raise UserError(f"{len(originals)} videos; give at least two, as each is lip-synced to the sound of another")
    if args.mediapipe:
        check_mediapipe(args.mediapipe)
    print_machine(torch.device("cpu"), torch.float32)
    partners = partners_of(originals)
    generated = [lip_sync(args, f"generated/{i}", originals[i], originals[j]) for i, j in enumerate(partners)]
    for name, path in {"expert": args.syncnet_checkpoint_path, "judge": args.judge}.items():
        report(name, compare(open_expert(path), originals, generated, partners))
    report("sharpness", compare_sharpness(originals, generated))
    files.save(args.folder / "people.png", cv2.imencode(".png", contact_sheet(originals, generated))[1].tobytes())
    if args.mediapipe:
        silent = [
            lip_sync(args, f"silent/{i}", clip, write_silence(clip, args.folder / "silence" / f"{i}.wav"))
            for i, clip in enumerate(originals)
        ]
        kinds = (originals, "real"), (generated, "lips"), (silent, "silence")
        real, made, quiet = (
            [lip_distance(points) for points in find_landmarks(args.mediapipe, args.folder, paths, name)]
            for paths, name in kinds
        )
        report("movement", compare_movement(real, made, quiet, partners))
        if any(_known_lips(clip) is not None for clip in originals):
            report("aperture", follow_known_lips(originals, real, made, partners))


def film(folder: Path, prepared: Path) -> Path:
    """Make a video of a prepared clip, with its truth file beside it."""
    path = folder / "portraits" / prepared.parent.name / f"{prepared.name}.mp4"
    pictures: list[Any] = [cv2.imread(str(prepared / f"{i}.jpg")) for i in range(len(list(prepared.glob("*.jpg"))))]
    info = video.VideoInfo(path, SIZE, SIZE, fps=Fraction(hp.fps))
    with video.VideoWriter(path, info, prepared / "audio.wav", len(pictures)) as writer:
        for picture in pictures:
            writer.write(cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC))
    files.save(path.with_suffix(".json"), (prepared / TRUTH).read_text())
    return path


# --------------------------------------------------------------------------------------------------------------------
# Pictures


def faces_of(clip: Path, located_in: Path) -> list[np.ndarray]:
    """Return the faces (96, 96, 3) of a video, at the boxes found in another one with the same faces."""
    source = video.probe(located_in)
    found = SEARCH.find(source)
    boxes = follow_face(found, max_gap=round(float(source.fps) / 2))
    crops = (cut_face(frame, box) for frame, box in zip(video.read_frames(video.probe(clip)), boxes))
    return [resized(crop, hp.img_size) for crop in crops if crop is not None]


def sharpness(faces: Sequence[np.ndarray]) -> float:
    """Return the mean variance of the Laplacian of the lower halves."""
    lower = (cv2.cvtColor(face, cv2.COLOR_BGR2GRAY)[hp.img_size // 2 :] for face in faces)
    return float(np.mean([cv2.Laplacian(half, cv2.CV_64F).var() for half in lower]))


def compare_sharpness(originals: Sequence[Path], generated: Sequence[Path]) -> dict[str, float]:
    real = np.array([sharpness(faces_of(clip, clip)) for clip in originals])
    made = np.array([sharpness(faces_of(clip, located)) for clip, located in zip(generated, originals)])
    return {"real": float(real.mean()), "lip_synced": float(made.mean()), "ratio": float((made / real).mean())}


def contact_sheet(before: Sequence[Path], after: Sequence[Path]) -> np.ndarray:
    """Return faces of some videos, of as many people as possible, above the same moments lip-synced."""
    rows = []
    for i in people_first(before)[:ROWS]:
        pair = [faces_of(clip, before[i]) for clip in (before[i], after[i])]
        moments = np.linspace(2, min(map(len, pair)) - 3, COLUMNS).astype(int)
        rows += [np.hstack([cv2.resize(faces[k], (HEIGHT, HEIGHT)) for k in moments]) for faces in pair]
    return np.vstack(rows)


def people_first(clips: Sequence[Path]) -> list[int]:
    """Return the order of clips: one of each person, then a second one of each, and so on.

    See ``people_in``.
    """
    taken: Counter[str] = Counter()
    turns = []
    for who in people_in(clips):
        turns.append(taken[who])
        taken[who] += 1
    return sorted(range(len(clips)), key=turns.__getitem__)


def people_in(clips: Sequence[Path]) -> list[str]:
    """Return whom each clip shows.

    Each person's clips are in a folder of their own. If all are in one folder, or all names in a folder have a "_",
    they are PERSON_CLIP.
    """
    mixed = {clip.parent for clip in clips}
    if len(mixed) > 1:
        mixed -= {clip.parent for clip in clips if "_" not in clip.stem}
    return [f"{clip.parent}/{clip.stem.split('_')[0] if clip.parent in mixed else ''}" for clip in clips]


def partners_of(clips: Sequence[Path]) -> list[int]:
    """Return for each clip the one whose sound it gets: the next of another person, or without one, the next.

    Of those, one that no other clip has got yet comes first.
    """
    people, count, partners = people_in(clips), len(clips), []
    for i in range(count):
        following = [(i + n) % count for n in range(1, count)]
        partners.append(min(following, key=lambda j: (people[j] == people[i], j in partners)))
    return partners


# --------------------------------------------------------------------------------------------------------------------
# Lips


def check_mediapipe(mediapipe: Path) -> None:
    """Raise UserError unless this Python can import mediapipe."""
    try:
        subprocess.run([mediapipe, "-c", "import mediapipe"], check=True, capture_output=True, text=True)
    except OSError as error:
        raise UserError(
            f"--mediapipe {mediapipe} cannot be run ({error.strerror}); give an environment's python"
        ) from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UserError(f"--mediapipe {mediapipe} cannot import mediapipe ({reason}); see demo/landmarks.py") from None


def find_landmarks(mediapipe: Path, folder: Path, paths: Sequence[Path], name: str) -> list[np.ndarray]:
    """Return MediaPipe's landmarks of each video, (frames, 478, 2), interpolated where it finds no face."""
    folder = folder / "landmarks" / name
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run
    for i, path in enumerate(paths):
        link = folder / f"{i:04d}" / "clip.mp4"  # whatever its format: the reader goes by the content
        link.parent.mkdir(parents=True)
        link.symlink_to(path.resolve())
    script = Path(__file__).resolve().parent.parent / "demo" / "landmarks.py"
    subprocess.run([mediapipe, script, folder], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    data = np.load(folder / "landmarks.npz")
    if lost := [str(path) for i, path in enumerate(paths) if f"{i:04d}/clip" not in data]:
        raise UserError(f"MediaPipe finds no face in {', '.join(lost)}; leave it out")
    found = (absolute(data[f"{i:04d}/clip"]) for i in range(len(paths)))
    return [without_holes(points) for points in found]


def compare_movement(
    real: Sequence[np.ndarray], made: Sequence[np.ndarray], silent: Sequence[np.ndarray], partners: Sequence[int]
) -> dict[str, float]:
    ratios = np.array([movement(lips, real[j]) for lips, j in zip(made, partners)])
    shares = [opening_share(quiet, lips) for quiet, lips in zip(silent, real)]
    middle, largest = np.median(shares, axis=0)
    return {
        "ratio": float(np.median(ratios)),
        "ratio_low": float(ratios.min()),
        "ratio_high": float(ratios.max()),
        "within": float(((ratios >= 0.7) & (ratios <= 1.3)).mean()),
        "silence_median": float(middle),
        "silence_p95": float(largest),
    }


def follow_known_lips(
    originals: Sequence[Path], real: Sequence[np.ndarray], made: Sequence[np.ndarray], partners: Sequence[int]
) -> dict[str, float]:
    """Return Pearson's r of the lips' distance with the known one of the speaker heard, lip-synced and as filmed.

    The latter is the most that these landmarks can show. ``lag``: frames by which lip-synced lips are late where r is
    largest. For the phases closed, opening, open and closing of the known lips: the mean distance ``seen``, the one
    ``known``, the error, and the one of the lips as ``filmed``.
    """
    truths = [_known_lips(clip) for clip in originals]
    rates, known_rate = [video.probe(clip).fps for clip in originals], Fraction(hp.fps)
    real, made = (
        [np.array([*resample(lips, rate, known_rate)]) for lips, rate in zip(some, rates)] for some in (real, made)
    )
    heard = [truths[j] for j in partners]
    fits = [compare_apertures(lips, truth) for lips, truth in zip(made, heard) if truth is not None]
    filmed = [compare_apertures(lips, truth) for lips, truth in zip(real, truths) if truth is not None]
    rs, as_filmed = ([fit.by_lag[0] for fit in some if fit] for some in (fits, filmed))
    if not rs:
        return {"clips": 0}
    means = {"r": np.mean(rs), "r_median": np.median(rs), "r_worst_clip": min(rs), "r_as_filmed": np.mean(as_filmed)}
    lag = np.median([fit.lag for fit in fits if fit])
    phases, seen = (phase_row([fit for fit in some if fit]) for some in (fits, filmed))
    phases |= {name.replace("seen", "filmed"): value for name, value in seen.items() if name.startswith("seen")}
    return {**{name: float(value) for name, value in {**means, "lag": lag}.items()}, **phases, "clips": len(rs)}


def _known_lips(clip: Path) -> np.ndarray | None:
    path = clip.with_suffix(".json")
    opening = json.loads(path.read_text()).get("opening") if path.exists() else None  # drawn heads have an "aperture"
    return None if opening is None else np.array(opening)


if __name__ == "__main__":
    sys.exit(main())
