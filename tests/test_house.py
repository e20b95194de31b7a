"""The import rules of docs/house.md, checked in the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from conftest import ROOT

FOLDERS = (
    "wav2lip", "video", "training", "dataset", "page", "models", "mouths", "face_detection", "sync", "lipsync", "live",
    "jobs", "preprocessing", "evaluation", "demo", "benchmarks",
)  # fmt: skip
SCRIPTS = (
    "inference", "preprocess", "color_syncnet_train", "wav2lip_train", "hq_wav2lip_train", "similarity", "adapt",
    "export", "app",
)  # fmt: skip
TRAINING = tuple(name for name in SCRIPTS if name.endswith("train"))
# which of our modules each may import, besides those of its own folder
ALLOWED = {
    "errors": set(),
    "version": set(),
    "reporting": set(),
    "concurrency": set(),
    "rates": set(),
    "devices": set(),
    "telemetry": set(),
    "files": set(),
    "downloads": {"files", "reporting"},
    "footage": set(),
    "hparams": {"files"},
    "shares": {"files"},
    "pictures": {"concurrency"},
    "video": {"files", "pictures", "reporting"},
    "models": {"concurrency", "devices", "downloads", "files", "reporting", "telemetry"},
    "face_detection": {"devices", "downloads", "telemetry"},
    "audio": {"hparams"},
    "faces": {"concurrency", "downloads", "files", "video", "face_detection", "reporting"},
    "face_path": set(),
    "boxes": {"face_detection", "face_path", "video"},
    "identities": {"downloads", "face_detection", "reporting"},
    "speakers": {
        "boxes", "face_path", "face_detection", "faces", "hparams", "identities", "reporting", "sync", "video",
    },
    "credentials": {"files"},
    "mouths": {"boxes", "face_path", "concurrency", "devices", "hparams", "models", "pictures"},
    "sync": {
        "audio", "boxes", "concurrency", "dataset", "devices", "faces", "face_detection", "files", "hparams", "models",
        "pictures", "rates", "reporting", "video",
    },
    "parts": {"reporting", "video"},
    "lipsync": {
        "audio", "boxes", "face_path", "concurrency", "credentials", "devices", "faces", "files", "hparams",
        "identities", "models", "mouths", "parts", "reporting",
        "runtimes", "speakers", "sync", "video",
    },
    "runtimes": {"devices", "downloads", "files", "hparams", "models", "mouths", "reporting", "telemetry"},
    "jobs": {"files", "footage", "lipsync", "reporting", "shares", "video"},
    "live": {
        "audio", "boxes", "face_path", "concurrency", "devices", "files", "hparams", "lipsync", "mouths",
        "video",
    },
    "dataset": {"audio", "files", "hparams", "pictures"},
    "preprocessing": {
        "audio", "boxes", "concurrency", "dataset", "devices", "face_detection", "faces", "files", "footage", "hparams",
        "models", "reporting", "shares", "sync", "video",
    },
    "distributed": {"devices"},
    "training": {"distributed", "dataset", "files", "models", "hparams", "reporting"},
    "recipes": {"dataset", "devices", "distributed", "files", "hparams", "models", "reporting", "training"},
    "adaptation": {
        "dataset", "devices", "distributed", "downloads", "faces", "files", "hparams", "models", "pictures",
        "preprocessing", "reporting", "training", "video",
    },
    "page": {
        "adaptation", "audio", "boxes", "concurrency", "devices", "downloads", "face_detection", "faces", "hparams",
        "lipsync", "live", "models", "parts", "pictures", "reporting", "sync", "video",
    },
    "terminal": {"reporting"},
    "cli": {"distributed", "parts", "version"},
    "arguments": {"cli", "devices", "faces", "hparams", "lipsync", "models", "recipes", "runtimes", "terminal"},
}  # fmt: skip
LIBRARY = {*ALLOWED}
EDGE = ("cli.py", "arguments.py", "evaluation/flags.py")  # shared by scripts to read their flags
COMMON = {"errors"}  # any module may import these
MAY_CALL = {"hq_wav2lip_train": {"wav2lip_train"}}


def sources() -> list[Path]:
    return sorted(p for pattern in ("*.py", *(f"{f}/**/*.py" for f in FOLDERS)) for p in ROOT.glob(pattern))


def house_name(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imported(path: Path) -> set[str]:
    """Return the top-level names of everything that a file imports."""
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


OURS = {house_name(path) for path in sources()}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_layers(path):
    name = house_name(path)
    used = (imported(path) & OURS) - {name, *COMMON}
    if name in ALLOWED:
        assert used <= ALLOWED[name]
    elif name in SCRIPTS:
        assert used <= LIBRARY | MAY_CALL.get(name, set())
    else:
        assert name in ("evaluation", "demo", "benchmarks", "wav2lip")
        assert used <= LIBRARY | {"demo", "evaluation", *TRAINING} | MAY_CALL.get(name, set())


def is_script(path: Path) -> bool:
    """Return whether a file ends by running itself, or is part of benchmarks or the demo."""
    return house_name(path) in ("benchmarks", "demo") or path.read_text().endswith("    sys.exit(main())\n")


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_scripts_print_and_only_video_starts_processes(path):
    """Only scripts, and the modules that read their flags, parse or print.

    Only video/, and programs that run scripts as users do, start processes.
    """
    name, used = house_name(path), imported(path)
    calls = {node.func.id for node in nodes(path) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    if not is_script(path) and path.relative_to(ROOT).as_posix() not in EDGE:
        assert not used & {"argparse", "cli", "terminal", "arguments"} and "print" not in calls
    if name not in ("video", "benchmarks", "demo"):
        assert "subprocess" not in used


@pytest.mark.parametrize("path", sorted((ROOT / "evaluation").glob("*.py")), ids=lambda p: p.name)
def test_evaluation_scripts_are_not_imported(path):
    scripts = {p.stem for p in (ROOT / "evaluation").glob("*.py") if is_script(p)}
    words = set()
    for node in nodes(path):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            parts = [*(getattr(node, "module", None) or "").split("."), *(alias.name for alias in node.names)]
            words |= {word for part in parts for word in part.split(".")}
    assert not scripts & words


BARE = """
import importlib, sys
absent = "librosa", "face_alignment", "imageio_ffmpeg", "ffmpeg", "torch.distributed.nn"  # some torch lacks the last
sys.modules.update(dict.fromkeys(absent))
for name in ("models", "audio", "video", "inference", "face_detection", "models.weights", "cli"):
    importlib.import_module(name)
for name in absent:
    del sys.modules[name]
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def test_importing_prints_nothing():
    """Nor does it read the command line.

    Those that train or generate can be imported on machines that lack librosa and face-alignment.
    """
    command = [sys.executable, "-c", BARE, "--flag", *sorted(OURS - set(FOLDERS))]
    imported = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (imported.returncode, imported.stdout, imported.stderr) == (0, "", "")
