"""Where views go: redrawn in place on a terminal, a block on change or every while in a log, or JSON lines."""

from __future__ import annotations

import json
import os
import shutil
from typing import Protocol, TextIO

from memorypressure_agent.run.view import View, no_paint, view_json, view_lines

_COLORS = {"red": "31", "yellow": "33", "green": "32", "dim": "2", "bold": "1"}
_UP = "\x1b[{}A\r"
_CLEAR_TO_LINE_END = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Output(Protocol):
    """Takes a view at each refresh."""

    def show(self, view: View) -> None:
        """Show the view, or leave it out when it says nothing new."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def output_for(file: TextIO, *, as_json: bool, once: bool, log_every_seconds: float) -> Output:
    """JSON when asked for; in place on a terminal; else a log."""
    if as_json:
        return JsonLines(file)
    if file.isatty() and not once and os.environ.get("TERM", "") != "dumb":
        return Terminal(file, colors="NO_COLOR" not in os.environ)
    return Log(file, log_every_seconds)


class JsonLines:
    """One JSON object a refresh."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def show(self, view: View) -> None:
        """Write one line."""
        print(json.dumps(view_json(view), separators=(",", ":")), file=self._file, flush=True)

    def close(self) -> None:
        """Nothing to restore."""


class Log:
    """A block of lines when triggers, lines or the decision changed; no escape codes.

    Without changes there is still one now and then: silence and death look alike.
    """

    def __init__(self, file: TextIO, every_seconds: float) -> None:
        self._file = file
        self._every_seconds = every_seconds
        self._last_gist: tuple[object, ...] | None = None
        self._last_seconds = 0.0

    def show(self, view: View) -> None:
        """Write a block unless it would say what the last one said."""
        if view.gist == self._last_gist and view.unix_seconds - self._last_seconds < self._every_seconds:
            return
        if self._last_gist is not None:
            print(file=self._file)
        print("\n".join(view_lines(view)), file=self._file, flush=True)
        self._last_gist, self._last_seconds = view.gist, view.unix_seconds

    def close(self) -> None:
        """Nothing to restore."""


class Terminal:
    """Redraws in place, below what was on the screen before.

    What does not fit the window's height is cut off, with a line that says so.
    """

    def __init__(self, file: TextIO, *, colors: bool) -> None:
        self._file = file
        self._paint = _paint if colors else no_paint
        self._drawn = 0
        file.write(_HIDE_CURSOR)

    def show(self, view: View) -> None:
        """Draw over the last view."""
        lines = view_lines(view, self._paint)
        height = shutil.get_terminal_size().lines
        if len(lines) >= height:
            hidden = len(lines) - height + 2
            lines = [*lines[: max(1, height - 2)], f"({hidden} more lines; enlarge the window or use --json)"]
        up = _UP.format(self._drawn) if self._drawn else ""
        body = "".join(f"{line}{_CLEAR_TO_LINE_END}\n" for line in lines)
        self._file.write(up + body + _CLEAR_BELOW)
        self._file.flush()
        self._drawn = len(lines)

    def close(self) -> None:
        """Give the cursor back."""
        self._file.write(_SHOW_CURSOR)
        self._file.flush()


def _paint(text: str, color: str) -> str:
    return f"\x1b[{_COLORS[color]}m{text}\x1b[0m"
