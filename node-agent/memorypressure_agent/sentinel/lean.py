"""The lean process of the sentinel: started by `main` as `__main__`, without `site`.

A module that is imported stays in memory, and the sentinel locks its memory. So before anything else is imported, some
modules of the standard library are replaced by stand-ins (together 2.8 MiB of resident memory on Python 3.11):

    inspect, difflib, copy,    imported when an attribute of them is asked for, which is rare or never; of collections
      reprlib, collections     the C types are there at once
    signal, operator           their C parts
    typing                     a module of the few names that annotations here use
    datetime                   its C part without the Python twin, where that is complete (3.11)

The stand-ins change nothing but when and whether a module is loaded; unit tests run the same code without them, and
with frozen dataclasses, which are plain here (`plain_dataclasses`).
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
"""dataclasses asks for copy in `asdict`; difflib makes suggestions."""


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


def import_functools() -> None:
    """Imports functools with stand-ins for the two things that it takes from Python modules, which then come later.

    It asks `collections` for what `cache_info` would return, and `reprlib` for a decorator of what `partial` prints.
    """
    if not {"functools", "collections", "reprlib"}.isdisjoint(sys.modules):
        return
    collections, reprlib = Later("collections"), Later("reprlib")
    native = __import__("_collections")
    collections.__dict__.update({name: getattr(native, name) for name in ("deque", "defaultdict", "OrderedDict")})
    collections.__dict__["abc"] = sys.modules.setdefault("collections.abc", __import__("_collections_abc"))
    collections.__dict__["namedtuple"] = lambda name, *_words, **_options: type(name, (tuple,), {})
    reprlib.__dict__["recursive_repr"] = lambda *_words: lambda function: function
    sys.modules.update(collections=collections, reprlib=reprlib)
    __import__("functools")
    del collections.__dict__["namedtuple"], reprlib.__dict__["recursive_repr"]


def make_lean() -> None:
    """Puts the stand-ins in place, where the real module is not loaded yet."""
    sys.modules.setdefault("typing", stand_in_for_typing())
    sys.modules.setdefault("operator", __import__("_operator"))
    import_functools()
    for name in LATER:
        sys.modules.setdefault(name, Later(name))
    if isinstance(sys.modules["inspect"], Later):  # dataclasses makes a docstring of it where there is none
        sys.modules["inspect"].__dict__["signature"] = lambda _cls: ""
        # and annotations (3.12 and 3.13), as they are there
        sys.modules["inspect"].__dict__["get_annotations"] = lambda cls: vars(cls).get("__annotations__", {})
    plain_dataclasses()
    sys.modules.setdefault("signal", __import__("_signal"))
    try:
        datetime = __import__("_datetime")
    except ImportError:
        return
    if hasattr(datetime, "UTC") and hasattr(datetime, "datetime"):
        sys.modules.setdefault("datetime", datetime)


def plain_dataclasses() -> None:
    """Makes dataclasses of here on that are declared frozen plain ones that compare and hash by value all the same.

    The constructor of a frozen one calls `object.__setattr__` for each field, twice the time of an assignment, and a
    round makes dozens of values. That nobody writes to one is what mypy and all tests show, which have them frozen.
    """
    import dataclasses

    as_declared = dataclasses.dataclass

    def plain(cls: Any = None, /, *, frozen: bool = False, eq: bool = True, **options: Any) -> Any:
        return as_declared(cls, eq=eq, unsafe_hash=frozen and eq, **options)

    dataclasses.dataclass = plain


COMPARED_OFTEN = frozenset(("memorypressure.dwell", "memorypressure.zone_values"))
"""Modules whose classes keep their own, faster `__eq__`: they are compared in every round."""


def share_methods() -> None:
    """Lets all dataclasses have one `__repr__`, `__hash__` and `__eq__`, which do the same.

    dataclasses writes these for each class, 4 KiB a class, of which there are more than a hundred.
    """
    from dataclasses import fields

    def shared_repr(self: Any) -> str:
        shown = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr)
        return f"{type(self).__qualname__}({shown})"

    def shared_hash(self: Any) -> int:
        return hash(tuple([getattr(self, field.name) for field in fields(self) if field.compare]))

    def shared_eq(self: Any, other: Any) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented  # type: ignore[no-any-return]
        return all(getattr(self, each.name) == getattr(other, each.name) for each in fields(self) if each.compare)

    for cls in [
        each for each in gc.get_objects() if isinstance(each, type) and "__dataclass_fields__" in each.__dict__
    ]:
        parameters = cls.__dict__["__dataclass_params__"]
        if parameters.repr and getattr(cls.__dict__.get("__repr__"), "__wrapped__", None) is not None:
            type.__setattr__(cls, "__repr__", shared_repr)
        if parameters.eq and cls.__module__ not in COMPARED_OFTEN and "__eq__" in cls.__dict__:
            type.__setattr__(cls, "__eq__", shared_eq)
        if parameters.unsafe_hash:
            type.__setattr__(cls, "__hash__", shared_hash)
    gc.collect()


def forget_annotations() -> None:
    """Frees the annotations of all functions, dataclasses and modules, which nothing looks at any more."""
    for each in gc.get_objects():
        if isinstance(each, types.FunctionType) or (isinstance(each, type) and "__dataclass_fields__" in each.__dict__):
            if isinstance(each, type) and "__annotations__" not in each.__dict__:
                continue
            del each.__annotations__
    for module in tuple(sys.modules.values()):
        module.__dict__.pop("__annotations__", None)


MAKERS = (
    *("dataclass", "make_dataclass", "_process_class", "_get_field", "_is_type", "_set_new_attribute", "_create_fn"),
    *("_init_fn", "_init_param", "_field_init", "_field_assign", "_frozen_get_del_attr", "_cmp_fn", "_hash_fn"),
    *("_repr_fn", "_recursive_repr", "_tuple_str", "_hash_set_none", "_hash_add", "_hash_exception", "_hash_action"),
    *("_add_slots", "_get_slots", "_FuncBuilder"),
)
"""What dataclasses makes classes with, in 3.11 to 3.14. Its `replace`, `fields` and `asdict` need none of it."""


def forget_makers() -> None:
    """Frees what makes dataclasses: all of a running sentinel are made when it is imported."""
    import dataclasses

    for name in MAKERS:
        dataclasses.__dict__.pop(name, None)


def forget_compiler() -> None:
    """Frees the compiler of regular expressions: those of a running sentinel are all made when it is imported.

    One that is made all the same, to say where a text is not understood, imports it again.
    """
    import re

    for name in ("_compiler", "_parser", "_constants", "_casefix"):
        if sys.modules.pop(f"re.{name}", None) is not None and name in re.__dict__:
            re.__dict__[name] = Later(f"re.{name}")
    gc.collect()


IN_STEPS = (
    "memorypressure.zones",
    "memorypressure.triggers",
    "memorypressure.records",
    "memorypressure.spec",
    "memorypressure.orders",
    "memorypressure.engine",
    "memorypressure_agent.host.journal",
    "memorypressure_agent.sentinel.service",
)
"""Imported one after the other, what each leaves over given back before the next: the heap never grows for it."""


def main(words: str) -> int:
    """Runs the sentinel with these settings, a `SentinelSettings` as JSON; null: only imports, which fills caches."""
    make_lean()
    for name in IN_STEPS:
        __import__(name)
        forget_annotations()
        share_methods()
    forget_makers()
    forget_compiler()
    import json

    settings = json.loads(words)
    if settings is None:
        return 0
    from memorypressure_agent.host.sources import HostRoots
    from memorypressure_agent.sentinel.service import run
    from memorypressure_agent.sentinel.settings import SentinelSettings

    return run(SentinelSettings(**{**settings, "roots": HostRoots(**settings["roots"])}))
