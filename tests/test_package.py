"""What ``pip install .`` gives: one package, its commands, and no other top-level modules."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

import inference
import similarity
import video
from conftest import ROOT, run_ffmpeg
from errors import PIP
from evaluation import score_fid, score_lse

# with modules that users need
FOLDERS = (
    "demo", "evaluation", "face_detection", "jobs", "live", "models", "page", "preprocessing", "sync", "video",
)  # fmt: skip
EXTRAS = ("tensorboard", "matplotlib", "skimage", "pytorch_fid", "torchvision", "python_speech_features")
FOREIGN = "mine = True\n"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A wheel built from a copy of this folder, since building leaves files behind."""
    pytest.importorskip("setuptools", "77", reason="needs setuptools 77 to build the wheel")
    copy, built = tmp_path_factory.mktemp("copy") / "wav2lip", tmp_path_factory.mktemp("wheel")
    hidden = shutil.ignore_patterns(".*", "__pycache__", "results", "temp", "build", "dist", "*.egg-info", "*-work")
    shutil.copytree(ROOT, copy, ignore=hidden)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", built, copy)
    return next(built.glob("*.whl"))


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-compile", "--target", folder, wheel)
    return folder


@pytest.fixture
def elsewhere(installed, tmp_path, talking_clip, speech):
    """``elsewhere(command, …)`` runs it in a folder with modules named like ours; returns the finished process."""
    for name in ("audio", "models", "files", "errors"):
        (tmp_path / f"{name}.py").write_text(FOREIGN)
    shutil.copy(talking_clip, tmp_path / "face.mp4")
    run_ffmpeg("-i", speech, "-t", 0.4, tmp_path / "speech.wav")
    paths = os.pathsep.join(map(str, (tmp_path, installed)))

    def run(*command):
        line = [sys.executable, *map(str, command)]
        environment = os.environ | {"PYTHONPATH": paths}
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def distribution(installed):
    return Distribution.at(next(installed.glob("*.dist-info")))


def test_wheel_holds_everything_in_one_package(wheel):
    names = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    assert {path.parts[0] for path in names if not path.parts[0].endswith(".dist-info")} == {"wav2lip"}
    sources = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))]
    data = ["demo/checkpoints/generator.pth", "demo/checkpoints/expert.pth", "demo/checkpoints/judge.pth"]
    data += ["face_detection/centerface.onnx", "face_detection/centerface.LICENSE.txt", "demo/collins.npy"]
    data += ["models/calibration.jpg", "models/calibration.npy", "page/page.js"]
    expected = {Path("wav2lip/flat", path.relative_to(ROOT)) for path in sources}
    expected |= {Path("wav2lip/flat", path) for path in data}
    assert expected <= names
    assert not [path for path in names if {"tests", "benchmarks", "build", ".venv"} & set(path.parts)]


def test_plain_installation_requires_no_extra(installed):
    wanted = [line for line in distribution(installed).requires or [] if "extra ==" not in line]
    assert any(line.startswith("torch>") for line in wanted)
    names = {
        "tensorboard",
        "matplotlib",
        "scikit-image",
        "pytorch-fid",
        "torchvision",
        "python_speech_features",
        "gradio",
    }
    assert not [line for line in wanted if line.startswith(tuple(names))]


HELP = """
import sys
from importlib.metadata import distribution

for command in distribution("wav2lip").entry_points:
    sys.argv = ["/somewhere/bin/" + command.name, "--help"]
    assert command.load()() == 0
sys.argv = ["/somewhere/bin/wav2lip", "--face", "nobody.mp4", "--audio", "speech.wav"]
(command,) = (one for one in distribution("wav2lip").entry_points if one.name == "wav2lip")
assert command.load()() == 2
"""


def test_every_command_shows_help(installed, elsewhere):
    result = elsewhere("-c", HELP)
    assert result.returncode == 0 and result.stderr.count("\n") == 1, result.stderr  # of nobody.mp4
    names = {command.name for command in distribution(installed).entry_points}
    assert names >= {"wav2lip", "wav2lip-train", "wav2lip-evaluate"}
    assert {line.split()[1] for line in result.stdout.splitlines() if line.startswith("usage:")} == names


def test_installed_command_lip_syncs(installed, elsewhere, tmp_path):
    """Other modules with our names are in the way on purpose."""
    flags = ("--face", "face.mp4", "--audio", "speech.wav", "--face_detector", "haar", "--device", "cpu")
    result = elsewhere(installed / "bin" / "wav2lip", *flags, "--outfile", "out.mp4")
    assert result.returncode == 0 and "out.mp4: 10 frames" in result.stdout, result.stderr
    assert sum(1 for _ in video.read_frames(video.probe(tmp_path / "out.mp4"))) == 10


PROGRAM = """
import sys
from wav2lip import LipSync, UserError
from wav2lip.faces import FaceSearch
import audio, models

assert audio.mine and models.mine and "lipsync" not in sys.modules and "video" not in sys.modules
lips = LipSync(search=FaceSearch("haar"), device="cpu")
print(len(lips.run("face.mp4", "speech.wav", "out.mp4")))
try:
    lips.run("nobody.mp4", "speech.wav", "out.mp4")
except UserError as problem:
    print(problem)
"""


def test_programs_may_have_modules_named_like_ours(elsewhere, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    result = elsewhere("program.py")
    assert result.stderr == "" and result.stdout.splitlines()[-2:] == ["10", "nobody.mp4 does not exist"]


INWARD = """
import importlib, multiprocessing, sys, wav2lip

if __name__ == "__main__":
    for name in sorted(wav2lip.MODULES):
        importlib.import_module(f"wav2lip.{name}")
    print(sorted(wav2lip.MODULES & set(sys.modules)))
    from wav2lip.errors import UserError
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # such a process finds by name what it is sent
        print(repr(pool.apply(UserError, ["sent"])), UserError.__module__)
"""


def test_modules_import_each_other_only_through_the_package(elsewhere, tmp_path):
    (tmp_path / "program.py").write_text(INWARD)
    result = elsewhere("program.py")
    assert result.returncode == 0 and result.stdout.splitlines() == ["[]", "UserError('sent') wav2lip.errors"], (
        result.stderr
    )


def test_project_folder_is_the_package_too():
    """From here, ``from wav2lip import LipSync`` needs no installation."""
    names = "wav2lip.__all__, {getattr(wav2lip, name).__module__.split('.')[0] for name in wav2lip.__all__}"
    code = f"import sys, wav2lip; print({names}, 'lipsync' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    offered = ["Cancelled", "FaceSearch", "LipSync", "Options", "Reporter", "UserError"]
    assert result.stdout == f"{offered} {{'wav2lip'}} False\n"


# --------------------------------------------------------------------------------------------------------------------
# Extras


@pytest.fixture
def bare(monkeypatch):
    """Hide the extras, as on a machine that has only what lip-syncing needs."""
    for name in [name for name in sys.modules if name.partition(".")[0] in EXTRAS]:
        monkeypatch.delitem(sys.modules, name)
    for name in EXTRAS:
        monkeypatch.setitem(sys.modules, name, None)


def test_lip_syncing_needs_no_extra(bare, talking_clip, speech, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    flags = ["--face_detector", "centerface", "--device", "cpu", "--no_cache", "--syncnet_checkpoint_path", "demo"]
    assert inference.main(["--face", str(talking_clip), "--audio", str(speech), "--outfile", str(out), *flags]) == 0
    flags = ["--face_detector", "centerface", "--device", "cpu", "--checkpoint_path", "demo", "--json", f"{out}.json"]
    assert similarity.main(["--face", str(out), *flags]) == 0


@pytest.mark.parametrize("main, flags, package", [
    (similarity.main, ("--checkpoint_path", "demo", "--face", "x.mp4", "--plot", "x.png"), "matplotlib"),
    (score_lse.main, ("--data_root", "."), "python_speech_features"),
    (score_fid.main, ("--real", ".", "--generated", "."), "torchvision"),
])  # fmt: skip
def test_missing_extra_is_named(bare, talking_clip, tmp_path, monkeypatch, capsys, main, flags, package):
    shutil.copy(talking_clip, tmp_path / "x.mp4")
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    error = capsys.readouterr().err
    words = f"error: {package} is not installed: in the project's folder, {PIP} install -r requirements/eval.txt"
    assert error.startswith(words) and error.count("\n") == 1


def test_make_installs_the_requirements_of_every_extra():
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11 to read pyproject.toml")
    dynamic = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"]
    entries = [dynamic["dependencies"], *dynamic["optional-dependencies"].values()]
    lists = {name for entry in entries for name in entry["file"]}
    assert lists == {str(path.relative_to(ROOT).as_posix()) for path in (ROOT / "requirements").glob("*.txt")}
    for_all = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-dev.txt").read_text()
    assert all(f"-r {name}\n" in for_all for name in lists)
