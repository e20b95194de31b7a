"""similarity.py: cosines against golden data and algebra, then the program as a user runs it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import audio
import inference
import models
import similarity
import sync
import video
from conftest import needs_bf16, rnd, run_ffmpeg, write_clip
from devices import pick_precision
from face_detection.detections import Detections
from face_detection.tracking import follow_faces
from faces import FaceSearch
from hparams import hparams as hp
from rates import resample
from reporting import Cancelled, Reporter
from sync import Face, Result, SimilarityMatrix, Voice, compare, open_expert, score, score_boxes
from sync.drawing import _draw_box, smoothed, write_overlay
from sync.embedding import MAX_OFFSET, embed_mouths, embed_sound, embed_speech, embed_windows, face_of, windows_of


@pytest.fixture(scope="module")
def expert_checkpoint(tmp_path_factory, filled):
    path = tmp_path_factory.mktemp("expert") / "small expert.pth"
    torch.save({"state_dict": filled(models.SyncNet_color, 0.125).state_dict(), "width": 0.125}, path)
    return path


# --------------------------------------------------------------------------------------------------------------------
# Golden


def test_similarity_of_the_golden_sample(shared, filled):
    """Our own crops, windows and mels give the similarity of the golden training sample."""
    golden, clip = np.load(shared / "golden/dataset.npz"), shared / "golden/preprocessed/s0/00001"
    expert = filled(models.SyncNet_color)
    with torch.no_grad():
        sound, face = expert(*(torch.from_numpy(golden[name])[None] for name in ("syncnet_mel", "syncnet_x_positive")))
    pictures = [cv2.imread(str(clip / f"{i}.jpg")) for i in range(9, 17)]
    mouths = [[face_of(p, np.array([0.0, 0.0, p.shape[1], p.shape[0]]))[48:]] for p in pictures]
    ((starts, vectors),) = embed_windows(mouths, 1, lambda x: embed_mouths(expert, x), expert)
    voice = embed_speech(clip / "audio.wav", expert)
    np.testing.assert_array_equal(starts, range(4))
    assert abs(vectors[1].astype(float) @ voice.vectors[10] - float((sound * face).sum())) < 1e-3  # frames 10 … 14


@torch.no_grad()
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 1e-5), pytest.param(torch.bfloat16, 0.01, marks=needs_bf16)]
)
def test_optimized_expert_computes_the_same(filled, dtype, tolerance):
    mels, mouths = rnd(5, (3, 1, 80, 16), "n"), rnd(6, (3, 15, 48, 96))
    plain = [x @ y for x, y in zip(*filled(models.SyncNet_color, 0.25)(mels, mouths))]
    fast = models.optimize_for_inference(filled(models.SyncNet_color, 0.25), torch.device("cpu"), dtype)
    for a, b in zip(plain, (x @ y for x, y in zip(*fast(mels.to(dtype), mouths.to(dtype))))):
        assert abs(a - b) < tolerance


# --------------------------------------------------------------------------------------------------------------------
# Algebra


def unit(seed: int, count: int) -> np.ndarray:
    vectors = np.abs(np.random.default_rng(seed).standard_normal((count, 64))).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_face(vectors: np.ndarray, starts: list[int] | None = None) -> Face:
    starts = np.arange(len(vectors)) if starts is None else np.array(starts)
    return Face(np.zeros((len(vectors) + 4, 4)), starts, vectors[starts], np.zeros((96, 96, 3), np.uint8))


@pytest.mark.parametrize("late", [-15, -3, 0, 1, 7, 15])
def test_an_inserted_offset_is_found(late):
    moments = unit(0, 140)
    face, voice = make_face(moments[20:80]), Voice(moments[20 - late : 80 - late])
    result = compare(face, voice)
    assert result.offset_frames == late and result.curve[15 + late] == pytest.approx(1, abs=1e-5)
    assert result.verdict == ("in sync" if abs(late) <= 1 else f"off by {late} frames")
    assert ("late" in str(result)) == (late > 1) and ("early" in str(result)) == (late < -1)


def test_strangers_are_unrelated():
    assert compare(make_face(unit(1, 100)), Voice(unit(2, 100))).verdict == "unrelated"
    printed = str(SimilarityMatrix(["a.wav"], [make_face(unit(seed, 100)) for seed in (1, 3)], [Voice(unit(2, 100))]))
    assert re.search(r"voice 1 \(a.wav\): face [12] is nearest\n.*unrelated", printed, re.DOTALL)


@pytest.mark.parametrize("seen, heard", [(30, 50), (50, 30), (5, 5), (8, 5)])
def test_every_window_with_face_and_sound_has_a_similarity(seen, heard):
    """There are min(video frames, frames with sound) - 4 of them, each value in its place."""
    face, voice = make_face(unit(1, seen - 4)), Voice(unit(2, heard - 4))
    result = compare(face, voice)
    count = min(seen, heard) - 4
    assert result.describe().nobs == count and result.missing == 0 and voice.frames == heard
    np.testing.assert_allclose(result.similarity, (face.vectors[:count] * voice.vectors[:count]).sum(1), rtol=1e-5)


def test_speaker_is_chosen_by_contrast_not_by_level():
    """A face that is similar to any voice does not win over the one that moves with it."""
    moments, constant = unit(0, 60), unit(3, 1)
    vague = make_face(np.repeat(moments.mean(0, keepdims=True) / np.linalg.norm(moments.mean(0)), 60, 0))
    mixed = 0.5 * moments + 0.5 * constant
    table = SimilarityMatrix(["voice"], [vague, make_face(0.8 * mixed)], [Voice(moments)])
    assert table.means[0, 0] > table.means[1, 0] and table.best_face(0) == 1


@pytest.mark.parametrize("late", [-9, -4, 0, 4, 9])
def test_speaker_is_found_if_the_sound_is_early_or_late(late):
    """Compared at offset 0 alone, the other face would win half the time if the sound is shifted."""
    rng = np.random.default_rng(5)
    for seed in range(8):
        moments = unit(seed, 70)
        heard = np.roll(moments, late, axis=0) + 0.1 * rng.standard_normal(moments.shape)
        voice = Voice((heard / np.linalg.norm(heard, axis=1, keepdims=True)).astype(np.float32))
        table = SimilarityMatrix(["voice"], [make_face(unit(100 + seed, 70)), make_face(moments)], [voice])
        assert table.best_face(0) == 1 and table.best(0).offset_frames == late
        assert table.best_voice(1) == 0


def test_briefly_seen_face_is_not_the_speaker():
    """In few windows, chance makes a peak without a rival."""
    moments = unit(0, 70)
    brief = make_face(np.where(np.arange(70)[:, None] < 8, np.roll(moments, -6, axis=0), unit(9, 70)), range(8))
    table = SimilarityMatrix(["voice"], [brief, make_face(0.3 * moments + 0.7 * unit(7, 70))], [Voice(moments)])
    assert table.results[0][0].confidence > table.results[1][0].confidence and table.best_face(0) == 1


def test_windows_without_a_face_are_counted():
    moments = unit(0, 40)
    seen = [i for i in range(40) if not 10 <= i < 17]
    result = compare(make_face(moments, seen), Voice(moments))
    assert result.missing == 7 and "7 of 40" in str(result)
    np.testing.assert_array_equal(result.windows, seen)
    np.testing.assert_allclose(result.similarity, 1, atol=1e-5)


def test_one_missing_face_costs_five_windows():
    pictures = [[None if i == 6 else np.full((2, 2, 3), i)] for i in range(14)]
    windows = list(windows_of(pictures))
    assert [start for _, start, _ in windows] == [0, 1, 7, 8, 9]
    np.testing.assert_array_equal(windows[-1][2][:, 0, 0, 0], range(9, 14))


def test_silence_matches_no_face():
    result = compare(make_face(unit(4, 60)), Voice(unit(4, 60), np.zeros(60, bool)))
    assert result.verdict == "silent" and result.to_json()["windows_with_speech"] == 0


@pytest.mark.parametrize("decibels", [-90, -60, -52])
def test_a_hiss_without_a_word_is_silent(expert_checkpoint, decibels):
    """It was "unrelated" unless all samples were 0, and ``preprocess.py --sync drop`` took it for out of sync."""
    hiss = np.random.default_rng(0).normal(0, 10 ** (decibels / 20), 3 * hp.sample_rate).astype(np.float32)
    assert embed_sound([hiss], open_expert(expert_checkpoint)).silent


def test_an_empty_picture_is_a_frame_without_a_face(expert_checkpoint, tmp_path):
    """As in training: a full disk leaves them. OpenCV's own message used to end the check."""
    rng = np.random.default_rng(0)
    for number in range(30):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), rng.integers(0, 256, (96, 96, 3), np.uint8))
    audio.save_wav(rng.normal(0, 0.1, 2 * hp.sample_rate), tmp_path / "audio.wav", hp.sample_rate)
    (tmp_path / "10.jpg").write_bytes(b"")
    assert sync.score_clip(tmp_path, open_expert(expert_checkpoint)).missing == 5


def test_voice_without_a_face_gets_no_figures_of_another():
    """It ends before the face appears, so it has no figures; the other voice is reported as usual."""
    face = make_face(unit(1, 60))
    late_face = replace(face, starts=face.starts + 60, boxes=np.concatenate((np.full((60, 4), np.nan), face.boxes)))
    matrix = SimilarityMatrix(["long", "short"], [late_face], [Voice(unit(2, 130)), Voice(unit(3, 20))])
    long, short = matrix.to_json()["voices"]
    assert (short["nobs"], short["mean"], short["verdict"]) == (0, None, "too short to tell") and long["nobs"] == 60
    assert "voice 2 (short): face 1" in str(matrix)


def test_description_is_printed_as_scipy_prints_it():
    text = str(compare(make_face(unit(1, 20)), Voice(unit(2, 20))).describe())
    assert text.startswith("DescribeResult(nobs=20, minmax=(0.") and "np." not in text
    assert all(f"{name}=" in text for name in ("mean", "variance", "skewness", "kurtosis"))


@pytest.mark.parametrize(
    "source, target", [("25", "25"), ("30", "25"), ("30000/1001", "25"), ("24", "25"), ("50", "25")]
)
def test_resample_moves_items_to_the_nearest_place(source, target):
    source, target = Fraction(source), Fraction(target)
    given = list(resample(range(100), source, target))
    assert len(given) == pytest.approx(100 * target / source, abs=0.5)
    # exactly so where items are left out; where one is repeated, it is up to a whole place away
    apart = 1 / (2 * target) if target <= source else 1 / (2 * source) + Fraction(1, 50)
    assert all(abs(item / source - place / target) <= apart for place, item in enumerate(given))


def test_faces_are_numbered_from_the_left_in_every_shot():
    left, right = [10, 10, 60, 60, 1], [110, 10, 160, 60, 1]
    shots = [[right, left]] * 20 + [[left]] * 20
    found = Detections([np.array(b, np.float32) for b in shots], [40.0 if i == 20 else 0.0 for i in range(40)])
    first, second = follow_faces(found, 5)
    assert (first[:, 0] == 10).all() and (second[:20, 0] == 110).all() and np.isnan(second[20:]).all()
    found.boxes[5] = np.empty((0, 5), np.float32)
    assert np.flatnonzero(np.isnan(follow_faces(found, 5)[0][:, 0])).tolist() == [5]  # the gap is not filled


# --------------------------------------------------------------------------------------------------------------------
# The program


@pytest.fixture
def measure(expert_checkpoint, talking_clip, tmp_path, monkeypatch, capsys):
    """``measure("--flag", value, face=…)`` runs the program; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*flags, face=talking_clip, checkpoint=expert_checkpoint):
        command = ["--checkpoint_path", checkpoint, "--face", face, "--face_detector", "centerface", *flags]
        code = similarity.main(list(map(str, command)))
        return code, *capsys.readouterr()

    return run


def test_one_face_one_voice(measure, speech, talking_clip, tmp_path, expert_checkpoint, small_checkpoint, capsys):
    pytest.importorskip("matplotlib")
    outputs = [part for kind in ("json", "csv", "png", "mp4") for part in (FLAGS[kind], f"new/out.{kind}")]
    code, out, err = measure("--audio", speech, *outputs)
    assert (code, err) == (0, "") and out.startswith("DescribeResult(nobs=21, minmax=(")
    found = json.loads((tmp_path / "new/out.json").read_text())
    assert {"nobs", "min", "max", "mean", "variance", "skewness", "kurtosis", "offset_frames", "confidence", "fps"} <= {
        *found
    }
    assert len(found["similarity"]) == found["nobs"] == 21 and "matrix" not in found
    assert found["mean"] == pytest.approx(np.mean(found["similarity"]), abs=1e-6)
    rows = list(csv.DictReader((tmp_path / "new/out.csv").open()))
    assert [float(row["time"]) for row in rows[:3]] == [0, 0.04, 0.08] and len(rows) == 21
    assert cv2.imread(str(tmp_path / "new/out.png")).shape[1] == 1200
    assert sum(1 for _ in video.read_frames(video.probe(tmp_path / "new/out.mp4"))) == 25

    expert = open_expert(expert_checkpoint, dtype=pick_precision("auto", torch.device("cpu")))
    result = score(talking_clip, expert, speech, FaceSearch("centerface"))
    assert str(result) == out.strip() and result.mean == pytest.approx(found["mean"])

    command = ["--checkpoint_path", small_checkpoint, "--syncnet_checkpoint_path", expert_checkpoint]
    command += ["--face", talking_clip, "--audio", speech, "--face_detector", "centerface", "--outfile", "o.mp4"]
    assert inference.main(list(map(str, command))) == 0
    assert capsys.readouterr().out.startswith(out)  # inference.py measures the same


def test_boxes_after_the_last_frame_are_ignored(speech, talking_clip, expert_checkpoint):
    """inference.py --box gives a box per frame of sound; those after the last picture used to count as faceless."""
    source = video.probe(talking_clip)
    boxes = np.tile([40.0, 40.0, 120.0, 120.0], (60, 1))
    result = score_boxes(source, boxes, speech, open_expert(expert_checkpoint))
    assert result.frames == 25 and result.missing == 0 and len(result.similarity) == 21


FLAGS = {"json": "--json", "csv": "--csv", "png": "--plot", "mp4": "--overlay"}


def test_two_faces_two_voices(measure, speech, tmp_path, astronaut):
    pytest.importorskip("matplotlib")
    frames = np.stack([np.hstack([astronaut[:240, 60 + i : 300 + i]] * 2) for i in range(12)])
    write_clip(tmp_path / "two.mp4", frames, "30")
    run_ffmpeg("-i", speech, "-af", "areverse", tmp_path / "other.wav")
    flags = ("--json", "two.json", "--plot", "two.png", "--overlay", "two.mkv", "--csv", "two.csv")
    code, out, err = measure("--audio", speech, "other.wav", *flags, face="two.mp4")
    assert (code, err) == (0, "") and "face 2" in out and "voice 2 (other.wav): face" in out
    found = json.loads((tmp_path / "two.json").read_text())
    assert np.array(found["matrix"]).shape == (2, 2) and len(found["tracks"]) == len(found["voices"]) == 2
    assert [(pair["face"], pair["voice"]) for pair in found["pairs"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert [pair["mean"] for pair in found["pairs"]] == pytest.approx(np.ravel(found["matrix"]))
    assert (
        found["nobs"] == 6 and found["tracks"][0]["box"][0] < 240 < found["tracks"][1]["box"][0]
    )  # 12 frames at 30 fps: 10 at 25
    assert len((tmp_path / "two.csv").read_text().splitlines()) == 1 + 4 * 6


@pytest.fixture(scope="module")
def bad_files(astronaut, speech, tmp_path_factory):
    """Sounds, clips and a photo, most of which cannot be measured."""
    folder = tmp_path_factory.mktemp("bad")
    run_ffmpeg("-i", speech, "-t", 0.15, folder / "short.wav")
    run_ffmpeg("-i", speech, "-t", 0.5, folder / "tone.wav")
    write_clip(folder / "empty.mp4", np.full((10, 96, 128, 3), 90, np.uint8))
    write_clip(folder / "one.mp4", astronaut[None, :240, 60:380])
    write_clip(folder / "one at 60.mp4", astronaut[None, :240, 60:380], "60")
    cv2.imwrite(str(folder / "photo.png"), astronaut)
    return folder


@pytest.mark.parametrize(
    "flags, face, words",
    [
        ([], None, "has no sound track"),
        (["--audio", "short.wav"], None, "0.15 s of sound"),
        (["--audio", "tone.wav"], "empty.mp4", "no face was found in any of the 10 frames"),
        (["--audio", "tone.wav"], "one.mp4", "at least 5 frames in a row"),
        (["--audio", "tone.wav"], "one at 60.mp4", "at least 5 frames in a row"),
        (["--audio", "tone.wav"], "photo.png", "is a picture"),
        (["--audio", "tone.wav"], "missing.mp4", "missing.mp4 does not exist"),
        (["--audio", "tone.wav", "--json", "tone.wav"], None, "choose another name"),
        (["--audio", "tone.wav", "--json", "x", "--csv", "./x"], None, "--json and --csv are the same file"),
        (["--audio", "tone.wav", "--json", "x" * 256], None, "more than 255 bytes; give a shorter one"),
        (["--audio", "tone.wav", "--plot", "plot.mp4"], None, "must end in .png"),
        (["--audio", "tone.wav", "--json", "/proc/out.json"], None, "cannot write in /proc"),
    ],
)
def test_bad_input(measure, bad_files, tmp_path, flags, face, words):
    shutil.copytree(bad_files, tmp_path, dirs_exist_ok=True)
    code, out, err = measure(*flags, **({"face": face} if face else {}))
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1
    assert (tmp_path / "tone.wav").stat().st_size > 1000


def test_wrong_checkpoint(measure, small_checkpoint, speech):
    code, _, err = measure("--audio", speech, checkpoint=small_checkpoint)
    assert code == 2 and "should hold SyncNet_color weights, but it holds Wav2Lip weights" in err


def test_drawn_curve_is_the_mean_of_a_second_around_each_frame():
    starts = np.arange(100)
    windows = Result(25.0, 104, starts, (starts >= 48).astype(float), np.zeros(31), 100)
    curve = smoothed(windows, 104)  # windows from 48 on have frames from 50 on in their middle
    assert curve[[37, 50, 62]] == pytest.approx([0, 13 / 25, 1])
    alone = smoothed(replace(windows, windows=np.array([48]), similarity=np.array([0.7])), 104)
    assert np.flatnonzero(~np.isnan(alone)).tolist() == list(range(38, 63)) and alone[50] == pytest.approx(0.7)


@pytest.mark.parametrize(
    "similarity, colour",
    [(-0.2, (0, 0, 255)), (0.5, (0, 255, 255)), (1.0, (0, 255, 0)), (np.nan, (160, 160, 160))],
)
def test_boxes_are_drawn_from_red_to_green(similarity, colour):
    frame = np.zeros((100, 120, 3), np.uint8)
    _draw_box(frame, np.array([20.0, 30.0, 90.0, 80.0]), similarity, "0.5")
    assert frame[80, 50].tolist() == frame[60, 20].tolist() == list(colour) and not frame[60, 50].any()


def test_overlay_shows_the_similarity_of_each_moment_at_any_frame_rate(tmp_path, speech, monkeypatch):
    write_clip(tmp_path / "fast.mp4", np.zeros((50, 32, 32, 3), np.uint8), "50")
    shown = []
    monkeypatch.setattr(
        "sync.drawing._draw_box", lambda frame, box, similarity, label: shown.append((similarity, label))
    )
    monkeypatch.setattr("sync.drawing.smoothed", lambda result, frames: np.arange(frames) / 100)
    tracks = [np.tile([1.0, 2.0, 30.0, 31.0], (50, 1))]
    matrix = SimilarityMatrix(["a.wav"], [make_face(unit(1, 21))], [Voice(unit(2, 21))])
    measured = sync.Measurement(video.probe(tmp_path / "fast.mp4"), tracks, matrix)
    write_overlay(tmp_path / "out.mp4", measured, speech)
    assert len(shown) == 50 and [shown[i] for i in (0, 20, 49)] == [(0, "0.00"), (0.1, "0.10"), (0.24, "0.24")]


def test_csv_and_json_say_where_each_face_is_and_when():
    """The second face is seen from frame 7 on, and both move to the right."""
    boxes = np.arange(34.0)[:, None] + [0, 0, 100, 100]
    late = np.where(np.arange(34)[:, None] < 7, np.nan, boxes + 200)
    faces = [replace(make_face(unit(1, 30)), boxes=boxes), replace(make_face(unit(2, 30), range(7, 30)), boxes=late)]
    matrix = SimilarityMatrix(["a.wav"], faces, [Voice(unit(3, 30))])
    rows = list(csv.DictReader(matrix.to_csv().splitlines()))
    first, second = ([row for row in rows if row["face"] == face] for face in "12")
    assert (len(first), len(second)) == (30, 23) and (first[9]["time"], first[9]["x1"]) == ("0.360", "9.0")
    assert (second[0]["time"], second[0]["x1"], second[0]["voice"]) == ("0.280", "207.0", "1")
    places = [(track["first_frame"], track["last_frame"], track["frames"]) for track in matrix.to_json()["tracks"]]
    assert places == [(0, 33, 34), (7, 33, 27)]


@pytest.mark.parametrize("fps, wanted", [(25, 40 + 15), (50, 2 * (40 + 15))])
def test_faces_are_searched_as_far_as_late_sound_may_match(expert_checkpoint, tmp_path, fps, wanted):
    """The sound may be late by 15 frames at 25 a second; in an hour of video, no more is searched."""
    asked = []

    def find(source, frames, report):
        asked.append(frames)
        return Detections([np.array([[10, 10, 60, 60, 1]], np.float32)] * 9, [0.0] * 9)

    search = SimpleNamespace(on=lambda *_: SimpleNamespace(find=find))
    source = video.VideoInfo(tmp_path / "x.mp4", 200, 100, Fraction(fps))
    assert len(sync.find_tracks(source, 40, open_expert(expert_checkpoint), search)) == 1
    assert wanted <= asked[0] <= wanted + 1


def test_silent_voice_is_reported(expert_checkpoint, talking_clip, silence, speech, told):
    expert, search = open_expert(expert_checkpoint), FaceSearch("centerface")
    measured = sync.measure(talking_clip, [speech, silence], expert, search, told)
    assert [row[1].verdict for row in measured.matrix.results] == ["silent"]
    assert measured.matrix.results[0][0].verdict != "silent"
    assert [note for note in told.notes if "silent" in note] == [
        f"note: {silence} is silent from end to end: there is nothing for lips to follow"
    ]


def test_pauses_do_not_flatten_the_curve():
    """A mouth at rest matches silence at any offset: clips with pauses used to be "unrelated", and were dropped."""
    moments, rest = unit(1, 60), np.tile(unit(2, 1), (140, 1))
    face, vectors = make_face(np.concatenate((moments, rest))), np.concatenate((moments, rest))
    spoken = np.arange(200) < 60
    alone, paused = compare(make_face(moments), Voice(moments)), compare(face, Voice(vectors, spoken))
    assert paused.verdict == alone.verdict == "in sync" and paused.confidence == pytest.approx(alone.confidence, 0.1)
    assert paused.contrast == pytest.approx(alone.contrast, 0.1) and paused.describe().nobs == 200
    short = compare(face, Voice(vectors, np.arange(200) < 24))
    assert short.verdict == "too short to tell"
    assert compare(face, Voice(vectors)).confidence < 0.4 * paused.confidence


@pytest.mark.parametrize("windows, verdict", [(24, "too short to tell"), (25, "in sync")])
def test_one_second_is_too_short_for_a_verdict(windows, verdict):
    """In half a second, every other pair of strangers used to be found related."""
    curve = np.full(2 * MAX_OFFSET + 1, 0.1)
    curve[MAX_OFFSET] = 0.9
    result = Result(25.0, windows + 4, np.arange(windows), np.full(windows, 0.9), curve, windows)
    assert result.verdict == verdict and ("needs 1.2 s" in str(result)) == (windows < 25)


@pytest.mark.parametrize("offset, peak, verdict", [
    (0, 0.12, "in sync"), (1, 0.12, "in sync"), (0, 0.08, "unrelated"), (2, 0.12, "unrelated"),
    (2, 0.22, "off by 2 frames"),
])  # fmt: skip
def test_less_evidence_is_enough_without_an_offset(offset, peak, verdict):
    curve = np.zeros(2 * MAX_OFFSET + 1)
    curve[MAX_OFFSET + offset] = peak
    assert Result(25.0, 104, np.arange(100), np.full(100, 0.5), curve, 100).verdict == verdict


def test_faces_between_the_frames_of_25_a_second_are_left_out(
    expert_checkpoint, astronaut, speech, tmp_path, monkeypatch
):
    """JSON listed no track for one, so ``best_track`` pointed at none, or at another face's."""
    write_clip(tmp_path / "fast.mp4", np.repeat(astronaut[None, :240, 60:380], 20, axis=0), "50")
    lost, lasting = (np.full((20, 4), np.nan) for _ in range(2))
    lost[1] = lasting[:] = (100, 20, 220, 160)
    monkeypatch.setattr("sync.matrix.find_tracks", lambda *_: [lost, lasting])
    measured = sync.measure(tmp_path / "fast.mp4", [speech, speech], open_expert(expert_checkpoint))
    found = measured.matrix.to_json()
    assert len(found["tracks"]) == len(found["matrix"]) == len(measured.tracks) == 1
    assert [voice["best_track"] for voice in found["voices"]] == [0, 0] and "nan" not in str(measured.matrix)


def test_reading_lips_can_be_cancelled(expert_checkpoint, talking_clip, speech):
    """After the search, a film of an hour was read a second time, without progress, whatever the reporter said."""
    stages = []

    class Impatient(Reporter):
        def progress(self, stage, done, total):
            stages.append(stage)
            if stage == "Reading lips" and done == 5:
                raise Cancelled

    with pytest.raises(Cancelled):
        sync.measure(talking_clip, speech, open_expert(expert_checkpoint), FaceSearch("centerface"), Impatient())
    assert stages[-1] == "Reading lips" and stages.count("Reading lips") < 30
