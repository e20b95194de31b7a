"""Lip-sync a talking head end to end with nothing but what this repository holds: ``make demo``.

A head that no network here was trained on says one thing; ``inference.py`` makes it say another; the expert tells how
well face and voice match before and after.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import audio
import cli
import faces
import files
import inference
import similarity
import video
from demo.talking_head import Recipe, write_clip, write_speech
from models import weights

HEAD = Recipe(seed=2020, seconds=6.0, size=(640, 480))  # the networks' own corpus has other seeds
FRAMES_SHOWN = 8


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Make a talking head and a voice, and lip-sync the one to the other.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for demo.mp4, .json and .png")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    args.results.mkdir(parents=True, exist_ok=True)
    outfile = args.results / "demo.mp4"
    with tempfile.TemporaryDirectory() as folder:
        face, speech = Path(folder, "face.mp4"), Path(folder, "speech.wav")
        write_clip(face, HEAD, number=0)
        aperture = write_speech(speech, HEAD, number=1)
        lip_sync(face, speech, outfile)
        results = measure({"own_sound": (face, face), "new_sound": (face, speech), "lip_synced": (outfile, speech)})
        draw(args.results / "demo.png", face, outfile, speech, aperture, results)
    means = {name: round(result.mean, 4) for name, result in results.items()}
    files.save(args.results / "demo.json", json.dumps(means, indent=1) + "\n")
    print_summary(args.results, results)


def lip_sync(face: Path, speech: Path, outfile: Path) -> None:
    command = ["--checkpoint_path", weights.DEMO, "--face", face, "--audio", speech, "--outfile", outfile]
    # no pads: the demo's generator was trained on crops without; a soft edge: it blurs what it need not change
    command += ["--face_detector", "haar", "--no_cache", "--blend", "feather", "--pads", 0, 0, 0, 0]
    if code := inference.main(list(map(str, command))):
        raise RuntimeError(f"the demo failed with exit code {code}; the line above says why")


def measure(pairs: dict[str, tuple[Path, Path]]) -> dict[str, similarity.Result]:
    """Return how well face and voice match in each (video, sound)."""
    expert = similarity.open_expert(weights.DEMO)
    search = faces.search_settings(face_detector="haar", no_cache=True)
    return {name: similarity.score(face, sound, expert, search) for name, (face, sound) in pairs.items()}


def print_summary(folder: Path, results: dict[str, similarity.Result]) -> None:
    words = {
        "own_sound": "the original video with its own sound",
        "new_sound": "the original video with the new sound",
        "lip_synced": "the lip-synced video with the new sound",
    }
    print("\nMean similarity of face and voice:")
    for name, result in results.items():
        print(f"  {result.mean:.3f}  {words[name]} ({result.verdict})")
    print(f"\nWatch {folder / 'demo.mp4'}; {folder / 'demo.png'} shows it frame by frame. With your own video:")
    print("  .venv/bin/python inference.py --checkpoint_path demo --face_detector haar --face VIDEO --audio SPEECH")
    print("The networks of this demo are small and know drawn heads best. For real faces use the official ones:")
    print("  .venv/bin/python inference.py --checkpoint_path wav2lip_gan --face VIDEO --audio SPEECH")
    print("downloads them once (436 MB; for research and personal use only).")


# --------------------------------------------------------------------------------------------------------------------
# The picture


def draw(
    path: Path, before: Path, after: Path, speech: Path, aperture: np.ndarray, results: dict[str, similarity.Result]
) -> None:
    """Draw frames before and after above the new waveform, the aperture of the mouth that spoke it, and similarity."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds, rate = HEAD.frames / HEAD.fps, audio.hp.sample_rate
    figure = Figure(figsize=(14, 9), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom, *charts = figure.subplots(5, 1, height_ratios=(2, 2, 1, 1, 1.4))
    for axis, clip, title in ((top, before, "original"), (bottom, after, "lip-synced to the new speech")):
        axis.imshow(strip(clip, FRAMES_SHOWN)[..., ::-1])
        axis.set(title=title, xticks=[], yticks=[])
    wav = video.read_audio(speech, rate)
    charts[0].plot(np.arange(len(wav)) / rate, wav, linewidth=0.4, color="0.3")
    charts[0].set(ylabel="new speech")
    charts[1].fill_between((np.arange(len(aperture)) + 0.5) / HEAD.fps, aperture, color="tab:red", alpha=0.5)
    charts[1].set(ylabel="its true aperture", ylim=(0, 1))
    for name, result in results.items():
        values = similarity.smoothed(result, result.frames)
        charts[2].plot(np.arange(len(values)) / result.fps, values, label=f"{name} {result.mean:.2f}")
    charts[2].set(ylabel="similarity", ylim=(0, 1), xlabel="seconds")
    charts[2].legend(loc="lower right")
    for axis in charts:
        axis.set_xlim(0, seconds)
    figure.savefig(path, dpi=90)


def strip(clip: Path, count: int) -> np.ndarray:
    """Return ``count`` frames of a video side by side, their middles evenly spread over its time."""
    info = video.probe(clip, video.Geometry(resize_factor=2))
    times = ((np.arange(count) + 0.5) / count * HEAD.frames).astype(int)
    frames = [frame for i, frame in enumerate(video.read_frames(info, 0, HEAD.frames)) if i in times]
    return np.hstack([frame[:, info.width // 5 : info.width * 4 // 5] for frame in frames])


if __name__ == "__main__":
    sys.exit(main())
