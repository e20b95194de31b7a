"""The paper's evaluation in one go: list, videos, scores, one table beside the paper's.

    python evaluation/run_all.py --data_root VIDEOS --results_dir OUT --checkpoint_path wav2lip_gan

Everything it makes is kept in the results folder and used again by the next run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import cli
import files
from devices import own_device, pick_device
from evaluation import fid, lse, pairs, scores
from evaluation.gen_videos_from_filelist import add_generator_arguments, open_generator

PAPER = {  # LSE-D, LSE-C, FID
    "paper, LRS2, Wav2Lip": (6.386, 7.789, 4.887),
    "paper, LRS2, Wav2Lip + GAN": (6.469, 7.781, 4.446),
}
COLUMNS = ("LSE-D", "LSE-C", "FID")
ROWS = ("real videos", "generated")


def get_parser() -> cli.Parser:
    parser = cli.Parser("Draw pairs, lip-sync them, score the videos with LSE-D, LSE-C and FID.")
    add = parser.add_argument
    add_generator_arguments(parser)
    add("--filelist", type=Path, help="The list of pairs, sound first; without it, they are drawn at random.")
    add("--count", type=cli.positive(int), help="Draw so many pairs; without it, one for every video.")
    add("--seed", type=int, default=0, help="The seed of the pairs.")
    add("--lse_checkpoint_path", default="syncnet_v2", help="The judge of LSE: a file, or syncnet_v2 to download it.")
    add("--fid_weights", default="fid_inception", help="The judge of FID: a file, or fid_inception to download it.")
    add("--no_fid", action="store_true", help="Leave FID out.")
    add("--crop_faces", action="store_true", help="Follow and crop faces first, as LSE of real videos needs it.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    device = pick_device(own_device(args.device))
    judge = lse.open_judge(args.lse_checkpoint_path, device)
    embed = None if args.no_fid else fid.open_inception(args.fid_weights, device)
    wanted = pairs.read_filelist(args.filelist or draw_pairs(args), args.data_root, audio_first=True)

    if not pairs.generate(wanted, args.results_dir, open_generator(args), pads=args.pads):
        print("the other processes are still at work; the last one scores")
        return
    made = pairs.finished(args.results_dir)
    failed = compare([(wanted[n].video, path) for n, path in made.items()], judge, args, embed) if made else {}
    print(pairs.report(wanted, args.results_dir))
    pairs.check_complete(wanted, args.results_dir)
    if failed:
        raise RuntimeError(
            f"{len(failed)} videos could not be scored, and their pairs do not count; they are named above"
        )


def compare(
    made: list[tuple[Path, Path]], judge: torch.nn.Module, args: argparse.Namespace, embed: fid.Embed | None
) -> dict[str, str]:
    """Score real and generated videos, write scores.json and print both and the table; return what failed, and why.

    Only pairs count of which both can be scored.
    """
    search = cli.face_search(args) if args.crop_faces else None
    reports = []
    for name, videos in zip(ROWS, map(dict.fromkeys, zip(*made))):  # the real ones may be in several pairs
        bar = cli.TERMINAL.track(videos, f"Scoring {name}", len(videos), "file")
        reports.append(scores.score_files(bar, judge, search, cli.TERMINAL))
    failed = {path: reason for report in reports for path, reason in report.failed.items()}
    usable = list(zip(*(pair for pair in made if not set(map(str, pair)) & set(failed))))
    rows = {name: means(report, videos) for name, report, videos in zip(ROWS, reports, usable)}
    if embed and usable:
        rows["generated"]["FID"] = fid.distance(*(fid.statistics_of(videos, embed) for videos in usable))
    files.save(args.results_dir / "scores.json", json.dumps({**rows, "not scored": failed}, indent=1))
    print(table(rows))
    for path, reason in failed.items():
        print(f"not scored: {path}: {reason}")
    return failed


def means(report: scores.Report, videos: Sequence[Path]) -> dict[str, float]:
    """Return the mean scores of ``videos``, over all their faces; one that is in several pairs counts in each."""
    by_file: dict[str, list[lse.Score]] = {}
    for score in report.scores:
        by_file.setdefault(score.file, []).append(score)
    some = scores.Report([score for path in videos for score in by_file[str(path)]])
    return {"LSE-D": some.mean("lse_d"), "LSE-C": some.mean("lse_c"), "faces": len(some.scores)}


def draw_pairs(args: argparse.Namespace) -> Path:
    """Write a list into the results folder, and return it."""
    path = args.results_dir / "filelist.txt"
    pairs.write_filelist(path, pairs.draw(args.data_root, args.count, args.seed).pairs)
    return path


def table(rows: dict[str, dict[str, float]]) -> str:
    lines = [f"{'':28}" + "".join(f"{name:>9}" for name in COLUMNS)]
    everything = rows | {name: dict(zip(COLUMNS, figures)) for name, figures in PAPER.items()}
    for name, figures in everything.items():
        cells = (f"{figures[column]:9.3f}" if column in figures else f"{'-':>9}" for column in COLUMNS)
        lines.append(f"{name:28}" + "".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
