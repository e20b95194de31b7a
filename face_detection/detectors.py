"""Face detectors with one interface: BGR frames in, boxes with scores out, best first.

All return S3FD's framing (forehead to just below the chin), because the official generator was trained on it.
Those whose weights are downloaded come from the face-alignment library, which is imported only when one is used.
"""

from __future__ import annotations

import copy
import importlib
import itertools
from pathlib import Path

import cv2
import numpy as np
import torch

from devices import memory_format, split_on_oom
from errors import MissingFile, UserError
from telemetry import silence_onnxruntime

from .centerface import CenterFace
from .detector import Detector, FrameByFrame
from .geometry import SAME_PLACE, overlaps, scaled, unscaled

NO_BOXES = np.empty((0, 5), np.float32)
LIBRARY_DETECTORS = ("yunet", "scrfd", "retinaface", "blazeface")
CPU_DETECTORS = ("centerface", "haar")  # nothing to download; these do not use a GPU
DETECTORS = ("sfd", *CPU_DETECTORS, *LIBRARY_DETECTORS)
# Where releases of the reference kept the file; used before anything is downloaded.
SFD_WEIGHTS = Path(__file__).resolve().parent / "detection" / "sfd" / "s3fd.pth"


def create_detector(
    name: str, device: str = "cpu", weights: str | Path | None = None, dtype: torch.dtype = torch.float32
) -> Detector:
    """Return the detector called ``name`` (one of ``DETECTORS``).

    ``weights`` is a file, for detectors not in ``CPU_DETECTORS``; without it ``sfd`` reads ``SFD_WEIGHTS`` and the
    others download theirs. ``dtype`` is the precision of ``sfd``. Raises UserError, MissingFile or RuntimeError
    (download).
    """
    if name == "sfd":
        return SFD(weights or SFD_WEIGHTS, device, dtype)
    if name == "centerface":
        return CenterFace()
    if name == "haar":
        return Haar()
    if name in LIBRARY_DETECTORS:
        return LibraryDetector(name, device, weights)
    raise UserError(f"unknown face detector {name!r}; known: {', '.join(DETECTORS)}")


def in_square_pixels(detector: Detector, aspect: float) -> Detector:
    """Return a detector for pictures whose pixels are ``aspect`` times as wide as high; it sees them undistorted."""
    return detector if aspect == 1 else SquarePixels(detector, aspect)


class DetectorWrapper:
    """Wraps another detector and copies its constants."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.FACE_SIDE, self.CERTAIN, self.KEY_SECONDS = detector.FACE_SIDE, detector.CERTAIN, detector.KEY_SECONDS


class SquarePixels(DetectorWrapper):
    """A detector that stretches anamorphic pictures to square pixels before it searches them."""

    def __init__(self, detector: Detector, aspect: float) -> None:
        super().__init__(detector)
        self.aspect = aspect

    def detect(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        if not frames:
            return []
        height, width = frames[0].shape[:2]
        size = max(1, round(width * self.aspect)), height
        found = self.detector.detect([cv2.resize(frame, size) for frame in frames])
        return [unscaled(boxes, (size[0] / width, 1)) for boxes in found]


def with_eye_distance(detector: Detector) -> Detector:
    """Return a detector that also gives the distance of the eyes; all but CenterFace are wrapped in ``EyeDistance``."""
    return detector if isinstance(detector, CenterFace) else EyeDistance(detector)


class EyeDistance(DetectorWrapper):
    """A detector whose faces CenterFace supplements with the distance of the eyes."""

    SIDE = 64  # pixels; pictures are shrunk until the longer side of the smallest face is this long

    def __init__(self, detector: Detector) -> None:
        super().__init__(detector)
        self._centerface = CenterFace()

    def detect(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        found = self.detector.detect(frames)
        return [np.column_stack((boxes, self._eyes(frame, boxes))) for frame, boxes in zip(frames, found)]

    def _eyes(self, frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return the sixth column, (k,), of boxes (k, 5)."""
        eyes = np.full(len(boxes), np.nan, np.float32)
        if not len(boxes):
            return eyes
        scale = min(1.0, self.SIDE / max(1.0, (boxes[:, 2:4] - boxes[:, :2]).max(1).min()))
        for face in unscaled(self._centerface.detect([scaled(frame, scale)])[0], scale)[::-1]:  # the best last
            eyes[overlaps(face, boxes) > SAME_PLACE] = face[5]
        return eyes


class SFD:
    """S3FD (Zhang et al., ICCV 2017), the reference's detector: the library's network, decoded without Python loops."""

    FACE_SIDE, KEY_SECONDS, CERTAIN = 140, 3.0, 0.8
    THRESHOLD = 0.5  # on the score
    OVERLAP = 0.3  # of non-maximum suppression
    VARIANCES = (0.1, 0.2)  # of the box encoding
    BGR_MEAN = (104.0, 117.0, 123.0)
    NORMS = ("conv3_3_norm", "conv4_3_norm", "conv5_3_norm")  # before the heads of strides 4, 8 and 16
    MIN_SIDE = 32  # pixels, shorter side; the network halves it five times
    PIXELS_PER_CALL = 1 << 20  # on a CPU; activations need about 600 bytes a pixel

    def __init__(self, weights: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        from face_alignment.detection.sfd.net_s3fd import s3fd

        self.device = torch.device(device)
        with torch.device("meta"):  # random weights take longer to draw than the real ones to read
            self.network = s3fd().eval()
        try:
            self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), assign=True)
        except FileNotFoundError:
            raise MissingFile(
                f"{weights} does not exist; S3FD needs its weights there, or give another place: FaceAlignment takes "
                "path_to_detector. inference.py downloads them into its cache"
            ) from None
        except Exception as error:  # whatever torch raises on a wrong file, the user needs to know which file it was
            raise UserError(f"{weights} does not hold S3FD weights ({str(error).splitlines()[0]})") from error
        for name in self.NORMS:
            setattr(self.network, name, WideNorm(getattr(self.network, name).weight))
        self.network.to(self.device, dtype, memory_format=memory_format(self.device))

    def detect(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        if not frames:
            return []
        height, width = frames[0].shape[:2]
        if min(height, width) < self.MIN_SIDE:
            below, beside = (max(0, self.MIN_SIDE - side) for side in (height, width))
            frames = [cv2.copyMakeBorder(frame, 0, below, 0, beside, cv2.BORDER_CONSTANT) for frame in frames]
        step = max(1, self.PIXELS_PER_CALL // (height * width)) if self.device.type == "cpu" else len(frames)
        found: list[np.ndarray] = []
        for start in range(0, len(frames), step):
            found += self._detect(np.stack(frames[start : start + step]))
        return found

    def _detect(self, frames: np.ndarray) -> list[np.ndarray]:
        """Detect in frames (N, height, width, 3); batches that do not fit in the device's memory are split in half."""
        parts = split_on_oom(lambda some: self._decode(self._maps(some), len(some)), frames)
        return list(itertools.chain.from_iterable(parts))

    @torch.inference_mode()
    def _maps(self, frames: np.ndarray) -> list[torch.Tensor]:
        """Frames (N, height, width, 3) -> maps of scores (N, 2, …) and offsets (N, 4, …), in pairs, by stride."""
        x = torch.from_numpy(frames)
        if self.device.type == "cuda":
            x = x.pin_memory().to(self.device, non_blocking=True)
        x = x.to(self.device).permute(0, 3, 1, 2)  # (N, 3, H, W), channels last in memory
        # Kept quirk: the reference fed RGB frames, yet subtracted the means in BGR order. The official results depend
        # on it, so the frames are flipped to RGB and the means are not.
        x = x.flip(1).to(torch.float32) - torch.tensor(self.BGR_MEAN, device=self.device).view(1, 3, 1, 1)
        network = self.network  # other threads may replace it
        dtype = next(network.parameters()).dtype
        maps = [m.float().cpu() for m in network(x.to(dtype, memory_format=memory_format(self.device)))]
        if dtype != torch.float32 and not all(m.isfinite().all() for m in maps):
            # some GPUs compute no numbers in fp16, and every frame would seem to have no face
            self.network = copy.deepcopy(network).float()
            return self._maps(frames)
        return maps

    def _decode(self, maps: list[torch.Tensor], count: int) -> list[np.ndarray]:
        """Score and offset maps of strides 4, 8, … 128, in pairs -> boxes of each frame."""
        from face_alignment.detection.sfd.bbox import decode, nms

        frame_of, boxes = [], []
        for level, (scores, offsets) in enumerate(zip(maps[::2], maps[1::2])):
            stride = 4 * 2**level
            face = scores.softmax(1)[:, 1]
            # anything weaker could neither be kept nor suppress what is kept
            n, row, column = (face > self.THRESHOLD).nonzero(as_tuple=True)
            side = torch.full((len(n),), 4.0 * stride)
            anchors = torch.stack(((column + 0.5) * stride, (row + 0.5) * stride, side, side), 1)
            corners = decode(offsets[n, :, row, column].numpy(), anchors.numpy(), self.VARIANCES)
            frame_of.append(n.numpy())
            boxes.append(np.column_stack((corners, face[n, row, column].numpy())).astype(np.float32))
        frame_index, candidates = np.concatenate(frame_of), np.concatenate(boxes)
        per_frame = (candidates[frame_index == i] for i in range(count))
        return [c[nms(c, self.OVERLAP)] if len(c) else NO_BOXES for c in per_frame]


class WideNorm(torch.nn.Module):
    """S3FD's scaled L2 norm over channels, in float32 whatever the precision of the rest.

    The library squares in float16, where activations above 255 overflow: everything divided by the norm becomes 0, and
    the heads for small faces find nothing.
    """

    def __init__(self, weight: torch.nn.Parameter) -> None:
        super().__init__()
        self.weight = weight  # (channels,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32) + 1e-10
        return (x / norm * self.weight.float().view(1, -1, 1, 1)).to(x.dtype)


class Haar(FrameByFrame):
    """OpenCV's bundled frontal cascade: nothing to download, fast on a CPU, for faces turned to the camera.

    "alt" finds as many faces as the other bundled cascades on real footage, with far fewer false alarms.
    """

    FACE_SIDE, KEY_SECONDS, CERTAIN = 120, 0.2, 0.0
    DETECT_SIDE = 360  # pixels; the shorter side of larger frames is shrunk to this
    STEP = 1.05  # factor between the sizes searched; 1.1 takes half the time, and boxes jitter three times as much
    MIN_FACE = 0.1  # of the shorter side
    # S3FD's left, top, right, bottom within a Haar square, measured on GRID frames
    FRAMING = np.array([0.02, -0.01, 0.94, 1.11], np.float32)

    def __init__(self) -> None:
        super().__init__()
        self.cascade = cv2.CascadeClassifier()
        described = Path(cv2.__file__).with_name("data") / "haarcascade_frontalface_alt.xml"
        # not by its path: on Windows OpenCV opens only ASCII paths, and a user's folder may be called Jürgen
        how = cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY
        storage = cv2.FileStorage(described.read_text(encoding="utf-8"), how)
        self.cascade.read(storage.getFirstTopLevelNode())

    def _detect(self, frame: np.ndarray) -> np.ndarray:
        scale = min(1.0, self.DETECT_SIDE / min(frame.shape[:2]))
        grey = scaled(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), scale)
        least = max(24, int(self.MIN_FACE * min(grey.shape)))
        squares, _, weights = self.cascade.detectMultiScale3(
            grey, scaleFactor=self.STEP, minNeighbors=5, minSize=(least, least), outputRejectLevels=True
        )
        squares = np.asarray(squares)  # an empty tuple, if there are none
        if not len(squares):
            return NO_BOXES
        corners = np.tile(squares[:, :2], 2) + squares[:, 2:3] * self.FRAMING
        scores = np.ravel(weights)
        return np.column_stack((corners / scale, scores)).astype(np.float32)[np.argsort(-scores, kind="stable")]


class LibraryDetector(FrameByFrame):
    """Any other detector of the face-alignment library, called frame by frame as the library does itself."""

    FACE_SIDE, KEY_SECONDS, CERTAIN = 150, 1.0, 0.0

    def __init__(self, name: str, device: str, weights: str | Path | None) -> None:
        super().__init__()
        silence_onnxruntime()  # used by scrfd
        try:
            module = importlib.import_module(f"face_alignment.detection.{name}")
            paths = {"path_to_detector": str(weights)} if weights else {}
            if weights and name == "blazeface":
                paths["path_to_anchor"] = str(Path(weights).with_name("anchors.npy"))
            self.detector = module.FaceDetector(device=device, **paths)
        except ImportError as error:
            raise RuntimeError(f"the face detector {name} needs another package: {error}") from error
        except OSError as error:  # URLError is one
            raise RuntimeError(
                f"the weights of the face detector {name} could not be downloaded ({error}); "
                "give them with --face_detector_weights, or use --face_detector centerface, which needs none"
            ) from error
        except Exception as error:  # whatever the packages raise on a wrong file, the user needs to know which it was
            if not weights:
                raise
            words = " ".join(str(error).split())[:200]
            raise UserError(f"{weights} does not hold weights of {name} ({words})") from error

    def _detect(self, frame: np.ndarray) -> np.ndarray:
        found = self.detector.detect_from_image(np.ascontiguousarray(frame[..., ::-1]))  # the library's order is RGB
        boxes = np.array([box[:5] for box in found], np.float32).reshape(-1, 5)
        return boxes[np.argsort(-boxes[:, 4], kind="stable")]
