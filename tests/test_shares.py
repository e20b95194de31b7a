"""Runs in several processes, played one after the other."""

from __future__ import annotations

import pytest

from shares import Share


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """``begin(rank)`` begins the part of one of three processes."""
    monkeypatch.setenv("WORLD_SIZE", "3")

    def play(rank: int) -> Share:
        monkeypatch.setenv("RANK", str(rank))
        return Share.begin(tmp_path)

    return play


def test_shares_are_everything_once(begin):
    parts = [begin(rank).of(range(10)) for rank in range(3)]
    assert sorted(number for part in parts for number in part) == list(range(10))
    assert max(map(len, parts)) - min(map(len, parts)) == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_only_the_last_to_finish_hears_of_all(begin, tmp_path, order):
    shares = [begin(rank) for rank in range(3)]
    heard = [shares[rank].finish({"made": rank}) for rank in order]
    assert heard == [None, None, [{"made": 0}, {"made": 1}, {"made": 2}]]
    assert not list(tmp_path.iterdir())


def test_a_process_may_finish_before_another_begins(begin):
    assert [begin(rank).finish(rank) for rank in (2, 1, 0)] == [None, None, [0, 1, 2]]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_what_a_stopped_run_left_counts_for_nothing(begin, order):
    """Of the run before, 0 and 1 had finished when 2 was killed."""
    stopped = [begin(rank) for rank in range(3)]
    assert stopped[0].finish("old") is stopped[1].finish("old") is None
    assert [begin(rank).finish(rank) for rank in order] == [None, None, [0, 1, 2]]


def test_one_process_needs_no_files(tmp_path):
    share = Share.begin(tmp_path / "never made")
    assert share.of([1, 2]) == [1, 2] and share.finish(0) == [0] and not list(tmp_path.iterdir())


def test_what_another_run_left_takes_nothing_from_this_one(begin, monkeypatch):
    """Only its first process had begun; the first of the new run began last, and cleared what the others had done."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "killed")
    begin(0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "new")
    assert [begin(rank).finish(rank) for rank in (2, 1, 0)] == [None, None, [0, 1, 2]]


def test_runs_without_a_name_of_their_own_are_told_apart(begin, monkeypatch):
    """torchrun calls all of them "none" unless told; of the one that was killed, 1 had finished."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")

    def finish(run, rank, result):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", f"/tmp/torchelastic_x/none_{run}/attempt_0/{rank}/error.json")
        return begin(rank).finish(result)

    finish("killed", 1, "old")
    assert [finish("new", rank, rank) for rank in (2, 0, 1)] == [None, None, [0, 1, 2]]
