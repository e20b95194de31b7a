"""evaluation/: scores against golden data and algebra; lists and videos with the networks replaced by stubs."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import replace
from fractions import Fraction
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from scipy.io import wavfile

import pictures
import video
from conftest import GOLDEN, run_ffmpeg, write_clip
from errors import UserError
from evaluation import (
    aperture,
    comparisons,
    fid,
    gen_videos_from_filelist,
    judges,
    lse,
    make_filelist,
    pairs,
    protocol,
    quality,
    real_videos_inference,
    run_all,
    score_lse,
    scores,
    table,
)
from evaluation import score_fid as score_fid_script
from evaluation.comparisons import Comparisons
from evaluation.quality import Quality
from evaluation.scores import score_files
from evaluation.sizes import Sizes
from face_detection.detections import Detections
from face_detection.geometry import PADDING_GREY
from faces import FaceSearch
from footage import VIDEO_SUFFIXES, find_videos
from lipsync import LipSync, ResolvedOptions
from models import weights
from reporting import SILENT

COMPARED = (protocol.REAL, protocol.GENERATED)


class Judge(torch.nn.Module):
    """Stands in for SyncNet_v2: its features are the mean grey of a window and the mean of its sound."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward_lip(self, x):
        assert x.shape[1:] == (3, 5, 224, 224) and x.max() <= 255
        return x.mean((1, 2, 3, 4))[:, None].expand(-1, 4)

    def forward_aud(self, x):
        assert x.shape[1:] == (1, 13, 20)
        return x.mean((1, 2, 3))[:, None].expand(-1, 4)


@pytest.fixture(scope="module")
def talking(tmp_path_factory, talking_clip, speech):
    """One second of a face with sound."""
    path = tmp_path_factory.mktemp("talking") / "talk.mp4"
    run_ffmpeg("-i", talking_clip, "-i", speech, "-c:v", "copy", "-t", 1, path)
    return path


@pytest.fixture(scope="module")
def brief(tmp_path_factory, talking):
    """The first 15 frames of it, enough for the judges."""
    path = tmp_path_factory.mktemp("brief") / "talk.mp4"
    run_ffmpeg("-i", talking, "-t", 0.6, "-c", "copy", path)
    return path


# --------------------------------------------------------------------------------------------------------------------
# LSE


@pytest.mark.parametrize("first", [0, 7])
def test_every_window_of_frames_meets_its_own_sound(talking, monkeypatch, first):
    """By the definition, window by window: frames in BGR from ``first`` on, and 20 MFCCs from the same moment."""
    from python_speech_features import mfcc

    class Network(Judge):  # its features show the order of frames, colours and MFCCs
        def forward_lip(self, x):
            return x.mean((3, 4)).flatten(1)

        def forward_aud(self, x):
            return x[:, 0, :3].unflatten(2, (5, 4)).mean(3).flatten(1)

    frames = [cv2.resize(frame, (224, 224)) for frame in video.read_frames(video.probe(talking))]
    shown = [[frame if number >= first else None] for number, frame in enumerate(frames)]
    monkeypatch.setattr(lse, "find_tracks", lambda *_: [None])
    monkeypatch.setattr(lse, "track_crops", lambda *_: iter(shown))
    samples = np.round(video.read_audio(talking, 16000) * 32768).astype(np.int16)
    cepstra = mfcc(samples, 16000)
    starts = range(first, min(len(frames) - 5, len(samples) // 640 - 5))
    lips = [np.stack([frame.mean((0, 1)) for frame in frames[s : s + 5]], axis=1).ravel() for s in starts]
    sound = [cepstra[4 * s : 4 * s + 20, :3].reshape(5, 4, 3).mean(1).T.ravel() for s in starts]
    silence = np.zeros(15)
    means = []
    for shift in range(-15, 16):
        heard = [sound[i + shift] if 0 <= i + shift < len(sound) else silence for i in range(len(sound))]
        means.append(np.mean([np.linalg.norm(a - b) for a, b in zip(lips, heard)]))
    (found,) = lse.score_file(talking, Network(), FaceSearch())
    assert found.lse_d == pytest.approx(min(means), rel=1e-4) and found.frames == len(starts) + 4
    assert found.lse_c == pytest.approx(np.median(means) - min(means), rel=1e-2)
    assert found.offset == 15 - int(np.argmin(means))


def test_lse_matches_golden_data():
    golden = np.load(GOLDEN / "lse.npz")
    mean = lse.mean_distances(golden["video_features"], golden["audio_features"])
    np.testing.assert_allclose(mean, golden["mean_distance_per_shift"], rtol=1e-5)
    expected = [golden[name] for name in ("lse_d", "lse_c", "offset")]
    np.testing.assert_allclose(lse.lse(golden["video_features"], golden["audio_features"]), expected, atol=1e-4)


def test_mfcc_matches_golden_data(shared):
    samples = wavfile.read(shared / "golden/speech_16k.wav")[1]
    np.testing.assert_allclose(lse.mfcc(samples), np.load(GOLDEN / "lse.npz")["mfcc"], atol=1e-4)


@pytest.mark.parametrize("count", [100, 400, 16000, 40123])
def test_mfcc_in_blocks_is_the_same(monkeypatch, count):
    samples = np.random.default_rng(0).integers(-9999, 9999, count).astype(np.int16)
    whole = lse.mfcc(samples)
    monkeypatch.setattr(lse, "MFCC_BLOCK", 7)
    np.testing.assert_allclose(lse.mfcc(samples), whole, atol=1e-9)


@pytest.mark.parametrize("shift", [-4, 0, 3])
def test_lse_finds_the_offset(shift):
    moments = np.random.default_rng(0).standard_normal((80, 32)).astype(np.float32)
    _, confidence, offset = lse.lse(moments[20:60], moments[20 + shift : 60 + shift])
    assert offset == shift and confidence > 1  # sound that runs ahead by ``shift`` frames


def test_crop_matches_the_official_program():
    frame = np.dstack([np.tile(np.arange(200, dtype=np.uint8), (200, 1))] * 3)
    crop = lse.crop_square(frame, 100, 80, 40)  # 112 wide from x 44, from y 40 to 152
    assert crop.shape == (224, 224, 3) and crop[0, 0, 0] == 44 and crop[0, -1, 0] == 155
    outside = lse.crop_square(frame, 10, 190, 40)
    assert (outside[:, 0] == PADDING_GREY).all() and (outside[-1] == PADDING_GREY).all()


def test_steady_squares_ignore_one_wild_box():
    boxes = np.tile([10.0, 20.0, 50.0, 70.0], (40, 1))
    boxes[20] += 30
    boxes[36:] = np.nan
    squares = lse.steady_squares(boxes)
    np.testing.assert_array_equal(squares[6:30], np.tile([30, 45, 25], (24, 1)))
    assert np.isnan(squares[36:]).all() and not np.isnan(squares[:36]).any()


def test_whole_frames_or_tracks_are_scored(brief):
    (whole,) = lse.score_file(brief, Judge())
    assert (whole.track, whole.frames) == (0, 14) and whole.lse_d > 0  # 15 frames: the last window's sound is cut off
    (track,) = lse.score_file(brief, Judge(), FaceSearch("centerface"))
    assert track.frames == 14 and track.lse_d != whole.lse_d


def test_track_has_only_the_frames_of_its_shot(tmp_path, brief):
    """Each track used to have an array for all frames of the film."""
    shots = "[0:v]split[a][b];[b]hflip,eq=brightness=-0.25[c];[a][c]concat"
    run_ffmpeg("-i", brief, "-filter_complex", shots, "-an", tmp_path / "cut.mp4")
    search = FaceSearch("centerface")
    tracks = lse.find_tracks(video.probe(tmp_path / "cut.mp4"), search, Judge())
    assert [(track.first, len(track.boxes)) for track in tracks] == [(0, 15), (15, 15)]
    crops = list(lse.track_crops(video.probe(tmp_path / "cut.mp4"), tracks))
    assert [[crop is not None for crop in row] for row in crops] == [[True, False]] * 15 + [[False, True]] * 15


@pytest.mark.parametrize("frames, tracks", [(9, []), (10, [(5, 10)])])
def test_faces_seen_for_too_short_are_not_scored(tmp_path, frames, tracks):
    """Ten frames are enough, a second face that passes by is not."""
    box, none = np.array([[10.0, 10, 60, 60, 1]], np.float32), np.empty((0, 5), np.float32)
    seen = Detections(
        [none] * 5 + [box] * frames + [none] * 60 + [box + [[100, 0, 100, 0, 0]]] * 9, [0.0] * (74 + frames)
    )
    search = SimpleNamespace(on=lambda _: SimpleNamespace(find=lambda *_, **__: seen))
    source = video.VideoInfo(tmp_path / "x.mp4", 200, 100, Fraction(25))
    if not tracks:
        with pytest.raises(UserError, match="no face is visible for 10 frames"):
            lse.find_tracks(source, search, Judge())
    else:
        assert [(track.first, len(track.boxes)) for track in lse.find_tracks(source, search, Judge())] == tracks


def test_half_a_second_can_be_scored(tmp_path, talking):
    run_ffmpeg("-i", talking, "-t", 0.5, tmp_path / "short.mp4")
    (score,) = lse.score_file(tmp_path / "short.mp4", Judge())
    assert score.frames >= 10


def test_silence_is_not_scored(tmp_path, brief):
    """It used to get scores, which were part of the mean."""
    run_ffmpeg("-i", brief, "-af", "volume=0", "-c:v", "copy", tmp_path / "mute.mp4")
    report = score_files([brief, tmp_path / "mute.mp4"], Judge())
    assert len(report.scores) == 1 and "silent from end to end" in report.failed[str(tmp_path / "mute.mp4")]


def test_choice_of_sound_track_is_reported(tmp_path, brief, told):
    maps = ("-map", "0", "-map", "0:a", "-c", "copy", "-disposition:a:0", 0, "-disposition:a:1", "default")
    run_ffmpeg("-i", brief, *maps, tmp_path / "two.mkv")
    report = score_files([tmp_path / "two.mkv"], Judge(), report=told)
    assert "two.mkv has 2 sound tracks; number 2 is used" in told.notes[-1] and not report.failed


def test_score_lse(tmp_path, brief, talking_clip, monkeypatch, capsys):
    monkeypatch.setattr(weights, "load_model", lambda *_: Judge())
    talking = Path(shutil.copy(brief, tmp_path))
    shutil.copy(talking_clip, tmp_path / "silent.mp4")
    (tmp_path / "bad.mp4").write_text("not a video")
    command = ["--data_root", tmp_path, "--json", tmp_path / "o/l.json", "--csv", tmp_path / "o/l.csv"]
    assert score_lse.main(list(map(str, command))) == 1
    out, err = capsys.readouterr()
    assert "2 of 3 files could not be scored" in err and out.count("skipped: ") == 2
    found = json.loads((tmp_path / "o/l.json").read_text())
    assert len(found["failed"]) == 2 and found["mean"]["lse_d"] == found["scores"][0]["lse_d"]
    (row,) = csv.DictReader((tmp_path / "o/l.csv").open())
    assert row["file"] == str(talking) and float(row["lse_d"]) == pytest.approx(found["mean"]["lse_d"])
    assert score_lse.main(["--data_root", str(talking)]) == 0
    assert score_lse.main(["--data_root", str(tmp_path / "o")]) == 2
    for flags, words in (
        (["--json", tmp_path / "x", "--csv", tmp_path / "x"], "the same file"),
        (["--csv", talking], "one of the files to read"),
    ):
        capsys.readouterr()
        assert score_lse.main(list(map(str, ["--data_root", talking, *flags]))) == 2
        assert words in capsys.readouterr().err and not (tmp_path / "x").exists()


# --------------------------------------------------------------------------------------------------------------------
# FID


def test_pictures_count_as_often_as_they_are_named(tmp_path):
    """As the videos of a list do; but not again because they are also in a folder, or in a folder within it."""
    rng = np.random.default_rng(0)
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 255, (8, 8, 3), np.uint8))
    found = fid.statistics_of([tmp_path, tmp_path / "1.png", tmp_path], lambda x: x.mean((1, 2)))
    assert found.count == 3
    assert fid.statistics_of([tmp_path / "1.png"] * 3, lambda x: x.mean((1, 2))).count == 3


def test_statistics_of_batches_are_those_of_the_whole():
    features = np.random.default_rng(0).standard_normal((50, 6)) + 3
    statistics = fid.Statistics()
    for first in range(0, 50, 16):
        statistics.add(features[first : first + 16])
    np.testing.assert_allclose(statistics.mean, features.mean(0))
    np.testing.assert_allclose(statistics.covariance, np.cov(features, rowvar=False), atol=1e-9)


def test_fid_algebra():
    """FID of equal covariances is the squared distance of the means; scaling by s adds (1 - s)² of the trace."""
    features = np.random.default_rng(0).standard_normal((200, 4))
    features -= features.mean(0)
    sets = []
    for values in (features, features + [3.0, 4.0, 0, 0], 2 * features):
        statistics = fid.Statistics()
        statistics.add(values)
        sets.append(statistics)
    assert fid.distance(sets[0], sets[0]) == pytest.approx(0, abs=1e-6)
    assert fid.distance(sets[0], sets[1]) == pytest.approx(25)
    assert fid.distance(sets[0], sets[2]) == pytest.approx(np.trace(sets[0].covariance))
    with pytest.raises(ValueError, match="at least two pictures"):
        fid.distance(sets[0], fid.Statistics())


def test_sets_inside_each_other_are_refused(tmp_path):
    """Generated pictures in a folder of the real ones counted as real, and FID came out low."""
    (tmp_path / "real/out").mkdir(parents=True)
    for real, generated in ("real", "real/out"), ("real/out", "real"):
        with pytest.raises(UserError, match="real/out lies in .*real and would count as real and generated"):
            fid.compare([tmp_path / real], [tmp_path / generated], embed=None)


def test_comparing_places_takes_no_longer_with_more_files(tmp_path, monkeypatch):
    """Every file was compared with every other: of 14000 pairs, this alone took six hours."""
    asked, resolve = [], Path.resolve
    monkeypatch.setattr(Path, "resolve", lambda path: asked.append(path) or resolve(path))
    sides = ([tmp_path / f"{side}{n}.mp4" for n in range(200)] for side in "ab")
    with pytest.raises(UserError, match="a0.mp4 does not exist"):
        fid.compare(*sides, embed=None)
    assert len(asked) <= 2 * 400


def test_large_pictures_come_in_small_batches(monkeypatch):
    """32 of 4K took ten gigabytes."""
    monkeypatch.setattr(fid, "BATCH_BYTES", 3 * 64 * 64 * 4)
    sizes = [len(batch) for batch in fid.batches([np.zeros((64, 64, 3), np.uint8)] * 9 + [np.zeros((256, 64, 3))])]
    assert sizes == [4, 4, 1, 1] and {len(batch) for batch in fid.batches([np.zeros((8, 8, 3))] * 64)} == {fid.BATCH}


def test_score_fid(tmp_path, talking_clip, astronaut, monkeypatch, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), astronaut)
    cv2.imwrite(str(tmp_path / "b.tif"), astronaut[::-1])
    seen = []
    monkeypatch.setattr(fid, "open_inception", lambda *_: lambda x: (seen.append(x.shape), x.mean((1, 2)))[1])
    command = ["--real", talking_clip, "--generated", tmp_path, "--every", "10"]
    assert score_fid_script.main(list(map(str, command))) == 0
    assert seen == [(3, 240, 320, 3), (2, 512, 512, 3)] and "3 real and 2 generated" in capsys.readouterr().out

    (tmp_path / "z.mp4").write_text("not a video")  # the others still count
    assert score_fid_script.main(list(map(str, [*command, "--json", tmp_path / "fid.json"]))) == 1
    out, err = capsys.readouterr()
    assert "3 real and 2 generated" in out and "z.mp4 is not a video" in out and "1 files" in err
    assert list(json.loads((tmp_path / "fid.json").read_text())["failed"]) == [str(tmp_path / "z.mp4")]


def test_wrong_inception_weights_are_refused(tmp_path, talking_clip, small_checkpoint, capsys):
    command = ["--real", talking_clip, "--generated", talking_clip, "--weights"]
    assert score_fid_script.main(list(map(str, [*command, tmp_path / "none.pth"]))) == 2
    assert "none.pth does not exist" in capsys.readouterr().err
    assert score_fid_script.main(list(map(str, [*command, small_checkpoint]))) == 2
    assert "does not hold pytorch-fid's Inception weights" in capsys.readouterr().err


def test_inception_gets_pictures_as_in_the_library(tmp_path, monkeypatch):
    """RGB in [0, 1], with weights from a file, here random ones."""
    library = fid.import_beside_torchvision("pytorch_fid.inception")
    path = tmp_path / "inception.pth"
    with monkeypatch.context() as patch:
        patch.setattr(library, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        whole = library.fid_inception_v3()
        torch.save(whole.state_dict(), path)
        patch.setattr(library, "fid_inception_v3", lambda: whole)
        network = library.InceptionV3([library.InceptionV3.BLOCK_INDEX_BY_DIM[fid.FEATURES]]).eval()
    pictures = np.random.default_rng(0).integers(0, 256, (1, 40, 50, 3), np.uint8)
    rgb = torch.from_numpy(pictures[..., ::-1].copy()).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = network(rgb)[0][:, :, 0, 0].numpy()
    found = fid.open_inception(path, torch.device("cpu"))(pictures)
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())  # random weights: far below 1


# --------------------------------------------------------------------------------------------------------------------
# Lists


def test_pairs_never_join_a_video_with_itself():
    names = [f"s{i}" for i in range(30)]
    drawn = pairs.random_pairs(names, names, None, seed=1)
    assert sorted(v for _, v in drawn) == sorted(names) == sorted(s for s, _ in drawn)
    assert all(sound != name for sound, name in drawn)
    assert drawn == pairs.random_pairs(names, names, None, 1) != pairs.random_pairs(names, names, None, 2)
    assert len(pairs.random_pairs(["a.wav"], names, 7, 0)) == 7
    with pytest.raises(ValueError, match="two different ones"):
        pairs.random_pairs(["a"], ["a"], None, 0)


def test_sounds_are_used_in_turn():
    """Some sounds belong to one of the videos, some do not."""
    videos = ["a.mp4", "b.mp4", "d.mp4", "e.mp4"]
    for seed in range(50):
        drawn = pairs.random_pairs(["a.wav", "b.wav", "x.wav", "y.wav"], videos, None, seed)
        assert all(Path(sound).stem != Path(name).stem for sound, name in drawn)
        assert len({sound for sound, _ in drawn}) >= 3  # if only its own is left for the last, a new turn begins


@pytest.mark.parametrize("sounds", [["a.wav", "b.wav", "c.wav"], ["a.mp3", "a.wav", "c.wav"]])
def test_pairs_never_join_a_video_with_its_sound_in_another_file(sounds):
    videos = ["a.mp4", "b.mp4", "c.mp4"]
    for seed in range(20):
        drawn = pairs.random_pairs(sounds, videos, None, seed)
        assert all(Path(sound).stem != Path(name).stem for sound, name in drawn) and len(drawn) == 3
    with pytest.raises(ValueError, match="two different ones"):
        pairs.random_pairs(["a.wav", "a.mp3"], videos, None, 0)


def test_pairs_never_join_a_clip_with_itself_in_another_file():
    names = ["a.mkv", "a.mp4", "b.mp4", "c.mp4"]
    for seed in range(20):
        drawn = pairs.random_pairs(names, names, None, seed)
        assert all(Path(sound).stem != Path(name).stem for sound, name in drawn) and len(drawn) == 4


@pytest.mark.parametrize("kind", ["lrs", "resynced"])
def test_written_list_can_be_read_back(tmp_path, kind):
    for name in ("s1/a.mp4", "s1/b.v2.mp4", "s2/c.mkv", "s2/my talk.mp4", "s2/d.mov.mp4", "s2/田中\u3000太郎.mp4"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text("x")
    target = tmp_path / "lists/list.txt"
    command = ["--data_root", tmp_path / "data", "--filelist", target, "--format", kind]
    assert make_filelist.main(list(map(str, command))) == 0
    read = pairs.read_filelist(target, tmp_path / "data", audio_first=kind == "lrs")
    assert len(read) == 6 and all(path.is_file() for pair in read for path in pair)
    assert ("s1/a.mp4" in target.read_text()) == (kind == "resynced")


def test_list_is_drawn_as_the_flags_say(tmp_path, capsys):
    for name in ("a.mp4", "b.mp4", "c.mp4", "x.wav", "y.wav", "z.wav"):
        (tmp_path / name).touch()
    command = ["--data_root", tmp_path, "--filelist", tmp_path / "list.txt"]
    written = []
    for more in (["--sounds", "--count", 2], ["--sounds", "--count", 2, "--seed", 3], []):
        assert make_filelist.main(list(map(str, [*command, *more]))) == 0
        written.append((tmp_path / "list.txt").read_text())
    expected = [pairs.draw(tmp_path, 2, seed, sound_files=True).pairs for seed in (0, 3)] + [pairs.draw(tmp_path).pairs]
    assert written == list(map(pairs.filelist, expected)) and written[0] != written[1]
    assert "2 pairs of 3 videos, 3 sounds, seed 3" in capsys.readouterr().out


def test_names_that_a_list_cannot_hold_are_reported(tmp_path, talking_clip, capsys):
    for name in ("a.mp4", "b.mp4", "my\tfilm.mp4", "plain"):
        shutil.copy(talking_clip, tmp_path / name)
    command = ["--data_root", tmp_path, "--filelist", tmp_path / "lists/list.txt", "--format", "resynced"]
    assert make_filelist.main(list(map(str, command))) == 0
    assert r"'my\tfilm.mp4'" in capsys.readouterr().out
    read = pairs.read_filelist(tmp_path / "lists/list.txt", tmp_path, audio_first=False)
    assert sorted(pair.video.name for pair in read) == ["a.mp4", "b.mp4", "plain"]


def test_order_of_sound_and_video_depends_on_the_dataset(tmp_path):
    """ReSyncED puts the video first, LRS the sound; mixed up, the wrong one of the two would be lip-synced."""
    (tmp_path / "list.txt").write_text("face.mp4 voice.wav\n")
    resynced = pairs.Pair(audio=tmp_path / "voice.wav", video=tmp_path / "face.mp4")
    lrs = pairs.Pair(audio=tmp_path / "face.mp4", video=tmp_path / "voice.wav")
    assert pairs.read_filelist(tmp_path / "list.txt", tmp_path, audio_first=False) == [resynced]
    assert pairs.read_filelist(tmp_path / "list.txt", tmp_path, audio_first=True) == [lrs]


def test_lists_from_any_editor_are_read(tmp_path):
    (tmp_path / "list.txt").write_text("a.wav b.mp4\r\nmy voice.wav\tmy face.mp4\r\n", encoding="utf-8-sig")
    read = pairs.read_filelist(tmp_path / "list.txt", tmp_path, audio_first=True)
    names = [(pair.audio.name, pair.video.name) for pair in read]
    assert names == [("a.wav", "b.mp4"), ("my voice.wav", "my face.mp4")]


@pytest.mark.parametrize(
    "text, words",
    [
        ("a b\n\na\n", "line 3 of .* put a tab"),
        ("\n", "is empty"),
        ("a b\n".encode("utf-16"), "list.txt is not UTF-8 but UTF-16"),
    ],
)
def test_bad_lists_are_refused(tmp_path, text, words):
    (tmp_path / "list.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=words):
        pairs.read_filelist(tmp_path / "list.txt", tmp_path, audio_first=True)


# --------------------------------------------------------------------------------------------------------------------
# Videos


@pytest.fixture(scope="module")
def negative(tmp_path_factory, brief):
    path = tmp_path_factory.mktemp("negative") / "talk.mp4"
    run_ffmpeg("-i", brief, "-vf", "negate", "-c:a", "copy", path)
    return path


@pytest.fixture
def data(tmp_path, brief, small_checkpoint, monkeypatch):
    """A folder with four videos, one of them broken; ``LipSync.run`` only copies, and records its arguments."""
    root = tmp_path / "data"
    root.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        shutil.copy(brief, root / name)
    (root / "bad.mp4").write_text("not a video")
    (tmp_path / "list.txt").write_text("a b\nb bad\nmissing c\nc a\n")
    calls = []

    def run(self, face, audio, outfile, **options):
        video.probe(face)
        video.existing_file(audio)
        calls.append(SimpleNamespace(face=face, audio=audio, outfile=outfile, **options))
        shutil.copy(face, outfile)

    monkeypatch.setattr(LipSync, "run", run)
    monkeypatch.setattr(LipSync, "model", property(lambda lips: lips.generator))  # is read, but need not be built
    common = ["--data_root", root, "--results_dir", tmp_path / "out", "--checkpoint_path", small_checkpoint]
    return tmp_path, [*map(str, common), "--face_detector", "centerface"], calls


def test_videos_of_a_list_are_lip_synced(data, capsys):
    folder, common, calls = data
    command = ["--filelist", str(folder / "list.txt"), *common, "--pads", "1", "2", "3", "4"]
    assert gen_videos_from_filelist.main(command) == 1
    out, err = capsys.readouterr()
    assert "2 of 4 videos" in out and "2 of 4 pairs were skipped" in err
    assert "bad.mp4 is not a video" in out and "missing.mp4 does not exist" in out
    assert [(a.audio.name, a.face.name, a.outfile.name, a.pads) for a in calls] == [
        ("a.mp4", "b.mp4", "0.mp4", [1, 2, 3, 4]),
        ("c.mp4", "a.mp4", "3.mp4", [1, 2, 3, 4]),
    ]
    shutil.copy(folder / "data/a.mp4", folder / "data/missing.mp4")
    assert gen_videos_from_filelist.main(command) == 1
    assert len(calls) == 3 and "1 pairs skipped" in capsys.readouterr().out  # only what was missing is made
    (folder / "list.txt").write_text("b a\n")
    assert gen_videos_from_filelist.main(command) == 2 and "another list" in capsys.readouterr().err


def test_videos_of_a_list_take_the_flags_of_inference(data, capsys):
    folder, common, calls = data
    args = ["--silence", "closed", "--mouth_gain", "1.5", "--reference", "7", "--lip_delay", "40", "--blend", "feather"]
    gen_videos_from_filelist.main(["--filelist", str(folder / "list.txt"), *common, *args])
    capsys.readouterr()
    gen_videos_from_filelist.main(["--filelist", str(folder / "list.txt"), *common, *args[2:]])
    assert "made with other flags (silence); give another --results_dir" in capsys.readouterr().err
    settings = {(a.silence, a.mouth_gain, a.reference, a.lip_delay, a.blend, a.occlusion) for a in calls}
    assert settings == {("closed", 1.5, 7, 40.0, "feather", None)}


def test_wrong_arguments_do_not_claim_the_folder(data, capsys):
    folder, common, calls = data
    command = ["--filelist", str(folder / "list.txt"), *common]
    for wrong, words in ((("--mouth_gain", "9"), "is not between"), (("--reference", "sme"), "is not one of")):
        assert gen_videos_from_filelist.main([*command, *wrong]) == 2 and words in capsys.readouterr().err
    assert not (folder / "out").exists() and not calls
    (folder / "list.txt").write_text("missing a\nmissing b\n")
    assert gen_videos_from_filelist.main([*command, "--lip_delay", "40"]) == 1  # not a single video is made
    assert gen_videos_from_filelist.main(command) == 2  # another run may be at work there


def test_options_are_compared_by_their_meaning(data, small_checkpoint):
    folder, _, calls = data
    lips, out = LipSync(small_checkpoint, search=FaceSearch("centerface")), folder / "out"
    listed = [pairs.Pair(folder / "data/a.mp4", folder / "data/b.mp4")]
    assert pairs.generate(listed, out, lips, pads=[0, 0, 0, 0])
    defaults = {"silence": "free", "lip_delay": 0, "mouth_gain": 1.0, "reference": "same", "blend": None}
    assert pairs.generate(listed, out, lips, pads=(0, 0, 0, 0), **defaults) and len(calls) == 1
    for other in ({"sizes": Sizes(face=60)}, {"silence": "closed"}, {"resize_factor": 2}):
        with pytest.raises(UserError, match=rf"made with other flags \({next(iter(other))}\)"):
            pairs.generate(listed, out, lips, pads=(0, 0, 0, 0), **other)
    precise = LipSync(small_checkpoint, search=lips.search, precision="fp32")
    with pytest.raises(UserError, match=r"made with other flags \(precision\)"):
        pairs.generate(listed, out, precise, pads=(0, 0, 0, 0))
    (out / "options.json").unlink()
    with pytest.raises(UserError, match="no options.json that describes them"):
        pairs.generate(listed, out, lips, pads=(0, 0, 0, 0))


def test_list_does_not_overwrite_a_video(data, capsys):
    folder, _, _ = data
    film = folder / "data/a.mp4"
    before = film.read_bytes()
    assert make_filelist.main(["--data_root", str(folder / "data"), "--filelist", str(film)]) == 2
    assert "give the list another" in capsys.readouterr().err and film.read_bytes() == before


def test_results_stay_while_their_sources_are_missing(data, capsys):
    """A disk that was not mounted used to cost days of results."""
    folder, common, calls = data
    command = ["--filelist", str(folder / "list.txt"), *common]
    gen_videos_from_filelist.main(command)
    (folder / "data/a.mp4").rename(folder / "elsewhere.mp4")
    (folder / "out/skipped/notes.txt").write_text("somebody's own")
    capsys.readouterr()
    assert gen_videos_from_filelist.main(command) == 1 and len(calls) == 2
    assert "0 of 4 videos" in (printed := capsys.readouterr().out) and printed.count("a.mp4 does not exist") == 2
    assert (folder / "out/0.mp4").exists() and (folder / "out/3.mp4").exists()
    (folder / "elsewhere.mp4").rename(folder / "data/a.mp4")
    assert gen_videos_from_filelist.main(command) == 1 and len(calls) == 2
    assert "2 of 4 videos" in capsys.readouterr().out


def test_each_video_is_found_once_and_results_are_not(tmp_path):
    for name in ("a.mp4", "sub/b.mp4", "out/a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_videos([tmp_path, tmp_path / "a.mp4", tmp_path / "sub"], without=tmp_path / "out")
    assert found == [tmp_path / "a.mp4", tmp_path / "sub/b.mp4"]
    assert find_videos([tmp_path / "out/a.mp4"], without=tmp_path / "out") == [tmp_path / "out/a.mp4"]
    assert set(pictures.MJPEG_SUFFIXES) <= set(VIDEO_SUFFIXES)  # which used to be read only if they were named
    for above in (tmp_path, tmp_path.parent):  # or nothing would be left
        assert len(find_videos([tmp_path], without=above)) == 3


def test_second_run_finds_the_same_videos(data):
    """Results in a folder below used to be taken for videos."""
    folder, common, calls = data
    common[common.index("--results_dir") + 1] = str(folder / "data/out")
    for _ in range(2):
        assert real_videos_inference.main(["--mode", "dubbed", *common]) == 1 and len(calls) == 3


def test_interrupted_run_says_what_is_kept(data, monkeypatch, capsys):
    folder, common, calls = data
    copy, stopped = LipSync.run, iter([False, True])

    def run(self, *files, **options):
        if next(stopped):
            raise KeyboardInterrupt
        copy(self, *files, **options)

    monkeypatch.setattr(LipSync, "run", run)
    assert gen_videos_from_filelist.main(["--filelist", str(folder / "list.txt"), *common]) == 130
    assert "finished videos stay in" in capsys.readouterr().err and (folder / "out/0.mp4").exists()


def test_videos_of_another_generator_are_not_reused(data, tmp_path, capsys):
    folder, common, calls = data
    command = ["--filelist", str(folder / "list.txt"), *common]
    gen_videos_from_filelist.main(command)
    other = torch.load(common[common.index("--checkpoint_path") + 1], weights_only=True)
    torch.save({**other, "global_step": 7}, tmp_path / "other.pth")
    assert gen_videos_from_filelist.main([*command, "--checkpoint_path", str(tmp_path / "other.pth")]) == 2
    assert "of another generator; give another --results_dir" in capsys.readouterr().err and len(calls) == 2


def test_generator_is_loaded_once_for_all_pairs(data, monkeypatch, capsys):
    folder, common, calls = data
    loaded, read = [], weights.read_checkpoint
    monkeypatch.setattr(weights, "read_checkpoint", lambda *args: loaded.append(read(*args)) or loaded[-1])
    gen_videos_from_filelist.main(["--filelist", str(folder / "list.txt"), *common])
    assert len(calls) == 2 and len(loaded) == 1


def test_processes_share_the_list(data, monkeypatch, capsys):
    folder, common, calls = data
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, (made, reports) in enumerate([([0], False), ([0, 3], True)]):
        monkeypatch.setenv("RANK", str(rank))
        gen_videos_from_filelist.main(["--filelist", str(folder / "list.txt"), *common])
        assert (
            sorted(int(path.stem) for path in pairs.numbered_videos(folder / "out")) == made
            and ("videos in" in capsys.readouterr().out) == reports
        )


def test_notes_of_an_earlier_run_do_not_count_as_done(data, monkeypatch, capsys):
    """A process used to say that all were done before another had retried its own."""
    folder, common, calls = data
    command = ["--filelist", str(folder / "list.txt"), *common]
    monkeypatch.setenv("WORLD_SIZE", "2")
    reported = []
    for rank in (0, 1, 0, 1, 1, 0):
        monkeypatch.setenv("RANK", str(rank))
        gen_videos_from_filelist.main(command)
        reported.append("videos in" in capsys.readouterr().out)
    assert reported == [False, True, False, True, False, True]


def test_wrong_checkpoint_stops_before_the_first_video(data, tmp_path, capsys):
    folder, common, calls = data
    torch.save({"a": torch.zeros(1)}, tmp_path / "wrong.pth")
    command = ["--filelist", str(folder / "list.txt"), *common, "--checkpoint_path", str(tmp_path / "wrong.pth")]
    assert gen_videos_from_filelist.main(command) == 2 and not calls and not (folder / "out").exists()


def test_dubbed_videos_keep_their_sound(data, capsys):
    folder, common, calls = data
    assert real_videos_inference.main(["--mode", "dubbed", *common, "--min_frame_res", "100", "--face_res", "60"]) == 1
    assert [a.face == a.audio for a in calls] == [True] * 3 and "bad.mp4" in capsys.readouterr().out
    assert calls[0].resize_factor == 2  # a face of about 110 pixels in a picture 240 high
    assert real_videos_inference.main(["--mode", "tts", *common]) == 2


def test_real_videos_of_a_list_put_the_video_first(data):
    folder, common, calls = data
    (folder / "list.txt").write_text("a.mp4 b.mp4\n")
    assert real_videos_inference.main(["--mode", "random", "--filelist", str(folder / "list.txt"), *common]) == 0
    assert [(a.face.name, a.audio.name, a.pads) for a in calls] == [("a.mp4", "b.mp4", [0, 10, 0, 0])]


FIGURES: dict[tuple, list[lse.Score] | Quality] = {}  # by the content of the videos, and how they were measured


def lse_of(path, *judge):
    """``lse.score_file``, but copies of a video are not measured again: the tests have three different ones."""
    content = (path.read_bytes(),)
    if content not in FIGURES:
        FIGURES[content] = lse.score_file(path, *judge)
    return [replace(score, file=str(path)) for score in FIGURES[content]]


def quality_of(made, source, search, report, *how, **face):
    """``quality.score_file``, likewise."""
    content = (made.read_bytes(), source.read_bytes(), *how, *face.values())
    if content not in FIGURES:
        FIGURES[content] = quality.score_file(made, source, search, report, *how, **face)
    return replace(FIGURES[content], file=str(made), source=str(source))


@pytest.fixture
def judged(data, negative, monkeypatch):
    """``data`` without the broken video; judges see greys, and generated videos are negatives of the real ones."""
    folder, common, calls = data
    (folder / "data/bad.mp4").unlink()
    copy = LipSync.run

    def run(self, face, audio, outfile, **options):
        copy(self, face, audio, outfile, **options)
        shutil.copy(negative, outfile)

    monkeypatch.setattr(LipSync, "run", run)
    monkeypatch.setattr(lse.weights, "load_model", lambda *_: Judge())
    monkeypatch.setattr(scores, "score_file", lse_of)
    monkeypatch.setattr(comparisons, "score_file", quality_of)
    monkeypatch.setattr(fid, "open_inception", lambda *_: lambda x: x.mean((1, 2)))
    return folder, common, calls


@pytest.fixture
def judged_pair(judged):
    """``judged`` with two videos, each with the sound of the other."""
    (judged[0] / "data/c.mp4").unlink()
    return judged


def test_run_all(judged_pair, capsys):
    folder, common, calls = judged_pair
    for _ in range(2):
        assert run_all.main(common) == 0
        out = capsys.readouterr().out
        assert len(calls) == 2 and "6.386    7.789    4.887" in out
    rows = json.loads((folder / "out/scores.json").read_text())
    assert rows["not scored"] == {} and [rows[name]["faces"] for name in COMPARED] == [2, 2]
    expected = [lse.score_file(folder / name, Judge())[0].lse_d for name in ("data/a.mp4", "out/0.mp4")]
    assert [rows[name]["LSE-D"] for name in COMPARED] == pytest.approx(expected) and expected[0] != expected[1]
    assert rows["generated"]["FID"] > 100  # greys of a picture and of its negative


def test_stray_numbered_videos_are_ignored(data):
    """A stray 2024.mp4 in the folder used to end the evaluation after all the work."""
    folder, _, _ = data
    for number in (0, 1, 2024):
        shutil.copy(folder / "data/a.mp4", folder / f"{number}.mp4")
    made = pairs.Made([pairs.Pair(folder / "data/a.mp4", folder / "data/b.mp4")] * 2, folder)
    assert list(made.finished) == [0, 1]


def test_pictures_are_compared_on_the_face_that_was_lip_synced(data, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(protocol, "compare_files", lambda *given: asked.append(given[4:]) or Comparisons())
    found = protocol.Evaluation(tmp_path, {"matched": pairs.Made([], tmp_path)})
    protocol.compare_pictures(found, FaceSearch(), ResolvedOptions(face_index=1, pads=(1, 2, 3, 4)), SILENT)
    assert [(pads, face_index) for pads, _, face_index in asked] == [((1, 2, 3, 4), 1)]


def test_evaluation_adds_no_pads_by_default(monkeypatch, small_checkpoint, tmp_path):
    """As in the reference's evaluation, and unlike lip-syncing."""
    used = []
    monkeypatch.setattr(protocol.pairs, "generate", lambda *_, pads: used.append(pads))  # and others are still at work
    for options in ({}, {"pads": (1, 2, 3, 4)}):
        given = LipSync(small_checkpoint), {protocol.GENERATED: []}, tmp_path, protocol.Panel(Judge())
        assert protocol.evaluate(*given, **options) is None
    assert used == [(0, 0, 0, 0), (1, 2, 3, 4)]


def test_takes_are_compared_on_the_sources_that_all_of_them_have(monkeypatch, tmp_path):
    """Other sources may be sharper."""
    rest = dict.fromkeys(("psnr", "ssim", "motion", "flicker", "upper_flicker", "seam", "jitter"), 1.0)
    sharp = {"generated": {"a": 0.5, "b": 0.9}, "matched": {"a": 0.7}, "silent": {}}

    def compare(listed, search, report, judges, pads, name, face_index):
        return Comparisons([Quality("", one, 9, sharpness=it, **rest) for one, it in sharp[name.split()[1]].items()])

    monkeypatch.setattr(protocol, "compare_files", compare)
    for takes, expected in ((("generated", "matched"), [0.5, 0.7]), (("generated", "matched", "silent"), [0.7, 0.7])):
        found = protocol.Evaluation(tmp_path, {take: pairs.Made([], tmp_path / take) for take in takes})
        protocol.compare_pictures(found, FaceSearch(), ResolvedOptions(), SILENT)
        assert [found.rows[take]["sharpness"] for take in takes[:2]] == pytest.approx(expected)


def test_run_all_measures_all_takes(judged_pair, capsys):
    """Each video is also made with its own sound and in silence; all their figures are shown, or named as missing."""
    folder, common, calls = judged_pair
    common = [*common, "--takes", "matched", "silent", "--no_fid"]
    assert run_all.main(common) == 0 and len(calls) == 6
    out = capsys.readouterr().out
    assert [a.audio.parent.name for a in calls[2:]] == ["data"] * 2 + ["sound"] * 2
    assert all(a.face == a.audio for a in calls[2:4]) and "not measured: csim; --identity" in out
    rows = json.loads((folder / "out/scores.json").read_text())
    generated, matched = rows["generated"], rows["matched"]
    assert rows["discrepancy"]["LSE-D"] == pytest.approx(generated["LSE-D"] - matched["LSE-D"])
    assert {"psnr", "ssim", "seam"} < matched.keys() and {"motion", "jitter"} < rows["silent"].keys()
    assert matched["psnr"] < 20 and rows["silent"]["motion"] == pytest.approx(1, abs=0.1)  # it is the negative
    lines = list(csv.DictReader((folder / "out/scores.csv").read_text().splitlines()))
    assert [row["row"] for row in lines] == ["real videos", "generated", "matched", "discrepancy", "silent"]
    videos = list(csv.DictReader((folder / "out/videos.csv").read_text().splitlines()))
    assert len(videos) == 6 and [row["take"] for row in videos] == sorted(row["take"] for row in videos)
    assert all((row["psnr"] == "") == (row["take"] != "matched") for row in videos)  # it means nothing for other takes
    assert all((row["motion"] == "") == (row["take"] != "silent") for row in videos)
    assert all(Path(row["source"]).parent.name == "data" and row["speech"].endswith((".mp4", ".wav")) for row in videos)
    assert [rows[take]["videos"] for take in ("generated", "matched", "silent")] == [2, 2, 2]


def test_run_all_uses_every_judge(judged_pair, capsys, monkeypatch):
    """The judges' answers are known, because the generated videos are the negatives of their sources."""
    folder, common, _ = judged_pair
    asked = []

    def opened(judge):
        return lambda path, *_: asked.append(path) or judge

    stand_ins = {
        "landmarks": lambda face: np.full((68, 2), face.mean()) + np.arange(136).reshape(68, 2),
        "lpips": lambda one, other: float(np.abs(one.astype(float) - other).mean() / 255),
        "identity": lambda face: face.mean((0, 1)) - 127.5,
    }
    known = {name: judges.NETWORKS[name]._replace(open=opened(judge)) for name, judge in stand_ins.items()}
    monkeypatch.setattr(judges, "NETWORKS", known)
    flags = [word for name in stand_ins for word in (f"--{name}", f"{name}.pth")]
    assert run_all.main([*common, "--takes", "matched", "silent", "--no_fid", *flags]) == 0
    assert [Path(path).name for path in asked] == ["landmarks.pth", "lpips.pth", "identity.pth"]
    rows = json.loads((folder / "out/scores.json").read_text())
    assert {"lmd", "lpips"} < rows["matched"].keys() and {"leak", "lip_motion"} < rows["silent"].keys()
    assert all(rows[take]["csim"] < -0.9 for take in ("generated", "matched", "silent"))  # their greys are opposite
    missing = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not measured")]
    assert missing == ["not measured: FVD; no package for it is maintained (docs/measuring.md)"]


def test_run_all_reports_why_videos_are_missing(judged, capsys):
    folder, common, _ = judged
    (folder / "list.txt").write_text("b a\na bad\n")
    (folder / "data/bad.mp4").write_text("no video")
    command = [*common, "--filelist", str(folder / "list.txt"), "--takes", "silent", "--no_fid"]
    assert run_all.main(command) == 1
    out, err = capsys.readouterr()
    assert out.count("bad.mp4 is not a video") == 2 and "1 of 2 pairs were skipped" in err
    rows = json.loads((folder / "out/scores.json").read_text())
    assert rows["generated"]["faces"] == 1 and "motion" in rows["silent"]
    assert "bad.mp4 is not a video" in rows["skipped"]["generated"]["1"] and set(rows["skipped"]) == {
        "generated",
        "silent",
    }


def test_success_is_a_share_of_all_pairs(monkeypatch, tmp_path):
    """Of four pairs, one has no video, and another's is not in sync."""
    for name in ("0.mp4", "1.mp4", "2.mp4"):
        (tmp_path / name).touch()

    def score(paths, *_):
        return scores.Scores([lse.Score(str(path), 0, 6.0, 1.0 if path.stem == "1" else 7.0, 0, 50) for path in paths])

    monkeypatch.setattr(protocol, "score_files", score)
    listed = [pairs.Pair(tmp_path / "x.wav", tmp_path / name) for name in ("a.mp4", "b.mp4", "a.mp4", "c.mp4")]
    found = protocol.Evaluation(tmp_path, {protocol.GENERATED: pairs.Made(listed, tmp_path)})
    protocol.compare_sync(found, protocol.Panel(Judge()), None, SILENT)
    assert [found.rows[name]["success"] for name in COMPARED] == [1, 2 / 4]


def test_a_failed_fid_loses_no_other_figure(monkeypatch, tmp_path):
    """It came before the others, and an error in it ended all; they had to be measured again."""
    (tmp_path / "0.mp4").touch()

    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(protocol.fid, "compare", fail)
    monkeypatch.setattr(
        protocol, "score_files", lambda paths, *_: scores.Scores([lse.Score(str(p), 0, 6.0, 7.0, 0, 50) for p in paths])
    )
    found = protocol.Evaluation(
        tmp_path, {protocol.GENERATED: pairs.Made([pairs.Pair(tmp_path / "x.wav", tmp_path / "a.mp4")], tmp_path)}
    )
    protocol.compare_sync(found, protocol.Panel(Judge(), lambda pictures: pictures), None, SILENT)
    assert found.rows[protocol.GENERATED]["LSE-D"] == 6.0 and found.failed == {"FID": "out of memory"}
    with pytest.raises(RuntimeError, match="could not be scored"):
        found.check()


def test_drawn_heads_are_compared_with_the_one_that_speaks(monkeypatch, tmp_path):
    """Videos that are no drawn heads, or damaged, do not count."""
    for number in range(3):
        (tmp_path / f"{number}.mp4").touch()
    opening = np.clip(np.sin(np.arange(100) / 3), 0, None)
    asked = []

    def compare_head(made, filmed, speaker):
        asked.append((made.name, filmed.name, speaker.name))
        if made.stem == "1":
            raise UserError("cut short")
        return aperture.compare_apertures(np.roll(opening, 2), opening) if made.stem == "0" else None

    monkeypatch.setattr(protocol.aperture, "compare_head", compare_head)
    listed = [pairs.Pair(tmp_path / f"voice {n}.mp4", tmp_path / f"face {n}.mp4") for n in range(3)]
    found = protocol.Evaluation(tmp_path, {protocol.GENERATED: pairs.Made(listed, tmp_path)})
    found.rows[protocol.GENERATED] = {"LSE-D": 7.0}
    protocol.compare_heads(found)
    row = found.rows[protocol.GENERATED]
    assert asked == [(f"{n}.mp4", f"face {n}.mp4", f"voice {n}.mp4") for n in range(3)]
    assert (row["LSE-D"], row["lag"]) == (7, 2) and row["r"] == pytest.approx(1)
    assert found.failed == {str(tmp_path / "1.mp4"): "cut short"}


def test_run_all_checks_the_videos_before_it_downloads(tmp_path, capsys):
    command = ["--data_root", str(tmp_path / "none"), "--results_dir", str(tmp_path), "--checkpoint_path", "demo"]
    assert run_all.main(command) == 2
    assert capsys.readouterr().err == f"error: --data_root {tmp_path / 'none'} is not a folder\n"


def test_run_all_compares_the_same_pairs(judged, capsys):
    """If a video cannot be scored, its partner is left out too, and this is reported."""
    folder, common, _ = judged
    common = [*common, "--no_fid"]
    run_all.main(common)
    listed = pairs.read_filelist(folder / "out/filelist.txt", folder / "data", audio_first=True)
    listed[0].video.write_bytes(bytes(listed[0].video.stat().st_size))
    (folder / "out/1.mp4").write_text("gone bad too")
    capsys.readouterr()
    assert run_all.main(common) == 1
    out, err = capsys.readouterr()
    rows = json.loads((folder / "out/scores.json").read_text())
    assert [rows[name]["faces"] for name in COMPARED] == [1, 1] and len(rows["not scored"]) == 2
    assert out.count("not scored: ") == 2 and "2 videos or figures could not be scored" in err


def test_all_takes_weigh_videos_by_the_list_of_pairs(judged):
    """A video listed twice used to count twice among the generated, but once among those with their own sound."""
    folder, common, _ = judged
    (folder / "list.txt").write_text("b a\nc a\na b\n")
    command = [*common, "--filelist", str(folder / "list.txt"), "--takes", "matched", "silent", "--no_fid"]
    assert run_all.main(command) == 0
    with open(folder / "out/videos.csv") as file:
        sharpness = {row["file"]: float(row["sharpness"]) for row in csv.DictReader(file) if row["sharpness"]}
    rows = json.loads((folder / "out/scores.json").read_text())
    of_take = {take: [sharpness[str(folder / "out" / take / f"{n}.mp4")] for n in (0, 0, 1)] for take in ("matched",)}
    assert rows["matched"]["sharpness"] == pytest.approx(np.mean(of_take["matched"]))
    assert [rows[take]["videos"] for take in ("generated", "matched", "silent")] == [3, 3, 3]


def test_a_mute_source_loses_only_what_needs_its_sound(judged_pair, capsys):
    """Its pair lost the figures of pictures, and FID was not measured at all."""
    folder, common, _ = judged_pair
    (folder / "list.txt").write_text("b a\n")
    run_ffmpeg("-i", folder / "data/a.mp4", "-an", "-c", "copy", folder / "mute.mp4")
    shutil.copy(folder / "data/a.mp4", folder / "data/b.mp4")
    (folder / "mute.mp4").replace(folder / "data/a.mp4")
    assert run_all.main([*common, "--filelist", str(folder / "list.txt")]) == 1
    rows = json.loads((folder / "out/scores.json").read_text())
    assert list(rows["not scored"]) == [str(folder / "data/a.mp4")]
    assert rows["generated"]["FID"] > 100 and rows["generated"]["videos"] == 1
    assert len((folder / "out/videos.csv").read_text().splitlines()) == 2


def test_judges_are_asked_only_for_figures_of_the_take(judged_pair, monkeypatch):
    """The landmarks of every generated video took most of the time, and were thrown away."""
    _, common, _ = judged_pair
    asked = []
    known = {
        "landmarks": lambda face: asked.append("landmarks"),
        "identity": lambda face: asked.append("identity") or face[0, 0],
    }
    for name, judge in known.items():
        monkeypatch.setitem(judges.NETWORKS, name, judges.NETWORKS[name]._replace(open=lambda *_, judge=judge: judge))
    assert run_all.main([*common, "--no_fid", "--landmarks", "x", "--identity", "x"]) == 0
    assert set(asked) == {"identity"}


def test_figures_measured_before_an_interruption_are_saved(judged_pair, monkeypatch):
    """LSE and FID of hours were lost with the comparison that was interrupted."""
    folder, common, _ = judged_pair

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(protocol, "compare_files", interrupted)
    assert run_all.main([*common, "--no_fid"]) == 130
    scores = json.loads((folder / "out/scores.json").read_text())
    assert scores["generated"]["LSE-D"] > 0 and "stopped before" in str(scores["not scored"])
    assert not (folder / "out/videos.csv").exists()


def test_results_are_those_of_the_same_files_by_another_name(data):
    """From another working folder, or through a link, they were "of another list", to be deleted."""
    folder, common, calls = data
    (folder / "link").symlink_to(folder / "data")
    for root in ("data", "link", "data"):
        if root == "link":  # of results of an earlier program
            known = (folder / "out/pairs.json").read_text()
            (folder / "out/pairs.json").write_text(known.replace(f"{folder}/data", f"{folder}/other/../data"))
        command = ["--filelist", str(folder / "list.txt"), "--data_root", str(folder / root), *common[2:]]
        assert gen_videos_from_filelist.main(command) == 1
    assert len(calls) == 2


def test_silence_follows_changes_of_its_video(judged_pair, talking):
    """A video that replaced another, however old, used to be made with the silence of the first."""
    folder, common, _ = judged_pair
    command = [*common, "--takes", "silent", "--no_fid"]
    assert run_all.main(command) == 0
    silence = folder / "out/silent/sound/0.wav"
    before = silence.stat().st_size
    longer = folder / "longer.mp4"
    run_ffmpeg("-stream_loop", 1, "-i", talking, "-c", "copy", longer)
    os.utime(longer, (0, 0))
    longer.replace(pairs.read_filelist(folder / "out/filelist.txt", folder / "data", audio_first=True)[0].video)
    protocol.list_takes(folder / "data", folder / "out", folder / "out/filelist.txt", takes=["silent"])
    assert silence.stat().st_size > 1.5 * before


def test_run_all_counts_a_video_in_each_of_its_pairs(judged, capsys):
    """The real a.mp4 is in two pairs, of which one cannot be scored: it counts once, as its partner does."""
    folder, common, _ = judged
    (folder / "list.txt").write_text("b a\nc a\na b\n")
    command = [*common, "--filelist", str(folder / "list.txt"), "--no_fid"]
    assert run_all.main(command) == 0
    (folder / "out/0.mp4").write_text("gone bad")
    assert run_all.main(command) == 1
    rows = json.loads((folder / "out/scores.json").read_text())
    assert [rows[name]["faces"] for name in COMPARED] == [2, 2]


def test_results_do_not_mix_with_the_videos(judged_pair, capsys):
    folder, common, calls = judged_pair
    common = [*common, "--no_fid"]
    place = common.index("--results_dir") + 1
    within = [*common[:place], str(folder / "data" / "out"), *common[place + 1 :]]
    assert run_all.main(within) == run_all.main(within) == 0 and len(calls) == 2
    among = [*common[:place], str(folder / "data"), *common[place + 1 :]]
    assert run_all.main(among) == 2 and "videos would mix" in capsys.readouterr().err


def test_run_all_without_a_single_matched_video(judged, monkeypatch, capsys):
    folder, common, _ = judged
    negate = LipSync.run

    def run(self, face, audio, outfile, **options):
        if face == audio:
            raise UserError("no face at all")
        negate(self, face, audio, outfile, **options)

    monkeypatch.setattr(LipSync, "run", run)
    assert run_all.main([*common, "--takes", "matched", "--no_fid"]) == 1
    assert "3 of 3 pairs were skipped" in capsys.readouterr().err
    rows = json.loads((folder / "out/scores.json").read_text())
    assert rows["generated"]["faces"] == 3 and "discrepancy" not in rows


def test_run_all_with_matched_videos_of_other_pairs_only(judged, monkeypatch, capsys):
    """One video can be made only with the other's sound, the other only with its own."""
    folder, common, _ = judged
    negate = LipSync.run

    def run(self, face, audio, outfile, **options):
        if (audio.stem, face.stem) in {("a", "b"), ("a", "a")}:
            raise UserError("no face at all")
        negate(self, face, audio, outfile, **options)

    monkeypatch.setattr(LipSync, "run", run)
    (folder / "list.txt").write_text("b a\na b\n")
    command = [*common, "--filelist", str(folder / "list.txt"), "--takes", "matched", "--no_fid"]
    assert run_all.main(command) == 1 and "1 of 2 pairs were skipped" in capsys.readouterr().err
    rows = json.loads((folder / "out/scores.json").read_text())
    assert rows["generated"]["faces"] == 1 and "discrepancy" not in rows and "psnr" in rows["matched"]


def test_run_all_keeps_the_list_of_its_videos(judged, capsys):
    """Another draw is refused before it replaces the first; names that a list cannot hold are reported."""
    folder, common, _ = judged
    others = ["a\ttab.mp4", os.fsdecode(b"m\xfcller.mp4")]  # the second as in old archives, which used to crash
    for name in others:
        shutil.copy(folder / "data/a.mp4", folder / "data" / name)
    assert run_all.main([*common, "--no_fid"]) == 0
    assert r"left out" in (out := capsys.readouterr().out) and r"'a\ttab.mp4', 'm\udcfcller.mp4'" in out
    first_list = (folder / "out/filelist.txt").read_text()
    assert run_all.main([*common, "--no_fid", "--count", "2"]) == 2
    assert "holds videos of another list, filelist.txt" in capsys.readouterr().err
    assert (folder / "out/filelist.txt").read_text() == first_list


def test_videos_of_a_changed_file_are_made_again(judged, capsys):
    folder, common, calls = judged
    common = [*common, "--no_fid", "--takes", "silent"]
    assert run_all.main(common) == 0 and len(calls) == 6
    run_ffmpeg("-i", folder / "data/a.mp4", "-t", "0.5", folder / "data/short.mp4")
    (folder / "data/short.mp4").replace(folder / "data/a.mp4")
    assert run_all.main([*common, "--filelist", str(folder / "out/filelist.txt")]) == 0
    new = calls[6:]
    assert len(new) == 3 and all("a" in (call.face.stem, call.audio.stem) for call in new)  # as face, as sound, silent
    assert wavfile.read(new[2].audio)[1].size < 9000


def test_videos_without_a_figure_are_left_out_of_its_mean(tmp_path):
    """The JSON has no NaN, which most programs refuse to read."""
    rest = dict.fromkeys(("ssim", "sharpness", "flicker", "upper_flicker", "seam", "jitter"), 1.0)
    found = [
        Quality("", "", 2, psnr=psnr, motion=motion, **rest) for psnr, motion in ((inf, nan), (30, 0.2), (40, 0.4))
    ]
    assert table.quality_row("silent", found)["motion"] == pytest.approx(0.3)
    assert table.quality_row("matched", found)["psnr"] == pytest.approx(35)
    Comparisons(found).save(tmp_path / "q.json")
    scores = json.loads((tmp_path / "q.json").read_text(), parse_constant=pytest.fail)["scores"]
    assert scores[0]["psnr"] is None and scores[1]["motion"] == 0.2


def test_run_all_without_a_single_video_says_why(judged, monkeypatch, capsys):
    folder, common, _ = judged
    monkeypatch.setattr(LipSync, "run", lambda *_, **__: (_ for _ in ()).throw(ValueError("no face at all")))
    assert run_all.main(common) == 1
    out, err = capsys.readouterr()
    assert out.count("no face at all") == 3 and "3 of 3 pairs were skipped" in err


def test_clip_without_a_lasting_face_is_refused(tmp_path, speech):
    write_clip(tmp_path / "grey.mp4", np.full((15, 96, 128, 3), 90, np.uint8))
    run_ffmpeg("-i", tmp_path / "grey.mp4", "-i", speech, "-c:v", "copy", "-shortest", tmp_path / "grey sound.mp4")
    with pytest.raises(ValueError, match="no face is visible for 10 frames"):
        lse.score_file(tmp_path / "grey sound.mp4", Judge(), FaceSearch("centerface"))


@pytest.mark.parametrize("seconds, windows", [(1.2, 10), (0.48, 7)])
def test_lse_leaves_the_last_window_out(tmp_path, brief, speech, seconds, windows):
    """As in the official program: min(frames, frames of sound) - 5 windows, even if there is more sound."""
    maps = ("-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", "pcm_s16le")
    run_ffmpeg("-i", brief, "-t", seconds, "-i", speech, *maps, tmp_path / "x.mkv")
    assert lse.score_file(tmp_path / "x.mkv", Judge())[0].frames == windows + 4


@pytest.mark.parametrize("size, face, factor", [
    ((1920, 1080), 500, 1.5), ((3840, 2160), 900, 3.0), ((1280, 720), 500, 1.0), ((640, 360), 90, 1.0),
])  # fmt: skip
def test_videos_are_shrunk_to_the_papers_maximum(monkeypatch, tmp_path, size, face, factor):
    """Videos of 1080 lines used to be shrunk to 540; the reference leaves 720."""
    info = video.VideoInfo(tmp_path / "x.mp4", *size, Fraction(25))
    monkeypatch.setattr("evaluation.sizes.video.probe", lambda _: info)
    box = np.array([[10.0, 10.0, 10.0 + 0.8 * face, 10.0 + face]])
    monkeypatch.setattr("evaluation.sizes.follow_face", lambda *_: box)
    lips = SimpleNamespace(search=SimpleNamespace(find=lambda *_: None), device=None)
    assert Sizes().shrink_factor(lips, tmp_path / "x.mp4") == pytest.approx(factor)


@pytest.mark.parametrize("size, warnings", [((224, 224), 0), ((160, 160), 0), ((320, 240), 1), ((640, 640), 1)])
def test_scoring_whole_frames_as_faces_warns(tmp_path, told, size, warnings):
    """For ordinary videos, the sync scores meant nothing, and there used to be no warning."""
    write_clip(tmp_path / "talk.mp4", np.zeros((2, *size[::-1], 3), np.uint8))
    scores.warn_of_whole_frames([tmp_path / "talk.mp4", tmp_path / "none.mp4"], told)
    scores.warn_of_whole_frames([tmp_path / "none.mp4"], told)
    assert len(told.notes) == warnings and all("add --crop_faces" in note for note in told.notes)
