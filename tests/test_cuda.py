"""What a GPU computes, compared with the CPU. Run by benchmarks/gpu.sh; skipped without a GPU.

These tests need neither librosa nor ffmpeg, which the GPU machines do not have.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import color_syncnet_train
import hq_wav2lip_train
import models
import mouths
import wav2lip_train
from conftest import ROOT, rnd
from devices import pick_precision, pick_training_precision
from fill import fill
from sync.embedding import embed_mouths

GPU_COUNT = torch.cuda.device_count()
GPU = torch.device("cuda")
TOLERANCES = [(torch.float32, 2e-3), (torch.float16, 0.02), (torch.bfloat16, 0.03)]
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not GPU_COUNT, reason="needs a CUDA GPU")]


@pytest.fixture(autouse=True)
def full_float32():
    """Keep float32 in full: tensor cores would round it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


# --------------------------------------------------------------------------------------------------------------------
# Inference


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", TOLERANCES)
def test_generator_matches_the_cpu(filled, dtype, tolerance):
    mels, faces = rnd(1, (4, 1, 80, 16), "n"), rnd(2, (4, 6, 96, 96))
    plain = filled(models.Wav2Lip)(mels, faces)
    fast = models.optimize_for_inference(filled(models.Wav2Lip), GPU, dtype)
    assert (fast(mels.to(GPU, dtype), faces.to(GPU, dtype)).float().cpu() - plain).abs().max() < tolerance


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", TOLERANCES)
def test_expert_matches_the_cpu(filled, dtype, tolerance):
    windows = np.random.default_rng(6).integers(0, 256, (4, 5, 48, 96, 3), np.uint8)
    plain = embed_mouths(filled(models.SyncNet_color, 0.5), windows)
    fast = embed_mouths(models.optimize_for_inference(filled(models.SyncNet_color, 0.5), GPU, dtype), windows)
    cosines = (plain.astype(float) * fast.astype(float)).sum(1)
    assert np.abs(cosines - 1).max() < 5 * tolerance


@torch.no_grad()
def test_lse_network_matches_the_cpu(filled):
    lip, sound = rnd(8, (2, 3, 5, 224, 224)) * 255, rnd(9, (2, 1, 13, 20), "n")
    on_cpu, on_gpu = filled(models.SyncNet_v2), filled(models.SyncNet_v2).to(GPU)
    assert (on_gpu.forward_lip(lip.to(GPU)).cpu() - on_cpu.forward_lip(lip)).abs().max() < 1e-2
    assert (on_gpu.forward_aud(sound.to(GPU)).cpu() - on_cpu.forward_aud(sound)).abs().max() < 1e-2


def test_frames_match_those_of_the_cpu(filled):
    """Through pinned memory, with two workers and a short last batch."""
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 256, (37, 120, 160, 3), np.uint8))
    boxes = [None if i % 9 == 4 else (10, 5, 106, 110) for i in range(37)]
    mels = list(rng.standard_normal((37, 80, 16)).astype(np.float32))
    results = []
    for device, workers in ((torch.device("cpu"), 1), (GPU, 2)):
        model = models.optimize_for_inference(filled(models.Wav2Lip, 0.25), device, torch.float32)
        face = mouths.SpeakingTrack(boxes, mels, mouths.MouthSettings("feather"))
        results.append(np.stack(list(mouths.redraw_mouths(frames, [face], model, 8, workers))))
    assert np.abs(results[0].astype(int) - results[1]).max() <= 1


def test_batch_that_does_not_fit_is_halved(filled):
    """The memory of the failed call is free again when the halves are tried."""
    model = models.optimize_for_inference(filled(models.Wav2Lip), GPU, torch.float32)
    mels, faces = np.zeros((512, 80, 16), np.float32), np.zeros((512, 96, 96, 6), np.uint8)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (total - free + (2 << 30)) / total))
    try:
        assert mouths.generate(model, mels, faces).shape == (512, 96, 96, 3)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_every_head_of_s3fd_matches_the_cpu(living_s3fd):
    from face_detection import detectors

    dtype = pick_precision("auto", GPU)
    frames = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    plain = detectors.SFD(living_s3fd)._maps(frames)
    fast = detectors.SFD(living_s3fd, "cuda", dtype)._maps(frames)
    for expected, found in zip(plain, fast):
        expected, found = expected.float().cpu(), found.float().cpu()
        assert (found - expected).abs().mean() < 0.05 * expected.abs().mean() + 1e-3


# --------------------------------------------------------------------------------------------------------------------
# Training


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Four prepared clips of noise, and lists that name them."""
    root, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    for name in ("a/1", "a/2", "b/1", "b/2"):
        (root / name).mkdir(parents=True)
        for i in range(30):
            cv2.imwrite(str(root / name / f"{i}.jpg"), rng.integers(0, 256, (96, 96, 3), np.uint8))
        np.save(root / name / "mel.npy", rng.uniform(-4, 4, (96, 80)).astype(np.float32))
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("a/1\na/2\nb/1\nb/2\n")
    torch.save({"state_dict": fill(models.SyncNet_color(0.25)).state_dict(), "width": 0.25}, root / "expert.pth")
    return root


def command(corpus: Path, kind: str, out: Path, *flags: object, hp: str = "") -> list[str]:
    sizes = "width=0.25,batch_size=4,syncnet_batch_size=4,num_workers=2,eval_interval=100,syncnet_eval_interval=100"
    places = ["--data_root", corpus, "--filelists", corpus, "--checkpoint_dir", out, "--hparams", f"{sizes}{hp}"]
    expert = [] if kind == "expert" else ["--syncnet_checkpoint_path", corpus / "expert.pth"]
    return [*map(str, [*places, *expert, *flags])]


SCRIPTS = {"expert": color_syncnet_train, "generator": wav2lip_train, "hq": hq_wav2lip_train}


def train(corpus: Path, kind: str, out: Path, *flags: object) -> list[float]:
    """Train and return the losses of all steps."""
    assert SCRIPTS[kind].main(command(corpus, kind, out, *flags)) == 0
    return losses(out)


def losses(out: Path) -> list[float]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["split"] == "train"]


@pytest.mark.parametrize("kind", SCRIPTS)
def test_training_steps_match_the_cpu(corpus, kind, tmp_path):
    flags = "--precision", "fp32", "--max_steps", 4
    on_cpu = train(corpus, kind, tmp_path / "cpu", *flags, "--device", "cpu")
    on_gpu = train(corpus, kind, tmp_path / "gpu", *flags, "--device", "cuda")
    assert on_gpu[0] == pytest.approx(on_cpu[0], rel=1e-3) and on_gpu == pytest.approx(on_cpu, rel=0.05)


@pytest.mark.parametrize("kind", SCRIPTS)
def test_auto_precision_trains_like_float32(corpus, kind, tmp_path):
    exact = train(corpus, kind, tmp_path / "fp32", "--precision", "fp32", "--max_steps", 4)
    auto = train(corpus, kind, tmp_path / "auto", "--max_steps", 4)
    assert pick_training_precision("auto", GPU) in (torch.float32, torch.bfloat16)
    assert auto[0] == pytest.approx(exact[0], rel=0.05)


def test_resumed_training_matches_an_uninterrupted_one(corpus, tmp_path):
    uninterrupted = train(corpus, "hq", tmp_path / "whole", "--precision", "fp32", "--max_steps", 6)
    train(corpus, "hq", tmp_path / "two", "--precision", "fp32", "--max_steps", 3)
    resumed = train(corpus, "hq", tmp_path / "two", "--precision", "fp32", "--max_steps", 6, "--resume")
    assert resumed == pytest.approx(uninterrupted, rel=0.02)


@pytest.mark.skipif(GPU_COUNT < 2, reason="needs two CUDA GPUs")
@pytest.mark.parametrize("kind", SCRIPTS)
def test_two_processes_learn_what_one_does(corpus, kind, tmp_path):
    one = train(corpus, kind, tmp_path / "one", "--precision", "fp32", "--max_steps", 4)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"{SCRIPTS[kind].__name__}.py"]
    flags = command(corpus, kind, tmp_path / "two", "--precision", "fp32", "--max_steps", 4)
    subprocess.run([*launch, *flags], cwd=ROOT, check=True)
    assert losses(tmp_path / "two") == pytest.approx(one, rel=0.02)
