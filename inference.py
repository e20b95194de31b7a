"""Make the lips in a video or photo match any speech.

    python inference.py --face VIDEO_OR_PHOTO --audio SPEECH

Or many: several files or a folder for either, or a table (CSV) of what is to be made of what.

    python inference.py --face FOLDER --audio FOLDER --outfile RESULTS
    python inference.py --jobs jobs.csv

Under torchrun every process takes its share of many. Stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cli
import dialogue
import files
import jobs
import runtimes
import video
from devices import own_device
from errors import UserError, about
from lipsync import VALUES, LipSync, Take

OUTFILE = Path("results/result_voice.mp4")
NO_BOX = [-1, -1, -1, -1]  # what the reference takes for "look for it"
SAME_NAMES = (
    "static", "fps", "pads", "resize_factor", "crop", "rotate", "face_index", "speaker", "face_like", "identity",
    "on_missing_face", "loop", "lip_delay", "start", "end", "mix", "silence", "reference", "mouth_gain", "blend",
    "occlusion", "crf", "preset",
)  # fmt: skip
FILES = ("face", "audio", "outfile")
OF_ONE = (*FILES, *SAME_NAMES, "box", "nosmooth", "no_mark")  # what a row of --jobs may have, as others need not


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Lip-sync a video or photo to any speech.")
    add = parser.add_argument
    add(
        "--checkpoint_path", help="The generator: a file, wav2lip or wav2lip_gan. Without it, the one that comes along."
    )
    add("--face", nargs="+", type=Path, help="The video or photo with a face; or several, or a folder of them.")
    add(
        "--audio",
        nargs="+",
        type=Path,
        help="The speech: any file that has sound, videos included; one for all faces, one for each, or a folder of "
        "files that are called as the faces are.",
    )
    add(
        "--pair",
        nargs="+",
        type=face_and_speech,
        metavar="NUMBER=SPEECH",
        help="Instead of --audio: several people in one video, counted from the left, 0 first, each with a speech.",
    )
    add("--jobs", type=Path, help="Make what a table (CSV) says: columns face, audio, outfile, and flags of its rows.")
    add("--again", action="store_true", help="Of many, make those too that are made already.")
    add("--mix", type=Path, help="Let this be heard in the result: music and all, of which --audio is the voice alone.")
    add(
        "--start",
        type=cli.moment,
        metavar="TIME",
        help="Redo only a part of the video, in which the speech begins here: seconds, MM:SS or HH:MM:SS.mmm.",
    )
    add("--end", type=cli.moment, metavar="TIME", help="End that part here. Without it, with the speech or the video.")
    add("--outfile", type=Path, default=OUTFILE, help="The video to write; of many, their folder.")
    add("--static", nargs="?", const=True, default=False, type=cli.boolean, help="Use only the first frame.")
    add(
        "--fps",
        type=cli.positive(float),
        help="Give the result so many frames a second; without it, as many as --face has, or 25.",
    )
    add(
        "--pads",
        nargs="+",
        type=int,
        help="Add so many pixels to the box: top bottom left right. Without it, as the network wants it.",
    )
    add(
        "--wav2lip_batch_size",
        type=cli.positive(int),
        default=128,
        help="Show the network at most so many faces at a time.",
    )
    add("--resize_factor", type=cli.positive(int), default=1, help="Shrink the frames by this factor first.")
    add(
        "--crop",
        nargs="+",
        type=int,
        default=[0, -1, 0, -1],
        help="Use only this part of the frames: top bottom left right; -1 is the far edge.",
    )
    add(
        "--box",
        nargs="+",
        type=int,
        default=NO_BOX,
        help="Take this for the face's box, in all frames: top bottom left right. -1 -1 -1 -1 looks for it.",
    )
    add("--rotate", action="store_true", help="Turn the frames by 90 degrees clockwise, before --crop.")
    add("--nosmooth", action="store_true", help="Do not smooth the boxes over time.")
    add(
        "--syncnet_checkpoint_path",
        help="Also tell, by this expert, how well the speech matches the face as it was filmed; --speaker asks it too.",
    )
    cli.add_search_arguments(parser)
    add(
        "--face_index",
        type=int,
        help="Take this face, counted from left to right at first sight, 0 first; without it, the largest.",
    )
    add(
        "--speaker",
        choices=VALUES["speaker"],
        help="In each shot take the face whose lips move with the sound of --face; leave other shots as filmed.",
    )
    add("--face_like", type=Path, help="In each shot take the face that looks like the one in this picture.")
    add("--identity", default="sface", help="Tell likeness by this SFace: a file, or sface to download it once.")
    add(
        "--on_missing_face",
        choices=VALUES["on_missing_face"],
        default="keep",
        help="Keep frames without a face as they are, or stop.",
    )
    add(
        "--loop",
        choices=VALUES["loop"],
        default="loop",
        help="Repeat a video that is shorter than the speech from its start, or back and forth.",
    )
    add(
        "--lip_delay",
        type=cli.finite,
        default=0.0,
        help="Make lips come so many milliseconds later; 40 for networks trained as in the reference.",
    )
    add(
        "--silence",
        choices=VALUES["silence"],
        default="free",
        help="In pauses let lips do what the network likes, or close them.",
    )
    add(
        "--reference",
        type=frame_or_name,
        metavar="{same,still,matching,FRAME}",
        help="Show the network each frame itself, with a shut mouth, with one as far open as the sound opens it, or "
        "the frame of this number. Without it, as the network wants it.",
    )
    add(
        "--mouth_gain",
        type=cli.finite,
        default=1.0,
        help="Move the mouth so many times as far as the network would.",
    )
    add(
        "--blend",
        choices=VALUES["blend"],
        help="Paste the whole box, or softly only what changes. Without it, as the network wants it.",
    )
    add(
        "--occlusion",
        choices=VALUES["occlusion"],
        default="keep",
        help="Keep in front of the mouth what was filmed there (hands, microphones, captions), or draw over it.",
    )
    add(
        "--restorer",
        metavar="FILE",
        help="Sharpen each mouth with this face restorer: GFPGAN, RestoreFormer or another that spandrel loads.",
    )
    add(
        "--credentials",
        nargs=2,
        type=Path,
        metavar=("CERTIFICATES", "KEY"),
        help="Sign what was done into the file (C2PA) with these certificates and their private key, both PEM.",
    )
    add("--no_mark", action="store_true", help="Do not say in the file's comment that its lips are synthetic.")
    cli.add_compute_arguments(parser, runtimes.PRECISIONS)
    add(
        "--runtime",
        choices=runtimes.NAMES,
        default="torch",
        help="Compute the generator with this; openvino is faster on CPUs (int8) and asks for two packages more.",
    )
    add(
        "--crf",
        type=int,
        choices=range(52),
        metavar="0-51",
        default=18,
        help="Encode with this quality; lower is better.",
    )
    add("--preset", choices=VALUES["preset"], default="superfast", help="Encode with this effort.")
    return parser


def frame_or_name(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def face_and_speech(text: str) -> tuple[int, Path]:
    number, _, speech = text.partition("=")
    if not (number.isdecimal() and speech):
        raise argparse.ArgumentTypeError(f"{text!r} is not NUMBER=SPEECH, such as 0=anna.wav")
    return int(number), Path(speech)


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    if args.pair:
        run_pairs(args)
    elif args.jobs or not args.face or not args.audio:
        run_jobs(read_jobs(args), args)
    elif len(args.face) == len(args.audio) == 1 and not any(map(files.is_folder, (*args.face, *args.audio))):
        take = open_lips(args).run(args.face[0], args.audio[0], args.outfile, **options_of(args))
        print(f"{args.outfile}: {len(take)} frames, {take.seconds:.2f} s{where(take)}")
    else:
        run_jobs(jobs.pair(args.face, args.audio, options_of(args), cli.TERMINAL), args)


def run_pairs(args: argparse.Namespace) -> None:
    """Make several people in one video speak."""
    if args.audio or args.jobs:
        raise UserError(f"--pair gives the speeches; leave --{'audio' if args.audio else 'jobs'} out")
    if not args.face or len(args.face) > 1:
        raise UserError("--pair is about the people in one video; give it by --face")
    numbers = [number for number, _ in args.pair]
    if twice := {number for number in numbers if numbers.count(number) > 1}:
        raise UserError(f"--pair gives face {min(twice)} two speeches; give one")
    take = dialogue.run(open_lips(args), args.face[0], dict(args.pair), args.outfile, **options_of(args))
    print(f"{args.outfile}: {len(take)} frames, {take.seconds:.2f} s{where(take)}")


def options_of(args: argparse.Namespace) -> dict[str, object]:
    options = {name: getattr(args, name) for name in SAME_NAMES}
    box = None if args.box == NO_BOX else args.box
    return options | {"box": box, "smooth": not args.nosmooth, "mark": not args.no_mark}


def open_lips(args: argparse.Namespace) -> LipSync:
    return LipSync(
        args.checkpoint_path,
        search=cli.face_search(args),
        expert=args.syncnet_checkpoint_path,
        restorer=args.restorer,
        credentials=args.credentials,
        device=own_device(args.device),
        precision=args.precision,
        runtime=args.runtime,
        batch_size=args.wav2lip_batch_size,
        report=cli.terminal_of_one(),
    )


def where(take: Take) -> str:
    if not take.options.is_part:
        return ""
    start = float(take.source.start / take.source.fps)
    return f" from {start:.2f} to {start + take.seconds:.2f} s; the others as they were filmed"


# --------------------------------------------------------------------------------------------------------------------
# Many


def read_jobs(args: argparse.Namespace) -> list[jobs.Job]:
    """Return a job for every row of --jobs; what a row does not say, the command line does."""
    if not args.jobs:
        raise UserError("give --face and --audio, or --jobs; --help says more")
    if args.face or args.audio:
        raise UserError("--jobs says which faces and speeches; leave --face and --audio out")
    parser = get_parser()
    others = {name for name in vars(args) if name not in OF_ONE}
    shared = argparse.Namespace(**{**vars(args), "outfile": None})
    listed = []
    for row in jobs.read_table(args.jobs, OF_ONE, FILES[:2], others):
        with about(row.name):
            own = parser.parse_cells(row.cells, shared, args.jobs.parent)
        listed.append(jobs.Job(own.face[0], own.audio[0], own.outfile, options_of(own), row.name))
    return listed


def run_jobs(listed: list[jobs.Job], args: argparse.Namespace) -> None:
    if outcome := jobs.work_through(jobs.settle(listed, folder_of(args)), open_lips(args), args.again):
        outcome.check()


def folder_of(args: argparse.Namespace) -> Path:
    """Return where results of many go that have no name of their own."""
    if args.outfile == OUTFILE:
        return OUTFILE.parent
    if args.outfile.suffix.lower() in video.CONTAINERS and not args.outfile.is_dir():
        raise UserError(f"--outfile {args.outfile} is the name of one video; give a folder for several")
    for path in (*(args.face or ()), *(args.audio or ())):
        if path.is_dir() and path.resolve() == args.outfile.resolve():
            raise UserError(f"--outfile {path} is a folder of --face or --audio, and files would mix; give another")
    return args.outfile


if __name__ == "__main__":
    sys.exit(main())
