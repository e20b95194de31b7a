"""Which face speaks or looks like a picture, shot by shot, and the errors if no face does."""

from __future__ import annotations

import shutil
from fractions import Fraction

import cv2
import numpy as np
import pytest

import inference
import speakers
import video
from conftest import MEANS, run_ffmpeg, write_clip
from demo.talking_head import Recipe, write_speech
from errors import UserError
from face_detection.detections import Detections
from face_path import FacePath
from faces import FaceSearch
from hparams import hparams as hp
from lipsync import LipSync, Options
from speakers import MAX_OFFSET, FacesByShot
from sync.embedding import Face, Voice

RECIPE = Recipe(seed=2020, seconds=2.0)
LEFT, RIGHT = [10, 10, 60, 60], [110, 10, 160, 60]


def detections_of(*shots: list[list[int]]) -> Detections:
    """What a detector finds in shots of 20 frames with faces at these places."""
    boxes = [np.array([[*box, 1] for box in shot], np.float32).reshape(-1, 5) for shot in shots for _ in range(20)]
    return Detections(boxes, [40.0 if i and i % 20 == 0 else 0.0 for i in range(len(boxes))])


class GivenScores:
    """A criterion with given scores."""

    DESCRIPTION, THRESHOLD = "who is wanted", 0.5

    def __init__(self, *rows: list[float]) -> None:
        self.rows = np.array(rows)

    def scores(self, everybody: FacesByShot) -> np.ndarray:
        return self.rows

    def no_match_message(self, best: float) -> str:
        return f"nobody: {best:.1f}"


def follow(found: Detections, *rows: list[float]) -> FacePath:
    source = video.VideoInfo("", 200, 100, Fraction(25))
    path = FacePath(lambda: speakers.follow([found], source, (0, 0, 0, 0), True, GivenScores(*rows)))
    path.known(None)
    return path


def test_faces_in_profile_are_named_as_the_reason():
    """It used to be "no face was found", as if another detector could help."""
    profile = np.array([[*LEFT, 1, 0.05]], np.float32)  # the distance of its eyes, in widths of the face
    with pytest.raises(UserError, match="shows the face only in profile"):
        follow(Detections([profile] * 20, [0.0] * 20), [0.9])


def test_best_face_of_each_shot_is_followed_if_good_enough():
    path = follow(detections_of([LEFT, RIGHT], [RIGHT, LEFT], [LEFT, RIGHT]), [0.1, 0.6], [0.4, 0.4], [0.9, 0.8])
    assert path.boxes == [tuple(RIGHT)] * 20 + [None] * 20 + [tuple(LEFT)] * 20
    assert np.flatnonzero(np.isnan(path.seen[:, 0])).tolist() == list(range(20, 40))
    with pytest.raises(UserError, match="nobody: 0.4"):
        follow(detections_of([LEFT, RIGHT]), [0.4, 0.3])
    with pytest.raises(UserError, match="no face was found"):
        follow(detections_of([]), [])


def test_briefly_seen_face_is_not_chosen():
    """Nine frames may match better than forty by chance."""
    scores = speakers.without_brief_faces(np.array([[0.2, 0.9, np.nan]]), np.array([[40, 9, 40]]))
    assert scores.tolist() == [[0.2, -np.inf, -np.inf]]


def peaked_curve(peak: int, height: float) -> np.ndarray:
    values = np.zeros(2 * MAX_OFFSET + 1)
    values[MAX_OFFSET + peak] = height
    return values


def test_usual_offset_is_that_of_all_shots_together():
    frames = np.full((2, 2), 25)
    late = np.array([[peaked_curve(4, 0.6), peaked_curve(0, 0.1)], [peaked_curve(-9, 0.2), peaked_curve(4, 0.5)]])
    assert speakers.usual_offset(late, frames) == 4
    assert speakers.usual_offset(0.3 * late, frames) == 0  # too little to be certain
    assert speakers.usual_offset(np.full((2, 2, 2 * MAX_OFFSET + 1), np.nan), frames) == 0


# --------------------------------------------------------------------------------------------------------------------
# With the included networks: the expert must recognise what the generator has made


@pytest.fixture(scope="module")
def conversation(tmp_path_factory, small_photo):
    """A film of two shots, and three speeches: the left face says the first, the right one the second; then swapped."""
    folder = tmp_path_factory.mktemp("conversation")
    speeches = [folder / f"{number}.wav" for number in range(3)]
    for number, path in enumerate(speeches):
        write_speech(path, RECIPE, 2 * number)
    cv2.imwrite(str(folder / "pair.png"), np.concatenate((small_photo, small_photo[:, ::-1]), axis=1))
    lips = LipSync(search=FaceSearch("centerface", folder=folder))
    lips.run(folder / "pair.png", dict(enumerate(speeches[:2])), folder / "shot.mp4")
    reversed_and_darker = "split[a][b];[b]hflip,lutyuv=y=0.7*val[c];[a][c]concat"
    run_ffmpeg("-i", folder / "shot.mp4", "-vf", reversed_and_darker, "-crf", 10, "-an", folder / "mute.mp4")
    return folder / "mute.mp4", speeches


@pytest.mark.parametrize("heard, places", [((0, 0), "LR"), ((1, 1), "RL"), ((1, 2), "R-")])
def test_speaker_is_found_in_each_shot(conversation, tmp_path, told, heard, places):
    film, speeches = conversation
    inputs = [part for number in heard for part in ("-i", speeches[number])]
    streams = ("-filter_complex", "[1:a][2:a]concat=v=0:a=1", "-map", "0:v", "-c:v", "copy")
    run_ffmpeg("-i", film, *inputs, *streams, tmp_path / "talk.mp4")
    lips = LipSync(search=FaceSearch("centerface", folder=film.parent), report=told)
    face = lips.find_face(video.probe(tmp_path / "talk.mp4"), 10**6, Options(pads=(0,) * 4, speaker="auto"))
    found = ["-" if box is None else "LR"[box[0] > 160] for box in face.path.boxes]
    assert found == [place for place in places for _ in range(RECIPE.frames)]
    note = "50 of 100 frames (2.0 s) do not show who speaks: seconds 2.0-4.0; they are left as they are"
    assert told.notes == ([note] if "-" in places else [])


def followed_boxes(path, **options):
    lips = LipSync(search=FaceSearch("centerface"))
    return lips.find_face(video.probe(path), 10**6, Options(pads=(0, 0, 0, 0), **options)).path.boxes


def test_real_people_side_by_side(shared, tmp_path):
    clips = [shared / "grid_more" / name for name in ("s5/bbaf1a.mp4", "s34/bbac1p.mp4")]
    inputs = [part for path in clips for part in ("-i", path)]
    run_ffmpeg(*inputs, "-filter_complex", "hstack,scale=iw/2:-2", "-an", "-t", 2, tmp_path / "mute.mp4")
    for place, path in enumerate(clips):
        talk = tmp_path / f"{place}.mp4"
        streams = ("-map", "0:v", "-map", "1:a", "-c:v", "copy", "-shortest")
        run_ffmpeg("-i", tmp_path / "mute.mp4", "-i", path, *streams, talk)
        assert {box[0] > 180 for box in followed_boxes(talk, speaker="auto")} == {bool(place)}


@pytest.mark.parametrize("start, seconds", [(0, 1), (0.5, 1), (1, 2), (1.25, 10), (9, 1)])
def test_the_voice_of_a_part_is_that_of_its_seconds(start, seconds):
    """In blocks of 10, 10 and 5 samples at a rate of 10."""
    sound, scale = np.arange(25), 10 / hp.sample_rate
    blocks = speakers.between(np.split(sound, [10, 20]), start * scale, seconds * scale)
    assert [*np.concatenate([[], *blocks])] == [*sound[round(10 * start) : round(10 * (start + seconds))]]


# --------------------------------------------------------------------------------------------------------------------
# By a picture, as a user runs it; the mean colour stands in for SFace


@pytest.fixture(scope="module")
def album(tmp_path_factory, small_photo):
    """A film of a face and a blue one, a picture of each and one of nobody, and a network."""
    folder = tmp_path_factory.mktemp("album")
    blue = small_photo[..., ::-1]
    write_clip(folder / "pair.mp4", np.stack([np.concatenate((small_photo, blue[:, ::-1]), axis=1)] * 6))
    (folder / "sface.onnx").write_bytes(MEANS)
    for name, picture in ("red", small_photo), ("blue", blue), ("grey", np.full((100, 100, 3), 128, np.uint8)):
        cv2.imwrite(str(folder / f"{name}.png"), picture)
    return folder


@pytest.fixture
def program(album, small_checkpoint, speech, tmp_path, monkeypatch, capsys):
    """``program("--flag", value, face=…)`` returns (exit code, stderr); it runs in a copy of the album."""
    shutil.copytree(album, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def run(*flags, face="pair.mp4"):
        command = ["--checkpoint_path", small_checkpoint, "--face", face, "--audio", speech, "--outfile", "out.mp4"]
        code = inference.main([*map(str, command), "--face_detector", "centerface", "--crf", "0", *map(str, flags)])
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("picture, place", [("red.png", 0), ("blue.png", 1)])
def test_face_in_the_picture_is_chosen(program, tmp_path, picture, place):
    assert program("--face_like", picture, "--identity", "sface.onnx") == (0, "")
    before, after = (
        np.stack([next(video.read_frames(video.probe(tmp_path / name)))]).astype(float)
        for name in ("pair.mp4", "out.mp4")
    )
    moved = [half.max() for half in np.split(np.abs(after - before).mean((0, 1, 3)), 2)]
    assert moved[place] > 5 and moved[1 - place] < 3


def test_no_face_looks_like_the_picture(program, tmp_path):
    """The network finds every other identity at a right angle to the one in the picture."""
    answers = iter([np.array([1.0, 0.0])])
    search = FaceSearch("centerface")
    source = video.probe(tmp_path / "pair.mp4")
    identity = lambda face: next(answers, np.array([0.0, 1.0]))  # noqa: E731
    criterion = speakers.Lookalike(source, tmp_path / "red.png", identity, search)
    with pytest.raises(
        UserError, match=r"nobody in .*pair.mp4 looks like that \(the best similarity is 0.00, below 0.363"
    ):
        next(speakers.follow([search.find(source)], source, (0, 0, 0, 0), True, criterion))


def test_faces_are_compared_in_square_pixels(program, tmp_path):
    """In a film of wide pixels, SFace saw them squeezed, and compared them with an undistorted picture."""
    search, seen = FaceSearch("centerface"), []

    def identity(face):
        seen.append(cv2.resize(face, (16, 16), interpolation=cv2.INTER_AREA).astype(float))
        return np.ones(2)

    film = video.probe(tmp_path / "pair.mp4")
    squeezed = tmp_path / "squeezed.mp4"
    run_ffmpeg("-i", film.path, "-vf", "scale=iw/2:ih,setsar=2", "-crf", 0, squeezed)
    for path in film.path, squeezed:
        criterion = speakers.Lookalike(video.probe(path), tmp_path / "red.png", identity, search)
        next(speakers.follow([search.find(video.probe(path))], video.probe(path), (0, 0, 0, 0), True, criterion))
    half = len(seen) // 2  # the picture, and then the film's faces, the left one first
    assert np.abs(seen[1] - seen[half + 1]).mean() < 20


@pytest.mark.parametrize("flags, words", [
    (("--speaker", "auto"), "the video's own sound: pair.mp4 has no sound track; choose with --face_index"),
    (("--speaker", "auto", "--static"), "--static shows one frame"),
    (("--speaker", "auto", "--face_index", 0), "--face_index and --speaker both say which face"),
    (("--speaker", "auto", "--face", "red.png"), "red.png is a picture"),
    (("--face_like", "grey.png", "--identity", "sface.onnx"), "grey.png shows no face"),
    (("--face_like", "none.png"), "none.png does not exist"),  # before anything is downloaded
    (("--face_like", "red.png", "--identity", "red.png"), "does not hold OpenCV's SFace"),
    (("--face_like", "red.png", "--box", 1, 2, 3, 4), "--box and --face_like both say which face"),
])  # fmt: skip
def test_impossible_choices_are_refused(program, tmp_path, flags, words):
    code, error = program(*flags)
    assert code == 2 and words in error and error.count("\n") == 1
    assert not (tmp_path / "out.mp4").exists()


def test_silent_sound_track_has_no_speaker(program, tmp_path):
    streams = ("-stream_loop", 3, "-i", "pair.mp4", "-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono")
    run_ffmpeg(*streams, "-shortest", "-c:v", "copy", "mute.mp4")
    code, error = program("--speaker", "auto", face="mute.mp4")
    assert code == 2 and error.startswith("error: --speaker auto: nobody's lips move") and error.count("\n") == 1


def test_each_face_is_compared_within_its_shot():
    late = np.where(np.arange(60)[:, None] < 5, np.nan, np.ones((60, 4)))
    everybody = FacesByShot([(0, 20), (20, 60)], [np.ones((60, 4)), late])
    pairs = [(i, *pair) for i, some in speakers.sampled_frames(everybody).items() for pair in some]
    for i, shot, face in pairs:
        first, stop = everybody.shots[shot]
        assert first <= i < stop and not np.isnan(everybody.faces[face][i, 0])
    assert [sum(pair[1:] == (shot, face) for pair in pairs) for shot in (0, 1) for face in (0, 1)] == [5] * 4


@pytest.mark.parametrize("fps", [25, 50])
@pytest.mark.parametrize("late", [0, 5])
def test_shots_are_compared_at_their_own_moments(monkeypatch, fps, late):
    """At any rate, from where the part begins, and with sound that is late throughout."""

    def unit(seed, count):
        vectors = np.random.default_rng(seed).standard_normal((count, 64)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    moments, early, asked = unit(0, 115), (np.arange(96) < 48)[:, None], []
    said = moments[late : late + 96]
    faces = [  # one says the first two seconds, the other the next
        Face(np.zeros((100, 4)), np.arange(96), np.where(own, said, unit(seed, 96)), None)
        for seed, own in ((1, early), (2, ~early))
    ]
    monkeypatch.setattr(speakers, "embed_own_sound", lambda _, *when: asked.append(when[:2]) or Voice(moments))
    monkeypatch.setattr(speakers, "embed_faces", lambda *_: faces)
    source = video.VideoInfo("x.mp4", 200, 100, Fraction(fps), start=3 * fps)
    criterion = speakers.Speaker(source, 4 * fps, None)
    shots = [(0, 2 * fps), (2 * fps, 4 * fps)]
    scores = criterion.scores(FacesByShot(shots, [np.ones((4 * fps, 4))] * 2))
    assert asked == [(3.0, 4 + MAX_OFFSET / 25)] and scores.argmax(1).tolist() == [0, 1]
    assert (scores.max(1) > 0.7).all() and (scores.min(1) < 0.3).all()
