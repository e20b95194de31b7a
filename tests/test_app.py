"""The page: its sessions, its actions, its gate, and that it works in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import PIL.Image
import pytest

pytest.importorskip("gradio", reason="needs gradio")
import gradio
from starlette import testclient
from starlette.applications import Starlette
from starlette.requests import Request

import app
import faces
import live
import pictures
import video
from conftest import ROOT, assert_alike, free_port, half_size, run_ffmpeg, write_clip
from errors import UserError
from face_detection.detections import Detections
from lipsync import Options, engine
from page import sessions
from page.actions import Actions, FoundFace, number_of, pixels_of
from page.buttons import ALONE, VOICES, Buttons, milliseconds, numbers, sentence, speech_of
from page.gate import Gate
from page.serving import import_layout, serving
from page.sessions import LEARN, Learning, Progress, Sessions, Stopped, check_length, describe
from page.settings import Settings
from page.stage import HEAD, LiveFaces, messages
from page.stage import number as number_of_a_visitor
from reporting import SILENT
from training.loop import _Trainer

WIDE = {"width": 1280, "height": 1000}  # pixels of the browser's window
PATIENCE = 120  # seconds to wait for the page on a busy machine


@pytest.fixture(scope="module")
def pair(tmp_path_factory, astronaut, speech):
    """(video of two people, the darker one on the right; speech), a second of each."""
    path = tmp_path_factory.mktemp("pair") / "two.mp4"
    person = half_size(astronaut[0:240, 100:340])
    write_clip(path, np.stack([np.hstack([person, (person[:, ::-1] * 0.6).astype(np.uint8)])] * 25))
    return path, speech


@pytest.fixture(scope="module")
def settings(modest_checkpoint):
    return Settings(checkpoint=str(modest_checkpoint), detector="centerface", max_seconds=5.0)


@pytest.fixture(scope="module")
def actions(settings):
    return Actions(settings)


@pytest.fixture(scope="module")
def people(actions, pair):
    """(the left face, the right one), to be clicked on."""
    return tuple(actions.find_faces(Sessions().of("somebody"), str(pair[0]), SILENT))


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    """A photo of 300 million pixels, which takes less than a megabyte until it is decoded."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.png"
    PIL.Image.new("1", (20000, 15000)).save(path)
    return str(path)


@pytest.fixture
def open_sessions():
    return Sessions()


@pytest.fixture
def session(open_sessions):
    return open_sessions.of("somebody")


# --------------------------------------------------------------------------------------------------------------------
# Sessions


def test_sessions_do_not_share_files(open_sessions):
    a, b = open_sessions.of("a"), open_sessions.of("b")
    assert a.folder != b.folder and open_sessions.of("a") is a
    (a.new_file(".mp4")).write_text("a")
    assert a.new_file(".mp4") != a.new_file(".mp4") and not list(b.folder.iterdir())
    assert a.new_file(".pth", "anna").name == "anna.pth"


def test_closed_session_stops_and_deletes_its_files(open_sessions):
    a = open_sessions.of("a")
    a.new_file(".mp4").write_text("a")
    open_sessions.close("a")
    assert not a.folder.exists() and a.closed.is_set()
    open_sessions.close("a")  # twice, or without ever having been open
    open_sessions.stop("never there")


def test_videos_and_photos_are_not_converted(tmp_path):
    """Gradio, if it finds an ffmpeg, would re-encode an hour of MPEG-2 to show it, and nobody could stop that."""
    from page.layout import Page

    blocks = Page(Settings()).build()
    for name in ("original", "result"):
        (film,) = (one for one in blocks.blocks.values() if getattr(one, "elem_id", None) == name)
        for one in (film, type(film)(**film.constructor_args)):  # as each update creates it again
            assert one.postprocess(tmp_path / "film.mpg").path == str(tmp_path / "film.mpg")
    given = SimpleNamespace(path=str(tmp_path / "photo.heic"))
    for name in ("photo", "like"):
        (picture,) = (one for one in blocks.blocks.values() if getattr(one, "elem_id", None) == name)
        for one in (picture, type(picture)(**picture.constructor_args)):
            assert one.preprocess(given) == given.path and one.preprocess(None) is None
            assert one.get_block_name() == "image"
    assert not list((ROOT / "page").glob("*.pyi"))  # Gradio writes these beside custom components


def test_nothing_behind_links_is_deleted(tmp_path):
    """Anybody can put a link into a shared folder for temporary files."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/old.txt").touch()
    os.utime(tmp_path / "mine/old.txt", (0, 0))
    (tmp_path / "wav2lip-uploads-x").symlink_to(tmp_path / "mine")
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads/link").symlink_to(tmp_path / "mine")
    for folder in ("wav2lip-uploads-x", "uploads"):
        sessions.delete_old(tmp_path / folder, 10.0)
    assert (tmp_path / "mine/old.txt").exists()


def test_files_are_deleted_within_an_hour(open_sessions, tmp_path):
    """Both this server's files and those of one that was killed."""
    a, b = open_sessions.of("a"), open_sessions.of("b")
    here, elsewhere = tmp_path / "wav2lip-uploads-here", tmp_path / "wav2lip-uploads-elsewhere"
    old, left, new = here / "digest/old.mp4", elsewhere / "digest/old.mp4", here / "half of an upload"
    for path in (old, left, new):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    crops = open_sessions.folder.parent / f"wav2lip-adapt-{open_sessions.folder.name}" / "face.jpg"
    crops.parent.mkdir()
    crops.write_text("x")
    os.utime(crops, (0, time.time() - sessions.LEFT_SECONDS + 60))
    open_sessions.sweep(here)
    assert a.folder.exists() and old.exists() and left.exists() and crops.exists()
    os.utime(crops, (0, time.time() - sessions.LEFT_SECONDS - 1))
    a.last_used -= sessions.KEPT_SECONDS + 1
    for path in (old, left):
        os.utime(path, (0, time.time() - sessions.KEPT_SECONDS - 1))
    open_sessions.sweep(here)
    assert not crops.exists()
    crops.parent.rmdir()
    assert (
        not a.folder.exists()
        and b.folder.exists()
        and new.exists()
        and not (old.parent.exists() or left.parent.exists())
    )
    assert sessions.KEPT_SECONDS + sessions.SWEEP_SECONDS < 3600


def test_nothing_of_a_visitors_network_stays_on_disk(actions, settings, tmp_path):
    """With --runtime openvino, an int8 copy of it did, and it may have learned the visitor's face."""
    theirs = shutil.copy(settings.checkpoint, tmp_path / "person.pth")
    kept = [actions.lips(None, SILENT, name).runtime.keeps_int8 for name in (None, str(theirs))]
    assert kept == [True, False]


def test_a_visitors_network_uses_the_operators_restorer(settings, tmp_path, monkeypatch):
    """Each was given a restorer of its own, hundreds of megabytes, while everybody waited."""
    opened = []
    monkeypatch.setattr(engine, "open_restorer", lambda *given: opened.append(given) or (lambda *_: None))
    page = Actions(replace(settings, restorer=tmp_path / "any.pth"))
    theirs = shutil.copy(settings.checkpoint, tmp_path / "person.pth")
    own, other = (page.lips(None, SILENT, name, restored=True) for name in (None, str(theirs)))
    assert own.restore is other.restore is not None and len(opened) == 1
    assert page.lips(None, SILENT, str(theirs)).restore is None


def test_the_detector_is_chosen_once(settings, monkeypatch, session):
    """Each action tried its download again, and told visitors that it had failed."""
    asked = []
    monkeypatch.setattr(
        faces, "sfd_is_available", lambda report: asked.append(report.note("warning: no sfd")) and False
    )
    page = Actions(replace(settings, detector="auto"))
    page.warm_up()
    assert len(asked) == 1 and page.search(session).detector == "centerface"


def test_the_operators_identity_is_mentioned_only_if_used(settings, pair, session):
    """Every result said that it does nothing."""
    page = Actions(replace(settings, identity="other.onnx"))
    _, _, options = page._settled(session, *map(str, pair), 1.0, SILENT, {})
    assert not [*Options.of(options).without_effect("box")]


@pytest.mark.parametrize(("name", "value"), [("expert", "none.pth"), ("identity", "none.onnx")])
def test_a_missing_file_shows_at_the_start(settings, name, value):
    """Visitors found it, by a click."""
    with pytest.raises(UserError, match=f"{value} does not exist"):
        Actions(replace(settings, **{name: value})).warm_up()


def test_running_action_keeps_its_session_and_uploads(open_sessions, session, tmp_path):
    """Without its progress, both would be old enough to be deleted."""
    used, other = tmp_path / "used.mp4", tmp_path / "other.mp4"
    session.use(str(used), None)
    for path in (used, other):
        path.write_text("x")
        os.utime(path, (0, time.time() - sessions.KEPT_SECONDS - 1))
    session.last_used -= sessions.KEPT_SECONDS + 1
    Progress(session, lambda *_: None).progress("Working", 1, 2)
    open_sessions.sweep(tmp_path)
    assert session.folder.exists() and used.exists() and not other.exists()


def test_running_action_keeps_its_uploads_while_others_run(open_sessions, session, tmp_path):
    """Looking at another video used to take the protection from the files of a running lip-sync."""
    running, other = tmp_path / "running.mp4", tmp_path / "other.mp4"
    for path in (running, other):
        path.write_text("x")

    def survives() -> bool:
        os.utime(running, (0, time.time() - sessions.KEPT_SECONDS - 1))
        Progress(session, lambda *_: None).progress("Working", 1, 2)
        open_sessions.sweep(tmp_path)
        return running.exists()

    with session.using(str(running), None):
        with session.using(str(other)):
            assert survives()
        assert survives()
    assert other.exists() and not survives()


def test_clients_without_a_session_name_are_refused(open_sessions):
    with pytest.raises(ValueError, match="only the page in a browser"):
        open_sessions.of(None)
    open_sessions.stop(None)
    open_sessions.close(None)


def test_closed_or_expired_sessions_lose_their_live_face(tmp_path):
    removed = []
    open_sessions = Sessions(removed.append)
    open_sessions.of("a").token, open_sessions.of("b").token = "a's", "b's"
    open_sessions.close("a")
    open_sessions.of("b").last_used -= sessions.KEPT_SECONDS + 1
    open_sessions.sweep(tmp_path)
    assert removed == ["a's", "b's"]


def test_cancel_stops_a_running_action(open_sessions, session):
    shown = []
    report = Progress(session, lambda share, words: shown.append((share, words)))
    with report.stage("Working", 4) as advance:
        advance(2)
        open_sessions.stop("somebody")
        with pytest.raises(Stopped):
            advance(1)
    assert shown[0] == (0.0, "Working: 0 of 4")


def test_cancel_stops_waiting_actions_but_no_later_ones(open_sessions, session):
    """It stops running ones too, even if another action is requested afterwards; that one goes on."""
    running, requested = Progress(session, lambda *_: None), time.monotonic()
    open_sessions.stop("somebody")
    with pytest.raises(Stopped):
        session.raise_if_stopped(requested)
    session.raise_if_stopped(time.monotonic())
    with pytest.raises(Stopped):
        running.progress("Working", 1, 2)
    Progress(session, lambda *_: None).progress("Working", 1, 2)


def test_cancel_stops_only_actions_of_its_tab(open_sessions, session):
    """Cancel under Lip-sync used to throw away ten minutes of learning."""
    learning, other = Learning(session, lambda *_: None, minutes=1), Progress(session, lambda *_: None)
    open_sessions.stop("somebody")
    learning.raise_if_stopped()
    with pytest.raises(Stopped):
        other.raise_if_stopped()
    open_sessions.stop("somebody", LEARN)
    with pytest.raises(Stopped):
        learning.progress("Training", 1, 2)


def test_cancel_stops_an_action_waiting_without_a_session(open_sessions):
    """A session used to begin with the action's turn, so an earlier Cancel was lost."""
    requested = time.monotonic()
    open_sessions.stop("new")
    with pytest.raises(Stopped):
        open_sessions.of("new").raise_if_stopped(requested)
    open_sessions.stop(None)


def test_closing_a_session_does_not_block_others(tmp_path):
    """It used to wait for the frame being drawn, and all other visitors waited with it."""
    open_sessions = Sessions(lambda token: open_sessions.of("another"))
    open_sessions.of("a")
    leaving = threading.Thread(target=open_sessions.close, args=("a",), daemon=True)
    leaving.start()
    leaving.join(PATIENCE)
    assert not leaving.is_alive()


@pytest.mark.parametrize("figures, words", [
    ((50, 200, 2.0), "Lip-syncing: 50 of 200, 25 a second, 6 s left"),
    ((2, 4, 8.0), "Lip-syncing: 2 of 4, 4.0 s each, 8 s left"),
    ((10, None, 1.0), "Lip-syncing: 10, 10 a second"),
    ((0, 9, 0.0), "Lip-syncing: 0 of 9"),
])  # fmt: skip
def test_progress_is_described_in_words(figures, words):
    assert describe("Lip-syncing", *figures) == words


def test_later_of_two_stages_is_shown(session):
    """Otherwise they would alternate, each with a rate since the last switch."""
    shown = []
    report = Progress(session, lambda share, words: shown.append(words.split(":")[0]))
    with report.stage("Finding faces", 2) as search:
        search(1)
        with report.stage("Lip-syncing", 3) as make:
            search(1)
            make(1)
    assert shown[0] == "Finding faces" and shown[1:] == ["Lip-syncing"] * len(shown[1:])


def test_learning_shows_the_remaining_time(session):
    shown = []
    report = Learning(session, lambda share, words: shown.append((share, words)), minutes=10.0)
    with report.stage("Training") as advance:
        report._since -= 150.0  # a quarter of ten minutes
        advance(7)
    assert shown[-1] == (pytest.approx(0.25, abs=0.01), "Learning: 7 steps, 7 min left")


def test_excessive_length_is_refused():
    check_length(5.0, 5.0)
    with pytest.raises(ValueError, match="lasts longer than the 5 s that the page takes at most"):
        check_length(6.0, 5.0)


# --------------------------------------------------------------------------------------------------------------------
# Actions


def test_faces_are_shown_from_left_to_right(actions, session, pair):
    """In the order of --face_index."""
    left, right = actions.find_faces(session, str(pair[0]), SILENT)
    assert right.picture.mean() < 0.75 * left.picture.mean() and left.box[2] < 0.5 < right.box[0]


def test_clicked_face_is_found_if_another_enters_later():
    """A third face enters on the left: all numbers change, but the chosen faces stay the same."""
    left, right, late = ([x, 50, x + 60, 110, 1] for x in (100, 300, 10))
    found = Detections([np.array([left, right] + [late] * (i >= 30), np.float32) for i in range(60)], [0.0] * 60)
    source = video.VideoInfo(Path("x.mp4"), 400, 200, Fraction(25))
    boxes = [np.array(box[:4]) / (400, 200, 400, 200) for box in (left, right, [200, 150, 220, 170])]
    chosen = [FoundFace(0.0, tuple(box), np.zeros(0)) for box in boxes]
    assert [number_of(face, found, source) for face in chosen] == [1, 2, None]


def test_picture_without_a_face_is_refused(actions, session, tmp_path):
    cv2.imwrite(str(tmp_path / "blank.png"), np.full((240, 320, 3), 90, np.uint8))
    with pytest.raises(ValueError, match="no face was found"):
        actions.find_faces(session, str(tmp_path / "blank.png"), SILENT)


def test_huge_pictures_are_refused_by_their_header(actions, session, bomb, tmp_path, monkeypatch):
    write_clip(tmp_path / "small.mp4", np.zeros((2, 64, 96, 3), np.uint8))
    monkeypatch.setattr(pictures, "read", None)
    with pytest.raises(ValueError, match="million pixels or more, and the page takes 50 million"):
        actions.find_faces(session, bomb, SILENT)
    assert pixels_of(str(tmp_path / "small.mp4")) == 64 * 96


@pytest.mark.parametrize(
    "more, index", [({"silence": "closed"}, 15), ({"reference": "still", "mouth_gain": 0.5}, 15), ({"start": 0.4}, 5)]
)
def test_preview_is_a_frame_of_the_result(actions, session, pair, people, more, index):
    """It shows the face that was clicked on, also if the result is only a part; its time is that of the video."""
    shown = actions.preview(session, *map(str, pair), 0.6, SILENT, chosen=people[1], **more)
    lips = actions.lips(session, SILENT)
    with contextlib.closing(lips.stream(lips.prepare(*pair, face_index=1, **more))) as frames:
        expected = next(itertools.islice(frames, index, None))
    assert_alike(np.ascontiguousarray(shown[..., ::-1]), expected)


def test_empty_delay_is_left_to_the_network():
    """A number box turns None into 0 when it is shown, so networks that need a delay used to move the lips early."""
    assert milliseconds("") is milliseconds(None) is milliseconds(" ") is None
    assert milliseconds("0") == 0 and milliseconds("-40.5") == -40.5
    with pytest.raises(ValueError, match="a number of milliseconds, such as 40, not 'soon'"):
        milliseconds("soon")


def test_preview_after_the_end_is_the_last_frame(actions, session, pair):
    last = actions.preview(session, *map(str, pair), 99.0, SILENT)
    lips = actions.lips(session, SILENT)
    *_, frame = lips.stream(lips.prepare(*pair))
    assert_alike(np.ascontiguousarray(last[..., ::-1]), frame)


def test_lip_sync_writes_only_into_the_session_folder(actions, session, pair, people):
    made = actions.lip_sync(session, *map(str, pair), SILENT, chosen=people[0])
    assert session.folder in made.parents and video.probe(made).width == 240
    boxes = list((session.folder / "boxes").iterdir())
    assert boxes  # not in the cache of the user who runs the page


def test_several_faces_can_speak(actions, session, pair, people, tmp_path):
    """The right face speaks for half the time; then it stays as filmed, while the other goes on."""
    film, speech = map(str, pair)
    run_ffmpeg("-i", speech, "-t", "0.5", tmp_path / "short.wav")
    left, right = people
    spoken = [(left, speech), (right, str(tmp_path / "short.wav"))]
    made = actions.lip_sync(session, film, spoken, SILENT, crf=0, mouth_gain=2.0)
    filmed, frames = (np.stack(list(video.read_frames(video.probe(path)))).astype(int) for path in (film, made))
    changed = np.abs(frames - filmed[0]).max((1, 3)).reshape(len(frames), 2, -1).max(2) > 12
    assert changed[:, 0].all() and changed[:12, 1].all() and not changed[17:, 1].any()
    part = actions.lip_sync(session, film, spoken, SILENT, crf=0, mouth_gain=2.0, start=0.2, end=0.6)
    frames_of_part = np.stack(list(video.read_frames(video.probe(part)))).astype(int)
    changed = np.abs(frames_of_part - filmed[: len(frames_of_part)]).max((1, 3)).reshape(len(frames_of_part), 2, -1)
    changed = changed.max(2) > 12
    assert changed[6:14].all() and not changed[:5].any() and not changed[15:].any()
    shown = actions.preview(session, film, spoken, 0.2, SILENT, mouth_gain=2.0)
    assert np.abs(shown[..., ::-1] - frames[5]).mean() < 2  # encoding rounds colours
    with pytest.raises(ValueError, match="is lost in the video"):
        actions.lip_sync(session, film, [(left, speech), (left, speech)], SILENT)


@pytest.mark.parametrize("given, words", [
    ({}, "give a speech first"),
    ({"speech": "a.wav", "voice2": "b.wav"}, "one or the others"),
    ({"voice1": "a.wav", "speaker": True}, '"Whoever speaks, shot by shot" is for one face'),
    ({"speech": "a.wav", "speaker": True, "face_like": "a.png"}, "cannot both be chosen"),
])  # fmt: skip
def test_missing_or_conflicting_speeches_are_refused(given, words):
    nothing = dict.fromkeys(("speech", "filmed", *VOICES, *ALONE))
    with pytest.raises(ValueError, match=words):
        speech_of(nothing | {"seen": [1, 2]} | given)
    assert speech_of(nothing | {"seen": [1, 2], "voice2": "b.wav"}) == [(2, "b.wav")]


def test_face_like_uses_the_network_in_the_settings(session, pair, tmp_path):
    cv2.imwrite(str(tmp_path / "like.png"), np.zeros((8, 8, 3), np.uint8))
    actions = Actions(Settings(detector="centerface", identity=str(pair[1])))
    with pytest.raises(ValueError, match="does not hold OpenCV's SFace"):
        actions.lip_sync(session, *map(str, pair), SILENT, face_like=tmp_path / "like.png")


@pytest.mark.parametrize("options", [{"resize_factor": 2}, {"fps": 50.0}])
def test_clicked_face_is_found_at_another_size_or_frame_rate(actions, session, pair, people, options):
    """A face that is not there is not replaced by the largest."""
    left, right = people
    for chosen, index in ((left, 0), (right, 1)):
        settled = actions._settled(session, *map(str, pair), 1.0, SILENT, options | {"chosen": chosen})
        assert settled[2]["face_index"] == index
    absent = replace(left, box=(0.0, 0.0, 0.1, 0.1))
    with pytest.raises(ValueError, match="is not where it was"):
        actions.preview(session, *map(str, pair), 0.2, SILENT, chosen=absent, **options)


def test_huge_pictures_are_refused_by_every_action(actions, session, pair, bomb, tmp_path):
    for work in (
        lambda: actions.measure(session, bomb, [str(pair[1])], SILENT),
        lambda: actions.adapt(session, bomb, 1.0, Learning(session, lambda *_: None, minutes=1.0)),
    ):
        with pytest.raises(ValueError, match="million pixels or more"):
            work()
    cv2.imwrite(str(tmp_path / "sun.hdr"), np.ones((20, 20, 3), np.float32))
    with pytest.raises(ValueError, match="save it as JPEG or PNG"):
        actions.find_faces(session, str(tmp_path / "sun.hdr"), SILENT)


def test_too_long_speech_is_refused(actions, session, pair, tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "aevalsrc=0.3*sin(900*t):d=6:s=16000", tmp_path / "long.wav")
    with pytest.raises(ValueError, match="takes at most"):
        actions.lip_sync(session, str(pair[0]), str(tmp_path / "long.wav"), SILENT)


def test_too_long_video_is_refused_if_all_of_it_is_written(actions, session, pair, tmp_path):
    write_clip(tmp_path / "long.mp4", np.zeros((126, 64, 96, 3), np.uint8))
    with pytest.raises(ValueError, match="longer than the 5 s"):
        actions.lip_sync(session, str(tmp_path / "long.mp4"), str(pair[1]), SILENT, start=0.5)


def test_nothing_is_kept_of_a_learning_that_was_stopped(actions, session, pair, monkeypatch):
    """The page said so, but the network of the visitor's face stayed until they left."""

    def adapt(face, outfile, *_):
        outfile.write_bytes(b"the best weights so far")
        raise Stopped

    monkeypatch.setattr("page.actions.seconds_of", lambda *_: 1.0)  # the film is silent
    monkeypatch.setattr("page.actions.adaptation.adapt", adapt)
    with pytest.raises(Stopped):
        actions.adapt(session, str(pair[0]), 1.0, SILENT)
    assert not list(session.folder.rglob("*.pth"))


def test_nothing_is_kept_of_a_learning_that_failed(actions, session, pair, monkeypatch):
    """The page said that the best weights are kept, and what a program of one's own must do."""

    def adapt(face, outfile, *_):
        outfile.write_bytes(b"the best weights so far")
        trainer = SimpleNamespace(plan=SimpleNamespace(saves=False))
        kept = _Trainer._saved_so_far(trainer)
        raise RuntimeError(f"a process was killed; {kept} (a program of your own must …)")

    monkeypatch.setattr("page.actions.seconds_of", lambda *_: 1.0)
    monkeypatch.setattr("page.actions.adaptation.adapt", adapt)
    with pytest.raises(RuntimeError, match="^learning failed: a process was killed$"):
        actions.adapt(session, str(pair[0]), 1.0, SILENT)
    assert not list(session.folder.rglob("*.pth"))


def test_loading_networks_does_not_hold_up_the_end(settings, monkeypatch):
    """Ctrl-C during a first download ended the program only when all of it was there."""
    begun, ended = threading.Event(), threading.Event()

    def load(_):
        begun.set()
        ended.wait(30)
        raise UserError("no such network")

    monkeypatch.setattr("page.buttons.load", load)
    before = {*threading.enumerate()}
    buttons = Buttons(settings)
    assert begun.wait(30)
    assert all(thread.daemon for thread in {*threading.enumerate()} - before)
    ended.set()
    with pytest.raises(UserError, match="no such network"):
        buttons.wait_until_loaded()


def test_looking_at_pictures_leaves_warnings_on(tmp_path, astronaut):
    """Two visitors' threads turned them off in the whole process, before Python 3.14."""
    path = str(tmp_path / "face.png")
    cv2.imwrite(path, astronaut)
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [pixels_of.__wrapped__(path) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps the working folders of processes")
def test_messages_are_shown_when_the_working_folder_is_gone(tmp_path, monkeypatch):
    """As after a redeployment: every message, and so every error, became a fault of the program."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert sentence("the disk is full") == "The disk is full."


def test_live_faces_have_no_more_frames_than_can_be_drawn(actions, session, pair, tmp_path):
    """From a film of 50 frames a second on a slow machine, words were lost."""
    run_ffmpeg("-i", pair[0], "-vf", "fps=50", "-t", 0.5, tmp_path / "fast.mp4")
    assert actions.prepare_live(session, str(tmp_path / "fast.mp4"), SILENT).source.fps == 25


def test_own_network_stays_loaded(actions, session, modest_checkpoint, tmp_path):
    """A visitor who compared two others evicted it, and the next one had to wait."""
    own = actions.lips(session, SILENT).model
    for name in "ab":
        shutil.copy(modest_checkpoint, tmp_path / f"{name}.pth")
        assert actions.lips(session, SILENT, str(tmp_path / f"{name}.pth")).model is not own
    assert actions.lips(session, SILENT).model is own


def test_speaker_is_named_and_plotted(actions, session, pair):
    words, plot = actions.measure(session, str(pair[0]), [str(pair[1])], SILENT)
    assert (
        words.startswith("speech.wav: face ")
        and ("speaks, mean similarity" in words or "is nearest, mean similarity" in words)
        and cv2.imread(str(plot)) is not None
    )


@pytest.mark.parametrize("text, said", [
    ("/tmp/wav2lip-uploads-x1/ab12/my talk.mp4 is empty", "my talk.mp4 is empty."),
    (r"C:\Users\me\wav2lip-uploads-x1\ab12\a.mp4: 'C:\x\b.mp4'", "a.mp4: 'b.mp4'."),
    ("--end 3 is not after --start 5", '"to this one" 3 is not after "Only from this moment of the video" 5.'),
    ("try another --face_detector, or --rotate", 'Try another face detector, or "turn it clockwise".'),
    ("/opt/bin/ffmpeg crashed,\n 3/4 done; see https://a.b/c/d", "ffmpeg crashed, 3/4 done; see https://a.b/c/d."),
    # without flags that the page lacks; faces are counted from 1
    ("no face was found in a.mp4; try another --face_detector, --rotate if it lies, or give --box yourself",
     'No face was found in a.mp4; try "turn it clockwise" if it lies.'),
    ("could not download https://a.b/c (no network); fetch it by other means and put it at /root/x/face.onnx",
     "Could not download https://a.b/c (no network)."),
    ("the picture is tiny; try another --face_detector", "The picture is tiny."),
    ("it is a picture; try --face_index", "It is a picture; try a click on the face."),
    ("--pair 0=anna.wav: no face; lost.", "of several who speak, face 1=anna.wav: no face; lost."),
    ("face 1: 3 of 9 frames show no face", "Face 2: 3 of 9 frames show no face."),
])  # fmt: skip
def test_errors_are_sentences_without_folders(text, said):
    assert sentence(text) == said


def test_four_whole_numbers_are_required():
    assert numbers(" 0, 20 0 -3", "") == (0, 20, 0, -3) and numbers("", "") is None
    with pytest.raises(ValueError, match="the box is changed by four whole numbers"):
        numbers("1 2 x 4", "the box is changed by")


@pytest.fixture(scope="module")
def prepared(actions, pair):
    return actions.prepare_live(Sessions().of("somebody"), str(pair[0]), SILENT)


@pytest.fixture
def ready_face(actions, session, prepared):
    """(stage with room for one, token of a face that is ready to speak there)."""
    stage = LiveFaces(1)
    return stage, stage.add(actions.lips(session, SILENT), prepared, session.use)


def client_of(stage):
    return testclient.TestClient(Starlette(routes=stage.routes()))


def test_live_speech_needs_a_token(ready_face):
    stage, token = ready_face
    client = client_of(stage)
    assert client.get("/live/nobody?rate=16000").status_code == 404
    assert client.get(f"/live/{token}").status_code == 404 == client.get(f"/live/{token}?rate=5").status_code
    assert client.post(f"/live/{token}", content=b"1234").status_code == 404  # no session is open yet
    stage.remove(token)
    assert client.get(f"/live/{token}?rate=16000").status_code == 404


def test_frames_come_with_their_sound(actions, session, ready_face, monkeypatch):
    """Half a second of silence, as the page receives it; meanwhile the session counts as in use."""
    stage, token = ready_face
    session.last_used = 0.0
    monkeypatch.setattr("page.stage.MAX_SECONDS", 0.5)
    body = client_of(stage).get(f"/live/{token}?rate=16000").content
    assert session.last_used
    times, at = [], 0
    while at < len(body):
        moment, picture, sound = HEAD.unpack_from(body, at)
        shown = cv2.imdecode(np.frombuffer(body, np.uint8, picture, at + HEAD.size), cv2.IMREAD_COLOR)
        assert shown.shape == (120, 240, 3) and sound == 2 * 640
        times.append(moment)
        at += HEAD.size + picture + sound
    assert times == pytest.approx([i / 25 for i in range(13)])


def test_leaving_before_the_first_frame_frees_the_stage(ready_face):
    stage, token = ready_face

    async def gone(*_):
        raise OSError("the connection was closed")

    async def visit():
        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/live/{token}",
            "query_string": b"rate=16000",
            "headers": [],
        }
        request = Request({**scope, "path_params": {"token": token}})
        show = await stage._frames(request)
        with pytest.raises(Exception):  # noqa: B017  # whatever Starlette makes of it
            await show(scope, gone, gone)

    asyncio.run(visit())
    assert stage._speaking == 0 and not stage._faces[token].is_live


@pytest.mark.parametrize("how", ["asleep", "closed", "behind"])
def test_visitor_who_takes_no_more_frames_frees_the_stage(ready_face, monkeypatch, how):
    """A sleeping page used to keep the stage from everybody, even long after its session had ended."""
    stage, token = ready_face
    closed = how == "closed"
    monkeypatch.setattr("page.stage.IDLE_SECONDS", 60.0 if closed else 0.5)
    scope = {"type": "http", "method": "GET", "path": f"/live/{token}", "query_string": b"rate=16000"}
    scope |= {"headers": [], "path_params": {"token": token}}

    async def send(message):
        if closed:
            stage.remove(token)
        if how == "behind":  # it reports no frame as received, so further ones are skipped
            live_face.received = 0
            return
        await asyncio.Event().wait()  # as if nobody reads

    async def visit():
        await (await stage._frames(Request(scope)))(scope, asyncio.Event().wait, send)

    live_face = stage._faces[token]
    asyncio.run(asyncio.wait_for(visit(), PATIENCE))
    assert stage._speaking == 0 and not live_face.is_live


def test_room_on_the_stage_is_limited(ready_face):
    stage, token = ready_face
    stage._speaking = 1
    answer = client_of(stage).get(f"/live/{token}?rate=16000")
    assert answer.status_code == 503 and "Somebody else is speaking" in answer.text


def test_face_is_not_opened_twice_at_the_same_time(ready_face, monkeypatch):
    stage, token = ready_face
    stage._limit, events = 2, []

    def opened_late(live_face, rate):
        events.append("opened")
        refused = client_of(stage).get(f"/live/{token}?rate=16000")
        events.append((refused.status_code, refused.text))
        raise RuntimeError("it was not to be opened")

    monkeypatch.setattr("page.stage.open_session", opened_late)
    with pytest.raises(RuntimeError, match="not to be opened"):
        client_of(stage).get(f"/live/{token}?rate=16000")
    words = "Your last talk is still ending; press Talk again."  # it spoke of somebody else
    assert events == ["opened", (503, words)] and stage._speaking == 0 and not stage._faces[token].is_live


def test_slow_connection_gets_fewer_frames_not_later_ones(ready_face):
    """Frames are sent again once some are reported as received; a client that reports none gets all."""
    stage, token = ready_face
    frame = live.Frame(np.zeros((8, 8, 3), np.uint8), 0, 0.0, np.zeros(640, np.float32), None)
    speaking = stage._faces[token]
    speaking.session = SimpleNamespace(play=lambda: itertools.repeat(frame), push=lambda sound: None)
    sent = messages(speaking)
    assert all(next(sent) for _ in range(20))
    for taken, more in ((14, 2), (20, 6), (28, 8)):
        client_of(stage).post(f"/live/{token}?taken={taken}", content=bytes(4))
        assert [bool(next(sent)) for _ in range(10)] == [True] * more + [False] * (10 - more)


# --------------------------------------------------------------------------------------------------------------------
# At the gate


@pytest.mark.parametrize("method, path, length, status", [
    ("GET", "/", None, 200),
    ("GET", "/gradio_api/file=/tmp/x.mp4", None, 200),
    ("POST", "/gradio_api/upload", 999, 200),
    ("POST", "/gradio_api/upload", 10 << 30, 413),
    ("POST", "/gradio_api/upload", None, 411),
    ("POST", "/gradio_api/queue/join", 2 << 20, 413),
    ("POST", "/gradio_api/queue/join", "10, chunked", 411),
    ("POST", "/gradio_api/process_recording", 999, 404),
    ("GET", "/gradio_api/deep_link", None, 404),
    ("GET", "/gradio_api/app_id", None, 200),
    ("GET", "/gradio_api/proxy=http://127.0.0.1/", None, 404),
    ("GET", "/gradio_api/file=http://127.0.0.1/", None, 404),
    ("GET", "/monitoring", None, 404),
    ("GET", "/docs", None, 404),
])  # fmt: skip
def test_gate_lets_only_the_pages_requests_pass(tmp_path, method, path, length, status):
    """It decides before a byte of the body is read."""
    sent = []

    async def behind(scope, receive, send):
        await send({"status": 200})

    async def send(message):
        sent.append(message)

    length_sent, _, encoding = str(length or "").partition(", ")
    headers = [(b"content-length", length_sent.encode()), (b"transfer-encoding", encoding.encode())]
    headers = [header for header in headers if header[1]]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(Gate(behind, tmp_path, 1 << 20)(scope, None, send))
    assert sent[0]["status"] == status


def test_simultaneous_uploads_do_not_fill_the_disk(tmp_path, monkeypatch):
    """Each used to find room, though there was none for all. Uploads that are only announced reserve none."""
    largest, piece, statuses, disk = 1 << 20, 1 << 18, [], SimpleNamespace(free=5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload"}
    scope["headers"] = [(b"content-length", b"%d" % largest)]

    async def behind(scope, receive, send):
        for _ in range(largest // piece):
            await receive()
            disk.free -= piece
        await send({"status": 200})

    async def receive():
        await asyncio.sleep(0.01)

    async def send(message):
        statuses.extend([message["status"]] if "status" in message else [])

    async def upload_together(count):
        gate = Gate(behind, tmp_path, largest)
        silent = [asyncio.create_task(gate(scope, asyncio.Event().wait, send)) for _ in range(100)]
        await asyncio.gather(*(gate(scope, receive, send) for _ in range(count)))
        assert largest <= disk.free < 2 * largest
        disk.free = 5 << 20
        await gate(scope, receive, send)  # when there is room again
        for task in silent:
            task.cancel()

    asyncio.run(upload_together(9))
    assert len(statuses) == 10 and {*statuses[:-1]} <= {200, 507} and 507 in statuses and statuses[-1] == 200


def test_uploads_from_other_sites_are_refused(address):
    """A form on any site that somebody visits could fill the disk."""
    body = b"--x\r\nContent-Disposition: form-data; name=files; filename=a\r\n\r\nabc\r\n--x--\r\n"
    for site, status in (("cross-site", 403), ("same-origin", 200)):
        headers = {"Content-Type": "multipart/form-data; boundary=x", "Sec-Fetch-Site": site}
        assert status_of(urllib.request.Request(f"{address}/gradio_api/upload", body, headers)) == status


def test_upload_to_a_full_disk_is_refused(address, monkeypatch):
    """Also in the middle of it; what has already been written is deleted."""
    usage = iter([10 << 40] * 3)  # at the gate, and for the first chunks
    monkeypatch.setattr("page.gate.shutil.disk_usage", lambda _: SimpleNamespace(free=next(usage, 0)))
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    body = b"--x\r\nContent-Disposition: form-data; name=files; filename=a\r\n\r\n" + bytes(1 << 20) + b"\r\n--x--\r\n"
    uploads = Path(os.environ["GRADIO_TEMP_DIR"])
    before = {*uploads.rglob("*")}
    assert status_of(urllib.request.Request(f"{address}/gradio_api/upload", body, headers)) == 507
    assert {*uploads.rglob("*")} == before and next(usage, None) is None


def status_of(request):
    try:
        return urllib.request.urlopen(request, timeout=PATIENCE).status
    except urllib.error.HTTPError as refused:
        return refused.code


def test_impossible_addresses_and_ports_are_named(settings, capsys):
    before = os.environ.get("GRADIO_TEMP_DIR")
    for port in ("0", "70000", "x"):
        assert app.main(["--server_port", port]) == 2
        assert "is not a port, a whole number from 1 to 65535" in capsys.readouterr().err
    with (
        pytest.raises(UserError, match="--server_name 192.0.2.1 is not an address of this machine"),
        serving(settings, "192.0.2.1", free_port()),
    ):
        pass
    assert os.environ.get("GRADIO_TEMP_DIR") == before  # or a page already running would lose its uploads


def test_networks_are_not_loaded_for_a_port_that_is_taken(settings, monkeypatch):
    """The page that is running already has it; the program used to end only when its networks were loaded."""
    loaded = []
    monkeypatch.setattr("page.buttons.load", loaded.append)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be used"), serving(settings, "127.0.0.1", port):
            pass
    assert not loaded


def test_page_is_served_at_addresses_of_ipv6(settings):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving(settings, "::1", free_port()) as (url, _):
        assert url.startswith("http://[::1]:") and urllib.request.urlopen(url, timeout=PATIENCE).status == 200


@pytest.mark.parametrize("digits", ["9" * 5000, "x", "-1", ""])
def test_invalid_numbers_of_visitors_are_ignored(digits):
    """Python refuses to read more than 4300 digits, and the page used to answer with a server error."""
    assert number_of_a_visitor(digits) is None and number_of_a_visitor("16000") == 16000


def test_only_uploaded_files_are_opened(settings, tmp_path, monkeypatch, astronaut):
    """A client other than the page can name any file, and the photo field passes the name on unchanged."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    request = SimpleNamespace(session_hash="somebody", state=SimpleNamespace(requested=time.monotonic()))
    buttons = Buttons(settings)
    (tmp_path / "uploads/a").mkdir(parents=True)
    for path in (tmp_path / "private.png", tmp_path / "uploads/a/given.png"):
        cv2.imwrite(str(path), astronaut[0:240, 100:340])
    (tmp_path / "uploads/link.png").symlink_to(tmp_path / "private.png")
    with pytest.raises(gradio.Error, match="After 50 minutes files are deleted, gone.png too; give it again"):
        buttons.find_faces(str(tmp_path / "uploads/a/gone.png"), False, request)  # the visitor waited too long
    for path in ("private.png", "uploads/../private.png", "uploads/link.png"):
        with pytest.raises(gradio.Error, match="This page was not given "):
            buttons.find_faces(str(tmp_path / path), False, request)
    assert len(buttons.find_faces(str(tmp_path / "uploads/a/given.png"), False, request)[2]) == 1


def test_no_url_is_fetched_for_visitors(tmp_path, monkeypatch):
    monkeypatch.setattr(gradio.processing_utils, "async_ssrf_protected_download", None)  # and restored afterwards
    import_layout().Page(Settings(detector="centerface")).server(tmp_path, 1 << 20)
    with pytest.raises(gradio.Error, match="not an address"):
        asyncio.run(gradio.processing_utils.async_ssrf_protected_download("http://127.0.0.1/", str(tmp_path)))


# --------------------------------------------------------------------------------------------------------------------
# In a browser


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("needs a chromium")
    with api.sync_playwright() as player:
        microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # it beeps
        opened = player.chromium.launch(executable_path=chromium, args=["--no-sandbox", *microphone])
        context = opened.new_context(viewport=WIDE)
        context.set_default_timeout(PATIENCE * 1000)
        yield context
        opened.close()


@pytest.fixture(scope="module")
def address(settings):
    """Where the page is served, with a limit of 1 MB and 5 s."""
    with serving(settings, server_port=free_port(), max_megabytes=1) as (url, _):
        yield url


@pytest.fixture(scope="module")
def window(browser):
    """One for all tests: a new one would compile the page's scripts again, for a second."""
    return browser.new_page()


@contextlib.contextmanager
def visit(window, address):
    """Show the page as a new visitor sees it; it requests nothing from other machines."""
    urls = []

    def note(request):
        urls.append(request.url)

    window.on("request", note)
    window.set_viewport_size(WIDE)
    window.goto(address)
    window.wait_for_selector("#start")
    yield window
    window.goto("about:blank")  # the visitor leaves
    window.remove_listener("request", note)
    elsewhere = [url for url in urls if not url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))]
    assert not elsewhere


@pytest.fixture
def tab(window, address):
    with visit(window, address) as shown:
        yield shown


@pytest.fixture
def hold(monkeypatch):
    """``hold(stage)`` lets actions wait in this stage, until they are stopped or the event that it returns is set."""
    go_on, shown = threading.Event(), Progress.progress

    def hold_at(held):
        def progress(report, stage, done, total):
            shown(report, stage, done, total)
            while stage == held and not go_on.wait(0.05):
                report.raise_if_stopped()

        monkeypatch.setattr(Progress, "progress", progress)
        return go_on

    yield hold_at
    go_on.set()


def give(tab, film, speech):
    tab.set_input_files("#film input[type=file]", str(film))
    tab.set_input_files("#speech input[type=file]", str(speech))
    tab.wait_for_selector("#speech audio", state="attached")


def test_video_is_lip_synced_in_the_browser(tab, pair):
    give(tab, *pair)
    tab.wait_for_selector("#faces img")
    tab.locator("#faces button:has(img)").nth(1).click()
    tab.wait_for_selector("text=Face 2 from the left will speak")
    tab.click("#look")
    tab.wait_for_selector("#preview img")
    tab.click("button:has-text('More')")
    tab.wait_for_selector("text=Only from this moment")
    tab.click("#start")
    tab.wait_for_selector("#result video")
    tab.wait_for_selector("text=Done.")
    tab.fill("label:has-text('Only from this moment') input", "9:00")
    tab.click("#start")
    tab.wait_for_selector("text=/9:00|540/")
    assert not tab.locator("text=Done.").count()  # this run failed
    assert tab.is_visible("#result video")


def test_file_in_the_wrong_field_is_pointed_to_the_right_one(tab, tmp_path, astronaut):
    """For a GIF under Video, the page used to say that "video/x-m4v,video/*" is allowed."""
    cv2.imwrite(str(tmp_path / "photo.png"), astronaut)
    tab.set_input_files("#film input[type=file]", str(tmp_path / "photo.png"))
    tab.wait_for_selector("text=a picture or GIF under Photo")


def test_camera_recording_is_searched_for_faces(browser, address):
    """Chromium's fake camera shows none. Recordings sometimes stay empty, more often in a window used before."""
    from playwright.sync_api import TimeoutError

    for _ in range(4):
        with (
            contextlib.closing(browser.new_page()) as window,
            visit(window, address) as tab,
            contextlib.suppress(TimeoutError),
        ):
            tab.click("#film button[aria-label='Capture from camera']")
            tab.click("#film >> text=Click to Access Webcam")
            begun = "document.querySelector('#film video')?.currentTime > 0.3"
            tab.wait_for_function(begun, timeout=1000 * PATIENCE / 4)
            tab.click("#film >> text=Record")
            tab.wait_for_timeout(2000)
            tab.click("#film >> text=Stop")
            tab.wait_for_selector("text=no face was found", timeout=1000 * PATIENCE / 4)
            return
    pytest.fail("no recording was searched")


def test_several_faces_get_a_speech_each_in_the_browser(tab, pair):
    tab.set_input_files("#film input[type=file]", str(pair[0]))
    tab.click("#several button:has-text('Several of them speak')")
    for name in ("voice1", "voice2"):
        tab.set_input_files(f"#{name} input[type=file]", str(pair[1]))
        tab.wait_for_selector(f"#{name} audio", state="attached")
    assert not tab.is_visible("#voice3")
    tab.click("#start")
    tab.wait_for_selector("#result video")


def test_other_tabs_report_their_results(tab, pair):
    """Who speaks; and that learning needs five seconds of a person, more than this video has."""
    tab.click("button[role=tab]:has-text('Who speaks?')")
    tab.set_input_files("#pair_film input[type=file]", str(pair[0]))
    tab.wait_for_selector("#pair_film video")
    tab.set_input_files("#voices input[type=file]", str(pair[1]))
    tab.wait_for_selector("#voices >> text=speech")
    tab.click("#compare")
    tab.wait_for_function("document.querySelector('#verdict textarea').value.includes('mean similarity')")
    tab.wait_for_selector("#plot img")
    tab.click("button[role=tab]:has-text('One person')")
    tab.set_input_files("#person input[type=file]", str(pair[0]))
    tab.wait_for_selector("#person video")
    tab.click("#learn")
    tab.wait_for_selector("text=/5 s|five seconds/")


def test_microphone_makes_a_face_speak(tab, pair):
    tab.click("button[role=tab]:has-text('Live')")
    tab.click("#talk")
    tab.wait_for_selector("text=Prepare a face first.")
    tab.set_input_files("#live_film input[type=file]", str(pair[0]))
    tab.wait_for_selector("#live_film video")
    tab.click("#prepare")
    tab.wait_for_selector("text=Ready.")
    tab.click("#talk")
    tab.wait_for_selector("text=/Live: [0-9]+ frames a second/")
    assert tab.evaluate("document.getElementById('live-picture').width") == 240
    tab.click("#hush")
    tab.wait_for_function("document.getElementById('live-words').textContent == ''")


def test_keyboard_is_enough(tab, pair):
    """From the top of the page to the result, with Tab and Enter."""
    film, speech = pair
    upload_by_keyboard(tab, "#film", film)
    tab.wait_for_selector("#faces img")
    upload_by_keyboard(tab, "#speech", speech, "Drop an audio file here to upload")
    tab.wait_for_selector("#speech .waveform-container")
    reach_and_press(tab, "#faces", "Thumbnail 2 of 2")
    tab.wait_for_selector("text=Face 2 from the left will speak")
    reach_and_press(tab, "#start", "Lip-sync")
    tab.wait_for_selector("#result video")


def test_keyboard_is_enough_for_the_other_tabs(tab, pair):
    """Compare, learn (for which the video is too short), and speak live until stopped."""
    film, speech = pair
    reach_and_press(tab, "[role=tablist]", "Who speaks?")
    upload_by_keyboard(tab, "#pair_film", film)
    tab.wait_for_selector("#pair_film video")
    upload_by_keyboard(tab, "#voices", speech, "Click to upload or drop files")
    tab.wait_for_selector("#voices >> text=speech")
    reach_and_press(tab, "#compare", "Compare")
    tab.wait_for_function("document.querySelector('#verdict textarea').value.includes('mean similarity')")
    reach_and_press(tab, "[role=tablist]", "One person")
    upload_by_keyboard(tab, "#person", film)
    tab.wait_for_selector("#person video")
    reach_and_press(tab, "#learn", "Learn")
    tab.wait_for_selector("text=/5 s|five seconds/")
    reach_and_press(tab, "[role=tablist]", "Live")
    upload_by_keyboard(tab, "#live_film", film)
    tab.wait_for_selector("#live_film video")
    reach_and_press(tab, "#prepare", "Prepare")
    tab.wait_for_selector("text=Ready.")
    reach_and_press(tab, "#talk", "Talk")
    tab.wait_for_selector("text=/Live: [0-9]+ frames a second/")
    reach_and_press(tab, "#hush", "Stop")
    tab.wait_for_function("document.getElementById('live-words').textContent == ''")


def upload_by_keyboard(tab, place, path, name="Drop a video file here to upload"):
    """Upload a file with the element with this name in ``place``."""
    with tab.expect_file_chooser() as chooser:
        reach_and_press(tab, place, name)
    chooser.value.set_files(str(path))


def reach_and_press(tab, place, name):
    """Press Tab until the element with this name in ``place`` has the focus, then Enter."""
    where = """([place, name]) => {
        const element = document.activeElement;
        return element.closest(place) && (element.ariaLabel || element.textContent).trim() == name;
    }"""
    tab.wait_for_selector(place)
    for _ in range(60):
        tab.keyboard.press("Tab")
        if tab.evaluate(where, [place, name]):
            tab.keyboard.press("Enter")
            return
    raise AssertionError(f"{name} cannot be reached")


def test_page_reports_unusable_files_and_goes_on(tab, pair, tmp_path):
    tab.click("#start")
    tab.wait_for_selector("text=give a video or a photo of a face first")
    write_clip(tmp_path / "blank.mp4", np.full((10, 96, 128, 3), 90, np.uint8))
    tab.set_input_files("#film input[type=file]", str(pair[0]))
    tab.wait_for_selector("#faces img")
    tab.click("#film button[aria-label='Clear'], #film button[aria-label='Remove video']")
    tab.set_input_files("#film input[type=file]", str(tmp_path / "blank.mp4"))
    tab.wait_for_selector("text=no face was found")
    assert not tab.is_visible("#faces") and not tab.is_visible("#several")  # those of the previous video
    tab.reload()
    (tmp_path / "large.mp4").write_bytes(bytes(2 << 20))
    tab.set_input_files("#film input[type=file]", str(tmp_path / "large.mp4"))
    tab.wait_for_selector("text=/exceed|too large|maximum/i")


def test_everything_fits_a_narrow_screen(tab):
    tab.set_viewport_size({"width": 360, "height": 800})
    tab.wait_for_function("document.querySelectorAll('button[role=tab]').length == 8")  # all visible, none in a menu
    for name, needed in (
        ("Lip-sync", ("film", "speech", "start", "result")),
        ("Who speaks?", ("pair_film", "voices", "compare", "verdict", "plot")),
        ("One person", ("person", "learn", "stop_learning", "network", "sheet")),
        ("Live", ("live_film", "live-picture", "prepare", "talk", "hush", "hear")),
    ):
        tab.click(f"button[role=tab]:has-text('{name}')")
        for one in needed:
            tab.wait_for_selector(f"#{one}")
        tab.wait_for_function("document.documentElement.scrollWidth <= 360")
        boxes = [tab.locator(f"#{one}").bounding_box() for one in needed]
        assert all(0 <= box["x"] < box["x"] + box["width"] <= 360 for box in boxes if box), name


def test_files_of_the_server_are_not_served(address):
    secret = Path(__file__).resolve()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{address}/gradio_api/file={secret}", timeout=PATIENCE)
    assert refused.value.code in (403, 404)


def test_job_about_a_file_of_the_server_is_refused(address, talking_clip):
    """A client that bypasses the page can name a video that nobody uploaded."""
    requests = pytest.importorskip("requests")
    config = requests.get(f"{address}/config", timeout=PATIENCE).json()
    (film,) = (one["id"] for one in config["components"] if one["props"].get("elem_id") == "film")
    jobs = [one for one in config["dependencies"] if film in one["inputs"]]
    assert jobs
    for job in jobs:
        named = {"path": str(talking_clip), "meta": {"_type": "gradio.FileData"}}
        data = [named if place == film else None for place in job["inputs"]]
        message = {"data": data, "fn_index": job["id"], "session_hash": "nobody", "trigger_id": film}
        assert requests.post(f"{address}/gradio_api/queue/join", json=message, timeout=PATIENCE).ok
        where = {"session_hash": "nobody"}
        with requests.get(f"{address}/gradio_api/queue/data", params=where, stream=True, timeout=PATIENCE) as events:
            done = next(line for line in events.iter_lines() if b"process_completed" in line)
        said = json.loads(done.removeprefix(b"data: "))
        assert said["success"] is False and talking_clip.name.encode() not in done
        assert "reload the page" in said["output"]["error"]  # as after a restart; an error without words shows nothing


def test_only_files_are_uploaded(address):
    """Parts of a form without a file name were kept in memory three times, up to the largest upload."""
    requests = pytest.importorskip("requests")
    for parts, status in (({"files": ("a.txt", b"x")}, 200), ({"files": (None, b"x" * 1000)}, 400)):
        assert requests.post(f"{address}/gradio_api/upload", files=parts, timeout=PATIENCE).status_code == status


def test_cancelled_lip_sync_can_be_started_again(tab, pair, hold):
    go_on = hold("Lip-syncing")
    give(tab, *pair)
    tab.wait_for_selector("#faces img")
    tab.click("#start")
    tab.wait_for_selector("text=/Lip-syncing: [0-9]+ of/")
    tab.click("#cancel")
    tab.wait_for_selector("text=Stopped; nothing was kept.")
    go_on.set()
    tab.click("#start")
    tab.wait_for_selector("#result video")


def test_faces_are_those_of_the_video_given_last(tab, pair, tmp_path, hold):
    """One given during a search was never searched, and got the faces of the one before."""
    write_clip(tmp_path / "nobody.mp4", np.full((25, 120, 160, 3), 90, np.uint8))
    go_on = hold("Finding faces")
    tab.set_input_files("#film input[type=file]", str(pair[0]))
    tab.wait_for_selector("text=/Finding faces/")
    tab.click("#film button[aria-label='Clear']")
    tab.set_input_files("#film input[type=file]", str(tmp_path / "nobody.mp4"))
    tab.wait_for_selector("#film video")
    go_on.set()
    tab.wait_for_selector("text=/no face was found/i")
    assert not tab.locator("#faces img").count()


def test_cancel_takes_an_action_out_of_the_queue(tab, browser, address, pair, hold, monkeypatch):
    go_on, cancelled, stop = hold("Lip-syncing"), threading.Event(), Sessions.stop
    monkeypatch.setattr(Sessions, "stop", lambda *args: (stop(*args), cancelled.set()))
    first = browser.new_page()
    first.goto(address)
    for page in (first, tab):
        page.wait_for_selector("#start")
        give(page, *pair)
        page.wait_for_selector("#faces img")
    first.click("#start")
    first.wait_for_selector("text=/Lip-syncing: [0-9]+ of/")
    tab.click("#start")
    tab.wait_for_selector("text=/queue: 1/")
    tab.click("#cancel")
    assert cancelled.wait(PATIENCE)
    go_on.set()
    tab.wait_for_selector("text=Stopped; nothing was kept.")
    first.wait_for_selector("#result video")
    first.close()
    assert not tab.locator("#result video").count()


def test_closing_the_page_stops_its_action(tab, browser, address, pair):
    """The next visitor is served."""
    closed_page = browser.new_page()
    closed_page.goto(address)
    closed_page.wait_for_selector("#start")
    give(closed_page, *pair)
    closed_page.wait_for_selector("#faces img")
    closed_page.click("#start")
    closed_page.close()
    give(tab, *pair)
    tab.wait_for_selector("#faces img")
    tab.click("#start")
    tab.wait_for_selector("#result video")
