"""Files with a choice in them, or with less than they promise: tracks, tags, fields, transparency, cut ends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import video
from conftest import run_ffmpeg, write_clip

RATE = 16000


def tone(frequency: int, seconds: float = 1.0) -> list[str]:
    return ["-f", "lavfi", "-i", f"aevalsrc=0.5*sin(2*PI*{frequency}*t):d={seconds}:s={RATE}"]


def pitch(path) -> float:
    """The loudest frequency of a file's sound, in Hz."""
    wav = video.read_audio(path, RATE)
    return float(np.abs(np.fft.rfft(wav)).argmax() * RATE / len(wav))


# --------------------------------------------------------------------------------------------------------------------
# Tracks


@pytest.mark.parametrize("default, expected", [(0, 300), (1, 900), (2, 2000), (None, 300)])
def test_the_sound_track_to_be_played_is_heard_and_written(tmp_path, default, expected, clip_of_grey):
    path = tmp_path / "three.mka"
    marks = [f"-disposition:a:{i} {'default' if i == default else '0'}".split() for i in range(3)]
    maps = ["-map", "0:a", "-map", "1:a", "-map", "2:a"]
    run_ffmpeg(*tone(300), *tone(900), *tone(2000), *maps, "-c:a", "flac", *itertools.chain(*marks), path)
    assert pitch(path) == pytest.approx(expected, abs=5)
    (note,) = video.sound_notes(path)
    assert f"has 3 sound tracks; number {(default or 0) + 1}" in note and ("marked" in note) == (default is not None)
    info = video.probe(clip_of_grey)
    with video.VideoWriter(tmp_path / "out.mp4", info, path, 25) as writer:
        for frame in video.read_frames(info):
            writer.write(frame)
    assert pitch(tmp_path / "out.mp4") == pytest.approx(expected, abs=20)


def test_one_track_is_nothing_to_speak_of(speech, clip_of_grey):
    assert video.sound_notes(speech) == () and video.probe(clip_of_grey).notes == ()


def test_the_picture_track_to_be_played_is_seen(tmp_path):
    for name, grey, size in (("a", 40, 64), ("b", 200, 96)):
        write_clip(tmp_path / f"{name}.mp4", np.full((10, size, size, 3), grey, np.uint8))
    both = tmp_path / "both.mkv"
    inputs = ["-i", tmp_path / "a.mp4", "-i", tmp_path / "b.mp4", "-map", "0:v", "-map", "1:v", "-c", "copy"]
    run_ffmpeg(*inputs, "-disposition:v:0", "0", "-disposition:v:1", "default", both)
    info = video.probe(both)
    assert (info.width, info.height) == (96, 96) and "has 2 picture tracks; number 2, which is marked" in info.notes[0]
    assert np.mean(list(video.read_frames(info, 2, 2))) == pytest.approx(200, abs=3)


@pytest.fixture(scope="module")
def clip_of_grey(tmp_path_factory):
    path = tmp_path_factory.mktemp("grey") / "grey.mp4"
    write_clip(path, np.full((25, 64, 96, 3), 90, np.uint8))
    return path


# --------------------------------------------------------------------------------------------------------------------
# Channels


@pytest.mark.parametrize("level", [0.5, 1.0])
def test_channels_that_cancel_are_heard(tmp_path, level):
    run_ffmpeg(*tone(440), "-af", f"pan=stereo|c0=c0|c1=-{level}*c0", tmp_path / "anti.wav")
    run_ffmpeg(*tone(440), tmp_path / "mono.wav")
    mono, heard = (video.read_audio(tmp_path / name, RATE) for name in ("mono.wav", "anti.wav"))
    assert np.abs(heard - mono * (1.0 if level == 1 else (1 - level) / 2)).max() < 1e-3


def test_the_mix_is_the_mean_of_the_channels():
    left, right = np.random.default_rng(0).uniform(-1, 1, (2, 100)).astype(np.float32)
    np.testing.assert_allclose(video.mix(np.stack((left, right), 1)), (left + right) / 2, atol=1e-7)
    assert (video.mix(np.zeros((100, 2), np.float32)) == 0).all()


# --------------------------------------------------------------------------------------------------------------------
# Cut ends


@pytest.mark.parametrize(
    "name, codec", [("x.m4a", "aac"), ("x.wav", "pcm_s16le"), ("x.flac", "flac"), ("x.mka", "aac")]
)
def test_sound_that_is_cut_short_is_refused(tmp_path, name, codec):
    run_ffmpeg(*tone(440, 5), "-c:a", codec, "-movflags", "+faststart", tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    assert len(video.read_audio(tmp_path / name, RATE)) == pytest.approx(5 * RATE, abs=0.2 * RATE)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut short"):
        video.read_audio(tmp_path / name, RATE)


def test_a_stream_of_unknown_length_is_whole(tmp_path):
    """What a pipe writes promises nothing, or everything."""
    run_ffmpeg(*tone(440, 2), tmp_path / "whole.wav")
    content = bytearray((tmp_path / "whole.wav").read_bytes())
    data = content.index(b"data")
    for size in (b"\xff\xff\xff\xff", b"\0\0\0\0"):
        content[4:8] = content[data + 4 : data + 8] = size
        (tmp_path / "streamed.wav").write_bytes(content)
        assert len(video.read_audio(tmp_path / "streamed.wav", RATE)) == 2 * RATE


@pytest.mark.parametrize("container", ["mkv", "webm", "mp4"])
def test_videos_that_are_cut_short_are_refused(tmp_path, container):
    path = tmp_path / f"x.{container}"
    noise = np.random.default_rng(0).integers(0, 255, (75, 48, 64, 3), np.uint8)
    codec = ["-c:v", "libvpx"] if container == "webm" else ["-c:v", "libx264", "-movflags", "+faststart"]
    write_clip(path, noise, "25", *codec, "-pix_fmt", "yuv420p")
    assert len(list(video.read_frames(video.probe(path)))) == 75
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="cut short"):
        list(video.read_frames(video.probe(path)))


# --------------------------------------------------------------------------------------------------------------------
# Colour tags


@pytest.mark.parametrize(
    "matrix, primaries, transfer",
    [(6, 6, 5), (1, 1, 4), (5, 5, 5), (1, 3, 3), (1, 4, 4), (9, 9, 18), (9, 9, 16), (10, 9, 14), (2, 1, 1), (3, 2, 2)],
)
def test_any_tag_can_be_written(tmp_path, speech, clip_of_grey, matrix, primaries, transfer):
    """Numbers of ITU-T H.273: 3 is reserved, 2 says nothing, 10 is for light that nobody computes with."""
    tags = f"matrix_coefficients={matrix}:colour_primaries={primaries}:transfer_characteristics={transfer}"
    run_ffmpeg("-i", clip_of_grey, "-c", "copy", "-bsf:v", f"h264_metadata={tags}", tmp_path / "tagged.mp4")
    info = video.probe(tmp_path / "tagged.mp4")
    frames = list(video.read_frames(info))
    with video.VideoWriter(tmp_path / "out.mp4", info, speech, len(frames)) as writer:
        for frame in frames:
            writer.write(frame)
    again = video.probe(tmp_path / "out.mp4")
    assert again.colour == info.colour
    assert np.abs(np.mean(list(video.read_frames(again))) - np.mean(frames)) < 1.5


def test_colours_that_cannot_be_shown_are_named(tmp_path, clip_of_grey):
    tags = "matrix_coefficients=8:colour_primaries=1:transfer_characteristics=1"
    run_ffmpeg("-i", clip_of_grey, "-c", "copy", "-bsf:v", f"h264_metadata={tags}", tmp_path / "odd.mp4")
    with pytest.raises(ValueError, match="ycgco.*bt709"):
        video.probe(tmp_path / "odd.mp4")


# --------------------------------------------------------------------------------------------------------------------
# Fields


def test_fields_become_frames(tmp_path, speech):
    """A bar that moves 8 pixels a field: combed, every other row is elsewhere."""
    fields = np.full((50, 96, 256, 3), 30, np.uint8)
    for i, field in enumerate(fields):
        field[:, 4 * i : 4 * i + 40] = 220
    lossless = ("-c:v", "ffv1", "-pix_fmt", "yuv444p")
    write_clip(tmp_path / "fields.mkv", fields, "50", *lossless)
    interlace = ["-vf", "tinterlace=interleave_top", "-c:v", "mpeg2video", "-q:v", "2", "-flags", "+ildct+ilme"]
    run_ffmpeg("-i", tmp_path / "fields.mkv", *interlace, tmp_path / "interlaced.mpg")
    info = video.probe(tmp_path / "interlaced.mpg")
    frames = list(video.read_frames(info))
    assert info.filters and len(frames) == 25 and info.fps == 25
    grey = np.stack(frames).astype(float).mean(-1)
    assert np.abs(np.diff(grey, axis=1)).mean() < 0.1
    run_ffmpeg(
        "-i", tmp_path / "interlaced.mpg", "-vf", "setfield=prog,format=gray", "-c:v", "ffv1", tmp_path / "combed.mkv"
    )
    combed = np.stack(list(video.read_frames(video.probe(tmp_path / "combed.mkv")))).astype(float)
    assert np.abs(np.diff(combed, axis=1)).mean() > 3  # or this test would say nothing


def test_frames_stay_as_they_are(clip_of_grey):
    assert not video.probe(clip_of_grey).filters


# --------------------------------------------------------------------------------------------------------------------
# Transparency


@pytest.mark.parametrize(
    "name, codec",
    [
        ("x.apng", ["-c:v", "apng", "-pix_fmt", "rgba", "-plays", "0"]),
        ("x.mov", ["-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le"]),
        ("y.mov", ["-c:v", "qtrle", "-pix_fmt", "argb"]),
        ("x.webm", ["-c:v", "libvpx-vp9", "-lossless", "1", "-pix_fmt", "yuva420p"]),
        ("y.webm", ["-c:v", "libvpx", "-auto-alt-ref", "0", "-b:v", "4M", "-pix_fmt", "yuva420p"]),
        ("x.gif", ["-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse"]),
    ],
)
def test_what_is_transparent_shows_plain_ground(tmp_path, name, codec):
    """The left half is opaque grey, the right half has magenta that nobody should see."""
    frames = np.zeros((5, 64, 96, 4), np.uint8)
    frames[..., :48, :] = 120, 120, 120, 255
    frames[..., 48:, :] = 255, 0, 255, 0
    source = ("-f", "rawvideo", "-pix_fmt", "bgra", "-s", "96x64", "-r", "25", "-i", "pipe:0")
    run_ffmpeg(*source, *codec, tmp_path / name, stdin=frames.tobytes())
    *_, last = video.read_frames(video.probe(tmp_path / name))
    assert last.shape == (64, 96, 3)
    left, right = last[8:-8, 8:40], last[8:-8, 56:-8]
    assert np.abs(left.mean((0, 1)) - 120).max() < 8 and right.min() > 247  # a GIF has few colours, and mixes them


def test_an_opaque_video_is_read_as_before(clip_of_grey):
    assert not video.probe(clip_of_grey).transparent
