"""Frames and sound in, one file out, on files made here so that the right answer is known."""

from __future__ import annotations

import itertools
import os
import subprocess
from fractions import Fraction

import cv2
import numpy as np
import pytest

import video
from concurrency import prefetch
from conftest import run_ffmpeg, write_clip


def numbered(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Frames whose grey level tells their number: 8 levels a step."""
    return np.stack([np.full((height, width, 3), 8 * i, np.uint8) for i in range(count)])


def numbers(frames) -> list[int]:
    return [round(float(frame.mean()) / 8) for frame in frames]


@pytest.fixture
def clip(tmp_path):
    write_clip(tmp_path / "clip.mp4", numbered(30))
    return video.probe(tmp_path / "clip.mp4")


def test_probe(clip):
    assert (clip.width, clip.height, clip.fps, clip.is_image) == (96, 64, 25, False)


def test_read_all_and_from_anywhere(clip):
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
    for start in (60, 99, 100, 150, 199):
        part = list(video.read_frames(info, start, 4))
        assert len(part) == len(whole[start : start + 4]) and all((a == b).all() for a, b in zip(part, whole[start:]))


@pytest.mark.parametrize(
    "printed, exact", [("23.98", "24000/1001"), ("29.97", "30000/1001"), ("25", "25"), ("12.5", "25/2")]
)
def test_broadcast_rates_are_exact(printed, exact):
    assert video._frame_rate(f"h264, 64x64, {printed} fps, 90k tbn") == Fraction(exact)


def test_variable_rate_is_made_constant_by_timestamps(tmp_path):
    """Ten frames at 30 fps, of which 3 to 6 are dropped but keep their time on screen."""
    write_clip(tmp_path / "cfr.mp4", numbered(10), "30")
    select = "select='lt(n,3)+gt(n,6)'"
    run_ffmpeg("-i", tmp_path / "cfr.mp4", "-vf", select, "-fps_mode", "vfr", "-crf", 10, tmp_path / "vfr.mp4")
    info = video.probe(tmp_path / "vfr.mp4")
    from dataclasses import replace

    assert numbers(video.read_frames(replace(info, fps=Fraction(30)))) == [0, 1, 2, 2, 2, 2, 2, 7, 8, 9]


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_late_picture_starts_with_its_first_frame(tmp_path, speech, container):
    """In .ts, time began with the picture for the frames, and with the sound for the sound."""
    both = tmp_path / f"both.{container}"
    write_clip(tmp_path / "late.mp4", numbered(10))
    run_ffmpeg("-itsoffset", "0.2", "-i", tmp_path / "late.mp4", "-i", speech, "-c:v", "copy", both)
    late = 6 if container == "ts" else 5  # .ts does not know of the encoder's delay, and plays it as sound
    assert numbers(video.read_frames(video.probe(both)))[: late + 10] == [0] * late + list(range(10))


def test_joined_recordings_play_on(tmp_path, speech):
    """Each .ts of a joined file has a clock of its own: 0, then hours later, then 0 again."""
    write_clip(tmp_path / "clip.mp4", numbered(10))
    for name, clock in (("early.ts", 0), ("late.ts", 9000)):
        both = ("-i", tmp_path / "clip.mp4", "-i", speech, "-shortest", "-c:v", "copy")
        run_ffmpeg(*both, "-output_ts_offset", clock, tmp_path / name)
    early, late = ((tmp_path / name).read_bytes() for name in ("early.ts", "late.ts"))
    (tmp_path / "joined.ts").write_bytes(early + late + early)
    frames = numbers(itertools.islice(video.read_frames(video.probe(tmp_path / "joined.ts")), 60))
    assert [number for number, _ in itertools.groupby(frames)] == [*range(10)] * 3 and len(frames) <= 33


def test_hole_in_the_picture_keeps_its_length(tmp_path):
    """ffmpeg takes a jump of ten seconds for another clock, of which the sound, in its own process, knows nothing."""
    source = ("-f", "lavfi", "-i", "testsrc=d=20:s=64x64:r=5", "-f", "lavfi", "-i", "sine=d=20")
    run_ffmpeg(*source, "-vf", "select='not(between(t,4,16))'", "-fps_mode", "passthrough", tmp_path / "hole.ts")
    info = video.probe(tmp_path / "hole.ts")
    seconds = sum(1 for _ in video.read_frames(info)) / info.fps
    assert abs(seconds - 20) <= 0.4 and abs(len(video.read_audio(info.path, 16000)) / 16000 - 20) <= 0.2


def silence_pid(path, pid):
    """Make null packets of an elementary stream's, which stays listed, as broadcasters do."""
    content = bytearray(path.read_bytes())
    for at in range(0, len(content), 188):
        if int.from_bytes(content[at + 1 : at + 3], "big") & 0x1FFF == pid:
            content[at + 1 : at + 3] = (content[at + 1] & 0xE0 | 0x1F, 0xFF)
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["a", "v"])
def test_listed_streams_without_a_packet_do_not_matter(tmp_path, speech, kind):
    write_clip(tmp_path / "v.mp4", numbered(10))
    maps = ("-map", "0:v", "-map", "1:a", "-map", "1:a" if kind == "a" else "0:v", "-c:v", "copy")
    run_ffmpeg("-i", tmp_path / "v.mp4", "-i", speech, *maps, tmp_path / "x.ts")
    silence_pid(tmp_path / "x.ts", 0x102)
    info = video.probe(tmp_path / "x.ts")
    assert len(list(video.read_frames(info))) >= 10 and len(video.read_audio(info.path, 16000)) > 16000
    with video.VideoWriter(tmp_path / "out.mp4", info, tmp_path / "x.ts", 10) as writer:
        for frame in numbered(10):
            writer.write(frame)
    assert len(video.read_audio(tmp_path / "out.mp4", 16000))


def write_song(folder, speech):
    """Write song.mp3, which has a cover."""
    (folder / "cover.jpg").write_bytes(cv2.imencode(".jpg", numbered(9)[8])[1].tobytes())
    song = ("-i", speech, "-i", folder / "cover.jpg", "-map", "0:a", "-map", "1:v", "-c:v", "copy")
    run_ffmpeg(*song, "-disposition:v", "attached_pic", folder / "song.mp3")


def test_damaged_cover_does_not_matter(tmp_path, speech):
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


def test_change_of_size_of_a_turned_video(tmp_path):
    """ffmpeg turns frames with what it set up for the first size, and would read beyond the smaller ones."""
    write_sizes(tmp_path, [(176, 320), (88, 160)])
    run_ffmpeg("-display_rotation", 90, "-i", tmp_path / "all.mkv", "-c", "copy", tmp_path / "turned.mov")
    info = video.probe(tmp_path / "turned.mov")
    assert info.turned and (info.width, info.height) == (176, 320)
    assert {(round(frame.mean() / 10), round(frame.std())) for frame in video.read_frames(info)} == {(4, 0), (9, 0)}


def test_change_of_size_keeps_the_clock(tmp_path):
    """As in recordings of video calls: frames take the size of the first, at the time when they are shown."""
    write_sizes(tmp_path, [(64, 96), (32, 48), (48, 64), (64, 96)])
    frames = list(video.read_frames(video.probe(tmp_path / "all.mkv")))
    assert {frame.shape for frame in frames} == {(64, 96, 3)}
    assert [round((float(frame.mean()) - 40) / 50) for frame in frames] == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10


def test_rotation_metadata_is_applied(tmp_path):
    frames = np.zeros((5, 64, 96, 3), np.uint8)
    frames[:, :, :48] = 255  # left half white
    write_clip(tmp_path / "flat.mp4", frames)
    run_ffmpeg("-display_rotation", 90, "-i", tmp_path / "flat.mp4", "-c", "copy", tmp_path / "turned.mp4")
    info = video.probe(tmp_path / "turned.mp4")
    frame = next(video.read_frames(info))
    assert (info.width, info.height) == (64, 96) and frame.shape == (96, 64, 3)
    assert sorted([frame[:40].mean() > 200, frame[56:].mean() > 200]) == [False, True]


def test_odd_rotation_is_applied(tmp_path):
    """ffmpeg 5 speaks of it without ending the line, and the words after it went unread."""
    frames = np.zeros((5, 64, 64, 3), np.uint8)
    frames[:, :, :32] = 255  # left half white
    write_clip(tmp_path / "flat.mp4", frames)
    run_ffmpeg("-display_rotation", 45, "-i", tmp_path / "flat.mp4", "-c", "copy", tmp_path / "turned.mp4")
    info = video.probe(tmp_path / "turned.mp4")
    frame = next(video.read_frames(info)).mean(axis=2)
    assert info.turned and frame.shape == (info.height, info.width)
    middle = frame[info.height // 2 - 16 :, info.width // 2 - 16 :][:32, :32]
    corners = middle[:4, :4].mean(), middle[-4:, -4:].mean(), middle[:4, -4:].mean(), middle[-4:, :4].mean()
    assert sorted(value > 128 for value in corners[:2]) != sorted(value > 128 for value in corners[2:])


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
def test_images_are_known_by_content(tmp_path, name):
    """The 2020 program split the path at dots."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    picture = np.full((40, 60, 4), 200, np.uint8)
    path.write_bytes(cv2.imencode(".webp" if "webp" in name else ".png", picture)[1].tobytes())
    info = video.probe(path)
    assert info.is_image and (info.width, info.height) == (60, 40)
    assert [f.shape for f in video.repeat_frames(info, 3)] == [(40, 60, 3)] * 3


@pytest.mark.parametrize("pingpong", [False, True])
@pytest.mark.parametrize("held", [1, 1 << 30])
def test_repetition(clip, monkeypatch, pingpong, held):
    """The same order whether the clip fits in memory or is read again."""
    monkeypatch.setattr(video, "HELD_BYTES", held)
    got = numbers(video.repeat_frames(clip, 70, 20, pingpong))
    assert got == [video.source_index(i, 20, pingpong) for i in range(70)]
    assert got[19:23] == ([19, 18, 17, 16] if pingpong else [19, 0, 1, 2])


def test_source_index_of_a_single_frame():
    assert [video.source_index(i, 1, p) for p in (True, False) for i in range(3)] == [0] * 6


def test_geometry(clip):
    geometry = video.Geometry(resize_factor=2, rotate=True, crop=(4, -1, 0, 20))
    info = video.probe(clip.path, geometry)
    plain = next(video.read_frames(clip))
    expected = cv2.rotate(cv2.resize(plain, (48, 32)), cv2.ROTATE_90_CLOCKWISE)[4:, :20]
    frame = next(video.read_frames(info))
    assert frame.shape == (info.height, info.width, 3) == (44, 20, 3) and (frame == expected).all()


def test_turned_pixels_are_as_high_as_they_were_wide(tmp_path):
    write_clip(tmp_path / "pal.mp4", numbered(3), "25", "-vf", "setsar=16/15")
    assert video.probe(tmp_path / "pal.mp4").sample_aspect == "16:15"
    assert video.probe(tmp_path / "pal.mp4", video.Geometry(rotate=True)).sample_aspect == "15:16"


@pytest.mark.parametrize("crop", [(50, 20, 0, -1), (0, -1, 96, -1), (-5, 10, 0, 5)])
def test_geometry_that_leaves_nothing(clip, crop):
    with pytest.raises(ValueError, match="leaves nothing"):
        video.probe(clip.path, video.Geometry(crop=crop))


@pytest.mark.parametrize("height, width", [(64, 96), (65, 97), (1, 1)])
def test_written_file(tmp_path, speech, height, width):
    info = video.VideoInfo(tmp_path, width, height, Fraction(25))
    with video.VideoWriter(tmp_path / "new folder/out.mp4", info, speech, 30) as writer:
        for frame in numbered(30, height, width):
            writer.write(frame)
    made = video.probe(tmp_path / "new folder/out.mp4")
    assert (made.width, made.height, made.fps) == (width + width % 2, height + height % 2, 25)
    assert numbers(video.read_frames(made)) == list(range(30))
    assert abs(len(video.read_audio(made.path, 16000)) / 16000 - 1.2) <= 1 / 25
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["out.mp4"]


def test_colours_survive_with_their_tags(tmp_path, speech):
    colours = np.zeros((5, 64, 96, 3), np.uint8)
    colours[:, :, :32], colours[:, :, 32:64], colours[:, :, 64:] = (200, 60, 30), (40, 180, 60), (60, 60, 220)
    tags = "scale=out_color_matrix=bt709,setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    write_clip(tmp_path / "tagged.mp4", colours, "25", "-vf", tags, "-c:v", "libx264", "-crf", 5, "-pix_fmt", "yuv420p")
    source = video.probe(tmp_path / "tagged.mp4")
    assert source.colour == ("bt709", "bt709", "bt709")
    frames = list(video.read_frames(source))
    with video.VideoWriter(tmp_path / "out.mp4", source, speech, 5, crf=5) as writer:
        for frame in frames:
            writer.write(frame)
    made = video.probe(tmp_path / "out.mp4")
    assert made.colour == source.colour
    assert np.abs(next(video.read_frames(made)).astype(int) - frames[0]).mean() < 2


def test_photos_get_tags_too(tmp_path, speech):
    """Without any, players take a large one for BT.709, which it was not."""
    picture = np.full((64, 96, 3), (30, 40, 230), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), picture)
    write_clip(tmp_path / "screen.mov", picture[None].repeat(2, 0), "25", "-c:v", "qtrle", "-pix_fmt", "rgb24")
    for source in map(video.probe, (tmp_path / "photo.png", tmp_path / "screen.mov")):
        with video.VideoWriter(tmp_path / "out.mp4", source, speech, 1, crf=5) as writer:
            writer.write(picture)
        made = video.probe(tmp_path / "out.mp4")
        assert made.colour == ("bt709", "bt709", "bt709")
        assert np.abs(next(video.read_frames(made)).astype(int) - picture).max() <= 3


def test_the_quick_default_makes_no_large_files(tmp_path, speech):
    """x264's own superfast makes files of twice the size of veryfast's."""
    scene = np.random.default_rng(0).normal(120, 40, (18, 32, 3))
    scene = cv2.resize(np.clip(scene, 0, 255).astype(np.uint8), (640, 360), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(1).integers(0, 6, (12, 240, 320, 3), np.uint8)
    info, sizes = video.VideoInfo(tmp_path, 320, 240, Fraction(25)), []
    for options in ({}, {"preset": "veryfast"}):
        with video.VideoWriter(tmp_path / "out.mp4", info, speech, 50, **options) as writer:
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


def test_ffmpegs_own_words_are_passed_on(tmp_path):
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


def test_streamed_audio_is_the_whole_in_blocks(monkeypatch, speech):
    whole = video.read_audio(speech, 16000)
    monkeypatch.setattr(video, "AUDIO_SECONDS", 0.5)
    blocks = list(video.stream_audio(speech, 16000))
    assert {len(block) for block in blocks[:-1]} == {8000} and len(blocks) == -(-len(whole) // 8000)
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_audio_equals_the_file(tmp_path, speech):
    import audio

    np.testing.assert_allclose(video.read_audio(speech, 16000), audio.load_wav(speech), atol=1e-4)


@pytest.mark.parametrize("layout, share", [("stereo", 1.0), ("5.1", 0.5)])
def test_downmix_is_no_louder_than_its_channels(tmp_path, layout, share):
    """ffmpeg adds 3 dB to a stereo voice by default, which clips and shifts every mel."""
    sine = "|".join(["0.5*sin(2*PI*300*t)"] * (2 if layout == "stereo" else 6))
    run_ffmpeg("-f", "lavfi", "-i", f"aevalsrc={sine}:d=1:s=48000:c={layout}", tmp_path / "s.wav")
    peak = np.abs(video.read_audio(tmp_path / "s.wav", 16000)).max()
    assert 0.5 * share - 0.01 < peak < 0.51


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")
@pytest.mark.parametrize("encoders, used", [
    (" V....D libx264              libx264 H.264 / AVC (codec h264)", True),
    (" V....D libopenh264          OpenH264 H.264 (codec h264)", False),
    ("", False),  # one that does not start
])  # fmt: skip
def test_an_ffmpeg_without_h264_is_passed_by(tmp_path, monkeypatch, encoders, used):
    stand_in = tmp_path / "ffmpeg"
    stand_in.write_text(f"#!/bin/sh\necho '{encoders}'\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (video.ffmpeg_path.__wrapped__() == str(stand_in)) == used


@pytest.mark.parametrize("channels", [1, 3, 10, 16])
def test_any_number_of_channels_can_be_written(tmp_path, channels):
    """AAC knows few layouts, and field recorders have many channels."""
    from scipy.io import wavfile

    tone = (0.4 * np.sin(np.arange(16000) * 0.2)).astype(np.float32)
    wavfile.write(tmp_path / "many.wav", 16000, np.repeat(tone[:, None], channels, axis=1))
    info = video.VideoInfo(tmp_path, 32, 32, Fraction(25))
    try:
        video.read_audio(tmp_path / "many.wav", 16000)
    except ValueError as error:
        assert channels == 10 and "install ffmpeg 7" in str(error)
        pytest.skip(str(error))
    with video.VideoWriter(tmp_path / "out.mp4", info, tmp_path / "many.wav", 25) as writer:
        for _ in range(25):
            writer.write(np.zeros((32, 32, 3), np.uint8))
    assert 0.1 < np.abs(video.read_audio(tmp_path / "out.mp4", 16000)).max() <= 1


def test_not_a_number_becomes_silence(tmp_path):
    from scipy.io import wavfile

    wavfile.write(tmp_path / "nan.wav", 16000, np.array([np.nan, 0.5, np.inf, -np.inf], np.float32))
    assert np.isfinite(video.read_audio(tmp_path / "nan.wav", 16000)).all()


def test_prefetch_keeps_order_and_surfaces_errors():
    def items():
        yield from range(5)
        raise RuntimeError("in the thread")

    got = prefetch(items())
    assert list(itertools.islice(got, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="in the thread"):
        next(got)


def test_prefetch_closes_what_it_reads():
    closed = []

    def items():
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    got = prefetch(items())
    assert next(got) == 0
    got.close()
    assert closed == [True]


def test_reading_stops_ffmpeg_when_abandoned(clip, monkeypatch):
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **options: started.append(popen(*a, **options)) or started[-1])
    frames = video.read_frames(clip)
    next(frames)
    frames.close()
    assert [process.poll() is not None for process in started] == [True]


def test_truncated_file(tmp_path):
    write_clip(tmp_path / "whole.mp4", np.random.default_rng(0).integers(0, 256, (50, 64, 64, 3), np.uint8))
    run_ffmpeg("-i", tmp_path / "whole.mp4", "-c", "copy", "-movflags", "+faststart", tmp_path / "fast.mp4")
    content = (tmp_path / "fast.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cut short|cannot read"):
        list(video.read_frames(video.probe(tmp_path / "cut.mp4")))


@pytest.mark.parametrize("name, content, words", [
    ("text.mp4", b"hello " * 500, "not a video"),
    ("empty.mp4", b"", "empty"),
    ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n", "playlist"),
    ("noise.mp4", bytes(range(256)) * 64, "not a video"),
])  # fmt: skip
def test_what_is_not_a_video(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        video.probe(tmp_path / name)


def test_name_that_is_not_utf8(tmp_path):
    """As old archives have them. OpenCV ends the process, without an exception, when asked about such a file."""
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    write_clip(tmp_path / "clip.mp4", numbered(5))
    try:
        (tmp_path / "clip.mp4").rename(path)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert numbers(video.read_frames(video.probe(path))) == list(range(5))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_is_refused(tmp_path):
    """Sound is read three times: the second time waited for ever."""
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(ValueError, match="save it to a file"):
        video.read_audio(tmp_path / "pipe.wav", 16000)


def test_sound_is_not_a_face_and_silence_is_not_speech(tmp_path, speech):
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
