"""Still pictures: recognise and decode them, rotated as their EXIF says and with transparency on a plain background.

Pictures are uint8 arrays (height, width, 3) in BGR. Animations are handled by ``video``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from concurrency import without_warnings
from errors import PIP, UserError

OPENS_ANY_NAME = os.name != "nt"  # on Windows, OpenCV opens only ASCII names (its issue 18305)
LARGEST = 1 << 28  # bytes of a picture, where OpenCV cannot open its name; larger files are taken for videos
START = 1 << 16  # bytes read to recognise the format
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF, AVIF_SEQUENCE = b"avif", b"avis"
PNG, JPEG = b"\x89PNG", b"\xff\xd8\xff"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MJPEG_SUFFIXES = (".mjpeg", ".mjpg")  # of cameras: concatenated JPEGs, of which OpenCV would decode only the first
BACKGROUND = 255  # white, the background of transparent pictures
# the eight EXIF orientations
TURNS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda x: x, lambda x: x[:, ::-1], lambda x: x[::-1, ::-1], lambda x: x[::-1],
    lambda x: x.swapaxes(0, 1), lambda x: np.rot90(x, -1), lambda x: np.rot90(x, 2).swapaxes(0, 1), np.rot90,
)  # fmt: skip


def is_picture(path: Path) -> bool:
    """Return whether ``path`` is a single still picture, by content; raise UserError for unsupported formats."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # crashes OpenCV; ffmpeg accepts such names, and reads pictures as one-frame videos
        return False
    with open(path, "rb") as file:
        start = file.read(START)
    brands = _brands(start)
    if brands[:1] == [AVIF_SEQUENCE]:  # ffmpeg would decode only its cover
        raise UserError(f"{path} is a sequence of AVIF pictures; save it as MP4 or GIF, or one of them as JPEG")
    if _is_heic(brands):
        if not _reads_heif():  # ffmpeg before 7 does not support HEIC, and later versions decode only its first tile
            raise UserError(f"{path} is HEIC; export it as JPEG (or {PIP} install pillow-heif)")
        return True
    if _is_animated(start) or path.suffix.lower() in MJPEG_SUFFIXES:
        return False
    count = _count(path, start)
    if count > 1 and start.startswith(TIFF):
        raise UserError(f"{path} holds {count} pictures; save the one you want as PNG or JPEG")
    return count == 1


def _count(path: Path, start: bytes) -> int:
    """Return the number of pictures in a file, as OpenCV counts them, 0 if it is not a picture."""
    if OPENS_ANY_NAME or str(path).isascii():
        return cv2.imcount(str(path)) if cv2.haveImageReader(str(path)) else 0
    if start.startswith((PNG, JPEG)):  # one, even if truncated
        return 1
    if not 0 < path.stat().st_size <= LARGEST:
        return 0
    return len(cv2.imdecodemulti(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)[1])


def read(path: Path, exact: bool = True) -> np.ndarray:
    """Decode a still picture (height, width, 3); raise UserError if it is damaged or truncated.

    Its colours are those of its ICC profile; only if ``exact``, as this takes longer than decoding.
    """
    content = np.fromfile(path, np.uint8)
    if _is_heic(_brands(content[:START].tobytes())):
        return _read_heic(path, exact)
    colour = cv2.imdecode(content, cv2.IMREAD_COLOR)  # applies EXIF rotation, drops transparency
    if colour is None:
        raise UserError(f"{path} looks like a picture but cannot be decoded; save it again as PNG or JPEG")
    if is_cut_short(content.tobytes()):
        raise UserError(f"{path} is cut short; copy or download it again")
    colour = _avif_upright(colour, content)
    if exact:
        colour = _in_srgb(colour, _profile_of(content.tobytes()))
    if content[:3].tobytes() == JPEG:  # has no transparency
        return colour
    whole: Any = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)  # keeps transparency, but may not rotate
    if whole is None or whole.ndim < 3 or whole.shape[2] < 4:
        return colour
    full = np.iinfo(whole.dtype).max if whole.dtype.kind == "u" else 1.0
    whole = np.round(whole * (255 / full)).clip(0, 255).astype(np.uint8) if whole.dtype != np.uint8 else whole
    if not whole[..., 3].any():  # an unused byte, as in BMP from the clipboard
        return colour
    return on_background(colour, _turned_like(whole, colour)[..., 3])


def on_background(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Blend ``colour`` (height, width, 3) over ``BACKGROUND`` by ``alpha`` (height, width), 0 to 255."""
    if alpha.min() == 255:
        return np.ascontiguousarray(colour)
    share = alpha[..., None].astype(np.uint16)
    return ((colour * share + BACKGROUND * (255 - share) + 127) // 255).astype(np.uint8)


def _turned_like(picture: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Rotate ``picture`` (height, width, 4) to match ``colour``: OpenCV applies EXIF only if it drops transparency."""
    turned = [turn(picture) for turn in TURNS]
    turned = [picture for picture in turned if picture.shape[:2] == colour.shape[:2]]
    return min(turned, key=lambda picture: float(cv2.absdiff(np.ascontiguousarray(picture[..., :3]), colour).mean()))


# --------------------------------------------------------------------------------------------------------------------
# Kinds


def _brands(start: bytes) -> list[bytes]:
    """Return the brands of a file in the MP4 and HEIC family, the major brand first; empty for other files."""
    if start[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(start[:4], "big"), len(start))
    return [start[8:12], *(start[at : at + 4] for at in range(16, end, 4))]


def _is_heic(brands: list[bytes]) -> bool:
    return bool(brands) and brands[0] in HEIC and AVIF not in brands


def _avif_upright(picture: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Rotate and mirror a picture as an AVIF file says, which OpenCV does not do; contiguous."""
    start = content[:START].tobytes()
    turn, mirror = (start.find(name) if AVIF in _brands(start) else -1 for name in (b"irot", b"imir"))
    if turn >= 0:  # quarter turns, counterclockwise
        picture = np.rot90(picture, start[turn + 4] & 3)
    if mirror >= 0:  # 0: top to bottom, 1: left to right
        picture = picture[:, ::-1] if start[mirror + 4] & 1 else picture[::-1]
    return np.ascontiguousarray(picture)


def _in_srgb(picture: np.ndarray, profile: bytes | None) -> np.ndarray:
    """Convert a picture from the colours of its ICC profile, such as Display P3 of phones, to sRGB.

    Unchanged without a profile, with one for grey or CMYK, from which OpenCV has converted, or without Pillow.
    """
    if not profile or profile[16:20] != b"RGB ":
        return picture
    try:
        from PIL import Image, ImageCms

        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(given):
            return picture
        image = Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        converted = ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"))
        return cv2.cvtColor(np.asarray(converted), cv2.COLOR_RGB2BGR)
    except Exception:  # no Pillow, or any of its own errors, for a damaged profile
        return picture


def _profile_of(content: bytes) -> bytes | None:
    """Return the ICC profile in a picture's file; None if there is none, or without Pillow."""
    with contextlib.suppress(Exception), without_warnings():  # of any kind, about what OpenCV has decoded already
        from PIL import Image

        with Image.open(io.BytesIO(content)) as header:  # decodes nothing
            return header.info.get("icc_profile")
    return None


def _is_animated(start: bytes) -> bool:
    """Return whether this is an animated WebP or PNG, which older OpenCV versions take for a still picture."""
    if start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X":
        return bool(start[20] & 2)
    return start.startswith(PNG) and b"acTL" in start.partition(b"IDAT")[0]


def is_webp(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(12)
    return start[:4] == b"RIFF" and start[8:] == b"WEBP"


def is_cut_short(content: bytes) -> bool:
    """Return whether a JPEG or PNG is truncated; decoders would fill the missing part with grey."""
    if content.startswith(b"\xff\xd8"):
        # the segments before may hold a preview with an end of its own
        return content.find(b"\xff\xd9", _begin_of_jpeg(content)) < 0
    return content.startswith(PNG) and b"IEND" not in content


def _begin_of_jpeg(content: bytes) -> int:
    """Return where the picture begins, after the segments of a JPEG."""
    at = 2
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] != b"\xda":
        is_padding = content[at + 1 : at + 2] == b"\xff"  # markers may be padded with 0xFF
        at += 1 if is_padding else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return at


def _reads_heif() -> bool:
    try:
        importlib.import_module("pillow_heif")
    except ImportError:
        return False
    return True


def _read_heic(path: Path, exact: bool) -> np.ndarray:
    try:
        opened = importlib.import_module("pillow_heif").read_heif(str(path))
        image = np.asarray(opened)  # rotated, 8-bit RGB or RGBA
    except Exception as error:  # the decoder has exception types of its own
        raise UserError(f"{path} is HEIC that cannot be decoded ({error}); export it as JPEG") from None
    colour = cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2BGR)
    if exact:
        colour = _in_srgb(colour, getattr(opened, "info", {}).get("icc_profile"))
    return on_background(colour, image[..., 3]) if image.shape[2] == 4 else colour


def fitted(face: np.ndarray, side: int) -> np.ndarray:
    """Resize a face (height, width, …) to the square that a network takes.

    Down to half its size as the reference does, which skips no pixels. Below, pixels are averaged, as skipping some
    turns grain and patterns into others. At half the size both give the same.
    """
    how = cv2.INTER_AREA if max(face.shape[:2]) > 2 * side else cv2.INTER_LINEAR
    return cv2.resize(face, (side, side), interpolation=how)


def resized(picture: np.ndarray, side: int) -> np.ndarray:
    """Resize a picture (height, width, …) to a square, by area averaging when it shrinks.

    When it grows, pixels are interpolated: OpenCV's area averaging would produce blocks.
    """
    how = cv2.INTER_AREA if min(picture.shape[:2]) >= side else cv2.INTER_LINEAR
    return cv2.resize(picture, (side, side), interpolation=how)
