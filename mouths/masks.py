"""Soft masks of the parts of a frontal face of 96 pixels: (96, 96) float32 in [0, 1]."""

from __future__ import annotations

import functools

import cv2
import numpy as np

from hparams import hparams as hp


@functools.lru_cache(maxsize=1)  # every frame needs each of them
def lips() -> np.ndarray:
    """Return 1 on the lips, falling smoothly to 0 around them."""
    return _ellipse(0.5, 0.76, 0.24, 0.15, 0.5)


@functools.lru_cache(maxsize=1)
def mouth() -> np.ndarray:
    """Return 1 on lips, chin and the skin from them to the nose, falling smoothly to 0 at nostrils, cheeks and jaw."""
    return _ellipse(0.5, 0.78, 0.34, 0.24, 0.35)


@functools.lru_cache(maxsize=1)
def around_lips() -> np.ndarray:
    """Return the mouth without the lips, (96, 96) bool: the skin that is shown with them."""
    return (mouth() > 0.5) & (lips() < 0.05)


@functools.lru_cache(maxsize=1)
def lower_face() -> np.ndarray:
    """Return 1 on the mouth, falling smoothly to 0 at the cheeks, the nose and the box's edge.

    The box's lower corners show neck, hair and wall beside the jaw, where a wider drawn jaw would be a halo.
    """
    x, y = _places()
    sides = np.minimum(x, 1 - x) / 0.15
    top = (y - 0.4) / 0.15  # the generator redraws the lower half at least; the fade starts just above it
    bottom = (1 - y) / 0.08
    return smooth_step(np.minimum(np.minimum(sides, top), bottom)) * _ellipse(0.5, 0.66, 0.4, 0.4, 0.3)


def difference(face: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return by how many grey levels two faces differ in more than sharpness, (height, width), 0 or more: not a mask.

    Both, or a part of both, are (height, width, 3) float32.
    """
    apart = np.abs(cv2.GaussianBlur(face - other, (0, 0), 1.5))
    return functools.reduce(np.maximum, cv2.split(apart))  # numpy's max over the last axis takes ten times as long


def alike(face: np.ndarray, other: np.ndarray, near: float, far: float) -> np.ndarray:
    """Return where two faces or parts are alike: from 1, at ``near`` grey levels or less, to 0, from ``far`` on."""
    return falling(cv2.GaussianBlur(difference(face, other), (0, 0), 1), near, far)


def falling(values: np.ndarray, near: float, far: float) -> np.ndarray:
    """Return 1 where values are up to ``near``, 0 from ``far`` on, and a curve between them, level at both ends."""
    return 1 - smooth_step((values - near) / (far - near))


def smooth_step(ramp: np.ndarray) -> np.ndarray:
    """Return 0 below 0, 1 above 1, and a curve between them that begins and ends level."""
    ramp = np.clip(ramp, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _ellipse(x: float, y: float, half_width: float, half_height: float, edge: float) -> np.ndarray:
    """Return 1 inside an ellipse, in shares of the face; its outer ``edge``, a share of its radius, fades."""
    across, down = _places()
    distance = np.hypot((across - x) / half_width, (down - y) / half_height)
    return smooth_step((1 - distance) / edge)


def _places() -> tuple[np.ndarray, ...]:
    """Return each pixel's x and y, 0 at one edge of the face and 1 at the other."""
    across = np.linspace(0, 1, hp.img_size, dtype=np.float32)
    return tuple(np.meshgrid(across, across))
