"""Options that several subcommands share, and the checks of their values."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memorypressure_agent.host.sources import HostRoots

PAGE_SIZES = ("4096", "8192", "16384", "32768", "65536")


def add_root_arguments(parser: argparse.ArgumentParser) -> None:
    """--proc-root, --sys-root and --cgroup-root: where the host's trees are seen from here."""
    parser.add_argument("--proc-root", default="/proc", metavar="DIR", help="the host's /proc (default: /proc)")
    parser.add_argument("--sys-root", default="/sys", metavar="DIR", help="the host's /sys (default: /sys)")
    parser.add_argument(
        "--cgroup-root",
        default="/sys/fs/cgroup",
        metavar="DIR",
        help="the cgroup v2 tree that holds kubepods, or a directory of pod<uid>/<container> (default: /sys/fs/cgroup)",
    )


def host_roots(arguments: argparse.Namespace) -> HostRoots:
    """The three roots that were given."""
    from memorypressure_agent.host.sources import HostRoots

    return HostRoots(arguments.proc_root, arguments.sys_root, arguments.cgroup_root)


def proc_complaint(roots: HostRoots, message: str) -> str:
    """A source's message with the file's whole path, and what --proc-root has to be."""
    where = message if message.startswith(roots.proc) else f"{roots.proc.rstrip('/')}/{message}"
    return f"{where}; --proc-root must be the /proc of a Linux machine, readable for user {os.geteuid()}"


def number_between(least: float, most: float) -> Callable[[str], float]:
    """A converter for argparse: a number in the range, or a sentence about what to write."""

    def convert(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number from {least:g} to {most:g}")
        return number

    return convert


def page_size(text: str) -> int:
    """A converter for argparse: bytes in a page."""
    if text not in PAGE_SIZES:
        raise argparse.ArgumentTypeError(f"'{text[:20]}' is no page size in bytes: choose from {', '.join(PAGE_SIZES)}")
    return int(text)
