"""Still pictures: which files are one, and what is to be seen in it, turned as it says and on one plain colour.

Pictures are uint8 arrays (height, width, 3) in BGR. What moves is for ``video``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from errors import PIP, UserError

OPENS_ANY_NAME = os.name != "nt"  # on Windows OpenCV opens none that is not ASCII (its issue 18305)
LARGEST = 1 << 28  # bytes of a picture; larger files there are films
START = 1 << 16  # bytes looked at to tell one kind from another
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF, AVIF_SEQUENCE = b"avif", b"avis"
PNG, JPEG = b"\x89PNG", b"\xff\xd8\xff"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
FILMS = (".mjpeg", ".mjpg")  # of cameras: many JPEGs, one after the other, of which only the first would be seen
GROUND = 255  # white: what shows through where a picture is transparent
# the eight ways in which EXIF can say that a picture lies
TURNS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda x: x, lambda x: x[:, ::-1], lambda x: x[::-1, ::-1], lambda x: x[::-1],
    lambda x: x.swapaxes(0, 1), lambda x: np.rot90(x, -1), lambda x: np.rot90(x, 2).swapaxes(0, 1), np.rot90,
)  # fmt: skip


def is_picture(path: Path) -> bool:
    """Whether ``path`` is one still picture, by content; raise UserError with what to do for a kind of no use."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # such a name crashes OpenCV; ffmpeg takes it, and a picture for a video of one frame
        return False
    with open(path, "rb") as file:
        start = file.read(START)
    brands = _brands(start)
    if brands[:1] == [AVIF_SEQUENCE]:  # ffmpeg takes its cover for the whole
        raise UserError(f"{path} is a sequence of AVIF pictures; save it as MP4 or GIF, or one of them as JPEG")
    if _is_heic(brands):
        if not _reads_heif():  # ffmpeg before 7 knows nothing of it, and later ones take its first tile for all
            raise UserError(f"{path} is HEIC; export it as JPEG (or {PIP} install pillow-heif)")
        return True
    if _moves(start) or path.suffix.lower() in FILMS:
        return False
    count = _count(path, start)
    if count > 1 and start.startswith(TIFF):
        raise UserError(f"{path} holds {count} pictures; save the one that is wanted as PNG or JPEG")
    return count == 1


def _count(path: Path, start: bytes) -> int:
    """Return how many pictures OpenCV sees in a file that starts like this, 0 if it is something else."""
    if OPENS_ANY_NAME or str(path).isascii():
        return cv2.imcount(str(path)) if cv2.haveImageReader(str(path)) else 0
    if start.startswith((PNG, JPEG)):  # one, even where it is cut short
        return 1
    if not 0 < path.stat().st_size <= LARGEST:
        return 0
    return len(cv2.imdecodemulti(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)[1])


def read(path: Path) -> np.ndarray:
    """Decode a still picture (height, width, 3); raise UserError for one that is damaged or cut short."""
    content = np.fromfile(path, np.uint8)
    if _is_heic(_brands(content[:START].tobytes())):
        return _read_heic(path)
    colour = cv2.imdecode(content, cv2.IMREAD_COLOR)  # turns it as EXIF says, and drops transparency
    if colour is None:
        raise UserError(f"{path} looks like a picture but cannot be decoded; save it again as PNG or JPEG")
    if is_cut_short(content.tobytes()):
        raise UserError(f"{path} is cut short; copy or download it again")
    colour = np.rot90(colour, _quarters(content))
    whole: Any = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)  # keeps transparency, and may not turn it
    if whole is None or whole.ndim < 3 or whole.shape[2] < 4:
        return np.ascontiguousarray(colour)
    full = np.iinfo(whole.dtype).max if whole.dtype.kind == "u" else 1.0
    whole = np.round(whole * (255 / full)).clip(0, 255).astype(np.uint8) if whole.dtype != np.uint8 else whole
    return on_plain_ground(colour, _turned_like(whole, colour)[..., 3])


def on_plain_ground(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Put ``colour`` (height, width, 3) where ``alpha`` (height, width) is 255, ``GROUND`` where 0, mixed between."""
    if alpha.min() == 255:
        return np.ascontiguousarray(colour)
    share = alpha[..., None].astype(np.uint16)
    return ((colour * share + GROUND * (255 - share) + 127) // 255).astype(np.uint8)


def _turned_like(picture: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Turn ``picture`` (height, width, 4) so that its colours lie as in ``colour``: OpenCV turns only what it drops."""
    turned = [turn(picture) for turn in TURNS]
    turned = [picture for picture in turned if picture.shape[:2] == colour.shape[:2]]
    return min(turned, key=lambda picture: float(cv2.absdiff(np.ascontiguousarray(picture[..., :3]), colour).mean()))


# --------------------------------------------------------------------------------------------------------------------
# Kinds


def _brands(start: bytes) -> list[bytes]:
    """The brands of a file of the family of MP4 and HEIC, its own first; none of any other."""
    if start[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(start[:4], "big"), len(start))
    return [start[8:12], *(start[at : at + 4] for at in range(16, end, 4))]


def _is_heic(brands: list[bytes]) -> bool:
    return bool(brands) and brands[0] in HEIC and AVIF not in brands


def _quarters(content: np.ndarray) -> int:
    """How often to turn an AVIF by 90 degrees against the clock: OpenCV leaves it as it is stored."""
    start = content[:START].tobytes()
    box = start.find(b"irot") if AVIF in _brands(start) else -1
    return start[box + 4] & 3 if box >= 0 else 0


def _moves(start: bytes) -> bool:
    """Whether it is an animated WebP or PNG, which older OpenCV takes for a still picture."""
    if start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X":
        return bool(start[20] & 2)
    return start.startswith(PNG) and b"acTL" in start.partition(b"IDAT")[0]


def is_webp(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(12)
    return start[:4] == b"RIFF" and start[8:] == b"WEBP"


def is_cut_short(content: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end, which decoders make up in grey."""
    if content.startswith(b"\xff\xd8"):
        at = 2
        while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] != b"\xda":  # over a preview and its own end
            filling = content[at + 1 : at + 2] == b"\xff"  # a marker may begin with any number of these
            at += 1 if filling else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        return content.find(b"\xff\xd9", at) < 0
    return content.startswith(PNG) and b"IEND" not in content


def _reads_heif() -> bool:
    try:
        importlib.import_module("pillow_heif")
    except ImportError:
        return False
    return True


def _read_heic(path: Path) -> np.ndarray:
    try:
        image = np.asarray(
            importlib.import_module("pillow_heif").read_heif(str(path))
        )  # turned, in RGB or RGBA of 8 bits
    except Exception as error:  # its decoder's own kinds
        raise UserError(f"{path} is HEIC that cannot be decoded ({error}); export it as JPEG") from None
    colour = cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2BGR)
    return on_plain_ground(colour, image[..., 3]) if image.shape[2] == 4 else colour


def resized(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a picture (height, width, …) as a square of so many pixels: the mean of those that become one.

    Where one becomes several they are interpolated: OpenCV's mean would make blocks of them.
    """
    how = cv2.INTER_AREA if min(picture.shape[:2]) >= side else cv2.INTER_LINEAR
    return cv2.resize(picture, (side, side), interpolation=how)
