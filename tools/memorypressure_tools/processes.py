"""Child processes that end with this process, whatever ends it, and that say why they ended."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeAlias

STOP_SECONDS: Final = 3.0
LOG_TAIL_LINES: Final = 20
_SHIM: Final = Path(__file__).resolve().with_name("exec_tied.py")

_Start: TypeAlias = Callable[[], "subprocess.Popen[bytes]"]


class ChildDiedError(Exception):
    """A child ended that should run; the text holds its exit code and the end of its log."""


class _Spawner:
    """Starts every child from one thread that lives as long as the process.

    PR_SET_PDEATHSIG follows the *thread* that forked: a child started from a test's short-lived thread would be killed
    when that thread returns.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[_Start, Future[subprocess.Popen[bytes]]]] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, start: _Start) -> subprocess.Popen[bytes]:
        with self._guard:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._loop, name="spawner", daemon=True)
                self._thread.start()
        answer: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((start, answer))
        return answer.result()

    def _loop(self) -> None:
        while True:
            start, answer = self._jobs.get()
            try:
                answer.set_result(start())
            except BaseException as error:  # noqa: BLE001 -- handed to the caller, which raises it
                answer.set_exception(error)


_spawner = _Spawner()


class Child:
    """One running program of ours, known by its pid; its output goes to a log file."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path, directory: Path) -> None:
        self.name = name
        self.log = log
        words = [str(word) for word in command]
        shim = [sys.executable, "-I", "-S", str(_SHIM), str(os.getpid())]
        with log.open("ab") as output:
            self._process = _spawner.run(
                lambda: subprocess.Popen(
                    [*shim, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=directory,
                    start_new_session=True,  # a Ctrl-C for the tests must not take the servers before them
                )
            )

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self._process.pid

    def alive(self) -> bool:
        """True while the program runs."""
        return self._process.poll() is None

    def tail(self) -> str:
        """The last lines of the program's log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(f"  {line[:400]}" for line in lines)

    def check(self) -> None:
        """Raises ChildDiedError with the end of the log when the program is gone."""
        code = self._process.poll()
        if code is not None:
            raise ChildDiedError(
                f"{self.name} (pid {self.pid}) ended with code {code}; end of {self.log}:\n{self.tail()}"
            )

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the program, if it still runs."""
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Stops the program until SIGCONT; returns when none of its threads runs: SIGSTOP reaches them one by one."""
        self._process.send_signal(signal.SIGSTOP)
        end = time.monotonic() + STOP_SECONDS
        while not all(_stopped(stat) for stat in Path(f"/proc/{self.pid}/task").glob("*/stat")):
            self.check()
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name} (pid {self.pid}) still runs {STOP_SECONDS:.0f} s after SIGSTOP")
            time.sleep(0.005)

    def stop(self, *, hard: bool = False) -> None:
        """Ends the program: TERM and after 3 seconds KILL, or KILL at once; returns when it is gone."""
        if hard:
            self._process.kill()
        else:
            self._process.send_signal(signal.SIGCONT)  # a stopped program would not see TERM
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)


def _stopped(stat: Path) -> bool:
    """Whether the thread of a /proc/.../stat is stopped, or gone (proc_pid_stat(5): the state follows the name)."""
    try:
        return stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] in "TtXZ"
    except (FileNotFoundError, ProcessLookupError):
        return True
