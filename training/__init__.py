"""Training, once for all three networks.

``fit`` runs any ``Task``: how it begins (``starting``), the loop (``loop``), what one step is (``experts``,
``generators``, ``losses``), what is measured of it (``figures``) and kept (``checkpoints``).
"""

from __future__ import annotations

from training.checkpoints import load_checkpoint
from training.experts import AllPairsExpertTask, ExpertTask
from training.figures import evaluate
from training.generators import GeneratorTask, HQGeneratorTask
from training.loop import Stopped, fit
from training.starting import Plan
from training.tasks import Figures, Task

__all__ = [
    "AllPairsExpertTask", "ExpertTask", "Figures", "GeneratorTask", "HQGeneratorTask", "Plan", "Stopped", "Task",
    "evaluate", "fit", "load_checkpoint",
]  # fmt: skip
