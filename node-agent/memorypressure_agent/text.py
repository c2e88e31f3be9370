"""Figures and sentences as people read them, in plain ASCII: terminals, logs and mails all show them alike."""

from __future__ import annotations

import textwrap

WIDTH = 80

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size_text(byte_count: int) -> str:
    """Bytes in at most eight characters: '0 B', '1013 KiB', '11.7 GiB', '-4.0 KiB'."""
    amount = float(byte_count)
    for unit in _UNITS:
        if abs(amount) < 1000 or unit == _UNITS[-1]:
            break
        amount /= 1024
    digits = 0 if unit == "B" or abs(amount) >= 100 else 1
    return f"{amount:.{digits}f} {unit}"


def duration_text(seconds: float) -> str:
    """A span of time by its two largest units: '0.25 s', '42 s', '7 min 30 s', '3 h 12 min', 'over a day'."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else "over a day"


def labelled(label: str, sentence: str, label_width: int, indent: int = 2) -> list[str]:
    """A label and a sentence beside it, wrapped to 80 columns under where it begins; long words are cut."""
    first = f"{'':{indent}}{label:<{label_width}} "
    return textwrap.wrap(
        sentence or "-",
        width=WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=True,
        break_on_hyphens=False,
    )
