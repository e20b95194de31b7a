"""Find, verify and load checkpoints, never running code from a file."""

from __future__ import annotations

import math
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn

import downloads
import files
from concurrency import without_warnings
from downloads import REPOSITORY
from errors import MissingFile, UserError
from reporting import SILENT, Reporter

from .conv import Network, scaled
from .syncnet import SyncNet_color, SyncNet_v2
from .unpickling import is_torchscript, numpy_numbers, read_torchscript
from .wav2lip import Wav2Lip, Wav2Lip_disc_qual

NETWORKS = (Wav2Lip, SyncNet_color, Wav2Lip_disc_qual, SyncNet_v2)
WIDEST = 4.0  # times the official width
CODE_BYTES = 1 << 26  # at most, of TorchScript's code, which is compressed; tensors are not
SCALABLE = (Wav2Lip, SyncNet_color, Wav2Lip_disc_qual)


# first bytes of archives that people put checkpoints into; zips are inspected
ARCHIVES = {b"\x1f\x8b": "a gzip archive", b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"Rar!": "a rar archive"}
BLENDS = ("box", "feather")  # see ``mouths.paste``
REFERENCES = ("same", "still", "matching")  # see Wav2Lip
MAX_LEAD = 10  # frames by which a mouth's sound may start before it
MAX_GAIN = 4.0  # largest factor on a generator's mouth movement
# inference settings that a checkpoint may have, see Wav2Lip
INFERENCE_SETTINGS = ("pads", "blend", "reference", "gain", "opening", "loudness", "mask_top", "mel_lead")
REFERENCE_LEAD = 1  # mel_lead of checkpoints that do not store it: the official ones, and those trained the same way
GRID_LOUDNESS = -43.0  # dB, see Wav2Lip.loudness; of networks exported by the recipe before they recorded it

# the small networks that come with this repository, by name; "demo" names one of each class
DEMO, JUDGE = "demo", "demo_judge"
_HERE = REPOSITORY / "demo" / "checkpoints"
SHIPPED = {
    Wav2Lip: {DEMO: _HERE / "generator.pth"},
    SyncNet_color: {DEMO: _HERE / "expert.pth", JUDGE: _HERE / "judge.pth"},
}
# keys of state dicts in others' files, besides state_dict
STATE_DICT_KEYS = ("model", "net", "network", "generator", "params", "params_ema", "weights")
STAGES = re.compile(r"face_encoder_blocks\.(\d+)\.")


class Unreadable(UserError):
    """A file that may be a checkpoint, but is damaged."""


# names of published checkpoints, by network; other networks are named by their purpose
PUBLISHED = {Wav2Lip: ("wav2lip", "wav2lip_gan"), SyncNet_color: ("lipsync_expert",), SyncNet_v2: ("syncnet_v2",)}


def names_of(network: type[nn.Module]) -> tuple[str, ...]:
    """Return the known names of checkpoints of ``network``."""
    return *SHIPPED.get(network, {}), *PUBLISHED.get(network, ())  # type: ignore[call-overload]  # classes can be hashed


def find(path_or_name: str | Path, network: type[nn.Module], report: Reporter = SILENT) -> Path:
    """Return the file of a path or a known name of a ``network``, downloading it if it is not here yet.

    Names in ``SHIPPED`` come with this repository; the others are published. Raises as ``downloads.find``.
    """
    path = Path(path_or_name)
    here = SHIPPED.get(network, {})  # type: ignore[call-overload]  # likewise
    if str(path_or_name) in here and not path.is_file():
        return here[str(path_or_name)]  # even if a folder has that name, as in the repository
    try:
        return downloads.find(path_or_name, report, PUBLISHED.get(network, ()), [*here])
    except MissingFile:
        others = sorted(path.parent.glob("checkpoint_step*.pth")) if path.name.startswith("checkpoint_") else ()
        if not others:
            raise
        raise MissingFile(f"{path} does not exist (yet); the newest checkpoint there is {others[-1].name}") from None


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
        """See ``Wav2Lip``; the file's value is used only if it is valid."""
        value = self.extra.get("pads")
        if isinstance(value, (list, tuple)) and len(value) == 4 and all(type(pad) is int for pad in value):
            top, bottom, left, right = value
            return top, bottom, left, right
        return Wav2Lip.pads

    @property
    def blend(self) -> str:
        value = self.extra.get("blend")
        return value if value in BLENDS else Wav2Lip.blend

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
    def loudness(self) -> float | None:
        value = self.extra.get("loudness")
        if type(value) is float and -100 < value < 0:
            return value
        return None if self.opening is None else GRID_LOUDNESS

    @property
    def mask_top(self) -> float:
        value: Any = self.extra.get("mask_top")
        return value if type(value) is float and 0 < value < 1 else Wav2Lip.mask_top

    @property
    def mel_lead(self) -> int | None:
        value = self.extra.get("mel_lead")
        return value if type(value) is int and 0 <= value <= MAX_LEAD else None

    @property
    def lead(self) -> int:
        """``mel_lead``, or what it is in networks that do not store it."""
        return REFERENCE_LEAD if self.mel_lead is None else self.mel_lead

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
    holder = _state_dict_key(content)
    state = content.pop(holder) if holder else None
    extra = content if state is not None else {}
    if isinstance(extra.get("hparams"), dict):  # the only place it had in training checkpoints until 2026-11
        extra = {"mel_lead": extra["hparams"].get("mel_lead"), **extra}
    state = content if state is None else state
    if not all(isinstance(key, str) for key in state):
        raise UserError(f"{_describe(path)} should hold {network.__name__} weights, but its weights have no names")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    state = _counters_of(state) | state
    width = extra.get("width", 1.0)
    if not isinstance(width, (int, float)) or not 0 < width <= WIDEST:
        shown = f"{width:g}" if isinstance(width, (int, float)) else width
        raise UserError(f"{_describe(path)} has width {shown}, which no network has")
    if problem := _difference(_shapes(network, width), state):  # type: ignore[arg-type]  # classes can be hashed
        raise UserError(f"{_describe(path)} should hold {network.__name__} weights, but {problem}")
    if any(value.untyped_storage().nbytes() < value.numel() * value.element_size() for value in state.values()):
        raise UserError(f"{_describe(path)} claims more weights than it holds; fetch it again")
    if not all(map(_is_finite, state.values())):
        raise UserError(
            f"{_describe(path)} has weights that are NaN or infinite, as after a training that diverged; use an "
            "earlier checkpoint"
        )
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
    """Write only what inference needs, at half the size: float16 except for vectors, which are small and sensitive.

    ``settings`` are inference settings that replace the checkpoint's own: see ``Wav2Lip``.
    """
    settings = {name: checkpoint.extra[name] for name in INFERENCE_SETTINGS if name in checkpoint.extra} | settings
    halves = {k: v.half() if v.is_floating_point() and v.ndim > 1 else v for k, v in checkpoint.state.items()}
    write({"state_dict": halves, "width": checkpoint.width, **settings}, path)


def write(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint, which appears only when complete. Raises OSError if the disk is full."""
    with files.atomic_write(path) as partial, open(partial, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch's own error only says where in its code
                raise error.__context__ from None
            raise
        file.flush()
        if partial.is_file():
            os.fsync(file.fileno())  # else a power failure may leave the name without the content


def load_model(
    path_or_name: str | Path,
    network: type[Network] = Wav2Lip,  # type: ignore[assignment]  # one of those that it may be
    report: Reporter = SILENT,
) -> Network:
    """Read a checkpoint and build its network in one call."""
    return build(read_checkpoint(path_or_name, network, report), network)


def read_state(path: Path) -> dict[str, Any]:
    """Read any checkpoint file, tensors and plain data only; raise UserError if it is not one, or would run code."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a checkpoint file")
    if kind := _archive_kind(path):
        raise UserError(f"{_describe(path)} is {kind}, not a checkpoint; unpack it and give the file that is in it")
    if _is_compressed(path):
        raise UserError(f"{_describe(path)} is compressed, which checkpoints are not; fetch it again")
    try:
        with without_warnings():  # torch's, about the age of these formats: not the user's concern
            if is_torchscript(path):
                return read_torchscript(path)
            with numpy_numbers():
                # a memory-mapped file can be replaced by a newer one, except on Windows
                mapped = zipfile.is_zipfile(path) and sys.platform != "win32"
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise Unreadable(f"{_describe(path)} {_why_unreadable(path, error)}") from None
    except Exception as error:  # damage can raise anything: BadZipFile, IndexError, struct.error, …
        words = re.split(r"\. |\n", str(error))[0] or type(error).__name__  # torch's are whole paragraphs
        raise Unreadable(f"{_describe(path)} is not a checkpoint that can be read ({words}); fetch it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{_describe(path)} holds a {type(content).__name__}, not a checkpoint")
    return content


def _is_compressed(path: Path) -> bool:
    """Whether a file unpacks to much more than its size, and might fill all memory; only code may."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size + CODE_BYTES
    except (zipfile.BadZipFile, OSError):
        return False


def network_of(content: dict[str, Any]) -> type[nn.Module] | None:
    """Return the network, of any width, whose weights a checkpoint file holds; None if it is none of ours."""
    holder = _state_dict_key(content)
    state = content[holder] if holder else content
    keys = {key.removeprefix("module.") for key in state if isinstance(key, str)}
    keys |= _counters_of(keys).keys()
    return next((network for network in NETWORKS if set(_shapes(network)) == keys), None)


def _counters_of(state: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return batch-norm counters of 0, torch's default, for old or converted files that lack them."""
    ends = ".running_mean", ".num_batches_tracked"
    return {f"{name.removesuffix(ends[0])}{ends[1]}": torch.tensor(0) for name in state if name.endswith(ends[0])}


def _state_dict_key(content: dict[str, Any]) -> str | None:
    """Return the key of the state dict in a file's content; None if the content itself is one."""
    return next((name for name in ("state_dict", *STATE_DICT_KEYS) if isinstance(content.get(name), dict)), None)


def _empty(network: type[Network], width: float = 1.0) -> Network:
    """Return ``network`` without weights."""
    with torch.device("meta"):
        return network(width) if network in SCALABLE else network()


@lru_cache
def _shapes(network: type[nn.Module], width: float = 1.0) -> dict[str, torch.Size]:
    """Return the shape of each tensor that a checkpoint of ``network`` holds."""
    return {name: tensor.shape for name, tensor in _empty(network, width).state_dict().items()}


def _archive_kind(path: Path) -> str | None:
    """Return which kind of archive ``path`` is; None for a checkpoint, though most of these are zips as well."""
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
    if is_pickle and re.search("global|operand|reduce", str(error), re.IGNORECASE):  # torch found more than tensors
        return (
            "would run code when loaded, so it was not; get the weights from a source you trust, or if it is "
            "a model of yours, save its state_dict()"
        )
    if path.suffix.lower() == ".onnx":
        return "is an ONNX file, which cannot be loaded as a checkpoint; give the .pth that it was made from"
    return "is not a checkpoint, or only a part of one; fetch it again"


def _is_finite(value: torch.Tensor) -> bool:
    """Whether a tensor has only finite numbers in float32."""
    if not value.is_floating_point():
        return True
    if value.element_size() == 1:  # float8, which aminmax does not support; converting halves takes ten times as long
        value = value.float()
    ends = value.aminmax()  # NaN if any number is; torch.isfinite is five times as slow
    return all(math.isfinite(end.float()) for end in ends)


def _describe(path: Path) -> str:
    return f"{path} ({path.stat().st_size:,} bytes)"


def _stages_of(state: Iterable[str]) -> int:
    """Return how many stages a generator's face encoder has, more for larger faces; 0 for other networks."""
    return 1 + max((int(found[1]) for found in map(STAGES.match, state) if found), default=-1)


def _difference(expected: dict[str, torch.Size], found: dict[str, Any]) -> str | None:
    """Describe how ``found`` differs from ``expected``; None if it fits."""
    missing = [key for key in expected if key not in found]
    surplus = [key for key in found if key not in expected]
    if missing or surplus:
        if not found:
            return "it holds none; frozen TorchScript has lost them: export it again without torch.jit.freeze"
        if (stages := _stages_of(found)) > (usual := _stages_of(expected)) > 0:
            return f"its faces are larger: it has {stages} stages where this network, of 96 pixels, has {usual}"
        if other := network_of(found):
            return f"it holds {other.__name__} weights"
        example = f"e.g. {(missing or surplus)[0]} is {'missing' if missing else 'not part of it'}"
        return f"{len(missing)} of its {len(expected)} entries are missing and {len(surplus)} are unknown, {example}"
    for key, shape in expected.items():
        if not isinstance(found[key], torch.Tensor) or found[key].shape != shape:
            return f"{key} has the shape {tuple(getattr(found[key], 'shape', ()))} instead of {tuple(shape)}"
    return None
