"""A program that runs until Ctrl-C or `down`, in a terminal or in the background; its lock says whether it runs.

Its directory holds `lock`, `state.json` (what others have to know: for its owner only), and the output of one that runs
in the background.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

DOWN_SECONDS: Final = 30.0
READY_SECONDS: Final = 3600.0
CHECK_SECONDS: Final = 1.0


class RunsAlreadyError(Exception):
    """One of that directory runs; the text says how to see and end it."""


class _Stop(Exception):  # noqa: N818 -- no error: the user ends the program
    pass


@dataclass(frozen=True, slots=True)
class Background:
    """The one program of a directory; `what` is its name in messages, for example "a control plane"."""

    directory: Path
    what: str
    down_command: str = "down"

    def read(self) -> dict[str, Any] | None:
        """What the running one has published, {} while it starts, None when none runs: the lock tells, not a pid."""
        try:
            with (self.directory / "lock").open("r+", encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            with contextlib.suppress(FileNotFoundError, ValueError):
                document: dict[str, Any] = json.loads((self.directory / "state.json").read_text(encoding="utf-8"))
                return document
            return {}
        return None

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """A block as the running one; TERM, HUP and Ctrl-C end it without an error. RunsAlreadyError when one runs."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._runs_already() from None

            def stop(_number: int, _frame: object) -> None:
                raise _Stop

            handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
            (self.directory / "state.json").unlink(missing_ok=True)
            self._write("starting.json", {"pid": os.getpid()})
            try:
                yield
            except (_Stop, KeyboardInterrupt):
                print("stopped")
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
                for name in ("state.json", "starting.json"):
                    (self.directory / name).unlink(missing_ok=True)

    def run(self, check: Callable[[], None]) -> None:
        """Calls `check` every second, until it raises, the program is ended, or its directory is removed.

        Without the directory nobody would find it again to end it: a checkout that is deleted takes it along.
        """
        held = (self.directory / "lock").stat().st_ino
        while True:
            time.sleep(CHECK_SECONDS)
            check()
            try:
                there = (self.directory / "lock").stat().st_ino == held
            except FileNotFoundError:
                there = False
            if not there:
                print(f"{self.directory} was removed: {self.what} of it ends", file=sys.stderr)
                return

    def publish(self, document: Mapping[str, Any]) -> None:
        """Says that the program is ready, and what others have to know; the pid is added."""
        self._write("state.json", {"pid": os.getpid(), **document})

    def _write(self, name: str, document: Mapping[str, Any]) -> None:
        temporary = self.directory / f"{name}.new"
        temporary.unlink(missing_ok=True)
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.directory / name)

    def _runs_already(self) -> RunsAlreadyError:
        return RunsAlreadyError(
            f"{self.what} of {self.directory} runs already; see `status`, end it with `{self.down_command}`"
        )

    def start(self, module: str, words: Sequence[str]) -> int:
        """Starts `python -m module words` in a session of its own; 0 when it is ready, else its code and its output."""
        if self.read() is not None:
            raise self._runs_already()
        self.directory.mkdir(parents=True, exist_ok=True)
        output, progress = self.directory / "up.log", self.directory / "progress.log"
        with output.open("w", encoding="utf-8") as log, progress.open("w", encoding="utf-8") as errors:
            # Files, not this process's own output: a pipe that it holds open would keep its reader waiting for ever.
            process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=errors,
                start_new_session=True,
            )
        with progress.open(encoding="utf-8") as lines:
            try:
                return self._until_ready(process, output, lines)
            except KeyboardInterrupt:
                process.terminate()
                process.wait(DOWN_SECONDS)
                raise

    def _until_ready(self, process: subprocess.Popen[bytes], output: Path, progress: TextIO) -> int:
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            code = process.poll()
            document = None if code is not None else self.read()
            print(progress.read(), end="", file=sys.stderr, flush=True)
            if code is not None:
                print(output.read_text(encoding="utf-8"), end="")
                return code or 1
            if document:
                print(output.read_text(encoding="utf-8"), end="")
                process.returncode = 0  # it goes on without this process, which must not warn about that
                return 0
            time.sleep(0.1)
        process.terminate()
        print(f"not ready after {READY_SECONDS:.0f} s", file=sys.stderr)
        return 1

    def down(self) -> int:
        """Ends the running one, by its pid, and returns when it is gone: 0; 1 when it does not go."""
        document = self.read()
        if document is None:
            print(f"no {self.what.removeprefix('a ')} runs")
            return 0
        pid = document.get("pid") or self._starting_pid()
        end = time.monotonic() + DOWN_SECONDS
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        while self.read() is not None:
            if time.monotonic() > end:
                print(f"pid {pid or 'unknown'} still runs after {DOWN_SECONDS:.0f} s", file=sys.stderr)
                return 1
            time.sleep(0.1)
        print("stopped")
        return 0

    def _starting_pid(self) -> int | None:
        try:
            return int(json.loads((self.directory / "starting.json").read_text(encoding="utf-8"))["pid"])
        except (FileNotFoundError, ValueError, KeyError):
            return None
