"""A folder of videos -> training data: face crops, sound and mel of every clip.

    summary = preprocess("VIDEOS", "DATA", PreprocessingOptions(FaceSearch("centerface")))
    write_filelists(summary.kept, (0.9, 0.05, 0.05), 0, Path("filelists"))

The pipeline: video -> frames at 25 fps -> boxes of a face -> pieces of one shot -> numbered crops; its sound ->
audio.wav -> mel.npy; both -> an expert's verdict.
"""

from .clips import OUT_OF_SYNC, Clip, Dropped, Kept, Unusable, find_clips
from .cutting import write_clip
from .pieces import MAX_SECONDS
from .pipeline import preprocess
from .report import Summary
from .split import listed_names, write_filelists
from .syncing import ACTIONS, SyncCheck
from .workers import PreprocessingOptions

__all__ = [
    "ACTIONS", "MAX_SECONDS", "OUT_OF_SYNC", "Clip", "Dropped", "Kept", "PreprocessingOptions", "Summary", "SyncCheck",
    "Unusable", "find_clips", "listed_names", "preprocess", "write_clip", "write_filelists",
]  # fmt: skip
