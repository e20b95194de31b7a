"""Landmarks, apertures, judges and the table, on inputs with known answers."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch

import files
import identities
from conftest import LOSSLESS, MEANS, run_ffmpeg, write_clip
from demo.talking_head import Recipe, make_clip
from evaluation import (
    aperture,
    comparisons,
    judges,
    leakage,
    lips,
    lse,
    quality,
    score_leakage,
    score_quality,
    scores,
    table,
)
from evaluation.judges import Judges
from evaluation.lse import Score
from evaluation.quality import Quality, score_file
from face_detection.detections import Detections
from faces import FaceSearch
from lipsync import LipSync

SEARCH = FaceSearch("centerface")
DETECTOR = ("--face_detector", "centerface")


def face(opening: float | np.ndarray, frames: int = 1, width: float = 40.0) -> np.ndarray:
    """Landmarks (frames, 68, 2) of a face with eyes 100 pixels and lips ``opening`` pixels apart."""
    points = np.zeros((frames, 68, 2))
    points[:, 36], points[:, 45] = (50, 50), (150, 50)
    points[:, 48:, 1] = 120
    points[:, 60], points[:, 64] = (100 - width / 2, 120), (100 + width / 2, 120)
    half = np.broadcast_to(np.asarray(opening, float) / 2, frames)[:, None]
    for x, upper, lower in ((90, 61, 67), (100, 62, 66), (110, 63, 65)):
        points[:, (upper, lower), 0] = x
        points[:, upper, 1:], points[:, lower, 1:] = 120 - half, 120 + half
    return points


# --------------------------------------------------------------------------------------------------------------------
# Lips


def test_aspect_is_height_over_width():
    assert lips.aspect(face(10)) == pytest.approx([0.25]) and lips.aspect(face(0)) == pytest.approx([0])
    assert lips.aspect(3 * face(10)) == pytest.approx([0.25])  # whatever the size of the picture


def test_lmd_is_in_eye_distances():
    """Six of 20 points move by 5 pixels, 5 % of the eye distance; place and size of the face do not matter."""
    shut, wide = face(0), face(10)
    assert lips.landmark_distance(shut, shut) == 0
    assert lips.landmark_distance(wide, shut) == pytest.approx(0.05 * 6 / 20)
    assert lips.landmark_distance(2 * wide + 7, 2 * shut) == pytest.approx(0.05 * 6 / 20)


def test_leak_is_the_share_of_frames_beyond_the_speakers_shut_mouth():
    filmed = lips.aspect(face(np.linspace(8, 28, 101), 101))  # 0.2 to 0.7, so shut is 0.225 and open from 0.325 on
    quiet = lips.aspect(face(np.array([8.0, 12.0, 14.0, 20.0]), 4))
    assert lips.leak(quiet, filmed) == 0.5
    assert lips.movement(filmed / 2, filmed) == pytest.approx(0.5) and np.isnan(lips.movement(filmed, quiet[:1]))


def test_opening_share_runs_from_shut_to_open():
    filmed = np.linspace(0, 1, 101)
    assert lips.opening_share(np.full(9, 0.05), filmed) == pytest.approx([0, 0], abs=1e-9)
    assert lips.opening_share(np.full(9, 0.95), filmed) == pytest.approx([1, 1])


@pytest.fixture(scope="module")
def speakers(shared):
    """The 68 landmarks in twenty GRID clips, (frames, 68, 2) each, in frames with a face."""
    data = np.load(shared / "grid_landmarks" / "s1.npz")
    clips = []
    for name in sorted(set(data.files) - {"index"})[:20]:
        mesh = np.cumsum(data[name].astype(np.int32), axis=0) / 16
        whole = np.zeros((len(mesh), 478, 2))
        whole[:, data["index"]] = mesh
        clips.append(lips.of_mesh(whole[mesh.any((1, 2))]))
    return clips


def test_real_speakers_open_their_lips_when_they_speak(speakers):
    """GRID clips begin and end in silence; a sentence fills the middle."""
    aspects = [lips.aspect(points) for points in speakers]
    rest, speech = (np.mean([lips.leak(clip[part], clip) for clip in aspects]) for part in (slice(6), slice(20, 55)))
    assert rest < 0.2 and speech > 0.4
    assert np.mean([lips.movement(clip[:6], clip) for clip in aspects]) < 0.4


def test_other_words_are_further_apart_than_noise(speakers):
    noise = np.random.default_rng(0).normal(0, 0.5, speakers[0].shape)
    near = lips.landmark_distance(speakers[0] + noise, speakers[0])
    count = min(map(len, speakers))
    far = np.mean([lips.landmark_distance(other[:count], speakers[0][:count]) for other in speakers[1:]])
    assert 0 < 3 * near < far < 0.3


# --------------------------------------------------------------------------------------------------------------------
# Aperture


def known(frames: int = 100) -> np.ndarray:
    """Lips that open and shut every 20 frames, with a pause."""
    return np.clip(np.sin(2 * np.pi * np.arange(frames) / 20), 0, None)


@pytest.mark.parametrize("lag", [-2, 0, 3])
def test_lag_is_found_in_any_unit(lag):
    fit = aperture.compare_apertures(0.3 * np.roll(known(), lag) + 4, known())
    assert fit.lag == lag and fit.r == pytest.approx(1) and fit.by_lag[lag] == fit.r and len(fit.by_lag) == 7


def test_phases_of_a_wave():
    phases = aperture.phases_of(known(20))
    assert list(phases[:6]) == ["closed", "opening", "open", "open", "open", "open"]
    assert phases[9] == "closing" and set(phases[10:]) == {"closed"}


def test_errors_by_phase():
    """Lips that rest a fifth open, but are right otherwise, are wrong only in the closed phase."""
    seen = np.where(aperture.phases_of(known()) == "closed", 0.2, known())
    fit = aperture.compare_apertures(seen, known())
    assert fit.lag == 0 and list(fit.phases) == list(aperture.PHASES)
    assert fit.phases["closed"].seen == pytest.approx(0.2) and fit.phases["closed"].error == pytest.approx(0.2)
    assert all(fit.phases[name].error == 0 for name in ("opening", "open", "closing"))
    assert sum(phase.frames for phase in fit.phases.values()) == 94


def test_a_still_source_has_no_movement_to_compare_with():
    """The deviation of equal numbers is rarely 0: one photo gave 1e14, and ruined the mean of all videos."""
    moving = lips.aspect(face(np.linspace(8, 28, 75), 75))
    assert np.isnan([lips.movement(moving, np.full(75, value)) for value in np.linspace(0.1, 0.9, 50)]).all()


@pytest.mark.parametrize("seen", [np.zeros(100), np.full(100, 0.2), known(8), np.zeros(0)])
def test_still_or_too_short_lips_are_not_compared(seen):
    assert aperture.compare_apertures(seen, known()) is None


def test_drawn_head_follows_its_own_speech(tmp_path):
    recipe = Recipe(seed=3, seconds=1.2, size=(128, 128))
    clips = [make_clip(tmp_path, recipe, number) for number in (0, 1)]  # one head, two utterances
    own, other = (aperture.compare_head(clips[0], clips[0], speaker) for speaker in clips)
    assert own.r > 0.9 and own.lag == 0 and other.r < 0.7
    run_ffmpeg("-i", clips[0], "-vf", "fps=30", "-crf", 0, tmp_path / "faster.mp4")  # frames 30 used to be compared
    assert aperture.compare_head(tmp_path / "faster.mp4", clips[0], clips[0]).by_lag[0] > 0.9  # with openings 25
    truth = json.loads(clips[0].with_suffix(".json").read_text())
    truth |= {"fps": 50, "aperture": np.repeat(truth["aperture"], 2).tolist()}  # a speaker filmed at another rate
    (tmp_path / "speaker.json").write_text(json.dumps(truth))
    assert aperture.compare_head(clips[0], clips[0], tmp_path / "speaker.mp4").by_lag[0] > 0.9
    clips[1].with_suffix(".json").write_text("{")
    assert aperture.compare_head(*clips[:1] * 2, clips[1]) is None


# --------------------------------------------------------------------------------------------------------------------
# Judges


def test_people_are_compared_in_square_pixels():
    seen = []
    frame = np.random.default_rng(0).integers(0, 255, (80, 60, 3), np.uint8)
    panel = Judges(identity=lambda face: seen.append(face) or np.ones(2))
    quality._judge(panel, (frame, frame), np.array([10.0, 10, 30, 50]), np.s_[10:50, 10:30], 2.0)
    wide = cv2.resize(frame, None, fx=2, fy=1)
    assert (seen[0] == identities.face_of_sface(wide, np.array([20.0, 10, 60, 50]))).all()


@pytest.fixture(scope="module")
def talk(astronaut, tmp_path_factory):
    """Half a second of a face, and the same with its mouth painted over in every other frame."""
    folder = tmp_path_factory.mktemp("talk")
    frames = np.stack([astronaut[:240, 60:380]] * 12)
    painted = frames.copy()
    painted[::2, 150:165, 150:190] = 40
    for name, pictures in {"source.mkv": frames, "made.mkv": painted}.items():
        write_clip(folder / name, pictures, "25", *LOSSLESS)
    return folder


def test_judges_see_the_faces_of_both_videos(talk):
    def landmarks(frame):
        assert frame.shape == (256, 256, 3)
        return face(20 if frame[150:220].min() < 41 else 0)[0]

    panel = Judges(landmarks, lambda a, b: float(np.abs(a - b.astype(int)).mean()), lambda face: face.mean((0, 1)))
    found = score_file(talk / "made.mkv", talk / "source.mkv", SEARCH, judges=panel)
    same = score_file(talk / "source.mkv", talk / "source.mkv", SEARCH, judges=panel)
    assert same.lpips == same.lmd == same.leak == 0 and same.csim == pytest.approx(1)
    assert found.lpips > 0.5 and 0.9 < found.csim < 1


def test_frames_without_landmarks_do_not_count(talk):
    calls = iter(range(1000))

    def landmarks(frame):
        return face(0)[0] * (np.nan if next(calls) < 4 else 1)

    assert score_file(talk / "made.mkv", talk / "source.mkv", SEARCH, judges=Judges(landmarks)).lmd == 0
    with pytest.raises(ValueError, match="no landmarks were found"):
        score_file(talk / "made.mkv", talk / "source.mkv", SEARCH, judges=Judges(lambda _: np.full((68, 2), np.nan)))


def test_crops_lie_where_the_networks_expect_them():
    """A white dot in the middle of a box is below the middle of both crops, by 12 % of the box's height for 2D-FAN."""
    frame = np.zeros((400, 400, 3), np.uint8)
    frame[198:202, 198:202] = 255
    fan, sface = (cut(frame, np.array([150, 150, 250, 250])) for cut in (judges.face_of_fan, identities.face_of_sface))
    row, column, _ = np.unravel_index(fan.argmax(), fan.shape)
    assert (row, column) == pytest.approx((128 + 12 * 256 / 205, 128), abs=4)
    row, column, _ = np.unravel_index(sface.argmax(), sface.shape)
    assert (row, column) == pytest.approx((0.6 * 112, 56), abs=4)


def test_2dfan_reads_landmarks_from_its_heatmaps(tmp_path, monkeypatch):
    """The heatmaps of a stub peak at a cell that is read from the weights file; the landmarks are there."""
    models = pytest.importorskip("face_alignment.models")
    peaks = importlib.import_module("face_alignment.utils")
    monkeypatch.setattr(peaks, "_get_preds_fromhm", peaks._get_preds_fromhm.py_func)  # compiling it takes four seconds

    class Stub(torch.nn.Module):
        def __init__(self, _):
            super().__init__()
            self.cell = torch.nn.Parameter(torch.zeros(2))

        def forward(self, x):
            assert x.shape == (1, 3, 256, 256) and x.max() <= 1
            heat = torch.zeros(1, 68, 64, 64)
            heat[:, :, int(self.cell[0]), int(self.cell[1])] = 1
            return [heat]

    monkeypatch.setattr(models, "FAN", Stub)
    torch.save({"cell": torch.tensor([30.0, 20.0])}, tmp_path / "fan.pth")
    landmarks = judges.open_fan(tmp_path / "fan.pth")
    assert landmarks(np.full((256, 256, 3), 255, np.uint8)) == pytest.approx(np.tile([82.0, 122.0], (68, 1)), abs=3)


def test_sface_gets_rgb(tmp_path):
    (tmp_path / "sface.onnx").write_bytes(MEANS)
    identity = identities.open_sface(tmp_path / "sface.onnx")
    assert identity(np.full((112, 112, 3), (10, 20, 30), np.uint8)) == pytest.approx([30, 20, 10])
    assert identities.cosine_similarity(np.array([3.0, 4.0]), np.array([4.0, 3.0])) == pytest.approx(24 / 25)


def test_lpips_grows_with_the_difference(tmp_path):
    if not importlib.util.find_spec("lpips"):
        pytest.skip("needs the package lpips")
    alexnet = judges.import_beside_torchvision("torchvision.models").alexnet
    torch.manual_seed(0)
    torch.save(alexnet(weights=None).state_dict(), tmp_path / "alexnet.pth")
    distance = judges.open_lpips(tmp_path / "alexnet.pth")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert distance(noise, noise) == 0 < distance(noise, noise // 2) < distance(noise, 255 - noise)


@pytest.mark.parametrize("flag", ["--landmarks", "--identity"])
def test_missing_or_wrong_weights_are_reported_with_their_flag(talk, flag, tmp_path, capsys):
    command = ["--generated", str(talk / "made.mkv"), "--source", str(talk / "source.mkv"), *DETECTOR]
    assert score_quality.main([*command, flag, str(tmp_path / "none.pth")]) == 2
    assert f"error: {flag}: {tmp_path / 'none.pth'} does not exist" in capsys.readouterr().err
    (tmp_path / "text.pth").write_text("hello")
    assert score_quality.main([*command, flag, str(tmp_path / "text.pth")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {flag}: ") and err.count("\n") == 1


def test_lpips_without_its_package(talk, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lpips", None)
    command = ["--generated", str(talk / "made.mkv"), "--source", str(talk / "source.mkv"), *DETECTOR]
    assert score_quality.main([*command, "--lpips", "alexnet"]) == 2
    assert "pip install lpips" in capsys.readouterr().err
    assert score_quality.main(command) == 0
    assert "not measured: lmd, leak, lip_motion; --landmarks" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------------------
# Silence


def test_silence_lasts_as_long_as_the_video(talk, tmp_path):
    path = leakage.write_silence(talk / "source.mkv", tmp_path / "deep" / "s.wav")
    assert len(path.read_bytes()) - 44 == 2 * round(12 / 25 * 16000) and not any(path.read_bytes()[44:])


def test_score_leakage(talk, small_checkpoint, tmp_path, monkeypatch, capsys):
    """A generator that leaks everything returns the source: motion 1. Two videos of one name are refused."""
    heard = []

    def run(self, face, audio, outfile, **options):
        heard.append(audio.name)
        shutil.copy(face, outfile)

    monkeypatch.setattr(LipSync, "run", run)
    monkeypatch.setattr(LipSync, "model", property(lambda lips: lips.generator))  # is read, but need not be built
    (tmp_path / "in").mkdir()
    shutil.copy(talk / "made.mkv", tmp_path / "in" / "talk.mkv")
    command = ["--results_dir", str(tmp_path / "out"), *DETECTOR, "--csv", str(tmp_path / "l.csv")]
    command += ["--checkpoint_path", str(small_checkpoint)]
    assert score_leakage.main(["--face", str(tmp_path / "in"), *command]) == 0
    (row,) = csv.DictReader((tmp_path / "l.csv").read_text().splitlines())
    assert heard == ["talk.wav"] and float(row["motion"]) == pytest.approx(1, abs=0.1) and row["leak"] == ""
    assert score_leakage.main(["--face", str(tmp_path / "in"), str(talk / "made.mkv"), *command]) == 0
    files.save(tmp_path / "in" / "deep" / "talk.mkv", (tmp_path / "in" / "talk.mkv").read_bytes())
    assert score_leakage.main(["--face", str(tmp_path / "in"), *command]) == 0  # one name in two folders, as in LRS2
    assert (tmp_path / "out/talk.mp4").exists() and (tmp_path / "out/deep/talk.mp4").exists()
    files.save(tmp_path / "in" / "talk.mov", (tmp_path / "in" / "talk.mkv").read_bytes())
    assert score_leakage.main(["--face", str(tmp_path / "in"), *command]) == 2


def test_silent_takes_overwrite_no_files_of_others(talk, tmp_path, capsys):
    """Neither the clip's own sound beside it nor a user's video of that name is overwritten."""
    for name in ("source.mkv", "source.wav", "made.mp4", "source.mp4"):
        (tmp_path / name).write_bytes((talk / "source.mkv").read_bytes() if name == "source.mkv" else b"mine")
    command = ["--face", str(tmp_path / "source.mkv"), "--results_dir", str(tmp_path), *DETECTOR]
    assert score_leakage.main(command) == 2 and "was not made by this script" in capsys.readouterr().err
    assert (tmp_path / "source.wav").read_bytes() == b"mine" == (tmp_path / "source.mp4").read_bytes()


def test_tables_do_not_overwrite_networks(talk, tmp_path, capsys):
    (tmp_path / "fan.pth").write_bytes(b"mine")
    command = ["--generated", str(talk / "made.mkv"), "--source", str(talk / "source.mkv"), *DETECTOR]
    assert (
        score_quality.main([*command, "--landmarks", str(tmp_path / "fan.pth"), "--csv", str(tmp_path / "fan.pth")])
        == 2
    )
    assert (tmp_path / "fan.pth").read_bytes() == b"mine" and "--csv" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------------
# The table


def test_success_needs_a_confident_face_in_sync():
    rows = [Score("a", 0, 6, 7, 1, 50), Score("b", 0, 6, 2.9, 0, 50), Score("c", 0, 6, 7, -2, 50)]
    assert scores.Scores([*rows, Score("c", 1, 6, 3, 0, 50), Score("a", 1, 9, 4, 0, 50)]).in_sync() == 2


def test_discrepancy_is_above_zero_if_own_sound_fits_better():
    report = scores.Scores([Score("own", 0, 6, 7, 0, 50), Score("other", 0, 8, 4, 0, 50)])
    own, other = (table.lse_row(report, [name]) for name in ("own", "other"))
    assert table.discrepancy(other, own) == {"LSE-D": 2, "LSE-C": 3}


def test_videos_weigh_the_same_with_any_number_of_faces():
    report = scores.Scores([Score("a", 0, 6, 7, 0, 50), Score("a", 1, 8, 3, 0, 50), Score("b", 0, 9, 2, 0, 50)])
    assert table.lse_row(report, ["a", "b"]) == {"LSE-D": 8, "LSE-C": 3.5, "faces": 3}


@pytest.mark.parametrize("fps", [25, 50, 60])
def test_short_gap_does_not_end_a_track_at_any_frame_rate(fps):
    """0.8 s without the face used to leave one track at 25 fps, and make two at 50."""
    here, gone = np.array([[10.0, 10, 60, 60, 1]], np.float32), np.empty((0, 5), np.float32)
    seconds = [here] * 2 * fps + [gone] * (4 * fps // 5) + [here] * 2 * fps
    found = Detections(seconds, [0.0] * len(seconds))
    (track,) = lse.shot_tracks(found, fps)
    assert not np.isnan(track).any()


def test_table_and_csv_show_only_the_figures_of_each_take(capsys):
    one = Quality("f", "s", 9, 30.0, 0.9, 0.5, 0.2, 0.1, 0.1, 1.0, 0.5, csim=0.8)
    rows = {take: table.quality_row(take, [one, one]) for take in ("generated", "matched", "silent")}
    assert rows["matched"]["psnr"] == 30 and "psnr" not in rows["silent"] and "leak" not in rows["silent"]
    printed = table.text(rows)
    assert len([line for line in printed.splitlines() if line.startswith(("psnr", "csim", "motion"))]) == 3
    assert "leak" not in [line.split()[0] for line in printed.splitlines() if line]
    lines = list(csv.DictReader(table.to_csv(rows).splitlines()))
    assert [line["row"] for line in lines] == list(rows) and lines[0]["psnr"] == "" and lines[2]["motion"] == "0.2"
    assert json.loads(json.dumps(rows)) == rows
    (line,) = csv.DictReader(table.to_csv({"a": {"psnr": float("inf"), "ssim": float("nan"), "lmd": 0.5}}).splitlines())
    assert line == {"row": "a", "psnr": "", "ssim": "", "lmd": "0.5"}


def test_printed_means_are_below_their_columns():
    """In the mean, a video without a value does not count."""
    rest = dict.fromkeys(("psnr", "ssim", "flicker", "upper_flicker", "seam", "jitter"), 1.0)
    rows = [Quality(f"{n}.mp4", "s", 9, sharpness=n, motion=(np.nan, 0.2, 0.4)[n], csim=0.5, **rest) for n in range(3)]
    header, *_, last = str(comparisons.Comparisons(rows)).partition("\nnot measured")[0].splitlines()
    means = dict(zip(header.split(), last.split()))
    assert last.endswith("mean of 3") and (means["sharpness"], means["motion"], means["csim"]) == (
        "1.000",
        "0.300",
        "0.500",
    )
    assert last.index("0.300") + 5 == header.index(" motion") + 7


def test_unrelated_movements_do_not_correlate():
    """With a lag of its own for each pair, the mean was 0.17."""
    rng = np.random.default_rng(0)
    some, others = (np.cumsum(rng.standard_normal((60, 75)), 1) for _ in range(2))
    smooth = [one - np.convolve(one, np.ones(15) / 15, "same") for one in (*some, *others)]
    fits = [aperture.compare_apertures(a, b) for a, b in zip(smooth[:60], smooth[60:])]
    assert np.mean([fit.r for fit in fits]) > 0.1 > abs(table.aperture_row(fits)["r"])


def test_aperture_row():
    fits = [aperture.compare_apertures(np.roll(known(), lag), known()) for lag in (1, 1, 2)]
    row = table.aperture_row(fits)
    assert row["r"] == pytest.approx((2 + fits[2].by_lag[1]) / 3) and row["lag"] == 1  # one lag for all
    assert row["error_closed"] == pytest.approx(0, abs=1e-9)
    assert row["seen_closed"] == pytest.approx(row["known_closed"]) and row["known_closed"] < row["known_open"]
    printed = table.text({"generated": row}).splitlines()
    closed, *_ = (line.split()[1] for line in printed if line.startswith("known"))
    assert float(closed) == pytest.approx(row["known_closed"], abs=1e-3)
    assert table.aperture_row([]) == {}


def test_table_has_every_figure_that_is_measured():
    assert set(table.FIGURES) == set(comparisons.FIGURES)
