"""From frames to one face box per frame: detect, cache the detections, follow one person."""

from .api import FaceAlignment, LandmarksType, NetworkSize

__all__ = ["FaceAlignment", "LandmarksType", "NetworkSize"]
