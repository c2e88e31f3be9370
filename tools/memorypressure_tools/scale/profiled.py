"""`python -m memorypressure_tools.scale.profiled FILE run ...`: the operator, and in FILE where its time went.

A sampler of its own: every 5 ms the innermost frames of all threads, and which of them were on a CPU is told by their
CPU clocks. cProfile sees one thread only and slows it down threefold.
"""

import atexit
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


def _sample(counts: Counter[tuple[str, str]], stop: threading.Event) -> None:
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
            if now - clocks.get(ident, now) > PERIOD_SECONDS / 5:
                counts[name, _stack(frame)] += 1
            clocks[ident] = now


def run() -> int:
    path = Path(sys.argv[1])
    counts: Counter[tuple[str, str]] = Counter()
    stop = threading.Event()

    def write() -> None:
        stop.set()
        lines = [f"{count:7d}  {name:24s} {stack}" for (name, stack), count in counts.most_common(400)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    atexit.register(write)
    threading.Thread(target=_sample, args=(counts, stop), name="profile", daemon=True).start()
    return main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(run())
