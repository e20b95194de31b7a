"""How well face and sound match in a clip folder, such as preprocess.py writes for training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

import audio
import pictures
from dataset import frame_ids
from errors import MissingFile, UserError
from hparams import hparams as hp

from .embedding import Expert, Face, embed_mouths, embed_sound, embed_windows
from .matching import Result, compare


def score_clip(folder: str | Path, expert: Expert) -> Result:
    """Return how well the face in 0.jpg, 1.jpg, … (a missing number is a frame without a face) matches audio.wav.

    Raises UserError for a picture or sound that cannot be read, or that is too short.
    """
    folder = Path(folder)
    if not (folder / "audio.wav").is_file():
        raise MissingFile(f"{folder / 'audio.wav'} does not exist")
    numbers = frame_ids(folder)
    last = max(numbers, default=-1)
    ((starts, vectors),) = embed_windows(
        _mouths(folder, set(numbers.tolist()), last), 1, lambda windows: embed_mouths(expert, windows), expert
    )
    seen = Face(np.full((last + 1, 4), np.nan), starts, vectors, None)
    return compare(seen, embed_sound([audio.load_wav(folder / "audio.wav")], expert, str(folder / "audio.wav")))


def _mouths(folder: Path, numbers: set[int], last: int) -> Iterator[list[np.ndarray | None]]:
    for number in range(last + 1):
        if number not in numbers:
            yield [None]
            continue
        path = folder / f"{number}.jpg"
        picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)  # imread opens few names on Windows
        if picture is None:
            raise UserError(f"{path} is not a picture that can be decoded")
        yield [pictures.fitted(picture, hp.img_size)[hp.img_size // 2 :]]
