"""What ``pip install .`` gives: one package, its commands, and no other top-level modules."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest

import inference
import similarity
import video
from conftest import ROOT
from errors import PIP
from evaluation import score_fid, score_lse

# with modules that users need
FOLDERS = (
    "demo", "evaluation", "face_detection", "jobs", "live", "models", "page", "preprocessing", "sync", "video",
)  # fmt: skip
EXTRAS = ("tensorboard", "matplotlib", "skimage", "pytorch_fid", "torchvision", "python_speech_features")
FOREIGN = "mine = True\n"


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The folder into which pip installed a copy of this one, since building leaves files behind."""
    pytest.importorskip("setuptools", "77", reason="needs setuptools 77 to build the wheel")
    copy, folder = tmp_path_factory.mktemp("copy") / "wav2lip", tmp_path_factory.mktemp("installed")
    hidden = shutil.ignore_patterns(".*", "__pycache__", "results", "temp", "build", "dist", "*.egg-info", "*-work")
    shutil.copytree(ROOT, copy, ignore=hidden)
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-compile")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(copy)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory, talking_clip, short_speech):
    """A folder with a face, a speech, and modules named like ours, which are in the way on purpose."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("audio", "models", "files", "errors"):
        (folder / f"{name}.py").write_text(FOREIGN)
    shutil.copy(talking_clip, folder / "face.mp4")
    shutil.copy(short_speech, folder / "speech.wav")
    return folder


def run_program(code, elsewhere, installed):
    """Run a program there; return the finished process."""
    (elsewhere / "program.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (elsewhere, installed)))}
    command = [sys.executable, "program.py"]
    return subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)


def distribution(installed):
    return Distribution.at(next(installed.glob("*.dist-info")))


def test_everything_is_installed_in_one_package(installed):
    names = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    folders = {path.parts[0] for path in names if not path.parts[0].endswith(".dist-info")}
    assert folders == {"wav2lip", "bin"}  # of its commands
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


COMMANDS = """
import runpy, sys, wav2lip
from pathlib import Path

def run(name, *flags):
    sys.argv = [str(Path(wav2lip.__file__).parent.parent / "bin" / name), *flags]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        print("ended:", name, end.code, flush=True)

sound = ("--audio", "speech.wav")
run("wav2lip", "--face", "face.mp4", *sound, "--face_detector", "haar", "--device", "cpu", "--outfile", "commands.mp4")
for path in sorted(Path(sys.argv[0]).parent.glob("wav2lip*")):
    run(path.name, "--help")
run("wav2lip", "--face", "nobody.mp4", *sound)
"""


@pytest.fixture(scope="session")
def commands(elsewhere, installed):
    """The finished process that lip-synced, asked every command for help, and named a file that is missing."""
    return run_program(COMMANDS, elsewhere, installed)


def test_every_command_shows_help(installed, commands):
    names = {command.name for command in distribution(installed).entry_points}
    assert names >= {"wav2lip", "wav2lip-train", "wav2lip-evaluate"}
    assert commands.returncode == 0 and commands.stderr.count("\n") == 1, commands.stderr  # of nobody.mp4
    lines = [line.split() for line in commands.stdout.splitlines()]
    assert {words[1] for words in lines if words[:1] == ["usage:"]} == names
    ends = [(words[1], words[2]) for words in lines if words[:1] == ["ended:"]]
    assert ends[1:] == [*((name, "0") for name in sorted(names)), ("wav2lip", "2")]


def test_installed_command_lip_syncs(commands, elsewhere):
    told, ended, _ = commands.stdout.partition("ended: wav2lip 0\n")
    assert ended and "commands.mp4: 10 frames" in told, commands.stderr
    assert sum(1 for _ in video.read_frames(video.probe(elsewhere / "commands.mp4"))) == 10


PROGRAM = """
import importlib, multiprocessing, sys, wav2lip

def ours():
    return sorted(wav2lip.MODULES & set(sys.modules))

if __name__ == "__main__":
    from wav2lip import LipSync, UserError
    from wav2lip.faces import FaceSearch
    print("after LipSync:", ours())
    for name in sorted(wav2lip.MODULES):
        importlib.import_module(f"wav2lip.{name}")
    print("after all:", ours())
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # such a process finds by name what it is sent
        print(repr(pool.apply(UserError, ["sent"])), UserError.__module__)
    import audio, models
    assert audio.mine and models.mine
    lips = LipSync(search=FaceSearch("haar"), device="cpu")
    print(len(lips.run("face.mp4", "speech.wav", "out.mp4")))
    print("after run:", ours())
    try:
        lips.run("nobody.mp4", "speech.wav", "out.mp4")
    except UserError as problem:
        print(problem)
"""


@pytest.fixture(scope="session")
def program(elsewhere, installed):
    """The finished process that used the package, and what it printed in lines."""
    done = run_program(PROGRAM, elsewhere, installed)
    return done, done.stdout.splitlines()


def test_programs_may_have_modules_named_like_ours(program):
    done, lines = program
    assert done.stderr == "" and lines[-3] == "10" and lines[-1] == "nobody.mp4 does not exist"
    assert lines[-2] == "after run: ['audio', 'models']"  # the program's own


def test_modules_import_each_other_only_through_the_package(program):
    done, lines = program
    assert lines[:3] == ["after LipSync: []", "after all: []", "UserError('sent') wav2lip.errors"], done.stderr


def test_project_folder_is_the_package_too(monkeypatch):
    """From here, ``from wav2lip import LipSync`` needs no installation."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "wav2lip"]:
        monkeypatch.delitem(sys.modules, name)
    package = importlib.import_module("wav2lip")
    for name in package.MODULES & set(sys.modules):  # which other tests have imported
        monkeypatch.delitem(sys.modules, name)
    assert package.__all__ == ["Cancelled", "FaceSearch", "LipSync", "Options", "Reporter", "UserError"]
    assert {getattr(package, name).__module__.partition(".")[0] for name in package.__all__} == {"wav2lip"}
    assert not package.MODULES & set(sys.modules)


# --------------------------------------------------------------------------------------------------------------------
# Extras


@pytest.fixture
def bare(monkeypatch):
    """Hide the extras, as on a machine that has only what lip-syncing needs."""
    for name in [name for name in sys.modules if name.partition(".")[0] in EXTRAS]:
        monkeypatch.delitem(sys.modules, name)
    for name in EXTRAS:
        monkeypatch.setitem(sys.modules, name, None)


def test_lip_syncing_needs_no_extra(bare, talking_clip, short_speech, modest_checkpoint, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    flags = ["--face_detector", "centerface", "--device", "cpu", "--no_cache", "--syncnet_checkpoint_path", "demo"]
    flags += ["--checkpoint_path", str(modest_checkpoint), "--audio", str(short_speech), "--outfile", str(out)]
    assert inference.main(["--face", str(talking_clip), *flags]) == 0
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
