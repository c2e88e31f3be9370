"""The lean process of the sentinel: started by `main` as `__main__`, without `site`.

A module that is imported stays in memory, and the sentinel locks its memory. So before anything else is imported, some
modules of the standard library are replaced by stand-ins (together 2.5 MiB of resident memory on Python 3.11):

    inspect, difflib, copy     imported when an attribute of them is asked for, which is rare or never
    typing                     a module of the few names that annotations here use
    datetime                   its C part without the Python twin, where that is complete (3.11)

The stand-ins change nothing but when and whether a module is loaded; unit tests run the same code without them.
"""

from __future__ import annotations

import gc
import sys
import types

TYPE_CHECKING = False  # typing is what must not be imported here
if TYPE_CHECKING:
    from typing import Any


class Later(types.ModuleType):
    """Stands for a module until an attribute of it is asked for, then imports the real one."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        __import__(self.__name__)
        return getattr(sys.modules[self.__name__], name)


LATER = ("inspect", "difflib", "copy")
"""dataclasses asks for inspect where a class has no docstring, and for copy in `asdict`; difflib makes suggestions."""


class _Form:
    """Stands for a special form of `typing`, which does nothing where annotations are only kept."""


def stand_in_for_typing() -> types.ModuleType:
    """A module with the names of `typing` that the sentinel and core use; none has a meaning at run time."""
    module = types.ModuleType("typing")
    module.__dict__.update(dict.fromkeys(("Any", "Final", "Self", "Protocol"), object))
    module.__dict__.update(
        TYPE_CHECKING=False,
        TypeVar=lambda *_words, **_options: object,
        ClassVar=_Form,  # dataclasses compares a field's annotation with these two
        _GenericAlias=_Form,
    )
    return module


def make_lean() -> None:
    """Puts the stand-ins in place, where the real module is not loaded yet."""
    sys.modules.setdefault("typing", stand_in_for_typing())
    for name in LATER:
        sys.modules.setdefault(name, Later(name))
    try:
        datetime = __import__("_datetime")
    except ImportError:
        return
    if hasattr(datetime, "UTC") and hasattr(datetime, "datetime"):
        sys.modules.setdefault("datetime", datetime)


def release_first_classes() -> None:
    """Frees the class that each dataclass with slots was made from.

    `slots=True` makes a second class; up to Python 3.12 the first one stays alive, because the `__setattr__` of a
    frozen one holds it in its closure. Pointing that at the class in use changes no outcome: the names of its fields
    decide.
    """
    for cls in [each for each in gc.get_objects() if isinstance(each, type) and "__slots__" in each.__dict__]:
        for name in ("__setattr__", "__delattr__"):
            function = cls.__dict__.get(name)
            if not isinstance(function, types.FunctionType) or "cls" not in function.__code__.co_freevars:
                continue
            cell = (function.__closure__ or ())[function.__code__.co_freevars.index("cls")]
            if cell.cell_contents is not cls and getattr(cell.cell_contents, "__qualname__", "") == cls.__qualname__:
                cell.cell_contents = cls
    gc.collect()


def main(settings: dict[str, Any]) -> int:
    """Runs the sentinel with these settings, a `SentinelSettings` as JSON."""
    make_lean()
    __import__("memorypressure.orders")
    release_first_classes()
    from memorypressure_agent.host.sources import HostRoots
    from memorypressure_agent.sentinel.service import run
    from memorypressure_agent.sentinel.settings import SentinelSettings

    release_first_classes()
    return run(SentinelSettings(**{**settings, "roots": HostRoots(**settings["roots"])}))
