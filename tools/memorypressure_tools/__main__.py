"""The control plane by hand: `python -m memorypressure_tools up | down | status`."""

import argparse
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, TextIO

from memorypressure_tools.controlplane import ControlPlane, ControlPlaneError, Options
from memorypressure_tools.processes import ChildDiedError
from memorypressure_tools.toolcache import EXIT_MISSING, ToolMissingError

STATE: Final = Path("build/controlplane")
DOWN_SECONDS: Final = 20.0
BACKGROUND_SECONDS: Final = 3600.0
CHECK_SECONDS: Final = 1.0


class _Stop(Exception):  # noqa: N818 -- no error: the user ends the program
    pass


def _read(state: Path) -> dict[str, Any] | None:
    """What the running control plane of this directory wrote, or None when none runs: its lock tells, not its pid."""
    try:
        with (state / "lock").open("r+", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        with contextlib.suppress(FileNotFoundError, ValueError):
            document: dict[str, Any] = json.loads((state / "state.json").read_text(encoding="utf-8"))
            return document
        return {}
    return None


def _up(state: Path, options: Options) -> int:
    """Runs until Ctrl-C, TERM or `down`; 1 when a part ends by itself."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"a control plane of {state} runs already; see `status`, end it with `down`", file=sys.stderr)
            return 1

        def stop(_number: int, _frame: object) -> None:
            raise _Stop

        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        (state / "state.json").unlink(missing_ok=True)
        started = time.monotonic()
        try:
            with ControlPlane(options) as plane:
                document = {
                    "pid": os.getpid(),
                    "kubeconfig": str(plane.kubeconfig),
                    "url": plane.url,
                    "logs": str(plane.logs),
                    "parts": plane.pids,
                }
                temporary = state / "state.json.new"
                temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
                temporary.replace(state / "state.json")
                print(f"ready after {time.monotonic() - started:.1f} s: {plane.url}, logs in {plane.logs}")
                print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
                while True:
                    time.sleep(CHECK_SECONDS)
                    plane.check()
        except (_Stop, KeyboardInterrupt):
            print("stopped")
            return 0
        finally:
            (state / "state.json").unlink(missing_ok=True)


def _up_in_background(state: Path, words: list[str]) -> int:
    """Starts `up` in a session of its own and returns when it is ready, or with its output when it ended."""
    if _read(state) is not None:
        print(f"a control plane of {state} runs already; see `status`, end it with `down`", file=sys.stderr)
        return 1
    state.mkdir(parents=True, exist_ok=True)
    output, progress = state / "up.log", state / "progress.log"
    with output.open("w", encoding="utf-8") as log, progress.open("w", encoding="utf-8") as errors:
        # Files, not this process's own output: a pipe that it holds open would keep its reader waiting for ever.
        process = subprocess.Popen(
            [sys.executable, "-m", __package__, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=errors,
            start_new_session=True,
        )
    with progress.open(encoding="utf-8") as lines:
        return _until_ready(state, process, output, lines)


def _until_ready(state: Path, process: subprocess.Popen[bytes], output: Path, progress: TextIO) -> int:
    """Shows the progress of a first build as it comes, then the output."""
    end = time.monotonic() + BACKGROUND_SECONDS
    while time.monotonic() < end:
        code = process.poll()
        print(progress.read(), end="", file=sys.stderr, flush=True)
        if code is not None:
            print(output.read_text(encoding="utf-8"), end="")
            return code or 1
        document = _read(state)
        if document:
            print(output.read_text(encoding="utf-8"), end="")
            process.returncode = 0  # it goes on without this process, which must not warn about that
            return 0
        time.sleep(0.1)
    process.terminate()
    print(f"not ready after {BACKGROUND_SECONDS:.0f} s", file=sys.stderr)
    return 1


def _down(state: Path) -> int:
    document = _read(state)
    if document is None:
        print("no control plane runs")
        return 0
    end = time.monotonic() + DOWN_SECONDS
    if "pid" in document:
        os.kill(document["pid"], signal.SIGTERM)
    while _read(state) is not None:
        if time.monotonic() > end:
            print(f"pid {document.get('pid', 'unknown')} still runs after {DOWN_SECONDS:.0f} s", file=sys.stderr)
            return 1
        time.sleep(0.1)
    print("stopped")
    return 0


def _status(state: Path) -> int:
    document = _read(state)
    if not document:
        print("no control plane runs" if document is None else "starting")
        return 1
    for key, value in document.items():
        print(f"{key}: {value}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """0 when done; 1 for a failure that was printed; 3 when a tool is missing and cannot be built."""
    parser = argparse.ArgumentParser(prog="memorypressure_tools", description=__doc__)
    parser.add_argument("verb", choices=["up", "down", "status"])
    parser.add_argument("--state", type=Path, default=STATE, help="default: %(default)s")
    parser.add_argument("--background", action="store_true", help="up: return when it is ready")
    parser.add_argument("--server-name", action="append", default=[], help="further name or address of the certificate")
    parser.add_argument("--no-controllers", action="store_true", help="only etcd and kube-apiserver")
    parsed = parser.parse_args(arguments)
    if parsed.verb != "up":
        return _down(parsed.state) if parsed.verb == "down" else _status(parsed.state)
    options = Options(
        controller_manager=not parsed.no_controllers,
        scheduler=not parsed.no_controllers,
        server_names=parsed.server_name,
    )
    if parsed.background:
        words = ["up", "--state", str(parsed.state)] + [f"--server-name={name}" for name in parsed.server_name]
        return _up_in_background(parsed.state, words + (["--no-controllers"] if parsed.no_controllers else []))
    try:
        return _up(parsed.state, options)
    except ToolMissingError as error:
        print(f"missing: {error}", file=sys.stderr)
        return EXIT_MISSING
    except (ChildDiedError, ControlPlaneError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
