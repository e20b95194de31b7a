"""Fixtures: golden data, generated material, and the footage in ../shared where there is any."""

from __future__ import annotations

import base64
import copy
import functools
import gc
import hashlib
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden"
SHARED = ROOT.parent / "shared"
sys.path[:0] = [str(ROOT), str(GOLDEN)]

import devices  # noqa: E402
import models  # noqa: E402
import models.weights  # noqa: E402
from face_detection.centerface import CenterFace  # noqa: E402
from face_detection.cuts import add_change  # noqa: E402
from fill import fill  # noqa: E402
from lipsync import LipSync  # noqa: E402
from reporting import Reporter  # noqa: E402

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Mel frames of the golden data that lie within the sound. The two at each end reach beyond it: the data were made with
# a newer librosa, which pads with zeros; 0.7.0, which the reference pinned, and we pad with the mirrored sound.
INSIDE = slice(2, -2)
needs_bf16 = pytest.mark.skipif(
    not devices.cpu_computes(torch.bfloat16), reason="this CPU does not compute in bfloat16"
)

# Codecs for ``write_clip``: nearly lossless (without the filter, greys are three levels off), and lossless
X264 = (
    "-vf", "scale=flags=accurate_rnd+full_chroma_int", "-c:v", "libx264", "-crf", "10", "-pix_fmt", "yuv420p",
)  # fmt: skip
LOSSLESS = ("-c:v", "libx264rgb", "-qp", "0", "-preset", "ultrafast")  # in a quarter of FFV1's time

# Stands in for SFace: an ONNX network from (1, 3, 112, 112) to the mean of each channel, (1, 3)
MEANS = base64.b64decode(
    "CAY6YQoZCgF4EgFwIhFHbG9iYWxBdmVyYWdlUG9vbAoPCgFwEgF5IgdGbGF0dGVuEgFnWhsKAXgSFgoUCAESEAoCCAEKAggDCgIIcAoCCHBiEwoB"
    "eRIOCgwIARIICgIIAQoCCANCBAoAEAs="
)


def pytest_collection_finish() -> None:
    """Exempt imported objects from garbage collection: scanning them took 10 s of each process."""
    gc.collect()
    gc.freeze()


def rnd(seed: int, shape: tuple[int, ...], kind: str = "u") -> torch.Tensor:
    """Return a random array as the golden data's README defines it."""
    generator = np.random.default_rng(seed)
    values = generator.random(shape) if kind == "u" else generator.standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("needs the footage in ../shared")
    return SHARED


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep tests from reading or writing the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("WAV2LIP_CACHE", str(folder))
    return folder


SEEN: dict[tuple, np.ndarray] = {}  # CenterFace's detections, by a picture's shape and digest


@pytest.fixture(autouse=True)
def looked_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Remember CenterFace's detections: hundreds of tests show it the same few pictures, a tenth of all work."""
    look = CenterFace._detect

    def remembered(detector: CenterFace, frame: np.ndarray) -> np.ndarray:
        key = frame.shape, hashlib.sha256(np.ascontiguousarray(frame)).digest()
        if key not in SEEN:
            SEEN[key] = look(detector, frame)
        return SEEN[key].copy()

    if request.module.__name__ != "test_faces":  # which tests the detector itself
        monkeypatch.setattr(CenterFace, "_detect", remembered)


@pytest.fixture(scope="session")
def filled():
    """``filled(Network)`` is the network in eval mode with the golden weights, which take a second to compute."""
    filled_once = functools.cache(lambda network, *args: fill(network(*args)).eval())
    return lambda network, *args: copy.deepcopy(filled_once(network, *args))


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of an eighth of the official width, with golden weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "small generator.pth"
    torch.save({"state_dict": fill(models.Wav2Lip(0.125)).state_dict(), "width": 0.125}, path)
    return path


@pytest.fixture(scope="session")
def loaded_lips(small_checkpoint: Path) -> LipSync:
    """A ``LipSync`` that has loaded this generator; for a test, ``copy_with`` a search and a reporter of its own."""
    lips = LipSync(small_checkpoint)
    lips.load(searching=False)
    return lips


@pytest.fixture(scope="session")
def modest_checkpoint(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the included one's inference settings, for tests in which the quality of mouths is irrelevant."""
    included = torch.load(models.weights.find("demo", models.Wav2Lip), weights_only=True)
    wishes = {name: included[name] for name in models.weights.INFERENCE_SETTINGS if name in included}
    path = tmp_path_factory.mktemp("checkpoint") / "modest generator.pth"
    torch.save(torch.load(small_checkpoint) | wishes | {"opening": included["opening"][:64]}, path)
    return path


@pytest.fixture(scope="session")
def s3fd_checkpoint(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An S3FD that works on GRID-like footage; see make_s3fd.py in the golden data."""
    pytest.importorskip("face_alignment")
    path = tmp_path_factory.mktemp("s3fd") / "s3fd.pth"
    torch.save(runpy.run_path(str(shared / "golden/s3fd/make_s3fd.py"))["s3fd_state_dict"](), path)
    return path


@pytest.fixture(scope="session")
def living_s3fd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An S3FD whose weights keep the scale of signals (He et al., 2015), so that no head's output vanishes."""
    network = pytest.importorskip("face_alignment.detection.sfd.net_s3fd").s3fd()
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            torch.nn.init.zeros_(module.bias)
    path = tmp_path_factory.mktemp("living") / "s3fd.pth"
    torch.save(network.state_dict(), path)
    return path


class Told(Reporter):
    """A reporter that remembers the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture(scope="session")
def silence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.2 s of silence, 16 kHz."""
    path = tmp_path_factory.mktemp("silence") / "silence.wav"
    run_ffmpeg("-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono:d=1.2", path)
    return path


def run_ffmpeg(*arguments: object, stdin: bytes | None = None) -> None:
    """Make test material with the newest ffmpeg; the code under test uses the system's, however old."""
    import imageio_ffmpeg

    *inputs, output = map(str, arguments)
    encoded = output.endswith((".mp4", ".mkv", ".mov")) and ("-c:v" not in inputs or "libx264" in inputs)
    quick = ["-preset", "ultrafast"] if encoded and "-preset" not in inputs else []
    quiet = ("-y", "-hide_banner", "-loglevel", "error")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *quiet, *inputs, *quick, output]
    subprocess.run(command, check=True, input=stdin)


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.2 s of a swept tone, 16 kHz."""
    path = tmp_path_factory.mktemp("sound") / "speech.wav"
    run_ffmpeg("-f", "lavfi", "-i", "aevalsrc=0.4*sin(2*PI*(200+300*t)*t):d=1.2:s=16000", path)
    return path


@pytest.fixture(scope="session")
def short_speech(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Path:
    """The first 0.4 s of it: ten frames."""
    path = tmp_path_factory.mktemp("short speech") / "speech.wav"
    run_ffmpeg("-i", speech, "-t", 0.4, path)
    return path


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """A photo of a face (NASA, public domain) that scikit-image ships, 512x512 BGR."""
    return pytest.importorskip("skimage.data").astronaut()[..., ::-1].copy()


@pytest.fixture(scope="session")
def talking_clip(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    """One second of that photo drifting by 2 pixels a frame, 25 fps, 320x240, without sound."""
    path = tmp_path_factory.mktemp("clip") / "face.mp4"
    write_clip(path, drifting(astronaut, 25))
    return path


def drifting(photo: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` frames (count, 240, 320, 3) of the part with the face, which drifts by 2 pixels a frame."""
    return np.stack([photo[:240, 60 + 2 * i : 380 + 2 * i] for i in range(count)])


def half_size(picture: np.ndarray) -> np.ndarray:
    """Return a picture half as wide and as high."""
    return cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    """``talking_clip`` in half the size, for tests in which the size is irrelevant: 160x120."""
    path = tmp_path_factory.mktemp("small clip") / "face.mp4"
    write_clip(path, np.stack([half_size(frame) for frame in drifting(astronaut, 25)]))
    return path


@pytest.fixture(scope="session")
def small_photo(astronaut: np.ndarray) -> np.ndarray:
    """A face with some space around it, 160x120: the first frame of ``small_clip``."""
    return half_size(drifting(astronaut, 1)[0])


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def write_clip(path: Path, frames: np.ndarray, fps: str = "25", *options: object) -> None:
    """Encode frames (N, H, W, 3) uint8 BGR nearly losslessly."""
    count, height, width, _ = frames.shape
    source = ("-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{width}x{height}", "-r", fps, "-i", "pipe:0")
    codec = options or X264
    run_ffmpeg(*source, *codec, path, stdin=frames.tobytes())


def assert_alike(some: np.ndarray, others: np.ndarray) -> None:
    """Within one grey level: some CPUs have other kernels for fewer faces, which round sums differently."""
    assert some.shape == others.shape and cv2.absdiff(some, others).max() <= 1


def changes_of(frames: Iterable[np.ndarray]) -> np.ndarray:
    """Return how much each of the frames differs from the one before, see ``face_detection.cuts``."""
    change, thumbnails = list[float](), list[np.ndarray]()
    for frame in frames:
        add_change(change, thumbnails, frame)
    return np.array(change)
