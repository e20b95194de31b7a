"""What is in front of a mouth stays there; nothing else changes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

import models
import video
from demo.talking_head import Recipe, write_clip
from errors import UserError
from face_path import FacePath
from lipsync import FilmedFace, Options, ResolvedOptions, looking
from mouths import Appearance, Appearances, MouthSettings, SpeakingTrack, UnoccludedFace, crop, poses_of, redraw_mouths
from mouths.pasting import DrawnFace, paste

WHOLE = (0, 0, 96, 96)
PLACE = slice(60, 96), slice(30, 52)  # of the microphone
BLACK = np.array([20, 24, 28], np.uint8)


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> np.ndarray:
    """A drawn head that speaks for two seconds, cropped as for the network: (50, 96, 96, 3)."""
    path = tmp_path_factory.mktemp("head") / "head.mp4"
    truth = write_clip(path, Recipe(seconds=2.0, size=(192, 192)), 3)
    (x1, y1, x2, y2), *_ = np.median(truth["boxes"], axis=0).round().astype(int).tolist()
    return np.stack([crop(frame, (x1, y1, x2, y2)) for frame in video.read_frames(video.probe(path))])


@pytest.fixture(scope="module")
def occluded(faces) -> np.ndarray:
    """The same with something black in front of the mouth from frame 30 on."""
    occluded = faces.copy()
    occluded[(slice(30, None), *PLACE)] = BLACK
    return occluded


def found_share(hidden: np.ndarray) -> float:
    """How much of the microphone is found."""
    return float(hidden[PLACE].mean())


def test_nothing_is_found_in_front_of_a_speaking_face(faces):
    unoccluded = UnoccludedFace(faces[:25:5])  # later the mouth opens wider than ever before
    assert len(unoccluded.faces) == 5
    assert max(unoccluded.hidden(face).max() for face in faces) == 0


def test_an_object_is_found_and_faces_behind_it_are_left_out(faces, occluded):
    unoccluded = UnoccludedFace(occluded[::5])
    assert len(unoccluded.faces) == 6 and not (unoccluded.faces[(slice(None), *PLACE)] == BLACK).all((1, 2, 3)).any()
    assert min(found_share(unoccluded.hidden(face)) for face in occluded[30:]) > 0.95
    assert max(unoccluded.hidden(face).max() for face in occluded[:30]) == 0


def test_a_change_of_light_is_no_object(faces):
    brighter = cv2.add(faces[40], (12, 12, 12, 0))
    assert UnoccludedFace(faces[::5]).hidden(brighter).max() == 0


def test_an_object_that_goes_away_leaves_nothing_hidden(faces, occluded):
    unoccluded = UnoccludedFace(occluded[30::2])
    assert max(unoccluded.hidden(face).max() for face in faces[:20]) == 0


def test_another_person_is_no_object(faces, astronaut):
    assert UnoccludedFace(faces[::5]).hidden(cv2.resize(astronaut[60:220, 160:290], (96, 96))).max() == 0


def test_nothing_is_found_with_a_single_face(faces):
    unoccluded = UnoccludedFace(faces[:1])
    assert len(unoccluded.faces) == 1 and unoccluded.hidden(faces[0]).max() == 0


def test_nothing_is_drawn_when_most_of_the_lips_are_hidden(faces):
    unoccluded = UnoccludedFace(faces[::5])
    covered = faces[32].copy()
    covered[56:96, 16:80] = BLACK
    assert unoccluded.hidden(covered).min() == 1


def test_an_object_stays_in_front_of_the_drawn_mouth(faces, occluded, filled):
    network, mels = filled(models.Wav2Lip, 0.125), np.zeros((50, 80, 16), np.float32)

    def redrawn(shown: np.ndarray, unoccluded: UnoccludedFace | None) -> np.ndarray:
        appearances = Appearances({0: Appearance(poses_of(shown), unoccluded=unoccluded)})
        settings = MouthSettings("feather", appearances=appearances)
        return np.stack(list(redraw_mouths(shown, [SpeakingTrack([WHOLE] * 50, mels, settings)], network, 16)))

    kept, drawn_over = redrawn(occluded, UnoccludedFace(occluded[::5])), redrawn(occluded, None)
    inner = slice(30, None), slice(64, 90), slice(33, 49)
    assert np.abs(kept[inner].astype(int) - occluded[inner]).max() <= 2
    assert np.abs(drawn_over[inner].astype(int) - occluded[inner]).mean() > 20  # this network copies nothing
    assert (kept[:30] == drawn_over[:30]).all()  # where nothing is in front, nothing differs


def test_feather_keeps_what_is_hidden_and_box_does_not():
    frame, face = np.full((96, 96, 3), 200, np.uint8), np.zeros((96, 96, 3), np.uint8)
    hidden = np.zeros((96, 96), np.float32)
    hidden[:, :48] = 1
    pasted = paste(frame, DrawnFace(face, frame, WHOLE, hidden=hidden), "feather")
    assert (pasted[:, :46] == 200).all() and (pasted[70:80, 54:66] < 30).all()
    assert (paste(frame, DrawnFace(face, frame, WHOLE, hidden=hidden), "box") == 0).all()


def test_unknown_values_of_occlusion_are_refused():
    with pytest.raises(UserError, match="--occlusion draw is not known; give one of keep, ignore"):
        Options(occlusion="draw")


def test_mouths_behind_an_object_are_no_references(occluded, filled, monkeypatch):
    shown = occluded[::5]
    monkeypatch.setattr(looking, "faces_of", lambda *_: (shown, shown.repeat(2, 1).repeat(2, 2)))
    source = video.VideoInfo(Path("x.mp4"), 96, 96, Fraction(25))
    film = FilmedFace(source, FacePath.of([WHOLE], np.empty((1, 4))), None)
    options = ResolvedOptions(blend="feather", reference="matching")
    found = looking.appearances_of(filled(models.Wav2Lip, 0.125), film, options).known[0].references.faces
    assert len(found) == 6 and not (found[(slice(None), *PLACE)] == BLACK).all((1, 2, 3)).any()
