"""Finding, downloading and loading checkpoints: every form in use, and every way a file can be wrong."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.server
import os
import pickle
import re
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import downloads
import models
from errors import MissingFile, UserError
from lipsync import LipSync
from models import weights
from mouths import SpeakingTrack, redraw_mouths
from reporting import Reporter

WIDTH = 0.125


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    return models.Wav2Lip(WIDTH).state_dict()


def has_weights(model, state):
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.fixture(scope="module")
def official():
    """A generator of full width."""
    return models.Wav2Lip().eval()


@pytest.mark.parametrize("form", ["dict", "module", "fp16", "with optimizer"])
def test_every_form_of_dict_loads(tmp_path, state, form):
    content = {"state_dict": dict(state), "width": WIDTH}
    if form == "module":
        content["state_dict"] = {f"module.{key}": value for key, value in state.items()}
    if form == "fp16":
        content["state_dict"] = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    if form == "with optimizer":
        content |= {"optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "global_step": 7, "global_epoch": 1}
    torch.save(content, tmp_path / "c.pth")
    checkpoint = weights.read_checkpoint(tmp_path / "c.pth", models.Wav2Lip)
    model = weights.build(checkpoint, models.Wav2Lip)
    assert model.width == WIDTH and not model.training
    assert checkpoint.extra.get("global_step", 7) == 7
    if form == "fp16":
        state = {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}
    assert has_weights(model, state)


def test_bare_reference_state_dict_loads(tmp_path, official):
    """In the reference's format, which is no zip."""
    torch.save(official.state_dict(), tmp_path / "wav2lip.pth", _use_new_zipfile_serialization=False)
    assert weights.load_model(tmp_path / "wav2lip.pth").width == 1.0


def test_torchscript_loads(tmp_path, official):
    """The original's download links lead to such files today."""
    inputs = torch.zeros(1, 1, 80, 16), torch.zeros(1, 6, 96, 96)
    torch.jit.trace(official, inputs, check_trace=False).save(str(tmp_path / "gan.pt"))
    assert has_weights(weights.load_model(tmp_path / "gan.pt"), official.state_dict())


def test_torchscript_code_is_not_run(tmp_path, monkeypatch):
    """Its classes may define a __setstate__, which torch runs, with operators that read and write files."""
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("torch ran what the file brought along"))
    torch.jit.script(models.SyncNet_color(0.125).audio_encoder).save(str(tmp_path / "part.pt"))
    state = models.SyncNet_color(0.125).audio_encoder.state_dict()
    read = weights.read_state(tmp_path / "part.pt")
    assert list(read) == list(state) and [v.shape for v in read.values()] == [v.shape for v in state.values()]


def test_torchscript_tensors_may_share_memory(tmp_path):
    class Shares(torch.nn.Module):
        def __init__(self):
            super().__init__()
            whole = torch.arange(24.0).reshape(4, 6)
            self.whole = torch.nn.Parameter(whole)
            views = {"turned": whole.T, "part": whole[2:, 3], "halves": whole[1:3].half()}
            for name, value in (views | {"nothing": torch.zeros(0, 3), "flag": torch.tensor(True)}).items():
                self.register_buffer(name, value)
            self.sizes, self.label, self.scale = [1, 2], "shares", 2.5

        def forward(self, x):
            return x * self.scale + self.sizes[0]

    torch.jit.script(Shares()).save(str(tmp_path / "shares.pt"))
    read, expected = weights.read_state(tmp_path / "shares.pt"), Shares().state_dict()
    assert set(read) == set(expected)
    assert all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in expected.items())


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("number", [np.float64(0.25), np.int64(7), np.bool_(True), np.dtype(">f4").type(0.5)])
def test_numpy_scalars_load_as_plain_numbers(tmp_path, number, as_zip):
    """Other training loops save steps, learning rates or best losses as numpy computed them."""
    content = {"state_dict": {"weight": torch.ones(2)}, "global_step": number}
    torch.save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=as_zip)
    before = torch.serialization.get_safe_globals()
    step = weights.read_state(tmp_path / "c.pth")["global_step"]
    assert step == number and type(step) in (float, int, bool)
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_scalars_saved_with_numpy_1_load(tmp_path):
    """It pickles them under another module's name."""
    torch.save({"state_dict": {}, "best": np.float64(0.25)}, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "c.pth").read_bytes()
    other = b"cnumpy.core" if b"cnumpy._core" in content else b"cnumpy._core"
    (tmp_path / "c.pth").write_bytes(re.sub(rb"cnumpy\._?core", other, content))
    assert weights.read_state(tmp_path / "c.pth") == {"state_dict": {}, "best": 0.25}


def test_expert_of_any_width_loads(tmp_path):
    torch.save({"state_dict": models.SyncNet_color(0.25).state_dict(), "width": 0.25}, tmp_path / "e.pth")
    assert weights.load_model(tmp_path / "e.pth", models.SyncNet_color).width == 0.25


class Evil:
    def __reduce__(self):
        return os.mkdir, ("PWNED",)


class LoadsByCode(torch.nn.Module):
    """TorchScript keeps its __setstate__, which torch.jit.load runs: here it makes a million weights."""

    def __init__(self):
        super().__init__()
        self.weight = torch.zeros(1)

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.weight, self.training = torch.zeros(1_000_000), state[1]

    def forward(self, x):
        return x


def break_file(path, kind, state):
    if kind == "text":
        path.write_text("hello " * 100)
    elif kind == "html":
        path.write_text("<!DOCTYPE html><html>404</html>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        torch.save(dict(state), path)
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind == "damaged":  # in the central directory at the end, which is read first
        torch.save(dict(state), path)
        content = path.read_bytes()
        path.write_bytes(content.replace(b"PK\1\2", b"PK\1\3"))
    elif kind == "noise":
        path.write_bytes(b"\x80\2.")
    elif kind == "evil":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "evil zip":
        torch.save({"state_dict": dict(state)}, path)
        with zipfile.ZipFile(path, "a") as archive:
            name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, pickle.dumps(Evil()))
    elif kind == "expert":
        torch.save({"state_dict": models.SyncNet_color(WIDTH).state_dict()}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "shape":
        torch.save({"state_dict": dict(state)}, path)
    elif kind == "zipped":
        torch.save(dict(state), path.with_name("inside.pth"))
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(path.with_name("inside.pth"), "folder/inside.pth")
            archive.writestr("folder/readme.txt", "which of the two is it")
    elif kind == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({}))
            archive.writestr("archive/data/0", bytes(100 << 20))
    elif kind == "expanded":
        empty = {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}
        torch.save({"state_dict": empty, "width": WIDTH}, path)
    elif kind in ("nan", "infinite"):
        state = {name: value.clone() for name, value in state.items()}
        state["output_block.0.conv_block.0.weight"][-1, -1] = float(kind.removesuffix("inite"))
        torch.save({"state_dict": state, "width": WIDTH}, path)
    elif kind == "wide":
        torch.save({"state_dict": dict(state), "width": 400.0}, path)
    elif kind == "width in words":
        torch.save({"state_dict": dict(state), "width": "half"}, path)
    elif kind == "numbers for names":
        torch.save({"state_dict": {0: torch.zeros(1)}}, path)
    elif kind == "gzipped":
        path.write_bytes(gzip.compress(b"a checkpoint"))
    elif kind == "frozen":
        frozen = torch.jit.freeze(torch.jit.script(torch.nn.Linear(2, 2).eval()))
        frozen.save(str(path))
    elif kind == "larger":
        deeper = {f"face_encoder_blocks.{n}.0.conv_block.0.weight": torch.zeros(1) for n in range(9)}
        torch.save({"state_dict": {**state, **deeper}}, path)
    elif kind == "a whole model":
        torch.save(torch.nn.Linear(2, 2), path)
    elif kind == "script with code":
        torch.jit.script(LoadsByCode()).save(str(path))


@pytest.mark.parametrize("kind, words", [
    ("text", "not a checkpoint"),
    ("html", "web page"),
    ("empty", "not a checkpoint"),
    ("cut", "not a checkpoint"),
    ("damaged", "not a checkpoint"),
    ("noise", "not a checkpoint"),
    ("evil", "run code"),
    ("evil zip", "run code|not a checkpoint"),
    ("expert", "should hold Wav2Lip weights, but it holds SyncNet_color"),
    ("list", "holds a list"),
    ("shape", "instead of"),
    ("zipped", r"zip archive \(folder/inside.pth\), not a checkpoint; unpack it"),
    ("gzipped", "gzip archive, not a checkpoint; unpack it"),
    ("script with code", "run code"),
    ("frozen", "it holds none; frozen TorchScript has lost them"),
    ("larger", "its faces are larger: it has 9 stages where this network, of 96 pixels, has 7"),
    ("a whole model", r"run code .* if it is a model of yours, save its state_dict\(\)"),
    ("expanded", "claims more weights than it holds"),
    ("nan", "weights that are NaN or infinite, as after a training that diverged"),  # it used to draw black faces
    ("infinite", "weights that are NaN or infinite"),
    ("wide", "has width 400, which no network has"),
    ("width in words", "has width half, which no network has"),
    ("bomb", "is compressed, which checkpoints are not"),
    ("numbers for names", "its weights have no names"),
])  # fmt: skip
def test_wrong_files_are_refused_with_the_reason(tmp_path, monkeypatch, state, kind, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "broken.pth"
    break_file(path, kind, state)
    with pytest.raises(ValueError, match=words) as caught:
        weights.load_model(path)
    assert "broken.pth" in str(caught.value) and "bytes" in str(caught.value)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("name", weights.STATE_DICT_KEYS)
def test_state_dict_is_found_under_every_known_key(tmp_path, state, name):
    torch.save({name: dict(state), "width": WIDTH, "epoch": 3}, tmp_path / "c.pth")
    checkpoint = weights.read_checkpoint(tmp_path / "c.pth", models.Wav2Lip)
    assert checkpoint.state.keys() == state.keys() and checkpoint.extra["epoch"] == 3
    assert all(torch.equal(value, state[key]) for key, value in checkpoint.state.items())


def test_missing_batch_counters_default_to_zero(tmp_path, state):
    """Converted files lack them; torch itself fills them in."""
    converted = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert len(state) - len(converted) == 50
    torch.save({"state_dict": converted, "width": WIDTH}, tmp_path / "c.pth")
    assert has_weights(weights.load_model(tmp_path / "c.pth"), state)


def test_onnx_file_is_recognised(tmp_path):
    """It used to be called damaged, with the advice to download it again."""
    (tmp_path / "wav2lip_gan.onnx").write_bytes(b"\x08\x08\x12\x07pytorch" * 100)
    with pytest.raises(UserError, match="is an ONNX file, .* give the .pth"):
        weights.load_model(tmp_path / "wav2lip_gan.onnx")


def test_name_finds_the_file_in_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="wav2lip_gan"):
        weights.find("wav2lipgan", models.Wav2Lip)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/wav2lip_gan.pth").write_bytes(b"x")
    assert weights.find("wav2lip_gan", models.Wav2Lip).name == "wav2lip_gan.pth"
    assert weights.find("wav2lip_gan.pth", models.Wav2Lip).parent.name == "checkpoints"  # file names work, too
    theirs = tmp_path / "checkpoints/Wav2Lip_GAN.pth"  # as Easy-Wav2Lip saves it
    (tmp_path / "checkpoints/wav2lip_gan.pth").rename(theirs)
    assert weights.find("wav2lip_gan", models.Wav2Lip).samefile(theirs)
    (tmp_path / "checkpoints/wav2lip.pth").write_bytes(b"x")
    (tmp_path / "wav2lip").mkdir()  # a folder of that name, as in our repository
    assert weights.find("wav2lip", models.Wav2Lip).name == "wav2lip.pth"


# --------------------------------------------------------------------------------------------------------------------
# Downloading


CONTENT = bytes(range(256)) * 4000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; under /breaking it drops the first connection halfway."""

    requests: list[str | None] = []

    def do_GET(self):
        asked = self.headers.get("Range")
        self.requests.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and "plain" not in self.path else 0
        if "missing" in self.path or start >= len(CONTENT):
            self.send_response(404 if "missing" in self.path else 416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if "packing" in self.path and "gzip" in self.headers.get("Accept-Encoding", ""):
            packed = gzip.compress(CONTENT)
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(packed)))
            self.end_headers()
            self.wfile.write(packed)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8" if "login" in self.path else "text/plain")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = len(CONTENT) // 2 if "breaking" in self.path and len(self.requests) == 1 else len(CONTENT)
        time.sleep(0.3 if "slow" in self.path else 0)
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Handler.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def known_file(url, sha256=None):
    return downloads.KnownFile("file.pth", url, sha256 or hashlib.sha256(CONTENT).hexdigest())


def test_file_is_downloaded_once(server, tmp_path):
    for _ in range(2):
        assert downloads.fetch(known_file(f"{server}/x"), tmp_path).read_bytes() == CONTENT
    assert Handler.requests == [None] and [p.name for p in tmp_path.iterdir()] == ["file.pth"]


def test_downloads_are_requested_uncompressed(server, tmp_path):
    """A compressed response has another length than the file, so the download always seemed "broken off"."""
    assert downloads.fetch(known_file(f"{server}/packing"), tmp_path).read_bytes() == CONTENT


def test_a_page_to_read_is_no_download(server, tmp_path):
    """What a network that wants a login answers was kept for ever as weights whose checksum is unknown."""
    known = downloads.KnownFile("file.pth", f"{server}/login", None)
    with pytest.raises(RuntimeError, match="could not download .*the answer is a page to read"):
        downloads.fetch(known, tmp_path)
    assert not list(tmp_path.iterdir())


class Listener(Reporter):
    def __init__(self):
        self.reports = []

    def progress(self, *report):
        self.reports.append(report)


def test_download_progress_is_reported(server, tmp_path, capfd):
    """Only to the reporter; nothing is printed."""
    (tmp_path / "file.pth.part").write_bytes(CONTENT[:7])
    listener, size = Listener(), len(CONTENT)
    downloads.fetch(known_file(f"{server}/x"), tmp_path, listener)
    expected = [("Downloading file.pth", done, size) for done in (7, size)]
    assert [listener.reports[0], listener.reports[-1]] == expected and capfd.readouterr() == ("", "")


def test_lipsync_reports_downloads(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WAV2LIP_CACHE", str(tmp_path))
    monkeypatch.setitem(downloads.KNOWN, "mine", known_file(f"{server}/x"))
    monkeypatch.setattr(weights, "PUBLISHED", {models.Wav2Lip: ("mine",), models.SyncNet_color: ("mine",)})
    for option in ("checkpoint", "expert"):
        listener = Listener()
        lips = LipSync(**{option: "mine"}, report=listener)
        with pytest.raises(UserError, match="not a checkpoint"):
            _ = lips.expert or lips.model
        assert [stage for stage, *_ in listener.reports[:1]] == ["Downloading file.pth"]
        (tmp_path / "checkpoints" / "file.pth").unlink()


@pytest.mark.parametrize("path", ["breaking", "breaking-plain"])
def test_broken_download_is_resumed(server, tmp_path, path):
    """``plain`` stands for servers that cannot resume: the download starts again."""
    with pytest.raises(RuntimeError, match=r"could not download.*put it at .*file\.pth"):
        downloads.fetch(known_file(f"{server}/{path}"), tmp_path)
    assert not (tmp_path / "file.pth").exists()
    assert downloads.fetch(known_file(f"{server}/{path}"), tmp_path).read_bytes() == CONTENT
    assert Handler.requests[1].startswith("bytes=")


def test_a_cache_that_cannot_be_written_is_no_failed_download(tmp_path, monkeypatch):
    """It told users to put the file where they may not write. (root may, so the refusal is simulated.)"""

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RuntimeError, match=r"ro cannot be written to \(.*denied\).*set WAV2LIP_CACHE to a folder of"):
        downloads.fetch(known_file("http://127.0.0.1:1/x"), tmp_path / "ro")


def test_a_home_that_may_not_be_read_is_no_fault(tmp_path, monkeypatch):
    """As of services that are not root any more but keep its HOME: every run ended, instead of going on without."""

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    assert not downloads._is_right(known_file("http://127.0.0.1:1/x"), tmp_path / "file.pth")


def test_download_error_gives_its_reason_once(tmp_path):
    """Not once per package that it went through. Nothing listens on port 1."""
    with pytest.raises(RuntimeError) as caught:
        downloads.fetch(known_file("http://127.0.0.1:1/x"), tmp_path)
    target = tmp_path / "file.pth"
    reason = os.strerror(errno.ECONNREFUSED)
    assert str(caught.value) == (
        f"could not download http://127.0.0.1:1/x ({reason}); fetch it by other means and put it at {target}"
    )


def test_complete_partial_file_is_not_downloaded_again(server, tmp_path):
    (tmp_path / "file.pth.part").write_bytes(CONTENT)
    assert downloads.fetch(known_file(f"{server}/x"), tmp_path).read_bytes() == CONTENT
    assert len(Handler.requests) == 1


def test_existing_file_needs_no_lock(server, tmp_path, monkeypatch):
    """Its folder may be read-only."""
    (tmp_path / "file.pth").write_bytes(CONTENT)
    monkeypatch.setattr(weights.files, "locked", lambda *_, **__: pytest.fail("locked"))
    assert downloads.fetch(known_file(f"{server}/x"), tmp_path) == tmp_path / "file.pth"
    assert not Handler.requests


def test_overlong_partial_file_is_downloaded_again(server, tmp_path):
    """Without a hash, nothing else would notice."""
    (tmp_path / "file.pth.part").write_bytes(CONTENT + b"of another file")
    unchecked = downloads.KnownFile("file.pth", f"{server}/x", None)
    assert downloads.fetch(unchecked, tmp_path).read_bytes() == CONTENT


def test_one_download_at_a_time(server, tmp_path):
    """Concurrent downloads used to write into the same partial file."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: downloads.fetch(known_file(f"{server}/slow"), tmp_path), range(4)))
    assert {path.read_bytes() for path in found} == {CONTENT} and len(Handler.requests) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]


@pytest.mark.parametrize("path, sha256", [("missing", None), ("x", "0" * 64)])
def test_failed_download_says_what_to_do(server, tmp_path, path, sha256):
    with pytest.raises(RuntimeError, match="by other means"):
        downloads.fetch(known_file(f"{server}/{path}", sha256), tmp_path)
    assert not (tmp_path / "file.pth").exists()


def test_hub_mirror_replaces_the_hub(server, tmp_path, monkeypatch):
    """Many cannot reach the hub; what its mirror sends is checked all the same."""
    known = downloads.KnownFile("file.pth", f"{downloads._HUB}/file.pth", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setenv("HF_ENDPOINT", f"{server}/")
    assert downloads.fetch(known, tmp_path).read_bytes() == CONTENT
    assert downloads.url_of(downloads.KNOWN["s3fd"]) == downloads.KNOWN["s3fd"].url  # which is not on the hub


def test_known_downloads_are_listed():
    judges = {"s3fd", "yunet", "syncnet_v2", "fid_inception", "2dfan4", "alexnet", "sface"}
    assert set(downloads.KNOWN) == {"wav2lip", "wav2lip_gan", "lipsync_expert", *judges}
    assert all(k.sha256 is None or len(k.sha256) == 64 for k in downloads.KNOWN.values())


@pytest.mark.parametrize(
    ("settings", "pads", "blend", "reference", "gain"),
    [
        (
            {"pads": [0, 5, 0, 0], "blend": "feather", "reference": "still", "gain": 1.5},
            (0, 5, 0, 0),
            "feather",
            "still",
            1.5,
        ),
        ({}, (0, 10, 0, 0), "box", "same", 1.0),
        ({"pads": "0 0 0 0", "blend": "smear", "reference": 7, "gain": -1}, (0, 10, 0, 0), "box", "same", 1.0),
        ({"pads": [0, True, 0.5, 0], "gain": float("nan")}, (0, 10, 0, 0), "box", "same", 1.0),
    ],
)
def test_generator_may_carry_inference_settings(tmp_path, settings, pads, blend, reference, gain):
    read = weights.Checkpoint(tmp_path / "said.pth", {}, WIDTH, settings)
    assert (read.pads, read.blend, read.reference, read.gain) == (pads, blend, reference, gain)


@pytest.mark.parametrize(
    ("opening", "is_used"),
    [
        ([0.5] * 64, True),
        ([0.5] * 63, False),
        ([0.5] * 63 + [float("nan")], False),
        ([0.5] * 63 + ["1"], False),
        (None, False),
    ],
)
def test_matching_references_need_a_valid_opening(tmp_path, opening, is_used):
    checkpoint = weights.Checkpoint(tmp_path / "a.pth", {}, WIDTH, {"reference": "matching", "opening": opening})
    assert (checkpoint.reference, checkpoint.opening) == (("matching", opening) if is_used else ("same", None))


@pytest.mark.parametrize(
    ("lead", "used"), [(0, 0), (10, 10), (11, None), (-1, None), (1.0, None), (True, None), ("1", None)]
)
def test_mel_lead_counts_only_if_valid(tmp_path, lead, used):
    assert weights.Checkpoint(tmp_path / "a.pth", {}, WIDTH, {"mel_lead": lead}).mel_lead is used


@pytest.mark.parametrize(
    ("settings", "top"), [({"mask_top": 0.375}, 0.375), ({"mask_top": 2.0}, 0.5), ({"mask_top": "a"}, 0.5)]
)
def test_generator_sets_how_much_of_a_face_is_masked(tmp_path, small_checkpoint, settings, top):
    content = torch.load(small_checkpoint, weights_only=True)
    torch.save({**content, **settings}, tmp_path / "said.pth")
    model, faces = weights.load_model(tmp_path / "said.pth"), np.full((2, 96, 96, 3), 7, np.uint8)
    shown = []
    model.face_encoder_blocks[0].register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    list(redraw_mouths(faces, [SpeakingTrack([(0, 0, 96, 96)] * 2, np.zeros((2, 80, 16), np.float32))], model))
    hidden = shown[0][:, :3].eq(0).all(3).all(1)
    assert hidden.sum(1).tolist() == [96 - round(96 * top)] * 2 and hidden[:, -1].all()


def test_loading_and_export_keep_inference_settings(tmp_path, small_checkpoint):
    content = torch.load(small_checkpoint, weights_only=True)
    said = {"pads": [0, 5, 0, 0], "blend": "feather", "reference": "still", "gain": 1.5}
    torch.save({**content, **said}, tmp_path / "said.pth")
    model = weights.load_model(tmp_path / "said.pth")
    assert (model.pads, model.blend, model.reference, model.gain) == ((0, 5, 0, 0), "feather", "still", 1.5)
    weights.export(
        weights.read_checkpoint(tmp_path / "said.pth", models.Wav2Lip), tmp_path / "new.pth", pads=[1, 2, 3, 4]
    )
    model = weights.load_model(tmp_path / "new.pth")
    assert (model.pads, model.blend, model.reference, model.gain) == ((1, 2, 3, 4), "feather", "still", 1.5)


def test_error_for_a_missing_best_checkpoint_names_the_newest(tmp_path, monkeypatch):
    best, words = tmp_path / "checkpoint_best.pth", "does not exist"
    with pytest.raises(MissingFile, match=f"{words}; give a file or one of the names"):
        weights.find(best, models.SyncNet_color)
    for step in (3, 20):
        (tmp_path / f"checkpoint_step{step:09d}.pth").touch()
    with pytest.raises(MissingFile, match="the newest checkpoint there is checkpoint_step000000020.pth$"):
        weights.find(best, models.SyncNet_color)
    monkeypatch.chdir(tmp_path)
    assert weights.find("demo", models.SyncNet_color) == weights.SHIPPED[models.SyncNet_color]["demo"]


@pytest.mark.parametrize("name, network, names", [
    ("sface", models.Wav2Lip, "names demo, wav2lip, wav2lip_gan"),
    ("wav2lip", models.SyncNet_color, "names demo, demo_judge, lipsync_expert"),
])  # fmt: skip
def test_names_of_other_networks_are_not_downloaded(name, network, names):
    """They used to be: hundreds of megabytes, which then did not fit."""
    with pytest.raises(MissingFile, match=f"{name} is another kind of network; give a file or one of the {names}$"):
        weights.find(name, network)
    with pytest.raises(MissingFile, match=f"nope does not exist; give a file or one of the {names}$"):
        weights.find("nope", network)


def test_a_download_of_unknown_length_is_resumed(server, tmp_path, monkeypatch):
    """All of it arrived, and was refused: the part at hand was taken for the whole length."""

    def send_header(self, name, value):
        if name != "Content-Length":
            http.server.BaseHTTPRequestHandler.send_header(self, name, value)

    monkeypatch.setattr(Handler, "send_header", send_header)
    (tmp_path / "file.pth.part").write_bytes(CONTENT[:1000])
    assert downloads.fetch(known_file(f"{server}/x"), tmp_path).read_bytes() == CONTENT
    assert Handler.requests == ["bytes=1000-"]
