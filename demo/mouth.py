"""The inside of a speaking photograph's mouth: the teeth of its smile, the speaker's tongue.

The speakers' own teeth are small, blurred and grey; a network trained on them alone draws grey bars. Upper teeth belong
to the skull: they do not move when the jaw drops, and the lips uncover more or less of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from demo.portrait import INNER, MESH_INDEX, Portrait, Speaker, cheek_colour, lip_distance, mesh_indices, transform

OPEN = 0.012  # eye distances between the lips from which the mouth counts as open
SMILES = 0.06  # eye distances between the lips from which a photograph may show teeth
BRIGHT = 0.7  # least brightness between the lips, of the cheeks', for teeth; a darker mouth is just open
TEETH = np.array([1.26, 1.34, 1.4], np.float32)  # BGR of teeth in white light, relative to those lit from above
CAVITY = np.array([0.48, 0.5, 0.68], np.float32)  # BGR of the cavity behind a photograph's teeth, of the speaker's
COLOURFUL = 0.1  # photographs at or below this are grey
SHADE = 0.55  # fraction of the light at the lips' edge; in the middle of a wide mouth it is 1
NOSE = MESH_INDEX[5]


@dataclass(frozen=True)
class Teeth:
    """The upper teeth of a photograph."""

    picture: np.ndarray  # (height, width, 3) uint8 BGR
    mask: np.ndarray  # (height, width) float32: 1 where they are visible
    middle: np.ndarray  # (2,) of the lips if they were shut, pixels
    eyes: complex  # from one eye to the other, pixels
    height: float  # of the visible part, pixels

    @classmethod
    def of(cls, portrait: Portrait) -> Teeth | None:
        """Return the teeth of a photograph, or None if it shows none."""
        if lip_distance(portrait.landmarks) < SMILES:
            return None
        mask = _between(portrait.landmarks[INNER], portrait.picture.shape[:2])
        bright = np.mean(cv2.mean(portrait.picture, mask)[:3])
        if bright < BRIGHT * cheek_colour(portrait.picture, portrait.landmarks).mean():
            return None
        soft = cv2.GaussianBlur(cv2.erode(mask, np.ones((3, 3))), (0, 0), 0.8).astype(np.float32) / 255
        height = float(portrait.landmarks[14, 1] - portrait.landmarks[13, 1])
        return cls(portrait.picture, soft, _middle(portrait), _eyes(portrait), height)

    def map_to(self, portrait: Portrait, points: np.ndarray, raised: float) -> np.ndarray:
        """Return the (2, 3) map from this photograph to ``portrait``, maybe the same, whose mesh is at ``points``.

        The teeth are ``raised`` by this fraction of their height: lips that do not smile cover more of them.
        """
        turn = _eyes(portrait) / self.eyes
        matrix = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
        nearer = portrait.depth[mesh_indices(INNER)].mean() / portrait.depth[NOSE]  # to the camera, when the head turns
        target = _middle(portrait) + nearer * (points[NOSE] - portrait.points[NOSE])
        return np.column_stack((matrix, target - matrix @ (self.middle + [0, raised * self.height])))

    def drawn_in(self, mouth: np.ndarray, mask: np.ndarray, matrix: np.ndarray, colourful: float) -> np.ndarray:
        """Return a mouth (height, width, 3) float32 BGR with these teeth in it, placed by the (2, 3) ``matrix``.

        ``mask`` (height, width) is 1 between the lips; ``colourful`` is 0 for a grey photograph.
        """
        size = mouth.shape[1::-1]
        teeth = cv2.warpAffine(self.picture, matrix, size, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
        shown = cv2.warpAffine(self.mask, matrix, size)[..., None]
        wide = max(1.0, 0.03 * abs(self.eyes) * float(np.sqrt(abs(np.linalg.det(matrix[:, :2])))))
        light = SHADE + (1 - SHADE) * cv2.GaussianBlur(mask, (0, 0), wide)[..., None]
        behind = (mouth + mouth.mean(2, keepdims=True)) / 2 * CAVITY
        inside = (behind + shown * (teeth - behind)) * light
        return inside if colourful > COLOURFUL else np.repeat(inside.mean(2, keepdims=True), 3, 2)


def _middle(portrait: Portrait) -> np.ndarray:
    return portrait.shut[mesh_indices(INNER)].mean(0)


def _eyes(portrait: Portrait) -> complex:
    return complex(*(portrait.landmarks[263] - portrait.landmarks[33]))


def render(
    portrait: Portrait,
    points: np.ndarray,
    camera: np.ndarray,
    size: int,
    speaker: Speaker,
    frame: int,
    teeth: Teeth | None = None,
    raised: float = 0.0,
) -> np.ndarray:
    """Return the photograph with its mesh at ``points``, seen by a camera, (size, size, 3) uint8 BGR.

    ``camera`` (2, 3) maps pixels of the photograph to those of the result. The inside of the mouth is taken from
    ``frame`` of the speaker, with its brightness matched to the lips; in front of it are ``teeth``, ``raised`` as in
    ``Teeth.map_to``.
    """
    picture = portrait.draw(points, camera, size)
    opening = np.linalg.norm(points[MESH_INDEX[13]] - points[MESH_INDEX[14]]) / portrait.unit
    if opening > OPEN:
        lips = transform(points[mesh_indices(INNER)], camera)
        shown = (teeth, composed(camera, teeth.map_to(portrait, points, raised))) if teeth else None
        _fill_mouth(picture, lips, speaker, frame, portrait.colourful, shown)
    return picture


def as_photographed(portrait: Portrait, turn: tuple[float, float], camera: np.ndarray, size: int) -> np.ndarray:
    """Return the photograph with its own mouth and its head turned as in ``Portrait.posed``: (size, size, 3) uint8."""
    points = portrait.turned(portrait.points, turn)
    picture, lips = portrait.draw(points, camera, size), points[mesh_indices(INNER)]
    shift = np.column_stack((np.eye(2), (lips - portrait.landmarks[INNER]).mean(0)))
    inside = cv2.warpAffine(portrait.picture, composed(camera, shift), (size, size), borderMode=cv2.BORDER_REFLECT)
    mask = _between(transform(lips, camera), (size, size))
    mask = cv2.GaussianBlur(cv2.dilate(mask, np.ones((3, 3))), (0, 0), 0.7).astype(np.float32) / 255
    return cv2.blendLinear(inside, picture, mask, 1 - mask)


def composed(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the (2, 3) map that applies ``first``, then ``second``."""
    return np.column_stack((second[:, :2] @ first[:, :2], transform(first[:, 2], second)))


def _between(lips: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a mask (height, width) uint8 that is 255 between ``lips`` (20, 2), pixels, with smooth edges."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round(lips * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return mask


def _fill_mouth(
    picture: np.ndarray,
    lips: np.ndarray,
    speaker: Speaker,
    frame: int,
    colourful: float,
    teeth: tuple[Teeth, np.ndarray] | None,
) -> None:
    """Warp the inside of the speaker's mouth in ``frame`` between ``lips`` (20, 2) of ``picture``, in place.

    ``teeth``, with the (2, 3) map from their photograph to ``picture``, are drawn in front of it.
    """
    theirs = speaker.landmarks[frame][INNER]
    matrix, _ = cv2.estimateAffine2D(theirs.astype(np.float32), lips.astype(np.float32), method=cv2.LMEDS)
    if matrix is None or not 0.05 < abs(np.linalg.det(matrix[:, :2])) < 20:
        return
    x1, y1 = np.maximum(np.floor(lips.min(0)).astype(int) - 8, 0)
    x2, y2 = np.minimum(np.ceil(lips.max(0)).astype(int) + 9, picture.shape[1::-1])
    if x2 - x1 < 4 or y2 - y1 < 4:
        return
    matrix[:, 2] -= x1, y1
    size = int(x2 - x1), int(y2 - y1)
    inside = cv2.warpAffine(speaker.frames[frame], matrix, size, borderMode=cv2.BORDER_REPLICATE)
    inside = _in_white_light(inside, speaker.cast, colourful)
    mask = cv2.GaussianBlur(_between(lips - [x1, y1], size[::-1]), (0, 0), 0.7).astype(np.float32) / 255
    here = picture[y1:y2, x1:x2].astype(np.float32)
    around = cv2.dilate(mask, np.ones((7, 7))) - mask
    levels = [(layer.mean(2) * around).sum() / (around.sum() + 1e-6) + 4 for layer in (here, inside)]
    gain = np.clip((levels[0] / levels[1]) ** 0.8, 0.5, 1.8)  # from the lips around; teeth differ less than lips
    inside = np.clip(inside * gain, 0, 255).astype(np.float32)
    if teeth:
        inside = teeth[0].drawn_in(inside, mask, teeth[1] - [[0, 0, x1], [0, 0, y1]], colourful)
    mask = mask[..., None]
    picture[y1:y2, x1:x2] = np.round(here * (1 - mask) + inside * mask).astype(np.uint8)


def _in_white_light(picture: np.ndarray, cast: np.ndarray, colourful: float) -> np.ndarray:
    """Remove the colour ``cast`` (3,) from a picture, and all colour if ``colourful`` is 0.

    The cast measured on skin is not exact for teeth: pixels that are not red count as teeth and are made white.
    """
    neutral = picture / cast.astype(np.float32)
    grey = neutral.mean(2, keepdims=True)
    redness = neutral[..., 2:] / (grey + 1)
    teeth = np.clip((1.3 - redness) / 0.15, 0, 1)
    neutral += teeth * (grey * TEETH - neutral)
    grey = neutral.mean(2, keepdims=True)
    return grey + np.float32(0.9 * colourful) * (neutral - grey)
