"""The loop over pieces: results in order, workers that die, pieces that take too long."""

from __future__ import annotations

import pytest
from executors_work import Here, Instant, dies_once, refuses, squares

from onnx_lowrank.errors import GoalError, RuntimeProblem
from onnx_lowrank.executors import Work, executor, in_order, opened
from onnx_lowrank.options import Options


@pytest.mark.parametrize("workers", [1, 2, 5, 20])
def test_results_are_in_the_order_of_the_pieces(workers):
    pool = Here(Work(squares, 7), workers)
    assert list(in_order(pool, range(11))) == [(7 + i * i, 1) for i in range(11)]


def test_results_that_wait_for_an_earlier_one_are_few():
    pool = Here(Work(squares, 0), 3)  # the last piece is done first
    results = in_order(pool, range(100))
    assert next(results) == (0, 1)
    assert len(pool.futures) <= executor.AHEAD * 3 + 1
    assert len(list(results)) == 99


def test_what_the_work_raises_comes_as_it_is():
    with pytest.raises(ValueError, match="piece 0"):
        list(in_order(Here(Work(refuses, None), 1), range(3)))


class Losing(Here):
    """A pool of which the first workers are lost."""

    def __init__(self, losses: int) -> None:
        super().__init__(Work(squares, 0))
        self.losses = losses

    def submit(self, piece: int) -> Instant:
        future = super().submit(piece)
        if self.losses and piece == 1:
            self.losses -= 1
            future.value = ConnectionError("gone")
        return future


def test_pieces_of_lost_workers_are_done_by_others():
    said: list[str] = []
    assert [value for value, _ in in_order(Losing(2), range(4), said.append)] == [0, 1, 4, 9]
    assert len(said) == 2
    assert "a worker died" in said[0]


def test_a_piece_that_kills_every_worker_ends_it_in_one_line():
    pool = Losing(99)
    with pytest.raises(RuntimeProblem, match="3 workers died on the same samples"):
        list(in_order(pool, range(4)))


class Slow(Here):
    """A pool in which the first copy of piece 2 is never done."""

    def submit(self, piece: int) -> Instant:
        future = super().submit(piece)
        future.never = piece == 2 and len(self.futures) < 4
        return future


def test_a_worker_that_is_too_slow_is_worked_around(monkeypatch):
    monkeypatch.setattr(executor, "LEAST", 0.0)
    pool = Slow(Work(squares, 0), 3)
    assert [value for value, _ in in_order(pool, range(5))] == [0, 1, 4, 9, 16]
    assert pool.futures[2] in pool.dropped


def test_a_local_worker_that_is_killed_is_replaced_and_workers_share_the_threads(tmp_path):
    work, said = Work(dies_once, str(tmp_path / "mark")), list[str]()
    with opened("local:2", work, threads=6) as pool:
        assert list(in_order(pool, range(5), said.append)) == [(i, 3) for i in range(5)]
    assert said
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("spec", ["local", "local:0", "local:x", "dask://host", "tcp://host:1", "processes", ""])
def test_an_executor_that_is_none(spec):
    with pytest.raises(GoalError, match="unknown executor"):
        Options(executor=spec)


def test_no_scheduler_is_one_line(monkeypatch):
    monkeypatch.setattr("onnx_lowrank.executors.dask_cluster.PATIENCE", 1)
    with (
        pytest.raises(RuntimeProblem, match=r"no dask scheduler answers at tcp://127.0.0.1:9"),
        opened("dask://127.0.0.1:9", Work(squares, 0), threads=1),
    ):
        pass
