"""FID, the distance between two sets of pictures (Heusel et al., 2017, equation 6), with pytorch-fid's network.

Frames are streamed into a mean and a covariance, so sets may be of any size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import downloads
import video
from errors import MissingFile, UserError, needs
from footage import is_picture, is_video, visible_files
from models import weights
from models.imports import import_beside_torchvision
from reporting import SILENT, Reporter

BATCH, BATCH_BYTES = 32, 64 << 20  # pictures per network call, and their size; the network needs eight times as much
FEATURES = 2048  # of Inception's last pooling, the usual choice

Embed = Callable[[np.ndarray], np.ndarray]  # pictures (N, H, W, 3) uint8 BGR -> features (N, D)


class Statistics:
    """Mean and covariance of features that arrive in batches."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = np.zeros(1)  # (D,) as soon as there are features
        self.products = np.zeros((1, 1))  # (D, D)
        self.failed: dict[str, str] = {}  # by file, why it could not be read; pictures before the fault count

    def add(self, features: np.ndarray) -> None:
        features = features.astype(np.float64)
        self.count += len(features)
        self.sum = self.sum + features.sum(0)
        self.products = self.products + features.T @ features

    @property
    def mean(self) -> np.ndarray:
        return self.sum / self.count

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), unbiased."""
        return (self.products - self.count * np.outer(self.mean, self.mean)) / (self.count - 1)


@dataclass(frozen=True)
class Distance:
    """FID between two sets, the number of pictures in each, and why some files could not be read."""

    fid: float
    real: int
    generated: int
    failed: dict[str, str]

    @property
    def summary(self) -> str:
        lines = [f"FID {self.fid:.3f}: {self.real} real and {self.generated} generated pictures"]
        if min(self.real, self.generated) < FEATURES:
            lines.append(
                f"note: with fewer than {FEATURES} pictures FID comes out too high; compare only sets of equal size"
            )
        return "\n".join(lines)

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"not read to its end: {reason}" for reason in self.failed.values())])

    def check(self) -> None:
        """Raise RuntimeError if some files could not be read."""
        if self.failed:
            raise RuntimeError(f"{len(self.failed)} files could not be read to the end; they are named above")


def compare(real: Sequence[Path], generated: Sequence[Path], embed: Embed, every: int = 1) -> Distance:
    """Return the FID between two sets of videos and pictures, see ``statistics_of``.

    Raises UserError if one set lies in a folder of the other, of which it would be a part.
    """
    for outside, inside in ((real, generated), (generated, real)):
        roots = {path.resolve(): path for path in outside}
        for path in inside:
            if outer := next((roots[folder] for folder in path.resolve().parents if folder in roots), None):
                raise UserError(f"{path} lies in {outer} and would count as real and generated; move it elsewhere")
    here, there = (statistics_of(roots, embed, every) for roots in (real, generated))
    return Distance(distance(here, there), here.count, there.count, here.failed | there.failed)


def distance(a: Statistics, b: Statistics) -> float:
    """Return the Fréchet distance between two sets; raise UserError if one has fewer than two pictures."""
    if min(a.count, b.count) < 2:
        raise UserError(f"FID compares sets of at least two pictures, not {a.count} with {b.count}")
    # The trace of sqrt(A·B) is that of sqrt(√A·B·√A), which is symmetric. pytorch-fid's own code uses an option of
    # scipy's sqrtm that scipy 1.18 no longer has, and gets complex numbers from small sets.
    values, vectors = np.linalg.eigh(a.covariance)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ b.covariance @ root).clip(0)).sum()
    apart = np.square(a.mean - b.mean).sum()
    return float(apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * shared)


def statistics_of(roots: Sequence[Path], embed: Embed, every: int = 1) -> Statistics:
    """Return the statistics of every ``every``-th frame of the videos, and of all pictures, in files and folders.

    A file that cannot be read is recorded and does not stop the others.
    """
    statistics = Statistics()
    for pictures in batches(frames_of(roots, every, statistics.failed)):
        statistics.add(embed(pictures))
    if not statistics.count:
        reason = next(iter(statistics.failed.values()), f"no picture or video in {', '.join(map(str, roots))}")
        raise UserError(reason)
    return statistics


def frames_of(roots: Sequence[Path], every: int, failed: dict[str, str]) -> Iterator[np.ndarray]:
    """Yield pictures (H, W, 3) uint8 BGR, in the order of their names; add unreadable files to ``failed``.

    A file is as often among them as it is named; one that is in several of the folders, or is named besides, not again.
    """
    known = {root.absolute() for root in roots if root.is_file()}
    for root in roots:
        if not root.exists():
            raise MissingFile(f"{root} does not exist")
        for path in [root] if root.is_file() else visible_files(root):
            step = 1 if is_picture(path) else every
            if root.is_file() or (is_picture(path) or is_video(path)) and path.absolute() not in known:
                known.add(path.absolute())
                try:
                    yield from video.read_frames(video.probe(path), every=step)
                except UserError as problem:
                    failed[str(path)] = str(problem)


def batches(pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Stack up to ``BATCH`` pictures of one shape, fewer large ones; those of another shape begin a new batch."""
    for shape, same in itertools.groupby(pictures, key=np.shape):
        size = max(1, min(BATCH, BATCH_BYTES // math.prod(shape)))
        while batch := list(itertools.islice(same, size)):
            yield np.stack(batch)


def open_inception(path_or_name: str | Path, device: torch.device, report: Reporter = SILENT) -> Embed:
    """Return pytorch-fid's Inception with the weights of a file, or ``fid_inception`` to download them."""
    with needs("eval"):
        inception: Any = import_beside_torchvision("pytorch_fid.inception")
    path = downloads.find(path_or_name, report)
    state = weights.read_state(path)
    download = inception.load_state_dict_from_url
    inception.load_state_dict_from_url = lambda *_, **__: state  # the library has no other way to pass weights
    try:
        network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[FEATURES]]).eval().to(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path} does not hold pytorch-fid's Inception weights") from error
    finally:
        inception.load_state_dict_from_url = download

    @torch.inference_mode()
    def embed(pictures: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.ascontiguousarray(pictures[..., ::-1])).to(device).permute(0, 3, 1, 2)  # RGB
        return network(x.float() / 255)[0][:, :, 0, 0].cpu().numpy()

    return embed
