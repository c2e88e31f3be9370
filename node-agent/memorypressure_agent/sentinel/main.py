"""`memorypressure-agent sentinel`: its options, and the step into a lean process.

The console script runs with the virtual environment's start-up hooks and argparse. The sentinel is to be small and is
to keep only what it uses, so after its options have been understood the process replaces itself (same PID) by an
interpreter without `site` that imports nothing but the standard library and core: `lean`.
"""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict

import memorypressure
import memorypressure_agent
from memorypressure_agent.arguments import add_root_arguments, check_file, check_sys_root, checked_pod_uid, host_roots
from memorypressure_agent.errors import BadInputError
from memorypressure_agent.host.journal_format import KILL_SLOTS
from memorypressure_agent.sentinel.settings import SentinelSettings

EPILOG = """\
Without --orders, or while its file does not exist, the sentinel observes: samples, status and flight recorder go to the
journal, nothing is decided. Orders that cannot be understood disarm it until they are replaced.

example, beside a running reporter:
  memorypressure-agent sentinel --orders /run/memorypressure/orders/orders.json --journal /run/memorypressure/journal
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sentinel`."""
    parser.epilog = EPILOG
    parser.add_argument("--journal", required=True, metavar="FILE", help="the journal; put it on a tmpfs (10 MiB)")
    parser.add_argument("--orders", metavar="FILE", help="the orders that the reporter writes; default: observe only")
    add_root_arguments(parser)
    parser.add_argument(
        "--max-kills-per-hour",
        type=_count(KILL_SLOTS),
        default=6,
        metavar="N",
        help="hard limit that orders cannot raise, counted in the journal (default: 6; 0: never kill)",
    )
    parser.add_argument(
        "--min-cooldown-seconds",
        type=_count(86400, least=1),
        default=10,
        metavar="N",
        help="shortest time between two kills, whatever orders say (default: 10)",
    )
    parser.add_argument("--dry-run-only", action="store_true", help="carry out orders of mode Enforce as DryRun")
    parser.add_argument("--own-pod-uid", default="", metavar="UID", help="UID of the agent's pod, never a victim")
    parser.add_argument(
        "--watchdog-seconds",
        type=_count(3600, least=1),
        default=60,
        metavar="N",
        help="end with code 1, to be started again, when a thread stands still for so long (default: 60)",
    )
    parser.add_argument("--realtime", action="store_true", help="run under SCHED_FIFO where allowed (needs SYS_NICE)")
    parser.add_argument("--log-format", choices=["text", "json"], default="text", help="of lines on standard error")


def main(arguments: argparse.Namespace) -> int:
    """Checks the options and becomes the lean process; where it cannot, runs in this one. The exit code."""
    settings = SentinelSettings(
        roots=host_roots(arguments),
        orders_path=os.path.abspath(arguments.orders) if arguments.orders else None,
        journal_path=os.path.abspath(arguments.journal),
        max_kills_per_hour=arguments.max_kills_per_hour,
        min_cooldown_seconds=arguments.min_cooldown_seconds,
        dry_run_only=arguments.dry_run_only,
        own_pod_uid=checked_pod_uid("--own-pod-uid", arguments.own_pod_uid),
        realtime=arguments.realtime,
        watchdog_seconds=arguments.watchdog_seconds,
        log_json=arguments.log_format == "json",
    )
    check_places(settings)
    try:
        become_lean(settings)
    except OSError as error:
        print(
            f"memorypressure-agent sentinel: not lean: {sys.executable}: {error.strerror}", file=sys.stderr, flush=True
        )
    from memorypressure_agent.sentinel.service import run

    return run(settings)


def check_places(settings: SentinelSettings) -> None:
    """BadInputError naming the option whose directory is missing; nothing was written then."""
    for option, path in (("--proc-root", settings.roots.proc), ("--sys-root", settings.roots.sys)):
        if not os.path.isdir(path):
            raise BadInputError(f"{option} {path}: no such directory; give the place where the host's tree is mounted")
    if not os.path.exists(f"{settings.roots.proc}/zoneinfo"):
        raise BadInputError(f"--proc-root {settings.roots.proc}: holds no zoneinfo, so it is not a /proc")
    check_sys_root(settings.roots)
    if not os.path.isdir(settings.roots.cgroup):
        raise BadInputError(f"--cgroup-root {settings.roots.cgroup}: no such directory; give the cgroup v2 mount")
    if settings.orders_path is not None and os.path.realpath(settings.orders_path) == os.path.realpath(
        settings.journal_path
    ):
        raise BadInputError(f"--journal {settings.journal_path}: is the orders file too; give each its own name")
    check_file("--journal", settings.journal_path, written=True)
    if settings.orders_path is not None:
        check_file("--orders", settings.orders_path, written=False)
    if not os.access(os.path.dirname(settings.journal_path), os.W_OK | os.X_OK):
        raise BadInputError(f"--journal {settings.journal_path}: its directory cannot be written to")


def become_lean(settings: SentinelSettings) -> None:
    """Replaces this process by `lean` with the same settings; does not return."""
    places = [
        os.path.dirname(os.path.dirname(os.path.abspath(str(p.__file__))))
        for p in (memorypressure, memorypressure_agent)
    ]
    lean = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lean.py")
    # Without documentation strings and asserts (there are none): 0.4 MiB less.
    interpreter = [sys.executable, "-I", "-S", "-OO", os.path.join(os.path.dirname(lean), "__main__.py")]
    words = [*interpreter, *places, json.dumps(asdict(settings))]
    # One heap for both threads, and grown in small steps: what is asked for in advance counts as used once it is
    # touched.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_TOP_PAD_": "16384"}
    # A zoneinfo of many CPUs is read into the heap, which keeps its pages, and not mapped anew each time.
    environment |= {"MALLOC_TRIM_THRESHOLD_": str(1 << 20), "MALLOC_MMAP_THRESHOLD_": str(1 << 22)}
    # Functions of libraries are looked up now, not at their first call: that reads pages of names in a library's file.
    environment["LD_BIND_NOW"] = "1"
    if age_of_bytecode(lean) is None or any((age_of_bytecode(path) or 0) < 0 for path in sources(places)):
        # Whatever has to be compiled is compiled by a process of its own and cached where it can be: compiling would
        # leave the lean process 1 to 4 MiB larger.
        compiling = [*interpreter, *places, json.dumps(None)]
        os.spawnve(os.P_WAIT, sys.executable, compiling, environment)  # noqa: S606 (the same)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, words, environment)  # noqa: S606 (the interpreter that runs this very code)


def sources(places: list[str]) -> list[str]:
    """Files of the packages that the lean process imports from, found below these places of packages."""
    packages = [
        f"{places[0]}/memorypressure",
        *[f"{places[1]}/memorypressure_agent/{name}" for name in ("host", "sentinel")],
    ]
    return [f"{package}/{name}" for package in packages for name in os.listdir(package) if name.endswith(".py")]


def age_of_bytecode(path: str) -> float | None:
    """Seconds by which the bytecode of a module that is cached for `-OO` is newer than its source; None: no cache."""
    cached = importlib.util.cache_from_source(path, optimization=2)
    try:
        return os.stat(cached).st_mtime - os.stat(path).st_mtime
    except OSError:
        return None


def _count(most: int, least: int = 0) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"'{text[:20]}' is not a whole number from {least} to {most}")
        return int(text)

    return convert
