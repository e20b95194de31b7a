"""Networks as ONNX files, for programs in other languages than Python."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import files
from concurrency import without_warnings
from errors import needs
from reporting import SILENT, Reporter
from telemetry import silence_onnxruntime

from .conv import fold_batchnorm
from .syncnet import SyncNet_color
from .wav2lip import Wav2Lip
from .weights import INFERENCE_SETTINGS, Checkpoint, build, find, names_of, network_of, read_checkpoint, read_state

TOLERANCE = 1e-3  # difference between onnxruntime's and torch's results, which are all in [0, 1]
OPSET = 17
TEST_BATCH = 3  # batch size with which the written file is tested; it was exported with another
# names of the inputs and outputs, and the shapes of the inputs without their batch
FACES = (6, 96, 96)  # BGR in [0, 1]: three planes black below ``Wav2Lip.mask_top``, three of the reference
MOUTHS = (15, 48, 96)  # the lower halves of five faces, BGR in [0, 1]
MELS = (1, 80, 16)
INPUTS: dict[type[nn.Module], dict[str, tuple[int, ...]]] = {
    Wav2Lip: {"mels": MELS, "faces": FACES},
    SyncNet_color: {"mels": MELS, "mouths": MOUTHS},
}
OUTPUTS = {Wav2Lip: ["pictures"], SyncNet_color: ["voices", "lips"]}


def check_onnx() -> None:
    """Raise UserError if the packages for ONNX are missing."""
    with needs("onnx"):
        import onnx  # noqa: F401  # torch has another word for it

        silence_onnxruntime()
        import onnxruntime  # noqa: F401


def read_exportable(
    path_or_name: str | Path, network: type[nn.Module] | None = None, report: Reporter = SILENT
) -> tuple[Checkpoint, type[nn.Module]]:
    """Return a checkpoint of a generator or expert, and its class; ``network`` decides if a name stands for several."""
    if network is None:
        named = next((kind for kind in INPUTS if str(path_or_name) in names_of(kind)), Wav2Lip)
        found = network_of(read_state(find(path_or_name, named, report)))
        network = found if found in INPUTS else named  # whose reading says what is wrong with others
    return read_checkpoint(path_or_name, network, report), network


def write_onnx(checkpoint: Checkpoint, network: type[nn.Module], path: Path) -> float:
    """Write ``path``, for any batch size, and return the largest difference between onnxruntime's and torch's results.

    The file takes float32 and has the generator's inference settings (``INFERENCE_SETTINGS``). Raises RuntimeError,
    and leaves no file, if the difference is above ``TOLERANCE``.
    """
    check_onnx()
    model = fold_batchnorm(build(checkpoint, network))
    with files.atomic_write(path) as partial:
        _export(model, network, partial)
        if network is Wav2Lip:
            _write_settings(partial, checkpoint)
        difference = compare(model, network, partial)
        if not difference <= TOLERANCE:
            raise RuntimeError(f"onnxruntime differs from torch by {difference:.2g}; nothing was written")
    return difference


@torch.inference_mode()
def compare(model: nn.Module, network: type[nn.Module], path: Path) -> float:
    """Return the largest difference between torch's and onnxruntime's results for a random batch."""
    import onnxruntime

    inputs = _batch(network, TEST_BATCH)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {name: tensor.numpy() for name, tensor in zip(INPUTS[network], inputs)})
    ours = model(*inputs)
    pairs = zip(theirs, ours if isinstance(ours, tuple) else (ours,))
    return max(float((torch.from_numpy(there) - here).abs().max()) for there, here in pairs)


def _batch(network: type[nn.Module], size: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.rand(size, *shape, generator=generator) for shape in INPUTS[network].values()]
    rows[0] = rows[0] * 8 - 4  # mels
    return rows


def _export(model: nn.Module, network: type[nn.Module], path: Path) -> None:
    names, outputs = list(INPUTS[network]), OUTPUTS[network]
    free = {name: {0: "batch"} for name in (*names, *outputs)}
    with without_warnings():  # torch prefers its newer exporter, which needs another package and gives the same
        torch.onnx.export(
            model, tuple(_batch(network, 2)), str(path), input_names=names, output_names=outputs, dynamic_axes=free,
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip


def _write_settings(path: Path, checkpoint: Checkpoint) -> None:
    """Store a generator's inference settings in the file."""
    import onnx

    graph = onnx.load(str(path))
    settings = {name: getattr(checkpoint, name) for name in INFERENCE_SETTINGS} | {"mel_lead": checkpoint.lead}
    onnx.helper.set_model_props(graph, {name: str(value) for name, value in settings.items() if value is not None})
    onnx.save(graph, str(path))
