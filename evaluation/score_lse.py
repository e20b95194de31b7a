"""Score how well lips and voice match in finished videos: LSE-D, LSE-C and offset of every face in every file.

python evaluation/score_lse.py --data_root VIDEOS [--crop_faces]
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

import cli
import faces
import files
import preprocess
from errors import MissingFile, UserError
from evaluation import lse
from models import SyncNet_v2, weights


def get_parser() -> cli.Parser:
    parser = cli.Parser("Score videos: LSE-D (smaller is better), LSE-C (larger is better), offset in frames.")
    add = parser.add_argument
    add("--data_root", required=True, nargs="+", type=Path, help="videos, or folders with videos at any depth")
    add("--checkpoint_path", default="syncnet_v2", help="the judge, SyncNet_v2: a file or syncnet_v2")
    add("--crop_faces", action="store_true", help="real videos: follow and crop faces; else frames are faces already")
    add("--json", type=Path, help="write all scores here")
    add("--csv", type=Path, help="write all scores here, one line a face")
    faces.add_search_arguments(parser)
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    videos = find_videos(args.data_root)
    for name in ("json", "csv"):
        if path := getattr(args, name):
            files.check_not_read(f"--{name}", path, videos)
            files.check_folder(path.parent)
    files.check_different({"--json": args.json, "--csv": args.csv})
    network = weights.load_model(args.checkpoint_path, SyncNet_v2).to(cli.pick_device(args.device))
    bar = cli.progress(videos, "Scoring", len(videos), "file")
    report = score_files(bar, network, args if args.crop_faces else None)
    print(report)
    if args.json:
        files.save(args.json, json.dumps(report.to_json(), indent=1))
    if args.csv:
        files.save(args.csv, report.to_csv())
    if report.failed:
        raise RuntimeError(f"{len(report.failed)} of {len(videos)} files could not be scored; they are named above")


def find_videos(roots: Sequence[Path]) -> list[Path]:
    """Return the files among ``roots`` and the videos below its folders; raise if one is missing or there is none."""
    videos: list[Path] = []
    for root in roots:
        if not root.exists():
            raise MissingFile(f"{root} does not exist")
        videos += [root] if root.is_file() else filter(preprocess.is_video, preprocess.visible_files(root))
    if not videos:
        raise UserError(f"no video in {', '.join(map(str, roots))}, at any depth")
    return videos


@dataclass
class Report:
    """The scores of many files, and why some have none."""

    scores: list[lse.Score] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # reason by file

    def mean(self, name: str) -> float:
        """Over all faces; NaN without any."""
        return float(np.mean([getattr(score, name) for score in self.scores])) if self.scores else float("nan")

    def __str__(self) -> str:
        lines = [f"{'LSE-D':>8} {'LSE-C':>8} {'offset':>7} {'frames':>7} {'track':>6}  file"]
        lines += [
            f"{s.lse_d:8.3f} {s.lse_c:8.3f} {s.offset:7d} {s.frames:7d} {s.track:6d}  {s.file}" for s in self.scores
        ]
        if self.scores:
            lines.append(f"{self.mean('lse_d'):8.3f} {self.mean('lse_c'):8.3f}   mean of {len(self.scores)}")
        return "\n".join(lines + [f"skipped: {path}: {reason}" for path, reason in self.failed.items()])

    def to_json(self) -> dict[str, object]:
        mean = {name: self.mean(name) for name in ("lse_d", "lse_c")} if self.scores else None
        return {"mean": mean, "scores": [asdict(score) for score in self.scores], "failed": self.failed}

    def to_csv(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(lse.Score)])
        writer.writeheader()
        writer.writerows(map(asdict, self.scores))
        return text.getvalue()


def score_files(paths: Iterable[Path], network: torch.nn.Module, search: argparse.Namespace | None = None) -> Report:
    """Score every file as ``lse.score_file`` does; a bad one is noted and does not stop the others."""
    report = Report()
    for path in paths:
        try:
            report.scores += lse.score_file(path, network, search)
        except (ValueError, RuntimeError, OSError) as problem:
            if files.is_disk_error(problem):
                raise
            report.failed[str(path)] = str(problem).removeprefix(str(path)).strip(": ")
    return report


if __name__ == "__main__":
    sys.exit(main())
