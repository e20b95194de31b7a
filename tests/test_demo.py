"""`make demo` and the small networks that come with the repository."""

from __future__ import annotations

import json

import cv2
import pytest
import torch

import models
import video
from demo import export, run_demo
from demo.talking_head import Recipe
from models import Wav2Lip, weights


def test_shipped_networks_are_small_and_listed():
    shipped = [path for networks in weights.SHIPPED.values() for path in networks.values()]
    assert sorted(shipped[0].parent.glob("*.pth")) == sorted(shipped)
    assert sum(path.stat().st_size for path in shipped) < 40e6
    for network, names in weights.SHIPPED.items():
        for name in names:
            assert isinstance(weights.load_model(name, network), network)
    assert weights.read_checkpoint("demo", Wav2Lip).mel_lead == 0  # which adapt.py continues from


def test_export_makes_matrices_float16_and_keeps_vectors(tmp_path, small_checkpoint):
    target = tmp_path / "new" / "small.pth"
    assert export.main(["generator", str(small_checkpoint), str(target)]) == 0
    before, after = (torch.load(path, weights_only=True)["state_dict"] for path in (small_checkpoint, target))
    for name, tensor in before.items():
        assert after[name].dtype == (torch.float16 if tensor.ndim > 1 else tensor.dtype)
        assert torch.allclose(after[name].to(tensor.dtype), tensor, rtol=1e-3, atol=1e-6)
    assert weights.load_model(target).width == 0.125


def test_export_of_several_checkpoints_is_their_mean(tmp_path, small_checkpoint):
    state = torch.load(small_checkpoint, weights_only=True)["state_dict"]
    threefold = {name: 3 * tensor for name, tensor in state.items()}
    torch.save({"state_dict": threefold, "width": 0.125}, tmp_path / "b.pth")
    assert export.main(["generator", str(small_checkpoint), str(tmp_path / "b.pth"), str(tmp_path / "mean.pth")]) == 0
    for name, tensor in torch.load(tmp_path / "mean.pth", weights_only=True)["state_dict"].items():
        assert torch.allclose(tensor.to(state[name].dtype), 2 * state[name], rtol=1e-3, atol=1e-6), name


def test_only_checkpoints_of_one_run_can_be_averaged(tmp_path, small_checkpoint, capsys):
    torch.save({"state_dict": Wav2Lip(0.25).state_dict(), "width": 0.25}, tmp_path / "wide.pth")
    assert export.main(["generator", str(small_checkpoint), str(tmp_path / "wide.pth"), str(tmp_path / "m.pth")]) == 2
    assert "same width" in capsys.readouterr().err and not (tmp_path / "m.pth").exists()
    torch.save(torch.load(small_checkpoint) | {"mask_top": 0.375}, tmp_path / "eyes.pth")
    assert export.main(["generator", str(small_checkpoint), str(tmp_path / "eyes.pth"), str(tmp_path / "m.pth")]) == 2
    assert "same mask_top" in capsys.readouterr().err
    assert export.main(["generator", str(tmp_path / "eyes.pth"), str(tmp_path / "one.pth")]) == 0
    assert weights.load_model(tmp_path / "one.pth").mask_top == 0.375


def test_export_refuses_the_wrong_network(tmp_path, small_checkpoint, capsys):
    assert export.main(["expert", str(small_checkpoint), str(tmp_path / "x.pth")]) == 2
    assert "Wav2Lip weights" in capsys.readouterr().err and not (tmp_path / "x.pth").exists()


def test_demo_makes_two_faces_say_new_words(tmp_path, monkeypatch, capsys):
    """Similarity shows a face in sync with its own sound and when lip-synced, but not with other words."""
    monkeypatch.setattr(run_demo, "HEAD", Recipe(seed=2020, seconds=1.0, size=(192, 144)))
    for name in ("SIZE", "ZOOM"):  # of the portrait
        monkeypatch.setattr(run_demo, name, getattr(run_demo, name) / 2)
    assert run_demo.main(["--results", str(tmp_path)]) == 0
    means = json.loads((tmp_path / "demo.json").read_text())
    assert min(means["own_sound"], means["lip_synced"]) > means["new_sound"] + 0.2
    assert means["portrait_lip_synced"] > means["portrait_before"] + 0.2
    assert video.probe(tmp_path / "demo.mp4").fps == video.probe(tmp_path / "demo_head.mp4").fps == 25
    assert cv2.imread(str(tmp_path / "demo.png")).std() > 20
    printed = capsys.readouterr().out
    assert "inference.py --face" in printed and "GRID" in printed


def test_no_discriminator_is_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the repository has a folder of that name
    with pytest.raises(FileNotFoundError, match="demo does not exist"):
        weights.find("demo", models.Wav2Lip_disc_qual)


def test_export_does_not_overwrite_training_checkpoints(small_checkpoint, tmp_path, capsys):
    """If the target was forgotten after ``*.pth``, the newest was lost."""
    newest = tmp_path / "checkpoint_step000000012.pth"
    torch.save(torch.load(small_checkpoint) | {"global_step": 12, "optimizer": {}}, newest)
    before = newest.read_bytes()
    assert export.main(["generator", str(small_checkpoint), str(newest)]) == 2
    assert "is a training checkpoint and would be overwritten" in capsys.readouterr().err
    assert newest.read_bytes() == before
    for _ in range(2):  # exports may be overwritten
        assert export.main(["generator", str(newest), str(tmp_path / "small.pth")]) == 0
