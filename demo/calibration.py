"""Make the calibration data for quantizing the generator to int8: models/calibration.*.

python -m demo.calibration

The data are NASA's portrait of Eileen Collins (public domain) and a drawn head, made and given the same sentence as in
``make demo``. calibration.jpg holds face crops, calibration.npy the mel windows that belong to them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

import cli
from demo import run_demo
from demo.talking_head import write_clip, write_speech
from lipsync import LipSync, Take
from mouths import crop
from runtimes import CALIBRATION_FACES, CALIBRATION_MELS, CALIBRATION_ROW

COUNT, STEP = 32, 4  # number of faces of each, and frames from one to the next
QUALITY = 95


def get_parser() -> cli.Parser:
    return cli.Parser(description="Make the calibration data of int8 from the demo's faces and sentence.")


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        portrait, head, speech = (Path(folder, name) for name in ("portrait.mp4", "head.mp4", "speech.wav"))
        write_speech(speech, run_demo.HEAD, number=1)
        write_clip(head, run_demo.HEAD, number=0)
        run_demo.film_portrait(portrait, speech)
        lips = LipSync(search=run_demo.SEARCH, device="cpu")
        takes = [lips.prepare(face, speech) for face in (portrait, head)]
        faces, mels = map(np.concatenate, zip(*map(chosen, takes)))
    rows = faces.reshape(-1, CALIBRATION_ROW, *faces.shape[1:])  # a contact sheet, so that people can check it
    sheet = rows.transpose(0, 2, 1, 3, 4).reshape(-1, CALIBRATION_ROW * faces.shape[2], 3)
    cv2.imwrite(str(CALIBRATION_FACES), sheet, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    np.save(CALIBRATION_MELS, mels.astype(np.float16))
    print(f"{CALIBRATION_FACES}, {CALIBRATION_MELS}: {len(faces)} faces")


def chosen(take: Take) -> tuple[np.ndarray, np.ndarray]:
    """Return the faces (COUNT, 96, 96, 3) of a take and their mels (COUNT, 80, 16)."""
    (one,) = take.faces
    rows = zip(take.frames(), one.boxes(), one.windows)
    with_face = ((frame, box, mel) for frame, box, mel in rows if box is not None)
    some = itertools.islice(itertools.islice(with_face, 0, None, STEP), COUNT)
    faces, mels = zip(*((crop(frame, box), mel) for frame, box, mel in some))
    return np.stack(faces), np.stack(mels)


if __name__ == "__main__":
    sys.exit(main())
