"""Flags that several scripts have, and what they ask for."""

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
from lipsync import OF_THE_MOUTH, VALUES, LipSync, Options
from terminal import terminal_of_one

if TYPE_CHECKING:
    from recipes import TrainingOptions

Flags = argparse._ActionsContainer  # a parser, or one of its groups
NO_BOX = [-1, -1, -1, -1]  # what the reference takes for "look for it"
GENERATOR = "The generator: a file, demo (the included one, and the default), wav2lip or wav2lip_gan."
NEGATED = {"smooth": "nosmooth", "mark": "no_mark"}  # flags that switch off what ``lipsync.Options`` switches on
FLAGS_OF_OPTIONS = [NEGATED.get(field.name, field.name) for field in fields(Options)]


def add_compute_arguments(parser: Flags, precisions: Iterable[str] = tuple(PRECISIONS)) -> None:
    parser.add_argument("--device", default="auto", help="Compute on this device: auto, cpu, cuda, cuda:N or mps.")
    parser.add_argument(
        "--precision",
        choices=("auto", *precisions),
        default="auto",
        help="Compute the networks in this precision; auto takes half precision where the hardware is fast in it.",
    )


def add_detector_argument(parser: Flags) -> None:
    parser.add_argument(
        "--face_detector",
        choices=faces.NAMES,
        default=faces.AUTO,
        help="Find faces with this detector. auto is sfd, or centerface where sfd's weights cannot be had. "
        f"{' and '.join(faces.CPU_DETECTORS)} need no download.",
    )


def add_detector_arguments(parser: Flags) -> None:
    add_detector_argument(parser)
    parser.add_argument("--face_detector_weights", type=Path, help="Take the detector's weights from this file.")


def add_search_arguments(parser: Flags) -> None:
    """What scripts take that search one video at a time and remember what they saw."""
    add_detector_arguments(parser)
    add = parser.add_argument
    add(
        "--face_det_batch_size",
        type=cli.positive(int),
        default=FaceSearch.batch_size,
        help="Batch size of the face detector.",
    )
    add("--no_cache", action="store_true", help="Search again, and do not remember the boxes.")


def face_search(args: argparse.Namespace) -> FaceSearch:
    """Return the search that ``add_detector_arguments`` or ``add_search_arguments`` asked for."""
    search = FaceSearch(args.face_detector, args.face_detector_weights)
    if not hasattr(args, "no_cache"):
        return search
    return replace(search, batch_size=args.face_det_batch_size, cache=not args.no_cache)


def add_training_arguments(parser: cli.Parser) -> None:
    add = parser.add_argument
    add("--data_root", required=True, type=Path, help="The folder that preprocess.py wrote.")
    add("--checkpoint_dir", required=True, type=Path, help="The folder for checkpoints, samples and logs.")
    add("--checkpoint_path", type=Path, help="Start from this checkpoint.")
    add(
        "--resume",
        action="store_true",
        help="Go on from the newest checkpoint in --checkpoint_dir, if there is one, whatever --checkpoint_path says.",
    )
    add("--filelists", type=Path, default=FILELISTS, help="The folder with train.txt and val.txt.")
    add("--hparams", default="", metavar="NAME=VALUE,…", help="Change settings of hparams.py.")
    add(
        "--max_steps",
        type=cli.positive(int),
        help="Stop after this step. Without it, training goes on until it is stopped.",
    )
    add("--keep", type=cli.positive(int), help="Number of newest checkpoints to keep; without it, all.")
    add("--seed", type=cli.seed, default=0, help="The seed of the weights and of the order of the data.")
    add_compute_arguments(parser, ("fp32", "bf16"))


def training_options(args: argparse.Namespace) -> TrainingOptions:
    """Return what ``add_training_arguments`` asked for."""
    from recipes import TrainingOptions  # here: other programs need none of it

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
    """All that tells how to lip-sync, whatever the face and the speech."""
    _add_network_arguments(parser.add_argument_group("the network"))
    _add_face_arguments(parser.add_argument_group("the face"))
    _add_frame_arguments(parser.add_argument_group("the frames"))
    add_mouth_arguments(parser.add_argument_group("the mouth"))
    _add_file_arguments(parser.add_argument_group("the file that is written"))


def _add_network_arguments(parser: Flags) -> None:
    add = parser.add_argument
    add("--checkpoint_path", type=cli.file_or_name, help=GENERATOR)
    add(
        "--syncnet_checkpoint_path",
        type=cli.file_or_name,
        help="Print how well the speech matches the face as it was filmed, by this expert; --speaker asks it too.",
    )
    add_generation_arguments(parser)


def add_generation_arguments(parser: Flags) -> None:
    """By what frames are made, besides the generator."""
    add = parser.add_argument
    add(
        "--restorer",
        type=Path,
        metavar="FILE",
        help="Sharpen each mouth with this face restorer: GFPGAN, RestoreFormer or another that spandrel loads.",
    )
    add_batch_argument(parser)
    add_compute_arguments(parser, runtimes.PRECISIONS)
    add(
        "--runtime",
        choices=runtimes.NAMES,
        default="torch",
        help="Compute the generator with this; openvino (int8) is faster on CPUs without bf16, and two more packages "
        "have to be installed for it.",
    )


def add_batch_argument(parser: Flags) -> None:
    parser.add_argument(
        "--wav2lip_batch_size",
        type=cli.positive(int),
        default=128,
        help="Batch size of the generator, at most.",
    )


def _add_face_arguments(parser: Flags) -> None:
    add = parser.add_argument
    add_search_arguments(parser)
    add(
        "--face_index",
        type=cli.whole,
        help="Take this face, from 0 at the left, in each shot anew, as they first appear. Without it, the largest.",
    )
    add(
        "--speaker",
        choices=VALUES["speaker"],
        help="In each shot take the face whose lips move with the sound of --face; leave other shots as filmed.",
    )
    add("--face_like", type=Path, help="In each shot take the face that looks like the one in this picture.")
    add_identity_argument(parser)
    add(
        "--on_missing_face",
        choices=VALUES["on_missing_face"],
        default=Options.on_missing_face,
        help="Keep frames without a face as they are, or stop.",
    )
    add(
        "--pads",
        nargs="+",
        type=cli.whole,
        help="Pixels added to the box of the face: top bottom left right. Without it, as the network wants it.",
    )
    add(
        "--box",
        nargs="+",
        type=cli.whole,
        default=NO_BOX,
        help="Use this box for the face in all frames: top bottom left right. Without it, or with -1 -1 -1 -1, it is "
        "searched for.",
    )
    add("--nosmooth", action="store_true", help="Do not smooth the boxes over time.")


def add_identity_argument(parser: Flags) -> None:
    parser.add_argument(
        "--identity",
        default=Options.identity,
        type=cli.file_or_name,
        help="The network that compares faces with one in a picture, SFace: a file, or sface to download it once.",
    )


def _add_frame_arguments(parser: Flags) -> None:
    add = parser.add_argument
    add(
        "--start",
        type=cli.moment,
        metavar="TIME",
        help="Redo only a part of the video, in which the speech begins here: seconds, MM:SS or HH:MM:SS.mmm.",
    )
    add("--end", type=cli.moment, metavar="TIME", help="End that part here. Without it, with the speech or the video.")
    add("--static", nargs="?", const=True, default=False, type=cli.boolean, help="Use the first frame as a photo.")
    add(
        "--loop",
        choices=VALUES["loop"],
        default=Options.loop,
        help="Repeat a video that is shorter than the speech from its start, or back and forth.",
    )
    add(
        "--fps",
        type=cli.positive(float),
        help="Frame rate of the result. Without it, that of the video; of a photo, 25.",
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
        help="Use only this part of the frames: top bottom left right; -1 is the far edge.",
    )
    add(
        "--rotate",
        nargs="?",
        const=90,
        default=Options.rotate,
        type=cli.turn,
        metavar="{90,180,270}",
        help="Turn the frames clockwise before --crop; without a number, by 90 degrees.",
    )


def _add_file_arguments(parser: Flags) -> None:
    add = parser.add_argument
    add("--mix", type=Path, help="The sound of the result, such as voice and music; --audio then only moves the lips.")
    add(
        "--crf",
        type=cli.whole,
        metavar="0-51",
        default=Options.crf,
        help="Quality of the picture (x264): lower is better, and makes larger files.",
    )
    add(
        "--preset",
        choices=VALUES["preset"],
        default=Options.preset,
        help="Effort of the encoder (x264): slower ones make smaller files.",
    )
    add("--no_mark", action="store_true", help="Do not say in the file's comment that its lips are synthetic.")
    add_credentials_argument(parser)


def add_credentials_argument(parser: Flags) -> None:
    parser.add_argument(
        "--credentials",
        nargs=2,
        type=Path,
        metavar=("CERTIFICATES", "KEY"),
        help="Sign what was done into the file (C2PA) with these certificates and their private key, both PEM.",
    )


def add_mouth_arguments(parser: Flags) -> None:
    """What tells how the mouth moves and is put in."""
    add = parser.add_argument
    add(
        "--lip_delay",
        type=cli.finite,
        help="Delay the lips by this many milliseconds: 40 for the official networks, whose lips are early. Without "
        "it, by what the network needs, if its checkpoint tells.",
    )
    add(
        "--silence",
        choices=VALUES["silence"],
        default=Options.silence,
        help="In pauses of the speech keep the lips shut (closed), or as the network draws them (free).",
    )
    add(
        "--reference",
        type=number_or_name,
        metavar="{same,still,matching,FRAME}",
        help="Show the network each frame's own face (same), with a shut mouth (still), with one as far open as the "
        "sound opens it (matching), or the frame of this number. Without it, as the network wants it.",
    )
    add(
        "--mouth_gain",
        type=cli.finite,
        default=Options.mouth_gain,
        help="Scale the movement of the mouth by this factor.",
    )
    add(
        "--blend",
        choices=VALUES["blend"],
        help="Paste the whole box, or what changes with soft edges (feather). Without it, as the network wants it.",
    )
    add(
        "--occlusion",
        choices=VALUES["occlusion"],
        default=Options.occlusion,
        help="Keep what is in front of the mouth (hands, microphones, captions), or draw over it (ignore).",
    )


def number_or_name(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def lip_sync_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what ``add_lip_sync_arguments`` asked for, as ``LipSync.run`` takes it."""
    given = {field.name: getattr(args, field.name) for field in fields(Options) if field.name not in NEGATED}
    negated = {name: not getattr(args, flag) for name, flag in NEGATED.items()}
    return given | negated | {"box": None if args.box == NO_BOX else args.box}


def mouth_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what ``add_mouth_arguments`` asked for, likewise."""
    return {name: getattr(args, name) for name in OF_THE_MOUTH}


def open_lips(args: argparse.Namespace) -> LipSync:
    """Return the networks that ``add_lip_sync_arguments`` asked for, on this process's own device."""
    return LipSync(
        args.checkpoint_path,
        search=face_search(args),
        expert=args.syncnet_checkpoint_path,
        restorer=args.restorer,
        credentials=args.credentials,
        device=own_device(args.device),
        precision=args.precision,
        runtime=args.runtime,
        batch_size=args.wav2lip_batch_size,
        report=terminal_of_one(),
    )
