"""Live speech: the frames are those of the whole sound, whatever it comes in; a prepared face is kept and opened."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest

import live
import live.session
import video
from conftest import assert_alike, write_clip
from errors import MissingFile, UserError
from lipsync import LipSync
from mouths import References

BOX = (10, 200, 60, 240)  # top, bottom, left, right


@pytest.fixture(scope="module")
def lips(small_checkpoint):
    return LipSync(small_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def wav(speech):
    return video.read_audio(speech, 16000)


@pytest.fixture(scope="module")
def face(lips, talking_clip):
    return live.prepare(lips, talking_clip, box=BOX)


@pytest.fixture
def session(lips, face):
    with live.Session(lips, face) as opened:
        yield opened


def in_pieces(wav, most, seed=0):
    cuts = np.cumsum(np.random.default_rng(seed).integers(0, most + 1, 2 + 4 * len(wav) // most))
    return np.split(wav, cuts[cuts < len(wav)])


def all_of(session):
    made = []
    while more := session.frames():
        made += more
    return made


def say(session, pieces):
    """Push, taking whatever frames are ready after each piece, and end."""
    made = []
    for piece in pieces:
        session.push(piece)
        made += all_of(session)
    session.end()
    return made + all_of(session)


def pictures(frames):
    return np.stack([frame.picture for frame in frames])


# --------------------------------------------------------------------------------------------------------------------
# Speech


@pytest.mark.parametrize("most", [160, 700, 5000, 100000])
def test_any_pieces_give_the_frames_of_the_whole(lips, session, talking_clip, speech, wav, most):
    take = lips.prepare(talking_clip, speech, box=BOX, loop="pingpong")
    made = say(session, in_pieces(wav, most, seed=most))
    assert_alike(pictures(made), np.stack(list(lips.stream(take))))
    assert [frame.number for frame in made] == list(range(30)) and [frame.moment for frame in made] == [
        frame.time for frame in made
    ]
    assert [frame.time for frame in made] == [number / 25 for number in range(30)]
    assert np.array_equal(np.concatenate([frame.sound for frame in made]), wav)


@pytest.mark.parametrize("options", [
    {"lip_delay": 500.0}, {"lip_delay": -80.0, "loop": "loop"}, {"mouth_gain": 0.5, "reference": 3},
    {"box": None, "reference": "still", "blend": "feather", "fps": 30.0},
    {"static": True, "rotate": True, "fps": 24000 / 1001},
], ids=str)  # fmt: skip
def test_options_mean_what_they_mean_elsewhere(lips, talking_clip, speech, wav, options):
    options = {"box": BOX, "loop": "pingpong", **options}
    take = lips.prepare(talking_clip, speech, **options)
    with live.Session(lips, live.prepare(lips, talking_clip, **options)) as session:
        made = say(session, in_pieces(wav, 900))
    assert_alike(pictures(made), np.stack(list(lips.stream(take))))
    heard = np.concatenate([frame.sound for frame in made])  # a late sound had gaps: half of it was not there yet
    assert np.array_equal(heard[: len(wav)], wav) and not heard[len(wav) :].any()


def test_a_photo_speaks(lips, tmp_path, astronaut, speech, wav):
    cv2.imwrite(str(tmp_path / "face.png"), astronaut)
    take = lips.prepare(tmp_path / "face.png", speech, box=BOX)
    with live.Session(lips, live.prepare(lips, tmp_path / "face.png", box=BOX)) as session:
        assert_alike(pictures(say(session, [wav])), np.stack(list(lips.stream(take))))


def test_the_last_fifth_of_a_second_waits_for_the_end(session, wav):
    session.push(wav)
    assert len(all_of(session)) == 25 and session.waiting == pytest.approx(0.2)
    session.end()
    assert len(all_of(session)) == 5 and session.waiting == 0


def test_utterances_follow_each_other(session, wav):
    """Each has its own start and end: the second is not heard in the first."""
    alone = pictures(say(session, [wav]))
    session.reset()
    for _ in range(2):
        session.push(wav)
        session.end()
    made = all_of(session)
    assert len(made) == 60 and [frame.number for frame in made] == list(range(60))
    assert_alike(pictures(made[:30]), alone)


def test_an_interruption_drops_what_was_not_shown(session, wav):
    whole = pictures(say(session, [wav]))
    session.reset()
    session.push(wav)
    assert len(session.frames(2)) == 2
    session.interrupt()
    assert session.frames() == [] and session.waiting == 0
    assert [frame.number for frame in session.idle(46)] == list(range(2, 48))  # there and back again
    assert_alike(pictures(say(session, [wav])), whole)


def test_a_reset_session_is_a_new_one(session, wav):
    first = [*say(session, [wav[:7000]]), *session.idle(3)]
    session.push(wav)
    session.reset()
    again = [*say(session, [wav[:7000]]), *session.idle(3)]
    assert np.array_equal(pictures(first), pictures(again)) and again[0].time == 0


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_sound_of_another_rate_is_resampled(lips, face, rate):
    """A low tone keeps its pitch, and its length, in any pieces."""
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    with live.Session(lips, face, rate=rate) as session:
        whole = say(session, [tone])
        session.reset()
        parts = say(session, in_pieces(tone, 1000))
    assert len(whole) == 25
    assert_alike(pictures(whole), pictures(parts))
    heard = np.concatenate([frame.sound for frame in parts])
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(heard - expected)[1000:-1000].max() < 0.01


def test_what_is_too_old_is_passed_over(lips, face, wav):
    with live.Session(lips, face, behind=0.4) as session:
        session.push(wav)
        made = all_of(session)
        session.end()
        made += all_of(session)
    assert [frame.number for frame in made] == list(range(len(made)))
    assert np.array_equal(np.concatenate([frame.sound for frame in made]), wav[-len(made) * 640 :])
    assert [frame.moment for frame in made] == [number / 25 for number in range(19, 30)]  # the first leaves 0.4 s


# --------------------------------------------------------------------------------------------------------------------
# Silence


def has_moved(some, other):
    """Not where sums are rounded otherwise: that changes a few values by one level, and a mouth thousands."""
    return cv2.absdiff(some, other).mean() > 1e-3


def test_the_video_goes_on_with_the_mouth_shut(lips, session, wav):
    """What was said has no part in it, once the lips have had time to close."""
    hushed = pictures(session.idle(50))
    session.reset()
    say(session, [wav])
    after = session.idle(20)
    assert all(frame.moment is None and not frame.sound.any() for frame in after) and len(after[0].sound) == 640
    moved = [has_moved(frame.picture, hushed[frame.number]) for frame in after]
    assert moved[0] and not any(moved[4:])
    background = (slice(None), slice(0, 50))
    assert all((frame.picture[background] == hushed[frame.number][background]).all() for frame in after)


def test_a_mouth_waits_for_sound_that_is_late(session, wav):
    session.push(wav[:8000])
    all_of(session)
    session.idle(5)
    assert (session._state.last.gain, session._state.last.rest) == (1, 0)
    session.idle(10)
    assert (session._state.last.gain, session._state.last.rest) == (0, 1)


def test_lips_close_in_pauses(lips, talking_clip, wav):
    """A tone, a second of faint noise, the tone again: shut in between, and open again when the tone comes."""
    noise = np.random.default_rng(0).normal(0, 1e-4, 16000).astype(np.float32)
    spoken = np.concatenate((wav, noise, wav))
    shut = live.prepare(lips, talking_clip, box=BOX, silence="closed")
    with live.Session(lips, shut) as session:
        made = say(session, in_pieces(spoken, 700))
        session.reset()
        hushed = pictures(session.idle(85))
    with live.Session(lips, live.prepare(lips, talking_clip, box=BOX)) as session:
        free = say(session, in_pieces(spoken, 700))
    moved = [has_moved(frame.picture, other) for frame, other in zip(made, hushed)]
    assert all(moved[:32]) and not any(moved[38:50]) and all(moved[55:])  # words end at 30 and begin again at 55
    assert_alike(pictures(made[:30]), pictures(free[:30]))
    assert_alike(pictures(made[55:]), pictures(free[55:]))


@pytest.mark.parametrize("behind, is_whole", [(5.0, False), (math.inf, True)])
def test_what_is_late_is_made_up_for_in_pauses(lips, talking_clip, wav, behind, is_whole):
    """Of those who speak live; a speech that is there at once keeps its pauses. No word is lost."""
    shut = live.prepare(lips, talking_clip, box=BOX, silence="closed")
    with live.Session(lips, shut, behind=behind) as session:
        moments = {round(25 * frame.moment) for frame in say(session, [wav, np.zeros(24000, np.float32), wav])}
    missing = set(range(97)) - moments  # of 3.9 s
    assert missing <= set(range(30, 67)) and len(missing) < 37 and bool(missing) != is_whole


def test_sound_is_checked(session, monkeypatch):
    for wrong in (np.zeros((10, 2), np.float32), np.zeros(10, np.int16), np.array("x")):
        with pytest.raises(UserError, match="one channel"):
            session.push(wrong)
    session.push(np.full(8000, np.nan))
    session.push([0.0, 9.0])
    assert all(np.isfinite(frame.sound).all() and np.abs(frame.sound).max() <= 1 for frame in all_of(session))
    monkeypatch.setattr(live.session, "MAX_WAITING_SECONDS", 1.0)
    with pytest.raises(UserError, match="take frames"):
        session.push(np.zeros(16001, np.float32))


# --------------------------------------------------------------------------------------------------------------------
# The clock


class Clock:
    """Time that passes only while somebody sleeps, or works."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += max(seconds, 1e-6)


def test_play_keeps_the_time(session, wav):
    clock, made = Clock(), []
    for frame in session.play(clock, clock.sleep):
        assert clock.now - 100 == pytest.approx(frame.time, abs=0.001)
        made.append(frame)
        if frame.number == 10:
            session.push(wav)
            session.end()
        if frame.number == 50:
            session.close()
    assert [frame.moment is None for frame in made] == [True] * 11 + [False] * 30 + [True] * 10


def test_play_catches_up_and_gives_up(session):
    """A hitch is made good; a machine that is too slow shows every frame, late."""
    clock, lags = Clock(), []
    for frame in session.play(clock, clock.sleep):
        lags.append(clock.now - 100 - frame.time)
        clock.now += {5: 0.12, 20: 3.0}.get(frame.number, 0.001)
        if frame.number == 40:
            session.close()
    assert max(lags[:5]) < 0.04 < lags[6] and lags[12] < 0.04
    assert 2.7 < lags[30] < 2.9


def test_sound_comes_from_another_thread(session, wav):
    pushing = threading.Thread(target=lambda: [*map(session.push, in_pieces(wav, 50)), session.end()])
    pushing.start()
    heard, clock = [], Clock()
    for frame in session.play(clock, clock.sleep):
        heard += [frame] * (frame.moment is not None)
        if len(heard) == 30:
            session.close()
    pushing.join()
    assert np.array_equal(np.concatenate([frame.sound for frame in heard]), wav)


def test_a_session_that_broke_off_says_so(lips, face, monkeypatch, wav):
    """After one Ctrl-C in its video, ``play`` went round and round without a frame."""
    session = live.Session(lips, face)
    session.push(wav)

    def broken():
        raise KeyboardInterrupt
        yield

    session._source = broken()
    with pytest.raises(KeyboardInterrupt):
        session.idle(1)
    with pytest.raises(RuntimeError, match="broken off; call reset"):
        session.idle(1)
    assert list(session.play()) == []  # it is closed
    session.reset()
    assert len(session.idle(2)) == 2
    session.close()


def test_nobody_hears_what_a_closed_session_is_told(session, wav):
    """A microphone whose thread goes on filled it."""
    session.close()
    session.push(wav)
    assert session.waiting == 0


def test_a_closed_session_has_no_frames(session, wav):
    session.push(wav)
    session.close()
    assert session.frames() == session.idle(3) == list(session.play()) == []


# --------------------------------------------------------------------------------------------------------------------
# The prepared face


@pytest.fixture
def kept(face, tmp_path):
    face.save(tmp_path / "anna")
    return tmp_path / "anna"


@pytest.mark.parametrize("options", [{"mouth_gain": 2, "lip_delay": 40}, {"mouth_gain": np.float32(1.5)}])
def test_whole_numbers_are_kept_too(small_checkpoint, talking_clip, tmp_path, options):
    """What was saved could not be loaded, or not be saved at all."""
    live.prepare(LipSync(small_checkpoint, search=live_search()), talking_clip, box=BOX, **options).save(
        tmp_path / "anna"
    )
    again = live.Face.load(tmp_path / "anna").options
    assert {name: getattr(again, name) for name in options} == options


def test_how_far_mouths_are_open_is_kept(talking_clip, tmp_path):
    face = live.prepare(LipSync(search=live_search()), talking_clip, box=BOX)
    face.save(tmp_path / "kept")
    again, before = (each.appearances[0].references for each in (live.Face.load(tmp_path / "kept"), face))
    assert (again.faces == before.faces).all() and (again.openings == before.openings).all()
    assert len(again.openings) == len(again.faces) and again.openings.min() == 0
    same = np.stack([cv2.resize(face, (192, 192)) for face in before.faces])
    told = replace(
        face,
        appearances=[
            replace(face.appearances[0], references=References(before.faces, openings=before.openings, larger=same))
        ],
    )
    told.save(tmp_path / "told")
    assert (live.Face.load(tmp_path / "told").appearances[0].references.larger == same).all()


def test_what_is_in_front_of_the_mouth_stays_there(lips, tmp_path, astronaut, speech, wav):
    """Live, from a face that was kept, as in a file; what is drawn over it otherwise is not black."""
    frames = np.stack([astronaut[0:240, 60:380]] * 25)
    frames[15:, 122:180, 145:185] = 0
    write_clip(tmp_path / "held.mp4", frames)
    options = {"box": (20, 180, 105, 225), "blend": "feather", "reference": "same", "loop": "loop"}
    take = lips.prepare(tmp_path / "held.mp4", speech, **options)
    made, ignored = [], {**options, "occlusion": "ignore"}
    for name, more in (("kept", options), ("ignored", ignored)):
        live.prepare(lips, tmp_path / "held.mp4", **more).save(tmp_path / name)
        with live.Session(lips, live.Face.load(tmp_path / name)) as session:
            made.append(pictures(say(session, in_pieces(wav, 900))))
    assert_alike(made[0], np.stack(list(lips.stream(take))))
    kept, drawn_over = (some[15:25, 127:175, 150:180].mean((1, 2, 3)) for some in made)
    assert kept.max() < 10 and drawn_over.min() > 40


def test_a_face_is_kept_and_opened(lips, face, kept, wav, monkeypatch):
    monkeypatch.setattr("faces.FaceSearch.find", None)  # nobody searches again
    with live.Session(lips, live.Face.load(kept)) as opened, live.Session(lips, face) as made:
        assert np.array_equal(pictures(say(opened, [wav])), pictures(say(made, [wav])))
        assert np.array_equal(pictures(opened.idle(5)), pictures(made.idle(5)))


@pytest.mark.parametrize("options", [
    {"rate": 0}, {"rate": -16000}, {"rate": "48000"}, {"behind": -1.0}, {"behind": float("nan")}, {"behind": None},
])  # fmt: skip
def test_sessions_that_cannot_be(lips, face, options):
    with pytest.raises(UserError, match="rate must be a number above 0, and behind one of at least 0"):
        live.Session(lips, face, **options)


def test_fewer_frames_than_none_are_none(lips, face, wav):
    with live.Session(lips, face) as session:
        session.push(wav)
        assert session.frames(-1) == [] == session.idle(-1) and len(session.frames(1)) == 1


def test_a_batch_of_nobody_is_refused(small_checkpoint):
    with pytest.raises(UserError, match="batch_size must be 1 or more"):
        LipSync(small_checkpoint, batch_size=0)


def test_takes_and_faces_are_shown_in_a_line(lips, face, talking_clip, speech):
    """Without their arrays, where somebody's notebook prints them."""
    take = lips.prepare(talking_clip, speech, box=BOX)
    assert repr(take) == f"<Take of {talking_clip}: 30 frames, 1.20 s>"
    assert repr(face) == f"<Face of {talking_clip}, 25 fps>"


def test_frames_without_a_face_are_kept(lips, tmp_path, astronaut):
    """A second of a face, of nothing, and of the face again."""
    shown = astronaut[0:240, 60:380]
    write_clip(tmp_path / "clip.mp4", np.stack([shown] * 25 + [np.zeros_like(shown)] * 50 + [shown] * 25))
    lips = LipSync(lips._checkpoint, search=live_search())
    face = live.prepare(lips, tmp_path / "clip.mp4", reference=0)
    face.save(tmp_path / "kept")
    again = live.Face.load(tmp_path / "kept")
    assert again.boxes == face.boxes and None in face.boxes and face.used == len(face.boxes) == 100
    assert (again.source.fps, again.used, again.options.reference) == (25, 100, 0)
    with live.Session(lips, again) as session:
        dark = session.idle(50)[-1].picture
    assert dark.mean() < 20 and dark.flags.writeable


def live_search():
    from faces import FaceSearch

    return FaceSearch("centerface")


def test_the_first_seconds_are_used(lips, talking_clip):
    lips = LipSync(lips._checkpoint, search=live_search())
    face = live.prepare(lips, talking_clip, seconds=0.4)
    assert face.used == len(face.boxes) == 10 and face.options.loop == "pingpong"
    with live.Session(lips, face) as session:
        made = pictures(session.idle(37))
    assert np.array_equal(made[18], made[36]) and not np.array_equal(made[0], made[9])  # there and back is 18 frames


def test_a_face_is_replaced_and_nothing_else_is(face, kept, lips, tmp_path, astronaut):
    cv2.imwrite(str(tmp_path / "face.png"), astronaut)
    live.prepare(lips, tmp_path / "face.png", box=BOX).save(kept)
    names = sorted(path.name for path in kept.iterdir())
    assert len(names) == 2 and names[1].endswith(".png") and live.Face.load(kept).source.is_image
    face.save(kept)
    live.Face.load(kept).save(kept)  # over itself
    assert len(list(kept.iterdir())) == 2 and not live.Face.load(kept).source.is_image
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    for folder, words in ((tmp_path / "other", "other files"), (tmp_path / "face.png", "is a file")):
        with pytest.raises(UserError, match=words):
            face.save(folder)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def changed(**values):
    return lambda content: json.dumps({**json.loads(content), **values})


def option(**values):
    return lambda content: changed(options={**json.loads(content)["options"], **values})(content)


def appearance(**values):
    return lambda content: changed(appearances=[{**json.loads(content)["appearances"][0], **values}])(content)


@pytest.mark.parametrize("damage", [
    lambda content: content[: len(content) // 2], lambda content: "", lambda content: "\x80\x04cos\nsystem\n",
    lambda content: "[" * 100000, lambda content: "[1]", lambda content: "{}", lambda content: "9" * 5000,
    changed(format="wav2lip live face 5"), changed(format=None), appearance(apart="x"), appearance(apart=[0.0] * 99),
    appearance(larger=""), appearance(larger="AAAA"), appearance(apart=[1e308]),
    changed(source="../../etc/passwd"), changed(source="source-x/../../y"), changed(source=7), changed(sha256="0"),
    changed(fps=[25, 0]), changed(fps=[10**400, 1]), changed(fps=[25.0, 1]), changed(fps=[-25, 1]), changed(fps="25"),
    changed(used=7), changed(boxes=[]), changed(boxes=[[0, 0, 1e3, 5]]), changed(boxes=[[0, 0, 9]]),
    changed(boxes=[[5, 5, 5, 9]]), changed(boxes=[[0, 0, 999, 9]]), changed(boxes=7), changed(boxes=[None] * 2),
    appearance(references=""), appearance(references="AAAA"), appearance(references="?" * 36864),
    appearance(references=None), appearance(postures=""), appearance(postures="AAAA"), changed(appearances=[]),
    changed(appearances=7), appearance(bare="AAAA"), option(blend="feather"), option(occlusion="sometimes"),
    option(crop=[0, 1]), option(crop=[0, -1, 0, "x"]), option(crop=[9999, -1, 0, -1]), option(resize_factor=-1),
    option(resize_factor=10**9), option(mouth_gain=1e999), option(lip_delay="soon"), option(blend=["box"]),
    option(blend="__import__('os')"), option(loop="x"), option(reference=-5), changed(options=[]),
])  # fmt: skip
def test_a_damaged_or_foreign_file_gets_one_line(kept, damage):
    path = kept / "face.json"
    path.write_text(damage(path.read_text()), encoding="latin-1")
    with pytest.raises(UserError) as caught:
        live.Face.load(kept)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and "again" in str(caught.value)


def test_a_face_is_kept_beside_nobody_elses_files(kept, tmp_path):
    """A folder of videos that are called source-…: they were deleted."""
    face = live.Face.load(kept)
    (tmp_path / "films").mkdir()
    (tmp_path / "films/source-interview.mp4").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        face.save(tmp_path / "films")
    assert [path.name for path in (tmp_path / "films").iterdir()] == ["source-interview.mp4"]
    (kept / "source-notes.txt").write_text("mine")
    (kept / "source-0123456789abcdef.mp4").write_text("of the face before")
    face.save(kept)
    assert (kept / "source-notes.txt").exists() and not (kept / "source-0123456789abcdef.mp4").exists()


@pytest.mark.parametrize("seconds", [-1.0, 0.0, math.inf, math.nan])
def test_faces_are_prepared_from_some_seconds(seconds, small_checkpoint, tmp_path):
    with pytest.raises(UserError, match="from the first seconds of a video, not from"):
        live.prepare(LipSync(small_checkpoint), tmp_path / "x.mp4", seconds)


def test_what_is_missing_is_named(kept, tmp_path):
    for folder in (tmp_path / "nobody", tmp_path):
        with pytest.raises(MissingFile, match="not a prepared face"):
            live.Face.load(folder)
    source = next(kept.glob("source-*"))
    source.write_bytes(source.read_bytes() + b"x")
    with pytest.raises(UserError, match="missing or was changed"):
        live.Face.load(kept)
    source.unlink()
    with pytest.raises(UserError, match="missing or was changed"):
        live.Face.load(kept)
