"""Random variation of the pictures of a window, the same for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """How much the pictures of a window are varied, all in the same way. Values are the largest change; 0: none."""

    mirror: float = 0.0  # probability of swapping left and right
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
        if blur > 0.1:  # less is invisible
            faces = np.stack([cv2.GaussianBlur(face, (0, 0), blur) for face in faces])
        return faces

    def _levels(self, rng: np.random.Generator) -> np.ndarray:
        """Return the lookup table of grey levels for each channel, (1, 256, 3) uint8."""
        gains = 1 + rng.uniform(-self.colour, self.colour, 3)
        contrast = 1 + rng.uniform(-self.contrast, self.contrast)
        brightness = 255 * rng.uniform(-self.brightness, self.brightness)
        levels = (np.arange(256)[:, None] * gains - 127.5) * contrast + 127.5 + brightness
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8)[None]


def _crop(picture: np.ndarray, size: int, scale: tuple[float, float], shift: np.ndarray) -> np.ndarray:
    """Resize the share ``scale`` (x, y; negative mirrors) of ``picture``, ``shift`` off its centre, to (size, size)."""
    if max(picture.shape[:2]) > 2 * size:  # otherwise pixels would be skipped, see ``pictures.fitted``
        picture = cv2.resize(picture, (2 * size, 2 * size), interpolation=cv2.INTER_AREA)
    full = np.array(picture.shape[1::-1])  # width, height
    step = full * scale / size  # source pixels per target pixel
    first = full * (0.5 + shift) - 0.5 - step * (size - 1) / 2  # source of target pixel 0, in pixel centres
    matrix = np.array([[step[0], 0, first[0]], [0, step[1], first[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
