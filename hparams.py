"""All settings of audio, training and evaluation, in one place, with their units and sources.

Numbers marked (reference) are the values of the original Wav2Lip release; the official checkpoints depend on them.
"""

from __future__ import annotations

import contextlib
import glob
import math
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import files
from errors import MissingFile, UserError, suggest

BUNDLED_FILELISTS = Path(__file__).resolve().parent / "filelists"
# when installed: in the working folder
FILELISTS = BUNDLED_FILELISTS if BUNDLED_FILELISTS.is_dir() else Path("filelists")

PIECE = re.compile(r"@(\d+)$")  # the end of the name of a video's piece

# hparams of the reference that do not exist here
REMOVED = {"nepochs": "training ends with --max_steps", "use_lws": "mels are always librosa's"}
FIXED_BY_NETWORKS = {"num_mels", "mel_step_size", "img_size", "syncnet_T"}  # by the shapes of their layers
# those that mels and pictures on disk were made with
FIXED_BY_PREPROCESSING = {
    "sample_rate", "preemphasis", "n_fft", "hop_size", "win_size", "fmin", "fmax", "min_level_db", "ref_level_db",
    "max_abs_value", "fps",
}  # fmt: skip

AT_MOST = {
    "augment_mirror": 1, "augment_shift": 1, "augment_zoom": 0.9, "augment_brightness": 1, "augment_contrast": 1,
    "augment_colour": 1, "ema_decay": 0.999999, "mask_top": 0.9, "mel_lead": 10, "syncnet_wt": 0.99, "disc_wt": 0.99,
    "adam_beta1": 0.999,
}  # fmt: skip

_CHANGING = threading.RLock()  # held while the global settings are changed


@dataclass
class HParams:
    """Settings of audio, training and evaluation. Change them with :meth:`override`, never in place in a module."""

    # Mel spectrogram (reference)
    sample_rate: int = 16000  # Hz
    preemphasis: float = 0.97  # coefficient of the first-order high-pass filter
    n_fft: int = 800  # samples
    hop_size: int = 200  # samples, so 80 mel frames a second
    win_size: int = 800  # samples
    num_mels: int = 80
    fmin: float = 55.0  # Hz
    fmax: float = 7600.0  # Hz
    min_level_db: float = -100.0  # floor of the spectrogram
    ref_level_db: float = 20.0  # subtracted before scaling
    max_abs_value: float = 4.0  # mels are scaled to [-4, 4]
    mel_step_size: int = 16  # mel frames in one network window, 0.2 s

    # Pictures (reference)
    img_size: int = 96  # pixels; face crops are square
    fps: float = 25.0  # frames a second in training data
    syncnet_T: int = 5  # consecutive video frames in one window, 0.2 s at 25 fps

    # Training, all networks (paper, section 4; reference)
    width: float = 1.0  # channels of all three networks, relative to the official ones (ours)
    batch_size: int = 16  # windows
    initial_learning_rate: float = 1e-4
    adam_beta1: float = 0.5  # generator and discriminator; the expert keeps Adam's own 0.9
    num_workers: int = 16
    checkpoint_interval: int = 3000  # steps
    eval_interval: int = 3000  # steps
    save_optimizer_state: bool = True
    # steps over which learning rates decay to a hundredth, along a cosine; 0: constant (reference)
    lr_decay_steps: int = 0
    ema_decay: float = 0.0  # of an EMA of the weights, which is then evaluated and saved; 0: none (ours)

    eval_steps: int = 700  # batches in one evaluation, if there are enough windows
    hq_eval_steps: int = 300  # the same when training with the discriminator

    # Expert, SyncNet (reference)
    syncnet_batch_size: int = 64
    syncnet_lr: float = 1e-4
    syncnet_eval_interval: int = 10000  # steps
    syncnet_checkpoint_interval: int = 10000  # steps
    syncnet_eval_steps: int = 1400  # batches
    plateau_warn_steps: int = 5000  # steps at chance level after which a warning suggests causes (ours)
    # windows per clip in batches that compare every face with every voice; 0: one pair per sample (reference)
    windows_per_clip: int = 0
    negative_distance: int = 1  # minimum distance of a negative window, in frames; 1: any other frame (reference)
    augment_mirror: float = 0.0  # augmentation of the expert's training pictures (ours): probability of mirroring
    augment_shift: float = 0.0  # maximum shift in each direction, as a fraction of the face
    augment_zoom: float = 0.0  # maximum zoom in or out, as a fraction of the face
    augment_brightness: float = 0.0  # maximum change, as a fraction of full scale
    augment_contrast: float = 0.0  # maximum relative change
    augment_colour: float = 0.0  # maximum relative change of one channel
    augment_blur: float = 0.0  # maximum standard deviation, in pixels of the 96-pixel face

    # Generator and visual-quality discriminator (reference)
    mel_lead: int = 1  # frames by which the mel of a frame starts before it; 0 is what inference does (--lip_delay 0)
    mask_top: float = 0.5  # the face is masked below this fraction of its height; the reference: half (ours)
    # weight of the sync loss; 0: 0.01, or 0.03 with the discriminator, once an evaluation finds the loss below 0.75
    syncnet_wt: float = 0.0
    audio_from_expert: bool = False  # initialise the generator's audio encoder from the expert, if equally wide (ours)
    mouth_wt: float = 1.0  # weight of the mouth's pixels in L1, relative to the others; the reference: 1 (ours)
    motion_wt: float = 0.0  # weight, relative to L1, of the L1 of differences between neighbouring frames (ours)
    detail_wt: float = 0.0  # likewise, of the L1 of the amount of fine detail, which blur lacks (ours)
    feature_wt: float = 0.0  # likewise, of the L1 between the expert's features of generated and real mouths (ours)
    sync_grey: bool = False  # give the expert grey faces, so that its gradient does not change colours (ours)
    frozen_norms: bool = False  # freeze the generator's batch-norm statistics: for little or uniform data (ours)
    twin_reference: bool = True  # clips with twin.txt have the twin's same frame as reference, not another (ours)
    disc_wt: float = 0.07
    disc_width: float = 0.0  # the discriminator's ``width``; 0: the generator's (ours)
    disc_initial_learning_rate: float = 1e-4

    if not TYPE_CHECKING:  # or type checkers would accept any attribute

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError, with the reason for hparams of the reference that are gone."""
            raise AttributeError(f"hparams has no {name}" + (f": {REMOVED[name]}" if name in REMOVED else ""))

    @property
    def mel_frames_per_second(self) -> float:
        return self.sample_rate / self.hop_size

    def override(self, text: str) -> None:
        """Apply ``"name=value,name=value"``; raise UserError for unknown or fixed names, and for bad values."""
        types = {field.name: type(getattr(self, field.name)) for field in fields(self)}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = (piece.strip() for piece in item.partition("="))
            if name not in types:
                raise UserError(f"unknown hparam {name!r}; {_suggest_name(name, sorted(types))}")
            if name in FIXED_BY_NETWORKS:
                raise UserError(f"hparam {name} cannot be changed: the networks are built for {getattr(self, name)}")
            if name in FIXED_BY_PREPROCESSING:
                raise UserError(
                    f"hparam {name} is part of the data and of every checkpoint; change it in hparams.py, before "
                    "preprocess.py, and delete mel.npy of existing clips"
                )
            setattr(self, name, _parse(name, value, types[name]))

    def set_hparam(self, name: str, value: object) -> None:
        """Set one hparam, as the reference's scripts do; see ``override``."""
        self.override(f"{name}={value}")

    @contextlib.contextmanager
    def changed(self, *texts: str) -> Iterator[None]:
        """Apply each of ``texts`` as ``override`` does, until the block ends; other threads' blocks wait meanwhile."""
        with _CHANGING:
            before = vars(self).copy()
            try:
                for text in texts:
                    self.override(text)
                yield
            finally:
                vars(self).update(before)


def _suggest_name(name: str, known: list[str]) -> str:
    """Return a hint for an unknown name."""
    return REMOVED.get(name) or suggest(name, known, f"known: {', '.join(known)}", most=3)


def _parse(name: str, text: str, kind: type) -> bool | int | float:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"hparam {name} must be true or false, not {text!r}")
        return text.lower() == "true"
    try:
        value = kind(text)
    except ValueError:
        raise UserError(f"hparam {name} must be a number of type {kind.__name__}, not {text!r}") from None
    if not 0 <= value < math.inf:  # also rejects NaN; hparams that may be negative are fixed
        raise UserError(f"hparam {name} must be a finite number, 0 or above, not {text!r}")
    if value > AT_MOST.get(name, math.inf):
        raise UserError(f"hparam {name} must be {AT_MOST[name]} at most, not {text!r}")
    return value


hparams = HParams()


def read_list(path: Path) -> list[tuple[int, str]]:
    """Return the non-blank lines of a list, stripped, with their numbers, from 1.

    Raises UserError, naming the file, if it is not UTF-8.
    """
    text = files.read_text(path)
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def get_image_list(data_root: str | Path, split: str, filelists: Path = FILELISTS) -> list[str]:
    """Return ``data_root/dir/clip`` for every line of ``filelists/<split>.txt``.

    A line is ``dir/clip``; text after the first space or tab is a note, unless a folder has that name. A video that was
    cut into pieces stands for all of them, ``dir/clip@1`` and so on. Blank lines are skipped. Raises MissingFile if the
    list does not exist, UserError if it is empty or not UTF-8.
    """
    path = filelists / f"{split}.txt"
    if not path.is_file():
        raise MissingFile(f"{path} does not exist: a line dir/clip for every clip; preprocess.py --split writes it")
    lines = read_list(path)
    if not lines:
        raise UserError(f"{path} is empty; give it a line dir/clip for every clip, at least one")
    return [folder for _, line in lines for folder in _clip_folders(Path(data_root), line)]


def names_in(line: str) -> tuple[str, ...]:
    """Return the possible clip names in a line of a list, longest first; the rest of the line is a note."""
    return line, line.split("\t")[0].strip(), line.split()[0]


def piece_name(name: str, number: int) -> str:
    """Return the name of a clip's piece, numbered from 1; no whole clip has such a name."""
    return f"{name}@{number}"


def whole_name(name: str) -> str:
    """Return the name that a piece's whole video would have as a clip; other names are unchanged."""
    return PIECE.sub("", name)


def piece_number(name: str) -> int:
    """Return the number of a piece by its name; 0 for other names."""
    found = PIECE.search(name)
    return int(found[1]) if found else 0


def _clip_folders(root: Path, line: str) -> list[str]:
    """Return the clip folders of a line: the longest existing name, else the text up to the first white space."""
    *longer, name = names_in(line)
    for choice in (*longer, name):  # a note may be longer than names can be, for which Path.is_dir raises
        if os.path.isdir(root / choice):  # noqa: PTH112
            return [str(root / choice)]
    whole = root / name
    beside = whole.parent.glob(f"{glob.escape(whole.name)}@*")
    pieces = (str(path) for path in beside if whole_name(path.name) == whole.name)
    return sorted(pieces, key=piece_number) or [str(whole)]
