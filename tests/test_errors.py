"""Errors in the work on one of many files."""

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
def test_failure_is_kept_with_its_reason(problem, reason):
    with CatchFailure() as caught:
        raise problem
    assert caught.failure is problem and caught.reason == reason


def test_errors_of_opencv_are_caught_too():
    """They are no RuntimeErrors: one odd picture used to end an evaluation of days."""
    with CatchFailure() as caught:
        cv2.resize(cv2.UMat(), (0, 0))
    assert isinstance(caught.failure, cv2.error) and caught.reason.startswith("error: OpenCV")


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), MemoryError(), KeyError("x")])
def test_errors_that_are_not_of_one_file_are_raised(problem):
    with pytest.raises(type(problem)), CatchFailure():
        raise problem


def test_failure_keeps_no_frames_alive():
    """An exception refers to where it came from: the frames and networks of every video that failed."""

    class Frames:
        pass

    def fail(frames):
        raise RuntimeError("out of memory") from ValueError("of another")

    def attempt():
        frames = Frames()
        alive.append(weakref.ref(frames))
        with CatchFailure() as caught:
            fail(frames)
        failures.append(caught.failure)

    alive, failures = [], []
    gc.disable()
    try:
        attempt()
        assert alive[0]() is None and str(failures[0]) == "out of memory"
    finally:
        gc.enable()


def test_no_failure_after_success():
    with CatchFailure() as caught:
        pass
    assert caught.failure is None
