"""Live speech: the frames are those of the whole sound, in whatever pieces it comes; and saving prepared faces."""

from __future__ import annotations

import itertools
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
from conftest import assert_alike, drifting, run_ffmpeg, write_clip
from errors import MissingFile, UserError
from lipsync import LipSync
from mouths import References

BOX = (10, 200, 60, 240)  # top, bottom, left, right


@pytest.fixture(scope="module")
def lips(small_checkpoint):
    return LipSync(small_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """0.6 s of a swept tone: 15 frames."""
    path = tmp_path_factory.mktemp("sound") / "speech.wav"
    run_ffmpeg("-f", "lavfi", "-i", "aevalsrc=0.4*sin(2*PI*(200+300*t)*t):d=0.6:s=16000", path)
    return path


@pytest.fixture(scope="module")
def wav(speech):
    return video.read_audio(speech, 16000)


@pytest.fixture(scope="module")
def clip(tmp_path_factory, astronaut):
    """Ten frames of a photo drifting by 2 pixels a frame, 25 fps, 320x240: there and back is 18 frames."""
    path = tmp_path_factory.mktemp("clip") / "face.mp4"
    write_clip(path, drifting(astronaut, 10))
    return path


@pytest.fixture(scope="module")
def face(lips, clip):
    return live.prepare(lips, clip, box=BOX)


@pytest.fixture(scope="module")
def warm_session(lips, face):
    return live.Session(lips, face)


@pytest.fixture
def session(warm_session):
    warm_session.reset()
    yield warm_session
    warm_session.close()


def in_pieces(wav, most, seed=0):
    cuts = np.cumsum(np.random.default_rng(seed).integers(0, most + 1, 2 + 4 * len(wav) // most))
    return np.split(wav, cuts[cuts < len(wav)])


def ready_frames(session):
    frames = []
    while more := session.frames():
        frames += more
    return frames


def say(session, pieces):
    """Push pieces, taking the frames that are ready after each, and end."""
    frames = []
    for piece in pieces:
        session.push(piece)
        frames += ready_frames(session)
    session.end()
    return frames + ready_frames(session)


def pictures(frames):
    return np.stack([frame.picture for frame in frames])


# --------------------------------------------------------------------------------------------------------------------
# Speech


@pytest.fixture(scope="module")
def streamed(lips, clip, speech):
    """The frames of the whole sound, as of a take that plays back and forth."""
    return np.stack(list(lips.stream(lips.prepare(clip, speech, box=BOX, loop="pingpong"))))


@pytest.mark.parametrize("most", [160, 700, 5000, 100000])
def test_any_pieces_give_the_frames_of_the_whole_sound(session, streamed, wav, most):
    frames = say(session, in_pieces(wav, most, seed=most))
    assert_alike(pictures(frames), streamed)
    assert [frame.number for frame in frames] == list(range(15))
    assert [frame.time for frame in frames] == [frame.moment for frame in frames] == [n / 25 for n in range(15)]
    assert np.array_equal(np.concatenate([frame.sound for frame in frames]), wav)


@pytest.mark.parametrize("options", [
    {"lip_delay": 500.0}, {"lip_delay": -80.0, "loop": "loop"}, {"mouth_gain": 0.5, "reference": 3},
    {"box": None, "reference": "still", "blend": "feather", "fps": 30.0},
    {"static": True, "rotate": True, "fps": 30000 / 1001},
], ids=str)  # fmt: skip
def test_options_have_the_same_effect_as_in_a_take(lips, clip, speech, wav, options):
    options = {"box": BOX, "loop": "pingpong", **options}
    take = lips.prepare(clip, speech, **options)
    with live.Session(lips, live.prepare(lips, clip, **options)) as session:
        frames = say(session, in_pieces(wav, 3000))
    assert_alike(pictures(frames), np.stack(list(lips.stream(take))))
    heard = np.concatenate([frame.sound for frame in frames])  # delayed sound had gaps: half of it was not there yet
    assert np.array_equal(heard[: len(wav)], wav) and not heard[len(wav) :].any()


def test_a_photo_speaks(lips, tmp_path, astronaut, speech, wav):
    cv2.imwrite(str(tmp_path / "face.png"), astronaut[:240, 60:380])
    take = lips.prepare(tmp_path / "face.png", speech, box=BOX)
    with live.Session(lips, live.prepare(lips, tmp_path / "face.png", box=BOX)) as session:
        assert_alike(pictures(say(session, [wav])), np.stack(list(lips.stream(take))))


def test_the_last_fifth_of_a_second_waits_for_the_end(session, wav):
    session.push(wav)
    assert len(ready_frames(session)) == 10 and session.waiting == pytest.approx(0.2)
    session.end()
    assert len(ready_frames(session)) == 5 and session.waiting == 0


def test_utterances_follow_each_other(session, wav):
    """Each has its own start and end: the second is not heard in the first."""
    alone = pictures(say(session, [wav]))
    session.reset()
    for _ in range(2):
        session.push(wav)
        session.end()
    frames = ready_frames(session)
    assert len(frames) == 30 and [frame.number for frame in frames] == list(range(30))
    assert_alike(pictures(frames[:15]), alone)


def test_an_interruption_drops_what_has_not_been_shown(session, wav):
    whole = pictures(say(session, [wav]))
    session.reset()
    session.push(wav)
    assert len(session.frames(2)) == 2
    session.interrupt()
    assert session.frames() == [] and session.waiting == 0
    assert [frame.number for frame in session.idle(16)] == list(range(2, 18))  # there and back again
    assert_alike(pictures(say(session, [wav])), whole)


def test_a_reset_session_starts_from_the_beginning(session, wav):
    first = [*say(session, [wav[:7000]]), *session.idle(3)]
    session.push(wav)
    session.reset()
    again = [*say(session, [wav[:7000]]), *session.idle(3)]
    assert np.array_equal(pictures(first), pictures(again)) and again[0].time == 0


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_sound_of_another_rate_is_resampled(lips, face, rate):
    """A low tone keeps its pitch, and its length, in any pieces."""
    tone = np.sin(2 * np.pi * 440 * np.arange(0.6 * rate) / rate).astype(np.float32)
    with live.Session(lips, face, rate=rate) as session:
        whole = say(session, [tone])
        session.reset()
        parts = say(session, in_pieces(tone, rate // 8))
    assert len(whole) == 15
    assert_alike(pictures(whole), pictures(parts))
    heard = np.concatenate([frame.sound for frame in parts])
    expected = np.sin(2 * np.pi * 440 * np.arange(9600) / 16000)
    assert np.abs(heard - expected)[1000:-1000].max() < 0.01


@pytest.mark.parametrize("rate", [44100, 48000])
def test_loud_sound_of_another_rate_stays_within_bounds(lips, face, rate):
    """The filter overshoots edges; beyond 1, the page's 16 bits wrapped around, which crackled."""
    loud = np.clip(3 * np.sin(2 * np.pi * 300 * np.arange(0.4 * rate) / rate), -1, 1).astype(np.float32)
    with live.Session(lips, face, rate=rate) as session:
        heard = np.concatenate([frame.sound for frame in say(session, in_pieces(loud, rate // 8))])
    assert 0.99 < np.abs(heard).max() <= 1


def test_sound_that_is_too_old_is_skipped(lips, face, wav):
    with live.Session(lips, face, behind=0.4) as session:
        session.push(wav)
        frames = ready_frames(session)
        session.end()
        frames += ready_frames(session)
    assert [frame.number for frame in frames] == list(range(len(frames)))
    assert np.array_equal(np.concatenate([frame.sound for frame in frames]), wav[-len(frames) * 640 :])
    assert [frame.moment for frame in frames] == [number / 25 for number in range(4, 15)]  # the first with 0.4 s left


# --------------------------------------------------------------------------------------------------------------------
# Silence


def has_moved(some, other):
    """Rounding does not count: it changes a few values by one level, and a mouth changes thousands."""
    return cv2.absdiff(some, other).mean() > 1e-3


def test_the_video_goes_on_with_the_mouth_shut(lips, session, wav):
    """Nothing of the speech is left in it, once the lips have had time to close."""
    silent = pictures(session.idle(27))
    session.reset()
    say(session, [wav])
    after = session.idle(12)
    assert all(frame.moment is None and not frame.sound.any() for frame in after) and len(after[0].sound) == 640
    moved = [has_moved(frame.picture, silent[frame.number]) for frame in after]
    assert moved[0] and not any(moved[4:])
    background = (slice(None), slice(0, 50))
    assert all((frame.picture[background] == silent[frame.number][background]).all() for frame in after)


def test_a_mouth_waits_for_late_sound(session, wav):
    session.push(wav[:8000])
    ready_frames(session)
    session.idle(5)
    assert (session._state.last.gain, session._state.last.rest) == (1, 0)
    session.idle(10)
    assert (session._state.last.gain, session._state.last.rest) == (0, 1)


def test_sound_ends_the_wait_for_it(session, wav):
    """Gaps in a stream do not add up: at the second, the mouth waits as long as at the first."""
    session.push(wav[:4800])
    for more in (wav[4800:7200], wav[7200:]):
        ready_frames(session)
        session.idle(5)
        assert (session._state.last.gain, session._state.last.rest) == (1, 0)
        session.push(more)


def test_a_mouth_gets_ready_to_speak_and_closes_gradually(session, wav):
    def rests():
        return [session.idle(1) and session._state.last.rest for _ in range(4)]

    step = live.session.closing_step(25)
    session.push(wav[:1600])  # not enough for a frame
    assert session.frames() == [] and rests() == pytest.approx([max(0, 1 - i * step) for i in range(1, 5)])
    session.push(wav[1600:8000])
    session.end()
    assert ready_frames(session)
    assert step < 1 and rests() == pytest.approx([min(1, i * step) for i in range(1, 5)])


def test_lips_close_in_pauses(lips, clip, session, wav):
    """A tone, 0.8 s of faint noise, the tone again: shut in between, and open when the tone comes back."""
    noise = np.random.default_rng(0).normal(0, 1e-4, 12800).astype(np.float32)
    spoken = np.concatenate((wav, noise, wav))
    with live.Session(lips, live.prepare(lips, clip, box=BOX, silence="closed")) as shutting:
        frames = say(shutting, in_pieces(spoken, 4000))
        shutting.reset()
        silent = pictures(shutting.idle(50))
    free = say(session, in_pieces(spoken, 4000))
    moved = [has_moved(frame.picture, other) for frame, other in zip(frames, silent)]
    assert all(moved[:17]) and not any(moved[23:30]) and all(moved[35:])  # words end at 15 and begin again at 35
    assert_alike(pictures(frames[:15]), pictures(free[:15]))
    assert_alike(pictures(frames[35:]), pictures(free[35:]))


@pytest.mark.parametrize("behind, is_whole", [(5.0, False), (math.inf, True)])
def test_delays_are_made_up_for_in_pauses(lips, clip, wav, behind, is_whole):
    """For live speakers; a speech that is there at once keeps its pauses. No word is lost."""
    shut = live.prepare(lips, clip, box=BOX, silence="closed")
    with live.Session(lips, shut, behind=behind) as session:
        moments = {round(25 * frame.moment) for frame in say(session, [wav, np.zeros(16000, np.float32), wav])}
    missing = set(range(55)) - moments  # of 2.2 s
    assert missing <= set(range(15, 40)) and len(missing) < 25 and bool(missing) != is_whole


def test_unsuitable_sound_is_refused_or_corrected(session, monkeypatch):
    for wrong in (np.zeros((10, 2), np.float32), np.zeros(10, np.int16), np.array("x")):
        with pytest.raises(UserError, match="one channel"):
            session.push(wrong)
    session.push(np.full(8000, np.nan))
    session.push([0.0, 9.0])
    assert all(np.isfinite(frame.sound).all() and np.abs(frame.sound).max() <= 1 for frame in ready_frames(session))
    monkeypatch.setattr(live.session, "MAX_WAITING_SECONDS", 1.0)
    with pytest.raises(UserError, match="take frames"):
        session.push(np.zeros(16001, np.float32))


# --------------------------------------------------------------------------------------------------------------------
# The clock


class Clock:
    """Time that passes only in ``sleep``, or when ``now`` is set."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += max(seconds, 1e-6)


def test_play_yields_frames_when_they_are_due(session, wav):
    clock, frames = Clock(), []
    for frame in session.play(clock, clock.sleep):
        assert clock.now - 100 == pytest.approx(frame.time, abs=0.001)
        frames.append(frame)
        if frame.number == 10:
            session.push(wav)
            session.end()
        if frame.number == 30:
            session.close()
    assert [frame.moment is None for frame in frames] == [True] * 11 + [False] * 15 + [True] * 5


def test_play_makes_up_for_short_delays_only(session):
    """It catches up after a hitch; on a machine that is too slow it shows every frame, late."""
    clock, lags = Clock(), []
    for frame in session.play(clock, clock.sleep):
        lags.append(clock.now - 100 - frame.time)
        clock.now += {2: 0.12, 9: 3.0}.get(frame.number, 0.001)
        if frame.number == 22:
            session.close()
    assert max(lags[:2]) < 0.04 < lags[3] and lags[9] < 0.04
    assert 2.7 < lags[21] < 2.9


def test_sound_may_come_from_another_thread(session, wav):
    pushing = threading.Thread(target=lambda: [*map(session.push, in_pieces(wav, 50)), session.end()], daemon=True)
    pushing.start()
    spoken, clock = [], Clock()
    for frame in session.play(clock, clock.sleep):
        spoken += [frame] * (frame.moment is not None)
        if len(spoken) == 15:
            session.close()
    pushing.join()
    assert np.array_equal(np.concatenate([frame.sound for frame in spoken]), wav)


def test_a_session_that_broke_off_says_so(lips, face, monkeypatch, wav):
    """After a Ctrl-C in its video, ``play`` used to loop forever without a frame."""
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


def test_a_closed_session_drops_sound(session, wav):
    """A microphone whose thread went on used to fill it."""
    session.close()
    session.push(wav)
    assert session.waiting == 0


def test_a_closed_session_has_no_frames(session, wav):
    session.push(wav)
    session.close()
    assert session.waiting == 0  # or who waits until there is room for more would wait for ever
    assert session.frames() == session.idle(3) == list(session.play()) == []


# --------------------------------------------------------------------------------------------------------------------
# The prepared face


@pytest.fixture
def saved_face(face, tmp_path):
    face.save(tmp_path / "anna")
    return tmp_path / "anna"


@pytest.mark.parametrize("options", [{"mouth_gain": 2, "lip_delay": 40}, {"mouth_gain": np.float32(1.5)}])
def test_options_of_other_number_types_are_saved(small_checkpoint, clip, tmp_path, options):
    """Such a face used to be saved but not loaded, or not even saved."""
    lips = LipSync(small_checkpoint, search=live_search())
    live.prepare(lips, clip, box=BOX, **options).save(tmp_path / "anna")
    loaded = live.Face.load(tmp_path / "anna").options
    assert {name: getattr(loaded, name) for name in options} == options


def test_openings_and_larger_faces_are_saved(clip, tmp_path):
    face = live.prepare(LipSync(search=live_search()), clip, box=BOX)
    face.save(tmp_path / "kept")
    loaded, before = (each.appearances[0].references for each in (live.Face.load(tmp_path / "kept"), face))
    assert (loaded.faces == before.faces).all() and (loaded.openings == before.openings).all()
    assert len(loaded.openings) == len(loaded.faces) and loaded.openings.min() == 0
    larger = np.stack([cv2.resize(face, (192, 192)) for face in before.faces])
    with_larger = replace(
        face,
        appearances=[
            replace(face.appearances[0], references=References(before.faces, openings=before.openings, larger=larger))
        ],
    )
    with_larger.save(tmp_path / "told")
    assert (live.Face.load(tmp_path / "told").appearances[0].references.larger == larger).all()


def test_an_object_in_front_of_the_mouth_stays_there(lips, tmp_path, astronaut, speech, wav):
    """Live, from a saved face, as in a file. With occlusion ignored, the black object is drawn over."""
    frames = np.stack([astronaut[0:240, 60:380]] * 15)
    frames[9:, 122:180, 145:185] = 0
    write_clip(tmp_path / "held.mp4", frames)
    options = {"box": (20, 180, 105, 225), "blend": "feather", "reference": "same", "loop": "loop"}
    take = lips.prepare(tmp_path / "held.mp4", speech, **options)
    results, ignored = [], {**options, "occlusion": "ignore"}
    for name, more in (("kept", options), ("ignored", ignored)):
        live.prepare(lips, tmp_path / "held.mp4", **more).save(tmp_path / name)
        with live.Session(lips, live.Face.load(tmp_path / name)) as session:
            results.append(pictures(say(session, in_pieces(wav, 3000))))
    assert_alike(results[0], np.stack(list(lips.stream(take))))
    undisturbed, drawn_over = (some[9:15, 127:175, 150:180].mean((1, 2, 3)) for some in results)
    assert undisturbed.max() < 10 and drawn_over.min() > 40


def test_a_saved_face_gives_the_same_frames(lips, face, saved_face, wav, monkeypatch):
    monkeypatch.setattr("faces.FaceSearch.stream", None)  # nothing is searched again
    with live.Session(lips, live.Face.load(saved_face)) as loaded, live.Session(lips, face) as prepared:
        assert np.array_equal(pictures(say(loaded, [wav])), pictures(say(prepared, [wav])))
        assert np.array_equal(pictures(loaded.idle(5)), pictures(prepared.idle(5)))


@pytest.mark.parametrize("options", [
    {"rate": 0}, {"rate": -16000}, {"rate": "48000"}, {"behind": -1.0}, {"behind": float("nan")}, {"behind": None},
])  # fmt: skip
def test_impossible_rates_and_delays_are_refused(lips, face, options):
    with pytest.raises(UserError, match="rate must be a number above 0, and behind one of at least 0"):
        live.Session(lips, face, **options)


def test_a_negative_number_of_frames_gives_none(session, wav):
    session.push(wav)
    assert session.frames(-1) == [] == session.idle(-1) and len(session.frames(1)) == 1
    assert len(session.frames(99)) == live.session.MAX_BATCH


def test_a_batch_size_of_zero_is_refused(small_checkpoint):
    with pytest.raises(UserError, match="batch_size must be 1 or more"):
        LipSync(small_checkpoint, batch_size=0)


def test_takes_and_faces_have_a_short_repr(lips, face, clip, speech):
    """Without their arrays, since notebooks print it."""
    take = lips.prepare(clip, speech, box=BOX)
    assert repr(take) == f"<Take of {clip}: 15 frames, 0.60 s>"
    assert repr(face) == f"<Face of {clip}, 25 fps>"


def test_frames_without_a_face_are_saved(lips, tmp_path, astronaut):
    """Ten frames of a face, thirty of nothing, and ten of the face again."""
    shown = astronaut[0:240, 60:380]
    write_clip(tmp_path / "clip.mp4", np.stack([shown] * 10 + [np.zeros_like(shown)] * 30 + [shown] * 10))
    lips = LipSync(lips._checkpoint, search=live_search())
    face = live.prepare(lips, tmp_path / "clip.mp4", reference=0)
    face.save(tmp_path / "kept")
    loaded = live.Face.load(tmp_path / "kept")
    assert loaded.boxes == face.boxes and None in face.boxes and face.used == len(face.boxes) == 50
    assert (loaded.source.fps, loaded.used, loaded.options.reference) == (25, 50, 0)
    assert loaded.appearances[0].references.whole_face and face.appearances[0].references.whole_face
    with live.Session(lips, loaded) as session:
        dark = session.idle(25)[-1].picture
    assert dark.mean() < 20 and dark.flags.writeable


def test_at_a_cut_mouths_do_not_fade(lips, tmp_path, astronaut, speech):
    """As in a file. Without the cuts, as in faces saved earlier, they fade next to frames without a face."""
    shown = astronaut[0:240, 60:380]
    write_clip(tmp_path / "clip.mp4", np.stack([shown] * 15 + [np.zeros_like(shown)] * 15))
    lips = LipSync(lips._checkpoint, search=live_search())
    take = lips.prepare(tmp_path / "clip.mp4", speech)
    live.prepare(lips, tmp_path / "clip.mp4").save(tmp_path / "kept")

    def strengths():
        rows = itertools.islice(live.Face.load(tmp_path / "kept").frames(), 15)
        return [strength for _, _, strength in rows]

    assert strengths() == [take.faces[0].strength(i) for i in range(15)] == [1] * 15
    path = tmp_path / "kept" / "face.json"
    content = json.loads(path.read_text())
    assert content.pop("shots") == [0, 15]
    path.write_text(json.dumps(content))
    assert strengths() == [1] * 12 + [0.75, 0.5, 0.25]


def test_mouths_fade_in_the_frames_of_a_session(lips, face):
    fading, changes = replace(face, boxes=[*face.boxes] * 2 + [None], used=3), []
    for one in (face, fading):
        one = replace(one, options=replace(one.options, blend="feather", occlusion="ignore"))
        with live.Session(lips, one) as session:
            frames = [session.idle(1)[0].picture for _ in range(2)]
        filmed = video.read_frames(face.source, 0, 2)
        changes.append([np.abs(frame.astype(int) - before).mean() for frame, before in zip(frames, filmed)])
    assert np.divide(changes[1], changes[0]) == pytest.approx([0.5, 0.25], abs=0.12)


def live_search():
    from faces import FaceSearch

    return FaceSearch("centerface")


def test_only_the_first_seconds_are_used(lips, clip):
    lips = LipSync(lips._checkpoint, search=live_search())
    face = live.prepare(lips, clip, seconds=0.2)
    assert face.used == len(face.boxes) == 5 and face.options.loop == "pingpong"
    with live.Session(lips, face) as session:
        idle = pictures(session.idle(17))
    assert_alike(idle[8], idle[16])  # there and back is 8 frames
    assert cv2.absdiff(idle[0], idle[4]).max() > 1


def test_saving_replaces_a_face_and_nothing_else(face, saved_face, lips, tmp_path, astronaut):
    cv2.imwrite(str(tmp_path / "face.png"), astronaut)
    live.prepare(lips, tmp_path / "face.png", box=BOX).save(saved_face)
    # the previous copy stays until the next time, as sessions may read it
    assert sorted(path.suffix for path in saved_face.iterdir()) == [".json", ".mp4", ".png"]
    assert live.Face.load(saved_face).source.is_image
    face.save(saved_face)
    live.Face.load(saved_face).save(saved_face)  # over itself
    assert len(list(saved_face.iterdir())) == 2 and not live.Face.load(saved_face).source.is_image
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    for folder, words in ((tmp_path / "other", "other files"), (tmp_path / "face.png", "is a file")):
        with pytest.raises(UserError, match=words):
            face.save(folder)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_saving_repairs_a_copy_and_ignores_hidden_files(face, tmp_path):
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / ".DS_Store").touch()
    face.save(tmp_path / "anna")
    next((tmp_path / "anna").glob("source-*")).write_bytes(b"cut short")
    face.save(tmp_path / "anna")
    assert live.Face.load(tmp_path / "anna").boxes == face.boxes


def test_a_file_too_large_for_a_face_is_refused(saved_face, monkeypatch):
    monkeypatch.setattr(live.face, "LARGEST", 99)
    with pytest.raises(UserError, match="is damaged, or not a prepared face"):
        live.Face.load(saved_face)


@pytest.mark.parametrize("options", [{"start": 1.0}, {"end": 2.0}, {"mix": "all.wav"}])
def test_faces_are_not_prepared_from_parts(lips, clip, options):
    with pytest.raises(UserError, match=f"leave {next(iter(options))} out"):
        live.prepare(lips, clip, box=BOX, **options)


@pytest.fixture(scope="module")
def damageable(face, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damageable")
    face.save(folder)
    return folder, (folder / "face.json").read_text()


@pytest.fixture
def sound_face(damageable):
    """A folder with a saved face, of which face.json may be damaged."""
    folder, content = damageable
    (folder / "face.json").write_text(content)
    return folder


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
    changed(shots=[]), changed(shots=[1]), changed(shots=[0, 1]), changed(shots=[0, 0]), changed(shots=["0"]),
    changed(shots=None),
    appearance(references=""), appearance(references="AAAA"), appearance(references="?" * 36864),
    appearance(references=None), appearance(postures=""), appearance(postures="AAAA"), changed(appearances=[]),
    changed(appearances=7), appearance(bare="AAAA"), option(blend="feather"), option(occlusion="sometimes"),
    option(crop=[0, 1]), option(crop=[0, -1, 0, "x"]), option(crop=[9999, -1, 0, -1]), option(resize_factor=-1),
    option(resize_factor=10**9), option(mouth_gain=1e999), option(lip_delay="soon"), option(blend=["box"]),
    option(blend="__import__('os')"), option(loop="x"), option(reference=-5), changed(options=[]),
])  # fmt: skip
def test_a_damaged_or_foreign_file_gives_an_error_of_one_line(sound_face, damage):
    path = sound_face / "face.json"
    path.write_text(damage(path.read_text()), encoding="latin-1")
    with pytest.raises(UserError) as caught:
        live.Face.load(sound_face)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and "again" in str(caught.value)


def test_saving_leaves_files_of_others_alone(saved_face, tmp_path):
    """Videos called source-… in the folder used to be deleted."""
    face = live.Face.load(saved_face)
    (tmp_path / "films").mkdir()
    (tmp_path / "films/source-interview.mp4").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        face.save(tmp_path / "films")
    assert [path.name for path in (tmp_path / "films").iterdir()] == ["source-interview.mp4"]
    (saved_face / "source-notes.txt").write_text("mine")
    (saved_face / "source-0123456789abcdef.mp4").write_text("of the face before")
    face.save(saved_face)
    assert (saved_face / "source-notes.txt").exists() and not (saved_face / "source-0123456789abcdef.mp4").exists()


@pytest.mark.parametrize("seconds", [-1.0, 0.0, math.inf, math.nan])
def test_faces_are_prepared_from_a_positive_number_of_seconds(seconds, small_checkpoint, tmp_path):
    with pytest.raises(UserError, match="from the first seconds of a video, not from"):
        live.prepare(LipSync(small_checkpoint), tmp_path / "x.mp4", seconds)


def test_missing_and_changed_files_are_named(saved_face, tmp_path):
    for folder in (tmp_path / "nobody", tmp_path):
        with pytest.raises(MissingFile, match="not a prepared face"):
            live.Face.load(folder)
    source = next(saved_face.glob("source-*"))
    source.write_bytes(source.read_bytes() + b"x")
    with pytest.raises(UserError, match="missing or was changed"):
        live.Face.load(saved_face)
    source.unlink()
    with pytest.raises(UserError, match="missing or was changed"):
        live.Face.load(saved_face)


def test_no_sound_begins_no_utterance(session, wav):
    """What a microphone hands over last may be empty: a frame was spoken, and the mouth got ready to."""
    session.push(wav[:8000])
    session.end()
    spoken = ready_frames(session)
    session.push(wav[:0])
    session.end()
    assert spoken and session.frames() == []
