"""Draw new mouths: face crops and mels go through the generator and back into the frames.

``appearance`` keeps what is known of a face: reference mouths for it (``references``), and what is in front of it
(``occlusion``). ``generating`` runs the network, and ``openings`` estimates how far mouths open. ``drawing``,
``pasting`` and ``restoring`` put the result back into its frame. ``masks`` locates the parts of a face.
"""

from __future__ import annotations

from mouths.appearance import Appearance, Appearances, Shots
from mouths.drawing import MouthSettings, SpeakingTrack, redraw_mouths
from mouths.generating import CPU_BATCH, LipGenerator, amplified, crop, generate, masked_and_whole
from mouths.occlusion import UnoccludedFace
from mouths.openings import all_mouths, fit_opening, open_lips, shut_mouths
from mouths.references import References, evenly_lit, poses_of
from mouths.restoring import Restore, open_restorer

__all__ = [
    "CPU_BATCH", "Appearance", "Appearances", "LipGenerator", "MouthSettings", "References", "Restore", "Shots",
    "SpeakingTrack", "UnoccludedFace", "all_mouths", "amplified", "crop", "evenly_lit", "fit_opening", "generate",
    "masked_and_whole", "open_lips", "open_restorer", "poses_of", "redraw_mouths", "shut_mouths",
]  # fmt: skip
