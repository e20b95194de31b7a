"""Scenes with talking heads: positions and movements of heads, background, and camera effects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from demo.articulation import Movements
from demo.head import FACE_BOX, LEFT, TOP, Head, Identity, Pose

BLINK_SECONDS = 0.22
SHOULDER = np.array(  # outline from the neck down, in units
    [(-50, 128), (50, 128), (95, 150), (150, 190), (170, 420), (-170, 420), (-150, 190), (-95, 150)], float
)
AWAY = 1.3  # turn above which the head is drawn from behind


@dataclass(frozen=True)
class Actor:
    """A head in a scene, and its mouth's movements."""

    identity: Identity
    movements: Movements
    place: float  # of its middle, as a fraction of the frame's width
    size: float  # of the head, as a fraction of the frame's height
    seed: int  # of the head's movements


@dataclass(frozen=True)
class Shot:
    """Heads in front of a background, from one camera."""

    actors: tuple[Actor, ...]
    seed: int  # of background and camera
    away: tuple[int, int] = (0, 0)  # frames during which everybody looks away from the camera


def film(
    shot: Shot, size: tuple[int, int], fps: float, first: int, stop: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield frames ``first`` to ``stop`` (height, width, 3) uint8 BGR, with the boxes of all faces (actors, 4).

    A box is x1, y1, x2, y2 in pixels, and NaN for a face that is turned away.
    """
    rng = np.random.default_rng(shot.seed)
    camera = Camera(rng, size)
    stage = [Performance(actor, size, fps, stop, shot.away) for actor in shot.actors]
    for i in range(first, stop):
        frame = camera.background(i / fps)
        boxes = np.array([performance.draw(frame, i) for performance in stage])
        yield camera.expose(frame), boxes


class Performance:
    """An actor's movements over time, and how they are drawn."""

    def __init__(self, actor: Actor, size: tuple[int, int], fps: float, count: int, away: tuple[int, int]) -> None:
        rng = np.random.default_rng(actor.seed)
        width, height = size
        self.unit = actor.size * height / 240  # pixels
        self.head = Head(actor.identity, self.unit)
        self.middle = np.array([actor.place * width, height * rng.uniform(0.46, 0.54)])
        times = (np.arange(count) + 0.5) / fps  # the middle of each exposure
        self.mouth = actor.movements.at(times)
        self.sway = np.stack([wander(rng, count, fps) for _ in range(2)], 1) * rng.uniform(1, 7)  # units
        self.roll = wander(rng, count, fps) * rng.uniform(0.5, 3)  # degrees
        self.zoom = 1 + wander(rng, count, fps) * rng.uniform(0, 0.02)
        self.yaw = wander(rng, count, fps) * rng.uniform(0.02, 0.16) + rng.uniform(-0.08, 0.08)
        self.pitch = wander(rng, count, fps) * rng.uniform(0.01, 0.08)
        self.gaze = np.stack([wander(rng, count, fps) for _ in range(2)], 1) * [2.0, 0.8]
        self.eyelids = _blinks(rng, count, fps)
        turning = np.zeros(count)
        turning[slice(*away)] = AWAY * 1.5
        self.turned = gaussian_filter1d(turning, 0.12 * fps, mode="nearest")
        self.clothes = rng.uniform(20, 200, 3)

    def pose(self, i: int) -> Pose:
        """Return the pose of frame ``i``."""
        mouth = {name: float(values[i]) for name, values in self.mouth.items()}
        turn = min(1.0, self.turned[i]) * 0.35
        across, down = self.gaze[i]
        return Pose(**mouth, eyelids=self.eyelids[i], gaze=(across, down), yaw=self.yaw[i] + turn, pitch=self.pitch[i])

    def draw(self, frame: np.ndarray, i: int) -> np.ndarray:
        """Draw frame ``i`` over ``frame`` (float32) and return the box of the face."""
        self._draw_shoulders(frame, i)
        head = self._from_behind() if self.turned[i] > AWAY else self.head.draw(self.pose(i))
        squeeze = 1 - 0.3 * np.sin(min(1.0, self.turned[i] / AWAY) * np.pi)  # narrowest from the side
        angle, zoom = np.radians(self.roll[i]), self.zoom[i]
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * [squeeze, 1]
        middle = self.middle + self.sway[i] * self.unit
        origin = np.array([-LEFT, -TOP]) * self.unit
        _put(frame, head, np.column_stack((turn, middle - turn @ origin)))
        if self.turned[i] > 0.5:
            return np.full(4, np.nan)
        who = self.head.identity
        box = FACE_BOX * np.array([who.face_width / 84, 1, who.face_width / 84, 1])
        return np.tile(middle, 2) + box * self.unit * zoom

    def _from_behind(self) -> np.ndarray:
        """Return the head from behind: hair only, or skin if it is bald."""
        who = self.head.identity
        canvas = self.head.rest.copy()
        colour = who.skin if who.hair_volume < 0 else who.hair
        round_shade = cv2.GaussianBlur(self.head.shade, (0, 0), 25 * self.unit)  # no nose or eyes on this side
        canvas[..., :3] = np.clip(round_shade[..., None] * colour * 0.8, 0, 255)
        return canvas

    def _draw_shoulders(self, frame: np.ndarray, i: int) -> None:
        points = (self.middle + (SHOULDER + 0.5 * self.sway[i]) * self.unit).round(2)
        mask = np.zeros(frame.shape[:2], np.uint8)
        cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        rows = np.flatnonzero(mask.any(1))
        if len(rows):
            part = slice(rows[0], rows[-1] + 1)
            share = mask[part, :, None].astype(np.float32) / 255
            frame[part] += share * (self.clothes.astype(np.float32) - frame[part])


class Camera:
    """The background, and the effects of lens and sensor."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]) -> None:
        self.size = size
        width, height = size
        self.drift = rng.uniform(-6, 6, 2)  # pixels a second
        margin = np.array([width // 8 + 2, height // 8 + 2])
        self.margin = margin
        self.wall = _background(rng, width + 2 * margin[0], height + 2 * margin[1])
        self.gain = rng.uniform(0.75, 1.1)
        self.tint = rng.uniform(0.94, 1.06, 3).astype(np.float32)
        self.blur = rng.uniform(0, 0.9) * height / 360
        noise = rng.uniform(0.3, 4.0)
        self.grain = (rng.standard_normal((height + 64, width + 64, 1)) * noise).astype(np.float32)
        self.rng = rng

    def background(self, seconds: float) -> np.ndarray:
        """Return the background, (height, width, 3) float32."""
        width, height = self.size
        shift = np.clip(self.drift * seconds, -self.margin + 1, self.margin - 1)
        corner = self.margin + shift
        middle = corner + np.array([width - 1, height - 1]) / 2
        return cv2.getRectSubPix(self.wall, self.size, tuple(map(float, middle)))

    def expose(self, frame: np.ndarray) -> np.ndarray:
        """Apply blur, tint and grain; return (height, width, 3) uint8."""
        if self.blur > 0.3:
            frame = cv2.GaussianBlur(frame, (0, 0), self.blur)
        y, x = self.rng.integers(64, size=2)
        frame = frame * (self.tint * np.float32(self.gain)) + self.grain[y : y + frame.shape[0], x : x + frame.shape[1]]
        return np.clip(frame, 0, 255).round().astype(np.uint8)


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return a wall lit from one side, with blurred rectangles in front of it."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    slope = rng.uniform(-0.3, 0.3, 2)
    wall = (rng.uniform(30, 220, 3) * (1 + slope[0] * x + slope[1] * y)[..., None]).astype(np.float32)
    for _ in range(rng.integers(0, 7)):
        corner = rng.uniform(0, 1, 2) * [width, height]
        extent = rng.uniform(0.05, 0.5, 2) * [width, height]
        (x1, y1), (x2, y2) = np.maximum(corner - extent / 2, 0).astype(int), (corner + extent / 2).astype(int)
        wall[y1:y2, x1:x2] = rng.uniform(20, 230, 3)
    return cv2.GaussianBlur(wall, (0, 0), rng.uniform(0.01, 0.04) * height)


def wander(rng: np.random.Generator, count: int, fps: float) -> np.ndarray:
    """Return a smooth random movement within about [-1, 1]."""
    seconds = np.arange(count) / fps
    rates, phases, sizes = rng.uniform(0.1, 0.7, 4), rng.random(4), rng.dirichlet(np.ones(4))
    return (np.sin(2 * np.pi * (seconds[:, None] * rates + phases)) * sizes).sum(1)


def _blinks(rng: np.random.Generator, count: int, fps: float) -> np.ndarray:
    """Return eyelids over time, 1 open, 0 shut, with a blink every few seconds."""
    seconds = np.arange(count) / fps
    eyelids = np.ones(count)
    moment = rng.uniform(0, 3)
    while moment < count / fps:
        eyelids = np.minimum(eyelids, np.clip(abs(seconds - moment) / (BLINK_SECONDS / 2), 0, 1))
        moment += rng.uniform(1.5, 5)
    return eyelids


def _put(frame: np.ndarray, canvas: np.ndarray, matrix: np.ndarray) -> None:
    """Composite a BGRA canvas over a float32 frame through an affine map, touching only the part it covers."""
    height, width = canvas.shape[:2]
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]) @ matrix.T
    x1, y1 = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    x2, y2 = np.minimum(np.ceil(corners.max(0)).astype(int), frame.shape[1::-1])
    if x1 >= x2 or y1 >= y2:
        return
    moved = matrix - [[0, 0, x1], [0, 0, y1]]
    layer = cv2.warpAffine(canvas, moved, (int(x2 - x1), int(y2 - y1)), flags=cv2.INTER_LINEAR)
    part = frame[y1:y2, x1:x2]
    share = layer[..., 3:].astype(np.float32) / 255
    part += share * (layer[..., :3].astype(np.float32) - part)
