"""Options that several subcommands share, and the checks of their values."""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from memorypressure.victims import is_pod_uid
from memorypressure_agent.errors import BadInputError

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


def check_sys_root(roots: HostRoots) -> None:
    """BadInputError unless `--sys-root` is a /sys."""
    if not os.path.isdir(f"{roots.sys}/devices/system"):
        raise BadInputError(f"--sys-root {roots.sys}: holds no devices/system, so it is not a /sys")


def proc_complaint(roots: HostRoots, message: str) -> str:
    """A source's message with the file's whole path, and what --proc-root has to be."""
    where = message if message.startswith(roots.proc) else f"{roots.proc.rstrip('/')}/{message}"
    return f"{where}; --proc-root must be the /proc of a Linux machine, readable for user {os.geteuid()}"


def check_file(option: str, path: str, *, written: bool) -> None:
    """BadInputError unless `path` can be a file that agents pass to each other; nothing was written then.

    One that is `written` is replaced by a rename, which would put it in the place of a device as well (`/dev/null`), or
    of the link that stands there (`/dev/stdout`), for everybody on the machine.
    """
    if not path:
        raise BadInputError(f"{option}: is empty; name a file")
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise BadInputError(f"{option} {path}: there is no directory {directory}; create it or mount it there")
    if os.path.isdir(path):
        raise BadInputError(f"{option} {path}: is a directory; name a file in it")
    if not written or not os.path.lexists(path):
        return
    mode = os.lstat(path).st_mode
    if not stat.S_ISREG(mode):
        what = "a link" if stat.S_ISLNK(mode) else "a device, pipe or socket"
        raise BadInputError(f"{option} {path}: is {what}, and a file would be put in its place; name a file")


def checked_pod_uid(option: str, uid: str) -> str:
    """The UID, which may be empty; BadInputError for what no pod has."""
    if uid and not is_pod_uid(uid):
        raise BadInputError(f"{option} {uid[:60]!r}: not a pod's UID (letters, digits and '-', at most 64)")
    return uid


def number_between(least: float, most: float) -> Callable[[str], float]:
    """A converter for argparse: a number in the range, or a sentence about what to write."""

    def convert(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"'{text[:20]}' is not a number from {least:.15g} to {most:.15g}")
        return number

    return convert


def page_size(text: str) -> int:
    """A converter for argparse: bytes in a page."""
    if text not in PAGE_SIZES:
        raise argparse.ArgumentTypeError(f"'{text[:20]}' is no page size in bytes: choose from {', '.join(PAGE_SIZES)}")
    return int(text)
