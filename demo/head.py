"""Drawn talking heads: hundreds of identities, each a lit height map with moving eyes and mouth.

Lengths are in units: a head is about 240 units high, its middle is at (0, 0) between nose and eyes, x to the right,
y down. A ``Head`` is drawn on its own canvas, which ``demo.scene`` composites into a frame. Colours are BGR.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

LEFT, TOP, RIGHT, BOTTOM = -160, -185, 160, 265  # of the canvas, in units
EYES = np.array([[-38.0, -28.0], [38.0, -28.0]])
MOUTH_Y = 62.0
CHIN_Y = 112.0
JAW_DROP = 24.0  # units by which the chin sinks when the jaw is open
OPENING = 32.0  # units between the lips at aperture 1
FACE_BOX = np.array([-78.0, -95.0, 78.0, 122.0])  # the box that S3FD would find, at rest
SUBPIXEL = 4  # fractional bits of a coordinate, for OpenCV
SKINS = np.array(
    [[180, 205, 240], [150, 180, 225], [120, 155, 205], [90, 125, 180], [62, 90, 140], [42, 62, 100]], float
)
HAIRS = np.array([[25, 25, 30], [30, 45, 65], [50, 80, 120], [90, 150, 200], [40, 60, 140], [170, 175, 180]], float)
IRISES = np.array([[40, 60, 90], [150, 120, 70], [80, 120, 80], [60, 80, 110]], float)


@dataclass(frozen=True)
class Identity:
    """The appearance of one person's head."""

    skin: np.ndarray
    lips: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    face_width: float  # half, units
    taper: float  # of the jaw towards the chin, as a fraction
    eye_size: float
    eye_distance: float  # from the middle, units
    brow: tuple[float, float, float]  # thickness, height above the eye, tilt
    nose: tuple[float, float]  # half width, height of its ridge
    mouth_width: float  # half, units
    lip_heights: tuple[float, float]  # upper, lower, units
    hairline: float  # y of the top of the forehead
    hair_volume: float
    hair_length: float  # y where the hair ends at the sides
    beard: float  # 0 none … 1 full
    moustache: float
    glasses: bool
    light: np.ndarray  # direction towards the light, unit length
    ambient: float
    texture_seed: int

    @classmethod
    def random(cls, rng: np.random.Generator) -> Identity:
        complexion = rng.random()  # 0 pale … 1 dark; dark hair and eyes go with dark skin
        skin = _mix(SKINS, complexion) * rng.uniform(0.92, 1.05)
        bearded = rng.random() < 0.2
        light = np.array([rng.uniform(-0.55, 0.55), rng.uniform(-0.7, 0.0), 1.0])
        return cls(
            skin=skin,
            lips=skin * rng.uniform([0.62, 0.58, 0.82], [0.80, 0.76, 0.98]),
            hair=_mix(HAIRS, rng.random() * (1 - 0.8 * complexion)) * rng.uniform(0.7, 1.1),
            iris=IRISES[rng.integers(len(IRISES))] * (rng.uniform(0.7, 1.1) - 0.4 * complexion),
            face_width=rng.uniform(76, 92),
            taper=rng.uniform(0.18, 0.36),
            eye_size=rng.uniform(0.9, 1.15),
            eye_distance=rng.uniform(34, 40),
            brow=(rng.uniform(3.0, 7.0), rng.uniform(17, 23), rng.uniform(-3, 4)),
            nose=(rng.uniform(12, 17), rng.uniform(10, 17)),
            mouth_width=rng.uniform(25, 32),
            lip_heights=(rng.uniform(5.5, 9.5), rng.uniform(7.5, 12.5)),
            hairline=rng.uniform(-100, -82),
            hair_volume=rng.uniform(0, 22) if rng.random() < 0.9 else -4.0,
            hair_length=rng.choice([-20.0, 0.0, 60.0, 150.0]),
            beard=rng.uniform(0.35, 0.9) if bearded else 0.0,
            moustache=rng.uniform(0.3, 0.8) if bearded or rng.random() < 0.08 else 0.0,
            glasses=bool(rng.random() < 0.2),
            light=light / np.linalg.norm(light),
            ambient=rng.uniform(0.35, 0.6),
            texture_seed=int(rng.integers(1 << 31)),
        )


@dataclass(frozen=True)
class Pose:
    """A face at one moment. The first six fields are those that ``Movements.at`` returns."""

    jaw: float = 0.0
    tongue: float = 0.0
    closure: float = 1.0
    tuck: float = 0.0
    aperture: float = 0.0
    width: float = 0.5
    eyelids: float = 1.0  # 1 open … 0 shut
    gaze: tuple[float, float] = (0.0, 0.0)  # units
    yaw: float = 0.0  # turn of the head to the right, small
    pitch: float = 0.0  # and down


@dataclass
class Head:
    """One identity, ready to be drawn at ``scale`` pixels a unit."""

    identity: Identity
    scale: float
    rest: np.ndarray = field(init=False)  # canvas, (height, width, 4) uint8 BGRA, without eyes and mouth
    shade: np.ndarray = field(init=False)  # canvas, (height, width) brightness of a white surface

    def __post_init__(self) -> None:
        rows = np.arange(round((BOTTOM - TOP) * self.scale))
        columns = np.arange(round((RIGHT - LEFT) * self.scale))
        y, x = np.meshgrid(TOP + (rows + 0.5) / self.scale, LEFT + (columns + 0.5) / self.scale, indexing="ij")
        self._x, self._y = x.astype(np.float32), y.astype(np.float32)
        self._columns, self._rows = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
        self.relief = self._relief()
        self.shade = self._shade()
        self.rest = self._paint()
        # the fraction of the jaw's drop by which each row moves: 0 above the mouth, 1 at the chin, 0 at the neck
        self._follow = (_step(y, MOUTH_Y, MOUTH_Y + 40) * (1 - _step(y, CHIN_Y + 14, CHIN_Y + 64))).astype(np.float32)

    def draw(self, pose: Pose) -> np.ndarray:
        """Return the canvas (height, width, 4) uint8 BGRA with the face in this pose."""
        canvas = self._drop_jaw(pose.jaw)
        for eye in EYES * [self.identity.eye_distance / EYES[1, 0], 1]:
            self._draw_eye(canvas, eye, pose)
        if self.identity.glasses:
            self._draw_glasses(canvas)
        self._draw_mouth(canvas, pose)
        return self._turn(canvas, pose.yaw, pose.pitch)

    # ---------------------------------------------------------------------------------------------------------------
    # At rest

    def _bump(self, x: float, y: float, width: float, height: float) -> np.ndarray:
        return np.exp(-(((self._x - x) / width) ** 2) - ((self._y - y) / height) ** 2)

    def _pair(self, x: float, y: float, width: float, height: float) -> np.ndarray:
        return self._bump(-x, y, width, height) + self._bump(x, y, width, height)

    def _relief(self) -> np.ndarray:
        """Return the height of the face towards the camera, in units."""
        who = self.identity
        skull = np.sqrt(np.clip(1.15 - (self._x / (who.face_width + 8)) ** 2 - (self._y / 130) ** 2, 0, None)) * 60
        eye = who.eye_distance
        nose_width, nose_height = who.nose
        ridge = np.exp(-((self._x / 8) ** 2)) * _step(self._y, -45, 25) * (1 - _step(self._y, 26, 38))
        return (
            skull
            + nose_height * (ridge + 0.8 * self._bump(0, 22, 11, 11) + 0.45 * self._pair(nose_width * 0.8, 27, 6, 6))
            - 9 * self._pair(eye, EYES[0, 1], 21, 12)
            + 4 * self._pair(eye, EYES[0, 1] - who.brow[1], 26, 7)
            + 4 * self._pair(52, 14, 20, 18)
            + 4 * self._bump(0, MOUTH_Y - 2, 34, 22)
            - 3 * self._bump(0, MOUTH_Y + 24, 20, 6)
            + 6 * self._bump(0, CHIN_Y - 10, 20, 13)
            - 2 * self._pair(36, 44, 7, 22)
        ).astype(np.float32)

    def _shade(self) -> np.ndarray:
        """Return the brightness of the relief under the identity's light, around 1."""
        smooth = cv2.GaussianBlur(self.relief, (0, 0), 1.5 * self.scale)
        dy, dx = np.gradient(smooth, 1 / self.scale)
        light = self.identity.light
        facing = (light[2] - light[0] * dx - light[1] * dy) / np.sqrt(1 + dx**2 + dy**2)
        shade = self.identity.ambient + (1.25 - self.identity.ambient) * np.clip(facing, 0, 1)
        shade *= 1 - 0.25 * self._pair(self.identity.eye_distance, EYES[0, 1] - 4, 20, 10)
        shade *= 1 - 0.3 * self._bump(0, 35, 15, 4)
        return shade.astype(np.float32)

    def _outline(self) -> np.ndarray:
        """Return the face without hair, as a mask in [0, 1]."""
        angle = np.linspace(0, 2 * np.pi, 90)
        down = np.clip(np.sin(angle), 0, 1)
        x = self.identity.face_width * np.cos(angle) * (1 - self.identity.taper * down**2.5)
        y = np.where(np.sin(angle) > 0, CHIN_Y + 4, 118) * np.sin(angle)
        return self._filled(np.stack((x, y), 1), soft=1.2)

    def _paint(self) -> np.ndarray:
        """Paint neck, ears, skin, beard, brows, nostrils and hair, from back to front."""
        who, face = self.identity, self._outline()
        rng = np.random.default_rng(who.texture_seed)
        grain = 1 + 0.02 * self._noise(rng, 7, 7) + 0.02 * self._noise(rng, 0.8, 0.8)
        skin = self.shade[..., None] * grain[..., None] * who.skin
        blush = 0.10 * self._pair(48, 22, 24, 20) + 0.12 * self._bump(0, 24, 14, 14)
        skin[..., :2] *= 1 - blush[..., None]
        strands = 1 + 0.25 * self._noise(rng, 0.7, 9)
        hair = strands[..., None] * who.hair * (0.65 + 0.35 * self.shade[..., None])

        neck = self._filled(np.array([[-48, 60], [48, 60], [62, 260], [-62, 260]], float), soft=1.5)
        ears = np.clip(self._pair(who.face_width + 1, -8, 10, 24) * 3 - 1, 0, 1)
        behind = self._hair_mask(in_front=False)
        canvas = np.zeros((*face.shape, 3), np.float32)
        alpha = np.zeros(face.shape, np.float32)
        for mask, colour in (
            (behind, hair * 0.7),
            (neck, skin[..., :3] * (0.72 - 0.25 * self._bump(0, CHIN_Y + 14, 80, 22)[..., None])),
            (ears, who.skin * 0.85),
            (face, skin),
        ):
            canvas, alpha = _over(mask, colour, canvas, alpha)
        self._draw_beard(canvas, face, rng)
        for side in (-1, 1):
            self._paint_brow(canvas, side, rng)
            nostril = self._bump(side * who.nose[0] * 0.55, 31, 4.5, 2.8)
            canvas *= 1 - 0.6 * nostril[..., None]
        front = self._hair_mask(in_front=True)
        canvas, alpha = _over(front, hair, canvas, alpha)
        return np.dstack((np.clip(canvas, 0, 255), alpha * 255)).round().astype(np.uint8)

    def _hair_mask(self, in_front: bool) -> np.ndarray:
        who = self.identity
        if who.hair_volume < 0:  # bald
            return np.zeros(self._x.shape, np.float32)
        width, top = who.face_width + 4 + who.hair_volume, 122 + who.hair_volume
        whole = 1 - _step(np.hypot(self._x / width, np.minimum(self._y, 0) / top), 0.97, 1.0)
        whole *= 1 - _step(self._y, who.hair_length - 6, who.hair_length + 6)
        if not in_front:
            return whole.astype(np.float32)
        hairline = who.hairline + 0.5 * (self._x / 10) ** 2  # lower at the temples
        above = 1 - _step(self._y, hairline - 4, hairline + 4)
        short = who.hair_length < 10
        inner = who.face_width - (16 if short else 6)
        beside = _step(abs(self._x), inner, inner + 8) * (1 - _step(self._y, -30, 0) * short)
        return (whole * np.maximum(above, beside)).astype(np.float32)

    def _draw_beard(self, canvas: np.ndarray, face: np.ndarray, rng: np.random.Generator) -> None:
        """Paint beard and moustache, if there are any."""
        who = self.identity
        around = _step(np.hypot(self._x / 70, (self._y - 20) / 66), 0.85, 1.1) * _step(self._y, 10, 40)
        beard = who.beard * around * face * (1 - 0.9 * self._bump(0, MOUTH_Y, 34, 17))
        moustache = who.moustache * self._bump(0, MOUTH_Y - 17, 27, 6) * face
        cover = np.clip(np.maximum(beard, moustache) * (0.85 + 0.25 * self._noise(rng, 0.8, 2)), 0, 0.95)
        canvas += cover[..., None] * (who.hair * 0.75 * self.shade[..., None] - canvas)

    def _paint_brow(self, canvas: np.ndarray, side: int, rng: np.random.Generator) -> None:
        who = self.identity
        thickness, height, tilt = who.brow
        t = (self._x * side - who.eye_distance) / 24  # -1 at the nose, 1 at the temple
        middle = EYES[0, 1] - height - tilt * t + 5 * t**2 - 4
        brow = np.exp(-(((self._y - middle) / (thickness * (1.1 - 0.35 * t))) ** 2)) * (1 - _step(abs(t), 0.85, 1.1))
        brow *= 0.8 + 0.2 * self._noise(rng, 0.8, 0.8)
        canvas += np.clip(brow, 0, 1)[..., None] * (np.minimum(who.hair * 0.6, who.skin * 0.5) - canvas)

    def _noise(self, rng: np.random.Generator, width: float, height: float) -> np.ndarray:
        """Return random grain of unit deviation, blurred by ``width`` and ``height`` units."""
        grain = rng.standard_normal(self._x.shape).astype(np.float32)
        grain = cv2.GaussianBlur(grain, (0, 0), max(0.3, width * self.scale), sigmaY=max(0.3, height * self.scale))
        return grain / (grain.std() + 1e-6)

    # ---------------------------------------------------------------------------------------------------------------
    # In motion

    def _drop_jaw(self, jaw: float) -> np.ndarray:
        first = round((MOUTH_Y - TOP) * self.scale)  # nothing above the mouth moves
        canvas = self.rest.copy()
        rows = self._rows[first:] - np.float32(JAW_DROP * jaw * self.scale) * self._follow[first:]
        cv2.remap(self.rest, self._columns[first:], rows, cv2.INTER_LINEAR, canvas[first:], cv2.BORDER_REPLICATE)
        return canvas

    def _turn(self, canvas: np.ndarray, yaw: float, pitch: float) -> np.ndarray:
        """Shift every pixel in proportion to its height: the parallax of a small turn."""
        columns = self._columns - np.float32(yaw * self.scale) * self.relief
        rows = self._rows - np.float32(pitch * self.scale) * self.relief
        return cv2.remap(canvas, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def _draw_eye(self, canvas: np.ndarray, middle: np.ndarray, pose: Pose) -> None:
        size = self.identity.eye_size
        t = np.linspace(-1, 1, 15)
        upper = np.stack((t * 17 * size, -(8.5 * pose.eyelids - 2) * size * (1 - t**2)), 1)
        lower = np.stack((t * 17 * size, 5 * size * (1 - t**2)), 1)
        patch = self._patch(canvas, middle, 24, 16)
        mask = patch.mask(np.concatenate((upper, lower[::-1])), 0.5)
        brightness = 0.85 * patch.of(self.shade)[..., None]
        ball = patch.filled(np.array([225.0, 228.0, 232.0]) * brightness)
        for radius, colour, shift in ((8.2, self.identity.iris, 0), (3.8, np.zeros(3), 0), (1.6, np.full(3, 250), 2.6)):
            centre = np.array(pose.gaze) + [-shift, -0.5 - shift]
            ball.put(patch.disc(centre, radius * size), colour)
        patch.blend(mask, ball.pixels)
        patch.line(upper, self.identity.hair * 0.35, 2.4 * size)
        patch.line(lower, self.identity.skin * 0.55, 0.8)
        crease = upper - [0, 5 + 2 * (1 - pose.eyelids)]
        patch.line(crease[2:-2], self.identity.skin * 0.6, 0.8)

    def _draw_glasses(self, canvas: np.ndarray) -> None:
        eye = self.identity.eye_distance
        patch = self._patch(canvas, np.array([0.0, EYES[0, 1]]), 95, 30)
        angle = np.linspace(0, 2 * np.pi, 40)
        shape = np.stack((26 * np.sign(np.cos(angle)) * abs(np.cos(angle)) ** 0.7, 19 * np.sin(angle)), 1)
        frame = np.full(3, 35.0) + 0.2 * self.identity.hair
        for side in (-1, 1):
            patch.line(shape + [side * eye, 1], frame, 2.6)
            patch.line(np.array([[side * (eye + 26), -3], [side * self.identity.face_width, -6]]), frame, 2.4)
        patch.line(np.array([[26 - eye, -3], [0, -6], [eye - 26, -3]]), frame, 2.6)

    def _draw_mouth(self, canvas: np.ndarray, pose: Pose) -> None:
        """Draw the shadow, the lips, and between them teeth and tongue in a dark cavity."""
        who = self.identity
        upper, lower = lip_lines(who, pose)
        patch = self._patch(canvas, np.array([0.0, MOUTH_Y]), 50, 54)
        light = patch.of(self.shade)[..., None]
        chin_shadow = patch.disc(np.array([0, lower.outer[:, 1].max() + 5]), 13, flat=0.35, soft=3)
        patch.blend(chin_shadow * 0.35, patch.pixels * 0.6)
        lips = patch.filled(who.lips * light)
        lips.put(patch.mask(np.concatenate((upper.outer, upper.inner[::-1])), 1), who.lips * 0.86 * light)
        gloss = patch.disc(np.array([-5, lower.outer[:, 1].max() - 0.6 * who.lip_heights[1]]), 10, flat=0.3, soft=2)
        lips.put(gloss * 0.25, np.full(3, 235.0) * light)
        patch.blend(patch.mask(np.concatenate((upper.outer, lower.outer[::-1])), 1.0), lips.pixels)

        opening = pose.aperture * OPENING
        cavity = patch.filled(np.array([30.0, 22, 48]) * light)
        tongue = np.array([0, lower.inner[:, 1].max() - (0.12 + 0.1 * pose.tongue) * opening])
        cavity.put(patch.disc(tongue, 17, flat=0.38, soft=1.5), np.array([85.0, 80, 150]) * light)
        for lip, side, reach in ((upper, -1, min(7.5, 0.45 * opening)), (lower, 1, np.clip(0.25 * opening - 3, 0, 4))):
            x = np.linspace(-0.8, 0.8, 9) * lip.inner[-1, 0]
            end = side * (side * lip.inner[:, 1]).max() - side * reach * (1 - 0.3 * np.linspace(-1, 1, 9) ** 2)
            teeth = np.concatenate((np.stack((x, end), 1), np.stack((x[::-1], np.full(9, side * 60.0)), 1)))
            cavity.put(patch.mask(teeth, 0.6), np.array([200.0, 212, 220]) * light)
        patch.blend(patch.mask(np.concatenate((upper.inner, lower.inner[::-1])), 0.5), cavity.pixels)
        patch.line((upper.inner + lower.inner) / 2, who.lips * 0.45, 1.2 * (1 - min(1.0, opening / 4)))

    def _filled(self, points: np.ndarray, soft: float) -> np.ndarray:
        """Return the canvas mask of a polygon given in units."""
        patch = self._patch(np.zeros((*self._x.shape, 4), np.uint8), np.zeros(2), 1000, 1000)
        return patch.mask(points, soft)

    def _patch(self, canvas: np.ndarray, middle: np.ndarray, half_width: float, half_height: float) -> Patch:
        reach = np.array([half_width, half_height])
        corners = (np.stack((middle - reach, middle + reach)) - [LEFT, TOP]) * self.scale
        x1, y1 = np.maximum(np.floor(corners[0]), 0).astype(int)
        x2, y2 = np.minimum(np.ceil(corners[1]).astype(int), canvas.shape[1::-1])
        origin = (middle - [LEFT, TOP]) * self.scale - [x1, y1]
        return Patch(canvas[y1:y2, x1:x2, :3], origin, self.scale, (slice(y1, y2), slice(x1, x2)))


# --------------------------------------------------------------------------------------------------------------------
# Lips


@dataclass(frozen=True)
class Lip:
    """The two edges of a lip, points from left to right in units, around the middle of the mouth."""

    outer: np.ndarray
    inner: np.ndarray


def lip_lines(who: Identity, pose: Pose) -> tuple[Lip, Lip]:
    """Return the upper and the lower lip in this pose."""
    t = np.linspace(-1, 1, 33)
    opening = pose.aperture * OPENING
    rounded = 1 - pose.width
    half = who.mouth_width * (0.60 + 0.6 * pose.width)
    arch = (1 - abs(t) ** (2.6 - 0.8 * rounded)) ** (1 - 0.25 * rounded)
    press = 1 - 0.25 * pose.closure
    bow = 1 - 0.22 * np.exp(-((t / 0.16) ** 2))
    upper_height = who.lip_heights[0] * press * (1 + 0.2 * rounded) * bow * (1 - t**2) ** 0.75
    lower_height = who.lip_heights[1] * press * (1 + 0.2 * rounded) * (1 - 0.65 * pose.tuck) * (1 - t**2) ** 0.85
    upper = np.stack((half * t, -0.2 * opening * arch + 0.8 * t**2), 1)
    lower = np.stack((half * t, 0.8 * opening * arch + 0.8 * t**2 - 2.5 * pose.tuck * arch), 1)
    wider = np.array([1.06, 1.0])
    return (
        Lip(upper * wider - np.stack((0 * t, upper_height), 1), upper),
        Lip(lower * wider + np.stack((0 * t, lower_height), 1), lower),
    )


# --------------------------------------------------------------------------------------------------------------------
# Drawing


@dataclass
class Patch:
    """A part of a canvas to draw on; points are in units around ``origin``, which is in pixels of the patch."""

    pixels: np.ndarray  # (height, width, 3)
    origin: np.ndarray
    scale: float
    where: tuple[slice, slice]

    def of(self, canvas: np.ndarray) -> np.ndarray:
        return canvas[self.where]

    def filled(self, colour: np.ndarray) -> Patch:
        """Return a patch of one colour (or one colour per pixel) to draw on."""
        pixels = np.broadcast_to(colour, self.pixels.shape).astype(np.float32)
        return Patch(pixels.copy(), self.origin, self.scale, self.where)

    def put(self, mask: np.ndarray, colour: np.ndarray) -> None:
        """Cover with one colour (or one per pixel) where ``mask`` is 1; for float patches."""
        self.pixels += mask[..., None] * (colour - self.pixels)

    def blend(self, mask: np.ndarray, pixels: np.ndarray) -> None:
        """Cover with ``pixels`` where ``mask`` is 1; for uint8 patches."""
        mixed = self.pixels + mask[..., None] * (pixels - self.pixels.astype(np.float32))
        self.pixels[:] = np.clip(mixed, 0, 255).astype(np.uint8)

    def mask(self, points: np.ndarray, soft: float) -> np.ndarray:
        """Return a polygon as a mask in [0, 1] whose edge is ``soft`` units wide."""
        mask = np.zeros(self.pixels.shape[:2], np.uint8)
        cv2.fillPoly(mask, [self._fixed(points)], 255, cv2.LINE_AA, SUBPIXEL)
        return cv2.GaussianBlur(mask, (0, 0), max(0.4, soft * self.scale)).astype(np.float32) / 255

    def disc(self, middle: np.ndarray, radius: float, flat: float = 1.0, soft: float = 0.4) -> np.ndarray:
        """Return an ellipse as a mask: ``flat`` times as high as wide."""
        angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        return self.mask(middle + radius * np.stack((np.cos(angle), flat * np.sin(angle)), 1), soft)

    def line(self, points: np.ndarray, colour: np.ndarray, width: float) -> None:
        """Draw a line ``width`` units wide; lines thinner than a pixel are drawn fainter."""
        pixels = width * self.scale
        if pixels < 0.05:
            return
        mask = np.zeros(self.pixels.shape[:2], np.uint8)
        cv2.polylines(mask, [self._fixed(points)], False, 255, max(1, round(pixels)), cv2.LINE_AA, SUBPIXEL)
        self.blend(mask.astype(np.float32) * (min(1.0, pixels) / 255), np.asarray(colour, np.float32))

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        return np.round((points * self.scale + self.origin - 0.5) * 2**SUBPIXEL).astype(np.int32)


def _mix(palette: np.ndarray, position: float) -> np.ndarray:
    """Return the colour at ``position`` of a palette, 0 the first … 1 the last, interpolated between neighbours."""
    places = np.linspace(0, 1, len(palette))
    return np.array([np.interp(position, places, channel) for channel in palette.T])


def _over(mask: np.ndarray, colour: np.ndarray, canvas: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Composite a layer over a canvas with transparency; alpha is not premultiplied (Porter, Duff 1984)."""
    under = alpha * (1 - mask)
    both = mask + under
    mixed = mask[..., None] * colour + under[..., None] * canvas
    return mixed / np.maximum(both, 1e-4)[..., None], both


def _step(x: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Return a smooth step: 0 before ``start``, 1 after ``stop``."""
    t = np.clip((x - start) / (stop - start), 0, 1)
    return t * t * (3 - 2 * t)
