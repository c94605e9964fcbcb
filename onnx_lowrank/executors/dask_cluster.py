"""Workers of a dask cluster (extra `cluster`): the model is sent once to each."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from onnx_lowrank.errors import GoalError, RuntimeProblem
from onnx_lowrank.executors.executor import Work, unpacked
from onnx_lowrank.runtime.runner import first_line

PATIENCE = 10
"""Seconds in which a scheduler has to answer."""
LOOK = 0.02
"""Seconds between looks at what is done."""
RETRIES = 2
"""So often dask itself gives a piece to another worker when one dies."""


class DaskPool:
    """The workers of a scheduler. Each has as many threads as dask gave it."""

    def __init__(self, address: str) -> None:
        self._dask, self._address = _distributed(), address
        try:
            self._client = self._dask.Client(address, timeout=PATIENCE, set_as_default=False)
            self.workers = len(self._client.scheduler_info()["workers"])
        except (OSError, TimeoutError) as error:
            raise RuntimeProblem(f"no dask scheduler answers at {address} ({first_line(error)})") from error
        if not self.workers:
            self._client.close()
            raise RuntimeProblem(f"the dask scheduler at {address} has no workers: start some with `dask worker`")
        self._work: Any = None

    def tell(self, work: Work) -> None:
        """Send another work to every worker. Raises RuntimeProblem where the scheduler has gone."""
        packed = work.packed()
        sent = Sent(hashlib.sha256(packed).hexdigest(), packed)
        self._work = None  # lets go of the last one
        try:
            self._work = self._client.scatter(sent, broadcast=True, hash=False)
        except (OSError, TimeoutError) as error:
            raise self._gone() from error

    def submit(self, piece: Any) -> Any:
        """Return the future of a piece."""
        return self._client.submit(_run, self._work, piece, pure=False, retries=RETRIES)

    def done(self, futures: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Return those that are done, after so many seconds at the latest. Raises RuntimeProblem: no scheduler."""
        end = time.monotonic() + seconds
        while True:
            if self._client.status not in {"running", "connecting"}:
                raise self._gone()
            ready = [future for future in futures if future.done()]
            if ready or time.monotonic() >= end:
                return ready
            time.sleep(LOOK)

    def lost(self, error: BaseException) -> bool:
        """Return whether a worker is gone: dask says so where one died on a piece again and again."""
        if isinstance(error, self._dask.CancelledError):
            raise self._gone() from error
        return isinstance(error, self._dask.KilledWorker)

    def drop(self, futures: Sequence[Any]) -> None:
        """Give up pieces that nobody waits for; of a scheduler that has gone there are none."""
        closed = importlib.import_module("distributed.client").ClosedClientError
        with contextlib.suppress(OSError, closed, self._dask.CancelledError):
            self._client.cancel(futures, force=True)

    def _gone(self) -> RuntimeProblem:
        return RuntimeProblem(
            f"the dask scheduler at {self._address} has gone; with --cache the next run goes on from what is finished"
        )

    def close(self) -> None:
        """Leave the cluster; its workers go on for others."""
        self._client.close(timeout=PATIENCE)


@dataclass(frozen=True, slots=True)
class Sent:
    """What all pieces share, as it travels; unpacked once a worker. name: of its content."""

    name: str
    packed: bytes = field(compare=False, repr=False)

    def __call__(self) -> bytes:
        """Return its bytes."""
        return self.packed


def _run(sent: Sent, piece: Any) -> Any:
    function, shared = unpacked(sent)
    return function(shared, piece, _distributed().get_worker().state.nthreads)


def _distributed() -> ModuleType:
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise GoalError(
            "--executor dask://… needs dask, which is not installed: pip install 'onnx-lowrank[cluster]'"
        ) from error
