"""The control plane by hand: `python -m memorypressure_tools up | down | status`."""

import argparse
import sys
import time
from pathlib import Path
from typing import Final

from memorypressure_tools.background import Background, RunsAlreadyError
from memorypressure_tools.controlplane import ControlPlane, ControlPlaneError, Options
from memorypressure_tools.processes import ChildDiedError
from memorypressure_tools.toolcache import EXIT_MISSING, ToolMissingError

STATE: Final = Path("build/controlplane")


def _up(background: Background, options: Options) -> int:
    """Runs until Ctrl-C, TERM or `down`; raises when a part ends by itself."""
    with background.hold():
        started = time.monotonic()
        with ControlPlane(options) as plane:
            background.publish(
                {
                    "kubeconfig": str(plane.kubeconfig),
                    "url": plane.url,
                    "logs": str(plane.logs),
                    "parts": plane.pids,
                }
            )
            print(f"ready after {time.monotonic() - started:.1f} s: {plane.url}, logs in {plane.logs}")
            print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
            background.run(plane.check)
    return 0


def _status(background: Background) -> int:
    document = background.read()
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
    background = Background(parsed.state, "a control plane")
    if parsed.verb != "up":
        return background.down() if parsed.verb == "down" else _status(background)
    options = Options(
        controller_manager=not parsed.no_controllers,
        scheduler=not parsed.no_controllers,
        server_names=parsed.server_name,
    )
    try:
        if parsed.background:
            words = ["up", "--state", str(parsed.state)] + [f"--server-name={name}" for name in parsed.server_name]
            return background.start(__package__, words + (["--no-controllers"] if parsed.no_controllers else []))
        return _up(background, options)
    except ToolMissingError as error:
        print(f"missing: {error}", file=sys.stderr)
        return EXIT_MISSING
    except (ChildDiedError, ControlPlaneError, RunsAlreadyError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
