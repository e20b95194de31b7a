"""From files to finished frames, compared with what the reference computed."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

import audio
import models
import video
from conftest import needs_bf16
from devices import PRECISIONS
from face_detection import FaceAlignment, LandmarksType
from lipsync import read_speech
from mouths import SpeakingTrack, crop, masked_and_whole, redraw_mouths


@pytest.fixture(scope="module")
def case(shared):
    return json.loads((shared / "golden/inference/case.json").read_text())


@pytest.fixture(scope="module")
def rows(shared, case):
    """(frame, box, mel) of every golden frame, read by our own readers."""
    source = video.probe(shared / case["clip"])
    top, bottom, left, right = case["box_top_bottom_left_right"]
    windows = read_speech(shared / case["audio"], source.fps)
    frames = list(video.repeat_frames(source, len(windows)))
    return [(frames[i], (left, top, right, bottom), windows[i]) for i in case["frames"]]


def test_frame_count_rate_and_size(shared, case):
    source = video.probe(shared / case["clip"])
    assert (source.fps, source.width, source.height) == (case["fps"], 360, 288)
    assert sum(1 for _ in video.read_frames(source)) == case["video_frames"]


def test_network_inputs(shared, case, rows):
    golden = np.load(shared / "golden/inference/network_inputs.npz")
    mels = np.stack([mel for _, _, mel in rows])
    faces = masked_and_whole([crop(frame, box) for frame, box, _ in rows], models.Wav2Lip.mask_top)
    first, last = case["frames"].index(0), case["frames"].index(max(case["frames"]))
    expected = golden["mel"][:, 0]
    mels[first, :, :2], mels[last, :, -2:] = expected[first, :, :2], expected[last, :, -2:]  # not INSIDE
    assert np.abs(mels - expected).max() < 1e-3
    assert np.abs(faces.transpose(0, 3, 1, 2) / 255.0 - golden["face"]).mean() < 1 / 255


def test_mel_windows_of_every_frame(shared, case):
    golden = np.load(shared / "golden/inference/network_inputs.npz")["mel_window_mean"]
    wav = video.read_audio(shared / case["audio"], 16000)
    mel = audio.melspectrogram(wav)
    assert mel.shape[1] == case["mel_frames"]
    windows = audio.MelWindows(mel, case["fps"], audio.frame_count(len(wav), case["fps"]))
    assert len(windows) == round(11.0 * 25) and case["frames_written_by_the_reference"] == len(golden)
    means = np.array([windows[i].mean() for i in range(len(golden))])
    assert np.abs(means - golden)[1:-2].max() < 1e-3  # others have 2 of 16 frames outside INSIDE
    assert np.abs(means - golden).max() < 0.02


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_finished_frames(shared, case, rows, filled, precision):
    model = filled(models.Wav2Lip)
    if precision == "bf16":
        model = models.optimize_for_inference(model, torch.device("cpu"), PRECISIONS[precision])
    frames, *known = zip(*rows)
    for index, finished in zip(case["frames"], redraw_mouths(frames, [SpeakingTrack(*known)], model)):
        golden = cv2.imread(str(shared / f"golden/inference/{index:03d}.png"))
        assert cv2.PSNR(finished, golden) > 40, index


def test_detector_boxes(shared, s3fd_checkpoint):
    """In the first frame and the last, since each is searched by itself."""
    golden = json.loads((shared / "golden/s3fd/boxes.json").read_text())
    frames = list(video.read_frames(video.probe(shared / golden["clip"]), count=len(golden["frames"])))[::15]
    api = FaceAlignment(LandmarksType._2D, flip_input=False, device="cpu", path_to_detector=s3fd_checkpoint)
    boxes = api.get_detections_for_batch(np.array(frames))
    assert np.abs(np.array(boxes) - golden["boxes_x1_y1_x2_y2"][::15]).max() <= 2
