"""The face detector that comes with this program: CenterFace, run by OpenCV on the CPU. Its licence is beside it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from .detector import FrameByFrame
from .geometry import overlaps, scaled, unscaled

WEIGHTS = Path(__file__).with_name("centerface.onnx")


class CenterFace(FrameByFrame):
    """CenterFace (Xu et al., 2019): nothing to download, a twentieth of S3FD's work, finds turned and small faces too.

    Every cell of its maps, 4 pixels wide, gives the probability that a face is centred there, the size of the face,
    and where the eyes, the nose and the corners of the mouth are within its box.
    """

    FACE_SIDE, KEY_SECONDS, CERTAIN = 130, 0.5, 0.6
    DETECT_SIDE = 720  # pixels; the shorter side of larger frames is shrunk to this: 36 pixels in 1080p become 24
    STRIDE = 32  # pixels; the network needs sides that are multiples of it
    MIN_SIDE = 64  # pixels; in pictures of 32 x 32 the network finds faces whatever they show
    CELL = 4  # pixels
    THRESHOLD = 0.4  # on the score; 93 % of faces 24 pixels high reach it, 99 % of those 32 pixels high
    OVERLAP = 0.3  # intersection over union; cells whose boxes overlap more belong to the same face
    # S3FD's left, top, right and bottom, relative to the middle of the box at the level of eyes and nose; see _frame.
    # A compromise between S3FD on GRID frames and Haar's framing on GRID frames, portraits and videos, which differ by
    # up to 6 %.
    FRAMING = np.array([-0.56, -0.765, 0.56, 1.0], np.float32)

    def __init__(self) -> None:
        super().__init__()
        self.network = cv2.dnn.readNetFromONNX(np.fromfile(WEIGHTS, np.uint8))
        # OpenCV would fuse layers again whenever the picture's size changes, into weights that are already fused.
        self.network.enableFusion(False)

    def _detect(self, frame: np.ndarray) -> np.ndarray:
        scale = min(1.0, self.DETECT_SIDE / min(frame.shape[:2]))
        frame = scaled(frame, scale)
        below, beside = (max(-side % self.STRIDE, self.MIN_SIDE - side) for side in frame.shape[:2])
        frame = cv2.copyMakeBorder(frame, 0, below, 0, beside, cv2.BORDER_CONSTANT)
        self.network.setInput(cv2.dnn.blobFromImage(frame, swapRB=True))
        faces = self._merge(self._frame(*self.network.forward(self.network.getUnconnectedOutLayersNames())))
        return unscaled(faces, scale)

    def _frame(self, score: np.ndarray, size: np.ndarray, offset: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Maps (1, channels, rows, columns) -> for every likely cell, (n, 6): box in S3FD's framing, score, eyes.

        CenterFace's own box ends at the chin and moves with it. The eyes, the nose and the face above them do not, so
        the box returned is placed by them, and its height follows from them and the width.
        """
        row, column = np.nonzero(score[0, 0] > self.THRESHOLD)
        size, offset, points = (values[0, :, row, column].T for values in (size, offset, points))
        height, width = self.CELL * np.exp(size)
        y, x = self.CELL * (np.stack((row, column)) + 0.5 + offset)
        upper = height * points[0:6:2].mean(axis=0).clip(0.25, 0.75)  # from the top of the box to eyes and nose
        y, side = y - height / 2 + upper, np.sqrt(width * upper)
        left, top, right, bottom = self.FRAMING
        corners = x + left * width, y + top * side, x + right * width, y + bottom * side
        # from the right eye to the left, as a fraction of the width; only across if the head lies on its side
        down, across = (points[2] - points[0]) * height / width, points[3] - points[1]
        eyes = np.where(np.abs(down) < np.abs(across), np.copysign(np.hypot(down, across), across), across)
        return np.stack((*corners, score[0, 0, row, column], eyes), axis=1).astype(np.float32)

    def _merge(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of cells (n, 6) -> faces (k, 6), best first: the mean of all cells that belong to the same face.

        A single cell's box jitters by 1 % of its side when the face moves by a pixel, the mean by half of that.
        """
        boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")]
        faces = []
        while len(boxes):
            others = overlaps(boxes[0], boxes) < self.OVERLAP
            same, boxes = boxes[~others], boxes[others]
            mean = np.average(same, axis=0, weights=same[:, 4])
            faces.append([*mean[:4], same[0, 4], mean[5]])
        return np.array(faces, np.float32).reshape(-1, 6)
