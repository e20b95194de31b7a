"""Clips on disk as training samples: an index of the usable windows, and what the expert and the generator see of them.

A clip is a folder with face crops 0.jpg, 1.jpg, ... at ``hparams.fps``, audio.wav, and mel.npy, float32 (mel frames,
num_mels). Folders of the reference have no mel.npy; it is made from audio.wav the first time and kept.

Samples are numbered without end. The number, its key, and the data set's seed decide everything about a sample, so a
run repeats itself whatever the number of workers and processes, and resumes by counting:

    data = SyncNetDataset(get_image_list(root, "train"), seed=1)
    batches = Batches(data, batch_size=64, start=steps_done)
    with contextlib.closing(Loader(data, batches, num_workers=16)) as loader:
        for step, (x, mel, y) in enumerate(loader, steps_done): ...
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import itertools
import os
import re
import signal
import stat
import threading
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

import audio
import files
from errors import MissingFile, UserError
from hparams import HParams
from hparams import hparams as hp

LEAST_FRAMES = (
    3 * hp.syncnet_T + 1
)  # of a clip (reference): wrong windows of a shorter one would overlap the right ones
TWIN = "twin.txt"
LENGTHS_AGREE = 1.05  # of pictures and sound: one is at most so many times as long as the other
SHORT, LONG = 0.12, 0.5  # seconds more that pictures, and that the sound, may go on alone
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
ORDER, SAMPLE, AUGMENT = range(3)  # first word of every seed, so that the three never share a stream of numbers
TRIES_PER_CLIP = 10  # windows of one clip that may be damaged before the next clip takes its place
MOST_TRIES = 200  # damaged windows in a row after which it is not a few files that are at fault
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
Sample = tuple[torch.Tensor, ...]


# --------------------------------------------------------------------------------------------------------------------
# The index


@dataclass(frozen=True)
class Clip:
    """A usable clip folder."""

    folder: str  # as it was given; serves as the clip's name
    number: int  # its place among the folders given
    windows: np.ndarray  # ids of the frames that begin a window of consecutive frames, ascending
    starts: np.ndarray  # those that a sample may be about: all their sound is there, and so is a wrong window
    mel_offset: int  # bytes before the first number in mel.npy
    mel: np.ndarray | None = None  # (mel frames, num_mels), only where the folder could not be written to
    doubt: str | None = None  # why its pictures may not belong to its sound
    twin: str | None = None  # folder of the same head, moving alike and saying something else, frame by frame


@dataclass(frozen=True)
class WindowRules:
    """What makes a window usable. Mel spans and distances are in video frames."""

    first_mel: int = 0  # the earliest mel window of a sample starts this long after its first frame (or before it)
    last_mel: int = 0  # and the latest
    nearest_negative: int = 1

    def __post_init__(self) -> None:
        if self.nearest_negative < 1:
            raise UserError(f"negatives must be 1 or more frames away, not {self.nearest_negative}")


class WindowIndex:
    """The usable clips among ``folders``, each with its usable windows; made once, nothing is retried later.

    ``clips`` are in the order given, ``unusable`` says for every other folder why. Raises UserError if there is no
    usable window at all.
    """

    def __init__(self, folders: Iterable[str | Path], rules: WindowRules = WindowRules()) -> None:
        self.clips: list[Clip] = []
        self.unusable: dict[str, str] = {}
        for number, folder in enumerate(map(str, folders)):
            try:
                self.clips.append(_read_clip(folder, number, rules))
            except (OSError, ValueError) as problem:
                self.unusable[folder] = str(problem)
        if not self.clips:
            raise UserError(self._nothing_usable())

    def __len__(self) -> int:
        """The number of usable windows."""
        return sum(len(clip.starts) for clip in self.clips)

    @property
    def doubtful(self) -> dict[str, str]:
        """What is odd about clips that are used all the same, by folder."""
        return {clip.folder: clip.doubt for clip in self.clips if clip.doubt}

    def _nothing_usable(self) -> str:
        looked_for = f"clip folders with 0.jpg, 1.jpg, ... and audio.wav or mel.npy, {hp.syncnet_T} frames in a row"
        if not self.unusable:
            return f"no clips to learn from: the list of clips is empty (looked for {looked_for})"
        reasons = "; ".join(f"{folder}: {reason}" for folder, reason in itertools.islice(self.unusable.items(), 3))
        return f"none of {len(self.unusable)} clips is usable (looked for {looked_for}). The first: {reasons}"


def _read_clip(folder: str, number: int, rules: WindowRules) -> Clip:
    if not Path(folder).is_dir():
        raise MissingFile("no such folder")
    ids = _frame_ids(folder)
    if len(ids) < LEAST_FRAMES:
        others = _pictures_of_other_names(folder)
        hint = f"; frames are named 0.jpg, 1.jpg, …, not {others[0]} and the like" if others else ""
        raise UserError(f"{len(ids)} frames, at least {LEAST_FRAMES} are needed{hint}")
    last = hp.syncnet_T - 1
    windows = ids[: len(ids) - last][ids[last:] - ids[: len(ids) - last] == last]
    if not len(windows):
        raise UserError(f"no {hp.syncnet_T} consecutive frames")
    mel, offset = _open_mel(folder)
    ends = _mel_starts(windows + rules.last_mel, hp) + hp.mel_step_size
    starts = windows[(windows + rules.first_mel >= 0) & (ends <= len(mel))]
    if not len(starts):
        raise UserError(f"no {hp.syncnet_T} consecutive frames with their sound ({len(mel)} mel frames)")
    before, after = _find_negatives(windows, starts, rules)
    starts = starts[before + len(windows) - after > 0]
    if not len(starts):
        raise UserError(f"no two windows at least {rules.nearest_negative} frames apart")
    doubt, twin = _compare_lengths(folder, ids, len(mel)), _find_twin(folder, ids)
    return Clip(folder, number, windows, starts, offset or 0, mel if offset is None else None, doubt, twin)


def _compare_lengths(folder: str, ids: np.ndarray, mel_frames: int) -> str | None:
    """Say what is odd if the sound goes on long after the pictures; raise UserError where pictures go on without sound.

    Pictures at another rate than ``hparams.fps`` drift away from the sound, and nothing else shows it. Frames without
    a face leave holes, also at the end; sound that goes on may be just that, or silence.
    """
    if Path(folder, "clip.json").exists():  # preprocess.py has seen to the rate
        return None
    pictures, sound = (ids[-1] + 1) / hp.fps, mel_frames / hp.mel_frames_per_second
    lengths = f"{pictures:.1f} s of pictures, at {hp.fps:g} a second, and {sound:.1f} s of sound"
    if pictures > sound * LENGTHS_AGREE + SHORT:
        raise UserError(f"{lengths}; its pictures are of another rate, or its sound broke off: prepare it again")
    return lengths if sound > pictures * LENGTHS_AGREE + LONG else None


def _find_twin(folder: str, ids: np.ndarray) -> str | None:
    """Return the folder beside this one that its twin.txt names, if that has every one of its frames."""
    try:
        twin = Path(folder).with_name(Path(folder, TWIN).read_text(encoding="utf-8").strip())
        return str(twin) if np.isin(ids, _frame_ids(str(twin))).all() else None
    except (OSError, ValueError):
        return None


def _frame_ids(folder: str) -> np.ndarray:
    """Return the frame numbers of a folder, ascending, less empty files (left by a full disk or a killed run)."""
    with os.scandir(folder) as entries:
        names = [entry.name[:-4] for entry in entries if entry.name.endswith(".jpg") and entry.stat().st_size]
    return np.array(sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name), np.int64)


def _pictures_of_other_names(folder: str) -> list[str]:
    """Return the pictures that ``_frame_ids`` passes by: 00000.jpg, 0.JPG, 0.png, frame_0.jpg."""
    pictures = [path.name for path in Path(folder).iterdir() if path.name.lower().endswith(PICTURES)]
    return sorted(name for name in pictures if not re.fullmatch(r"(0|[1-9]\d*)\.jpg", name))


def _mel_starts(frames: np.ndarray, settings: HParams) -> np.ndarray:
    """Return the mel frame at which the sound of each video frame starts."""
    return (settings.mel_frames_per_second * frames / settings.fps).astype(np.int64)


def _find_negatives(windows: np.ndarray, frame: int | np.ndarray, rules: WindowRules) -> np.ndarray:
    """Return (2, ...) positions: the wrong windows for ``frame`` are those before the first and from the second on."""
    near = rules.nearest_negative
    return np.searchsorted(windows, np.add.outer((1 - near, near), frame))


# --------------------------------------------------------------------------------------------------------------------
# Mels on disk


def make_mel(folder: str | Path) -> np.ndarray:
    """Compute the mel of ``folder``/audio.wav, keep it as mel.npy if the folder can be written to, and return it.

    Returns (mel frames, num_mels) float32. Raises MissingFile or UserError if there is no readable audio.wav.
    """
    path = Path(folder, "audio.wav")
    if not path.is_file():
        raise MissingFile("neither mel.npy nor audio.wav")
    try:
        wav = audio.load_wav(path)
    except Exception as error:  # librosa's second reader has an exception of its own that only it can name
        raise UserError(f"audio.wav cannot be read ({str(error) or type(error).__name__})") from error
    mel = np.ascontiguousarray(audio.melspectrogram(wav).T)
    save_mel(folder, mel)
    return mel


def save_mel(folder: str | Path, mel: np.ndarray) -> bool:
    """Write ``mel`` (mel frames, num_mels) as ``folder``/mel.npy, whole or not at all; say whether it was written."""
    if not Path(folder).stat().st_mode & WRITABLE:  # root could write all the same, but was asked not to
        return False
    try:
        with files.atomic_write(Path(folder, "mel.npy")) as partial:
            np.save(partial, np.ascontiguousarray(mel, np.float32))
    except OSError:  # read-only, or full
        return False
    return True


def _open_mel(folder: str) -> tuple[np.ndarray, int | None]:
    """Return the clip's mel and the bytes before it in mel.npy, or None instead if there can be no such file."""
    path = Path(folder, "mel.npy")
    if not path.is_file():
        mel = make_mel(folder)
        if not path.is_file():
            return mel, None
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise UserError(f"mel.npy cannot be read ({error}); delete it to have it made again") from error
    in_rows = mapped.ndim == 2 and mapped.shape[1] == hp.num_mels and mapped.flags.c_contiguous
    if not in_rows or mapped.dtype != np.float32:
        raise UserError(f"mel.npy is {mapped.dtype} {mapped.shape}, not float32 (mel frames, {hp.num_mels}) in rows")
    return mapped, mapped.offset


# --------------------------------------------------------------------------------------------------------------------
# Augmentation


@dataclass(frozen=True)
class Augmentation:
    """How much the pictures of a window are varied, all alike. Each value is the largest change; 0 is none."""

    mirror: float = 0.0  # probability of left for right
    shift: float = 0.0  # share of the face's size, each way
    zoom: float = 0.0  # share of the face's size, in and out
    brightness: float = 0.0  # share of full scale
    contrast: float = 0.0  # share, around middle grey
    colour: float = 0.0  # share, each of the three channels on its own
    blur: float = 0.0  # standard deviation in pixels of the resized face

    def apply(self, pictures: list[np.ndarray], size: int, rng: np.random.Generator) -> np.ndarray:
        """Return the pictures (height, width, 3) uint8 varied and resized, as (count, size, size, 3) uint8."""
        side = -1 if rng.random() < self.mirror else 1
        zoom = 1 + rng.uniform(-self.zoom, self.zoom)
        shift = rng.uniform(-self.shift, self.shift, 2)
        levels = self._levels(rng)
        blur = rng.uniform(0, self.blur)
        faces = np.stack([_crop(picture, size, (side * zoom, zoom), shift) for picture in pictures])
        faces = cv2.LUT(faces.reshape(-1, size, 3), levels).reshape(faces.shape)
        if blur > 0.1:  # less cannot be seen
            faces = np.stack([cv2.GaussianBlur(face, (0, 0), blur) for face in faces])
        return faces

    def _levels(self, rng: np.random.Generator) -> np.ndarray:
        """Return what becomes of each grey level in each channel, (1, 256, 3) uint8."""
        gains = 1 + rng.uniform(-self.colour, self.colour, 3)
        contrast = 1 + rng.uniform(-self.contrast, self.contrast)
        brightness = 255 * rng.uniform(-self.brightness, self.brightness)
        levels = (np.arange(256)[:, None] * gains - 127.5) * contrast + 127.5 + brightness
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8)[None]


def _crop(picture: np.ndarray, size: int, scale: tuple[float, float], shift: np.ndarray) -> np.ndarray:
    """Resize ``picture`` to (size, size), seeing ``scale`` (x, y; negative mirrors) of it, ``shift`` off its middle."""
    full = np.array(picture.shape[1::-1])  # width, height
    step = full * scale / size  # source pixels per target pixel
    first = full * (0.5 + shift) - 0.5 - step * (size - 1) / 2  # source of target pixel 0, in pixel centres
    matrix = np.array([[step[0], 0, first[0]], [0, step[1], first[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)


# --------------------------------------------------------------------------------------------------------------------
# Samples


class Damaged(UserError):
    """A file of a clip that was usable when the index was made cannot be read."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason


class Draw(NamedTuple):
    """What one sample is made of."""

    clip: Clip
    frame: int  # id of the first frame of the window that the sound belongs to
    wrong: int  # id of the first frame of another window of the same clip
    positive: bool  # expert: show the right window, not the wrong one


class WindowDataset(Dataset):
    """What the data sets share: keys, draws, and reading windows.

    An epoch, ``len`` keys, draws every clip ``windows_per_clip`` times in a row.
    """

    windows_per_clip = 1

    def __init__(self, folders: Iterable[str | Path], rules: WindowRules, seed: int) -> None:
        self.index = WindowIndex(folders, rules)
        self.rules = rules
        self.seed = seed
        self.hp = dataclasses.replace(hp)  # a copy: loader workers that are fresh processes have not seen --hparams

    def __len__(self) -> int:
        return len(self.index.clips) * self.windows_per_clip

    def __getitem__(self, key: int) -> Sample:
        return self.read(key)[0]

    def read(self, key: int) -> tuple[Sample, dict[str, str]]:
        """Return the sample ``key``, or what takes its place where files are damaged; and these, with the reason.

        What takes its place is drawn by the key as well, so a run over the same files repeats itself. Raises UserError
        if ``MOST_TRIES`` windows are damaged, which is more than a few bad files.
        """
        damaged: dict[str, str] = {}
        for attempt in range(MOST_TRIES):
            try:
                return self._drawn(self.draw(key, attempt), key), damaged
            except Damaged as problem:
                damaged[problem.path] = problem.reason
        path, reason = damaged.popitem()
        raise UserError(f"{path} {reason}, like everything else that was tried; look at the disk, or prepare it again")

    def _drawn(self, draw: Draw, key: int) -> Sample:
        """Return the sample of a draw; raise Damaged."""
        raise NotImplementedError

    def draw(self, key: int, attempt: int = 0) -> Draw:
        """Choose the sample ``key`` (0 or more; from ``len`` on they belong to later epochs).

        ``attempt`` 1 or more is what takes its place after so many that were damaged: at first from the same clip.
        """
        clips = self.index.clips
        epoch, position = divmod(key // self.windows_per_clip, len(clips))
        position = (position + attempt // TRIES_PER_CLIP) % len(clips)
        clip = clips[_order(self.seed, epoch, len(clips))[position]]
        rng = np.random.default_rng((SAMPLE, self.seed, key, *([attempt] if attempt else [])))
        frame = clip.starts[rng.integers(len(clip.starts))]
        # kept from the reference: by default any other frame of the clip will do, even the very next one
        before, after = _find_negatives(clip.windows, frame, self.rules)
        pick = rng.integers(before + len(clip.windows) - after)
        wrong = clip.windows[pick if pick < before else after + pick - before]
        return Draw(clip, int(frame), int(wrong), bool(rng.random() < 0.5))

    def clip_of(self, key: int) -> str:
        """Return the folder that the sample ``key`` is from."""
        return self.draw(key).clip.folder

    def _pictures(self, folder: str, frame: int) -> list[np.ndarray]:
        """Read the window that starts at ``frame``, each picture (height, width, 3) BGR uint8."""
        return [_read_picture(f"{folder}/{i}.jpg") for i in range(frame, frame + self.hp.syncnet_T)]

    def _faces(self, folder: str, frame: int) -> list[np.ndarray]:
        """Read the window that starts at ``frame``, each face (img_size, img_size, 3) BGR uint8."""
        size = (self.hp.img_size, self.hp.img_size)
        return [cv2.resize(picture, size) for picture in self._pictures(folder, frame)]

    def _mels(self, clip: Clip, frames: list[int]) -> torch.Tensor:
        """Return the mel windows that start with each of ``frames``, (len(frames), 1, num_mels, mel_step_size)."""
        starts = _mel_starts(np.array(frames), self.hp)
        first, step = starts.min(), self.hp.mel_step_size
        rows = self._mel_rows(clip, first, starts.max() + step)
        return torch.from_numpy(np.array([rows[start : start + step].T for start in starts - first])[:, None])

    def _mel_rows(self, clip: Clip, start: int, stop: int) -> np.ndarray:
        """Return mel frames ``start`` to ``stop`` of a clip, (stop - start, num_mels)."""
        if clip.mel is not None:
            return clip.mel[start:stop]
        bands = self.hp.num_mels
        skip = clip.mel_offset + start * bands * np.float32().itemsize
        path = f"{clip.folder}/mel.npy"
        try:
            # one small read: cheaper than np.load, and no open files pile up as memory maps of many clips would
            values = np.fromfile(path, np.float32, (stop - start) * bands, offset=skip)
        except OSError as error:
            raise Damaged(path, f"cannot be read ({error.strerror})") from error
        if len(values) < (stop - start) * bands:
            raise Damaged(path, "has become shorter since training started")
        return values.reshape(-1, bands)


class SyncNetDataset(WindowDataset):
    """Samples for the expert: ``dataset[key]`` is ``x, mel, y``, all float32.

    x (15, 48, 96): the lower half of 5 consecutive frames in [0, 1], channels BGR of the first, of the second, ...;
    mel (1, 80, 16): the sound of the drawn window; y (1,): 1 if x is that window, 0 if x is another one of the clip.

    ``negative_distance`` is how far away, in frames, that other one is at least; ``augmentation`` varies the pictures.
    The index and its errors are those of WindowIndex.
    """

    def __init__(
        self,
        folders: Iterable[str | Path],
        seed: int = 0,
        negative_distance: int = 1,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__(folders, WindowRules(nearest_negative=negative_distance), seed)
        self.augmentation = augmentation

    def _drawn(self, draw: Draw, key: int) -> Sample:
        return self.sample(draw, np.random.default_rng((AUGMENT, self.seed, key)))

    def sample(
        self, draw: Draw, rng: np.random.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ``x, mel, y`` of a draw, augmented if there are ``rng`` and an augmentation."""
        shown = draw.frame if draw.positive else draw.wrong
        if self.augmentation and rng is not None:
            faces = self.augmentation.apply(self._pictures(draw.clip.folder, shown), self.hp.img_size, rng)
        else:
            faces = self._faces(draw.clip.folder, shown)
        x = _to_unit([plane for face in faces for plane in cv2.split(face[self.hp.img_size // 2 :])])
        return x, self._mels(draw.clip, [draw.frame])[0], torch.tensor([float(draw.positive)])


class MatchedWindows(SyncNetDataset):
    """Windows in sync, for an expert that compares every face of a batch with every voice in it.

    ``dataset[key]`` is ``x, mel, place``: x and mel as in SyncNetDataset, always of the same window; place (2,) int64
    says which one, by the number of its clip and its first frame. Raises UserError for fewer ``windows_per_clip`` than
    1, and like WindowIndex.
    """

    def __init__(
        self,
        folders: Iterable[str | Path],
        seed: int = 0,
        windows_per_clip: int = 1,
        augmentation: Augmentation | None = None,
    ) -> None:
        if windows_per_clip < 1:
            raise UserError(f"windows_per_clip must be 1 or more, not {windows_per_clip}")
        super().__init__(folders, seed, augmentation=augmentation)
        self.windows_per_clip = windows_per_clip

    def sample(
        self, draw: Draw, rng: np.random.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ``x, mel, place`` of a draw, augmented if there are ``rng`` and an augmentation."""
        x, mel, _ = super().sample(draw._replace(positive=True), rng)
        return x, mel, torch.tensor([draw.clip.number, draw.frame])


class Wav2LipDataset(WindowDataset):
    """Samples for the generator: ``dataset[key]`` is ``x, indiv_mels, mel, y``, all float32, pictures BGR in [0, 1].

    x (6, 5, 96, 96): 5 consecutive frames with their lower half black, then 5 others of the clip, whole;
    indiv_mels (5, 1, 80, 16): the sound of each frame, ``mel_lead`` frames early; mel (1, 80, 16): of the whole window;
    y (3, 5, 96, 96): the 5 frames, whole. The other arguments and the errors are as in SyncNetDataset.

    With ``twins``, a clip whose twin.txt names the clip beside it (demo/talking_portrait.py writes them) shows the same
    5 frames of that one instead of others of its own: the same head at the same place, with another mouth. So does
    inference, where both pictures are of one frame.
    """

    def __init__(
        self,
        folders: Iterable[str | Path],
        seed: int = 0,
        negative_distance: int = 1,
        mel_lead: int = hp.mel_lead,
        twins: bool = True,
    ) -> None:
        self.twins = twins
        self.mel_frames = range(-mel_lead, hp.syncnet_T - mel_lead)  # of each picture, counted from the first
        rules = WindowRules(min(0, self.mel_frames[0]), max(0, self.mel_frames[-1]), negative_distance)
        super().__init__(folders, rules, seed)

    def _drawn(self, draw: Draw, key: int) -> Sample:
        return self.sample(draw)

    def sample(self, draw: Draw) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ``x, indiv_mels, mel, y`` of a draw."""
        shown = [(draw.clip.folder, draw.frame), (draw.clip.folder, draw.wrong)]
        if self.twins and draw.clip.twin:
            shown[1] = (draw.clip.twin, draw.frame)
        columns = [np.concatenate(self._faces(*window)) for window in shown]  # (480, 96, 3) each
        x = _to_unit([plane for column in columns for plane in cv2.split(column)])  # (6, 480, 96)
        x = x.unflatten(1, (self.hp.syncnet_T, -1))  # (6, 5, 96, 96)
        y = x[:3].clone()
        x[:3, :, self.hp.img_size // 2 :] = 0
        mels = self._mels(draw.clip, [draw.frame, *(draw.frame + i for i in self.mel_frames)])
        return x, mels[1:], mels[0], y


@lru_cache(maxsize=4)  # a batch may lie in two epochs, and there are data sets for training and for evaluation
def _order(seed: int, epoch: int, clips: int) -> np.ndarray:
    """Return the order in which an epoch draws the clips."""
    return np.random.default_rng((ORDER, seed, epoch)).permutation(clips)


def _read_picture(path: str) -> np.ndarray:
    """Read a picture (height, width, 3) BGR; raise Damaged if it is missing or not whole."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise Damaged(path, f"cannot be read ({error.strerror})") from error
    # OpenCV fills up with grey what is missing at the end; a killed machine may leave zeros there
    if content.startswith(JPEG_START) and not content.rstrip(b"\0").endswith(JPEG_END):
        raise Damaged(path, "is only the beginning of a picture")
    picture = None
    with contextlib.suppress(cv2.error):  # nothing, or a header that promises billions of pixels
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise Damaged(path, "is not a picture that can be decoded")
    return picture


def _to_unit(planes: list[np.ndarray]) -> torch.Tensor:
    """Stack uint8 colour planes (height, width) as float32 in [0, 1]; put in order while bytes, which is faster."""
    return torch.from_numpy(np.stack(planes)).float().div_(255)


# --------------------------------------------------------------------------------------------------------------------
# Batches


class Batches:
    """The keys of batch after batch of a run, without end, from batch ``start`` on: a batch sampler for a DataLoader.

    Batch b of all processes together is the keys b * batch_size to (b + 1) * batch_size - 1; of them each of
    ``world_size`` processes gets an equal, contiguous share, the one of its ``rank``.
    """

    def __init__(
        self,
        dataset: WindowDataset,
        batch_size: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise UserError(f"a batch of {batch_size} cannot be shared equally by {world_size} processes")
        self.dataset = dataset
        self.batch_size = batch_size
        self.start = start
        self.share = batch_size // world_size
        self.rank = rank

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.keys, itertools.count(self.start))

    def keys(self, batch: int) -> list[int]:
        """Return this process's keys of a batch."""
        first = batch * self.batch_size + self.rank * self.share
        return list(range(first, first + self.share))

    def clips_of(self, batch: int) -> list[str]:
        """Return the clip folders of this process's samples of a batch, in their order."""
        return [self.dataset.clip_of(key) for key in self.keys(batch)]

    def epoch_of(self, batch: int) -> int:
        """Return the epoch, from 0, in which a batch begins."""
        return batch * self.batch_size // len(self.dataset)


def evaluation_windows(count: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """Return the first ``count`` keys as this process's batches, the same every time; the last batch may be smaller.

    With a data set whose seed and clips stay the same, these are the same windows in every evaluation.
    """
    keys = range(rank, count, world_size)
    return [list(keys[first : first + batch_size]) for first in range(0, len(keys), batch_size)]


class Loader:
    """The samples of ``batches``, stacked, read ahead by ``num_workers`` processes.

    It leaves torch's global random state alone. ``damaged`` says which files could not be read so far, and why; other
    windows take the place of theirs. ``close`` ends the processes; a program that raises ends them too.
    """

    def __init__(
        self,
        dataset: WindowDataset,
        batches: Batches | list[list[int]],
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.damaged: dict[str, str] = {}
        self._loader = DataLoader(
            _Reading(dataset),
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=_stack,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # else it takes a number from the global one, and resuming shifts that
        )
        _LOADERS.add(self)

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        batches = iter(self._loader)
        in_main_thread = threading.current_thread() is threading.main_thread()
        if self._loader.num_workers and in_main_thread and hasattr(signal, "SIGCHLD"):
            # torch would raise wherever the main thread is, in the middle of a step, that a worker has died; whoever
            # waits for the next batch hears of it, too
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for batch, damaged in batches:
            self.damaged |= damaged
            yield batch

    def close(self) -> None:
        """End the processes, which nothing else does: they ignore signals, and Python would wait for them."""
        iterator: Any = self._loader._iterator
        self._loader._iterator = None
        if iterator is not None:
            iterator._shutdown_workers()  # torch's own, called when the iterator is forgotten; errors remember it
            for worker in iterator._workers:
                worker.kill()  # one that hangs in a read has not heard


_LOADERS: weakref.WeakSet[Loader] = weakref.WeakSet()


@atexit.register  # after multiprocessing's own, so it comes before that waits for the processes
def _close_loaders() -> None:
    for loader in list(_LOADERS):
        loader.close()


class _Reading(Dataset):
    """What a loader's processes see of a data set: samples, and with them what was damaged."""

    def __init__(self, dataset: WindowDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: int) -> tuple[Sample, dict[str, str]]:
        return self.dataset.read(key)


def _stack(samples: list[tuple[Sample, dict[str, str]]]) -> tuple[list[torch.Tensor], dict[str, str]]:
    damaged: dict[str, str] = {}
    for _, found in samples:
        damaged |= found
    return default_collate([sample for sample, _ in samples]), damaged


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the workers themselves are the parallelism
    # signals to the whole job are for the main process: it saves, then ends the workers
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
