"""The networks against the reference, and the optimized generator against the plain one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import models
from conftest import GOLDEN, needs_bf16, rnd
from training.losses import adversarial_loss

KEYS = json.loads((GOLDEN / "state_dicts.json").read_text())


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "models.npz")


@pytest.mark.parametrize("name", KEYS)
def test_state_dict_has_the_references_keys(name):
    with torch.device("meta"):  # without weights
        state = getattr(models, name)().state_dict()
    assert [[k, list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in state.items()] == KEYS[name]


@torch.no_grad()
def test_generator_matches_the_reference(golden, filled):
    model = filled(models.Wav2Lip)
    single = model(rnd(1, (2, 1, 80, 16), "n"), rnd(2, (2, 6, 96, 96)))
    window = model(rnd(3, (2, 5, 1, 80, 16), "n"), rnd(4, (2, 6, 5, 96, 96)))
    np.testing.assert_allclose(single, golden["wav2lip_4d"], atol=1e-4)
    np.testing.assert_allclose(window, golden["wav2lip_5d"], atol=1e-4)


@torch.no_grad()
def test_expert_matches_the_reference(golden, filled):
    audio, face = filled(models.SyncNet_color)(rnd(5, (4, 1, 80, 16), "n"), rnd(6, (4, 15, 48, 96)))
    np.testing.assert_allclose(audio, golden["syncnet_audio"], atol=1e-4)
    np.testing.assert_allclose(face, golden["syncnet_video"], atol=1e-4)
    np.testing.assert_allclose((audio * face).sum(1), golden["syncnet_cosine"], atol=1e-4)


@torch.no_grad()
def test_discriminator_matches_the_reference(golden, filled):
    model, faces = filled(models.Wav2Lip_disc_qual), rnd(7, (2, 3, 5, 96, 96))
    np.testing.assert_allclose(model(faces), golden["disc"], atol=1e-4)
    np.testing.assert_allclose(adversarial_loss(model(faces, logits=True), True), golden["disc_perceptual"], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("width", [0.25, 1.0])
def test_discriminator_sees_faces_from_the_start(width):
    """Its outputs for different faces must differ by more than bfloat16 resolves; torch's default weights gave 1e-7."""
    torch.manual_seed(0)
    faces = rnd(7, (8, 3, 1, 96, 96)) * torch.linspace(0.1, 1, 8).view(8, 1, 1, 1, 1)
    assert models.Wav2Lip_disc_qual(width)(faces, logits=True).std() > 1e-3


@torch.no_grad()
def test_lse_network_matches_the_reference(golden, filled):
    model = filled(models.SyncNet_v2)
    lip = model.forward_lip(rnd(8, (2, 3, 5, 224, 224)) * 255)
    audio = model.forward_aud(rnd(9, (2, 1, 13, 20), "n") * 10)
    np.testing.assert_allclose(lip, golden["lse_lip"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(audio, golden["lse_audio"], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("width", [0.125, 0.25])
def test_width_scales_channels(width):
    mels, faces = rnd(1, (2, 1, 80, 16), "n"), rnd(2, (2, 6, 96, 96))
    small = models.Wav2Lip(width).eval()
    assert small(mels, faces).shape == (2, 3, 96, 96)
    assert small.audio_encoder[12].conv_block[0].out_channels == 512 * width
    audio, face = models.SyncNet_color(width).eval()(mels, rnd(6, (2, 15, 48, 96)))
    assert audio.shape == face.shape == (2, 512 * width)
    judge = models.Wav2Lip_disc_qual(width).eval()
    assert judge(rnd(7, (2, 3, 5, 96, 96))).shape == (10, 1) and judge.binary_pred[0].in_channels == 512 * width


@torch.no_grad()
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 1e-5), pytest.param(torch.bfloat16, 0.02, marks=needs_bf16)]
)
def test_optimized_generator_computes_the_same(filled, dtype, tolerance):
    mels, faces = rnd(1, (3, 1, 80, 16), "n"), rnd(2, (3, 6, 96, 96))
    plain = filled(models.Wav2Lip, 0.125)(mels, faces)
    fast = models.optimize_for_inference(filled(models.Wav2Lip, 0.125), torch.device("cpu"), dtype)
    assert (fast(mels.to(dtype), faces.to(dtype)).float() - plain).abs().max() < tolerance
