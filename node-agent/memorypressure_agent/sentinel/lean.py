"""The sentinel's process: started by `main` without `site`, with its settings as one JSON word.

Imports at the top are few on purpose: `sys.path` must be set first, and what `dataclasses` would import and never use
here (inspect, and with it ast, dis and tokenize: 2 MiB) is put off until somebody asks for it.
"""

import json
import sys
import types
from typing import Any


class _Later(types.ModuleType):
    """Stands for a module until an attribute of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        import importlib

        del sys.modules[self.__name__]
        real = importlib.import_module(self.__name__)
        return getattr(real, name)


def main(words: list[str]) -> int:
    """Runs the sentinel that the words describe."""
    given = json.loads(words[0])
    sys.path[:0] = [place for place in given["path"] if place not in sys.path]
    sys.modules.setdefault("inspect", _Later("inspect"))
    from memorypressure_agent.host.sources import HostRoots
    from memorypressure_agent.sentinel.service import run
    from memorypressure_agent.sentinel.settings import SentinelSettings

    settings = given["settings"]
    return run(SentinelSettings(**{**settings, "roots": HostRoots(**settings["roots"])}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
