"""Measure whether --speaker auto finds who speaks, and notices when nobody in view does.

    python -m benchmarks.who_speaks --data_root VIDEOS --people s5 s26 s34 --face_detector centerface

VIDEOS has a folder of clips in true sync for each of the people; a shot is two clips side by side. Prints, as a table
and as JSON lines, for how many shots the right face, somebody else or nobody was chosen:

together   one shot, in which one of the two is heard
cuts       three shots, in which the two swap sides and either is heard
absent     a shot as in ``together``, then one in which a third person is heard: the right answer is nobody
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import arguments
import cli
import speakers
import video
from benchmarks import open_machine, report
from errors import UserError
from face_path import FacePath
from faces import FaceSearch
from footage import find_videos
from sync import Expert, open_expert
from terminal import TERMINAL

ROUNDS = 4  # of clips; in each, every person and the next get a video of each kind


@dataclass(frozen=True)
class Shot:
    """Two clips side by side, and whose sound is heard."""

    left: Path
    right: Path
    heard: Path

    @property
    def place(self) -> int | None:
        """Return who is heard, 0 or 1 from the left; None if it is somebody else."""
        return next((i for i, path in enumerate((self.left, self.right)) if path == self.heard), None)


def get_parser() -> cli.Parser:
    parser = cli.Parser("Measure whether --speaker auto finds who speaks.")
    add = parser.add_argument
    add("--checkpoint_path", default="demo", help="The expert: a file, lipsync_expert or demo.")
    add("--data_root", required=True, type=Path, help="The folder with a folder of clips for each of the people.")
    add("--people", required=True, nargs="+", help="The folders of three or more people.")
    add(
        "--without",
        nargs="*",
        default=[],
        help="Leave out the clips with these names, such as those that are not in sync.",
    )
    arguments.add_search_arguments(parser)
    arguments.add_compute_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    device, dtype = open_machine(args)
    expert, search = open_expert(args.checkpoint_path, device, dtype), arguments.face_search(args)
    clips = [clips_of(args.data_root / name, args.without) for name in args.people]
    if len(clips) < 3:
        raise UserError(f"give three people or more, not {len(clips)}: two in view and one who is only heard")
    kinds = {"together": list(together(clips)), "cuts": list(cuts(clips)), "absent": list(absent(clips))}
    with tempfile.TemporaryDirectory() as folder:
        for kind, films in kinds.items():
            found = []
            for shots in TERMINAL.track(films, kind, len(films), "video"):
                path = Path(folder, "film.mp4")
                write_film(path, shots)
                found += [
                    (shot.place, place) for shot, place in zip(shots, chosen_sides(path, len(shots), expert, search))
                ]
            for name, some in (
                ("seen", [f for f in found if f[0] is not None]),
                ("unseen", [f for f in found if f[0] is None]),
            ):
                if some:
                    report(f"{kind} {name}", summary(some))


def clips_of(folder: Path, without: Sequence[str]) -> list[Path]:
    found = [path for path in find_videos([folder]) if path.stem not in without]
    if len(found) < ROUNDS + 3:
        raise UserError(f"{folder} has {len(found)} clips; give at least {ROUNDS + 3}")
    return found


def rounds(clips: Sequence[list[Path]]) -> Iterator[tuple[int, list[Path], list[Path], list[Path]]]:
    """Yield the number of a round, the clips of two people, and those of a third."""
    for turn, n in itertools.product(range(ROUNDS), range(len(clips))):
        a, b, c = (clips[(n + k) % len(clips)] for k in range(3))
        yield turn, a, b, c


def together(clips: Sequence[list[Path]]) -> Iterator[list[Shot]]:
    for turn, a, b, _ in rounds(clips):
        yield [Shot(a[turn], b[turn], (a, b)[turn % 2][turn])]


def cuts(clips: Sequence[list[Path]]) -> Iterator[list[Shot]]:
    for turn, a, b, _ in rounds(clips):
        last = (a[turn + 2], b[turn + 3])
        yield [
            Shot(a[turn], b[turn + 1], a[turn]),
            Shot(b[turn + 1], a[turn + 2], a[turn + 2]),
            Shot(*last, last[turn % 2]),
        ]


def absent(clips: Sequence[list[Path]]) -> Iterator[list[Shot]]:
    for turn, a, b, c in rounds(clips):
        yield [Shot(a[turn], b[turn], a[turn]), Shot(b[turn + 1], a[turn + 1], c[turn])]


def write_film(path: Path, shots: Sequence[Shot]) -> None:
    files = [part for shot in shots for name in (shot.left, shot.right, shot.heard) for part in ("-i", str(name))]
    sides = "".join(f"[{3 * i}:v][{3 * i + 1}:v]hstack[v{i}];" for i in range(len(shots)))
    order = "".join(f"[v{i}][{3 * i + 2}:a]" for i in range(len(shots)))
    graph = f"{sides}{order}concat=n={len(shots)}:v=1:a=1"
    command = [
        video.ffmpeg_path(),
        "-y",
        "-loglevel",
        "error",
        *files,
        "-filter_complex",
        graph,
        "-crf",
        "16",
        str(path),
    ]
    subprocess.run(command, check=True)


def chosen_sides(path: Path, shots: int, expert: Expert, search: FaceSearch) -> list[int | None]:
    """Return who is chosen in the middle of each shot, 0 or 1 from the left; None for nobody."""
    source = video.probe(path)
    found = search.find(source)
    try:
        criterion = speakers.Speaker(source, len(found), expert)
        boxes = FacePath(lambda: speakers.follow([found], source, (0, 0, 0, 0), True, criterion)).boxes
    except UserError:  # no shot has a speaker
        return [None] * shots
    middles = (np.arange(shots) + 0.5) * len(found) / shots
    taken = [boxes[int(i)] for i in middles]
    return [None if box is None else int((box[0] + box[2]) / 2 > source.width / 2) for box in taken]


def summary(found: Sequence[tuple[int | None, int | None]]) -> dict[str, float]:
    """Count pairs (who speaks, who is chosen)."""
    right = sum(truth == taken for truth, taken in found)
    nobody = sum(taken is None and truth is not None for truth, taken in found)
    return {"shots": len(found), "right": right, "nobody": nobody, "somebody_else": len(found) - right - nobody}


if __name__ == "__main__":
    sys.exit(main())
