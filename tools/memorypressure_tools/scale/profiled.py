"""`python -m memorypressure_tools.scale.profiled FILE run ...`: the operator, and in FILE-N.txt where its time went.

SIGUSR1 ends a part, and begins the next: FILE-1.txt is until the first signal, and so on; the last part ends with it.

A sampler of its own: every 5 ms the innermost frames of all threads, and which of them were on a CPU is told by their
CPU clocks. cProfile sees one thread only and slows it down threefold.
"""

import atexit
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from memorypressure_operator.cli import main

PERIOD_SECONDS = 0.005
DEPTH = 14


def _stack(frame: FrameType | None) -> str:
    words: list[str] = []
    while frame is not None and len(words) < DEPTH:
        code = frame.f_code
        words.append(f"{Path(code.co_filename).stem}.{code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(words)


def _sample(counts: Counter[tuple[str, str]], used: dict[str, float], stop: threading.Event) -> None:
    clocks: dict[int, float] = {}
    while not stop.wait(PERIOD_SECONDS):
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():  # noqa: SLF001  the one way to see other threads
            name = names.get(ident, "?")
            if ident == threading.get_ident():
                continue
            try:
                now = time.clock_gettime(time.pthread_getcpuclockid(ident))
            except (OSError, ProcessLookupError):
                continue
            used[name] = used.get(name, 0.0) + now - clocks.get(ident, now)
            if now - clocks.get(ident, now) > PERIOD_SECONDS / 5:
                counts[name, _stack(frame)] += 1
            clocks[ident] = now


def run() -> int:
    """The operator's exit code."""
    stem = sys.argv[1]
    counts: Counter[tuple[str, str]] = Counter()
    used: dict[str, float] = {}  # thread -> seconds on a CPU: exact, where the frames are only samples
    stop = threading.Event()
    parts, since = 0, time.monotonic()

    def write(*_: object) -> None:
        nonlocal parts, since
        parts += 1
        span, since = time.monotonic() - since, time.monotonic()
        lines = [f"{100 * took / span:6.2f} %  {name}" for name, took in sorted(used.items(), key=lambda row: -row[1])]
        used.clear()
        lines += [f"{count:7d}  {name:24s} {stack}" for (name, stack), count in counts.most_common(400)]
        Path(f"{stem}-{parts}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        counts.clear()

    def end() -> None:
        stop.set()
        write()

    atexit.register(end)
    signal.signal(signal.SIGUSR1, write)
    threading.Thread(target=_sample, args=(counts, used, stop), name="profile", daemon=True).start()
    return main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(run())
