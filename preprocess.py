"""Turn a folder of videos into training data: face crops, sound and mel of every clip.

    python preprocess.py --data_root VIDEOS --preprocessed_root DATA

Under torchrun every process takes its share of the videos, and the last one to finish writes the report.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import arguments
import cli
import files
from errors import UserError
from hparams import FILELISTS, whole_name
from hparams import hparams as hp
from models import weights
from preprocessing import (
    ACTIONS,
    MAX_SECONDS,
    OUT_OF_SYNC,
    PreprocessingOptions,
    Summary,
    SyncCheck,
    listed_names,
    preprocess,
    write_filelists,
)
from terminal import TERMINAL

NAMED_ON_SCREEN = 10  # dropped clips listed on screen; report.json lists all


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Turn a folder of videos into face crops, audio.wav and mel.npy for training.")
    add = parser.add_argument
    add("--data_root", required=True, type=Path, help="The folder with the videos; subfolders are searched.")
    add("--preprocessed_root", required=True, type=Path, help="The folder to write to; clips finished there are kept.")
    add("--batch_size", type=cli.positive(int), default=32, help="Batch size of the face detector.")
    add("--ngpu", type=cli.positive(int), default=1, help="Number of GPUs to use, each with its own worker processes.")
    add(
        "--workers",
        type=cli.positive(int),
        help="Number of videos to process in parallel, per GPU. Without it, 1, or one per CPU core for centerface and "
        "haar.",
    )
    arguments.add_detector_arguments(parser)
    arguments.add_compute_arguments(parser)
    add(
        "--split",
        type=fractions,
        metavar="TRAIN,VAL,TEST",
        help="Write filelists, split into these shares, such as 0.9,0.05,0.05. Top-level folders are kept together, "
        "or subfolders and videos if there are too few. Clips that are already listed stay in their list.",
    )
    add(
        "--filelists",
        type=Path,
        default=FILELISTS,
        help="The folder to which --split writes train.txt, val.txt and test.txt.",
    )
    add(
        "--seconds",
        type=cli.positive(float),
        help=f"Cut longer shots into clips of at most this many seconds. Without it, {MAX_SECONDS:g}, and finished "
        "clips keep their length.",
    )
    add(
        "--sync",
        choices=ACTIONS,
        help="Check whether lips and sound match in every clip: report the result, drop clips that are out of sync, or "
        "correct those whose sound is only early or late and drop the rest. Clips are dropped from this run only, so "
        "repeat the flag in later runs.",
    )
    add(
        "--syncnet_checkpoint_path",
        type=cli.file_or_name,
        default=weights.DEMO,
        help="The expert for --sync: a file, lipsync_expert, or demo (the included one).",
    )
    add("--seed", type=cli.seed, default=0, help="Random seed of the split.")
    return parser


def fractions(text: str) -> tuple[float, ...]:
    """Parse ``0.9,0.05,0.05``: the shares of train, val and test."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3 or not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers that sum to 1, such as 0.9,0.05,0.05")
    return shares


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    if args.split:
        files.check_folder(args.filelists)  # fail early
    search = replace(arguments.face_search(args), batch_size=args.batch_size)
    sync = SyncCheck(args.sync, args.syncnet_checkpoint_path) if args.sync else None
    options = PreprocessingOptions(
        search,
        device=args.device,
        precision=args.precision,
        gpus=args.ngpu,
        workers=args.workers,
        seconds=args.seconds,
        sync=sync,
    )
    summary = preprocess(args.data_root, args.preprocessed_root, options, TERMINAL)
    if summary is None:  # another process finishes last and has the summary
        return
    print_table(summary, args.preprocessed_root / "report.json")
    if args.split:
        print(f"split      {write_filelists(summary.kept, args.split, args.seed, args.filelists)}")
    elif (args.filelists / "train.txt").exists():
        print_unlisted(summary, args.filelists)


def print_unlisted(summary: Summary, filelists: Path) -> None:
    """Say it if the existing lists, which stay as they are, do not have the clips of this run."""
    listed: set[str] = set()
    with contextlib.suppress(UserError):  # training will say what is wrong with them
        listed = listed_names(filelists)
    missing = sum(listed.isdisjoint((clip.clip, whole_name(clip.clip))) for clip in summary.kept)
    problems = [f"{missing} of these clips are in none"] if missing else []
    if any(clip.reason == OUT_OF_SYNC for clip in summary.dropped):
        problems.append("clips dropped now may still be in them")
    if problems:
        print(f"lists      not rewritten: {', and '.join(problems)}; add --split to update them")


def print_table(summary: Summary, path: Path) -> None:
    before = f" ({summary.finished_before} of them before)" if summary.finished_before else ""
    sources = len({clip.source for clip in summary.kept})
    pieces = f" of {sources} videos" if sources < len(summary.kept) else ""
    print(f"clips      {len(summary.kept)} kept{pieces}{before}, {len(summary.dropped)} dropped")
    for clip in summary.dropped[:NAMED_ON_SCREEN]:
        print(f"  {clip.reason:<10} {clip.source}: {clip.detail}")
    if len(summary.dropped) > NAMED_ON_SCREEN:
        print(f"  … in all {summary.reasons}")
    for fps, count in Counter(summary.converted.values()).most_common():
        print(f"converted  {count} from {fps:g} to {hp.fps:g} fps")
    print(f"frames     {summary.frames}, {summary.frames_with_face / summary.frames:.1%} with a face")
    if summary.left_out:
        print(f"left out   {', '.join(f'{count} frames: {reason}' for reason, count in summary.left_out.items())}")
    if copies := len(summary.kept) - len({(clip.sha256 or clip.clip, clip.first) for clip in summary.kept}):
        print(f"copies     {copies} clips are the same as others; if they are in several lists, delete some videos")
    print_sync(summary)
    speed = summary.detector_frames_per_second
    print(f"detector   {summary.face_detector}, {speed:g} frames/s a worker" if speed else "detector   not needed")
    used = Counter(clip.face_detector for clip in summary.kept)
    for name in sorted(set(used) - {summary.face_detector}):
        print(f"           {used[name]} clips were cut before with {name}")
    print(f"time       {summary.seconds} s")
    print(f"report     {path}")


def print_sync(summary: Summary) -> None:
    """Print how well lips and sound match, if this was checked."""
    if summary.verdicts:
        print(f"sync       {', '.join(f'{count} {verdict}' for verdict, count in summary.verdicts.items())}")
    elif summary.kept:
        print("sync       not checked; --sync report tells whether faces and voices match")
    if shifted := sum(clip.shifted != 0 for clip in summary.kept):
        print(f"           the sound of {shifted} clips was moved")


if __name__ == "__main__":
    sys.exit(main())
