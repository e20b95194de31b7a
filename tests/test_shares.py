"""Runs in several processes, simulated one after the other."""

from __future__ import annotations

import pytest

from shares import Share


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """``begin(rank)`` begins the share of one of three processes."""
    monkeypatch.setenv("WORLD_SIZE", "3")

    def begin_share(rank: int) -> Share:
        monkeypatch.setenv("RANK", str(rank))
        return Share.begin(tmp_path)

    return begin_share


def test_shares_cover_everything_once(begin):
    parts = [begin(rank).of(range(10)) for rank in range(3)]
    assert sorted(number for part in parts for number in part) == list(range(10))
    assert max(map(len, parts)) - min(map(len, parts)) == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_only_the_last_to_finish_gets_all_results(begin, tmp_path, order):
    shares = [begin(rank) for rank in range(3)]
    results = [shares[rank].finish({"made": rank}) for rank in order]
    assert results == [None, None, [{"made": 0}, {"made": 1}, {"made": 2}]]
    assert not list(tmp_path.iterdir())


def test_a_process_may_finish_before_another_begins(begin):
    assert [begin(rank).finish(rank) for rank in (2, 1, 0)] == [None, None, [0, 1, 2]]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_leftovers_of_a_stopped_run_are_ignored(begin, order):
    """In the run before, 0 and 1 had finished when 2 was killed."""
    stopped = [begin(rank) for rank in range(3)]
    assert stopped[0].finish("old") is stopped[1].finish("old") is None
    assert [begin(rank).finish(rank) for rank in order] == [None, None, [0, 1, 2]]


def test_one_process_needs_no_files(tmp_path):
    share = Share.begin(tmp_path / "never made")
    assert share.of([1, 2]) == [1, 2] and share.finish(0) == [0] and not list(tmp_path.iterdir())


def test_leftovers_of_another_run_cost_no_results(begin, monkeypatch):
    """Only its first process had begun; the new run's first began last, and used to clear the others' results."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "killed")
    begin(0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "new")
    assert [begin(rank).finish(rank) for rank in (2, 1, 0)] == [None, None, [0, 1, 2]]


def test_runs_with_the_same_name_are_distinguished(begin, monkeypatch):
    """By default, torchrun names all of them "none"; in the one that was killed, 1 had finished."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")

    def finish(run, rank, result):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", f"/tmp/torchelastic_x/none_{run}/attempt_0/{rank}/error.json")
        return begin(rank).finish(result)

    finish("killed", 1, "old")
    assert [finish("new", rank, rank) for rank in (2, 0, 1)] == [None, None, [0, 1, 2]]
