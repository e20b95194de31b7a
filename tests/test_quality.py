"""A lip-synced video compared with its source, on videos whose differences are known."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

import video
from boxes import follow
from conftest import LOSSLESS, write_clip
from evaluation import score_quality
from evaluation.quality import score_file
from faces import FaceSearch

SEARCH = FaceSearch("centerface")
FACE = slice(72, 184), slice(118, 228)  # where the photo's face is, in rows and columns of the clip


@pytest.fixture(scope="module")
def frames(astronaut) -> np.ndarray:
    """Ten frames of the photo, with its mouth and a corner darkened in every other one."""
    still = np.stack([astronaut[:240, 60:380]] * 10).copy()
    still[::2, 150:165, 150:190] //= 2
    still[::2, -20:, -20:] //= 2
    return still


@pytest.fixture(scope="module")
def source(frames, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "source.mkv"
    write_clip(path, frames, "25", *LOSSLESS)
    return path


def search_beside(source):
    """A search that keeps the faces of a source beside it, for all tests that use it."""
    return replace(SEARCH, folder=source.parent)


def score(frames, source, tmp_path, **options):
    write_clip(tmp_path / "made.mkv", frames, "25", *LOSSLESS)
    return score_file(tmp_path / "made.mkv", source, search_beside(source), **options)


def test_identical_video_scores_perfectly(source):
    same = score_file(source, source, search_beside(source))
    assert (same.psnr, same.flicker, same.seam, same.frames) == (float("inf"), 0, 0, 10)
    assert (same.ssim, same.sharpness, same.motion) == pytest.approx((1, 1, 1))


def test_resting_mouth_has_no_motion(frames, source, tmp_path):
    still = frames.copy()
    still[:] = frames[1]
    assert score(still, source, tmp_path).motion == pytest.approx(0, abs=1e-3)


def test_blurred_face_is_less_sharp_and_less_similar(frames, source, tmp_path):
    soft = np.stack([cv2.GaussianBlur(frame, (0, 0), 3) for frame in frames])
    found = score(soft, source, tmp_path)
    assert found.sharpness < 0.3 and found.ssim < 0.97 and 15 < found.psnr < 40


def test_sharpness_and_motion_are_those_of_the_lower_face(frames, source, tmp_path):
    """The upper face is blurred, more in every other frame, which is flicker."""
    made, middle = frames.copy(), 110  # above the middle of the face
    for number, frame in enumerate(made):
        frame[:middle] = cv2.GaussianBlur(frame, (0, 0), 3 + 3 * (number % 2))[:middle]
    found = score(made, source, tmp_path)
    assert (found.sharpness, found.motion) == pytest.approx((1, 1)) and found.upper_flicker > 1


def test_noise_outside_the_face_flickers(frames, source, tmp_path):
    """Noise is -1, 0 or 1 grey levels, new in each frame: two of them differ by 8/9 on average."""
    noise = np.random.default_rng(0).integers(-1, 2, frames.shape[:3])[..., None]
    noise[:, FACE[0], FACE[1]] = 0
    noisy = np.clip(frames.astype(int) + noise, 0, 255).astype(np.uint8)
    found = score(noisy, source, tmp_path)
    assert found.flicker == pytest.approx(8 / 9, rel=0.1) and found.seam < 0.3


def brighten_face(frames, source, levels):
    """Brighten the face's box by these grey levels, one for each frame."""
    info = video.probe(source)
    pieces = follow([search_beside(source).find(info)], info, (0, 0, 0, 0))
    (x1, y1, x2, y2), *_ = (box for piece in pieces for box in piece.boxes)
    made = frames.copy()
    for frame, level in zip(made, levels):
        frame[y1:y2, x1:x2] = np.clip(frame[y1:y2, x1:x2].astype(int) + level, 0, 255)
    return made


def test_a_seam_is_the_step_across_the_border(frames, source, tmp_path):
    found = score(brighten_face(frames, source, [6] * 10), source, tmp_path)
    assert found.seam == pytest.approx(6, abs=0.5) and found.jitter == found.flicker == 0
    brighter = np.clip(frames.astype(int) + 6, 0, 255).astype(np.uint8)
    assert score(brighter, source, tmp_path).seam < 0.5


def test_seam_is_measured_where_the_mouth_was_drawn(frames, source, tmp_path):
    """If that is not the face's box, only the seam is measured there; the face is compared where it is."""
    top, bottom, left, right = 20, 220, 20, 300
    made = frames.copy()
    made[:, top:bottom, left:right] = np.clip(made[:, top:bottom, left:right].astype(int) + 6, 0, 255)
    write_clip(tmp_path / "made.mkv", made, "25", *LOSSLESS)
    at_box, at_face = (
        score_file(tmp_path / "made.mkv", source, search_beside(source), drawn=drawn)
        for drawn in ([(left, top, right, bottom)] * 10, None)
    )
    assert at_box.seam == pytest.approx(6, abs=0.5) and at_face.seam < 0.5
    assert (at_box.psnr, at_box.motion, at_box.flicker) == (at_face.psnr, at_face.motion, at_face.flicker)


def test_border_that_changes_between_frames_jitters(frames, source, tmp_path):
    found = score(brighten_face(frames, source, [0, 6] * 5), source, tmp_path)
    assert found.seam == pytest.approx(3, abs=0.4) and found.jitter == pytest.approx(6, abs=0.5)
    assert found.upper_flicker == pytest.approx(6, abs=0.5) and found.flicker < 0.1


def test_face_that_fills_the_picture_has_no_seam(frames, source, tmp_path):
    found = score(brighten_face(frames, source, [6] * 10), source, tmp_path, pads=(999, 999, 999, 999))
    assert np.isnan([found.seam, found.jitter, found.flicker]).all() and found.upper_flicker == 0


def test_cut_does_not_count_as_motion(frames, tmp_path):
    """The mouth moves a tenth as far as filmed, before and after a cut at which the whole picture changes."""
    shots = frames, (0.6 * frames[:, :, ::-1]).astype(np.uint8)
    calm = [(0.9 * shot[1] + 0.1 * shot).astype(np.uint8) for shot in shots]
    for name, pictures in (("filmed", shots), ("made", calm)):
        write_clip(tmp_path / f"{name}.mkv", np.concatenate(pictures), "25", *LOSSLESS)
    found = score_file(tmp_path / "made.mkv", tmp_path / "filmed.mkv", SEARCH)
    assert found.frames == 20 and found.motion == pytest.approx(0.01, abs=0.01)


def test_face_that_enters_later_is_not_compared(frames, tmp_path):
    """The made video ends before a larger face enters, which was therefore never lip-synced."""
    small = np.full((10, 240, 480, 3), 90, np.uint8)
    small[:, 60:180, :160] = [cv2.resize(frame, (160, 120)) for frame in frames]
    both = small.copy()
    both[:, :, 160:] = frames
    write_clip(tmp_path / "filmed.mkv", np.concatenate((small, both)), "25", *LOSSLESS)
    made = small.copy()
    made[:, 60:180, :160] //= 2
    write_clip(tmp_path / "made.mkv", made, "25", *LOSSLESS)
    largest, first = (
        score_file(tmp_path / "made.mkv", tmp_path / "filmed.mkv", SEARCH, face_index=index) for index in (None, 0)
    )
    assert largest == first and first.frames == 10 and first.psnr < 15


def test_padding_of_odd_sides_is_ignored(frames, tmp_path):
    odd = frames[:, 1:, 1:]
    write_clip(tmp_path / "filmed.mkv", odd, "25", *LOSSLESS)
    write_clip(tmp_path / "made.mkv", np.pad(odd, ((0, 0), (0, 1), (0, 1), (0, 0)), "edge"), "25", *LOSSLESS)
    found = score_file(tmp_path / "made.mkv", tmp_path / "filmed.mkv", SEARCH)
    assert found.psnr == float("inf") and found.frames == 10


@pytest.mark.parametrize(
    ("size", "count", "words"),
    [((120, 160), 10, "compare videos of the same size"), ((240, 320), 1, "to compare: 1 of at least 2")],
)
def test_incomparable_videos_are_refused(frames, source, tmp_path, size, count, words):
    small = np.stack([cv2.resize(frame, size[::-1]) for frame in frames[:count]])
    with pytest.raises(ValueError, match=words):
        score(small, source, tmp_path)


def test_lip_synced_photo_is_compared_with_the_photo(frames, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), frames[1])
    still = score(frames[1:2].repeat(5, 0), tmp_path / "photo.png", tmp_path)
    assert (still.psnr, still.frames) == (float("inf"), 5)
    with pytest.raises(ValueError, match="photo.png is a picture; give the video that was made"):
        score_file(tmp_path / "photo.png", tmp_path / "made.mkv", SEARCH)


def test_score_quality(source, tmp_path, capsys):
    command = ["--generated", source, "--source", source, "--face_detector", "centerface"]
    tables = ["--json", tmp_path / "q.json", "--csv", tmp_path / "q.csv"]
    assert score_quality.main([*map(str, [*command, *tables])]) == 0
    assert "source.mkv" in capsys.readouterr().out
    (figures,) = json.loads((tmp_path / "q.json").read_text())["scores"]
    (row,) = csv.DictReader((tmp_path / "q.csv").read_text().splitlines())
    assert figures["ssim"] == pytest.approx(float(row["ssim"])) == pytest.approx(1)
    assert score_quality.main([*map(str, command), "--source", str(source), str(source)]) == 2
    assert "give one for each" in capsys.readouterr().err


def test_faces_are_detected_on_the_requested_device(tmp_path, monkeypatch):
    """S3FD used to run on the CPU, whatever device was requested."""
    monkeypatch.setattr(score_quality, "pick_device", lambda name: torch.device("meta"))
    searches = []
    monkeypatch.setattr(score_quality, "compare_files", lambda pairs, search, *_, **__: searches.append(search))
    with pytest.raises(AttributeError):  # compare_files returns None here
        score_quality.run(score_quality.get_parser().parse_args(["--generated", "a.mp4", "--source", "b.mp4"]))
    assert searches[0].device.type == "meta"


def test_frame_rate_may_differ_from_the_source(frames, source, tmp_path):
    """Made with --fps 12.5, it shows every other frame."""
    write_clip(tmp_path / "slow.mkv", frames[::2], "12.5", *LOSSLESS)
    found = score_file(tmp_path / "slow.mkv", source, SEARCH)
    assert found.frames == 5 and found.psnr == float("inf") and found.flicker == 0


def test_bad_video_does_not_stop_the_others(source, tmp_path, capsys):
    (tmp_path / "bad.mkv").write_text("no video")
    made = [str(tmp_path / "bad.mkv"), str(source)]
    command = ["--source", *[str(source)] * 2, "--face_detector", "centerface", "--json", str(tmp_path / "q.json")]
    assert score_quality.main(["--generated", *made, *command]) == 1
    found = json.loads((tmp_path / "q.json").read_text())
    assert [one["file"] for one in found["scores"]] == made[1:] and list(found["failed"]) == made[:1]
    assert "skipped: " in capsys.readouterr().out
    assert score_quality.main(["--generated", made[0], made[0], *command]) == 2
