"""Make a generator know one person: continue it on a video in which they speak.

    python adapt.py --face PERSON.mp4 --outfile person.pth --minutes 10
    python inference.py --checkpoint_path person.pth --face PERSON.mp4 --audio SPEECH

The way through: video -> one prepared clip -> its last tenth kept aside -> training on the rest -> held-out figures and
a contact sheet, before and after.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

import cli
import files
import training
from dataset import TWIN, Loader, Wav2LipDataset, evaluation_windows
from devices import cpu_count, pick_device, pick_precision, pick_training_precision
from distributed import Distributed
from errors import MissingFile, UserError
from hparams import hparams as hp
from models import SyncNet_color, Wav2Lip, weights
from preprocessing import Clip, Unusable, write_clip
from tasks import Figures, GeneratorTask

LEAST_SECONDS = 5.0
HELD_OUT = 0.1  # share of the frames, the last ones
JUDGE = weights.REPOSITORY / "demo" / "checkpoints" / "judge.pth"
EVALUATED = 8  # batches at most
SHEET_WINDOWS = 8
POSE_SIDE = 32  # pixels of a face when poses are compared
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 98]
ALIKE = 4  # frames whose poses are nearest, of which one is drawn
SETTINGS = (  # lips on time, the mouth first; a steady mean of the weights, for one video is little
    "mel_lead=0,mouth_wt=3,motion_wt=0.5,feature_wt=0.03,syncnet_wt=0.01,ema_decay=0.99,negative_distance=5,batch_size=8,"
    "initial_learning_rate=5e-5,eval_interval=50,num_workers=1,frozen_norms=true"
)


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Make a generator know one person, from a video in which they speak.")
    add = parser.add_argument
    add(
        "--face",
        required=True,
        type=Path,
        help="A video, with its sound, in which one person speaks for five seconds or more.",
    )
    add("--outfile", required=True, type=Path, help="The checkpoint to write; a contact sheet (.png) is put beside it.")
    add("--minutes", type=cli.positive(float), default=10.0, help="How long to train.")
    add(
        "--checkpoint_path",
        default=weights.DEMO,
        help="The generator to start from: a file, wav2lip, wav2lip_gan or demo.",
    )
    add(
        "--syncnet_checkpoint_path",
        default=weights.DEMO,
        help="The expert to learn from: a file, lipsync_expert or demo.",
    )
    add("--judge_checkpoint_path", default=JUDGE, help="Another expert, never learned from, that scores the result.")
    add(
        "--hparams",
        default="",
        metavar="NAME=VALUE,…",
        help=f"Change settings of hparams.py. Here they are: {SETTINGS}.",
    )
    add("--seed", type=int, default=0, help="The seed of the order of the data.")
    cli.add_detector_arguments(parser)
    cli.add_compute_arguments(parser, ("fp32", "bf16"))
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    check_arguments(args)
    hp.override(SETTINGS)
    hp.override(args.hparams)
    device = pick_device(args.device)
    machine = Distributed(device, pick_training_precision(args.precision, device))
    generator = weights.read_checkpoint(args.checkpoint_path, Wav2Lip)
    paths = args.syncnet_checkpoint_path, args.judge_checkpoint_path
    expert, judge = (weights.load_model(path, SyncNet_color) for path in paths)
    torch.manual_seed(args.seed)
    task = PersonTask(machine, hp, expert, judge, generator.width)
    with tempfile.TemporaryDirectory(prefix="adapt") as folder:
        learned, kept = prepare(args, Path(folder))
        train = Wav2LipDataset([learned], args.seed, hp.negative_distance, hp.mel_lead)
        held_out = Wav2LipDataset([kept], 0, mel_lead=hp.mel_lead)
        training.load_checkpoint(task, generator.path)
        before = examine(task, held_out)
        task.remember(before.figures)
        plan = training.Plan(
            Path(folder, "run"),
            hp.batch_size,
            checkpoint_interval=1 << 30,  # only at the end
            eval_interval=hp.eval_interval,
            eval_steps=EVALUATED,
            start_from={"": generator.path},
            minutes=args.minutes,
            num_workers=min(hp.num_workers, cpu_count()),
        )
        training.fit(task, train, held_out, plan, tqdm.write)
        task.recall()
        after = examine(task, held_out)
    write(args, task, generator, before, after)


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError or FileNotFoundError for what argparse cannot see, before anything is read."""
    if not args.face.is_file():
        raise MissingFile(f"--face {args.face} does not exist")
    if args.outfile.suffix == ".png":
        raise UserError("--outfile is a checkpoint such as person.pth; the contact sheet gets the .png beside it")
    if args.outfile.is_dir():
        raise UserError(f"--outfile {args.outfile} is a folder; give the name of a file to write")
    networks = (args.checkpoint_path, args.syncnet_checkpoint_path, args.judge_checkpoint_path)
    files.check_not_read("--outfile", args.outfile, (args.face, *map(Path, networks)))
    files.check_folder(args.outfile.parent)


class PersonTask(GeneratorTask):
    """A generator's training that ends with the weights that were best on what was kept aside."""

    lowest = float("inf")

    def remember(self, figures: Figures) -> None:
        """Keep a copy of the mean weights if their ``figures`` are the best so far."""
        if figures["l1"] < self.lowest:
            self.lowest = figures["l1"]
            self.best = {name: value.clone() for name, value in self.mean.module.state_dict().items()}

    def recall(self) -> None:
        self.mean.module.load_state_dict(self.best)

    def after_evaluation(self, figures: Figures) -> str | None:
        self.remember(figures)
        return super().after_evaluation(figures)


# --------------------------------------------------------------------------------------------------------------------
# Video -> clips


def prepare(args: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Cut the video into two clip folders, to learn from and to keep aside; raise ValueError for one of no use."""
    learned, kept = folder / "person/learned", folder / "person/kept"
    learned.mkdir(parents=True)
    kept.mkdir()
    device = pick_device(args.device)
    search = cli.face_search(args).settled()
    detector = search.open(device, pick_precision(args.precision, device))
    try:
        write_clip(args.face, learned, Clip(args.face.name, "person/learned"), search, detector)
    except Unusable as problem:
        raise UserError(f"{args.face} cannot be learned from: {problem.args[1]}") from None
    shown = sorted(int(path.stem) for path in learned.glob("*.jpg"))
    if len(shown) < LEAST_SECONDS * hp.fps:
        raise UserError(
            f"{args.face} shows a face for {len(shown) / hp.fps:.1f} s; it takes {LEAST_SECONDS:g} s at least to learn "
            "a person, and a minute is better"
        )
    for frame in shown[round(len(shown) * (1 - HELD_OUT)) - hp.syncnet_T :]:
        (learned / f"{frame}.jpg").rename(kept / f"{frame}.jpg")
    (kept / "mel.npy").write_bytes((learned / "mel.npy").read_bytes())  # frames keep their numbers, and so their sound
    write_twins(learned, kept)
    print(f"{args.face}: {len(shown) / hp.fps:.1f} s of a face, the last {HELD_OUT:.0%} kept aside")
    return learned, kept


def write_twins(*clips: Path) -> None:
    """Give every clip a twin (see ``Wav2LipDataset``): of each frame another one in which the head is held alike.

    The picture of reference then shows the same head with another mouth, as it does at inference. Any other frame of
    somebody who moves shows the head elsewhere: what is learned from it is to blur.
    """
    rng = np.random.default_rng(0)
    paths = [path for clip in clips for path in clip.glob("*.jpg")]
    times = np.array([int(path.stem) for path in paths])
    poses = np.stack([_pose(path) for path in paths])
    for clip in clips:
        twin = clip.with_name(f"{clip.name}_twin")
        twin.mkdir()
        (clip / TWIN).write_text(twin.name)
        for i in (i for i, path in enumerate(paths) if path.parent == clip):
            unlike = np.square(poses - poses[i]).mean(1)
            unlike[np.abs(times - times[i]) < hp.negative_distance] = np.inf  # whose mouth is the same
            chosen = paths[rng.choice(np.argsort(unlike)[:ALIKE])]
            cv2.imwrite(str(twin / f"{times[i]}.jpg"), _aligned(_read(chosen), _read(paths[i])), QUALITY)


def _read(path: Path) -> np.ndarray:
    return cv2.resize(cv2.imread(str(path)), (hp.img_size, hp.img_size), interpolation=cv2.INTER_AREA)


def _pose(path: Path) -> np.ndarray:
    """The upper half of a face, where nothing speaks, in a few greys (n,)."""
    small = cv2.resize(_upper_half(_read(path)), (POSE_SIDE, POSE_SIDE // 2), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32).ravel()


def _upper_half(face: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(face[: hp.img_size // 2], cv2.COLOR_BGR2GRAY)


def _aligned(face: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Move, turn and stretch a face so that its upper half lies as that of another (Evangelidis and Psarakis, 2008)."""
    matrix = np.eye(2, 3, dtype=np.float32)
    until = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-4)
    try:
        cv2.findTransformECC(_upper_half(like), _upper_half(face), matrix, cv2.MOTION_AFFINE, until)
    except cv2.error:  # nothing in common: as it is
        return face
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(face, matrix, face.shape[1::-1], flags=how, borderMode=cv2.BORDER_REPLICATE)


# --------------------------------------------------------------------------------------------------------------------
# Before and after


@dataclass(frozen=True)
class Examination:
    """What a generator makes of what it did not learn from."""

    figures: Figures
    shown: np.ndarray  # (windows, height, width, 3) uint8 BGR, the middle frame of each
    real: np.ndarray  # likewise, as filmed


@torch.no_grad()
def examine(task: GeneratorTask, held_out: Wav2LipDataset) -> Examination:
    """Measure the mean of the task's weights on windows that were kept aside, and show some."""
    count = min(len(held_out.index), EVALUATED * hp.batch_size)
    loader = Loader(held_out, evaluation_windows(count, hp.batch_size))
    with task.mean_in_place():
        figures = training.evaluate(task, loader)
        task.train_mode(False)
        x, mels, _, real = task.machine.to_device(next(iter(loader)))
        with task.machine.autocast():
            fake = task.generator(mels, x).float()
        task.train_mode(True)
    return Examination(figures, *(_middle(faces) for faces in (fake, real)))


def _middle(faces: torch.Tensor) -> np.ndarray:
    middle = faces[:SHEET_WINDOWS, :, hp.syncnet_T // 2]
    return (middle.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()


def write(
    args: argparse.Namespace, task: GeneratorTask, start: weights.Checkpoint, before: Examination, after: Examination
) -> None:
    """Write the checkpoint and the sheet, and say what was won."""
    state = {name: value.cpu() for name, value in task.mean.module.state_dict().items()}
    habits = {"pads": [0, 0, 0, 0], "blend": start.extra.get("blend", "box")}  # it learned from boxes as detected
    weights.export(weights.Checkpoint(args.outfile, state, start.width, {}), args.outfile, **habits)
    sheet = args.outfile.with_suffix(".png")
    rows = [np.hstack(faces) for faces in (after.real, before.shown, after.shown)]
    picture = cv2.resize(np.vstack(rows), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    files.save(sheet, cv2.imencode(".png", picture)[1].tobytes())
    for name, words in (("l1", "difference to the real frames (L1)"), ("judge", "sync loss by the judge")):
        print(f"held out, {words}: {before.figures[name]:.4f} before, {after.figures[name]:.4f} after")
    print(f"the judge's sync loss of the real frames: {after.figures['judge_of_real']:.4f}")
    if after.figures["l1"] >= before.figures["l1"]:
        print("warning: it got no better, so the weights are those it began with; give it more footage, or minutes")
    print(f"{sheet}: as filmed, before, after")
    print(f"{args.outfile}: python inference.py --checkpoint_path {args.outfile} --face {args.face} --audio SPEECH")


if __name__ == "__main__":
    sys.exit(main())
