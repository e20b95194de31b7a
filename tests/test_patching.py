"""A part of a video is redrawn, and as much as possible around it is copied without decoding."""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

import video
from conftest import run_ffmpeg
from errors import is_disk_error
from faces import FaceSearch
from lipsync import LipSync
from video import h264

BOX = (60, 200, 100, 210)  # top, bottom, left, right
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
GROUPS = (*X264, "-g", 8, "-bf", 3, "-x264-params", "scenecut=0:b-adapt=0")  # key frames 0, 8, 16 and 24


@pytest.fixture
def film(talking_clip, tmp_path):
    """``film(name, *options)``: a second of talking_clip, with a title and a tone, encoded as given."""

    def make(name: str, *options: object):
        tone = ("-f", "lavfi", "-i", "sine=300:d=1")
        run_ffmpeg("-i", talking_clip, *tone, *(options or GROUPS), "-metadata", "title=secret", tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def lips(small_checkpoint, told):
    return LipSync(small_checkpoint, search=FaceSearch("centerface"), report=told)


@pytest.fixture
def speech(tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "aevalsrc=0.2*sin(1800*PI*t):s=16000:d=0.16", tmp_path / "speech.wav")
    return tmp_path / "speech.wav"


def frames_of(path) -> np.ndarray:
    return np.stack(list(video.read_frames(video.probe(path))))


def packets_of(path, tmp_path) -> list[list[str]]:
    """Size, digest and display time in seconds of each video packet."""
    run_ffmpeg("-i", path, "-map", "0:v", "-c", "copy", "-f", "framecrc", tmp_path / "packets.txt")
    lines = (tmp_path / "packets.txt").read_text().splitlines()
    (base,) = (Fraction(line.split()[-1]) for line in lines if line.startswith("#tb"))
    fields = [line.split(", ") for line in lines if line[0] != "#"]
    return [[*field[4:6], f"{float(int(field[2]) * base):.2f}"] for field in fields]


@pytest.mark.parametrize("source, result, options", [
    ("film.mp4", "out.mp4", ()),
    ("film.mkv", "out.mkv", ()),
    ("film.mov", "out.mp4", (*X264, "-g", 8, "-profile:v", "baseline", "-x264-params", "scenecut=0")),
    ("film.mp4", "out.mp4", (*GROUPS, "-tag:v", "avc3")),  # parameter sets in the stream alone
    ("film.mp4", "out.mov", (*X264, "-g", 8, "-r", "30000/1001", "-colorspace", "bt709", "-x264-params", "scenecut=0")),
])  # fmt: skip
def test_frames_around_a_part_are_copied(lips, film, speech, tmp_path, told, source, result, options):
    """All but those from the key frame before the part to the one after it; players see one video."""
    film, out = film(source, *options), tmp_path / result
    rate = float(video.probe(film).fps)
    lips.run(film, speech, out, start=10 / rate, box=BOX)
    before, after = frames_of(film), frames_of(out)
    assert video.probe(out).fps == video.probe(film).fps and len(before) == len(after)
    assert (before[:8] == after[:8]).all() and (before[16:] == after[16:]).all()
    own, new = packets_of(film, tmp_path), packets_of(out, tmp_path)
    assert own[:8] == new[:8] and own[16:] == new[16:] and own[8:16] != new[8:16]
    assert f"note: frames before {8 / rate:.2f} s and from {16 / rate:.2f} s on are copied as they are" in told.notes
    mouths = np.s_[10:14, 140:200, 110:200]
    assert np.abs(before[mouths].astype(int) - after[mouths]).mean(axis=(1, 2, 3)).min() > 5
    assert b"secret" not in out.read_bytes()
    assert not list(tmp_path.glob(".wav2lip*"))


@pytest.mark.skipif(os.name == "nt", reason="folders have no such names there")
def test_folders_may_have_any_name(lips, film, speech, tmp_path):
    """ffmpeg took them for a pattern or a URL, and failed when all of the work was done."""
    out = tmp_path / "100% of #3?\n" / "out.mp4"
    lips.run(film("film.mp4"), speech, out, start=0.4, box=BOX)
    assert len(frames_of(out)) == 25


def test_last_frame_may_last_longer(lips, film, speech, tmp_path):
    """One packet then gives several frames, which failed when all of the work was done."""
    long = (*X264, "-g", 8, "-bf", 0, "-vf", "setpts=PTS", "-fps_mode", "passthrough", "-enc_time_base", "1/25", "-an")
    whole, cut = film("whole.mp4", *long), tmp_path / "film.mp4"
    stretch = "setts=duration=if(eq(N\\,24)\\,3*DURATION\\,DURATION)"
    run_ffmpeg("-i", whole, "-c", "copy", "-bsf:v", stretch, cut)
    info = video.probe(cut)
    assert video.count_frames(info, 99)[0] == 27 and video.copied_around(info, 10, 14).replaced == range(8, 16)
    lips.run(cut, speech, tmp_path / "out.mp4", start=0.92, box=BOX)
    assert len(frames_of(tmp_path / "out.mp4")) == 27


def test_reencoded_frames_around_a_part_barely_change(lips, film, speech, tmp_path):
    """And they stay in the right place: the picture drifts by 2 pixels a frame."""
    film, out = film("film.mp4"), tmp_path / "out.mp4"
    lips.run(film, speech, out, start=0.4, box=BOX)
    before, after = frames_of(film), frames_of(out)
    for index in (8, 9, 14, 15):
        difference = [np.abs(before[other].astype(int) - after[index]).mean() for other in range(len(before))]
        assert np.argmin(difference) == index and difference[index] < 2


def test_joining_reports_its_progress(lips, film, speech, tmp_path, monkeypatch):
    """All of the sound is encoded then: for a film of 15 minutes, that took 40 s without a word."""
    reports = []
    monkeypatch.setattr(lips.report, "progress", lambda stage, *done: reports.append((stage, *done)))
    lips.run(film("film.mp4"), speech, tmp_path / "out.mp4", start=0.4, box=BOX)
    joining = [(done, total) for stage, done, total in reports if stage == "Joining"]
    assert joining[0] == (0, 1) and joining == sorted(joining) and reports[-1][0] == "Joining"


def test_interrupted_joining_leaves_nothing(lips, film, speech, tmp_path, monkeypatch):
    def stop(stage, *_):
        if stage == "Joining":
            raise KeyboardInterrupt

    monkeypatch.setattr(lips.report, "progress", stop)
    with pytest.raises(KeyboardInterrupt):
        lips.run(film("film.mp4"), speech, tmp_path / "new/out.mp4", start=0.4, box=BOX)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "start, end, replaced", [(0.0, 0.1, range(0, 8)), (0.9, 0.99, range(16, 25)), (0.7, 0.8, range(16, 24))]
)
def test_parts_at_either_end_are_patched(lips, film, speech, tmp_path, start, end, replaced):
    film, out = film("film.mp4"), tmp_path / "out.mp4"
    lips.run(film, speech, out, start=start, end=end, box=BOX)
    before, after = frames_of(film), frames_of(out)
    copied = [index for index in range(25) if index not in replaced]
    assert len(after) == 25 and (before[copied] == after[copied]).all()
    assert packets_of(out, tmp_path)[-1][-1] in ("0.96", "0.92")


@pytest.mark.parametrize("name, options", [
    ("one group.mp4", X264),
    ("leading frames.mp4", (*GROUPS[:-1], "scenecut=0:b-adapt=0:open-gop=1")),
    ("uneven.mkv", (*GROUPS, "-vf", "setpts=PTS+mod(N\\,3)*0.01/TB", "-fps_mode", "passthrough")),
    ("full range.mp4", (*GROUPS, "-vf", "scale=out_range=pc", "-color_range", "pc")),
    ("colourful.mp4", ("-c:v", "libx264", "-pix_fmt", "yuv444p", "-g", 8)),
    ("interlaced.mp4", (*GROUPS, "-flags", "+ilme+ildct", "-vf", "setfield=tff")),
    ("old.mp4", ("-c:v", "mpeg4", "-g", 8)),
    ("broadcast.ts", GROUPS),
])  # fmt: skip
def test_other_videos_are_encoded_whole(film, name, options):
    info = video.probe(film(name, *options))
    copied = video.copied_around(info, 10, 14)
    if name == "leading frames.mp4":  # the first group has none
        assert copied is None or copied.replaced.stop == copied.count
    else:
        assert copied is None


def test_turned_or_cropped_videos_are_encoded_whole(film, tmp_path):
    """A part of a phone's video lay on its side: redrawn frames are upright already, and were turned once more."""
    colours = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709,setsar=1"
    upright = film("film.mp4", *GROUPS, "-vf", colours)
    run_ffmpeg("-display_rotation", 180, "-i", upright, "-c", "copy", tmp_path / "turned.mp4")
    turned = video.probe(tmp_path / "turned.mp4")
    assert turned.turned and video.copied_around(turned, 10, 14) is None
    content, begin = upright.read_bytes(), upright.read_bytes().index(b"colr") - 4
    room = 19 + 16 + 20  # colr, pasp and btrt
    clap = struct.pack(">I4s8I", 40, b"clap", 280, 1, 200, 1, 0, 1, 0, 1)
    clap += struct.pack(">I4s", room - 40, b"free").ljust(room - 40, b"\0")
    (tmp_path / "cropped.mp4").write_bytes(content[:begin] + clap + content[begin + room :])
    cropped = video.probe(tmp_path / "cropped.mp4")
    if (cropped.width, cropped.height) == (280, 200):  # ffmpeg before 7.1 ignores it
        assert video.copied_around(cropped, 10, 14) is None


def test_only_groups_with_changed_frames_are_encoded(film):
    info = video.probe(film("film.mp4"))
    assert video.copied_around(info, 10, 14).replaced == range(8, 16)
    assert video.copied_around(info, 10, None).replaced == range(8, 25)
    assert video.copied_around(info, 10, 25).replaced == range(8, 25)
    assert video.copied_around(info, 3, 20).replaced == range(0, 24)
    assert video.copied_around(info, 3, None) is None
    assert video.copied_around(replace(info, fps=Fraction(50)), 20, 28) is None
    for changed in (video.Geometry(2), video.Geometry(rotate=180), video.Geometry(crop=(0, 200, 0, -1))):
        assert video.copied_around(video.probe(info.path, changed), 10, 14) is None


def test_failure_leaves_nothing(lips, film, speech, tmp_path, monkeypatch):
    """And an older result stays."""
    out = tmp_path / "out.mp4"
    out.write_bytes(b"before")
    monkeypatch.setattr("video.patching.h264.add_sets", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lips.run(film("film.mp4"), speech, out, start=0.4, box=BOX)
    assert out.read_bytes() == b"before" and not list(tmp_path.glob(".wav2lip*"))
    with pytest.raises(ZeroDivisionError):
        lips.run(tmp_path / "film.mp4", speech, tmp_path / "new/folder/out.mp4", start=0.4, box=BOX)
    assert not (tmp_path / "new").exists()


def test_full_disk_is_reported_as_such(lips, film, speech, tmp_path, monkeypatch):
    """ffmpeg called it an invalid argument, and a batch went on to the next video."""
    film = film("film.mp4")
    monkeypatch.setattr("video.writing.shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    monkeypatch.setattr("video.patching.PartWriter._cut", lambda *_: [video.ffmpeg_path(), "-i", "nothing.mp4"])
    with pytest.raises(OSError, match="the disk is full") as full:
        lips.run(film, speech, tmp_path / "out.mp4", start=0.4, box=BOX)
    assert is_disk_error(full.value)


# --------------------------------------------------------------------------------------------------------------------
# Parameter sets


@pytest.mark.parametrize("number", [0, 5, 31])
def test_free_number_for_parameter_sets(talking_clip, tmp_path, number):
    """x264 is told which number to use."""
    run_ffmpeg("-i", talking_clip, *X264, "-frames:v", 1, "-x264-params", f"sps-id={number}", tmp_path / "one.h264")
    units = h264.units_of((tmp_path / "one.h264").read_bytes())
    assert [len(h264.of_kind(units, kind)) for kind in (h264.SEQUENCE, h264.PICTURE, h264.IDR)] == [1, 1, 1]
    assert h264.free_number(units) == (30 if number == 31 else 31)
    assert h264.profile_of(units) == "high"


def test_conflicting_parameter_sets_leave_no_free_number(talking_clip, tmp_path):
    """After a change of quantisation, two picture sets have number 0, and one header cannot hold both."""
    for name, quantiser in (("a", 20), ("b", 40)):
        options = (*X264, "-frames:v", 1, "-qp", quantiser)
        run_ffmpeg("-i", talking_clip, *options, tmp_path / f"{name}.h264")
    units = [h264.units_of((tmp_path / f"{name}.h264").read_bytes()) for name in "ab"]
    assert h264.free_number(units[0] * 2) == 31
    assert h264.free_number(units[0] + units[1]) is None


def test_parameter_sets_are_added_once(talking_clip, tmp_path):
    """The header then has both, the file is as readable as before, and adding them again changes nothing."""
    run_ffmpeg("-i", talking_clip, *X264, "-frames:v", 5, tmp_path / "own.mp4")
    run_ffmpeg("-i", talking_clip, *X264, "-frames:v", 1, "-x264-params", "sps-id=9", tmp_path / "other.h264")
    before = frames_of(tmp_path / "own.mp4")
    units = h264.units_of((tmp_path / "other.h264").read_bytes())
    h264.add_sets(tmp_path / "own.mp4", units)
    once = (tmp_path / "own.mp4").read_bytes()
    h264.add_sets(tmp_path / "own.mp4", units)
    assert (tmp_path / "own.mp4").read_bytes() == once
    assert all(unit in once for unit in (*h264.of_kind(units, h264.SEQUENCE), *h264.of_kind(units, h264.PICTURE)))
    assert (frames_of(tmp_path / "own.mp4") == before).all()


@pytest.mark.parametrize("content", [b"", b"\0\0\0\x08free", b"\0\0\0\x10moov\0\0\0\x08trak", b"\0" * 40])
def test_parameter_sets_are_added_to_mp4_files_only(tmp_path, content):
    (tmp_path / "no.mp4").write_bytes(content)
    with pytest.raises(ValueError, match="no |not an MP4"):
        h264.add_sets(tmp_path / "no.mp4", ())
    assert (tmp_path / "no.mp4").read_bytes() == content


def test_decoders_find_every_parameter_set(film, lips, speech, tmp_path):
    """Decoders cannot show frames whose set the header lacks: here ffmpeg has nothing to complain of."""
    lips.run(film("film.mp4"), speech, tmp_path / "out.mp4", start=0.4, box=BOX)
    command = [video.ffmpeg_path(), "-v", "warning", "-xerror", "-i", str(tmp_path / "out.mp4"), "-f", "null", "-"]
    decoded = subprocess.run(command, capture_output=True, text=True)
    assert (decoded.returncode, decoded.stderr) == (0, "")
