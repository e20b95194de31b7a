"""Figures of a run: their means over batches and processes, and where they are written."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import files
from distributed import Batch, Distributed
from errors import PIP
from reporting import SILENT, Reporter
from training.checkpoints import Position
from training.tasks import Figures, Task


class Averages:
    """Exact means of figures over batches; a figure given as (sum, count) is averaged over its own count."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, figures: dict[str, torch.Tensor], count: int) -> None:
        for name, value in figures.items():
            # MPS has no float64
            value = value.detach().to(torch.float32 if value.device.type == "mps" else torch.float64)
            pair = value if value.dim() else torch.stack((value * count, torch.full_like(value, count)))
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def means(self, group: Distributed) -> Figures:
        """Return the means over all processes, without figures that have no value."""
        if not self._sums:
            return {}
        table = group.mean(torch.stack(list(self._sums.values())))
        return {name: float(total / count) for name, (total, count) in zip(self._sums, table.cpu()) if count > 0}


@torch.no_grad()
def evaluate(task: Task, loader: Iterable[Batch]) -> Figures:
    """Return the mean figures of ``task`` over ``loader``, an equal share on every process."""
    task.train_mode(False)
    averages = Averages()
    for batch in loader:
        averages.add(task.evaluate_batch(batch), len(batch[0]))
    task.train_mode(True)
    return averages.means(task.group)


class Log:
    """Writes metrics.jsonl, one object per line, and, if TensorBoard is installed, its scalars and images."""

    def __init__(self, folder: Path, position: Position, report: Reporter = SILENT) -> None:
        self._path = folder / "metrics.jsonl"
        self._forget_after(position)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=position.step + 1)
        except ImportError:
            report.note(
                f"note: tensorboard is not installed ({PIP} install tensorboard): no curves, only metrics.jsonl"
            )

    def _forget_after(self, position: Position) -> None:
        """Drop what a killed run wrote after the checkpoint that is resumed."""
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a line that was cut off by the kill
                record = json.loads(line)
                again = record["step"] == position.step and record["split"] == "val" and position.evaluation_pending
                kept += [line] if record["step"] <= position.step and not again else []
        files.save(self._path, "".join(f"{line}\n" for line in kept))

    def figures(self, step: int, split: str, figures: Figures, seconds: float, waited: float | None = None) -> None:
        """Write the figures of a step, the ``seconds`` it took, and those it ``waited`` for its data."""
        record = {
            "step": step,
            "split": split,
            **{k: round(v, 6) for k, v in figures.items()},
            "seconds": round(seconds, 3),
        } | ({} if waited is None else {"waited": round(waited, 3)})
        self._file.write(f"{files.to_json(record)}\n")
        self._file.flush()
        if self._board:
            for name, value in figures.items():
                self._board.add_scalar(f"{name}/{split}", value, step)

    def pictures(self, step: int, pictures: np.ndarray) -> None:
        """Log the first frame of up to eight windows (N, T, H, W, 3) BGR, one below the other."""
        if self._board:
            grid = np.concatenate(pictures[:8, 0])[..., ::-1]
            self._board.add_image("samples", grid, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        if self._board:
            self._board.close()
