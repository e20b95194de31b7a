"""Measure live speech on the page in a real browser: its latency, and how it holds up over a long talk.

    python -m benchmarks.browser latency [--face PHOTO --audio SPEECH] [--onsets 24] [--hear]
    python -m benchmarks.browser long [--face VIDEO --audio SPEECH] [--minutes 60]

Chromium's microphone plays a file in a loop; app.py serves the page in a process of its own.

``latency``: half a second of speech, then silence, repeated, with a photo as the face, so that only the mouth moves.
Times are counted from when the page records the sound: to the first change of the mouth on the screen, which precedes
the sound's own frame because lips start to move early; and to that frame, broken down by stage.

``long``: continuous speech. Prints every minute the memory of the server and its child processes and the files on its
disk; at the end, what is left of these after the page is closed, how many frames were shown, how late they were (after
the server had the sound), and what grows. ``--slow 10`` simulates a slow browser, ``--link 150`` a slow connection.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.io import wavfile

import cli
import live
import video
from benchmarks import report, resident_mb
from demo.talking_head import Recipe, write_clip, write_speech
from faces import FaceSearch
from lipsync import LipSync

ROOT = Path(__file__).resolve().parent.parent
RATE = 48000  # Hz, of the file that the microphone plays
SPOKEN, PERIOD = 0.5, 2.537  # seconds: speech in each period, and the period, no multiple of a frame
LOUD = 0.02  # peak amplitude, as in browser.js
MOVED = 0.3  # grey levels; a mouth that changes by more has moved
WAIT = 120.0  # seconds, the longest wait for the page

# app.py, with a log of when sound arrives and when its frames are generated
PROGRAM = """
import json, sys, time
import app, live, page.sessions, page.stage
notes = open(sys.argv[1], "w", buffering=1)
def note(*values):
    notes.write(json.dumps(values) + "\\n")
class Noted(live.Session):
    def push(self, samples):
        note("heard", time.time(), len(samples) / self._rate, float(abs(samples).max()))
        super().push(samples)
    def _draw(self, parts):
        begun, waiting = time.time(), self.waiting
        drawn = super()._draw(parts)
        for frame in drawn:
            note("made", begun, time.time(), frame.time, frame.moment, float(abs(frame.sound).max()), waiting)
        return drawn
live.Session = Noted
page.stage.MAX_SECONDS = page.sessions.KEPT_SECONDS = float("inf")
sys.exit(app.main(sys.argv[2:]))
"""


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Measure live speech on the page in a browser.")
    add = parser.add_argument
    add("what", choices=("latency", "long"), help="Measure the latency of the mouth, or a long talk.")
    add("--face", type=Path, help="A photo for latency, a video for long; without it, a drawn head.")
    add("--audio", type=Path, help="The speech; without it, synthetic speech.")
    add(
        "--onsets",
        type=cli.positive(int),
        default=24,
        help="Number of speech onsets after silence, for latency.",
    )
    add("--minutes", type=cli.positive(float), default=60.0, help="Minutes of talk, for long.")
    add("--hear", action="store_true", help="Let the page play the sound as well.")
    add("--slow", type=cli.positive(float), default=1.0, help="Slow the browser down by this factor.")
    add("--link", type=cli.positive(float), help="Limit the browser's download to this many kilobytes per second.")
    add("--chromium", default="/usr/bin/chromium", help="The path of Chromium's executable.")
    add("--notes", type=Path, help="Write the raw measurements to this file, as JSON.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder)
        face, sound = prepare_inputs(args, kept)
        with serve_page(kept) as (address, server), open_browser(args, sound) as browser:
            tab = browser.new_page()
            tab.add_init_script(path=Path(__file__).with_suffix(".js"))
            tab.goto(address)
            begin(tab, face, args)
            seen = watch_onsets(tab, args.onsets) if args.what == "latency" else watch(tab, args.minutes, server, kept)
            tab.close()
            report("closed", state_after_closing(server, kept))
        notes = [json.loads(line) for line in Path(kept, "notes").read_text().splitlines()]
    if args.notes:
        args.notes.write_text(json.dumps({"browser": seen, "server": notes}))
    timeline = Timeline(seen, notes)
    for name, figures in timeline.latencies() if args.what == "latency" else timeline.minutes():
        report(name, figures)


# --------------------------------------------------------------------------------------------------------------------
# The page and the browser


def prepare_inputs(args: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Return the photo or video, and the sound file for the microphone."""
    face, speech = args.face, args.audio or folder / "speech.wav"
    if face is None:
        face = folder / "head.mp4"
        write_clip(face, Recipe(seconds=6.0, size=(512, 512)))
    if args.what == "latency" and not video.probe(face).is_image:
        frame = next(video.read_frames(video.probe(face), 0, 1))
        cv2.imwrite(str(face := folder / "photo.png"), frame)
    if args.audio is None:
        write_speech(speech, Recipe(seconds=30.0))
    sound = video.read_audio(speech, RATE)
    sound = bursts(sound) if args.what == "latency" else sound
    wavfile.write(folder / "microphone.wav", RATE, (sound * 32767).astype(np.int16))
    return face, folder / "microphone.wav"


def bursts(sound: np.ndarray) -> np.ndarray:
    """Return pieces of a speech (samples,) that begin loudly, each with a silence before it."""
    loud, spoken = np.flatnonzero(np.abs(sound) > 0.3 * np.abs(sound).max()), round(SPOKEN * RATE)
    silence = np.zeros(round(PERIOD * RATE) - spoken, np.float32)
    starts = [start for start in loud[:: len(loud) // 8] if start + spoken <= len(sound)]
    return np.concatenate([part for start in starts for part in (silence, sound[start : start + spoken])])


@contextlib.contextmanager
def serve_page(folder: Path) -> Iterator[tuple[str, int]]:
    """Serve the page within the ``with`` block, its files in ``folder``/disk; yield its address and process ID."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    disk = folder / "disk"
    disk.mkdir()
    command = [sys.executable, "-c", PROGRAM, folder / "notes", "--server_port", port, "--face_detector", "centerface"]
    server = subprocess.Popen([*map(str, command)], cwd=ROOT, env={**os.environ, "TMPDIR": str(disk)})
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(address))
        yield address, server.pid
    finally:
        server.terminate()  # not SIGINT, which background jobs ignore
        server.wait()


def answers(address: str) -> bool:
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(address).status == 200
    return False


def wait_until(condition: Callable[[], bool]) -> None:
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > WAIT:
            raise RuntimeError(f"the page did not answer within {WAIT:.0f} s")
        time.sleep(0.2)


@contextlib.contextmanager
def open_browser(args: argparse.Namespace, sound: Path) -> Iterator[Any]:
    """Open a browser with a microphone that plays ``sound``."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags.append(f"--use-file-for-fake-audio-capture={sound}")
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=args.chromium, args=flags)
        yield browser
        browser.close()


def begin(tab: Any, face: Path, args: argparse.Namespace) -> None:
    """Prepare the face on the page and start talking."""
    tab.set_default_timeout(WAIT * 1000)
    tab.evaluate("at => { window.mouthAt = at; }", mouth_of(face))
    slow_down(tab, args)
    tab.click("button[role=tab]:has-text('Live')")
    kind = "photo" if video.probe(face).is_image else "film"
    if kind == "photo":
        tab.locator("button[role=tab]:has-text('Photo')").last.click()
    tab.set_input_files(f"#live_{kind} input[type=file]", str(face))
    tab.wait_for_selector(f"#live_{kind} :is(video, img)")
    tab.click("#prepare")
    tab.wait_for_selector("text=Ready.")
    if args.hear:
        tab.check("#hear input")
    tab.click("#talk")
    tab.wait_for_selector("text=/Live: [0-9]+ frames a second/")


def slow_down(tab: Any, args: argparse.Namespace) -> None:
    tools = tab.context.new_cdp_session(tab)
    tools.send("Emulation.setCPUThrottlingRate", {"rate": args.slow})
    if args.link:
        tools.send("Network.enable")
        limits = {"offline": False, "latency": 0, "uploadThroughput": -1, "downloadThroughput": args.link * 1000}
        tools.send("Network.emulateNetworkConditions", limits)


def mouth_of(face: Path) -> list[float]:
    """Return the lower half of the first face box: left, top, width, height as shares of the picture."""
    prepared = live.prepare(LipSync(search=FaceSearch("centerface", cache=False)), face, 1.0)
    x1, y1, x2, y2 = next(box for box in prepared.boxes if box)
    width, height = prepared.source.width, prepared.source.height
    return [x1 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / 2 / height]


# --------------------------------------------------------------------------------------------------------------------
# Recording


def read_recorded(tab: Any) -> dict[str, list]:
    """Return what the page has recorded since the last call, and clear it."""
    return tab.evaluate("() => Object.fromEntries(Object.entries(measured).map(([key, all]) => [key, all.splice(0)]))")


def watch_onsets(tab: Any, count: int) -> dict[str, list]:
    seen: dict[str, list] = {}
    while len(seen.get("onsets", [])) < count + 1:
        time.sleep(2.0)
        for key, values in read_recorded(tab).items():
            seen.setdefault(key, []).extend(values)
    return seen


def watch(tab: Any, minutes: float, server: int, folder: Path) -> dict[str, list]:
    """Report the server's state every minute; return all that the page recorded."""
    seen: dict[str, list] = {"states": []}
    start = time.monotonic()
    for minute in range(1, math.ceil(minutes) + 1):
        time.sleep(max(0.0, start + 60 * minute - time.monotonic()))
        for key, values in read_recorded(tab).items():
            seen.setdefault(key, []).extend(values)
        state = state_of(server, folder)
        seen["states"].append({"time": time.time(), **state})
        report(f"minute {minute}", state)
    return seen


def state_of(server: int, folder: Path) -> dict[str, float]:
    """Return the memory of the server and its child processes in MB, and the files on its disk."""
    files = [path for path in (folder / "disk").rglob("*") if path.is_file()]
    children = children_of(server)
    return {
        "server_mb": memory_of(server), "children_mb": sum(map(memory_of, children)), "children": len(children),
        "files": len(files), "files_mb": sum(path.stat().st_size for path in files) / 2**20,
    }  # fmt: skip


def memory_of(process: int) -> float:
    with contextlib.suppress(OSError):  # the process has ended
        return resident_mb(process)
    return 0.0


def children_of(process: int) -> list[int]:
    """Return the IDs of all descendants of a process."""
    found = []
    for listed in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if listed.read_text().rpartition(")")[2].split()[1] == str(process):
                child = int(listed.parent.name)
                found += [child, *children_of(child)]
    return found


def state_after_closing(server: int, folder: Path) -> dict[str, float]:
    """Return the server's state ten seconds after the page was closed."""
    time.sleep(10.0)
    return state_of(server, folder)


# --------------------------------------------------------------------------------------------------------------------
# Figures


class Timeline:
    """When each sound reached the server, and its frame was made, received and shown; in seconds since 1970."""

    def __init__(self, seen: dict[str, list], notes: list[list]) -> None:
        self.onsets, self.states = np.array(seen.get("onsets", [])), seen.get("states", [])
        self.heard = np.array([values for kind, *values in notes if kind == "heard"])  # time, duration, peak
        self.made = np.array([values for kind, *values in notes if kind == "made"], float)  # see PROGRAM
        self.arrived = np.array(seen["arrived"])  # time, session time
        self.drawn = np.array(seen["drawn"])  # time, change of the mouth, time on screen, session time

    def latencies(self) -> Iterator[tuple[str, dict[str, float]]]:
        rows = np.array([row for onset in self.onsets[1:] if (row := self._onset_delays(onset))])
        moved, *delays = rows.T
        yield "mouth moves", {"onsets": len(rows), **spread(moved)}
        yield "own frame on the screen", spread(np.sum(delays, axis=0))
        names = ("heard to pushed", "waiting for sound ahead", "generating", "to the browser", "drawing", "to screen")
        for name, seconds in zip(names, delays):
            yield name, spread(seconds)
        yield "frames", {"a second": (len(self.drawn) - 1) / np.ptp(self.drawn[:, 0])}

    def _onset_delays(self, onset: float) -> tuple[float, ...] | None:
        """Return the seconds from an onset to the first change of the mouth, and those of each stage of its frame."""
        pushed = first(self.heard, (self.heard[:, 0] > onset - 0.05) & (self.heard[:, 2] > LOUD))
        moved = first(self.drawn, (self.drawn[:, 2] > onset) & (self.drawn[:, 1] > MOVED))
        made = first(self.made, (self.made[:, 1] > onset) & (self.made[:, 4] > LOUD))
        if pushed is None or moved is None or made is None:
            return None
        arrived = first(self.arrived, self.arrived[:, 1] >= made[2])
        drawn = first(self.drawn, self.drawn[:, 3] >= made[2])  # or the next, if this one was dropped
        if arrived is None or drawn is None:
            return None
        return moved[2] - onset, *np.diff((onset, pushed[0], *made[:2], arrived[0], drawn[0], drawn[2]))

    def minutes(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Yield frame rate and delay of each minute, then of all, then how they grow."""
        shown = self.drawn[np.isin(self.drawn[:, 3], self.made[:, 2])]
        moments = self.made[np.searchsorted(self.made[:, 2], shown[:, 3]), 3]
        shown, moments = shown[~np.isnan(moments)], moments[~np.isnan(moments)]  # frames with speech
        said = np.searchsorted(np.cumsum(self.heard[:, 1]), moments).clip(max=len(self.heard) - 1)
        late, rows = shown[:, 2] - self.heard[said, 0], []
        for minute, state in enumerate(self.states, 1):
            here = late[np.abs(shown[:, 2] - state["time"] + 30) <= 30]
            fps = np.count_nonzero(np.abs(self.drawn[:, 2] - state["time"] + 30) <= 30) / 60
            rows.append([minute, fps, np.median(here), state["server_mb"]])
            yield f"minute {minute}", {"fps": fps, **spread(here)}
        minutes, fps, median, memory = np.array(rows).T
        settled = minutes > min(5, len(minutes) // 2)  # libraries and buffers are allocated by then
        yield "all", {"fps": fps.mean(), "fps_least": fps.min(), **spread(late), "minute_worst_s": median.max()}
        if np.count_nonzero(settled) > 1:
            growth = {"late_s": slope(minutes, median), "memory_mb": slope(minutes[settled], memory[settled])}
            yield "growth in an hour", growth


def first(rows: np.ndarray, these: np.ndarray) -> np.ndarray | None:
    return rows[these.argmax()] if these.any() else None


def spread(seconds: np.ndarray) -> dict[str, float]:
    return {"median_s": float(np.median(seconds)), "worst_s": float(seconds.max())}


def slope(minutes: np.ndarray, values: np.ndarray) -> float:
    """Return the growth per hour, by least squares."""
    return 60 * float(np.polyfit(minutes, values, 1)[0])


if __name__ == "__main__":
    sys.exit(main())
