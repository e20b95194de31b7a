"""Lip-sync two faces end to end with only what this repository holds: ``make demo``.

NASA's portrait of Eileen Collins, animated to move its head, and a drawn head are lip-synced to a sentence they never
said; the expert measures how well face and voice match before and after.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

import audio
import cli
import files
import video
from demo.portrait import Portrait
from demo.scene import wander
from demo.talking_head import Recipe, write_clip, write_speech
from errors import needs
from faces import FaceSearch
from lipsync import LipSync
from models import weights
from sync import Result, open_expert, score
from sync.drawing import smoothed
from terminal import TERMINAL

HEAD = Recipe(seed=2020, seconds=6.0, size=(640, 480))  # the training corpus has other seeds
LANDMARKS = Path(__file__).with_name("collins.npy")  # of scikit-image's photo, by demo/landmarks.py
ZOOM, SIZE = 1.5, 512  # of the photo; pixels of the video
SWAY = (0.1, 0.05)  # eye distances by which the nose moves sideways and up
FRAMES_SHOWN = 8
SEARCH = FaceSearch("centerface", cache=False)


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Make a portrait and a talking head, and lip-sync them to a voice.")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        help="Write the videos, demo.json and demo.png into this folder.",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    with needs("app"):  # now, not after the work
        import matplotlib  # noqa: F401
    args.results.mkdir(parents=True, exist_ok=True)
    outfile, head = args.results / "demo.mp4", args.results / "demo_head.mp4"
    with tempfile.TemporaryDirectory() as folder:
        portrait, face, speech = (Path(folder, name) for name in ("portrait.mp4", "face.mp4", "speech.wav"))
        write_clip(face, HEAD, number=0)
        aperture = write_speech(speech, HEAD, number=1)
        film_portrait(portrait, speech)
        lips = LipSync(search=SEARCH, report=TERMINAL)
        lips.run(portrait, speech, outfile)
        lips.run(face, speech, head)
        pairs = {"own_sound": (face, face), "new_sound": (face, speech), "lip_synced": (head, speech)}
        pairs |= {"portrait_before": (portrait, speech), "portrait_lip_synced": (outfile, speech)}
        results = measure(pairs)
        strips = {"NASA's portrait of Eileen Collins": portrait, "lip-synced to the speech": outfile}
        strips |= {"a drawn head": face, "lip-synced to the same speech": head}
        draw(args.results / "demo.png", strips, speech, aperture, results)
    means = {name: round(result.mean, 4) for name, result in results.items()}
    files.save(args.results / "demo.json", json.dumps(means, indent=1) + "\n")
    print_summary(args.results, results)


def film_portrait(path: Path, speech: Path, scale: float = 1.0) -> None:
    """Write a video of the portrait in which the head sways a little and the mouth keeps its smile."""
    from skimage import data

    photo = np.ascontiguousarray(data.astronaut()[..., ::-1])
    portrait = Portrait(photo, np.load(LANDMARKS) / 16)
    rng = np.random.default_rng(HEAD.seed)
    turns = np.stack([wander(rng, HEAD.frames, HEAD.fps) * reach for reach in SWAY], 1)
    rolls = np.radians(2) * wander(rng, HEAD.frames, HEAD.fps)
    middle = portrait.landmarks[[33, 263, 152]].mean(0)
    size, zoom = round(scale * SIZE / 2) * 2, scale * ZOOM
    info = video.VideoInfo(path, size, size, fps=Fraction(HEAD.fps).limit_denominator(1001))
    with video.VideoWriter(path, info, speech, HEAD.frames) as writer:
        for turn, roll in zip(turns, rolls):
            matrix = zoom * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
            camera = np.column_stack((matrix, size * np.array([0.5, 0.42]) - matrix @ middle))
            writer.write(portrait.draw(portrait.turned(portrait.points, turn), camera, size))


def measure(pairs: dict[str, tuple[Path, Path]]) -> dict[str, Result]:
    """Return how well face and voice match in each (video, sound)."""
    expert = open_expert(weights.DEMO)
    return {name: score(face, expert, sound, SEARCH) for name, (face, sound) in pairs.items()}


def print_summary(folder: Path, results: dict[str, Result]) -> None:
    words = {
        "portrait_before": "the portrait, smiling, with the speech",
        "portrait_lip_synced": "the portrait, lip-synced to it",
        "own_sound": "the drawn head with its own sound",
        "new_sound": "the drawn head with the speech",
        "lip_synced": "the drawn head, lip-synced to it",
    }
    print("\nMean similarity of face and voice:")
    for name, text in words.items():
        print(f"  {results[name].mean:.3f}  {text} ({results[name].verdict})")
    print(f"\nWatch {folder / 'demo.mp4'}; {folder / 'demo.png'} shows it frame by frame. With your own video:")
    print("  .venv/bin/python inference.py --face VIDEO --audio SPEECH")


# --------------------------------------------------------------------------------------------------------------------
# demo.png


def draw(path: Path, strips: dict[str, Path], speech: Path, aperture: np.ndarray, results: dict[str, Result]) -> None:
    """Draw frames of videos above the waveform, the aperture of the mouth that spoke it, and similarity."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds, rate = HEAD.frames / HEAD.fps, audio.hp.sample_rate
    figure = Figure(figsize=(14, 14), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(strips) + 3, 1, height_ratios=(*[2] * len(strips), 1, 1, 1.4))
    charts = rows[len(strips) :]
    for axis, (title, clip) in zip(rows, strips.items()):
        axis.imshow(strip(clip, FRAMES_SHOWN)[..., ::-1])
        axis.set(title=title, xticks=[], yticks=[])
    wav = video.read_audio(speech, rate)
    charts[0].plot(np.arange(len(wav)) / rate, wav, linewidth=0.4, color="0.3")
    charts[0].set(ylabel="the speech")
    charts[1].fill_between((np.arange(len(aperture)) + 0.5) / HEAD.fps, aperture, color="tab:red", alpha=0.5)
    charts[1].set(ylabel="true aperture", ylim=(0, 1))
    for name, result in results.items():
        values = smoothed(result, result.frames)
        charts[2].plot(np.arange(len(values)) / result.fps, values, label=f"{name} {result.mean:.2f}")
    charts[2].set(ylabel="similarity", ylim=(0, 1), xlabel="seconds")
    charts[2].legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncol=len(results))  # below the lines
    for axis in charts:
        axis.set_xlim(0, seconds)
    figure.savefig(path, dpi=90)


def strip(clip: Path, count: int) -> np.ndarray:
    """Return ``count`` frames of a video side by side, evenly spread over its duration."""
    info = video.probe(clip, video.Geometry(resize_factor=2))
    times = ((np.arange(count) + 0.5) / count * HEAD.frames).astype(int)
    frames = [frame for i, frame in enumerate(video.read_frames(info, 0, HEAD.frames)) if i in times]
    return np.hstack([frame[:, info.width // 5 : info.width * 4 // 5] for frame in frames])


if __name__ == "__main__":
    sys.exit(main())
