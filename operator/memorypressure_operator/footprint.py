"""What the process asks of the C library about memory: a large cluster's tables are filled once and then stay."""

import contextlib
import ctypes
import gc
import logging

log = logging.getLogger(__name__)

_M_ARENA_MAX = -8  # malloc.h of glibc
_ARENAS = 2


def prepare() -> None:
    """Before the threads start: few heaps for all of them, as each would keep the largest thing it ever held.

    The garbage collector comes less often: what is decoded has no cycles, and the tables grow by 100,000 objects.
    """
    gc.set_threshold(20_000, 20, 20)
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to limit
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def settle() -> None:
    """After the first filling: free pages go back, and the garbage collector does not walk the tables again."""
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    log.debug("settled: %d objects are left to themselves", gc.get_freeze_count())
