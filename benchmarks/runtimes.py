"""Compare the generator in torch, onnxruntime and OpenVINO, float and int8, on one thread of a CPU.

    pip install onnx onnxruntime openvino nncf
    python -m benchmarks.runtimes [--checkpoint_path demo] [--face VIDEO --audio SPEECH]
    python -m benchmarks.runtimes --seconds 20 [--checkpoint_path demo] [--face VIDEO --audio SPEECH]

With ``--seconds``, inference.py is measured instead: from files to file at 1280x720, on all threads, in each runtime
that it offers.

Otherwise all runtimes process the same batches in turn, so that other load on the machine affects all of them. Speed is
relative to torch in float32. Quality is the difference from it in grey levels, on frames that int8 was not calibrated
on ("int8, ours": on nothing of this video).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

import cli
import mouths
from benchmarks import print_machine, report, run_inference, timed
from benchmarks.scene import SIZES, write_scene
from demo.talking_head import Recipe, write_clip, write_speech
from devices import cpu_has_bf16
from errors import UserError
from faces import FaceSearch
from lipsync import LipSync
from models import Wav2Lip, weights
from models.exporting import write_onnx
from runtimes import Runtime
from telemetry import silence_onnxruntime

CALIBRATED = 4  # batches; as many others are compared
KEPT_FLOAT = ("/output_block",)  # the last block, which ruins the pictures in int8
Inputs = tuple[np.ndarray, np.ndarray]  # mels (N, 1, 80, 16) and faces (N, 6, 96, 96), float32
CPU = torch.device("cpu")
Run = Callable[[Inputs], np.ndarray]  # -> pictures (N, 3, 96, 96) in [0, 1]


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Measure the generator in several runtimes, on one thread.")
    add = parser.add_argument
    add("--checkpoint_path", default=weights.DEMO, help="The generator; random has the official width, for speed only.")
    add("--face", type=Path, help="The video; without it, a talking head.")
    add("--audio", type=Path, help="The speech; without it, synthetic speech.")
    add(
        "--batch_size",
        type=cli.positive(int),
        default=mouths.CPU_BATCH,
        help="Batch size of the network.",
    )
    add("--seconds", type=cli.positive(float), help="Measure inference.py instead, on a scene of this many seconds.")
    add("--rounds", type=cli.positive(int), default=15, help="Number of rounds.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    silence_onnxruntime()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = open_generator(args.checkpoint_path, folder)
        if args.seconds:
            measure_files(args, checkpoint.path, folder)
            return
        torch.set_num_threads(1)
        print_machine(CPU, torch.float32)
        batches = list(itertools.islice(inputs_of(args, folder), 2 * CALIBRATED))
        if len(batches) < 2 * CALIBRATED:
            raise UserError(
                f"the video or the speech is too short; give {2 * CALIBRATED * args.batch_size} frames of both, "
                "or a smaller --batch_size"
            )
        variants = build_all(checkpoint, folder, batches[:CALIBRATED])
        measure(variants, batches[CALIBRATED:], args.rounds)


def open_generator(path: str, folder: Path) -> weights.Checkpoint:
    if path == "random":
        torch.manual_seed(0)
        torch.save(Wav2Lip().state_dict(), folder / "random.pth")
        path = str(folder / "random.pth")
    return weights.read_checkpoint(path, Wav2Lip)


def inputs_of(args: argparse.Namespace, folder: Path) -> Iterator[Inputs]:
    """Yield the generator's batches for lip-syncing ``face`` to ``audio``."""
    face, speech = args.face or folder / "face.mp4", args.audio or folder / "speech.wav"
    if not args.face:
        write_clip(face, Recipe(seed=7, seconds=6.0, size=(512, 384)))
    if not args.audio:
        write_speech(speech, Recipe(seed=8, seconds=6.0))
    lips = LipSync(search=FaceSearch("centerface", cache=False), device="cpu")
    take = lips.prepare(face, speech)
    (one,) = take.faces
    rows = ((f.copy(), box, mel) for f, box, mel in zip(take.frames(), one.boxes(), one.windows) if box is not None)
    while len(batch := list(itertools.islice(rows, args.batch_size))) == args.batch_size:
        mels = np.stack([mel for _, _, mel in batch])
        faces = mouths.masked_and_whole([mouths.crop(frame, box) for frame, box, _ in batch], lips.generator.mask_top)
        yield mels[:, None], np.ascontiguousarray(faces.transpose(0, 3, 1, 2), np.float32) / 255


# --------------------------------------------------------------------------------------------------------------------
# Runtimes


def build_all(checkpoint: weights.Checkpoint, folder: Path, calibration: list[Inputs]) -> dict[str, Run]:
    plain, int8, whole_int8, dynamic = (folder / f"{name}.onnx" for name in ("plain", "int8", "whole", "dynamic"))
    write_onnx(checkpoint, Wav2Lip, plain)
    quantize(plain, int8, calibration, KEPT_FLOAT)
    quantize(plain, whole_int8, calibration, ())
    quantize_dynamically(plain, dynamic)
    variants = {"torch float32": in_ours(checkpoint, Runtime("torch", "fp32"))}
    if cpu_has_bf16():
        variants["torch bf16"] = in_ours(checkpoint, Runtime("torch", "bf16"))
    variants |= {"onnxruntime float32": in_onnxruntime(plain), "onnxruntime int8": in_onnxruntime(int8)}
    variants |= {
        "onnxruntime int8, all": in_onnxruntime(whole_int8),
        "onnxruntime int8, dynamic": in_onnxruntime(dynamic),
    }
    variants |= {"openvino float32": in_openvino(plain, "f32"), "openvino int8": in_openvino(int8, "f32")}
    if cpu_has_bf16():
        variants["openvino bf16"] = in_openvino(plain, "bf16")
    variants["openvino int8, ours"] = in_ours(checkpoint, Runtime("openvino", "int8"))
    return variants


def in_ours(checkpoint: weights.Checkpoint, runtime: Runtime) -> Run:
    """Return the generator as inference.py runs it."""
    model = runtime.open_generator(checkpoint, CPU, runtime.pick_precision(CPU))
    dtype = next(model.parameters()).dtype

    @torch.inference_mode()
    def work(inputs: Inputs) -> np.ndarray:
        mels, faces = (torch.from_numpy(part).to(dtype) for part in inputs)
        return model(mels, faces.contiguous(memory_format=torch.channels_last)).float().numpy()

    return work


def in_onnxruntime(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(zip(("mels", "faces"), inputs)))[0]


def in_openvino(path: Path, precision: str) -> Run:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda inputs: compiled(list(inputs))[0]


def quantize(plain: Path, path: Path, calibration: list[Inputs], kept: tuple[str, ...]) -> None:
    """Write ``path``: convolutions and sums in int8, with ranges from ``calibration``; nodes in ``kept`` stay float."""
    import onnx
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(q.CalibrationDataReader):
        rows = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return row and dict(zip(("mels", "faces"), row))

    ready = path.with_suffix(".ready.onnx")
    quant_pre_process(str(plain), str(ready))
    names = [node.name for node in onnx.load(str(ready)).graph.node if node.name.startswith(kept)] if kept else []
    q.quantize_static(
        str(ready), str(path), Reader(), op_types_to_quantize=["Conv", "ConvTranspose", "Add"], per_channel=True,
        nodes_to_exclude=names, calibrate_method=q.CalibrationMethod.MinMax,
    )  # fmt: skip


def quantize_dynamically(plain: Path, path: Path) -> None:
    import onnx
    from onnxruntime import quantization as q

    names = [node.name for node in onnx.load(str(plain)).graph.node if node.name.startswith(KEPT_FLOAT)]
    q.quantize_dynamic(str(plain), str(path), op_types_to_quantize=["Conv"], nodes_to_exclude=names)


# --------------------------------------------------------------------------------------------------------------------
# Figures


def measure(variants: dict[str, Run], batches: list[Inputs], rounds: int) -> None:
    """Print each variant's speed relative to the first in the same round, and the difference of its pictures."""
    pictures = {name: np.concatenate([work(batch) for batch in batches]) for name, work in variants.items()}  # warms up
    size, inputs = len(batches[0][0]), itertools.islice(itertools.cycle(batches), rounds)
    seconds = [{name: timed(partial(work, batch)) for name, work in variants.items()} for batch in inputs]
    first = next(iter(variants))
    for name in variants:
        difference = 255 * np.abs(pictures[name] - pictures[first])
        ratio = statistics.median(row[first] / row[name] for row in seconds)
        fps = size / statistics.median(row[name] for row in seconds)
        figures = {"fps": fps, "times_torch_float32": ratio}
        report(name, figures | {"mean_grey": float(difference.mean()), "most_grey": float(difference.max())})


def measure_files(args: argparse.Namespace, checkpoint: Path, folder: Path) -> None:
    """Print the cost of inference.py in each runtime and precision, in two rounds after int8 is calibrated."""
    clip, speech = folder / "scene.mp4", args.audio or folder / "speech.wav"
    write_scene(clip, args.seconds, SIZES["720p"], args.face)
    if not args.audio:
        write_speech(speech, Recipe(seed=8, seconds=args.seconds))
    variants = [("openvino", "int8"), ("torch", "fp32"), ("openvino", "fp32")]
    variants += [("torch", "bf16"), ("openvino", "bf16")] if cpu_has_bf16() else []
    flags = ("--checkpoint_path", checkpoint, "--face", clip, "--audio", speech.resolve())
    flags += ("--outfile", folder / "out.mp4", "--face_detector", "centerface", "--no_cache", "--device", "cpu")
    for round in range(3):
        for runtime, precision in variants if round else variants[:1]:
            figures = run_inference(*flags, "--runtime", runtime, "--precision", precision)
            report(f"{runtime} {precision}, {round or 'first'}", figures)


if __name__ == "__main__":
    sys.exit(main())
