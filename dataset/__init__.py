"""Clips on disk as training samples: an index of the usable windows, and the samples of the expert and the generator.

A clip is a folder with face crops 0.jpg, 1.jpg, ... at ``hparams.fps``, audio.wav, and mel.npy, float32 (mel frames,
num_mels). Folders of the reference have no mel.npy; it is made from audio.wav the first time and kept.

Samples are numbered without end. A sample depends only on this number, its key, and on the data set's seed, so a run
is reproducible with any number of workers and processes, and resumes by counting:

    data = SyncNetDataset(get_image_list(root, "train"), seed=1)
    batches = Batches(data, batch_size=64, start=steps_done)
    with contextlib.closing(Loader(data, batches, num_workers=16)) as loader:
        for step, (x, mel, y) in enumerate(loader, steps_done): ...
"""

from __future__ import annotations

from dataset.augmentation import Augmentation
from dataset.index import MIN_FRAMES, TWIN, Clip, WindowIndex, frame_ids
from dataset.loading import Batches, Loader, evaluation_windows
from dataset.mels import save_mel
from dataset.samples import Draw, MatchedWindows, SyncNetDataset, Wav2LipDataset, WindowDataset

__all__ = [
    "MIN_FRAMES", "TWIN", "Augmentation", "Batches", "Clip", "Draw", "Loader", "MatchedWindows", "SyncNetDataset",
    "Wav2LipDataset", "WindowDataset", "WindowIndex", "evaluation_windows", "frame_ids", "save_mel",
]  # fmt: skip
