"""What a face looks like, shot by shot: where one is held like none before, the video is looked at again."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import lipsync
import video
from appearance import FEWEST, MOST, PAUSE, Appearance, Appearances, groups
from conftest import run_ffmpeg
from conftest import write_clip as write_frames
from demo.talking_head import Recipe, write_clip
from lipsync import LipSync
from mouths import crop
from references import FAR, postures_of

SHOT = 30  # frames


def turned(degrees: float) -> np.ndarray:
    """A face of stripes: light that falls on it from one side, so far from another."""
    rows, columns = np.mgrid[0:96, 0:96] / 96
    angle = math.radians(degrees)
    light = 127 + 120 * np.sin(4 * math.pi * (columns * math.cos(angle) + rows * math.sin(angle)))
    return np.repeat(light[..., None], 3, axis=2).astype(np.uint8)


HERE, THERE, ELSEWHERE, BEHIND = (turned(degrees) for degrees in (0, 45, 90, 135))


def known(*faces: np.ndarray) -> Appearance:
    return Appearance(postures_of(faces))


def test_these_are_held_otherwise():
    """What the tests below stand on."""
    held = postures_of([HERE, THERE, ELSEWHERE, BEHIND])
    assert min(np.abs(one - other).mean() for one, other in itertools.combinations(held, 2)) > FAR


def test_the_nearest_is_taken_and_nobody_looks_again_for_what_is_known():
    here, there = known(HERE), known(HERE, THERE)
    appearances = Appearances([here, known(THERE)], look=None)
    assert appearances.of(HERE, 0) is here
    asked = []
    appearances = Appearances([there], look=asked.append)
    assert appearances.of(HERE, 0) is appearances.of(THERE, 1) is there and not asked


def test_what_is_not_known_is_looked_at_once():
    """And again only after a while: somebody may be held like nothing else for a moment."""
    here, elsewhere, asked = known(HERE), known(ELSEWHERE), []

    def look(index: int) -> list[Appearance]:
        asked.append(index)
        return [known(HERE)] if index < 100 else [known(HERE), elsewhere]

    appearances = Appearances([here], look, fps=25.0)
    for index in range(100):
        assert appearances.of(ELSEWHERE, index) is here  # there is nothing better
    assert asked == list(range(0, 100, math.ceil(PAUSE * 25)))
    assert appearances.of(ELSEWHERE, 100) is elsewhere and appearances.of(ELSEWHERE, 101) is elsewhere
    assert appearances.of(HERE, 102) is here and asked[-1] == 100
    assert appearances.anew().of(ELSEWHERE, 0) is here  # another time, the same is known as the first


def test_what_was_of_no_use_for_longest_is_forgotten():
    here, there = known(HERE), known(THERE)
    others = [known(ELSEWHERE) for _ in range(MOST - 2)]
    appearances = Appearances([there, here, *others], lambda index: [known(BEHIND)])
    assert appearances.of(THERE, 0) is there  # so it is not the one that is of no use for longest
    appearances.of(BEHIND, 1)
    assert appearances.of(THERE, 2) is there and appearances.of(HERE, 3) is not here


def test_faces_are_split_by_how_they_are_held():
    faces = np.stack([HERE, THERE] * FEWEST + [HERE] + [ELSEWHERE] * (FEWEST - 1))
    split = groups(faces)
    assert [len(group) for group in split] == [FEWEST + 1, FEWEST]  # of the others there are too few
    assert (split[0] == HERE).all() and (split[1] == THERE).all()
    assert [len(group) for group in groups(faces[:1])] == [1]  # of one there is one


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """Two drawn heads, one after the other, both speaking, and a box that has room for both their faces."""
    folder, frames, boxes = tmp_path_factory.mktemp("shots"), [], []
    for seed in (3, 12):
        truth = write_clip(folder / f"{seed}.mp4", Recipe(seconds=SHOT / 25, size=(192, 192)), seed)
        frames += itertools.islice(video.read_frames(video.probe(folder / f"{seed}.mp4")), SHOT)
        boxes.append(np.median(truth["boxes"], axis=0).reshape(4))
    write_frames(folder / "both.mp4", np.stack(frames))
    (x1, y1), (x2, y2) = np.min(boxes, 0)[:2].astype(int).tolist(), np.max(boxes, 0)[2:].astype(int).tolist()
    return folder / "both.mp4", (y1, y2, x1, x2)


def test_lips_rest_in_the_silence_of_a_later_shot(shots, tmp_path, monkeypatch):
    """Which was not seen when the first was looked at; as it was filmed, something of its speech is left."""
    monkeypatch.setattr(lipsync, "LOOKED_AT", 0.8)
    path, (top, bottom, left, right) = shots
    run_ffmpeg("-f", "lavfi", "-i", f"anullsrc=r=16000:cl=mono:d={2 * SHOT / 25}", tmp_path / "silence.wav")
    moved = []
    for silence in ("free", "closed"):
        options = {"box": (top, bottom, left, right), "silence": silence, "reference": "same"}
        take = LipSync().prepare(path, tmp_path / "silence.wav", **options)
        made = np.stack([crop(frame, (left, top, right, bottom)) for frame in LipSync().stream(take)])
        lower = made[:, 48:, 16:80].astype(float)
        moved.append([np.abs(np.diff(shot, axis=0)).mean() for shot in np.split(lower, 2)])
    assert all(closed < 0.8 * free for free, closed in zip(*moved)), moved
