"""export.py: networks as ONNX files, run by onnxruntime against torch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import export
from conftest import ROOT, rnd
from errors import PIP
from models import SyncNet_color, SyncNet_v2, Wav2Lip, exporting, weights
from telemetry import silence_onnxruntime


@pytest.fixture
def runtime():
    pytest.importorskip("onnx", reason="needs onnx (requirements/onnx.txt)")
    silence_onnxruntime()
    return pytest.importorskip("onnxruntime", reason="needs onnxruntime (requirements/onnx.txt)")


@pytest.fixture
def exported(runtime, tmp_path, capsys):
    """``exported(checkpoint, …)`` exports it and returns an onnxruntime session of the file."""

    def make(checkpoint, *flags):
        path = tmp_path / "new folder" / "network.onnx"
        assert export.main(["--checkpoint_path", str(checkpoint), "--outfile", str(path), *flags]) == 0
        assert [file.name for file in path.parent.iterdir()] == ["network.onnx"]
        assert "from torch" in capsys.readouterr().out
        return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    return make


def test_onnxruntime_stores_no_telemetry(small_checkpoint, tmp_path):
    """It used to store data on machine and file, for its next user to send to Microsoft. Here in a fresh home."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package} (requirements/onnx.txt)")
    home = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), str(tmp_path))
    silent = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = [
        sys.executable,
        ROOT / "export.py",
        "--checkpoint_path",
        small_checkpoint,
        "--outfile",
        tmp_path / "a.onnx",
    ]
    subprocess.run([*map(str, command)], env=silent | home, check=True, capture_output=True)
    assert [path.name for path in tmp_path.rglob("*") if path.suffix != ".pyc" and path.is_file()] == ["a.onnx"]


def mels(count):
    return rnd(1, (count, 1, 80, 16)) * 8 - 4


@torch.inference_mode()
def test_exported_generator_draws_the_same(exported, small_checkpoint):
    session, model = exported(small_checkpoint), weights.load_model(small_checkpoint)
    for count in (1, 2, 7):
        inputs = {"mels": mels(count), "faces": rnd(2, (count, 6, 96, 96))}
        (pictures,) = session.run(["pictures"], {name: value.numpy() for name, value in inputs.items()})
        assert np.abs(pictures - model(*inputs.values()).numpy()).max() < 1e-3
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata == {
        "pads": "(0, 10, 0, 0)", "blend": "box", "reference": "same", "gain": "1.0", "mask_top": "0.5", "mel_lead": "1",
    }  # fmt: skip


@torch.inference_mode()
def test_exported_expert_embeds_the_same(exported, filled, tmp_path):
    model = filled(SyncNet_color, 0.125)
    torch.save({"state_dict": model.state_dict(), "width": 0.125}, tmp_path / "expert.pth")
    session = exported(tmp_path / "expert.pth")
    for count in (1, 5):
        inputs = {"mels": mels(count), "mouths": rnd(3, (count, 15, 48, 96))}
        results = session.run(["voices", "lips"], {name: value.numpy() for name, value in inputs.items()})
        for there, here in zip(results, model(*inputs.values())):
            assert there.shape == here.shape and np.abs(there - here.numpy()).max() < 1e-3


def test_demo_is_the_generator_unless_the_expert_is_requested(monkeypatch, tmp_path):
    networks = []
    monkeypatch.setattr(export, "write_onnx", lambda _, network, path: networks.append(network) or 0.0)
    for flags in ((), ("--network", "expert")):
        outfile = str(tmp_path / "a.onnx")
        assert export.main(["--checkpoint_path", "demo", "--outfile", outfile, *flags]) == 0
    assert networks == [Wav2Lip, SyncNet_color]


def test_name_of_an_expert_implies_its_network(monkeypatch, tmp_path, filled):
    """lipsync_expert, which export.py's own help names, used to be taken for a generator."""
    path = tmp_path / "expert.pth"
    torch.save({"width": 0.125, "state_dict": filled(SyncNet_color, 0.125).state_dict()}, path)
    requested = []
    monkeypatch.setattr(weights.downloads, "find", lambda name, *_: requested.append(name) or path)
    assert exporting.read_exportable("lipsync_expert")[1] is SyncNet_color and set(requested) == {"lipsync_expert"}


def test_export_that_differs_is_not_written(runtime, small_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exporting, "compare", lambda *_: float("nan"))
    path = tmp_path / "new" / "a.onnx"
    assert export.main(["--checkpoint_path", str(small_checkpoint), "--outfile", str(path)]) == 1
    assert "differs from torch" in capsys.readouterr().err and not list(path.parent.iterdir())


@pytest.mark.parametrize("kind, outfile, words", [
    ("judge", "a.onnx", "it holds SyncNet_v2 weights"),
    ("text", "a.onnx", "not a checkpoint"),
    ("missing", "a.onnx", "does not exist"),
    ("generator", "a.pth", "must end in .onnx"),
])  # fmt: skip
def test_impossible_exports_are_one_line(small_checkpoint, tmp_path, capsys, kind, outfile, words):
    checkpoint = small_checkpoint if kind == "generator" else tmp_path / kind
    if kind == "judge":
        with torch.device("meta"):  # its names are enough
            names = SyncNet_v2().state_dict()
        torch.save(dict.fromkeys(names, torch.zeros(1)), checkpoint)
    if kind == "text":
        checkpoint.write_text("nothing")
    assert export.main(["--checkpoint_path", str(checkpoint), "--outfile", str(tmp_path / outfile)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / outfile).exists()


def test_missing_package_is_named(small_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr(export, "read_exportable", None)  # may download, so it comes later
    assert export.main(["--checkpoint_path", str(small_checkpoint), "--outfile", str(tmp_path / "a.onnx")]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: onnx is not installed: in the project's folder, {PIP} install -r"
    )
