"""Published weights: their addresses and checksums, and their download into the cache."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import files
from errors import MissingFile, root_message
from reporting import SILENT, Reporter

REPOSITORY = Path(__file__).resolve().parent
_HUB_HOST = "https://huggingface.co"
_HUB = f"{_HUB_HOST}/camenduru/Wav2Lip/resolve/main/checkpoints"


@dataclass(frozen=True)
class KnownFile:
    """An official file: its address and checksum."""

    file_name: str
    url: str
    sha256: str | None  # None: unknown, so the downloaded file's hash is reported instead of checked


KNOWN = {
    "wav2lip": KnownFile(
        "wav2lip.pth", f"{_HUB}/wav2lip.pth", "b78b681b68ad9fe6c6fb1debc6ff43ad05834a8af8a62ffc4167b7b34ef63c37"
    ),
    "wav2lip_gan": KnownFile(
        "wav2lip_gan.pth", f"{_HUB}/wav2lip_gan.pth", "ca9ab7b7b812c0e80a6e70a5977c545a1e8a365a6c49d5e533023c034d7ac3d8"
    ),
    "lipsync_expert": KnownFile("lipsync_expert.pth", f"{_HUB}/lipsync_expert.pth", None),
    "s3fd": KnownFile(
        "s3fd-619a316812.pth",
        "https://www.adrianbulat.com/downloads/python-fan/s3fd-619a316812.pth",
        "619a31681264d3f7f7fc7a16a42cbbe8b23f31a256f75a366e5a1bcd59b33543",
    ),
    "yunet": KnownFile(
        "face_detection_yunet_2023mar.onnx",
        "https://github.com/opencv/opencv_zoo/raw/82b38c8f98e7b52aa171400f3e4c722352d0669f/models/"
        "face_detection_yunet/face_detection_yunet_2023mar.onnx",
        "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    ),
    "syncnet_v2": KnownFile(
        "syncnet_v2.model",
        "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
        "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
    ),
    "fid_inception": KnownFile(
        "pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        None,
    ),
    "2dfan4": KnownFile(
        "2DFAN4-11f355bf06.pth.tar", "https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar", None
    ),
    "alexnet": KnownFile(
        "alexnet-owt-7be5be79.pth", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", None
    ),
    "sface": KnownFile(
        "face_recognition_sface_2021dec.onnx",
        "https://github.com/opencv/opencv_zoo/raw/main/models/face_recognition_sface/face_recognition_sface_2021dec.onnx",
        "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
    ),
}


def cache_folder() -> Path:
    """Return the folder for downloads and cached face boxes: $WAV2LIP_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("WAV2LIP_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wav2lip"


def find(
    path_or_name: str | Path, report: Reporter = SILENT, names: Sequence[str] = tuple(KNOWN), here: Sequence[str] = ()
) -> Path:
    """Return the file for a path or one of the known ``names``, downloading it if necessary.

    Searches ``checkpoints/`` of the working folder and of the repository, then the cache. Raises MissingFile for other
    names, listing ``names`` and the bundled ones, ``here``, and RuntimeError if a download fails.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    if path.name == str(path_or_name) and (kept := _local_file(path.name)):
        return kept
    known = KNOWN.get(str(path_or_name))  # even if a folder has that name, as wav2lip/ does
    if known is None and path.exists():
        return path
    if known is None and re.match(r"[A-Za-z]{2,}:/", str(path_or_name)):
        raise MissingFile(f"{path_or_name} is an address; download it first, and give the file")
    if known is None or str(path_or_name) not in names:
        what = f"{path_or_name} is another kind of network" if known else f"{path} does not exist"
        raise MissingFile(f"{what}; give a file or one of the names {', '.join((*here, *names))}")
    return _local_file(known.file_name) or fetch(known, cache_folder() / "checkpoints", report)


def is_local(name: str) -> bool:
    """Return whether the file of a known name needs no download."""
    known = KNOWN[name]
    return bool(_local_file(known.file_name)) or _is_right(known, cache_folder() / "checkpoints" / known.file_name)


def _is_right(known: KnownFile, path: Path) -> bool:
    try:
        return path.is_file() and (not known.sha256 or files.cached_digest(path) == known.sha256)
    except PermissionError:  # the folder may not be read
        return False


def _local_file(name: str) -> Path | None:
    """Return the file of this name in a folder where users put checkpoints, as with the reference.

    Other programs save the same files with capitals, such as Wav2Lip_GAN.pth.
    """
    for folder in (Path("checkpoints"), REPOSITORY / "checkpoints"):
        if (folder / name).is_file():
            return folder / name
        with contextlib.suppress(OSError):  # no such folder, or one that may not be read
            if found := next(
                (one for one in folder.iterdir() if one.name.lower() == name.lower() and one.is_file()), None
            ):
                return found
    return None


def url_of(known: KnownFile) -> str:
    """Return the address of a file; for files on huggingface.co, at the mirror $HF_ENDPOINT if it is set."""
    return known.url.replace(_HUB_HOST, os.environ.get("HF_ENDPOINT", "").rstrip("/") or _HUB_HOST, 1)


def fetch(known: KnownFile, folder: Path, report: Reporter = SILENT) -> Path:
    """Download ``known`` into ``folder`` unless it is there with the right SHA-256; resume interrupted downloads."""
    import pooch

    pooch.get_logger().setLevel("WARNING")  # ``report`` is used instead
    target, url = folder / known.file_name, url_of(known)
    if _is_right(known, target):  # works in a read-only folder, too
        return target
    try:
        with files.locked(target.with_name(f".{known.file_name}.lock"), wait=True):  # waiters then find the file
            found = pooch.retrieve(
                url,
                known_hash=known.sha256 and f"sha256:{known.sha256}",
                fname=known.file_name,
                path=folder,
                downloader=_resuming_downloader(target.with_name(f"{known.file_name}.part"), report),
            )
    except (OSError, ValueError) as error:  # no network or disk; wrong hash
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            what = f"{folder} cannot be written to ({root_message(error)}), so {url} cannot be downloaded"
            raise RuntimeError(f"{what}; set WAV2LIP_CACHE to a folder of your own") from error
        raise RuntimeError(
            f"could not download {url} ({root_message(error)}); fetch it by other means and put it at {target}"
        ) from error
    if not known.sha256:  # so that users can check it themselves
        report.note(f"note: {found} has the SHA-256 {files.digest(Path(found))}")
    return Path(found)


def _resuming_downloader(part: Path, report: Reporter) -> Callable[[str, str, Any], None]:
    """Return a downloader for pooch that collects into ``part``, kept when the connection breaks, until complete."""

    def download(url: str, output_file: str, _pooch: Any) -> None:
        import requests

        have = part.stat().st_size if part.exists() else 0
        # with compression, the length would differ from Content-Length
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=30) as reply:
            if reply.status_code == 416:  # nothing left to send: the part is complete, or belongs to another file
                if reply.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
                    files.replace(part, Path(output_file))
                    return
                part.unlink()
                download(url, output_file, _pooch)
                return
            reply.raise_for_status()
            if reply.headers.get("Content-Type", "").startswith("text/html"):
                raise OSError("the answer is a page to read, as of a network that wants a login")
            if reply.status_code != 206:  # the server cannot resume, and sends the whole file
                have = 0
            length = reply.headers.get("Content-Length")
            size = have + int(length) if length else None
            stage = report.stage(f"Downloading {part.stem}", size, "B", have)
            with open(part, "ab" if have else "wb") as file, stage as advance:
                for block in reply.iter_content(1 << 16):
                    file.write(block)
                    advance(len(block))
        if size and part.stat().st_size != size:
            raise OSError(f"the connection broke off at {part.stat().st_size} of {size} bytes; run again to continue")
        files.replace(part, Path(output_file))

    return download
