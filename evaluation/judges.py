"""Networks that judge faces for ``quality``: landmarks, perceptual distance, identity. Each is optional.

Each is a plain function of pictures, so it can be replaced by any other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import downloads
import pictures
from concurrency import without_warnings
from errors import PIP, MissingFile, UserError
from evaluation.lips import POINTS
from face_detection.geometry import cut_square
from identities import Identity, open_sface
from models import weights
from models.imports import import_beside_torchvision
from reporting import SILENT, Reporter

Landmarks = Callable[[np.ndarray], np.ndarray]  # a frame (H, W, 3) uint8 BGR with one face -> (68, 2) pixels in it
Distance = Callable[[np.ndarray, np.ndarray], float]  # between two faces (H, W, 3) uint8 BGR

# 2D-FAN's crop of a face, from its box in S3FD's framing: a square whose side is 200/195 of width plus height, and
# whose centre is 12 % of the height above that of the box (Bulat and Tzimiropoulos, 2017; face_alignment.utils).
FAN_SIDE, FAN_REACH, FAN_RISE, FAN_CELL = 256, 200 / 195, 0.12, 4
LPIPS_SIDE = 256


@dataclass(frozen=True)
class Judges:
    """The networks in use; figures that need one that is None are not measured."""

    landmarks: Landmarks | None = None
    lpips: Distance | None = None
    identity: Identity | None = None

    def for_figures(self, names: Collection[str]) -> Judges:
        """Return those that any of these figures needs: networks are the slowest part."""
        unused = [judge for judge, network in NETWORKS.items() if not {*network.figures} & {*names}]
        return replace(self, **dict.fromkeys(unused))


def face_of_fan(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return 2D-FAN's crop of the face in a box, (256, 256, 3)."""
    x1, y1, x2, y2 = box
    side = FAN_REACH * (x2 - x1 + y2 - y1)
    left, top = (x1 + x2 - side) / 2, (y1 + y2 - side) / 2 - FAN_RISE * (y2 - y1)
    return cut_square(frame, int(left), int(top), max(1, int(side)), FAN_SIDE)


def open_fan(
    path_or_name: str | Path, device: torch.device = torch.device("cpu"), report: Reporter = SILENT
) -> Landmarks:
    """Return face-alignment's 2D-FAN with the weights of a file, or ``2dfan4`` to download them.

    Its input is a crop of ``face_of_fan``. Raises MissingFile, or UserError if it cannot be opened.
    """
    try:
        from face_alignment.models import FAN
        from face_alignment.utils import get_preds_fromhm
    except ImportError as error:
        raise UserError(f"landmarks need face-alignment 1.5 or newer: {PIP} install -U face-alignment") from error
    network = _filled(FAN(4), downloads.find(path_or_name, report, ("2dfan4",)), "2D-FAN").to(device)

    @torch.inference_mode()
    def landmarks(frame: np.ndarray) -> np.ndarray:
        if frame.shape != (FAN_SIDE, FAN_SIDE, 3):
            raise ValueError(f"2D-FAN needs a face of {FAN_SIDE}x{FAN_SIDE} pixels, not {frame.shape}")
        heat = network(_rgb(frame).to(device))[-1].float().cpu().numpy()  # the last of its four stages
        points, *_ = get_preds_fromhm(heat)
        return points.reshape(POINTS, 2) * FAN_CELL

    return landmarks


def open_lpips(
    path_or_name: str | Path, device: torch.device = torch.device("cpu"), report: Reporter = SILENT
) -> Distance:
    """Return LPIPS (Zhang et al., 2018) on torchvision's AlexNet: a file, or ``alexnet`` to download it.

    The linear layers on top of it come with the package lpips.
    """
    try:
        lpips = import_beside_torchvision("lpips")
    except ImportError as error:
        raise UserError(f"LPIPS needs the package lpips: {PIP} install lpips") from error
    with without_warnings():  # from torchvision, about how lpips calls it
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    path = downloads.find(path_or_name, report, ("alexnet",))
    given = {key.removeprefix("features."): value for key, value in weights.read_state(path).items()}
    wanted = {key: key.partition(".")[2] for key in network.net.state_dict()}  # slice2.3.weight is features.3.weight
    if missing := set(wanted.values()) - given.keys():
        raise UserError(f"{path} does not hold torchvision's AlexNet: {min(missing)} is missing")
    _load(network.net, {key: given[name] for key, name in wanted.items()}, path, "torchvision's AlexNet")
    network.to(device)

    @torch.inference_mode()
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        pair = (_rgb(pictures.resized(face, LPIPS_SIDE)) for face in (a, b))
        return float(network(*(x.to(device) for x in pair), normalize=True))

    return distance


class JudgeNetwork(NamedTuple):
    """One of ``Judges``."""

    figures: tuple[str, ...]  # that need it
    how: str  # to get its weights
    open: Callable[..., Any]  # of a path, a device and a reporter


NETWORKS = {
    "landmarks": JudgeNetwork(("lmd", "leak", "lip_motion"), "2D-FAN: 2dfan4 to download it, or a file", open_fan),
    "lpips": JudgeNetwork(
        ("lpips",), "AlexNet: alexnet to download it, or a file; needs pip install lpips", open_lpips
    ),
    "identity": JudgeNetwork(
        ("csim",), "SFace: sface to download it, or a file", lambda path, _, report: open_sface(path, report)
    ),
}


def open_judges(
    device: torch.device = torch.device("cpu"),
    report: Reporter = SILENT,
    landmarks: str | Path | None = None,
    lpips: str | Path | None = None,
    identity: str | Path | None = None,
) -> Judges:
    """Return the judges whose weights are given: files, or names to download.

    Raises MissingFile, UserError or RuntimeError that names the judge.
    """
    given = {"landmarks": landmarks, "lpips": lpips, "identity": identity}
    return Judges(**{name: _open(name, path, device, report) for name, path in given.items() if path})


def _open(name: str, path: str | Path, device: torch.device, report: Reporter) -> Any:
    try:
        return NETWORKS[name].open(path, device, report)
    except MissingFile as error:
        raise MissingFile(f"--{name}: {error}") from None
    except (UserError, RuntimeError) as error:
        raise type(error)(f"--{name}: {error}") from error


def missing_judges(judges: Judges) -> list[str]:
    """Return a line for each missing judge: which figures were not measured, and how to get them."""
    missing = {name: kind for name, kind in NETWORKS.items() if getattr(judges, name) is None}
    return [f"not measured: {', '.join(kind.figures)}; --{name} {kind.how}" for name, kind in missing.items()]


def _filled(network: torch.nn.Module, path: Path, name: str) -> torch.nn.Module:
    _load(network, weights.read_state(path), path, name)
    return network.eval()


def _load(network: torch.nn.Module, state: dict[str, torch.Tensor], path: Path, name: str) -> None:
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path} does not hold the weights of {name}") from error


def _rgb(picture: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 BGR -> (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(picture[..., ::-1])).permute(2, 0, 1)[None].float() / 255
