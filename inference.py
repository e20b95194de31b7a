"""Make the lips in a video or photo match any speech.

python inference.py --face VIDEO_OR_PHOTO --audio SPEECH
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cli
import mouths
import runtimes
from lipsync import LipSync

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
NO_BOX = [-1, -1, -1, -1]  # what the reference takes for "look for it"
SAME_NAMES = (
    "static", "fps", "pads", "resize_factor", "crop", "rotate", "face_index", "on_missing_face", "loop", "lip_delay",
    "mix", "silence", "reference", "mouth_gain", "blend", "crf", "preset",
)  # fmt: skip


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Lip-sync a video or photo to any speech.")
    add = parser.add_argument
    add(
        "--checkpoint_path", help="The generator: a file, wav2lip or wav2lip_gan. Without it, the one that comes along."
    )
    add("--face", required=True, type=Path, help="The video or photo with a face.")
    add("--audio", required=True, type=Path, help="The speech: any file that has sound, videos included.")
    add("--mix", type=Path, help="Let this be heard in the result: music and all, of which --audio is the voice alone.")
    add("--outfile", type=Path, default=Path("results/result_voice.mp4"), help="The video to write.")
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
        help="Also tell, by this expert, how well the speech matches the face as it was filmed.",
    )
    cli.add_search_arguments(parser)
    add(
        "--face_index",
        type=int,
        help="Take this face, counted from left to right at first sight, 0 first; without it, the largest.",
    )
    add(
        "--on_missing_face",
        choices=("keep", "error"),
        default="keep",
        help="Keep frames without a face as they are, or stop.",
    )
    add(
        "--loop",
        choices=("loop", "pingpong"),
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
        choices=("free", "closed"),
        default="free",
        help="In pauses let lips do what the network likes, or close them.",
    )
    add(
        "--reference",
        type=frame_or_name,
        default="same",
        metavar="{same,still,FRAME}",
        help="Show the network each frame itself, one with a shut mouth, or the frame of this number.",
    )
    add(
        "--mouth_gain",
        type=cli.finite,
        default=1.0,
        help="Move the mouth so many times as far as the network would.",
    )
    add(
        "--blend",
        choices=mouths.BLENDS,
        help="Paste the whole box, or softly only what changes. Without it, as the network wants it.",
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
    add("--preset", choices=PRESETS, default="superfast", help="Encode with this effort.")
    return parser


def frame_or_name(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    options = {name: getattr(args, name) for name in SAME_NAMES}
    options |= {"box": None if args.box == NO_BOX else args.box, "smooth": not args.nosmooth, "mark": not args.no_mark}
    lips = LipSync(
        args.checkpoint_path,
        search=cli.face_search(args),
        expert=args.syncnet_checkpoint_path,
        device=args.device,
        precision=args.precision,
        runtime=args.runtime,
        batch_size=args.wav2lip_batch_size,
        report=cli.TERMINAL,
    )
    take = lips.run(args.face, args.audio, args.outfile, **options)
    print(f"{args.outfile}: {len(take)} frames, {take.seconds:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
