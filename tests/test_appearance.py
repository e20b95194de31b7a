"""What a face looks like, shot by shot."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import live
import video
from conftest import run_ffmpeg
from conftest import write_clip as write_frames
from demo.talking_head import Recipe, write_clip
from faces import FaceSearch
from lipsync import LipSync
from mouths import Appearance, Appearances, Shots, crop, poses_of
from mouths.appearance import ENOUGH_FACES, MAX_APPEARANCES
from mouths.references import OTHER_SHOT

SHOT = 16  # frames


def turned(degrees: float) -> np.ndarray:
    """A face of stripes at an angle, which stands for a pose."""
    rows, columns = np.mgrid[0:96, 0:96] / 96
    angle = math.radians(degrees)
    light = 127 + 120 * np.sin(4 * math.pi * (columns * math.cos(angle) + rows * math.sin(angle)))
    return np.repeat(light[..., None], 3, axis=2).astype(np.uint8)


HERE, THERE, ELSEWHERE, BEHIND = (turned(degrees) for degrees in (0, 45, 90, 135))


def appearance_of(*faces: np.ndarray, times: int = ENOUGH_FACES) -> Appearance:
    return Appearance(poses_of(faces * times))


def test_these_faces_differ_in_pose():
    """The tests below rely on it."""
    poses = poses_of([HERE, THERE, ELSEWHERE, BEHIND])
    assert min(np.abs(one - other).mean() for one, other in itertools.combinations(poses, 2)) > OTHER_SHOT


def shots_of(frames: int, unseen: dict[int, Appearance]) -> Shots:
    """Shots of ``frames`` frames; analysing one takes it out of ``unseen``."""
    return Shots(lambda index: index // frames * frames, lambda start: unseen.pop(start, None))


def test_the_appearance_nearest_in_pose_is_used():
    here, there = appearance_of(HERE), appearance_of(THERE)
    appearances = Appearances({0: here, 1: there})
    assert [appearances.of(face, 0) for face in (THERE, HERE, THERE)] == [there, here, there]


def test_a_shot_is_analysed_unless_it_begins_like_a_known_one():
    here, there, elsewhere = appearance_of(HERE), appearance_of(THERE), appearance_of(ELSEWHERE)
    unseen = {10: there, 20: elsewhere, 30: elsewhere}
    appearances = Appearances({0: here}, shots_of(10, unseen))
    shown = [HERE] * 10 + [THERE] * 10 + [HERE] * 10 + [ELSEWHERE] * 10
    assert [appearances.of(face, i) for i, face in enumerate(shown)] == [here] * 10 + [there] * 10 + [here] * 10 + [
        elsewhere
    ] * 10
    assert list(unseen) == [20]
    restarted = appearances.restarted()
    assert restarted.of(HERE, 0) is here and restarted.of(THERE, 1) is here  # a second pass knows what the first did


def test_a_shot_without_a_face_is_not_analysed_again():
    appearances = Appearances({7: appearance_of(HERE)}, Shots(lambda index: 0, lambda start: analysed.append(start)))
    analysed: list[int] = []
    assert len({id(appearances.of(THERE, i)) for i in range(5)}) == 1 and analysed == [0]


def test_a_shot_like_one_with_few_faces_is_analysed():
    """Two frames before a cut do not show what a mouth can do."""
    brief, longer = appearance_of(HERE, times=2), appearance_of(HERE)
    appearances = Appearances({0: brief}, shots_of(2, {2: longer}))
    assert [appearances.of(HERE, i) for i in range(4)] == [brief, brief, longer, longer]
    appearances = Appearances({0: brief}, shots_of(2, {2: appearance_of(HERE, times=1)}))
    assert {appearances.of(HERE, i) for i in range(4)} == {brief}  # which shows even less


def test_a_shot_is_not_analysed_twice():
    """Even if somebody turned in it, and is in another pose when it is entered from its end."""
    here, there = appearance_of(HERE), appearance_of(THERE)
    appearances = Appearances({0: here}, shots_of(10, {10: there}))
    shown = [(HERE, 0), (THERE, 10), (BEHIND, 9), (THERE, 11)]
    assert [appearances.of(*one) for one in shown][:2] == [here, there] and len(appearances.remembered) == 2


def test_a_shot_that_shows_less_than_one_like_it_is_not_analysed_again():
    """In a clip that is repeated, it used to be at every visit."""
    faces, analysed = {0: appearance_of(HERE, times=8), 10: appearance_of(HERE, times=5)}, []
    shots = Shots(lambda index: index // 10 * 10, lambda start: analysed.append(start) or faces[start])
    appearances = Appearances({0: faces[0]}, shots)
    assert {appearances.of(HERE, index) for index in [0, 10] * 5} == {faces[0]} and analysed == [10]


def test_the_least_recently_used_appearance_is_forgotten():
    here, there = appearance_of(HERE), appearance_of(THERE)
    others = [appearance_of(ELSEWHERE) for _ in range(MAX_APPEARANCES - 2)]
    appearances = Appearances(dict(enumerate([there, here, *others], -50)), shots_of(1, {1: appearance_of(BEHIND)}))
    assert appearances.of(THERE, 0) is there  # so it is not the least recently used
    appearances.of(BEHIND, 1)
    assert appearances.of(THERE, 2) is there and appearances.of(HERE, 3) is not here


def test_memory_holds_no_more_than_the_remembered_appearances():
    """However many different shots a video has."""
    rng = np.random.default_rng(0)
    faces = [np.kron(rng.integers(0, 256, (6, 6, 3), np.uint8), np.ones((16, 16, 1), np.uint8)) for _ in range(50)]
    appearances = Appearances({0: appearance_of(HERE)}, Shots(int, lambda shot: appearance_of(faces[shot])))
    for shot, face in enumerate(faces):
        appearances.of(face, shot)
    assert len(appearances.remembered) == MAX_APPEARANCES and len(appearances._analysed) <= MAX_APPEARANCES + 1


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """Two drawn heads, one after the other, both speaking."""
    folder, frames = tmp_path_factory.mktemp("shots"), []
    for seed in (3, 12):
        write_clip(folder / f"{seed}.mp4", Recipe(seconds=SHOT / 25, size=(192, 192)), seed)
        frames += itertools.islice(video.read_frames(video.probe(folder / f"{seed}.mp4")), SHOT)
    write_frames(folder / "both.mp4", np.stack(frames))
    return folder / "both.mp4"


def test_lips_rest_in_the_silence_of_every_shot(shots, tmp_path):
    """With the filmed mouths, some of their speech would be left; so the face of every shot is analysed."""
    run_ffmpeg("-f", "lavfi", "-i", f"anullsrc=r=16000:cl=mono:d={2 * SHOT / 25}", tmp_path / "silence.wav")
    lips, moved = LipSync(search=FaceSearch("centerface")), []
    for silence in ("free", "closed"):
        take = lips.prepare(shots, tmp_path / "silence.wav", silence=silence, reference="same")
        faces = [crop(frame, box) for frame, box in zip(lips.stream(take), take.faces[0].filmed.path.boxes)]
        lower = np.stack(faces)[:, 48:, 16:80].astype(float)
        moved.append([np.abs(np.diff(shot, axis=0)).mean() for shot in np.split(lower, 2)])
    assert take.faces[0].filmed.path.shots == [0, SHOT]
    assert all(closed < 0.8 * free for free, closed in zip(*moved)), moved


def test_a_preview_of_a_later_shot_matches_the_result(shots, modest_checkpoint, tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", f"anullsrc=r=16000:cl=mono:d={2 * SHOT / 25}", tmp_path / "silence.wav")
    lips = LipSync(modest_checkpoint, search=FaceSearch("centerface"))
    options = {"silence": "closed", "reference": "still"}
    frames = list(lips.stream(lips.prepare(shots, tmp_path / "silence.wav", **options)))
    shown = lips.preview(shots, tmp_path / "silence.wav", (2 * SHOT - 2) / 25, **options)
    assert np.abs(shown.astype(int) - frames[2 * SHOT - 2]).mean() < 0.2


def test_a_live_face_has_an_appearance_for_every_shot(shots, modest_checkpoint, tmp_path):
    lips = LipSync(modest_checkpoint, search=FaceSearch("centerface"))
    face = live.prepare(lips, shots)
    assert len(face.appearances) == 2
    face.save(tmp_path / "anna")
    loaded = live.Face.load(tmp_path / "anna").appearances
    assert all((one.poses == other.poses).all() for one, other in zip(loaded, face.appearances, strict=True))
    assert len(live.prepare(lips, shots, box=(60, 180, 40, 150)).appearances) == 1
