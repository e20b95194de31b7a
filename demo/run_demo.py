"""Lip-sync a face end to end with nothing but what this repository can make: ``make demo``.

Until small trained checkpoints are shipped, the generator has seeded random weights: the whole path runs, the mouth
that it draws is noise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

import cli
import inference
import video
from demo.material import write_face_clip, write_speech
from models import Wav2Lip

SECONDS = 4.0


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Make a face clip and a voice, and lip-sync the one to the other.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for demo.mp4 and demo.png")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    args.results.mkdir(parents=True, exist_ok=True)
    outfile = args.results / "demo.mp4"
    with tempfile.TemporaryDirectory() as folder:
        face, speech, checkpoint = (Path(folder, name) for name in ("face.mp4", "speech.wav", "generator.pth"))
        write_face_clip(face, SECONDS, size=(640, 480))
        write_speech(speech, SECONDS + 2)  # longer than the video, which therefore starts again
        torch.manual_seed(0)
        torch.save({"state_dict": Wav2Lip(width=0.25).state_dict(), "width": 0.25}, checkpoint)
        command = ["--checkpoint_path", checkpoint, "--face", face, "--audio", speech, "--outfile", outfile]
        code = inference.main([*map(str, command), "--face_detector", "haar", "--no_cache"])
        if code:
            raise RuntimeError(f"the demo failed with exit code {code}; the line above says why")
        write_contact_sheet(args.results / "demo.png", face, outfile)
    print(f"Watch {outfile}; {args.results / 'demo.png'} shows frames before (above) and after (below).")
    print("The generator of this demo has seeded random weights, so the mouth is noise. With trained weights:")
    print("  .venv/bin/python inference.py --checkpoint_path wav2lip_gan --face YOUR_VIDEO --audio YOUR_SPEECH")
    print("downloads the official ones (436 MB, for research only) once and lip-syncs your own video.")


def write_contact_sheet(path: Path, before: Path, after: Path, columns: int = 6) -> None:
    """Save ``columns`` frames of both videos, side by side in time, as one picture."""
    rows = []
    for clip in (before, after):
        frames = list(video.read_frames(video.probe(clip, video.Geometry(resize_factor=2)), 0, round(SECONDS * 25)))
        rows.append(np.hstack([frames[i] for i in np.linspace(0, len(frames) - 1, columns).astype(int)]))
    cv2.imwrite(str(path), np.vstack(rows))


if __name__ == "__main__":
    sys.exit(main())
