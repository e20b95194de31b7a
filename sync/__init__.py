"""How well a face and a voice match: the expert's cosine similarity, window by window.

expert = open_expert("expert.pth")
result = score("talk.mp4", expert)
result.mean, result.offset_frames, result.confidence, result.verdict
"""

from .clips import score_clip
from .embedding import Expert, Face, Voice, embed_faces, embed_speech, find_tracks, open_expert
from .matching import UNRELATED, Result, compare, says_out_of_sync
from .matrix import Measurement, SimilarityMatrix, measure, score, score_boxes

__all__ = [
    "UNRELATED", "Expert", "Face", "Measurement", "Result", "SimilarityMatrix", "Voice", "compare", "embed_faces",
    "embed_speech", "find_tracks", "measure", "open_expert", "says_out_of_sync", "score", "score_boxes", "score_clip",
]  # fmt: skip
