"""Measure what each flag of inference.py does to every measure: one table, the defaults first.

    python -m benchmarks.flags --videos CLIPS --folder results/flags --mediapipe mediapipe/bin/python

CLIPS are videos of people who speak, in sync. Each is lip-synced to its own sound, to that of the next, and to silence:
first with the network's defaults, then with one flag changed at a time. ``--checkpoint_path`` is as in inference.py;
with ``mirror``, a network of the official size that reproduces its reference, only what depends on geometry is
measured. Prints a table with a row of means over the clips for each flag; differences from the defaults beyond chance
(Student's t of the paired differences) are bold. Writes the first and the last clip's faces, a row for each flag, into
--folder.

own sound       psnr, ssim (lpips, lmd); sharpness: see docs/measuring.md. judge_own: similarity by a judge from which
                no generator learned
another's       expert, judge: similarity with it; in_sync: share of clips that the judge calls in sync; discrepancy:
                judge_own - judge; flicker, upper_flicker, seam, jitter (csim); cpu_ms: CPU milliseconds per frame,
                without imports and face search. By landmarks: movement of the lips, relative to the speaker's; r with
                the speaker's lips, over frames. For drawn heads: aperture, r with the known one
silence         motion (leak, lip_motion); by landmarks how far lips are apart (rest, 95th percentile), as a share of
                the speaker's range from shut to open

Results of --resize_factor are compared with the clip shrunk in the same way. psnr and ssim reward a network that copies
the filmed mouth, and motion depends on the head more than on the lips: read them together with rest. Lips are measured
by the landmarks of demo/landmarks.py, run by --mediapipe; LSE needs --lse_checkpoint_path.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy import stats

import arguments
import cli
import files
import video
from benchmarks import cpu_timed, print_machine
from benchmarks.people import add_people_arguments, check_mediapipe, find_landmarks
from demo.portrait import lip_distance
from errors import UserError
from evaluation import aperture, judges, lips, lse, table
from evaluation.flags import add_judge_arguments, check_tables, judges_of
from evaluation.leakage import write_silence
from evaluation.quality import Quality, score_file
from face_detection.detections import Detections
from face_detection.geometry import cut_square
from face_detection.tracking import follow_face
from face_path import Box
from faces import FaceSearch
from footage import find_videos
from lipsync import LipSync, Options, ResolvedOptions, Take, open_face
from models import SyncNet_v2, Wav2Lip, weights
from rates import resample
from sync import Expert, Result, open_expert, score_boxes

FLAGS = (
    "reference same", "reference still", "reference 0", "silence closed", "mouth_gain 0.6", "mouth_gain 1.3",
    "mouth_gain 1.6", "blend box", "blend feather", "pads 0 0 0 0", "pads 0 10 0 0", "pads 0 20 0 0", "box {middle}",
    "occlusion ignore", "nosmooth", "lip_delay 40", "lip_delay -40", "precision fp32", "resize_factor 2",
)  # fmt: skip
FILMED, DEFAULTS = "as filmed", "defaults"  # rows: only re-encoded; with the network's defaults
MIRROR = "mirror"
KNOTS = 10  # of the piecewise linear approximation of the inverse sigmoid
MIDDLE = "{middle}"  # in flags: the median face box of the clip
OPTIONS = {field.name for field in fields(Options)}
SWITCHES = {field.name for field in fields(Options) if isinstance(field.default, bool)}
SIDES = ("pads", "crop", "box")  # options with several numbers
NETWORK = ("restorer", "precision", "runtime", "batch_size")  # arguments of ``LipSync`` that a row may change
OWN, OTHER, SILENT = "own", "other", "silent"
FIGURES_BY_SOUND = {  # figures of ``Quality``, by the driving sound
    OWN: (*table.LIKENESS, "sharpness"),
    OTHER: tuple(name for name in table.COMMON_FIGURES if name != "sharpness"),
    SILENT: tuple(table.LEAKAGE),
}
GEOMETRY = ("psnr", "ssim", "sharpness", "flicker", "upper_flicker", "seam", "jitter")  # what is measured with a mirror
NOISY = ("cpu_ms",)  # vary more from minute to minute than between clips
CHANCE = 0.02  # p (two-sided, Student's t) below which a difference is bold: one cell in 50 by chance
COLUMNS, SIDE, ROOM = 8, 160, 0.15  # of the sheets: moments, pixels of a lower face, share of its side shown below it

Figures = dict[str, list[float]]  # by measure, one figure per clip


@dataclass(frozen=True)
class SyncedVideo:
    """A lip-synced video."""

    path: Path
    source: Path  # of the same size
    heard: Path
    boxes: list[Box | None]  # where mouths were pasted, one per frame
    seen: np.ndarray  # face boxes, (frames, 4)
    cpu_ms: float  # per frame


@dataclass(frozen=True)
class Setup:
    """What all rows share: clips and judges."""

    folder: Path
    search: FaceSearch
    clips: list[Path]
    heard: dict[str, list[Path]]  # for each clip: its own sound, that of the next, silence
    pads: Sequence[int]  # of the face that is compared
    expert: Expert
    judge: Expert
    lse: SyncNet_v2 | None
    judges: judges.Judges
    mediapipe: Path | None
    real: list[np.ndarray]  # landmarks of every clip as filmed, (frames, 478, 2); empty without MediaPipe


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Measure what each flag of inference.py does.")
    add_people_arguments(parser)
    add = parser.add_argument
    add("--checkpoint_path", default=weights.DEMO, help=f"The generator, as in inference.py, or {MIRROR}.")
    add(
        "--flags",
        nargs="+",
        help="Rows of the table: options without their first two dashes, quoted. "
        "Without it, those in FLAGS of benchmarks/flags.py.",
    )
    add("--expert", default=weights.DEMO, help="The expert that compares faces and voices.")
    add("--lse_checkpoint_path", help="Also measure LSE, with this file or syncnet_v2.")
    add_judge_arguments(parser)
    add("--limit", type=cli.positive(int), help="Number of videos to use, at most.")
    add("--seconds", type=cli.positive(float), help="Seconds to use of each; without it, all.")
    add("--folder", type=Path, default=Path("results/flags"), help="Put videos and sheets into this folder.")
    add("--json", type=Path, help="Write the figures of every clip to this file.")
    add("--csv", type=Path, help="Write the table to this file.")
    arguments.add_search_arguments(parser)
    arguments.add_compute_arguments(parser)
    parser.set_defaults(face_detector="centerface")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    videos = check(args)
    geometry_only = args.checkpoint_path == MIRROR
    if geometry_only:
        args.checkpoint_path = write_mirror(args.folder)
    network = {
        "checkpoint": args.checkpoint_path,
        "search": arguments.face_search(args),
        "device": args.device,
        "precision": args.precision,
    }
    chosen = tuple(args.flags or FLAGS)
    lips = networks_of(network, (FILMED, DEFAULTS, *chosen))
    settled = {flags: settings_of(lips[flags], flags) for flags in (DEFAULTS, *chosen)}  # errors come before any work
    setup = open_setup(args, videos, network["search"], settled[DEFAULTS][0].pads, geometry_only)
    print_machine(torch.device("cpu"), settled[DEFAULTS][1])

    rows: dict[str, Figures] = {}
    sheets: dict[str, list[SyncedVideo]] = {}
    for flags in (FILMED, DEFAULTS, *chosen):
        name = f"--{flags}" if flags in chosen else flags
        if flags in chosen and settled[flags] == settled[DEFAULTS]:
            print(f"{name} is the network's default")
            continue
        made = make_all(setup, lips[flags], flags)
        rows[name], sheets[name] = measure(setup, flags, made), made[OTHER]
        save(args, rows)  # if the run is stopped, these are kept
    print(text(rows))
    print("\n".join(missing(setup)))
    for place in (0, -1):
        sheet = sheet_of({name: made[place] for name, made in sheets.items()})
        files.save(args.folder / f"{setup.clips[place].stem}.png", cv2.imencode(".png", sheet)[1].tobytes())


def check(args: argparse.Namespace) -> list[Path]:
    """Return the videos; raise UserError for wrong arguments before any work is done."""
    videos = find_videos(args.videos)[: args.limit]
    if len(videos) < 2:
        raise UserError(f"{len(videos)} videos; give at least two, as each is lip-synced to the sound of the next")
    if args.mediapipe:
        check_mediapipe(args.mediapipe)
    check_tables(args, videos)
    files.check_folder(args.folder)
    return videos


def save(args: argparse.Namespace, rows: dict[str, Figures]) -> None:
    if args.json:
        files.save_json(args.json, {name: {key: [*row] for key, row in row.items()} for name, row in rows.items()})
    if args.csv:
        files.save(args.csv, table.to_csv({name: means(figures) for name, figures in rows.items()}))


def open_setup(
    args: argparse.Namespace, videos: list[Path], search: FaceSearch, pads: Sequence[int], geometry_only: bool
) -> Setup:
    lse_network = lse.open_judge(args.lse_checkpoint_path, torch.device("cpu")) if args.lse_checkpoint_path else None
    asked = open_expert(args.expert), open_expert(args.judge), lse_network, judges_of(args)
    clips = [shortened(args.folder, path, number, args.seconds) for number, path in enumerate(videos)]
    heard = list_sounds(args.folder, clips, geometry_only)
    real = find_landmarks(args.mediapipe, args.folder, clips, "filmed") if args.mediapipe else []
    return Setup(args.folder, search, clips, heard, pads, *asked, args.mediapipe, real)


# --------------------------------------------------------------------------------------------------------------------
# Videos


def shortened(folder: Path, path: Path, number: int, seconds: float | None) -> Path:
    """Return a lossless copy of the part of a video that is used, with its truth file, if any, beside it."""
    source = video.probe(path)
    copy = folder / "filmed" / f"{number}_{path.stem}.mp4"
    wanted = math.ceil(seconds * source.fps) if seconds else None
    encode(copy, source, path, sum(1 for _ in video.read_frames(source, 0, wanted)), crf=0)
    if aperture.truth_of(path):
        files.save(copy.with_suffix(".json"), path.with_suffix(".json").read_bytes())
    return copy


def encode(path: Path, source: video.VideoInfo, sound: Path, count: int, crf: int = Options.crf) -> None:
    """Re-encode the first ``count`` frames of a video."""
    with video.VideoWriter(path, source, sound, count, video.Encoding(crf)) as writer:
        for frame in video.read_frames(source, 0, count):
            writer.write(frame)


def write_mirror(folder: Path) -> Path:
    """Write a generator of the official size that reproduces its reference, within 1.5 grey levels on average.

    The first block passes the reference's three channels to the last, which turns them into the sigmoid's logits by a
    piecewise linear approximation; all other weights are 0.
    """
    state = {name: torch.zeros_like(value) for name, value in Wav2Lip().state_dict().items()}
    look, draw, last = "face_encoder_blocks.0.0.conv_block", "output_block.0.conv_block", "output_block.1"
    at = torch.linspace(0, 1, KNOTS + 1)
    logits = torch.logit(at, 0.01)
    bends = torch.diff(logits.diff() / at.diff(), prepend=torch.zeros(1))
    shown = state[f"{draw}.0.weight"].shape[1] - state[f"{look}.0.weight"].shape[0]  # the decoder's channels come first
    for colour in range(3):
        lines = slice(KNOTS * colour, KNOTS * (colour + 1))
        state[f"{look}.0.weight"][colour, 3 + colour, 3, 3] = 1
        state[f"{draw}.0.weight"][lines, shown + colour, 1, 1] = 1
        state[f"{draw}.0.bias"][lines] = -at[:-1]
        state[f"{last}.weight"][colour, lines, 0, 0] = bends
    for block in (look, draw):
        state[f"{block}.1.weight"][:] = state[f"{block}.1.running_var"][:] = 1
    state[f"{last}.bias"][:] = logits[0]
    with files.atomic_write(folder / "mirror.pth") as partial:
        torch.save(state, partial)
    return folder / "mirror.pth"


def list_sounds(folder: Path, clips: list[Path], geometry_only: bool) -> dict[str, list[Path]]:
    """Return the driving sounds of each clip: its own, the next one's, silence."""
    silence = [write_silence(clip, folder / "silence" / f"{clip.stem}.wav") for clip in clips]
    heard = {OTHER: clips[1:] + clips[:1], SILENT: silence}
    return heard if geometry_only else {OWN: clips, **heard}


def parse_flags(flags: str, middle: str = "0 1 0 1") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a row's arguments for ``LipSync`` and for ``LipSync.run``, with ``middle`` in place of ``MIDDLE``."""
    network: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for flag in flags.replace(MIDDLE, middle).split(" --") if flags not in (FILMED, DEFAULTS) else ():
        name, *words = shlex.split(flag)
        values = tuple(map(value_of, words))
        switch = name.removeprefix("no").removeprefix("_")
        if not values and switch in SWITCHES:
            options[switch] = switch == name
        elif values and name in NETWORK:
            network[name] = values[0]
        elif values and name in OPTIONS and name not in SWITCHES:
            options[name] = values if name in SIDES else values[0]
        else:
            known = f"{', '.join(sorted(OPTIONS))}, {', '.join(NETWORK)}"
            raise UserError(
                f"--flags {flags!r}: {name} takes {'no value' if values else 'a value'}, or is not one of {known}"
            )
    return network, options


def value_of(word: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(word)
    return word


def networks_of(network: dict[str, Any], rows: Sequence[str]) -> dict[str, LipSync]:
    """Return the network of each row, opened with these arguments; rows that change none of them share it."""
    usual = LipSync(**network)
    changed = {flags: parse_flags(flags)[0] for flags in rows}
    return {flags: LipSync(**network | some) if some else usual for flags, some in changed.items()}


def settings_of(lips: LipSync, flags: str) -> tuple[ResolvedOptions, torch.dtype, str, Path | None]:
    """Return the settings with which a network runs under these flags."""
    _, options = parse_flags(flags)
    return lips.resolve(Options.of(options)), lips.dtype, lips.runtime.name, lips.restorer


def make_all(setup: Setup, lips: LipSync, flags: str) -> dict[str, list[SyncedVideo]]:
    """Lip-sync every clip with these flags; return the results by driving sound."""
    if flags == FILMED:
        return reencode_all(setup, lips)
    lips.preview(setup.clips[0], setup.clips[0], 0)  # loads libraries now, so that this is not timed
    made: dict[str, list[SyncedVideo]] = {take: [] for take in setup.heard}
    for take, clip, sound in [(take, *row) for take, sounds in setup.heard.items() for row in zip(setup.clips, sounds)]:
        middle = middle_of(lips.search.find(video.probe(clip))) if MIDDLE in flags else ""
        _, options = parse_flags(flags, middle) if middle else parse_flags(flags)
        outfile = setup.folder / folder_of(flags, take) / clip.name
        made[take].append(lip_sync(lips, clip, sound, outfile, options))
    return made


def reencode_all(setup: Setup, lips: LipSync) -> dict[str, list[SyncedVideo]]:
    """Re-encode every clip, once for all driving sounds; return it as if it were lip-synced to each."""
    made: dict[str, list[SyncedVideo]] = {take: [] for take in setup.heard}
    for clip, *sounds in zip(setup.clips, *setup.heard.values()):
        source, path = video.probe(clip), setup.folder / "as_filmed" / clip.name
        encode(path, source, clip, len(lips.search.find(source)))
        for take, sound in zip(made, sounds):
            (one,) = lips.prepare(clip, sound, reference="same").faces  # which costs least: no mouth is drawn
            made[take].append(SyncedVideo(path, clip, sound, list(one.boxes()), one.filmed.path.seen, math.nan))
    return made


def folder_of(flags: str, take: str) -> str:
    return f"{flags.replace(' ', '_').replace('/', '_')}/{take}"


def lip_sync(lips: LipSync, clip: Path, sound: Path, outfile: Path, options: dict) -> SyncedVideo:
    """Write ``outfile``, the clip lip-synced."""
    source = open_face(clip, Options.of(options))
    count = len(lips.search.find(source))  # now, so that it is not timed
    takes: list[Take] = []
    seconds = cpu_timed(lambda: takes.append(lips.prepare(clip, sound, **options)))
    (take,) = takes
    seconds += cpu_timed(lambda: lips.write(take, outfile))
    if source.geometry != video.Geometry():
        clip = outfile.with_stem(f"{outfile.stem}_source")
        encode(clip, source, sound, count, crf=0)
    (one,) = take.faces
    cost = 1000 * seconds / len(take)
    return SyncedVideo(outfile, clip, sound, list(one.boxes()), one.filmed.path.seen, cost)


def middle_of(found: Detections) -> str:
    """Return the median face box, in the order of --box."""
    x1, y1, x2, y2 = np.nanmedian(follow_face(found, len(found)), axis=0).round().astype(int)
    return f"{y1} {y2} {x1} {x2}"


# --------------------------------------------------------------------------------------------------------------------
# Figures


def measure(setup: Setup, flags: str, made: dict[str, list[SyncedVideo]]) -> Figures:
    """Return all figures of the clips that were made with these flags."""
    figures: Figures = {}
    for take, clips in made.items():
        scores = [compare_pictures(setup, clip) for clip in clips]
        told = GEOMETRY if OWN not in made and take == OTHER else FIGURES_BY_SOUND[take]
        figures |= {name: [getattr(one, name) for one in scores] for name in told}
    figures |= compare_sync(setup, made) if OWN in made else {}
    figures |= compare_lips(setup, setup.mediapipe, flags, made) if setup.mediapipe else {}
    figures["cpu_ms"] = [clip.cpu_ms for clip in made[OTHER]]
    return {name: row for name, row in figures.items() if None not in row}


def compare_pictures(setup: Setup, clip: SyncedVideo) -> Quality:
    return score_file(clip.path, clip.source, setup.search, judges=setup.judges, pads=setup.pads, drawn=clip.boxes)


def compare_sync(setup: Setup, made: dict[str, list[SyncedVideo]]) -> Figures:
    """Return how well lips fit the speech, by expert and judge and, for drawn heads, by the known aperture."""
    own, other = ([similarity(setup.judge, clip) for clip in made[take]] for take in (OWN, OTHER))
    figures = {
        "expert": [similarity(setup.expert, clip).mean for clip in made[OTHER]],
        "judge": [result.mean for result in other],
        "judge_own": [result.mean for result in own],
        "discrepancy": [a.mean - b.mean for a, b in zip(own, other)],
        "in_sync": [float(result.verdict == "in sync") for result in other],
    }
    fits = [aperture.compare_head(clip.path, clip.source, clip.heard) for clip in made[OTHER]]
    figures |= {"aperture": [fit.by_lag[0] if fit else math.nan for fit in fits]} if any(fits) else {}
    return figures | (compare_lse(setup, setup.lse, made[OTHER]) if setup.lse else {})


def compare_lse(setup: Setup, network: SyncNet_v2, clips: Sequence[SyncedVideo]) -> Figures:
    scores = [lse.score_file(clip.path, network, setup.search) for clip in clips]
    return {
        "LSE-D": [float(np.mean([score.lse_d for score in found])) for found in scores],
        "LSE-C": [float(np.mean([score.lse_c for score in found])) for found in scores],
    }


def similarity(expert: Expert, clip: SyncedVideo) -> Result:
    return score_boxes(video.probe(clip.path), clip.seen, clip.heard, expert)


def compare_lips(setup: Setup, mediapipe: Path, flags: str, made: dict[str, list[SyncedVideo]]) -> Figures:
    """Return the figures that need landmarks; see the functions in ``evaluation.lips``."""
    found = {
        take: find_landmarks(mediapipe, setup.folder, [clip.path for clip in clips], folder_of(flags, take))
        for take, clips in made.items()
    }
    filmed, quiet = setup.real, found[SILENT]
    apart, still = ([lip_distance(points) for points in some] for some in (filmed, quiet))
    figures = {
        "rest": [float(lips.opening_share(*pair)[1]) for pair in zip(still, apart)],
        "leak": [lips.leak(*(lips.aspect(lips.of_mesh(one)) for one in pair)) for pair in zip(quiet, filmed)],
    }
    if OWN not in made:
        return figures
    figures["lmd"] = [lip_landmark_distance(*row) for row in zip(made[OWN], found[OWN], filmed)]
    return figures | compare_movement(made[OTHER], [lip_distance(points) for points in found[OTHER]], apart)


def lip_landmark_distance(clip: SyncedVideo, made: np.ndarray, filmed: np.ndarray) -> float:
    """Return ``lips.landmark_distance`` of landmarks (frames, 478, 2) that may differ in size, length and rate."""
    source, result = video.probe(clip.heard), video.probe(clip.path)
    made = source.width / result.width * np.array(list(resample(made, result.fps, source.fps)))
    count = min(len(made), len(filmed))
    return lips.landmark_distance(lips.of_mesh(made[:count]), lips.of_mesh(filmed[:count]))


def compare_movement(clips: Sequence[SyncedVideo], moved: Sequence[np.ndarray], apart: Sequence[np.ndarray]) -> Figures:
    """Return how lips move, relative to those of the speaker who is heard."""
    said = [*apart[1:], *apart[:1]]
    rates = [(video.probe(clip.heard).fps, video.probe(clip.path).fps) for clip in clips]
    fits = [aperture.compare_apertures(a, np.array(list(resample(b, *fps)))) for a, b, fps in zip(moved, said, rates)]
    return {
        "movement": [lips.movement(*pair) for pair in zip(moved, said)],
        "r": [fit.by_lag[0] if fit else math.nan for fit in fits],
    }


def means(figures: Figures) -> dict[str, float]:
    """Return the means over the clips that have a figure."""
    return {name: float(np.nanmean(row)) for name, row in figures.items() if not np.isnan(row).all()}


def missing(setup: Setup) -> list[str]:
    """Return a line for each group of figures that was not measured, with the flag for it."""
    sync = [] if setup.lse else ["not measured: LSE-D, LSE-C; --lse_checkpoint_path takes syncnet_v2"]
    if not setup.mediapipe:
        return [*sync, "not measured: rest, leak, lmd, movement, r; --mediapipe", *judges.missing_judges(setup.judges)]
    return [*sync, *(line for line in judges.missing_judges(setup.judges) if "lmd" not in line)]


def differs(row: Sequence[float], usual: Sequence[float]) -> bool:
    """Return whether two rows differ by more than chance."""
    apart = np.subtract(row, usual)
    apart = apart[np.isfinite(apart)]
    if len(apart) < 2:
        return False
    if np.ptp(apart) <= 1e-6 * np.abs(apart).max():  # no test is defined for equal values
        return bool(apart.any())
    return bool(stats.ttest_1samp(apart, 0).pvalue < CHANCE)


def text(rows: Mapping[str, Figures]) -> str:
    """Return the table in Markdown, with differences from the defaults in bold."""
    columns = list(dict.fromkeys(name for figures in rows.values() for name in means(figures)))
    usual = rows.get(DEFAULTS, {})
    lines = [f"| flags | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in rows.items():
        shown, cells = means(figures), []
        for column in columns:
            cell = f"{shown[column]:.3f}" if column in shown else ""
            told = cell and column in usual and column not in NOISY
            cells.append(f"**{cell}**" if told and differs(figures[column], usual[column]) else cell)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------------------
# Pictures


def sheet_of(rows: Mapping[str, SyncedVideo]) -> np.ndarray:
    """Return the face of one clip at the same moments, a row for each way in which it was lip-synced."""
    strips = []
    for name, made in rows.items():
        pairs = zip(video.read_frames(video.probe(made.path)), made.seen)
        frames = [row for row in pairs if not np.isnan(row[1]).any()]
        moments = np.linspace(0, len(frames) - 1, COLUMNS).astype(int)
        strip = np.hstack([around_mouth(*frames[moment]) for moment in moments])
        cv2.putText(strip, name, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
        strips.append(strip)
    return np.vstack(strips)


def around_mouth(frame: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Return the lower part of a face, (SIDE, SIDE, 3), with some room below."""
    x1, y1, x2, y2 = face
    side = x2 - x1
    return cut_square(frame, int(x1), int(y2 + ROOM * side - side), max(1, int(side)), SIDE)


if __name__ == "__main__":
    sys.exit(main())
