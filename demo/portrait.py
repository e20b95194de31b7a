"""A photograph that speaks: its mesh of landmarks follows the mouth of a filmed speaker.

Points are those of MediaPipe's face mesh (468 and 10 of the irises), in pixels. A speaker's frames are aligned by
points that the jaw does not move. The remaining movement, relative to the speaker's own shut mouth, is applied to the
photograph's points, relative to its own mouth, shut. Between open lips, the speaker's teeth and tongue are visible.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from scipy.interpolate import interp1d
from scipy.spatial import Delaunay

from errors import UserError

STABLE = [33, 133, 362, 263, 168, 6, 197, 195, 5, 4, 1]  # corners of the eyes, ridge of the nose
UPPER_INNER = [191, 80, 81, 82, 13, 312, 311, 310, 415]  # of the lips, from the viewer's left to right
LOWER_INNER = [95, 88, 178, 87, 14, 317, 402, 318, 324]
INNER = [78, *UPPER_INNER, 308, *LOWER_INNER[::-1]]
UPPER_OUTER = [185, 40, 39, 37, 0, 267, 269, 270, 409]
LOWER_OUTER = [146, 91, 181, 84, 17, 314, 405, 321, 375]
OUTER = [61, *UPPER_OUTER, 291, *LOWER_OUTER[::-1]]
OVAL = [
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
]  # fmt: skip
ABOVE_LIPS = [164, 165, 92, 186, 393, 391, 322, 410, 2, 97, 98, 326, 327, 206, 426, 216, 436, 207, 427]
BELOW_LIPS = [57, 43, 106, 182, 83, 18, 313, 406, 335, 273, 287, 212, 432, 202, 422, 204, 424, 194, 418, 201, 421, 200]
CHIN = [199, 208, 428, 175, 171, 396, 140, 369, 32, 262, 214, 434, 192, 416, 213, 433, 187, 411, 147, 376, 123, 352]
FIXED = [4, 5, 195, 6, 168, 19, 129, 358, 33, 133, 362, 263, 50, 280, 101, 330, 9, 151, 159, 145, 386, 374]
MESH = list(dict.fromkeys([*INNER, *OUTER, *ABOVE_LIPS, *BELOW_LIPS, *CHIN, *FIXED, *OVAL]))
MESH_INDEX = {point: i for i, point in enumerate(MESH)}  # index in the mesh, by landmark
CHEEKS = [50, 280, 207, 427, 187, 411]
SKIN = np.array([104.0, 130.0, 186.0])  # BGR of average skin in white light, to which colour casts are relative


def mesh_indices(points: list[int]) -> np.ndarray:
    return np.array([MESH_INDEX[point] for point in points])


def similarity_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the (2, 3) similarity that best maps points (N, 2) to others, by least squares (Umeyama)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, sizes, v = np.linalg.svd(b.T @ a)
    signs = np.array([1, np.sign(np.linalg.det(u @ v))])
    turn = (sizes * signs).sum() / (a**2).sum() * (u * signs) @ v
    return np.column_stack((turn, target.mean(0) - turn @ source.mean(0)))


def transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a (2, 3) affine map to points (..., 2)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def eye_distance(points: np.ndarray) -> np.ndarray:
    """Return the distance between the outer corners of the eyes, pixels, for landmarks (..., 478, 2)."""
    return np.linalg.norm(points[..., 33, :] - points[..., 263, :], axis=-1)


def lip_distance(points: np.ndarray) -> np.ndarray:
    """Return the distance of the lips in the middle, in eye distances, for landmarks (..., 478, 2)."""
    return np.linalg.norm(points[..., 13, :] - points[..., 14, :], axis=-1) / eye_distance(points)


def absolute(steps: np.ndarray) -> np.ndarray:
    """Return the landmarks of a video, (frames, points, 2) in pixels, from the differences of demo/landmarks.py."""
    return np.cumsum(steps, axis=0, dtype=steps.dtype) / 16  # differences wrap around, so the type stays


def without_holes(points: np.ndarray) -> np.ndarray:
    """Interpolate points (N, P, 2), pixels, over frames without a face, in which they are all in one place.

    Raises UserError if no frame has a face.
    """
    spread = points.std(1).sum(1)
    found = spread > 0
    if not found.any():
        raise UserError("no frame has landmarks; exclude this video")
    good = np.flatnonzero(spread > 0.5 * np.median(spread[found]))
    places = np.clip(np.arange(len(points)), good[0], good[-1])
    return (
        interp1d(good, points[good], axis=0)(places) if len(good) > 1 else np.repeat(points[good], len(points), axis=0)
    )


def face_box(points: np.ndarray) -> np.ndarray:
    """Return the box that S3FD would find, (4,) x1, y1, x2, y2: from the forehead to just below the chin.

    ``points`` are (478, 2), or the median over a clip, so that the box does not follow the jaw. The factors were
    measured with Haar's boxes, framed like S3FD's, on 292 portraits and 48 GRID clips: they vary by 5 % of the face.
    """
    eyes = points[[33, 133, 362, 263]].mean(0)
    size = np.linalg.norm(points[152] - eyes)  # from the eyes to the chin
    return np.concatenate((eyes - [0.715 * size, 0.615 * size], eyes + [0.66 * size, 1.055 * size]))


def cheek_colour(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the median colour (3,) BGR of the brighter cheek, in case light comes from a side."""
    x, y = np.clip(np.round(points[CHEEKS]).astype(int), 2, np.array(picture.shape[1::-1]) - 3).T
    patches = np.stack([picture[b - 2 : b + 3, a - 2 : a + 3].reshape(-1, 3) for a, b in zip(x, y)])
    sides = [np.median(patches[side::2].reshape(-1, 3), 0) for side in (0, 1)]
    return max(sides, key=np.sum) + 1.0


# --------------------------------------------------------------------------------------------------------------------
# The speaker


@dataclass(frozen=True)
class Speaker:
    """The frames of a filmed sentence and their landmarks; the sound is handled elsewhere."""

    frames: np.ndarray  # (N, height, width, 3) uint8 BGR
    landmarks: np.ndarray  # (N, 478, 2) float, pixels; points that are not used may be anything finite

    @cached_property
    def rest(self) -> np.ndarray:
        """The landmarks with the mouth shut: (478, 2) in the coordinates of ``aligned``."""
        distances = lip_distance(self.landmarks)
        return self.aligned[np.argsort(distances, kind="stable")[: max(3, len(distances) // 12)]].mean(0)

    @cached_property
    def cast(self) -> np.ndarray:
        """The colour of the light, (3,) BGR, 1 on average: the cheeks' colour relative to ``SKIN``."""
        middle = len(self.frames) // 2
        cast = cheek_colour(self.frames[middle], self.landmarks[middle]) / SKIN
        return cast / cast.mean()

    @cached_property
    def aligned(self) -> np.ndarray:
        """Landmarks with the head held still and eyes one unit apart: (N, 478, 2)."""
        target = np.median(self.landmarks, 0)
        target = (target - target[STABLE].mean(0)) / eye_distance(target)
        maps = (similarity_between(points[STABLE], target[STABLE]) for points in self.landmarks)
        return np.stack([transform(points, matrix) for points, matrix in zip(self.landmarks, maps)])

    def movement(self, moment: float) -> np.ndarray:
        """Return the offsets of the points from rest at a (fractional) frame, in eye distances: (478, 2)."""
        first = int(np.clip(np.floor(moment), 0, len(self.aligned) - 1))
        second = min(first + 1, len(self.aligned) - 1)
        share = np.clip(moment - first, 0, 1)
        return (1 - share) * self.aligned[first] + share * self.aligned[second] - self.rest

    def nearest(self, moment: float) -> int:
        return int(np.clip(round(moment), 0, len(self.frames) - 1))


# --------------------------------------------------------------------------------------------------------------------
# The photograph


class Portrait:
    """A photograph with landmarks, ready to speak.

    ``picture`` (height, width, 3) uint8 BGR; ``landmarks`` (478, 2) pixels in it.
    """

    def __init__(self, picture: np.ndarray, landmarks: np.ndarray) -> None:
        self.picture, self.landmarks = picture, landmarks.astype(float)
        self.unit = float(eye_distance(self.landmarks))
        self.points = self.landmarks[MESH]
        # a ring of fixed points around the mesh absorbs its movement
        middle = self.points[mesh_indices(OVAL)].mean(0)
        height, width = picture.shape[:2]
        self.ring = middle + (self.points[mesh_indices(OVAL)] - middle) * 1.5
        corners = np.array([[-1, -1], [0.5, -1], [2, -1], [-1, 0.5], [2, 0.5], [-1, 2], [0.5, 2], [2, 2]])
        self.ring = np.vstack((self.ring, corners * [width, height]))
        self.triangles = self._triangulate()
        self.weights = self._weights()
        self.shut = self._shut()
        self.depth = self._depth()
        cheeks = cheek_colour(picture, self.landmarks)
        self.colourful = float(np.clip(2 * (cheeks[2] - cheeks[0]) / cheeks[2], 0, 1))  # 0: a grey photograph

    def _triangulate(self) -> np.ndarray:
        """Return triangles (T, 3) between the points of mesh and ring, none of them across the open mouth."""
        triangles = Delaunay(np.vstack((self.points, self.ring))).simplices
        inner = set(mesh_indices(INNER).tolist())
        return np.array([triangle for triangle in triangles if not inner.issuperset(triangle.tolist())])

    def _weights(self) -> np.ndarray:
        """Return how much of the speaker's movement is applied to each mesh point: 1 at the mouth, 0 at the eyes."""
        top, mouth = self.landmarks[5, 1], self.landmarks[13, 1]
        weights = np.clip((self.points[:, 1] - top) / (mouth - top), 0, 1)
        side = np.abs(self.points[:, 0] - self.landmarks[13, 0]) / self.unit
        weights *= np.clip(1.6 - 1.1 * side, 0.35, 1)
        weights[mesh_indices(FIXED)] = 0
        above_ears = self.points[mesh_indices(OVAL), 1] < mouth
        weights[mesh_indices(OVAL)[above_ears]] = 0
        return weights

    def _shut(self) -> np.ndarray:
        """Return the mesh points with the mouth shut: mostly the lower lip moves, and the chin follows it."""
        shut = self.points.copy()
        gaps = self.landmarks[LOWER_INNER] - self.landmarks[UPPER_INNER]
        gaps[gaps[:, 1] < 0] = 0
        for lips, share in ((UPPER_INNER, 0.3), (LOWER_INNER, -0.7), (UPPER_OUTER, 0.24), (LOWER_OUTER, -0.63)):
            shut[mesh_indices(lips)] += share * gaps
        gap = gaps[len(gaps) // 2]
        length = max(1.0, self.landmarks[152, 1] - self.landmarks[17, 1])
        for point in (*BELOW_LIPS, *CHIN, *(p for p in OVAL if self.landmarks[p, 1] > self.landmarks[17, 1])):
            below = np.clip((self.landmarks[point, 1] - self.landmarks[13, 1]) / length, 0, 1)
            side = np.clip(1.4 - np.abs(self.landmarks[point, 0] - self.landmarks[13, 0]) / self.unit, 0, 1)
            shut[MESH_INDEX[point]] -= 0.65 * gap * below * side
        return shut

    def _depth(self) -> np.ndarray:
        """Return how far each mesh point is in front of the ears, in eye distances; rough, for small head turns."""
        middle = (self.landmarks[168] + self.landmarks[152]) / 2
        across = np.abs(self.points[:, 0] - middle[0]) / (0.85 * self.unit)
        down = np.abs(self.points[:, 1] - middle[1]) / (1.3 * self.unit)
        depth = 0.75 * np.sqrt(np.clip(1 - 0.9 * across**2 - 0.25 * down**2, 0, 1))
        for point, more in ((4, 0.28), (5, 0.22), (195, 0.14), (19, 0.2), (2, 0.1), (97, 0.06), (326, 0.06)):
            depth[MESH_INDEX[point]] += more
        return depth

    def relaxed(self, rest: np.ndarray, share: float) -> np.ndarray:
        """Return ``shut`` with its lips moved by ``share`` towards the shape of a speaker's (478, 2) ``rest``.

        Otherwise a face that smiles in the photograph would smile through every sound.
        """
        theirs = transform(rest, similarity_between(rest[STABLE], self.landmarks[STABLE]))[MESH]
        lips = mesh_indices([*INNER, *OUTER])
        difference = theirs - self.shut
        difference -= difference[lips].mean(0)  # the shape, not the place
        distance = np.linalg.norm(self.shut - self.shut[lips].mean(0), axis=1) / self.unit
        return self.shut + (share * self.weights * np.exp(-((distance / 0.5) ** 2)))[:, None] * difference

    def posed(self, shut: np.ndarray, movement: np.ndarray, amplitude: float, turn: tuple[float, float]) -> np.ndarray:
        """Return the mesh points (M, 2), pixels of the photograph, with the speaker's ``movement`` (478, 2).

        ``shut`` are the points at rest, see ``relaxed``; ``turn`` is how far the head is turned to the side and up, in
        radians, see ``variation.LARGEST_TURN``.
        """
        points = shut + self.weights[:, None] * movement[MESH] * (amplitude * self.unit)
        upper, lower = mesh_indices(UPPER_INNER), mesh_indices(LOWER_INNER)
        crossed = points[upper, 1] > points[lower, 1]
        points[upper[crossed]] = points[lower[crossed]] = (points[upper[crossed]] + points[lower[crossed]]) / 2
        return self.turned(points, turn)

    def turned(self, points: np.ndarray, turn: tuple[float, float]) -> np.ndarray:
        """Return mesh points moved by a turn of the head: nearer points move further."""
        return points + self.depth[:, None] * np.array(turn) * self.unit

    def draw(self, points: np.ndarray, camera: np.ndarray, size: int) -> np.ndarray:
        """Return the photograph with its mesh at ``points``, seen by ``camera``: (size, size, 3) uint8 BGR."""
        return _warp(self, transform(np.vstack((points, self.ring)), camera), size)


# --------------------------------------------------------------------------------------------------------------------
# Drawing


def _warp(portrait: Portrait, target: np.ndarray, size: int) -> np.ndarray:
    """Draw the photograph with the corners of its triangles at ``target`` (M + ring, 2)."""
    source = np.vstack((portrait.points, portrait.ring))[portrait.triangles]  # (T, 3, 2)
    corners = target[portrait.triangles]
    inside = ((corners > -1).any(1) & (corners < size).any(1)).all(1)
    source, corners = source[inside], corners[inside]
    # triangles that flipped or vanished are not drawn
    edges = corners[:, 1:] - corners[:, :1]
    area = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    was = source[:, 1:] - source[:, :1]
    area *= np.sign(was[:, 0, 0] * was[:, 1, 1] - was[:, 0, 1] * was[:, 1, 0])
    kept = area * np.sign(area.sum()) > 0.05  # the camera may mirror them all
    source, corners = source[kept], corners[kept]
    index = np.zeros((size, size), np.int32)
    for i, triangle in enumerate(np.round(corners * 16).astype(np.int32)):
        cv2.fillConvexPoly(index, triangle, i, cv2.LINE_8, 4)
    square = np.concatenate((corners, np.ones((len(corners), 3, 1))), 2)
    maps = np.linalg.solve(square, source).astype(np.float32)  # (T, 3, 2): x, y, 1 -> pixel of the photograph
    maps = maps[index.ravel()]
    y, x = np.divmod(np.arange(size * size, dtype=np.float32), np.float32(size))
    where = maps[:, 0] * x[:, None] + maps[:, 1] * y[:, None] + maps[:, 2]
    where = where.reshape(size, size, 2)
    no_other: Any = None  # OpenCV's stubs require a second map, even if the first has both coordinates
    return cv2.remap(portrait.picture, where, no_other, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
