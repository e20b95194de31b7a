"""Entry points of the commands in pyproject.toml: they run the scripts as in the project's folder."""

from __future__ import annotations

import importlib
import sys
from functools import partial

from wav2lip import FLAT


def run(script: str) -> int:
    """Run a script's ``main``, with our modules first on the import path, before others of the same names."""
    sys.path.insert(0, str(FLAT))
    return importlib.import_module(script).main()


inference = partial(run, "inference")
app = partial(run, "app")
adapt = partial(run, "adapt")
export = partial(run, "export")
similarity = partial(run, "similarity")
preprocess = partial(run, "preprocess")
train_expert = partial(run, "color_syncnet_train")
train = partial(run, "wav2lip_train")
train_hq = partial(run, "hq_wav2lip_train")
evaluate = partial(run, "evaluation.run_all")
lse = partial(run, "evaluation.score_lse")
fid = partial(run, "evaluation.score_fid")
quality = partial(run, "evaluation.score_quality")
leakage = partial(run, "evaluation.score_leakage")
