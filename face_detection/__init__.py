"""From frames to one face box per frame: detect, keep what was seen, follow one person."""

from .api import FaceAlignment, LandmarksType, NetworkSize

__all__ = ["FaceAlignment", "LandmarksType", "NetworkSize"]
