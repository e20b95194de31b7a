"""The Dockerfiles, as far as they can be checked without Docker: paths, requirements, commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import PurePosixPath

import pytest

from conftest import ROOT, free_port

FILES = ("Dockerfile", "Dockerfile.cuda")
NETWORKS = [f"demo/checkpoints/{name}.pth" for name in ("generator", "expert", "judge")]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # as on pytorch.org


def steps(name):
    """Return a file's instructions, each with its words."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    return [line.partition(" ")[::2] for line in text.splitlines() if line and not line.startswith("#")]


def installs(name):
    """Return the words of every pip install command."""
    commands = [part for step, words in steps(name) if step == "RUN" for part in words.split("&&")]
    return [shlex.split(command) for command in commands if "pip install" in command]


def is_ignored(path):
    """As in Docker: a pattern begins at the root, unless with ``**/``, and takes a folder with all that is in it."""
    patterns = (ROOT / ".dockerignore").read_text().split()
    places = [PurePosixPath(path), *PurePosixPath(path).parents[:-1]]
    return any(
        place.match(pattern.removeprefix("**/")) and (pattern.startswith("**/") or len(place.parts) == 1)
        for place in places
        for pattern in patterns
    )


@pytest.mark.parametrize("name", FILES)
def test_copied_files_exist(name):
    for words in (words.split() for step, words in steps(name) if step == "COPY"):
        assert words[0].startswith("--from=build") or all((ROOT / path).exists() for path in words[:-1])
    for command in installs(name):
        for flag, value in zip(command, command[1:]):
            assert flag not in ("-r", "-c") or ((ROOT / value).is_file() and not is_ignored(value))


def test_image_gets_all_that_the_wheel_is_built_from():
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11 to read pyproject.toml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {package.removeprefix("wav2lip.flat.") for package in project["tool"]["setuptools"]["packages"]}
    folders.discard("wav2lip.flat")
    assert all((ROOT / folder).is_dir() and not is_ignored(folder) for folder in folders)
    files = ["pyproject.toml", "README.md", "requirements", *project["project"]["license-files"]]
    assert all((ROOT / file).exists() and not is_ignored(file) for file in files)
    assert all((ROOT / path).exists() and not is_ignored(path) for path in NETWORKS)
    assert is_ignored(".git") and is_ignored(".venv") and is_ignored("tests/conftest.py") and is_ignored("checkpoints")


@pytest.mark.parametrize("name", FILES)
def test_image_installs_known_extras_at_pinned_versions(name):
    packages = [word for command in installs(name) for word in command[command.index("install") + 1 :]]
    (extras,) = [re.fullmatch(r"\.\[(.*)\]", word)[1] for word in packages if word.startswith(".")]
    assert all((ROOT / "requirements" / f"{extra}.txt").is_file() for extra in extras.split(","))
    pinned = (ROOT / "constraints.txt").read_text()
    assert "opencv-python-headless==" in pinned and "opencv-python-headless" in packages
    assert all("-c" in command for command in installs(name))


def test_torch_comes_from_the_index_of_pytorch_org():
    first, *others = installs("Dockerfile")
    assert "torch" in first and first[first.index("--index-url") + 1] == CPU_INDEX
    assert not any("--index-url" in command for command in (*others, *installs("Dockerfile.cuda")))


@pytest.mark.parametrize("name", FILES)
def test_page_does_not_run_as_root(name):
    last = dict(steps(name))
    assert last["USER"] not in ("root", "0") and last["EXPOSE"] == "7860"
    order = [step for step, _ in steps(name)]
    assert order.index("USER") > max(i for i, step in enumerate(order) if step == "RUN")
    command = json.loads(last["CMD"])
    assert command[:1] == ["wav2lip-app"]
    if not (ROOT / "app.py").is_file():
        pytest.skip("the page, app.py, is not part of this checkout")
    assert f"{command[0]} =" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.slow
def test_commands_of_the_image_start_the_page(tmp_path):
    """Its RUN and CMD lines in a fresh environment, but with torch from pip's default index, as with make."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    for path in listed.stdout.split("\n")[:-1]:
        if not is_ignored(path):
            (tmp_path / "src" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tmp_path / "src" / path)
    place = tmp_path / "opt"
    scripts = place / ("Scripts" if os.name == "nt" else "bin")
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    for step, words in steps("Dockerfile"):
        if step == "RUN" and "useradd" not in words:
            line = words.replace("/opt/wav2lip", str(place)).replace(f"--index-url {CPU_INDEX}", "")
            line = line.replace("python -m venv", f"{sys.executable} -m venv")
            subprocess.run(line, shell=True, cwd=tmp_path / "src", env=environment, check=True)
    name, *flags = json.loads(dict(steps("Dockerfile"))["CMD"])
    port = str(free_port())
    page = subprocess.Popen([scripts / name, *flags, "--server_port", port], cwd=tmp_path, env=environment)
    try:
        for _ in range(60):
            time.sleep(1)
            assert page.poll() is None
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5) as reply:
                    assert "Wav2Lip" in reply.read().decode()
                    return
            except OSError:
                pass  # it is not open yet
        pytest.fail("the page does not open")
    finally:
        page.terminate()
        page.wait()
