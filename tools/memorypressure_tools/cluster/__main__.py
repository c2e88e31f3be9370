"""`make cluster`: a real cluster on this machine; `up`, `down`, `status`, `shell`."""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, NoReturn

import urllib3

from memorypressure_tools import toolcache
from memorypressure_tools.apiclient import ApiError
from memorypressure_tools.arguments import directory, whole_number
from memorypressure_tools.background import Background, RunsAlreadyError
from memorypressure_tools.cluster.apicheck import ApiUnreachableError
from memorypressure_tools.cluster.cluster import Cluster, ClusterError, ClusterOptions, prepare
from memorypressure_tools.cluster.node import NodeOptions
from memorypressure_tools.cluster.nodeimage import NodeImageError
from memorypressure_tools.controlplane import ControlPlaneError
from memorypressure_tools.guest import kernel
from memorypressure_tools.guest.control import ControlError
from memorypressure_tools.guest.images import ImageError
from memorypressure_tools.guest.shell import GuestError, Shell
from memorypressure_tools.helm import HelmError
from memorypressure_tools.images.build import ImageBuildError
from memorypressure_tools.processes import ChildDiedError

STATE: Final = Path("build/cluster")
ERRORS: Final = (
    ApiError,
    ApiUnreachableError,
    ChildDiedError,
    ClusterError,
    ControlPlaneError,
    GuestError,
    HelmError,
    ImageBuildError,
    ControlError,
    ImageError,
    NodeImageError,
    RunsAlreadyError,
    subprocess.SubprocessError,
    urllib3.exceptions.HTTPError,
)
LOOK_AROUND: Final = """\
  make cluster-shell                  a shell with kubectl, helm and KUBECONFIG
  make cluster-shell NODE=node-1      root's shell in a node
  make cluster-status                 what runs
  make cluster-down                   ends and removes everything"""


def _up(background: Background, options: ClusterOptions) -> int:
    with background.hold():
        started = time.monotonic()
        with Cluster(options) as cluster:
            background.publish(cluster.state() | {"kubectl": str(cluster.kubectl), "helm": str(cluster.helm_program)})
            print(f"the cluster is ready after {time.monotonic() - started:.0f} s: {cluster.plane.url}")
            print(LOOK_AROUND, flush=True)
            background.run(cluster.check)
    return 0


def _running(background: Background) -> dict[str, Any]:
    document = background.read()
    if not document:
        how = (
            "it is still starting: see build/cluster/progress.log"
            if document is not None
            else "make cluster starts one"
        )
        raise ClusterError(f"no cluster is ready; {how}")
    return document


def _status(background: Background) -> NoReturn:
    document = _running(background)
    print(f"control plane  {document['url']}  pid {document['pid']}, logs in {document['logs']}")
    for name, pid in document["parts"].items():
        print(f"  {name:26} pid {pid}")
    for name, node in document["nodes"].items():
        print(f"  {name:26} pid {node['pid']} (QEMU), console {node['console']}")
    print(f"export KUBECONFIG={document['kubeconfig']}", flush=True)
    os.execv(  # noqa: S606 -- it is the purpose
        document["kubectl"],
        [
            document["kubectl"],
            f"--kubeconfig={document['kubeconfig']}",
            "get",
            "nodes,pods,mpp,nms",
            "-A",
            "-o",
            "wide",
        ],
    )


def _shell(background: Background, node: str, command: str) -> None:
    document = _running(background)
    if node:
        found = document["nodes"].get(node)
        if found is None:
            raise ClusterError(f"NODE={node}: there is no such node; there are: {', '.join(document['nodes'])}")
        shell = Shell(found["shell_port"], found["shell_token"])
        if command:
            print(shell.run(command, seconds=600), end="")
            return
        print(f"root's shell in {node} (busybox, no job control); `exit` leaves it", file=sys.stderr)
        shell.interact()
        return
    directories = list(dict.fromkeys(str(Path(document[name]).parent) for name in ("kubectl", "helm")))
    path = os.pathsep.join([*directories, os.environ.get("PATH", "")])
    environment = {**os.environ, "KUBECONFIG": document["kubeconfig"], "PATH": path}
    program = os.environ.get("SHELL", "/bin/sh")
    if not command:
        print("kubectl and helm are on PATH, KUBECONFIG is set; `exit` leaves this shell", file=sys.stderr)
    words = [program, *(["-c", command] if command else [])]
    os.execve(program, words, environment)  # noqa: S606 -- it is the purpose


def _threshold(text: str) -> str:
    if not re.fullmatch(r"\d{1,3}%|\d{1,7}(Ki|Mi|Gi)", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no threshold such as 100Mi or 10%")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make cluster", description="A real cluster on this machine.")
    parser.add_argument("verb", choices=["up", "down", "status", "shell"])
    parser.add_argument("--state", type=directory, default=STATE, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--background", action="store_true", help="up: return when the cluster is ready")
    parser.add_argument("--nodes", type=int, default=1, choices=[1, 2], help="up: default: %(default)s")
    parser.add_argument(
        "--kernel",
        default=kernel.DEFAULT_SERIES,
        choices=kernel.SERIES,
        help="up: Debian's, of the nodes; default: %(default)s",
    )
    memory = whole_number(512, 65536)
    parser.add_argument("--memory", type=memory, default=768, metavar="MIB", help="up: of a node; default: %(default)s")
    parser.add_argument(
        "--kubelet-eviction",
        type=_threshold,
        default="0%",
        metavar="THRESHOLD",
        help="up: the kubelet's own, memory.available, such as 100Mi or 10%%; default: %(default)s, off",
    )
    parser.add_argument("--node", default="", help="shell: a node's name; default: a shell on this machine")
    parser.add_argument("--command", default="", help="shell: run this and end")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """0 when done; 1 for a failure that was printed; 3 after a list of what this machine lacks."""
    words = sys.argv[1:] if arguments is None else arguments
    parsed = _parser().parse_args(words)
    background = Background(parsed.state, "a cluster", "make cluster-down")
    node = NodeOptions(memory_mib=parsed.memory, eviction_memory_available=parsed.kubelet_eviction)
    options = ClusterOptions(nodes=parsed.nodes, kernel_series=parsed.kernel, node=node)
    try:
        if parsed.verb == "down":
            return background.down()
        if parsed.verb == "status":
            _status(background)
        if parsed.verb == "shell":
            _shell(background, parsed.node, parsed.command)
            return 0
        lacking = prepare()
        if lacking:
            print("".join(f"cluster: missing: {each}\n" for each in lacking), end="", file=sys.stderr)
            return toolcache.EXIT_MISSING
        if parsed.background:
            return background.start("memorypressure_tools.cluster", [word for word in words if word != "--background"])
        return _up(background, options)
    except toolcache.ToolMissingError as error:
        print(f"cluster: missing: {error}", file=sys.stderr)
        return toolcache.EXIT_MISSING
    except ERRORS as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
