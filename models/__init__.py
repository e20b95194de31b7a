"""The networks, under the names their users know."""

from .conv import optimize_for_inference
from .syncnet import SyncNet_color, SyncNet_v2
from .wav2lip import Wav2Lip, Wav2Lip_disc_qual

__all__ = ["SyncNet_color", "SyncNet_v2", "Wav2Lip", "Wav2Lip_disc_qual", "optimize_for_inference"]
