"""What people give to a verb, as `type=` of an option and for settings of the environment."""

import argparse
from collections.abc import Callable
from pathlib import Path


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A reader of whole numbers in that range; its error says what was given and what is understood."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return read


def directory(text: str) -> Path:
    """A directory that is there, or can be made when it is needed; its error says what is in its place."""
    path = Path(text)
    there = next(each for each in (path, *path.absolute().parents) if each.exists() or each.is_symlink())
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: {there} is no directory")
    return path


def output_file(text: str) -> Path:
    """A file that can be written when all is done, as far as that can be told before; its error says what is wrong."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: is a directory; name a file in it")
    directory(str(path.parent))
    return path
