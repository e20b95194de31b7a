"""Run a face restorer after pasting: GFPGAN, RestoreFormer, CodeFormer, or any other that spandrel can load."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from boxes import crop_with_border, write_crop
from errors import PIP, MissingFile, UserError, needs
from face_path import Box
from models import weights
from models.imports import import_beside_torchvision
from mouths import masks

# Restores the mouth in a box of a frame (height, width, 3) in place, except what is hidden there, see ``paste``; the
# last argument is the width of a pixel over its height
Restore = Callable[[np.ndarray, Box, np.ndarray | float, float], None]

# Restorers are trained on FFHQ (Karras et al., 2019): 512 pixels with eyes at 240, mouth at 371. A face's box has them
# 37 % and 76 % below its upper edge, so they need a square of 1.52 times its height that starts 0.34 heights above it.
SIDE, CROP_SCALE, CROP_OFFSET = 512, 1.52, 0.34
SIGNED_INPUT = ("GFPGAN", "CodeFormer")  # trained on pictures in [-1, 1]; spandrel does not convert its input


def open_restorer(path: Path, device: torch.device = torch.device("cpu")) -> Restore:
    """Return a function that restores a mouth by the network in a file; in float32, as most restorers need it.

    Raises MissingFile, or UserError for unusable files and if spandrel is missing.
    """
    if not path.exists():
        raise MissingFile(f"{path} does not exist; a restorer is the file of a network, such as GFPGANv1.4.pth")
    with needs("restore"):
        spandrel: Any = import_beside_torchvision("spandrel")
    with contextlib.suppress(ModuleNotFoundError):  # networks with narrower licences, CodeFormer among them
        import_beside_torchvision("spandrel_extra_arches").install(ignore_duplicates=True)
    state = _read(path)
    try:
        network = spandrel.ModelLoader(device).load_from_state_dict(spandrel.canonicalize_state_dict(state)).eval()
    except Exception as error:  # unsuitable files raise anything: UnsupportedModelError, KeyError, RuntimeError, …
        more = f" (CodeFormer: {PIP} install spandrel_extra_arches)" if "position_emb" in str(state.keys()) else ""
        raise UserError(f"{path} holds no network that spandrel can load{more}") from error
    if not isinstance(network, spandrel.ImageModelDescriptor) or network.input_channels != 3:
        raise UserError(f"{path} holds {network.architecture.name}, which does not make one colour picture of another")
    return partial(_restore, partial(_run, network))


def _read(path: Path) -> dict[str, Any]:
    if path.suffix != ".safetensors":
        return weights.read_state(path)
    from safetensors.torch import load_file  # comes with spandrel

    try:
        return load_file(path)
    except Exception as error:  # its own, or the system's
        raise UserError(f"{path} is not a readable safetensors file") from error


@torch.inference_mode()
def _run(network: Any, face: np.ndarray) -> np.ndarray:
    """Restore a face (512, 512, 3) uint8 BGR -> (512 n, 512 n, 3) float32, n the scale of the network."""
    rgb = torch.from_numpy(np.ascontiguousarray(face[..., ::-1])).to(network.device)
    x = rgb.permute(2, 0, 1)[None].float() / 255
    if network.architecture.id in SIGNED_INPUT:  # with the same noise for every frame
        x = (network.model(2 * x - 1, randomize_noise=False)[0] + 1) / 2
    else:
        x = network(x)
    return np.ascontiguousarray(255 * x[0].clamp(0, 1).permute(1, 2, 0).cpu().numpy()[..., ::-1])


def _shown(frame: np.ndarray, to_face: np.ndarray, finer: int) -> np.ndarray:
    """Return the frame warped by ``to_face``, (SIDE, SIDE, 3): the mean of ``finer`` times as many pixels each way."""
    many = finer * to_face
    many[:, 2] += (finer - 1) / 2  # coordinates count from the middle of the first pixel
    shown = cv2.warpAffine(frame, many, (finer * SIDE, finer * SIDE), borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(shown, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def _shrunk(picture: np.ndarray, back: np.ndarray, size: tuple[int, int], finer: int) -> np.ndarray:
    """Return a picture at the places ``back`` gives for ``size`` pixels: means of ``finer`` times as many each way."""
    many = back / (finer, finer, 1)
    many[:, 2] -= many[:, :2].sum(1) * (finer - 1) / 2
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    shown = cv2.warpAffine(picture, many, (finer * size[0], finer * size[1]), flags=how)
    return cv2.resize(shown, size, interpolation=cv2.INTER_AREA)


def _restore(
    run: Callable[[np.ndarray], np.ndarray],
    frame: np.ndarray,
    box: Box,
    hidden: np.ndarray | float,
    pixel_aspect: float,
) -> None:
    """Add to the mouth in ``box`` what ``run`` changes in the face: detail finer than 512 pixels can show stays."""
    x1, y1, x2, y2 = box
    height, size = y2 - y1, (x2 - x1, y2 - y1)
    scale = SIDE / (CROP_SCALE * height)
    across = scale * pixel_aspect  # the restorer gets square pixels
    left, top = (x1 + x2 - SIDE / across) / 2, y1 - CROP_OFFSET * height
    to_face = np.array([[across, 0, -across * left], [0, scale, -scale * top]])
    face = _shown(frame, to_face, max(1, round(1 / min(scale, across))))
    restored = run(face)
    larger = restored.shape[0] / SIDE
    change = restored - cv2.resize(face, restored.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    back = larger * np.array([[across, 0, across * (x1 - left)], [0, scale, scale * (y1 - top)]])
    back[:, 2] += (larger - 1) / 2
    change = _shrunk(change, back, size, math.ceil(larger * max(scale, across)))
    target = crop_with_border(frame, box)
    mask = cv2.resize(masks.lower_face() * (1 - hidden), size)[..., None]
    cv2.add(target, change * mask, target, dtype=cv2.CV_8U)
    write_crop(frame, box, target)
