"""Threads for small products: results in order, each on one BLAS thread, errors passed on."""

from __future__ import annotations

import threading

import pytest
from threadpoolctl import threadpool_info

from onnx_lowrank.numerics import linalg


@pytest.mark.parametrize("way", ["each", "map_striped"])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_come_in_order(way: str, threads: int):
    with linalg.Workers(threads) as workers:
        assert getattr(workers, way)(lambda number: -number, range(7)) == [0, -1, -2, -3, -4, -5, -6]
        assert getattr(workers, way)(lambda number: number, []) == []


@pytest.mark.parametrize("way", ["each", "map_striped"])
def test_as_many_threads_as_asked_for_work_at_a_time(way: str):
    together = threading.Barrier(2)
    with linalg.Workers(2) as workers:
        assert len(getattr(workers, way)(lambda _: together.wait(timeout=30), [0, 1])) == 2


def test_blas_has_one_thread_while_they_work():
    def blas() -> set[int]:
        return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}

    before = blas()
    with linalg.Workers(2) as workers:
        assert all(found == {1} for found in workers.each(lambda _: blas(), range(3)))
    assert blas() == before


@pytest.mark.parametrize("way", ["each", "map_striped"])
def test_an_error_is_passed_on(way: str):
    with linalg.Workers(2) as workers, pytest.raises(ZeroDivisionError):
        getattr(workers, way)(lambda number: 1 // number, [1, 0, 2])
