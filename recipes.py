"""Train each of the networks in one call, with the settings of ``hparams``.

    train_expert("lrs2_preprocessed", "checkpoints/expert", TrainingOptions(settings="width=0.5", max_steps=100_000))
    train_generator("lrs2_preprocessed", "checkpoints/generator", "checkpoints/expert/checkpoint_step000100000.pth")

Under torchrun every process makes the same call, and the global batch size stays the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import numbers
import os
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

import torch

import files
import training
from dataset import Augmentation, MatchedWindows, SyncNetDataset, Wav2LipDataset
from devices import cpu_count, pick_device, pick_training_precision, unused_gpu
from distributed import Distributed, abandon_processes, check_seed, join_processes, preserve_rng
from errors import UserError
from hparams import FILELISTS, get_image_list
from hparams import hparams as hp
from models import SyncNet_color, weights
from reporting import SILENT, Reporter
from training import AllPairsExpertTask, ExpertTask, GeneratorTask, HQGeneratorTask

# hparams by the training that reads them: all, some, or one
SHARED_HPARAMS = {"width", "num_workers", "save_optimizer_state", "lr_decay_steps", "ema_decay", "negative_distance"}
PARTLY_SHARED = {"eval_steps", "plateau_warn_steps"}  # generator without discriminator; expert, and generator with one
EXPERT_HPARAMS = {
    "windows_per_clip", "syncnet_batch_size", "syncnet_lr", "syncnet_eval_interval", "syncnet_checkpoint_interval",
    "syncnet_eval_steps", *(f"augment_{field.name}" for field in dataclasses.fields(Augmentation)),
}  # fmt: skip
GENERATOR_HPARAMS = {
    "batch_size", "initial_learning_rate", "adam_beta1", "checkpoint_interval", "eval_interval", "mel_lead", "mask_top",
    "syncnet_wt", "audio_from_expert", "mouth_wt", "motion_wt", "detail_wt", "feature_wt", "sync_grey", "frozen_norms",
    "twin_reference",
}  # fmt: skip
DISCRIMINATOR_HPARAMS = {"disc_wt", "disc_width", "disc_initial_learning_rate", "hq_eval_steps"}


@dataclass(frozen=True)
class TrainingOptions:
    """Where to start, how long to train, and on what data and device."""

    filelists: str | Path = FILELISTS  # the folder with train.txt and val.txt
    settings: str = ""  # hparams to override, as "name=value,…"
    checkpoint: str | Path | None = None  # to start from
    discriminator_checkpoint: str | Path | None = None  # likewise, of the discriminator
    resume: bool = False  # continue from the newest checkpoint in the checkpoint folder, if there is one
    max_steps: int | None = None  # None: until it is interrupted
    keep: int | None = None  # number of newest checkpoints to keep; None: all
    seed: int = 0  # of the weights and the data order
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not (self.keep is None or isinstance(self.keep, numbers.Integral) and self.keep >= 1):
            raise UserError(f"keep {self.keep!r} would keep no checkpoint; give 1 or more, or None for all")
        check_seed(self.seed)
        if not (self.max_steps is None or isinstance(self.max_steps, numbers.Integral)):
            raise UserError(f"max_steps {self.max_steps!r} is not a whole number")
        files.as_path(self.filelists)


def train_expert(
    data_root: str | Path,
    checkpoint_dir: str | Path,
    options: TrainingOptions = TrainingOptions(),
    report: Reporter = SILENT,
) -> None:
    """Train the expert on preprocessed clips in ``data_root``; write checkpoints and logs to ``checkpoint_dir``.

    Raises UserError for unusable input.
    """
    with training_session(options) as group:
        unread = GENERATOR_HPARAMS | DISCRIMINATOR_HPARAMS | {"eval_steps"}
        main_report = report if group.is_main else SILENT
        note_unused(options, unread, main_report)
        names = [field.name for field in dataclasses.fields(Augmentation)]
        augmentation = Augmentation(**{name: getattr(hp, f"augment_{name}") for name in names})
        varied = augmentation if augmentation != Augmentation() else None
        plan = plan_for(
            data_root,
            checkpoint_dir,
            options,
            unread,
            batch_size="syncnet_batch_size",
            checkpoint_interval="syncnet_checkpoint_interval",
            eval_interval="syncnet_eval_interval",
            eval_steps="syncnet_eval_steps",
        )
        train_list, val_list = load_filelists(data_root, options, main_report)
        if hp.windows_per_clip:
            task_type: type[ExpertTask] = AllPairsExpertTask
            train: SyncNetDataset = MatchedWindows(
                train_list, options.seed, hp.windows_per_clip, varied, hp.negative_distance
            )
        else:
            task_type = ExpertTask
            train = SyncNetDataset(train_list, options.seed, hp.negative_distance, augmentation=varied)
        val = SyncNetDataset(val_list)  # the same windows with all settings, so that runs are comparable
        training.fit(task_type(group, hp, hp.width), train, val, plan, report)


def train_generator(
    data_root: str | Path,
    checkpoint_dir: str | Path,
    expert: str | Path,
    judge: str | Path | None = None,
    options: TrainingOptions = TrainingOptions(),
    report: Reporter = SILENT,
    discriminator: bool = False,
) -> None:
    """Train the generator with an ``expert`` (a file, or ``demo``) and optionally a visual-quality ``discriminator``.

    ``judge`` is a second expert that only scores the evaluations. Otherwise as ``train_expert``.
    """
    with training_session(options, discriminator) as group:
        unread = EXPERT_HPARAMS | ({"eval_steps"} if discriminator else DISCRIMINATOR_HPARAMS | {"plateau_warn_steps"})
        main_report = report if group.is_main else SILENT
        note_unused(options, unread, main_report)
        task_type = HQGeneratorTask if discriminator else GeneratorTask
        if (hp.syncnet_wt or task_type.sync_weight_when_on) + (hp.disc_wt if discriminator else 0) >= 1:
            raise UserError("syncnet_wt and disc_wt leave no weight to L1, which gets the rest of 1; use smaller ones")
        plan = plan_for(
            data_root,
            checkpoint_dir,
            options,
            unread,
            batch_size="batch_size",
            checkpoint_interval="checkpoint_interval",
            eval_interval="eval_interval",
            eval_steps="hq_eval_steps" if discriminator else "eval_steps",
        )
        plan.evaluate_first = not discriminator  # as the reference does
        teacher = weights.load_model(expert, SyncNet_color, report)
        scorer = weights.load_model(judge, SyncNet_color, report) if judge else None
        train_list, val_list = load_filelists(data_root, options, main_report)
        train = Wav2LipDataset(train_list, options.seed, hp.negative_distance, twins=hp.twin_reference)
        val = Wav2LipDataset(val_list)  # the same windows with all other settings, likewise
        training.fit(task_type(group, hp, teacher, scorer, hp.width), train, val, plan, report)


@contextlib.contextmanager
def training_session(options: TrainingOptions, discriminator: bool = False) -> Iterator[Distributed]:
    """Apply the settings, join torchrun's processes and seed until the block ends; enter it before the first tensor."""
    # Training touches gigabytes of new memory at every step; huge pages need a page fault per 2 MB instead of per 4 kB.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if options.discriminator_checkpoint and not discriminator:
        raise UserError("a checkpoint of the discriminator is for training with one; leave it out")
    with hp.changed(options.settings):
        if not (0 < hp.width <= weights.WIDEST and hp.disc_width <= weights.WIDEST):
            raise UserError(f"width must be above 0, {weights.WIDEST:g} at most, and disc_width no more; see --hparams")
        device = pick_device(options.device)
        group = join_processes(device, pick_training_precision(options.precision, device))
        with _seeded(group.device, options.seed):
            try:
                yield group
            except training.Stopped:
                raise
            except BaseException:
                abandon_processes()
                raise
            group.wait()  # so that the last checkpoint exists when any process returns


@contextlib.contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch for the duration of the block, and restore its random state and switches afterwards."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True  # worthwhile, since shapes stay the same
    try:
        with preserve_rng(device):
            torch.manual_seed(seed)
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def note_unused(options: TrainingOptions, unread: Set[str], report: Reporter) -> None:
    """Note what this training does not use: some of the given settings, and perhaps a GPU."""
    if missed := unused_gpu(options.device):
        report.note(f"note: {missed}")
    asked = [part.partition("=")[0].strip() for part in options.settings.split(",")]
    if names := [name for name in asked if name in unread]:
        near = [near for name in names if (near := f"syncnet_{name}") in EXPERT_HPARAMS - unread and near not in asked]
        hint = f"; is it {', '.join(near)}?" if near else ""
        report.note(f"note: {', '.join(names)} of --hparams does nothing in this training{hint}")


def load_filelists(data_root: str | Path, options: TrainingOptions, report: Reporter) -> list[Iterator[str]]:
    """Return the clips to train on, and those to evaluate on; ``report`` shows how far they have been read."""
    lists = [get_image_list(Path(data_root), split, Path(options.filelists)) for split in ("train", "val")]
    return [report.track(clips, "Reading clips", len(clips), "clip") for clips in lists]


def plan_for(
    data_root: str | Path, checkpoint_dir: str | Path, options: TrainingOptions, unread: Set[str], **names: str
) -> training.Plan:
    """Return the training plan; ``names`` maps its batch size and intervals to the hparams that set them.

    Called before the data are read, which may take long.
    """
    files.check_folder(Path(checkpoint_dir))
    for name in names.values():
        least = 2 if name == "syncnet_batch_size" else 1  # a batch norm of the expert has a single value per window
        if getattr(hp, name) < least:
            raise UserError(f"hparam {name} must be {least} or more, not {getattr(hp, name)}")
    start = {"": options.checkpoint, "disc_": options.discriminator_checkpoint}
    return training.Plan(
        Path(checkpoint_dir),
        Path(data_root),
        **{setting: getattr(hp, name) for setting, name in names.items()},
        start_from={prefix: Path(path) if path else None for prefix, path in start.items()},
        resume=options.resume,
        max_steps=options.max_steps,
        keep=options.keep,
        num_workers=min(hp.num_workers, cpu_count()),
        unread=unread,
    )
