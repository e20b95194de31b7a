"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import sys
import threading

import pytest

import files
import video
from errors import UserError, describe_error, is_disk_error


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new/folder/a.json"
    with files.atomic_write(path) as partial:
        partial.write_text("half")
        assert not path.exists() and partial.suffix == ".json"
        partial.write_text("whole")
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_old_file_and_leaves_nothing(tmp_path):
    files.save(tmp_path / "a", b"old")
    with pytest.raises(OSError, match="full"), files.atomic_write(tmp_path / "a") as partial:
        partial.write_text("half")
        raise OSError("the disk is full")
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes with names")
def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    """Else whoever may do everything would lose /dev/null to a table."""
    os.mkfifo(tmp_path / "pipe.mp4")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe.mp4").read_bytes()))
    reader.start()
    files.save(tmp_path / "pipe.mp4", "all of it")
    reader.join()
    assert read == [b"all of it"] and (tmp_path / "pipe.mp4").is_fifo() and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match="is a device or a pipe"):  # ffmpeg goes back and forth in what it writes
        video.check_writable(tmp_path / "pipe.mp4")


def test_a_locked_file_is_refused_and_goes_with_the_lock(tmp_path):
    path = tmp_path / "lock"
    with files.locked(path), pytest.raises(ValueError, match="working on"), files.locked(path):
        pass
    with files.locked(path):
        assert path.exists()
    assert not path.exists()


def test_a_lock_whose_file_is_gone_is_taken_anew(tmp_path, monkeypatch):
    """Its holder deletes it at the end; whoever opened it before that would hold what nobody else can see."""
    acquire, taken = files.filelock.FileLock.acquire, []

    def opened_before(lock, **how):
        held = acquire(lock, **how)
        if not taken:
            (tmp_path / "lock").unlink()
        taken.append(1)
        return held

    monkeypatch.setattr(files.filelock.FileLock, "acquire", opened_before)
    with files.locked(tmp_path / "lock"):
        assert (tmp_path / "lock").exists() and len(taken) == 2


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path):
    order = []

    def second():
        with files.locked(tmp_path / "lock", wait=True):
            order.append("second")

    with files.locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_file_system_without_locks_does_without(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(files.filelock.FileLock, "acquire", refuse)
    with files.locked(tmp_path / "new/.a.lock"):
        assert (tmp_path / "new").is_dir()


def test_file_systems_without_locks_do_without(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.filelock.FileLock, "acquire", fails)
    with files.locked(tmp_path / ".x.lock"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="Windows asks for a privilege to make links")
def test_links_stay_links(tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("there.json", "new.json"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk/there.json").write_text("old")
    for name in ("there.json", "new.json"):
        files.save(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink() and (tmp_path / "disk" / name).read_text() == "new"
    (tmp_path / "other.json").symlink_to(tmp_path / "disk/blob")  # whoever writes by suffix could not
    files.save(tmp_path / "other.json", "new")
    assert not (tmp_path / "other.json").is_symlink() and not (tmp_path / "disk/blob").exists()


@pytest.mark.parametrize("problem", [
    lambda partial: OSError(errno.ENOSPC, "full"),
    lambda partial: OSError("3200000 requested and 1572832 written"),
    lambda partial: OSError(errno.ENOSPC, "full", str(partial)),
    lambda partial: OSError(errno.ENOSPC, "full", "film.mp4", None, str(partial)),  # which was to be copied
])  # fmt: skip
def test_a_full_disk_is_told_with_the_file(tmp_path, problem):
    """Not "[Errno 28] No space left on device", of whatever."""
    with pytest.raises(OSError) as raised, files.atomic_write(tmp_path / "x.json") as partial:
        raise problem(partial)
    assert describe_error(raised.value) == f"{tmp_path / 'x.json'}: No space left on device" and is_disk_error(
        raised.value
    )


def test_half_an_array_is_a_full_disk():
    assert is_disk_error(OSError("3200000 requested and 1572832 written"))
    assert not is_disk_error(OSError("not a picture"))
