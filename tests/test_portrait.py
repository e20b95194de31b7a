"""Photographs that speak: mesh, mouth and twins. The photograph is NASA's; the speaker is a moving copy of it."""

from __future__ import annotations

import json
import math
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from conftest import run_ffmpeg, write_clip
from dataset import Wav2LipDataset
from demo import landmarks, talking_portrait
from demo.mouth import Teeth, as_photographed, render
from demo.portrait import (
    INNER,
    MESH,
    MESH_INDEX,
    Portrait,
    Speaker,
    absolute,
    face_box,
    lip_distance,
    mesh_indices,
    similarity_between,
    transform,
    without_holes,
)
from demo.run_demo import LANDMARKS
from demo.talking_head import write_sound
from demo.variation import Camera, Degradation, through_h264, vary_voice
from errors import UserError
from hparams import hparams as hp

FRAMES, LIPS_APART = 30, 6.0  # pixels at the widest
SAID = 22  # frames of the speaker that make a sentence of the corpus


@pytest.fixture(scope="module")
def photo():
    data = pytest.importorskip("skimage.data")
    return np.ascontiguousarray(data.astronaut()[..., ::-1]), np.load(LANDMARKS) / 16


@pytest.fixture(scope="module")
def portrait(photo):
    return Portrait(*photo)


@pytest.fixture(scope="module")
def speaker(photo):
    """A speaker whose lower lip and chin go down and up twice, while the whole head drifts."""
    picture, still = photo
    points = Portrait(*photo).shut
    landmarks = np.tile(still, (FRAMES, 1, 1))
    landmarks[:, MESH] = points
    below = [p for p in MESH if still[p, 1] > still[14, 1] - 1 and p not in INNER[:11]]
    opening = LIPS_APART * np.sin(np.linspace(0, 2 * np.pi, FRAMES)) ** 2
    landmarks[:, below, 1] += opening[:, None]
    drift = np.linspace(0, 8, FRAMES)
    return Speaker(np.tile(picture, (FRAMES, 1, 1, 1)), landmarks + drift[:, None, None])


def lip_gap(points):
    return np.linalg.norm(points[MESH_INDEX[13]] - points[MESH_INDEX[14]])


def camera_on(portrait, size):
    box = face_box(portrait.landmarks)
    scale = size / (box[2:] - box[:2])
    return np.column_stack((np.diag(scale), -scale * box[:2]))


def test_similarity_between_recovers_the_map():
    points = np.random.default_rng(0).random((7, 2))
    matrix = np.array([[0.6, -0.8, 3.0], [0.8, 0.6, -2.0]]) * [[1.5, 1.5, 1], [1.5, 1.5, 1]]
    assert np.allclose(similarity_between(points, transform(points, matrix)), matrix)


def test_box_frames_the_face(photo):
    x1, y1, x2, y2 = face_box(photo[1])
    inside = (photo[1] > [x1, y1 - 0.2 * (y2 - y1)]).all() and (photo[1] < [x2, y2]).all()
    assert inside and 0.7 < (x2 - x1) / (y2 - y1) < 0.95


def test_smile_is_closed_at_rest(portrait):
    """The photograph shows teeth; at rest the lips meet, and nothing above the nose has moved."""
    assert lip_gap(portrait.points) > 4 and lip_gap(portrait.shut) < 0.5
    above = portrait.points[:, 1] < portrait.landmarks[4, 1]
    assert np.array_equal(portrait.shut[above], portrait.points[above])


def test_lips_open_like_the_speakers_times_the_amplitude(portrait, speaker):
    widest = int(np.argmax(lip_distance(speaker.landmarks)))
    once, twice = (
        lip_gap(portrait.posed(portrait.shut, speaker.movement(widest), amplitude, (0, 0))) for amplitude in (1, 2)
    )
    assert once == pytest.approx(LIPS_APART, abs=1) and twice == pytest.approx(2 * once, rel=0.02)
    assert lip_gap(portrait.posed(portrait.shut, speaker.movement(0), 1, (0, 0))) < 0.5


def test_lips_never_cross(portrait, speaker):
    points = portrait.posed(portrait.shut, -speaker.movement(7), 3.0, (0, 0))
    upper, lower = (points[[MESH_INDEX[p] for p in INNER[s]], 1] for s in (slice(1, 10), slice(11, 20)))
    assert (upper <= lower[::-1] + 1e-9).all()


def test_head_movement_does_not_move_the_lips(photo, speaker):
    """A speaker who turns and comes closer makes the same lip movements."""
    turn = np.array([[1.2 * np.cos(0.1), -1.2 * np.sin(0.1), 5], [1.2 * np.sin(0.1), 1.2 * np.cos(0.1), -9]])
    other = Speaker(speaker.frames, np.concatenate((speaker.landmarks[:10], transform(speaker.landmarks[10:], turn))))
    same = [np.abs(a.movement(14)[[13, 14, 17]] - b.movement(14)[[13, 14, 17]]).max() for a, b in [(speaker, other)]]
    assert same[0] < 0.01


def test_unmoved_mesh_shows_the_photograph(portrait):
    camera = camera_on(portrait, 112)
    shown = portrait.draw(portrait.points, camera, 112).astype(int)
    plain = cv2.warpAffine(portrait.picture, camera, (112, 112), borderMode=cv2.BORDER_REFLECT).astype(int)
    assert np.abs(shown - plain).mean() < 1


def test_only_the_mouth_region_changes(portrait, speaker):
    camera = camera_on(portrait, 112)
    frames = [
        render(portrait, portrait.posed(portrait.shut, speaker.movement(i), 1.5, (0, 0)), camera, 112, speaker, i)
        for i in (0, 7)
    ]
    change = np.abs(frames[0].astype(int) - frames[1]).mean(2)
    assert change[:45].max() <= 1 and change[70:105, 35:80].mean() > 5


def test_grey_photographs_get_grey_mouths(photo, speaker):
    grey = np.repeat(cv2.cvtColor(photo[0], cv2.COLOR_BGR2GRAY)[..., None], 3, 2)
    portrait = Portrait(grey, photo[1])
    points = portrait.posed(portrait.shut, speaker.movement(7), 2.0, (0, 0))
    shown = render(portrait, points, camera_on(portrait, 112), 112, speaker, 7).astype(int)
    assert np.ptp(shown, axis=2).max() <= 2


def test_teeth_stay_with_the_skull_when_the_jaw_drops(portrait, speaker):
    """Where both a small and a wide opening show them, they are the photograph's, unmoved."""
    teeth, camera = Teeth.of(portrait), camera_on(portrait, 224)
    points = [portrait.posed(portrait.shut, speaker.movement(i), 1.5, (0, 0)) for i in (4, 7)]
    shown = [render(portrait, one, camera, 224, speaker, 7, teeth).astype(float).mean(2) for one in points]
    photograph = cv2.warpAffine(portrait.picture, camera, (224, 224)).astype(float).mean(2)
    both = [
        cv2.fillPoly(np.zeros((224, 224)), [transform(one[mesh_indices(INNER)], camera).astype(int)], 1)
        for one in points
    ]
    both.append(cv2.warpAffine(teeth.mask, camera, (224, 224)) > 0.9)
    inside = cv2.erode(np.prod(both, 0), np.ones((3, 3))) > 0
    assert inside.sum() > 100
    for one in shown:  # darker, in the lips' shadow
        assert np.corrcoef(one[inside], photograph[inside])[0, 1] > 0.6
    assert shown[1][inside].mean() > 0.7 * photograph[inside].mean()
    without = render(portrait, points[1], camera, 224, speaker, 7).astype(float).mean(2)
    assert np.abs(shown[1] - without)[inside].mean() > 10


def test_borrowed_teeth_are_fitted_to_face_and_lips(photo, portrait):
    """Those of the same photograph, shrunk and turned, land on its own."""
    turn = np.array([[0.5, -0.2, 120.0], [0.2, 0.5, 30.0]])
    other = Portrait(cv2.warpAffine(photo[0], turn, (512, 512)), transform(photo[1], turn))
    own, lent = (teeth.map_to(portrait, portrait.points, 0.0) for teeth in (Teeth.of(portrait), Teeth.of(other)))
    assert np.allclose(own, [[1, 0, 0], [0, 1, 0]], atol=1e-6)
    corners = portrait.landmarks[[78, 308, 13, 14]]
    assert np.abs(transform(transform(corners, turn), lent) - corners).max() < 1.5
    height = portrait.landmarks[14, 1] - portrait.landmarks[13, 1]
    raised = Teeth.of(portrait).map_to(portrait, portrait.points, 0.5)
    assert np.allclose(own - raised, [[0, 0, 0], [0, 0, height / 2]])


def test_mouth_without_visible_teeth_lends_none(photo, portrait):
    shut = portrait.landmarks.copy()
    shut[MESH] = portrait.shut
    assert Teeth.of(Portrait(photo[0], shut)) is None
    dark = photo[0].copy()
    cv2.fillPoly(dark, [portrait.landmarks[INNER].astype(np.int32)], (20, 20, 40))
    assert Teeth.of(Portrait(dark, photo[1])) is None


def test_as_photographed_shows_and_turns_the_photograph(portrait):
    camera = camera_on(portrait, 112)
    plain = cv2.warpAffine(portrait.picture, camera, (112, 112), borderMode=cv2.BORDER_REFLECT).astype(int)
    assert np.abs(as_photographed(portrait, (0, 0), camera, 112).astype(int) - plain).mean() < 1
    turned = as_photographed(portrait, (0.1, 0), camera, 112).astype(int)
    mouth = slice(72, 92), slice(38, 74)
    assert np.abs(turned - plain)[mouth].mean() > 3  # it moves, but still shows the same
    assert np.abs(turned[mouth].mean((0, 1)) - plain[mouth].mean((0, 1))).max() < 8


def test_mirroring_camera_mirrors_the_picture(portrait):
    size, middle = 112, 55.5
    camera = camera_on(portrait, size)
    mirrored = np.array([[-1, 0, 2 * middle], [0, 1, 0]]) @ np.vstack((camera, [0, 0, 1]))
    plain, turned = (portrait.draw(portrait.shut, matrix, size).astype(int) for matrix in (camera, mirrored))
    assert np.abs(plain[:, ::-1] - turned).mean() < 1.5


# --------------------------------------------------------------------------------------------------------------------
# Variation


def test_faster_voices_are_shorter_and_higher_in_proportion():
    t = np.arange(2 * hp.sample_rate) / hp.sample_rate
    tone = np.sin(2 * np.pi * 400 * t).astype(np.float32)
    for seed in range(4):
        varied = vary_voice(tone, 1.2, np.random.default_rng(seed))
        assert len(varied) == pytest.approx(len(tone) / 1.2, abs=2) and np.abs(varied).max() <= 1
        spectrum = np.abs(np.fft.rfft(varied))
        assert np.argmax(spectrum) * hp.sample_rate / len(varied) == pytest.approx(480, abs=5)


def test_degradation_depends_only_on_the_seed():
    picture = np.full((112, 112, 3), 90, np.uint8)
    same_seed = [Degradation(np.random.default_rng(3), 112).apply_to(picture, 0) for _ in range(2)]
    assert np.array_equal(*same_seed)
    other_seed = Degradation(np.random.default_rng(4), 112).apply_to(picture, 0)
    assert not np.array_equal(same_seed[0], other_seed)


def test_stronger_compression_does_more_damage(photo):
    """At the best quality, which still halves the colours' resolution, at least 30 dB; frames keep number and order."""
    pictures = [np.roll(cv2.resize(photo[0], (112, 112)), 2 * i, axis=1) for i in range(12)]
    errors = []
    for crf in (2, 24, 36):
        seen = through_h264(pictures, crf)
        assert len(seen) == 12 and seen[0].shape == (112, 112, 3)
        errors.append([np.square(a.astype(float) - b).mean() for a, b in zip(pictures, seen)])
    assert max(errors[0]) < 255**2 / 10**3 and (np.diff(np.mean(errors, axis=1)) > 0).all()


def test_compression_keeps_the_brightness(photo):
    picture = cv2.GaussianBlur(cv2.resize(photo[0], (112, 112)), (0, 0), 3)
    (seen,) = through_h264([picture], 10)
    assert np.abs(seen.astype(float).mean((0, 1)) - picture.mean((0, 1))).max() < 0.7


def test_only_clips_with_a_crf_are_compressed(photo):
    pictures = [cv2.resize(photo[0], (112, 112))] * 3
    degradations = [Degradation(np.random.default_rng(seed), 112) for seed in range(6)]
    assert {degradation.crf is None for degradation in degradations} == {True, False}
    for degradation, again in zip(degradations, (Degradation(np.random.default_rng(seed), 112) for seed in range(6))):
        degraded = np.stack([degradation.apply_to(picture, i) for i, picture in enumerate(pictures)])
        assert (np.stack(again.apply(pictures)) == degraded).all() == (degradation.crf is None)


def test_camera_keeps_the_face_in_the_middle():
    for seed in range(20):
        matrix = Camera(np.random.default_rng(seed), 50, 25.0).matrix(np.array([10.0, 20, 90, 120]), 100, 25)
        assert np.abs(matrix[:, :2] @ [50, 70] + matrix[:, 2] - 50).max() < 10


# --------------------------------------------------------------------------------------------------------------------
# The corpus


@pytest.fixture(scope="module")
def corpus(photo, speaker, tmp_path_factory):
    """Photographs and speakers on disk: two photos, and one speaker of two sentences."""
    root = tmp_path_factory.mktemp("corpus")
    photos, speakers = root / "photos", root / "speakers"
    (speakers / "sue").mkdir(parents=True)
    photos.mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(photos / name), photo[0])
    points = np.round(photo[1] * 16).astype(np.int16)
    np.savez(photos / "landmarks.npz", names=["a.png", "b.png"], landmarks=np.stack([points, points]))
    whole = np.round(speaker.landmarks[:SAID] * 16).astype(np.int16)
    saved = {"index": np.arange(478)}
    for name in ("one", "two"):
        saved[f"sue/{name}"] = np.concatenate((whole[:1], np.diff(whole, axis=0)))
        writer = cv2.VideoWriter(str(speakers / f"sue/{name}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 25, (512, 512))
        for frame in speaker.frames[:SAID]:
            writer.write(frame)
        writer.release()
        t = np.arange(SAID * hp.sample_rate // 25) / hp.sample_rate
        write_sound(speakers / f"sue/{name}.wav", 0.3 * np.sin(2 * np.pi * 200 * t))
        (speakers / f"sue/{name}.wav").rename(speakers / f"sue/{name}.flac")  # recognised by content
    np.savez(speakers / "landmarks.npz", **saved)
    return photos, speakers


def make(corpus, out, *flags):
    photos, speakers = map(str, corpus)
    command = ["--portraits", photos, "--speakers", speakers, "--out", str(out), "--workers", "1"]
    return talking_portrait.main([*command, *map(str, flags)])


def test_corpus_is_trainable_and_twins_show_the_same_moment(corpus, tmp_path):
    assert make(corpus, tmp_path, "--clips", 4, "--real", 1, "--heads", 2, "--seed", 5) == 0
    folders = sorted(path.parent for path in tmp_path.glob("portrait*/*/twin.txt"))
    assert len(folders) == 4 and len(list(tmp_path.glob("real_sue/*/truth.json"))) == 2
    assert len(list(tmp_path.glob("head*/*/truth.json"))) == 2
    data = Wav2LipDataset(folders, mel_lead=0)
    assert len(data.index.clips) == 4 and not data.index.unusable
    for key in range(4):
        x, _, _, y = data[key]
        reference = x[3:]
        assert (reference[:, :, :44] - y[:, :, :44]).abs().mean() < 0.02  # the same picture, except for the mouth
    truth = json.loads((folders[0] / "truth.json").read_text())
    assert len(truth["opening"]) == len(list(folders[0].glob("*.jpg"))) and max(truth["opening"]) > 0.03


def test_clips_are_reproducible_and_finished_ones_are_kept(corpus, tmp_path):
    pictures = []
    for name in "ab":
        assert make(corpus, tmp_path / name, "--clips", 2) == 0
        pictures.append([path.read_bytes() for path in sorted((tmp_path / name).glob("*/*/*"))])
    assert pictures[0] == pictures[1]
    first = min((tmp_path / "a").glob("*/*/truth.json"))
    before = first.stat().st_mtime_ns
    assert make(corpus, tmp_path / "a", "--clips", 2) == 0 and first.stat().st_mtime_ns == before


def test_twin_may_be_the_photograph(corpus, tmp_path):
    """It then smiles throughout, and is no clip of its own."""
    assert make(corpus, tmp_path, "--clips", 2, "--photo", 1, "--silence", 0, "--seed", 1) == 0
    clips = sorted(path.parent for path in tmp_path.glob("portrait*/*/truth.json"))
    twins = {clip.with_name((clip / "twin.txt").read_text().strip()) for clip in clips}
    assert len(clips) == 2 and len(twins) == 1 and not twins & set(clips)
    twin = twins.pop()
    frames = {}
    for folder in (twin, *clips):
        count = len(list(folder.glob("*.jpg")))
        frames[folder] = np.stack([cv2.imread(str(folder / f"{i}.jpg")).astype(float) for i in range(count)])
    assert frames[twin].shape == frames[clips[0]].shape
    upper, mouth = np.s_[:, :44], np.s_[:, 72:92, 38:74]
    moves = {folder: np.abs(np.diff(shown[mouth], axis=0)).mean((1, 2, 3)).max() for folder, shown in frames.items()}
    assert moves[twin] < 0.7 * min(moves[clip] for clip in clips)
    for clip in clips:
        apart = np.abs(frames[twin] - frames[clip])  # in the upper half only the grain of each
        assert apart[upper].mean() < 5.5 and apart[mouth].mean() > 2 * apart[upper].mean()


def test_twin_may_have_mouths_of_other_moments(corpus, tmp_path):
    """Its head is where the clip's is; its mouth was filmed at one of a few moments, and is about as far open."""
    assert make(corpus, tmp_path, "--clips", 2, "--photo", 0, "--mixed", 1, "--silence", 0, "--seed", 1) == 0
    clips = sorted(path.parent for path in tmp_path.glob("portrait*/*/truth.json"))
    assert len(clips) == 2
    twins = [clip.with_name((clip / "twin.txt").read_text().strip()) for clip in clips]
    assert [twin.name for twin in twins] == [f"{clip.name}_mixed" for clip in clips[::-1]]
    for clip, twin in zip(clips[::-1], twins):
        count = len(json.loads((clip / "truth.json").read_text())["opening"])
        own, mixed = (
            np.stack([cv2.resize(cv2.imread(str(folder / f"{i}.jpg")), (96, 96)) for i in range(count)]).astype(float)
            for folder in (clip, twin)
        )
        upper, mouth = np.s_[:, :40], np.s_[:, 62:80, 36:60]
        assert np.abs(own - mixed)[upper].mean() < 3  # JPEG's damage
        changed = np.abs(own - mixed)[mouth].mean((1, 2, 3))
        assert (changed < 3).sum() >= 5 and (changed > 4).sum() >= 5  # one of the moments is the frame's own, or none
        changes = [np.abs(np.diff(shown[mouth], axis=0)).mean((1, 2, 3)).max() for shown in (own, mixed)]
        assert changes[1] > 0.5 * changes[0]  # it speaks, too


def test_clips_with_other_settings_are_not_mixed(corpus, tmp_path, capsys):
    assert make(corpus, tmp_path, "--clips", 2, "--seed", 3) == 0
    for other in (("--clips", 2, "--seed", 3, "--silence", 0.5), ("--heads", 2, "--seed", 4)):  # with other names, too
        assert make(corpus, tmp_path, *other) == 2
        assert "was made with other settings; give them again, or another --out" in capsys.readouterr().err


def test_clips_of_other_speakers_are_not_mixed(corpus, tmp_path, capsys):
    """Speakers to be held out used to stay in clips that were there already."""
    assert make(corpus, tmp_path, "--clips", 2, "--only", "sue/one") == 0
    assert make(corpus, tmp_path, "--clips", 2) == 2
    assert "was made with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("flags, words", [
    (("--clips", 2, "--choice", "5000:6000"), "--choice 5000:6000 leaves none of the"),
    (("--clips", -4), "'-4' is not a number of clips"),
    ((), "nothing to make; give a number with --clips, --real or --heads"),
    (("--clips", 2, "--portraits", "SPEAKERS"), "holds videos; --portraits needs a folder of photographs"),
])  # fmt: skip
def test_impossible_requests_are_refused(corpus, tmp_path, capsys, flags, words):
    flags = [corpus[1] if flag == "SPEAKERS" else flag for flag in flags]
    assert make(corpus, tmp_path, *flags) == 2
    assert words in capsys.readouterr().err


def test_silence_and_jaw_following_boxes_are_optional(corpus, tmp_path):
    """In silence nothing moves, so the boxes stay the same; when the mouth is widest, they are larger."""
    clips = {}
    for flags in (("--silence", 0), ("--silence", 1), ("--silence", 1, "--follow_jaw")):
        assert make(corpus, tmp_path / str(len(clips)), "--clips", 2, *flags) == 0
        folder = min((tmp_path / str(len(clips))).glob("*/*/truth.json")).parent
        opening = json.loads((folder / "truth.json").read_text())["opening"]
        clips[len(clips)] = opening, [cv2.imread(str(folder / f"{i}.jpg")).astype(float) for i in range(len(opening))]
    (spoken, _), (opening, still), (same, grown) = clips.values()
    assert len(opening) - len(spoken) >= 8 and opening == same
    assert max(opening[:4]) < 0.1 * max(opening) < max(spoken[:8])
    widest = int(np.argmax(opening))
    apart = [np.abs(one - other).mean() for one, other in zip(still, grown)]
    assert max(apart[:4]) < 0.2 * apart[widest] and apart[widest] > 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--without", "sue"), "no clip"),
        (("--silence", "2"), "'2' is not between 0 and 1"),
        (("--choice", "5:2"), "not a span"),
    ],
)
def test_bad_arguments_are_one_line(corpus, tmp_path, capsys, flags, words):
    assert make(corpus, tmp_path, "--clips", 2, *flags) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_missing_landmarks_are_named(corpus, tmp_path, capsys):
    assert make((tmp_path, corpus[1]), tmp_path / "out", "--clips", 2) == 2
    assert "landmarks.npz" in capsys.readouterr().err


def test_unreadable_portrait_is_named(corpus, tmp_path, capsys):
    shutil.copytree(corpus[0], tmp_path / "photos")
    for picture in (tmp_path / "photos").glob("*.png"):
        picture.write_text("no picture")
    assert make((tmp_path / "photos", corpus[1]), tmp_path / "out", "--clips", 2) == 2
    assert ".png cannot be read" in capsys.readouterr().err


def test_holes_in_landmarks_are_bridged():
    points = np.cumsum(np.ones((6, 4, 2)), 0) + np.arange(4)[None, :, None] * 10
    holed = points.copy()
    holed[2:4] = 0
    holed[5] = 0
    bridged = without_holes(holed)
    assert np.allclose(bridged[:5], points[:5]) and np.allclose(bridged[5], points[4])
    holed[[0, 1, 2, 3, 5]] = 0
    assert np.allclose(without_holes(holed), points[4])  # more frames without than with
    with pytest.raises(UserError, match="no frame has landmarks"):
        without_holes(np.zeros((3, 4, 2)))


class Mesh:
    """Stands in for MediaPipe's: one face, with all points at these fractions of the picture."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def process(self, _):
        points = [SimpleNamespace(x=0.999, y=0.5)] * landmarks.POINTS
        return SimpleNamespace(multi_face_landmarks=[SimpleNamespace(landmark=points)])


def test_landmarks_of_large_pictures_do_not_wrap_around(tmp_path, monkeypatch):
    """From 2048 pixels on, they used to end up on the other side."""
    monkeypatch.setattr(landmarks, "open_mesh", lambda static: Mesh())
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((100, 4000, 3), np.uint8))
    assert landmarks.main([str(tmp_path)]) == 0
    assert np.load(tmp_path / "landmarks.npz")["landmarks"][0, 0] / 16 == pytest.approx((3996, 50))


def test_landmarks_survive_ctrl_c(tmp_path, monkeypatch, capsys):
    """Ctrl-C used to lose hours of them."""
    (tmp_path / "sue").mkdir()
    for name in ("a", "b", "c"):
        write_clip(tmp_path / f"sue/{name}.mp4", np.zeros((2, 64, 64, 3), np.uint8))
    opened = []

    def open_mesh(static):
        opened.append(static)
        if len(opened) == 3:
            raise KeyboardInterrupt
        return Mesh()

    monkeypatch.setattr(landmarks, "open_mesh", open_mesh)
    assert landmarks.main([str(tmp_path)]) == 130
    assert sorted(np.load(tmp_path / "landmarks.npz").files) == ["index", "sue/a", "sue/b"]
    assert capsys.readouterr().err == "stopped; the landmarks found so far are written\n"
    (tmp_path / "sue/a.mkv").write_bytes(b"")
    assert landmarks.main([str(tmp_path)]) == 2 and "only in their suffix" in capsys.readouterr().err
    (tmp_path / "sue/a.mkv").unlink()
    (tmp_path / "sue/b.mp4").write_bytes(b"junk")
    assert landmarks.main([str(tmp_path)]) == 0
    assert f"note: {tmp_path / 'sue/b.mp4'} shows no face, or cannot be read" in capsys.readouterr().err


def test_landmark_differences_are_summed_in_their_own_type():
    jump = np.array([[[20000, 0]], [[-20000, 0]], [[100, 0]]])
    for kind in (np.int16, np.int32):
        steps = np.concatenate((jump[:1].astype(kind), np.diff(jump.astype(kind), axis=0)))
        assert (absolute(steps) == jump / 16).all()


def test_speaker_at_another_frame_rate_is_refused(corpus, tmp_path, capsys):
    """30 frames a second, taken for 25, drift away from their sound."""
    photos, speakers = corpus
    shutil.copytree(speakers, tmp_path / "speakers")
    writer = cv2.VideoWriter(str(tmp_path / "speakers/sue/one.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (64, 64))
    for _ in range(SAID):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    assert make((photos, tmp_path / "speakers"), tmp_path / "out", "--clips", 2, "--real", 1) == 2
    assert "one.mp4 has 30 frames a second; convert it to 25" in capsys.readouterr().err


def test_speaker_whose_picture_begins_late_is_refused(corpus, tmp_path, capsys):
    """Landmarks are numbered by the frames in the file: mouths came 10 frames early in all clips made of it."""
    photos, speakers = corpus
    shutil.copytree(speakers, tmp_path / "speakers")
    one, late = tmp_path / "speakers/sue/one.mp4", tmp_path / "late.mp4"
    run_ffmpeg("-itsoffset", 0.4, "-i", one, "-f", "lavfi", "-i", "sine=duration=9", "-map", 0, "-map", 1, late)
    late.replace(one)
    assert make((photos, tmp_path / "speakers"), tmp_path / "out", "--clips", 2, "--real", 1) == 2
    words = f"one.mp4 has {SAID} frames with landmarks and lasts {SAID + 10}: its picture begins late"
    assert words in capsys.readouterr().err


def test_speakers_may_be_in_any_container(corpus, tmp_path):
    """GRID's own .mpg files used to be skipped silently."""
    photos, speakers = corpus
    shutil.copytree(speakers, tmp_path / "speakers")
    (tmp_path / "speakers/sue/one.mp4").rename(tmp_path / "speakers/sue/one.mov")
    moved_corpus = talking_portrait.Corpus(photos, (tmp_path / "speakers",), tmp_path / "out")
    assert [sentence.path.name for sentence in talking_portrait.list_sentences(moved_corpus)] == ["one.mov", "two.mp4"]


def test_picture_and_sound_have_the_same_speed(corpus, tmp_path):
    """At the end of a sentence, the picture used to be up to half a frame off."""
    portrait_corpus = talking_portrait.Corpus(corpus[0], (corpus[1],), tmp_path)
    for number in range(20):
        speed = talking_portrait.Utterance.draw(portrait_corpus, number, 0).speed
        assert len(vary_voice(np.zeros(16000, np.float32), speed, np.random.default_rng(0))) == math.ceil(16000 / speed)
