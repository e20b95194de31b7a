"""What the page's buttons do: files in, files out, without a word of Gradio."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

import adaptation
import video
from devices import pick_device
from errors import UserError
from face_detection.detections import cut_out
from face_detection.tracking import GAP_SECONDS, follow_faces
from faces import FaceSearch
from hparams import hparams as hp
from lipsync import LipSync
from models import weights
from page.sessions import Session, check_length
from reporting import Reporter
from sync import measure, open_expert

LOOKED_AT = 2.0  # seconds of a video in which the page looks for faces to choose from
FACE_SIDE = 160  # pixels of a face to click on


@dataclass(frozen=True)
class Settings:
    """What whoever runs the page has decided for all."""

    checkpoint: str | None = None  # generator; None: the one that comes along
    expert: str = weights.DEMO
    detector: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    max_seconds: float = 600.0  # of speech, or of a video that is measured or learned from
    max_minutes: float = 15.0  # of learning


@dataclass(frozen=True)
class Seen:
    """The faces that a video or photo shows first."""

    pictures: list[np.ndarray]  # (side, side, 3) uint8 RGB, from left to right
    words: str


class Actions:
    """Everything the page can do, with networks that are loaded once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def search(self, session: Session) -> FaceSearch:
        return FaceSearch(self.settings.detector, folder=session.folder / "boxes")

    @functools.lru_cache(maxsize=2)  # noqa: B019  # the page has one, for as long as it lives
    def _generator(self, checkpoint: str | None) -> LipSync:
        search = FaceSearch(self.settings.detector)
        lips = LipSync(checkpoint, search=search, device=self.settings.device, precision=self.settings.precision)
        lips.load()
        return lips

    def lips(self, session: Session, report: Reporter, checkpoint: str | None = None) -> LipSync:
        """Return a lip-sync of this session: its own memory and report, everybody's network."""
        return self._generator(checkpoint or self.settings.checkpoint).serving(self.search(session), report)

    def find_faces(self, session: Session, face: str, report: Reporter) -> Seen:
        """Show the faces at the start of a video or photo, in the order of ``--face_index``."""
        source = video.probe(face)
        wanted = 1 if source.is_image else max(1, round(LOOKED_AT * source.fps))
        found = self.search(session).find(source, wanted, report=report)
        tracks = follow_faces(found, round(GAP_SECONDS * source.fps))
        if not tracks:
            raise UserError("no face was found at the start; try another video, or cut it to where a face is seen")
        pictures = [_picture(source, boxes) for boxes in tracks]
        words = "One face." if len(pictures) == 1 else f"{len(pictures)} faces: click on the one that is to speak."
        return Seen(pictures, f"{source.width}x{source.height}. {words}")

    def preview(
        self, session: Session, face: str, speech: str, second: float, report: Reporter, **options: object
    ) -> np.ndarray:
        """Return one frame of the result (height, width, 3) uint8 RGB, of a moment."""
        lips = self.lips(session, report, options.pop("checkpoint", None))
        take = lips.prepare(face, speech, second + 1 / 25, **options)
        *_, last = lips.stream(take)
        return last[..., ::-1]

    def lip_sync(self, session: Session, face: str, speech: str, report: Reporter, **options: object) -> Path:
        """Return the file of the result."""
        check_length(seconds_of(speech), self.settings.max_seconds)
        outfile = session.new_file(".mp4")
        self.lips(session, report, options.pop("checkpoint", None)).run(face, speech, outfile, **options)
        return outfile

    def measure(self, session: Session, face: str, sounds: list[str], report: Reporter) -> tuple[str, Path]:
        """Say how well faces and voices match, and draw it."""
        from sync.drawing import draw

        paths = [Path(sound) for sound in sounds or [face]]
        for path in paths:
            check_length(seconds_of(path), self.settings.max_seconds)
        measured = measure(face, paths, self._open_expert(), self.search(session), report)
        plot = session.new_file(".png")
        draw(plot, measured.matrix, paths)
        return str(measured.matrix).replace(str(face), "the video's own sound"), plot

    @functools.cache  # noqa: B019
    def _open_expert(self) -> object:
        return open_expert(self.settings.expert, pick_device(self.settings.device))

    def adapt(self, session: Session, face: str, minutes: float, report: Reporter) -> tuple[Path, Path, str]:
        """Learn a person; return the checkpoint, the contact sheet, and what was won."""
        check_length(seconds_of(face), self.settings.max_seconds)
        outfile = session.new_file(".pth")
        options = adaptation.Options(
            min(minutes, self.settings.max_minutes),
            self.settings.checkpoint or weights.DEMO,
            search=self.search(session),
            device=self.settings.device,
        )
        adapted = adaptation.adapt(face, outfile, options, report)
        before, after = (examined.figures["l1"] for examined in (adapted.before, adapted.after))
        won = f"Difference to the real mouth, on a part it did not learn from: {before:.4f} before, {after:.4f} after."
        return outfile, adapted.sheet, won if adapted.is_better else f"{won} It learned nothing; use the old network."


def seconds_of(path: str | Path) -> float:
    """How long the sound of a file lasts."""
    return sum(map(len, video.Sound(path, hp.sample_rate))) / hp.sample_rate


def _picture(source: video.VideoInfo, boxes: np.ndarray) -> np.ndarray:
    """A face where it is seen first, square."""
    first = int(np.flatnonzero(~np.isnan(boxes[:, 0]))[0])
    frame = next(video.read_frames(source, first, 1))
    return cv2.resize(cut_out(frame, boxes[first]), (FACE_SIDE, FACE_SIDE))[..., ::-1]
