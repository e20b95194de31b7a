"""Runtimes for the generator: torch, or OpenVINO on a CPU, with most of the network in int8.

For gains and losses, see benchmarks/RESULTS.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import logging
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

import devices
import downloads
import files
import mouths
from errors import UserError, needs
from hparams import hparams as hp
from models import Wav2Lip, optimize_for_inference, weights
from models.conv import fold_batchnorm
from reporting import SILENT, Reporter
from telemetry import silence_openvino

NAMES = ("torch", "openvino")
INT8 = "int8"
PRECISIONS = (*devices.PRECISIONS, INT8)
KEPT_FLOAT = ".*output_block.*"  # in int8, the last block ruins the picture
CALIBRATION_FACES = Path(weights.__file__).with_name("calibration.jpg")  # a sheet of crops, ``CALIBRATION_ROW`` a row
CALIBRATION_MELS = Path(weights.__file__).with_name("calibration.npy")  # (N, 80, 16) float16, one per crop
CALIBRATION_ROW = 8
CALIBRATION_GAINS = (1, 1, 2, 1, 1, 1, 4, 1)  # of the mouths, cycled over the crops: ranges must fit ``--mouth_gain``
BATCH = 16


@dataclass(frozen=True)
class Runtime:
    """The runtime of the generator and its precision. Raises UserError for invalid combinations."""

    name: str = "torch"  # one of ``NAMES``
    precision: str = "auto"  # or one of ``PRECISIONS``; auto: the fastest of equal quality, with OpenVINO int8
    keeps_int8: bool = True  # networks in int8 are cached on disk

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UserError(f"--runtime {self.name} is not one of {', '.join(NAMES)}")
        if self.precision not in ("auto", *PRECISIONS):
            raise UserError(f"--precision {self.precision} is not one of auto, {', '.join(PRECISIONS)}")
        if self.precision == INT8 and self.name == "torch":
            raise UserError("--precision int8 needs --runtime openvino")
        if self.precision == "fp16" and self.name == "openvino":
            raise UserError("--runtime openvino computes in int8, bf16 or fp32; for fp16 leave it out")
        if self.name == "openvino":
            import_openvino()  # fail before any work is done

    def pick_device(self, name: str) -> torch.device:
        """Return the device of this name, for the other networks as well."""
        device = devices.pick_device("cpu" if (self.name, name) == ("openvino", "auto") else name)
        if self.name == "openvino" and device.type != "cpu":
            raise UserError(f"--runtime openvino computes on the CPU; leave out --device {name}, or --runtime")
        return device

    def pick_precision(self, device: torch.device) -> torch.dtype:
        """Return the precision of everything that torch computes."""
        return devices.pick_precision("auto" if self.precision == INT8 else self.precision, device)

    def open_generator(
        self, checkpoint: weights.Checkpoint, device: torch.device, dtype: torch.dtype, report: Reporter = SILENT
    ) -> mouths.LipGenerator:
        """Return a generator, ready to run fast."""
        if self.name == "torch":
            return optimize_for_inference(weights.build(checkpoint, Wav2Lip), device, dtype)
        in_int8 = self.precision in ("auto", INT8)
        return OpenVinoGenerator(checkpoint, dtype, quantized(checkpoint, self.keeps_int8, report) if in_int8 else None)


# --------------------------------------------------------------------------------------------------------------------
# OpenVINO


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry; raise UserError if it or NNCF is missing."""
    silence_openvino()
    with needs("openvino"):
        import openvino

        if importlib.util.find_spec("nncf") is None:
            raise ModuleNotFoundError(name="nncf")
    return openvino


@cache
def core() -> Any:
    """Return OpenVINO's core, a single one that lives until the process ends.

    The last core to be destroyed frees the stack that it set up for signal handlers, so that the next signal, such as
    Ctrl-C, would cause a segmentation fault.
    """
    return import_openvino().Core()


class OpenVinoGenerator(nn.Module):
    """A generator with the interface of ``Wav2Lip``, for single frames; thread-safe.

    ``dtype`` is the precision of the parts that are not quantised, ``drawing`` the quantised part, if there is one.
    """

    def __init__(self, checkpoint: weights.Checkpoint, dtype: torch.dtype, drawing: Any = None) -> None:
        super().__init__()
        self.like = nn.Parameter(torch.empty(0), requires_grad=False)  # shows callers: float32 inputs, on the CPU
        network = fold_batchnorm(weights.build(checkpoint, Wav2Lip))
        self.mask_top, self.opening = network.mask_top, network.opening
        self.audio_encoder = Compiled(convert(network.audio_encoder, example_mels()), dtype)
        self._drawing = Compiled(drawing or convert_drawing(network), dtype)

    def forward(self, mels: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        return self.draw(self.audio_encoder(mels), faces)

    def draw(self, voices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        return self._drawing(voices, faces.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Compiled(nn.Module):
    """A compiled OpenVINO network with torch tensors, float32 on the CPU, as inputs and outputs."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        super().__init__()
        workers, share = devices.cpu_calls_and_threads()
        settings = {
            "NUM_STREAMS": workers,
            "INFERENCE_NUM_THREADS": workers * share,
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
            "ENABLE_CPU_PINNING": False,  # the decoder, the encoder and other processes need the cores, too
        }
        self._compiled = core().compile_model(model, "CPU", settings)
        self._own = threading.local()

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        arrays = dict(enumerate(tensor.float().contiguous().numpy() for tensor in inputs))
        return torch.from_numpy(self._own.request.infer(arrays)[0])


class Drawing(nn.Module):
    """``Wav2Lip.draw`` with channels last, as faces are stored: faces (N, 96, 96, 6) -> (N, 96, 96, 3)."""

    def __init__(self, network: Wav2Lip) -> None:
        super().__init__()
        self.network = network

    def forward(self, voices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        return self.network.draw(voices, faces.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def convert_drawing(network: Wav2Lip) -> Any:
    with torch.inference_mode():
        voices = network.audio_encoder(example_mels())
    return convert(Drawing(network), voices.clone(), torch.zeros(len(voices), hp.img_size, hp.img_size, 6))


def example_mels() -> torch.Tensor:
    return torch.zeros(2, 1, hp.num_mels, hp.mel_step_size)


def convert(network: nn.Module, *example: torch.Tensor) -> Any:
    """Convert a network to OpenVINO, for batches of any size."""
    shapes = [(-1, *tensor.shape[1:]) for tensor in example]
    return import_openvino().convert_model(network, example_input=example, input=shapes)


# --------------------------------------------------------------------------------------------------------------------
# Quantization


def quantized(checkpoint: weights.Checkpoint, keep: bool = True, report: Reporter = SILENT) -> Any:
    """Return the generator without its audio encoder, all but its last block in int8; cached on disk if to ``keep``."""
    kept = cache_path(checkpoint)
    with contextlib.suppress(OSError, zipfile.BadZipFile, KeyError, RuntimeError):  # missing or damaged
        return load_cached(kept)
    report.note("note: quantizing this network to int8 for OpenVINO, once: up to a minute")
    model = quantize(fold_batchnorm(weights.build(checkpoint, Wav2Lip)), devices.cpu_has_vnni())
    try:
        if keep:
            save_cached(model, kept)
    except OSError as error:
        report.note(f"warning: the int8 network could not be cached in {kept.parent} ({error.strerror})")
    return model


_stdout_lock = threading.Lock()


def quantize(network: Wav2Lip, has_vnni: bool) -> Any:
    """Quantise the drawing part of a folded network to int8, with ranges from the calibration data.

    CPUs without VNNI add two products of 8-bit numbers in 16 bits, which may overflow; weights then have 7 bits.
    """
    import_openvino()
    import nncf

    nncf.set_log_level(logging.ERROR)
    rows = list(calibration(network))
    fix = nncf.OverflowFix.DISABLE if has_vnni else nncf.OverflowFix.ENABLE
    # progress bars; two redirections at a time would leave the second's behind
    with _stdout_lock, contextlib.redirect_stdout(io.StringIO()):
        return nncf.quantize(
            convert_drawing(network),
            nncf.Dataset(rows, lambda row: dict(enumerate(row))),
            subset_size=len(rows),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(patterns=[KEPT_FLOAT]),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
        )


@torch.inference_mode()
def calibration(network: Wav2Lip) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of voices (N, 512·width, 1, 1) and faces (N, 96, 96, 6), float32, as ``Drawing`` takes them."""
    faces = mouths.masked_and_whole(calibration_faces(), network.mask_top).astype(np.float32) / 255
    mels = torch.from_numpy(np.load(CALIBRATION_MELS).astype(np.float32))[:, None]
    for start in range(0, len(faces), BATCH):
        part = slice(start, start + BATCH)
        gains = np.resize(CALIBRATION_GAINS, len(faces[part]))
        yield mouths.amplified(network, mels[part], gains).numpy(), faces[part]


def calibration_faces() -> np.ndarray:
    """Return the faces of the calibration sheet, (N, 96, 96, 3) uint8 BGR."""
    # the installation folder may have a non-ASCII name, see ``pictures.OPENS_ANY_NAME``
    sheet: Any = cv2.imdecode(np.fromfile(CALIBRATION_FACES, np.uint8), cv2.IMREAD_COLOR)
    rows = sheet.reshape(-1, hp.img_size, CALIBRATION_ROW, hp.img_size, 3).transpose(0, 2, 1, 3, 4)
    return rows.reshape(-1, hp.img_size, hp.img_size, 3)


def cache_path(checkpoint: weights.Checkpoint) -> Path:
    """Return the cache file of this network in int8; its name hashes everything that the result depends on."""
    parts = [files.digest(path) for path in (checkpoint.path, CALIBRATION_FACES, CALIBRATION_MELS)]
    parts += [importlib.metadata.version("nncf"), str(devices.cpu_has_vnni()), KEPT_FLOAT, str(CALIBRATION_GAINS)]
    return downloads.cache_folder() / "int8" / f"{hashlib.sha256(' '.join(parts).encode()).hexdigest()}.zip"


def save_cached(model: Any, path: Path) -> None:
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder, files.atomic_write(path) as partial:
        openvino.save_model(model, Path(folder, "model.xml"), compress_to_fp16=False)
        with zipfile.ZipFile(partial, "w") as archive:  # both files in one, with checksums
            for name in ("model.xml", "model.bin"):
                archive.write(Path(folder, name), name)


def load_cached(path: Path) -> Any:
    openvino = import_openvino()
    with zipfile.ZipFile(path) as archive:
        graph, numbers = archive.read("model.xml"), archive.read("model.bin")
    return core().read_model(graph, openvino.Tensor(np.frombuffer(numbers, np.uint8)))
