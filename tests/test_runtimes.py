"""runtimes.py: OpenVINO draws what torch draws; what is chosen, refused, cached and reported."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

import arguments
import devices
import inference
import mouths
import runtimes
import video
from conftest import ROOT, rnd
from errors import PIP, UserError
from lipsync import LipSync
from models import Wav2Lip, weights
from runtimes import Runtime

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def openvino():
    if importlib.util.find_spec("nncf") is None:  # importing it takes a second
        pytest.skip("needs nncf (requirements/openvino.txt)")
    return pytest.importorskip("openvino", reason="needs openvino (requirements/openvino.txt)")


@pytest.fixture
def missing(monkeypatch):
    """``missing(package)`` hides that package and makes the other one look installed."""

    def remove(package):
        other = {"openvino": "nncf", "nncf": "openvino"}[package]
        monkeypatch.setitem(sys.modules, "openvino", object())
        monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: name == other or None)
        if package == "openvino":
            monkeypatch.setitem(sys.modules, "openvino", None)

    return remove


@pytest.fixture
def stub(monkeypatch):
    """Make both packages look installed to ``Runtime``."""
    monkeypatch.setattr(runtimes, "import_openvino", lambda: None)


def inputs(count):
    """Mels and faces as inference makes them: the lower half of the first three planes is black."""
    faces = rnd(2, (count, 6, 96, 96))
    faces[:, :3, 48:] = 0
    return rnd(1, (count, 1, 80, 16)) * 8 - 4, faces


def open_generator_of(checkpoint, *runtime, report=None):
    loaded = weights.read_checkpoint(checkpoint, Wav2Lip)
    runtime = Runtime(*runtime)
    return runtime.open_generator(loaded, CPU, runtime.pick_precision(CPU), *[report] * bool(report))


# --------------------------------------------------------------------------------------------------------------------
# Choices


@pytest.mark.parametrize("name, precision, words", [
    ("torch", "int8", "--precision int8 needs --runtime openvino"),
    ("openvino", "fp16", "--runtime openvino computes in int8, bf16 or fp32"),
    ("tensorrt", "auto", "--runtime tensorrt is not one of torch, openvino"),
])  # fmt: skip
def test_impossible_choices_are_refused(stub, name, precision, words):
    with pytest.raises(UserError, match=words):
        Runtime(name, precision)


def test_openvino_runs_only_on_the_cpu(stub, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Runtime("openvino").pick_device("auto") == CPU
    assert Runtime("torch").pick_device("auto").type == "cuda"
    with pytest.raises(UserError, match="--runtime openvino computes on the CPU"):
        Runtime("openvino").pick_device("cuda")


def test_each_process_has_its_own_gpu(monkeypatch):
    """Under torchrun; the second was told to leave out a --device cuda:1 that nobody had given."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank, expected in ("0", "auto"), ("1", "cuda:1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert devices.own_device("auto") == expected and devices.own_device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="every process needs its own GPU; use --nproc_per_node=2"):
        devices.own_device("auto")
    opened = []
    monkeypatch.setattr(arguments, "LipSync", lambda *_, **given: opened.append(given["device"]))
    for runtime in "openvino", "torch":
        monkeypatch.setenv("LOCAL_RANK", "1")
        args = inference.get_parser().parse_args(["--face", "a", "--audio", "b", "--runtime", runtime])
        arguments.open_lips(args)
    assert opened == ["auto", "cuda:1"]


@pytest.mark.parametrize("has_bf16, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_parts_that_are_not_int8_use_the_cpus_precision(stub, monkeypatch, has_bf16, dtype):
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: has_bf16)
    assert Runtime("openvino", "int8").pick_precision(CPU) == dtype
    assert Runtime("openvino", "fp32").pick_precision(CPU) == torch.float32


@pytest.mark.parametrize("precision, quantized", [("auto", True), ("int8", True), ("fp32", False)])
def test_auto_is_int8(stub, monkeypatch, small_checkpoint, precision, quantized):
    monkeypatch.setattr(runtimes, "quantized", lambda *_: "in int8")
    monkeypatch.setattr(runtimes, "OpenVinoGenerator", lambda _, dtype, drawing: drawing)
    assert open_generator_of(small_checkpoint, "openvino", precision) == ("in int8" if quantized else None)


@pytest.mark.parametrize("package", ["openvino", "nncf"])
def test_missing_package_is_named_before_any_work(missing, package, tmp_path, capsys):
    missing(package)
    flags = ["--face", "none.mp4", "--audio", "none.wav", "--outfile", str(tmp_path / "out.mp4")]
    assert inference.main([*flags, "--runtime", "openvino"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(
        f"error: {package} is not installed: in the project's folder, {PIP} install -r requirements"
    )
    assert error.endswith('pip install ".[openvino]")\n')  # not PyPI's wav2lip, another project


@pytest.mark.parametrize("isa, capable, expected", [
    ("", {"avx512_vnni": True}, True),
    ("", {"avx_vnni": True}, True),
    ("", {"avx2": True}, False),
    ("AVX2", {"avx512_vnni": True}, False),
])  # fmt: skip
def test_which_cpus_have_vnni(monkeypatch, isa, capable, expected):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable, raising=False)
    assert devices.cpu_has_vnni() is expected


def test_bf16_needs_onednn(monkeypatch):
    """torch for Macs has none, and its own kernels are slow; M2 and later were given bf16."""
    monkeypatch.setattr(devices, "_cpu_has", lambda *_, **__: True)
    for there in True, False:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda there=there: there)
        assert devices.cpu_has_bf16() is there


def test_calls_and_threads_match_the_workers():
    calls, share = devices.cpu_calls_and_threads()
    threads = min(torch.get_num_threads(), devices.cpu_count())
    assert calls == devices.calls_at_a_time(CPU) and calls * share >= threads


# --------------------------------------------------------------------------------------------------------------------
# Calibration


def test_calibration_data_are_like_the_networks_inputs(filled):
    network = filled(Wav2Lip, 0.125).requires_grad_(False)
    rows = list(runtimes.calibration(network))
    assert sum(len(faces) for _, faces in rows) == 64
    for voices, faces in rows:
        assert voices.shape == (len(faces), 64, 1, 1) and faces.shape[1:] == (96, 96, 6)
        assert faces.dtype == voices.dtype == np.float32 and 0.9 < faces.max() <= 1
        assert (faces[:, 48:, :, :3] == 0).all() and (faces[:, :48, :, :3] == faces[:, :48, :, 3:]).all()


# --------------------------------------------------------------------------------------------------------------------
# Drawing


@pytest.fixture(scope="module")
def eyes_checkpoint(small_checkpoint, tmp_path_factory):
    """A generator that sees faces only down to the eyes."""
    path = tmp_path_factory.mktemp("checkpoint") / "eyes.pth"
    torch.save(torch.load(small_checkpoint, weights_only=True) | {"mask_top": 0.375}, path)
    return path


@pytest.fixture(scope="module")
def in_float32(openvino, eyes_checkpoint):
    return open_generator_of(eyes_checkpoint, "openvino", "fp32")


@torch.inference_mode()
def test_float32_draws_the_same_as_torch(in_float32, eyes_checkpoint):
    model, plain = in_float32, weights.load_model(eyes_checkpoint)
    for count in (1, 2, 7):
        mels, faces = inputs(count)
        assert (model(mels, faces) - plain(mels, faces)).abs().max() < 1e-3
        voices = plain.audio_encoder(mels)
        assert (model.audio_encoder(mels) - voices).abs().max() < 1e-3 * (1 + voices.abs().max())
        assert (model.draw(voices, faces) - plain.draw(voices, faces)).abs().max() < 1e-3


def test_calibration_masks_faces_as_the_network_needs(in_float32, eyes_checkpoint):
    assert in_float32.mask_top == 0.375
    faces = next(runtimes.calibration(weights.load_model(eyes_checkpoint)))[1]
    assert (faces[:, 36:, :, :3] == 0).all() and (faces[:, :36, :, :3] == faces[:, :36, :, 3:]).all()


IN_INT8 = """
import gc, os, signal, sys, torch
from lipsync import LipSync
from reporting import Reporter

class Printer(Reporter):
    def note(self, text):
        print(text)

lips = LipSync("demo", runtime="openvino", report=Printer())
lips.model(torch.zeros(1, 1, 80, 16), torch.zeros(1, 6, 96, 96))
print("telemetry:", [name for name in sys.modules if name.startswith("openvino_telemetry.")], flush=True)
del lips
gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.fixture(scope="module")
def program_in_int8(openvino, tmp_path_factory):
    """The finished process that quantized the shipped network, drew a mouth and was interrupted; its home and cache."""
    home, cache = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("cache")
    environment = os.environ | {"HOME": str(home), "WAV2LIP_CACHE": str(cache)}
    command = [sys.executable, "-c", IN_INT8]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True), home, cache


def test_int8_draws_nearly_the_same_as_torch(program_in_int8, astronaut, told, monkeypatch):
    """The shipped network, on a face that it was not calibrated on, with smaller and larger mouth movements.

    The bound: each layer rounds weights and activations to a 255th of a range, with a variance of 1/12; independent
    errors add up as their variances do, and the mean of a normal error is sqrt(2 / pi) of its deviation.
    """
    monkeypatch.setenv("WAV2LIP_CACHE", str(program_in_int8[2]))
    model, plain = open_generator_of("demo", "openvino", report=told), weights.load_model("demo")
    assert not told.notes  # that process has quantized it
    layers = sum(isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)) for m in plain.modules())
    bound = math.sqrt(2 / math.pi) * math.sqrt(2 * layers / 12)  # grey levels
    face = (cv2.resize(astronaut[60:200, 150:290], (96, 96))[:, ::-1] * 0.7).astype(np.uint8)
    faces = np.concatenate((face, face), -1)[None].repeat(4, 0)
    faces[:, 48:, :, :3] = 0
    mels = np.load(runtimes.CALIBRATION_MELS)[5:37:8].astype(np.float32)
    for gains in (None, np.array([0.0, 1.0, 2.0, 4.0])):
        here, there = (mouths.generate(m, mels, faces, gains).astype(float) for m in (plain, model))
        assert 0 < np.abs(here - there).mean() < bound


@pytest.fixture
def quick(openvino, monkeypatch):
    """Instead of quantizing, which takes seconds, convert the last block, in tests of the cache."""
    seen = torch.zeros(1, 16, 96, 96)
    monkeypatch.setattr(runtimes, "quantize", lambda network, has_vnni: runtimes.convert(network.output_block, seen))


@torch.inference_mode()
def test_int8_network_is_cached_and_remade_if_damaged(quick, small_checkpoint, private_cache, told):
    def draw():
        network = runtimes.quantized(weights.read_checkpoint(small_checkpoint, Wav2Lip), report=told)
        return runtimes.Compiled(network, torch.float32)(rnd(1, (3, 16, 96, 96)))

    first = draw()
    (cached,) = (private_cache / "int8").iterdir()
    assert first.std() > 0 and torch.equal(draw(), first)
    assert len(told.notes) == 1
    whole = cached.read_bytes()
    cached.write_bytes(whole[: len(whole) // 2])
    assert torch.equal(draw(), first)
    assert len(told.notes) == 2 and zipfile.ZipFile(cached).testzip() is None


def test_int8_network_is_not_kept_against_the_callers_will(quick, small_checkpoint, private_cache):
    assert runtimes.quantized(weights.read_checkpoint(small_checkpoint, Wav2Lip), keep=False)
    assert not list(private_cache.rglob("*"))


def test_unwritable_cache_costs_only_time(quick, small_checkpoint, private_cache, told):
    private_cache.rmdir()
    private_cache.write_text("a file where the folder should be")
    assert runtimes.quantized(weights.read_checkpoint(small_checkpoint, Wav2Lip), report=told)
    assert "could not be cached" in told.notes[-1]


def test_threads_do_not_disturb_each_other(in_float32):
    model = in_float32
    mels, faces = inputs(8)
    alone = [model(mels[i : i + 1], faces[i : i + 1]) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            together = list(pool.map(lambda i: model(mels[i : i + 1], faces[i : i + 1]), range(8)))
            assert all(torch.equal(a, b) for a, b in zip(alone, together))


def test_quantizing_sends_no_telemetry(program_in_int8):
    """In its own process, since NNCF is silent anyway under pytest. Nor are there progress bars."""
    done, home, _ = program_in_int8
    note, *others = done.stdout.splitlines()
    assert "once" in note and others[:1] == ["telemetry: []"], done.stderr
    assert not (home / "intel").exists()


def test_unknown_precision_is_refused():
    with pytest.raises(UserError, match="--precision fp8 is not one of auto, fp32"):
        runtimes.Runtime(precision="fp8")


def test_inference_with_openvino_matches_torch(
    in_float32, eyes_checkpoint, talking_clip, short_speech, tmp_path, monkeypatch, capsys
):
    """With a mouth gain and closed silences, which use the parts of the network one by one."""
    monkeypatch.setattr(runtimes, "OpenVinoGenerator", lambda *_: in_float32)  # made of the same checkpoint
    videos = []
    for runtime in ("torch", "openvino"):
        videos.append(tmp_path / f"{runtime}.mp4")
        flags = ["--checkpoint_path", eyes_checkpoint, "--face", talking_clip, "--audio", short_speech]
        flags += ["--outfile", videos[-1], "--face_detector", "centerface", "--no_cache", "--silence", "closed"]
        flags += ["--mouth_gain", "1.5", "--precision", "fp32", "--runtime", runtime, "--crf", "0", "--device", "cpu"]
        assert inference.main([*map(str, flags)]) == 0
    here, there = (np.stack(list(video.read_frames(video.probe(path)))).astype(float) for path in videos)
    assert np.abs(here - there).max() <= 2  # grey levels, for a thousandth that is rounded the other way, and encoded


def test_library_uses_openvino(in_float32, small_checkpoint, monkeypatch):
    made = []
    monkeypatch.setattr(runtimes, "OpenVinoGenerator", lambda _, *wishes: made.append(wishes) or in_float32)
    lips = LipSync(small_checkpoint, runtime="openvino", precision="fp32")
    assert lips.device == CPU and lips.model is in_float32
    assert made == [(torch.float32, None)]  # nothing is in int8


def test_ctrl_c_after_the_last_network_does_not_crash(program_in_int8):
    """OpenVINO set up a stack for signals, and freed it with its last network: Ctrl-C was a segfault."""
    done, _, _ = program_in_int8
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["stopped"]), done.stderr
