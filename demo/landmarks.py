"""Find the landmarks of faces in photographs or videos, so that demo/talking_portrait.py can use your own people.

    python3 -m venv mediapipe && mediapipe/bin/pip install mediapipe==0.10.21
    mediapipe/bin/python demo/landmarks.py PHOTOS
    mediapipe/bin/python demo/landmarks.py VIDEOS

It runs in its own environment and imports nothing from this repository: 0.10.21 is the last mediapipe that includes
its models, and it needs numpy below 2. PHOTOS holds pictures; VIDEOS holds <speaker>/<clip>.mp4, .mov and others at 25
frames a second. landmarks.npz is written into the folder, in pixels times 16, int32:

photos   ``names`` (N,), ``landmarks`` (N, 478, 2)
videos   ``index`` (478,) and for each ``<speaker>/<clip>`` the first frame, then differences, (frames, 478, 2). If no
         face is found, all points are 0. Older files are int16, and differences may wrap around
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

POINTS = 478
PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".mpg", ".webm")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Find the landmarks of the faces in a folder of photos or videos.")
    parser.add_argument(
        "folder", type=Path, help="The folder with photos, or with folders of speakers and their videos."
    )
    folder = parser.parse_args(argv).folder
    photos = sorted(path for path in folder.glob("*") if path.suffix.lower() in PHOTOS)
    videos = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in VIDEOS)
    if not photos and not videos:
        print(f"error: {folder} holds neither photos nor <speaker>/<clip> videos", file=sys.stderr)
        return 2
    if len({path.with_suffix("") for path in videos}) < len(videos):
        print(f"error: {folder} has videos that differ only in their suffix; rename them", file=sys.stderr)
        return 2
    found: dict[str, Any] = of_photos(photos) if photos else {"index": np.arange(POINTS)}
    try:
        for path in [] if photos else videos:
            found |= of_video(path)
    except KeyboardInterrupt:
        print("stopped; the landmarks found so far are written", file=sys.stderr)
        return 130
    finally:
        np.savez_compressed(folder / "landmarks.npz", **found)
    print(f"{folder / 'landmarks.npz'}: {len(found['names']) if photos else len(found) - 1} of {len(photos or videos)}")
    return 0


def of_photos(paths: list[Path]) -> dict[str, np.ndarray]:
    """Return the names of the photos that show a face, and their landmarks."""
    found = {}
    with open_mesh(static=True) as mesh:
        for path in paths:
            picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)  # Windows: imread needs ASCII names
            if picture is not None and (points := landmarks_in(mesh, picture)).any():
                found[path.name] = points
            else:
                print(f"note: {path} shows no face, or cannot be read", file=sys.stderr)
    return {"names": np.array(list(found)), "landmarks": np.array(list(found.values()), np.int32)}


def of_video(path: Path) -> dict[str, np.ndarray]:
    """Return {name: landmarks of every frame}, as described at the top of this file; empty if no face is found."""
    capture, points = cv2.VideoCapture(str(path)), []
    with open_mesh(static=False) as mesh:
        while (frame := capture.read()[1]) is not None:
            points.append(landmarks_in(mesh, frame))
    if not any(p.any() for p in points):
        print(f"note: {path} shows no face, or cannot be read", file=sys.stderr)
        return {}
    whole = np.array(points, np.int32)
    return {f"{path.parent.name}/{path.stem}": np.concatenate((whole[:1], np.diff(whole, axis=0)))}


def open_mesh(static: bool):
    import mediapipe

    return mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=static, refine_landmarks=True, max_num_faces=1)


def landmarks_in(mesh, picture: np.ndarray) -> np.ndarray:
    """Return the landmarks of the face in a BGR picture, (478, 2) int32 in 1/16 pixel; zeros if there is no face."""
    faces = mesh.process(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)).multi_face_landmarks
    if not faces:
        return np.zeros((POINTS, 2), np.int32)
    height, width = picture.shape[:2]
    return np.array([[p.x * width * 16, p.y * height * 16] for p in faces[0].landmark]).round().astype(np.int32)


if __name__ == "__main__":
    sys.exit(main())
