"""Every number the networks were built around, once, with its unit and where it comes from.

Numbers marked (reference) are the values of the original Wav2Lip release; the official checkpoints depend on them.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import files
from errors import MissingFile, UserError, hint_at

OUR_FILELISTS = Path(__file__).resolve().parent / "filelists"
FILELISTS = OUR_FILELISTS if OUR_FILELISTS.is_dir() else Path("filelists")  # installed: of the folder one works in

GONE = {"nepochs": "a training ends with --max_steps", "use_lws": "mels are librosa's"}  # of the reference's
FIXED_BY_NETWORKS = {"num_mels", "mel_step_size", "img_size", "syncnet_T"}  # by the shapes of their layers
# what mels and pictures on disk were made with
FIXED_BY_PREPROCESSING = {
    "sample_rate", "preemphasis", "n_fft", "hop_size", "win_size", "fmin", "fmax", "min_level_db", "ref_level_db",
    "max_abs_value", "fps",
}  # fmt: skip

AT_MOST = {
    "augment_mirror": 1, "augment_shift": 1, "augment_zoom": 0.9, "augment_brightness": 1, "augment_contrast": 1,
    "augment_colour": 1, "ema_decay": 0.999999, "mask_top": 0.9, "mel_lead": 10, "syncnet_wt": 0.99, "disc_wt": 0.99,
    "adam_beta1": 0.999,
}  # fmt: skip

_CHANGING = threading.RLock()  # held while the one, global set of settings is changed


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
    img_size: int = 96  # pixels, square face crops
    fps: float = 25.0  # frames a second in training data
    syncnet_T: int = 5  # consecutive video frames in one window, 0.2 s at 25 fps

    # Training, all networks (paper, section 4; reference)
    width: float = 1.0  # channels of all three networks against the official ones (ours)
    batch_size: int = 16  # windows
    initial_learning_rate: float = 1e-4
    adam_beta1: float = 0.5  # generator and discriminator; the expert keeps Adam's own 0.9
    num_workers: int = 16
    checkpoint_interval: int = 3000  # steps
    eval_interval: int = 3000  # steps
    save_optimizer_state: bool = True
    # steps over which learning rates fall to a hundredth, along a cosine; 0: they stay as they are (reference)
    lr_decay_steps: int = 0
    ema_decay: float = 0.0  # of a running mean of the weights, which is then evaluated and saved; 0: none (ours)

    eval_steps: int = 700  # batches in one evaluation, if there are that many windows
    hq_eval_steps: int = 300  # the same when training with the discriminator

    # Expert, SyncNet (reference)
    syncnet_batch_size: int = 64
    syncnet_lr: float = 1e-4
    syncnet_eval_interval: int = 10000  # steps
    syncnet_checkpoint_interval: int = 10000  # steps
    syncnet_eval_steps: int = 1400  # batches
    plateau_warn_steps: int = 5000  # steps of guessing after which a warning says what may be wrong (ours)
    # windows of each clip in a batch whose every face is compared with every voice; 0: one pair a sample (reference)
    windows_per_clip: int = 0
    negative_distance: int = 1  # frames, at least, between a window and a wrong one; the reference: any other frame
    augment_mirror: float = 0.0  # the expert's training pictures (ours): probability of left for right
    augment_shift: float = 0.0  # largest shift each way, share of the face
    augment_zoom: float = 0.0  # largest zoom in or out, share of the face
    augment_brightness: float = 0.0  # largest change, share of full scale
    augment_contrast: float = 0.0  # largest change, share
    augment_colour: float = 0.0  # largest change of one channel, share
    augment_blur: float = 0.0  # largest standard deviation, pixels of the 96 pixel face

    # Generator and visual-quality discriminator (reference)
    mel_lead: int = 1  # frames by which a mouth's mel starts before it; 0 is what inference does (--lip_delay 0)
    mask_top: float = 0.5  # the generator sees what is above this share of a face's height; the reference: half (ours)
    # of the sync loss; 0: 0.01, with the discriminator 0.03, from the first evaluation on that finds it below 0.75
    syncnet_wt: float = 0.0
    audio_from_expert: bool = False  # start the generator's audio encoder from the expert's, of the same width (ours)
    mouth_wt: float = 1.0  # how much more a pixel of the mouth counts in L1 than others; the reference: no more (ours)
    motion_wt: float = 0.0  # share of L1 of the differences between neighbouring frames (ours)
    detail_wt: float = 0.0  # share of L1 of how much fine detail there is, which a blur has too little of (ours)
    feature_wt: float = 0.0  # share of L1 between the expert's own features of generated and real mouths (ours)
    sync_grey: bool = False  # the expert sees grey faces, so that its gradient changes no colours (ours)
    frozen_norms: bool = False  # the generator's batch norms keep their statistics: for little or uniform data (ours)
    twin_reference: bool = True  # clips with twin.txt show the same moment of their twin; false: another moment (ours)
    disc_wt: float = 0.07
    disc_width: float = 0.0  # of the discriminator, as ``width``; 0: the generator's (ours)
    disc_initial_learning_rate: float = 1e-4

    if not TYPE_CHECKING:  # or every name would be one

        def __getattr__(self, name: str) -> Any:
            """Say of those of the reference's that are gone, why."""
            raise AttributeError(f"hparams has no {name}" + (f": {GONE[name]}" if name in GONE else ""))

    @property
    def mel_frames_per_second(self) -> float:
        return self.sample_rate / self.hop_size

    def override(self, text: str) -> None:
        """Apply ``"name=value,name=value"``; raise UserError that names what cannot be set, or not to this value."""
        types = {field.name: type(getattr(self, field.name)) for field in fields(self)}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = (piece.strip() for piece in item.partition("="))
            if name not in types:
                raise UserError(f"unknown hparam {name!r}; {_instead_of(name, sorted(types))}")
            if name in FIXED_BY_NETWORKS:
                raise UserError(f"hparam {name} cannot be changed: the networks are built for {getattr(self, name)}")
            if name in FIXED_BY_PREPROCESSING:
                raise UserError(
                    f"hparam {name} is part of the data and of every checkpoint; change it in hparams.py, before "
                    "preprocess.py, and delete mel.npy of clips that are there already"
                )
            setattr(self, name, _parse(name, value, types[name]))

    def set_hparam(self, name: str, value: object) -> None:
        """Set one, as the reference's scripts do; see ``override``."""
        self.override(f"{name}={value}")

    @contextlib.contextmanager
    def changed(self, *texts: str) -> Iterator[None]:
        """Apply each of ``texts`` as ``override`` does, until the block ends; other threads' blocks wait for that."""
        with _CHANGING:
            before = vars(self).copy()
            try:
                for text in texts:
                    self.override(text)
                yield
            finally:
                vars(self).update(before)


def _instead_of(name: str, known: list[str]) -> str:
    """Say what might have been meant by a name that is not known."""
    return GONE.get(name) or hint_at(name, known, f"known: {', '.join(known)}", most=3)


def _parse(name: str, text: str, kind: type) -> bool | int | float:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"hparam {name} takes true or false, not {text!r}")
        return text.lower() == "true"
    try:
        value = kind(text)
    except ValueError:
        raise UserError(f"hparam {name} takes a number of type {kind.__name__}, not {text!r}") from None
    if not 0 <= value < math.inf:  # nor NaN; those below 0 are fixed
        raise UserError(f"hparam {name} takes a number from 0 on, not {text!r}")
    if value > AT_MOST.get(name, math.inf):
        raise UserError(f"hparam {name} takes {AT_MOST[name]} at most, not {text!r}")
    return value


hparams = HParams()


def read_list(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a list that are not blank, stripped, with their numbers, from 1.

    Raises UserError, which names the file, for one that is not UTF-8.
    """
    text = files.read_text(path)
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def get_image_list(data_root: str | Path, split: str, filelists: Path = FILELISTS) -> list[str]:
    """Return ``data_root/dir/clip`` for every line of ``filelists/<split>.txt``.

    A line is ``dir/clip``; whatever follows the first space or tab is a note, unless a folder is called so. Blank lines
    are skipped. Raises MissingFile if the list does not exist, UserError if there is nothing in it or it is not UTF-8.
    """
    path = filelists / f"{split}.txt"
    if not path.is_file():
        raise MissingFile(f"{path} does not exist: a line dir/clip for every clip; preprocess.py --split writes it")
    lines = read_list(path)
    if not lines:
        raise UserError(f"{path} is empty; give it a line dir/clip for every clip, one at least")
    return [_clip_folder(Path(data_root), line) for _, line in lines]


def names_in(line: str) -> tuple[str, ...]:
    """Return what a line of a list may mean by the name of its clip, the longest first; what follows that is a note."""
    return line, line.split("\t")[0].strip(), line.split()[0]


def _clip_folder(root: Path, line: str) -> str:
    """Return the folder that a line of a list means: up to the first white space, or more where that is a folder."""
    *longer, name = names_in(line)
    return str(next((root / choice for choice in longer if (root / choice).is_dir()), root / name))
