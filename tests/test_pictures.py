"""Still pictures of every kind: how they are read, and what is said of those that cannot be used."""

from __future__ import annotations

import re
import shutil
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

import pictures
import video
from boxes import fixed_box, place
from conftest import run_ffmpeg
from errors import PIP

pillow = pytest.importorskip("PIL.Image")


def quadrants(alpha: tuple[int, int, int, int] = (255, 255, 255, 255)) -> np.ndarray:
    """(40, 60, 4) BGRA in four plain parts: red, green, blue, grey, each with its own alpha."""
    picture = np.zeros((40, 60, 4), np.uint8)
    parts = [picture[:20, :30], picture[:20, 30:], picture[20:, :30], picture[20:, 30:]]
    for part, colour, share in zip(parts, [(0, 0, 200), (0, 200, 0), (200, 0, 0), (90, 90, 90)], alpha):
        part[:] = (*colour, share)
    return picture


def to_pillow(bgra: np.ndarray) -> pillow.Image:
    return pillow.fromarray(cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGBA))


def exif(orientation: int) -> pillow.Exif:
    tags = pillow.Exif()
    tags[0x112] = orientation
    return tags


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "sixteen bits.png", "palette.png"])
def test_transparent_parts_become_white(tmp_path, name):
    """Hidden colours used to show: behind a portrait that was cut out, its background."""
    picture = quadrants((255, 0, 255, 0))
    if name == "sixteen bits.png":
        cv2.imwrite(str(tmp_path / name), picture.astype(np.uint16) * 257)
    elif name == "palette.png":
        to_pillow(picture).quantize(8).save(tmp_path / name)
    else:
        to_pillow(picture).save(tmp_path / name, **({"lossless": True, "exact": True} if "webp" in name else {}))
    assert pictures.is_picture(tmp_path / name)
    seen = pictures.read(tmp_path / name)
    expected = np.where(picture[..., 3:] == 0, 255, picture[..., :3])
    assert seen.shape == (40, 60, 3) and np.abs(seen.astype(int) - expected).max() <= 1


def test_half_transparent_parts_become_half_white(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), quadrants((51, 102, 153, 204)))
    seen = pictures.read(tmp_path / "a.png").astype(float)
    assert np.abs(seen[30, 50] - (90 * 0.8 + 255 * 0.2)).max() <= 0.5
    assert np.abs(seen[5, 5] - (255 * 0.8, 255 * 0.8, 200 * 0.2 + 255 * 0.8)).max() <= 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_transparency_turns_with_its_picture(tmp_path, orientation):
    picture = quadrants((255, 0, 255, 255))
    to_pillow(picture).save(tmp_path / "a.png", exif=exif(orientation))
    opaque = picture.copy()
    opaque[..., 3] = 255
    opaque[:20, 30:] = 255
    to_pillow(opaque).save(tmp_path / "b.png", exif=exif(orientation))
    np.testing.assert_array_equal(pictures.read(tmp_path / "a.png"), pictures.read(tmp_path / "b.png"))


@pytest.mark.parametrize("orientation, corner", [(1, 0), (2, 1), (3, 2), (4, 3), (5, 0), (6, 1), (7, 2), (8, 3)])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.avif"])
def test_exif_orientation_is_applied(tmp_path, name, orientation, corner):
    """``corner``: where the red of the upper left ends up, counted clockwise."""
    try:
        to_pillow(quadrants()).convert("RGB").save(tmp_path / name, exif=exif(orientation))
    except (KeyError, ValueError, OSError) as error:
        pytest.skip(f"this pillow writes no {name}: {error}")
    if not cv2.haveImageReader(str(tmp_path / name)):
        pytest.skip(f"this OpenCV reads no {name}")
    seen = pictures.read(tmp_path / name)
    assert seen.shape[:2] == ((60, 40) if orientation > 4 else (40, 60))
    corners = [seen[5, 5], seen[5, -5], seen[-5, -5], seen[-5, 5]]
    assert corners[corner][2] > 150 and corners[corner][:2].max() < 60


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.avif", "a.heic"])
def test_photos_of_phones_keep_their_colours(tmp_path, monkeypatch, name):
    """Display P3 taken for sRGB looks dull. Expected: from its primaries, with sRGB's curve (SMPTE EG 432-1)."""
    p3 = np.array([[0.4865709, 0.2656677, 0.1982173], [0.2289746, 0.6917385, 0.0792869], [0, 0.0451134, 1.0439444]])
    srgb = np.array(
        [[0.4123908, 0.3575843, 0.1804808], [0.2126390, 0.7151687, 0.0721923], [0.0193308, 0.1191948, 0.9505322]]
    )
    colour = np.array([190, 80, 80]) / 255
    linear = ((colour + 0.055) / 1.055) ** 2.4
    wanted = np.linalg.solve(srgb, p3 @ linear)
    wanted = 255 * (1.055 * wanted ** (1 / 2.4) - 0.055)
    pytest.importorskip("PIL._imagingcms", reason="needs a Pillow with LittleCMS")
    picture, profile = pillow.new("RGB", (32, 32), (190, 80, 80)), display_p3(p3)
    if name == "a.heic":
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
        opened = np.asarray(picture).view(Profiled)
        opened.info = {"icc_profile": profile}
        monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(read_heif=lambda _: opened))
    else:
        how = {"lossless": True} if name == "a.webp" else {"quality": 100}
        try:
            picture.save(tmp_path / name, icc_profile=profile, **how)
        except (KeyError, OSError, ValueError):
            pytest.skip(f"this Pillow writes no {name}")
        if not cv2.haveImageReader(str(tmp_path / name)):
            pytest.skip(f"this OpenCV reads no {name}")
    assert pictures.read(tmp_path / name)[16, 16, ::-1] == pytest.approx(wanted, abs=3)


class Profiled(np.ndarray):
    """Pixels with room for ``info``, as pillow_heif has."""


def display_p3(to_xyz):
    """An ICC profile (version 2) of RGB with these primaries (adapted to D50) and sRGB's curve."""
    bradford = np.array(
        [[1.0478112, 0.0228866, -0.0501270], [0.0295424, 0.9904844, -0.0170491], [-0.0092345, 0.0150436, 0.7521316]]
    )
    columns = (bradford @ to_xyz).T

    def fixed(values):
        return b"".join(int(round(value * 65536)).to_bytes(4, "big", signed=True) for value in values)

    curve = [
        round(65535 * (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4)) for x in np.linspace(0, 1, 1024)
    ]
    trc = b"curv\0\0\0\0" + (1024).to_bytes(4, "big") + b"".join(value.to_bytes(2, "big") for value in curve)
    name = b"Display P3\0"
    tags = {b"desc": b"desc\0\0\0\0" + len(name).to_bytes(4, "big") + name + bytes(78), b"cprt": b"text\0\0\0\0none\0"}
    tags |= {b"wtpt": b"XYZ \0\0\0\0" + fixed((0.9642, 1, 0.8249))}
    tags |= {key: b"XYZ \0\0\0\0" + fixed(xyz) for key, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), trc)
    table, body, start = len(tags).to_bytes(4, "big"), b"", 128 + 4 + 12 * len(tags)
    for key, data in tags.items():
        data += bytes(-len(data) % 4)
        table += key + (start + len(body)).to_bytes(4, "big") + len(data).to_bytes(4, "big")
        body += data
    head = (
        bytes(4)
        + b"none\x02\x10\0\0mntrRGB XYZ "
        + bytes(12)
        + b"acsp"
        + bytes(28)
        + fixed((0.9642, 1, 0.8249))
        + bytes(48)
    )
    return (128 + len(table + body)).to_bytes(4, "big") + head[4:] + table + body


def test_an_unused_byte_is_no_transparency(tmp_path):
    """A BMP from the clipboard, of 32 bits with masks, became white: OpenCV took the unused byte for alpha."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., :3] = 30, 60, 200
    masks = b"".join(mask.to_bytes(4, "little") for mask in (0xFF0000, 0xFF00, 0xFF))
    sizes = [(54 + 12 + 256, 4), (0, 4), (66, 4), (40, 4), (8, 4), (8, 4), (1, 2), (32, 2), (3, 4), (256, 4)] + [
        (0, 4)
    ] * 4
    header = b"BM" + b"".join(value.to_bytes(count, "little") for value, count in sizes)
    (tmp_path / "a.bmp").write_bytes(header + masks + pixels.tobytes())
    assert (pictures.read(tmp_path / "a.bmp") == (30, 60, 200)).all()


def test_a_jpeg_is_decoded_once(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.jpg"), quadrants()[..., :3])
    decode, decoded = cv2.imdecode, []
    monkeypatch.setattr(cv2, "imdecode", lambda *given: decoded.append(given) or decode(*given))
    pictures.read(tmp_path / "a.jpg")
    assert len(decoded) == 1


def test_large_photo_is_cropped_before_it_is_shrunk(tmp_path):
    """48 megapixels took 5.6 GB, and gave a video that no phone plays."""
    picture = np.zeros((4000, 6000, 3), np.uint8)
    picture[:, 3000:] = 200
    cv2.imwrite(str(tmp_path / "large.png"), picture)
    info = video.probe(tmp_path / "large.png")
    assert info.width * info.height <= 4096 * 2304 and info.width <= 4096
    assert info.width / info.height == pytest.approx(1.5, abs=0.002)
    assert "6000x4000" in info.notes[0] and f"{info.width}x{info.height}" in info.notes[0]
    (frame,) = video.read_frames(info)
    assert frame.shape == (info.height, info.width, 3)
    assert frame[:, : info.width // 2 - 1].max() == 0 and frame[:, info.width // 2 + 1 :].min() == 200

    part = video.probe(tmp_path / "large.png", video.Geometry(crop=(0, 2000, 2000, 4000)))
    assert (part.width, part.height, part.notes) == (2000, 2000, ())
    assert (next(video.read_frames(part))[:, 1000:] == 200).all()


# --------------------------------------------------------------------------------------------------------------------
# What cannot be used


def heic_start() -> bytes:
    return (24).to_bytes(4, "big") + b"ftypheic\0\0\0\0mif1heic" + bytes(200)


@pytest.mark.parametrize("name", ["a.heic", "a.jpg"])
def test_heic_needs_a_reader_or_another_format(tmp_path, monkeypatch, name):
    """ffmpeg 9 took one tile of it for a video of one frame a second, and ffmpeg 5 could not name it."""
    (tmp_path / name).write_bytes(heic_start())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(
        ValueError, match=rf"{name} is HEIC; export it as JPEG \(or {re.escape(PIP)} install pillow-heif\)"
    ):
        video.probe(tmp_path / name)

    rgba = cv2.cvtColor(quadrants((255, 255, 255, 0)), cv2.COLOR_BGRA2RGBA)
    reader = types.SimpleNamespace(read_heif=lambda path: rgba)
    monkeypatch.setitem(sys.modules, "pillow_heif", reader)
    info = video.probe(tmp_path / name)
    (frame,) = video.read_frames(info)
    assert info.is_image and frame[5, 5].tolist() == [0, 0, 200] and (frame[20:, 30:] == 255).all()

    def broken(path):
        raise RuntimeError("no item")

    reader.read_heif = broken
    with pytest.raises(ValueError, match="cannot be decoded"):
        video.probe(tmp_path / name)


def test_heic_is_read(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(to_pillow(quadrants()).convert("RGB").resize((1200, 800))).save(tmp_path / "a.jpg")
    info = video.probe(tmp_path / "a.jpg")
    (frame,) = video.read_frames(info)
    assert (info.width, info.height) == (1200, 800) and frame[50, 50, 2] > 150 and frame[50, 50, :2].max() < 60


def test_several_pictures_in_one_file_are_refused(tmp_path):
    pages = [to_pillow(quadrants()).convert("RGB")] * 3
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="holds 3 pictures; save the one you want"):
        video.probe(tmp_path / "a.tif")
    (tmp_path / "a.avif").write_bytes((24).to_bytes(4, "big") + b"ftypavis\0\0\0\0avifmif1" + bytes(200))
    with pytest.raises(ValueError, match="sequence of AVIF pictures"):
        video.probe(tmp_path / "a.avif")


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_animated_pictures_are_videos(tmp_path, name):
    """Older OpenCV sees only the first frame; older ffmpeg cannot read an animated WebP."""
    moving = [to_pillow(quadrants()).convert("RGB").rotate(90 * i) for i in range(3)]
    moving[0].save(tmp_path / name, save_all=True, append_images=moving[1:], duration=100)
    assert not pictures.is_picture(tmp_path / name)
    try:
        info = video.probe(tmp_path / name)
    except ValueError as error:
        assert "webp" in name and "animated WebP, which this ffmpeg cannot read; save it as MP4 or GIF" in str(error)
    else:
        assert not info.is_image and info.fps == 10 and len(list(video.read_frames(info))) == 3


@pytest.mark.parametrize("name", ["a.jpg", "progressive.jpg", "a.png"])
def test_pictures_cut_short_are_refused(tmp_path, name):
    """Decoders fill in the rest with grey."""
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    preview = cv2.imencode(".jpg", noise[:8, :8])[1].tobytes()
    content = cv2.imencode(name[-4:], noise, [cv2.IMWRITE_JPEG_PROGRESSIVE, int("prog" in name)])[1].tobytes()
    if "jpg" in name:  # a preview in the header, with an end marker of its own; markers may have fill bytes
        content = content[:2] + b"\xff\xff\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview + content[2:]
    (tmp_path / name).write_bytes(content + b"trailing bytes, as cameras leave them")
    assert pictures.read(tmp_path / name).shape == (80, 80, 3)
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ValueError, match="cut short|cannot be decoded"):
        pictures.read(tmp_path / name)


def test_names_that_opencv_cannot_open_on_windows(tmp_path, monkeypatch, talking_clip):
    monkeypatch.setattr(pictures, "OPENS_ANY_NAME", False)
    opened, reader = [], cv2.haveImageReader
    monkeypatch.setattr(cv2, "haveImageReader", lambda path: opened.append(path) or reader(path))
    for name in ("plain.png", "Jürgen.png", "Jürgen.jpg"):
        (tmp_path / name).write_bytes(cv2.imencode(Path(name).suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes())
        assert pictures.is_picture(tmp_path / name)
    (tmp_path / "Jürgen half.jpg").write_bytes((tmp_path / "Jürgen.jpg").read_bytes()[:200])
    assert pictures.is_picture(tmp_path / "Jürgen half.jpg")  # else it would be taken for a video, and not be refused
    shutil.copy(talking_clip, tmp_path / "Jürgen.mp4")
    assert not pictures.is_picture(tmp_path / "Jürgen.mp4")
    assert opened == [str(tmp_path / "plain.png")]


def test_mjpeg_stream_is_a_video(tmp_path):
    frames = [np.full((32, 48, 3), level, np.uint8) for level in (0, 90, 180)]
    (tmp_path / "a.mjpeg").write_bytes(b"".join(cv2.imencode(".jpg", one)[1].tobytes() for one in frames))
    info = video.probe(tmp_path / "a.mjpeg")
    assert not info.is_image and len(list(video.read_frames(info))) == 3


def test_boxes_and_pads_count_in_the_full_size_photo(tmp_path):
    """When a photo is shrunk for players, they still mark the same part."""
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((4500, 4500), np.uint8))
    info = video.probe(tmp_path / "large.png")
    box = np.array(fixed_box((1500, 3000, 900, 4500), info))
    assert info.width < 4500 and np.allclose(box * 4500 / info.width, [900, 1500, 4500, 3000], atol=2)
    seen = np.array([[100.0, 100.0, 500.0, 500.0]])
    (((_, top, _, bottom),), *_) = next(place([(seen, True)], info, (60, 90, 0, 0), False))  # pads count likewise
    assert (100 - top, bottom - 500) == pytest.approx((60 * info.width / 4500, 90 * info.width / 4500), abs=1)
    with pytest.raises(ValueError, match="inside the 4500x4500 frame"):
        fixed_box((0, 10, 0, 4501), info)


def test_frames_too_large_for_h264_fail_before_the_search(tmp_path, speech):
    run_ffmpeg("-f", "lavfi", "-i", "color=s=17000x32:r=25:d=0.2", "-c:v", "png", tmp_path / "wide.mkv")
    info = video.probe(tmp_path / "wide.mkv")
    with pytest.raises(ValueError, match="17000x32, but H.264 allows at most 16384 pixels; use --resize_factor 2"):
        video.VideoWriter(tmp_path / "out.mp4", info, speech, 5)
    half = video.probe(tmp_path / "wide.mkv", video.Geometry(resize_factor=2))
    video.check_size(half)
