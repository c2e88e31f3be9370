"""Calls into the C library that Python does not offer: `call("mlockall", flags)`.

Uses the C half of ctypes directly: the package `ctypes` over it would take 0.2 MiB of memory that is locked for good,
and five calls with whole numbers need none of it. The names are those that ctypes itself imports (CPython 3.11 to
3.14).
"""

from _ctypes import FUNCFLAG_CDECL, FUNCFLAG_USE_ERRNO, CFuncPtr, _SimpleCData, dlopen, dlsym, get_errno, set_errno


class _Word(_SimpleCData):  # type: ignore[type-arg] # takes none at run time
    """A C `long`, which on Linux is as wide as a pointer."""

    _type_ = "l"


class _Function(CFuncPtr):
    """A C function that returns a `long`; `errno` is kept."""

    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Word


_library = dlopen(None, 0)  # type: ignore[arg-type] # None: the process itself


def call(name: str, *words: int) -> tuple[int, int]:
    """(what the function returned as a C `int`, errno when that is negative, else 0). OSError: no such function."""
    function = _Function(dlsym(_library, name))
    set_errno(0)
    returned = int(function(*[_Word(word) for word in words]))
    value = (returned + (1 << 31)) % (1 << 32) - (1 << 31)
    return value, get_errno() if value < 0 else 0
