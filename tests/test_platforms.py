"""What Windows and macOS do differently, simulated where possible."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import cli
import devices
import distributed
import errors
import files
import video
from conftest import ROOT
from dataset import samples
from errors import UserError
from evaluation import comparisons
from models import weights
from preprocessing import workers
from training import checkpoints
from video import process


@pytest.fixture
def windows(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")


@pytest.fixture
def in_use(windows, monkeypatch):
    """``in_use(path, times)`` makes replacing ``path`` fail that often. Retries do not wait."""
    left, replace = {}, os.replace

    def refusing(new, old):
        if left.get(old, 0) > 0:
            left[old] -= 1
            raise PermissionError(errno.EACCES, "Access is denied", str(old))
        replace(new, old)

    monkeypatch.setattr(os, "replace", refusing)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    return left.__setitem__


# --------------------------------------------------------------------------------------------------------------------
# Files


def test_file_that_a_scanner_holds_briefly_is_replaced(in_use, tmp_path):
    files.save(tmp_path / "a", "old")
    in_use(tmp_path / "a", len(files.RETRY_DELAYS))
    files.save(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_new_video_is_kept_beside_one_open_in_a_player(in_use, tmp_path, talking_clip, speech):
    """Hours of work must not be lost for that."""
    out = tmp_path / "out.mp4"
    out.write_bytes(b"the one before")
    in_use(out, 99)
    with (
        pytest.raises(UserError, match="open in another program") as caught,
        video.VideoWriter(out, video.probe(talking_clip), speech, 25) as writer,
    ):
        for frame in video.read_frames(video.probe(talking_clip)):
            writer.write(frame)
    assert out.read_bytes() == b"the one before"
    kept = next(path for path in tmp_path.iterdir() if path != out)
    assert str(kept) in str(caught.value) and kept.name.startswith("out-")
    assert sum(1 for _ in video.read_frames(video.probe(kept))) == 25


def test_new_table_is_kept_beside_one_open_elsewhere(in_use, tmp_path):
    """Hours of evaluation used to be lost, with the advice to change the permissions of a hidden file."""
    table = tmp_path / "scores.csv"
    table.write_text("before")
    in_use(table, 99)
    with pytest.raises(UserError, match="open in another program.*; the new one is .*scores-"):
        files.save(table, "new")
    with pytest.raises(PermissionError), files.atomic_write(table) as partial:  # no copy of what can be made again
        partial.write_text("a cache")
    assert table.read_text() == "before"
    assert [path.read_text() for path in tmp_path.iterdir() if path != table] == ["new"]


def test_missing_drive_is_reported(monkeypatch):
    monkeypatch.setattr(files.Path, "exists", lambda path: False)
    with pytest.raises(UserError, match="does not exist; give a folder on a disk that does"):
        files.check_writable_folder(files.Path("Z:/videos"))


def test_address_in_place_of_a_file_is_recognised(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UserError, match="is an address; download it first"):
        files.check_name(files.Path("https:/example.com/a.mp4"))


def test_running_out_of_memory_on_mps_is_recognised():
    """Batches used not to be halved there, and the error did not say what to do."""
    sizes = []

    def work(batch):
        sizes.append(len(batch))
        if len(batch) > 1:
            raise RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")
        return batch

    assert len(devices.split_on_oom(work, np.zeros(4))) == 4 and sizes == [4, 2, 1, 1, 2, 1, 1]
    assert "ran out of memory" in errors.describe_error(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))
    assert devices.memory_format(torch.device("mps")) == torch.contiguous_format


@pytest.mark.parametrize("platform, name, fits", [
    ("linux", "顔" * 86, False), ("win32", "顔" * 255, True), ("darwin", "顔" * 255, True),
    ("win32", "顔" * 256, False), ("win32", "a" * 256, False), ("linux", "12:30.mp4", True),
    ("win32", "12:30.mp4", False), ("win32", "what?.mp4", False), ("darwin", "what?.mp4", True),
])  # fmt: skip
def test_names_are_checked_by_the_systems_rules(monkeypatch, tmp_path, platform, name, fits):
    """Linux counts bytes, the others letters; on Windows, 12:30.mp4 would be a hidden part of a file called 12."""
    monkeypatch.setattr(sys, "platform", platform)
    with contextlib.nullcontext() if fits else pytest.raises(UserError, match="(give a shorter one|give another)$"):
        files.check_name(tmp_path / name)


def test_checkpoint_in_use_can_be_replaced_on_windows(windows, monkeypatch, small_checkpoint):
    mapped = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **options: (mapped.append(options["mmap"]), load(*a, **options))[1])
    assert weights.read_state(small_checkpoint)["width"] == 0.125 and mapped == [False]


def test_pictures_may_have_any_name(tmp_path):
    """On Windows, OpenCV's own file writing silently fails for letters outside the country's code page."""
    folder = tmp_path / "Prüfung 顔"
    folder.mkdir()
    checkpoints.save_collage(folder, 3, np.full((1, 2, 8, 8, 3), 9, np.uint8))
    assert samples._read_picture(f"{folder}/samples_step000000003/0_1.jpg").mean() == 9


# --------------------------------------------------------------------------------------------------------------------
# Processes and signals


@pytest.mark.parametrize("code, words", [
    (0xC0000005, "crashed (0xC0000005)"), (-signal.SIGSEGV, "crashed (Segmentation fault)"), (1, "No space left"),
    (0xBEBBB1B7, "No space left"), (0xFFFFFFE4, "No space left"),  # ffmpeg's own codes on Windows
])  # fmt: skip
def test_crashes_are_called_crashes(code, words):
    assert words in process.failure_reason(code, "No space left\n")


def test_failure_reason_drops_names_with_a_drive():
    report = r"[mov @ 0x1] file:C:\films\a.mp4: Invalid data found when processing input"
    assert process.failure_reason(1, report) == "Invalid data found when processing input"


def test_windows_line_ends_are_converted(tmp_path):
    command = [sys.executable, "-c", r"import sys; sys.stdout.buffer.write(b'one\r\ntwo\r\n')"]
    assert process.report_of(command) == (0, "one\ntwo\n")


def test_broken_pipe_on_windows_is_reported(monkeypatch, tmp_path, talking_clip, speech):
    """Windows calls it an invalid argument."""

    class Gone:
        def write(self, data):
            raise OSError(errno.EINVAL, "Invalid argument")

        def close(self):
            raise OSError(errno.EINVAL, "Invalid argument")

    with (
        pytest.raises(RuntimeError, match="ffmpeg stopped early|cannot write"),
        video.VideoWriter(tmp_path / "out.mp4", video.probe(talking_clip), speech, 25) as writer,
    ):
        writer._process.stdin.close()
        writer._process.stdin = Gone()
        writer.write(np.zeros((240, 320, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_closing_the_window_is_like_an_interruption(monkeypatch, capsys):
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    assert cli.run(cli.Parser("test"), lambda args: signal.raise_signal(signal.SIGUSR1), []) == 130
    assert "stopped before the end" in capsys.readouterr().err


def test_workers_ignore_ctrl_c_on_every_system(monkeypatch):
    """On Windows, a process does not inherit this."""
    handlers = {}
    monkeypatch.setattr(workers.signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(workers.cv2, "setNumThreads", lambda count: None)
    monkeypatch.setattr(workers.torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(workers.threading, "Thread", lambda **_: monkeypatch)
    monkeypatch.setattr(type(monkeypatch), "start", lambda self: None, raising=False)
    workers.start_worker(1)
    assert handlers == {signal.SIGINT: signal.SIG_IGN}


@pytest.mark.skipif(os.name == "nt", reason="Windows has another way to stop a process")
def test_ctrl_c_during_imports_prints_nothing(tmp_path):
    """Importing torch takes a second or more; no traceback may show what it was importing."""
    (tmp_path / "torch.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import cli"  # however started
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT)))}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("main, is_ours", [
    (ROOT / "inference.py", True), (ROOT / "evaluation/run_all.py", True),
    ("/usr/bin/wav2lip", True), ("/usr/bin/wav2lip-lse", True), ("/Scripts/wav2lip-lse.exe/__main__.py", True),
    (ROOT / ".venv/lib/pytest/__main__.py", False), ("/home/somebody/program.py", False), (None, False),
])  # fmt: skip
def test_only_our_scripts_silence_ctrl_c_during_imports(monkeypatch, main, is_ours):
    """After torch, while our own modules were imported, Ctrl-C used to show a traceback."""
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=main and str(main)))
    assert cli._is_a_script() == is_ours


def test_ctrl_c_works_once_a_script_runs(monkeypatch, capsys):
    monkeypatch.setattr(cli, "replaced", True)
    monkeypatch.setattr(cli, "old_handler", signal.default_int_handler)
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        assert cli.run(cli.Parser("x"), lambda _: signal.raise_signal(signal.SIGINT), []) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "error: stopped before the end\n"


def test_letters_that_a_terminal_lacks_are_escaped():
    """Printing a name must not make a successful run fail."""
    code = "import cli; print(cli.run(cli.Parser('test'), lambda args: print('顔.mp4'), []))"
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.stdout == "\\u9854.mp4\n0\n" and result.stderr == ""


def test_processors_are_counted_without_sched_getaffinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert devices.cpu_count() == 3


@pytest.mark.parametrize("content, count", [
    ("200000 100000\n", 2), ("150000 100000\n", 2), ("max 100000\n", 6), ("6400000 100000\n", 6), ("", 6),
])  # fmt: skip
def test_processors_of_a_container_are_those_that_it_may_use(tmp_path, monkeypatch, content, count):
    """docker --cpus=2 on a machine of 64 used to start 64 processes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr(devices, "CPU_QUOTA", tmp_path / "cpu.max")
    assert devices.cpu_count() == count


@pytest.mark.parametrize("has_nccl, backend", [(True, "nccl"), (False, "gloo")])
def test_gpus_without_nccl_use_gloo(monkeypatch, has_nccl, backend):
    chosen = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    dist = distributed.dist
    monkeypatch.setattr(dist, "is_nccl_available", lambda: has_nccl)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: chosen.append(backend))
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    distributed.join_processes(torch.device("cuda"), torch.float32)
    assert chosen == [backend]


def test_videos_on_two_drives_are_refused(monkeypatch):
    def different_drives(_):
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(os.path, "commonpath", different_drives)
    with pytest.raises(UserError, match="on several drives; give those of each drive in a run of their own"):
        comparisons.folders_below([Path("C:/a.mp4"), Path("D:/b.mp4")])
