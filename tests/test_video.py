"""Frames and sound in, one file out: on files made here, so that the right answer is known."""

from __future__ import annotations

import gc
import itertools
import os
import re
import shutil
import signal
import subprocess
import threading
import weakref
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from scipy.io import wavfile

import video
import video.sound
from concurrency import prefetch
from conftest import X264, run_ffmpeg, write_clip
from errors import UserError
from video import process, sources

# as from cameras and libx264's usual preset: frames are stored out of display order
REORDERED = (*X264, "-preset", "medium")


def numbered(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Frames whose grey level is 8 times their number."""
    return np.stack([np.full((height, width, 3), 8 * i, np.uint8) for i in range(count)])


def numbers(frames) -> list[int]:
    return [round(float(frame.mean()) / 8) for frame in frames]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, numbered(30))
    return video.probe(path)


@pytest.fixture(scope="module")
def reordered(tmp_path_factory):
    path = tmp_path_factory.mktemp("reordered") / "clip.mp4"
    write_clip(path, numbered(10), "25", *REORDERED)
    return path


@pytest.fixture(scope="module")
def spoken(speech):
    """That sound with its stream known, so that a writer need not look for it: tests of files give ``speech``."""
    sound = video.Sound(speech, 16000)
    sound.measure()
    return sound


def test_probe(clip):
    assert (clip.width, clip.height, clip.fps, clip.is_image) == (96, 64, 25, False)


def test_probe_is_cached_until_the_video_changes(tmp_path, monkeypatch):
    write_clip(tmp_path / "clip.mp4", numbered(30))
    clip = video.probe(tmp_path / "clip.mp4")
    run, started = subprocess.run, []
    monkeypatch.setattr(subprocess, "run", lambda *a, **options: started.append(1) or run(*a, **options))
    assert video.probe(clip.path) == clip and video.probe(clip.path, video.Geometry(2)).width == 48 and not started
    write_clip(clip.path, numbered(30, 80, 112))
    del started[:]
    assert video.probe(clip.path).width == 112 and started


def test_reading_starts_at_any_frame(clip):
    assert numbers(video.read_frames(clip)) == list(range(30))
    for start, count in ((0, 3), (7, 5), (28, 10), (29, 1), (5, 0)):
        assert numbers(video.read_frames(clip, start, count)) == list(range(30))[start : start + count]


@pytest.mark.parametrize("name, rate", [("long.mp4", "25"), ("long.avi", "30000/1001"), ("long.mkv", "24000/1001")])
def test_seeking_far_gives_the_same_frames(tmp_path, name, rate):
    frames = np.stack([np.full((32, 32, 3), i, np.uint8) for i in range(200)])
    write_clip(tmp_path / name, frames, rate, "-c:v", "libx264", "-qp", 0, "-pix_fmt", "yuv444p", "-g", 50, "-bf", 0)
    info = video.probe(tmp_path / name)
    whole = list(video.read_frames(info))
    assert len(whole) == 200
    for start in (60, 99, 100, 199):
        part = list(video.read_frames(info, start, 4))
        assert len(part) == len(whole[start : start + 4]) and all((a == b).all() for a, b in zip(part, whole[start:]))
    every_third = list(video.read_frames(info, 61, 40, every=3))
    assert len(every_third) == 40 and all((a == b).all() for a, b in zip(every_third, whole[61::3]))
    assert len(list(video.read_frames(info, 61, every=50))) == 3


@pytest.mark.parametrize("name, rate, count, wanted", [
    ("a.mp4", "10", 85, "25"), ("a.mp4", "24", 180, "25"), ("a.mp4", "30", 213, "25"), ("a.mp4", "60", 430, "25"),
    ("a.mkv", "60000/1001", 430, "30000/1001"), ("a.mkv", "30", 425, "15/2"),
])  # fmt: skip
def test_seeking_gives_the_same_frames_at_another_rate(tmp_path, name, rate, count, wanted):
    """Frames half-way between two numbers went to either; the result was a frame short, and began again at its end."""
    frames = np.stack([np.full((16, 16, 3), i % 250, np.uint8) for i in range(count)])
    write_clip(tmp_path / name, frames, rate, "-c:v", "libx264", "-qp", 0, "-pix_fmt", "yuv444p", "-g", 30)
    info = replace(video.probe(tmp_path / name), fps=Fraction(wanted))
    whole = [round(float(frame.mean())) for frame in video.read_frames(info)]
    for start in range(51, min(121, len(whole)), 8):
        part = replace(info, start=start)
        counted, goes_on = video.count_frames(part, 10**4)
        shown = [round(float(frame.mean())) for frame in video.repeat_frames(part, counted, counted)]
        assert not goes_on and shown == whole[start:], start


@pytest.mark.parametrize("name", ["held.mkv", "held.mp4"])
def test_long_frame_stays_until_the_next_wherever_reading_starts(tmp_path, name):
    """Reading from within a frame on view for long used to show the next one, seconds too early."""
    write_clip(tmp_path / "all.mp4", np.stack([np.full((32, 32, 3), 2 * i, np.uint8) for i in range(100)]), "25")
    stretch = ("-vf", "setpts=PTS+gte(N\\,50)*8/TB", "-fps_mode", "passthrough", "-c:v", "libx264", "-bf", 0)
    run_ffmpeg("-i", tmp_path / "all.mp4", *stretch, tmp_path / name)
    info = video.probe(tmp_path / name)
    whole = list(video.read_frames(info))
    assert len(whole) == 300 and (whole[249] == whole[60]).all() and (whole[250] != whole[249]).any()
    for start in (35, 65, 125, 185, 245, 275):
        assert (next(video.read_frames(info, start, 1)) == whole[start]).all(), start


@pytest.mark.parametrize("name, codec", [
    ("long.ts", ("-c:v", "libx264", "-g", 150)), ("long.mpg", ("-c:v", "mpeg2video", "-g", 150)),
    ("long.h264", ("-c:v", "libx264", "-g", 150)),
])  # fmt: skip
def test_files_without_an_index_are_read_from_the_start(tmp_path, name, codec):
    """ffmpeg began in the middle and gave the next keyframe, or nothing: keyframes are six seconds apart."""
    frames = np.stack([np.full((32, 32, 3), i, np.uint8) for i in range(200)])
    write_clip(tmp_path / name, frames, "25", *codec)
    info = video.probe(tmp_path / name)
    whole = list(video.read_frames(info))
    assert not info.indexed and len(whole) >= 199
    for start in (60, 140, 190):
        part = list(video.read_frames(info, start, 4))
        assert len(part) == 4 and all((a == b).all() for a, b in zip(part, whole[start:]))


def test_metadata_is_not_taken_for_ffmpeg_messages(tmp_path):
    """A comment about truncation is no error, and a title about rotation turns nothing."""
    words = "First line\nthe intro was truncated by the host"
    tone = ("-f", "lavfi", "-i", "sine=d=0.5:r=16000")
    run_ffmpeg(*tone, "-metadata", f"comment={words}", tmp_path / "a.m4a")
    assert len(video.read_audio(tmp_path / "a.m4a", 16000)) >= 8000
    title = ("-metadata", "title=The rotation of the Earth")
    write_clip(tmp_path / "a.mp4", np.zeros((3, 32, 32, 3), np.uint8), "25", "-c:v", "libx264", *title)
    assert not video.probe(tmp_path / "a.mp4").turned


def test_browser_recordings_may_end_anywhere(tmp_path):
    """They are streamed, and declare no duration; other files do, and are refused when cut short."""
    write_clip(tmp_path / "whole.webm", numbered(20), "25", "-c:v", "libvpx")
    command = [
        video.ffmpeg_path(),
        "-v",
        "error",
        "-i",
        tmp_path / "whole.webm",
        "-c",
        "copy",
        "-f",
        "webm",
        "-live",
        "1",
        "-",
    ]
    streamed = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, check=True).stdout
    (tmp_path / "live.webm").write_bytes(streamed[:-20])
    assert len(list(video.read_frames(video.probe(tmp_path / "live.webm")))) >= 18
    (tmp_path / "cut.webm").write_bytes((tmp_path / "whole.webm").read_bytes()[:-200])
    with pytest.raises(ValueError, match="cut short"):
        list(video.read_frames(video.probe(tmp_path / "cut.webm")))


def test_chapters_of_a_speech_are_not_copied(tmp_path):
    (tmp_path / "chapters.txt").write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=300\ntitle=one\n")
    tone = ("-f", "lavfi", "-i", "sine=d=0.5:r=16000")
    run_ffmpeg(*tone, "-i", tmp_path / "chapters.txt", "-map_chapters", 1, tmp_path / "book.m4a")
    info = video.VideoInfo(tmp_path, 32, 32, Fraction(25))
    with video.VideoWriter(tmp_path / "out.mp4", info, tmp_path / "book.m4a", 10) as writer:
        for _ in range(10):
            writer.write(np.zeros((32, 32, 3), np.uint8))
    report = subprocess.run([video.ffmpeg_path(), "-i", tmp_path / "out.mp4"], capture_output=True, text=True).stderr
    assert "Chapter" not in report and report.count("Stream #0:") == 2


@pytest.mark.parametrize(
    "printed, exact", [("23.98", "24000/1001"), ("29.97", "30000/1001"), ("25", "25"), ("12.5", "25/2")]
)
def test_broadcast_rates_are_exact(printed, exact):
    assert video.probing._frame_rate(f"h264, 64x64, {printed} fps, 90k tbn") == Fraction(exact)


def test_variable_rate_is_made_constant_by_timestamps(tmp_path):
    """Ten frames at 30 fps, of which 3 to 6 are dropped and their time is left to frame 2."""
    write_clip(tmp_path / "cfr.mp4", numbered(10), "30")
    select = "select='lt(n,3)+gt(n,6)'"
    run_ffmpeg("-i", tmp_path / "cfr.mp4", "-vf", select, "-fps_mode", "vfr", "-crf", 10, tmp_path / "vfr.mp4")
    info = video.probe(tmp_path / "vfr.mp4")
    from dataclasses import replace

    assert numbers(video.read_frames(replace(info, fps=Fraction(30)))) == [0, 1, 2, 2, 2, 2, 2, 7, 8, 9]


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_first_frame_is_shown_until_a_late_picture_starts(tmp_path, reordered, speech, container):
    """In .ts, frames were timed from the first picture, and sound from the first sound."""
    both = tmp_path / f"both.{container}"
    run_ffmpeg("-itsoffset", "0.2", "-i", reordered, "-i", speech, "-c:v", "copy", both)
    late = 6 if container == "ts" else 5  # .ts does not record the encoder's delay, and plays it as sound
    assert numbers(video.read_frames(video.probe(both)))[: late + 10] == [0] * late + list(range(10))


def test_joined_ts_recordings_are_read_to_the_end(tmp_path, reordered, speech):
    """Each .ts in a joined file has its own clock: 0, then hours later, then 0 again."""
    for name, clock in (("early.ts", 0), ("late.ts", 9000)):
        both = ("-i", reordered, "-i", speech, "-shortest", "-c:v", "copy")
        run_ffmpeg(*both, "-output_ts_offset", clock, tmp_path / name)
    early, late = ((tmp_path / name).read_bytes() for name in ("early.ts", "late.ts"))
    (tmp_path / "joined.ts").write_bytes(early + late + early)
    frames = numbers(itertools.islice(video.read_frames(video.probe(tmp_path / "joined.ts")), 60))
    assert [number for number, _ in itertools.groupby(frames)] == [*range(10)] * 3 and len(frames) <= 33


def test_gap_in_the_picture_keeps_its_length(tmp_path):
    """ffmpeg takes a jump of ten seconds for a new clock, unknown to the other process, which reads the sound."""
    source = ("-f", "lavfi", "-i", "testsrc=d=20:s=64x64:r=5", "-f", "lavfi", "-i", "sine=d=20")
    run_ffmpeg(*source, "-vf", "select='not(between(t,4,16))'", "-fps_mode", "passthrough", tmp_path / "hole.ts")
    info = video.probe(tmp_path / "hole.ts")
    seconds = sum(1 for _ in video.read_frames(info)) / info.fps
    assert abs(seconds - 20) <= 0.4 and abs(len(video.read_audio(info.path, 16000)) / 16000 - 20) <= 0.2


def silence_pid(path, pid):
    """Turn an elementary stream's packets into null packets; it stays listed, as in broadcasts."""
    content = bytearray(path.read_bytes())
    for at in range(0, len(content), 188):
        if int.from_bytes(content[at + 1 : at + 3], "big") & 0x1FFF == pid:
            content[at + 1 : at + 3] = (content[at + 1] & 0xE0 | 0x1F, 0xFF)
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["a", "v"])
def test_listed_streams_without_packets_are_ignored(tmp_path, clip, speech, kind):
    maps = ("-map", "0:v", "-map", "1:a", "-map", "1:a" if kind == "a" else "0:v", "-c:v", "copy")
    run_ffmpeg("-i", clip.path, "-i", speech, *maps, tmp_path / "x.ts")
    silence_pid(tmp_path / "x.ts", 0x102)
    info = video.probe(tmp_path / "x.ts")
    assert len(list(video.read_frames(info))) >= 10 and len(video.read_audio(info.path, 16000)) > 16000
    with video.VideoWriter(tmp_path / "out.mp4", info, tmp_path / "x.ts", 10) as writer:
        for frame in numbered(10):
            writer.write(frame)
    assert len(video.read_audio(tmp_path / "out.mp4", 16000))


def write_song(folder, speech):
    """Write song.mp3, with a cover image."""
    (folder / "cover.jpg").write_bytes(cv2.imencode(".jpg", numbered(9)[8])[1].tobytes())
    song = ("-i", speech, "-i", folder / "cover.jpg", "-map", "0:a", "-map", "1:v", "-c:v", "copy")
    run_ffmpeg(*song, "-disposition:v", "attached_pic", folder / "song.mp3")


def test_damaged_cover_is_ignored(tmp_path, speech):
    write_song(tmp_path, speech)
    content = (tmp_path / "song.mp3").read_bytes()
    picture = content.index(b"\xff\xd8\xff")
    (tmp_path / "song.mp3").write_bytes(content[:picture] + bytes(200) + content[picture + 200 :])
    assert len(video.read_audio(tmp_path / "song.mp3", 16000)) > 16000


def write_sizes(folder, sizes):
    """Write all.mkv, ten frames of each size (height, width), each ten of one grey: 40, 90, 140, …"""
    for n, size in enumerate(sizes):
        write_clip(folder / f"{n}.ts", np.stack([np.full((*size, 3), 50 * n + 40, np.uint8)] * 10))
    (folder / "list.txt").write_text("".join(f"file {n}.ts\n" for n in range(len(sizes))))
    run_ffmpeg("-f", "concat", "-i", folder / "list.txt", "-c", "copy", folder / "all.mkv")


def test_size_may_change_in_a_turned_video(tmp_path):
    """ffmpeg turns all frames as it set up for the first size, and would read beyond smaller ones."""
    write_sizes(tmp_path, [(176, 320), (88, 160)])
    run_ffmpeg("-display_rotation", 90, "-i", tmp_path / "all.mkv", "-c", "copy", tmp_path / "turned.mov")
    info = video.probe(tmp_path / "turned.mov")
    assert info.turned and (info.width, info.height) == (176, 320)
    assert {(round(frame.mean() / 10), round(frame.std())) for frame in video.read_frames(info)} == {(4, 0), (9, 0)}


def test_size_change_keeps_the_timing(tmp_path):
    """As in recordings of video calls: frames are scaled to the first one's size, and keep their times."""
    write_sizes(tmp_path, [(64, 96), (32, 48), (48, 64), (64, 96)])
    frames = list(video.read_frames(video.probe(tmp_path / "all.mkv")))
    assert {frame.shape for frame in frames} == {(64, 96, 3)}
    assert [round((float(frame.mean()) - 40) / 50) for frame in frames] == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10


def test_aspect_change_adds_borders(tmp_path):
    """As when a window is resized, or a phone turned in a call: wider frames get borders above and below."""
    write_sizes(tmp_path, [(64, 64), (32, 128)])
    last = list(video.read_frames(video.probe(tmp_path / "all.mkv")))[-1].mean((1, 2))
    assert np.abs(last[25:39] - 90).max() < 2 and (last[:22] < 2).all() and (last[42:] < 2).all()


def turned_clip(tmp_path, width, degrees):
    """A video 64 pixels high, its left half white, that players are to turn."""
    frames = np.zeros((5, 64, width, 3), np.uint8)
    frames[:, :, : width // 2] = 255
    write_clip(tmp_path / "flat.mp4", frames)
    run_ffmpeg("-display_rotation", degrees, "-i", tmp_path / "flat.mp4", "-c", "copy", tmp_path / "turned.mp4")
    return video.probe(tmp_path / "turned.mp4")


def test_rotation_metadata_is_applied(tmp_path):
    info = turned_clip(tmp_path, 96, 90)
    frame = next(video.read_frames(info))
    assert (info.width, info.height) == (64, 96) and frame.shape == (96, 64, 3)
    assert frame[:40].mean() < 20 and frame[56:].mean() > 200  # counter-clockwise: its left is at the bottom now


def test_odd_rotation_is_applied(tmp_path):
    """ffmpeg 5 prints it without ending the line, and what followed went unread."""
    info = turned_clip(tmp_path, 64, 45)
    frame = next(video.read_frames(info)).mean(axis=2)
    assert info.turned and frame.shape == (info.height, info.width)
    middle = frame[info.height // 2 - 16 :, info.width // 2 - 16 :][:32, :32]
    corners = middle[:4, :4].mean(), middle[-4:, -4:].mean(), middle[:4, -4:].mean(), middle[-4:, :4].mean()
    assert sorted(value > 128 for value in corners[:2]) != sorted(value > 128 for value in corners[2:])


def write_interlaced(path, order, *codec, count=10):
    """Write a white bar that moves by 5 pixels a field over black, two fields a frame, 25 frames a second."""
    fields = np.zeros((2 * count, 96, 256, 3), np.uint8)
    for i, field in enumerate(fields):
        field[:, 6 + 5 * i : 36 + 5 * i] = 255
    woven = fields[0::2].copy()
    top, bottom = (0, 1) if order == "tff" else (1, 0)
    woven[:, top::2], woven[:, bottom::2] = fields[0::2, top::2], fields[1::2, bottom::2]
    write_clip(path, woven, "25", "-vf", f"setfield={order}", *codec)
    return fields


def combing(frame):
    """How far rows are from the mean of their neighbours, in grey levels."""
    grey = frame[4:-4].astype(float).mean(axis=2)
    return np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean()


FIELDS = ("-flags", "+ildct+ilme", "-pix_fmt", "yuv420p")


@pytest.mark.parametrize("name, order, codec", [
    ("i.mpg", "tff", ("-c:v", "mpeg2video", "-q:v", 2, *FIELDS)),
    ("i.mp4", "tff", ("-c:v", "libx264", "-crf", 10, *FIELDS)),
    ("i.ts", "bff", ("-c:v", "libx264", "-crf", 10, *FIELDS)),
    ("i.avi", "tff", ("-c:v", "mpeg4", "-q:v", 2, *FIELDS)),
    ("i.mov", "bff", ("-c:v", "prores_ks", "-flags", "+ildct")),
])  # fmt: skip
def test_interlaced_frames_are_deinterlaced(tmp_path, spoken, name, order, codec):
    """Results marked progressive kept two moments in one frame, which nothing could repair later."""
    write_interlaced(tmp_path / name, order, *codec)
    info = video.probe(tmp_path / name)
    frames = list(video.read_frames(info))
    assert info.interlaced and info.fps == 25 and 10 <= len(frames) <= 11  # .ts repeats its first
    assert max(map(combing, frames)) < 3
    for i, frame in enumerate(frames[-10:]):  # the bar is where it is in the first field or the second
        edge = np.abs(np.diff(frame[48].astype(float).mean(axis=1))).argmax()
        assert min(abs(edge - 5 - 10 * i), abs(edge - 35 - 10 * i)) <= 6
    part = list(video.read_frames(info, 7, 3))
    assert [np.abs(a.astype(int) - b).max() for a, b in zip(part, frames[7:])] == [0] * 3
    with video.VideoWriter(tmp_path / "out.mp4", info, spoken, 10) as writer:
        for frame in frames[:10]:
            writer.write(frame)
    assert not video.probe(tmp_path / "out.mp4").interlaced


@pytest.mark.parametrize("count", [1, 2, 3])
def test_short_interlaced_videos_keep_all_frames(tmp_path, count):
    write_interlaced(tmp_path / "i.mkv", "tff", "-c:v", "ffv1", count=count)
    info = video.probe(tmp_path / "i.mkv")
    assert info.interlaced and len(list(video.read_frames(info))) == count


def test_progressive_frames_get_no_extra_filters(clip, monkeypatch):
    commands, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda c, **options: commands.append(c) or popen(c, **options))
    assert not clip.interlaced and len(list(video.read_frames(clip))) == 30
    filters = commands[0][commands[0].index("-vf") + 1]
    assert [part.partition("=")[0] for part in filters.split(",")] == ["fps", "scale", "pad", "setpts"]


@pytest.mark.parametrize("name, codec", [
    ("a.mov", ("-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le")),
    ("rle.mov", ("-c:v", "qtrle", "-pix_fmt", "argb")),
    ("a.mkv", ("-c:v", "ffv1", "-pix_fmt", "bgra")),
    ("vp9.webm", ("-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p")),
    ("vp8.webm", ("-c:v", "libvpx", "-auto-alt-ref", 0, "-pix_fmt", "yuva420p")),
    ("a.png", ("-f", "apng")),
    ("a.gif", ("-filter_complex", "split[a][b];[a]palettegen[p];[b][p]paletteuse")),
    ("a.webp", ("-c:v", "libwebp_anim", "-lossless", 1)),
])  # fmt: skip
def test_transparent_parts_of_a_video_become_white(tmp_path, name, codec):
    """Hidden colours came to light, such as the background cut away around a person."""
    picture = np.zeros((64, 96, 4), np.uint8)
    picture[:, :48], picture[:, 48:] = (200, 60, 160, 0), (60, 160, 40, 255)
    frames = np.stack([picture] * 5)
    frames[:, 40:50] = np.arange(5, dtype=np.uint8)[:, None, None, None] * 20 + [[[[0, 0, 0, 255]]]]
    frames[:, 40:50, :, 3] = 255
    raw = ("-f", "rawvideo", "-pix_fmt", "bgra", "-s", "96x64", "-r", 25, "-i", "pipe:0")
    run_ffmpeg(*raw, *codec, tmp_path / name, stdin=frames.tobytes())
    try:
        info = video.probe(tmp_path / name)
    except ValueError as error:
        assert "animated WebP, which this ffmpeg cannot read" in str(error)
        pytest.skip(str(error))
    shown = list(video.read_frames(info))
    assert {frame.shape for frame in shown} == {(64, 96, 3)} and 5 <= len(shown) <= 6
    assert shown[0][4:36, 4:40].min() >= 250
    assert np.abs(shown[0][4:36, 56:92].astype(int) - (60, 160, 40)).mean() < 8
    assert [round(float(frame[44:46].mean()) / 20) for frame in shown[:5]] == [0, 1, 2, 3, 4]


def test_transparency_that_ffmpeg_ignores_is_reported(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.webm", numbered(3), "25", "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p")
    monkeypatch.setattr(video.probing, "ffmpeg_has", lambda *_: False)
    info = video.probe(tmp_path / "a.webm")
    assert not info.transparent and "this ffmpeg ignores" in info.notes[0]
    assert len(list(video.read_frames(info))) == 3


def test_small_gaps_in_sound_do_not_add_up(tmp_path):
    """Of clips joined as they are, each with sound a little shorter than its picture, the last was 0.1 s early."""
    write_clip(tmp_path / "v.mkv", numbered(25))
    for n in range(8):
        sound = ("-f", "lavfi", "-t", "0.978", "-i", f"sine={400 + 100 * n}:sample_rate=16000")
        run_ffmpeg("-i", tmp_path / "v.mkv", *sound, "-c:v", "copy", "-c:a", "pcm_s16le", tmp_path / f"{n}.mkv")
    (tmp_path / "list.txt").write_text("".join(f"file {n}.mkv\nduration 1\n" for n in range(8)))
    run_ffmpeg("-f", "concat", "-i", tmp_path / "list.txt", "-c", "copy", tmp_path / "joined.mkv")
    heard = video.read_audio(tmp_path / "joined.mkv", 16000)
    for n in range(8):
        spectrum = np.abs(np.fft.rfft(heard[16000 * n + 700 : 16000 * n + 14000]))
        assert abs(spectrum.argmax() * 16000 / 13300 - (400 + 100 * n)) < 2
        late = next(i for i in range(-1600, 1600, 80) if _is_tone(heard[16000 * n + i :][:400], 400 + 100 * n))
        assert abs(late) <= 700  # samples, 44 ms


def _is_tone(samples: np.ndarray, hertz: int) -> bool:
    wave = np.exp(2j * np.pi * hertz * np.arange(len(samples)) / 16000)
    return len(samples) == 400 and abs(samples @ wave) > 0.9 * 200 * np.abs(samples).max() > 0


def test_lost_transparency_is_reported(tmp_path):
    write_clip(tmp_path / "a.mov", numbered(3), "25", "-c:v", "qtrle", "-pix_fmt", "argb")
    write_clip(tmp_path / "b.gif", numbered(3), "25", "-c:v", "gif")
    assert "become white" in video.probe(tmp_path / "a.mov").notes[0] and not video.probe(tmp_path / "b.gif").notes
    assert video.probe(tmp_path / "a.mov").lasts == pytest.approx(0.12, abs=0.01)


def test_opaque_videos_are_not_marked_transparent(clip, tmp_path):
    assert not clip.transparent and clip.decoder is None
    write_clip(tmp_path / "a.webm", numbered(5), "25", "-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p")
    info = video.probe(tmp_path / "a.webm")
    assert not info.transparent and info.decoder is None


@pytest.mark.parametrize("codec, pixels, size", [
    ("libx264", "yuv420p10le", (52, 54)),
    ("libx264", "gray", (51, 53)),
    ("qtrle", "argb", (51, 53)),
    ("libx264", "yuv444p", (51, 53)),
])  # fmt: skip
def test_pixel_formats_and_odd_sizes(tmp_path, codec, pixels, size):
    write_clip(tmp_path / "x.mov", numbered(6, *size), "25", "-c:v", codec, "-pix_fmt", pixels)
    info = video.probe(tmp_path / "x.mov")
    assert (info.height, info.width) == size and numbers(video.read_frames(info)) == list(range(6))


@pytest.mark.parametrize("name", ["a.PNG", "v1.2/face.jpeg", "no suffix", "photo%03d.webp", "half.mp4"])
def test_images_are_recognised_by_content(tmp_path, name):
    """The reference split the path at dots."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    picture = np.full((40, 60, 4), 200, np.uint8)
    path.write_bytes(cv2.imencode(".webp" if "webp" in name else ".png", picture)[1].tobytes())
    info = video.probe(path)
    assert info.is_image and (info.width, info.height) == (60, 40)
    assert [f.shape for f in video.repeat_frames(info, 3)] == [(40, 60, 3)] * 3


@pytest.mark.parametrize("pingpong", [False, True])
@pytest.mark.parametrize("held", [1, 20])
def test_repetition(clip, monkeypatch, pingpong, held):
    """The order is the same whether the clip fits in memory or is read again, backwards in pieces of 7 frames."""
    monkeypatch.setattr(video.reading, "HELD_BYTES", held * 64 * 96 * 3)
    monkeypatch.setattr(video.reading, "TURNED_BYTES", 7 * 64 * 96 * 3)
    repeated = numbers(video.repeat_frames(clip, 70, 20, pingpong))
    assert repeated == [video.source_index(i, 20, pingpong) for i in range(70)]
    assert repeated[19:23] == ([19, 18, 17, 16] if pingpong else [19, 0, 1, 2])


def test_repeated_frames_are_read_only(clip):
    """Frames of the first pass may be drawn on; the later passes show them as filmed."""
    filmed, shown = next(video.read_frames(clip)), []
    for frame in video.repeat_frames(clip, 25, 10):
        shown.append(frame.copy())
        if frame.flags.writeable:
            frame[:] = 0
    assert all((shown[i] == filmed).all() for i in (0, 10, 20)) and not frame.flags.writeable


def test_source_index_of_a_single_frame():
    assert [video.source_index(i, 1, p) for p in (True, False) for i in range(3)] == [0] * 6


def test_shrinking_averages_all_pixels():
    """A GIF's dither used to become a coarse pattern all over the picture."""
    frame = np.indices((300, 300)).sum(0) % 2 * 255
    shrunk = video.Geometry(resize_factor=3)(np.repeat(frame[..., None], 3, 2).astype(np.uint8))
    assert shrunk.shape == (100, 100, 3) and np.abs(shrunk.astype(int) - 127).max() < 20


def test_geometry(clip):
    geometry = video.Geometry(resize_factor=2, rotate=90, crop=(4, -1, 0, 20))
    info = video.probe(clip.path, geometry)
    plain = next(video.read_frames(clip))
    expected = np.rot90(cv2.resize(plain, (48, 32), interpolation=cv2.INTER_AREA), -1)[4:, :20]
    frame = next(video.read_frames(info))
    assert frame.shape == (info.height, info.width, 3) == (44, 20, 3) and (frame == expected).all()


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_frames_are_turned_clockwise(clip, degrees):
    info = video.probe(clip.path, video.Geometry(rotate=degrees))
    frame, plain = (next(video.read_frames(one)) for one in (info, clip))
    assert frame.shape == (info.height, info.width, 3) and (frame == np.rot90(plain, -degrees // 90)).all()


def test_turning_inverts_the_pixel_aspect(tmp_path):
    write_clip(tmp_path / "pal.mp4", numbered(3), "25", "-vf", "setsar=16/15")
    assert video.probe(tmp_path / "pal.mp4").sample_aspect == "16:15"
    assert video.probe(tmp_path / "pal.mp4", video.Geometry(rotate=270)).sample_aspect == "15:16"
    assert video.probe(tmp_path / "pal.mp4", video.Geometry(rotate=180)).sample_aspect == "16:15"


@pytest.mark.parametrize("aspect", ["16/15", "1/1", "404/405"])
def test_result_keeps_the_pixel_aspect(tmp_path, spoken, aspect):
    write_clip(tmp_path / "pal.mp4", numbered(3), "25", "-vf", f"setsar={aspect}:max=999")
    info = video.probe(tmp_path / "pal.mp4")
    with video.VideoWriter(tmp_path / "out.mp4", info, spoken, 3) as writer:
        for frame in video.read_frames(info):
            writer.write(frame)
    assert video.probe(tmp_path / "out.mp4").sample_aspect == info.sample_aspect == aspect.replace("/", ":")


@pytest.mark.parametrize("crop", [(0, -16, 0, -1), (2, -3, 1, -1), (0, 500, 4, -7), (0, -1, 0, -1)])
def test_ends_of_a_crop_count_from_the_far_edge(clip, crop):
    """As numpy's in the reference; "leaves nothing of the picture" was said of those below -1."""
    geometry = video.Geometry(crop=crop)
    height, width, _ = geometry(np.zeros((64, 96, 3), np.uint8)).shape
    assert geometry.size_of(96, 64) == (width, height)


@pytest.mark.parametrize("crop", [(50, 20, 0, -1), (0, -1, 96, -1), (-5, 10, 0, 5), (0, -64, 0, -1)])
def test_geometry_that_leaves_nothing_is_refused(clip, crop):
    with pytest.raises(ValueError, match="leaves nothing"):
        video.probe(clip.path, video.Geometry(crop=crop))


@pytest.mark.parametrize("height, width", [(64, 96), (65, 97), (1, 1)])
def test_written_file(tmp_path, speech, height, width):
    info = video.VideoInfo(tmp_path, width, height, Fraction(25))
    with video.VideoWriter(tmp_path / "new folder/out.mp4", info, speech, 30) as writer:
        for frame in numbered(30, height, width):
            writer.write(frame)
    written = video.probe(tmp_path / "new folder/out.mp4")
    assert (written.width, written.height, written.fps) == (width + width % 2, height + height % 2, 25)
    assert numbers(video.read_frames(written)) == list(range(30))
    assert abs(len(video.read_audio(written.path, 16000)) / 16000 - 1.2) <= 1 / 25
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["out.mp4"]


def test_colours_survive_with_their_tags(tmp_path, spoken):
    tags = "scale=out_color_matrix=bt709,setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    stripes = STRIPES[None].repeat(5, 0)
    write_clip(tmp_path / "tagged.mp4", stripes, "25", "-vf", tags, "-c:v", "libx264", "-crf", 5, "-pix_fmt", "yuv420p")
    source = video.probe(tmp_path / "tagged.mp4")
    assert source.colour == ("bt709", "bt709", "bt709")
    frames = list(video.read_frames(source))
    with video.VideoWriter(tmp_path / "out.mp4", source, spoken, 5, video.Encoding(crf=5)) as writer:
        for frame in frames:
            writer.write(frame)
    written = video.probe(tmp_path / "out.mp4")
    assert written.colour == source.colour
    assert np.abs(next(video.read_frames(written)).astype(int) - frames[0]).mean() < 2


STRIPES = np.zeros((64, 96, 3), np.uint8)
STRIPES[:, :32], STRIPES[:, 32:64], STRIPES[:, 64:] = (200, 60, 30), (40, 180, 60), (60, 60, 220)


COLOUR_TAGS = [
    (6, 6, 5, ("smpte170m", "smpte170m", "bt470bg")),
    (1, 1, 4, ("bt709", "bt709", "bt470m")),
    (5, 5, 5, ("bt470bg", "bt470bg", "bt470bg")),
    (4, 4, 4, ("fcc", "bt470m", "bt470m")),
    (1, 3, 3, ("bt709", "unknown", "unknown")),
    (3, 1, 1, ("unknown", "bt709", "bt709")),
    (9, 9, 16, ("bt2020nc", "bt2020", "smpte2084")),
    (8, 1, 1, ("ycgco", "bt709", "bt709")),
    (10, 9, 14, ("bt2020c", "bt2020", "bt2020-10")),
    (14, 9, 16, ("ictcp", "bt2020", "smpte2084")),
    (15, 1, 1, ("unknown", "bt709", "bt709")),
]  # fmt: skip


@pytest.fixture(scope="module")
def tagged(tmp_path_factory):
    """A folder of videos of ``STRIPES``, three frames each, with the ``COLOUR_TAGS``."""
    folder, outputs = tmp_path_factory.mktemp("tagged"), []
    write_clip(folder / "plain.mp4", STRIPES[None].repeat(3, 0))
    for matrix, primaries, transfer, _ in COLOUR_TAGS:
        tags = f"matrix_coefficients={matrix}:colour_primaries={primaries}:transfer_characteristics={transfer}"
        outputs += ["-c", "copy", "-bsf:v", f"h264_metadata={tags}", folder / f"{matrix} {primaries} {transfer}.mp4"]
    run_ffmpeg("-i", folder / "plain.mp4", *outputs)
    return folder


@pytest.mark.parametrize("matrix, primaries, transfer, expected", COLOUR_TAGS)
def test_every_colour_tag_is_read_and_written(tmp_path, tagged, spoken, matrix, primaries, transfer, expected):
    """ffmpeg rejects some of the names that it prints: writing failed after the whole search."""
    try:
        source = video.probe(tagged / f"{matrix} {primaries} {transfer}.mp4")
    except ValueError as error:
        pytest.skip(f"ffmpeg 7 reads no reserved matrix: {error}")
    assert bool(source.notes) == (matrix in (8, 14) or matrix == 15 and bool(source.notes))  # older ffmpeg knows no 15
    frames = list(video.read_frames(source))
    if matrix in (3, 5, 6, 8, 14, 15):  # decoded as if untagged
        assert np.abs(frames[0].astype(int) - STRIPES).mean() < 6
    with video.VideoWriter(tmp_path / "out.mp4", source, spoken, 3, video.Encoding(crf=5)) as writer:
        for frame in frames:
            writer.write(frame)
    written = video.probe(tmp_path / "out.mp4")
    assert written.colour == expected
    assert np.abs(next(video.read_frames(written)).astype(int) - frames[0]).mean() < 3


@pytest.mark.parametrize("colour", [("bt470bg",) * 3, ("bt709", "bt470m", "bt470m"), ("reserved", "smpte428", "new")])
def test_colour_tags_are_passed_to_ffmpeg_as_numbers(tmp_path, speech, colour):
    """ffmpeg 4 to 7 reject ``-color_trc bt470bg``, and any names added later."""
    info = video.VideoInfo(tmp_path, 32, 32, Fraction(25), colour=colour)
    command = video.VideoWriter(tmp_path / "out.mp4", info, speech, 1)._command()
    values = [command[command.index(name) + 1] for name in ("-colorspace", "-color_primaries", "-color_trc")]
    assert [value.isdigit() for value in values] == [True] * 3
    (filters,) = (part for part in command if "setparams=" in part)
    named = filters.partition("setparams=")[2].partition(":range")[0].split(":")
    assert [option.partition("=")[2] for option in named] == values


def test_photos_get_colour_tags_too(tmp_path, spoken):
    """Untagged, large ones were played as BT.709, which they were not."""
    picture = np.full((64, 96, 3), (30, 40, 230), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), picture)
    write_clip(tmp_path / "screen.mov", picture[None].repeat(2, 0), "25", "-c:v", "qtrle", "-pix_fmt", "rgb24")
    for source in map(video.probe, (tmp_path / "photo.png", tmp_path / "screen.mov")):
        with video.VideoWriter(tmp_path / "out.mp4", source, spoken, 1, video.Encoding(crf=5)) as writer:
            writer.write(picture)
        written = video.probe(tmp_path / "out.mp4")
        assert written.colour == ("bt709", "bt709", "bt709")
        assert np.abs(next(video.read_frames(written)).astype(int) - picture).max() <= 3


def test_fast_default_preset_keeps_files_small(tmp_path, spoken):
    """x264's own superfast makes files twice as large as veryfast does."""
    scene = np.random.default_rng(0).normal(120, 40, (18, 32, 3))
    scene = cv2.resize(np.clip(scene, 0, 255).astype(np.uint8), (640, 360), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(1).integers(0, 6, (12, 240, 320, 3), np.uint8)
    info, sizes = video.VideoInfo(tmp_path, 320, 240, Fraction(25)), []
    for encoding in (video.Encoding(), video.Encoding(preset="veryfast")):
        with video.VideoWriter(tmp_path / "out.mp4", info, spoken, 50, encoding) as writer:
            for i in range(50):
                writer.write(scene[i : i + 240, i : i + 320] + noise[i % 12])
        sizes.append((tmp_path / "out.mp4").stat().st_size)
    assert sizes[0] < 1.5 * sizes[1]


def test_failed_write_leaves_nothing_and_keeps_the_old_result(tmp_path, speech):
    (tmp_path / "out.mp4").write_bytes(b"the old result")
    info = video.VideoInfo(tmp_path, 32, 32, Fraction(25))
    with pytest.raises(ZeroDivisionError), video.VideoWriter(tmp_path / "out.mp4", info, speech, 9) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"the old result"


def test_ffmpeg_error_messages_are_passed_on(tmp_path):
    (tmp_path / "noise.wav").write_bytes(b"not sound")
    info = video.VideoInfo(tmp_path, 32, 32, Fraction(25))
    with (
        pytest.raises(RuntimeError, match="Invalid data"),
        video.VideoWriter(tmp_path / "o.mp4", info, tmp_path / "noise.wav", 500) as writer,
    ):
        for _ in range(500):
            writer.write(np.zeros((32, 32, 3), np.uint8))
    assert [p.name for p in tmp_path.iterdir()] == ["noise.wav"]


def test_audio_of_a_video_starts_where_the_picture_does(tmp_path, speech):
    write_clip(tmp_path / "v.mp4", numbered(30))
    run_ffmpeg("-i", tmp_path / "v.mp4", "-itsoffset", "0.5", "-i", speech, "-c:v", "copy", tmp_path / "av.mp4")
    sound = video.read_audio(tmp_path / "av.mp4", 16000)
    assert np.abs(sound[: int(0.45 * 16000)]).max() < 0.01 and np.abs(sound[int(0.55 * 16000) :]).max() > 0.3


FORMATS = {
    "s.wav": (), "s.mp3": (), "s.m4a": (), "s.opus": (), "s.flac": (), "s.ts": ("-c:a", "mp2"),
    "late.mka": ("-af", "asetpts=PTS+0.7/TB", "-c:a", "aac"),
    "hole.mka": ("-af", "aselect=not(between(t\\,0.3\\,0.8))", "-c:a", "pcm_s16le"),
}  # fmt: skip


@pytest.fixture(scope="module")
def in_formats(tmp_path_factory, speech):
    """A folder with the speech in the ``FORMATS``."""
    folder = tmp_path_factory.mktemp("formats")
    run_ffmpeg("-i", speech, *itertools.chain(*((*options, folder / name) for name, options in FORMATS.items())))
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_measured_length_is_that_of_the_decoded_sound(in_formats, name):
    measured, heard = (video.Sound(in_formats / name, 16000) for _ in range(2))
    samples = measured.measure()
    assert abs(samples - len(np.concatenate(list(heard)))) < 16000 / 25
    assert (measured.stream, measured.notes) == (heard.stream, heard.notes)
    assert abs(samples - len(np.concatenate(list(measured)))) < 16000 / 25  # measuring changes nothing


def test_measuring_stops_at_the_limit(tmp_path, monkeypatch):
    """Measuring 20 hours of silence, 8 MB, took 16 s, and blocked all other requests. These are packets of 8 ms."""
    silence = "anullsrc=r=8000:cl=mono:d=60:nb_samples=64"
    run_ffmpeg("-f", "lavfi", "-i", silence, "-c:a", "pcm_u8", tmp_path / "long.mka")
    monkeypatch.setattr(video.Sound, "_end", lambda *_: pytest.fail("all of it was read"))
    assert 15 < video.Sound(tmp_path / "long.mka", 16000).measure(15.0) / 16000 < 50


@pytest.mark.parametrize("name", ["av.mp4", "av.ts", "av.mkv"])
@pytest.mark.parametrize("fps", ["25", "0.5"])
def test_only_the_used_sound_track_is_measured(tmp_path, speech, name, fps):
    """Of three tracks: a picture of 6 s, the sound of 1.2 s that is used, and another of 3 s."""
    if name == "av.ts" and fps == "0.5":
        pytest.skip("MPEG-TS has no such rate")
    picture = ("-f", "lavfi", "-i", f"color=c=red:s=64x64:r={fps}:d=6")
    other = ("-f", "lavfi", "-i", "anoisesrc=d=3:a=0.3:r=16000:seed=1")
    tracks = ("-map", "0:v", "-map", "1:a", "-map", "2:a", "-c:a", "mp2", "-disposition:a:0", "default")
    run_ffmpeg(*picture, "-i", speech, *other, *tracks, "-pix_fmt", "yuv420p", tmp_path / name)
    sound = video.Sound(tmp_path / name, 16000)
    assert sound.measure() == pytest.approx(len(np.concatenate(list(sound))), abs=16000 / 25)
    assert 1.1 < sound.measure() / 16000 < 1.3
    assert ["says that it lasts" in note for note in sound.notes] == [False]  # the 6 s are those of the picture


def test_streamed_blocks_add_up_to_the_whole_sound(monkeypatch, speech):
    whole = video.read_audio(speech, 16000)
    monkeypatch.setattr(video.sound, "AUDIO_SECONDS", 0.5)
    blocks = list(video.Sound(speech, 16000))
    assert {len(block) for block in blocks[:-1]} == {8000} and len(blocks) == -(-len(whole) // 8000)
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


VOICES = [
    ("mono", [0.5]),
    ("stereo", [0.5, 0.5]),  # ffmpeg adds 3 dB by default, which clips and shifts every mel
    ("stereo", [0.5, 0]),  # a microphone in one of two channels
    ("stereo", [0.01, 0.5]),
    ("3.0", [0, 0, 0.5]),
    ("5.1", [0, 0, 0.5, 0, 0, 0]),  # films speak in the centre
    ("5.1(side)", [0, 0, 0.5, 0, 0, 0]),
    ("7.1", [0, 0, 0.5, 0, 0, 0, 0, 0]),
    ("5.1", [0.5, 0.5, 0, 0, 0, 0]),  # or on both sides of it
    ("4.0", [0.01, 0.01, 0, 0.5]),  # a recorder's microphones, placed anywhere
    ("5.1", [0.01, 0.01, 0, 0, 0.5, 0]),
    ("4.0", [0.5, 0.01, 0, 0.01]),
    ("5.1", [0, 0.5, 0, 0, 0, 0]),
    ("quad", [0, 0.5, 0, 0.02]),
    ("5.1", [0.02, 0.02, 0.48, 0.5, 0, 0]),  # bass is no voice
]  # fmt: skip


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """A folder of sounds, whose channels have the layouts and levels of ``VOICES``."""
    folder, inputs, outputs = tmp_path_factory.mktemp("voices"), [], []
    for n, (layout, levels) in enumerate(VOICES):
        sine = "|".join(f"{level}*sin(2*PI*300*t)" for level in levels)
        inputs += ["-f", "lavfi", "-i", f"aevalsrc={sine}:d=0.2:s=48000:c={layout}"]
        outputs += ["-map", n, "-c:a", "flac", folder / f"{layout} {levels}.mka"]
    run_ffmpeg(*inputs, *outputs)
    return folder


@pytest.mark.parametrize("layout, levels", VOICES)
def test_voice_is_as_loud_in_any_channel_layout(voices, layout, levels):
    """In one of two channels it was half as loud, in a film's centre a quarter, and the mouth opened less."""
    sound = video.Sound(voices / f"{layout} {levels}.mka", 16000)
    for _ in range(2):
        assert np.abs(np.concatenate(list(sound))).max() == pytest.approx(0.5, abs=0.01)
    assert sound.layout == layout


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("speaking", [0, 1])
def test_channel_with_a_nan_sample_may_be_the_only_one_with_speech(tmp_path, speaking, bad):
    """Its level was NaN, so lips followed the noise of the other microphone, or half as loud a mix."""
    channels = np.random.default_rng(0).normal(0, 0.02, (16000, 2)).astype(np.float32)
    channels[:, speaking] = 0.4 * np.sin(np.arange(16000) / 10)
    channels[3000, speaking] = bad
    wavfile.write(tmp_path / "two.wav", 16000, channels)
    sound = video.Sound(tmp_path / "two.wav", 16000)
    heard = np.concatenate(list(sound))
    assert sound.voice == f"c{speaking}" and np.abs(heard[4000:]).max() == pytest.approx(0.4, abs=0.01)


def test_a_voice_that_begins_late_is_found_in_its_channel(tmp_path, monkeypatch):
    """After half a minute of quiet, the mean with the silent channel was used, half as loud."""
    monkeypatch.setattr("video.sound.AUDIO_SECONDS", 1)
    tone = np.zeros((40000, 2), np.float32)
    tone[24000:, 0] = 0.5 * np.sin(np.arange(16000) / 10)
    wavfile.write(tmp_path / "late.wav", 16000, tone)
    sound = video.Sound(tmp_path / "late.wav", 16000)
    assert np.abs(np.concatenate(list(sound))).max() == pytest.approx(0.5, abs=0.01) and sound.voice == "c0"


@pytest.mark.parametrize("layout, number", [("4.0", 3), ("quad", 1)])
def test_a_recorders_voice_is_written_as_loud_as_it_was(tmp_path, layout, number):
    """In the nearest layout of AAC it was softer, or behind the listener."""
    sine = "|".join("0.4*sin(2*PI*300*t)" if channel == number else "0" for channel in range(4))
    run_ffmpeg("-f", "lavfi", "-i", f"aevalsrc={sine}:d=0.4:s=48000:c={layout}", "-c:a", "flac", tmp_path / "s.mka")
    info, sound = video.VideoInfo(tmp_path, 32, 32, Fraction(25)), video.Sound(tmp_path / "s.mka", 16000)
    list(sound)
    with video.VideoWriter(tmp_path / "out.mp4", info, sound, 10) as writer:
        for _ in range(10):
            writer.write(np.zeros((32, 32, 3), np.uint8))
    written = video.Sound(tmp_path / "out.mp4", 16000)
    assert np.abs(np.concatenate(list(written))).max() == pytest.approx(0.4, abs=0.02) and written.layout == "stereo"


@pytest.mark.parametrize("factor, tags", [(1, None), (2, ("bt709", "bt709", "bt709"))])
def test_untagged_hd_is_tagged_when_it_becomes_small(tmp_path, spoken, factor, tags):
    """Players take HD without tags for BT.709 and the smaller result for BT.601: all its colours changed."""
    frames = np.kron(STRIPES, np.ones((12, 14, 1), np.uint8))[None, :720, :1280].repeat(3, 0)
    write_clip(tmp_path / "hd.mp4", frames)
    info = video.probe(tmp_path / "hd.mp4", video.Geometry(factor))
    assert info.colour is None and info.tags == tags
    with video.VideoWriter(tmp_path / "out.mp4", info, spoken, 3) as writer:
        for frame in video.read_frames(info):
            writer.write(frame)
    assert video.probe(tmp_path / "out.mp4").colour == tags
    planes = [decoded_luma(tmp_path / name) for name in ("hd.mp4", "out.mp4")]
    assert np.abs(planes[0][::factor, ::factor].astype(int) - planes[1]).mean() < 2  # only the tags differ


def decoded_luma(path):
    height, width = (video.probe(path).height, video.probe(path).width)
    command = process.command_line(process.input_of(path).output("pipe:", format="rawvideo", vframes=1))
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return np.frombuffer(done.stdout, np.uint8)[: height * width].reshape(height, width)


def test_layout_without_a_centre_is_mixed_evenly(tmp_path):
    sine = "|".join(["0.5*sin(2*PI*300*t)"] * 3)
    run_ffmpeg("-f", "lavfi", "-i", f"aevalsrc={sine}:d=1:s=48000:c=2.1", "-c:a", "flac", tmp_path / "s.mka")
    assert 0.24 < np.abs(video.read_audio(tmp_path / "s.mka", 16000)).max() < 0.51


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")
@pytest.mark.parametrize("encoders, used", [
    (" V....D libx264              libx264 H.264 / AVC (codec h264)", True),
    (" V....D libopenh264          OpenH264 H.264 (codec h264)", False),
    ("", False),  # one that does not start
])  # fmt: skip
def test_ffmpeg_without_libx264_is_not_used(tmp_path, monkeypatch, encoders, used):
    stand_in = tmp_path / "ffmpeg"
    stand_in.write_text(f"#!/bin/sh\necho '{encoders}'\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (video.ffmpeg_path.__wrapped__() == str(stand_in)) == used


@pytest.mark.parametrize("channels", [1, 3, 10, 16])
def test_any_number_of_channels_can_be_written(tmp_path, channels):
    """AAC knows few layouts, and field recorders have many channels."""
    from scipy.io import wavfile

    tone = (0.4 * np.sin(np.arange(6400) * 0.2)).astype(np.float32)
    wavfile.write(tmp_path / "many.wav", 16000, np.repeat(tone[:, None], channels, axis=1))
    info, sound = video.VideoInfo(tmp_path, 32, 32, Fraction(25)), video.Sound(tmp_path / "many.wav", 16000)
    try:
        list(sound)
    except ValueError as error:
        assert channels == 10 and "install ffmpeg 7" in str(error)
        pytest.skip(str(error))
    with video.VideoWriter(tmp_path / "out.mp4", info, sound, 10) as writer:
        for _ in range(10):
            writer.write(np.zeros((32, 32, 3), np.uint8))
    assert 0.1 < np.abs(video.read_audio(tmp_path / "out.mp4", 16000)).max() <= 1


def write_tracks(path, marked):
    """Write 0.4 s of 440 Hz over black and as much 880 Hz over white, of which number ``marked`` is the default."""
    sources = ("-f", "lavfi", "-i", "color=black:s=32x32:d=0.4", "-f", "lavfi", "-i", "color=white:s=48x48:d=0.4")
    tones = ("-f", "lavfi", "-i", "sine=440:d=0.4:r=16000", "-f", "lavfi", "-i", "sine=880:d=0.4:r=16000")
    maps = ("-map", 0, "-map", 1, "-map", 2, "-map", 3)
    marks = [f"-disposition:{kind}:{n}={'default' if n == marked else 0}".split("=") for kind in "va" for n in (0, 1)]
    run_ffmpeg(*sources, *tones, *maps, *itertools.chain(*marks), path)


def pitch(sound):
    return float(np.fft.rfftfreq(len(sound), 1 / 16000)[np.abs(np.fft.rfft(sound)).argmax()])


@pytest.mark.parametrize("name", ["two.mkv", "two.mp4"])
@pytest.mark.parametrize("marked", [0, 1])
def test_default_track_of_several_is_used(tmp_path, name, marked):
    """As in players. The first was used, even if silent or in another language."""
    write_tracks(tmp_path / name, marked)
    sound, info = video.Sound(tmp_path / name, 16000), video.probe(tmp_path / name)
    assert pitch(np.concatenate(list(sound))) == pytest.approx((440, 880)[marked], abs=5)
    assert sound.notes == [f"{tmp_path / name} has 2 sound tracks; number {marked + 1} is used"]
    assert info.notes == (f"{tmp_path / name} has 2 video tracks; number {marked + 1} is used",)
    frames = list(video.read_frames(info))
    assert (info.width, round(frames[0].mean() / 255), len(frames)) == ((32, 48)[marked], marked, 10)
    for given in (sound, tmp_path / name):
        with video.VideoWriter(tmp_path / "out.mp4", info, given, 10) as writer:
            for frame in frames:
                writer.write(frame)
        assert pitch(video.read_audio(tmp_path / "out.mp4", 16000)) == pytest.approx((440, 880)[marked], abs=5)


def test_single_track_gets_no_note(tmp_path, talking_clip, speech):
    """A cover image is not counted as a video track."""
    write_song(tmp_path, speech)
    for path in (speech, tmp_path / "song.mp3"):
        sound = video.Sound(path, 16000)
        assert len(list(sound)) and sound.notes == [] and video.probe(talking_clip).notes == ()


def write_tone(path, *channels, seconds=1.0, codec=()):
    """Write a 440 Hz tone of the given amplitude in each channel; below 0 it is inverted."""
    values = "|".join(f"{amplitude}*sin(2*PI*440*t)" for amplitude in channels)
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(channels)]
    run_ffmpeg("-f", "lavfi", "-i", f"aevalsrc={values}:d={seconds}:s=16000:c={layout}", *codec, path)


@pytest.mark.parametrize("channels, codec", [
    ((0.4, -0.4), ("-c:a", "pcm_s16le")),
    ((-0.4, 0.41), ("-c:a", "pcm_s16le")),  # almost
    ((0.4, -0.4), ("-c:a", "aac", "-b:a", "64k")),
    ((0, 0, 0, 0, 0.4, -0.4), ("-c:a", "flac")),
])  # fmt: skip
def test_channels_that_cancel_out_are_heard(tmp_path, monkeypatch, channels, codec):
    """From a microphone wired the wrong way round, people hear a voice, and the network heard nothing."""
    monkeypatch.setattr(video.sound, "AUDIO_SECONDS", 0.5)  # so that there are two blocks
    write_tone(tmp_path / "anti.mkv", *channels, seconds=0.9, codec=codec)
    sound = video.Sound(tmp_path / "anti.mkv", 16000)
    for _ in range(2):  # the second time, the channels are known
        wav = np.concatenate(list(sound))
        assert np.abs(wav[1600:-1600]).max() == pytest.approx(0.4, abs=0.03) and pitch(wav) == pytest.approx(440, abs=5)
        assert len(wav) / 16000 == pytest.approx(0.9, abs=0.1)
    assert len(sound.notes) == 1 and "cancel each other; number" in sound.notes[0]


def test_the_other_speaker_may_begin_later(tmp_path, monkeypatch):
    """Each of two people has a channel; whoever was silent for the first half minute was not heard at all."""
    monkeypatch.setattr(video.sound, "AUDIO_SECONDS", 0.5)
    t = np.arange(2 * 16000) / 16000
    both = 0.4 * np.sin(2 * np.pi * 300 * t)[:, None] * np.stack([t < 1, t >= 1], 1)
    soundfile.write(tmp_path / "a.wav", both, 16000)
    sound = video.Sound(tmp_path / "a.wav", 16000)
    heard = np.concatenate(list(sound))
    assert not sound.voice and min(np.abs(heard[4000:12000]).max(), np.abs(heard[20000:28000]).max()) > 0.15
    soundfile.write(tmp_path / "one.wav", both * [1, 0], 16000)
    sound = video.Sound(tmp_path / "one.wav", 16000)
    assert np.abs(np.concatenate(list(sound))).max() == pytest.approx(0.4, abs=0.01) and sound.voice == "c0"


def test_long_silence_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(video.sound, "AUDIO_SECONDS", 0.1)
    soundfile.write(tmp_path / "a.wav", np.zeros(2 * 16000), 16000)
    seen, alive = [], [0]
    blocks = video.Sound._blocks

    class Block(np.ndarray):  # unlike arrays, these can be counted
        pass

    def counted(sound, process):
        for samples, last in blocks(sound, process):
            block = samples.view(Block)
            seen.append(weakref.ref(block))
            alive.append(sum(one() is not None for one in seen))
            yield block, last

    monkeypatch.setattr(video.Sound, "_blocks", counted)
    sound = video.Sound(tmp_path / "a.wav", 16000)
    assert sum(map(len, sound)) == 32000 and max(alive) <= 4 and "silent from end to end" in sound.notes[0]


def test_one_channel_alone_is_not_said_to_cancel_out(tmp_path):
    """Of a tone that only bats can hear, nothing is left at 16 kHz."""
    tone = np.hanning(24000) * np.sin(2 * np.pi * 20000 * np.arange(24000) / 48000)
    wavfile.write(tmp_path / "x.wav", 48000, tone.astype(np.float32))
    sound = video.Sound(tmp_path / "x.wav", 16000)
    assert max(np.abs(block).max() for block in sound) < 1e-3
    assert not sound.voice and not any("cancel" in note for note in sound.notes)


@pytest.mark.parametrize("channels, note", [
    ((0, 0), "silent from end to end"), ((0,), "silent from end to end"), ((0.00005,), "silent"),
    ((0.005,), None), ((0.005, 0.005), None), ((0.4, 0.1), None), ((0, 0.003), None),
])  # fmt: skip
def test_silence_is_reported_and_faint_sound_left_alone(tmp_path, channels, note):
    tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    wavfile.write(tmp_path / "x.wav", 16000, np.outer(tone, channels).astype(np.float32))
    sound = video.Sound(tmp_path / "x.wav", 16000)
    wav = np.concatenate(list(sound))
    assert [note in text for text in sound.notes] == ([True] if note else [])
    assert np.abs(wav).max() == pytest.approx(np.mean(channels), rel=0.05, abs=1e-6)


@pytest.mark.parametrize("seconds", [2.0, 31.0])
def test_short_sound_is_decoded_once(tmp_path, seconds):
    """Longer sound is streamed each time."""
    run_ffmpeg("-f", "lavfi", "-i", f"sine=300:d={seconds}", tmp_path / "s.wav")
    sound = video.Sound(tmp_path / "s.wav", 16000)
    first = [block.copy() for block in sound]
    assert sum(map(len, first)) == seconds * 16000
    (tmp_path / "s.wav").unlink()
    if seconds > 30:
        with pytest.raises(ValueError, match="s.wav"):
            list(sound)
    else:
        assert all((a == b).all() for a, b in zip(first, sound, strict=True))


@pytest.mark.parametrize("channels, count", [((0.4,), 1), ((0.4, 0.3), 2)])  # one more for the levels
def test_loud_sound_is_decoded_once(tmp_path, monkeypatch, channels, count):
    write_tone(tmp_path / "x.wav", *channels)
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **options: started.append(1) or popen(*a, **options))
    assert len(video.read_audio(tmp_path / "x.wav", 16000)) == 16000 and len(started) == count


def deaf(monkeypatch, listens):
    """Unless it ``listens``, let this be a system that tells what ffmpeg says only when it is over, as Windows."""
    if not listens:
        monkeypatch.setattr(process.Process, "CAN_LISTEN", False)
    elif not process.Process.CAN_LISTEN:
        pytest.skip("what ffmpeg says is read when it is over")


@pytest.mark.parametrize("listens", [True, False])
def test_format_change_leaves_no_gap_in_sound(tmp_path, monkeypatch, listens):
    """As in broadcasts and joined files: as much silence was inserted as there was sound before."""
    deaf(monkeypatch, listens)
    for n, (hertz, channels) in enumerate([(400, 1), (800, 2)]):
        sine = ("-f", "lavfi", "-i", f"sine=f={hertz}:d=2:r=44100")
        run_ffmpeg(*sine, "-ac", channels, "-write_xing", 0, tmp_path / f"{n}.mp3")
    (tmp_path / "j.mp3").write_bytes(b"".join((tmp_path / f"{n}.mp3").read_bytes() for n in (0, 1)))
    write_clip(tmp_path / "v.mp4", np.zeros((100, 32, 32, 3), np.uint8))
    late = ("-itsoffset", 0.5, "-i", tmp_path / "j.mp3")
    run_ffmpeg("-i", tmp_path / "v.mp4", *late, "-map", "0:v", "-map", "1:a", "-c", "copy", tmp_path / "late.mkv")
    for name, start in (("j.mp3", 0.0), ("late.mkv", 0.5)):
        whole = video.read_audio(tmp_path / name, 16000)
        assert abs(len(whole) / 16000 - start - 4.05) < 0.1
        for second, hertz in ((0.5, 400), (1.5, 400), (2.5, 800), (3.5, 800)):
            part = whole[int((start + second) * 16000) :][:4000]
            assert np.abs(part).max() > 0.05 and np.abs(np.fft.rfft(part)).argmax() * 4 == hertz
        assert np.abs(whole[: max(0, int(start * 16000) - 400)]).max(initial=0) == 0
        with monkeypatch.context() as patch:
            patch.setattr(video.sound, "AUDIO_SECONDS", 1)
            blocks = list(video.Sound(tmp_path / name, 16000))
        assert [len(block) for block in blocks[:-1]] == [16000] * (len(blocks) - 1) and len(blocks) > 3
        np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-3)


@pytest.mark.parametrize("listens", [True, False])
def test_voice_in_one_channel_survives_a_format_change(tmp_path, monkeypatch, listens):
    """It was silent from there on, unless the sound had been measured."""
    deaf(monkeypatch, listens)
    monkeypatch.setattr(video.sound, "AUDIO_SECONDS", 5)  # the change is in the second block
    for n, sine in enumerate(["0|0.5*sin(2*PI*300*t)", "0.5*sin(2*PI*300*t)"]):
        source = ("-f", "lavfi", "-i", f"aevalsrc={sine}:d={6 - 4 * n}:s=48000")
        run_ffmpeg(*source, "-c:a", "ac3", tmp_path / f"{n}.ac3")
    (tmp_path / "j.ac3").write_bytes(b"".join((tmp_path / f"{n}.ac3").read_bytes() for n in (0, 1)))
    whole = video.read_audio(tmp_path / "j.ac3", 16000)
    assert len(whole) > 7.9 * 16000 and np.abs(whole[-24000:-8000]).max() > 0.2


def test_samples_that_are_no_numbers_become_silence(tmp_path):
    from scipy.io import wavfile

    wavfile.write(tmp_path / "nan.wav", 16000, np.array([np.nan, 0.5, np.inf, -np.inf], np.float32))
    assert video.read_audio(tmp_path / "nan.wav", 16000).tolist() == [0, 0.5, 1, -1]


def test_prefetch_keeps_order_and_surfaces_errors():
    def items():
        yield from range(5)
        raise RuntimeError("in the thread")

    fetched = prefetch(items())
    assert list(itertools.islice(fetched, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="in the thread"):
        next(fetched)


def test_closing_prefetch_calls_stop():
    stopped = threading.Event()

    def items():
        yield 1
        stopped.wait()  # for ever, but for ``stop``

    fetched = prefetch(items(), stop=stopped.set)
    assert next(fetched) == 1
    fetched.close()
    assert stopped.is_set()


def test_prefetch_ends_when_garbage_collected():
    """In a reference cycle with its worker, such as an error and its traceback make."""
    closed = threading.Event()

    def items():
        try:
            yield from range(100)
        finally:
            closed.set()

    fetched = prefetch(items())
    next(fetched)
    cycle: list = [fetched]
    cycle.append(cycle)
    del fetched, cycle
    collecting = threading.Thread(target=gc.collect, daemon=True)
    collecting.start()
    collecting.join(120)
    assert closed.wait(120) and not collecting.is_alive()  # another thread may do it instead


def test_prefetch_closes_its_source():
    closed = []

    def items():
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    fetched = prefetch(items())
    assert next(fetched) == 0
    fetched.close()
    assert closed == [True]


def test_abandoned_reading_stops_ffmpeg(clip, monkeypatch):
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **options: started.append(popen(*a, **options)) or started[-1])
    frames = video.read_frames(clip)
    next(frames)
    frames.close()
    assert [process.poll() is not None for process in started] == [True]


def halve(path):
    """Keep only the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 4 * 2])


KNOWN_BYTES = ("s.m4a", "s.mka", "s.webm", "s.wav", "s.aiff", "s.avi")  # of which parts are missing
KNOWN_SECONDS = ("s.flac", "s.mp3", "s.au")


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    """A folder with five seconds of noise in these formats."""
    folder = tmp_path_factory.mktemp("noises")
    outputs = [("-movflags", "+faststart", folder / name) for name in (*KNOWN_BYTES, *KNOWN_SECONDS)]
    run_ffmpeg("-f", "lavfi", "-i", "anoisesrc=d=5:a=0.3:r=16000:c=pink:seed=1", *itertools.chain(*outputs))
    return folder


@pytest.mark.parametrize("name", KNOWN_BYTES)
def test_sound_cut_short_is_refused(tmp_path, noises, name):
    """A partial download was used as if it were the whole speech."""
    assert len(video.read_audio(noises / name, 16000)) == pytest.approx(80000, abs=2000)
    shutil.copy(noises / name, tmp_path)
    halve(tmp_path / name)
    cause = r"(partial file|ended prematurely|\d+ bytes are missing)"
    with pytest.raises(ValueError, match=rf"{name} is cut short or damaged \(.*{cause}.*\); copy or download it again"):
        video.read_audio(tmp_path / name, 16000)
    with pytest.raises(video.CutShort):
        video.Sound(tmp_path / name, 16000).measure()


def test_names_and_titles_are_not_taken_for_errors(tmp_path, speech):
    title = ("-metadata", "title=a partial file", "-metadata", "comment=truncated, it ended prematurely")
    run_ffmpeg("-i", speech, *title, tmp_path / "truncated, partial file.mka")
    assert len(video.read_audio(tmp_path / "truncated, partial file.mka", 16000)) > 16000


def test_errors_printed_within_another_line_are_found(tmp_path):
    report = "[info] Output #0, f32le, to 'pipe:1':\n[info]   Stream #0:0File ended prematurely\n: Audio: pcm_f32le\n"
    (tmp_path / "x").touch()
    with pytest.raises(video.CutShort, match="ended prematurely"):
        video.sources.check_whole(tmp_path / "x", video.process.without_names(report, tmp_path / "x"))


@pytest.mark.parametrize("name", KNOWN_SECONDS)
def test_sound_shorter_than_its_header_says_is_reported(tmp_path, noises, name):
    whole = video.Sound(noises / name, 16000)
    assert len(list(whole)) and whole.notes == []
    shutil.copy(noises / name, tmp_path)
    halve(tmp_path / name)
    half = video.Sound(tmp_path / name, 16000)
    seconds = sum(map(len, half)) / 16000
    assert 2 < seconds < 3 and len(half.notes) == 1
    assert "says that it lasts 5." in half.notes[0] and f"ends after {seconds:.1f} s" in half.notes[0]
    measured = video.Sound(tmp_path / name, 16000)
    assert measured.measure() / 16000 == pytest.approx(seconds, abs=0.1) and len(measured.notes) == 1


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_wav_without_a_size_is_read_to_its_end(tmp_path, speech, size):
    """A program that writes a WAV into a pipe cannot know its size, and leaves it out."""
    content = bytearray(speech.read_bytes())
    data = content.index(b"data")
    content[4:8] = content[data + 4 : data + 8] = size.to_bytes(4, "little")
    (tmp_path / "s.wav").write_bytes(content)
    sound = video.Sound(tmp_path / "s.wav", 16000)
    assert sum(map(len, sound)) == pytest.approx(1.2 * 16000, abs=16) and sound.notes == []
    assert video.Sound(tmp_path / "s.wav", 16000).measure() == pytest.approx(1.2 * 16000, abs=16)


@pytest.mark.parametrize("name, codec", [
    ("v.mkv", "libx264"), ("v.webm", "libvpx"), ("v.avi", "mpeg4"), ("v.mp4", "libx264"), ("v.png", "apng"),
])  # fmt: skip
def test_video_cut_short_is_refused(tmp_path, name, codec):
    """Where the file ended, the result used to jump back to the first frame."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 48, 3), np.uint8)
    form = ("-f", "apng") if codec == "apng" else ()
    write_clip(tmp_path / name, noise, "25", "-c:v", codec, "-movflags", "+faststart", *form)
    assert len(list(video.read_frames(video.probe(tmp_path / name)))) == 20
    halve(tmp_path / name)
    with pytest.raises(ValueError, match="cut short or damaged .*; copy or download it again"):
        list(video.read_frames(video.probe(tmp_path / name)))


def test_missing_end_is_found_before_the_frames_of_a_part_are_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (50, 64, 64, 3), np.uint8)
    write_clip(tmp_path / "v.mkv", noise, "25", *X264, "-g", 10)
    halve(tmp_path / "v.mkv")
    info = video.probe(tmp_path / "v.mkv")
    video.check_ahead(info, 10)
    with pytest.raises(video.CutShort, match="cut short or damaged"):
        video.check_ahead(replace(info, start=30), 10)


@pytest.mark.parametrize("left", [20, 200])
def test_video_without_most_of_its_index_is_refused(tmp_path, left):
    """Cameras and browsers write it last."""
    write_clip(tmp_path / "v.mp4", np.zeros((5, 64, 64, 3), np.uint8))
    content = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(content[: content.rindex(b"moov") + left])
    with pytest.raises(ValueError, match="v.mp4 has neither picture nor sound .*; it may be cut short"):
        video.probe(tmp_path / "v.mp4")


@pytest.mark.parametrize("name, content, words", [
    ("text.mp4", b"hello " * 500, "not a video"),
    ("empty.mp4", b"", "empty"),
    ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n", "playlist"),
    ("noise.mp4", bytes(range(256)) * 64, "not a video"),
])  # fmt: skip
def test_files_other_than_videos_are_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        video.probe(tmp_path / name)


def test_file_name_may_be_other_than_utf8(tmp_path):
    """As in old archives. OpenCV ends the process, without an exception, when asked about such a file."""
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    write_clip(tmp_path / "clip.mp4", numbered(5))
    try:
        (tmp_path / "clip.mp4").rename(path)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert numbers(video.read_frames(video.probe(path))) == list(range(5))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_is_refused(tmp_path):
    """Sound is read three times, and the second reading used to wait for ever."""
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(ValueError, match="save it to a file"):
        video.read_audio(tmp_path / "pipe.wav", 16000)


def test_missing_picture_or_sound_track_is_refused(tmp_path, speech):
    write_clip(tmp_path / "mute.mp4", numbered(5))
    write_song(tmp_path, speech)
    with pytest.raises(ValueError, match="no picture"):
        video.probe(tmp_path / "song.mp3")
    assert len(video.read_audio(tmp_path / "song.mp3", 16000))
    with pytest.raises(ValueError, match="no picture"):
        video.probe(speech)
    with pytest.raises(ValueError, match="no sound track"):
        video.read_audio(tmp_path / "mute.mp4", 16000)
    with pytest.raises(ValueError, match="folder"):
        video.probe(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        video.probe(tmp_path / "nowhere.mp4")


def test_repeated_encoding_keeps_colours(tmp_path, astronaut, spoken):
    """ffmpeg's usual conversion to RGB is a level darker each time; a lossless encoder shows that alone."""
    write_clip(tmp_path / "0.mp4", np.stack([astronaut[:256]] * 2))
    first = np.stack(list(video.read_frames(video.probe(tmp_path / "0.mp4"))))
    for generation in range(3):
        info = video.probe(tmp_path / f"{generation}.mp4")
        with video.VideoWriter(tmp_path / f"{generation + 1}.mp4", info, spoken, 2, video.Encoding(crf=0)) as writer:
            for frame in video.read_frames(info):
                writer.write(frame)
    last = np.stack(list(video.read_frames(video.probe(tmp_path / "3.mp4"))))
    assert np.abs((last.astype(float) - first).mean((0, 1, 2))).max() < 0.1


def test_manifests_that_name_other_files_are_refused(tmp_path, talking_clip):
    """A DASH manifest is XML that may name any video on the machine; ffmpeg would show it."""
    manifest = f"""<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
        mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>
        <AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" codecs="avc1.64001f" width="320"
        height="240"><BaseURL>{talking_clip}</BaseURL><SegmentBase/></Representation></AdaptationSet></Period></MPD>"""
    for name, start in (("a.mp4", ""), ("b.mpd", "\ufeff\n ")):
        (tmp_path / name).write_text(start + manifest, encoding="utf-8")
        for read in (video.probe, lambda path: next(iter(video.Sound(path, 16000)))):
            with pytest.raises(ValueError, match="is a playlist or a web page, not a video"):
                read(tmp_path / name)


@pytest.mark.parametrize("start", [
    b"\0\0\0\x3cftypisom\0\0\x02\0" + 11 * b"iso6",  # a box of 60 bytes
    b"\x3c\x12\x34\x56\x47\x40\0\x10" + 188 * b"\xff",  # the stamp of an AVCHD packet
])  # fmt: skip
def test_binary_files_that_begin_like_xml_are_no_lists(tmp_path, start):
    (tmp_path / "v").write_bytes(start)
    assert video.existing_file(tmp_path / "v")
    for content in (b"<MPD/>\0" + start, b"\xef\xbb\xbf\n<!-- " + b"-->\0"):  # zeros only after its first tag
        (tmp_path / "v").write_bytes(content)
        with pytest.raises(ValueError, match="is a playlist or a web page"):
            video.existing_file(tmp_path / "v")


def test_a_cameras_own_data_may_be_malformed(tmp_path):
    """ffmpeg says "truncated" of them, and decodes every frame; such videos were refused as cut short."""
    encode = ("-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=0.4", *X264, "-bf", 0, "-bsf:v", "h264_mp4toannexb")
    run_ffmpeg(*encode, "-f", "h264", tmp_path / "v.h264")
    stream = (tmp_path / "v.h264").read_bytes()
    own = b"\0\0\0\1\x06\x05\x48" + 40 * b"\x11"  # says 72 bytes and has 40
    (tmp_path / "v.h264").write_bytes(
        own.join(re.split(rb"(?=\x00\x00\x00\x01[\x41\x65])|(?=\x00\x00\x01[\x41\x65])", stream))
    )
    code, report = process.report_of(
        process.command_line(process.input_of(tmp_path / "v.h264").output("-", format="null"))
    )
    assert code == 0 and "truncated at" in report
    info = video.probe(tmp_path / "v.h264")
    assert len(list(video.read_frames(info))) == 10
    video.check_ahead(info)


@pytest.mark.parametrize("line", ["[h264 @ 0x1] Truncated VUI (0)", "[flac @ 0x1] Correcting truncated metadata pict"])
def test_warnings_about_what_players_ignore_do_not_make_a_file_short(talking_clip, line):
    sources.check_whole(talking_clip, line)
    with pytest.raises(UserError, match="is cut short"):
        sources.check_whole(talking_clip, "[mov @ 0x1] Truncated packet")


@pytest.fixture
def reading(talking_clip, monkeypatch):
    """(frames being read, more than a pipe holds; the ffmpeg process that decodes them)."""
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **how: started.append(popen(*args, **how)) or started[-1])
    frames = video.read_frames(replace(video.probe(talking_clip), fps=Fraction(240)))
    next(frames)
    return frames, started[-1]


def test_ffmpeg_crash_is_not_reported_as_stopped(reading):
    frames, ffmpeg = reading
    ffmpeg.send_signal(signal.SIGABRT)
    with pytest.raises(ValueError, match="crashed" if os.name != "nt" else ""):
        list(frames)


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_stopped_ffmpeg_is_not_blamed_on_the_video(reading, how):
    if not hasattr(signal, how):
        pytest.skip("this system has no such signal")
    frames, ffmpeg = reading
    ffmpeg.send_signal(getattr(signal, how))
    with pytest.raises(RuntimeError, match="ffmpeg was stopped from outside; run it again"):
        list(frames)


def test_missing_end_of_an_mp4_is_reported(speech, talking_clip, tmp_path):
    """An MP4's end holds the index; "Invalid data" does not say to download it again."""
    run_ffmpeg("-i", speech, tmp_path / "sound.m4a")
    for source, open_file in (
        (talking_clip, video.probe),
        (tmp_path / "sound.m4a", lambda path: video.Sound(path, 16000).measure()),
    ):
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
        with pytest.raises(video.CutShort, match=r"cut\.mp4 is cut short .*; copy or download it again"):
            open_file(cut)


def test_file_without_read_permission_is_refused(tmp_path, monkeypatch):
    (tmp_path / "secret.mp4").write_bytes(b"something")
    monkeypatch.setattr("os.access", lambda *_: False)  # root may read all
    with pytest.raises(ValueError, match="secret.mp4 is not readable by this user"):
        video.probe(tmp_path / "secret.mp4")


@pytest.mark.parametrize("given, exact", [
    (29.97, Fraction(30000, 1001)), (23.976, Fraction(24000, 1001)), (23.98, Fraction(24000, 1001)), (25, Fraction(25)),
    (14.99, Fraction(15000, 1001)),
    (59.94, Fraction(60000, 1001)), (12.5, Fraction(25, 2)), (30, Fraction(30)), (30000 / 1001, Fraction(30000, 1001)),
])  # fmt: skip
def test_rounded_rates_become_exact(given, exact):
    assert video.rate_of(given) == exact


@pytest.mark.parametrize("claimed, rate", [(480, 240), (999, 240), (1000, 30), (90000, 30), (0, 30)])
def test_absurd_rates_are_limited(claimed, rate):
    """Screen recordings claim up to 90000 frames a second."""
    assert video.rate_of(claimed) == rate


def test_streams_of_broadcasts_are_listed_in_file_order():
    """ffmpeg lists them by programme; the first video would not be the one that it decodes."""
    report = """
Input #0, mpegts, from 'file:/tmp/tv.ts':
  Program 2
  Stream #0:2[0x200]: Video: h264 (High), yuv420p(progressive), 64x64, 25 fps
  Stream #0:3[0x201](eng): Audio: mp2, 48000 Hz, stereo, fltp, 192 kb/s
  Program 1
  Stream #0:0[0x100]: Video: h264 (High), yuv420p(progressive), 32x32, 25 fps
  Stream #0:1[0x101](deu): Audio: mp2, 48000 Hz, mono, fltp, 192 kb/s (default)
Stream mapping:
  Stream #0:0 -> #0:0 (h264 (native) -> wrapped_avframe (native))
"""
    found = video.process.streams_of(report)
    kinds = [(0, "Video"), (1, "Audio"), (2, "Video"), (3, "Audio")]
    assert [(stream.index, stream.kind) for stream in found] == kinds and found[1].is_default


def test_new_folders_left_empty_are_removed(clip, spoken, tmp_path):
    """But not one that was there before."""
    (tmp_path / "old").mkdir()
    for path in (tmp_path / "new/folder/out.mp4", tmp_path / "old/out.mp4"):
        with pytest.raises(KeyboardInterrupt), video.VideoWriter(path, clip, spoken, 5):
            raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and not list((tmp_path / "old").iterdir())


def test_spliced_streams_are_not_also_mapped(tmp_path, talking_clip, speech):
    """ffmpeg then hung in one run of ten; with three at a time, in 37 of 60."""
    run_ffmpeg("-i", talking_clip, "-i", speech, "-c:v", "copy", "-shortest", tmp_path / "film.mp4")
    film, part = video.probe(tmp_path / "film.mp4"), video.Sound(speech, 16000)
    part.measure()
    for whole, sound in ((film.path, part), (talking_clip, part), (film.path, video.Sound(film.path, 16000))):
        sound.measure()
        splice = video.Splice(whole, sound, 0.2, 0.4, True)
        command = video.VideoWriter(tmp_path / "out.mp4", film, splice, 25)._command()
        inputs = [Path(name.removeprefix("file:")) for flag, name in zip(command, command[1:]) if flag == "-i"]
        joined = set(re.findall(r"\[(\d+:\d+)\]", command[command.index("-filter_complex") + 1]))
        maps = [name for flag, name in zip(command, command[1:]) if flag == "-map"]
        for number, path in enumerate(inputs[1:], 1):
            own = {stream for stream in joined if stream.startswith(f"{number}:")}
            assert f"{number}:u" in maps and own
            assert path != film.path or all(f"-{stream}" in maps for stream in own)


def test_sound_with_nan_samples_can_be_written(tmp_path, clip):
    """AAC takes no such samples, and only the copy for the network had been repaired."""
    samples = np.sin(np.arange(16000) / 10).astype(np.float32) / 4
    samples[[3000, 9000]] = np.nan, np.inf
    wavfile.write(tmp_path / "speech.wav", 16000, samples)
    heard = video.Sound(tmp_path / "speech.wav", 16000)
    heard.measure()
    for number, sound in enumerate((heard, video.Splice(clip.path, heard, 0.2, 0.4, True))):
        with video.VideoWriter(tmp_path / f"{number}.mp4", clip, sound, 25) as writer:
            for frame in numbered(25):
                writer.write(frame)
        written = video.read_audio(tmp_path / f"{number}.mp4", 16000)
        assert len(written) > 15000 and 0.1 < np.abs(written[4000:6000]).max() < 0.3


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="finds open files in Linux's /proc")
def test_own_file_descriptor_is_refused(talking_clip):
    with open(talking_clip, "rb") as file, pytest.raises(UserError, match="is a pipe or a device"):
        video.probe(Path(f"/proc/self/fd/{file.fileno()}"))


def test_writer_that_cannot_start_leaves_no_folder(clip, spoken, tmp_path, monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("no ffmpeg")

    monkeypatch.setattr("video.writing.Process", missing)
    with pytest.raises(FileNotFoundError), video.VideoWriter(tmp_path / "new/folder/out.mp4", clip, spoken, 5):
        pass
    assert not list(tmp_path.iterdir())


def test_leftovers_of_killed_runs_are_removed(clip, spoken, tmp_path):
    """But only our own, and after a day without a change."""
    stale = [tmp_path / ".wav2lip-0123456789ab.mp4", tmp_path / ".wav2lip-part-abc_1"]
    others = [tmp_path / ".wav2lip-ba9876543210.mp4", tmp_path / ".wav2lip-notes.mp4", tmp_path / ".wav2lip-part-new"]
    for path in (*stale, *others):
        path.mkdir() if "part" in path.name else path.write_bytes(b"half")
    (others[2] / "part.mp4").write_bytes(b"half")  # being written
    for path in (*stale, *others[1:]):
        os.utime(path, (0, 0))
    with video.VideoWriter(tmp_path / "out.mp4", clip, spoken, 3) as writer:
        for frame in numbered(3):
            writer.write(frame)
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", *(path.name for path in others)}


@pytest.mark.parametrize("layout, boom", [("6.1(back)", 3), ("7.1(wide-side)", 3), ("2.1", 2), ("6.1(front)", 2)])
def test_low_frequency_effects_are_no_voice_in_rare_layouts(tmp_path, layout, boom):
    """In these, lips moved with the low-frequency effects of a film that begins with an explosion."""
    count = sum(int(channels) for channels in layout.partition("(")[0].split("."))
    tones = ["0.03*sin(2*PI*300*t)"] * boom + ["0.5*sin(2*PI*50*t)"] + ["0"] * (count - boom - 1)
    source = f"aevalsrc={'|'.join(tones)}:d=0.2:s=48000:c={layout}"
    run_ffmpeg("-f", "lavfi", "-i", source, "-c:a", "pcm_s16le", tmp_path / "film.wav")
    sound = video.Sound(tmp_path / "film.wav", 16000)
    list(sound)
    assert sound.layout == layout and sound.voice != f"c{boom}"


def test_sound_ends_with_the_last_frame(tmp_path, speech):
    """As where --mix is a whole song."""
    info = video.VideoInfo(tmp_path, 32, 32, Fraction(25))
    with video.VideoWriter(tmp_path / "out.mp4", info, speech, 10) as writer:
        for _ in range(10):
            writer.write(np.zeros((32, 32, 3), np.uint8))
    assert len(video.read_audio(tmp_path / "out.mp4", 16000)) / 16000 == pytest.approx(0.4, abs=0.07)
