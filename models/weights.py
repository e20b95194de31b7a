"""Find, fetch, verify and load checkpoints, never running code that a file brings along.

A checkpoint is a file, or one of the names in ``KNOWN``, which are downloaded once and checked by their SHA-256.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn

import files
from errors import MissingFile, UserError
from reporting import SILENT, Reporter

from .conv import Network, scaled
from .syncnet import SyncNet_color, SyncNet_v2
from .unpickling import is_torchscript, numpy_numbers, read_torchscript
from .wav2lip import Wav2Lip, Wav2Lip_disc_qual

REPOSITORY = Path(__file__).resolve().parent.parent
NETWORKS = (Wav2Lip, SyncNet_color, Wav2Lip_disc_qual, SyncNet_v2)
WIDEST = 4.0  # times the official width
CODE_BYTES = 1 << 26  # that TorchScript's code may have, which is compressed; tensors are not
SCALABLE = (Wav2Lip, SyncNet_color, Wav2Lip_disc_qual)
_HUB = "https://huggingface.co/camenduru/Wav2Lip/resolve/main/checkpoints"


@dataclass(frozen=True)
class KnownFile:
    """An official file: where it is published and what it must be."""

    file_name: str
    url: str
    sha256: str | None  # None: not known here, so what was fetched is reported instead of checked


KNOWN = {
    "wav2lip": KnownFile(
        "wav2lip.pth", f"{_HUB}/wav2lip.pth", "b78b681b68ad9fe6c6fb1debc6ff43ad05834a8af8a62ffc4167b7b34ef63c37"
    ),
    "wav2lip_gan": KnownFile(
        "wav2lip_gan.pth", f"{_HUB}/wav2lip_gan.pth", "ca9ab7b7b812c0e80a6e70a5977c545a1e8a365a6c49d5e533023c034d7ac3d8"
    ),
    "lipsync_expert": KnownFile("lipsync_expert.pth", f"{_HUB}/lipsync_expert.pth", None),
    "s3fd": KnownFile(
        "s3fd-619a316812.pth",
        "https://www.adrianbulat.com/downloads/python-fan/s3fd-619a316812.pth",
        "619a31681264d3f7f7fc7a16a42cbbe8b23f31a256f75a366e5a1bcd59b33543",
    ),
    "yunet": KnownFile(
        "face_detection_yunet_2023mar.onnx",
        "https://github.com/opencv/opencv_zoo/raw/82b38c8f98e7b52aa171400f3e4c722352d0669f/models/"
        "face_detection_yunet/face_detection_yunet_2023mar.onnx",
        "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    ),
    "syncnet_v2": KnownFile(
        "syncnet_v2.model",
        "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
        "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
    ),
    "fid_inception": KnownFile(
        "pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        None,
    ),
    "2dfan4": KnownFile(
        "2DFAN4-11f355bf06.pth.tar", "https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar", None
    ),
    "alexnet": KnownFile(
        "alexnet-owt-7be5be79.pth", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", None
    ),
    "sface": KnownFile(
        "face_recognition_sface_2021dec.onnx",
        "https://github.com/opencv/opencv_zoo/raw/main/models/face_recognition_sface/face_recognition_sface_2021dec.onnx",
        "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
    ),
}


# how archives begin that people put checkpoints into; zips are looked into
ARCHIVES = {b"\x1f\x8b": "a gzip archive", b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"Rar!": "a rar archive"}
REFERENCES = ("same", "still", "matching")  # see Wav2Lip
MAX_LEAD = 10  # frames by which a mouth's sound may start before it
MAX_GAIN = 4.0  # by which mouths move farther than a generator has them by itself
# what a checkpoint may say of its use at inference, see Wav2Lip
INFERENCE_SETTINGS = ("pads", "blend", "reference", "gain", "opening", "mask_top", "mel_lead")

# the small networks that come with this repository: one name, the network decides which
DEMO = "demo"
SHIPPED = {
    Wav2Lip: REPOSITORY / "demo" / "checkpoints" / "generator.pth",
    SyncNet_color: REPOSITORY / "demo" / "checkpoints" / "expert.pth",
}


# names of what is published, by network; others are asked for by what they are for
PUBLISHED = {Wav2Lip: ("wav2lip", "wav2lip_gan"), SyncNet_color: ("lipsync_expert",), SyncNet_v2: ("syncnet_v2",)}


# --------------------------------------------------------------------------------------------------------------------
# Find and fetch


def cache_folder() -> Path:
    """Return where downloads and found boxes are kept: $WAV2LIP_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("WAV2LIP_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wav2lip"


def find(path_or_name: str | Path, network: type[nn.Module] | None = None, report: Reporter = SILENT) -> Path:
    """Return the file behind a path or a known name, downloading it if it is not here yet.

    ``demo`` is the small ``network`` that comes with this repository. The other known names are looked for in
    ``checkpoints/`` of the working folder and of the repository, then in the cache. Raises MissingFile for an
    unknown name, RuntimeError when a download fails.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    if str(path_or_name) == DEMO and network in SHIPPED:  # also where a folder has that name, as in the repository
        return SHIPPED[network]
    known = KNOWN.get(str(path_or_name))  # likewise: wav2lip is one
    if known is None and path.exists():
        return path
    if known is None and re.match(r"[A-Za-z]{2,}:/", str(path_or_name)):
        raise MissingFile(f"{path_or_name} is an address; download it first, and give the file")
    fitting = PUBLISHED.get(network, tuple(KNOWN)) if network else tuple(KNOWN)
    if known is None or str(path_or_name) not in fitting:
        names = ", ".join((*([DEMO] if network in SHIPPED or not network else []), *fitting))
        what = f"{path_or_name} is another kind of network" if known else f"{path} does not exist"
        raise MissingFile(f"{what}; give a file or one of the names {names}")
    for folder in (Path("checkpoints"), REPOSITORY / "checkpoints"):
        if (folder / known.file_name).is_file():
            return folder / known.file_name
    return fetch(known, cache_folder() / "checkpoints", report)


def fetch(known: KnownFile, folder: Path, report: Reporter = SILENT) -> Path:
    """Download ``known`` into ``folder`` unless it is there already with the right SHA-256; resume what broke off."""
    import pooch

    # pooch tells the SHA-256 of what it fetched: worth reading only where there was none to check
    pooch.get_logger().setLevel("WARNING" if known.sha256 else "INFO")
    target = folder / known.file_name
    if target.is_file() and known.sha256 in (None, files.digest(target)):  # also where nothing can be written or locked
        return target
    try:
        with files.locked(target.with_name(f".{known.file_name}.lock"), wait=True):  # who waited finds the file
            found = pooch.retrieve(
                known.url,
                known_hash=known.sha256 and f"sha256:{known.sha256}",
                fname=known.file_name,
                path=folder,
                downloader=_resuming_downloader(target.with_name(f"{known.file_name}.part"), report),
            )
    except (OSError, ValueError) as error:  # no network or disk; wrong hash
        raise RuntimeError(
            f"could not download {known.url} ({reason_of(error)}); fetch it by other means and put it at {target}"
        ) from error
    return Path(found)


def reason_of(error: BaseException) -> str:
    """Return, in one line, what the first error said: those of requests and urllib3 repeat it with all they know."""
    while earlier := error.__cause__ or error.__context__:
        error = earlier
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


def _resuming_downloader(part: Path, report: Reporter) -> Callable[[str, str, Any], None]:
    """For pooch: collect into ``part``, which outlives a broken connection, and hand it over when it is complete."""

    def download(url: str, output_file: str, _pooch: Any) -> None:
        import requests

        have = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        with requests.get(url, headers=headers, stream=True, timeout=30) as reply:
            if reply.status_code == 416:  # nothing left to send: the part is whole, or of another file
                if reply.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
                    files.replace(part, Path(output_file))
                    return
                part.unlink()
                download(url, output_file, _pooch)
                return
            reply.raise_for_status()
            if reply.status_code != 206:  # a server that cannot resume starts again
                have = 0
            size = have + int(reply.headers.get("Content-Length", 0))
            stage = report.stage(f"Downloading {part.stem}", size or None, "B", have)
            with open(part, "ab" if have else "wb") as file, stage as advance:
                for block in reply.iter_content(1 << 16):
                    file.write(block)
                    advance(len(block))
        if size and part.stat().st_size != size:
            raise OSError(f"the connection broke off at {part.stat().st_size} of {size} bytes; run again to continue")
        files.replace(part, Path(output_file))

    return download


# --------------------------------------------------------------------------------------------------------------------
# Load


@dataclass
class Checkpoint:
    """The tensors of one network, checked to fit it, and everything else the file held."""

    path: Path
    state: dict[str, torch.Tensor]
    width: float
    extra: dict[str, Any]  # optimizer, global_step, … as far as the file has them

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """See ``Wav2Lip``; what a file says is believed if it makes sense."""
        value = self.extra.get("pads")
        if isinstance(value, (list, tuple)) and len(value) == 4 and all(type(pad) is int for pad in value):
            top, bottom, left, right = value
            return top, bottom, left, right
        return Wav2Lip.pads

    @property
    def blend(self) -> str:
        value = self.extra.get("blend")
        return value if value in ("box", "feather") else Wav2Lip.blend

    @property
    def reference(self) -> str:
        value = self.extra.get("reference")
        if value == "matching" and self.opening is None:
            return Wav2Lip.reference
        return value if value in REFERENCES else Wav2Lip.reference

    @property
    def opening(self) -> list[float] | None:
        value = self.extra.get("opening")
        if not isinstance(value, list) or len(value) != scaled(512, self.width):
            return None
        return value if all(type(one) is float and math.isfinite(one) for one in value) else None

    @property
    def mask_top(self) -> float:
        value: Any = self.extra.get("mask_top")
        return value if type(value) is float and 0 < value < 1 else Wav2Lip.mask_top

    @property
    def mel_lead(self) -> int | None:
        value = self.extra.get("mel_lead")
        return value if type(value) is int and 0 <= value <= MAX_LEAD else None

    @property
    def gain(self) -> float:
        value: Any = self.extra.get("gain")
        return float(value) if type(value) in (int, float) and 0 < value <= MAX_GAIN else Wav2Lip.gain


def read_checkpoint(path_or_name: str | Path, network: type[nn.Module], report: Reporter = SILENT) -> Checkpoint:
    """Find and read a checkpoint, and check that it fits ``network``.

    It may be a dict with ``state_dict``, a bare state dict, or TorchScript. Raises as ``find`` does, and UserError
    naming the file, its size, what was expected and what was found.
    """
    path = find(path_or_name, network, report)
    content = read_state(path)
    state = content.pop("state_dict", None) if isinstance(content.get("state_dict"), dict) else None
    extra = content if state is not None else {}
    if isinstance(extra.get("hparams"), dict):  # all that stages of training said of it until 2026-11
        extra = {"mel_lead": extra["hparams"].get("mel_lead"), **extra}
    state = {key.removeprefix("module."): value for key, value in (content if state is None else state).items()}
    width = extra.get("width", 1.0)
    if not isinstance(width, (int, float)) or not 0 < width <= WIDEST:
        shown = f"{width:g}" if isinstance(width, (int, float)) else width
        raise UserError(f"{_describe(path)} is of width {shown}, which no network is")
    if problem := _difference(_shapes(network, width), state):  # type: ignore[arg-type]  # classes can be hashed
        raise UserError(f"{_describe(path)} should hold {network.__name__} weights, but {problem}")
    if any(value.untyped_storage().nbytes() < value.numel() * value.element_size() for value in state.values()):
        raise UserError(f"{_describe(path)} claims more weights than it holds; fetch it again")
    return Checkpoint(path, state, width, extra)


def build(checkpoint: Checkpoint, network: type[Network]) -> Network:
    """Return ``network`` in eval mode with the checkpoint's weights in float32."""
    model = _empty(network, checkpoint.width)
    state = {k: v.float() if v.is_floating_point() else v for k, v in checkpoint.state.items()}
    model.load_state_dict(state, assign=True)
    if isinstance(model, Wav2Lip):
        for name in INFERENCE_SETTINGS:
            setattr(model, name, getattr(checkpoint, name))
    return model.requires_grad_(False).eval()


def export(checkpoint: Checkpoint, path: Path, **settings: object) -> None:
    """Write only what is needed to use a network, at half its size: float16 but for the small, touchy vectors.

    ``settings``, or else those that the checkpoint has, say how it wants to be used: see ``Wav2Lip``.
    """
    settings = {name: checkpoint.extra[name] for name in INFERENCE_SETTINGS if name in checkpoint.extra} | settings
    halves = {k: v.half() if v.is_floating_point() and v.ndim > 1 else v for k, v in checkpoint.state.items()}
    write({"state_dict": halves, "width": checkpoint.width, **settings}, path)


def write(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint, which appears only when all of it is on the disk. Raises OSError if that is full."""
    with files.atomic_write(path) as partial, open(partial, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch says where in its own code it met it
                raise error.__context__ from None
            raise
        file.flush()
        if partial.is_file():
            os.fsync(file.fileno())  # its name may be there before its content, where the power goes


def average(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """Return the mean of several stages of one training run, which is steadier than any (Izmailov et al., UAI 2018).

    Raises UserError if they are not of one width, mask and lead.
    """
    if len({checkpoint.width for checkpoint in checkpoints}) > 1:
        raise UserError("only checkpoints of the same width can be averaged: stages of one training run")
    for name in ("mask_top", "mel_lead"):
        if len({getattr(checkpoint, name) for checkpoint in checkpoints}) > 1:
            raise UserError(f"only checkpoints with the same {name} can be averaged: stages of one training run")
    first, *rest = checkpoints
    state = {name: sum((c.state[name].double() for c in rest), value.double()) for name, value in first.state.items()}
    state = {name: (value / len(checkpoints)).to(first.state[name].dtype) for name, value in state.items()}
    return replace(first, state=state)


def load_model(
    path_or_name: str | Path,
    network: type[Network] = Wav2Lip,  # type: ignore[assignment]  # one of those that it may be
    report: Reporter = SILENT,
) -> Network:
    """``read_checkpoint`` and ``build`` in one call."""
    return build(read_checkpoint(path_or_name, network, report), network)


def read_state(path: Path) -> dict[str, Any]:
    """Return the content of any checkpoint file, tensors only; raise UserError if it is none, or wants to run code."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a checkpoint file")
    if packed := _packed(path):
        raise UserError(f"{_describe(path)} is {packed}, not a checkpoint; unpack it and give the file that is in it")
    if _inflates(path):
        raise UserError(f"{_describe(path)} is compressed, which checkpoints are not; fetch it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch on the age of these formats: not the user's concern
            if is_torchscript(path):
                return read_torchscript(path)
            with numpy_numbers():
                # a file that is mapped can be replaced by a newer one, but not on Windows
                mapped = zipfile.is_zipfile(path) and sys.platform != "win32"
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise UserError(f"{_describe(path)} {_why_unreadable(path, error)}") from None
    except Exception as error:  # damage shows as anything: BadZipFile, IndexError, struct.error, …
        words = re.split(r"\. |\n", str(error))[0] or type(error).__name__  # torch's go on for a paragraph
        raise UserError(f"{_describe(path)} is not a checkpoint that can be read ({words}); fetch it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{_describe(path)} holds a {type(content).__name__}, not a checkpoint")
    return content


def _inflates(path: Path) -> bool:
    """Whether what is in a file is much larger than the file, and might fill all memory; code alone may be."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size + CODE_BYTES
    except (zipfile.BadZipFile, OSError):
        return False


def network_of(content: dict[str, Any]) -> type[nn.Module] | None:
    """Return the network, of any width, that a checkpoint file's content is of; None if it is none of ours."""
    state = content["state_dict"] if isinstance(content.get("state_dict"), dict) else content
    keys = {key.removeprefix("module.") for key in state}
    return next((network for network in NETWORKS if set(_shapes(network)) == keys), None)


def _empty(network: type[Network], width: float = 1.0) -> Network:
    """Return ``network`` without weights."""
    with torch.device("meta"):
        return network(width) if network in SCALABLE else network()


@lru_cache
def _shapes(network: type[nn.Module], width: float = 1.0) -> dict[str, torch.Size]:
    """Return the shape of each tensor that a checkpoint of ``network`` holds."""
    return {name: tensor.shape for name, tensor in _empty(network, width).state_dict().items()}


def _packed(path: Path) -> str | None:
    """Say what kind of archive of files ``path`` is; None for a checkpoint, though most of these are zips as well."""
    with open(path, "rb") as file:
        start = file.read(512)
    for mark, kind in ARCHIVES.items():
        if start.startswith(mark):
            return kind
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except (zipfile.BadZipFile, OSError):
        return None
    if not names or any(PurePosixPath(name).name == "data.pkl" for name in names):
        return None
    likely = max(names, key=lambda name: archive.getinfo(name).file_size)
    return f"a zip archive ({likely})"


def _why_unreadable(path: Path, error: pickle.UnpicklingError) -> str:
    with open(path, "rb") as file:
        start = file.read(512)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"version https://git-lfs")):
        return "is a web page or a link, not a checkpoint: the download went wrong; fetch it again"
    is_pickle = start.startswith((b"\x80", b"PK"))
    if is_pickle and re.search("global|operand|reduce", str(error), re.IGNORECASE):  # torch met more than tensors
        return "wants to run code when it is loaded, so it was not; get the weights from a source you trust"
    return "is not a checkpoint, or only a part of one; fetch it again"


def _describe(path: Path) -> str:
    return f"{path} ({path.stat().st_size:,} bytes)"


def _difference(expected: dict[str, torch.Size], found: dict[str, Any]) -> str | None:
    """Say in words how ``found`` differs from ``expected``; None if it fits."""
    missing = [key for key in expected if key not in found]
    surplus = [key for key in found if key not in expected]
    if missing or surplus:
        if other := network_of(found):
            return f"it holds {other.__name__} weights"
        example = f"e.g. {(missing or surplus)[0]} is {'missing' if missing else 'not part of it'}"
        return f"{len(missing)} of its {len(expected)} entries are missing and {len(surplus)} are unknown, {example}"
    for key, shape in expected.items():
        if not isinstance(found[key], torch.Tensor) or found[key].shape != shape:
            return f"{key} has the shape {tuple(getattr(found[key], 'shape', ()))} instead of {tuple(shape)}"
    return None
