"""What the process asks of the kernel for itself: memory that stays, descriptors, real time, reaping a victim."""

import errno
import gc
import os
import resource
import sys
import time
from collections.abc import Iterator
from typing import Final

from memorypressure_agent.sentinel.libc import call

MCL_CURRENT: Final = 1
MCL_FUTURE: Final = 2
MCL_ONFAULT: Final = 4
"""Lock pages as they are touched (Linux 4.4). Without it every thread's stack and all of libpython would be filled."""
MADV_DONTNEED: Final = 4
MADV_DONTDUMP: Final = 16
MADV_POPULATE_READ: Final = 22
"""Linux 5.14, as `cgroup.kill`."""
FAULT_AROUND_BYTES: Final = 16 << 10
"""A page fault in a file maps what the page cache has around it, up to 64 KiB (`do_fault_around`, mm/memory.c), and all
of it is locked then: 2 MB that nothing runs. It stays within its mapping, so mappings of this size keep it smaller."""
DATA_AROUND_BYTES: Final = 8 << 10
"""The same in the data of libraries, where what is used lies further apart than in code."""
SYS_PROCESS_MRELEASE: Final = 448
"""The same number on every architecture (Linux 5.15)."""
REALTIME_PRIORITY: Final = 10
WANTED_DESCRIPTORS: Final = 16384
"""250 candidates of 8 containers with 7 files each."""
POOL_BYTES: Final = 16 << 10
"""Of CPython's small objects of one size (Objects/obmalloc.c, 3.10 to 3.14)."""
LARGEST_RESERVED_BYTES: Final = 256
LARGE_RESERVED_BYTES: Final = 64 << 10

_MRELEASE_ATTEMPTS = 20
_MRELEASE_PAUSE_SECONDS = 0.005


def lock_memory() -> str:
    """Keeps the process's touched pages in memory, now and later; empty, or why not."""
    failed, number = call("mlockall", MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)
    if not failed:
        return ""
    return f"mlockall: {os.strerror(number)} (needs IPC_LOCK or a higher RLIMIT_MEMLOCK)"


def become_realtime(thread_id: int = 0, priority: int = REALTIME_PRIORITY) -> str:
    """Puts a thread (0: the calling one) under SCHED_FIFO; empty, or why not."""
    try:
        os.sched_setscheduler(thread_id, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return f"SCHED_FIFO: {error.strerror} (needs SYS_NICE)"
    return ""


def end_realtime(thread_id: int = 0) -> None:
    """Puts a thread (0: the calling one) back under the usual scheduling."""
    os.sched_setscheduler(thread_id, os.SCHED_OTHER, os.sched_param(0))


def raise_descriptor_limit() -> int:
    """Raises the soft limit of open files towards what many candidates need; the limit then in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def stop_collecting() -> None:
    """Ends garbage collection: what start-up made stays, and the loops make no reference cycles."""
    gc.collect()
    gc.freeze()
    gc.disable()


def reserve_heap() -> None:
    """Touches heap that is free then: what a kill adds to it takes no page from a machine that has none to give.

    Small objects lie in pools of one size each, whose pages are touched one after the other as they fill; they stay
    when they are empty. Larger ones are the C library's, which keeps up to its trim threshold.
    """
    smallest = list(range(1 << 20, (1 << 20) + POOL_BYTES // 32))  # of 32 bytes; bytes take 33 more than they hold
    small = [[bytes(size) for _ in range(POOL_BYTES // size)] for size in range(15, LARGEST_RESERVED_BYTES, 16)]
    large = b"\1" * LARGE_RESERVED_BYTES  # zeros would be pages that are not touched
    del smallest, small, large


def use_rare_code() -> None:
    """Uses what a loop uses seldom of other files than the interpreter's code: its tables for numbers, and limits."""
    for number in (0.0, 0.1, 1e-05, 123456.789, 2e22, 1.5e300):
        f"{number!r} {number:.1f} {number:.3g}"
    resource.getrlimit(resource.RLIMIT_NOFILE)


def empty_free_lists() -> None:
    """Gives what the interpreter keeps of small tuples, floats and the like back to its heap, to be used again.

    It keeps up to 2,000 of each kind and fills these lists up for an hour, a page at a time, which with locked memory
    are page faults. A collection empties them; what start-up made is frozen, so it looks at little and takes 0.1 ms.
    """
    gc.collect()


def share_the_interpreter_quickly() -> None:
    """Lets the sampler have the interpreter within 0.1 ms of asking; by default the helper may keep it for 5 ms.

    The round of a kill gives it up at each of its ten system calls, and the helper has work at that very moment.
    """
    sys.setswitchinterval(0.0001)


def give_back_startup_pages() -> int:
    """Drops what only start-up touched of the interpreter's files, and free heap; kibibytes that were given back.

    Only read-only file mappings in which no page was ever changed, so the kernel can read each of them again. They are
    split first, by an advice that means nothing for them: every other chunk is to be left out of core dumps. Comes
    before `lock_memory` and before a rehearsal of the loop, which brings back and then keeps what is really used.
    """
    try:
        call("malloc_trim", 0)
    except OSError:
        return 0  # another C library than glibc (musl)
    before = _resident_kib()
    try:
        with open("/proc/self/smaps", encoding="ascii", errors="replace") as file:
            mappings = _unchanged_file_mappings(file.read())
    except OSError:
        return 0
    for start, end, around_bytes in mappings:
        for chunk, size in every_other_chunk(start, end, max(around_bytes, os.sysconf("SC_PAGE_SIZE"))):
            call("madvise", chunk, size, MADV_DONTDUMP)
        call("madvise", start, end - start, MADV_DONTNEED)
    return max(0, before - _resident_kib())


def bring_in_code() -> str:
    """Reads in the interpreter's code, all of it, to be there when memory is locked; empty, or why it is not.

    A branch that no rehearsal took is read from a disk when it is first taken, into memory that has to be reclaimed, if
    that is when memory is short; in the lab it once held the sampler for 9 s (`docs/decisions`, a kill is rehearsed to
    its end). The interpreter is the file of which most is mapped as code.
    """
    code: dict[str, list[tuple[int, int]]] = {}
    try:
        with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
            for line in file:
                words = line.split()
                if len(words) >= 6 and words[1] == "r-xp" and words[5].startswith("/"):
                    low, high = words[0].split("-")
                    code.setdefault(words[5], []).append((int(low, 16), int(high, 16)))
        for start, end in max(code.values(), key=lambda parts: sum(end - start for start, end in parts), default=[]):
            failed, number = call("madvise", start, end - start, MADV_POPULATE_READ)
            if failed:
                return f"the interpreter's code is not read in: MADV_POPULATE_READ: {os.strerror(number)} (Linux 5.14)"
    except OSError as error:
        return f"the interpreter's code is not read in: {error.strerror or error}"
    return ""


def every_other_chunk(start: int, end: int, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """(address, bytes) of the first, third, ... chunk of a mapping; the last one ends with it."""
    for address in range(start, end, 2 * chunk_bytes):
        yield address, min(chunk_bytes, end - address)


def mrelease_capability() -> str:
    """Whether a victim's memory can be taken from it while it dies: empty, or why not."""
    if _mrelease(-1) == errno.ENOSYS:
        return "the kernel has no process_mrelease (5.15 and later have)"
    try:
        os.close(os.pidfd_open(1))
    except OSError as error:
        return f"pidfd_open: {error.strerror}"
    # PID 1 of our own PID namespace is the agent itself or its pod's sandbox, unless the pod shares the host's.
    try:
        with open("/proc/1/comm", encoding="utf-8", errors="replace") as file:
            first = file.read().strip()
    except OSError:
        return ""
    own = os.getpid() == 1 or first in ("pause", os.path.basename(sys.executable))
    return "the pods' processes are not visible (needs hostPID)" if own else ""


def release_memory(pid: int) -> str:
    """Frees a killed process's memory without waiting for it to exit; empty when done or gone, else why not."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return ""
    except OSError as error:
        return f"pidfd_open: {error.strerror}"
    try:
        for _ in range(_MRELEASE_ATTEMPTS):
            failure = _mrelease(descriptor)
            if failure in (0, errno.ESRCH):
                return ""
            # EAGAIN: its mmap lock is held. EINVAL: it has not begun to die. Both pass.
            if failure not in (errno.EAGAIN, errno.EINVAL):
                return f"process_mrelease: {os.strerror(failure)}"
            time.sleep(_MRELEASE_PAUSE_SECONDS)
    finally:
        os.close(descriptor)
    return "process_mrelease: not done in time"


def _mrelease(descriptor: int) -> int:
    """The errno of process_mrelease, 0 for success."""
    return call("syscall", SYS_PROCESS_MRELEASE, descriptor, 0)[1]


def _resident_kib() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def _unchanged_file_mappings(smaps: str) -> list[tuple[int, int, int]]:
    """The read-only file mappings of /proc/self/smaps without pages of their own: start, end, bytes around a fault."""
    found = []
    start = end = around_bytes = 0
    for line in smaps.splitlines():
        words = line.split()
        if not words:
            continue
        if "-" in words[0] and len(words) >= 5 and not words[0].endswith(":"):
            start = end = 0
            if len(words) >= 6 and words[5].startswith("/") and words[1] in ("r-xp", "r--p"):
                low, high = words[0].split("-")
                start, end = int(low, 16), int(high, 16)
                is_data = words[1] == "r--p" and ".so" in words[5]
                around_bytes = DATA_AROUND_BYTES if is_data else FAULT_AROUND_BYTES
        elif words[0] == "Anonymous:" and words[1] == "0" and end:
            found.append((start, end, around_bytes))
    return found
