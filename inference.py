"""Make the lips in a video or photo match any speech.

    python inference.py --face VIDEO_OR_PHOTO --audio SPEECH

Batches: pass several files or a folder for either, or a table (CSV) with one row per video.

    python inference.py --face FOLDER --audio FOLDER --outfile RESULTS
    python inference.py --jobs jobs.csv

Under torchrun every process makes its share of the batch. After an interruption, the same command continues.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2

import arguments
import cli
import files
import jobs
import video
from errors import UserError, prefix_errors
from lipsync import input_files
from terminal import TERMINAL

OUTFILE = Path("results/result_voice.mp4")
FILES = ("face", "audio", "outfile")
# columns that --jobs may have; other flags are the same for all rows
JOB_COLUMNS = (*FILES, *arguments.FLAGS_OF_OPTIONS)


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Lip-sync a video or photo to any speech.")
    add = parser.add_argument
    add("--face", nargs="+", type=Path, help="The video or photo with a face: a file, several, or a folder.")
    add(
        "--audio",
        nargs="+",
        type=Path,
        help="The speech: any file with sound, also a video. Give one for all faces, one for each, or a folder of "
        "files named like the faces.",
    )
    add(
        "--pair",
        nargs="+",
        action="extend",
        type=face_and_speech,
        metavar="NUMBER=SPEECH",
        help="Instead of --audio: a speech for each of several people in one video. NUMBER counts faces from the left, "
        "from 0.",
    )
    add(
        "--jobs",
        type=Path,
        help="Make a video for every row of this table (CSV). Its columns are face, audio, outfile, and the names of "
        "other flags.",
    )
    add("--again", action="store_true", help="In a batch, also remake videos that are already finished.")
    add("--outfile", type=Path, default=OUTFILE, help="The video to write; in a batch, the folder (results).")
    add(
        "--preview",
        type=cli.moment,
        metavar="TIME",
        help="Make only the frame at this time of the result, as a PNG with the name of --outfile.",
    )
    arguments.add_lip_sync_arguments(parser)
    return parser


def face_and_speech(text: str) -> tuple[int, Path]:
    number, _, speech = text.partition("=")
    if not (number.isdecimal() and speech):
        raise argparse.ArgumentTypeError(f"{text!r} is not NUMBER=SPEECH, such as 0=anna.wav")
    return int(number), cli.path(speech)


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    args.face, args.audio = (files.expanded(given or ()) for given in (args.face, args.audio))
    if args.pair:
        run_pairs(args)
    elif args.jobs or not args.face or not args.audio:
        run_jobs(read_jobs(args), args)
    elif len(args.face) == len(args.audio) == 1 and not any(map(files.is_folder, (*args.face, *args.audio))):
        make_one(args, args.face[0], args.audio[0])
    else:
        run_jobs(jobs.pair(args.face, args.audio, arguments.lip_sync_options(args), TERMINAL), args)


def run_pairs(args: argparse.Namespace) -> None:
    """Lip-sync several people in one video."""
    if args.audio or args.jobs:
        raise UserError(f"--pair already names the speeches; leave --{'audio' if args.audio else 'jobs'} out")
    if not args.face or len(args.face) > 1:
        raise UserError("--pair needs exactly one video; give it with --face")
    numbers = [number for number, _ in args.pair]
    if twice := {number for number in numbers if numbers.count(number) > 1}:
        raise UserError(f"--pair gives face {min(twice)} two speeches; give one")
    make_one(args, args.face[0], dict(args.pair))


def make_one(args: argparse.Namespace, face: Path, speech: Path | dict[int, Path]) -> None:
    """Make one video, or one frame of it."""
    lips, options = arguments.open_lips(args), arguments.lip_sync_options(args)
    if args.preview is None:
        print(f"{args.outfile}: {lips.run(face, speech, args.outfile, **options)}")
        return
    path = args.outfile.with_suffix(".png")
    files.check_outputs({"--outfile": path}, input_files(face, speech, **options))
    frame = lips.preview(face, speech, args.preview, **options)
    files.save(path, cv2.imencode(".png", frame)[1].tobytes())
    print(f"{path}: the frame at {args.preview:g} s, or the last one")


# --------------------------------------------------------------------------------------------------------------------
# Batches


def read_jobs(args: argparse.Namespace) -> list[jobs.Job]:
    """Return a job for every row of --jobs; empty cells fall back to the command line."""
    if not args.jobs:
        raise UserError("give --face and --audio (or --pair), or --jobs; see --help")
    if args.face or args.audio:
        raise UserError("--jobs already names the faces and speeches; leave --face and --audio out")
    parser = get_parser()
    others = {name for name in vars(args) if name not in JOB_COLUMNS}
    shared = argparse.Namespace(**{**vars(args), "outfile": None})
    listed = []
    for row in jobs.read_table(args.jobs, JOB_COLUMNS, FILES[:2], others):
        with prefix_errors(row.name):
            own = parser.parse_cells(row.cells, shared, args.jobs.parent)
        listed.append(jobs.Job(own.face[0], own.audio[0], own.outfile, arguments.lip_sync_options(own), row.name))
    return listed


def run_jobs(listed: list[jobs.Job], args: argparse.Namespace) -> None:
    if args.preview is not None:
        raise UserError("--preview shows a frame of one video; give one --face and one --audio, or --pair")
    if outcome := jobs.work_through(jobs.settle(listed, folder_of(args)), arguments.open_lips(args), args.again):
        outcome.check()


def folder_of(args: argparse.Namespace) -> Path:
    """Return the folder for a batch's results that have no outfile of their own."""
    folder = OUTFILE.parent if args.outfile == OUTFILE else args.outfile
    if args.outfile != OUTFILE and args.outfile.suffix.lower() in video.CONTAINERS and not args.outfile.is_dir():
        raise UserError(f"--outfile {args.outfile} is the name of one video; give a folder for several")
    for path in (*args.face, *args.audio):
        if path.is_dir() and path.resolve() == folder.resolve():
            raise UserError(f"--outfile {path} is a folder of --face or --audio, and files would mix; give another")
    return folder


if __name__ == "__main__":
    sys.exit(main())
