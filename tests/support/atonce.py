"""Tests whose cases run at the same time, each on nodes of its own; every case stays a test with its own result.

    cases = AtOnce()

    @pytest.fixture(scope="session")
    def running(request, ...):
        with cases.running(request, lab, explain) as started: ...

    @cases
    def test_that_the_sky_is_blue(lab): ...

The cases that were chosen start together with the first test that asks for `running`; each test then waits for its own.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import pytest

Subject = TypeVar("Subject")
MOST_SECONDS = 170.0
"""Every wait in a case is bounded; this only names a case that is not."""


@dataclass(frozen=True, slots=True)
class Running(Generic[Subject]):
    """The cases under way, by the names of their tests, and what they all run on."""

    futures: dict[str, "Future[None]"]
    subject: Subject

    def result(self, name: str) -> None:
        """Returns when the case is over; raises what it raised."""
        self.futures[name].result(MOST_SECONDS)

    def wait(self) -> None:
        """Returns when every case is over, whatever came of it."""
        for future in self.futures.values():
            future.exception(MOST_SECONDS)


class AtOnce(Generic[Subject]):
    """A decorator that makes a test of a case, and remembers the case."""

    def __init__(self) -> None:
        self._cases: dict[str, Callable[[Subject], None]] = {}

    def __call__(self, case: Callable[[Subject], None]) -> Callable[[Running[Subject]], None]:
        name = case.__name__
        assert name not in self._cases, f"two cases are called {name}"
        self._cases[name] = case

        def test(running: Running[Subject]) -> None:
            running.result(name)

        test.__name__, test.__doc__ = name, case.__doc__
        return test

    @contextlib.contextmanager
    def running(
        self, request: pytest.FixtureRequest, subject: Subject, explain: Callable[[str], str]
    ) -> Iterator[Running[Subject]]:
        """The chosen cases, started; on leaving, all of them have ended. `explain` adds logs to a failure."""
        chosen = {item.name for item in request.session.items}
        pool = ThreadPoolExecutor(max_workers=len(self._cases), thread_name_prefix="case")
        try:
            futures = {name: pool.submit(self._run, name, subject, explain) for name in self._cases if name in chosen}
            yield Running(futures, subject)
        finally:
            pool.shutdown(wait=True)

    def _run(self, name: str, subject: Subject, explain: Callable[[str], str]) -> None:
        threading.current_thread().name = name  # what a case makes can be told by it
        began = time.monotonic()
        try:
            self._cases[name](subject)
        except BaseException as error:
            error.add_note(f"after {time.monotonic() - began:.1f} s:\n{explain(name)}")
            raise
        finally:
            print(f"{name}: {time.monotonic() - began:.1f} s")
