"""The sparse search, on drawn faces in known places, with a detector that finds exactly those."""

from __future__ import annotations

import itertools
import weakref
from collections import deque

import cv2
import numpy as np
import pytest
import torch

import faces
import video
from conftest import X264, write_clip
from devices import pick_precision
from face_detection import detectors
from face_detection import search as search_module
from face_detection.cuts import find_cuts
from face_detection.detections import Detections
from face_detection.geometry import intersection_over_union
from face_detection.search import CONTEXT, NEWCOMERS_SECONDS, search
from face_detection.tracking import follow_face
from faces import FaceSearch

WIDTH, HEIGHT, SIDE = 1280, 720, 120
RNG = np.random.default_rng(0)
TEXTURE = cv2.resize(RNG.integers(0, 255, (6, 6, 3), np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
TEXTURE[..., 2] = 255  # nothing else is red
SCENES = [np.full((HEIGHT, WIDTH, 3), grey, np.uint8) for grey in (60, 120, 180)]


class RedBoxes:
    """Finds red boxes, and records the sizes of the pictures."""

    FACE_SIDE, KEY_SECONDS, CERTAIN = 150, 2.0, 0.8

    def __init__(self, smallest: int = 8):
        self.smallest, self.shapes = smallest, []

    def detect(self, frames):
        self.shapes += [frame.shape[:2] for frame in frames]
        return [self._detect(frame) for frame in frames]

    def _detect(self, frame):
        _, _, stats, _ = cv2.connectedComponentsWithStats((frame[..., 2] > 220).astype(np.uint8))
        found = [[x, y, x + w, y + h, 0.9] for x, y, w, h, _ in stats[1:] if min(w, h) >= self.smallest]
        return np.array(found, np.float32).reshape(-1, 5)

    @property
    def megapixels(self) -> float:
        return sum(height * width for height, width in self.shapes) / 1e6


def picture(*corners: tuple[float, float], scene: int = 0) -> np.ndarray:
    frame = SCENES[scene].copy()
    for x, y in corners:
        left = max(0, -round(x))  # pixels beyond the edge
        frame[round(y) : round(y) + SIDE, max(0, round(x)) : round(x) + SIDE] = TEXTURE[:, left:]
    return frame


def find(frames, detector, fps=25.0) -> Detections:
    found = Detections()
    assert sum(search(found, iter(frames), detector, fps)) == len(found) == len(found.change) == len(frames)
    return found


def searched_frames(found: Detections) -> list[int]:
    return [i for i, boxes in enumerate(found.boxes) if boxes is not None]


def worst_overlap(boxes: np.ndarray, corners: list[tuple[float, float]]) -> float:
    """The smallest overlap of a box with the truth."""
    truth = [np.array([x, y, x + SIDE, y + SIDE]) for x, y in corners]
    return np.min([intersection_over_union(box, t) if box[0] == box[0] else np.nan for box, t in zip(boxes, truth)])


def test_a_slow_face_needs_few_small_searches():
    places = [(500 + 0.5 * i, 300) for i in range(100)]
    detector = RedBoxes()
    found = find([picture(p) for p in places], detector)
    assert len(searched_frames(found)) <= 4 and found.boxes[0] is not None and found.boxes[-1] is not None
    first, whole, crop = detector.shapes.pop(1), (360, 640), (CONTEXT + 0.6) * SIDE
    assert first == (HEIGHT, WIDTH) and all(s == whole or max(s) <= crop for s in detector.shapes)
    assert detector.megapixels < 0.012 * 100 * WIDTH * HEIGHT / 1e6  # one of them of a whole frame, for newcomers
    assert worst_overlap(follow_face(found, 12), places) > 0.97


def test_unsearched_frames_are_interpolated_without_limit():
    box = np.array([[0, 0, 40, 40, 0.9]], np.float32)
    unsearched = Detections([box, *[None] * 60, box + np.float32([[10] * 4 + [0]])], [0.0] * 62)
    missed = Detections([box, *[box[:0]] * 60, box], [0.0] * 62)
    np.testing.assert_allclose(follow_face(unsearched, 12, smooth=False)[:, 0], np.linspace(0, 10, 62), atol=1e-4)
    assert np.isnan(follow_face(missed, 12)[1:-1, 0]).all()


def test_a_face_is_searched_more_often_where_it_turns_back():
    places = [(500 + 160 * abs((i / 20) % 2 - 1), 300) for i in range(80)]  # 8 pixels a frame, to and fro
    found = find([picture(p) for p in places], RedBoxes())
    assert worst_overlap(follow_face(found, 12, smooth=False), places) > 0.85
    assert len(searched_frames(found)) < 30


def test_every_shot_is_searched_from_its_first_frame():
    places = [(100, 100)] * 30 + [(900, 500)] * 31 + [(400, 300)] * 19
    frames = [picture(p, scene=(i >= 30) + (i >= 61)) for i, p in enumerate(places)]
    found = find(frames, RedBoxes())
    assert find_cuts(np.array(found.change)) == [30, 61] and {0, 29, 30, 60, 61, 79} <= set(searched_frames(found))
    assert worst_overlap(follow_face(found, 12), places) > 0.97


def test_a_lost_face_is_found_elsewhere_and_its_absence_is_exact():
    frames = [picture((100, 100))] * 33 + [picture()] * 40 + [picture((900, 500))] * 37
    found = find(frames, RedBoxes())
    assert np.diff([frame for frame in searched_frames(found) if 33 <= frame <= 73]).max() <= 12  # half a second
    boxes = follow_face(found, 12)
    present = ~np.isnan(boxes[:, 0])
    assert present[:33].all() and not present[33:73].any() and present[73:].all()
    assert (boxes[73:, 0] == 900).all()


@pytest.mark.parametrize("speed", [5, 8, 15, 22])
def test_a_fast_face_is_not_lost(speed):
    """Walking across the picture, by 8 pixels a frame, it used to be lost for half of the time."""
    places = [(20 + speed * i, 300) for i in range(min(60, 1100 // speed))]
    found = find([picture(p) for p in places], RedBoxes())
    assert worst_overlap(follow_face(found, 12, smooth=False), places) > 0.85
    assert len(searched_frames(found)) < 0.4 * len(places)


def test_a_face_is_followed_until_it_leaves():
    places = [(900 + 8 * i, 300) for i in range(33)]
    found = find([*map(picture, places), *[picture()] * 42], RedBoxes())
    boxes = follow_face(found, 12, smooth=False)
    assert worst_overlap(boxes[: len(places)], places) > 0.85 and np.isnan(boxes[len(places) :]).all()


def test_newcomers_are_noticed_within_seconds_and_never_swapped():
    fps = 8
    wait, key = round(NEWCOMERS_SECONDS * fps), round(RedBoxes.KEY_SECONDS * fps)
    first = [(100 + i % 3, 300) for i in range(wait + 38)]
    frames = [picture(p, *([(800, 300)] if i >= 19 else [])) for i, p in enumerate(first)]
    found = find(frames, RedBoxes(), fps)
    since = next(i for i, boxes in enumerate(found.boxes) if boxes is not None and len(boxes) == 2)
    assert 19 <= since <= 19 + wait + key
    assert worst_overlap(follow_face(found, 12), first) > 0.9
    assert np.abs(follow_face(found, 12, face_index=1)[-1] - [800, 300, 920, 420]).max() < 2


def test_an_uncertain_face_counts_only_if_there_is_no_other():
    class Doubting(RedBoxes):
        """Less certain of boxes that are not square: those that the frame's edge cuts."""

        def _detect(self, frame):
            boxes = super()._detect(frame)
            square = np.ptp(boxes[:, 2:4] - boxes[:, :2], axis=1) <= 2
            boxes[~square, 4] = 0.6
            return boxes

    alone, both = [picture((-40, 300))] * 60, [picture((-40, 300), (600, 300))] * 60
    for frames, place in ((alone, 0), (both, 600)):
        boxes = [boxes for boxes in find(frames, Doubting()).boxes if boxes is not None]
        assert all(len(b) == 1 and abs(b[0, 0] - place) <= 2 for b in boxes)


def test_a_box_within_a_face_is_no_other_face():
    """A detector that takes an eye for a face, in the reduced picture only, does not make the box jump there."""

    class Wrong(RedBoxes):
        def _detect(self, frame):
            boxes = super()._detect(frame)
            if frame.shape[0] != HEIGHT // 2 or not len(boxes):
                return boxes
            return np.concatenate((boxes, boxes - np.float32([0, 0, 40, 40, 0])))

    places = [(300 + i % 2, 300) for i in range(96)]
    found = find([picture(p) for p in places], Wrong(), fps=8.0)
    assert {len(boxes) for boxes in found.boxes if boxes is not None} == {1}


def test_a_face_too_small_for_the_reduced_picture_is_searched_at_full_size():
    detector = RedBoxes(smallest=SIDE - 20)
    found = find([picture((500, 300))] * 60, detector)
    assert [len(found.boxes[i]) for i in searched_frames(found)] == [1] * len(searched_frames(found))
    assert detector.shapes.count((HEIGHT, WIDTH)) == 1


@pytest.mark.parametrize("limit", [50, 20])
def test_the_search_holds_few_frames_in_memory(monkeypatch, limit):
    """However long the video, and however large its frames; and what it has yielded is complete."""
    monkeypatch.setattr(search_module, "HELD_BYTES", limit * SCENES[0].nbytes)
    alive = most = 0

    def gone():
        nonlocal alive
        alive -= 1

    def frames():
        nonlocal alive, most
        for _ in range(120):
            frame = picture((300, 300))
            weakref.finalize(frame, gone)
            alive += 1
            most = max(most, alive)
            yield frame
            del frame

    found = Detections()
    for _ in search(found, frames(), RedBoxes(), 25.0):
        assert found.boxes[-1] is not None and len(found.boxes) == len(found.change)
    assert RedBoxes.KEY_SECONDS * 25 == 50 and len(found) == 120 and most <= limit + 15


def test_unsearched_frames_survive_saving_and_old_files_are_ignored(tmp_path):
    found = find([picture((300, 300))] * 30, RedBoxes())
    found.save(tmp_path / "c.npz")
    loaded = Detections.load(tmp_path / "c.npz")
    assert searched_frames(loaded) == searched_frames(found) and (loaded.boxes[0] == found.boxes[0]).all()
    assert len(found.first(10)) == searched_frames(found)[1] + 1  # so that frame 9 can be interpolated
    with np.load(tmp_path / "c.npz") as file:
        old = {key: file[key] for key in file if key != "format"}
    np.savez(tmp_path / "old.npz", **old)
    assert len(Detections.load(tmp_path / "old.npz")) == 0


def test_an_interrupted_search_is_resumed(tmp_path, astronaut, monkeypatch):
    """Boxes are saved as the search goes; the next run starts with the last, and finds what one run finds."""
    write_clip(tmp_path / "clip.mp4", np.stack([astronaut[30:230, 130 + 2 * i : 330 + 2 * i] for i in range(12)]))
    search = FaceSearch("haar")
    source, started = video.probe(tmp_path / "clip.mp4"), []
    real = detectors.Haar._detect

    def dies_late(self, frame):
        if len(started) == 1 and len(Detections.load(search.cache_of(source))) >= 5:
            raise KeyboardInterrupt
        return real(self, frame)

    read = video.read_frames
    monkeypatch.setattr(video, "read_frames", lambda *a: (started.append(a[1]), read(*a))[1])
    monkeypatch.setattr(detectors.Haar, "_detect", dies_late)
    monkeypatch.setattr(faces, "SAVE_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        search.find(source, 12)
    found = search.find(source, 12)
    assert started[0] == 0 and started[1] >= 4 and len(found) == 12
    assert same_detections(found, FaceSearch("haar", cache=False).find(source, 12))
    assert not np.isnan(follow_face(found, 12)).any()


def test_results_do_not_depend_on_what_was_searched_before(talking_clip, tmp_path):
    source = video.probe(talking_clip)
    expected = FaceSearch("centerface", cache=False).find(source, 40)
    for before in (1, 7, 21, 60):
        search = FaceSearch("centerface", folder=tmp_path / f"{before}")
        search.find(source, before)
        assert same_detections(search.find(source, 40), expected), before


@pytest.mark.parametrize("smallest", [8, SIDE - 20])
def test_a_resumed_search_looks_at_whole_frames_when_one_run_would(tmp_path, smallest):
    """It is resumed again and again; somebody comes, everybody leaves, and one comes back."""
    people = [[(100, 300)]] * 10 + [[(100, 300), (800, 300)]] * 10 + [[]] * 14 + [[(100, 300)]] * 10
    frames = [picture(*corners) for corners in people]
    found = Detections()
    while len(found) < len(frames):
        searching = search(found, iter(frames[max(0, len(found) - 1) :]), RedBoxes(smallest), 2.0)
        for _ in itertools.islice(searching, 2):
            pass
        searching.close()
        found.save(tmp_path / "boxes.npz")
        found = Detections.load(tmp_path / "boxes.npz")
    assert same_detections(found, find(frames, RedBoxes(smallest), fps=2.0))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_calls_of_the_detector_are_no_larger_than_asked(batch_size):
    sizes = []

    class Counting(RedBoxes):
        def detect(self, frames):
            sizes.append(len(frames))
            assert len({frame.shape for frame in frames}) == 1
            return super().detect(frames)

    frames, found = [picture(*((200 * i, 300) for i in range(5)))] * 6, Detections()
    assert sum(search(found, iter(frames), Counting(), 2.0, batch_size)) == 6 and len(found.boxes[-1]) == 5
    assert max(sizes) == batch_size


def test_scales_change_steadily_with_the_size_of_a_face_and_do_not_enlarge_it():
    searcher = search_module.Searcher(RedBoxes(), 25.0, 16, 0.0, 0.0)
    sides = np.geomspace(20, 2000, 2000)
    shares = [searcher._scales(side) for side in sides]
    assert all(0 < scale <= 1 and weight >= 0 for each in shares for scale, weight in each)
    assert np.allclose([sum(weight for _, weight in each) for each in shares], 1)
    means = [sum(weight * np.log2(scale) for scale, weight in each) for each in shares]
    assert np.abs(np.diff(means)).max() < 0.02 and (np.diff(means) < 1e-9).all()


@pytest.mark.parametrize("across, down", [(2.4, -1.3), (-0.3, 0.4), (0, 0)])
def test_faces_are_matched_to_a_fraction_of_a_pixel(across, down):
    window = cv2.cvtColor(cv2.resize(TEXTURE, (48, 48)), cv2.COLOR_BGR2GRAY)
    moved = cv2.warpAffine(window, np.float32([[1, 0, across], [0, 1, down]]), (48, 48))
    assert search_module._place(moved, window[8:40, 8:40]) == pytest.approx([across, down], abs=0.1)


def test_a_small_face_that_comes_later_is_found_within_seconds():
    """Whole frames in which there is no face are searched at full size as well, now and then."""
    wait = round(NEWCOMERS_SECONDS * 2)
    found = find([picture()] * 5 + [picture((500, 300))] * (wait + 4), RedBoxes(smallest=SIDE - 20), fps=2.0)
    assert len(found.boxes[-1]) == 1


def test_who_comes_soon_after_the_first_face_is_known_before_the_decision():
    """Also if the shot begins without a face."""
    detector = RedBoxes()
    detector.KEY_SECONDS = 3.0
    frames = [picture()] * 6 + [picture((40, 100))] * 20 + [picture((40, 100), (600, 300))] * 124
    found = find(frames, detector)
    assert next(i for i, boxes in enumerate(found.boxes) if boxes is not None and len(boxes) == 2) <= 90


def test_who_comes_soon_after_a_cut_is_known_before_the_decision():
    """Nobody looked for newcomers for 8 s, and whoever is alone for 3 s is followed: it was the smaller face."""
    detector = RedBoxes()
    detector.KEY_SECONDS = 3.0  # as S3FD's
    frames = [picture((40, 100))] * 6 + [picture((40, 100), (600, 300))] * 144
    for frame in frames:
        frame[100:160, 40:160, 2] = 60  # the first face is half as high
    found = find(frames, detector)
    assert next(i for i, boxes in enumerate(found.boxes) if boxes is not None and len(boxes) == 2) == 6
    assert (follow_face(found, 12)[6:, 0] > 500).all()


@pytest.mark.parametrize("share, faces", [(0.8, 2), (0.6, 2), (0.4, 1)])
def test_faces_that_overlap_are_two(share, faces):
    """Cheek to cheek; the better one was found twice, and the other never. Nearer, they count as one face."""

    class Couple(RedBoxes):
        def _detect(self, frame):
            found = super()._detect(frame)[:1]
            beside = share * (found[:, 2:3] - found[:, :1]) * [1, 0, 1, 0, 0]
            return np.concatenate([found, found + beside - [0, 0, 0, 0, 0.05]]).astype(np.float32)

    found = find([picture((500, 300))] * 10, Couple())
    assert len(found.boxes[0]) == faces


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_flash_is_no_cut(length):
    """It was two: the choice of a person began anew, and a face not seen in its light was not interpolated."""
    place = (500, 300)
    frames = [picture(place)] * 30 + [np.full_like(SCENES[0], 250)] * length + [picture(place)] * 29
    found = find(frames, RedBoxes())
    assert not find_cuts(np.array(found.change)) and worst_overlap(follow_face(found, 12), [place] * 60) > 0.9


def test_a_longer_interruption_is_a_shot():
    frames = [picture()] * 30 + [picture(scene=2)] * 4 + [picture()] * 30
    assert find_cuts(np.array(find(frames, RedBoxes()).change)) == [30, 34]


def test_huge_frames_are_not_searched_at_full_size():
    """S3FD needs 600 bytes a pixel: 5 GB for a frame of 4K."""
    detector = RedBoxes()
    found = find([cv2.resize(picture((500, 300)), None, fx=3, fy=3)] * 3, detector)
    assert max(height * width for height, width in detector.shapes) < 2.3e6 < 9 * WIDTH * HEIGHT
    assert found.boxes[0][0, :4] == pytest.approx([1500, 900, 1500 + 3 * SIDE, 900 + 3 * SIDE], abs=12)


def same_detections(one, other):
    lists = [[None if boxes is None else boxes.tolist() for boxes in found.boxes] for found in (one, other)]
    return lists[0] == lists[1] and one.change == other.change


def test_crops_give_the_boxes_of_the_whole_frame(shared, s3fd_checkpoint):
    frames = list(video.read_frames(video.probe(shared / "grid_speakers/swiz3n.mpg"), 0, 8))
    sfd = detectors.SFD(s3fd_checkpoint, dtype=pick_precision("auto", torch.device("cpu")))
    boxes = follow_face(find(frames, sfd), 12)
    assert intersection_over_union(boxes[7], sfd.detect([frames[7]])[0][0, :4]) > 0.9


@pytest.mark.parametrize("aspect", ["4/3", "64/45", "8/9"])
def test_anamorphic_pictures_are_searched_in_their_true_shape(tmp_path, astronaut, aspect):
    """Searched as they are stored, narrow, faces used to lose forehead and chin."""
    across, down = map(int, aspect.split("/"))
    square = astronaut[:384, 40:424]
    expected = follow_face(find([square] * 2, detectors.CenterFace()), 12)[0]
    width = round(384 * down / across) // 2 * 2
    narrowed = ("-vf", f"scale={width}:384,setsar={aspect}")
    write_clip(tmp_path / "narrow.mp4", np.stack([square] * 2), "25", *narrowed, *X264[2:])
    narrow = video.probe(tmp_path / "narrow.mp4")
    assert narrow.width == width and narrow.pixel_aspect == pytest.approx(across / down)
    found = follow_face(FaceSearch("centerface", cache=False).find(narrow), 12)[0]
    wide = width / 384
    assert found / [wide, 1, wide, 1] == pytest.approx(expected, abs=3)


@pytest.mark.parametrize("side", [256, 405, 410, 420])
def test_a_still_face_keeps_its_size(astronaut, side):
    """Between two scales of the search, its size used to jump by up to 6 %, again and again."""
    still = cv2.resize(astronaut[:256, 100:356], (side, side), interpolation=cv2.INTER_AREA)
    found = Detections()
    deque(search(found, iter([still] * 30), detectors.CenterFace(), 25.0), maxlen=0)
    heights = [float(boxes[0][3] - boxes[0][1]) for boxes in found.boxes if boxes is not None and len(boxes)]
    assert len(heights) > 2 and max(heights) < 1.015 * min(heights)
