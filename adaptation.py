"""Adapt a generator to one person: fine-tune it on a video of them speaking.

    adapt("person.mp4", "person.pth", AdaptationOptions(minutes=10))

Pipeline: video -> one prepared clip -> last tenth held out -> training on the rest -> held-out figures and a contact
sheet, before and after.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import files
import pictures
import training
import video
from dataset import MIN_FRAMES, TWIN, Loader, Wav2LipDataset, evaluation_windows, frame_ids
from devices import cpu_count, pick_device, pick_precision, pick_training_precision, unused_gpu
from distributed import Batch, Distributed, check_seed, preserve_rng
from errors import UserError
from faces import FaceSearch
from hparams import hparams as hp
from models import SyncNet_color, Wav2Lip, weights
from preprocessing import Clip, Unusable, write_clip
from reporting import SILENT, Reporter
from training import Figures, GeneratorTask

MIN_SECONDS = 5.0
CHECKPOINTS = (".pth", ".pt", ".ckpt")
HELD_OUT = 0.1  # share of the frames, the last ones
MAX_EVAL_BATCHES = 8  # held-out batches, at most
SHEET_WINDOWS = 8
POSE_SIDE = 32  # pixels to which faces are shrunk to compare poses
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 98]
MIN_HELD_OUT = 5  # held-out windows
MAX_CANDIDATES = 3000  # candidate frames for a twin, at most
NEAREST_POSES = 4  # frames with the most similar poses, of which one is chosen at random
SETTINGS = (  # with an EMA of the weights, since a single video is little data
    "detail_wt=2,syncnet_wt=0.01,ema_decay=0.99,negative_distance=5,batch_size=8,initial_learning_rate=5e-5,eval_interval=50,"
    "num_workers=1,frozen_norms=true"
)


@dataclass(frozen=True)
class AdaptationOptions:
    """The networks, duration, settings and device of an adaptation."""

    minutes: float = 10.0  # of training
    checkpoint: str | Path = weights.DEMO  # the generator to start from: a file, wav2lip, wav2lip_gan or demo
    expert: str | Path = weights.DEMO  # the expert of the sync loss: a file, lipsync_expert or demo
    judge: str | Path = weights.JUDGE  # another expert that only scores the result
    settings: str = ""  # hparams that override ``SETTINGS``, as "name=value,…"
    seed: int = 0  # of the data order
    search: FaceSearch = FaceSearch()
    device: str = "auto"
    precision: str = "auto"  # of the training

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:  # with NaN, training would never end
            raise UserError(f"--minutes {self.minutes} is not a training time; give a number above 0")
        check_seed(self.seed)


@dataclass(frozen=True)
class Adapted:
    """The result of an adaptation, measured on held-out frames."""

    before: Evaluation
    after: Evaluation
    sheet: Path  # a picture: as filmed, before, after
    is_better: bool = True  # False: training brought no improvement, and the original weights were kept
    stopped: bool = False  # early, by Ctrl-C


def adapt(
    face: str | Path, outfile: str | Path, options: AdaptationOptions = AdaptationOptions(), report: Reporter = SILENT
) -> Adapted:
    """Write ``outfile``, a generator adapted to the person in the video ``face``, and a contact sheet beside it.

    Raises UserError for unusable input, RuntimeError for failures. The global ``hparams`` are changed while it runs.
    """
    face, outfile = Path(face), Path(outfile)
    check_files(face, outfile, options, report)
    start = weights.read_checkpoint(options.checkpoint, Wav2Lip, report)
    group = open_group(options)
    if missed := unused_gpu(options.device):
        report.note(f"note: {missed}")
    settings = SETTINGS, f"mask_top={start.mask_top},mel_lead={start.lead}", options.settings
    with hp.changed(*settings), preserve_rng(group.device):
        task = open_task(group, start.width, options, report)
        try:
            before, after, stopped = fine_tune(task, start, face, options, report)
        except BaseException:  # an error or a second Ctrl-C: save the progress made so far
            if task.improved:
                write_checkpoint(outfile, task, start)
            raise
        sheet = outfile.with_name(f"{outfile.stem}_before_after.png")  # anna.png might be the user's picture of Anna
        write_checkpoint(outfile, task, start)
        write_sheet(sheet, before, after)
        return Adapted(before, after, sheet, task.improved, stopped)


def check_files(face: Path, outfile: Path, options: AdaptationOptions, report: Reporter = SILENT) -> None:
    """Raise UserError early if the video is missing or ``outfile`` is unusable or one of the input files."""
    video.existing_file(face)
    if outfile.is_dir():
        raise UserError(f"--outfile {outfile} is a folder; give the name of a file to write")
    if outfile.suffix.lower() not in CHECKPOINTS:
        raise UserError(f"--outfile {outfile} must end in one of {', '.join(CHECKPOINTS)}, as checkpoints do")
    networks = (Wav2Lip, options.checkpoint), (SyncNet_color, options.expert), (SyncNet_color, options.judge)
    paths = [weights.find(path, network, report) for network, path in networks]
    files.check_not_input("--outfile", outfile, (face, *paths))
    files.check_folder(outfile.parent)


class PersonTask(GeneratorTask):
    """Generator training that ends with the weights that scored best on held-out frames."""

    lowest = float("inf")
    improved = False  # whether any weights have scored better than the original ones
    trained = False  # at all

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.trained = True
        return super().train_step(batch)

    def train_mode(self, on: bool) -> None:
        """Set the mode of all but the audio encoder, which stays frozen.

        One video is too little data for it, and ``opening`` was fitted to its output.
        """
        super().train_mode(on)
        self.generator.audio_encoder.eval()

    def score(self, figures: Figures) -> float:
        """Return how far the output is from the filmed frames: L1 alone would favour blur, which detail penalises."""
        return figures["l1"] + self.hp.detail_wt * figures.get("detail", 0.0)

    def keep_if_best(self, figures: Figures) -> None:
        """Keep a copy of the weights if their ``figures`` are the best so far."""
        if (score := self.score(figures)) < self.lowest:
            self.improved = self.lowest < float("inf")
            self.lowest = score
            self.best = {name: value.clone() for name, value in self.result.state_dict().items()}

    def restore_best(self) -> None:
        self.result.load_state_dict(self.best)

    def after_evaluation(self, figures: Figures) -> str | None:
        self.keep_if_best(figures)
        return super().after_evaluation(figures)


def open_group(options: AdaptationOptions) -> Distributed:
    device = pick_device(options.device)
    return Distributed(device, pick_training_precision(options.precision, device))


def open_task(group: Distributed, width: float, options: AdaptationOptions, report: Reporter) -> PersonTask:
    expert, judge = (weights.load_model(path, SyncNet_color, report) for path in (options.expert, options.judge))
    torch.manual_seed(options.seed)
    task = PersonTask(group, hp, expert, judge, width)
    task.generator.audio_encoder.requires_grad_(False)
    return task


def fine_tune(
    task: PersonTask, start: weights.Checkpoint, face: Path, options: AdaptationOptions, report: Reporter
) -> tuple[Evaluation, Evaluation, bool]:
    """Train ``task`` from ``start``; return its evaluation before and after, and whether Ctrl-C stopped it.

    Either way, ``task`` ends with the best weights so far.
    """
    with tempfile.TemporaryDirectory(prefix="wav2lip-adapt-") as folder:
        plan = training.Plan(
            Path(folder, "run"),
            Path(folder),
            hp.batch_size,
            checkpoint_interval=1 << 30,  # no samples are needed
            eval_interval=hp.eval_interval,
            eval_steps=MAX_EVAL_BATCHES,
            minutes=options.minutes,
            saves=False,
            num_workers=min(hp.num_workers, cpu_count()),
        )
        learned, kept = prepare(face, Path(folder), options, report)
        train = Wav2LipDataset([learned], options.seed, hp.negative_distance, twins=hp.twin_reference)
        held_out = Wav2LipDataset([kept])
        training.load_checkpoint(task, start.path)
        before = evaluate(task, held_out)
        task.keep_if_best(before.figures)
        stopped = False
        try:
            training.fit(task, train, held_out, plan, report)
        except training.Stopped:
            stopped = True
        if task.trained:  # steps after the last evaluation count as well, and a slow machine may not have reached any
            task.keep_if_best(evaluate(task, held_out).figures)
        task.restore_best()
        return before, evaluate(task, held_out), stopped


# --------------------------------------------------------------------------------------------------------------------
# Video -> clips


def prepare(face: Path, folder: Path, options: AdaptationOptions, report: Reporter = SILENT) -> tuple[Path, Path]:
    """Cut the video into two clip folders, training and held-out; raise UserError if the video is unusable."""
    learned, kept = folder / "person/learned", folder / "person/kept"
    learned.mkdir(parents=True)
    kept.mkdir()
    device = pick_device(options.device)
    search = options.search.on(device, pick_precision(options.precision, device)).settled(report)
    try:
        cut = write_clip(Clip(face.name, "person/learned", face.parent, folder), search)
    except Unusable as problem:
        raise UserError(f"{face} cannot be learned from: {problem.detail}") from None
    shown = frame_ids(learned).tolist()
    shown = [frame for frame in shown if frame < cut.seconds * hp.fps]  # frames after the end of the sound are useless
    if len(shown) < MIN_SECONDS * hp.fps:
        raise UserError(
            f"{face} shows a face with sound for {len(shown) / hp.fps:.2f} s; adapting needs {MIN_SECONDS:g} s at "
            "least, and a minute is better"
        )
    for frame in shown[shown.index(_first_kept(shown, face)) :]:
        (learned / f"{frame}.jpg").rename(kept / f"{frame}.jpg")
    for name in ("mel.npy", "clip.json"):  # frames keep their numbers, so the same mel fits both clips
        (kept / name).write_bytes((learned / name).read_bytes())
    write_twins(learned, [learned], report)
    write_twins(kept, [learned, kept], report)
    report.note(f"{face}: {len(shown) / hp.fps:.1f} s with a face, the last {HELD_OUT:.0%} held out")
    return learned, kept


def _first_kept(shown: Sequence[int], face: Path) -> int:
    """Return the first frame of the held-out tenth, counted in windows rather than frames, which may have gaps."""
    together = hp.syncnet_T - 1
    begin = [frame for frame, last in zip(shown, shown[together:]) if last - frame == together]
    kept = begin[round(len(begin) * (1 - HELD_OUT)) :]
    apart = shown.index(kept[0]) if kept else 0
    if len(kept) < MIN_HELD_OUT or min(apart, len(shown) - apart) < MIN_FRAMES:
        raise UserError(
            f"{face} shows a face for {hp.syncnet_T} frames in a row only {len(begin)} times, too few to learn from "
            "and to evaluate; give a longer video, or one in which the face is always visible"
        )
    return kept[0]


def write_twins(clip: Path, others: Sequence[Path], report: Reporter = SILENT) -> None:
    """Write a clip's twin (see ``Wav2LipDataset``): for each frame, another one of ``others`` with a similar head pose.

    The reference face then shows the same head with another mouth, as at inference. With any other frame of a person
    who moves, the head would be elsewhere, and the network would learn to blur.
    """
    rng = np.random.default_rng(0)
    paths = sorted((path for other in others for path in other.glob("*.jpg")), key=lambda path: int(path.stem))
    times = np.array([int(path.stem) for path in paths])
    poses = np.stack([_pose(path) for path in paths])
    twin = clip.with_name(f"{clip.name}_twin")
    twin.mkdir()
    (clip / TWIN).write_text(twin.name, encoding="utf-8")
    own = [i for i, path in enumerate(paths) if path.parent == clip]
    few = np.arange(0, len(paths), -(-len(paths) // MAX_CANDIDATES))  # bounds the cost for long videos
    candidates, when = poses[few], times[few]
    sizes = np.square(candidates).sum(1)
    for i in report.track(own, "Comparing poses", len(own)):
        unlike = sizes - 2 * candidates @ poses[i]  # squared distance, up to a constant
        unlike[np.abs(when - times[i]) < hp.negative_distance] = np.inf  # too near in time: the same mouth
        chosen = paths[few[rng.choice(np.argsort(unlike)[:NEAREST_POSES])]]
        picture = _aligned(_read(chosen), _read(paths[i]))
        files.save(twin / f"{times[i]}.jpg", cv2.imencode(".jpg", picture, QUALITY)[1].tobytes())


def _read(path: Path) -> np.ndarray:
    picture: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)  # Windows: imread needs ASCII names
    return pictures.resized(picture, hp.img_size)


def _pose(path: Path) -> np.ndarray:
    """Return the upper half of a face, which speech does not move, as a small grey picture (n,)."""
    small = cv2.resize(_upper_half(_read(path)), (POSE_SIDE, POSE_SIDE // 2), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32).ravel()


def _upper_half(face: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(face[: hp.img_size // 2], cv2.COLOR_BGR2GRAY)


def _aligned(face: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Warp a face affinely so that its upper half aligns with that of ``like`` (Evangelidis and Psarakis, 2008)."""
    matrix = np.eye(2, 3, dtype=np.float32)
    until = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-4)
    try:
        cv2.findTransformECC(_upper_half(like), _upper_half(face), matrix, cv2.MOTION_AFFINE, until)
    except cv2.error:  # the alignment did not converge
        return face
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(face, matrix, face.shape[1::-1], flags=how, borderMode=cv2.BORDER_REPLICATE)


# --------------------------------------------------------------------------------------------------------------------
# Before and after


@dataclass(frozen=True)
class Evaluation:
    """A generator's figures and samples on held-out windows."""

    figures: Figures
    shown: np.ndarray  # (windows, height, width, 3) uint8 BGR, the middle frame of each
    real: np.ndarray  # likewise, as filmed


@torch.no_grad()
def evaluate(task: GeneratorTask, held_out: Wav2LipDataset) -> Evaluation:
    """Evaluate the EMA of the task's weights on held-out windows, and keep samples of some."""
    count = min(len(held_out.index), MAX_EVAL_BATCHES * hp.batch_size)
    loader = Loader(held_out, evaluation_windows(count, hp.batch_size))
    with task.swap_in_ema():
        figures = training.evaluate(task, loader)
        task.train_mode(False)
        x, mels, _, real = task.group.to_device(next(iter(loader)))
        with task.group.autocast():
            fake = task.generator(mels, x).float()
        task.train_mode(True)
    return Evaluation(figures, *(_middle(faces) for faces in (fake, real)))


def _middle(faces: torch.Tensor) -> np.ndarray:
    middle = faces[:SHEET_WINDOWS, :, hp.syncnet_T // 2]
    return (middle.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()


def write_checkpoint(path: Path, task: PersonTask, start: weights.Checkpoint) -> None:
    state = {name: value.cpu() for name, value in task.best.items()}
    settings = {name: getattr(start, name) for name in weights.INFERENCE_SETTINGS}
    if task.improved:  # it was trained on unpadded boxes
        settings |= {"pads": [0, 0, 0, 0], "mel_lead": task.hp.mel_lead}
    weights.export(weights.Checkpoint(path, state, start.width, {}), path, **settings)


def write_sheet(path: Path, before: Evaluation, after: Evaluation) -> None:
    """Draw three rows of faces: as filmed, before, after."""
    rows = [np.hstack(list(faces)) for faces in (after.real, before.shown, after.shown)]
    picture = cv2.resize(np.vstack(rows), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    files.save(path, cv2.imencode(".png", picture)[1].tobytes())
