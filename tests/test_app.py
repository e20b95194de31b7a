"""The page: what its buttons do, for whom, and that it works in a browser."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest

import app
import video
from conftest import run_ffmpeg, write_clip
from page import sessions
from page.actions import Actions, Settings
from page.sessions import Progress, Sessions, Stopped, check_length, describe
from reporting import SILENT


@pytest.fixture(scope="module")
def pair(tmp_path_factory, astronaut, speech):
    """(video of two people, a darker one on the right, speech): a second of each."""
    path = tmp_path_factory.mktemp("pair") / "two.mp4"
    person = astronaut[0:240, 100:340]
    write_clip(path, np.stack([np.hstack([person, (person[:, ::-1] * 0.6).astype(np.uint8)])] * 25))
    return path, speech


@pytest.fixture(scope="module")
def actions():
    return Actions(Settings(detector="centerface", max_seconds=5.0))


@pytest.fixture
def opened():
    return Sessions()


@pytest.fixture
def session(opened):
    return opened.of("somebody")


# --------------------------------------------------------------------------------------------------------------------
# Sessions


def test_nobody_is_given_what_is_another_s(opened):
    a, b = opened.of("a"), opened.of("b")
    assert a.folder != b.folder and opened.of("a") is a
    (a.new_file(".mp4")).write_text("a")
    assert a.new_file(".mp4") != a.new_file(".mp4") and not list(b.folder.iterdir())


def test_whoever_leaves_stops_and_leaves_nothing(opened):
    a = opened.of("a")
    a.new_file(".mp4").write_text("a")
    opened.close("a")
    assert not a.folder.exists() and a.stop.is_set()
    opened.close("a")  # twice, or never there
    opened.stop("never there")


def test_nothing_is_kept_for_more_than_an_hour(opened, monkeypatch):
    a = opened.of("a")
    opened.of("b")
    assert a.folder.exists()
    a.used -= sessions.KEPT_SECONDS + 1
    opened.of("b")
    assert not a.folder.exists()


def test_what_runs_stops_when_it_is_asked_to(opened, session):
    told = []
    report = Progress(session, lambda share, words: told.append((share, words)))
    with report.stage("Working", 4) as advance:
        advance(2)
        opened.stop("somebody")
        with pytest.raises(Stopped):
            advance(1)
    assert told[0] == (0.0, "Working: 0 of 4")


@pytest.mark.parametrize("figures, words", [
    ((50, 200, 2.0), "Lip-syncing: 50 of 200, 25 a second, 6 s left"),
    ((2, 4, 8.0), "Lip-syncing: 2 of 4, 4.0 s each, 8 s left"),
    ((10, None, 1.0), "Lip-syncing: 10, 10 a second"),
    ((0, 9, 0.0), "Lip-syncing: 0 of 9"),
])  # fmt: skip
def test_progress_is_said_in_words(figures, words):
    assert describe("Lip-syncing", *figures) == words


def test_what_is_too_long_is_refused():
    check_length(5.0, 5.0)
    with pytest.raises(ValueError, match="lasts 6 s, and the page takes 5 s at most"):
        check_length(6.0, 5.0)


# --------------------------------------------------------------------------------------------------------------------
# Actions


def test_faces_are_shown_from_left_to_right(actions, session, pair):
    """As --face_index counts: the picture on the left is of the head on the left."""
    seen = actions.find_faces(session, str(pair[0]), SILENT)
    assert len(seen.pictures) == 2 and "2 faces" in seen.words
    left, right = (picture.mean() for picture in seen.pictures)
    assert right < 0.75 * left


def test_a_picture_without_a_face_is_told(actions, session, tmp_path):
    cv2.imwrite(str(tmp_path / "blank.png"), np.full((240, 320, 3), 90, np.uint8))
    with pytest.raises(ValueError, match="no face was found"):
        actions.find_faces(session, str(tmp_path / "blank.png"), SILENT)


def test_a_preview_is_a_frame_of_the_result(actions, session, pair):
    options = {"face_index": 1, "silence": "closed"}
    shown = actions.preview(session, *map(str, pair), 0.6, SILENT, **options)
    lips = actions.lips(session, SILENT)
    frames = list(lips.stream(lips.prepare(*pair, **options)))
    assert (shown[..., ::-1] == frames[15]).all()


def test_a_lip_sync_is_in_the_session_s_folder_alone(actions, session, pair):
    made = actions.lip_sync(session, *map(str, pair), SILENT, face_index=0)
    assert session.folder in made.parents and video.probe(made).width == 480
    boxes = list((session.folder / "boxes").iterdir())
    assert boxes  # not in the cache of whoever runs the page


def test_speech_that_is_too_long_is_refused(actions, session, pair, tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "aevalsrc=0.3*sin(900*t):d=6:s=16000", tmp_path / "long.wav")
    with pytest.raises(ValueError, match="takes 5 s at most"):
        actions.lip_sync(session, str(pair[0]), str(tmp_path / "long.wav"), SILENT)


def test_who_speaks_is_said_and_drawn(actions, session, pair):
    words, plot = actions.measure(session, str(pair[0]), [str(pair[1])], SILENT)
    assert "voice 1" in words and cv2.imread(str(plot)) is not None


# --------------------------------------------------------------------------------------------------------------------
# In a browser


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("needs a chromium")
    with api.sync_playwright() as player:
        opened = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address():
    """Where the page is served, with a limit of 1 MB and 5 s."""
    pytest.importorskip("gradio", reason="needs gradio")
    flags = ["--face_detector", "centerface", "--max_megabytes", "1", "--max_seconds", "5", "--server_port", "7899"]
    with app.serving(app.get_parser().parse_args(flags)) as url:
        yield url


@pytest.fixture
def tab(browser, address):
    """The page, as somebody new sees it; it asks no other machine for anything."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    asked = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    opened.wait_for_selector("#start")
    yield opened
    opened.close()
    elsewhere = [url for url in asked if not url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))]
    assert not elsewhere


def give(tab, film, speech):
    tab.set_input_files("#film input[type=file]", str(film))
    tab.set_input_files("#speech input[type=file]", str(speech))
    tab.wait_for_selector("#speech audio", state="attached")


def test_a_video_is_lip_synced_in_the_browser(tab, pair):
    give(tab, *pair)
    tab.wait_for_selector("#faces img")
    tab.locator("#faces button:has(img)").nth(1).click()
    tab.wait_for_selector("text=Face 2 from the left will speak")
    tab.click("#look")
    tab.wait_for_selector("#preview img")
    tab.click("#start")
    tab.wait_for_selector("#result video", timeout=60000)
    tab.wait_for_selector("text=Done.")


def test_the_keyboard_is_enough(tab, pair):
    give(tab, *pair)
    tab.wait_for_selector("#faces img")
    tab.focus("#look")
    for _ in range(10):
        if tab.evaluate("document.activeElement.id") == "start":
            break
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#result video", timeout=60000)


def test_what_cannot_be_used_is_said_and_the_page_goes_on(tab, pair, tmp_path):
    tab.click("#start")
    tab.wait_for_selector("text=give a video or a photo of a face first")
    write_clip(tmp_path / "blank.mp4", np.full((10, 96, 128, 3), 90, np.uint8))
    tab.set_input_files("#film input[type=file]", str(tmp_path / "blank.mp4"))
    tab.wait_for_selector("text=no face was found")
    tab.reload()
    (tmp_path / "large.mp4").write_bytes(bytes(2 << 20))
    tab.set_input_files("#film input[type=file]", str(tmp_path / "large.mp4"))
    tab.wait_for_selector("text=/exceed|too large|maximum/i")


def test_a_narrow_screen_has_all_of_it(tab):
    tab.set_viewport_size({"width": 380, "height": 800})
    width = tab.evaluate("document.documentElement.scrollWidth")
    assert width <= 400 and all(tab.is_visible(f"#{name}") for name in ("film", "speech", "start", "result"))


def test_files_of_the_machine_are_not_handed_out(address):
    secret = Path(__file__).resolve()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{address}/gradio_api/file={secret}")
    assert refused.value.code in (403, 404)


def test_whoever_vanishes_stops_what_they_started(tab, browser, address, pair):
    """The one after them is served."""
    gone = browser.new_page()
    gone.goto(address)
    gone.wait_for_selector("#start")
    give(gone, *pair)
    gone.wait_for_selector("#faces img")
    gone.click("#start")
    gone.close()
    give(tab, *pair)
    tab.wait_for_selector("#faces img", timeout=60000)
    tab.click("#start")
    tab.wait_for_selector("#result video", timeout=60000)
