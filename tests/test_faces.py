"""Detectors on real photos, and tracking on made-up detections with known results."""

from __future__ import annotations

import json
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import faces
import video
from boxes import follow
from conftest import Told, changes_of, needs_bf16
from errors import UserError
from face_detection import FaceAlignment, api, detectors
from face_detection import search as search_module
from face_detection.cuts import find_cuts
from face_detection.detections import Detections
from face_detection.geometry import intersection_over_union
from face_detection.search import search
from face_detection.tracking import (
    PROFILE,
    Track,
    best_pairs,
    choose_person,
    fill_gaps,
    follow_face,
    follow_faces,
    link_tracks,
    match_scores,
    max_simultaneous_faces,
    shows_profiles,
    smooth_boxes,
)
from faces import FaceSearch
from reporting import SILENT, PrefixedReporter


def box(x: float, y: float = 50, size: float = 40, score: float = 0.9) -> list[float]:
    return [x, y, x + size, y + size, score]


def seen(*frames: list[list[float]], cuts: tuple[int, ...] = ()) -> Detections:
    boxes = [np.array(frame, np.float32).reshape(-1, 5) for frame in frames]
    return Detections(boxes, [40.0 if i in cuts else 1.0 for i in range(len(frames))], True)


# --------------------------------------------------------------------------------------------------------------------
# Detectors


@pytest.fixture(scope="module")
def portrait(astronaut) -> np.ndarray:
    """The part of the photo with the face: columns 100 to 356 of its upper half."""
    return np.ascontiguousarray(astronaut[:256, 100:356])


def test_haar_finds_the_face(portrait):
    for scale in (1.0, 0.625):
        (boxes,) = detectors.Haar().detect([cv2.resize(portrait, None, fx=scale, fy=scale)])
        x1, y1, x2, y2 = boxes[0, :4] / scale
        assert 60 < x1 < 100 and 50 < y1 < 90 and 150 < x2 < 190 and 160 < y2 < 215


def test_haar_finds_nothing_in_black_pictures():
    assert detectors.Haar().detect([np.zeros((90, 120, 3), np.uint8)] * 2)[1].shape == (0, 5)


@pytest.fixture(scope="module")
def centerface() -> detectors.CenterFace:
    return detectors.CenterFace()


def find_one(detector: detectors.Detector, picture: np.ndarray) -> np.ndarray:
    """The box (4,) of the only face."""
    (boxes,) = detector.detect([picture])
    assert boxes.shape == (1, 6) and boxes.dtype == np.float32
    return boxes[0, :4]


@pytest.fixture(scope="module")
def in_portrait(centerface, portrait) -> np.ndarray:
    """The box (4,) of the face in the portrait."""
    return find_one(centerface, portrait)


def scaled(picture: np.ndarray, scale: float) -> np.ndarray:
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def test_centerface_frames_a_face_as_s3fd_and_haar_do(shared, centerface, portrait, in_portrait):
    golden = json.loads((shared / "golden/s3fd/boxes.json").read_text())
    frames = list(video.read_frames(video.probe(shared / golden["clip"]), 0, 4, every=5))
    boxes = np.stack([find_one(centerface, frame) for frame in frames])
    assert np.abs(boxes - golden["boxes_x1_y1_x2_y2"][:16:5]).max() < 0.05 * 154  # the height of the face
    (haar,) = detectors.Haar().detect([portrait])
    assert np.abs(in_portrait - haar[0, :4]).max() < 0.1 * 110


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.7, 2.0, 6.0])
def test_centerface_finds_faces_of_all_sizes(centerface, astronaut, portrait, scale):
    """The photo is 128 to 358 pixels wide, or the part with the face 512 to 1536; the face is 30 to 720 high."""
    picture = astronaut if scale < 1 else portrait
    box = find_one(centerface, scaled(picture, scale)) / scale
    assert np.abs(box - find_one(centerface, picture)).max() < 0.06 * 120


def test_centerface_finds_the_same_box_in_a_mirror_image(centerface, portrait, in_portrait):
    x1, y1, x2, y2 = find_one(centerface, np.ascontiguousarray(portrait[:, ::-1]))
    assert np.abs(np.array([256 - x2, y1, 256 - x1, y2]) - in_portrait).max() < 0.03 * 120


@pytest.fixture(scope="module")
def cameraman() -> np.ndarray:
    """A grey photo of a man who looks away: his head is in columns 95 to 170 and rows 45 to 155 of this part."""
    photo = pytest.importorskip("skimage.data").camera()[50:306, 100:356]
    return cv2.cvtColor(photo, cv2.COLOR_GRAY2BGR)


def test_centerface_measures_how_far_a_head_is_turned(centerface, portrait, cameraman):
    small = scaled(portrait, 0.5)
    for picture, least, most in ((portrait, 0.35, 0.6), (small, 0.35, 0.6), (cameraman, 0.1, 0.35)):
        for shown in (picture, np.ascontiguousarray(picture[:, ::-1])):  # mirrored, the eyes change places
            assert least < centerface.detect([shown])[0][0, 5] < most
    for degrees, facing in ((30, True), (-30, True), (90, False)):
        turn = cv2.getRotationMatrix2D((122, 120), degrees, 1.0)
        (tilted,) = centerface.detect([cv2.warpAffine(portrait, turn, (256, 256))])
        assert not len(tilted) and not facing or (tilted[0, 5] > 0.3) == facing


def test_centerface_finds_the_eyes_for_other_detectors(centerface, portrait):
    nothing = np.zeros_like(portrait)
    found, empty = detectors.with_eye_distance(detectors.Haar()).detect([portrait, nothing])
    assert np.array_equal(found[:, :5], detectors.Haar().detect([portrait])[0]) and found.dtype == np.float32
    assert found[0, 5] == pytest.approx(centerface.detect([portrait])[0][0, 5], abs=0.05) and empty.shape == (0, 6)
    assert detectors.with_eye_distance(centerface) is centerface
    elsewhere = SimpleNamespace(FACE_SIDE=1, CERTAIN=0, KEY_SECONDS=1, detect=lambda _: [np.array([[0, 0, 9, 9, 1.0]])])
    assert np.isnan(detectors.with_eye_distance(elsewhere).detect([portrait])[0][0, 5])


def test_centerface_follows_movements_smaller_than_its_cells(centerface, astronaut):
    """Whatever the size of the picture: few of these sides are multiples of 32."""
    shifts = [(0, 0), (1, 0), (2, 1), (3, 3), (5, 2), (7, 7), (11, 4)]
    pictures = [astronaut[y : 250 + 3 * x, 60 + x : 400 - 5 * y] for x, y in shifts]
    boxes = [find_one(centerface, picture) + [60 + x, y] * 2 for picture, (x, y) in zip(pictures, shifts)]
    assert np.std(boxes, axis=0).max() < 0.01 * 120


def test_centerface_does_not_follow_the_jaw(centerface, portrait, in_portrait):
    """The face below the lips is stretched: its chin drops by 12 pixels, a tenth of its height."""
    rows = np.interp(np.arange(256), [0, 148, 172 + 12, 232, 255], [0, 148, 172, 232, 255]).astype(np.float32)
    columns = np.arange(256, dtype=np.float32)
    opened = cv2.remap(portrait, *np.meshgrid(columns, rows), cv2.INTER_LINEAR)
    moved = find_one(centerface, opened) - in_portrait
    assert np.abs(moved[[1, 3]]).max() < 0.2 * 12


def test_centerface_finds_small_faces_in_large_frames(centerface, portrait, in_portrait):
    frame = np.full((1080, 1920, 3), 110, np.uint8)
    small = scaled(portrait, 1 / 3)
    frame[700 : 700 + len(small), 1400 : 1400 + len(small)] = small
    expected = in_portrait / 3 + [1400, 700, 1400, 700]
    assert np.abs(find_one(centerface, frame) - expected).max() < 0.1 * 40


def test_centerface_finds_every_face(centerface, portrait, in_portrait):
    frame = np.full((300, 700, 3), 90, np.uint8)
    frame[:256, :256] = portrait
    frame[100:228, 450:578] = scaled(portrait, 0.5)[:, ::-1]
    (boxes,) = centerface.detect([frame])
    assert len(boxes) == 2 and boxes[0, 4] >= boxes[1, 4] > centerface.THRESHOLD
    left, right = boxes[np.argsort(boxes[:, 0]), :4]
    assert np.abs(left - in_portrait).max() < 0.03 * 120
    x1, y1, x2, y2 = in_portrait / 2
    assert np.abs(right - [578 - x2, 100 + y1, 578 - x1, 100 + y2]).max() < 0.1 * 60


def test_centerface_finds_a_face_that_looks_away(centerface, cameraman):
    x1, y1, x2, y2 = find_one(centerface, cameraman)
    assert 90 < x1 < 115 and 45 < y1 < 85 and 150 < x2 < 175 and 135 < y2 < 160
    assert not len(detectors.Haar().detect([cameraman])[0])


@pytest.mark.parametrize("height, width", [(1, 1), (7, 3), (2, 500), (32, 32), (33, 95), (90, 120), (270, 480)])
def test_centerface_finds_nothing_in_noise_and_plain_pictures(centerface, height, width):
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    greys = [np.full_like(noise, grey) for grey in (0, 90, 255)]
    assert [boxes.shape for boxes in centerface.detect([noise, *greys])] == [(0, 6)] * 4


def test_centerface_does_not_depend_on_earlier_frames(centerface, portrait):
    """Used as it comes, OpenCV's network gives nonsense from the second picture size on."""
    other_sizes = [portrait[:200], portrait[:64, :96], scaled(portrait, 2)]
    before, *_ = centerface.detect([portrait, *other_sizes])
    (after,) = centerface.detect([portrait])
    (fresh,) = detectors.CenterFace().detect([portrait])
    assert (before == after).all() and (before == fresh).all()


def test_centerface_follows_a_drifting_photo(centerface, talking_clip):
    """It drifts by 2 pixels a frame."""
    found, source = Detections(), video.probe(talking_clip)
    assert sum(search(found, video.read_frames(source), centerface, 25.0)) == 25
    boxes = follow_face(found, 12)
    still = boxes + 2 * np.arange(25)[:, None] * [1, 0, 1, 0]
    assert np.abs(still - still.mean(axis=0)).max() < 0.02 * 120


def test_reference_api_returns_whole_numbers_or_none(portrait):
    api = FaceAlignment(flip_input=False, device="cpu", face_detector="haar")
    found, nothing = api.get_detections_for_batch(np.stack([portrait, np.zeros_like(portrait)]))
    assert nothing is None and len(found) == 4 and all(isinstance(v, int) and v >= 0 for v in found)


@pytest.fixture(scope="module")
def person(shared):
    """Two frames of a person, no larger than that S3FD needs."""
    frames = video.read_frames(video.probe(shared / "grid_speakers/swiz3n.mpg"), 0, 2)
    return [np.ascontiguousarray(frame[32:256, 32:320]) for frame in frames]


@pytest.fixture(scope="module")
def sfd(s3fd_checkpoint) -> detectors.SFD:
    return detectors.SFD(s3fd_checkpoint)


def test_sfd_one_by_one_equals_a_batch(person, sfd, monkeypatch):
    batch = sfd.detect(person)
    monkeypatch.setattr(sfd, "PIXELS_PER_CALL", 1)
    for a, b in zip(sfd.detect(person), batch):
        assert len(a) and np.abs(a - b).max() < 0.01


@pytest.fixture(scope="module")
def living_sfd(living_s3fd) -> detectors.SFD:
    return detectors.SFD(living_s3fd)


def test_sfd_takes_pictures_of_any_size(living_sfd):
    assert living_sfd.detect([]) == []
    for size in ((1, 1), (16, 300), (31, 33)):
        assert len(living_sfd.detect([np.zeros((*size, 3), np.uint8)] * 2)) == 2


def test_boxes_without_area_do_not_overlap():
    empty, whole = np.zeros(4), np.array([0.0, 0.0, 2.0, 2.0])
    assert intersection_over_union(empty, empty) == 0 == intersection_over_union(empty, whole)
    assert intersection_over_union(whole, whole + (1, 0, 1, 0)) == pytest.approx(1 / 3)


def test_sfd_finds_faces_where_half_precision_gives_no_numbers(person, sfd, s3fd_checkpoint):
    """As fp16 does on some GPUs; every frame seemed to have no face."""
    half = detectors.SFD(s3fd_checkpoint, dtype=torch.float16)
    broken = half.network.register_forward_hook(
        lambda _, inputs, maps: [m * torch.nan if inputs[0].dtype == torch.float16 else m for m in maps]
    )
    for a, b in zip(sfd.detect(person[:1]), half.detect(person[:1])):
        np.testing.assert_allclose(a, b, atol=0.1)
    broken.remove()


@needs_bf16
def test_sfd_finds_nearly_the_same_box_in_bf16(person, sfd, s3fd_checkpoint):
    rounded = detectors.SFD(s3fd_checkpoint, dtype=torch.bfloat16)
    whole, half = (detector.detect(person[:1]) for detector in (sfd, rounded))
    for a, b in zip(whole, half):
        assert np.abs(a[0, :4] - b[0, :4]).max() < 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_head_of_sfd_works_in_half_precision(living_sfd, living_s3fd, astronaut, dtype):
    """In float16, the default on CUDA, 97 to 100 % of the inputs of the heads for small faces were 0."""
    frame = cv2.resize(astronaut, (160, 160))[None]
    whole, half = (sfd._maps(frame) for sfd in (living_sfd, detectors.SFD(living_s3fd, dtype=dtype)))
    assert len(whole) == 12
    for exact, rough in zip(whole, half):
        assert exact.std() > 0.1 and (rough - exact).abs().mean() < 0.05 * exact.std()


def test_norm_of_sfd_equals_the_librarys(living_s3fd):
    norm = pytest.importorskip("face_alignment.detection.sfd.net_s3fd").L2Norm(6, scale=10)
    x = torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(detectors.WideNorm(norm.weight)(x), norm(x))
    assert torch.equal(detectors.WideNorm(norm.weight)(torch.zeros(1, 6, 1, 1).half()), torch.zeros(1, 6, 1, 1).half())


def test_only_running_out_of_memory_splits_a_batch(living_sfd, monkeypatch):
    """In the reference, any RuntimeError did; later, the failed call's memory was kept during the next."""
    frames = [np.zeros((64, 64, 3), np.uint8)] * 4
    sizes, failed = [], []

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            assert all(reference() is None for reference in failed)
            activations = x.clone()
            failed.extend(map(weakref.ref, (x, activations)))
            sizes.append(len(x))
            if len(x) > 1:
                raise torch.OutOfMemoryError("full")
            raise RuntimeError("something else")

    monkeypatch.setattr(living_sfd, "network", Network())
    with pytest.raises(RuntimeError, match="something else"):
        living_sfd.detect(frames)
    assert sizes == [4, 2, 1]


def test_unusable_weights_and_unknown_detectors_are_named(tmp_path):
    pytest.importorskip("face_alignment")
    (tmp_path / "x.pth").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="x.pth does not hold S3FD"):
        detectors.create_detector("sfd", weights=tmp_path / "x.pth")
    for name in ("yunet", "blazeface"):
        with pytest.raises(UserError, match=f"x.pth does not hold weights of {name}"):
            detectors.create_detector(name, weights=tmp_path / "x.pth")
    with pytest.raises(ValueError, match="unknown face detector"):
        detectors.create_detector("dlib2")


def test_face_alignment_uses_downloaded_weights(monkeypatch, tmp_path):
    """The reference's class fetched them by itself; ours used to say that they were missing."""
    created = []
    monkeypatch.setattr(api, "SFD_WEIGHTS", tmp_path / "nowhere.pth")
    monkeypatch.setattr(api.downloads, "find", lambda name: tmp_path / f"{name}.pth")
    monkeypatch.setattr(api, "create_detector", lambda *given: created.append(given))
    FaceAlignment(device="cpu")
    FaceAlignment(device="cpu", path_to_detector="mine.pth")
    FaceAlignment(device="cpu", face_detector="haar")
    assert [given[2] for given in created] == [tmp_path / "s3fd.pth", "mine.pth", None]


@pytest.mark.parametrize("name", detectors.LIBRARY_DETECTORS)
def test_library_detectors_are_used_like_the_others(name, monkeypatch):
    """RGB goes in; boxes come out best first, whatever order the library returns."""
    import importlib

    first_pixels = []

    class FaceDetector:
        def __init__(self, device, **paths):
            assert device == "cpu" and paths["path_to_detector"] == "w"

        def detect_from_image(self, image):
            first_pixels.append(image[0, 0].tolist())
            return [[1, 2, 3, 4, 0.5], [5, 6, 7, 8, 0.9]]

    monkeypatch.setattr(importlib, "import_module", lambda _: SimpleNamespace(FaceDetector=FaceDetector))
    (boxes,) = detectors.create_detector(name, weights="w").detect([np.full((2, 2, 3), (1, 2, 3), np.uint8)])
    assert boxes[0].tolist() == pytest.approx([5, 6, 7, 8, 0.9]) and first_pixels == [[3, 2, 1]]


def test_download_failure_suggests_another_detector(monkeypatch):
    import importlib
    from urllib.error import URLError

    def refuse(device):
        raise URLError("no network")

    monkeypatch.setattr(importlib, "import_module", lambda _: SimpleNamespace(FaceDetector=refuse))
    with pytest.raises(RuntimeError, match="--face_detector centerface"):
        detectors.create_detector("yunet")


# --------------------------------------------------------------------------------------------------------------------
# Which detector


@pytest.fixture
def downloads(monkeypatch, tmp_path) -> list[str]:
    """Names of the requested downloads; there are no weights of S3FD, and no network."""
    requested = []

    def refuse(name, *_):
        requested.append(name)
        raise RuntimeError("could not download it (no network); put it there")

    monkeypatch.setattr(faces, "SFD_WEIGHTS", tmp_path / "s3fd.pth")
    monkeypatch.setattr(faces.downloads, "find", refuse)
    return requested


def test_boxes_of_other_weights_are_not_reused(tmp_path, monkeypatch, talking_clip):
    """Weights beside the code have the same name, whatever they are."""
    own, source = tmp_path / "s3fd.pth", video.probe(talking_clip)
    monkeypatch.setattr(faces, "SFD_WEIGHTS", own)
    caches = []
    for content in (b"old", b"newer", b"old"):
        own.write_bytes(content)
        caches += [FaceSearch(cache=True).cache_of(source), FaceSearch("sfd", weights=str(own)).cache_of(source)]
    assert caches[0] == caches[1] == caches[4] == caches[5] != caches[2] == caches[3]


def test_centerface_is_used_if_weights_of_sfd_are_missing(downloads, talking_clip, told):
    source, auto = video.probe(talking_clip), FaceSearch()
    for settings in (auto, FaceSearch(cache=False)):
        settings.find(source, 5)  # silently
        found = settings.find(source, 5, report=told)
        assert not np.isnan(follow_face(found, 12)).any()
    assert downloads == ["s3fd"] and len(told.notes) == 1
    assert told.notes[0].startswith("warning: could not download") and "centerface" in told.notes[0]
    caches = [FaceSearch(d).cache_of(source) for d in ("auto", "centerface", "sfd")]
    assert caches[0] == caches[1] != caches[2] and caches[0].exists() and not caches[2].exists()


def test_a_failed_download_is_retried(downloads, told, monkeypatch):
    """A server used to warn only its first visitor, and never look again, even when the file was there."""
    other = Told()

    @dataclass
    class Unhashable(Told):
        notes: list[str]

    for report in (told, PrefixedReporter(told, "a.mp4"), other, Unhashable([])):
        assert FaceSearch().detector_name(report) == "centerface"
    assert downloads == ["s3fd"] and len(told.notes) == len(other.notes) == 1
    monkeypatch.setattr(faces, "RETRY_SECONDS", 0.0)
    assert FaceSearch().detector_name(told) == "centerface" and downloads == ["s3fd"] * 2
    monkeypatch.setattr(faces, "RETRY_SECONDS", 300.0)
    monkeypatch.setattr(faces.downloads, "is_local", lambda name: True)
    monkeypatch.setattr(faces.downloads, "find", lambda *_: "s3fd.pth")
    assert FaceSearch().detector_name(told) == "sfd"


def test_a_cache_that_cannot_be_written_is_reported_once(tmp_path, told):
    (tmp_path / "file").write_text("")
    for report in (SILENT, told, told):
        faces.save_cache(Detections(), tmp_path / "file" / "boxes.npz", report)
    assert len(told.notes) == 1 and "could not be cached" in told.notes[0]


def test_naming_sfd_gives_sfd_or_an_error(downloads, talking_clip):
    settings = FaceSearch("sfd")
    with pytest.raises(RuntimeError, match="could not download.*--face_detector centerface"):
        settings.find(video.probe(talking_clip), 5)


def test_yunet_is_downloaded_and_checked(downloads, monkeypatch, tmp_path):
    """By us, because the library takes whatever it gets."""
    with pytest.raises(RuntimeError, match="could not download.*--face_detector centerface"):
        FaceSearch("yunet").open()
    assert downloads == ["yunet"] and faces.downloads.KNOWN["yunet"].sha256
    given = []
    monkeypatch.setattr(faces, "_opened", lambda *arguments: given.append(arguments))
    FaceSearch("yunet", tmp_path).open()
    assert given[0][2] == tmp_path and downloads == ["yunet"]


def test_a_detector_is_loaded_once_until_its_file_changes(tmp_path, monkeypatch):
    """It used to be loaded again for every video of a folder."""
    created = []
    detector = SimpleNamespace(FACE_SIDE=1, CERTAIN=0, KEY_SECONDS=1)
    monkeypatch.setattr(faces, "create_detector", lambda *arguments: created.append(arguments) or detector)
    search = FaceSearch("sfd", tmp_path / "s3fd.pth")
    search.weights.write_bytes(b"one")
    first = search.open()
    assert first is replace(search, batch_size=2).open() and len(created) == 1
    assert first is not search.on(torch.device("meta")).open() and created[1][1] == "meta"
    search.weights.write_bytes(b"another")
    assert first is not search.open() and len(created) == 3


@pytest.mark.parametrize("name", ["centerface", "haar"])
def test_threads_share_a_detector(name, portrait):
    """OpenCV's keep the picture that they are given: two threads would see each other's."""
    detector = detectors.create_detector(name)
    pictures = [portrait, cv2.resize(portrait, (200, 200))] * 3
    alone = [detector.detect([picture])[0] for picture in pictures[:2]] * 3
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(lambda picture: detector.detect([picture])[0], pictures))
    assert all(map(np.array_equal, alone, together)) and len(alone[0])


def test_missing_weights_are_refused(talking_clip, tmp_path):
    with pytest.raises(UserError, match="--face_detector_weights .*none.pth does not exist; give the detector's file"):
        FaceSearch(weights=tmp_path / "none.pth").find(video.probe(talking_clip), 5)


@pytest.mark.parametrize("name", ["centerface", "haar"])
def test_weights_for_a_detector_that_takes_none_are_refused(talking_clip, tmp_path, name):
    (tmp_path / "x.pth").write_bytes(b"weights")
    with pytest.raises(UserError, match=f"--face_detector_weights: {name} has its own weights; leave the flag out"):
        FaceSearch(name, tmp_path / "x.pth").find(video.probe(talking_clip), 5)


def test_sfd_is_preferred(downloads, tmp_path, monkeypatch):
    given = FaceSearch(weights=tmp_path / "mine.pth")
    assert (given.detector_name(), given.detector_weights()) == ("sfd", tmp_path / "mine.pth")
    (tmp_path / "s3fd.pth").touch()
    assert FaceSearch().detector_name() == "sfd" and not downloads
    (tmp_path / "s3fd.pth").unlink()
    monkeypatch.setattr(faces.downloads, "find", lambda *_: tmp_path / "downloaded.pth")
    auto = FaceSearch()
    assert (auto.detector_name(), auto.detector_weights()) == ("sfd", tmp_path / "downloaded.pth")


# --------------------------------------------------------------------------------------------------------------------
# Detections


def test_detections_grow_and_survive_saving(tmp_path, portrait):
    frames = [portrait[30:230, i : i + 200] for i in range(30, 36)]
    at_once, in_parts = Detections(), Detections()
    list(search(at_once, frames, detectors.Haar(), 25))
    list(search(in_parts, frames[:4], detectors.Haar(), 25))
    in_parts.save(tmp_path / "cache.npz")
    in_parts = Detections.load(tmp_path / "cache.npz")
    list(search(in_parts, frames[3:], detectors.Haar(), 25))
    assert in_parts.change == pytest.approx(at_once.change)
    assert len(in_parts) == 6 and in_parts.boxes[0].tolist() == at_once.boxes[0].tolist()


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 broken"])
def test_a_broken_cache_counts_as_none(tmp_path, content):
    if content is not None:
        (tmp_path / "c.npz").write_bytes(content)
    assert len(Detections.load(tmp_path / "c.npz")) == 0


def test_cache_name_depends_on_content_and_settings(tmp_path, talking_clip):
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(talking_clip.read_bytes())
    one, other = (video.probe(tmp_path / f"{name}.mp4") for name in "ab")
    name, same = (FaceSearch("haar").cache_of(source).name for source in (one, other))
    assert name == same != FaceSearch("centerface").cache_of(one).name
    half, whole = (FaceSearch("sfd", dtype=dtype).cache_of(one).name for dtype in (torch.bfloat16, torch.float32))
    assert half != whole  # searches in float32 used to get the boxes of half precision
    other.path.write_bytes(talking_clip.read_bytes() + b"more")
    assert FaceSearch("haar").cache_of(other).name != name


# --------------------------------------------------------------------------------------------------------------------
# Tracking


def test_smoothing_does_not_lead_or_lag():
    """The reference's window looked ahead: boxes led a face moving 10 px a frame by 20 px."""
    track = np.array([0.0, 0, 90, 90]) + np.arange(20.0)[:, None] * 10
    smooth = track.copy()
    smooth_boxes(smooth)
    np.testing.assert_allclose(smooth, track)


def test_smoothing_damps_noise_and_keeps_short_tracks():
    noisy = np.random.default_rng(0).normal([100, 100, 200, 200], 5, (200, 4))
    smooth = noisy.copy()
    smooth_boxes(smooth)
    assert smooth[2:-2].std(0).max() < 0.6 * noisy.std(0).min()
    three = np.array([0.0, 0, 400, 400]) + np.array([0.0, 100, 200])[:, None]
    smooth_boxes(three)  # in the reference: 150, 150, 175
    np.testing.assert_allclose(three[:, 0], [0, 100, 200])


def test_smoothing_never_reaches_across_gaps_or_cuts():
    found = seen(*[[box(10)]] * 10, *[[box(200)]] * 10, cuts=(10,))
    boxes = follow_face(found, max_gap=5)
    assert (boxes[:10, 0] == 10).all() and (boxes[10:, 0] == 200).all()


def test_smoothing_never_mixes_two_people():
    """After a cut that was not noticed, as between dark pictures, mouths were drawn between the two."""
    boxes = follow_face(seen(*[[box(0)]] * 40, *[[box(200)]] * 40), max_gap=12)
    assert (boxes[:40, 0] == 0).all() and (boxes[40:, 0] == 200).all()


def test_short_gaps_are_interpolated_long_ones_are_not():
    found = seen(*[[box(0)]] * 5, [], [], [], *[[box(8)]] * 5, *[[]] * 9, *[[box(8)]] * 5)
    boxes = follow_face(found, max_gap=4, smooth=False)
    np.testing.assert_allclose(boxes[4:9, 0], [0, 2, 4, 6, 8])
    assert np.isnan(boxes[13:22, 0]).all() and (boxes[22:, 0] == 8).all()
    ends = np.array([[np.nan] * 4, [1.0] * 4, [np.nan] * 4])
    fill_gaps(ends, 5)
    assert np.isnan(ends[[0, 2]]).all()


def test_gaps_between_two_people_are_not_filled():
    """A box used to glide from one to the other: a mouth was drawn on what was between them."""
    near, far, aside = [0.0, 0, 194, 194], [400.0, 50, 454, 104], [700.0, 0, 894, 194]
    for other in (far, aside):
        boxes = np.array([near] * 5 + [[np.nan] * 4] * 6 + [other] * 5)
        filled = boxes.copy()
        fill_gaps(filled, 12)
        np.testing.assert_array_equal(filled, boxes)
    boxes[11:] = [20.0, 0, 224, 204]  # the same person, nearer
    fill_gaps(boxes, 12)
    assert not np.isnan(boxes).any()


def test_gaps_across_cuts_are_not_filled():
    found = seen(*[[box(0)]] * 5, [], [], *[[box(0)]] * 5, cuts=(6,))
    assert np.isnan(follow_face(found, max_gap=5)[5:7, 0]).all()


def test_largest_face_is_followed_and_never_swapped():
    """The best score, which jumps between two people, no longer decides."""
    frames = [[box(0, size=60, score=0.5 + 0.4 * (i % 2)), box(150, score=0.7)] for i in range(20)]
    frames[8:10] = [[box(150)], [box(150)]]  # the large one turns away for a moment
    assert (follow_face(seen(*frames), max_gap=4)[:, 0] == 0).all()
    frames[8:16] = [[box(150)]] * 8  # ... or for long: better nobody than the other one
    boxes = follow_face(seen(*frames), max_gap=4)
    assert np.isnan(boxes[8:16, 0]).all() and (boxes[16:, 0] == 0).all()


def test_face_index_counts_from_the_left_at_first_sight():
    frames = [[box(200 - 3 * i, size=50), box(10 + 3 * i)] for i in range(20)]
    for index, start in ((0, 10), (1, 200)):
        assert follow_face(seen(*frames), 5, index, smooth=False)[0, 0] == start
    assert np.isnan(follow_face(seen(*frames), 5, 2)).all()


def test_crossing_faces_keep_their_tracks():
    frames = [[box(0 + 12 * i, y=0), box(240 - 12 * i, y=45)] for i in range(20)]
    tracks = link_tracks([np.array(f, np.float32) for f in frames], 5)
    assert sorted(len(t.frames) for t in tracks) == [20, 20]
    assert all(np.abs(np.diff([b[0] for b in t.boxes])).max() < 13 for t in tracks)


def with_eyes(*eyes: float) -> Detections:
    """A still face with these distances of its eyes, and beside it a smaller one that faces the camera."""
    rows = [np.array([[*box(0, size=80), apart], [*box(200), 0.4]], np.float32) for apart in eyes]
    return Detections(rows, [1.0] * len(rows), True)


def test_a_face_in_profile_is_left_out_and_not_replaced():
    followed = follow_face(with_eyes(*[0.4] * 20, *[0.05] * 20, *[0.4] * 20), 5, smooth=False)
    assert np.isnan(followed[20:40]).all()
    assert (followed[[*range(20), *range(40, 60)], 0] == 0).all()
    (first, second) = follow_faces(with_eyes(*[0.4] * 20, *[-0.1] * 20), 5)
    assert np.isnan(first[20:]).all() and (first[:20, 0] == 0).all() and (second[:, 0] == 200).all()


def test_a_man_in_profile_is_not_replaced_by_somebody_else(shared):
    """A mouth used to be drawn on his cheek. Behind him, a woman faces the camera."""
    half = video.Geometry(resize_factor=2)
    source = replace(video.probe(shared / "clips/cuts_and_faceless_frames_30fps.mp4", half), start=47)
    found = FaceSearch("centerface", cache=False).find(source, 18)
    with pytest.raises(
        UserError,
        match="30fps.mp4 shows the face only in profile, .* from 1.57 to 2.17 s, .* --face_index for another face",
    ):
        list(follow([found], source, (0, 0, 0, 0)))


def test_a_head_in_profile_for_a_moment_keeps_its_box():
    assert (follow_face(with_eyes(*[0.4] * 20, *[0.05] * 4, *[0.4] * 20), 5, smooth=False)[:, 0] == 0).all()


def test_turning_is_interpolated_between_searched_frames():
    found = with_eyes(0.4, 0.0)
    found.boxes = [found.boxes[0], *[None] * 7, found.boxes[1]]
    found.change = [1.0] * 9
    shown = ~np.isnan(follow_face(found, 1, smooth=False, fill=False)[:, 0])
    assert shown.tolist() == [0.4 * (1 - n / 8) >= PROFILE for n in range(9)]


def test_a_head_near_profile_does_not_come_and_go():
    eyes = [0.4] * 10 + [0.19, 0.17, 0.2, 0.18] * 10 + [0.4] * 10
    shown = ~np.isnan(follow_face(with_eyes(*eyes), 1, smooth=False, fill=False)[:, 0])
    assert shown.tolist() == [True] * 11 + [False] * 39 + [True] * 10


def test_an_unknown_eye_distance_changes_nothing():
    """With a detector that runs seldom, one unknown distance used to give a profile a mouth for seconds."""
    found = with_eyes(0.0, np.nan, 0.0)
    found.boxes = [found.boxes[0], *[None] * 8, found.boxes[1], *[None] * 8, found.boxes[2]]
    found.change = [1.0] * 19
    assert np.isnan(follow_face(found, 1, smooth=False)).all()


def test_faces_in_profile_throughout_cannot_be_chosen():
    found = with_eyes(*[0.05] * 20)
    (only,) = follow_faces(found, 5)
    assert (only[:, 0] == 200).all() and max_simultaneous_faces(found, 5) == 2
    for boxes in found.boxes:
        boxes[:, 5] = 0.05
    assert follow_faces(found, 5) == []


def test_the_mean_of_two_scales_ignores_unknown_eye_distances():
    boxes = np.array([[0, 0, 10, 10, 0.9, np.nan], [2, 0, 12, 10, 0.7, 0.3]])
    assert search_module._mean(np.array([0.25, 0.75]), boxes) == pytest.approx([1.5, 0, 11.5, 10, 0.75, 0.3])
    assert np.isnan(search_module._mean(np.ones(1), boxes[:1])[5])


def test_faces_without_eye_distances_count_as_facing():
    assert not shows_profiles(seen([box(0)], [])) and shows_profiles(with_eyes(0.4, 0.1))
    unknown = with_eyes(*[np.nan] * 5)
    assert not shows_profiles(unknown) and (follow_face(unknown, 5)[:, 0] == 0).all()


def test_a_brief_face_is_not_chosen_however_large():
    """A poster in view for a moment does not speak; a face that is there for a quarter of the time may."""

    def track(frames: int, side: float) -> Track:
        made = Track()
        for frame in range(frames):
            made.add(frame, np.array([0, 0, side, side]), np.nan)
        return made

    lasting = track(40, 50)
    assert choose_person([lasting, track(9, 200)], 5, None) == [lasting]
    assert choose_person([lasting, large := track(10, 200)], 5, None) == [large]


def test_false_alarms_are_dropped_but_a_photo_is_not():
    frames = [[box(0)] + ([box(300, size=200)] if i == 4 else []) for i in range(10)]
    assert (follow_face(seen(*frames), 5)[:, 0] == 0).all()
    assert follow_face(seen([box(7)]), 5)[0, 0] == 7
    assert choose_person([], 5, None) == []


@pytest.mark.parametrize("gaps", [1, 2, np.array([1, 5, 2])])
def test_scores_of_many_boxes_are_those_of_each(gaps):
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 60, (7, 2)), rng.uniform(20, 60, (7, 2))
    old, new = np.split(np.concatenate([corners, corners + sides], axis=1), [3])
    scores = match_scores(new, old, gaps)
    for i, j in np.ndindex(4, 3):
        gap = np.broadcast_to(gaps, 3)[j]
        overlap = intersection_over_union(old[j], new[i])
        apart = np.hypot(*(old[j, :2] + old[j, 2:] - new[i, :2] - new[i, 2:]) / 2)
        moved = 0.0 if gap == 1 else 0.2 * (1 - apart / np.sqrt(np.prod(old[j, 2:] - old[j, :2])) / 0.7)
        assert scores[i, j] == pytest.approx(overlap if overlap >= 0.2 else moved)
    left, paired = scores.copy(), best_pairs(scores)
    for place in paired:  # always the best of what is left
        assert scores[place] == left.max() > 0
        left[place[0]], left[:, place[1]] = 0, 0
    assert (left <= 0).all()
    assert match_scores(new[:0], old, 1).shape == (0, 3) and best_pairs(match_scores(new, old[:0], 1)) == []


def test_a_face_has_one_index():
    """Anna, before a pan, was the same box for both indices, so that both speeches of --pair were drawn on her."""
    found = seen(*[[box(300)]] * 40, *[[]] * 30, *[[box(60), box(500)]] * 100)
    first, second = (follow_face(found, 12, index, smooth=False)[:, 0] for index in (0, 1))
    assert (first[:40] == 300).all() and (first[70:] == 60).all()
    assert np.isnan(second[:40]).all() and (second[70:] == 500).all()


def test_a_face_at_anothers_place_is_not_given_to_the_second():
    """Anna was taken out before Ben's tracks were joined, and so was what was known of her place."""
    together = [[box(0), box(600)]] * 100
    found = seen(*together, *[[]] * 10, *[[box(300)]] * 90, *[[box(300), box(10)]] * 100, *[[box(300)]] * 100)
    second = follow_face(found, 5, 1, smooth=False)[:, 0]
    assert (second[:100] == 600).all() and np.isnan(second[110:]).all()


def test_a_false_alarm_takes_no_index():
    two = [box(100), box(500)]
    found = seen(*[two] * 200, *[[box(250), *two]] * 3, *[two] * 290)
    assert max_simultaneous_faces(found, 12) == 2
    assert (follow_face(found, 12, 1, smooth=False)[:, 0] == 500).all()


def test_cuts_stand_out_from_motion():
    change = np.full(60, 1.0)
    change[20] = 30
    assert find_cuts(change) == [20]
    change[30:45] = 14  # fast motion
    assert find_cuts(change) == [20]
    assert find_cuts(np.array([0.0, 50.0])) == [1]


@pytest.mark.parametrize("times", [2, 2.4, 3, 5])
def test_repeated_frames_do_not_turn_motion_into_cuts(times):
    """At 60 frames a second, each frame of a video of 25 fps is shown two or three times."""
    numbers = (np.arange(round(75 * times)) / times).astype(int)
    change = np.where(np.diff(numbers, prepend=0) > 0, 14.0, 0.0)
    assert not [cut for cut in find_cuts(change) if 8 <= cut < len(change) - 8]  # at the ends too little is known
    cut = int(np.flatnonzero(numbers == 40)[0])
    change[cut] = 90
    assert [one for one in find_cuts(change) if 8 <= one < len(change) - 8] == [cut]
    slides = np.zeros(100)
    slides[[20, 30, 60]] = 40
    assert find_cuts(slides) == [20, 30, 60]


def test_cuts_of_real_footage(shared):
    """Its picture starts 0.85 s late, so 25 frames come before those counted in the file."""
    frames = video.read_frames(video.probe(shared / "clips/cuts_and_faceless_frames_30fps.mp4"))
    assert find_cuts(changes_of(frames)) == [20 + 25, 82 + 25, 211 + 25]


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_below_one_is_refused(size):
    """It used to end every search at once, and the next one read from the cache that there was no face."""
    with pytest.raises(UserError, match=f"batch_size must be 1 or more, not {size}"):
        FaceSearch(batch_size=size)


def dissolved(before: np.ndarray, after: np.ndarray, frames: int, count: int = 190, begin: int = 90) -> np.ndarray:
    """Return the changes of a film with grain and a trembling camera, in which one picture dissolves into another."""
    rng, shares = np.random.default_rng(0), ((np.arange(count) - begin) / frames).clip(0, 1)
    mixed = (cv2.addWeighted(before, 1 - share, after, share, 0) for share in shares)
    shaken = (np.roll(frame, i % 3, 1) + rng.normal(0, 3, before.shape) for i, frame in enumerate(mixed))
    return changes_of(frame.clip(0, 255).astype(np.uint8) for frame in shaken)


@pytest.mark.parametrize("frames", [8, 16, 25, 40])
def test_a_dissolve_is_a_cut(small_photo, frames):
    """It was none, and of the people before and after it only those were found who had been first."""
    other = cv2.flip(cv2.subtract(255, small_photo), 0)
    (cut,) = find_cuts(dissolved(small_photo, other, frames))
    assert 90 + frames <= cut <= 90 + frames + 3
    (cut,) = find_cuts(dissolved(small_photo, np.zeros_like(small_photo), frames))  # and so is a fade
    assert 90 + frames <= cut <= 90 + frames + 3


def test_light_and_a_moving_camera_are_no_cut(astronaut, small_photo):
    for light in (0.4, 0.7, 1.5):
        assert not find_cuts(dissolved(small_photo, cv2.convertScaleAbs(small_photo, alpha=light), 25))
    larger = cv2.resize(astronaut, None, fx=3, fy=3)
    for pixels in (2, 8, 20):
        assert not find_cuts(changes_of(larger[300:525, x : x + 400] for x in range(0, larger.shape[1] - 400, pixels)))
