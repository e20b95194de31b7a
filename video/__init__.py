"""Read and write media files: the only package of the library that runs ffmpeg.

Frames are uint8 arrays (height, width, 3) in BGR, one at a time, so memory does not grow with the length of a video.
Frame ``i`` of a stream is what a player shows at time ``i / fps``: variable rates are made constant by timestamps,
rotation metadata is applied, interlaced frames are deinterlaced, transparent areas become white, and a video track that
starts late is preceded by its first frame. Sound is float32 mono.
"""

from video.patching import Copied, copied_around, open_writer
from video.probing import MIN_FPS, TURNS, Geometry, VideoInfo, check_size, probe, rate_of
from video.process import ffmpeg_path
from video.reading import check_ahead, count_frames, read_frames, repeat_frames, source_index
from video.sound import SILENCE, Sound, changes_format, read_audio
from video.sources import CutShort, Mendable, existing_file
from video.splicing import Splice, check_joinable
from video.writing import CONTAINERS, PRESETS, Encoding, VideoWriter, check_writable

__all__ = [
    "CONTAINERS", "MIN_FPS", "PRESETS", "SILENCE", "TURNS", "Copied", "CutShort", "Encoding", "Geometry", "Mendable",
    "Sound", "Splice", "VideoInfo", "VideoWriter", "changes_format", "check_ahead", "check_joinable", "check_size",
    "check_writable", "copied_around", "count_frames", "existing_file", "ffmpeg_path", "open_writer", "probe",
    "rate_of", "read_audio", "read_frames", "repeat_frames", "source_index",
]  # fmt: skip
