"""Only a part of a video is redrawn: --start and --end."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from scipy.io import wavfile

import cli
import inference
import live
import parts
import video
from conftest import assert_alike, run_ffmpeg, write_clip
from errors import UserError
from face_path import FacePath, Piece
from faces import FaceSearch
from lipsync import FilmedFace, LipSync, Options
from lipsync.take import fading, search_range, segment_for
from mouths import SpeakingTrack, crop, redraw_mouths
from video import reading

BOX = (30, 100, 50, 105)  # top, bottom, left, right


@pytest.fixture
def lips(loaded_lips, told):
    return loaded_lips.copy_with(FaceSearch("centerface"), told)


@pytest.fixture(scope="module")
def filmed(small_clip):
    return np.stack(list(video.read_frames(video.probe(small_clip))))


@pytest.fixture(scope="module")
def humming_clip(small_clip, tmp_path_factory):
    """The second of video with 300 Hz on the left and 500 Hz on the right."""
    path = tmp_path_factory.mktemp("humming") / "hum.mkv"
    tones = "aevalsrc=0.2*sin(600*PI*t)|0.2*sin(1000*PI*t):s=44100:d=1"
    run_ffmpeg("-i", small_clip, "-f", "lavfi", "-i", tones, "-c:v", "copy", "-c:a", "flac", path)
    return path


@pytest.fixture(scope="module")
def tone(tmp_path_factory):
    """0.4 s of 900 Hz in mono."""
    path = tmp_path_factory.mktemp("tone") / "tone.wav"
    run_ffmpeg("-f", "lavfi", "-i", "aevalsrc=0.2*sin(1800*PI*t):s=16000:d=0.4", path)
    return path


@pytest.mark.parametrize("frames, begins, until, strength", [
    (6, False, None, [1] * 6),
    (6, True, None, [0.25, 0.5, 0.75, 1, 1, 1]),
    (6, False, 6, [1, 1, 1, 0.75, 0.5, 0.25]),
    (6, True, 4, [0.25, 0.5, 0.5, 0.25, 0, 0]),
    (2, True, 2, [0.25, 0.25]),
    (1, False, 1, [0.25]),
])  # fmt: skip
def test_fading_ramps_up_and_down(frames, begins, until, strength):
    assert fading(frames, begins, until).tolist() == strength


def test_mouth_fades_in_and_out_with_its_face():
    """It used to vanish at once when a man turned to profile; at a cut, all of the picture changes at once."""
    box = (0, 0, 9, 9)
    shown = [box] * 6 + [None] * 3 + [box] * 3
    pieces = [Piece(shown, np.empty((12, 4)), True), Piece([None] * 2 + [box] * 4, np.empty((6, 4)))]
    path = FacePath(lambda: (piece for piece in pieces))
    filmed = FilmedFace(video.VideoInfo, path, 18)
    assert [one is None for one in filmed.boxes(18)] == [not one for one in (*shown, None, None, box, box, box, box)]
    strengths = [filmed.strength(index) for index in (*range(6), *range(9, 12), *range(14, 18))]
    assert strengths == [1, 1, 1, 0.75, 0.5, 0.25, 0.25, 0.5, 0.75, 0.25, 0.5, 0.75, 1]


def test_part_blends_into_the_filmed_video(modest_checkpoint, small_clip, tone, filmed):
    """Its mouths used to appear from one frame to the next."""
    lips = LipSync(modest_checkpoint, search=FaceSearch("centerface"))
    take = lips.prepare(small_clip, tone, start=0.2, blend="feather")
    assert take.goes_on and take.faces[0].fade.tolist() == [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    changed = [np.abs(drawn - before.astype(int)).mean() for drawn, before in zip(lips.stream(take), filmed[5:15])]
    whole = replace(
        take, faces=(replace(take.faces[0], mouth_settings=replace(take.faces[0].mouth_settings, strength=None)),)
    )
    unfaded = [np.abs(drawn - before.astype(int)).mean() for drawn, before in zip(lips.stream(whole), filmed[5:15])]
    shares = np.array(changed) / unfaded
    assert shares[3:7] == pytest.approx(1) and shares[[0, 9]] == pytest.approx(0.25, abs=0.12)
    assert lips.prepare(small_clip, tone, start=0.0, blend="feather").faces[0].fade.tolist()[:7] == [1] * 7
    assert (lips.prepare(small_clip, tone).faces[0].fade == 1).all()
    assert_alike(lips.preview(small_clip, tone, 0.2, start=0.2, blend="feather"), next(lips.stream(take)))


def test_preview_with_a_box_does_not_read_all_that_comes_before(small_clip, tone, lips, monkeypatch, filmed):
    """A preview an hour into a film decoded that hour."""
    starts, read = [], video.read_frames
    monkeypatch.setattr(
        video, "read_frames", lambda info, start=0, *rest: starts.append(start) or read(info, start, *rest)
    )
    drawn = lips.preview(small_clip, tone, 0.36, box=BOX)
    assert 9 in starts and drawn.shape == filmed[9].shape
    near, far = (np.abs(drawn.astype(int) - filmed[index])[:25].mean() for index in (9, 0))
    assert near < 0.5 * far  # above the box


@pytest.fixture
def truncated(tmp_path):
    """A second of noise whose file ends after about 16 frames, and the number of frames that can be read."""
    noise = np.random.default_rng(0).integers(0, 256, (25, 128, 160, 3), np.uint8)
    write_clip(tmp_path / "cut.mkv", noise, "25", "-c:v", "libx264", "-g", 5, "-bf", 0)
    content = (tmp_path / "cut.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: int(0.65 * len(content))])
    frames = []
    with pytest.raises(video.CutShort):
        frames.extend(video.read_frames(video.probe(tmp_path / "cut.mkv")))
    return tmp_path / "cut.mkv", len(frames)


def test_truncated_film_is_refused_before_a_part_of_it_is_made(truncated, lips, tone, tmp_path, monkeypatch):
    """It used to be when nearly everything had been encoded."""
    path, count = truncated
    assert count > 10
    take = lips.prepare(path, tone, start=0.04, end=0.2, box=BOX, crf=30)
    assert take.goes_on and take.copied() is None
    monkeypatch.setattr(LipSync, "stream_all", lambda *_: pytest.fail("frames were made"))
    with pytest.raises(video.CutShort, match="cut short or damaged"):
        lips.write(take, tmp_path / "out.mp4")


def test_missing_end_that_the_speech_does_not_need_is_no_error(truncated, monkeypatch):
    """Looking whether the film goes on after the speech used to be one."""
    path, count = truncated
    monkeypatch.setattr("lipsync.take.UNUSED_SECONDS", 0.08)
    options, told = Options(), []
    segment = segment_for(video.probe(path), (count - 1) * 640, options, SimpleNamespace(note=told.append))
    assert segment.frames == count - 1 and not told
    segment_for(video.probe(path), 640, options, SimpleNamespace(note=told.append))
    assert len(told) == 1 and "goes on after the speech" in told[0]


def level(sound: np.ndarray, start: float, stop: float, frequency: int) -> float:
    """The amplitude of a tone between two moments of a sound at 48 kHz."""
    times = np.arange(round(start * 48000), round(stop * 48000)) / 48000
    return 2 * abs(np.mean(sound[round(start * 48000) : round(stop * 48000)] * np.exp(-2j * np.pi * frequency * times)))


def splice(film: Path, speech: Path, out: Path, start: float, seconds: float, goes_on: bool) -> None:
    """Write tiny frames with the sound of the film, in a part of which 0.4 s of speech are heard."""
    sound = video.Sound(speech, 16000)
    assert sum(map(len, sound)) == 6400
    like = video.VideoInfo(film, 32, 32, Fraction(25), False)
    video.check_joinable(film)
    with video.VideoWriter(out, like, video.Splice(film, sound, start, seconds, goes_on), None) as writer:
        for _ in range(25):
            writer.write(np.zeros((32, 32, 3), np.uint8))


def channels_of(path, tmp_path, count: int) -> np.ndarray:
    """(channels, samples) at 48 kHz."""
    run_ffmpeg("-i", path, "-f", "f32le", "-ar", 48000, "-ac", count, tmp_path / "raw")
    return np.fromfile(tmp_path / "raw", np.float32).reshape(-1, count).T


# --------------------------------------------------------------------------------------------------------------------
# Pictures


def test_frames_outside_a_part_are_unchanged(lips, small_clip, filmed, tone):
    """Before encoding they are equal to the last bit; those inside follow the speech from its beginning."""
    take = lips.prepare(small_clip, tone, start=0.2, box=BOX)
    made = np.stack(list(lips.stream_all(take)))
    assert (take.source.start, len(take), take.seconds, len(made)) == (5, 10, 0.4, 25)
    assert (made[:5] == filmed[:5]).all() and (made[15:] == filmed[15:]).all()
    face = SpeakingTrack([(50, 30, 105, 100)] * 10, take.faces[0].windows)
    assert_alike(made[5:15], np.stack(list(redraw_mouths(filmed[5:15], [face], lips.model))))
    assert (made[5:15] != filmed[5:15]).any(axis=(1, 2, 3)).all()


def test_only_the_part_is_searched_for_faces(lips, small_clip, tone, monkeypatch):
    """What is found there is cached apart from that of the whole video."""
    read = []
    real = video.read_frames
    monkeypatch.setattr(video, "read_frames", lambda info, *a: (read.append((info.start, *a)), real(info, *a))[1])
    whole = lips.prepare(small_clip, tone).faces[0].filmed.path.boxes
    some = lips.prepare(small_clip, tone, start=0.6, end=0.8)
    assert (15, 0) in read and not any(0 < start < 15 for start, *_ in read)
    assert len(some.faces[0].filmed.path.boxes) == 5 == len(some.faces[0].filmed.path.seen)
    drift = (
        np.array(some.faces[0].filmed.path.boxes[0]) - whole[-1]
    )  # the picture goes left by a pixel a frame, from frame 9 to 15
    assert abs(drift + [6, 0, 6, 0]).max() <= 3


@pytest.mark.parametrize("options", [
    {"fps": 50, "face_index": 0}, {"box": BOX, "fps": 10, "reference": "still"}, {"silence": "closed"},
])  # fmt: skip
def test_other_options_work_in_a_part(lips, small_clip, tone, options, tmp_path):
    take = lips.run(small_clip, tone, tmp_path / "out.mp4", start=0.2, **options)
    rate = options.get("fps", 25)
    made = video.probe(tmp_path / "out.mp4")
    assert len(take) == round(0.4 * rate) and take.source.start == round(0.2 * rate)
    assert (made.fps, sum(1 for _ in video.read_frames(made))) == (rate, rate)


def test_reference_frames_count_from_the_start_of_the_video(lips, small_clip, filmed, tone):
    take = lips.prepare(small_clip, tone, start=0.2, box=BOX, reference=7)
    assert (
        take.faces[0].mouth_settings.appearances.known[0].references.faces == crop(filmed[7], (50, 30, 105, 100))
    ).all()
    with pytest.raises(UserError, match="--reference 3: the frames that are used begin with 5; name one of them"):
        lips.prepare(small_clip, tone, start=0.2, box=BOX, reference=3)
    with pytest.raises(UserError, match="--reference 15: the frames that are used end with 14"):
        lips.prepare(small_clip, tone, start=0.2, box=BOX, reference=15)


def test_preview_counts_from_the_start_of_the_video(lips, small_clip, tone):
    made = list(lips.stream_all(lips.prepare(small_clip, tone, start=0.2, box=BOX)))
    shown = lips.preview(small_clip, tone, 0.37, start=0.2, box=BOX)
    assert np.abs(shown.astype(int) - made[9]).max() <= 1


@pytest.mark.parametrize("second", [0.05, 0.65, 0.9])
def test_preview_outside_a_part_is_the_filmed_frame(lips, small_clip, tone, filmed, second):
    """It used to show a frame of the part."""
    shown = lips.preview(small_clip, tone, second, start=0.2, end=0.6, box=BOX)
    assert (shown == filmed[int(second * 25 + 1e-6)]).all()


def test_preview_counts_from_the_first_frame_of_a_part(lips, small_clip, tone):
    """At 25 frames a second, 0.51 s is frame 13; previews were a frame off."""
    made = list(lips.stream_all(lips.prepare(small_clip, tone, start=0.21, box=BOX)))
    for second in (0.2, 0.24, 0.56):
        shown = lips.preview(small_clip, tone, second, start=0.21, box=BOX)
        assert np.abs(shown.astype(int) - made[round(second * 25)]).max() <= 1


def test_frames_are_counted_from_any_start(small_clip, tmp_path):
    """Also if they differ in duration."""
    uneven = tmp_path / "uneven.mp4"
    run_ffmpeg("-i", small_clip, "-vf", "setpts=PTS+mod(N\\,3)*0.01/TB", "-fps_mode", "passthrough", uneven)
    for path in (small_clip, uneven):
        info = video.probe(path)
        count = sum(1 for _ in video.read_frames(info))
        for start in (0, count // 2, count - 1):
            part = video.VideoInfo(**{**vars(info), "start": start})
            assert video.count_frames(part, count - start) == (count - start, False)
            assert video.count_frames(part, count - start + 9) == (count - start, False)
            assert video.count_frames(part, 9999) == (count - start, False)
        assert video.count_frames(info, count - 1) == (count - 1, True)


# --------------------------------------------------------------------------------------------------------------------
# Sound


def test_own_sound_is_kept_around_a_part(lips, humming_clip, tone, tmp_path):
    """Stereo stays stereo, mono speech keeps its level in it, and nothing jumps at the joints."""
    lips.run(humming_clip, tone, tmp_path / "out.mp4", start=0.2, box=BOX)
    sound = channels_of(tmp_path / "out.mp4", tmp_path, 2)
    assert abs(sound.shape[1] / 48000 - 1) < 0.03
    for channel, own in zip(sound, (300, 500)):
        for start, stop, heard in ((0.05, 0.18, own), (0.22, 0.57, 900), (0.62, 0.95, own)):
            levels = {tone: level(channel, start, stop, tone) for tone in (300, 500, 900)}
            assert levels.pop(heard) == pytest.approx(0.2, abs=0.01) and max(levels.values()) < 0.02
    steepest = 0.2 * 2 * np.pi * 900 / 48000  # of the tones themselves
    assert np.abs(np.diff(sound)).max() < 1.3 * steepest


@pytest.mark.parametrize("own, codec, voice", [
    ("5.1(side)", "ac3", "mono"), ("5.1(side)", "ac3", "stereo"), ("5.1(side)", "flac", "5.1"), ("5.1", "flac", "5.1"),
    ("stereo", "flac", "5.1"), ("mono", "flac", "5.1"), ("stereo", "flac", "mono"),
])  # fmt: skip
def test_film_keeps_its_channels_and_level_around_a_part(small_clip, tmp_path, own, codec, voice):
    """DVDs and broadcasts have 5.1(side), which AAC lacks: the whole film became stereo, 11 dB softer."""
    counts = {"mono": 1, "stereo": 2, "5.1": 6, "5.1(side)": 6}

    def tones(layout, frequency):
        levels = [0.2] * counts[layout] if counts[layout] < 6 else [0, 0, 0.2, 0, 0, 0]
        values = "|".join(f"{level}*sin(2*PI*{frequency}*t)" for level in levels)
        return ("-f", "lavfi", "-i", f"aevalsrc={values}:s=48000:d=1:c={layout}")

    film, speech = tmp_path / "film.mkv", tmp_path / "speech.mka"
    maps = ("-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", codec, "-shortest")
    run_ffmpeg("-i", small_clip, *tones(own, 300), *maps, film)
    run_ffmpeg(*tones(voice, 900), "-t", 0.4, "-c:a", "flac", speech)
    splice(film, speech, tmp_path / "out.mp4", 0.2, 0.4, True)
    channels = channels_of(tmp_path / "out.mp4", tmp_path, counts[own])
    centre = channels[2 if counts[own] == 6 else 0]
    assert level(centre, 0.05, 0.17, 300) == pytest.approx(0.2, abs=0.02)
    loudest = max(level(channel, 0.24, 0.55, 900) for channel in channels)
    assert loudest == pytest.approx(0.2, abs=0.02)


def test_summary_names_the_redrawn_part(small_checkpoint, small_clip, tone, tmp_path, capsys):
    """The written video is longer."""
    command = [f"--checkpoint_path={small_checkpoint}", f"--face={small_clip}", f"--audio={tone}", "--start=0.2"]
    assert inference.main([*command, f"--outfile={tmp_path / 'out.mp4'}", "--box", *map(str, BOX)]) == 0
    summary = "out.mp4: 10 frames, 0.40 s from 0.20 to 0.60 s; the others as they were filmed"
    assert summary in capsys.readouterr().out


def test_own_sound_with_changing_channels_is_refused_before_the_work(lips, small_clip, tone, tmp_path):
    """As in broadcasts. ffmpeg waited for ever while joining it."""
    for n, channels in enumerate((2, 6)):
        sine = ("-f", "lavfi", "-i", "sine=d=1:r=48000")
        when = ("-ac", channels, "-c:a", "ac3", "-output_ts_offset", n)
        run_ffmpeg("-i", small_clip, *sine, *when, "-c:v", "libx264", "-pix_fmt", "yuv420p", tmp_path / f"{n}.ts")
    joined = tmp_path / "tv.ts"
    joined.write_bytes(b"".join((tmp_path / f"{n}.ts").read_bytes() for n in (0, 1)))
    with pytest.raises(UserError, match="tv.ts changes its channels or its rate midway; .* convert it first"):
        lips.run(joined, tone, tmp_path / "out.mp4", start=0.2, box=BOX)
    lips.run(tmp_path / "1.ts", tone, tmp_path / "out.mp4", start=0.2, box=BOX)


def test_own_sound_of_joined_clips_is_refused_before_the_search(lips, small_clip, tone, tmp_path, monkeypatch):
    """Clips joined without encoding, one with mono and one with stereo sound."""
    for n, channels in enumerate((1, 2)):
        sine = ("-f", "lavfi", "-i", "sine=d=1:r=48000")
        how = ("-ac", channels, "-c:a", "aac", "-c:v", "libx264", "-pix_fmt", "yuv420p")
        run_ffmpeg("-i", small_clip, *sine, *how, tmp_path / f"{n}.mp4")
    (tmp_path / "list.txt").write_text("file 0.mp4\nfile 1.mp4\n")
    run_ffmpeg("-f", "concat", "-i", tmp_path / "list.txt", "-c", "copy", tmp_path / "film.mp4")
    monkeypatch.setattr(LipSync, "find_face", lambda *_: 1 / 0)
    with pytest.raises(UserError, match="film.mp4 changes its channels or its rate midway"):
        lips.run(tmp_path / "film.mp4", tone, tmp_path / "out.mp4", start=0.2)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes have names there")
def test_pipes_and_playlists_are_refused_unread(lips, tone, tmp_path):
    """ffmpeg waited for ever for a pipe, and for the rest of a playlist."""
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "live.m3u8").write_text("#EXTM3U\n#EXTINF:9,\nfilm.ts\n")
    for name, words in (("pipe.mp4", "is a pipe"), ("live.m3u8", "is a playlist")):
        with pytest.raises(UserError, match=words):
            lips.run(tmp_path / name, tone, tmp_path / "out.mp4", start=0.2, box=BOX)


def test_undecodable_own_sound_is_refused(lips, small_clip, tone, tmp_path):
    """All around the part was silent, without a word."""
    run_ffmpeg("-i", small_clip, "-i", tone, "-c:v", "copy", "-c:a", "ac3", tmp_path / "film.mov")
    film = tmp_path / "strange.mov"
    film.write_bytes((tmp_path / "film.mov").read_bytes().replace(b"ac-3", b"ac-4"))
    with pytest.raises(UserError, match="strange.mov is encoded as .*, which this ffmpeg cannot decode; convert it"):
        lips.run(film, tone, tmp_path / "out.mp4", start=0.2, box=BOX)
    with pytest.raises(UserError, match="strange.mov is encoded as"):
        lips.run(small_clip, film, tmp_path / "out.mp4", box=BOX)


def test_video_without_sound_is_silent_around_a_part(lips, small_clip, tone, tmp_path):
    lips.run(small_clip, tone, tmp_path / "out.mp4", start=0.2, box=BOX)
    (sound,) = channels_of(tmp_path / "out.mp4", tmp_path, 1)
    assert level(sound, 0.22, 0.57, 900) == pytest.approx(0.2, abs=0.01)
    assert np.abs(sound[: round(0.17 * 48000)]).max() < 0.002


@pytest.mark.parametrize("start, seconds, goes_on, tones", [
    (0.0, 0.4, True, [(0.02, 0.37, 900), (0.43, 0.95, 300)]),
    (0.5, 0.5, False, [(0.05, 0.47, 300), (0.53, 0.87, 900)]),
])  # fmt: skip
def test_parts_at_either_end(humming_clip, tone, tmp_path, start, seconds, goes_on, tones):
    """A sound shorter than its place is followed by silence, not by the original sound."""
    splice(humming_clip, tone, tmp_path / "out.mp4", start, seconds, goes_on)
    left = channels_of(tmp_path / "out.mp4", tmp_path, 2)[0]
    assert [level(left, *where) for where in tones] == pytest.approx([0.2, 0.2], abs=0.01)
    if not goes_on:
        assert np.abs(left[round(0.93 * 48000) :]).max() < 0.01


def test_mix_replaces_the_speech_in_a_part(lips, humming_clip, tone, speech, tmp_path):
    lips.run(humming_clip, speech, tmp_path / "out.mp4", start=0.2, end=0.6, box=BOX, mix=tone)
    left = channels_of(tmp_path / "out.mp4", tmp_path, 2)[0]
    assert level(left, 0.22, 0.57, 900) == pytest.approx(0.2, abs=0.01)


# --------------------------------------------------------------------------------------------------------------------
# Where a part begins and ends


@pytest.mark.parametrize("channels, as_mix", [(2, True), (1, False)])
def test_own_sound_may_be_the_new_one(lips, humming_clip, tone, tmp_path, channels, as_mix):
    """It starts from its beginning with the part, at 0.2 s."""
    whole = tmp_path / "whole.mkv"
    run_ffmpeg("-i", humming_clip, "-c:v", "copy", "-c:a", "flac", "-ac", channels, whole)
    options = {"mix": whole} if as_mix else {"end": 0.6}
    lips.run(whole, tone if as_mix else whole, tmp_path / "out.mp4", start=0.2, box=BOX, **options)
    left, *_ = channels_of(tmp_path / "out.mp4", tmp_path, channels)
    for start, stop in ((0.05, 0.18), (0.22, 0.57), (0.62, 0.95)):
        assert level(left, start, stop, 300) == pytest.approx(0.1 * channels, abs=0.01)


@pytest.mark.parametrize("start, end, wanted, frames, note", [
    (0.2, None, 10, (5, 10, True), None),
    (0.2, 0.6, 10, (5, 10, True), None),
    (0.0, 1.0, 25, (0, 25, False), None),
    (0.2, 0.4, 10, (5, 5, True), "of 0.40 s of speech the first 0.20 s are used, then --end comes"),
    (0.2, 0.8, 10, (5, 10, True), "the speech ends at 0.60 s; from there to --end the video stays as it was filmed"),
    (0.8, None, 10, (20, 5, False), "of 0.40 s of speech the first 0.20 s are used, then the video ends"),
])  # fmt: skip
def test_part_ends_at_whichever_end_comes_first(small_clip, told, start, end, wanted, frames, note):
    source, count, goes_on = parts.cut_out(video.probe(small_clip), wanted, start, end, told)
    assert (source.start, count, goes_on) == frames
    assert told.notes == ([f"note: {note}"] if note else [])


@pytest.mark.parametrize("flags, words", [
    (("--start", "1.5"), "--start 1.5 lies beyond the end of "),
    (("--start", "0.2", "--end", "9"), "--end 9 lies beyond the end of "),
    (("--start", "0.5", "--end", "0.5"), "--end 0.5 is not after --start 0.5"),
    (("--end", "0"), "--end 0 is not after --start 0"),
    (("--start", "-1"), "'-1' is not a time"),
    (("--start", "1:75"), "'1:75' is not a time"),
    (("--start", "0.2", "--static"), "--static shows one frame throughout"),
    (("--start", "9" * 40), ""),
])  # fmt: skip
def test_impossible_parts_are_refused_in_one_line(small_checkpoint, small_clip, tone, tmp_path, capsys, flags, words):
    out = tmp_path / "out.mp4"
    command = [f"--checkpoint_path={small_checkpoint}", f"--face={small_clip}", f"--audio={tone}", f"--outfile={out}"]
    assert inference.main([*command, "--face_detector", "centerface", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error and not out.exists()


def test_photos_have_no_parts(lips, astronaut, tone, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), astronaut)
    with pytest.raises(UserError, match="is a photo, which has no parts"):
        lips.prepare(tmp_path / "photo.png", tone, start=0)


def test_part_without_a_face(lips, small_photo, tone, tmp_path):
    gone = np.full((50, 120, 160, 3), 60, np.uint8)
    gone[:20] = small_photo
    write_clip(tmp_path / "gone.mp4", gone)
    with pytest.raises(
        UserError, match="no face was found in .*gone.mp4 from 1.20 to 1.6[0-9] s, the part that was searched"
    ):
        lips.prepare(tmp_path / "gone.mp4", tone, start=1.2)
    lips.prepare(tmp_path / "gone.mp4", tone, start=0.6).faces[0].filmed.path.known(None)
    assert (
        "5 of 10 frames (0.2 s) have no face, or one in profile: 20-24" in lips.report.notes[-1]
    )  # counted in the whole video
    with pytest.raises(UserError, match="--reference 22: .*gone.mp4 has no face in that frame; name another"):
        lips.prepare(tmp_path / "gone.mp4", tone, start=0.6, reference=22)


def test_negative_starts_and_live_parts_are_refused(lips, small_clip, tone):
    with pytest.raises(UserError, match="--start -1 is before the video"):
        lips.prepare(small_clip, tone, start=-1)
    with pytest.raises(UserError, match="leave start out"):
        live.prepare(lips, small_clip, start=1)


@pytest.mark.parametrize("text, seconds", [
    ("7", 7), (".5", 0.5), ("7.25", 7.25), ("90", 90), ("1:05", 65), ("01:05.5", 65.5),
    ("1:02:03.004", 3723.004), ("90:00", 5400),
])  # fmt: skip
def test_moments(text, seconds):
    assert cli.moment(text) == pytest.approx(float(Fraction(seconds).limit_denominator(1000)))


@pytest.mark.parametrize("text", ["1:90", "1:90:05", "5 s", ".", "-1"])
def test_invalid_moments_are_refused(text):
    with pytest.raises(UserError, match="is not a time; give seconds, MM:SS"):
        parts.moment(text)


def test_part_may_begin_in_the_last_frame(small_clip):
    """It shows 0.96 to 1 s; the frame nearest to 0.99 s would be the one after it."""
    part, count, goes_on = parts.cut_out(video.probe(small_clip), 10, 0.99, None)
    assert (part.start, count, goes_on) == (24, 1, False)
    with pytest.raises(UserError, match="--end 3 lies beyond the end of .*, which lasts 1.00 s"):
        parts.cut_out(video.probe(small_clip), 10, 0.99, 3.0)
    with pytest.raises(UserError, match="--start 1.01 lies beyond the end"):
        parts.cut_out(video.probe(small_clip), 10, 1.01, None)


def test_preview_may_use_a_later_reference_frame(lips, small_clip, tone, tmp_path):
    long = tmp_path / "long.wav"
    run_ffmpeg("-stream_loop", 3, "-i", tone, long)
    for options in ({"reference": 22}, {"reference": 22, "start": 0.2}):
        take = lips.prepare(small_clip, long, **options)
        shown = lips.preview(small_clip, long, take.source.start / 25 + 0.04, **options)
        assert_alike(shown, list(lips.stream(take))[1])


def test_a_film_is_not_decoded_to_count_its_frames(small_photo, tmp_path, monkeypatch):
    """Learning from nine minutes began after five minutes of counting."""
    write_clip(tmp_path / "a.mp4", np.stack([small_photo[:32, :32]] * 700))
    read, real = [], reading.read_frames

    def counted(*given):
        for frame in real(*given):
            read.append(frame)
            yield frame

    monkeypatch.setattr(reading, "read_frames", counted)
    assert video.count_frames(video.probe(tmp_path / "a.mp4"), 10**6) == (700, False) and len(read) < 100


def test_a_speech_that_changes_its_format_is_written_as_it_is_heard(lips, humming_clip, tmp_path):
    """Joined MP3: silence as long as what came before was inserted at the change, and in a part ffmpeg hung."""
    for n, (hertz, channels) in enumerate([(400, 1), (800, 2)]):
        sine = ("-f", "lavfi", "-i", f"sine=f={hertz}:d=0.4:r=44100")
        run_ffmpeg(*sine, "-ac", channels, "-write_xing", 0, tmp_path / f"{n}.mp3")
    (tmp_path / "j.mp3").write_bytes(b"".join((tmp_path / f"{n}.mp3").read_bytes() for n in (0, 1)))
    for start in (None, 0.1):
        lips.run(humming_clip, tmp_path / "j.mp3", tmp_path / "out.mp4", start=start, box=BOX)
        sound = video.read_audio(tmp_path / "out.mp4", 16000)
        for second, hertz in ((0.2, 400), (0.65, 800)):
            heard = sound[int(((start or 0) + second) * 16000) :][:2000]
            assert abs(np.abs(np.fft.rfft(heard)).argmax() * 8 - hertz) <= 8


def test_other_sound_tracks_of_a_film_are_mentioned(lips, humming_clip, tone, tmp_path, told):
    """A part redone for a second lost the other languages of the whole film, without a word."""
    run_ffmpeg("-i", humming_clip, "-map", "0:v", "-map", "0:a", "-map", "0:a", "-c", "copy", tmp_path / "two.mp4")
    told_lips = lips.copy_with(lips.search, told)
    told_lips.prepare(tmp_path / "two.mp4", tone, start=0.2, box=BOX).close()
    assert [note for note in told.notes if "has 2 sound tracks; number 1 is used" in note]


def test_a_mix_of_many_channels_keeps_both_sides(lips, humming_clip, speech, tmp_path):
    """Of 5.1, only what counts as speech was taken, on both sides, and it clipped."""
    tones = "aevalsrc=0.3*sin(300*2*PI*t)|0.3*sin(500*2*PI*t)|0|0|0|0:c=5.1:d=1:s=44100"
    run_ffmpeg("-f", "lavfi", "-i", tones, "-c:a", "flac", tmp_path / "mix.flac")
    run_ffmpeg("-i", humming_clip, "-c:v", "copy", "-ac", 2, tmp_path / "stereo.mp4")
    lips.run(
        tmp_path / "stereo.mp4", speech, tmp_path / "out.mp4", start=0.2, end=0.8, box=BOX, mix=tmp_path / "mix.flac"
    )
    run_ffmpeg("-i", tmp_path / "out.mp4", "-ss", 0.3, "-t", 0.4, "-ar", 16000, tmp_path / "sides.wav")
    _, sides = wavfile.read(tmp_path / "sides.wav")
    found = [np.abs(np.fft.rfft(sides[:4000, side])).argmax() * 4 for side in (0, 1)]
    assert found == [300, 500]


@pytest.mark.parametrize("start, before", [(50, 12), (5, 5), (0, 0)])
def test_search_around_a_part_keeps_its_moments(start, before):
    source = video.VideoInfo(Path("x.mp4"), 96, 64, Fraction(25), start=start)
    found, frames, part = search_range(source, 30, Options(start=start / 25, speaker="auto"))
    assert found.start + part.start == start and part == slice(before, before + 30) and frames == part.stop + 12
    assert search_range(source, 30, Options(start=start / 25)) == (source, 30, slice(0, 30))
