"""What goes wrong with one of many files."""

from __future__ import annotations

import errno
import gc
import weakref

import cv2
import pytest

from errors import CatchFailure, UserError


@pytest.mark.parametrize("problem, reason", [
    (UserError("no face;\nshow one"), "no face; show one"),
    (OSError(5, "the disk broke"), "the disk broke"),
    (ValueError("shapes differ"), "ValueError: shapes differ"),
    (RuntimeError(), "RuntimeError: "),
])  # fmt: skip
def test_what_goes_wrong_with_one_of_many_is_told(problem, reason):
    with CatchFailure() as one:
        raise problem
    assert one.failure is problem and one.reason == reason


def test_opencvs_errors_count_as_well():
    """They are no RuntimeErrors: one odd picture ended an evaluation of days."""
    with CatchFailure() as one:
        cv2.resize(cv2.UMat(), (0, 0))
    assert isinstance(one.failure, cv2.error) and one.reason.startswith("error: OpenCV")


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), MemoryError(), KeyError("x")])
def test_what_the_next_would_meet_too_is_raised(problem):
    with pytest.raises(type(problem)), CatchFailure():
        raise problem


def test_what_failed_is_let_go():
    """An exception keeps what it came from: frames and networks of every video that failed."""

    class Frames:
        pass

    def fail(frames):
        raise RuntimeError("out of memory") from ValueError("of another")

    def attempt():
        frames = Frames()
        alive.append(weakref.ref(frames))
        with CatchFailure() as one:
            fail(frames)
        kept.append(one.failure)

    alive, kept = [], []
    gc.disable()
    try:
        attempt()
        assert alive[0]() is None and str(kept[0]) == "out of memory"
    finally:
        gc.enable()


def test_nothing_goes_wrong():
    with CatchFailure() as one:
        pass
    assert one.failure is None
