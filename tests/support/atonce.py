"""Tests of one module whose cases run at the same time, each on nodes of its own; every case stays a test.

    cases = AtOnce()

    @pytest.fixture(scope="module")
    def running(request): ...
        with cases.running(request, lab) as running:
            yield running

    @cases
    def test_that_the_sky_is_blue(lab): ...

The cases that were chosen start together with the module's first test; each test then waits for its own.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pytest

Subject = TypeVar("Subject")
MOST_SECONDS = 170.0
"""Every wait in a case is bounded; this only names a case that is not."""


@dataclass(frozen=True, slots=True)
class Running:
    """The cases under way, by the names of their tests."""

    futures: dict[str, "Future[None]"]
    explain: Callable[[str], str]

    def result(self, name: str) -> None:
        """Returns when the case is over; raises what it raised, with the end of the logs."""
        try:
            self.futures[name].result(MOST_SECONDS)
        except BaseException as error:
            error.add_note(self.explain(name))
            raise

    def wait(self) -> None:
        """Returns when every case is over, whatever came of it."""
        for future in self.futures.values():
            future.exception(MOST_SECONDS)


class AtOnce(Generic[Subject]):
    """A decorator that makes a test of a case, and remembers the case."""

    def __init__(self) -> None:
        self._cases: dict[str, Callable[[Subject], None]] = {}

    def __call__(self, case: Callable[[Subject], None]) -> Callable[[Running], None]:
        name = case.__name__
        self._cases[name] = case

        def test(running: Running) -> None:
            running.result(name)

        test.__name__, test.__doc__ = name, case.__doc__
        return test

    @contextlib.contextmanager
    def running(
        self, request: pytest.FixtureRequest, subject: Subject, explain: Callable[[str], str]
    ) -> Iterator[Running]:
        """The chosen cases of the module, started; on leaving, all of them have ended."""
        module: Any = request.module
        chosen = {item.name for item in request.session.items if getattr(item, "module", None) is module}
        pool = ThreadPoolExecutor(max_workers=len(self._cases), thread_name_prefix="case")
        try:
            futures = {name: pool.submit(self._timed, name, subject) for name in self._cases if name in chosen}
            yield Running(futures, explain)
        finally:
            pool.shutdown(wait=True)

    def _timed(self, name: str, subject: Subject) -> None:
        began = time.monotonic()
        threading.current_thread().name = name  # what a case makes can be told by it
        try:
            self._cases[name](subject)
        finally:
            print(f"{name}: {time.monotonic() - began:.1f} s")
