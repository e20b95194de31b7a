"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import sys
import threading

import numpy as np
import pytest

import files
import video
from errors import UserError, describe_error, is_disk_error


def test_file_appears_once_it_is_complete(tmp_path):
    path = tmp_path / "new/folder/a.json"
    with files.atomic_write(path) as partial:
        partial.write_text("half")
        assert not path.exists() and partial.suffix == ".json"
        partial.write_text("whole")
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_failure_keeps_the_old_file_and_leaves_no_other(tmp_path):
    files.save(tmp_path / "a", b"old")
    with pytest.raises(OSError, match="full"), files.atomic_write(tmp_path / "a") as partial:
        partial.write_text("half")
        raise OSError("the disk is full")
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes with names")
def test_special_files_are_written_to_not_replaced(tmp_path):
    """Otherwise root would replace /dev/null with a table."""
    os.mkfifo(tmp_path / "pipe.mp4")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe.mp4").read_bytes()), daemon=True)
    reader.start()
    files.save(tmp_path / "pipe.mp4", "all of it")
    reader.join()
    assert read == [b"all of it"] and (tmp_path / "pipe.mp4").is_fifo() and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match="is a device or a pipe"):  # ffmpeg has to seek in its output
        video.check_writable(tmp_path / "pipe.mp4")


def test_second_lock_is_refused_and_its_file_is_deleted(tmp_path):
    path = tmp_path / "lock"
    with files.locked(path), pytest.raises(ValueError, match="working on"), files.locked(path):
        pass
    with files.locked(path):
        assert path.exists()
    assert not path.exists()


def test_lock_is_retaken_if_its_file_was_deleted(tmp_path, monkeypatch):
    """Its holder deletes it at the end; a process that opened it before would hold a lock that no other sees."""
    acquire, attempts = files.filelock.FileLock.acquire, []

    def acquire_deleted_once(lock, **how):
        result = acquire(lock, **how)
        if not attempts:
            (tmp_path / "lock").unlink()
        attempts.append(1)
        return result

    monkeypatch.setattr(files.filelock.FileLock, "acquire", acquire_deleted_once)
    with files.locked(tmp_path / "lock"):
        assert (tmp_path / "lock").exists() and len(attempts) == 2


def test_waiting_gets_the_lock_once_it_is_free(tmp_path):
    order = []

    def second():
        with files.locked(tmp_path / "lock", wait=True):
            order.append("second")

    with files.locked(tmp_path / "lock"):
        thread = threading.Thread(target=second, daemon=True)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_locks_are_skipped_where_they_are_not_implemented(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(files.filelock.FileLock, "acquire", refuse)
    with files.locked(tmp_path / "new/.a.lock"):
        assert (tmp_path / "new").is_dir()


def test_locks_are_skipped_where_none_are_available(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.filelock.FileLock, "acquire", refuse)
    with files.locked(tmp_path / ".x.lock"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="Windows asks for a privilege to make links")
def test_symbolic_links_are_kept(tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("there.json", "new.json"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk/there.json").write_text("old")
    for name in ("there.json", "new.json"):
        files.save(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink() and (tmp_path / "disk" / name).read_text() == "new"
    (tmp_path / "other.json").symlink_to(tmp_path / "disk/blob")  # not followed: formats go by suffix
    files.save(tmp_path / "other.json", "new")
    assert not (tmp_path / "other.json").is_symlink() and not (tmp_path / "disk/blob").exists()


@pytest.mark.parametrize("problem", [
    lambda partial: OSError(errno.ENOSPC, "full"),
    lambda partial: OSError("3200000 requested and 1572832 written"),
    lambda partial: OSError(errno.ENOSPC, "full", str(partial)),
    lambda partial: OSError(errno.ENOSPC, "full", "film.mp4", None, str(partial)),  # as when copying
])  # fmt: skip
def test_error_of_a_full_disk_names_the_file(tmp_path, problem):
    """Not just "[Errno 28] No space left on device"."""
    with pytest.raises(OSError) as raised, files.atomic_write(tmp_path / "x.json") as partial:
        raise problem(partial)
    assert describe_error(raised.value) == f"{tmp_path / 'x.json'}: No space left on device" and is_disk_error(
        raised.value
    )


def test_half_written_array_is_a_disk_error():
    assert is_disk_error(OSError("3200000 requested and 1572832 written"))
    assert not is_disk_error(OSError("not a picture"))


def test_of_a_film_only_samples_are_read(tmp_path, monkeypatch):
    """Before the first frame, all of eight gigabytes used to be."""
    monkeypatch.setattr(files, "MAX_WHOLE", 1000)
    monkeypatch.setattr(files, "SAMPLE_BYTES", 10)
    content = np.random.default_rng(0).bytes(100_000)

    def digest(name, content, date=0):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (date, date))
        return files.sampled_digest(tmp_path / name)

    assert digest("a", content) == digest("b", content)
    others = [b"x" + content[1:], content[:-1] + b"x", content[:5] + b"x" + content[6:], content + b"x"]
    digests = [digest(f"{n}", other) for n, other in enumerate(others)]
    assert len({*digests, digest("a", content), digest("later", content, 9)}) == 6
    assert digest("small", content[:1000]) == files.digest(tmp_path / "small")
