"""The paper's evaluation in one go: list, videos, scores, one table beside the paper's.

    python evaluation/run_all.py --data_root VIDEOS --results_dir OUT --checkpoint_path wav2lip_gan

Everything it makes is kept in the results folder and used again by the next run. ``--takes matched silent`` also
lip-syncs every video to its own sound and to silence, for what only these can tell.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import cli
import files
from devices import own_device, pick_device
from errors import UserError
from evaluation import aperture, fid, lse, pairs, quality, scores, table
from evaluation.gen_videos_from_filelist import add_generator_arguments, open_generator
from evaluation.judges import Judges
from evaluation.leakage import write_silence
from evaluation.pairs import Pair
from evaluation.score_quality import add_judge_arguments, describe_missing, open_judges

MATCHED, SILENT = "matched", "silent"
REAL, GENERATED = "real videos", "generated"
ROWS = (REAL, GENERATED)


def get_parser() -> cli.Parser:
    parser = cli.Parser("Draw pairs, lip-sync them, score the videos: sync, pictures, and what leaks from the source.")
    add = parser.add_argument
    add_generator_arguments(parser)
    add("--filelist", type=Path, help="The list of pairs, sound first; without it, they are drawn at random.")
    add("--count", type=cli.positive(int), help="Draw so many pairs; without it, one for every video.")
    add("--seed", type=int, default=0, help="The seed of the pairs.")
    add(
        "--takes",
        nargs="*",
        choices=(MATCHED, SILENT),
        default=[],
        help="Also lip-sync every video to its own sound (matched: psnr, ssim, lpips, lmd, discrepancy) and to silence "
        "(silent: motion, leak).",
    )
    add("--lse_checkpoint_path", default="syncnet_v2", help="The judge of LSE: a file, or syncnet_v2 to download it.")
    add("--fid_weights", default="fid_inception", help="The judge of FID: a file, or fid_inception to download it.")
    add("--no_fid", action="store_true", help="Leave FID out.")
    add_judge_arguments(parser)
    add("--crop_faces", action="store_true", help="Follow and crop faces first, as LSE of real videos needs it.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    wanted = list_takes(args)  # what is wrong with it is said before anything is downloaded
    device = pick_device(own_device(args.device))
    judge = lse.open_judge(args.lse_checkpoint_path, device)
    embed = None if args.no_fid else fid.open_inception(args.fid_weights, device)
    judges = open_judges(args)

    lips = open_generator(args)
    for take, listed in wanted.items():  # in one order everywhere: whoever ends the last take ends all of them
        complete = pairs.generate(listed, folder_of(args, take), lips, pads=args.pads)
    if not complete:
        print("the other processes are still at work; the last one scores")
        return
    failed = compare(args, wanted, judge, embed, judges)
    for take, listed in wanted.items():
        print(pairs.report(listed, folder_of(args, take)))
    for take, listed in wanted.items():
        pairs.check_complete(listed, folder_of(args, take))
    if failed:
        raise RuntimeError(
            f"{len(failed)} videos could not be scored, and their pairs do not count; they are named above"
        )


def list_takes(args: argparse.Namespace) -> dict[str, list[Pair]]:
    """Return the pairs to lip-sync, by take: the list's, and each video of it once with its own sound and with none."""
    crossed = pairs.read_filelist(args.filelist or draw_pairs(args), args.data_root, audio_first=True)
    videos = list(dict.fromkeys(pair.video for pair in crossed))
    takes = {GENERATED: crossed}
    if MATCHED in args.takes:
        takes[MATCHED] = [Pair(path, path) for path in videos]
    if SILENT in args.takes:
        silence = folder_of(args, SILENT) / "sound"
        takes[SILENT] = [Pair(silence / f"{number}.wav", path) for number, path in enumerate(videos)]
        for pair in takes[SILENT]:
            with contextlib.suppress(UserError):  # what cannot be read is told when it is lip-synced
                if not pair.audio.exists():
                    write_silence(pair.video, pair.audio)
    return takes


def folder_of(args: argparse.Namespace, take: str) -> Path:
    return args.results_dir if take == GENERATED else args.results_dir / take


def draw_pairs(args: argparse.Namespace) -> Path:
    """Write a list into the results folder, and return it."""
    path = args.results_dir / "filelist.txt"
    pairs.write_filelist(path, pairs.draw(args.data_root, args.count, args.seed).pairs)
    return path


# --------------------------------------------------------------------------------------------------------------------
# Figures


def compare(
    args: argparse.Namespace,
    wanted: dict[str, list[Pair]],
    judge: torch.nn.Module,
    embed: fid.Embed | None,
    judges: Judges,
) -> dict[str, str]:
    """Measure all takes, write scores.json, scores.csv and videos.csv, print the table; return what failed, and why."""
    made = {take: pairs.finished(folder_of(args, take)) for take in wanted}
    if not made[GENERATED]:
        return {}
    rows, failed = compare_sync(args, wanted, made, judge, embed)
    pictures, unlike = compare_pictures(args, wanted, made, judges, failed)
    for take, found in pictures.items():
        rows.setdefault(take, {}).update(table.quality_row(take, found))
    rows[GENERATED] |= table.aperture_row(follow_heads(wanted[GENERATED], made[GENERATED]))
    failed |= unlike
    videos = [one for found in pictures.values() for one in found]
    files.save(args.results_dir / "scores.json", json.dumps({**rows, "not scored": failed}, indent=1))
    files.save(args.results_dir / "scores.csv", table.to_csv(rows))
    files.save(args.results_dir / "videos.csv", scores.to_csv(quality.Quality, videos))
    print(table.text(rows))
    print(describe_missing(args))
    for take in sorted({MATCHED, SILENT} - wanted.keys()):
        print(f"not measured: {', '.join(table.TOLD[take].keys() - table.ALWAYS.keys())}; --takes {take}")
    for path, reason in failed.items():
        print(f"not scored: {path}: {reason}")
    return failed


def compare_sync(
    args: argparse.Namespace,
    wanted: dict[str, list[Pair]],
    made: dict[str, dict[int, Path]],
    judge: torch.nn.Module,
    embed: fid.Embed | None,
) -> tuple[dict[str, table.Row], dict[str, str]]:
    """Return LSE, FID, success rates and discrepancy, and what could not be scored, and why.

    Only pairs count of which all can be scored: the real video, lip-synced to another voice, and to its own if asked.
    """
    sides = [{n: wanted[GENERATED][n].video for n in made[GENERATED]}, made[GENERATED]]
    names = [REAL, GENERATED]
    if MATCHED in wanted:
        own = {wanted[MATCHED][n].video: path for n, path in made[MATCHED].items()}
        sides.append({n: own[video] for n, video in sides[0].items() if video in own})
        names.append(MATCHED)
    search = cli.face_search(args) if args.crop_faces else None
    reports = []
    for name, videos in zip(names, (dict.fromkeys(side.values()) for side in sides)):  # one may be in several pairs
        bar = cli.TERMINAL.track(videos, f"Scoring {name}", len(videos), "file")
        reports.append(scores.score_files(bar, judge, search, cli.TERMINAL))
    failed = {path: reason for report in reports for path, reason in report.failed.items()}
    usable = [n for n in sides[0] if all(n in side and str(side[n]) not in failed for side in sides)]
    rows = {}
    for name, side, report in zip(names, sides, reports):
        count = len(wanted[GENERATED]) if name == GENERATED else len(set(side.values()))
        chosen = [side[n] for n in usable]
        rows[name] = table.lse_row(report, [str(path) for path in chosen]) | {"success": report.in_sync() / count}
    if embed and usable:
        rows[GENERATED]["FID"] = fid.distance(
            *(fid.statistics_of([side[n] for n in usable], embed) for side in sides[:2])
        )
    if MATCHED in rows:
        rows["discrepancy"] = table.discrepancy(rows[GENERATED], rows[MATCHED])
    return rows, failed


def compare_pictures(
    args: argparse.Namespace,
    wanted: dict[str, list[Pair]],
    made: dict[str, dict[int, Path]],
    judges: Judges,
    bad: Collection[str],
) -> tuple[dict[str, list[quality.Quality]], dict[str, str]]:
    """Compare every video of every take with its source, but for ``bad`` ones; return also why some cannot be."""
    search = cli.face_search(args)
    failed: dict[str, str] = {}
    found: dict[str, list[quality.Quality]] = {take: [] for take in wanted}
    for take, listed in wanted.items():
        for n, path in cli.TERMINAL.track(made[take].items(), f"Comparing {take}", len(made[take]), "file"):
            if {str(path), str(listed[n].video)} & set(bad):
                continue
            work = partial(quality.score_file, path, listed[n].video, search, cli.TERMINAL, judges, args.pads)
            if one := scores.attempt(work, path, failed):
                found[take].append(one)
    return found, failed


def follow_heads(listed: list[Pair], made: dict[int, Path]) -> list[aperture.Following]:
    """Return how lips follow the known ones in every video whose mouth, and its speaker's, is known."""
    fits = (aperture.follow_head(path, listed[n].video, listed[n].audio) for n, path in made.items())
    return [fit for fit in fits if fit]


if __name__ == "__main__":
    sys.exit(main())
