"""A folder of videos -> training data: layout, rates, what is dropped and why, restarts, processes, and the split."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib.util
import io
import json
import os
import shutil
import threading
import time
import types
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.io import wavfile

import audio
import faces
import files
import preprocess
import preprocessing
import video
from boxes import crop_with_border
from conftest import X264, half_size, run_ffmpeg, write_clip
from demo import talking_head
from devices import cpu_count
from errors import UserError
from face_detection import FaceAlignment
from face_detection.centerface import CenterFace
from face_detection.detectors import create_detector
from face_detection.geometry import intersection_over_union
from faces import FaceSearch
from hparams import hparams as hp
from models import SyncNet_color
from preprocessing import Clip, Dropped, Kept, PreprocessingOptions, cutting, find_clips, syncing, write_filelists
from preprocessing.clips import find_finished, note_kept
from preprocessing.pieces import divide, join_interrupted
from preprocessing.report import Tally
from preprocessing.split import split_groups
from preprocessing.workers import cut_clips, plan_workers
from reporting import Reporter


@pytest.fixture(scope="module")
def clip(tmp_path_factory, astronaut, speech) -> Path:
    """Sixteen frames of a face at 25 fps, 160x120, and 1.2 s of sound."""
    path = tmp_path_factory.mktemp("clip") / "talk.mp4"
    half = half_size(astronaut)
    film(path, np.stack([half[0:120, 30 + i : 190 + i] for i in range(16)]), sound=speech)
    return path


READ: dict[tuple, cutting.SpeakerVideo] = {}  # what videos show, by their content and the detector


@pytest.fixture
def read_once(monkeypatch):
    """Remember what videos show: for tests of what happens to videos that are copies of one another."""
    read = cutting.read_speaker

    def remembered(source: Path, search: FaceSearch) -> cutting.SpeakerVideo:
        key = source.read_bytes(), search.detector_name()
        if key not in READ:
            READ[key] = read(source, search)
        status, info = source.stat(), dataclasses.replace(READ[key].info, path=source)
        return dataclasses.replace(READ[key], info=info, bytes=status.st_size, modified=status.st_mtime_ns)

    monkeypatch.setattr(cutting, "read_speaker", remembered)


def folders_in(folder: Path) -> types.SimpleNamespace:
    """Return an input folder to put clips into, and the output folders that are to appear."""
    roots = types.SimpleNamespace(videos=folder / "videos", data=folder / "data", lists=folder / "lists")
    roots.videos.mkdir()
    return roots


@pytest.fixture(scope="module")
def small_expert(tmp_path_factory) -> str:
    """An expert that has learned nothing, for tests in which its verdicts are irrelevant."""
    path = tmp_path_factory.mktemp("expert") / "small.pth"
    torch.save({"state_dict": SyncNet_color(0.125).state_dict(), "width": 0.125}, path)
    return str(path)


@pytest.fixture
def roots(tmp_path) -> types.SimpleNamespace:
    return folders_in(tmp_path)


def run(roots, *options: str) -> int:
    folders = ("--data_root", roots.videos, "--preprocessed_root", roots.data, "--filelists", roots.lists)
    return preprocess.main([*map(str, folders), "--face_detector", "centerface", "--workers", "1", *options])


def put(clip: Path, roots, *names: str) -> None:
    for name in names:
        (roots.videos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, roots.videos / name)


def film(path: Path, frames: np.ndarray, fps: str = "25", sound: Path | None = None) -> None:
    """Write frames (N, H, W, 3) with a sound file under them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, frames, fps, *(("-i", sound) if sound else ()), *X264)


def report(roots) -> dict:
    return json.loads((roots.data / "report.json").read_text())


def dropped(roots) -> dict[str, str]:
    return {clip["source"]: clip["reason"] for clip in report(roots)["dropped"]}


def kept(roots) -> list[str]:
    return [clip["clip"] for clip in report(roots)["kept"]]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --------------------------------------------------------------------------------------------------------------------
# What is written


@pytest.fixture(scope="module")
def finished_run(clip, tmp_path_factory) -> tuple[types.SimpleNamespace, str]:
    """The folders of a run on one clip, speaker/talk.mp4, and what it printed."""
    roots = folders_in(tmp_path_factory.mktemp("finished"))
    put(clip, roots, "speaker/talk.mp4")
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert run(roots) == 0
    return roots, output.getvalue()


def test_layout_of_a_clip(finished_run):
    roots, output = finished_run
    folder = roots.data / "speaker" / "talk"
    assert names(folder) == {*(f"{i}.jpg" for i in range(16)), "audio.wav", "mel.npy", "clip.json"}
    assert names(folder.parent) == {"talk"}

    out = report(roots)
    assert (out["frames"], out["frames_with_face"], out["converted"], out["dropped"]) == (16, 16, {}, [])
    assert out["detector_frames_per_second"] > 0
    assert "1 kept, 0 dropped" in output and "sync       not checked; --sync report tells" in output


def test_sound_and_mel(finished_run):
    folder = finished_run[0].data / "speaker" / "talk"
    rate, samples = wavfile.read(folder / "audio.wav")
    assert (rate, samples.dtype, samples.ndim) == (16000, np.int16, 1)
    heard = audio.load_wav(folder / "audio.wav")
    assert np.abs(heard).max() == pytest.approx(0.4, abs=0.05)  # as loud as the source

    mel = np.load(folder / "mel.npy")
    assert mel.dtype == np.float32 and mel.shape == (1 + len(samples) // 200, 80)
    np.testing.assert_array_equal(mel, audio.melspectrogram(heard).T)


def test_interlaced_videos_are_deinterlaced(roots, astronaut, speech):
    half = half_size(astronaut)
    moments = [half[0:120, 20 + 2 * i : 180 + 2 * i] for i in range(32)]
    woven = np.stack(moments[0::2])
    woven[:, 1::2] = np.stack(moments[1::2])[:, 1::2]
    lossless = ("-vf", "setfield=tff", "-c:v", "ffv1", "-pix_fmt", "yuv420p")
    write_clip(roots.videos / "woven.mkv", woven, "25", "-i", speech, *lossless)
    assert run(roots) == 0 and kept(roots) == ["videos/woven"]
    rows = cv2.imread(str(roots.data / "videos/woven/5.jpg")).astype(float).mean(axis=2)
    # with combs, each row would be more like the next but one than like the next
    assert np.abs(rows[2:] - rows[:-2]).mean() > 1.2 * np.abs(rows[1:] - rows[:-1]).mean()


def test_channels_that_cancel_out_are_not_silence(roots, clip):
    run_ffmpeg("-i", clip, "-c:v", "copy", "-af", "pan=stereo|c0=c0|c1=-1*c0", roots.videos / "anti.mkv")
    assert run(roots) == 0 and kept(roots) == ["videos/anti"]
    assert np.abs(audio.load_wav(roots.data / "videos/anti/audio.wav")).max() > 0.3


def test_crops_match_the_boxes_of_the_reference_api(roots, clip):
    put(clip, roots, "speaker/talk.mp4")
    run(roots, "--batch_size", "4", "--face_detector", "haar")
    frames = list(video.read_frames(video.probe(clip)))
    boxes = cutting.read_speaker(clip, FaceSearch("haar", batch_size=4)).boxes
    searched_whole = FaceAlignment(device="cpu", face_detector="haar").get_detections_for_batch(np.stack(frames))
    assert min(map(intersection_over_union, boxes, np.array(searched_whole))) > 0.9
    for i, (frame, (x1, y1, x2, y2)) in enumerate(zip(frames, boxes.astype(int))):
        expected = cv2.imdecode(cv2.imencode(".jpg", frame[y1:y2, x1:x2])[1], cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(cv2.imread(str(roots.data / f"speaker/talk/{i}.jpg")), expected)


def test_faces_at_the_edge_are_cut_as_inference_cuts_them(tmp_path):
    """Their boxes were clipped to the frame and stretched, mouths were in the wrong place, or not there at all."""
    boxes = np.array([[-5.0, -5, 10.9, 20], [50.0, 30, 90, 90], [70.0, 10, 90, 30], [np.nan] * 4, [20, -9, 50, 21]])
    frames = np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), np.uint8)
    shown = cutting.cut_faces(iter(frames), boxes, tmp_path)
    assert shown == [True, False, False, False, True]
    assert names(tmp_path) == {"0.jpg", "4.jpg"} and cv2.imread(str(tmp_path / "0.jpg")).shape == (25, 15, 3)
    decoded = cv2.imdecode(cv2.imencode(".jpg", crop_with_border(frames[4], (20, -9, 50, 21)))[1], cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "4.jpg")), decoded)


def test_one_person_is_followed_even_where_another_scores_higher(monkeypatch, tmp_path, speech):
    """In the reference the best score of each frame decided, and a clip could jump from face to face."""
    large, small = [10, 10, 110, 110], [150, 20, 220, 90]

    def search(found, frames, *_):
        for i, _ in enumerate(frames):
            scores = (0.7, 0.9) if i % 2 else (0.9, 0.7)
            best_first = sorted(zip((large, small), scores), key=lambda pair: -pair[1])
            found.boxes.append(np.array([[*box, score] for box, score in best_first], np.float32))
            found.change.append(0.0)
            yield 1

    monkeypatch.setattr(faces, "search", search)
    film(tmp_path / "two.mp4", np.zeros((12, 120, 240, 3), np.uint8), sound=speech)
    boxes = cutting.read_speaker(tmp_path / "two.mp4", FaceSearch("haar", batch_size=4)).boxes
    np.testing.assert_array_equal(boxes, [large] * 12)


def test_frame_without_a_face_leaves_a_hole(roots, small_photo, speech):
    frames = np.stack([small_photo] * 20)
    frames[6:9] = 0
    film(roots.videos / "s/hole.mp4", frames, sound=speech)
    assert run(roots) == 0
    pictures = {int(path.stem) for path in (roots.data / "s/hole").glob("*.jpg")}
    assert pictures == {*range(6), *range(9, 20)}
    assert (report(roots)["frames"], report(roots)["frames_with_face"]) == (20, 17)


def test_other_rates_become_25(roots, small_photo, speech, capsys):
    film(roots.videos / "s/thirty.mp4", np.stack([small_photo] * 30), "30", speech)
    assert run(roots) == 0
    assert {path.stem for path in (roots.data / "s/thirty").glob("*.jpg")} == {str(i) for i in range(25)}
    assert report(roots)["converted"] == {"s/thirty": 30.0}
    assert "1 from 30 to 25 fps" in capsys.readouterr().out


def test_clip_folder_matches_the_references(roots, shared, monkeypatch):
    """Frame numbers, crops and sound of a GRID clip with a fixed box."""
    box = np.array([96.0, 84, 242, 242])
    monkeypatch.setattr(cutting, "follow_face", lambda found, *_, **__: np.array([box] * len(found)))
    monkeypatch.setattr(CenterFace, "_detect", lambda *_: np.empty((0, 5), np.float32))
    put(shared / "grid_speakers/swiz3n.mpg", roots, "s0/00001.mpg")
    assert run(roots) == 0
    ours, golden = roots.data / "s0/00001", shared / "golden/preprocessed/s0/00001"
    assert names(ours) - names(golden) == {"mel.npy", "clip.json"} and names(golden) <= names(ours)
    for i in range(0, 75, 6):
        a, b = (cv2.imread(str(folder / f"{i}.jpg")).astype(int) for folder in (ours, golden))
        assert a.shape == b.shape and np.abs(a - b).mean() < 3  # the golden ones were compressed more
    rate, sound = wavfile.read(golden / "audio.wav")
    assert rate == 16000
    assert np.abs(wavfile.read(ours / "audio.wav")[1].astype(int) - sound).max() <= 10  # another resampler


# --------------------------------------------------------------------------------------------------------------------
# What is dropped


def test_unusable_clips_are_dropped_with_reasons(roots, clip, talking_clip, small_photo, speech, capsys):
    put(clip, roots, "s/good.mp4")
    put(talking_clip, roots, "s/silent film.mp4")
    face = small_photo
    film(roots.videos / "s/faceless.mp4", np.zeros((10, 96, 96, 3), np.uint8), sound=speech)
    film(roots.videos / "s/brief.mp4", np.stack([face] * 4), sound=speech)
    film(roots.videos / "s/short.mp4", np.stack([face] * 15), sound=speech)
    film(roots.videos / "s/slides.mkv", np.stack([face] * 5), "5", speech)
    run_ffmpeg("-i", clip, "-c:v", "copy", "-af", "atrim=0:0.1", roots.videos / "s/click.mp4")
    run_ffmpeg("-i", clip, "-c:v", "copy", "-af", "volume=0", roots.videos / "s/mute.mp4")
    run_ffmpeg("-i", speech, roots.videos / "s/only sound.mp4")
    cv2.imwrite(str(roots.videos / "photo.png"), face)
    (roots.videos / "photo.png").rename(roots.videos / "s/photo.mp4")
    (roots.videos / "s/noise.mp4").write_bytes(bytes(range(256)) * 40)
    (roots.videos / "s/half.mp4").write_bytes(clip.read_bytes()[:4000])
    film(roots.videos / "s/cut.mkv", np.stack([face] * 50), sound=speech)
    (roots.videos / "s/cut.mkv").write_bytes((roots.videos / "s/cut.mkv").read_bytes()[:-2000])
    (roots.videos / "s/nothing.mp4").touch()

    assert run(roots) == 0
    assert kept(roots) == ["s/good"]
    assert dropped(roots) == {
        "s/silent film.mp4": "no audio", "s/mute.mp4": "no audio", "s/faceless.mp4": "no face",
        "s/brief.mp4": "too short", "s/short.mp4": "too short", "s/slides.mkv": "rate", "s/click.mp4": "too short",
        "s/only sound.mp4": "unreadable", "s/photo.mp4": "unreadable", "s/noise.mp4": "unreadable",
        "s/half.mp4": "unreadable", "s/nothing.mp4": "unreadable", "s/cut.mkv": "unreadable",
    }  # fmt: skip
    assert {name for name in names(roots.data / "s") if name[0] != "."} == {"good"}  # besides notes on the others
    out = capsys.readouterr().out
    assert "no face    s/faceless.mp4: no face in any of 10 frames, or only in profile" in out


def test_failing_detector_costs_one_clip(roots, clip, monkeypatch):
    haar, calls = create_detector("haar"), []

    class Failing(type(haar)):
        def detect(self, frames):
            calls.append(len(frames))
            if len(calls) == 1:
                raise RuntimeError("CUDA error: odd picture")
            return haar.detect(frames)

    monkeypatch.setattr(FaceSearch, "open", lambda *_: Failing())
    put(clip, roots, "s/1.mp4", "s/2.mp4")
    assert run(roots) == 0
    assert (kept(roots), dropped(roots)) == (["s/2"], {"s/1.mp4": "failed"})


@pytest.mark.usefixtures("read_once")
def test_full_disk_ends_the_run(roots, clip, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cutting, "write_sound", full)
    put(clip, roots, "s/1.mp4", "s/2.mp4")
    assert run(roots) == 1
    assert "No space left" in capsys.readouterr().err
    assert names(roots.data / "s") == {".1.boxes"}  # what was found is kept for the next run


def test_missing_folder_is_reported_as_missing(roots):
    """From Python, it used to be "no video in nowhere: looked at any depth"."""
    with pytest.raises(UserError, match="nowhere does not exist; give the folder that holds the videos"):
        preprocessing.preprocess(roots.videos / "nowhere", roots.data)


@pytest.mark.parametrize("files", [(), ("notes.txt", "s/.hidden.mp4", ".git/a.mp4")])
def test_folder_without_videos_is_refused(roots, files, capsys):
    for name in files:
        (roots.videos / name).parent.mkdir(exist_ok=True)
        (roots.videos / name).write_text("text")
    assert run(roots) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no video in ") and ".mp4" in error and error.count("\n") == 1
    assert ("notes.txt" in error) == bool(files)


def test_run_that_drops_every_video_fails(roots, talking_clip, capsys):
    put(talking_clip, roots, "s/a.mp4", "s/b.mp4")
    assert run(roots) == 2
    error = capsys.readouterr().err
    assert "none of the 2 videos" in error and "no audio 2" in error and error.count("\n") == 1
    assert len(report(roots)["dropped"]) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--split", "0.9,0.1"), "three numbers that sum to 1"),
        (("--split", "0.9,0.2,0.1"), "three numbers that sum to 1"),
        (("--split", "2,-1,0"), "three numbers that sum to 1"),
        (("--batch_size", "0"), "above 0"),
        (("--face_detector", "sfd", "--device", "cpu", "--ngpu", "2"), "--ngpu 2 needs as many GPUs"),
        (("--data_root", "/nowhere"), "/nowhere does not exist"),
        (("--preprocessed_root", "/dev/null/x"), "cannot write in /dev/null/x"),
        (("--data_root", ".", "--preprocessed_root", "."), "holds the videos; give another folder"),
    ],
)
def test_bad_arguments(roots, clip, options, words, capsys):
    put(clip, roots, "s/a.mp4")
    assert run(roots, *options) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


# --------------------------------------------------------------------------------------------------------------------
# As a library


def test_library_prints_nothing(roots, clip, talking_clip, capfd):
    put(clip, roots, "s/a.mp4")
    put(talking_clip, roots, "s/silent.mp4")
    steps = []

    class Counting(Reporter):
        def progress(self, stage, done, total):
            steps.append((stage, done, total))

    options = PreprocessingOptions(FaceSearch("haar"), workers=1)
    summary = preprocessing.preprocess(str(roots.videos), str(roots.data), options, Counting())
    assert ([clip.clip for clip in summary.kept], summary.frames, summary.reasons) == (["s/a"], 16, "no audio 1")
    assert json.loads(json.dumps(dataclasses.asdict(summary))) == report(roots)
    assert steps == [("Cutting faces", done, 2) for done in range(3)]
    assert capfd.readouterr() == ("", "")


def test_tallies_add_up():
    """All but elapsed time is summed: processes run at once, so that the longest counts."""
    clips, useless = finished("a/1.mp4", "b/2.mp4"), Dropped("c/3.mp4", "no face", "none")
    one, other = Tally([clips[0]], [useless], 1, 25, 0.5, 7.0), Tally([clips[1]], [], 2, 50, 0.25, 4.0)
    assert one + other == Tally(clips, [useless], 3, 75, 0.75, 7.0)
    assert sum([one, other], Tally()) == one + other


# --------------------------------------------------------------------------------------------------------------------
# Names


@pytest.mark.usefixtures("read_once")
def test_videos_are_found_at_any_depth_and_in_any_container(roots, clip):
    put(clip, roots, "top.mp4", "a/b/c/deep.mp4", "a/UPPER.MP4", "a/with space/x y.mp4")
    run_ffmpeg("-i", clip, "-c", "copy", roots.videos / "a/film.mkv")
    run_ffmpeg("-i", clip, roots.videos / "a/film.avi")
    put(clip, roots, "a/no_suffix")
    (roots.videos / "a/README").write_text("a text without a suffix")
    expected = {
        "videos/top", "a__b__c/deep", "a/UPPER", "a__with_space/x_y", "a/film", "a/film.mkv", "a/no_suffix",
    }  # fmt: skip
    assert {clip.name for clip in find_clips(roots.videos, roots.data)} == expected
    assert run(roots) == 0
    assert set(kept(roots)) == expected
    assert all((roots.data / name / "0.jpg").exists() for name in expected)


def test_names_never_collide(roots):
    sources = (
        "s/a.1.mp4", "s/a.2.mp4", "s/b.mkv", "s/b.mp4", "s/b.mkv.mp4", "s/c d.mp4", "s/c_d.mp4",
        "x/y/1.mp4", "x__y/1.mp4", "t/A.mp4", "T/a.mp4", "t/a.mkv",
    )  # fmt: skip
    for name in sources:
        (roots.videos / name).parent.mkdir(parents=True, exist_ok=True)
        (roots.videos / name).touch()
    clips = {clip.source: clip.name for clip in find_clips(roots.videos, roots.data)}
    assert set(clips) == set(sources) and len({name.casefold() for name in clips.values()}) == len(sources)
    assert (clips["s/a.1.mp4"], clips["s/a.2.mp4"]) == ("s/a.1", "s/a.2")
    assert (clips["s/b.mp4"], clips["s/b.mkv.mp4"], clips["s/b.mkv"]) == ("s/b", "s/b.mkv", "s/b.mkv.2")


@pytest.mark.parametrize("letter", ["y", "ü"])
@pytest.mark.usefixtures("read_once")
def test_long_names_fit_the_disk(roots, clip, letter):
    """The folders above a clip become one name, which may be longer than each of theirs."""
    long = letter * (250 // len(letter.encode()))
    put(clip, roots, f"s/{long}.mp4", f"s/{long[:-1]}z.mp4", f"{long}/{long}/{long[:5]}.mp4")
    clips = find_clips(roots.videos, roots.data)
    assert len({clip.name for clip in clips}) == 3
    assert all(len(part.encode()) <= 255 - len("..partial") for clip in clips for part in clip.name.split("/"))
    assert run(roots) == 0 and sorted(kept(roots)) == sorted(clip.name for clip in clips)


def test_links_are_followed_but_not_in_circles(roots, clip):
    put(clip, roots, "s/a.mp4")
    (roots.videos / "s/loop").symlink_to(roots.videos, target_is_directory=True)
    elsewhere = roots.videos.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(clip, elsewhere)
    (roots.videos / "linked").symlink_to(elsewhere, target_is_directory=True)
    assert {clip.name for clip in find_clips(roots.videos, roots.data)} == {"s/a", "linked/talk"}


# --------------------------------------------------------------------------------------------------------------------
# Restarts and processes


@pytest.mark.usefixtures("read_once")
def test_stopped_run_continues_with_the_unfinished_clip(roots, clip, monkeypatch, capsys):
    put(clip, roots, "s/1.mp4", "s/2.mp4")
    real_cut, cut = cutting.cut_faces, []

    def stop_in_the_second(frames, boxes, folder):
        cut.append(folder.parent.name)
        result = real_cut(frames, boxes, folder)
        if len(cut) == 2:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(cutting, "cut_faces", stop_in_the_second)
    assert run(roots) == 130
    assert names(roots.data / "s") == {"1"}
    assert "stopped" in capsys.readouterr().err

    stale = roots.data / "s/.2.partial"  # as kill -9 would leave it
    stale.mkdir()
    (stale / "999.jpg").write_bytes(b"half a pict")
    before = {path.name: path.stat().st_mtime_ns for path in (roots.data / "s/1").iterdir()}
    assert run(roots) == 0
    assert cut == [".1.partial", ".2.partial", ".2.partial"]
    assert {path.name: path.stat().st_mtime_ns for path in (roots.data / "s/1").iterdir()} == before
    assert names(roots.data / "s") == {"1", "2"} and not (roots.data / "s/2/999.jpg").exists()
    assert (kept(roots), report(roots)["finished_before"]) == (["s/1", "s/2"], 1)
    assert report(roots)["frames"] == 32


@pytest.mark.skipif(not importlib.util.find_spec("fcntl"), reason="this system has no file locks")
@pytest.mark.usefixtures("read_once")
def test_two_runs_do_not_cut_the_same_clip(roots, clip, capsys, monkeypatch):
    """The second used to empty the folder that the first was filling, later to leave the clip out. Now it waits."""
    put(clip, roots, "s/1.mp4")
    real_cut, codes, calls = cutting.cut_faces, [], []
    second = threading.Thread(target=lambda: codes.append(run(roots)), daemon=True)

    def run_again(*args):
        calls.append(args)
        if len(calls) == 1:
            second.start()
            time.sleep(0.5)
        return real_cut(*args)

    monkeypatch.setattr(cutting, "cut_faces", run_again)
    codes.append(run(roots))
    second.join()
    assert codes == [0, 0] and len(calls) == 1 and kept(roots) == ["s/1"]
    assert report(roots)["frames"] == len(list((roots.data / "s/1").glob("*.jpg"))) == 16
    assert names(roots.data) == {"s", "report.json"} and names(roots.data / "s") == {"1"}


@pytest.mark.usefixtures("read_once")
def test_changed_and_unfinished_clips_are_cut_again(roots, clip, small_photo, speech):
    """Another video of the same name, and a folder without clip.json; but never a folder with the user's files."""
    put(clip, roots, "s/changed.mp4", "s/old.mp4", "s/taken.mp4")
    old, taken = roots.data / "s/old", roots.data / "s/taken"
    old.mkdir(parents=True)
    (old / "99.jpg").touch()
    taken.mkdir()
    (taken / "thesis.tex").touch()
    assert run(roots) == 0
    assert dropped(roots) == {"s/taken.mp4": "in the way"} and names(taken) == {"thesis.tex"}
    assert not (old / "99.jpg").exists()

    film(roots.videos / "s/changed.mp4", np.stack([small_photo] * 17), sound=speech)
    run(roots)
    assert len(list((roots.data / "s/changed").glob("*.jpg"))) == 17
    assert report(roots)["finished_before"] == 1


@pytest.mark.usefixtures("read_once")
def test_system_files_do_not_block_a_clip(roots, clip, small_expert):
    """Opening a clip's folder in Finder used to drop the clip from the lists at the next --sync."""
    put(clip, roots, "s/a.mp4", "s/b.mp4")
    assert run(roots) == 0
    (roots.data / "s/a/.DS_Store").touch()
    (roots.data / "s/b/mine.txt").touch()
    assert run(roots, "--sync", "report", "--syncnet_checkpoint_path", small_expert) == 0
    assert kept(roots) == ["s/a", "s/b"]
    for name in "ab":
        os.truncate(roots.videos / f"s/{name}.mp4", (roots.videos / f"s/{name}.mp4").stat().st_size - 1)
    assert run(roots) == 0 and dropped(roots) == {"s/b.mp4": "in the way"}
    assert (roots.data / "s/b/mine.txt").exists()


@pytest.mark.usefixtures("read_once")
def test_clip_without_a_face_is_retried_with_another_detector(roots, clip, monkeypatch):
    """A face on its side, missed by Haar, used to be closed to all other detectors, for ever."""
    put(clip, roots, "s/a.mp4")
    monkeypatch.setattr(cutting, "check_faces", lambda _: (_ for _ in ()).throw(cutting.Unusable("no face", "none")))
    assert run(roots, "--face_detector", "haar") == 2
    monkeypatch.undo()
    assert run(roots, "--face_detector", "haar") == 2  # known from the first run
    monkeypatch.setattr(faces, "sfd_is_available", lambda *_: False)
    assert run(roots, "--face_detector", "auto") == 0 and kept(roots) == ["s/a"]
    assert names(roots.data / "s") == {"a"}


@pytest.mark.usefixtures("read_once")
def test_changed_content_of_the_same_size_is_cut_again(roots, clip):
    """A new date alone, as of a copy, is no change."""
    put(clip, roots, "s/a.mp4", "s/b.mp4", "s/c.mp4")
    assert run(roots) == 0 and report(roots)["finished_before"] == 0
    content = (roots.videos / "s/a.mp4").read_bytes()
    (roots.videos / "s/a.mp4").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # within the index, past all frames
    os.utime(roots.videos / "s/b.mp4", (1, 1))
    assert run(roots) == 0 and report(roots)["finished_before"] == 2


@pytest.mark.usefixtures("read_once")
def test_naming_another_detector_cuts_clips_again(roots, clip):
    put(clip, roots, "s/a.mp4")
    for detector, before in (("haar", 0), ("haar", 1), ("centerface", 0), ("centerface", 1), ("auto", 1)):
        assert run(roots, "--face_detector", detector) == 0
        assert report(roots)["finished_before"] == before, detector


def test_worker_processes(roots, clip):
    put(clip, roots, "s/1.mp4", "s/2.mp4", "s/3.mp4")
    (roots.videos / "s/4.mp4").write_text("not a video")
    assert run(roots, "--workers", "2") == 0
    assert (kept(roots), dropped(roots)) == (["s/1", "s/2", "s/3"], {"s/4.mp4": "unreadable"})


@pytest.mark.usefixtures("read_once")
def test_torchrun_ranks_share_and_merge(roots, clip, talking_clip, monkeypatch, capsys):
    put(clip, roots, "a/1.mp4", "b/1.mp4", "c/1.mp4")
    put(talking_clip, roots, "d/1.mp4")  # has no sound
    roots.data.mkdir()
    (roots.data / ".process 1 of 2.json").write_text("of a run that was stopped")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert run(roots, "--split", "0.4,0.3,0.3") == 0
        assert (roots.data / "report.json").exists() == (rank == "0")
        assert (roots.lists / "train.txt").exists() == (rank == "0")
    assert (kept(roots), dropped(roots)) == (["a/1", "b/1", "c/1"], {"d/1.mp4": "no audio"})
    assert report(roots)["frames"] == 48
    assert not list(roots.data.glob(".*"))
    assert "process 1 of 2: 1 clips kept" in capsys.readouterr().out


def test_gpus_and_ranks_get_their_own_devices(roots, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setenv("LOCAL_RANK", "1")

    def devices(detector: str = "auto", clips: int = 100, **options: object) -> list[str]:
        chosen = PreprocessingOptions(FaceSearch(detector, weights=Path("s3fd.pth")), **options)
        return [str(job.search.device) for job in plan_workers(chosen, clips)]

    assert devices() == ["cuda:1"]
    assert devices(gpus=2, workers=2) == ["cuda:2", "cuda:3"] * 2
    assert devices(gpus=2, clips=1) == ["cuda:2"]
    assert devices(device="cuda:0") == ["cuda:0"]
    for detector in ("haar", "centerface"):
        assert devices(detector, gpus=4) == ["cpu"] * cpu_count()
    with pytest.raises(ValueError, match="no cuda:5"):
        devices(gpus=3)


def test_flags_reach_the_library(roots, monkeypatch):
    calls = []
    monkeypatch.setattr(preprocess, "preprocess", lambda *args: calls.append(args))
    flags = "--face_detector sfd --face_detector_weights s3fd.pth --batch_size 7 --ngpu 3 --workers 5"
    assert run(roots, *flags.split(), "--device", "cuda:1", "--precision", "bf16") == 0
    assert calls[0][:2] == (roots.videos, roots.data)
    assert calls[0][2] == PreprocessingOptions(
        FaceSearch("sfd", Path("s3fd.pth"), 7), "cuda:1", "bf16", gpus=3, workers=5
    )
    run(roots)
    assert calls[1][2] == PreprocessingOptions(
        FaceSearch("centerface", batch_size=32), "auto", "auto", gpus=1, workers=1
    )


def test_without_sfd_weights_every_core_runs_another_detector(roots, clip, monkeypatch, capsys, told):
    requested = []

    def refuse(name, *_):
        requested.append(name)
        raise RuntimeError("no network")

    monkeypatch.setattr(faces, "SFD_WEIGHTS", roots.videos / "s3fd.pth")
    monkeypatch.setattr(faces.downloads, "find", refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    jobs = plan_workers(PreprocessingOptions(gpus=2), 100, told)
    assert told.notes == ["warning: no network; until then faces are found by centerface instead of sfd"]
    assert len(jobs) == cpu_count()
    assert {(job.search.detector, str(job.search.device), job.search.weights) for job in jobs} == {
        ("centerface", "cpu", None)
    }

    put(clip, roots, "a/1.mp4", "a/2.mp4")
    assert run(roots, "--face_detector", "auto") == 0
    assert report(roots)["face_detector"] == "centerface" and report(roots)["frames_with_face"] == 32
    output = capsys.readouterr()
    assert requested == ["s3fd"] and not output.err and "detector   centerface" in output.out  # said only once


# --------------------------------------------------------------------------------------------------------------------
# Split


def read_lists(folder: Path) -> dict[str, list[str]]:
    return {split: (folder / f"{split}.txt").read_text().splitlines() for split in ("train", "val", "test")}


def finished(*sources: str) -> list[Kept]:
    return [Kept(name.removesuffix(".mp4"), name, 1, "haar", 25.0, 25, 25, 1.0, 0.1) for name in sources]


def test_split_keeps_speakers_apart(tmp_path):
    kept = finished(*(f"s{speaker}/{take}/{i}.mp4" for speaker in range(40) for take in "ab" for i in range(5)))
    write_filelists(kept, (0.8, 0.1, 0.1), 0, tmp_path)
    lists = read_lists(tmp_path)
    assert sorted(sum(lists.values(), [])) == sorted(clip.clip for clip in kept)
    assert {split: len(clips) for split, clips in lists.items()} == {"train": 320, "val": 40, "test": 40}
    speakers = [{line.split("/")[0] for line in clips} for clips in lists.values()]
    assert sum(map(len, speakers)) == 40

    write_filelists(kept[::-1], (0.8, 0.1, 0.1), 0, tmp_path)
    assert read_lists(tmp_path) == lists
    write_filelists(kept, (0.8, 0.1, 0.1), 1, tmp_path / "other")
    assert read_lists(tmp_path / "other") != lists


@pytest.mark.parametrize("name", ["s{}/{}.mp4", "s/{}_{}.mp4"])
def test_split_is_stable_when_clips_come_and_go(tmp_path, name):
    """With one speaker more, half of the validation clips used to come from training; likewise by clip."""
    names = [name.format(speaker, take) for speaker in range(20) for take in range(5)]
    write_filelists(finished(*names), (0.8, 0.1, 0.1), 0, tmp_path)
    before = read_lists(tmp_path)
    fewer = [name for name in names if name != names[3]]
    for more in (name.format(20, 0), name.format(21, 0)):
        said = write_filelists(finished(*fewer, more), (0.8, 0.1, 0.1), 0, tmp_path)
        assert "99 stay in the lists that they were in" in said or "100 stay in the lists" in said
        for split, clips in read_lists(tmp_path).items():
            others = {clip for other in before if other != split for clip in before[other]}
            assert not others & set(clips)
        fewer.append(more)
    assert sum(map(len, read_lists(tmp_path).values())) == 101


def test_lists_are_described_each_time(tmp_path):
    """Later runs used to leave out that speakers are in every list, and said that all clips stay under new shares."""
    names = [f"s{speaker}/{take}.mp4" for speaker in range(2) for take in range(10)]
    for more in ([], ["s1/10.mp4"]):
        said = write_filelists(finished(*names, *more), (0.6, 0.2, 0.2), 0, tmp_path)
        assert "the same speaker is in every list" in said
    counts = {split: len(clips) for split, clips in read_lists(tmp_path).items()}
    said = write_filelists(finished(*names, *more), (1, 0, 0), 0, tmp_path)
    stay = counts["train"]
    assert f"{stay} stay in the lists that they were in, {21 - stay} of them do not, because of the shares" in said


def test_notes_in_lists_are_not_part_of_names(tmp_path):
    """With notes as in LRS2's lists, validation clips used to be split again, most of them into training."""
    names = [f"s{speaker}/{take}.mp4" for speaker in range(10) for take in range(3)]
    write_filelists(finished(*names), (0.6, 0.2, 0.2), 0, tmp_path)
    before = read_lists(tmp_path)
    for split, note in (("val", " NF"), ("test", "\tMV 12")):
        (tmp_path / f"{split}.txt").write_text("".join(f"{clip}{note}\n" for clip in before[split]))
    noted = read_lists(tmp_path)
    assert "30 stay in the lists" in write_filelists(finished(*names), (0.6, 0.2, 0.2), 3, tmp_path)
    assert read_lists(tmp_path) == noted  # with their notes
    assert "3 lines of other clips are gone" in write_filelists(finished(*names[3:]), (0.6, 0.2, 0.2), 3, tmp_path)


def test_lone_folder_keeps_its_split_when_others_join(tmp_path):
    """It used to be split again when others joined, and its validation clips were trained on."""
    anna = [f"anna/{take}.mp4" for take in range(20)]
    write_filelists(finished(*anna), (0.8, 0.1, 0.1), 0, tmp_path)
    before = read_lists(tmp_path)
    others = [f"{name}/{take}.mp4" for name in ("bert", "carl") for take in range(20)]
    said = write_filelists(finished(*anna, "anna/20.mp4", *others), (0.8, 0.1, 0.1), 0, tmp_path)
    after = read_lists(tmp_path)
    assert "20 stay in the lists" in said and sum(map(len, after.values())) == 61
    for split, clips in before.items():
        assert {*clips} <= {*after[split]}
    whose = [{line.split("/")[0] for line in clips} - {"anna"} for clips in after.values()]
    assert sum(map(len, whose)) == 2  # each of the others is in one list


def test_split_replaces_lists_of_other_clips(tmp_path):
    (tmp_path / "train.txt").write_text("a/1\na/2\n")
    said = write_filelists(finished(*(f"s{n}/x.mp4" for n in range(10))), (0.8, 0.1, 0.1), 0, tmp_path)
    assert said.endswith("the existing lists had other clips, and are replaced")
    assert [len(clips) for clips in read_lists(tmp_path).values()] == [8, 1, 1]
    write_filelists(finished(*(f"s{n}/x.mp4" for n in range(10))), (1, 0, 0), 0, tmp_path)
    assert [len(clips) for clips in read_lists(tmp_path).values()] == [10, 0, 0]


def test_split_gives_every_list_something():
    three = {"large": ["a"] * 90, "small": ["b"] * 3, "smaller": ["c"] * 2}
    lists = split_groups(three, (0.9, 0.05, 0.05), 0)
    assert lists == {"train": ["a"] * 90, "val": ["c"] * 2, "test": ["b"] * 3}
    assert split_groups(three, (1, 0, 0), 0)["train"] == [*["a"] * 90, *["b"] * 3, *["c"] * 2]
    assert split_groups({"one": ["a"]}, (0.9, 0.05, 0.05), 0) == {"train": ["a"], "val": [], "test": []}


@pytest.mark.usefixtures("read_once")
def test_split_of_one_speaker_is_by_clip(roots, clip, capsys):
    put(clip, roots, *(f"s1/{i}.mp4" for i in range(4)))
    assert run(roots, "--split", "0.5,0.25,0.25") == 0
    lists = read_lists(roots.lists)
    assert {split: len(clips) for split, clips in lists.items()} == {"train": 2, "val": 1, "test": 1}
    assert sorted(sum(lists.values(), [])) == [f"s1/{i}" for i in range(4)]
    assert "only one top-level folder" in capsys.readouterr().out


@pytest.mark.usefixtures("read_once")
def test_dropped_clips_are_not_searched_again(roots, clip, speech, monkeypatch):
    """Each run used to search them all, and say that no detector was needed. A changed file is searched again."""
    put(clip, roots, "s1/a.mp4")
    film(roots.videos / "s1/b.mp4", np.full((60, 64, 64, 3), 128, np.uint8), sound=speech)
    cut, real = [], preprocessing.workers.cut_clip
    record = lambda clip, job: (cut.append(clip.source), real(clip, job))[1]  # noqa: E731
    monkeypatch.setattr(preprocessing.workers, "cut_clip", record)
    assert run(roots) == 0
    first = json.loads((roots.data / "report.json").read_text())["dropped"]
    assert cut == ["s1/a.mp4", "s1/b.mp4"] and first[0]["source"] == "s1/b.mp4"
    assert run(roots) == 0 and len(cut) == 2
    assert json.loads((roots.data / "report.json").read_text())["dropped"] == first
    os.utime(roots.videos / "s1/b.mp4", (0, 0))
    assert run(roots) == 0 and cut[2:] == ["s1/b.mp4"]


def test_no_clip_waits_for_the_longest_one(monkeypatch):
    """With two workers, half of the others used to wait behind it."""
    others = threading.Semaphore(0)

    def cut(clip, _):
        if clip.source == "0":
            assert all(others.acquire(timeout=60) for _ in range(5))
        others.release()
        return clip.source

    monkeypatch.setattr(preprocessing.workers, "ProcessPoolExecutor", lambda count, *_: ThreadPoolExecutor(count))
    monkeypatch.setattr(preprocessing.workers, "cut_clip", cut)
    assert sorted(cut_clips([Clip(str(n), "", Path(), Path()) for n in range(6)], [None, None])) == [*"012345"]


def test_killed_worker_is_reported_with_its_clip(monkeypatch):
    class Pool:
        _processes = None  # as after the first one died

        def submit(self, *_):
            future = Future()
            future.set_exception(BrokenProcessPool())
            return future

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(preprocessing.workers, "ProcessPoolExecutor", lambda *_: Pool())
    with pytest.raises(RuntimeError, match="the worker process that cut s1/long.mp4 was killed"):
        list(cut_clips([Clip("s1/long.mp4", "s1/long", Path(), Path())], [None, None]))


def test_only_its_own_processes_are_terminated(monkeypatch):
    """Other processes of the program that calls this live on."""
    ended = []

    class Child:
        def terminate(self):
            ended.append(self)

    worker, started_by_others = Child(), []

    class Pool:
        _processes = {1: worker}

        def submit(self, *_):
            started_by_others.append(Child())  # meanwhile, in another thread
            future = Future()
            future.set_exception(OSError("no space"))
            return future

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(preprocessing.workers.multiprocessing, "active_children", lambda: [worker, *started_by_others])
    monkeypatch.setattr(preprocessing.workers, "ProcessPoolExecutor", lambda *_: Pool())
    with pytest.raises(OSError, match="no space"):
        list(cut_clips([None], [None, None]))
    assert ended == [worker, worker] and started_by_others  # one per pool


@pytest.mark.parametrize(
    ("counts", "parts", "words"),
    [
        ({"anna": 200, "ben": 200}, 1, "2 top-level folders do not give these shares, so the split is by video"),
        ({"a": 100, "b": 100, "c": 100}, 1, "3 top-level folders do not give"),
        ({f"main/{n}": 10 for n in range(40)} | {f"pretrain/{n}": 20 for n in range(40)}, 2, "by sub-folder"),
        ({f"all/{n}": 10 for n in range(40)}, 2, "only one top-level folder, so the split is by sub-folder"),
        ({f"{n}": 10 for n in range(40)}, 1, "lists"),
    ],
)
def test_few_folders_are_split_up(tmp_path, counts, parts, words):
    """Of two speakers, one used to be validation and none the test; of LRS2, a third used to be validation."""
    kept = finished(*(f"{folder}/{n}.mp4" for folder, count in counts.items() for n in range(count)))
    assert words in write_filelists(kept, (0.9, 0.05, 0.05), 0, tmp_path / "lists")
    lists = read_lists(tmp_path / "lists")
    for split, share in zip(lists, (0.9, 0.05, 0.05)):
        assert len(lists[split]) / len(kept) == pytest.approx(share, abs=0.03)
    if parts == 2:
        whose = [{line.rsplit("/", 1)[0] for line in clips} for clips in lists.values()]
        assert sum(map(len, whose)) == len(counts)


def test_pieces_of_a_video_stay_together(tmp_path):
    """Unless there is only one video."""
    pieces = [
        dataclasses.replace(clip, clip=f"{clip.clip}@{n}")
        for clip in finished(*(f"anna/{n}.mp4" for n in range(20)))
        for n in range(1, 6)
    ]
    write_filelists(pieces, (0.8, 0.1, 0.1), 0, tmp_path / "many")
    whose = [{line.split("@")[0] for line in clips} for clips in read_lists(tmp_path / "many").values()]
    assert [len(videos) for videos in whose] == [16, 2, 2] and len(set.union(*whose)) == 20
    assert "by clip" in write_filelists(pieces[:5], (0.6, 0.2, 0.2), 0, tmp_path / "one")
    assert [len(clips) for clips in read_lists(tmp_path / "one").values()] == [3, 1, 1]
    said = write_filelists(pieces[:1], (0.9, 0.05, 0.05), 0, tmp_path / "none")
    assert "val and test got none: --seconds 10 makes more clips" in said


def test_pieces_stay_in_the_list_of_their_video(tmp_path):
    """Cut again into pieces, training videos used to end up in validation."""
    names = [f"spk/v{n:02}.mp4" for n in range(20)]
    write_filelists(finished(*names), (0.8, 0.1, 0.1), 0, tmp_path)
    before = {clip: split for split, clips in read_lists(tmp_path).items() for clip in clips}
    pieces = [dataclasses.replace(clip, clip=f"{clip.clip}@{n}") for clip in finished(*names) for n in (1, 2)]
    for kept in (pieces, finished(*names)):  # and whole again
        said = write_filelists(kept, (0.8, 0.1, 0.1), 3, tmp_path)
        assert f"{len(kept)} stay" in said
        for split, clips in read_lists(tmp_path).items():
            assert {before[clip.split("@")[0]] for clip in clips} == {split}


def test_what_can_be_mended_is_tried_again(roots, clip, monkeypatch):
    """ "change its permissions", "install another ffmpeg": whoever did so was told the same again, for ever."""
    put(clip, roots, "s/1.mp4", "s/2.mp4")

    def fail(*_):
        raise video.Mendable("install ffmpeg 7")

    with monkeypatch.context() as broken:
        broken.setattr(cutting.video, "read_audio", fail)
        assert run(roots) != 0
    assert {clip["reason"] for clip in report(roots)["dropped"]} == {"no audio"}
    assert run(roots) == 0 and kept(roots) == ["s/1", "s/2"]


def test_a_replaced_expert_is_loaded_again(tmp_path, filled):
    """In a notebook, verdicts of the expert before were noted as those of the new one."""
    opened = []
    for seed in (1, 2):
        network = filled(SyncNet_color, 0.125)
        with torch.no_grad():
            next(iter(network.parameters())).fill_(seed)
        torch.save({"state_dict": network.state_dict(), "width": 0.125}, tmp_path / "new.pth")
        os.replace(tmp_path / "new.pth", tmp_path / "expert.pth")
        os.utime(tmp_path / "expert.pth", (seed, seed))
        opened += [syncing.open_expert(tmp_path / "expert.pth", torch.device("cpu")) for _ in range(2)]
    assert opened[0] is opened[1] is not opened[2] is opened[3]


def test_the_search_of_a_long_video_is_not_lost(roots, clip, monkeypatch):
    """Stopped while its pieces were written, a video of hours was searched from its beginning again."""
    put(clip, roots, "s/1.mp4")
    searched = []
    find = CenterFace.detect
    monkeypatch.setattr(CenterFace, "detect", lambda *given: searched.append(1) or find(*given))
    with monkeypatch.context() as stopped:
        stopped.setattr(cutting, "cut_faces", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(roots) == 130
    assert searched and (roots.data / "s/.1.boxes").is_dir()
    searched.clear()
    assert run(roots) == 0 and kept(roots) == ["s/1"] and not searched
    assert not (roots.data / "s/.1.boxes").exists()


def test_clips_of_another_program_are_not_replaced_silently(roots, clip, capsys):
    put(clip, roots, "s/1.mp4")
    (roots.data / "s/1").mkdir(parents=True)
    for name in ("0.jpg", "audio.wav"):
        (roots.data / "s/1" / name).write_bytes(b"reference")
    assert run(roots) == 0
    assert "1 clips made by another program (without clip.json) are cut again and replaced" in capsys.readouterr().out


def test_clips_that_are_in_no_list_are_mentioned(roots, clip, capsys):
    """Videos that were added, or cut again, without --split were never learned, and nothing said so."""
    put(clip, roots, *(f"s{n}/1.mp4" for n in range(3)))
    assert run(roots, "--split", "0.4,0.3,0.3") == 0
    put(clip, roots, "s9/1.mp4")
    capsys.readouterr()
    assert run(roots) == 0
    assert "lists      not rewritten: 1 of these clips are in none; add --split" in capsys.readouterr().out
    assert run(roots, "--split", "0.4,0.3,0.3") == run(roots) == 0
    assert "not rewritten" not in capsys.readouterr().out


def test_a_video_cut_anew_is_split_anew(tmp_path):
    """Of three pieces, nine became; by their numbers, most of what had been validated on went into training."""

    def pieces(count):
        (whole,) = finished("spk/long.mp4")
        return [dataclasses.replace(whole, clip=f"{whole.clip}@{n + 1}", pieces=count) for n in range(count)]

    write_filelists(pieces(3), (0.4, 0.3, 0.3), 0, tmp_path)
    assert "3 stay in the lists" in write_filelists(pieces(3), (0.4, 0.3, 0.3), 1, tmp_path)
    assert "2 stay in the lists" in write_filelists(pieces(3)[:2], (0.4, 0.3, 0.3), 1, tmp_path)  # one was out of sync
    some = [*pieces(6)[:3], *pieces(6)[4:]]  # one is out of sync at first
    write_filelists(some, (0.4, 0.3, 0.3), 0, tmp_path / "some")
    before = read_lists(tmp_path / "some")
    assert "5 stay in the lists" in write_filelists(pieces(6), (0.4, 0.3, 0.3), 3, tmp_path / "some")
    assert all({*clips} <= {*read_lists(tmp_path / "some")[split]} for split, clips in before.items())
    for count in (9, 2):
        said = write_filelists(pieces(count), (0.4, 0.3, 0.3), 0, tmp_path)
        assert "1 videos that were in several lists have other pieces now, the first: spk/long." in said
        assert "stay in the lists" not in said


def test_videos_that_join_a_single_one_are_split(tmp_path):
    """They all used to end up in its list."""
    write_filelists(finished("s/0.mp4"), (0.8, 0.1, 0.1), 0, tmp_path)
    said = write_filelists(finished(*(f"s/{n}.mp4" for n in range(100))), (0.8, 0.1, 0.1), 0, tmp_path)
    assert "1 stay in the lists" in said and "none" not in said
    assert [len(clips) for clips in read_lists(tmp_path).values()] == [80, 10, 10]


def test_new_clips_join_the_list_of_their_folder(tmp_path):
    """Even if the top-level folders were split up."""
    kept = finished(*(f"main/{n}/{take}.mp4" for n in range(40) for take in range(5)))
    write_filelists(kept, (0.8, 0.1, 0.1), 0, tmp_path)
    before = read_lists(tmp_path)
    more = finished(*(f"main/{n}/5.mp4" for n in range(40)))
    assert "200 stay in the lists" in write_filelists(kept + more, (0.8, 0.1, 0.1), 1, tmp_path)
    for split, clips in read_lists(tmp_path).items():
        assert {line.rsplit("/", 1)[0] for line in clips} == {line.rsplit("/", 1)[0] for line in before[split]}


# --------------------------------------------------------------------------------------------------------------------
# Shots and pieces


@pytest.fixture
def murmur(tmp_path) -> Path:
    """Four seconds of noise."""
    noise = np.random.default_rng(0).normal(0, 3000, 64000)
    wavfile.write(tmp_path / "murmur.wav", 16000, noise.astype(np.int16))
    return tmp_path / "murmur.wav"


def test_every_shot_becomes_a_clip(roots, small_photo, murmur):
    """In films with cuts, two of three references used to be from another shot, often of another person."""
    face, other = small_photo, small_photo[..., ::-1] // 2
    shown = [face] * 20 + [np.zeros_like(face)] * 30 + [np.ascontiguousarray(other[:, ::-1])] * 18 + [face] * 4
    film(roots.videos / "s/film.mkv", np.stack(shown), sound=murmur)
    assert run(roots) == 0 and kept(roots) == ["s/film@1", "s/film@2"]
    one, two = (roots.data / "s" / f"film@{n}" for n in (1, 2))
    assert {path.stem for path in one.glob("*.jpg")} == {str(n) for n in range(20)}
    assert {path.stem for path in two.glob("*.jpg")} == {str(n) for n in range(18)}
    assert [clip["first"] for clip in report(roots)["kept"]] == [0, 50]
    assert abs(cv2.imread(str(two / "0.jpg")).mean() / cv2.imread(str(one / "0.jpg")).mean() - 0.5) < 0.1
    whole = video.read_audio(roots.videos / "s/film.mkv", 16000)
    for folder, first, count in ((one, 0, 20), (two, 50, 18)):
        heard = wavfile.read(folder / "audio.wav")[1] / 32768
        np.testing.assert_allclose(heard, whole[first * 640 : (first + count) * 640][: len(heard)], atol=1e-4)
    assert report(roots)["left_out"] == {"no face": 30, "too short": 4}
    run(roots)
    assert report(roots)["finished_before"] == 2


@pytest.mark.usefixtures("read_once")
def test_long_shots_are_cut_into_even_pieces(roots, small_photo, murmur, capsys):
    film(roots.videos / "s/long.mkv", np.stack([small_photo] * 75), sound=murmur)
    assert run(roots) == 0 and kept(roots) == ["s/long"]
    assert run(roots, "--seconds", "2") == 0
    assert kept(roots) == ["s/long@1", "s/long@2"] and "2 kept of 1 videos" in capsys.readouterr().out
    assert names(roots.data / "s") == {"long@1", "long@2"} and report(roots)["frames"] == 75
    assert run(roots) == 0 and report(roots)["finished_before"] == 2  # they stay without --seconds
    shutil.copytree(roots.data / "s/long@2", roots.data / "s/long@7")
    shutil.rmtree(roots.data / "s/long@1")
    assert run(roots) == 0 and kept(roots) == ["s/long"] and names(roots.data / "s") == {"long"}
    assert run(roots, "--seconds", "1.9") == 2


def test_divide_makes_even_pieces():
    assert divide([(0, 100)]) == [range(100)]
    assert divide([(0, 100), (100, 900)], 10) == [
        range(100), range(100, 300), range(300, 500), range(500, 700), range(700, 900)
    ]  # fmt: skip
    for length, seconds in ((751, None), (1234, 7.3), (51, 2)):
        pieces = divide([(5, 5 + length)], seconds)
        assert [n for piece in pieces for n in piece] == list(range(5, 5 + length))
        assert max(map(len, pieces)) <= (seconds or 30) * 25 and max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_brief_absence_of_the_face_is_no_cut():
    def joined(shots):
        return join_interrupted(shots, boxes)[0]

    boxes = np.tile([10.0, 10, 60, 60], (100, 1))
    boxes[40:44] = np.nan
    shots = [(0, 40), (40, 44), (44, 100)]
    assert joined(shots) == [(0, 100)]
    assert joined([(0, 40), (40, 100)]) == [(0, 40), (40, 100)]  # a cut is a cut
    assert joined([(0, 40), (40, 44)]) == [(0, 40), (40, 44)]
    boxes[44:] += 45
    assert joined(shots) == shots  # the face is elsewhere
    boxes[44:] -= 45
    boxes[40:60] = np.nan
    assert joined([(0, 40), (40, 60), (60, 100)]) == [(0, 40), (40, 60), (60, 100)]  # too long


def test_flash_that_shows_the_face_is_no_cut():
    """A photographer's flash used to cost a clip of three seconds its first second."""
    boxes = np.tile([10.0, 10, 60, 60], (100, 1))
    joined, seen = join_interrupted([(0, 40), (40, 42), (42, 100)], boxes)
    assert (
        joined == [(0, 100)] and np.flatnonzero(np.isnan(seen[:, 0])).tolist() == [40, 41] and not np.isnan(boxes).any()
    )
    boxes[40:42] += 200  # somebody else, for a moment
    assert join_interrupted([(0, 40), (40, 42), (42, 100)], boxes)[0] == [(0, 40), (40, 42), (42, 100)]


def test_no_other_clip_is_named_like_a_piece(roots):
    for name in ("s/a.mp4", "s/a@1.mp4", "s/a_1.mp4", "s/me@home.mp4"):
        (roots.videos / name).parent.mkdir(exist_ok=True)
        (roots.videos / name).touch()
    assert {clip.name for clip in find_clips(roots.videos, roots.data)} == {"s/a", "s/a_1.mp4", "s/a_1", "s/me@home"}


# --------------------------------------------------------------------------------------------------------------------
# Sync


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    """A talking head as filmed, with its sound 8 frames late or early, and with another head's sound."""
    folder = tmp_path_factory.mktemp("heads")
    for name, seed in (("good", 6), ("other", 5)):
        talking_head.write_clip(folder / f"{name}.mp4", talking_head.Recipe(seconds=2.0, size=(96, 96)), seed)
    filters = ("late", "good", "adelay=320:all=1"), ("early", "good", "atrim=0.32"), ("dubbed", "other", "anull")
    for name, sound, how in filters:
        inputs = "-i", folder / "good.mp4", "-i", folder / f"{sound}.mp4", "-map", "0:v", "-map", "1:a"
        how = "-af", f"{how},asetpts=PTS-STARTPTS"
        run_ffmpeg(*inputs, *how, "-c:v", "copy", "-c:a", "pcm_s16le", folder / f"{name}.mkv")
    (folder / "other.mp4").unlink()
    return folder


@pytest.mark.usefixtures("read_once")
def test_clips_out_of_sync_are_reported_dropped_or_corrected(roots, heads, small_expert, capsys):
    """A data set whose sound is late teaches an expert nothing, and nothing else shows why."""
    shutil.copytree(heads, roots.videos / "s")
    assert run(roots, "--sync", "report") == 0
    verdicts = {clip["clip"]: clip["verdict"] for clip in report(roots)["kept"]}
    assert verdicts == {
        "s/good": "in sync", "s/late": "off by 8 frames", "s/early": "off by -8 frames", "s/dubbed": "unrelated",
    }  # fmt: skip
    assert "1 off by 8 frames" in capsys.readouterr().out

    roots.lists.mkdir()
    (roots.lists / "train.txt").write_text("s/good\ns/late\n")
    assert run(roots, "--sync", "drop") == 0 and kept(roots) == ["s/good"]
    assert set(dropped(roots).values()) == {"out of sync"} and report(roots)["finished_before"] == 1
    output = capsys.readouterr().out
    assert "out of sync s/late.mkv: s/late is off by 8 frames" in output and "lists      not rewritten" in output

    untouched = {path: path.stat().st_mtime_ns for path in (roots.data / "s/good").iterdir()}
    assert run(roots, "--sync", "correct") == 0
    assert kept(roots) == ["s/early", "s/good", "s/late"] and dropped(roots) == {"s/dubbed.mkv": "out of sync"}
    clips = {clip["clip"]: clip for clip in report(roots)["kept"]}
    assert {name: (clip["verdict"], clip["shifted"]) for name, clip in clips.items()} == {
        "s/early": ("in sync", -8), "s/good": ("in sync", 0), "s/late": ("in sync", 8),
    }  # fmt: skip
    good = audio.load_wav(roots.data / "s/good/audio.wav")
    for name, silent in (("late", 0), ("early", 8 * 640)):
        shifted = audio.load_wav(roots.data / f"s/{name}/audio.wav")
        shared = slice(silent + 640, min(len(shifted), len(good)) - 640)
        assert np.corrcoef(shifted[shared], good[shared])[0, 1] > 0.99
    assert {int(path.stem) for path in (roots.data / "s/early").glob("*.jpg")} == set(range(8, 50))
    assert {path: path.stat().st_mtime_ns for path in (roots.data / "s/good").iterdir()} == untouched
    assert names(roots.data / "s") == {"good", "late", "early", "dubbed"}
    assert run(roots, "--sync", "correct") == 0 and report(roots)["finished_before"] == 3

    pictures = {path: path.read_bytes() for path in (roots.data / "s").rglob("*.jpg")}
    again = ("--face_detector", "auto", "--sync", "report", "--syncnet_checkpoint_path", small_expert)
    capsys.readouterr()
    assert run(roots, *again) == 0  # another expert needs no detector
    assert {path: path.read_bytes() for path in (roots.data / "s").rglob("*.jpg")} == pictures
    assert (report(roots)["finished_before"], report(roots)["face_detector"]) == (4, "auto")
    assert "detector   not needed" in capsys.readouterr().out
    assert {clip["expert"].split()[0] for clip in report(roots)["kept"]} == {small_expert}


@pytest.mark.parametrize("first, late, silent", [(20, 8, 0), (20, -8, 0), (3, -8, 5), (0, -8, 8), (60, 8, 0)])
def test_corrected_piece_takes_its_sound_from_the_whole_recording(tmp_path, monkeypatch, first, late, silent):
    """Each piece used to lose as much as its sound was late, though the next piece has it."""
    verdicts = iter(["off by 8 frames", "in sync"])
    judge = lambda _, kept, *__: dataclasses.replace(kept, verdict=next(verdicts), offset_frames=late)  # noqa: E731
    monkeypatch.setattr(syncing, "_with_verdict", judge)
    whole = np.linspace(-0.5, 0.5, 100 * 640, dtype=np.float32)
    for name in ("cover", "007", *range(40)):
        (tmp_path / f"{name}.jpg").write_bytes(b"x")
    recording = syncing.Recording(whole, first, 40)
    kept = syncing.check_sync(
        tmp_path, finished("a/1.mp4")[0], syncing.SyncCheck("correct"), torch.device("cpu"), recording
    )
    heard = wavfile.read(tmp_path / "audio.wav")[1] / 32768
    expected = np.concatenate((np.zeros(silent * 640), whole[max(0, first + late) * 640 : (first + late + 40) * 640]))
    np.testing.assert_allclose(heard, expected, atol=1e-4)
    assert {path.stem for path in tmp_path.glob("*.jpg")} == {"cover", "007", *map(str, range(silent, 40))}
    assert (kept.shifted, kept.seconds, kept.frames_with_face) == (late, len(heard) / 16000, 40 - silent)


def test_pieces_of_other_frame_rates_do_not_drift(monkeypatch):
    """At 30 frames a second, sound used to be cut 0.19 s early after five minutes."""
    monkeypatch.setattr(hp, "fps", 30.0)
    sound = np.arange(320 * hp.sample_rate, dtype=np.float32)
    piece, silent = syncing.Recording(sound, 9000, 30).moved(0)
    assert silent == 0 and piece[0] == 300 * hp.sample_rate and len(piece) == hp.sample_rate


@pytest.mark.usefixtures("read_once")
def test_verdicts_by_earlier_rules_are_renewed(roots, clip, small_expert, monkeypatch):
    """Clips found unrelated because of pauses used to stay dropped when pauses no longer counted."""
    put(clip, roots, "s/a.mp4")
    check = ("--sync", "report", "--syncnet_checkpoint_path", small_expert)
    checked, score = [], syncing.sync.score_clip
    monkeypatch.setattr(
        syncing.sync, "score_clip", lambda folder, expert: checked.append(folder) or score(folder, expert)
    )
    with monkeypatch.context() as earlier:
        earlier.setattr(syncing, "VERDICT_RULES", 1)
        assert run(roots, *check) == run(roots, *check) == 0 and len(checked) == 1
    assert run(roots, *check) == run(roots, *check) == 0 and len(checked) == 2
    assert report(roots)["kept"][0]["expert"].endswith(f"rules {syncing.VERDICT_RULES}")


def test_shifted_clips_found_out_of_sync_later_are_dropped(roots):
    """A clip that was shifted once was never found out of sync again."""
    moved = dataclasses.replace(finished("a/1.mp4")[0], verdict="off by 8 frames", shifted=3, offset_frames=8)
    assert preprocessing.SyncCheck("correct").partition([moved])[0] == []


@pytest.mark.usefixtures("read_once")
def test_damaged_finished_clip_is_cut_again(roots, heads):
    (roots.videos / "s").mkdir()
    shutil.copy(heads / "good.mp4", roots.videos / "s")
    assert run(roots) == 0
    (roots.data / "s/good/5.jpg").unlink()  # such a clip used to stay for ever
    assert run(roots) == 0 and (roots.data / "s/good/5.jpg").exists()
    (roots.data / "s/good/audio.wav").unlink()
    assert run(roots, "--sync", "report") == 0
    assert report(roots)["kept"][0]["verdict"] == "in sync" and (roots.data / "s/good/audio.wav").exists()


def test_finished_clip_without_its_sound_is_cut_again(tmp_path):
    (tmp_path / "data/s/a").mkdir(parents=True)
    (tmp_path / "a.mp4").write_bytes(b"a video")
    status = (tmp_path / "a.mp4").stat()
    clip = Clip("a.mp4", "s/a", tmp_path, tmp_path / "data")
    known = Kept("s/a", "a.mp4", status.st_size, "haar", 25.0, 1, 1, 1.0, 1.0, status.st_mtime_ns)
    note_kept(tmp_path / "data/s/a", known)
    for name in ("0.jpg", "mel.npy"):
        assert not find_finished(clip, "auto", None)
        (tmp_path / "data/s/a" / name).touch()
    assert find_finished(clip, "auto", None) == [known]
    note_kept(tmp_path / "data/s/a", dataclasses.replace(known, source="another.mp4"))
    assert not find_finished(clip, "auto", None)


def test_a_copied_source_is_read_once(tmp_path, monkeypatch):
    """Its date differs from the one noted, which was never corrected: every run read all of a copied data set."""
    (tmp_path / "a.mp4").write_bytes(b"a video")
    source, sha256 = tmp_path / "a.mp4", files.digest(tmp_path / "a.mp4")
    known = Kept("s/a", "a.mp4", 7, "haar", 25.0, 1, 1, 1.0, 1.0, source.stat().st_mtime_ns, sha256)
    note_kept(tmp_path / "data/s/a", known)
    for name in ("0.jpg", "mel.npy"):
        (tmp_path / "data/s/a" / name).touch()
    os.utime(source, (1, 1))
    read, digest = [], files.digest
    monkeypatch.setattr(files, "digest", lambda path: read.append(path) or digest(path))
    for _ in range(2):
        (found,) = find_finished(Clip("a.mp4", "s/a", tmp_path, tmp_path / "data"), "auto", None)
        assert found == dataclasses.replace(known, modified=10**9) and read == [source]


@pytest.mark.usefixtures("read_once")
def test_replaced_clips_of_another_data_set_are_reported(roots, heads, capsys):
    """As with main and pretrain of LRS2: those of the first used to vanish without a word."""
    for name in ("late", "early"):
        put(next(heads.glob(f"{name}.*")), roots, "s/a.mkv")
        assert run(roots) == 0
    assert "1 clips of other videos had these names, and are replaced, the first: s/a;" in capsys.readouterr().out


def test_missing_expert_is_reported_before_any_work(roots, clip, capsys):
    put(clip, roots, "s/a.mp4")
    assert run(roots, "--sync", "drop", "--syncnet_checkpoint_path", "nowhere.pth") == 2
    assert "nowhere.pth" in capsys.readouterr().err and not (roots.data / "s").exists()
    with pytest.raises(UserError, match="--sync maybe is not known"):
        preprocessing.SyncCheck("maybe")


@pytest.mark.usefixtures("read_once")
def test_what_was_dropped_in_short_pieces_is_tried_again_in_longer_ones(roots, small_photo, murmur, monkeypatch):
    """A run without --seconds said that pieces of a second were too short."""
    film(roots.videos / "s/a.mkv", np.stack([small_photo] * 55), sound=murmur)
    monkeypatch.setattr(cutting, "MIN_FRAMES", 40)
    assert run(roots, "--seconds", "2") == 2 and dropped(roots) == {"s/a.mkv": "too short"}
    assert run(roots) == 0 and kept(roots) == ["s/a"]
    (roots.data / "s/a/clip.json").unlink()
    monkeypatch.setattr(cutting, "MIN_FRAMES", 60)
    assert run(roots) == 2
    monkeypatch.setattr(preprocessing.workers, "cut_clip", None)
    assert run(roots, "--seconds", "10") == 2 and dropped(roots) == {"s/a.mkv": "too short"}


def test_a_worker_reads_its_expert_once(tmp_path, monkeypatch):
    """It did so for every clip, as each comes with a copy of the job."""
    expert, read = tmp_path / "expert.pth", []
    expert.write_bytes(b"weights")
    monkeypatch.setattr(preprocessing.syncing.files, "digest", lambda path: read.append(path) or "0123")
    check = preprocessing.SyncCheck(expert=expert)
    assert len({dataclasses.replace(check).name for _ in range(3)}) == 1 and read == [expert]


def test_the_report_names_the_detector_that_was_used(monkeypatch):
    """A long run looked for another at its end, and might find that it could download S3FD by then."""
    monkeypatch.setattr(faces, "sfd_is_available", lambda *_: True)
    tally, cut = Tally(), dataclasses.replace(finished("a/1.mp4")[0], face_detector="centerface", detector_seconds=1.0)
    tally.add([cut], None, finished_before=False)
    parts = [Tally.from_json(dataclasses.asdict(part)) for part in (Tally(), tally)]
    total = sum(parts, Tally())
    assert preprocessing.pipeline.summarize(total, Path("videos"), "auto").face_detector == "centerface"
    assert preprocessing.pipeline.summarize(Tally(), Path("videos"), "auto").face_detector == "auto"


def test_an_endless_clip_is_not_called_too_short():
    with pytest.raises(UserError, match="--seconds inf cannot be the length of a clip; give a number, 2 or more"):
        PreprocessingOptions(seconds=float("inf"))


def test_a_clip_that_correction_would_make_too_short_stays(tmp_path, monkeypatch):
    early = {"verdict": "off by -8 frames", "offset_frames": -8}
    monkeypatch.setattr(syncing, "_with_verdict", lambda _, kept, *__: dataclasses.replace(kept, **early))
    for number in range(20):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    sound = syncing.Recording(np.zeros(20 * 640, np.float32), 0, 20)  # 12 frames would be left
    clip = finished("a/1.mp4")[0]
    kept = syncing.check_sync(tmp_path, clip, syncing.SyncCheck("correct"), torch.device("cpu"), sound)
    assert not kept.shifted and len([*tmp_path.glob("*.jpg")]) == 20
