"""Flags shared by several scripts, and the objects made from them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cli
import faces
import runtimes
from devices import PRECISIONS, own_device
from faces import FaceSearch
from hparams import FILELISTS
from lipsync import MOUTH_OPTIONS, OPTION_CHOICES, LipSync, Options
from terminal import terminal_for_rank

if TYPE_CHECKING:
    from recipes import TrainingOptions

Flags = argparse._ActionsContainer  # a parser, or one of its groups
NO_BOX = [-1, -1, -1, -1]  # in the reference, "detect the face"
GENERATOR = "The generator: a file, demo (the included one, the default), wav2lip or wav2lip_gan."
NEGATED = {"smooth": "nosmooth", "mark": "no_mark"}  # flags that switch off what ``lipsync.Options`` switches on
FLAGS_OF_OPTIONS = [NEGATED.get(field.name, field.name) for field in fields(Options)]


def add_compute_arguments(parser: Flags, precisions: Iterable[str] = tuple(PRECISIONS)) -> None:
    parser.add_argument("--device", default="auto", help="The device to compute on: auto, cpu, cuda, cuda:N or mps.")
    parser.add_argument(
        "--precision",
        choices=("auto", *precisions),
        default="auto",
        help="Numeric precision of the networks; auto uses half precision where the hardware is fast at it.",
    )


def add_detector_argument(parser: Flags) -> None:
    parser.add_argument(
        "--face_detector",
        choices=faces.NAMES,
        default=faces.AUTO,
        help="The face detector. auto is sfd, or centerface if sfd's weights are not available. "
        f"{' and '.join(faces.CPU_DETECTORS)} need no download.",
    )


def add_detector_arguments(parser: Flags) -> None:
    add_detector_argument(parser)
    parser.add_argument("--face_detector_weights", type=Path, help="Load the detector's weights from this file.")


def add_search_arguments(parser: Flags) -> None:
    """Add the flags of scripts that search one video at a time and cache the boxes."""
    add_detector_arguments(parser)
    add = parser.add_argument
    add(
        "--face_det_batch_size",
        type=cli.positive(int),
        default=FaceSearch.batch_size,
        help="Batch size of the face detector.",
    )
    add("--no_cache", action="store_true", help="Detect faces again, and do not cache their boxes.")


def face_search(args: argparse.Namespace) -> FaceSearch:
    """Return the search described by ``add_detector_arguments`` or ``add_search_arguments``."""
    search = FaceSearch(args.face_detector, args.face_detector_weights)
    if not hasattr(args, "no_cache"):
        return search
    return replace(search, batch_size=args.face_det_batch_size, cache=not args.no_cache)


def add_training_arguments(parser: cli.Parser) -> None:
    add = parser.add_argument
    add("--data_root", required=True, type=Path, help="The folder that preprocess.py wrote.")
    add("--checkpoint_dir", required=True, type=Path, help="The folder for checkpoints, samples and logs.")
    add("--checkpoint_path", type=Path, help="Start from this checkpoint, a file or a name such as wav2lip.")
    add(
        "--resume",
        action="store_true",
        help="Continue from the newest checkpoint in --checkpoint_dir; if there is one, --checkpoint_path is ignored.",
    )
    add("--filelists", type=Path, default=FILELISTS, help="The folder with train.txt and val.txt.")
    add("--hparams", default="", metavar="NAME=VALUE,…", help="Change settings of hparams.py.")
    add(
        "--max_steps",
        type=cli.positive(int),
        help="Stop after this step. Without it, training continues until it is interrupted.",
    )
    add("--keep", type=cli.positive(int), help="Number of newest checkpoints to keep. Without it, all.")
    add("--seed", type=cli.seed, default=0, help="Random seed of the weights and of the data order.")
    add_compute_arguments(parser, ("fp32", "bf16"))


def training_options(args: argparse.Namespace) -> TrainingOptions:
    """Return the options from ``add_training_arguments``."""
    from recipes import TrainingOptions  # imported here because other scripts do not need it

    return TrainingOptions(
        filelists=args.filelists,
        settings=args.hparams,
        checkpoint=args.checkpoint_path,
        discriminator_checkpoint=getattr(args, "disc_checkpoint_path", None),
        resume=args.resume,
        max_steps=args.max_steps,
        keep=args.keep,
        seed=args.seed,
        device=args.device,
        precision=args.precision,
    )


# --------------------------------------------------------------------------------------------------------------------
# Lip-sync


def add_lip_sync_arguments(parser: cli.Parser) -> None:
    """Add all flags of lip-syncing, except those for the face and the speech."""
    _add_network_arguments(parser.add_argument_group("the network"))
    _add_face_arguments(parser.add_argument_group("the face"))
    _add_frame_arguments(parser.add_argument_group("the frames"))
    add_mouth_arguments(parser.add_argument_group("the mouth"))
    _add_file_arguments(parser.add_argument_group("the output file"))


def _add_network_arguments(parser: Flags) -> None:
    add = parser.add_argument
    add("--checkpoint_path", type=cli.file_or_name, help=GENERATOR)
    add(
        "--syncnet_checkpoint_path",
        type=cli.file_or_name,
        help="Report how well the speech matches the face as filmed, by this expert: a file, lipsync_expert or demo. "
        "--speaker uses it too.",
    )
    add_generation_arguments(parser)


def add_generation_arguments(parser: Flags) -> None:
    """Add the flags for what makes the frames, besides the generator."""
    add = parser.add_argument
    add(
        "--restorer",
        type=Path,
        metavar="FILE",
        help="Sharpen each mouth with this face restorer: GFPGAN, RestoreFormer or another that spandrel can load.",
    )
    add_batch_argument(parser)
    add_compute_arguments(parser, runtimes.PRECISIONS)
    add(
        "--runtime",
        choices=runtimes.NAMES,
        default="torch",
        help="The runtime of the generator; openvino (int8) is faster on CPUs without bf16 and needs two more "
        "packages installed.",
    )


def add_batch_argument(parser: Flags) -> None:
    parser.add_argument(
        "--wav2lip_batch_size",
        type=cli.positive(int),
        default=128,
        help="Maximum batch size of the generator.",
    )


def _add_face_arguments(parser: Flags) -> None:
    add = parser.add_argument
    add_search_arguments(parser)
    add(
        "--face_index",
        type=cli.whole,
        help="Use the face with this number, counted from the left as faces first appear in each shot, from 0. Without "
        "it, the largest.",
    )
    add(
        "--speaker",
        choices=OPTION_CHOICES["speaker"],
        help="In each shot, use the face whose lips move with the sound of --face; leave shots without one as filmed.",
    )
    add("--face_like", type=Path, help="In each shot, use the face that looks like the one in this picture.")
    add_identity_argument(parser)
    add(
        "--on_missing_face",
        choices=OPTION_CHOICES["on_missing_face"],
        default=Options.on_missing_face,
        help="Keep frames without a face as they are (keep), or stop with an error (error).",
    )
    add(
        "--pads",
        nargs="+",
        type=cli.whole,
        help="Pixels added to the face box: top bottom left right. Without it, the network's own setting.",
    )
    add(
        "--box",
        nargs="+",
        type=cli.whole,
        default=NO_BOX,
        help="Use this face box in all frames, in pixels: top bottom left right. Without it, or with -1 -1 -1 -1, the "
        "face is detected.",
    )
    add("--nosmooth", action="store_true", help="Do not smooth the boxes over time.")


def add_identity_argument(parser: Flags) -> None:
    parser.add_argument(
        "--identity",
        default=Options.identity,
        type=cli.file_or_name,
        help="The SFace network that compares faces with the one in a picture: a file, or sface to download it once.",
    )


def _add_frame_arguments(parser: Flags) -> None:
    add = parser.add_argument
    add(
        "--start",
        type=cli.moment,
        metavar="TIME",
        help="Lip-sync only a part of the video; the speech starts at this time: seconds, MM:SS or HH:MM:SS.mmm.",
    )
    add("--end", type=cli.moment, metavar="TIME", help="End that part here. Without it, with the speech or the video.")
    add("--static", nargs="?", const=True, default=False, type=cli.boolean, help="Use only the first frame.")
    add(
        "--loop",
        choices=OPTION_CHOICES["loop"],
        default=Options.loop,
        help="Repeat a video that is shorter than the speech from its start (loop), or back and forth (pingpong).",
    )
    add(
        "--fps",
        type=cli.positive(float),
        help="Frame rate of the result. Without it, that of the video; 25 for photos and for videos below 12.",
    )
    add(
        "--resize_factor",
        type=cli.finite,
        default=Options.resize_factor,
        help="Shrink the frames by this factor first.",
    )
    add(
        "--crop",
        nargs="+",
        type=cli.whole,
        default=list(Options.crop),
        help="Use only this part of the frames, in pixels: top bottom left right; -1 is the far edge.",
    )
    add(
        "--rotate",
        nargs="?",
        const=90,
        default=Options.rotate,
        type=cli.turn,
        metavar="{90,180,270}",
        help="Rotate the frames clockwise by this many degrees before --crop; without a number, by 90.",
    )


def _add_file_arguments(parser: Flags) -> None:
    add = parser.add_argument
    add("--mix", type=Path, help="The sound of the result, such as voice and music; --audio then only moves the lips.")
    add(
        "--crf",
        type=cli.whole,
        metavar="0-51",
        default=Options.crf,
        help="Video quality (x264): lower is better and makes larger files.",
    )
    add(
        "--preset",
        choices=OPTION_CHOICES["preset"],
        default=Options.preset,
        help="Encoder effort (x264): slower presets make smaller files.",
    )
    add("--no_mark", action="store_true", help="Do not state in the file's comment that its lips are synthetic.")
    add_credentials_argument(parser)


def add_credentials_argument(parser: Flags) -> None:
    parser.add_argument(
        "--credentials",
        nargs=2,
        type=Path,
        metavar=("CERTIFICATES", "KEY"),
        help="Sign the file with Content Credentials (C2PA), using these certificates and their private key, both PEM.",
    )


def add_mouth_arguments(parser: Flags) -> None:
    """Add the flags for how the mouth moves and is blended in."""
    add = parser.add_argument
    add(
        "--lip_delay",
        type=cli.finite,
        help="Delay the lips by this many milliseconds, such as 40 for the official networks, whose lips are early. "
        "Without it, the delay given by the checkpoint, or none.",
    )
    add(
        "--silence",
        choices=OPTION_CHOICES["silence"],
        default=Options.silence,
        help="In pauses of the speech, keep the lips shut (closed), or as the network draws them (free).",
    )
    add(
        "--reference",
        type=number_or_name,
        metavar="{same,still,matching,FRAME}",
        help="The reference face for the network: each frame's own (same), one with the mouth shut (still), one with "
        "the mouth as far open as the sound will open it (matching), or that of the frame with this number. Without "
        "it, the network's own setting.",
    )
    add(
        "--mouth_gain",
        type=cli.finite,
        default=Options.mouth_gain,
        help="Scale mouth movement by this factor: 0 keeps the mouth shut, 2 doubles the movement.",
    )
    add(
        "--blend",
        choices=OPTION_CHOICES["blend"],
        help="Paste the whole box (box), or only what changes, with soft edges (feather). Without it, the network's "
        "own setting.",
    )
    add(
        "--occlusion",
        choices=OPTION_CHOICES["occlusion"],
        help="Keep what is in front of the mouth, such as hands, microphones and captions (keep, the default; needs "
        "--blend feather), or draw over it (ignore).",
    )


def number_or_name(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def lip_sync_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options from ``add_lip_sync_arguments``, as keyword arguments of ``LipSync.run``."""
    given = {field.name: getattr(args, field.name) for field in fields(Options) if field.name not in NEGATED}
    negated = {name: not getattr(args, flag) for name, flag in NEGATED.items()}
    return given | negated | {"box": None if args.box == NO_BOX else args.box}


def mouth_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options from ``add_mouth_arguments``, likewise."""
    return {name: getattr(args, name) for name in MOUTH_OPTIONS}


def open_lips(args: argparse.Namespace) -> LipSync:
    """Return a ``LipSync`` for the networks from ``add_lip_sync_arguments``, on this process's own device."""
    return LipSync(
        args.checkpoint_path,
        search=face_search(args),
        expert=args.syncnet_checkpoint_path,
        restorer=args.restorer,
        credentials=args.credentials,
        device=args.device if args.runtime == "openvino" else own_device(args.device),
        precision=args.precision,
        runtime=args.runtime,
        batch_size=args.wav2lip_batch_size,
        report=terminal_for_rank(),
    )
