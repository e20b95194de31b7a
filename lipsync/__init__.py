"""Lip-sync: a face and a speech in, a video out.

    LipSync("wav2lip_gan").run("talk.mp4", "speech.wav", "out.mp4")

or frame by frame, as they are made:

    lips = LipSync()
    take = lips.prepare("talk.mp4", "speech.wav")
    for frame in lips.stream(take): ...  # (height, width, 3) uint8 BGR

The pipeline: sound -> mel windows; frames -> boxes; crops and mels -> generator -> mouths, pasted and encoded.
"""

from __future__ import annotations

from lipsync.engine import LipSync, input_files, pick_batch_size
from lipsync.filmed import FilmedFace
from lipsync.looking import appearances_of, settings_for_mouths
from lipsync.options import MAX_FPS, MIN_FPS, MOUTH_OPTIONS, OPTION_CHOICES, Options, ResolvedOptions
from lipsync.take import SEARCH_MARGIN_SECONDS, SpeakingFace, Take, open_face, read_speech, search_range, segment_for

__all__ = [
    "MAX_FPS", "MIN_FPS", "MOUTH_OPTIONS", "OPTION_CHOICES", "SEARCH_MARGIN_SECONDS", "FilmedFace", "LipSync",
    "Options", "ResolvedOptions", "SpeakingFace", "Take", "appearances_of", "input_files", "open_face",
    "pick_batch_size", "read_speech", "search_range", "segment_for", "settings_for_mouths",
]  # fmt: skip
