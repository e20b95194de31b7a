"""Faces are followed while they are searched for: the first frame is finished before the last is searched."""

from __future__ import annotations

import itertools
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import boxes
import face_path
import faces
import mouths
import video
from conftest import run_ffmpeg, write_clip
from errors import UserError
from face_detection.cuts import LOOKAHEAD
from face_detection.detections import Detections
from face_detection.tracking import BoxSmoother, follow_face, settle
from faces import FaceSearch
from lipsync import LipSync, ResolvedOptions, engine
from reporting import SILENT

GAP = 4  # frames; a face that is alone for 24 of them is followed
SIZE = (240, 320)
SMALL = (120, 160)  # of the clips
COUNT, FACELESS = 300, range(200, 240)  # frames of the long clip, and those without a face


def box(x: float, side: float = 60, y: float = 40) -> tuple[float, ...]:
    return x, y, x + side, y + side, 0.9


def seen(per_frame: list[list[tuple] | None], cuts: tuple[int, ...] = ()) -> Detections:
    rows = [None if found is None else np.array(found, np.float32).reshape(-1, 5) for found in per_frame]
    return Detections(rows, [50.0 if i in cuts else 1.0 for i in range(len(rows))])


def growing(found: Detections, steps: list[int]):
    """Yield what a search would have found after each step, in frames; the steps are repeated."""
    for stop in itertools.accumulate(itertools.cycle(steps)):
        yield Detections(found.boxes[:stop], found.change[:stop])
        if stop >= len(found):
            return


def in_pieces(found: Detections, steps: list[int], index: int | None = None, **options: bool) -> list[np.ndarray]:
    steady = BoxSmoother(GAP, **options)
    return [steady.add(*piece) for piece in settle(growing(found, steps), GAP, index)]


def random_detections(seed: int) -> Detections:
    """People who come, go, wander and are missed, false alarms, cuts; not every frame is searched."""
    rng = np.random.default_rng(seed)
    count, cuts = int(rng.integers(1, 200)), set()
    places, sides, present = rng.uniform(0, 600, (3, 2)), rng.uniform(40, 150, 3), rng.random(3) < 0.6
    frames: list[list[tuple] | None] = []
    for frame in range(count):
        if rng.random() < 0.01:
            places, sides = rng.uniform(0, 600, (3, 2)), rng.uniform(40, 150, 3)
            cuts.add(frame)
        present ^= rng.random(3) < 0.01
        places = places + rng.normal(0, 2, (3, 2))
        found = [box(x, side, y) for (x, y), side, on in zip(places, sides, present) if on and rng.random() < 0.95]
        found += [box(*rng.uniform(0, 600, 1))] if rng.random() < 0.02 else []
        searched = frame in {0, count - 1, *cuts} or rng.random() < 0.5
        frames.append(found if searched else None)
    return seen(frames, tuple(cuts))


@pytest.fixture(autouse=True)
def negatives(monkeypatch):
    """The network does not matter here: faces turn into their negatives, more or less, depending on the sound."""

    def generate(model, mels, faces, gains):
        return faces[..., 3:] ^ (255 - (np.abs(mels).sum((1, 2)) % 16).astype(np.uint8))[:, None, None, None]

    monkeypatch.setattr(mouths.drawing, "generate", generate)


# --------------------------------------------------------------------------------------------------------------------
# When boxes are final


@pytest.mark.parametrize("seed", range(60))
def test_pieces_add_up_to_the_whole(seed):
    """However a search is divided, the boxes are the same to the last bit as when all of it is known."""
    found, index = random_detections(seed), (None, 0, 1)[seed % 3]
    options = {"smooth": seed % 2 == 0, "fill": seed % 5 > 0}
    whole = follow_face(found, GAP, index, **options)
    assert len(whole) == len(found)
    for steps in ([1], [12], [5, 1, 30]):
        assert np.array_equal(np.concatenate(in_pieces(found, steps, index, **options)), whole, equal_nan=True)


def frames_until_settled(found: Detections, index: int | None = None) -> int:
    """The number of frames after which the first box is final."""
    sizes = [len(piece) for piece in in_pieces(found, [1], index)]
    return next(i for i, size in enumerate(sizes, 1) if size)


def test_one_face_is_final_long_before_the_end():
    found = seen([[box(i * 0.5)] for i in range(300)])
    assert frames_until_settled(found) <= 24 + LOOKAHEAD + 1
    late = [sum(map(len, in_pieces(seen(found_boxes(found)[:n]), [n])[:1])) for n in (100, 200)]
    assert late == [100 - LOOKAHEAD - 2, 200 - LOOKAHEAD - 2]  # smoothing needs 2 more frames


def found_boxes(found: Detections) -> list:
    return [None if rows is None else rows.tolist() for rows in found.boxes]


def test_two_faces_wait_for_the_end_of_the_shot():
    """Only then is it known which of them is larger."""
    pair = [[box(0), box(150, 70)]] * 60
    assert frames_until_settled(seen([*pair, *pair], cuts=(60,))) == 60 + LOOKAHEAD + 1
    assert frames_until_settled(seen(pair)) > 60  # only when there are no more frames
    grown = [[box(0), box(150, 20)]] * 20 + [[box(0), box(130, 80)]] * 100
    assert (follow_face(seen(grown), GAP)[30:, 0] == 130).all()


def test_a_face_that_was_alone_first_is_followed_to_the_end():
    """A larger face that comes later does not replace the one that is being made to speak."""
    alone, both = [[box(0)]] * 40, [[box(0), box(150, 90)]] * 60
    assert (follow_face(seen([*alone, *both]), GAP)[:, 0] == 0).all()
    assert np.isnan(follow_face(seen([*alone[:10], *both]), GAP)[:8, 0]).all()  # which was not decided yet


def test_false_alarms_do_not_delay_the_first_box():
    frames = [[box(0), box(200, 90)] if i in (3, 50) else [box(0)] for i in range(200)]
    assert frames_until_settled(seen(frames)) < 60
    assert (follow_face(seen(frames), GAP)[:, 0] == 0).all()


def test_a_lost_face_is_found_again():
    frames = [[box(0)]] * 40 + [[]] * 20 + [[box(100)]] * 40 + [[]] * 3 + [[box(100)]] * 20
    followed = follow_face(seen(frames), GAP)
    assert (followed[:40, 0] == 0).all() and np.isnan(followed[40:60, 0]).all() and (followed[60:, 0] == 100).all()


@pytest.mark.parametrize(("right", "back"), [((60, 200), (90, 105)), ((60, 115), (70, 85))])
def test_a_face_that_comes_back_beside_the_person_is_another(right, back):
    """A face alone at first used to pass for the same person as a larger one, until it came back beside that."""
    frames = [
        [box(0)] * (n < 40 or back[0] <= n < back[1]) + [box(200, 90)] * (right[0] <= n < right[1])
        for n in range(right[1])
    ]
    followed = follow_face(seen(frames), 12, smooth=False, fill=False)
    assert np.isnan(followed[: right[0], 0]).all() and (followed[right[0] :, 0] == 200).all()


# --------------------------------------------------------------------------------------------------------------------
# Searching and drawing at once


class Red:
    """A detector that takes what is red for a face, counts the frames it gets, and breaks at ``fails_at``."""

    FACE_SIDE, KEY_SECONDS, CERTAIN = 120, 0.5, 0.5

    def __init__(self):
        self.count, self.fails_at = 0, None

    def detect(self, frames):
        self.count += len(frames)
        if self.fails_at and self.count >= self.fails_at:
            raise RuntimeError("the detector broke")
        return [self.found(frame) for frame in frames]

    def found(self, frame):
        rows, columns = np.nonzero(frame[..., 2].astype(int) - frame[..., 1] > 100)
        if not len(rows):
            return np.empty((0, 5), np.float32)
        return np.array([(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, 0.9)], np.float32)


def clip_of(path, count: int, missing=range(0)) -> None:
    """Write a grey clip with a red square that drifts; none in the frames ``missing``."""
    frames = np.full((count, *SMALL, 3), 90, np.uint8)
    frames += np.random.default_rng(0).integers(0, 20, SMALL, np.uint8)[None, ..., None]
    for i in set(range(count)) - set(missing):
        frames[i, 30:70, 20 + i // 4 : 60 + i // 4] = 20, 20, 230
    write_clip(path, frames)


@pytest.fixture
def detector(monkeypatch) -> Red:
    red = Red()
    monkeypatch.setattr(FaceSearch, "open", lambda *_: red)
    return red


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    clip_of(path, COUNT, FACELESS)
    return path


@pytest.fixture(scope="module")
def long_speech(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "long.wav"
    run_ffmpeg("-f", "lavfi", "-i", "aevalsrc=0.3*sin(900*t):d=12:s=16000", path)
    return path


@pytest.fixture
def searched(monkeypatch) -> list[int]:
    """How many frames have been searched: a list of one number.

    As the clip is short, the search may be only 64 frames ahead of the generator.
    """
    monkeypatch.setattr(engine, "AHEAD", 64)
    taken = [0]
    real = faces.search

    def search(found, frames, *rest):
        for step in real(found, frames, *rest):
            taken[0] = len(found)
            yield step

    monkeypatch.setattr(faces, "search", search)
    return taken


@pytest.fixture(scope="module")
def opened(small_checkpoint) -> LipSync:
    lips = LipSync(small_checkpoint, batch_size=8)
    lips.load(searching=False)
    return lips


def lips_of(opened: LipSync, report, **options) -> LipSync:
    """Return another with the same network, which is thus read once."""
    return opened.copy_with(FaceSearch("haar", **options), report)


def test_the_first_frame_comes_before_the_search_ends(opened, long_clip, long_speech, detector, searched, told):
    lips = lips_of(opened, told, cache=False)
    take = lips.prepare(long_clip, long_speech)
    stream = lips.stream(take)
    first = next(stream)
    assert searched[0] < FACELESS.start and not any("no face" in note for note in told.notes)
    frames = [first, *stream]
    assert len(frames) == searched[0] == COUNT
    assert [note for note in told.notes if "no face" in note] == [
        "40 of 300 frames (1.6 s) have no face, or one in profile: 200-239; they are left as they are"
    ]
    filmed = list(video.read_frames(take.source, 0, COUNT))
    assert (frames[220] == filmed[220]).all() and (frames[260] != filmed[260]).any()


def test_cached_and_uncached_results_are_the_same(opened, long_clip, long_speech, detector, searched, told):
    lips = lips_of(opened, told)
    uncached = lips.prepare(long_clip, long_speech)
    frames = [frame.tobytes() for frame in lips.stream(uncached)]
    count = detector.count
    cached = lips.prepare(long_clip, long_speech)
    assert [frame.tobytes() for frame in lips.stream(cached)] == frames and detector.count == count
    assert cached.faces[0].filmed.path.boxes == uncached.faces[0].filmed.path.boxes
    np.testing.assert_array_equal(cached.faces[0].filmed.path.seen, uncached.faces[0].filmed.path.seen)
    assert len(told.notes) == 2  # on missing faces, each time


@pytest.mark.parametrize("count", [1, 60])
def test_closing_early_ends_the_search(opened, long_clip, long_speech, detector, searched, told, count):
    lips = lips_of(opened, told, cache=False)
    take = lips.prepare(long_clip, long_speech)
    before = set(threading.enumerate())
    stream = lips.stream(take)
    frames = [frame.tobytes() for frame in itertools.islice(stream, count)]
    stream.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)  # the last moments of a thread
    assert searched[0] < COUNT and set(threading.enumerate()) <= before
    again = lips.stream(take)  # which starts from the beginning
    assert [frame.tobytes() for frame in itertools.islice(again, count)] == frames
    again.close()


def test_a_reader_can_stop_waiting_for_a_search(long_clip):
    """Two faces may keep a stream waiting for hours."""
    waiting = threading.Event()

    def search():
        yield face_path.Piece([(0, 0, 1, 1)], np.zeros((1, 4)))
        while True:
            waiting.set()
            yield face_path.Piece([], np.zeros((0, 4)))

    path, counts = face_path.FacePath(search), []
    with path.reader() as reader:
        thread = threading.Thread(target=lambda: counts.append(len(path.known(2, reader))), daemon=True)
        thread.start()
        waiting.wait()
        reader.set()
        thread.join()
    assert counts == [1] and not path.known(0)  # and the search would start again
    with path.reader() as reader:  # without a reader, nobody could tell that boxes are missing
        reader.set()
        with pytest.raises(RuntimeError, match="was stopped; try again"):
            path.known(2)


def test_closing_one_stream_does_not_end_another(opened, long_clip, long_speech, detector, told):
    """When one of two streams of a take was closed, the other ended silently, and its file was cut short."""
    lips = lips_of(opened, told, cache=False)
    take = lips.prepare(long_clip, long_speech, reference="same", occlusion="ignore")
    stays, leaves = lips.stream(take), lips.stream(take)
    first = [next(stays), next(leaves)]
    leaves.close()
    rest = list(stays)
    assert len(rest) + 1 == len(take) and (first[0] == first[1]).all()
    with lips.prepare(long_clip, long_speech) as other:
        ended = other.faces[0].filmed.path
    assert not ended._readers and not ended._boxes  # its search is closed


def test_missing_boxes_are_an_error(opened, long_clip, long_speech, detector, told, monkeypatch):
    lips = lips_of(opened, told, cache=False)
    take = lips.prepare(long_clip, long_speech)
    monkeypatch.setattr(type(take.faces[0]), "boxes", lambda *_: iter([None] * 5))
    with pytest.raises(RuntimeError, match=f"only 5 of {len(take)} frames"):
        list(lips.stream(take))


def test_a_take_does_not_overwrite_its_video(opened, long_clip, long_speech, detector, told, tmp_path):
    lips = lips_of(opened, told, cache=False)
    mine = tmp_path / "mine.mp4"
    mine.write_bytes(long_clip.read_bytes())
    with pytest.raises(UserError, match="is one of the files to read"):
        lips.write(lips.prepare(mine, long_speech), mine)
    assert mine.read_bytes() == long_clip.read_bytes()


class Uncopyable(Exception):
    def __init__(self, job, reason):
        super().__init__(f"{job}: {reason}")


def test_errors_that_cannot_be_copied_are_raised_themselves():
    def search():
        raise Uncopyable("a job", "stop")
        yield

    path = face_path.FacePath(search)
    for _ in range(2):
        with pytest.raises(Uncopyable, match="a job: stop"):
            path.known(1)


def test_errors_of_the_search_reach_the_caller(opened, long_clip, long_speech, detector, told, tmp_path):
    lips = lips_of(opened, told, cache=False)
    detector.fails_at = 40
    take = lips.prepare(long_clip, long_speech)
    with pytest.raises(RuntimeError, match="the detector broke"):
        lips.write(take, tmp_path / "out.mp4")
    assert not list(tmp_path.iterdir())
    detector.fails_at = 1
    with pytest.raises(RuntimeError, match="the detector broke"):
        lips.prepare(long_clip, long_speech)


def test_missing_faces_are_an_error_before_anything_is_made(opened, long_clip, long_speech, detector, told):
    lips = lips_of(opened, told, cache=False)
    with pytest.raises(ValueError, match="40 of 300 frames .* 200-239; --on_missing_face keep"):
        lips.prepare(long_clip, long_speech, on_missing_face="error")


def test_the_search_of_a_closed_stream_is_resumed(
    opened, long_clip, long_speech, detector, searched, told, monkeypatch
):
    """What was saved every few seconds is not searched again, except for its last frame."""
    monkeypatch.setattr(faces, "SAVE_SECONDS", 0.0)
    lips = lips_of(opened, told)
    stream = lips.stream(lips.prepare(long_clip, long_speech))
    next(stream)
    stream.close()
    saved = searched[0]
    starts = []
    real = video.read_frames
    monkeypatch.setattr(faces.video, "read_frames", lambda *a: (starts.append(a[1:]), real(*a))[1])
    lips.prepare(long_clip, long_speech)
    assert 0 < saved < COUNT and starts[0] == (saved - 1,)


@pytest.mark.parametrize("loop", ["loop", "pingpong"])
def test_the_length_of_the_video_need_not_be_known(opened, tmp_path, detector, speech, told, loop):
    """A video of 21 frames and a speech of 30: where the video ends is known only when it does."""
    clip_of(tmp_path / "short.mp4", 21)
    lips = lips_of(opened, told, cache=False)
    take = lips.prepare(tmp_path / "short.mp4", speech, loop=loop)
    frames = list(lips.stream(take))
    order = [video.source_index(i, 21, loop == "pingpong") for i in range(30)]
    assert len(frames) == 30 and list(take.faces[0].boxes()) == [take.faces[0].filmed.path.boxes[i] for i in order]
    filmed = list(video.read_frames(take.source))
    for frame, index in zip(frames, order):
        x1, y1, x2, y2 = take.faces[0].filmed.path.boxes[index]
        outside = np.ones(SMALL, bool)
        outside[y1:y2, x1:x2] = False
        assert (frame[outside] == filmed[index][outside]).all()


def test_a_failed_search_is_not_restarted():
    """Later calls raise the same error, until the path is closed."""
    starts = []

    def search():
        starts.append(1)
        yield face_path.Piece([(0, 0, 9, 9)] * 2, np.zeros((2, 4)))
        raise UserError("the file is cut short")

    path = face_path.FacePath(search)
    assert path.begin() == 0
    for _ in range(3):  # the error does not keep the frames of the search alive
        with pytest.raises(UserError, match="cut short"):
            path.known(5)
    assert len(starts) == 1 and len(path.known(2)) == 2 and path._failed.__traceback__ is None
    path.close()
    assert path.begin() == 0 and len(starts) == 2


def placed(box: tuple[float, ...], pads: tuple[int, ...] = (0, 0, 0, 0)):
    picture = video.VideoInfo(Path("x.mp4"), *SIZE[::-1], fps=Fraction(25))
    return boxes._placed(np.array([box], float), pads, picture)[0]


def test_boxes_reach_beyond_the_picture_as_far_as_faces_do():
    """They used to be clipped at the edge, and a face cut by it was stretched to a whole one."""
    assert placed((100, -30, 200, 90)) == (100, -30, 200, 90)
    assert placed((260, 100, 360, 220)) == (260, 100, 360, 220)
    assert placed((100, 150, 200, 260)) == (100, 150, 200, 260)
    assert placed((100, 100, 200, 220), (900, 900, 900, 900)) == (0, 0, 320, 240)  # pads end with the picture
    assert placed((100, -30, 200, 90), (900, 0, 0, 0)) == (100, -30, 200, 90)
    assert placed((np.nan,) * 4) is None
    for without_mouth in ((100, 180, 200, 300), (280, 100, 380, 220), (-70, 100, 50, 220), (500, 500, 600, 600)):
        assert placed(without_mouth) is None


def test_missing_frames_are_listed_briefly():
    whole = [None if n % 3 == 1 else (0, 0, 9, 9) for n in range(27)]
    assert boxes.describe_missing(whole[:9], 25, "", 100) == (
        "3 of 9 frames (0.1 s) have no face, or one in profile: 101, 104, 107"
    )
    assert boxes.describe_missing([None, None, (0, 0, 9, 9), None], 25, "", 0).endswith(": 0-1, 3")
    assert boxes.describe_missing(whole, 25, "", 0).endswith(": 1, 4, 7, 10, 13, 16, 19, 22, …")
    assert boxes.describe_missing([(0, 0, 9, 9)] * 9, 25, "", 0) == ""


def test_only_a_face_in_the_wanted_part_counts():
    """Boxes lag behind what is seen, and the part may begin and end within any of the pieces."""
    picture, known = video.VideoInfo(Path("x.mp4"), *SIZE[::-1], fps=Fraction(25)), [(n, 0, n + 9, 9) for n in range(9)]
    seen = np.arange(9.0)[:, None].repeat(4, 1)
    parts = [(known[:2], seen[:5], False), (known[2:6], seen[5:8], False), (known[6:], seen[8:], True)]
    pieces = list(boxes.restrict((face_path.Piece(*part) for part in parts), slice(3, 7), picture))
    assert [box for piece in pieces for box in piece.boxes] == known[3:7]
    assert np.array_equal(np.concatenate([piece.seen for piece in pieces]), seen[3:7])
    missing = face_path.Piece([*known[:3], *[None] * 4, *known[7:]], seen)
    with pytest.raises(UserError, match="no face was found in x.mp4 from 0.12 to 0.28 s"):
        list(boxes.restrict([missing], slice(3, 7), picture))


def test_crops_beyond_the_picture_are_written_back_inside_it():
    frame = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    for box in ((1, 1, 5, 4), (-2, -1, 3, 4), (4, 2, 11, 9)):
        changed = frame.copy()
        shown = boxes.crop_with_border(changed, box)
        assert shown.shape[:2] == (box[3] - box[1], box[2] - box[0])
        shown += 100
        boxes.write_crop(changed, box, shown)
        x1, y1, x2, y2 = boxes.within(box, 8, 6)
        expected = frame.copy()
        expected[y1:y2, x1:x2] += 100
        assert (changed == expected).all()


def test_a_face_whose_mouth_is_never_visible_is_refused(tmp_path):
    write_clip(tmp_path / "x.mp4", np.zeros((3, *SIZE, 3), np.uint8))
    source = video.probe(tmp_path / "x.mp4")
    rows = [(np.array([[100.0, 180, 200, 300]] * 3), True)]
    with pytest.raises(UserError, match="the edge of .*x.mp4 cuts the face off at its mouth"):
        list(boxes.place(rows, source, (0, 0, 0, 0), True))
    with pytest.raises(UserError, match="cuts the face off at its mouth"):  # official networks have pads
        list(boxes.place(rows, source, (0, 10, 0, 0), True))


@pytest.mark.parametrize("name, flags", [("x.mp4", ("-movflags", "+faststart")), ("x.mkv", ())])
def test_a_long_truncated_video_is_refused_before_any_work(
    opened, long_clip, long_speech, detector, searched, tmp_path, name, flags
):
    """It used to be refused when nearly all of the output had been made."""
    run_ffmpeg("-i", long_clip, "-c", "copy", *flags, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(0.8 * len(whole))])
    with pytest.raises(UserError, match="cut short or damaged"):
        lips_of(opened, SILENT).prepare(tmp_path / name, long_speech)
    assert searched == [0]
    run_ffmpeg("-i", long_speech, "-t", 1, tmp_path / "short.wav")  # for which there is enough video
    lips_of(opened, SILENT).prepare(tmp_path / name, tmp_path / "short.wav")


def test_drawn_boxes_are_steady_and_gaps_filled(opened, monkeypatch):
    """Through the whole search, not only in the smoother."""
    frames = [[box(100 + 4 * (i % 2))] for i in range(40)]
    frames[20:24] = [[]] * 4
    monkeypatch.setattr(FaceSearch, "stream", lambda *_: (found for found in [seen(frames)]))
    source = video.VideoInfo(Path("x.mp4"), *SIZE[::-1], fps=Fraction(25))
    for options, tremble in (({}, 0), ({"smooth": False}, 4)):  # means of five: 101.6 or 102.4
        path = opened.find_face(source, 40, ResolvedOptions(pads=(0,) * 4, **options)).path
        drawn = [one and one[0] for one in path.boxes]
        assert None not in drawn and np.ptp(drawn[5:15]) == tremble


def test_every_pad_has_its_side():
    assert placed((100, 80, 160, 140), (1, 2, 3, 4)) == (97, 79, 164, 142)
