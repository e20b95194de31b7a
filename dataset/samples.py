"""The samples of the expert and the generator, by number."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

import pictures
from dataset.augmentation import Augmentation
from dataset.index import Clip, WindowIndex, WindowRules, find_negatives
from dataset.mels import mel_starts
from errors import UserError
from hparams import hparams as hp

ORDER, SAMPLE, AUGMENT = range(3)  # first element of every seed, so that the three never share a random stream
TRIES_PER_CLIP = 10  # damaged windows of one clip before the next clip takes its place
MAX_TRIES = 200  # damaged windows in a row, too many for a few bad files
Sample = tuple[torch.Tensor, ...]


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
    """The base of all data sets: keys, draws, and reading windows.

    An epoch, ``len`` keys, draws every clip ``windows_per_clip`` times in a row.
    """

    windows_per_clip = 1

    def __init__(self, folders: Iterable[str | Path], rules: WindowRules, seed: int) -> None:
        self.index = WindowIndex(folders, rules)
        self.rules = rules
        self.seed = seed
        self.hp = dataclasses.replace(hp)  # a copy: spawned loader workers do not know --hparams

    def __len__(self) -> int:
        return len(self.index.clips) * self.windows_per_clip

    def __getitem__(self, key: int) -> Sample:
        return self.read(key)[0]

    def read(self, key: int) -> tuple[Sample, dict[str, str]]:
        """Return the sample ``key``, or a replacement if files are damaged, and the damaged files with the reason.

        The replacement is drawn from the key as well, so a run over the same files is reproducible. Raises UserError
        if ``MAX_TRIES`` windows are damaged, which is more than a few bad files.
        """
        damaged: dict[str, str] = {}
        for attempt in range(MAX_TRIES):
            try:
                return self.sample(self.draw(key, attempt), key), damaged
            except Damaged as problem:
                damaged[problem.path] = problem.reason
        path, reason = damaged.popitem()
        raise UserError(f"{path} {reason}, like everything else that was tried; check the disk, or preprocess it again")

    def sample(self, draw: Draw, key: int = 0) -> Sample:
        """Return the sample of a draw, varied as its ``key`` says; raise Damaged."""
        raise NotImplementedError

    def draw(self, key: int, attempt: int = 0) -> Draw:
        """Choose the sample ``key`` (0 or more; those from ``len`` on belong to later epochs).

        ``attempt`` above 0 chooses the replacement after this many damaged windows, at first from the same clip.
        """
        clips = self.index.clips
        epoch, position = divmod(key // self.windows_per_clip, len(clips))
        position = (position + attempt // TRIES_PER_CLIP) % len(clips)
        clip = clips[_order(self.seed, epoch, len(clips))[position]]
        rng = np.random.default_rng((SAMPLE, self.seed, key, *([attempt] if attempt else [])))
        frame = clip.starts[rng.integers(len(clip.starts))]
        # kept from the reference: by default any other frame of the clip will do, even the very next one
        before, after = find_negatives(clip.windows, frame, self.rules)
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
        return [pictures.fitted(picture, self.hp.img_size) for picture in self._pictures(folder, frame)]

    def _mels(self, clip: Clip, frames: list[int]) -> torch.Tensor:
        """Return the mel windows that start with each of ``frames``, (len(frames), 1, num_mels, mel_step_size)."""
        starts = mel_starts(np.array(frames), self.hp)
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
            # one small read: cheaper than np.load, and leaves no files open, as memory maps of many clips would
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

    ``negative_distance`` is the least distance of that other window, in frames; ``augmentation`` varies the pictures.
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

    def sample(self, draw: Draw, key: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ``x, mel, y`` of a draw; augmented, if at all, in the way of this ``key``."""
        shown = draw.frame if draw.positive else draw.wrong
        if self.augmentation:
            rng = np.random.default_rng((AUGMENT, self.seed, key))
            faces = self.augmentation.apply(self._pictures(draw.clip.folder, shown), self.hp.img_size, rng)
        else:
            faces = self._faces(draw.clip.folder, shown)
        x = to_unit([plane for face in faces for plane in cv2.split(face[self.hp.img_size // 2 :])])
        return x, self._mels(draw.clip, [draw.frame])[0], torch.tensor([float(draw.positive)])


class MatchedWindows(SyncNetDataset):
    """Windows in sync, for an expert that compares every face of a batch with every voice in it.

    ``dataset[key]`` is ``x, mel, place``: x and mel as in SyncNetDataset, always of the same window; place (2,) int64
    is the number of its clip and its first frame. Raises UserError if ``windows_per_clip`` is below 1, and as
    SyncNetDataset does.
    """

    def __init__(
        self,
        folders: Iterable[str | Path],
        seed: int = 0,
        windows_per_clip: int = 1,
        augmentation: Augmentation | None = None,
        negative_distance: int = 1,
    ) -> None:
        if windows_per_clip < 1:
            raise UserError(f"windows_per_clip must be 1 or more, not {windows_per_clip}")
        super().__init__(folders, seed, negative_distance, augmentation)
        self.windows_per_clip = windows_per_clip

    def sample(self, draw: Draw, key: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ``x, mel, place`` of a draw, likewise."""
        x, mel, _ = super().sample(draw._replace(positive=True), key)
        return x, mel, torch.tensor([draw.clip.number, draw.frame])


class Wav2LipDataset(WindowDataset):
    """Samples for the generator: ``dataset[key]`` is ``x, indiv_mels, mel, y``, all float32, pictures BGR in [0, 1].

    x (6, 5, 96, 96): 5 consecutive frames, black below ``mask_top`` of their height, then 5 others of the clip, whole;
    indiv_mels (5, 1, 80, 16): the sound of each frame, ``mel_lead`` frames early; mel (1, 80, 16): of the whole window;
    y (3, 5, 96, 96): the 5 frames, whole. Arguments that are None are taken from ``hparams``; the others and the
    errors are as in SyncNetDataset.

    With ``twins``, the reference of a clip whose twin.txt names the clip beside it (demo/talking_portrait.py writes
    them) is the same 5 frames of that clip: the same head in the same place, with another mouth. This resembles
    inference, where both pictures are of one frame.
    """

    def __init__(
        self,
        folders: Iterable[str | Path],
        seed: int = 0,
        negative_distance: int = 1,
        mel_lead: int | None = None,
        twins: bool = True,
        mask_top: float | None = None,
    ) -> None:
        mel_lead = hp.mel_lead if mel_lead is None else mel_lead
        mask_top = hp.mask_top if mask_top is None else mask_top
        self.twins, self.mask_start = twins, round(mask_top * hp.img_size)
        if not 0 < self.mask_start < hp.img_size:
            raise UserError(f"mask_top must lie between 0 and 1, not {mask_top:g}: else nothing, or all, is masked")
        self.mel_frames = range(-mel_lead, hp.syncnet_T - mel_lead)  # where each picture's mel starts
        rules = WindowRules(min(0, self.mel_frames[0]), max(0, self.mel_frames[-1]), negative_distance)
        super().__init__(folders, rules, seed)

    def sample(self, draw: Draw, key: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ``x, indiv_mels, mel, y`` of a draw."""
        shown = [(draw.clip.folder, draw.frame), (draw.clip.folder, draw.wrong)]
        if self.twins and draw.clip.twin:
            shown[1] = (draw.clip.twin, draw.frame)
        columns = [np.concatenate(self._faces(*window)) for window in shown]  # (480, 96, 3) each
        x = to_unit([plane for column in columns for plane in cv2.split(column)])  # (6, 480, 96)
        x = x.unflatten(1, (self.hp.syncnet_T, -1))  # (6, 5, 96, 96)
        y = x[:3].clone()
        x[:3, :, self.mask_start :] = 0
        mels = self._mels(draw.clip, [draw.frame, *(draw.frame + i for i in self.mel_frames)])
        return x, mels[1:], mels[0], y


@lru_cache(maxsize=4)  # a batch may span two epochs, and training and validation have their own data sets
def _order(seed: int, epoch: int, clips: int) -> np.ndarray:
    """Return the order in which an epoch draws the clips."""
    return np.random.default_rng((ORDER, seed, epoch)).permutation(clips)


def _read_picture(path: str) -> np.ndarray:
    """Read a picture (height, width, 3) BGR; raise Damaged if it is missing or damaged."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise Damaged(path, f"cannot be read ({error.strerror})") from error
    if pictures.is_cut_short(content):  # OpenCV fills the missing end of a JPEG with grey
        raise Damaged(path, "is a truncated picture")
    picture = None
    with contextlib.suppress(cv2.error):  # an empty file, or a header that claims billions of pixels
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise Damaged(path, "is not a picture that can be decoded")
    return picture


def to_unit(planes: list[np.ndarray]) -> torch.Tensor:
    """Stack uint8 colour planes (height, width) as float32 in [0, 1]; stacking bytes is faster."""
    return torch.from_numpy(np.stack(planes)).float().div_(255)
