"""Several faces in one video, each with its own speech: the picture, the sound, and what is refused."""

from __future__ import annotations

import contextlib
import gc
import itertools
import shutil
from collections import deque
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

import inference
import mouths
import video
from conftest import assert_alike, run_ffmpeg, write_clip
from errors import UserError
from faces import FaceSearch
from hparams import hparams as hp
from lipsync import LipSync, engine, mixing
from lipsync.take import open_mix
from reporting import SILENT
from runtimes import Runtime

HALF = 160  # pixels: the width of each face's half of the picture


@pytest.fixture(scope="module")
def material(tmp_path_factory, small_photo, speech):
    """A folder with a second of two faces, pair.mp4, and speeches of 0.6 and 1.2 s, short.wav and long.wav."""
    folder = tmp_path_factory.mktemp("material")
    write_clip(folder / "pair.mp4", np.stack([np.hstack([small_photo, small_photo[:, ::-1]])] * 25))
    run_ffmpeg("-f", "lavfi", "-i", "aevalsrc=0.3*sin(900*t):d=0.6:s=16000", folder / "short.wav")
    shutil.copy(speech, folder / "long.wav")
    return folder


@pytest.fixture(scope="module")
def film(material):
    return material / "pair.mp4"


@pytest.fixture(scope="module")
def speeches(material):
    """The left face speaks for 0.6 s, the right one for 1.2 s."""
    return {0: material / "short.wav", 1: material / "long.wav"}


@pytest.fixture(scope="module")
def lips(small_checkpoint):
    return LipSync(small_checkpoint, search=FaceSearch("centerface", cache=False))


@pytest.fixture(scope="module")
def spoken(lips, film, speeches):
    """The frames of the two faces as they speak."""
    return np.stack(list(lips.stream(lips.prepare(film, speeches))))


def frame_of(lips, take, index):
    """Return one frame of a take; later ones are not drawn."""
    with contextlib.closing(lips.stream(take)) as frames:
        return next(itertools.islice(frames, index, None))


@pytest.fixture
def program(small_checkpoint, material, tmp_path, monkeypatch, capsys):
    """``program("--flag", value)`` makes the two faces speak, in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)

    def run(*flags, pairs=("0=short.wav", "1=long.wav"), outfile="out.mp4"):
        command = ["--checkpoint_path", small_checkpoint, "--face", "pair.mp4", "--outfile", outfile]
        command += ["--face_detector", "centerface", "--crf", 0, *(("--pair", *pairs) if pairs else ()), *flags]
        code = inference.main(list(map(str, command)))
        return code, capsys.readouterr().err

    return run


def changes(folder, name: str = "out.mp4") -> np.ndarray:
    """How much the left and the right half of each frame differ, at most, from the same frame as filmed."""
    before = np.stack(list(video.read_frames(video.probe(folder / "pair.mp4")))).astype(np.int16)
    after = np.stack(list(video.read_frames(video.probe(folder / name))))
    columns = np.abs(after - before[np.arange(len(after)) % len(before)]).mean((1, 3))
    return np.stack([columns[:, :HALF].max(1), columns[:, HALF:].max(1)], 1)


def test_each_face_speaks_as_long_as_its_speech(program, tmp_path):
    assert program() == (0, "")
    left, right = changes(tmp_path).T
    assert len(left) == 30 and (left[:15] > 5).all() and (left[18:] < 3).all() and (right > 5).all()


@pytest.mark.parametrize("delay, spoken", [(0, 15), (200, 20)])
def test_a_mouth_fades_once_all_is_said(lips, film, speeches, delay, spoken):
    """It faded in the last three frames of what is heard, and delayed lips never said the end."""
    left, right = lips.prepare(film, speeches, lip_delay=delay).faces
    assert list(left.fade) == [1] * spoken + [0.75, 0.5, 0.25] + [0] * (30 - spoken - 3) and (right.fade == 1).all()


def test_mouth_may_close_after_its_speech(program, tmp_path, lips, film, speeches):
    """After a speech that ends within a word, the mouth stayed as it was then."""
    assert program("--silence", "closed") == (0, "")
    assert (changes(tmp_path) > 5).all()
    short, _ = lips.prepare(film, speeches, silence="closed").faces
    assert (short.windows.silence()[-5:] == 1).all() and (short.mouth_settings.gains[-5:] == 0).all()
    assert (short.windows[29] == short.windows[28]).all() and (short.windows[29] == -hp.max_abs_value).all()


def test_face_speaks_as_it_would_alone(lips, film, speeches, spoken):
    """The other's mouth is drawn in the same frames, and changes nothing about this one."""
    alone = np.stack(list(lips.stream(lips.prepare(film, speeches[1], face_index=1))))
    assert_alike(spoken[:, :, HALF:], alone[:, :, HALF:])  # drawn in other batches
    assert not np.array_equal(spoken[:15, :, :HALF], alone[:15, :, :HALF])


def test_no_mouth_fades_at_the_end_of_the_result(lips, film, speeches, tmp_path):
    """One face used to, if its speech was only some milliseconds shorter, or both went on after the part."""
    run_ffmpeg("-i", speeches[1], "-af", "atrim=end=1.195", tmp_path / "shorter.wav")
    speeches = {0: tmp_path / "shorter.wav", 1: speeches[1]}
    for part in ({}, {"start": 0.2}):
        left, right = lips.prepare(film, speeches, **part).faces
        assert np.array_equal(left.fade, right.fade) and (part or (left.fade == 1).all())


def test_all_faces_of_a_frame_are_drawn_together(lips, film, speeches, monkeypatch):
    """Each face used to have batches of its own: of a frame or two, if they were large, and slow for that."""
    drawn, generate = [], mouths.generate
    monkeypatch.setattr(mouths.drawing, "generate", lambda *given: drawn.append(len(given[1])) or generate(*given))
    source = video.probe(film)
    monkeypatch.setattr(engine, "BATCH_BYTES", 5 * source.width * source.height * 3)
    with lips.prepare(film, speeches) as take:
        drawn.clear()
        made = list(lips.stream(take))
    assert drawn[:2] == [2 * 4, 2 * 5] and sum(drawn) <= 2 * len(made)  # FIRST_BATCH, then what memory allows


@pytest.mark.parametrize("second", [0.2, 0.8, 9.0])
def test_preview_is_a_frame_of_the_result(lips, film, speeches, spoken, second):
    """While both speak, when one has ended, and after the end, where it is the last frame."""
    assert_alike(lips.preview(film, speeches, second), spoken[min(int(second * 25 + 1e-6), len(spoken) - 1)])


def test_several_faces_speak_in_a_part(program, tmp_path, lips, film, speeches):
    """--pair used to take whole videos only. A part ends with the longest speech, --end or the video."""
    assert program("--start", 0.2, "--end", 0.6) == (0, "")
    left, right = changes(tmp_path).T
    assert len(left) == 25 and all((part[5:15] > 5).all() for part in (left, right))
    assert all((part[:5] < 3).all() and (part[15:] < 3).all() for part in (left, right))
    frames = list(lips.stream(lips.prepare(film, speeches, start=0.2)))
    assert len(frames) == 20  # the video ends
    assert_alike(lips.preview(film, speeches, 0.48, start=0.2), frames[7])


def test_mixed_sound_is_kept_as_long_as_the_take(lips, film, speeches, tmp_path):
    """It was deleted after ``run``, so that the take that ``run`` returns could not be written again."""
    take = lips.run(film, {0: speeches[0], 1: speeches[0]}, tmp_path / "out.mp4")
    lips.write(take, tmp_path / "again.mp4")
    first, second = (video.read_audio(tmp_path / name, 16000) for name in ("out.mp4", "again.mp4"))
    assert np.array_equal(first, second)
    folder = take.sound.path.parent
    assert folder.is_dir()
    del take
    gc.collect()
    assert not folder.exists()


def test_bad_arguments_are_refused_for_one_face_and_for_several(lips, film, speeches, tmp_path):
    short = speeches[0]
    for speech in (short, {0: short}):
        for second in (np.nan, np.inf, -1.0, "1"):
            with pytest.raises(UserError, match="is not a time in the video"):
                lips.preview(film, speech, second)
        with pytest.raises(UserError, match="is not a file name"):
            lips.run(np.zeros(3), speech, tmp_path / "out.mp4")
    with pytest.raises(UserError, match="no face is given a speech"):
        lips.prepare(film, {None: short, 0: short})
    for index, words in (
        (-1, "not -1"),
        ("0", "whole numbers from 0 at the left, not '0'"),
        (7, "--face_index 7, but at most 2 faces"),
    ):
        with pytest.raises(UserError, match=words):
            lips.prepare(film, {index: short})


def test_cuts_are_reported_if_faces_are_counted(tmp_path, small_photo, small_checkpoint, speeches, told):
    """In a reverse shot the right face is another: Anna's voice moved Ben's lips, without a word."""
    first = np.hstack([small_photo, small_photo[:, ::-1]])
    write_clip(tmp_path / "cut.mp4", np.stack([first] * 8 + [first[:, ::-1] // 3] * 7))
    lips = LipSync(small_checkpoint, search=FaceSearch("centerface"), report=told)
    short = speeches[0]
    for given, options, notes in (
        (short, {"face_index": 1}, 1), ({0: short}, {}, 1),
        (short, {}, 0), (short, {"face_index": 1, "end": 0.32}, 0),
    ):  # fmt: skip
        told.notes.clear()
        deque(lips.stream(lips.prepare(tmp_path / "cut.mp4", given, **options)), maxlen=0)
        assert sum("1 cut: faces are counted again from the left in each shot" in note for note in told.notes) == notes


def changing(photo: np.ndarray, path: Path, fades: bool) -> Path:
    """Two people for three seconds: the right one comes nearer, the left one stays or ``fades`` in half a second."""
    frames = []
    for number in range(75):
        frame = np.zeros((150, 2 * HALF, 3), np.uint8)
        for left, width, light in ((0, 125, max(0.0, 1 - fades * number / 13)), (HALF, 90 + min(number, 65), 1)):
            shown = cv2.resize(photo, (width, width * 3 // 4)) * light
            frame[: len(shown), left : left + width] = shown
        frames.append(frame)
    write_clip(path, np.stack(frames))
    return path


def test_preview_numbers_faces_as_the_result_does(small_photo, tmp_path, lips, speech, monkeypatch):
    """By those who are visible later, too: the face that was numbered 1 could be drawn as filmed, or refused."""
    monkeypatch.setattr("face_detection.search.NEWCOMERS_SECONDS", 0.5)
    scene = np.full((60, 120, 2 * HALF, 3), 90, np.uint8)
    scene[:, :, HALF:] = small_photo
    for i, frame in enumerate(scene[20:]):
        reach = min(4 * (i + 1), HALF)  # somebody comes in from the left
        frame[:, :reach] = np.flip(small_photo, 1)[:, HALF - reach :]
    write_clip(tmp_path / "guest.mp4", scene)
    run_ffmpeg("-stream_loop", 1, "-i", speech, tmp_path / "long.wav")
    film, sound = tmp_path / "guest.mp4", tmp_path / "long.wav"
    frame = frame_of(lips, lips.prepare(film, {1: sound}), 5)
    assert_alike(lips.preview(film, {1: sound}, 0.2), frame)
    assert_alike(lips.preview(film, sound, 0.2, face_index=1), frame)
    assert np.abs(frame.astype(int) - scene[5])[:, HALF:].max() > 20


def test_preview_follows_the_same_face_as_the_result(small_photo, tmp_path, lips, speech):
    """The first half second alone would choose the other face."""
    film = changing(small_photo, tmp_path / "x.mp4", False)
    run_ffmpeg("-stream_loop", 2, "-i", speech, "-t", 3, tmp_path / "long.wav")
    take = lips.prepare(film, tmp_path / "long.wav")
    assert all(box[0] >= HALF for box in take.faces[0].filmed.path.boxes)
    assert_alike(lips.preview(film, tmp_path / "long.wav", 0.2), frame_of(lips, take, 5))


def test_face_of_a_part_is_chosen_within_the_part(small_photo, tmp_path, lips, speech):
    """A face that was gone by then used to be followed, or none."""
    film = changing(small_photo, tmp_path / "x.mp4", True)
    for options in ({}, {"face_index": 0}):
        path = lips.prepare(film, speech, start=0.7, **options).faces[0].filmed.path
        assert all(box and box[0] >= HALF for box in path.boxes)


def test_run_without_speeches_is_refused(tmp_path):
    with pytest.raises(UserError, match="no face is given a speech"):
        LipSync().run(tmp_path / "pair.mp4", {}, tmp_path / "out.mp4")


def test_speeches_are_summed(tmp_path):
    """Before encoding; the second is longer than a block, and their sum is too loud and made softer."""
    rng = np.random.default_rng(0)
    first, second = (rng.uniform(-0.9, 0.9, count).astype(np.float32) for count in (mixing.RATE, 31 * mixing.RATE))
    for name, wav in (("a.wav", first), ("b.wav", second)):
        soundfile.write(tmp_path / name, wav, mixing.RATE, "FLOAT")
    sounds = [video.Sound(tmp_path / name, 16000) for name in ("a.wav", "b.wav")]
    mixing.write_sum(sounds, tmp_path / "mix.w64", 31.0)
    mixed, rate = soundfile.read(tmp_path / "mix.w64", dtype="float32")
    expected = second.copy()
    expected[: len(first)] += first
    peak = np.abs(expected).max()
    assert rate == mixing.RATE and peak > 1  # or what is encoded would be clipped
    np.testing.assert_allclose(mixed, expected / peak, atol=1e-6)
    mixing.write_sum(sounds, tmp_path / "mix.w64", 30.5)
    shorter, rate = soundfile.read(tmp_path / "mix.w64", dtype="float32")
    peak = np.abs(expected[: len(shorter)]).max()
    assert len(shorter) == 30.5 * rate
    np.testing.assert_allclose(shorter, expected[: len(shorter)] / peak, atol=1e-6)


def test_all_channels_of_a_mix_are_in_the_sum(tmp_path):
    """Of one that changes its channels midway, and so was written anew, only the channel with the voice was left."""
    time = np.arange(2 * mixing.RATE) / mixing.RATE
    voice, music = 0.5 * np.sin(2 * np.pi * 300 * time), 0.02 * np.sin(2 * np.pi * 900 * time)
    soundfile.write(tmp_path / "song.wav", np.stack((voice, music), axis=1), mixing.RATE, "FLOAT")
    mix = open_mix(tmp_path / "song.wav", 0, SILENT)
    mixed = np.concatenate(list(mixing.Mix([mix], 2.0)))
    np.testing.assert_allclose(mixed, (voice + music) / 2, atol=1e-3)
    assert video.Sound(tmp_path / "song.wav", 16000).at(mixing.RATE).measure() == len(time)


def test_mix_replaces_the_sum_of_the_speeches(program, tmp_path):
    assert program("--mix", "long.wav") == (0, "")
    heard, long = (video.read_audio(tmp_path / name, 16000) for name in ("out.mp4", "long.wav"))
    count = min(len(heard), len(long))
    assert np.corrcoef(heard[:count], long[:count])[0, 1] > 0.99


@pytest.mark.parametrize("flags, pairs, words", [
    (("--audio", "long.wav"), ("0=short.wav",), "leave --audio out"),
    (("--jobs", "many.csv"), ("0=short.wav",), "leave --jobs out"),
    (("--face", "pair.mp4", "pair.mp4"), ("0=short.wav",), "one video"),
    ((), ("0=short.wav", "0=long.wav"), "--pair gives face 0 two speeches"),
    ((), ("anna.wav",), "'anna.wav' is not NUMBER=SPEECH"),
    ((), ("one=long.wav",), "'one=long.wav' is not NUMBER=SPEECH"),
    ((), ("0=none.wav",), "none.wav does not exist"),
    ((), ("0=short.wav", "5=long.wav"), "--pair 5=long.wav: --face_index 5, but at most 2 faces are visible"),
    (("--face_index", 0), ("0=long.wav",), "and so does --face_index"),
    (("--speaker", "auto"), ("0=long.wav",), "and so does --speaker"),
    (("--face_like", "x.png"), ("0=long.wav",), "and so does --face_like"),
    (("--box", 1, 2, 3, 4), ("0=long.wav",), "and so does --box"),
])  # fmt: skip
def test_impossible_pairs_are_refused(program, tmp_path, flags, pairs, words):
    code, error = program(*flags, pairs=pairs)
    assert code == 2 and words in error and error.count("\n") == 1
    assert not (tmp_path / "out.mp4").exists()


def test_speech_is_not_overwritten(program, tmp_path):
    run_ffmpeg("-i", "long.wav", "-c:a", "aac", "speech.mp4")
    before = (tmp_path / "speech.mp4").read_bytes()
    code, error = program(pairs=("0=speech.mp4",), outfile="speech.mp4")
    assert code == 2 and "speech.mp4" in error and (tmp_path / "speech.mp4").read_bytes() == before


def test_networks_are_loaded_and_frames_searched_once_for_all_faces(
    film, speeches, tmp_path, small_checkpoint, monkeypatch
):
    opened, restorers, searched, open_generator, search = [], [], [], Runtime.open_generator, FaceSearch.open
    monkeypatch.setattr(FaceSearch, "open", lambda *args: searched.append(1) or search(*args))
    monkeypatch.setattr(Runtime, "open_generator", lambda *args: opened.append(1) or open_generator(*args))
    monkeypatch.setattr(engine, "open_restorer", lambda *args: restorers.append(1) or (lambda *drawn: None))
    lips = LipSync(small_checkpoint, search=FaceSearch("centerface", cache=False), restorer="some.pth")
    lips.run(film, {1: speeches[0], 0: speeches[0]}, tmp_path / "out.mp4")
    assert len(opened) == len(restorers) == len(searched) == 1


def test_preview_may_use_a_later_reference_frame(lips, film, speeches):
    frame = frame_of(lips, lips.prepare(film, speeches, reference=22), 5)
    assert_alike(lips.preview(film, speeches, 0.2, reference=22), frame)
