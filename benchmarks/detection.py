"""Compare the search of ``face_detection`` with a search of every whole frame: agreement of boxes, and cost.

    python -m benchmarks.detection CLIP... [--face_detector centerface] [--scenes 720p 1080p]

The search runs the detector on whole frames only where it must, else on crops. Each clip is searched as it is and, for
every size in ``--scenes``, pasted unscaled into a moving background. Prints a table and one JSON object per line, named
by clip and size: ``mean`` and ``worst`` intersection over union of the two boxes of the followed face (neither
smoothed) on every ``--every``-th frame; ``jumps``, frames in which it is below 0.5; ``missed`` and ``extra``, frames in
which only the whole frame, or only the search, has a face; ``cuts`` found; the share of all pixels that the detector
processed; ``ms`` and ``whole_ms``, its milliseconds per frame of the clip and per whole frame; and ``found``, the share
of whole frames in which it finds a face.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import arguments
import cli
import video
from benchmarks import open_machine, report
from benchmarks.scene import SIZES, CountingDetector, write_scene
from face_detection.detections import Detections
from face_detection.geometry import intersection_over_union
from face_detection.search import search
from face_detection.tracking import follow_face, shots

SAME = 0.5  # intersection over union; below it, the boxes are of different faces


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Compare the face search with a search of every whole frame.")
    add = parser.add_argument
    add("clips", nargs="+", type=Path, help="Videos with a face.")
    add(
        "--scenes", nargs="*", choices=SIZES, default=[], help="Also paste each clip into moving scenes of these sizes."
    )
    add("--scene_seconds", type=cli.positive(float), default=3.0, help="Length of such a scene in seconds.")
    add("--every", type=cli.positive(int), default=1, help="Compare every n-th frame.")
    arguments.add_detector_arguments(parser)
    arguments.add_compute_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    device, dtype = open_machine(args)
    detector = CountingDetector(arguments.face_search(args).on(device, dtype).open())
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name, clip in pictures(args, Path(folder)):
            results.append(compare(video.probe(clip), detector, args.every))
            report(name, results[-1])
    means = [figures["mean"] for figures in results]
    worst, found = min(figures["worst"] for figures in results), np.mean([figures["found"] for figures in results])
    summary = {"mean": float(np.mean(means)), "lowest_mean": min(means), "worst": worst, "found": float(found)}
    report("all", {**summary, "clips": len(results)})


def pictures(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and path of every video to search."""
    for clip in args.clips:
        yield clip.stem, clip
        for size in args.scenes:
            scene = folder / f"{clip.stem}_{size}.mp4"
            write_scene(scene, args.scene_seconds, SIZES[size], clip, enlarged=False)
            yield scene.stem, scene


def compare(source: video.VideoInfo, detector: CountingDetector, every: int) -> dict[str, float]:
    """Search a video both ways; see the top of this file for the figures."""
    detector.pixels, detector.seconds = 0, 0.0
    found = Detections()
    count = sum(search(found, video.read_frames(source), detector, float(source.fps)))
    figures: dict[str, float] = {"frames": count, "cuts": len(shots(found)) - 1}
    figures["share_of_pixels"] = detector.pixels / (count * source.width * source.height)
    figures["ms"] = 1000 * detector.seconds / count

    detector.seconds = 0.0
    whole = Detections(change=found.change)
    for i, frame in enumerate(video.read_frames(source)):
        whole.boxes.append(detector.detect([frame])[0] if i % every == 0 else None)
    looks = [len(boxes) > 0 for boxes in whole.boxes if boxes is not None]
    figures |= {"whole_ms": 1000 * detector.seconds / len(looks), "found": float(np.mean(looks))}
    gap = round(source.fps)
    ours, theirs = (follow_face(boxes, gap, smooth=False, fill=False)[::every] for boxes in (found, whole))
    seen = ~np.isnan(ours[:, 0]), ~np.isnan(theirs[:, 0])
    overlaps = [intersection_over_union(a, b) for a, b, both in zip(ours, theirs, seen[0] & seen[1]) if both] or [0.0]
    figures |= {"mean": float(np.mean(overlaps)), "worst": min(overlaps)}
    figures["jumps"] = int(np.sum(np.array(overlaps) < SAME))
    return figures | {"missed": int((seen[1] & ~seen[0]).sum()), "extra": int((seen[0] & ~seen[1]).sum())}


if __name__ == "__main__":
    sys.exit(main())
