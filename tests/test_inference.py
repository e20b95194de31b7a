"""inference.py as users run it: flags, files of any name, and all that can be wrong with them."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import audio
import devices
import inference
import models
import mouths
import video
from concurrency import in_parallel
from conftest import half_size, run_ffmpeg, write_clip
from errors import UserError, is_disk_error
from faces import FaceSearch
from lipsync import LipSync, Options, open_face
from models import weights
from mouths import SpeakingTrack, generate, redraw_mouths
from runtimes import Runtime

NETWORKS: dict[tuple, object] = {}  # the small checkpoint's content, and its generators


@pytest.fixture(autouse=True)
def loaded_once(small_checkpoint, monkeypatch):
    """Keep the small generator in memory: no test changes it, and loading takes longer than drawing its mouths."""
    read, build = weights.read_checkpoint, Runtime.open_generator

    def remembered(path, make, *key):
        if Path(path) != small_checkpoint:
            return make()
        if key not in NETWORKS:
            NETWORKS[key] = make()
        return NETWORKS[key]

    def read_once(path, *rest):
        return remembered(path, lambda: read(path, *rest))

    def built_once(runtime, checkpoint, device, dtype, report):
        return remembered(
            checkpoint.path, lambda: build(runtime, checkpoint, device, dtype, report), runtime, device, dtype
        )

    monkeypatch.setattr(weights, "read_checkpoint", read_once)
    monkeypatch.setattr(Runtime, "open_generator", built_once)


@pytest.fixture
def sync(small_checkpoint, small_clip, short_speech, tmp_path, monkeypatch, capsys):
    """``sync("--flag", value, face=…)`` runs the program; returns (exit code, stderr); ``sync.out`` is its stdout."""
    monkeypatch.chdir(tmp_path)

    def run(*flags, checkpoint=small_checkpoint, face=small_clip, audio=short_speech, outfile="out.mp4"):
        command = [f"--checkpoint_path={checkpoint}", f"--face={face}", f"--audio={audio}", f"--outfile={outfile}"]
        detector = [] if "--box" in flags or "--face_detector" in flags else ["--face_detector", "centerface"]
        capsys.readouterr()
        code = inference.main([*command, *detector, *map(str, flags)])
        run.out, err = capsys.readouterr()
        return code, err

    return run


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


# --------------------------------------------------------------------------------------------------------------------
# What should work


def test_face_is_redrawn_for_as_long_as_the_speech(sync, tmp_path, small_clip, speech):
    assert sync(audio=speech) == (0, "")
    written = video.probe(tmp_path / "out.mp4")
    source = list(video.repeat_frames(video.probe(small_clip), 30))
    frames = list(video.read_frames(written))
    assert (written.width, written.height, written.fps, len(frames)) == (160, 120, 25, 30)
    assert abs(len(video.read_audio(written.path, 16000)) / 16000 - 1.2) <= 0.04
    difference = np.mean([np.abs(a.astype(int) - b).mean(axis=2) for a, b in zip(frames, source)], axis=0)
    assert difference[30:65, 20:65].mean() > 10  # where the face is
    assert difference[:, 125:].mean() < 3  # where it is not
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("name", ["a.PNG", "v1.2 x/my.face.JPEG", "face"])
def test_photo_becomes_a_video_as_long_as_the_speech(sync, tmp_path, small_photo, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode(".png", small_photo)[1].tobytes())
    assert sync("--fps", 30, face=path) == (0, "")
    written = video.probe(tmp_path / "out.mp4")
    assert (written.fps, written.width) == (30, 160) and sum(1 for _ in video.read_frames(written)) == 12


@pytest.mark.parametrize("name", [
    "with space.mp4", "qu'o\"te.mp4",
    "x;touch PWNED;#.mp4", "$(touch PWNED).mp4", "-leading.mp4", "лицо 顔.mp4", "100%d.mp4",
])  # fmt: skip
def test_any_file_name(sync, tmp_path, small_clip, short_speech, name):
    face, sound = tmp_path / name, tmp_path / name.replace(".mp4", ".wav")
    shutil.copy(small_clip, face)
    shutil.copy(short_speech, sound)
    assert sync("--box", 5, 30, 100, 130, face=name, audio=sound.name, outfile=f"out {name}") == (0, "")
    assert (tmp_path / f"out {name}").stat().st_size > 1000 and not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(
    "value, expected", [(["--static"], True), (["--static", "True"], True), (["--static", "False"], False), ([], False)]
)
def test_static_means_what_it_says(sync, tmp_path, value, expected):
    """In the reference, ``--static False`` was true."""
    assert sync("--box", 5, 30, 100, 130, *value)[0] == 0
    frames = list(video.read_frames(video.probe(tmp_path / "out.mp4")))
    moved = np.abs(frames[0][50:].astype(int) - frames[9][50:]).mean()
    assert (moved < 3) == expected


@pytest.mark.parametrize("rate, flags, expected", [
    ("1/5", (), 25), ("10", (), 25), ("5", ("--fps", 6), 6), ("25", ("--fps", 30), 30), ("15", (), 15),
])  # fmt: skip
def test_rate_of_the_result(sync, tmp_path, small_photo, rate, flags, expected):
    """Slides used to get one mouth per slide, a still picture for five seconds."""
    write_clip(tmp_path / "slides.mp4", np.stack([small_photo] * 3), rate)
    assert sync(*flags, face=tmp_path / "slides.mp4") == (0, "")
    written = video.probe(tmp_path / "out.mp4")
    assert written.fps == expected and sum(1 for _ in video.read_frames(written)) == round(0.4 * expected)


def test_boxes_are_cached_by_rate(sync, tmp_path, monkeypatch):
    searched = []
    real = FaceSearch.open
    monkeypatch.setattr(FaceSearch, "open", lambda *a: (searched.append(1), real(*a))[1])
    assert sync() == sync("--fps", 50) == sync("--fps", 50) == (0, "") and len(searched) == 2
    assert sum(1 for _ in video.read_frames(video.probe(tmp_path / "out.mp4"))) == 20


def test_geometry_flags(sync, tmp_path):
    assert sync("--resize_factor", 2, "--rotate", "--crop", 6, 76, 0, 50, "--box", 5, 45, 5, 45)[0] == 0
    written = video.probe(tmp_path / "out.mp4")
    assert (written.width, written.height) == (50, 70)


def test_audio_of_a_video(sync, tmp_path, small_clip, short_speech):
    run_ffmpeg("-i", small_clip, "-i", short_speech, "-c:v", "copy", "-shortest", tmp_path / "talk.mkv")
    assert sync(face=tmp_path / "talk.mkv", audio=tmp_path / "talk.mkv") == (0, "")


@pytest.mark.parametrize("source", ["anullsrc=r=48000:cl=stereo:d=0.5", "aevalsrc=0.3*sin(900*t):d=0.05:s=8000"])
def test_silence_and_very_short_sound(sync, tmp_path, source):
    run_ffmpeg("-f", "lavfi", "-i", source, tmp_path / "s.flac")
    assert sync(audio=tmp_path / "s.flac") == (0, "")
    frames = sum(1 for _ in video.read_frames(video.probe(tmp_path / "out.mp4")))
    assert frames == (round(0.5 * 25) if "null" in source else 1)


@pytest.mark.parametrize("loop, order", [("loop", [0, 1, 2, 3, 4, 5]), ("pingpong", [0, 1, 2, 3, 4, 5, 4, 3, 2, 1])])
def test_speech_longer_than_the_video(sync, tmp_path, speech, astronaut, loop, order):
    source = np.stack([half_size(astronaut[:240, 60 + 4 * i : 380 + 4 * i]) for i in range(6)])
    write_clip(tmp_path / "short.mp4", source)
    assert sync("--loop", loop, face=tmp_path / "short.mp4", audio=speech) == (0, "")
    frames = list(video.read_frames(video.probe(tmp_path / "out.mp4")))
    assert len(frames) == 30
    for i, frame in enumerate(frames):
        expected = source[order[i % len(order)]]
        assert np.abs(frame[:, 125:].astype(int) - expected[:, 125:]).mean() < 3


def test_what_flags_of_the_reference_do_now_is_reported(tmp_path, small_clip, told):
    """--fps did nothing to videos, and --rotate was advised for telephones' videos, which are turned already."""
    open_face(small_clip, Options(fps=12.5), told)
    assert "has 25 frames a second; as --fps says, the result has fewer" in told.notes[-1]
    run_ffmpeg("-display_rotation", 90, "-i", small_clip, "-c", "copy", tmp_path / "phone.mp4")
    for rotate, said in ((0, 0), (90, 1)):
        told.notes.clear()
        open_face(tmp_path / "phone.mp4", Options(rotate=rotate), told)
        assert len([note for note in told.notes if "says itself how it is turned" in note]) == said


def test_unused_end_of_the_video_is_reported(sync, tmp_path, small_clip):
    """Users who dubbed two seconds of five wanted all five, and did not know how."""
    run_ffmpeg("-stream_loop", 1, "-i", small_clip, "-c", "copy", tmp_path / "long.mp4")  # 2 s
    assert sync(face=tmp_path / "long.mp4") == (0, "")
    assert "long.mp4 goes on after the speech" in sync.out and "--start 0 keeps the rest" in sync.out
    for flags in (("--start", 0), ("--static",)):
        assert sync(*flags, face=tmp_path / "long.mp4") == (0, "") and "goes on" not in sync.out


def test_frames_without_a_face_pass_through(sync, tmp_path, small_photo, speech):
    write_clip(tmp_path / "gone.mp4", np.stack([small_photo] * 15 + [np.full_like(small_photo, 60)] * 15))
    assert sync(face=tmp_path / "gone.mp4", audio=speech) == (0, "")
    frames = list(video.read_frames(video.probe(tmp_path / "out.mp4")))
    assert len(frames) == 30 and np.abs(frames[24].astype(int) - 60).mean() < 2
    code, words = sync("--on_missing_face", "error", face=tmp_path / "gone.mp4", audio=speech)
    assert code == 2 and "15-29" in words


def test_boxes_are_cached(sync, private_cache, monkeypatch, tmp_path):
    assert sync()[0] == 0
    first = (tmp_path / "out.mp4").read_bytes()
    monkeypatch.setattr(FaceSearch, "open", lambda *_: pytest.fail("searched again"))
    assert sync()[0] == 0 and (tmp_path / "out.mp4").read_bytes() == first
    assert sync("--pads", 0, 0, 0, 0)[0] == 0
    with pytest.raises(pytest.fail.Exception):
        sync("--no_cache")


def test_longer_speech_continues_the_search(sync, speech, monkeypatch):
    searched = []
    real = video.read_frames
    monkeypatch.setattr(video, "read_frames", lambda *a, **k: (searched.append(a[1:3]), real(*a, **k))[1])
    sync()
    sync(audio=speech)
    assert (0,) in searched and (11,) in searched  # half a second at a time; its last frame is read again


def test_unwritable_cache_costs_only_time(sync, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WAV2LIP_CACHE", str(tmp_path / "file/no/folder"))
    assert sync() == (0, "") and sync.out.count("warning: the face boxes could not be cached") == 1


def test_mouths_are_redrawn_as_a_stream(filled):
    """Frames come out in order, before all have gone in, and the last batch may be short."""
    taken = []

    def frames():
        for i in range(7):
            taken.append(i)
            yield np.full((120, 120, 3), 10 * i, np.uint8)

    boxes = [(10, 10, 100, 110)] * 3 + [None] + [(10, 10, 100, 110)] * 3
    mels = [np.zeros((80, 16), np.float32)] * 7
    finished = redraw_mouths(frames(), [SpeakingTrack(boxes, mels)], filled(models.Wav2Lip, 0.125), batch_size=3)
    first = next(finished)
    assert taken == [0, 1, 2] and (first[:10] == 0).all() and (first[10:110, 10:100] != 0).any()
    rest = list(finished)
    assert [f[0, 0, 0] for f in rest] == [10, 20, 30, 40, 50, 60] and (rest[2] == 30).all()


def test_only_running_out_of_memory_halves_the_batch():
    class Network(torch.nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.weight, self.kind, self.sizes = torch.nn.Parameter(torch.zeros(1)), kind, []

        def forward(self, mels, faces):
            assert not self.sizes or self.failed() is None  # what filled the memory is freed
            activations = faces.clone()
            self.failed = weakref.ref(activations)
            self.sizes.append(len(mels))
            if len(mels) > 2:
                raise self.kind("too many")
            return faces[:, 3:]

    faces = np.random.default_rng(0).integers(0, 256, (5, 96, 96, 6), np.uint8)
    mels = np.zeros((5, 80, 16), np.float32)
    full = Network(torch.OutOfMemoryError)
    assert (generate(full, mels, faces) == faces[..., 3:]).all() and max(full.sizes[2:]) <= 3
    with pytest.raises(RuntimeError, match="too many"):
        generate(Network(RuntimeError), mels, faces)


@pytest.mark.parametrize("threads", [1, 2, 7, 8, 9, 12, 15, 16, 31, 64])
def test_no_core_is_idle(monkeypatch, threads):
    """4 of 12 cores used to be, 7 of 15 and of 31; and fewer threads are in excess than one call has."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(devices, "cpu_count", lambda: 64)
    calls, share = devices.cpu_calls_and_threads()
    assert calls == devices.calls_at_a_time(torch.device("cpu")) <= devices.MAX_WORKERS
    assert threads <= calls * share < threads + share


def test_a_container_uses_the_processors_that_it_may(monkeypatch):
    """torch counts all of the machine's: 8 calls of 8 threads each shared the time of 2."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(devices, "cpu_count", lambda: 2)
    assert devices.cpu_calls_and_threads() == (2, 1)


def test_faces_that_are_not_numbers_are_an_error():
    """In fp16, some GPUs give NaN; rounded, they were black mouths, and the program ended as if all was well."""

    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, mels, faces):
            return faces[:, :3] * torch.nan

    with pytest.raises(RuntimeError, match="not numbers.*--precision fp32"):
        generate(Broken(), np.zeros((1, 80, 16), np.float32), np.zeros((1, 96, 96, 6), np.uint8))


def test_only_workers_are_limited_to_a_share_of_the_threads():
    """If another thread closed a stream, as in servers, its opener and all new threads were left with one each."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)

    def fresh():
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(torch.get_num_threads).result()

    def here_and_in_a_new_thread(*_):
        with devices._lock:  # else a new thread may begin with the share that a worker sets
            return torch.get_num_threads(), fresh()

    seen = in_parallel(here_and_in_a_new_thread, range(8), 4, devices.limit_threads)
    assert (next(seen), here_and_in_a_new_thread()) == ((1, 4), (4, 4))
    assert list(seen) == [(1, 4)] * 7 and here_and_in_a_new_thread() == (4, 4)
    torch.set_num_threads(before)


def test_failure_leaves_no_new_folder(sync, tmp_path):
    assert sync(audio=tmp_path / "missing.wav", outfile="new/folder/out.mp4")[0] == 2
    assert not (tmp_path / "new").exists()
    assert sync(outfile="new/folder/out.mp4") == (0, "") and (tmp_path / "new/folder/out.mp4").exists()


def test_mark_can_be_left_out(sync, tmp_path):
    for flags, is_marked in ((), True), (("--no_mark",), False):
        assert sync(*flags, outfile="out.mp4") == (0, "")
        assert (b"lips in this video are synthetic" in (tmp_path / "out.mp4").read_bytes()) == is_marked


def test_two_runs_at_once_in_one_folder(sync, tmp_path, small_checkpoint, small_clip, short_speech):
    runs = {"a.mp4": (), "b.mp4": ("--pads", 0, 0, 0, 0)}
    assert all(sync(*flags, outfile=name) == (0, "") for name, flags in runs.items())
    alone = {name: (tmp_path / name).read_bytes() for name in runs}
    assert alone["a.mp4"] != alone["b.mp4"]  # boxes differ without pads
    command = [f"--checkpoint_path={small_checkpoint}", f"--face={small_clip}", f"--audio={short_speech}"]
    command += ["--face_detector", "centerface"]
    with ThreadPoolExecutor() as threads:
        both = threads.map(
            inference.main, ([*command, "--outfile", name, *map(str, flags)] for name, flags in runs.items())
        )
        assert list(both) == [0, 0]
    assert {name: (tmp_path / name).read_bytes() for name in runs} == alone
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


# --------------------------------------------------------------------------------------------------------------------
# What should fail, in one line, leaving the old result alone


def damage(kind: str, folder, small_clip):
    path = folder / f"{kind}.mp4"
    if kind == "text":
        path.write_text("I am not a video. " * 100)
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        path.write_bytes(small_clip.read_bytes()[: small_clip.stat().st_size // 2])
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.fixture
def fails(sync, tmp_path):
    """Run with an old result in place, check what holds for every failure, and return stderr."""

    def run(*flags, expected=2, **files):
        (tmp_path / "out.mp4").write_bytes(b"the old result")
        code, words = sync(*flags, **files)
        assert code == expected and words.startswith("error: ") and words.count("\n") == 1 and "Traceback" not in words
        assert (tmp_path / "out.mp4").read_bytes() == b"the old result" and not leftovers(tmp_path)
        return words

    return run


@pytest.mark.parametrize("role", ["face", "audio", "checkpoint"])
def test_addresses_are_not_files(fails, role):
    assert "https://example.com/a.mp4 is an address; download it first" in fails(**{role: "https://example.com/a.mp4"})


def test_names_that_are_too_long_are_refused(sync):
    for names in ({"outfile": f"{'x' * 252}.mp4"}, {"outfile": f"{'x' * 256}/o.mp4"}, {"face": f"{'é' * 128}.mp4"}):
        code, words = sync(**names)
        assert code == 2 and "more than 255 bytes; give a shorter one" in words and words.count("\n") == 1


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "truncated"])
@pytest.mark.parametrize("role", ["face", "audio"])
def test_damaged_input(fails, tmp_path, small_clip, kind, role):
    path = damage(kind, tmp_path, small_clip)
    assert path.name in fails(**{role: path})


def test_video_without_sound_as_audio(fails, small_clip):
    assert "no sound track" in fails(audio=small_clip)


def test_sound_as_face(fails, short_speech):
    assert "no picture" in fails(face=short_speech)


def test_wrong_checkpoint(fails, tmp_path):
    torch.save({"state_dict": models.SyncNet_color().state_dict()}, tmp_path / "expert.pth")
    assert "SyncNet_color" in fails(checkpoint=tmp_path / "expert.pth")
    assert "wav2lip_gan" in fails(checkpoint=tmp_path / "nowhere.pth")


def test_one_frame_can_be_looked_at_first(sync, tmp_path):
    """It is that of the result, in a picture beside it."""
    face = ("--box", 5, 100, 30, 130)
    assert sync(*face, "--crf", 0) == (0, "")
    frames = list(video.read_frames(video.probe(tmp_path / "out.mp4")))
    for second, number in ((0.2, 5), (99, len(frames) - 1)):
        assert sync(*face, "--preview", second) == (0, "")
        shown = cv2.imread(str(tmp_path / "out.png"))
        assert np.abs(shown.astype(int) - frames[number]).mean() < 2  # encoding rounds colours


def test_a_preview_replaces_no_file_that_it_reads(sync, astronaut, tmp_path):
    cv2.imwrite(str(tmp_path / "out.png"), astronaut)
    code, err = sync("--face_like", tmp_path / "out.png", "--preview", 0)
    assert code == 2 and "is one of the files to read" in err


def test_a_preview_is_of_one_video(small_clip, speech, capsys):
    command = ["--face", small_clip, small_clip, "--audio", speech, "--preview", "1"]
    assert inference.main([*map(str, command)]) == 2 and "--preview shows a frame of one" in capsys.readouterr().err


def test_malicious_checkpoint(fails, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "PWNED"),)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    assert "run code" in fails(checkpoint=tmp_path / "evil.pth")
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("flags, words", [
    (("--pads", 0, 10, 0, 0), "--pads does nothing"),
    (("--nosmooth",), "--nosmooth does nothing"),
    (("--on_missing_face", "error"), "--on_missing_face error does nothing"),
    (("--identity", "x.onnx"), "--identity is for --face_like"),
    (("--occlusion", "keep"), "--occlusion keep does nothing without --blend feather"),
    (("--mix", "short.wav"), "--mix short.wav lasts 0.1 s, the speech 0.4 s: the rest of it is silent"),
])  # fmt: skip
def test_flags_that_do_nothing_are_reported(sync, tmp_path, short_speech, flags, words):
    run_ffmpeg("-i", short_speech, "-t", 0.1, tmp_path / "short.wav")
    assert sync("--box", 5, 30, 100, 130, *flags) == (0, "") and words in sync.out


@pytest.mark.parametrize("flags, words", [
    (("--box", 0, 100, 0, 999), "does not lie inside the 160x120 frame"),
    (("--box", 50, 20, 0, 90), "does not lie inside"),
    (("--pads", -200, -200, -200, -200), "--pads"),
    (("--pads", 1, 2), "four numbers"),
    (("--crop", 200, 100, 0, -1), "leaves nothing"),
    (("--resize_factor", 0), "is not 1 or more"),
    (("--face_index", -1), "--face_index"),
    (("--face_index", 5), "--face_index 5, but at most one face is visible at a time"),
    (("--resize_factor", 500), "--resize_factor 500 leaves nothing of the 160x120 picture"),
    (("--lip_delay", "nan"), "'nan' is not a number"),
    (("--lip_delay", "inf"), "'inf' is not a number"),
    (("--static", "maybe"), "maybe"),
    (("--blend", "sharp"), "sharp"),
    (("--fps", "inf"), "inf"),
    (("--fps", 0.0001), "--fps 0.0001 is not between 1 and 240"),
    (("--fps", 1e9), "--fps 1e+09 is not between 1 and 240"),
    (("--device", "cuda:42"), "cuda:42"),
    (("--face_detector", "sfd", "--face_detector_weights", "no.pth"), "no.pth"),
])  # fmt: skip
def test_unusable_flags(fails, flags, words):
    assert words in fails(*flags)


def test_no_face_anywhere_fails_before_the_generator_is_built(fails, tmp_path, monkeypatch):
    write_clip(tmp_path / "grey.mp4", np.full((10, 120, 160, 3), 90, np.uint8))
    monkeypatch.setattr(Runtime, "open_generator", lambda *_: pytest.fail("built"))
    words = fails(face=tmp_path / "grey.mp4")
    assert "--face_detector" in words and "--resize_factor" not in words  # which would make a tiny face smaller
    assert "no face was found" in fails("--face_index", 0, face=tmp_path / "grey.mp4")


def test_output_that_cannot_be_written(sync, tmp_path, small_clip):
    (tmp_path / "file").write_text("")
    (tmp_path / "dir.mp4").mkdir()
    (tmp_path / "dir").mkdir()
    for outfile, words in (
        ("file/x.mp4", "is a file"), ("dir.mp4", "is a folder"), ("dir", "is a folder"), ("x.txt", ".mp4"),
    ):  # fmt: skip
        code, line = sync(outfile=outfile)
        assert code == 2 and words in line and line.count("\n") == 1
    shutil.copy(small_clip, tmp_path / "same.mp4")
    assert "one of the files to read" in sync(face=tmp_path / "same.mp4", outfile="same.mp4")[1]


def test_full_disk(sync, tmp_path, small_checkpoint, talking_clip, silence):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("may not mount a small disk here")
    try:
        (disk / "out.mp4").write_bytes(b"the old result")
        code, words = sync(face=talking_clip, outfile=disk / "out.mp4")
        assert code == 1 and "No space left" in words and words.count("\n") == 1
        with pytest.raises(OSError, match="No space left") as problem:  # at which a batch stops
            LipSync(small_checkpoint).run(talking_clip, silence, disk / "out.mp4", box=(20, 120, 20, 120))
        assert is_disk_error(problem.value)
        assert [p.name for p in disk.iterdir()] == ["out.mp4"] and (disk / "out.mp4").read_bytes() == b"the old result"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_interrupted_run_leaves_nothing(fails, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(mouths.drawing, "paste", interrupted)
    assert "stopped" in fails(expected=130)


def test_bundled_footage_with_every_speech_format(sync, shared, tmp_path, small_checkpoint):
    """Every clip, each with another kind of speech file (the first 0.2 s), gives a complete video."""
    clips = sorted((shared / "clips").glob("*.mp4")) + [shared / "clips/photo_face.jpg"]
    speeches = sorted((shared / "clips").glob("speech_*"))
    for i, clip in enumerate(clips):
        sound = tmp_path / f"{speeches[i % len(speeches)].stem}.mka"
        run_ffmpeg("-i", speeches[i % len(speeches)], "-t", 0.2, "-c", "copy", sound)
        source = video.probe(clip)
        code, words = sync("--resize_factor", max(1, source.width // 256), face=clip, audio=sound)
        assert (code, words) == (0, ""), clip.name
        written = video.probe(tmp_path / "out.mp4")
        seconds = len(video.read_audio(sound, 16000)) / 16000
        frames = sum(1 for _ in video.read_frames(written))
        assert written.fps == source.fps and abs(frames - seconds * written.fps) < 1
        assert frames == audio.frame_count(video.Sound(sound, 16000).measure(), float(written.fps))
        assert abs(len(video.read_audio(written.path, 16000)) / 16000 - seconds) <= 1 / written.fps


def test_silence_and_the_choice_of_a_track_are_reported(
    small_checkpoint, talking_clip, silence, speech, told, tmp_path
):
    lips = LipSync(small_checkpoint, search=FaceSearch("centerface"), report=told)
    lips.prepare(talking_clip, silence)
    assert any("is silent from" in note for note in told.notes)
    told.notes.clear()
    run_ffmpeg(
        "-i", silence, "-i", speech, "-map", "0:a", "-map", "1:a", "-disposition:a:1", "default", tmp_path / "2.mka"
    )
    lips.prepare(talking_clip, tmp_path / "2.mka")
    assert [("2 sound tracks" in note, "is silent" in note) for note in told.notes] == [(True, False)]


# --------------------------------------------------------------------------------------------------------------------
# Flags, through the program


def frames_of(path) -> np.ndarray:
    return np.stack(list(video.read_frames(video.probe(path)))).astype(int)


@pytest.fixture
def photo(tmp_path, small_photo):
    cv2.imwrite(str(tmp_path / "photo.png"), small_photo)
    return tmp_path / "photo.png"


BOX = ("--box", 30, 100, 50, 105)


def test_bundled_network_is_credited_and_the_official_one_named(photo, tmp_path, short_speech, capsys):
    command = [f"--face={photo}", f"--audio={short_speech}", f"--outfile={tmp_path / 'out.mp4'}"]
    assert inference.main([*command, *map(str, BOX)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("network:")]
    assert all(words in line for words in ("CC BY 4.0", "GRID", "Cooke", "--checkpoint_path wav2lip_gan"))


def test_lip_delay_moves_the_mouths(sync, photo, speech, tmp_path):
    """On a still face, 80 ms give the same frames two frames later."""
    assert sync(*BOX, "--crf", 0, face=photo, audio=speech) == (0, "")
    usual = frames_of(tmp_path / "out.mp4")
    assert sync(*BOX, "--crf", 0, "--lip_delay", 80, face=photo, audio=speech) == (0, "")
    late = frames_of(tmp_path / "out.mp4")
    assert len(late) == len(usual) and np.abs(late[2:20] - usual[:18]).max() <= 1
    assert np.abs(late[:20] - usual[:20]).max() > 2


def test_lips_are_delayed_if_the_network_was_trained_with_a_mel_lead(small_checkpoint, tmp_path):
    """By a frame, 40 ms, unless the user says otherwise; official ones declare no lead, and get no delay."""
    content = torch.load(small_checkpoint, weights_only=True)
    for saved, delay in (({"mel_lead": 1}, 40), ({"mel_lead": 0}, 0), ({}, 0), ({"hparams": {"mel_lead": 1}}, 40)):
        torch.save(content | saved, tmp_path / "own.pth")
        lips = LipSync(tmp_path / "own.pth")
        assert lips.resolve(Options()).lip_delay == delay
        assert lips.resolve(Options(lip_delay=-8.0)).lip_delay == -8


@pytest.mark.parametrize(
    "flags, degrees",
    [((), 0), (("--rotate",), 90), (("--rotate", "180"), 180), (("--rotate=270",), 270), (("--rotate", "no"), 0)],
)
def test_rotate_takes_degrees_or_no_value_as_in_the_reference(flags, degrees):
    args = inference.get_parser().parse_args(["--face", "x.mp4", "--audio", "x.wav", *flags, "--nosmooth"])
    assert args.rotate == degrees and args.nosmooth
    assert Options(rotate=True).rotate == 90 and Options(rotate=False).rotate == 0
    with pytest.raises(UserError, match="--rotate 45 is not a turn"):
        Options(rotate=45)


@pytest.fixture
def drawn(monkeypatch):
    """(faces, dtype) of every call of the generator."""
    calls, generate = [], mouths.generate

    def watched(model, mels, *rest):
        calls.append((len(mels), next(model.parameters()).dtype))
        return generate(model, mels, *rest)

    monkeypatch.setattr(mouths.drawing, "generate", watched)
    return calls


def test_batch_size_and_precision_barely_change_the_result(sync, photo, tmp_path, speech, drawn):
    def run(*flags):
        drawn.clear()
        assert sync(*BOX, "--crf", 0, "--reference", "same", *flags, face=photo, audio=speech) == (0, "")
        return frames_of(tmp_path / "out.mp4"), {faces for faces, _ in drawn}, {kind for _, kind in drawn}

    usual, _, kinds = run()
    others = [
        (("--wav2lip_batch_size", 1), {1}, kinds),
        (("--wav2lip_batch_size", 7), {4, 7, 5}, kinds),  # the first batch is small, and 30 frames end with 5
        (("--precision", "fp32"), {4, mouths.CPU_BATCH, 10}, {torch.float32}),
        (("--precision", "bf16"), {4, mouths.CPU_BATCH, 10}, {torch.bfloat16}),
    ]
    for flags, *expected in others if devices.cpu_computes(torch.bfloat16) else others[:-1]:
        made, *found = run(*flags)
        assert found == expected
        difference = np.abs(made - usual)
        assert difference.mean() < 0.1 and np.percentile(difference, 99.9) <= 4


def test_preset_and_crf_reach_the_encoder(sync, photo, tmp_path):
    """x264 writes its settings into its output; subme is 1 in superfast and 8 in slow."""
    for flags, written in (((), b"subme=1 "), (("--preset", "slow"), b"subme=8 "), (("--crf", 31), b"crf=31.0")):
        assert sync(*BOX, *flags, face=photo) == (0, "")
        assert written in (tmp_path / "out.mp4").read_bytes()


@pytest.mark.parametrize("index", [0, 1])
def test_face_index_chooses_which_face_speaks(sync, tmp_path, small_photo, index):
    pair = np.concatenate((small_photo, small_photo[:, ::-1]), axis=1)
    write_clip(tmp_path / "pair.mp4", np.stack([pair] * 10))
    assert sync("--face_index", index, "--crf", 0, face=tmp_path / "pair.mp4") == (0, "")
    before, after = (frames_of(tmp_path / name) for name in ("pair.mp4", "out.mp4"))
    halves = np.split(np.abs(after - before).mean((0, 1, 3)), 2)
    moved = [half.max() for half in halves]
    assert moved[index] > 5 and moved[1 - index] < 3  # as the encoder leaves it


def test_quiet_speech_is_raised_for_the_network(small_checkpoint, small_clip, speech, tmp_path):
    usual = audio.loudness_of(audio.melspectrogram(video.read_audio(speech, 16000)))
    torch.save(torch.load(small_checkpoint, weights_only=True) | {"loudness": usual}, tmp_path / "own.pth")
    run_ffmpeg("-i", speech, "-af", "volume=-12dB", tmp_path / "soft.wav")
    lips = LipSync(tmp_path / "own.pth")
    for sound, lift in ((speech, 0), (tmp_path / "soft.wav", 12)):
        with lips.prepare(small_clip, sound, box=(30, 100, 50, 105)) as take:
            assert take.faces[0].windows.lift == pytest.approx(lift, abs=1)
