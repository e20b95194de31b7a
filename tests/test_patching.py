"""A part of a video is redrawn, and as much as possible around it is copied without decoding."""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import video
from conftest import Told, run_ffmpeg, write_clip
from errors import is_disk_error
from faces import FaceSearch
from reporting import SILENT, Reporter
from video import h264

BOX = (30, 100, 50, 105)  # top, bottom, left, right
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
GROUPS = (*X264, "-g", 8, "-bf", 3, "-x264-params", "scenecut=0:b-adapt=0")  # key frames 0, 8, 16 and 24


@pytest.fixture(scope="module")
def clip(astronaut, tmp_path_factory):
    """One second of a photo drifting by 2 pixels a frame, 25 fps, 160x120, without sound."""
    path = tmp_path_factory.mktemp("small clip") / "clip.mp4"
    write_clip(path, np.stack([astronaut[90:210, 90 + 2 * i : 250 + 2 * i] for i in range(25)]))
    return path


@pytest.fixture(scope="module")
def film(clip, tmp_path_factory):
    """``film(name, *options)``: that second, with a title and a tone, encoded as given (once)."""

    @cache
    def make(name: str, *options: object):
        path, tone = tmp_path_factory.mktemp("film") / name, ("-f", "lavfi", "-i", "sine=300:d=1")
        run_ffmpeg("-i", clip, *tone, *(options or GROUPS), "-metadata", "title=secret", path)
        return path

    return make


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    run_ffmpeg("-f", "lavfi", "-i", "aevalsrc=0.2*sin(1800*PI*t):s=16000:d=0.16", path)
    return path


@pytest.fixture
def lips(loaded_lips, told):
    return loaded_lips.copy_with(FaceSearch("centerface"), told)


class Heard(Told):
    """Remembers the notes and the progress."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[tuple] = []

    def progress(self, *report: object) -> None:
        self.reports.append(report)


@pytest.fixture(scope="module")
def patched(loaded_lips, film, speech, tmp_path_factory):
    """A film, the result of redrawing frames 10 to 13 of it, and what was reported meanwhile."""
    out, heard = tmp_path_factory.mktemp("patched") / "out.mp4", Heard()
    loaded_lips.copy_with(FaceSearch("centerface"), heard).run(film("film.mp4"), speech, out, start=0.4, box=BOX)
    return SimpleNamespace(film=film("film.mp4"), out=out, heard=heard)


@pytest.fixture(scope="module")
def make_grey(film, speech):
    """``make_grey(out, report)``: the film with grey frames in the middle and the speech from 0.4 s on."""
    info, sound = video.probe(film("film.mp4")), video.Sound(speech, 16000)
    next(iter(sound))
    splice, copied = video.Splice(info.path, sound, 0.4, 0.16, True), video.copied_around(info, 10, 14)

    def make(out: Path, report: Reporter = SILENT) -> None:
        with video.open_writer(out, info, splice, None, copied, report=report) as writer:
            for _ in copied.replaced:
                writer.write(np.full((120, 160, 3), 90, np.uint8))

    return make


def frames_of(path) -> np.ndarray:
    return np.stack(list(video.read_frames(video.probe(path))))


def packets_of(path, tmp_path) -> list[list[str]]:
    """Size, digest and display time in seconds of each video packet."""
    run_ffmpeg("-i", path, "-map", "0:v", "-c", "copy", "-f", "framecrc", tmp_path / "packets.txt")
    lines = (tmp_path / "packets.txt").read_text().splitlines()
    (base,) = (Fraction(line.split()[-1]) for line in lines if line.startswith("#tb"))
    fields = [line.split(", ") for line in lines if line[0] != "#"]
    return [[*field[4:6], f"{float(int(field[2]) * base):.2f}"] for field in fields]


def check_patched(film: Path, out: Path, notes: list[str], tmp_path: Path) -> None:
    """All frames but those from the key frame before the part to the one after it are copied."""
    rate = float(video.probe(film).fps)
    before, after = frames_of(film), frames_of(out)
    assert video.probe(out).fps == video.probe(film).fps and len(before) == len(after)
    assert (before[:8] == after[:8]).all() and (before[16:] == after[16:]).all()
    own, new = packets_of(film, tmp_path), packets_of(out, tmp_path)
    assert own[:8] == new[:8] and own[16:] == new[16:] and own[8:16] != new[8:16]
    assert f"note: frames before {8 / rate:.2f} s and from {16 / rate:.2f} s on are copied as they are" in notes
    mouths = np.s_[10:14, 70:100, 55:100]
    assert np.abs(before[mouths].astype(int) - after[mouths]).mean(axis=(1, 2, 3)).min() > 5
    assert b"secret" not in out.read_bytes()
    assert not list(out.parent.glob(".wav2lip*"))


def test_frames_around_a_part_are_copied(patched, tmp_path):
    check_patched(patched.film, patched.out, patched.heard.notes, tmp_path)


@pytest.mark.parametrize("source, result, options", [
    ("film.mkv", "out.mkv", ()),
    ("film.mov", "out.mp4", (*X264, "-g", 8, "-profile:v", "baseline", "-x264-params", "scenecut=0")),
    ("film.mp4", "out.mp4", (*GROUPS, "-tag:v", "avc3")),  # parameter sets in the stream alone
    ("film.mp4", "out.mov", (*X264, "-g", 8, "-r", "30000/1001", "-colorspace", "bt709", "-x264-params", "scenecut=0")),
])  # fmt: skip
def test_players_see_one_video(lips, film, speech, tmp_path, told, source, result, options):
    film, out = film(source, *options), tmp_path / result
    lips.run(film, speech, out, start=10 / float(video.probe(film).fps), box=BOX)
    check_patched(film, out, told.notes, tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="folders have no such names there")
def test_folders_may_have_any_name(make_grey, tmp_path):
    """ffmpeg took them for a pattern or a URL, and failed when all of the work was done."""
    out = tmp_path / "100% of #3?\n" / "out.mp4"
    make_grey(out)
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


def test_reencoded_frames_around_a_part_barely_change(patched):
    """And they stay in the right place: the picture drifts by 2 pixels a frame."""
    before, after = frames_of(patched.film), frames_of(patched.out)
    for index in (8, 9, 14, 15):
        difference = [np.abs(before[other].astype(int) - after[index]).mean() for other in range(len(before))]
        assert np.argmin(difference) == index and difference[index] < 2


def test_joining_reports_its_progress(patched):
    """All of the sound is encoded then: for a film of 15 minutes, that took 40 s without a word."""
    reports = patched.heard.reports
    joining = [(done, total) for stage, done, total in reports if stage == "Joining"]
    assert joining[0] == (0, 1) and joining == sorted(joining) and reports[-1][0] == "Joining"


def test_interrupted_joining_leaves_nothing(make_grey, tmp_path, told, monkeypatch):
    def stop(stage, *_):
        if stage == "Joining":
            raise KeyboardInterrupt

    monkeypatch.setattr(told, "progress", stop)
    with pytest.raises(KeyboardInterrupt):
        make_grey(tmp_path / "new/out.mp4", told)
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
    clap = struct.pack(">I4s8I", 40, b"clap", 140, 1, 100, 1, 0, 1, 0, 1)
    clap += struct.pack(">I4s", room - 40, b"free").ljust(room - 40, b"\0")
    (tmp_path / "cropped.mp4").write_bytes(content[:begin] + clap + content[begin + room :])
    cropped = video.probe(tmp_path / "cropped.mp4")
    if (cropped.width, cropped.height) == (140, 100):  # ffmpeg before 7.1 ignores it
        assert video.copied_around(cropped, 10, 14) is None


def test_only_groups_with_changed_frames_are_encoded(film):
    info = video.probe(film("film.mp4"))
    assert video.copied_around(info, 10, 14).replaced == range(8, 16)
    assert video.copied_around(info, 10, None).replaced == range(8, 25)
    assert video.copied_around(info, 10, 25).replaced == range(8, 25)
    assert video.copied_around(info, 3, 20).replaced == range(0, 24)
    assert video.copied_around(info, 3, None) is None
    assert video.copied_around(replace(info, fps=Fraction(50)), 20, 28) is None
    for changed in (video.Geometry(2), video.Geometry(rotate=180), video.Geometry(crop=(0, 100, 0, -1))):
        assert video.copied_around(video.probe(info.path, changed), 10, 14) is None


def test_failure_leaves_nothing(make_grey, tmp_path, monkeypatch):
    """And an older result stays."""
    out = tmp_path / "out.mp4"
    out.write_bytes(b"before")
    monkeypatch.setattr("video.patching.h264.add_sets", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_grey(out)
    assert out.read_bytes() == b"before" and not list(tmp_path.glob(".wav2lip*"))
    with pytest.raises(ZeroDivisionError):
        make_grey(tmp_path / "new/folder/out.mp4")
    assert not (tmp_path / "new").exists()


def test_full_disk_is_reported_as_such(make_grey, tmp_path, monkeypatch):
    """ffmpeg called it an invalid argument, and a batch went on to the next video."""
    monkeypatch.setattr("video.writing.shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    monkeypatch.setattr("video.patching.PartWriter._cut", lambda *_: [video.ffmpeg_path(), "-i", "nothing.mp4"])
    with pytest.raises(OSError, match="the disk is full") as full:
        make_grey(tmp_path / "out.mp4")
    assert is_disk_error(full.value)


# --------------------------------------------------------------------------------------------------------------------
# Parameter sets


@pytest.mark.parametrize("number", [0, 5, 31])
def test_free_number_for_parameter_sets(clip, tmp_path, number):
    """x264 is told which number to use."""
    run_ffmpeg("-i", clip, *X264, "-frames:v", 1, "-x264-params", f"sps-id={number}", tmp_path / "one.h264")
    units = h264.units_of((tmp_path / "one.h264").read_bytes())
    assert [len(h264.of_kind(units, kind)) for kind in (h264.SEQUENCE, h264.PICTURE, h264.IDR)] == [1, 1, 1]
    assert h264.free_number(units) == (30 if number == 31 else 31)
    assert h264.profile_of(units) == "high"


def test_conflicting_parameter_sets_leave_no_free_number(clip, tmp_path):
    """After a change of quantisation, two picture sets have number 0, and one header cannot hold both."""
    for name, quantiser in (("a", 20), ("b", 40)):
        options = (*X264, "-frames:v", 1, "-qp", quantiser)
        run_ffmpeg("-i", clip, *options, tmp_path / f"{name}.h264")
    units = [h264.units_of((tmp_path / f"{name}.h264").read_bytes()) for name in "ab"]
    assert h264.free_number(units[0] * 2) == 31
    assert h264.free_number(units[0] + units[1]) is None


def test_parameter_sets_are_added_once(clip, tmp_path):
    """The header then has both, the file is as readable as before, and adding them again changes nothing."""
    run_ffmpeg("-i", clip, *X264, "-frames:v", 5, tmp_path / "own.mp4")
    run_ffmpeg("-i", clip, *X264, "-frames:v", 1, "-x264-params", "sps-id=9", tmp_path / "other.h264")
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


def test_decoders_find_every_parameter_set(patched):
    """Decoders cannot show frames whose set the header lacks: here ffmpeg has nothing to complain of."""
    command = [video.ffmpeg_path(), "-v", "warning", "-xerror", "-i", str(patched.out), "-f", "null", "-"]
    decoded = subprocess.run(command, capture_output=True, text=True)
    assert (decoded.returncode, decoded.stderr) == (0, "")
